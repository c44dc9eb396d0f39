"""The kinds with fixed URLs, each tested with a stand-in at another URL."""

from __future__ import annotations

import base64
import json
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

import jwt
import pytest
from cryptography.hazmat.primitives import serialization

from platform_auth.models import OAuthIdentity, OAuthProvider
from platform_auth.providers import backends
from tests.conftest import code_of
from tests.flows import Browser, add_provider
from tests.identity_provider import CLIENT_ID, CLIENT_SECRET, EC_KEY, Provider, send

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def _posted_secret(provider: Provider) -> None:
    """Accept the secret in the body too, as most of these do."""
    honest = provider.token

    def token(form: dict[str, str], authorization: str) -> Any:
        pair = f"{form.get('client_id')}:{form.get('client_secret')}"
        return honest(form, authorization or "Basic " + base64.b64encode(pair.encode()).decode())

    provider.token = token  # type: ignore[method-assign]


def identity_after(provider: Provider) -> OAuthIdentity:
    response = Browser().log_in(provider)
    assert response.status_code == 200, response.content
    return OAuthIdentity.objects.get()


class TestAll:
    def test_every_kind_has_a_backend(self) -> None:
        assert set(backends.BACKENDS) == set(OAuthProvider.Kind.values)

    @pytest.mark.parametrize("kind", ["github", "facebook", "discord"])
    def test_each_kind_starts_at_its_own_url_with_pkce(self, kind: str, provider: Provider) -> None:
        add_provider(provider, kind=kind, issuer="")

        url = urlsplit(Browser().start()["Location"])

        asked = dict(parse_qsl(url.query))
        assert url.scheme == "https"
        assert kind in url.netloc
        assert asked["code_challenge_method"] == "S256"
        assert asked["redirect_uri"] == "http://testserver/auth/oauth/demo/callback"
        assert "email" in asked["scope"]
        assert not provider.calls

    @pytest.mark.parametrize(
        ("kind", "fields", "issuer"),
        [
            ("google", {}, "https://accounts.google.com"),
            ("microsoft", {"tenant": "t-1"}, "https://login.microsoftonline.com/t-1/v2.0"),
            ("gitlab", {}, "https://gitlab.com"),
            ("gitlab", {"issuer": "https://git.example"}, "https://git.example"),
            ("apple", {}, "https://appleid.apple.com"),
            ("linkedin", {}, "https://www.linkedin.com/oauth"),
            ("slack", {}, "https://slack.com"),
        ],
    )
    def test_each_kind_uses_its_own_issuer(self, kind: str, fields: dict[str, str], issuer: str) -> None:
        row = OAuthProvider(kind=kind, key="demo", **fields)
        backend = backends.BACKENDS[kind](row)

        assert backend.issuer == issuer
        assert isinstance(backend, backends.OpenIDConnect)
        assert backend.oidc_config_url() == f"{issuer}/.well-known/openid-configuration"


class TestByDiscovery:
    """The OpenID Connect kinds with fixed URLs, from start to end."""

    @pytest.fixture(params=["google", "gitlab", "slack"])
    def row(self, request: Any, provider: Provider, monkeypatch: Any) -> OAuthProvider:
        if request.param != "gitlab":
            monkeypatch.setattr(backends.BACKENDS[request.param], "ISSUER", provider.issuer)
        issuer = provider.issuer if request.param == "gitlab" else "https://not-read.example"
        return add_provider(
            provider, kind=request.param, issuer=issuer, may_create_users=True, email_linking="proven"
        )

    @pytest.mark.parametrize("methods", [["client_secret_basic"], ["client_secret_post"], None])
    def test_logs_in(self, methods: list[str] | None, row: OAuthProvider, provider: Provider) -> None:
        provider.change_discovery = lambda document: {
            name: value
            for name, value in {**document, "token_endpoint_auth_methods_supported": methods}.items()
            if value is not None
        }

        identity = identity_after(provider)

        assert (identity.issuer, identity.subject) == (provider.issuer, "subject-1")
        assert identity.verified_email == identity.user.email == "person@example.com"
        assert identity.provider == row

    @pytest.mark.parametrize("verified", [False, None, "true"])
    def test_an_address_counts_if_the_provider_says_that_it_is_verified(
        self, verified: Any, row: OAuthProvider, provider: Provider
    ) -> None:
        provider.claims["email_verified"] = verified

        identity = identity_after(provider)

        assert identity.founded_on_unverified_email
        assert identity.verified_email == ""

    def test_a_token_of_another_issuer_is_refused(self, row: OAuthProvider, provider: Provider) -> None:
        provider.change_claims = lambda claims: {**claims, "iss": "https://evil.example"}

        assert code_of(Browser().log_in(provider)) == "INVALID_CREDENTIALS"


