"""What the tests of provider logins share: a browser, a provider row."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlencode

from django.test import Client

from platform_auth.models import OAuthProvider
from tests.endpoints import check_declared
from tests.identity_provider import CLIENT_ID, CLIENT_SECRET, Provider


def add_provider(provider: Provider, key: str = "demo", **fields: Any) -> OAuthProvider:
    """Save an enabled OpenID Connect row for a provider."""
    row = OAuthProvider(
        **{
            "key": key,
            "label": key.title(),
            "kind": OAuthProvider.Kind.OIDC,
            "client_id": CLIENT_ID,
            "issuer": provider.issuer,
            "enabled": True,
            **fields,
        }
    )
    row.client_secret = CLIENT_SECRET
    row.save()
    return row


class Browser:
    """A browser with its own cookies that follows no redirects."""

    def __init__(self) -> None:
        self.client = Client()

    def get(self, path: str, data: dict[str, str] | None = None, **extra: Any) -> Any:
        response = self.client.get(path, data, **extra)
        check_declared("get", response)
        return response

    def post(self, path: str, data: Any = None, **extra: Any) -> Any:
        response = self.client.post(path, data, **extra)
        check_declared("post", response)
        return response

    def start(self, key: str = "demo", **query: str) -> Any:
        response = self.get(f"/auth/oauth/{key}", query)
        assert response.status_code == 302, response.content
        return response

    def callback(self, parameters: dict[str, str], key: str = "demo") -> Any:
        return self.get(f"/auth/oauth/{key}/callback?{urlencode(parameters)}")

    def log_in(self, provider: Provider, key: str = "demo", **query: str) -> Any:
        """Go to the provider and back; return the callback's response."""
        return self.callback(provider.authorize(self.start(key, **query)["Location"]), key)
