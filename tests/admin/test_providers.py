"""Providers in Django admin."""

from __future__ import annotations

import html
import json
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from django.contrib.admin.models import LogEntry
from django.contrib.auth.models import Permission
from django.test import Client

from platform_auth.models import AuthEvent, OAuthIdentity, OAuthProvider
from tests.conftest import PASSWORD, make_user
from tests.flows import Browser, add_provider
from tests.identity_provider import CLIENT_SECRET, EC_KEY, RSA_KEY, Provider, jwk, send

pytestmark = pytest.mark.django_db

LIST = "/admin/platform_auth/oauthprovider/"


def fields(**changes: Any) -> dict[str, Any]:
    """Return the values of the form for a new OpenID Connect provider."""
    return {
        "key": "demo",
        "label": "Demo ID",
        "kind": "oidc",
        "icon": "",
        "order": "0",
        "enabled": "on",
        "client_id": "client-1",
        "client_secret": CLIENT_SECRET,
        "scopes": "",
        "issuer": "https://issuer.example",
        "tenant": "",
        "team_id": "",
        "key_id": "",
        "private_key": "",
        "authorization_url": "",
        "token_url": "",
        "userinfo_url": "",
        "client_authentication": "post",
        "id_field": "id",
        "email_field": "email",
        "email_verified_field": "",
        "email_linking": "never",
        "allowed_domains": "",
        "own_password": PASSWORD,
        **changes,
    }


def staff_client(*codenames: str, superuser: bool = False) -> Client:
    user = make_user(is_staff=True, is_superuser=superuser)
    user.user_permissions.set(Permission.objects.filter(codename__in=codenames))
    client = Client()
    client.force_login(user, backend="platform_auth.backends.EmailBackend")
    return client


@pytest.fixture
def admin_client(db: None) -> Client:
    return staff_client(superuser=True)


def errors_of(response: Any) -> dict[str, Any]:
    assert response.status_code == 200
    return dict(response.context["adminform"].form.errors)


