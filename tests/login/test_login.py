"""POST /auth/login."""

from __future__ import annotations

import base64
import json
import uuid
from typing import Any

import pytest
from django.contrib.auth.backends import BaseBackend
from django.contrib.auth.signals import user_logged_in, user_login_failed
from django.core.exceptions import PermissionDenied
from django.db import connection

from platform_auth import signals
from platform_auth.models import AuthEvent, RateCounter, RefreshSession
from tests.conftest import PASSWORD, Api, code_of, hearing, make_user
from tests.racing import failing

pytestmark = pytest.mark.django_db


def claims_of(token: str) -> dict[str, Any]:
    """Return the payload of a JWT without verifying it."""
    payload = token.split(".")[1]
    return json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))  # type: ignore[no-any-return]


def attempt(api: Api, **fields: Any) -> Any:
    return api.post("/auth/login", fields)


class AlwaysRefusing(BaseBackend):
    """A backend of the host that refuses every login with PermissionDenied."""

    def authenticate(self, request: Any, **credentials: Any) -> None:
        raise PermissionDenied


class Foreign(BaseBackend):
    """A backend of the host, such as LDAP, that knows its own users by username and password."""

    def authenticate(
        self, request: Any, username: str | None = None, password: str | None = None, **kwargs: Any
    ) -> Any:
        if password != "from the directory":
            return None
        from django.contrib.auth import get_user_model

        return get_user_model().objects.filter(email=username).first()


class LocksOut(BaseBackend):
    """A backend that marks the request as django-axes does."""

    def authenticate(self, request: Any, **credentials: Any) -> None:
        request.axes_locked_out = True


