"""DRF authentication: an access token into `request.user` and `request.auth`.

No token leaves the request anonymous; a bad one is 401 and never degrades to the public role.
"""

from __future__ import annotations

from typing import Any

from django.contrib.auth import get_user_model
from django.core.exceptions import ObjectDoesNotExist, ValidationError
from django.views.decorators.debug import sensitive_variables
from rest_framework.authentication import BaseAuthentication
from rest_framework.request import Request

from . import errors, sessions
from .http import cookies
from .models import RefreshSession
from .sessions import tokens


class AccessTokenAuthentication(BaseAuthentication):
    """Look the session up, joined with its user: one statement, which sees revocation and deactivation at once.

    `request.auth` is the RefreshSession. Raises TokenExpired, InvalidToken, InvalidPayload, Forbidden, or TFARequired
    for a session that must set up a second factor first.
    """

    admits_before_enrolment = False

    @sensitive_variables()
    def authenticate(self, request: Request) -> tuple[Any, RefreshSession] | None:
        raw_token = _read(request)
        if raw_token is None:
            return None
        claims = tokens.verify_access_token(raw_token)
        session = sessions.find_live(claims.session_id)
        if str(session.user_id) != claims.user_id:
            raise errors.InvalidToken(challenge=True)
        if session.tfa_required and not self.admits_before_enrolment:
            raise errors.TFARequired
        return session.user, session

    def authenticate_header(self, request: Request) -> str:
        return "Bearer"


class EnrolmentAuthentication(AccessTokenAuthentication):
    """The same for the endpoints that a session may use before its user has set up a second factor."""

    admits_before_enrolment = True


class StatelessAccessTokenAuthentication(BaseAuthentication):
    """Believe the token: no statement, and a revoked session lives until its access token expires.

    `request.user` holds its primary key; any other field is loaded when first used. `request.auth` is
    `tokens.Claims`.
    """

    @sensitive_variables()
    def authenticate(self, request: Request) -> tuple[Any, tokens.Claims] | None:
        raw_token = _read(request)
        if raw_token is None:
            return None
        claims = tokens.verify_access_token(raw_token)
        if claims.tfa_required:
            raise errors.TFARequired
        return _deferred_user(claims.user_id), claims

    def authenticate_header(self, request: Request) -> str:
        return "Bearer"


def _read(request: Request) -> str | None:
    """Return the access token of a request, and have the answer say what it depends on.

    Without `Vary` a shared cache would give what one user's cookie opened to the next, or to nobody.
    """
    headers = getattr((request.parser_context or {}).get("view"), "headers", None)
    if headers is not None:
        # DRF adds what stands here to the answer's own `Vary`.
        headers["Vary"] = ", ".join(filter(None, [headers.get("Vary"), "Authorization", "Cookie"]))
    return cookies.read_access_token(request._request)


def _deferred_user(user_id: str) -> Any:
    """Return a user of which only the primary key is there; a deleted one is refused when more is asked for."""
    user_model = get_user_model()
    primary_key = user_model._meta.pk
    try:
        user = user_model.from_db(None, [primary_key.attname], [primary_key.to_python(user_id)])
    except ValidationError:
        raise errors.InvalidToken(challenge=True) from None
    load = user.refresh_from_db

    def load_or_refuse(*args: Any, **kwargs: Any) -> None:
        try:
            load(*args, **kwargs)
        except ObjectDoesNotExist:
            raise errors.InvalidToken(challenge=True) from None

    user.refresh_from_db = load_or_refuse  # type: ignore[method-assign]
    return user
