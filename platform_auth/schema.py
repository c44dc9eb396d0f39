"""OpenAPI (drf-spectacular, the extra `openapi`): how callers sign in, and what our endpoints take and give."""

from __future__ import annotations

from typing import Any, NamedTuple

from drf_spectacular.extensions import OpenApiAuthenticationExtension, OpenApiViewExtension
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, OpenApiResponse, extend_schema, inline_serializer
from rest_framework import serializers as fields

from .authentication import AccessTokenAuthentication
from .conf import conf
from .http import shapes

TAG = "auth"


class AccessTokenScheme(OpenApiAuthenticationExtension):  # type: ignore[no-untyped-call]
    """The access token: in the Authorization header, or in the cookie of mode `session`."""

    target_class = "platform_auth.authentication.AccessTokenAuthentication"
    match_subclasses = True
    name = ["accessToken", "accessTokenCookie"]

    def get_security_requirement(self, auto_schema: Any) -> Any:
        """Say that either will do."""
        return [{name: []} for name in self.name]

    def get_security_definition(self, auto_schema: Any) -> Any:
        return [
            {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"},
            {"type": "apiKey", "in": "cookie", "name": conf.cookie_name("access")},
        ]


class StatelessAccessTokenScheme(AccessTokenScheme):  # type: ignore[no-untyped-call]
    """The same token, believed without a look-up."""

    target_class = "platform_auth.authentication.StatelessAccessTokenAuthentication"
    name = ["statelessAccessToken", "statelessAccessTokenCookie"]


class Operation(NamedTuple):
    """One method of one view: what it takes, what it gives at which status, which errors it may answer."""

    request: Any = None
    responses: dict[int, Any] = {}
    errors: tuple[int, ...] = ()
    parameters: tuple[OpenApiParameter, ...] = ()


def _object(name: str, /, **declared: Any) -> Any:
    return inline_serializer(f"PlatformAuth{name}", fields=declared)


def _list(name: str, /, **declared: Any) -> Any:
    return inline_serializer(f"PlatformAuth{name}", fields=declared, many=True)


def _data(name: str, value: Any, /, **beside: Any) -> Any:
    return _object(f"{name}Answer", **beside, data=value)


def _text(name: str, description: str, *, required: bool = False) -> OpenApiParameter:
    return OpenApiParameter(
        name, OpenApiTypes.STR, OpenApiParameter.QUERY, required=required, description=description
    )


ERRORS = _object(
    "Errors",
    errors=_list(
        "Error",
        message=fields.CharField(),
        extensions=_object(
            "ErrorExtensions",
            code=fields.CharField(),
            field=fields.CharField(required=False),
            reason=fields.CharField(required=False),
            type=fields.CharField(required=False),
            retry_after=fields.IntegerField(required=False),
        ),
    ),
)

TOKENS = _data(
    "Tokens",
    _object(
        "Tokens",
        access_token=fields.CharField(required=False, help_text="Not in mode `session`."),
        expires=fields.IntegerField(
            help_text="The access token's life, in seconds or milliseconds (EXPIRES_UNIT)."
        ),
        refresh_token=fields.CharField(required=False, help_text="In mode `json` alone."),
    ),
)
SESSIONS = _list(
    "Session",
    id=fields.UUIDField(),
    current=fields.BooleanField(),
    created_at=fields.DateTimeField(),
    refreshed_at=fields.DateTimeField(),
    expires_at=fields.DateTimeField(),
    ip_address=fields.CharField(allow_null=True),
    user_agent=fields.CharField(),
    device=fields.CharField(),
    provider=fields.CharField(allow_null=True),
)
IDENTITIES = _list(
    "Identity",
    id=fields.CharField(),
    provider=fields.CharField(),
    label=fields.CharField(),
    email=fields.CharField(allow_null=True),
    created_at=fields.DateTimeField(),
    last_used_at=fields.DateTimeField(allow_null=True),
)
USER = _object(
    "User",
    id=fields.CharField(),
    email=fields.CharField(required=False),
    first_name=fields.CharField(required=False),
    last_name=fields.CharField(required=False),
    tfa_enabled=fields.BooleanField(),
    last_login=fields.DateTimeField(required=False, allow_null=True),
)
RECOVERY_CODES = _data(
    "RecoveryCodes", _object("RecoveryCodes", recovery_codes=fields.ListField(child=fields.CharField()))
)
NOTHING = {204: None}
REDIRECT = {302: OpenApiResponse(description="To the provider, or back to `redirect`.")}
FLOW = (
    _text(
        "redirect",
        "Where the browser goes at the end: a local path, our own origin, or an entry of the list.",
    ),
    _text("mode", "`json`, `cookie` or `session`."),
)

OPERATIONS: dict[str, dict[str, Operation]] = {
    "LoginView": {"post": Operation(shapes.LoginSerializer, {200: TOKENS}, (400, 401, 403, 429))},
    "RefreshView": {"post": Operation(shapes.RefreshSerializer, {200: TOKENS}, (400, 401, 403, 429, 503))},
    "LogoutView": {"post": Operation(shapes.LogoutSerializer, NOTHING, (400, 403))},
    "ProviderListView": {
        "get": Operation(
            None,
            {
                200: _data(
                    "ProviderList",
                    _list(
                        "Provider",
                        name=fields.CharField(),
                        label=fields.CharField(),
                        driver=fields.CharField(),
                        icon=fields.CharField(allow_null=True),
                    ),
                    disableDefault=fields.BooleanField(),
                )
            },
        )
    },
    "OAuthListView": {
        "get": Operation(
            None,
            {
                200: _data(
                    "ProviderKeys", fields.ListField(child=fields.CharField()), public=fields.BooleanField()
                ),
                **REDIRECT,
            },
            (400, 404),
            (_text("provider", "Starts a log-in with this provider."), *FLOW),
        )
    },
    "OAuthStartView": {"get": Operation(None, REDIRECT, (400, 404, 503), FLOW)},
    "OAuthCallbackView": {
        "get": Operation(
            None,
            {200: TOKENS, **REDIRECT},
            (400, 401, 403, 404, 503),
            (
                _text("state", "Of the flow."),
                _text("code", "Of the provider."),
                _text("iss", "RFC 9207."),
                _text("error", "Of the provider."),
            ),
        ),
        "post": Operation(None, {303: OpenApiResponse(description="To the same path, as GET.")}, (400, 404)),
    },
    "OAuthOTPView": {"post": Operation(shapes.OAuthOTPSerializer, {200: TOKENS}, (400, 401, 404, 429))},
    "OAuthLinkView": {
        "post": Operation(
            shapes.OAuthLinkSerializer,
            {200: _data("Link", _object("Link", url=fields.CharField()))},
            (400, 401, 404),
        )
    },
    "PasswordRequestView": {"post": Operation(shapes.PasswordRequestSerializer, NOTHING, (400, 429))},
    "PasswordResetView": {"post": Operation(shapes.PasswordResetSerializer, NOTHING, (400, 401))},
    "PasswordChangeView": {"post": Operation(shapes.PasswordChangeSerializer, NOTHING, (400, 401, 429))},
    "SessionListView": {
        "get": Operation(None, {200: _data("SessionList", SESSIONS)}, (401,)),
        "delete": Operation(None, NOTHING, (401,)),
    },
    "SessionDetailView": {"delete": Operation(None, NOTHING, (401, 404))},
    "IdentityListView": {"get": Operation(None, {200: _data("IdentityList", IDENTITIES)}, (401,))},
    "IdentityDetailView": {"delete": Operation(None, NOTHING, (400, 401, 404))},
    "UserView": {"get": Operation(None, {200: _data("User", USER)}, (401,))},
    "FactorStatusView": {
        "get": Operation(
            None,
            {
                200: _data(
                    "Factor",
                    _object(
                        "Factor",
                        enabled=fields.BooleanField(),
                        required=fields.BooleanField(),
                        recovery_codes_left=fields.IntegerField(),
                    ),
                )
            },
            (401,),
        )
    },
    "FactorGenerateView": {
        "post": Operation(
            shapes.FactorGenerateSerializer,
            {
                200: _data(
                    "Enrolment",
                    _object(
                        "Enrolment",
                        secret=fields.CharField(),
                        otpauth_url=fields.CharField(),
                        qr_svg=fields.CharField(),
                    ),
                )
            },
            (400, 401, 429),
        )
    },
    "FactorEnableView": {
        "post": Operation(shapes.FactorEnableSerializer, {200: RECOVERY_CODES}, (400, 401, 429))
    },
    "UserFactorEnableView": {"post": Operation(shapes.FactorEnableSerializer, NOTHING, (400, 401, 429))},
    "FactorDisableView": {"post": Operation(shapes.FactorDisableSerializer, NOTHING, (400, 401, 429))},
    "RecoveryCodesView": {
        "post": Operation(shapes.RecoveryCodesSerializer, {200: RECOVERY_CODES}, (400, 401, 429))
    },
    "KeySetView": {
        "get": Operation(
            None,
            {200: _object("KeySet", keys=fields.ListField(child=fields.DictField(child=fields.JSONField())))},
        )
    },
}
"""What each view of `views` takes and gives."""


def _describe(name: str, operations: dict[str, Operation]) -> type[OpenApiViewExtension]:
    """Make the extension of one view."""

    def view_replacement(self: Any) -> Any:
        view: Any = type(
            self.target_class.__name__, (self.target_class,), {"__doc__": self.target_class.__doc__}
        )
        if view.authentication_classes:
            # Those that admit a session before its second factor is set up take the same token.
            view.authentication_classes = [AccessTokenAuthentication]
        for method, operation in operations.items():
            described = extend_schema(
                tags=[TAG],
                request=operation.request,
                responses={**operation.responses, **dict.fromkeys(operation.errors, ERRORS)},
                parameters=list(operation.parameters),
            )
            setattr(view, method, described(_copy_of(getattr(view, method))))
        return view

    attributes = {"target_class": f"platform_auth.views.{name}", "view_replacement": view_replacement}
    return type(f"{name}Extension", (OpenApiViewExtension,), attributes)


def _copy_of(method: Any) -> Any:
    def copied(self: Any, *args: Any, **kwargs: Any) -> Any:
        return method(self, *args, **kwargs)

    copied.__name__, copied.__doc__ = method.__name__, method.__doc__
    return copied


EXTENSIONS = [_describe(name, operations) for name, operations in OPERATIONS.items()]
