"""Every endpoint of the package, found by walking the URL conf, and its declarations."""

from __future__ import annotations

from typing import Any, NamedTuple

from django.urls import Resolver404, get_resolver, reverse
from django.urls.resolvers import URLPattern, URLResolver

from platform_auth import errors
from platform_auth.http import pages, shapes
from platform_auth.http.endpoint import SignedInView

NAMESPACES = ("platform_auth", "platform_auth_users")
SAMPLES = {
    "provider": "github",
    "session_id": "00000000-0000-4000-8000-000000000001",
    "identity_id": "00000000-0000-4000-8000-000000000002",
}


CODES = {
    error.code for error in errors.PlatformAuthError.__subclasses__() if error is not errors.HostError
} | {"TOKEN_EXPIRED"}
"""The error codes of the contract."""


class Endpoint(NamedTuple):
    """An endpoint: URL name, a path, its view; and one of its methods, for tests of a single method."""

    name: str
    path: str
    view: Any
    callback: Any
    method: str = ""

    def __str__(self) -> str:
        return self.name if self.method in ("", "POST") else f"{self.name} {self.method}"

    @property
    def methods(self) -> set[str]:
        """The HTTP methods of the view, in capitals."""
        names = {*self.view.http_method_names} - {"options"}
        # Django handles HEAD with `get`.
        return {name.upper() for name in names if hasattr(self.view, "get" if name == "head" else name)}

    @property
    def is_page(self) -> bool:
        return issubclass(self.view, pages.PageView)

    @property
    def is_signed_in(self) -> bool:
        return issubclass(self.view, SignedInView)

    @property
    def fields(self) -> dict[str, Any]:
        """The fields of the request."""
        return dict(self.view.operations[self.method].takes().fields)


def walk() -> list[Endpoint]:
    """Return all endpoints in our namespaces."""
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


def taking_json() -> list[Endpoint]:
    """Return each method of each endpoint that accepts JSON."""
    return [
        endpoint._replace(method=method)
        for endpoint in ENDPOINTS
        if not endpoint.is_page and shapes.StrictJSONParser in endpoint.view.parser_classes
        for method, operation in endpoint.view.operations.items()
        if method != "GET" and operation.takes
    ]


def check_declared(method: str, response: Any) -> None:
    """Check that the view declares a response: its status, its keys, its error codes."""
    try:
        view = response.resolver_match.func.cls
        operation = view.operations[method.upper()]
    except (Resolver404, AttributeError, KeyError):
        return
    status = response.status_code
    body = response.json() if response.content and status not in operation.also else {}
    if status >= 400:
        refused = {(status, error["extensions"]["code"]) for error in body["errors"]}
        assert refused <= {(error.status_code, error.code) for error in view.refusals(method.upper())}
        return
    if status in operation.also:
        return
    gives, names = operation.gives, {*operation.extra, *(["data"] if operation.gives else [])}
    assert (status, set(body)) == (200 if names else 204, names)
    shape = getattr(gives, "child", gives)
    if isinstance(shape, shapes.Shape):
        for entry in [body["data"]] if shape is gives else body["data"]:
            assert set(entry) <= set(shape.fields)


ENDPOINTS = walk()
