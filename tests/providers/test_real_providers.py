"""Complete logins with providers that we didn't write: oidc-provider-mock, the certified oidc-provider, and a
browser.
"""

from __future__ import annotations

import html
import logging
import os
import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urljoin, urlsplit

import oidc_provider_mock
import pytest
import requests
from django.contrib.auth import get_user_model

from platform_auth.models import OAuthIdentity, OAuthProvider, RefreshSession
from tests import chromium, node_packages
from tests.conftest import code_of
from tests.flows import Browser

SECRET = "a secret: with / signs + of its own %"

# authlib, which oidc-provider-mock uses, uses its own deprecated functions in a thread of this process.
pytestmark = [pytest.mark.django_db, pytest.mark.filterwarnings("ignore::DeprecationWarning")]


def save(issuer: str, **fields: Any) -> OAuthProvider:
    row = OAuthProvider(
        **{
            "key": "demo",
            "label": "Demo ID",
            "kind": "oidc",
            "client_id": "the client: 1",
            "client_secret": SECRET,
            "issuer": issuer,
            "enabled": True,
            "may_create_users": True,
            "email_linking": "proven",
            **fields,
        }
    )
    row.save()
    return row


@pytest.fixture(autouse=True)
def _local_providers(settings: Any, configure: Any) -> None:
    settings.DEBUG = True
    configure(OAUTH_PRIVATE_HOSTS=["127.0.0.1", "localhost"])


@pytest.fixture
def mock() -> Iterator[str]:
    """Return the issuer of an oidc-provider-mock."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    users = [
        oidc_provider_mock.User(sub="alice", claims={"email": "alice@example.com", "email_verified": True})
    ]
    with oidc_provider_mock.run_server_in_thread(user_claims=users, require_nonce=True) as server:
        yield f"http://localhost:{server.server_port}"


class TestOidcProviderMock:
    def _consent(self, location: str, *, sub: str = "alice", deny: bool = False) -> dict[str, str]:
        """Submit the provider's form; return the parameters of the callback that it redirects to."""
        form = {"action": "deny"} if deny else {"sub": sub}
        response = requests.post(location, data=form, allow_redirects=False)
        assert response.status_code in (302, 303), response.text
        return dict(parse_qsl(urlsplit(response.headers["Location"]).query))

    def test_logs_in(self, mock: str) -> None:
        save(mock)
        browser = Browser()

        response = browser.callback(self._consent(browser.start()["Location"]))

        assert response.status_code == 200, response.content
        assert set(response.json()["data"]) == {"access_token", "expires", "refresh_token"}
        identity = OAuthIdentity.objects.get()
        assert (identity.subject, identity.issuer) == ("alice", mock)
        assert get_user_model().objects.get().email == "alice@example.com"

    def test_logs_in_with_a_redirect(self, mock: str) -> None:
        save(mock)
        browser = Browser()

        response = browser.callback(self._consent(browser.start(redirect="/home", mode="cookie")["Location"]))

        assert response.status_code == 302
        assert response["Location"] == "http://testserver/home"
        assert response.cookies["refresh_token"].value

    def test_a_denied_consent_is_a_refusal(self, mock: str) -> None:
        save(mock)
        browser = Browser()
        asked = dict(parse_qsl(urlsplit(browser.start()["Location"]).query))
        started = browser.start()["Location"]
        answered = self._consent(started, deny=True)
        answered.setdefault("state", dict(parse_qsl(urlsplit(started).query))["state"])

        response = browser.callback(answered)

        assert asked["state"] != answered["state"]
        assert response.status_code == 401
        assert code_of(response) == "INVALID_CREDENTIALS"

    def test_a_replayed_code_is_refused(self, mock: str) -> None:
        save(mock)
        browser = Browser()
        answered = self._consent(browser.start()["Location"])
        assert browser.callback(answered).status_code == 200
        other = dict(parse_qsl(urlsplit(browser.start()["Location"]).query))

        response = browser.callback({**answered, "state": other["state"]})

        assert response.status_code == 401
        assert RefreshSession.objects.count() == 1


@pytest.fixture(scope="session")
def node_modules() -> Path:
    """Return the folder where the npm oidc-provider can be run."""
    if reason := node_packages.missing():
        pytest.skip(reason)
    return node_packages.install(Path(__file__).parent.parent / "node" / "oidc-provider")


@pytest.fixture
def certified(node_modules: Path) -> Iterator[Callable[..., str]]:
    """Return a function that starts the npm oidc-provider for a redirect URI and returns its issuer."""
    running: list[subprocess.Popen[str]] = []

    def start(redirect_uri: str = "http://testserver/auth/oauth/demo/callback", alg: str = "RS256") -> str:
        environment = {
            "REDIRECT_URI": redirect_uri,
            "CLIENT_ID": "client-1",
            "CLIENT_SECRET": SECRET,
            "ID_TOKEN_ALG": alg,
        }
        process = subprocess.Popen(
            ["node", "server.mjs"],
            cwd=node_modules, env={**os.environ, **environment}, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            text=True,
        )  # fmt: skip
        running.append(process)
        assert process.stdout is not None
        return process.stdout.readline().split()[1]

    yield start
    for process in running:
        process.terminate()
        process.communicate(timeout=60)