def pem(key: Any) -> str:
    return key.private_bytes(  # type: ignore[no-any-return]
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode()


class TestForm:
    def test_saves_a_provider_with_a_sealed_secret(self, admin_client: Client) -> None:
        """security.md, rows 122 and 123."""
        response = admin_client.post(f"{LIST}add/", fields())

        assert response.status_code == 302
        row = OAuthProvider.objects.get()
        assert row.client_secret == CLIENT_SECRET
        assert CLIENT_SECRET not in row.sealed_secret

    def test_shows_the_callback_url_to_register(self, admin_client: Client, provider: Provider) -> None:
        row = add_provider(provider)

        page = admin_client.get(f"{LIST}{row.pk}/change/").content.decode()

        assert 'value="http://testserver/auth/oauth/demo/callback"' in page
        assert "Test this provider" in page

    def test_a_new_provider_has_no_callback_url_yet(self, admin_client: Client) -> None:
        assert "the URL contains its key" in admin_client.get(f"{LIST}add/").content.decode()

    def test_never_shows_a_secret(self, admin_client: Client, provider: Provider) -> None:
        """security.md, row 123."""
        row = add_provider(provider, private_key=pem(EC_KEY))

        pages = [
            admin_client.get(f"{LIST}{row.pk}/change/").content.decode(),
            admin_client.post(f"{LIST}{row.pk}/change/", fields(issuer="")).content.decode(),
            admin_client.post(f"{LIST}{row.pk}/change/", fields(issuer="https://b.example")).content.decode(),
            admin_client.get(LIST).content.decode(),
            admin_client.get(f"{LIST}{row.pk}/history/").content.decode(),
            repr([(entry.change_message, entry.object_repr) for entry in LogEntry.objects.all()]),
            repr(list(AuthEvent.objects.values())),
        ]

        for page in pages:
            assert CLIENT_SECRET not in page
            assert PASSWORD not in page
            assert "BEGIN PRIVATE" not in page
            assert row.sealed_secret not in page
            assert row.sealed_private_key not in page

    @pytest.mark.parametrize("way", ["add", "change"])
    def test_does_not_return_a_typed_secret(self, way: str, admin_client: Client, provider: Provider) -> None:
        """security.md, row 123: also if the form is shown again after an error."""
        url = f"{LIST}add/" if way == "add" else f"{LIST}{add_provider(provider).pk}/change/"
        typed = {"client_secret": "a typed secret", "private_key": pem(EC_KEY), "own_password": "a typed one"}

        response = admin_client.post(url, fields(kind="apple", team_id="T", key_id="", **typed))

        assert "key_id" in errors_of(response)
        page = html.unescape(response.content.decode())
        for secret in typed.values():
            assert not [line for line in secret.splitlines() if line in page]

    def test_a_blank_field_keeps_the_secret(self, admin_client: Client) -> None:
        """security.md, row 123."""
        admin_client.post(f"{LIST}add/", fields())
        row = OAuthProvider.objects.get()

        admin_client.post(f"{LIST}{row.pk}/change/", fields(client_secret="", label="Renamed"))

        row.refresh_from_db()
        assert row.label == "Renamed"
        assert row.client_secret == CLIENT_SECRET

    @pytest.mark.parametrize(
        ("changes", "field"),
        [
            ({"issuer": ""}, "issuer"),
            ({"issuer": "http://issuer.example"}, "issuer"),
            ({"issuer": "https://user:pw@issuer.example"}, "issuer"),
            ({"issuer": "https://issuer.example/#x"}, "issuer"),
            ({"issuer": "javascript:alert(1)"}, "issuer"),
            ({"key": "otp"}, "key"),
            ({"key": "pwd"}, "key"),
            ({"key": "Demo"}, "key"),
            ({"key": "a/b"}, "key"),
            ({"key": "../x"}, "key"),
            ({"kind": "github", "client_secret": ""}, "client_secret"),
            ({"kind": "microsoft", "tenant": "common"}, "tenant"),
            ({"kind": "microsoft", "tenant": ""}, "tenant"),
            ({"kind": "apple", "key_id": "K", "private_key": pem(EC_KEY)}, "team_id"),
            ({"kind": "apple", "team_id": "T", "private_key": pem(EC_KEY)}, "key_id"),
            ({"kind": "apple", "team_id": "T", "key_id": "K"}, "private_key"),
            ({"kind": "apple", "team_id": "T", "key_id": "K", "private_key": pem(RSA_KEY)}, "private_key"),
            ({"kind": "apple", "team_id": "T", "key_id": "K", "private_key": "no key"}, "private_key"),
            ({"kind": "oauth2"}, "token_url"),
            ({"kind": "oauth2", "token_url": "http://a.example"}, "token_url"),
            ({"client_authentication": "none"}, "client_authentication"),
            ({"allowed_domains": "https://a.example"}, "allowed_domains"),
            ({"allowed_domains": "*.example.com"}, "allowed_domains"),
        ],
    )
    def test_checks_what_was_entered(self, changes: dict[str, str], field: str, admin_client: Client) -> None:
        response = admin_client.post(f"{LIST}add/", fields(**changes))

        assert field in errors_of(response)
        assert not OAuthProvider.objects.exists()

    @pytest.mark.parametrize(
        "changes",
        [
            {"kind": "github"},
            {"kind": "google"},
            {"kind": "facebook"},
            {"kind": "gitlab", "issuer": ""},
            {"kind": "discord"},
            {"kind": "linkedin"},
            {"kind": "slack"},
            {"kind": "microsoft", "tenant": "72f988bf-86f1-41af-91ab-2d7cd011db47"},
            {"kind": "apple", "team_id": "T", "key_id": "K", "private_key": pem(EC_KEY), "client_secret": ""},
            {
                "kind": "oauth2",
                "authorization_url": "https://a.example/authorize",
                "token_url": "https://a.example/token",
                "userinfo_url": "https://a.example/me",
                "client_authentication": "basic",
            },
            {"client_secret": "", "allowed_domains": "a.example b.example"},
        ],
    )
    def test_accepts_every_kind(self, changes: dict[str, str], admin_client: Client) -> None:
        response = admin_client.post(f"{LIST}add/", fields(**changes))

        assert response.status_code == 302, errors_of(response)

    def test_several_providers_of_a_kind_can_exist(self, admin_client: Client) -> None:
        for key in ("one", "two"):
            assert admin_client.post(f"{LIST}add/", fields(key=key)).status_code == 302

        assert OAuthProvider.objects.count() == 2


class TestPermissions:
    """security.md, row 124."""

    @pytest.mark.parametrize("password", ["", "wrong"])
    def test_pointing_it_elsewhere_needs_the_admins_own_password(
        self, password: str, admin_client: Client, provider: Provider
    ) -> None:
        row = add_provider(provider)
        for changes in (
            {"issuer": "https://evil.example"},
            {"client_secret": "other"},
            {"email_linking": "proven"},
        ):
            response = admin_client.post(f"{LIST}{row.pk}/change/", fields(own_password=password, **changes))

            assert "own_password" in errors_of(response)
        row.refresh_from_db()
        assert row.issuer == provider.issuer
        assert row.client_secret == CLIENT_SECRET

    def test_guessing_that_password_is_limited(self, admin_client: Client) -> None:
        for _ in range(6):
            admin_client.post(f"{LIST}add/", fields(own_password="wrong"))

        response = admin_client.post(f"{LIST}add/", fields())

        assert "own_password" in errors_of(response)
        assert not OAuthProvider.objects.exists()

    def test_harmless_changes_need_no_password(self, admin_client: Client) -> None:
        admin_client.post(f"{LIST}add/", fields())
        row = OAuthProvider.objects.get()

        response = admin_client.post(
            f"{LIST}{row.pk}/change/", fields(own_password="", client_secret="", label="Renamed", enabled="")
        )

        assert response.status_code == 302
        row.refresh_from_db()
        assert (row.label, row.enabled) == ("Renamed", False)

    def test_an_editor_without_the_permission_changes_harmless_fields_only(self, provider: Provider) -> None:
        row = add_provider(provider)
        client = staff_client("view_oauthprovider", "change_oauthprovider")

        page = client.get(f"{LIST}{row.pk}/change/").content.decode()
        client.post(
            f"{LIST}{row.pk}/change/",
            fields(label="Renamed", client_secret="", issuer="https://evil.example"),
        )

        row.refresh_from_db()
        assert row.label == "Renamed"
        assert row.issuer == provider.issuer
        assert 'name="issuer"' not in page
        assert 'name="client_secret"' not in page

    @pytest.mark.parametrize("changes", [{"client_secret": "other"}, {"private_key": pem(EC_KEY)}])
    def test_an_editor_without_the_permission_cannot_set_a_secret(
        self, changes: dict[str, str], provider: Provider
    ) -> None:
        row = add_provider(provider)
        client = staff_client("view_oauthprovider", "change_oauthprovider")

        client.post(f"{LIST}{row.pk}/change/", fields(**{"client_secret": "", **changes}))

        row.refresh_from_db()
        assert row.client_secret == CLIENT_SECRET
        assert not row.private_key

    def test_an_editor_with_the_permission_can_point_it_elsewhere(self, provider: Provider) -> None:
        row = add_provider(provider)
        client = staff_client("view_oauthprovider", "change_oauthprovider", "change_provider_secrets")

        response = client.post(f"{LIST}{row.pk}/change/", fields(issuer="https://b.example"))

        assert response.status_code == 302
        row.refresh_from_db()
        assert row.issuer == "https://b.example"

    @pytest.mark.parametrize(
        ("codenames", "sees", "adds"),
        [
            ((), 403, 403),
            (("view_oauthprovider",), 200, 403),
            (("add_oauthprovider", "view_oauthprovider"), 200, 403),
            (("add_oauthprovider", "view_oauthprovider", "change_provider_secrets"), 200, 200),
        ],
    )
    def test_viewing_and_adding_need_djangos_permissions(
        self, codenames: tuple[str, ...], sees: int, adds: int, provider: Provider
    ) -> None:
        row = add_provider(provider)
        client = staff_client(*codenames)

        assert client.get(LIST).status_code == sees
        assert client.get(f"{LIST}add/").status_code == adds
        assert client.get(f"{LIST}{row.pk}/change/").status_code == sees

    def test_a_viewer_sees_no_secret_and_no_button(self, provider: Provider) -> None:
        row = add_provider(provider)

        page = staff_client("view_oauthprovider").get(f"{LIST}{row.pk}/change/").content.decode()

        assert CLIENT_SECRET not in page
        assert row.sealed_secret not in page
        assert 'name="client_secret"' not in page
        assert "_test" not in page

    def test_changes_are_recorded(self, admin_client: Client) -> None:
        """security.md, row 121."""
        admin_client.post(f"{LIST}add/", fields())
        row = OAuthProvider.objects.get()
        admin_client.post(f"{LIST}{row.pk}/change/", fields(client_secret="other"))
        admin_client.post(f"{LIST}{row.pk}/delete/", {"post": "yes"})

        reasons = list(
            AuthEvent.objects.filter(kind="admin_changed").order_by("id").values_list("reason", flat=True)
        )

        assert reasons == ["provider added", "provider changed: client_secret", "provider deleted"]

    def test_identities_can_be_viewed_and_deleted(self, admin_client: Client, provider: Provider) -> None:
        identity = OAuthIdentity.objects.create(
            user=make_user(), provider=add_provider(provider), subject="1"
        )
        url = "/admin/platform_auth/oauthidentity/"

        assert admin_client.get(url).status_code == 200
        assert admin_client.get(f"{url}add/").status_code == 403
        page = admin_client.get(f"{url}{identity.pk}/change/")
        assert b'name="subject"' not in page.content
        assert admin_client.post(f"{url}{identity.pk}/delete/", {"post": "yes"}).status_code == 302
        assert not OAuthIdentity.objects.exists()
        assert AuthEvent.objects.get(kind="identity_unlinked").user == identity.user


class TestTest:
    def _run(self, client: Client, row: OAuthProvider) -> str:
        response = client.post(LIST, {"action": "test_providers", "_selected_action": [str(row.pk)]})
        assert response.status_code == 302
        row.refresh_from_db()
        assert row.tested_at is not None
        return row.test_result

    def test_a_working_provider_passes(self, admin_client: Client, provider: Provider) -> None:
        row = add_provider(provider)
        updated_at = row.updated_at

        result = self._run(admin_client, row)

        assert "✗" not in result
        assert "http://testserver/auth/oauth/demo/callback" in result
        assert provider.issuer in result
        assert row.updated_at == updated_at

    def test_the_button_saves_and_tests(self, admin_client: Client, provider: Provider) -> None:
        row = add_provider(provider)

        response = admin_client.post(
            f"{LIST}{row.pk}/change/",
            fields(issuer=provider.issuer, label="Demo", own_password="", client_secret="", _test="1"),
            follow=True,
        )

        assert "no problems found" in response.content.decode()
        row.refresh_from_db()
        assert row.test_result in response.context["original"].test_result

    def test_it_says_what_is_wrong(self, admin_client: Client, provider: Provider) -> None:
        def broken(name: str) -> str:
            return self._run(admin_client, add_provider(provider, name))

        honest = provider.change_discovery
        provider.change_discovery = lambda document: {**document, "issuer": "https://evil.example"}
        assert "✗" in broken("issuer")
        assert "a different issuer" in OAuthProvider.objects.get(key="issuer").test_result
        provider.change_discovery = lambda document: {**document, "token_endpoint": "ftp://a"}
        assert "token_endpoint" in broken("endpoint")
        provider.change_discovery = lambda document: {
            **document,
            "code_challenge_methods_supported": ["plain"],
        }
        assert "S256" in broken("pkce")
        provider.change_discovery = honest
        provider.keys = [{"kty": "oct", "k": "eA"}]
        assert "✗ No key can be used" in broken("keys")
        provider.keys = [jwk(RSA_KEY)]
        provider.stop()
        assert "✗" in broken("gone")
        provider.__init__()  # type: ignore[misc]

    @pytest.mark.parametrize("status", [200, 400, 500])
    @pytest.mark.parametrize("path", ["/.well-known/openid-configuration", "/jwks"])
    @pytest.mark.parametrize("body", [b"[" * 200_000, b'{"keys":' * 50_000, b'"\\ud800"', b"\xff", b""])
    def test_any_response_of_a_provider_becomes_a_finding(
        self, body: bytes, path: str, status: int, admin_client: Client, provider: Provider
    ) -> None:
        provider.raw[path] = lambda handler: send(handler, body, status=status)

        lines = self._run(admin_client, add_provider(provider)).splitlines()

        assert lines[0].startswith("✓ Callback URL")
        assert lines[-1].startswith("✗")
        assert len(lines) == (3 if path != "/jwks" else 6)

    def test_unusable_keys_become_a_finding(self, admin_client: Client, provider: Provider) -> None:
        provider.keys = [
            {"kty": "RSA", "kid": ["a"], "n": {"a": 1}, "e": None},
            {"kty": ["x"]},
            {"kty": "OKP", "crv": "Ed25519", "x": 5},
        ]

        assert "✗" in self._run(admin_client, add_provider(provider))

    @pytest.mark.parametrize("path", ["/.well-known/openid-configuration", "/jwks"])
    def test_the_text_of_a_provider_is_not_shown(
        self, path: str, admin_client: Client, provider: Provider
    ) -> None:
        body = json.dumps({"error": "their-code", "error_description": "<b>their words</b>"}).encode()
        provider.raw[path] = lambda handler: send(handler, body, status=400)

        result = self._run(admin_client, add_provider(provider))

        assert "✗" in result
        assert "their" not in result

    def test_a_secret_that_cannot_be_decrypted_is_reported(
        self, admin_client: Client, provider: Provider, settings: Any
    ) -> None:
        """security.md, row 122."""
        row = add_provider(provider)
        OAuthProvider.objects.update(sealed_secret=add_provider(provider, "other").sealed_secret)

        assert "can't be decrypted" in self._run(admin_client, row)
        assert Browser().get("/auth/oauth/demo").status_code == 503

    def test_a_plain_oauth2_server_is_asked_at_each_url(
        self, admin_client: Client, provider: Provider
    ) -> None:
        row = add_provider(
            provider,
            kind="oauth2",
            authorization_url=f"{provider.issuer}/authorize",
            token_url=f"{provider.issuer}/token-endpoint",
            userinfo_url="http://10.0.0.1/me",
        )

        result = self._run(admin_client, row)

        assert result.count("✓") == 4
        assert "✗ http://10.0.0.1/me: an address that is not public." in result

    def test_actions_enable_and_disable(self, admin_client: Client, provider: Provider) -> None:
        row = add_provider(provider)

        admin_client.post(LIST, {"action": "disable_providers", "_selected_action": [str(row.pk)]})
        row.refresh_from_db()
        assert not row.enabled
        admin_client.post(LIST, {"action": "enable_providers", "_selected_action": [str(row.pk)]})
        row.refresh_from_db()
        assert row.enabled
