"""GET /auth/oauth and its flow, with a well-behaved provider of our own."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from io import StringIO
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, parse_qsl, unquote, urlencode, urlsplit

import pytest
import time_machine
from django.contrib.auth import get_user_model
from django.contrib.auth.models import Group
from django.core import mail
from django.core.exceptions import ValidationError
from django.core.management import call_command
from django.core.signals import got_request_exception
from django.db import DataError, connection
from django.db.models.signals import post_save
from django.views.debug import ExceptionReporter

from platform_auth import sessions
from platform_auth.mail import messages
from platform_auth.models import AuthEvent, OAuthIdentity, OAuthProvider, RefreshSession, UsedState
from tests.conftest import PASSWORD, Api, code_of, make_user
from tests.flows import Browser, add_provider
from tests.identity_provider import CLIENT_ID, CLIENT_SECRET, EC_KEY, ED_KEY, RSA_KEY, Provider, jwk

ODD_KEYS = [
    "a%0d%0aX-Evil:1",
    "demo%3Fx",
    "d%C3%A9mo",
    "demo%23",
    "demo%00",
    "%5c",
    "..",
    "%2e%2e",
    "a;b",
    "%25",
]
"""Keys that no provider can have, as in a URL."""

HOSTILE = json.loads((Path(__file__).parent.parent / "data" / "hostile-urls.json").read_text())

pytestmark = pytest.mark.django_db


class TestProviderList:
    def test_lists_the_enabled_keys_in_the_admins_order(self, api: Api, provider: Provider) -> None:
        add_provider(provider, "second", order=2)
        add_provider(provider, "first", order=1)
        add_provider(provider, "off", order=0, enabled=False)

        for path in ("/auth/oauth", "/auth/oauth/"):
            response = api.get(path)
            assert response.status_code == 200
            assert response.json() == {"public": True, "data": ["first", "second"]}

    def test_without_providers_the_list_is_empty(self, api: Api) -> None:
        assert api.get("/auth/oauth").json() == {"public": True, "data": []}

    def test_the_root_lists_labels_and_no_secret(self, api: Api, provider: Provider) -> None:
        """security.md, row 101."""
        add_provider(provider, "demo", label="Demo ID", icon="key")

        response = api.get("/auth/")

        assert response.json() == {
            "data": [{"name": "demo", "label": "Demo ID", "driver": "openid", "icon": "key"}],
            "disableDefault": False,
        }

    def test_the_root_says_when_passwords_are_off(self, api: Api, configure: Any) -> None:
        configure(PASSWORD_LOGIN=False)

        assert api.get("/auth/").json()["disableDefault"] is True

    def test_a_change_of_a_provider_takes_effect_at_once(self, api: Api, provider: Provider) -> None:
        """security.md, row 89."""
        row = add_provider(provider)
        assert api.get("/auth/oauth").json()["data"] == ["demo"]

        row.enabled = False
        row.save()

        assert api.get("/auth/oauth").json()["data"] == []
        assert api.get("/auth/oauth/demo").status_code == 404


class TestStart:
    @pytest.mark.parametrize(
        "path",
        [
            "/auth/oauth/demo",
            "/auth/oauth/demo/",
            "/auth/oauth?provider=demo",
            "/auth/oauth/?provider=demo",
            "/auth/login/demo",
            "/auth/login/demo/",
        ],
    )
    def test_sends_the_browser_to_the_provider(self, path: str, provider: Provider) -> None:
        """security.md, rows 85 to 87 and 100."""
        add_provider(provider)

        response = Browser().get(path)

        assert response.status_code == 302
        url = urlsplit(response["Location"])
        asked = dict(parse_qsl(url.query))
        assert f"{url.scheme}://{url.netloc}{url.path}" == f"{provider.issuer}/authorize"
        assert asked["client_id"] == CLIENT_ID
        assert asked["redirect_uri"] == "http://testserver/auth/oauth/demo/callback"
        assert asked["response_type"] == "code"
        assert asked["code_challenge_method"] == "S256"
        assert len(asked["code_challenge"]) == 43
        assert len(asked["state"]) == 32
        assert len(asked["nonce"]) == 64
        assert set(asked["scope"].split()) == {"openid", "profile", "email"}
        assert response["Cache-Control"] == "no-store"
        (cookie,) = response.cookies.values()
        assert cookie.key == "oauth_flow"
        assert cookie["httponly"]
        assert cookie["samesite"] == "Lax"
        assert cookie["path"] == "/"
        assert cookie["max-age"] == 600
        assert asked["state"] not in cookie.value

    def test_its_cookie_is_lax_without_a_domain_regardless_of_the_settings(
        self, provider: Provider, configure: Any
    ) -> None:
        """security.md, row 85: the browser returns by a link on another site, and a `__Host-` cookie has no Domain."""
        configure(COOKIE_SAMESITE="Strict", COOKIE_DOMAIN="example.com")
        add_provider(provider)

        (cookie,) = Browser().start().cookies.values()

        assert (cookie["samesite"], cookie["domain"]) == ("Lax", "")

    def test_writes_no_row(self, provider: Provider, django_assert_num_queries: Any) -> None:
        add_provider(provider)
        browser = Browser()
        browser.start()

        with django_assert_num_queries(1) as captured:
            browser.start()

        assert "SELECT" in captured[0]["sql"]

    def test_every_start_has_its_own_state_verifier_and_nonce(self, provider: Provider) -> None:
        """security.md, rows 85 to 87."""
        add_provider(provider)
        browser = Browser()

        asked = [dict(parse_qsl(urlsplit(browser.start()["Location"]).query)) for _ in range(3)]

        for name in ("state", "nonce", "code_challenge"):
            assert len({each[name] for each in asked}) == 3

    def test_request_parameters_do_not_reach_the_provider(self, provider: Provider) -> None:
        """security.md, row 103."""
        add_provider(provider)

        response = Browser().get(
            "/auth/oauth/demo?scope=admin&client_id=x&prompt=none&redirect_uri=https://evil.example&state=mine"
        )

        asked = parse_qs(urlsplit(response["Location"]).query)
        assert "admin" not in asked["scope"][0]
        assert asked["client_id"] == [CLIENT_ID]
        assert "prompt" not in asked
        assert asked["redirect_uri"] == ["http://testserver/auth/oauth/demo/callback"]
        assert asked["state"] != ["mine"]

    def test_an_unknown_and_a_disabled_provider_are_the_same_404(self, api: Api, provider: Provider) -> None:
        """security.md, row 101."""
        add_provider(provider, "off", enabled=False)

        answers = [api.get(f"/auth/oauth/{key}") for key in ("off", "nobody", "Demo", "x%00y")]

        assert {answer.status_code for answer in answers} == {404}
        assert {code_of(answer) for answer in answers} == {"ROUTE_NOT_FOUND"}
        assert len({answer.content for answer in answers}) == 1

    @pytest.mark.parametrize("key", ["pwd", "otp", "mfa"])
    def test_a_reserved_key_is_404(self, key: str, api: Api, provider: Provider) -> None:
        """security.md, row 4: `amr` must not contain "otp" because an admin chose that key."""
        add_provider(provider, key)

        assert api.get(f"/auth/oauth/{key}").status_code == 404

    def test_a_request_to_another_host_is_redirected_to_public_url(
        self, provider: Provider, configure: Any
    ) -> None:
        """security.md, row 100."""
        configure(PUBLIC_URL="http://app.example")
        add_provider(provider)

        response = Browser().get("/auth/oauth/demo?redirect=%2Fhome", headers={"Host": "other.example"})

        assert response.status_code == 302
        assert response["Location"] == "http://app.example/auth/oauth/demo?redirect=%2Fhome"
        assert not response.cookies

    @pytest.mark.parametrize("key", ODD_KEYS)
    def test_an_unusual_path_is_redirected_unchanged(self, key: str, configure: Any) -> None:
        configure(PUBLIC_URL="http://app.example")
        browser = Browser()

        response = browser.get(f"/auth/oauth/{key}?a=%0d%0ab", headers={"Host": "other.example"})

        assert response.status_code == 302
        location = urlsplit(response["Location"])
        assert (location.scheme, location.netloc) == ("http", "app.example")
        assert unquote(location.path) == unquote(f"/auth/oauth/{key}")
        assert location.query.lower() == "a=%0d%0ab"
        assert response["Location"].isprintable()

    @pytest.mark.parametrize("host", ["app.example", "APP.example", "app.example:80"])
    def test_a_request_to_its_own_host_is_not_redirected(
        self, host: str, provider: Provider, configure: Any
    ) -> None:
        configure(PUBLIC_URL="http://app.example")
        add_provider(provider)

        response = Browser().get("/auth/oauth/demo", headers={"Host": host})

        assert response["Location"].startswith(provider.issuer)
        assert "app.example%2Fauth" in response["Location"] or "app.example/auth" in response["Location"]

    @pytest.mark.parametrize("url", HOSTILE["refused_redirect"])
    def test_a_hostile_redirect_starts_nothing(self, url: str, provider: Provider, configure: Any) -> None:
        """security.md, rows 79 and 82."""
        configure(PUBLIC_URL=HOSTILE["allowed"]["PUBLIC_URL"])
        add_provider(provider)

        response = Browser().get("/auth/oauth/demo", {"redirect": url}, headers={"Host": "allowed.example"})

        assert response.status_code == 400
        assert code_of(response) == "INVALID_PAYLOAD"
        assert response.json()["errors"][0]["extensions"]["field"] == "redirect"
        assert not response.cookies
        assert not provider.calls

    @pytest.mark.parametrize(
        "query",
        [
            "mode=json&redirect=/home",
            "mode=jwt",
            "mode=",
            "redirect=",
            "redirect=/a&redirect=/b",
            "mode=json&mode=cookie",
        ],
    )
    def test_a_malformed_query_is_refused(self, query: str, provider: Provider) -> None:
        """security.md, rows 7 and 82."""
        add_provider(provider)

        response = Browser().get(f"/auth/oauth/demo?{query}")

        assert response.status_code == 400
        assert code_of(response) == "INVALID_PAYLOAD"
        assert not response.cookies

    @pytest.mark.parametrize("query", ["provider=demo&provider=twin", "provider=demo&provider=demo"])
    def test_two_provider_parameters_are_refused(self, query: str, provider: Provider) -> None:
        add_provider(provider)
        add_provider(provider, "twin")

        response = Browser().get(f"/auth/oauth?{query}")

        assert response.status_code == 400
        assert response.json()["errors"][0]["extensions"]["field"] == "provider"
        assert not response.cookies

    def test_an_access_token_is_ignored(self, provider: Provider) -> None:
        add_provider(provider)

        response = Browser().get("/auth/oauth/demo", headers={"Authorization": "Bearer null"})

        assert response.status_code == 302

    def test_of_five_flows_the_newest_four_are_kept(self, provider: Provider) -> None:
        add_provider(provider, may_create_users=True)
        browser = Browser()
        locations = [browser.start()["Location"] for _ in range(5)]
        callbacks = [provider.authorize(location) for location in locations]

        answers = [browser.callback(parameters) for parameters in callbacks]

        assert [answer.status_code for answer in answers] == [400, 200, 200, 200, 200]

    def test_the_cookie_stays_below_4096_bytes(self, provider: Provider) -> None:
        add_provider(provider)
        browser = Browser()

        for _ in range(4):
            response = browser.start(redirect="/" + "x" * 2047)

        assert len(response.cookies["oauth_flow"].OutputString()) < 4096


class TestLogin:
    def test_without_redirect_answers_json(self, provider: Provider) -> None:
        """security.md, rows 97, 101, 102."""
        add_provider(provider, may_create_users=True)
        browser = Browser()

        response = browser.log_in(provider)

        assert response.status_code == 200
        body = response.json()
        assert set(body) == {"public", "data"}
        assert body["public"] is True
        assert set(body["data"]) == {"access_token", "expires", "refresh_token"}
        assert response["Cache-Control"] == "no-store"
        assert not {"refresh_token", "access_token"} & set(response.cookies)
        session = RefreshSession.objects.get()
        assert session.provider == "demo"
        assert session.amr == "demo"
        user = get_user_model().objects.get()
        assert user.email == "person@example.com"
        assert not user.has_usable_password()
        assert not user.is_staff
        assert not user.is_superuser
        assert session.user == user
        assert browser.get(
            "/api/whoami", headers={"Authorization": f"Bearer {body['data']['access_token']}"}
        ).json()

    @pytest.mark.parametrize(
        ("mode", "cookies"), [(None, {"refresh_token", "access_token"}), ("cookie", {"refresh_token"})]
    )
    def test_with_redirect_sends_tokens_in_cookies(
        self, mode: str | None, cookies: set[str], provider: Provider
    ) -> None:
        """security.md, row 84."""
        add_provider(provider, may_create_users=True)
        browser = Browser()

        response = browser.log_in(provider, redirect="/home?a=b", **({"mode": mode} if mode else {}))

        assert response.status_code == 302
        assert response["Location"] == "http://testserver/home?a=b"
        assert cookies == {name for name, cookie in response.cookies.items() if cookie.value}
        assert "oauth_flow" in response.cookies
        assert response.cookies["oauth_flow"]["max-age"] == 0

    def test_the_second_login_finds_the_account_of_the_first(self, provider: Provider) -> None:
        add_provider(provider, may_create_users=True)

        first, second = Browser().log_in(provider), Browser().log_in(provider)

        assert first.status_code == second.status_code == 200
        assert get_user_model().objects.count() == OAuthIdentity.objects.count() == 1
        assert RefreshSession.objects.count() == 2

    @pytest.mark.parametrize(
        ("alg", "key"), [("RS256", RSA_KEY), ("PS256", RSA_KEY), ("ES256", EC_KEY), ("EdDSA", ED_KEY)]
    )
    @pytest.mark.parametrize("kid", ["k1", None])
    def test_the_usual_signatures_are_accepted(
        self, alg: str, key: Any, kid: str | None, provider: Provider
    ) -> None:
        add_provider(provider, may_create_users=True)
        provider.alg, provider.key, provider.kid = alg, key, kid
        provider.keys = [jwk(RSA_KEY, kid="other", alg="RS256"), jwk(key, kid=kid, alg=alg)]

        assert Browser().log_in(provider).status_code == 200

    def test_a_new_signing_key_is_fetched(self, provider: Provider) -> None:
        add_provider(provider, may_create_users=True)
        assert Browser().log_in(provider).status_code == 200
        provider.key, provider.alg, provider.kid = EC_KEY, "ES256", "k2"
        provider.keys = [jwk(EC_KEY, kid="k2", alg="ES256")]

        with time_machine.travel(datetime.now(UTC) + timedelta(seconds=10)):
            assert Browser().log_in(provider).status_code == 200

    def test_a_provider_without_userinfo_works(self, provider: Provider) -> None:
        add_provider(provider, may_create_users=True)
        provider.change_discovery = lambda document: {
            name: value for name, value in document.items() if name != "userinfo_endpoint"
        }

        assert Browser().log_in(provider).status_code == 200
        assert "/userinfo" not in provider.calls

    def test_a_form_post_callback_works(self, provider: Provider) -> None:
        add_provider(provider, may_create_users=True)
        browser = Browser()
        parameters = provider.authorize(browser.start()["Location"])
        body = urlencode({**parameters, "user": "{}", "next": "https://evil.example", "redirect": "/evil"})

        posted = Browser().post(
            "/auth/oauth/demo/callback", body, content_type="application/x-www-form-urlencoded"
        )

        assert posted.status_code == 303
        path, _, query = posted["Location"].partition("?")
        assert path == "/auth/oauth/demo/callback"
        assert dict(parse_qsl(query)) == parameters
        assert browser.get(posted["Location"]).status_code == 200

    @pytest.mark.parametrize("method", ["head", "put", "patch", "delete", "options"])
    def test_another_method_does_not_use_up_the_flow(self, method: str, provider: Provider) -> None:
        add_provider(provider, may_create_users=True)
        browser = Browser()
        parameters = provider.authorize(browser.start()["Location"])

        response = getattr(browser.client, method)(f"/auth/oauth/demo/callback?{urlencode(parameters)}")

        assert response.status_code == 405
        assert response["Allow"] == "GET, POST"
        assert not response.cookies
        assert not UsedState.objects.exists()
        assert browser.callback(parameters).status_code == 200

    def test_a_form_post_callback_accepts_forms_only(self, api: Api, provider: Provider) -> None:
        add_provider(provider)

        assert api.post("/auth/oauth/demo/callback", {"code": "x"}).status_code == 415

    @pytest.mark.parametrize("key", ODD_KEYS)
    @pytest.mark.parametrize("way", ["get", "post"])
    def test_a_callback_for_an_invalid_key_is_404(self, way: str, key: str, provider: Provider) -> None:
        add_provider(provider)
        body = {"data": "code=1&state=2", "content_type": "application/x-www-form-urlencoded"}

        response = getattr(Browser().client, way)(
            f"/auth/oauth/{key}/callback", **(body if way == "post" else {})
        )

        assert response.status_code == 404
        assert code_of(response) == "ROUTE_NOT_FOUND"

    def test_a_form_post_callback_keeps_the_script_prefix(self, provider: Provider) -> None:
        add_provider(provider)

        response = Browser().post(
            "/auth/oauth/demo/callback", "code=1&state=2",
            content_type="application/x-www-form-urlencoded", SCRIPT_NAME="/caf\u00c3\u00a9 \r\n?#",
        )  # fmt: skip

        assert response["Location"] == "/caf%C3%A9%20%0D%0A%3F%23/auth/oauth/demo/callback?code=1&state=2"

    def test_a_login_replaces_the_session_of_the_cookie(self, provider: Provider) -> None:
        add_provider(provider, may_create_users=True)
        browser = Browser()

        browser.log_in(provider, redirect="/home")
        browser.log_in(provider, redirect="/home")

        assert RefreshSession.objects.count() == 1

    def test_a_login_without_cookies_replaces_no_session(self, provider: Provider) -> None:
        add_provider(provider, may_create_users=True)
        browser = Browser()

        browser.log_in(provider, redirect="/home")
        browser.log_in(provider)

        assert RefreshSession.objects.count() == 2

    def test_it_works_without_any_middleware(self, provider: Provider, settings: Any) -> None:
        """No Django sessions, no CSRF middleware, no login by cookie: a host that is only an API."""
        settings.MIDDLEWARE = []
        add_provider(provider, may_create_users=True)
        browser = Browser()

        assert browser.log_in(provider, redirect="/home")["Location"] == "http://testserver/home"
        assert Browser().log_in(provider).status_code == 200
        assert browser.get("/auth/sessions").status_code == 200

    def test_a_django_session_in_the_browser_is_ignored(self, provider: Provider) -> None:
        """security.md, row 96."""
        add_provider(provider, may_create_users=True)
        admin = make_user(is_staff=True, is_superuser=True)
        browser = Browser()
        browser.client.force_login(admin, backend="platform_auth.backends.EmailBackend")

        response = browser.log_in(provider)

        assert response.status_code == 200
        assert OAuthIdentity.objects.get().user != admin
        assert RefreshSession.objects.get().user != admin

    def test_an_inactive_user_is_refused(self, provider: Provider) -> None:
        """security.md, row 1."""
        add_provider(provider, may_create_users=True)
        Browser().log_in(provider)
        get_user_model().objects.update(is_active=False)
        RefreshSession.objects.all().delete()

        response = Browser().log_in(provider)

        assert response.status_code == 401
        assert code_of(response) == "INVALID_CREDENTIALS"
        assert not RefreshSession.objects.exists()

    def test_a_refused_consent_goes_to_the_redirect_with_a_reason(self, provider: Provider) -> None:
        """security.md, row 98."""
        add_provider(provider)
        browser = Browser()
        state = provider.authorize(browser.start(redirect="/home?a=b")["Location"])["state"]

        response = browser.callback(
            {
                "state": state,
                "error": "access_denied",
                "error_description": "<script>",
                "iss": provider.issuer,
            }
        )

        assert response.status_code == 302
        assert response["Location"] == "http://testserver/home?a=b&reason=INVALID_CREDENTIALS"
        assert not any(cookie.value for cookie in response.cookies.values())
        assert not provider.calls["/token"]
        assert UsedState.objects.count() == 1

    def test_an_error_together_with_a_code_is_a_refusal(self, provider: Provider) -> None:
        add_provider(provider, may_create_users=True)
        browser = Browser()
        parameters = provider.authorize(browser.start()["Location"])

        response = browser.callback({**parameters, "error": "access_denied"})

        assert response.status_code == 401
        assert not provider.calls["/token"]

    def test_success_and_refusal_are_recorded(self, provider: Provider) -> None:
        """security.md, row 121."""
        add_provider(provider, may_create_users=True)
        Browser().log_in(provider)
        browser = Browser()
        state = provider.authorize(browser.start()["Location"])["state"]
        browser.callback({"state": state, "error": "access_denied", "iss": provider.issuer})

        kinds = list(AuthEvent.objects.order_by("id").values_list("kind", "provider"))

        assert kinds == [
            ("user_created", "demo"),
            ("identity_linked", "demo"),
            ("logged_in", "demo"),
            ("login_failed", "demo"),
        ]


class TestState:
    """security.md, row 85. All of these are refused before the token endpoint is called."""

    @pytest.fixture(autouse=True)
    def _no_call(self, provider: Provider) -> Iterator[None]:
        add_provider(provider, may_create_users=True)
        yield
        assert provider.calls["/token"] <= getattr(self, "expected_calls", 0)

    def _refused(self, response: Any) -> None:
        assert response.status_code == 400
        assert code_of(response) == "INVALID_PAYLOAD"
        assert not any(cookie.value for cookie in response.cookies.values())
        assert not RefreshSession.objects.exists()

    @pytest.mark.parametrize("state", ["", "x", "\u00e9", "x" * 5000, "a\x00b"])
    def test_an_unknown_state_is_refused(self, state: str, provider: Provider) -> None:
        browser = Browser()
        code = provider.authorize(browser.start()["Location"])["code"]

        self._refused(browser.callback({"code": code, "state": state, "iss": provider.issuer}))

    def test_a_missing_state_is_refused(self, provider: Provider) -> None:
        browser = Browser()
        code = provider.authorize(browser.start()["Location"])["code"]

        self._refused(browser.callback({"code": code}))

    def test_a_state_sent_twice_is_refused(self, provider: Provider) -> None:
        browser = Browser()
        parameters = provider.authorize(browser.start()["Location"])

        self._refused(
            browser.get(f"/auth/oauth/demo/callback?{urlencode(parameters)}&state={parameters['state']}")
        )

    def test_another_browsers_state_is_refused(self, provider: Provider) -> None:
        attacker, victim = Browser(), Browser()
        parameters = provider.authorize(attacker.start()["Location"])
        victim.start()

        self._refused(victim.callback(parameters))

    def test_a_browser_without_a_cookie_is_refused(self, provider: Provider) -> None:
        parameters = provider.authorize(Browser().start()["Location"])

        self._refused(Browser().callback(parameters))

    def test_an_altered_cookie_is_refused(self, provider: Provider) -> None:
        browser = Browser()
        parameters = provider.authorize(browser.start()["Location"])
        value = browser.client.cookies["oauth_flow"].value
        browser.client.cookies["oauth_flow"] = value[:-6] + (
            "AAAAA=" if not value.endswith("AAAAA=") else "BBBBB="
        )

        self._refused(browser.callback(parameters))

    @pytest.mark.parametrize("is_first", [True, False])
    def test_two_cookies_with_the_same_name_are_refused(self, is_first: bool, provider: Provider) -> None:
        browser = Browser()
        parameters = provider.authorize(browser.start()["Location"])
        own = browser.client.cookies["oauth_flow"].value
        foreign_browser = Browser()
        foreign_browser.start()
        foreign = foreign_browser.client.cookies["oauth_flow"].value
        pair = (own, foreign) if is_first else (foreign, own)

        response = Browser().get(
            f"/auth/oauth/demo/callback?{urlencode(parameters)}",
            headers={"Cookie": "; ".join(f"oauth_flow={each}" for each in pair)},
        )

        self._refused(response)

    def test_an_expired_state_is_refused(self, provider: Provider) -> None:
        browser = Browser()
        with time_machine.travel("2026-01-01T12:00:00Z", tick=False):
            parameters = provider.authorize(browser.start()["Location"])

        with time_machine.travel("2026-01-01T12:10:02Z", tick=False):
            self._refused(browser.callback(parameters))

    @pytest.mark.parametrize("later", [596, 597, 598, 599, 600, 601])
    def test_an_expired_state_is_refused_however_slow_the_start_was(
        self, later: int, provider: Provider, clock: Any
    ) -> None:
        def slow(document: Any) -> Any:
            clock.shift(4)
            return document

        provider.change_discovery = slow
        browser = Browser()
        parameters = provider.authorize(browser.start()["Location"])
        clock.shift(later - 4)

        response = browser.callback(parameters)

        if later < 600:
            self.expected_calls = 1
            assert response.status_code == 200
        else:
            self._refused(response)

    def test_a_clock_that_goes_back_ends_the_flow(self, provider: Provider) -> None:
        browser = Browser()
        with time_machine.travel("2026-01-01T12:00:00Z", tick=False):
            parameters = provider.authorize(browser.start()["Location"])

        with time_machine.travel("2026-01-01T11:59:59Z", tick=False):
            self._refused(browser.callback(parameters))

    def test_an_old_flow_is_not_kept_alive_by_a_newer_one(self, provider: Provider) -> None:
        browser = Browser()
        with time_machine.travel("2026-01-01T12:00:00Z", tick=False):
            parameters = provider.authorize(browser.start()["Location"])
        with time_machine.travel("2026-01-01T12:09:00Z", tick=False):
            browser.start()

        with time_machine.travel("2026-01-01T12:10:02Z", tick=False):
            response = browser.callback(parameters)
        assert set(response.cookies) == {"oauth_flow"}, "the younger one stays"
        response.cookies.clear()
        self._refused(response)

    def test_another_providers_state_is_refused(self, provider: Provider) -> None:
        """security.md, row 88."""
        add_provider(provider, "twin")
        browser = Browser()
        parameters = provider.authorize(browser.start()["Location"])

        self._refused(browser.callback(parameters, key="twin"))

    def test_changing_where_a_provider_points_ends_its_flows(self, provider: Provider) -> None:
        """security.md, row 88: the code of one server never goes to another."""
        browser = Browser()
        parameters = provider.authorize(browser.start()["Location"])
        row = OAuthProvider.objects.get()
        row.client_id = "another"
        row.save()

        self._refused(browser.callback(parameters))

    def test_a_replayed_callback_is_refused(self, provider: Provider) -> None:
        self.expected_calls = 1
        browser = Browser()
        parameters = provider.authorize(browser.start()["Location"])
        cookie = browser.client.cookies["oauth_flow"].value
        assert browser.callback(parameters).status_code == 200
        RefreshSession.objects.all().delete()
        browser.client.cookies["oauth_flow"] = cookie

        self._refused(browser.callback(parameters))

    def test_two_tabs_each_finish_their_own_flow(self, provider: Provider) -> None:
        self.expected_calls = 2
        browser = Browser()
        first, second = (provider.authorize(browser.start()["Location"]) for _ in range(2))

        assert browser.callback(first).status_code == 200
        assert browser.callback(second).status_code == 200

    def test_a_code_of_another_tabs_flow_fails_at_the_verifier(self, provider: Provider) -> None:
        """security.md, row 86."""
        self.expected_calls = 1
        browser = Browser()
        first, second = (provider.authorize(browser.start()["Location"]) for _ in range(2))

        response = browser.callback({**first, "code": second["code"]})

        assert response.status_code == 401
        assert code_of(response) == "INVALID_CREDENTIALS"


class TestRedirect:
    def test_is_checked_again_at_the_callback(self, provider: Provider, configure: Any) -> None:
        """security.md, row 81."""
        configure(OAUTH_REDIRECT_ALLOW_LIST=["https://spa.example/done"])
        add_provider(provider, may_create_users=True)
        browser = Browser()
        parameters = provider.authorize(browser.start(redirect="https://spa.example/done")["Location"])
        configure(OAUTH_REDIRECT_ALLOW_LIST=[])

        for response in (browser.callback(parameters),):
            assert response.status_code == 400
            assert code_of(response) == "INVALID_PAYLOAD"
        assert not provider.calls["/token"]
        assert not RefreshSession.objects.exists()

    def test_is_checked_again_after_a_refusal(self, provider: Provider, configure: Any) -> None:
        """security.md, row 81."""
        configure(OAUTH_REDIRECT_ALLOW_LIST=["https://spa.example/done"])
        add_provider(provider)
        browser = Browser()
        parameters = provider.authorize(browser.start(redirect="https://spa.example/done")["Location"])
        configure(OAUTH_REDIRECT_ALLOW_LIST=[])

        response = browser.callback({"state": parameters["state"], "error": "access_denied"})

        assert response.status_code == 400
        assert "Location" not in response

    @pytest.mark.parametrize("length", [2031, 2047, 2048])
    def test_a_redirect_accepted_at_the_start_is_accepted_at_the_callback(
        self, length: int, provider: Provider
    ) -> None:
        """The limit applies to what was given, not to the longer URL with the site's origin."""
        add_provider(provider, may_create_users=True)
        path = "/" + "x" * (length - 1)

        assert Browser().log_in(provider, redirect=path)["Location"] == f"http://testserver{path}"

    def test_a_longer_redirect_starts_nothing(self, provider: Provider) -> None:
        add_provider(provider)

        assert Browser().get("/auth/oauth/demo", {"redirect": "/" + "x" * 2048}).status_code == 400

    def test_a_listed_url_is_accepted(self, provider: Provider, configure: Any) -> None:
        """security.md, row 79."""
        url = "https://spa.example/done?from=login"
        configure(OAUTH_REDIRECT_ALLOW_LIST=[url])
        add_provider(provider, may_create_users=True)

        assert Browser().log_in(provider, redirect=url)["Location"] == url

    @pytest.mark.parametrize(
        "name", ["next", "redirect", "redirect_uri", "RelayState", "continue", "reset_url"]
    )
    @pytest.mark.parametrize("start", [{}, {"redirect": "/home"}])
    def test_parameters_of_the_callback_do_not_choose_it(
        self, name: str, start: dict[str, str], provider: Provider
    ) -> None:
        """security.md, row 81."""
        add_provider(provider, may_create_users=True)
        browser = Browser()
        parameters = provider.authorize(browser.start(**start)["Location"])

        response = browser.callback({**parameters, name: "https://evil.example/"})

        assert response.status_code == (302 if start else 200)
        assert response.get("Location") == ("http://testserver/home" if start else None)
        assert b"evil" not in response.content


