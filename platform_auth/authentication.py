"""DRF authentication classes: from an access token to `request.user` and `request.auth`.

A request without a token is anonymous. A bad token is 401 and never degrades to the public role.
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
    """Authenticate by access token, looking up its session and user in one SQL statement.

    Revocation and deactivation therefore take effect immediately. `request.auth` is the RefreshSession. Raises
    TokenExpired, InvalidToken, InvalidPayload, Forbidden, or TFARequired if the session must set up a second factor
    first.
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
    """The same, but also admits a session whose user still has to set up a second factor."""

    admits_before_enrolment = True


class StatelessAccessTokenAuthentication(BaseAuthentication):
    """Authenticate by access token alone, without any SQL: a revoked session works until its access token expires.

    `request.user` has its primary key; other fields are loaded when first used. `request.auth` is `tokens.Claims`.
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
    """Return the access token of a request, and add what it depends on to the response's `Vary`.

    Otherwise a shared cache could serve one user's response to another, or to anyone.
    """
    headers = getattr((request.parser_context or {}).get("view"), "headers", None)
    if headers is not None:
        # DRF adds these headers to the response.
        headers["Vary"] = ", ".join(filter(None, [headers.get("Vary"), "Authorization", "Cookie"]))
    return cookies.read_access_token(request._request)


def _deferred_user(user_id: str) -> Any:
    """Return a user that only has its primary key. If the user is gone, loading another field raises InvalidToken."""
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
