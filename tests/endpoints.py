"""Every endpoint of the package, found by walking the URL conf."""

from __future__ import annotations

from typing import Any, NamedTuple

from django.urls import get_resolver, reverse
from django.urls.resolvers import URLPattern, URLResolver

from platform_auth import views
from platform_auth.http import pages
from platform_auth.http.endpoint import SignedInView

NAMESPACES = ("platform_auth", "platform_auth_users")
SAMPLES = {
    "provider": "github",
    "session_id": "00000000-0000-4000-8000-000000000001",
    "identity_id": "00000000-0000-4000-8000-000000000002",
}


class Endpoint(NamedTuple):
    """A URL name, an address it answers at, its view."""

    name: str
    path: str
    view: Any
    callback: Any

    def __str__(self) -> str:
        return self.name

    @property
    def methods(self) -> set[str]:
        """What the view offers, in capitals."""
        names = {*self.view.http_method_names} - {"options"}
        # Django answers HEAD by `get`.
        return {name.upper() for name in names if hasattr(self.view, "get" if name == "head" else name)}

    @property
    def is_page(self) -> bool:
        return issubclass(self.view, pages.PageView)

    @property
    def is_signed_in(self) -> bool:
        return issubclass(self.view, SignedInView)

    @property
    def reads_json(self) -> bool:
        return "POST" in self.methods and not self.is_page and self.view is not views.OAuthCallbackView


def walk() -> list[Endpoint]:
    """Return all endpoints under our namespaces."""
    found = []
    for resolver in get_resolver().url_patterns:
        if isinstance(resolver, URLResolver) and resolver.app_name in NAMESPACES:
            for pattern in resolver.url_patterns:
                assert isinstance(pattern, URLPattern), pattern
                arguments = {name: SAMPLES[name] for name in pattern.pattern.regex.groupindex}
                name = f"{resolver.app_name}:{pattern.name}"
                callback = pattern.callback
                view = getattr(callback, "view_class", None) or getattr(callback, "cls", None)
                found.append(Endpoint(name, reverse(name, kwargs=arguments), view, callback))
    return found


ENDPOINTS = walk()