class TestFailure:
    """As in the contract, a failure goes to the flow's redirect, if this browser knows the flow."""

    @pytest.fixture
    def row(self, provider: Provider) -> OAuthProvider:
        return add_provider(provider, may_create_users=True)

    @pytest.fixture
    def browser(self, row: OAuthProvider) -> Browser:
        return Browser()

    @pytest.fixture
    def parameters(self, browser: Browser, provider: Provider) -> dict[str, str]:
        return provider.authorize(browser.start(redirect="/home?a=b")["Location"])

    def _failed(self, response: Any, code: str) -> None:
        assert response.status_code == 302, response.content
        assert response["Location"] == f"http://testserver/home?a=b&reason={code}"
        assert not any(cookie.value for cookie in response.cookies.values())

    @pytest.mark.parametrize("query", ["update", "delete"])
    def test_of_a_deleted_provider(
        self, query: str, browser: Browser, parameters: dict[str, str], provider: Provider
    ) -> None:
        rows = OAuthProvider.objects.all()
        rows.delete() if query == "delete" else rows.update(enabled=False)

        self._failed(browser.callback(parameters), "ROUTE_NOT_FOUND")

        assert not provider.calls["/token"]
        assert AuthEvent.objects.get().reason == "route_not_found"

    def test_of_a_deleted_provider_without_redirect_answers_json(
        self, browser: Browser, row: OAuthProvider, provider: Provider
    ) -> None:
        parameters = provider.authorize(browser.start()["Location"])
        row.delete()

        response = browser.callback(parameters)

        assert response.status_code == 404
        assert code_of(response) == "ROUTE_NOT_FOUND"

    def test_of_a_provider_that_points_elsewhere(
        self, browser: Browser, parameters: dict[str, str], row: OAuthProvider, provider: Provider
    ) -> None:
        row.client_id = "another"
        row.save()

        self._failed(browser.callback(parameters), "INVALID_PAYLOAD")

        assert not provider.calls["/token"]

    def test_of_another_provider_that_took_the_key(
        self, browser: Browser, parameters: dict[str, str], row: OAuthProvider, provider: Provider
    ) -> None:
        row.delete()
        add_provider(provider, may_create_users=True)

        self._failed(browser.callback(parameters), "INVALID_PAYLOAD")

        assert not provider.calls["/token"]

    def test_at_another_providers_callback(
        self, browser: Browser, parameters: dict[str, str], provider: Provider
    ) -> None:
        """security.md, row 88. The flow ends with it."""
        add_provider(provider, "twin", may_create_users=True)

        self._failed(browser.callback(parameters, key="twin"), "INVALID_PAYLOAD")

        assert browser.callback(parameters).status_code == 400
        assert not provider.calls["/token"]
        assert not RefreshSession.objects.exists()

    @pytest.mark.parametrize("key", ["nobody", *ODD_KEYS])
    def test_at_the_callback_of_no_provider(
        self, key: str, browser: Browser, parameters: dict[str, str], provider: Provider
    ) -> None:
        self._failed(browser.callback(parameters, key=key), "ROUTE_NOT_FOUND")

        assert not provider.calls["/token"]

    def test_with_a_used_state(
        self, browser: Browser, parameters: dict[str, str], provider: Provider
    ) -> None:
        copy = Browser()
        copy.client.cookies["oauth_flow"] = browser.client.cookies["oauth_flow"].value
        assert browser.callback(parameters)["Location"] == "http://testserver/home?a=b"

        self._failed(copy.callback(parameters), "INVALID_PAYLOAD")

        assert provider.calls["/token"] == 1
        assert RefreshSession.objects.count() == 1

    def test_with_an_expired_state_next_to_a_newer_one(
        self, browser: Browser, row: OAuthProvider, provider: Provider
    ) -> None:
        with time_machine.travel("2026-01-01T12:00:00Z", tick=False):
            old = provider.authorize(browser.start(redirect="/home?a=b")["Location"])
        with time_machine.travel("2026-01-01T12:09:00Z", tick=False):
            young = provider.authorize(browser.start()["Location"])

        with time_machine.travel("2026-01-01T12:10:02Z", tick=False):
            response = browser.callback(old)
            assert response["Location"] == "http://testserver/home?a=b&reason=INVALID_PAYLOAD"
            assert not provider.calls["/token"]
            assert browser.callback(young).status_code == 200

    @pytest.mark.parametrize(("key", "status"), [("demo", 400), ("off", 404), ("nobody", 404)])
    def test_without_a_known_flow_answers_json(
        self, key: str, status: int, parameters: dict[str, str], provider: Provider
    ) -> None:
        add_provider(provider, "off", enabled=False)

        response = Browser().callback(parameters, key=key)

        assert response.status_code == status
        assert code_of(response) == {400: "INVALID_PAYLOAD", 404: "ROUTE_NOT_FOUND"}[status]
        assert not response.cookies


