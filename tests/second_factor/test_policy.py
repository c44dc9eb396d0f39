"""TFA_REQUIRED_GROUPS and TFA_REQUIRED_FOR_STAFF: users who must have a second factor can't do anything without one."""

from __future__ import annotations

from typing import Any

import jwt
import pytest
from django.contrib.auth.models import Group, Permission
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.urls import URLPattern, URLResolver, get_resolver

from platform_auth import sessions
from platform_auth.http import endpoint as endpoints
from platform_auth.models import RefreshSession, TOTPFactor
from platform_auth.second_factor import enrolment
from tests.conftest import PASSWORD, Api, Authenticator, code_of, enrol, make_user
from tests.racing import meanwhile

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("clock")]

OPEN = {
    "/auth/tfa", "/auth/tfa/generate", "/auth/tfa/enable", "/auth/tfa/disable", "/auth/tfa/recovery-codes",
    "/users/me", "/users/me/tfa", "/users/me/tfa/generate", "/users/me/tfa/enable", "/users/me/tfa/disable",
    "/users/me/tfa/recovery-codes",
}  # fmt: skip
"""What a session may use before its user has the factor, in addition to refresh and logout."""


@pytest.fixture(params=["staff", "group"])
def bound(request: Any, configure: Any, db: None) -> Any:
    """A user who must have a second factor and has none."""
    if request.param == "staff":
        configure(TFA_REQUIRED_FOR_STAFF=True)
        return make_user(is_staff=True)
    configure(TFA_REQUIRED_GROUPS=["Editors"])
    user = make_user()
    user.groups.add(Group.objects.create(name="Editors"))
    return user


@pytest.fixture
def inside(bound: Any) -> Api:
    """The client of that user, logged in."""
    api = Api()
    api.login(bound.email)
    return api


def claims(api: Api) -> dict[str, Any]:
    return jwt.decode(str(api.access_token), options={"verify_signature": False})


def assert_required(response: Any) -> None:
    assert response.status_code == 403, response.content
    assert code_of(response) == "TFA_REQUIRED"


class TestLogin:
    """The policy is applied at login."""

    def test_the_session_can_only_be_used_to_set_up_the_factor(self, inside: Api) -> None:
        assert RefreshSession.objects.get().tfa_required is True
        assert claims(inside)["tfa_required"] is True
        for path in ("/api/notes", "/api/whoami", "/auth/sessions"):
            assert_required(inside.get(path))
        assert_required(inside.post("/api/notes", {"text": "x"}))
        assert_required(inside.delete("/auth/sessions"))

    def test_the_stateless_class_reads_it_from_the_token(self, inside: Api) -> None:
        with CaptureQueriesContext(connection) as captured:
            assert_required(inside.get("/api/stateless"))

        # ATOMIC_REQUESTS adds savepoints around the host's view.
        assert not [query for query in captured.captured_queries if "SAVEPOINT" not in query["sql"]]

    def test_the_public_role_does_not_get_around_it(self, inside: Api) -> None:
        """A session that must set up a factor is refused, even where an anonymous request would pass."""
        public = Group.objects.create(name="Public")
        public.permissions.add(Permission.objects.get(codename="view_note"))

        assert Api().get("/api/notes").status_code == 200
        assert_required(inside.get("/api/notes"))

    @pytest.mark.parametrize("mode", ["cookie", "session"])
    def test_it_applies_to_cookies(self, bound: Any, mode: str) -> None:
        api = Api()
        response = api.post("/auth/login", {"email": bound.email, "password": PASSWORD, "mode": mode})

        assert response.status_code == 200
        assert RefreshSession.objects.get().tfa_required is True
        if mode == "session":
            assert_required(api.get("/api/whoami"))

    def test_other_users_are_not_affected(self, bound: Any) -> None:
        other = make_user()
        api = Api()
        api.login(other.email)

        assert "tfa_required" not in claims(api)
        assert api.get("/api/whoami").status_code == 200
        assert api.get("/auth/tfa").json()["data"]["required"] is False

    def test_a_user_with_the_factor_is_not_restricted(self, bound: Any, inside: Api, clock: Any) -> None:
        app, _codes = enrol(inside)
        clock.shift(30)
        api = Api()

        api.login(bound.email, otp=app.code())

        assert RefreshSession.objects.get(pk=claims(api)["sid"]).tfa_required is False
        assert api.get("/api/whoami").status_code == 200

    def test_without_a_policy_nobody_is_restricted_and_nothing_is_queried(
        self, user: Any, settings: Any
    ) -> None:
        api = Api()
        api.login(user.email)

        assert "tfa_required" not in claims(api)
        assert api.get("/api/whoami").status_code == 200


