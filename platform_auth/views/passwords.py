"""Request a reset link, reset, change: the endpoints and their pages."""

from __future__ import annotations

from typing import Any

from django.http import HttpRequest, HttpResponse
from django.utils.translation import gettext_lazy as _
from rest_framework.request import Request
from rest_framework.response import Response

from .. import errors, passwords
from ..http import pages, shapes
from ..http.endpoint import ApiView, Operation, SignedInView


class PasswordRequestPageFields(shapes.Shape):
    email = shapes.email_field()


class PasswordRequestFields(PasswordRequestPageFields):
    reset_url = shapes.Text(
        max_length=2048,
        required=False,
        help_text=_("Where the link in the email leads: an entry of PASSWORD_RESET_URL_ALLOW_LIST."),
    )


class PasswordResetFields(shapes.Shape):
    token = shapes.Text(max_length=4096)
    password = shapes.password_field()


class PasswordResetPageFields(PasswordResetFields):
    password_again = shapes.password_field()


class PasswordChangeFields(shapes.Shape):
    current_password = shapes.password_field(required=False)
    password = shapes.password_field()
    otp = shapes.otp_field(required=False)


class PasswordRequestView(ApiView):
    """POST /auth/password/request: email a reset link. 204 whether or not the account exists."""

    @Operation(takes=PasswordRequestFields, refuses=[errors.RequestsExceeded])
    def post(self, request: Request) -> Response:
        fields = self.read()
        passwords.request_reset(**fields, request=self.http_request)
        return self.answer()


class PasswordResetView(ApiView):
    """POST /auth/password/reset: set a password with the token of a link. Logs nobody in."""

    @Operation(
        takes=PasswordResetFields, refuses=[errors.InvalidToken, errors.TokenExpired, errors.FailedValidation]
    )
    def post(self, request: Request) -> Response:
        fields = self.read()
        passwords.reset(fields["token"], fields["password"], request=self.http_request)
        return self.answer()


class PasswordChangeView(SignedInView):
    """POST /auth/password/change: replace the current password. Every other session ends."""

    @Operation(
        takes=PasswordChangeFields,
        refuses=[errors.InvalidOTP, errors.FailedValidation, errors.RequestsExceeded],
    )
    def post(self, request: Request) -> Response:
        fields = self.read()
        passwords.change(self.session, **fields, request=self.http_request)
        return self.answer()


class PasswordRequestPageView(pages.PageView):
    """GET and POST /auth/password/request/page: the form to request a reset link."""

    template_name = "platform_auth/password_request.html"
    takes = PasswordRequestPageFields

    def get(self, request: HttpRequest) -> HttpResponse:
        return self.page()

    def post(self, request: HttpRequest) -> HttpResponse:
        fields = self.read()
        passwords.request_reset(fields["email"], request=request)
        return self.page(done=True)

    def refusal(self, error: errors.PlatformAuthError) -> HttpResponse:
        if isinstance(error, errors.InvalidPayload | errors.RequestsExceeded):
            email = self.typed.get("email", "")
            return self.page(status=error.status_code, messages=pages.messages_of(error), email=email)
        return super().refusal(error)


class PasswordResetPageView(pages.PageView):
    """GET and POST /auth/password/reset/page?token=: the form that a reset link opens."""

    template_name = "platform_auth/password_reset.html"
    can_retry = False
    takes = PasswordResetPageFields

    def get(self, request: HttpRequest) -> HttpResponse:
        return self.form(self.query.get("token", ""))

    def post(self, request: HttpRequest) -> HttpResponse:
        fields = self.read()
        pages.require_repeated(fields, "password")
        passwords.reset(fields["token"], fields["password"], request=request)
        return self.page(done=True)

    def form(self, raw_token: str, *, status: int = 200, **context: Any) -> HttpResponse:
        """Render the form of a valid link. Raises TokenExpired, InvalidToken."""
        account = passwords.check_link(raw_token)
        return self.page(status=status, token=raw_token, account=account, rules=passwords.rules(), **context)

    def refusal(self, error: errors.PlatformAuthError) -> HttpResponse:
        token, status, messages = self.typed.get("token", ""), error.status_code, pages.messages_of(error)
        if isinstance(error, errors.FailedValidation | errors.InvalidPayload):
            return self.form(token, status=status, messages=messages)
        if isinstance(error, errors.TokenRefused):
            return self.page(status=status, dead=error.code)
        if token and status >= 500:
            # Without checking the link: what the check needs may be what is down.
            return self.page(status=status, token=token, messages=messages)
        return super().refusal(error)