class TestAGoodLogin:
    """security.md, rows 2, 8, 28, 30."""

    def test_the_response_has_exactly_three_keys(self, api: Api, user: Any) -> None:
        response = attempt(api, email=user.email, password=PASSWORD)

        body = response.json()
        assert response.status_code == 200
        assert set(body) == {"data"}
        assert set(body["data"]) == {"access_token", "expires", "refresh_token"}
        assert body["data"]["expires"] == 900
        assert response["Content-Type"] == "application/json"

    def test_the_refresh_token_is_64_characters_of_base64url(self, api: Api, user: Any) -> None:
        api.login(user.email)

        assert len(api.refresh_token or "") == 64
        assert len(base64.urlsafe_b64decode(api.refresh_token or "")) == 48

    def test_the_access_token_has_exactly_the_claims_of_the_contract(self, api: Api, user: Any) -> None:
        api.login(user.email)

        claims = claims_of(api.access_token or "")
        assert set(claims) == {
            "sub",
            "sid",
            "iss",
            "aud",
            "iat",
            "exp",
            "jti",
            "token_type",
            "amr",
            "auth_time",
        }
        assert claims["sub"] == str(user.pk)
        assert claims["exp"] - claims["iat"] == 900
        assert claims["token_type"] == "access"
        assert claims["amr"] == ["pwd"]
        assert claims["iss"] == claims["aud"] == "http://testserver"
        assert uuid.UUID(claims["sid"]) == RefreshSession.objects.get().pk
        assert claims["auth_time"] == int(RefreshSession.objects.get().created_at.timestamp())

    def test_expires_is_in_milliseconds_if_the_setting_says_so(
        self, api: Api, user: Any, configure: Any
    ) -> None:
        configure(EXPIRES_UNIT="milliseconds")

        data = attempt(api, email=user.email, password=PASSWORD).json()["data"]

        claims = claims_of(data["access_token"])
        assert data["expires"] == 900_000 == (claims["exp"] - claims["iat"]) * 1000

    def test_the_session_remembers_address_and_user_agent(self, api: Api, user: Any) -> None:
        api.post(
            "/auth/login",
            {"email": user.email, "password": PASSWORD},
            headers={"User-Agent": "curl/8.0"},
            REMOTE_ADDR="203.0.113.7",
        )

        session = RefreshSession.objects.get()
        assert (session.user_id, session.ip_address, session.user_agent) == (
            user.pk,
            "203.0.113.7",
            "curl/8.0",
        )
        assert session.mode == "json"

    def test_every_login_opens_its_own_session(self, api: Api, user: Any) -> None:
        first = attempt(api, email=user.email, password=PASSWORD).json()["data"]
        second = attempt(api, email=user.email, password=PASSWORD).json()["data"]

        assert RefreshSession.objects.count() == 2
        assert first["refresh_token"] != second["refresh_token"]
        assert claims_of(first["access_token"])["sid"] != claims_of(second["access_token"])["sid"]

    def test_it_updates_last_login(self, api: Api, user: Any) -> None:
        assert user.last_login is None

        attempt(api, email=user.email, password=PASSWORD)

        user.refresh_from_db()
        assert user.last_login is not None

    def test_it_ignores_any_access_token_sent_along(self, api: Api, user: Any) -> None:
        for header in ("null", "Bearer null", "Bearer", "Bearer x.y.z", "Basic Og==", "Bearer \xff"):
            response = api.post(
                "/auth/login", {"email": user.email, "password": PASSWORD}, headers={"Authorization": header}
            )
            assert response.status_code == 200, header

    def test_it_works_with_and_without_a_trailing_slash(self, api: Api, user: Any) -> None:
        fields = {"email": user.email, "password": PASSWORD}

        assert api.post("/auth/login", fields).status_code == 200
        assert api.post("/auth/login/", fields).status_code == 200

    def test_a_newline_after_the_path_is_another_path(self, api: Api, user: Any) -> None:
        assert api.post("/auth/login%0a", {"email": user.email, "password": PASSWORD}).status_code == 404

    def test_otp_is_ignored_for_a_user_without_a_factor(self, api: Api, user: Any) -> None:
        assert attempt(api, email=user.email, password=PASSWORD, otp="123456").status_code == 200

    def test_unknown_keys_are_ignored_and_never_assigned(self, api: Api, user: Any) -> None:
        response = attempt(api, email=user.email, password=PASSWORD, is_staff=True, user={"a": 1}, share="x")

        user.refresh_from_db()
        assert response.status_code == 200
        assert not user.is_staff

    def test_it_records_an_event_and_sends_the_signals(self, api: Api, user: Any) -> None:
        with hearing(signals.logged_in, user_logged_in) as heard:
            attempt(api, email=user.email, password=PASSWORD)

        event = AuthEvent.objects.get()
        assert (event.kind, event.user_id, event.ip_address) == ("logged_in", user.pk, "127.0.0.1")
        session = RefreshSession.objects.get()
        assert [(facts["signal"], facts["user"], facts["session"]) for facts in heard] == [
            (user_logged_in, user, session),
            (signals.logged_in, user, session),
        ]

    def test_a_failing_receiver_changes_nothing(self, api: Api, user: Any) -> None:
        def failing(**kwargs: Any) -> None:
            raise RuntimeError("the host's bug")

        user_logged_in.connect(failing)
        signals.logged_in.connect(failing)
        try:
            response = attempt(api, email=user.email, password=PASSWORD)
        finally:
            user_logged_in.disconnect(failing)
            signals.logged_in.disconnect(failing)

        assert response.status_code == 200


class TestDatabaseFailure:
    def test_it_costs_no_attempt(self, api: Api, user: Any) -> None:
        """As in the contract, a 503 consumes nothing."""
        table = type(user)
        for _ in range(6):
            with failing(at="SELECT", of=table):
                response = attempt(api, email=user.email, password=PASSWORD)
            assert (response.status_code, code_of(response)) == (503, "SERVICE_UNAVAILABLE")

        assert attempt(api, email=user.email, password=PASSWORD).status_code == 200