class TestWhatIsOpen:
    """Only what is needed to set up the factor."""

    def test_status_setup_users_me_refresh_and_logout_are_open(self, inside: Api) -> None:
        assert inside.get("/auth/tfa").json()["data"] == {
            "enabled": False,
            "required": True,
            "recovery_codes_left": 0,
        }
        assert inside.get("/users/me/tfa").status_code == 200
        assert inside.get("/users/me").status_code == 200
        assert inside.post("/auth/tfa/generate", {"password": PASSWORD}).status_code == 200
        inside.refreshed()
        assert inside.post("/auth/logout", {"refresh_token": inside.refresh_token}).status_code == 204
        assert not RefreshSession.objects.exists()

    def test_every_other_signed_in_endpoint_is_closed(self) -> None:
        """The test walks the URL conf: a new endpoint must be closed, or be on this list."""
        found = {}
        for path, view in walk(get_resolver().url_patterns):
            cls = getattr(view, "cls", None)
            if cls is not None and issubclass(cls, endpoints.SignedInView):
                found[path] = issubclass(cls, endpoints.EnrolmentView)

        assert {path for path, is_open in found.items() if is_open} == OPEN
        assert len(found) > len(OPEN)


class TestEnable:
    """Setting up the factor lifts the restriction at once."""

    def test_the_same_access_token_is_no_longer_restricted(self, inside: Api) -> None:
        enrol(inside)

        assert RefreshSession.objects.get().tfa_required is False
        assert inside.get("/api/whoami").status_code == 200
        assert inside.get("/auth/sessions").status_code == 200

    def test_stateless_authentication_is_restricted_until_the_next_refresh(self, inside: Api) -> None:
        """It looks nothing up, so it accepts the token until there is a new one."""
        enrol(inside)

        assert_required(inside.get("/api/stateless"))
        inside.refreshed()
        assert "tfa_required" not in claims(inside)
        assert inside.get("/api/stateless").status_code == 200

    def test_the_paths_of_the_sdk_lift_it_too(self, inside: Api) -> None:
        secret = inside.post("/users/me/tfa/generate", {"password": PASSWORD}).json()["data"]["secret"]
        inside.post("/users/me/tfa/enable", {"secret": secret, "otp": Authenticator(secret).code()})

        assert inside.get("/api/whoami").status_code == 200