class TestAccounts:
    """security.md, rows 93 to 97."""

    def _refused(self, response: Any, *, users: int) -> None:
        assert response.status_code == 403
        assert code_of(response) == "INVALID_PROVIDER"
        assert not OAuthIdentity.objects.exists()
        assert not RefreshSession.objects.exists()
        assert get_user_model().objects.count() == users

    def test_creation_is_off_by_default(self, provider: Provider) -> None:
        add_provider(provider)

        self._refused(Browser().log_in(provider), users=0)

    def test_a_new_user_gets_the_providers_groups(self, provider: Provider) -> None:
        add_provider(provider, may_create_users=True).groups.add(
            Group.objects.create(name="staff of a customer")
        )
        provider.claims |= {"groups": ["admins"], "is_superuser": True, "role": "admin"}
        Group.objects.create(name="admins")

        assert Browser().log_in(provider).status_code == 200

        user = get_user_model().objects.get()
        assert [group.name for group in user.groups.all()] == ["staff of a customer"]

    @pytest.mark.parametrize(
        "email",
        [
            None,
            "",
            "no address",
            5,
            ["a@example.com"],
            "a" * 250 + "@example.com",
            "\uff41@example.com",
            "\u212aelvin@example.com",
        ],
    )
    def test_without_a_usable_address_no_account_is_created(self, email: Any, provider: Provider) -> None:
        add_provider(provider, may_create_users=True)
        provider.claims |= {"email": email}

        self._refused(Browser().log_in(provider), users=0)

    def test_an_address_too_long_for_the_user_model_creates_no_account(
        self, provider: Provider, monkeypatch: Any
    ) -> None:
        add_provider(provider, may_create_users=True)
        model = get_user_model()
        monkeypatch.setattr(model._meta.get_field(model.get_email_field_name()), "max_length", 17)

        self._refused(Browser().log_in(provider), users=0)

    @pytest.mark.parametrize("error", [DataError("value too long"), ValidationError({"phone": "required"})])
    @pytest.mark.parametrize("start", [{}, {"redirect": "/home"}])
    def test_an_address_that_the_host_refuses_creates_no_account(
        self, start: dict[str, str], error: Exception, provider: Provider
    ) -> None:
        """A user model of the host's with its own rule."""
        add_provider(provider, may_create_users=True)

        def refuse(**kwargs: Any) -> None:
            raise error

        post_save.connect(refuse, sender=get_user_model())
        try:
            response = Browser().log_in(provider, **start)
        finally:
            post_save.disconnect(refuse, sender=get_user_model())

        if start:
            assert response["Location"] == "http://testserver/home?reason=INVALID_PROVIDER"
        else:
            self._refused(response, users=0)
        assert not get_user_model().objects.exists()
        assert type(error).__name__ in AuthEvent.objects.get().reason

    def test_linking_is_off_by_default(self, provider: Provider) -> None:
        add_provider(provider, may_create_users=True)
        make_user("person@example.com")

        self._refused(Browser().log_in(provider), users=1)

    @pytest.mark.parametrize("verified", [False, None, "true", "false", 1, "yes", [True], {"a": 1}])
    @pytest.mark.parametrize("linking", ["proven", "unproven"])
    def test_an_unverified_address_links_nothing(
        self, verified: Any, linking: str, provider: Provider
    ) -> None:
        add_provider(provider, may_create_users=True, email_linking=linking)
        user = make_user("person@example.com")
        provider.claims |= {"email_verified": verified}

        self._refused(Browser().log_in(provider), users=1)
        user.refresh_from_db()
        assert user.check_password(PASSWORD)

    def test_a_missing_verified_claim_links_nothing(self, provider: Provider) -> None:
        add_provider(provider, may_create_users=True, email_linking="proven")
        make_user("person@example.com")
        del provider.claims["email_verified"]

        self._refused(Browser().log_in(provider), users=1)

    def test_a_proven_address_links_and_removes_nothing(self, provider: Provider, api: Api) -> None:
        add_provider(provider, email_linking="proven")
        user = make_user("Person@Example.com")
        api.login(user.email)

        response = Browser().log_in(provider)

        assert response.status_code == 200
        user.refresh_from_db()
        assert user.check_password(PASSWORD)
        assert OAuthIdentity.objects.get().user == user
        assert RefreshSession.objects.filter(user=user).count() == 2
        (notice,) = mail.outbox
        assert notice.to == [user.email]
        assert notice.subject.startswith(str(messages.NOTICES["identity_linked"][0]))

    def test_an_unproven_address_removes_password_and_sessions(self, provider: Provider, api: Api) -> None:
        """security.md, row 95."""
        add_provider(provider, email_linking="unproven")
        user = make_user("person@example.com")
        api.login(user.email)

        response = Browser().log_in(provider)

        assert response.status_code == 200
        user.refresh_from_db()
        assert not user.has_usable_password()
        assert RefreshSession.objects.get(user=user).provider == "demo"
        assert api.refresh().status_code == 401
        assert api.get("/auth/sessions").status_code == 401
        (notice,) = mail.outbox
        assert notice.to == [user.email]
        headline, text = messages.NOTICES["account_claimed"]
        assert notice.subject.startswith(str(headline))
        assert str(text) in " ".join(notice.body.split())

    def test_an_account_is_emptied_only_once(self, provider: Provider) -> None:
        """The owner of the address has proven it, so two such providers don't empty the account again and again."""
        for key in ("a", "b"):
            add_provider(provider, key, email_linking="unproven")
        user = make_user("Person@Example.com")
        Browser().log_in(provider, key="a")
        user.refresh_from_db()
        user.set_password(PASSWORD)
        user.save()

        for key in ("b", "a", "b"):
            assert Browser().log_in(provider, key=key).status_code == 200

        user.refresh_from_db()
        assert user.check_password(PASSWORD)
        assert OAuthIdentity.objects.filter(user=user).count() == 2
        assert RefreshSession.objects.filter(user=user).count() == 3
        claimed, linked = mail.outbox
        assert claimed.subject.startswith(str(messages.NOTICES["account_claimed"][0]))
        assert linked.subject.startswith(str(messages.NOTICES["identity_linked"][0]))

    @pytest.mark.parametrize("linking", ["proven", "unproven"])
    def test_an_untrusted_provider_proves_no_address(self, linking: str, provider: Provider) -> None:
        """security.md, rows 94, 95: an untrusted provider says that the victim's address is verified, for an account
        of the attacker's.
        """
        add_provider(provider, "careless", may_create_users=True)
        provider.claims = {"sub": "attacker", "email": "person@example.com", "email_verified": True}
        attacker = Browser().log_in(provider, key="careless").json()["data"]
        api = Api()
        api.access_token = attacker["access_token"]
        assert api.post("/auth/password/change", {"password": "an attacker's own 1"}).status_code == 204
        add_provider(provider, "careful", email_linking=linking)
        provider.claims |= {"sub": "victim"}

        assert Browser().log_in(provider, key="careful").status_code == 200

        assert api.get("/api/whoami").status_code == 401
        assert [identity.subject for identity in OAuthIdentity.objects.all()] == ["victim"]
        assert not get_user_model().objects.get().has_usable_password()

    def test_an_account_created_with_a_verified_address_is_proven(self, provider: Provider) -> None:
        add_provider(provider, "a", may_create_users=True, email_linking="proven")
        add_provider(provider, "b", email_linking="unproven")
        Browser().log_in(provider, key="a")

        assert Browser().log_in(provider, key="b").status_code == 200

        assert OAuthIdentity.objects.count() == RefreshSession.objects.count() == 2

    def test_a_changed_address_must_be_proven_again(self, provider: Provider) -> None:
        """The user typed the new address, which may belong to somebody else."""
        add_provider(provider, "a", may_create_users=True)
        add_provider(provider, "b", email_linking="unproven")
        provider.claims |= {"sub": "attacker"}
        Browser().log_in(provider, key="a")
        get_user_model().objects.update(email="victim@example.com")
        provider.claims |= {"sub": "victim", "email": "victim@example.com"}

        assert Browser().log_in(provider, key="b").status_code == 200

        assert [identity.subject for identity in OAuthIdentity.objects.all()] == ["victim"]
        assert [session.provider for session in RefreshSession.objects.all()] == ["b"]

    def test_linking_while_signed_in_proves_no_address(
        self, signed_in: Api, user: Any, provider: Provider
    ) -> None:
        """Somebody who opened an account with another person's address can link any provider account."""
        add_provider(provider)
        add_provider(provider, "b", email_linking="unproven")
        provider.claims |= {"email": user.email}
        url = signed_in.post("/auth/oauth/demo/link", {}).json()["data"]["url"]
        assert signed_in.get("/auth/oauth/demo/callback", data=provider.authorize(url)).status_code == 204

        assert Browser().log_in(provider, key="b").status_code == 200

        assert [identity.provider.key for identity in OAuthIdentity.objects.all()] == ["b"]
        user.refresh_from_db()
        assert not user.has_usable_password()

    @pytest.mark.parametrize("linking", ["proven", "unproven"])
    def test_an_account_created_with_an_unverified_address_is_emptied_first(
        self, linking: str, provider: Provider
    ) -> None:
        """security.md, row 95: an attacker registers with the victim's address at a provider that verifies none."""
        add_provider(provider, "careless", may_create_users=True)
        provider.claims = {"sub": "attacker", "email": "person@example.com"}
        attacker = Browser()
        assert attacker.log_in(provider, key="careless").status_code == 200
        add_provider(provider, "careful", email_linking=linking)
        provider.claims = {"sub": "victim", "email": "person@example.com", "email_verified": True}

        assert Browser().log_in(provider, key="careful").status_code == 200

        assert [identity.subject for identity in OAuthIdentity.objects.all()] == ["victim"]
        assert [session.provider for session in RefreshSession.objects.all()] == ["careful"]
        provider.claims = {"sub": "attacker", "email": "person@example.com"}
        assert code_of(attacker.log_in(provider, key="careless")) == "INVALID_PROVIDER"

    def test_accounts_linked_later_by_the_opener_are_removed_too(self, provider: Provider) -> None:
        """security.md, row 95: an account that the attacker linked while signed in would stay a way to log in."""
        add_provider(provider, email_linking="unproven")
        other = OAuthProvider.objects.create(
            key="other", label="Other", kind="github", client_id="x", enabled=True
        )
        user = make_user("person@example.com")
        OAuthIdentity.objects.create(user=user, provider=other, subject="attacker")

        assert Browser().log_in(provider).status_code == 200

        assert [identity.provider.key for identity in OAuthIdentity.objects.filter(user=user)] == ["demo"]

    @pytest.mark.parametrize("linking", ["proven", "unproven"])
    def test_an_account_whose_address_changed_meanwhile_is_not_linked(
        self, linking: str, provider: Provider
    ) -> None:
        add_provider(provider, email_linking=linking)
        user = make_user("person@example.com")
        seen: list[str] = []

        def move(execute: Any, sql: str, *args: Any) -> Any:
            # To somebody else's address, between the lookup and the transaction that links.
            if "LOWER(" in sql:
                seen.append("looked up")
            elif sql.startswith("SAVEPOINT") and seen and "moved" not in seen:
                seen.append("moved")
                type(user).objects.filter(pk=user.pk).update(email="moved@example.com")
            return execute(sql, *args)

        with connection.execute_wrapper(move):
            response = Browser().log_in(provider)

        assert "moved" in seen
        self._refused(response, users=1)
        user.refresh_from_db()
        assert user.check_password(PASSWORD)
        assert not mail.outbox

    def test_an_inactive_account_is_not_linked(self, provider: Provider) -> None:
        add_provider(provider, email_linking="proven")
        make_user("person@example.com", is_active=False)

        response = Browser().log_in(provider)

        assert response.status_code == 401
        assert code_of(response) == "INVALID_CREDENTIALS"
        assert not OAuthIdentity.objects.exists()

    @pytest.mark.parametrize(
        ("email", "verified"),
        [
            ("a@evil.example", True),
            ("a@sub.corp.example", True),
            ("a@corp.example.evil.example", True),
            ("a@notcorp.example", True),
            ("corp.example@evil.example", True),
            ('"a@corp.example"@evil.example', True),
            ("a@corp.example", False),
        ],
    )
    def test_allowed_domains_are_exact_and_verified(
        self, email: str, verified: bool, provider: Provider
    ) -> None:
        add_provider(provider, may_create_users=True, allowed_domains="corp.example other.example")
        provider.claims |= {"email": email, "email_verified": verified}

        self._refused(Browser().log_in(provider), users=0)

    def test_an_allowed_domain_matches_in_any_case(self, provider: Provider) -> None:
        add_provider(provider, may_create_users=True, allowed_domains="corp.example other.example")
        provider.claims |= {"email": "a@Corp.Example"}

        assert Browser().log_in(provider).status_code == 200

    def test_the_same_subject_at_two_providers_is_two_people(self, provider: Provider) -> None:
        """security.md, row 93."""
        add_provider(provider, "first", may_create_users=True)
        add_provider(provider, "second", may_create_users=True)
        provider.claims = {"sub": "1", "email": "first@example.com", "email_verified": True}
        Browser().log_in(provider, key="first")
        provider.claims = {"sub": "1", "email": "second@example.com", "email_verified": True}

        assert Browser().log_in(provider, key="second").status_code == 200
        assert OAuthIdentity.objects.values("user").distinct().count() == 2

    def test_subjects_are_case_sensitive(self, provider: Provider) -> None:
        """security.md, row 93."""
        add_provider(provider, may_create_users=True)
        for subject in ("Abc", "abc", "abc "):
            provider.claims = {"sub": subject, "email": f"{subject.strip()}{len(subject)}x@example.com"}
            provider.claims["email"] = {"Abc": "one", "abc": "two", "abc ": "three"}[subject] + "@example.com"
            assert Browser().log_in(provider).status_code == 200

        assert OAuthIdentity.objects.values("user").distinct().count() == 3

    def test_an_identity_survives_a_changed_address_and_key(self, provider: Provider) -> None:
        """security.md, row 93."""
        row = add_provider(provider, may_create_users=True)
        Browser().log_in(provider)
        row.key = "renamed"
        row.save()
        provider.claims |= {"email": "moved@example.com"}

        assert Browser().log_in(provider, key="renamed").status_code == 200

        assert OAuthIdentity.objects.get().email == "moved@example.com"
        assert get_user_model().objects.get().email == "person@example.com"

    def test_a_reused_key_inherits_no_identity(self, provider: Provider) -> None:
        add_provider(provider, may_create_users=True)
        Browser().log_in(provider)
        OAuthProvider.objects.update(key="old")
        add_provider(provider, "demo")

        assert code_of(Browser().log_in(provider)) == "INVALID_PROVIDER"


