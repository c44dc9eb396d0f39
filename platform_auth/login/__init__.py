"""Login: from evidence to a session, the same way for every sign-in method.

A password (`with_password`) and a provider (`providers.flow`) only produce Evidence. Everything that each login must
pass is in `log_in` and `sessions.open_on`, once: the account is active and still what was verified, the second factor
is verified if there is one, and the policy is applied. The one-time password, the session and the event are one
transaction.

Limits are counted before the password is checked, and the one-time password is checked only after it. Every failed
password gets the same response (ASVS 6.3.8).
"""

from __future__ import annotations

from typing import Any

from django.contrib.auth import authenticate
from django.contrib.auth.hashers import check_password
from django.http import HttpRequest
from django.views.decorators.debug import sensitive_variables

from .. import backends, caller, errors, events, limits, sessions, signals
from ..models import AuthEvent
from ..sessions import Evidence, Grant

AXES_RETRY_AFTER = 60
"""Seconds that a client is told to wait if django-axes has locked it out."""


@sensitive_variables()
def with_password(
    request: HttpRequest,
    *,
    email: str,
    password: str,
    otp: str | None = None,
    mode: str = "json",
    replacing: str | None = None,
) -> Grant:
    """Log in the user with this email and password, and one-time password if needed.

    Raises RequestsExceeded, InvalidCredentials or InvalidOTP. A failure of the database costs no attempt.
    """
    attempt = take_attempt(request, email)
    with limits.given_back_on_outage(attempt):
        user = _authenticate(request, email, password)
        # Not `fresh.check_password`, which writes an upgraded hash without checking that the password is still the
        # same, and so could bring an old password back.
        evidence = Evidence(
            user, ("pwd",), otp=otp, still_holds=lambda fresh: check_password(password, fresh.password)
        )
        return log_in(evidence, mode=mode, replacing=replacing, email=email, attempt=attempt, request=request)


@sensitive_variables()
def log_in(
    evidence: Evidence,
    *,
    mode: str = "json",
    replacing: str | None = None,
    email: str = "",
    attempt: limits.LoginAttempt | None = None,
    request: HttpRequest,
) -> Grant:
    """Open a session on evidence. `replacing`: the refresh token whose cookie the response replaces; its session ends.

    `email`: as typed, if it was; `attempt`: what this login has counted. Raises the errors of `sessions.open_on`.
    """
    try:
        grant = sessions.open_on(evidence, mode=mode, replacing=replacing, request=request)
    except (errors.InvalidOTP, errors.RequestsExceeded) as refusal:
        _report_refusal(evidence, refusal, email=email, attempt=attempt, request=request)
        raise
    except errors.InvalidCredentials:
        if not evidence.provider:
            _record_failure(request, email, "credentials")
        raise
    if attempt is not None:
        limits.give_back_login(attempt)
    return grant


def take_attempt(request: HttpRequest, email: str) -> limits.LoginAttempt:
    """Count a login attempt before the password is checked. Raises RequestsExceeded."""
    who = caller.of(request)
    try:
        return limits.take_login(
            email, who, is_familiar=lambda: events.is_familiar(backends.find_by_email(email), who)
        )
    except limits.Limited as limited:
        if limited.is_first:
            events.record(AuthEvent.Kind.LOGIN_LIMITED, who=who, reason="limited")
        events.announce(signals.login_failed, user=None, request=request, email=email, reason="limited")
        raise


@sensitive_variables()
def _authenticate(request: HttpRequest, email: str, password: str) -> Any:
    """Authenticate with `django.contrib.auth.authenticate`, so that the host's other backends (LDAP, django-axes) are
    asked.
    """
    user = authenticate(request, username=email, email=email, password=password)
    if getattr(request, "axes_locked_out", False):
        _record_failure(request, email, "limited")
        raise errors.RequestsExceeded(AXES_RETRY_AFTER)
    if user is None or not user.is_active:
        _record_failure(request, email, "credentials")
        raise errors.InvalidCredentials
    return user


def _record_failure(request: HttpRequest, email: str, reason: str) -> None:
    """Record a failed login. The lookup finds the account for the event, and is done for every address alike."""
    user = backends.find_by_email(email)
    events.record(AuthEvent.Kind.LOGIN_FAILED, user=user, who=caller.of(request), reason=reason)
    events.announce(signals.login_failed, user=user, request=request, email=email, reason=reason)


@sensitive_variables()
def _report_refusal(
    evidence: Evidence,
    refusal: errors.PlatformAuthError,
    *,
    email: str,
    attempt: limits.LoginAttempt | None,
    request: HttpRequest,
) -> None:
    """Record and announce a login that failed because the one-time password was missing or wrong."""
    if evidence.otp is None:
        if evidence.provider:
            # Not a failure: a provider's callback can't carry a code, and the user is asked for it next.
            return
        who = caller.of(request)
        events.record(AuthEvent.Kind.FACTOR_FAILED, user=evidence.user, who=who, reason="missing")
        if attempt is not None:
            limits.give_back_address(attempt)
    events.announce(
        signals.login_failed,
        user=evidence.user,
        request=request,
        email=email,
        reason="otp" if isinstance(refusal, errors.InvalidOTP) else "limited",
    )