class TestRefresh:
    """The policy is applied again at each refresh."""

    def test_a_refresh_does_not_lift_the_restriction(self, inside: Api) -> None:
        for _ in range(3):
            inside.refreshed()
            assert claims(inside)["tfa_required"] is True
            assert_required(inside.get("/api/whoami"))

    def test_a_removed_policy_lifts_it(self, inside: Api, configure: Any) -> None:
        configure(TFA_REQUIRED_FOR_STAFF=False, TFA_REQUIRED_GROUPS=[])

        assert_required(inside.get("/api/whoami"))
        inside.refreshed()
        assert inside.get("/api/whoami").status_code == 200

    def test_a_new_policy_restricts_it(self, signed_in: Api, user: Any, configure: Any) -> None:
        configure(TFA_REQUIRED_GROUPS=["Editors"])
        user.groups.add(Group.objects.create(name="Editors"))

        assert signed_in.get("/api/whoami").status_code == 200
        signed_in.refreshed()
        assert_required(signed_in.get("/api/whoami"))

    def test_without_a_policy_it_runs_two_statements(
        self, signed_in: Api, settings: Any, django_assert_num_queries: Any
    ) -> None:
        """Without a policy there are no additional statements."""
        settings.CACHES = {"default": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"}}
        with django_assert_num_queries(2):
            response = signed_in.refresh()

        assert response.status_code == 200


class TestRemovedFactor:
    """A user who removes a required factor must set up another one."""

    def test_removing_it_restricts_the_session_at_once(self, inside: Api, clock: Any) -> None:
        app, _codes = enrol(inside)
        clock.shift(30)

        assert inside.post("/auth/tfa/disable", {"otp": app.code()}).status_code == 204

        assert_required(inside.get("/api/whoami"))
        inside.refreshed()
        assert_required(inside.get("/api/whoami"))
        clock.shift(30)
        enrol(inside)
        assert inside.get("/api/whoami").status_code == 200

    def test_sessions_that_gave_a_code_at_login_are_restricted_too(
        self, inside: Api, bound: Any, clock: Any
    ) -> None:
        app, _codes = enrol(inside)
        clock.shift(30)
        other = Api()
        other.login(bound.email, otp=app.code())
        clock.shift(30)

        inside.post("/auth/tfa/disable", {"otp": app.code()})

        assert_required(other.get("/api/whoami"))
        other.refreshed()
        assert_required(other.get("/api/whoami"))

    def test_removal_by_an_admin_restricts_them(self, inside: Api, bound: Any) -> None:
        enrol(inside)

        enrolment.reset_by_admin(bound)

        assert not TOTPFactor.objects.exists()
        assert_required(inside.get("/api/whoami"))


class TestConcurrentChangeOfTheFactor:
    """A refresh or login that runs while the factor is added or removed doesn't rely on what it read before."""

    def test_a_refresh_during_its_removal_stays_restricted(self, inside: Api, bound: Any) -> None:
        enrol(inside)

        with meanwhile(lambda: enrolment.reset_by_admin(bound), after="SELECT", of=TOTPFactor):
            inside.refreshed()

        assert RefreshSession.objects.get().tfa_required is True
        assert claims(inside)["tfa_required"] is True
        assert_required(inside.get("/api/whoami"))

    def test_a_refresh_during_its_setup_is_not_restricted(self, inside: Api) -> None:
        other_tab = Api()
        other_tab.access_token = inside.access_token

        with meanwhile(lambda: enrol(other_tab), after="SELECT", of=TOTPFactor):
            inside.refreshed()

        assert RefreshSession.objects.get().tfa_required is False
        assert "tfa_required" not in claims(inside)
        assert inside.get("/api/whoami").status_code == 200

    def test_the_new_token_contains_otp_in_amr(self, signed_in: Api) -> None:
        """Also without a policy: token and row never disagree."""
        other_tab = Api()
        other_tab.access_token = signed_in.access_token

        with meanwhile(lambda: enrol(other_tab), after="SELECT", of=RefreshSession):
            signed_in.refreshed()

        assert claims(signed_in)["amr"] == ["pwd", "otp"]
        assert RefreshSession.objects.get().amr == "pwd otp"

    def test_a_login_whose_factor_is_removed_meanwhile_is_restricted(
        self, inside: Api, bound: Any, clock: Any
    ) -> None:
        app, _codes = enrol(inside)
        clock.shift(30)
        api = Api()

        with meanwhile(lambda: enrolment.reset_by_admin(bound), after="UPDATE", of=TOTPFactor):
            api.login(bound.email, otp=app.code())

        assert claims(api)["tfa_required"] is True
        assert_required(api.get("/api/whoami"))

    def test_setup_and_refresh_at_the_same_time_agree_in_the_end(self, inside: Api) -> None:
        """The factor is set up in the middle of a refresh's UPDATE: neither change is lost, and the rotated token
        stays rotated.
        """
        spent = inside.refresh_token
        other_tab = Api()
        other_tab.access_token = inside.access_token
        with meanwhile(lambda: enrol(other_tab), after="SELECT", of=TOTPFactor):
            inside.refreshed()

        again = Api().refresh(spent)

        assert again.json()["data"]["refresh_token"] == inside.refresh_token


class TestProviders:
    """security.md, row 21: provider logins are subject to the policy unless OAUTH_SATISFIES_MFA is on."""

    def test_provider_logins_are_restricted(self, bound: Any) -> None:
        grant = sessions.open(bound, amr=("google",), provider="google")

        assert grant.session.tfa_required is True

    def test_they_are_not_if_the_provider_satisfies_the_policy(self, bound: Any, configure: Any) -> None:
        configure(OAUTH_SATISFIES_MFA=True)
        api = Api()

        grant = sessions.open(bound, amr=("google",), provider="google", factor_satisfied=True)

        api.access_token, api.refresh_token = grant.access_token, grant.refresh_token
        assert api.get("/api/whoami").status_code == 200
        api.refreshed()
        assert api.get("/api/whoami").status_code == 200

    def test_a_session_opened_by_the_host_is_restricted_like_its_refreshes(
        self, bound: Any, configure: Any
    ) -> None:
        configure(OAUTH_SATISFIES_MFA=True)
        api = Api()

        grant = sessions.open(bound, amr=("saml",), provider="saml")

        api.access_token, api.refresh_token = grant.access_token, grant.refresh_token
        assert api.get("/api/whoami").status_code == 200
        api.refreshed()
        assert api.get("/api/whoami").status_code == 200
        assert api.get("/auth/tfa").json()["data"]["required"] is True

    def test_they_are_restricted_if_the_provider_no_longer_satisfies_the_policy(
        self, bound: Any, configure: Any
    ) -> None:
        configure(OAUTH_SATISFIES_MFA=True)
        grant = sessions.open(bound, amr=("google",), provider="google", factor_satisfied=True)
        configure(OAUTH_SATISFIES_MFA=False)

        assert sessions.rotate(grant.refresh_token).session.tfa_required is True

    @pytest.mark.parametrize("provider", ["", "saml"])
    def test_a_factor_of_the_hosts_own_satisfies_the_policy_for_the_whole_session(
        self, bound: Any, provider: str
    ) -> None:
        api = Api()

        grant = sessions.open(bound, amr=("hwk",), provider=provider, factor_satisfied=True)

        api.access_token, api.refresh_token = grant.access_token, grant.refresh_token
        assert api.get("/api/whoami").status_code == 200
        api.refreshed()
        assert api.get("/api/whoami").status_code == 200

    def test_removing_our_factor_does_not_restrict_such_a_session(self, inside: Api, bound: Any) -> None:
        enrol(inside)
        grant = sessions.open(bound, amr=("hwk",), factor_satisfied=True)

        enrolment.reset_by_admin(bound)

        grant.session.refresh_from_db()
        assert grant.session.tfa_required is False

    def test_removing_our_factor_does_not_restrict_provider_sessions(
        self, inside: Api, bound: Any, configure: Any
    ) -> None:
        configure(OAUTH_SATISFIES_MFA=True)
        enrol(inside)
        grant = sessions.open(bound, amr=("google",), provider="google", factor_satisfied=True)

        enrolment.reset_by_admin(bound)

        grant.session.refresh_from_db()
        assert grant.session.tfa_required is False


def walk(patterns: Any, prefix: str = "/") -> Any:
    """Yield path (without a trailing slash) and view of every endpoint in a URL conf."""
    for pattern in patterns:
        text = str(pattern.pattern).removeprefix("^").removesuffix(r"\Z").removesuffix("/?")
        if isinstance(pattern, URLResolver):
            yield from walk(pattern.url_patterns, prefix + text)
        elif isinstance(pattern, URLPattern):
            yield prefix + text, pattern.callback