class TestLink:
    def _begin(self, api: Api, **fields: str) -> str:
        response = api.post("/auth/oauth/demo/link", fields)
        assert response.status_code == 200, response.content
        assert set(response.json()) == {"data"}
        assert set(response.json()["data"]) == {"url"}
        assert response.cookies["oauth_flow"]["samesite"] == "Lax"
        return str(response.json()["data"]["url"])

    def test_links_without_logging_in(self, signed_in: Api, user: Any, provider: Provider) -> None:
        add_provider(provider)
        parameters = provider.authorize(self._begin(signed_in))

        response = signed_in.get("/auth/oauth/demo/callback", data=parameters)

        assert response.status_code == 204
        assert "Content-Type" not in response
        assert OAuthIdentity.objects.get().user == user
        assert RefreshSession.objects.count() == 1
        assert len(mail.outbox) == 1

    def test_with_a_redirect_the_browser_goes_there(self, signed_in: Api, provider: Provider) -> None:
        add_provider(provider)
        parameters = provider.authorize(self._begin(signed_in, redirect="/settings"))

        response = signed_in.get("/auth/oauth/demo/callback", data=parameters)

        assert response.status_code == 302
        assert response["Location"] == "http://testserver/settings"
        assert not any(cookie.value for cookie in response.cookies.values())

    def test_needs_an_access_token(self, api: Api, provider: Provider) -> None:
        add_provider(provider)

        response = api.post("/auth/oauth/demo/link")

        assert response.status_code == 401
        assert code_of(response) == "INVALID_CREDENTIALS"

    def test_cannot_be_started_from_another_origin(self, signed_in: Api, provider: Provider) -> None:
        add_provider(provider)

        response = signed_in.post("/auth/oauth/demo/link", {}, headers={"Origin": "https://evil.example"})

        assert response.status_code == 403
        assert not response.cookies

    def test_an_ended_session_links_nothing(self, signed_in: Api, user: Any, provider: Provider) -> None:
        add_provider(provider)
        parameters = provider.authorize(self._begin(signed_in))
        sessions.revoke_all(user)

        response = signed_in.client.get("/auth/oauth/demo/callback", parameters)

        assert response.status_code == 401
        assert code_of(response) == "INVALID_CREDENTIALS"
        assert not OAuthIdentity.objects.exists()

    def test_a_deactivated_user_links_nothing(self, signed_in: Api, user: Any, provider: Provider) -> None:
        add_provider(provider)
        parameters = provider.authorize(self._begin(signed_in))
        type(user).objects.update(is_active=False)

        response = signed_in.client.get("/auth/oauth/demo/callback", parameters)

        assert response.status_code == 401
        assert not OAuthIdentity.objects.exists()

    def test_a_provider_account_of_another_user_is_refused(self, signed_in: Api, provider: Provider) -> None:
        add_provider(provider, may_create_users=True)
        Browser().log_in(provider)
        parameters = provider.authorize(self._begin(signed_in))

        response = signed_in.get("/auth/oauth/demo/callback", data=parameters)

        assert response.status_code == 403
        assert code_of(response) == "INVALID_PROVIDER"
        assert OAuthIdentity.objects.count() == 1

    @pytest.mark.parametrize(
        ("domains", "verified", "status"),
        [("corp.example", True, 403), ("example.com", False, 403), ("example.com", True, 204)],
    )
    def test_an_account_outside_the_allowed_domains_is_not_linked(
        self, domains: str, verified: bool, status: int, signed_in: Api, provider: Provider
    ) -> None:
        """It could never be used to log in, but would count as a sign-in method."""
        add_provider(provider, allowed_domains=domains)
        provider.claims |= {"email_verified": verified}
        parameters = provider.authorize(self._begin(signed_in))

        response = signed_in.get("/auth/oauth/demo/callback", data=parameters)

        assert response.status_code == status
        assert OAuthIdentity.objects.count() == (status == 204)

    def test_linking_the_same_again_changes_nothing(self, signed_in: Api, provider: Provider) -> None:
        add_provider(provider)
        for _ in range(2):
            parameters = provider.authorize(self._begin(signed_in))
            assert signed_in.get("/auth/oauth/demo/callback", data=parameters).status_code == 204

        assert OAuthIdentity.objects.count() == 1

    def test_another_browser_cannot_finish_it(self, signed_in: Api, provider: Provider) -> None:
        """security.md, row 96: an attacker's link can't be finished in a victim's browser."""
        add_provider(provider)
        parameters = provider.authorize(self._begin(signed_in))

        response = Browser().callback(parameters)

        assert response.status_code == 400
        assert not OAuthIdentity.objects.exists()


