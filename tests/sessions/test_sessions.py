"""GET and DELETE /auth/sessions, and the functions of `platform_auth.sessions` for hosts."""

from __future__ import annotations

import re
import uuid
from typing import Any

import pytest
from django.db import transaction

from platform_auth import errors, sessions
from platform_auth.models import AuthEvent, RefreshSession, TOTPFactor
from tests.conftest import PASSWORD, Api, code_of, make_user
from tests.racing import failing

pytestmark = pytest.mark.django_db
RFC3339 = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z")


class TestList:
    """security.md, row 51."""

    def test_it_has_the_fields_of_the_contract(self, user: Any) -> None:
        api = Api()
        api.post(
            "/auth/login", {"email": user.email, "password": PASSWORD}, headers={"User-Agent": "curl/8.0"}
        )
        api.login(user.email)

        newest, oldest = api.get("/auth/sessions").json()["data"]

        assert set(newest) == {
            "id", "current", "created_at", "refreshed_at", "expires_at",
            "ip_address", "user_agent", "device", "provider",
        }  # fmt: skip
        assert (newest["current"], oldest["current"]) == (True, False)
        assert (oldest["user_agent"], oldest["device"].split()[0].lower()) == ("curl/8.0", "curl")
        assert newest["ip_address"] == "127.0.0.1"
        assert newest["provider"] is None
        assert isinstance(newest["id"], str)
        for name in ("created_at", "refreshed_at", "expires_at"):
            assert RFC3339.fullmatch(newest[name]), newest[name]

    def test_it_contains_nothing_of_the_refresh_token(self, signed_in: Api) -> None:
        row = RefreshSession.objects.get()

        text = signed_in.get("/auth/sessions").content.decode()

        assert str(row.key) not in text
        assert row.key.hex not in text
        assert row.digest not in text

    def test_it_has_no_sessions_of_other_users_and_no_expired_ones(self, signed_in: Api, user: Any) -> None:
        Api().login(make_user().email)
        old = Api()
        old.login(user.email)
        RefreshSession.objects.filter(user=user).exclude(
            pk=signed_in.get("/auth/sessions").json()["data"][1]["id"]
        ).update(expires_at="2020-01-01T00:00:00Z")

        rows = signed_in.get("/auth/sessions").json()["data"]

        assert [row["current"] for row in rows] == [True]

    def test_a_refresh_updates_times_and_address(self, user: Any, clock: Any) -> None:
        api = Api()
        api.login(user.email)
        clock.shift(60)
        api.client.defaults["REMOTE_ADDR"] = "203.0.113.9"
        api.refreshed()

        (row,) = api.get("/auth/sessions").json()["data"]

        assert row["ip_address"] == "203.0.113.9"
        assert row["created_at"] == "2026-06-15T12:00:05Z"
        assert row["refreshed_at"] == "2026-06-15T12:01:05Z"
        assert row["expires_at"] == "2026-06-22T12:01:05Z"


class TestEndingOne:
    """security.md, rows 27, 51."""

    def test_it_ends_at_once_with_its_tokens(self, signed_in: Api, user: Any) -> None:
        other = Api()
        other.login(user.email)
        doomed = next(
            row["id"] for row in signed_in.get("/auth/sessions").json()["data"] if not row["current"]
        )

        response = signed_in.delete(f"/auth/sessions/{doomed}")

        assert (response.status_code, response.content) == (204, b"")
        assert "Content-Type" not in response
        assert other.refresh().status_code == 401
        assert other.get("/api/whoami").status_code == 401
        assert signed_in.get("/api/whoami").status_code == 200

    def test_the_current_session_can_be_ended_too(self, signed_in: Api) -> None:
        (row,) = signed_in.get("/auth/sessions").json()["data"]

        assert signed_in.delete(f"/auth/sessions/{row['id']}/").status_code == 204
        assert signed_in.get("/auth/sessions").status_code == 401

    def test_a_session_of_another_user_or_an_unknown_one_is_404(self, signed_in: Api) -> None:
        victim = Api()
        victim.login(make_user().email)
        theirs = victim.get("/auth/sessions").json()["data"][0]["id"]

        for session_id in (theirs, str(uuid.uuid4()), "1", "x" * 3000, "%00", "..", "%F0%9F%98%80"):
            response = signed_in.delete(f"/auth/sessions/{session_id}")
            assert (response.status_code, code_of(response)) == (404, "ROUTE_NOT_FOUND"), session_id
        assert victim.get("/auth/sessions").status_code == 200

    def test_the_key_in_a_refresh_token_is_not_a_session_id(self, signed_in: Api) -> None:
        key = RefreshSession.objects.get().key

        assert signed_in.delete(f"/auth/sessions/{key}").status_code == 404