class TestARefusedLogin:
    """security.md, row 1: one answer for every reason, no session, no cookie."""

    def refusals(self, settings: Any) -> dict[str, dict[str, str]]:
        user = make_user()
        inactive = make_user(is_active=False)
        unusable = make_user(password=None)
        blank = make_user()
        type(blank).objects.filter(pk=blank.pk).update(password="")
        broken = make_user()
        type(broken).objects.filter(pk=broken.pk).update(password="not a hash")
        make_user("twin@example.com")
        # On MariaDB a unique constraint ignores case, so there can't be two such users.
        if connection.vendor != "mysql" or not type(user)._meta.get_field("email").unique:
            make_user("TWIN@example.com")
        else:
            type(user).objects.filter(email="twin@example.com").delete()
        return {
            "wrong password": {"email": user.email, "password": "wrong"},
            "unknown": {"email": "nobody@example.com", "password": PASSWORD},
            "inactive": {"email": inactive.email, "password": PASSWORD},
            "inactive, wrong password": {"email": inactive.email, "password": "wrong"},
            "unusable password": {"email": unusable.email, "password": PASSWORD},
            "unusable password itself": {"email": unusable.email, "password": unusable.password},
            "blank password": {"email": blank.email, "password": " "},
            "broken hash": {"email": broken.email, "password": "not a hash"},
            "two accounts": {"email": "twin@example.com", "password": PASSWORD},
        }

    def test_every_reason_gives_the_same_response(
        self, api: Api, settings: Any, transactional_db: None
    ) -> None:
        answers = {}
        for reason, fields in self.refusals(settings).items():
            response = api.post("/auth/login", fields)
            headers = {name: value for name, value in response.items() if name != "Content-Length"}
            answers[reason] = (response.status_code, response.content, headers)
            assert code_of(response) == "INVALID_CREDENTIALS", reason
            assert not response.cookies, reason

        first = next(iter(answers.values()))
        assert first[0] == 401
        assert "WWW-Authenticate" not in first[2]
        assert all(answer == first for answer in answers.values()), answers
        assert not RefreshSession.objects.exists()

    def test_a_refusal_writes_only_counters_and_an_event(self, api: Api, user: Any) -> None:
        before = type(user).objects.filter(pk=user.pk).values().get()

        attempt(api, email=user.email, password="wrong")

        assert type(user).objects.filter(pk=user.pk).values().get() == before
        event = AuthEvent.objects.get()
        assert (event.kind, event.user_id, event.reason) == ("login_failed", user.pk, "credentials")
        assert not RefreshSession.objects.exists()

    def test_permission_denied_is_final_even_if_another_backend_would_accept(
        self, api: Api, user: Any, settings: Any
    ) -> None:
        settings.AUTHENTICATION_BACKENDS = [
            f"{__name__}.AlwaysRefusing",
            "platform_auth.backends.EmailBackend",
        ]

        response = attempt(api, email=user.email, password=PASSWORD)

        assert (response.status_code, code_of(response)) == (401, "INVALID_CREDENTIALS")

    def test_without_backends_no_password_is_accepted(self, api: Api, user: Any, settings: Any) -> None:
        settings.AUTHENTICATION_BACKENDS = [f"{__name__}.Foreign"]

        response = attempt(api, email=user.email, password=PASSWORD)

        assert (response.status_code, code_of(response)) == (401, "INVALID_CREDENTIALS")

    def test_a_backend_of_the_host_can_log_in_its_users(self, api: Api, settings: Any) -> None:
        user = make_user(password=None)
        settings.AUTHENTICATION_BACKENDS = ["platform_auth.backends.EmailBackend", f"{__name__}.Foreign"]

        response = attempt(api, email=user.email, password="from the directory")

        assert response.status_code == 200

    def test_a_backend_that_returns_an_inactive_user_logs_nobody_in(self, api: Api, settings: Any) -> None:
        user = make_user(is_active=False)
        settings.AUTHENTICATION_BACKENDS = [f"{__name__}.Foreign"]

        response = attempt(api, email=user.email, password="from the directory")

        assert (response.status_code, code_of(response)) == (401, "INVALID_CREDENTIALS")

    def test_a_lockout_by_django_axes_is_429(self, api: Api, user: Any, settings: Any) -> None:
        settings.AUTHENTICATION_BACKENDS = [f"{__name__}.LocksOut", "platform_auth.backends.EmailBackend"]

        response = attempt(api, email=user.email, password=PASSWORD)

        assert (response.status_code, code_of(response)) == (429, "REQUESTS_EXCEEDED")
        assert int(response["Retry-After"]) > 0

    def test_the_signals_do_not_contain_the_password(self, api: Api, user: Any) -> None:
        with hearing(signals.login_failed, user_login_failed) as heard:
            attempt(api, email=user.email, password="wrong-one")

        assert len(heard) == 2
        assert "wrong-one" not in repr(
            [{k: v for k, v in facts.items() if k != "request"} for facts in heard]
        )
        assert heard[1]["email"] == user.email

    def test_password_login_can_be_turned_off(self, api: Api, user: Any, configure: Any) -> None:
        configure(PASSWORD_LOGIN=False)

        response = attempt(api, email=user.email, password=PASSWORD)

        assert (response.status_code, code_of(response)) == (404, "ROUTE_NOT_FOUND")
        assert not RefreshSession.objects.exists()


