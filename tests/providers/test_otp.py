"""POST /auth/oauth/{provider}/otp: a local second factor after a provider login."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import time_machine

from platform_auth import signals
from platform_auth.models import OAuthIdentity, RefreshSession
from platform_auth.passwords import reset_tokens
from platform_auth.sessions import tokens
from tests.conftest import PASSWORD, Api, Authenticator, code_of, enrol, hearing
from tests.flows import Browser, add_provider
from tests.identity_provider import Provider

pytestmark = pytest.mark.django_db


@pytest.fixture
def app(signed_in: Api, user: Any, provider: Provider) -> Authenticator:
    """A user with a second factor and a linked provider account, not logged in."""
    app, _codes = enrol(signed_in)
    OAuthIdentity.objects.create(
        user=user, provider=add_provider(provider), issuer=provider.issuer, subject=provider.claims["sub"]
    )
    RefreshSession.objects.all().delete()
    return app


def finish(
    browser: Browser, otp: Any, key: str = "demo", headers: dict[str, str] | None = None, **fields: Any
) -> Any:
    return browser.post(
        f"/auth/oauth/{key}/otp",
        {"otp": otp, **fields},
        content_type="application/json",
        headers=headers or {},
    )


class TestSecondFactor:
    """security.md, rows 3 and 4."""

    def test_the_callback_asks_for_it(self, app: Authenticator, provider: Provider) -> None:
        response = Browser().log_in(provider)

        assert response.status_code == 401
        assert code_of(response) == "INVALID_OTP"
        cookie = response.cookies["oauth_pending"]
        assert cookie["httponly"]
        assert cookie["samesite"] == "Lax"
        assert cookie["max-age"] == 300
        assert not RefreshSession.objects.exists()

    def test_the_callback_asks_for_it_at_the_redirect(self, app: Authenticator, provider: Provider) -> None:
        response = Browser().log_in(provider, redirect="/home")

        assert response["Location"] == "http://testserver/home?reason=INVALID_OTP"
        assert response.cookies["oauth_pending"].value
        assert not {"refresh_token", "access_token"} & set(response.cookies)

    def test_the_right_code_finishes_the_login(self, app: Authenticator, provider: Provider) -> None:
        browser = Browser()
        browser.log_in(provider)

        response = finish(browser, app.code(1))

        assert response.status_code == 200
        assert set(response.json()["data"]) == {"access_token", "expires", "refresh_token"}
        assert response.cookies["oauth_pending"]["max-age"] == 0
        session = RefreshSession.objects.get()
        assert session.amr == "demo otp"
        assert session.provider == "demo"
        assert tokens.verify_access_token(response.json()["data"]["access_token"])

    def test_a_refused_code_sends_the_signal(self, app: Authenticator, provider: Provider) -> None:
        browser = Browser()

        with hearing(signals.login_failed) as heard:
            browser.log_in(provider)
            for _ in range(11):
                finish(browser, app.wrong())

        assert [facts["reason"] for facts in heard] == ["otp"] * 10 + ["limited"]

    def test_the_mode_is_that_of_the_request(self, app: Authenticator, provider: Provider) -> None:
        browser = Browser()
        browser.log_in(provider, redirect="/home")

        response = finish(browser, app.code(1), mode="session")

        assert set(response.json()["data"]) == {"expires"}
        assert response.cookies["refresh_token"].value
        assert response.cookies["access_token"].value

    @pytest.mark.parametrize(("mode", "sessions"), [("json", 2), ("cookie", 1), ("session", 1)])
    def test_cookies_replace_the_session_of_the_cookie(
        self, mode: str, sessions: int, app: Authenticator, user: Any, provider: Provider, configure: Any
    ) -> None:
        browser = Browser()
        configure(OAUTH_SATISFIES_MFA=True)
        browser.log_in(provider, redirect="/home")
        configure(OAUTH_SATISFIES_MFA=False)
        browser.log_in(provider, redirect="/home")

        assert finish(browser, app.code(1), mode=mode).status_code == 200

        assert RefreshSession.objects.count() == sessions

    def test_a_recovery_code_works(self, signed_in: Api, user: Any, provider: Provider) -> None:
        _app, codes = enrol(signed_in)
        row = add_provider(provider)
        OAuthIdentity.objects.create(user=user, provider=row, issuer=provider.issuer, subject="subject-1")
        browser = Browser()
        browser.log_in(provider)

        assert finish(browser, codes[0]).status_code == 200

    def test_a_wrong_code_leaves_it_pending(self, app: Authenticator, provider: Provider) -> None:
        browser = Browser()
        browser.log_in(provider)

        wrong = finish(browser, app.wrong())

        assert wrong.status_code == 401
        assert code_of(wrong) == "INVALID_OTP"
        assert finish(browser, app.code(1)).status_code == 200

    def test_wrong_codes_are_limited(self, app: Authenticator, provider: Provider) -> None:
        """security.md, row 13."""
        browser = Browser()
        browser.log_in(provider)

        answers = [finish(browser, app.wrong()).status_code for _ in range(11)]

        assert answers == [401] * 10 + [429]
        assert finish(browser, app.code(1)).status_code == 429

    def test_a_pending_login_can_be_used_once(self, app: Authenticator, provider: Provider) -> None:
        browser = Browser()
        browser.log_in(provider)
        cookie = browser.client.cookies["oauth_pending"].value
        finish(browser, app.code(1))
        browser.client.cookies["oauth_pending"] = cookie

        with time_machine.travel(datetime.now(UTC) + timedelta(seconds=90)):
            response = finish(browser, app.code())
            wrong = finish(browser, app.wrong())

        assert wrong.status_code == 400, "an attempt would be counted"
        assert response.status_code == 400
        assert code_of(response) == "INVALID_PAYLOAD"
        assert RefreshSession.objects.count() == 1

    def test_another_browser_has_no_pending_login(self, app: Authenticator, provider: Provider) -> None:
        Browser().log_in(provider)

        response = finish(Browser(), app.code(1))

        assert response.status_code == 400
        assert code_of(response) == "INVALID_PAYLOAD"

    def test_it_expires_after_five_minutes(self, app: Authenticator, provider: Provider) -> None:
        browser = Browser()
        browser.log_in(provider)

        with time_machine.travel(datetime.now(UTC) + timedelta(seconds=301)):
            assert finish(browser, app.code()).status_code == 400

    def test_it_does_not_work_for_another_provider(self, app: Authenticator, provider: Provider) -> None:
        add_provider(provider, "twin")
        browser = Browser()
        browser.log_in(provider)

        assert finish(browser, app.code(1), key="twin").status_code == 400

    def test_unlinking_the_identity_ends_it(self, app: Authenticator, provider: Provider) -> None:
        browser = Browser()
        browser.log_in(provider)
        OAuthIdentity.objects.all().delete()

        assert finish(browser, app.code(1)).status_code == 400

    def test_a_deactivated_user_is_refused(self, app: Authenticator, user: Any, provider: Provider) -> None:
        browser = Browser()
        browser.log_in(provider)
        type(user).objects.update(is_active=False)

        response = finish(browser, app.code(1))

        assert response.status_code == 401
        assert not RefreshSession.objects.exists()

    @pytest.mark.parametrize("way", ["reset", "change", "by an admin"])
    def test_a_new_password_ends_it(
        self, way: str, app: Authenticator, user: Any, provider: Provider
    ) -> None:
        """A user who sets a new password because somebody else has access also ends pending logins."""
        other = Api()
        if way == "change":
            other.login(user.email, otp=app.code(1))
        browser = Browser()
        browser.log_in(provider)
        new = "a brand new one 9876"
        if way == "reset":
            token = reset_tokens.sign(reset_tokens.issue(user))
            assert other.post("/auth/password/reset", {"token": token, "password": new}).status_code == 204
        elif way == "change":
            body = {"current_password": PASSWORD, "password": new, "otp": app.code(2)}
            with time_machine.travel(datetime.now(UTC) + timedelta(seconds=30)):
                assert other.post("/auth/password/change", body).status_code == 204
        else:
            user.refresh_from_db()
            user.set_password(new)
            user.save()

        with time_machine.travel(datetime.now(UTC) + timedelta(seconds=120)):
            response = finish(browser, app.code())
            wrong = finish(browser, app.wrong())

        assert wrong.status_code == 400, "an attempt would be counted"
        assert response.status_code == 400
        assert code_of(response) == "INVALID_PAYLOAD"

    def test_a_flow_cookie_is_not_accepted(self, app: Authenticator, provider: Provider) -> None:
        browser = Browser()
        browser.start()
        browser.client.cookies["oauth_pending"] = browser.client.cookies["oauth_flow"].value

        assert finish(browser, app.code(1)).status_code == 400

    def test_cannot_be_finished_from_another_origin(self, app: Authenticator, provider: Provider) -> None:
        browser = Browser()
        browser.log_in(provider)

        response = finish(browser, app.code(1), headers={"Origin": "https://evil.example"})

        assert response.status_code == 403
        assert finish(browser, app.code(1)).status_code == 200

    @pytest.mark.parametrize(
        "body", [{}, {"otp": 123456}, {"otp": None}, {"otp": "12345"}, {"otp": "123456", "mode": "x"}]
    )
    def test_a_malformed_body_is_refused(self, body: Any, app: Authenticator, provider: Provider) -> None:
        browser = Browser()
        browser.log_in(provider)

        response = browser.post("/auth/oauth/demo/otp", body, content_type="application/json")

        assert response.status_code == 400

    def test_with_oauth_satisfies_mfa_no_code_is_needed(
        self, app: Authenticator, provider: Provider, configure: Any
    ) -> None:
        configure(OAUTH_SATISFIES_MFA=True)

        response = Browser().log_in(provider)

        assert response.status_code == 200
        assert RefreshSession.objects.get().amr == "demo"

    def test_a_policy_restricts_the_session_to_enrolment(
        self, user: Any, provider: Provider, configure: Any
    ) -> None:
        configure(TFA_REQUIRED_FOR_STAFF=True)
        type(user).objects.update(is_staff=True)
        OAuthIdentity.objects.create(
            user=user, provider=add_provider(provider), issuer=provider.issuer, subject="subject-1"
        )
        api = Api()
        api.access_token = Browser().log_in(provider).json()["data"]["access_token"]

        response = api.get("/auth/identities")

        assert response.status_code == 403
        assert code_of(response) == "TFA_REQUIRED"
        assert api.get("/auth/tfa").status_code == 200
