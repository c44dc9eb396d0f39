"""OpenAPI (drf-spectacular, the extra `openapi`): the security schemes, and what our views declare."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from typing import Any

from drf_spectacular.extensions import (
    OpenApiAuthenticationExtension,
    OpenApiSerializerExtension,
    OpenApiViewExtension,
)
from drf_spectacular.utils import OpenApiResponse, extend_schema, inline_serializer
from rest_framework import serializers

from .authentication import AccessTokenAuthentication
from .conf import conf
from .errors import PlatformAuthError
from .http.endpoint import Operation
from .http.shapes import Shape

PREFIX = "PlatformAuth"
"""The prefix of our components' names, so that they don't clash with the host's."""


class AccessTokenScheme(OpenApiAuthenticationExtension):  # type: ignore[no-untyped-call]
    """The access token, in the Authorization header or in the cookie of mode `session`."""

    target_class = "platform_auth.authentication.AccessTokenAuthentication"
    match_subclasses = True
    name = ["accessToken", "accessTokenCookie"]

    def get_security_requirement(self, auto_schema: Any) -> Any:
        """Return both, as alternatives."""
        return [{name: []} for name in self.name]

    def get_security_definition(self, auto_schema: Any) -> Any:
        return [
            {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"},
            {"type": "apiKey", "in": "cookie", "name": conf.cookie_name("access")},
        ]


class StatelessAccessTokenScheme(AccessTokenScheme):  # type: ignore[no-untyped-call]
    """The same token, accepted without a lookup."""

    target_class = "platform_auth.authentication.StatelessAccessTokenAuthentication"
    name = ["statelessAccessToken", "statelessAccessTokenCookie"]


class ErrorExtensions(Shape):
    code = serializers.CharField()
    field = serializers.CharField(required=False)
    reason = serializers.CharField(required=False)
    type = serializers.CharField(required=False)
    retry_after = serializers.IntegerField(required=False)


class Error(Shape):
    message = serializers.CharField()
    extensions = ErrorExtensions()


class Errors(Shape):
    errors = Error(many=True)  # type: ignore[assignment]


class ShapeNames(OpenApiSerializerExtension):  # type: ignore[no-untyped-call]
    """Names our components."""

    target_class = "platform_auth.http.shapes.Shape"
    match_subclasses = True

    def get_name(self, auto_schema: Any, direction: Any) -> str:
        shape = self.target if isinstance(self.target, type) else type(self.target)
        return f"{PREFIX}{shape.__name__}"

    def map_serializer(self, auto_schema: Any, direction: Any) -> Any:
        return auto_schema._map_serializer(self.target, direction, bypass_extensions=True)


class ViewSchema(OpenApiViewExtension):  # type: ignore[no-untyped-call]
    """Describes the methods of our views, and of a host's subclasses, from their `Operation`."""

    target_class = "platform_auth.http.endpoint.ApiView"
    match_subclasses = True

    def view_replacement(self) -> Any:
        return _described(self.target)


@functools.cache
def _described(target: Any) -> Any:
    """Return a subclass of a view for drf-spectacular to inspect; the same one for all URLs of the view."""
    view: Any = type(target.__name__, (target,), {"__doc__": target.__doc__})
    if view.authentication_classes:
        # Views that admit a session before its second factor is set up use the same token.
        view.authentication_classes = [AccessTokenAuthentication]
    for method, operation in view.operations.items():
        handler = getattr(view, method.lower())
        # A host's own `extend_schema` has priority.
        if "schema" in getattr(handler, "kwargs", {}):
            continue
        name = f"{PREFIX}{target.__name__.removesuffix('View')}{method.title()}Response"
        describe = extend_schema(
            tags=["auth"],
            summary=(target.__doc__ or "").partition("\n")[0],
            request=operation.takes if method != "GET" else None,
            parameters=[operation.takes] if operation.takes and method == "GET" else None,
            responses=_successes(operation, name) | _refusals(view.refusals(method)),
        )
        setattr(view, method.lower(), describe(functools.wraps(handler)(lambda *args, **kwargs: None)))
    return view


def _successes(operation: Operation, name: str) -> dict[int, Any]:
    also = {status: OpenApiResponse(description=meaning) for status, meaning in operation.also.items()}
    answer = _answer(operation, name)
    return also | ({200: answer} if answer else {}) or {204: None}


@functools.cache
def _answer(operation: Operation, name: str) -> Any:
    """Return the shape of a whole response; one for our view and a host's subclass with the same name."""
    body = dict(operation.extra) | ({"data": operation.gives} if operation.gives else {})
    return inline_serializer(name, body) if body else None


def _refusals(refused: Iterable[type[PlatformAuthError]]) -> dict[int, Any]:
    codes: dict[int, set[str]] = {}
    for error in refused:
        codes.setdefault(error.status_code, set()).add(f"`{error.code}`")
    return {
        status: OpenApiResponse(Errors, description=", ".join(sorted(found)))
        for status, found in sorted(codes.items())
    }
