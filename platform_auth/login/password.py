"""Email and password as evidence.

The limits count before the password is looked at, the one-time password is looked at only after the password was
right, and one answer stands for every reason why a password did not do.
"""

from __future__ import annotations

from typing import Any

from django.contrib.auth import authenticate
from django.contrib.auth.hashers import check_password
from django.http import HttpRequest
from django.views.decorators.debug import sensitive_variables

from .. import backends, caller, errors, events, limits, login, signals
from ..models import AuthEvent
from ..sessions import Grant

AXES_RETRY_AFTER = 60


@sensitive_variables()
def log_in(
    request: HttpRequest,
    *,
    email: str,
    password: str,
    otp: str | None = None,
    mode: str = "json",
    replacing: str | None = None,
) -> Grant:
    """Log in the user whose email and password (and one-time password) these are.

    Raises RequestsExceeded, InvalidCredentials or InvalidOTP. A failure of the database costs no attempt.
    """
    attempt = login.take_attempt(request, email)
    with limits.given_back_on_outage(attempt):
        user = _authenticate(request, email, password)
        evidence = login.Evidence(
            user,
            ("pwd",),
            otp=otp,
            # Not `fresh.check_password`: it writes an upgraded hash without looking whether the password was changed
            # meanwhile, and so could bring the old one back.
            confirm=lambda fresh: check_password(password, fresh.password),
            email=email,
            attempt=attempt,
        )
        return login.log_in(evidence, mode=mode, replacing=replacing, request=request)


@sensitive_variables()
def _authenticate(request: HttpRequest, email: str, password: str) -> Any:
    """Ask `django.contrib.auth.authenticate`, so that the host's other backends (LDAP, django-axes) have their say."""
    user = authenticate(request, username=email, email=email, password=password)
    if getattr(request, "axes_locked_out", False):
        _record_failure(request, email, "limited")
        raise errors.RequestsExceeded(AXES_RETRY_AFTER)
    if user is None or not user.is_active:
        _record_failure(request, email, "credentials")
        raise errors.InvalidCredentials
    return user


def _record_failure(request: HttpRequest, email: str, reason: str) -> None:
    """Record a failed log-in. The look-up names the account to its admin, and is done for every address alike."""
    user = backends.find_by_email(email)
    events.record(AuthEvent.Kind.LOGIN_FAILED, user=user, who=caller.of(request), reason=reason)
    events.announce(signals.login_failed, user=user, request=request, email=email, reason=reason)
