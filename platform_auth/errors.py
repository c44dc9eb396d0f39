"""Every error that a client can tell apart, and the one place that renders them.

PlatformAuthError
    InvalidPayload              400  a field is missing or malformed
    FailedValidation            400  a password validator refused
    InvalidCredentials          401  wrong password, unknown account or invalid refresh token
    InvalidOTP                  401  the one-time password is missing or wrong
    UserSuspended               401  the user is no longer active
    TokenRefused
        TokenExpired            401  an access or reset token past its time
        InvalidToken            401  an access or reset token that is invalid
    Forbidden                   403  not allowed, or a cookie used from another origin
    TFARequired                 403  a second factor must be set up first
    InvalidProvider             403  a provider account that can't be used to sign in
    RouteNotFound               404
    MethodNotAllowed            405
    ContentTooLarge             413
    UnsupportedMediaType        415
    RequestsExceeded            429
    InternalServerError         500
    ServiceUnavailable          503  an identity provider or the database cannot be reached
    HostError                        any other error of a host's view, with its own status and code
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, ClassVar

from django.core.exceptions import BadRequest, PermissionDenied, SuspiciousOperation
from django.db import InterfaceError, OperationalError
from django.http import Http404
from django.utils.functional import Promise
from django.utils.translation import gettext_lazy as _
from rest_framework import exceptions as drf

if TYPE_CHECKING:
    from rest_framework.response import Response

logger = logging.getLogger("platform_auth")

Entry = dict[str, Any]
"""One error as the client sees it: {"message": str, "extensions": {"code": str, ...}}."""


class PlatformAuthError(drf.APIException):
    """Base of all errors. Not raised itself: each subclass is one response of the contract."""

    code: ClassVar[str]
    message: ClassVar[str | Promise]
    auth_header: str | None = None
    """The value of the WWW-Authenticate header, if the response has one."""
    session_over: bool = False
    """Whether the session of the token has certainly ended, so that its cookies may be cleared."""
    keeps_changes: bool = False
    """Whether what was written before it is kept, such as a counted attempt: see `db.in_transaction`."""

    def __init__(self, message: str | Promise | None = None, **extensions: Any) -> None:
        super().__init__(detail=str(message or self.message), code=self.code)
        self.text = message or self.message
        self.extensions = extensions

    @property
    def entries(self) -> list[Entry]:
        """The entries of the response, one or several."""
        return [{"message": str(self.text), "extensions": {"code": self.code, **self.extensions}}]

    @property
    def headers(self) -> dict[str, str]:
        return {"WWW-Authenticate": self.auth_header} if self.auth_header else {}


class InvalidPayload(PlatformAuthError):
    """A field of the request is missing or malformed; `field` names it, `reason` says what is wrong."""

    status_code = 400
    code = "INVALID_PAYLOAD"
    message = _("The request is invalid.")

    def __init__(
        self, reason: str | Promise, *, field: str | None = None, others: Iterable[InvalidPayload] = ()
    ) -> None:
        where = {"field": field} if field else {}
        text = _('"%(field)s": %(reason)s') % {"field": field, "reason": reason} if field else reason
        super().__init__(text, **where, reason=str(reason))
        self.others = tuple(others)

    @classmethod
    def of_fields(cls, reasons: Iterable[tuple[str, str]]) -> InvalidPayload:
        """Make one error from (field, reason) pairs; at least one is needed."""
        first, *others = (cls(reason, field=field) for field, reason in reasons)
        first.others = tuple(others)
        return first

    @property
    def entries(self) -> list[Entry]:
        return super().entries + [entry for error in self.others for entry in error.entries]


class FailedValidation(PlatformAuthError):
    """A password validator of the host refused: one entry per broken rule. The password is never repeated."""

    status_code = 400
    code = "FAILED_VALIDATION"
    message = _("The password doesn't meet the requirements.")

    def __init__(self, broken: Iterable[tuple[str, str]]) -> None:
        super().__init__()
        self.broken = list(broken)

    @property
    def entries(self) -> list[Entry]:
        return [
            {"message": message, "extensions": {"code": self.code, "field": "password", "type": kind}}
            for kind, message in self.broken
        ]


class InvalidCredentials(PlatformAuthError):
    """Wrong password, unknown account, invalid refresh token: one response for all."""

    status_code = 401
    code = "INVALID_CREDENTIALS"
    message = _("Invalid user credentials.")

    def __init__(self, *, session_over: bool = False, challenge: bool = False) -> None:
        super().__init__()
        self.session_over = session_over
        if challenge:
            self.auth_header = "Bearer"


class InvalidOTP(PlatformAuthError):
    """The password was right; the one-time password is missing or wrong."""

    status_code = 401
    code = "INVALID_OTP"
    message = _("The one-time password is missing or incorrect.")
    keeps_changes = True


class UserSuspended(PlatformAuthError):
    """A refresh by a user who is no longer active. Their sessions have ended."""

    status_code = 401
    code = "USER_SUSPENDED"
    message = _("This user account is inactive.")
    session_over = True


class TokenRefused(PlatformAuthError):
    """Base of the two errors of access and reset tokens. Not raised itself."""

    status_code = 401
    code = "INVALID_TOKEN"
    message = _("The token is invalid.")

    def __init__(self, *, challenge: bool = False) -> None:
        super().__init__()
        if challenge:
            self.auth_header = 'Bearer error="invalid_token"'


class TokenExpired(TokenRefused):
    """An access or reset token past its time."""

    code = "TOKEN_EXPIRED"
    message = _("The token has expired.")


class InvalidToken(TokenRefused):
    """An access or reset token that isn't ours, was altered, used or superseded, or whose session or user is gone."""