class TestIdentities:
    def test_lists_and_unlinks(self, signed_in: Api, user: Any, provider: Provider) -> None:
        row = add_provider(provider, label="Demo ID")
        identity = OAuthIdentity.objects.create(user=user, provider=row, subject="1", email="p@example.com")

        (listed,) = signed_in.get("/auth/identities").json()["data"]

        assert listed == {
            "id": str(identity.pk),
            "provider": "demo",
            "label": "Demo ID",
            "email": "p@example.com",
            "created_at": listed["created_at"],
            "last_used_at": None,
        }
        assert listed["created_at"].endswith("Z")
        response = signed_in.delete(f"/auth/identities/{identity.pk}")
        assert response.status_code == 204
        assert not OAuthIdentity.objects.exists()

    @pytest.mark.parametrize("identity_id", ["0", "x", "999999", "9" * 30, "\u0663", "-1", "1.0"])
    def test_an_unknown_id_is_404(self, identity_id: str, signed_in: Api, provider: Provider) -> None:
        response = signed_in.delete(f"/auth/identities/{identity_id}")

        assert response.status_code == 404
        assert code_of(response) == "ROUTE_NOT_FOUND"

    def test_another_users_identity_is_404(self, signed_in: Api, provider: Provider) -> None:
        other = OAuthIdentity.objects.create(user=make_user(), provider=add_provider(provider), subject="1")

        assert signed_in.delete(f"/auth/identities/{other.pk}").status_code == 404
        assert OAuthIdentity.objects.count() == 1

    def test_the_only_sign_in_method_stays(self, provider: Provider) -> None:
        add_provider(provider, may_create_users=True)
        api = Api()
        api.access_token = Browser().log_in(provider).json()["data"]["access_token"]
        identity = OAuthIdentity.objects.get()

        response = api.delete(f"/auth/identities/{identity.pk}")

        assert response.status_code == 400
        assert code_of(response) == "INVALID_PAYLOAD"
        assert OAuthIdentity.objects.count() == 1

    @pytest.mark.parametrize(("enabled", "status"), [(True, 204), (False, 400)])
    def test_a_disabled_provider_does_not_count(self, enabled: bool, status: int, provider: Provider) -> None:
        add_provider(provider, may_create_users=True)
        api = Api()
        api.access_token = Browser().log_in(provider).json()["data"]["access_token"]
        first = OAuthIdentity.objects.get()
        OAuthIdentity.objects.create(
            user=first.user, provider=add_provider(provider, "other", enabled=enabled), subject="1"
        )

        assert api.delete(f"/auth/identities/{first.pk}").status_code == status

    def test_a_password_does_not_count_if_password_login_is_off(
        self, signed_in: Api, user: Any, provider: Provider, configure: Any
    ) -> None:
        identity = OAuthIdentity.objects.create(user=user, provider=add_provider(provider), subject="1")
        configure(PASSWORD_LOGIN=False)

        assert signed_in.delete(f"/auth/identities/{identity.pk}").status_code == 400