class TestPassword:
    """security.md, row 5: compared byte for byte; security.md, row 107: never normalized."""

    def test_passwords_that_differ_in_the_90th_character_are_different(self, api: Api) -> None:
        password = "a" * 100
        user = make_user(password=password)

        assert attempt(api, email=user.email, password="a" * 89 + "b" + "a" * 10).status_code == 401
        assert attempt(api, email=user.email, password=password).status_code == 200

    @pytest.mark.parametrize(
        "typed", ["secret words ", " secret words", "Secret words", "secret  words", "secret words\n"]
    )
    def test_nothing_is_trimmed_or_folded(self, api: Api, typed: str) -> None:
        user = make_user(password="secret words")

        assert attempt(api, email=user.email, password=typed).status_code == 401

    def test_spaces_around_a_password_belong_to_it(self, api: Api) -> None:
        user = make_user(password="  secret words\t")

        assert attempt(api, email=user.email, password="  secret words\t").status_code == 200

    def test_composed_and_decomposed_letters_are_different(self, api: Api) -> None:
        user = make_user(password="caf\u00e9 au lait")

        assert attempt(api, email=user.email, password="cafe\u0301 au lait").status_code == 401
        assert attempt(api, email=user.email, password="caf\u00e9 au lait").status_code == 200

    def test_1024_bytes_are_accepted_and_one_more_is_400(self, api: Api) -> None:
        user = make_user(password="é" * 512)

        assert attempt(api, email=user.email, password="é" * 512).status_code == 200
        response = attempt(api, email=user.email, password="é" * 512 + "x")
        assert (response.status_code, code_of(response)) == (400, "INVALID_PAYLOAD")
        assert response.json()["errors"][0]["extensions"]["field"] == "password"

    def test_a_password_of_spaces_is_accepted(self, api: Api) -> None:
        user = make_user(password="   ")

        assert attempt(api, email=user.email, password="   ").status_code == 200