def consent(location: str, *, login: str = "bob") -> dict[str, str]:
    """Submit the provider's own login and consent forms, as a person would; return the callback's parameters."""
    with requests.Session() as person:
        response = person.get(location, allow_redirects=False)
        for _ in range(12):
            if response.is_redirect:
                target = urljoin(response.url, response.headers["Location"])
                if urlsplit(target).path.endswith("/callback"):
                    return dict(parse_qsl(urlsplit(target).query))
                response = person.get(target, allow_redirects=False)
                continue
            assert response.status_code == 200, response.text
            action = re.search(r'<form[^>]*action="([^"]+)"', response.text)
            assert action is not None, response.text
            fields = dict(re.findall(r'<input[^>]*name="([^"]+)"[^>]*value="([^"]*)"', response.text))
            if "login" in response.text and 'name="login"' in response.text:
                fields |= {"login": login, "password": "any"}
            target = urljoin(response.url, html.unescape(action[1]))
            response = person.post(target, data=fields, allow_redirects=False)
    raise AssertionError("no way back from the provider")


@pytest.mark.node
class TestCertifiedProvider:
    @pytest.mark.parametrize("alg", ["RS256", "PS256", "ES256", "EdDSA"])
    def test_logs_in(self, alg: str, certified: Callable[..., str]) -> None:
        issuer = certified(alg=alg)
        save(issuer, client_id="client-1")
        browser = Browser()

        answered = consent(browser.start()["Location"])
        response = browser.callback(answered)

        assert answered["iss"] == issuer
        assert response.status_code == 200, response.content
        identity = OAuthIdentity.objects.get()
        assert (identity.subject, identity.issuer, identity.email) == ("bob", issuer, "bob@example.com")
        assert not identity.founded_on_unverified_email

    def test_a_response_without_iss_is_refused(self, certified: Callable[..., str]) -> None:
        """security.md, row 88: it advertises that it sends `iss`."""
        save(certified(), client_id="client-1")
        browser = Browser()
        answered = consent(browser.start()["Location"])
        del answered["iss"]

        assert code_of(browser.callback(answered)) == "INVALID_CREDENTIALS"

    def test_a_code_of_another_flow_fails_at_its_verifier(self, certified: Callable[..., str]) -> None:
        """security.md, row 86."""
        save(certified(), client_id="client-1")
        victim, attacker = Browser(), Browser()
        stolen = consent(victim.start()["Location"])
        own = dict(parse_qsl(urlsplit(attacker.start()["Location"]).query))

        response = attacker.callback({**stolen, "state": own["state"]})

        assert response.status_code == 401
        assert not RefreshSession.objects.exists()

    def test_a_wrong_secret_is_a_refusal(self, certified: Callable[..., str]) -> None:
        save(certified(), client_id="client-1", client_secret="wrong")
        browser = Browser()

        response = browser.callback(consent(browser.start()["Location"]))

        assert response.status_code == 401
        assert code_of(response) == "INVALID_CREDENTIALS"


@pytest.mark.browser
@pytest.mark.django_db(transaction=True)
class TestChromium:
    def test_logs_in_and_comes_back_with_cookies(
        self, browser: Any, live_server: Any, configure: Any
    ) -> None:
        """Cookies ignore ports: the site is on localhost, the provider on 127.0.0.1."""
        site = f"http://localhost:{urlsplit(live_server.url).port}"
        configure(PUBLIC_URL=site)
        users = [
            oidc_provider_mock.User(
                sub="alice", claims={"email": "alice@example.com", "email_verified": True}
            )
        ]
        logging.getLogger("werkzeug").setLevel(logging.ERROR)
        with oidc_provider_mock.run_server_in_thread(user_claims=users) as server:
            save(f"http://127.0.0.1:{server.server_port}")
            page = chromium.new_tab(browser)

            # A start on another name of this host is first redirected.
            page.goto(f"http://127.0.0.1:{urlsplit(site).port}/auth/oauth/demo?redirect=/auth/oauth")
            page.get_by_role("button", name="alice").click()
            page.wait_for_url(f"{site}/auth/oauth")

            cookies = {cookie["name"]: cookie for cookie in page.context.cookies()}
            assert {"refresh_token", "access_token"} <= set(cookies)
            assert "oauth_flow" not in cookies
            for name in ("refresh_token", "access_token"):
                assert cookies[name]["httpOnly"]
                assert cookies[name]["sameSite"] == "Lax"
                assert cookies[name]["domain"] == "localhost"
            assert page.evaluate("document.cookie") == ""
            who = page.goto(f"{site}/users/me")
            assert who is not None
            assert who.json()["data"]["email"] == "alice@example.com"
        assert RefreshSession.objects.get().provider == "demo"
