"""Log in, refresh, log out."""

from __future__ import annotations

from typing import Any

from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from .. import errors, login, sessions
from ..conf import conf
from ..http import cookies, shapes
from ..http.endpoint import ApiView, Operation
from ..sessions import Grant


class LoginFields(shapes.Shape):
    email = shapes.email_field()
    password = shapes.password_field()
    mode = shapes.mode_field()
    otp = shapes.otp_field(required=False)


class RefreshFields(shapes.Shape):
    refresh_token = shapes.AnyText(required=False)
    mode = shapes.mode_field()


class Tokens(shapes.Shape):
    access_token = serializers.CharField(required=False, help_text="Not in mode `session`.")
    expires = serializers.IntegerField(
        help_text="The life of the access token in seconds, or in milliseconds (EXPIRES_UNIT)."
    )
    refresh_token = serializers.CharField(required=False, help_text="Only in mode `json`.")

    def to_representation(self, grant: Grant) -> dict[str, Any]:
        """Return what the body contains in the grant's mode."""
        body: dict[str, Any] = {} if grant.mode == "session" else {"access_token": grant.access_token}
        body["expires"] = grant.expires_in * (1000 if conf.EXPIRES_UNIT == "milliseconds" else 1)
        if grant.mode == "json":
            body["refresh_token"] = grant.refresh_token
        return body


class TokensView(ApiView):
    """The base of endpoints that answer with tokens."""

    def replaced_token(self, mode: str) -> str | None:
        """Return the refresh token whose cookie a response in this mode replaces.

        Raises Forbidden if it would set cookies for a page of another origin.
        """
        return None if mode == "json" else cookies.replaced_token(self.http_request)

    def answer(self, value: Any = None, **extra: Any) -> Response:
        """Answer with a grant: with the body and the cookies of its mode."""
        response = super().answer(value, **extra)
        if value.mode != "json":
            cookies.set_cookies(self.http_request, response, value)
        return response


class LoginView(TokensView):
    """POST /auth/login: email, password and one-time password for an access and a refresh token."""

    refuses = (*TokensView.refuses, errors.RouteNotFound)

    def initial(self, request: Request, *args: Any, **kwargs: Any) -> None:
        if not conf.PASSWORD_LOGIN:
            raise errors.RouteNotFound
        super().initial(request, *args, **kwargs)

    @Operation(
        takes=LoginFields,
        gives=Tokens(),
        refuses=[errors.InvalidCredentials, errors.InvalidOTP, errors.Forbidden, errors.RequestsExceeded],
    )
    def post(self, request: Request) -> Response:
        fields = self.read()
        replacing = self.replaced_token(fields.get("mode", "json"))
        return self.answer(login.with_password(self.http_request, replacing=replacing, **fields))


class RefreshView(TokensView):
    """POST /auth/refresh: rotate the refresh token in the body or cookie; a new access token."""

    @Operation(
        takes=RefreshFields,
        gives=Tokens(),
        refuses=[errors.InvalidCredentials, errors.UserSuspended, errors.Forbidden, errors.RequestsExceeded],
    )
    def post(self, request: Request) -> Response:
        fields = self.read()
        presented = cookies.require_refresh_token(self.http_request, fields)
        grant = sessions.rotate(
            presented.raw_token,
            mode=fields.get("mode"),
            from_cookie=presented.from_cookie,
            request=self.http_request,
        )
        return self.answer(grant)


class LogoutView(ApiView):
    """POST /auth/logout: end the session of a refresh token. 204 even for an unknown token."""

    @Operation(takes=RefreshFields, refuses=[errors.Forbidden])
    def post(self, request: Request) -> Response:
        fields = self.read()
        for raw_token in cookies.tokens_to_end(self.http_request, fields):
            sessions.end(raw_token, request=self.http_request)
        return cookies.respond_to_logout(self.http_request)
