"""POST /auth/logout."""

from __future__ import annotations

from typing import Any

import pytest
from django.contrib.auth.signals import user_logged_out

from platform_auth import signals
from platform_auth.models import AuthEvent, RefreshSession
from tests.conftest import PASSWORD, Api, code_of, hearing, make_user

pytestmark = pytest.mark.django_db


class TestLogout:
    """security.md, rows 27, 52, 55."""

    def test_it_ends_the_session_and_its_access_tokens_at_once(self, signed_in: Api) -> None:
        assert signed_in.get("/api/whoami").status_code == 200

        response = signed_in.post("/auth/logout", {"refresh_token": signed_in.refresh_token})

        assert response.status_code == 204
        assert not RefreshSession.objects.exists()
        assert signed_in.refresh().status_code == 401
        refused = signed_in.get("/api/whoami")
        assert refused.status_code == 401
        assert refused["WWW-Authenticate"] == 'Bearer error="invalid_token"'

    def test_its_response_has_neither_body_nor_content_type(self, signed_in: Api) -> None:
        response = signed_in.post("/auth/logout", {"refresh_token": signed_in.refresh_token})

        assert response.content == b""
        assert "Content-Type" not in response

    def test_a_rotated_token_ends_the_session_too(self, signed_in: Api, clock: Any) -> None:
        spent = signed_in.refresh_token
        signed_in.refreshed()
        clock.shift(3600)

        response = signed_in.post("/auth/logout", {"refresh_token": spent})

        assert response.status_code == 204
        assert not RefreshSession.objects.exists()

    def test_a_token_of_two_rotations_ago_ends_the_session_too(self, signed_in: Api) -> None:
        oldest = signed_in.refresh_token
        signed_in.refreshed()
        signed_in.refreshed()

        signed_in.post("/auth/logout", {"refresh_token": oldest})

        assert signed_in.refresh().status_code == 401

    def test_other_sessions_of_the_user_stay(self, user: Any) -> None:
        first, second = Api(), Api()
        first.login(user.email)
        second.login(user.email)

        first.post("/auth/logout", {"refresh_token": first.refresh_token})

        assert second.refresh().status_code == 200
        assert second.get("/api/whoami").status_code == 200

    def test_an_access_token_alone_ends_nothing(self, signed_in: Api) -> None:
        response = signed_in.post("/auth/logout")

        assert response.status_code == 204
        assert RefreshSession.objects.exists()

    def test_it_records_an_event_and_sends_the_signals(self, signed_in: Api, user: Any) -> None:
        with hearing(signals.logged_out, user_logged_out) as heard:
            signed_in.post("/auth/logout", {"refresh_token": signed_in.refresh_token})

        assert [facts["user"].pk for facts in heard] == [user.pk, user.pk]
        assert AuthEvent.objects.filter(kind="logged_out", user=user).count() == 1