class Forbidden(PlatformAuthError):
    """Authenticated but not allowed, or a cookie used from another origin."""

    status_code = 403
    code = "FORBIDDEN"
    message = _("You don't have permission to do this.")


class TFARequired(PlatformAuthError):
    """This user must have a second factor and has none yet."""

    status_code = 403
    code = "TFA_REQUIRED"
    message = _("Set up a second factor first.")


class InvalidProvider(PlatformAuthError):
    """A provider account that can't be used to sign in."""

    status_code = 403
    code = "INVALID_PROVIDER"
    message = _("This provider account can't be used to sign in here.")


class RouteNotFound(PlatformAuthError):
    """Nothing exists at this URL, or nothing that belongs to the caller."""

    status_code = 404
    code = "ROUTE_NOT_FOUND"
    message = _("Nothing was found at this URL.")


class MethodNotAllowed(PlatformAuthError):
    """The endpoint does not offer this method."""

    status_code = 405
    code = "METHOD_NOT_ALLOWED"
    message = _("This method is not allowed.")


class ContentTooLarge(PlatformAuthError):
    """The request body is larger than 64 KiB."""

    status_code = 413
    code = "CONTENT_TOO_LARGE"
    message = _("The request body is too large.")


class UnsupportedMediaType(PlatformAuthError):
    """The request body has a media type or encoding that the endpoint doesn't read."""

    status_code = 415
    code = "UNSUPPORTED_MEDIA_TYPE"
    message = _("Send the request body as application/json, encoded in UTF-8.")


class RequestsExceeded(PlatformAuthError):
    """Too many requests. `retry_after` is in whole seconds."""

    status_code = 429
    code = "REQUESTS_EXCEEDED"
    message = _("Too many requests. Please try again later.")
    keeps_changes = True

    def __init__(self, retry_after: int) -> None:
        super().__init__(retry_after=max(1, retry_after))

    @property
    def headers(self) -> dict[str, str]:
        return {"Retry-After": str(self.extensions["retry_after"])}


class InternalServerError(PlatformAuthError):
    """An unexpected error; the log has the details."""

    status_code = 500
    code = "INTERNAL_SERVER_ERROR"
    message = _("An unexpected error occurred.")


class ServiceUnavailable(PlatformAuthError):
    """An identity provider or the database can't be reached. No attempt, code or token was used up."""

    status_code = 503
    code = "SERVICE_UNAVAILABLE"
    message = _("The service is temporarily unavailable.")


class HostError(PlatformAuthError):
    """An exception of DRF or the host that the contract doesn't know. It keeps its status, code and text."""

    code: str  # type: ignore[misc]

    def __init__(self, exc: drf.APIException) -> None:
        self.message, self.code = str(exc.detail), str(exc.default_code).upper()  # type: ignore[misc]
        super().__init__()
        self.status_code = exc.status_code


def translate(exc: Exception) -> PlatformAuthError | None:
    """Return an exception as one of our errors, or None if it is unexpected."""
    match exc:
        case PlatformAuthError():
            return exc
        case drf.NotAuthenticated() | drf.AuthenticationFailed():
            return InvalidCredentials(challenge=True)
        case drf.PermissionDenied() | PermissionDenied():
            return Forbidden()
        case drf.NotFound() | Http404():
            return RouteNotFound()
        case drf.MethodNotAllowed():
            return MethodNotAllowed()
        case drf.UnsupportedMediaType():
            return UnsupportedMediaType()
        case drf.Throttled():
            return RequestsExceeded(math.ceil(getattr(exc, "wait", None) or 1))
        case drf.ValidationError():
            return InvalidPayload.of_fields(_reasons(exc.detail))
        case drf.ParseError() | SuspiciousOperation() | BadRequest():
            return InvalidPayload(_("The request could not be read."))
        case drf.APIException() if exc.status_code != 500:
            return HostError(exc)
        case drf.APIException():
            return InternalServerError()
        case OperationalError() | InterfaceError() if not _is_schema_error(exc):
            logger.error("the database did not answer", exc_info=exc)
            return ServiceUnavailable()
        case _:
            return None


def render(error: PlatformAuthError) -> Response:
    """Return the response for an error."""
    # Imported here because capabilities import this module and never build responses.
    from rest_framework.response import Response

    return Response({"errors": error.entries}, status=error.status_code, headers=error.headers)


def exception_handler(exc: Exception, context: dict[str, Any]) -> Response | None:
    """Return errors of a host's own views in the same shape (DRF's EXCEPTION_HANDLER setting).

    Unexpected exceptions go on to Django.
    """
    from rest_framework.views import set_rollback

    error = translate(exc)
    if error is None:
        return None
    response = render(error)
    if isinstance(exc, drf.MethodNotAllowed) and (view := context.get("view")):
        response.headers["Allow"] = ", ".join(view.allowed_methods)
    set_rollback()
    return response


def _is_schema_error(exc: Exception) -> bool:
    """Return whether the database reports a missing table or column: a programming error, not an outage.

    SQLite and MySQL have no exception of their own for that; 1054 and 1146 are MySQL's codes.
    """
    cause = exc.__cause__ or exc
    code = cause.args[0] if cause.args else None
    return code in (1054, 1146) or any(text in str(cause) for text in ("no such ", "has no column"))


def _reasons(detail: Any, field: str = "") -> list[tuple[str, str]]:
    """Flatten the nested lists and dicts of a DRF ValidationError into (field, reason) pairs."""
    if isinstance(detail, dict):
        pairs = [
            pair
            for key, value in detail.items()
            for pair in _reasons(value, f"{field}.{key}" if field else str(key))
        ]
    elif isinstance(detail, list):
        pairs = [pair for value in detail for pair in _reasons(value, field)]
    else:
        pairs = [(field, str(detail))]
    return pairs or [(field, str(_("This value is invalid.")))]