class TestGitHub:
    @pytest.fixture(autouse=True)
    def _stand_in(self, provider: Provider, monkeypatch: Any) -> None:
        monkeypatch.setattr(backends.GitHub, "AUTHORIZATION_URL", f"{provider.issuer}/authorize")
        monkeypatch.setattr(backends.GitHub, "ACCESS_TOKEN_URL", f"{provider.issuer}/token")
        monkeypatch.setattr(backends.GitHub, "API_URL", f"{provider.issuer}/")
        add_provider(provider, kind="github", issuer="", may_create_users=True, email_linking="proven")
        self.addresses: Any = [
            {"email": "old@example.com", "primary": False, "verified": True},
            {"email": "person@example.com", "primary": True, "verified": True},
        ]
        provider.raw["/user"] = lambda handler: send(
            handler, b'{"id": 7, "login": "x", "email": "public@example.com"}'
        )
        provider.raw["/user/emails"] = lambda handler: send(handler, json.dumps(self.addresses).encode())

    def test_uses_the_primary_address_of_the_list(self, provider: Provider) -> None:
        identity = identity_after(provider)

        assert (identity.subject, identity.email) == ("7", "person@example.com")
        assert not identity.founded_on_unverified_email

    def test_an_unverified_address_links_nothing(self, provider: Provider) -> None:
        self.addresses[1]["verified"] = False

        assert identity_after(provider).founded_on_unverified_email

    @pytest.mark.parametrize(
        "addresses", [[], [{}], ["person@example.com"], [{"email": "a@b.example", "verified": True}]]
    )
    def test_without_a_primary_address_there_is_no_email(self, addresses: Any, provider: Provider) -> None:
        self.addresses = addresses

        assert code_of(Browser().log_in(provider)) == "INVALID_PROVIDER"


class TestFacebook:
    @pytest.fixture(autouse=True)
    def _stand_in(self, provider: Provider, monkeypatch: Any) -> None:
        monkeypatch.setattr(backends.Facebook, "AUTHORIZATION_URL", f"{provider.issuer}/authorize")
        monkeypatch.setattr(backends.Facebook, "ACCESS_TOKEN_URL", f"{provider.issuer}/token")
        monkeypatch.setattr(backends.Facebook, "USER_DATA_URL", f"{provider.issuer}/me")
        add_provider(provider, kind="facebook", issuer="", may_create_users=True, email_linking="proven")
        provider.raw["/me"] = lambda handler: send(handler, b'{"id": "9", "email": "person@example.com"}')

    def test_its_addresses_count_as_unverified(self, provider: Provider) -> None:
        identity = identity_after(provider)

        assert (identity.subject, identity.email) == ("9", "person@example.com")
        assert identity.founded_on_unverified_email


class TestDiscord:
    @pytest.mark.parametrize("verified", [True, False])
    def test_tells_whether_the_address_is_verified(
        self, verified: bool, provider: Provider, monkeypatch: Any
    ) -> None:
        monkeypatch.setattr(backends.Discord, "AUTHORIZATION_URL", f"{provider.issuer}/authorize")
        monkeypatch.setattr(backends.Discord, "ACCESS_TOKEN_URL", f"{provider.issuer}/token")
        monkeypatch.setattr(backends.Discord, "USERINFO_URL", f"{provider.issuer}/userinfo")
        add_provider(provider, kind="discord", issuer="", may_create_users=True, email_linking="proven")
        provider.userinfo = {"id": "9", "email": "person@example.com", "verified": verified}

        assert identity_after(provider).founded_on_unverified_email is not verified