class TestAlways204:
    """security.md, row 53: no oracle."""

    @pytest.mark.parametrize(
        "body",
        [{}, {"refresh_token": ""}, {"refresh_token": "x"}, {"refresh_token": "A" * 64}, {"refresh_token": "A" * 5000},
         {"refresh_token": "\x00"}, {"mode": "json"}, {"mode": "cookie"}, {"mode": "session", "refresh_token": "é"}],
    )  # fmt: skip
    def test_for_an_unknown_or_missing_token(self, api: Api, body: dict[str, Any], db: None) -> None:
        response = api.post("/auth/logout", body)

        assert (response.status_code, response.content) == (204, b"")

    def test_without_a_body(self, api: Api, db: None) -> None:
        assert api.client.generic("POST", "/auth/logout").status_code == 204

    def test_twice(self, signed_in: Api) -> None:
        for _ in range(2):
            assert (
                signed_in.post("/auth/logout", {"refresh_token": signed_in.refresh_token}).status_code == 204
            )

        assert AuthEvent.objects.filter(kind="logged_out").count() == 1

    def test_for_an_expired_token(self, signed_in: Api, clock: Any) -> None:
        api = Api()
        user = make_user()
        api.login(user.email)
        clock.shift(8 * 86400)

        assert api.post("/auth/logout", {"refresh_token": api.refresh_token}).status_code == 204

    def test_for_a_deactivated_user(self, signed_in: Api, user: Any) -> None:
        type(user).objects.update(is_active=False)

        assert signed_in.post("/auth/logout", {"refresh_token": signed_in.refresh_token}).status_code == 204
        assert not RefreshSession.objects.exists()

    def test_with_any_access_token(self, signed_in: Api) -> None:
        response = signed_in.post(
            "/auth/logout", {"refresh_token": signed_in.refresh_token}, headers={"Authorization": "null"}
        )

        assert response.status_code == 204
        assert not RefreshSession.objects.exists()

    @pytest.mark.parametrize(
        "body", [{"mode": "other"}, {"mode": 1}, {"refresh_token": 5}, {"refresh_token": None}, []]
    )
    def test_except_for_a_malformed_body(self, api: Api, body: Any, db: None) -> None:
        response = api.post("/auth/logout", body)

        assert (response.status_code, code_of(response)) == (400, "INVALID_PAYLOAD")


class TestLogoutByCookie:
    """security.md, rows 52, 54."""

    def signed_in(self, user: Any, mode: str) -> Api:
        api = Api()
        assert (
            api.post("/auth/login", {"email": user.email, "password": PASSWORD, "mode": mode}).status_code
            == 200
        )
        return api

    @pytest.mark.parametrize("mode", ["cookie", "session"])
    def test_it_ends_the_session_and_clears_every_cookie_with_the_attributes_it_was_set_with(
        self, user: Any, mode: str
    ) -> None:
        api = Api()
        set_by = api.post("/auth/login", {"email": user.email, "password": PASSWORD, "mode": mode}).cookies

        response = api.post("/auth/logout", {"mode": mode})

        assert response.status_code == 204
        assert not RefreshSession.objects.exists()
        assert set(response.cookies) == set(set_by)
        for name, cookie in response.cookies.items():
            assert cookie.value == ""
            assert cookie["max-age"] == 0
            for attribute in ("path", "domain", "secure", "httponly", "samesite"):
                assert cookie[attribute] == set_by[name][attribute], attribute

    def test_only_cookies_that_were_sent_are_cleared(self, signed_in: Api) -> None:
        response = signed_in.post("/auth/logout", {"refresh_token": signed_in.refresh_token})

        assert not response.cookies

    @pytest.mark.parametrize("method", ["get", "head", "put", "patch", "delete", "options"])
    def test_other_methods_end_nothing(self, user: Any, method: str) -> None:
        api = self.signed_in(user, "cookie")

        response = getattr(api.client, method)("/auth/logout")

        assert response.status_code == 405
        assert "POST" in response["Allow"]
        assert not response.cookies
        assert RefreshSession.objects.count() == 1

    def test_a_page_of_another_origin_cannot_log_anyone_out(self, user: Any) -> None:
        api = self.signed_in(user, "session")

        response = api.post(
            "/auth/logout", headers={"Sec-Fetch-Site": "cross-site", "Origin": "https://evil.example"}
        )

        assert (response.status_code, code_of(response)) == (403, "FORBIDDEN")
        assert not response.cookies
        assert RefreshSession.objects.count() == 1

    def test_the_token_in_the_body_takes_precedence_over_the_cookie(self, user: Any) -> None:
        browser, other = self.signed_in(user, "cookie"), Api()
        other.login(user.email)
        kept = browser.client.cookies["__Host-refresh_token"].value

        browser.post("/auth/logout", {"refresh_token": other.refresh_token})

        assert other.refresh().status_code == 401
        browser.client.cookies["__Host-refresh_token"] = kept
        assert browser.post("/auth/refresh").status_code == 200