class TestShapeOfTheBody:
    """Several errors for one request if several things are wrong."""

    def test_both_missing_fields_are_named(self, api: Api, db: None) -> None:
        response = attempt(api)

        errors = response.json()["errors"]
        assert response.status_code == 400
        assert {error["extensions"]["field"] for error in errors} == {"email", "password"}
        assert all(error["extensions"]["code"] == "INVALID_PAYLOAD" for error in errors)
        assert all(error["extensions"]["reason"] for error in errors)

    def test_a_missing_body_counts_as_an_empty_object(self, api: Api, db: None) -> None:
        response = api.client.generic("POST", "/auth/login", b"", content_type="")

        assert {error["extensions"]["field"] for error in response.json()["errors"]} == {"email", "password"}

    @pytest.mark.parametrize(
        "email",
        ["", "x", "@", "a@", "@b", " user@example.com", "user@example.com ", "a b@example.com", "a@x\nBcc:b@y.example",
         "a@x.example,b@y.example", "a" * 243 + "@example.com", "user@example.com\n", "user@-example.com"],
    )  # fmt: skip
    def test_an_invalid_address_is_400(self, api: Api, email: str, db: None) -> None:
        response = attempt(api, email=email, password=PASSWORD)

        assert response.status_code == 400
        assert {error["extensions"]["field"] for error in response.json()["errors"]} == {"email"}

    def test_an_address_of_254_characters_is_accepted(self, api: Api, db: None) -> None:
        domain = ".".join(["d" * 63, "e" * 63, "f" * 57, "example"])
        email = "a" * (254 - len(domain) - 1) + "@" + domain
        assert len(email) == 254

        assert attempt(api, email=email, password=PASSWORD).status_code == 401

    @pytest.mark.parametrize("otp", ["", "12345", "1" * 33])
    def test_a_one_time_password_of_a_wrong_length_is_400(self, api: Api, user: Any, otp: str) -> None:
        response = attempt(api, email=user.email, password=PASSWORD, otp=otp)

        assert (response.status_code, code_of(response)) == (400, "INVALID_PAYLOAD")

    def test_an_email_in_the_query_is_ignored(self, api: Api, user: Any) -> None:
        """security.md, row 109."""
        response = api.post(f"/auth/login?email={user.email}&password=x&mode=cookie", {"password": PASSWORD})

        assert response.status_code == 400
        assert not response.cookies

    def test_a_password_of_a_megabyte_costs_no_hash(self, api: Api, user: Any) -> None:
        """security.md, row 104."""
        response = attempt(api, email=user.email, password="x" * 1_000_000)

        assert (response.status_code, code_of(response)) == (413, "CONTENT_TOO_LARGE")
        assert not AuthEvent.objects.exists()
        assert not RateCounter.objects.exists()


class TestExistingSession:
    """security.md, row 2: a login opens a new session, ignores any token sent along and never uses a planted one."""

    def test_a_planted_cookie_is_not_used_and_its_session_ends(self, user: Any) -> None:
        attacker, victim = Api(), Api()
        other = make_user()
        attacker.login(other.email)
        victim.client.cookies["__Host-refresh_token"] = attacker.refresh_token or ""

        response = victim.post("/auth/login", {"email": user.email, "password": PASSWORD, "mode": "cookie"})

        issued = response.cookies["__Host-refresh_token"].value
        assert response.status_code == 200
        assert issued != attacker.refresh_token
        assert RefreshSession.objects.get().user_id == user.pk
        assert attacker.refresh().status_code == 401

    def test_a_login_in_json_mode_keeps_the_session_of_a_cookie(self, user: Any) -> None:
        api = Api()
        api.post("/auth/login", {"email": user.email, "password": PASSWORD, "mode": "cookie"})

        response = api.post("/auth/login", {"email": user.email, "password": PASSWORD})

        assert not response.cookies
        assert RefreshSession.objects.count() == 2

    def test_a_failed_login_ends_no_session(self, user: Any) -> None:
        api = Api()
        api.post("/auth/login", {"email": user.email, "password": PASSWORD, "mode": "cookie"})

        response = api.post("/auth/login", {"email": user.email, "password": "wrong", "mode": "cookie"})

        assert response.status_code == 401
        assert not response.cookies
        assert RefreshSession.objects.count() == 1

    def test_a_refresh_token_in_the_body_is_ignored(self, user: Any) -> None:
        api = Api()
        api.login(user.email)
        first = api.refresh_token

        response = attempt(api, email=user.email, password=PASSWORD, refresh_token=first)

        assert response.json()["data"]["refresh_token"] != first
        assert RefreshSession.objects.count() == 2