class TestEndingTheOthers:
    """security.md, row 55."""

    def test_all_but_this_one_end(self, signed_in: Api, user: Any) -> None:
        others = [Api(), Api()]
        bystander = Api()
        bystander.login(make_user().email)
        for other in others:
            other.login(user.email)

        response = signed_in.delete("/auth/sessions")

        assert (response.status_code, response.content) == (204, b"")
        assert [other.refresh().status_code for other in others] == [401, 401]
        assert [other.get("/api/whoami").status_code for other in others] == [401, 401]
        assert signed_in.refresh().status_code == 200
        assert bystander.refresh().status_code == 200

    @pytest.mark.parametrize(
        ("method", "path"), [("get", ""), ("delete", ""), ("delete", "/00000000-0000-4000-8000-000000000000")]
    )
    def test_it_needs_an_access_token(self, api: Api, method: str, path: str, db: None) -> None:
        response = api.request(method, f"/auth/sessions{path}")

        assert (response.status_code, code_of(response)) == (401, "INVALID_CREDENTIALS")
        assert response["WWW-Authenticate"] == "Bearer"


class TestPublicFunctions:
    """The public functions of `platform_auth.sessions`."""

    def test_open_returns_working_tokens(self, user: Any) -> None:
        api = Api()

        grant = sessions.open(user)

        api.access_token, api.refresh_token = grant.access_token, grant.refresh_token
        assert api.get("/api/whoami").json() == {"user": str(user.pk)}
        assert api.refresh().status_code == 200

    def test_the_repr_of_a_grant_hides_its_tokens(self, user: Any) -> None:
        grant = sessions.open(user)

        assert grant.access_token not in repr(grant)
        assert grant.refresh_token not in repr(grant)

    def test_open_refuses_a_user_who_was_deactivated_meanwhile(self, user: Any) -> None:
        type(user).objects.update(is_active=False)

        with pytest.raises(errors.InvalidCredentials):
            sessions.open(user)
        assert not RefreshSession.objects.exists()

    def test_open_refuses_a_user_whose_password_changed_meanwhile(self, user: Any) -> None:
        fresh = type(user).objects.get()
        fresh.set_password("another")
        fresh.save()

        with pytest.raises(errors.InvalidCredentials):
            sessions.open(user)
        assert not RefreshSession.objects.exists()

    def test_open_refuses_a_deleted_user(self, user: Any) -> None:
        stale = type(user).objects.get()
        user.delete()

        with pytest.raises(errors.InvalidCredentials):
            sessions.open(stale)

    def test_open_refuses_a_user_with_a_factor_that_was_not_given(self, user: Any) -> None:
        """security.md, row 3: the caller says that the factor was verified, or there must be none."""
        factor = TOTPFactor(user=user, name="app", confirmed=True)
        factor.secret = "JBSWY3DPEHPK3PXPJBSWY3DPEHPK3PXP"
        factor.save()

        with pytest.raises(errors.InvalidOTP):
            sessions.open(user)
        assert not RefreshSession.objects.exists()
        sessions.open(user, amr=("pwd", "otp"))
        sessions.open(user, factor_satisfied=True)

    def test_open_works_inside_a_transaction_of_the_host(self, user: Any) -> None:
        with transaction.atomic():
            grant = sessions.open(user)

        assert RefreshSession.objects.get().pk == grant.session.pk

    def test_revoke_ends_one_session_and_revoke_all_the_rest(self, user: Any) -> None:
        first, second, third = (sessions.open(user) for _ in range(3))

        sessions.revoke(first.session)
        assert set(RefreshSession.objects.all()) == {second.session, third.session}
        assert sessions.revoke_all(user, keep=second.session) == 1
        assert RefreshSession.objects.get() == second.session
        assert sessions.revoke_all(user) == 1
        sessions.revoke(first.session)


class TestFailingEvent:
    """Sessions end together with the event about it, or not at all."""

    def test_no_other_session_ends_if_the_event_cannot_be_recorded(self, signed_in: Api, user: Any) -> None:
        other = sessions.open(user).session

        with failing(at="INSERT", of=AuthEvent):
            assert signed_in.delete("/auth/sessions").status_code == 503

        assert RefreshSession.objects.filter(pk=other.pk).exists()
        assert signed_in.delete("/auth/sessions").status_code == 204
        assert not RefreshSession.objects.filter(pk=other.pk).exists()

    def test_a_suspended_users_sessions_stay_until_the_event_can_be_recorded(
        self, signed_in: Api, user: Any
    ) -> None:
        type(user).objects.update(is_active=False)

        with failing(at="INSERT", of=AuthEvent):
            assert signed_in.refresh().status_code == 503

        assert RefreshSession.objects.count() == 1
        assert code_of(signed_in.refresh()) == "USER_SUSPENDED"
        assert not RefreshSession.objects.exists()