class TestApple:
    @pytest.fixture(autouse=True)
    def _stand_in(self, provider: Provider, monkeypatch: Any) -> None:
        monkeypatch.setattr(backends.Apple, "ISSUER", provider.issuer)
        provider.sends_iss = False
        provider.change_discovery = lambda document: {
            name: value for name, value in document.items() if name != "userinfo_endpoint"
        }
        pem = EC_KEY.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        add_provider(
            provider,
            kind="apple",
            issuer="",
            team_id="TEAM",
            key_id="KEY",
            private_key=pem.decode(),
            may_create_users=True,
            email_linking="proven",
        )
        honest = provider.token
        self.assertions: list[str] = []

        def token(form: dict[str, str], authorization: str) -> Any:
            self.assertions.append(form["client_secret"])
            return honest({**form, "client_secret": CLIENT_SECRET}, authorization)

        provider.token = token  # type: ignore[method-assign]

    @pytest.mark.parametrize(
        ("verified", "counts"), [(True, True), ("true", True), ("false", False), (False, False)]
    )
    def test_signs_its_client_secret(self, verified: Any, counts: bool, provider: Provider) -> None:
        provider.claims["email_verified"] = verified
        browser = Browser()
        location = browser.start()["Location"]
        assert "response_mode=form_post" in location
        body = urlencode({**provider.authorize(location), "user": '{"name": {"firstName": "<b>"}}'})
        posted = browser.post(
            "/auth/oauth/demo/callback", body, content_type="application/x-www-form-urlencoded"
        )

        response = browser.get(posted["Location"])

        assert response.status_code == 200, response.content
        assert OAuthIdentity.objects.get().founded_on_unverified_email is not counts
        (assertion,) = self.assertions
        assert jwt.get_unverified_header(assertion)["kid"] == "KEY"
        claims = jwt.decode(assertion, EC_KEY.public_key(), algorithms=["ES256"], audience=provider.issuer)
        assert (claims["iss"], claims["sub"]) == ("TEAM", CLIENT_ID)
        assert claims["exp"] - claims["iat"] == 300


class TestMicrosoft:
    @pytest.mark.parametrize(
        ("claims", "counts"), [({}, False), ({"xms_edov": True}, True), ({"xms_edov": "1"}, False)]
    )
    def test_an_address_counts_if_its_domain_was_verified(
        self, claims: dict[str, Any], counts: bool, provider: Provider, monkeypatch: Any
    ) -> None:
        monkeypatch.setattr(backends.Microsoft, "issuer", provider.issuer)
        add_provider(
            provider, kind="microsoft", issuer="", tenant="t", may_create_users=True, email_linking="proven"
        )
        provider.claims |= claims

        assert identity_after(provider).founded_on_unverified_email is not counts

    def test_only_the_id_token_says_who_it_is(self, provider: Provider, monkeypatch: Any) -> None:
        monkeypatch.setattr(backends.Microsoft, "issuer", provider.issuer)
        add_provider(
            provider, kind="microsoft", issuer="", tenant="t", may_create_users=True, email_linking="proven"
        )
        provider.claims |= {"xms_edov": True}
        provider.userinfo = {"sub": "subject-1", "email": "other@example.com"}

        identity = identity_after(provider)

        assert identity.email == "person@example.com"
        assert not identity.founded_on_unverified_email
        assert not provider.calls["/userinfo"]


class TestLinkedIn:
    @pytest.fixture(autouse=True)
    def _stand_in(self, provider: Provider, monkeypatch: Any) -> None:
        monkeypatch.setattr(backends.LinkedIn, "ISSUER", provider.issuer)
        add_provider(provider, kind="linkedin", issuer="", may_create_users=True, email_linking="proven")

    def test_gets_the_secret_in_the_body(self, provider: Provider) -> None:
        provider.change_discovery = lambda document: {
            name: value for name, value in document.items() if name != "token_endpoint_auth_methods_supported"
        }
        honest, came = provider.token, []

        def token(form: dict[str, str], authorization: str) -> Any:
            came.append((form.get("client_secret"), authorization))
            return honest(form, authorization)

        provider.token = token  # type: ignore[method-assign]

        assert identity_after(provider).subject == "subject-1"
        assert came == [(CLIENT_SECRET, "")]

    def test_works_without_a_nonce(self, provider: Provider) -> None:
        provider.change_claims = lambda claims: {
            name: value for name, value in claims.items() if name != "nonce"
        }

        assert identity_after(provider).subject == "subject-1"

    def test_a_nonce_must_be_ours_if_present(self, provider: Provider) -> None:
        provider.change_claims = lambda claims: {**claims, "nonce": "n" * 64}

        assert code_of(Browser().log_in(provider)) == "INVALID_CREDENTIALS"

    def test_an_old_token_is_still_refused(self, provider: Provider) -> None:
        provider.change_claims = lambda claims: {
            **{name: value for name, value in claims.items() if name != "nonce"},
            "iat": claims["iat"] - 3600,
        }

        assert code_of(Browser().log_in(provider)) == "INVALID_CREDENTIALS"