class TestReplica:
    """security.md, row 89: disabled providers and unlinked identities are read from the primary database."""

    def test_providers_and_identities_are_never_read_from_it(
        self, signed_in: Api, user: Any, provider: Provider, settings: Any
    ) -> None:
        row = add_provider(provider)
        identity = OAuthIdentity.objects.create(
            user=user, provider=row, issuer=provider.issuer, subject="subject-1"
        )
        settings.DATABASE_ROUTERS = ["tests.sessions.test_refresh.Replica"]

        assert signed_in.get("/auth/oauth").json()["data"] == ["demo"]
        assert Browser().log_in(provider).status_code == 200
        assert len(signed_in.get("/auth/identities").json()["data"]) == 1
        assert signed_in.delete(f"/auth/identities/{identity.pk}").status_code == 204


class TestSecrecy:
    """security.md, rows 102, 120 and 122."""

    def test_no_secret_is_stored_logged_or_dumped(
        self, provider: Provider, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level("DEBUG")
        add_provider(provider, may_create_users=True)
        browser = Browser()
        response = browser.log_in(provider)
        assert response.status_code == 200
        provider.sign = lambda claims: "not.a.token"
        assert browser.log_in(provider).status_code == 401
        parameters = provider.authorize(browser.start()["Location"])
        browser.callback({"state": parameters["state"], "error": "access_denied", "iss": provider.issuer})
        hidden = [CLIENT_SECRET, *provider.secrets_issued]

        dump = StringIO()
        call_command("dumpdata", stdout=dump)
        stored = ""
        with connection.cursor() as cursor:
            for table in connection.introspection.table_names(cursor):
                cursor.execute(f"SELECT * FROM {connection.ops.quote_name(table)}")
                stored += repr(cursor.fetchall())
        logged = "\n".join(f"{record.getMessage()} {vars(record)}" for record in caplog.records)

        assert len(hidden) > 10
        for secret in hidden:
            assert secret not in stored
            assert secret not in dump.getvalue()
            assert secret not in logged

    @pytest.mark.parametrize("name", ["RAW_URI", "REQUEST_URI"])
    def test_an_error_report_of_the_callback_contains_neither_code_nor_state(
        self, name: str, provider: Provider
    ) -> None:
        """The report that Django and error trackers make: request line, query, and our stack frames."""
        add_provider(provider, may_create_users=True)
        browser = Browser()
        browser.client.raise_request_exception = False
        parameters = provider.authorize(browser.start()["Location"])
        line = f"/auth/oauth/demo/callback?{urlencode(parameters)}"
        reports: list[str] = []

        def fail(**kwargs: Any) -> None:
            raise RuntimeError("the host's bug")

        def report(request: Any, **kwargs: Any) -> None:
            error = sys.exc_info()
            reports.append(ExceptionReporter(request, *error).get_traceback_text() + repr(request))

        post_save.connect(fail, sender=get_user_model())
        got_request_exception.connect(report)
        try:
            response = browser.get(line, **{name: line})
        finally:
            post_save.disconnect(fail, sender=get_user_model())
            got_request_exception.disconnect(report)

        assert response.status_code == 500
        (text,) = reports
        assert f"{name} = '/auth/oauth/demo/callback'" in text
        for secret in (parameters["code"], parameters["state"], *provider.secrets_issued):
            assert secret not in text
