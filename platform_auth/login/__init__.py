"""Who you are: e-mail, password and one-time password, in that order.

The limits count before the password is looked at, the one-time password is looked at only after the password was
right, and one answer stands for every reason why a password did not do.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any, NamedTuple

from django.contrib.auth import authenticate as django_authenticate
from django.contrib.auth.hashers import check_password
from django.http import HttpRequest
from django.utils import timezone
from django.utils.translation import gettext as _
from django.views.decorators.debug import sensitive_variables

from .. import backends, caller, db, errors, events, limits, signals
from ..models import AuthEvent, RefreshSession
from ..second_factor import verification

RECENT = timedelta(minutes=10)
"""How old a log-in may be to stand in for the password of an account that has none."""
AXES_RETRY_AFTER = 60


class Verified(NamedTuple):
    """A user who has shown who they are, and how (`amr`, RFC 8176); `spent`: the one-time password that it took.

    `confirm` tells whether a fresh copy of the user still has the password that was right, so that an upgraded hash
    counts as the same one and a changed password does not.
    """

    user: Any
    amr: tuple[str, ...]
    confirm: Callable[[Any], bool]
    spent: verification.Spent | None = None


@sensitive_variables()
def authenticate(request: HttpRequest, *, email: str, password: str, otp: str | None = None) -> Verified:
    """Return the user whose e-mail and password (and one-time password) these are.

    Raises RequestsExceeded, InvalidCredentials or InvalidOTP. Goes through `django.contrib.auth.authenticate`, so
    the host's other backends (LDAP, django-axes) have their say.
    """
    who = caller.of(request)
    attempt = _take_login(request, email, who)
    with db.compensated(lambda: limits.return_login(attempt)):
        user = django_authenticate(request, username=email, email=email, password=password)
    if getattr(request, "axes_locked_out", False):
        _record_failure(request, email, who, "limited")
        raise errors.RequestsExceeded(AXES_RETRY_AFTER)
    if user is None or not user.is_active:
        _record_failure(request, email, who, "credentials")
        raise errors.InvalidCredentials
    amr: tuple[str, ...] = ("pwd",)
    spent = None
    if verification.of(user):
        try:
            spent = verification.verify_at_login(user, otp, email=email, request=request)
        except errors.InvalidOTP:
            if otp is None:
                limits.give_back_address(attempt)
            raise
        amr = ("pwd", "otp")
    limits.give_back_login(attempt)
    # Not `fresh.check_password`, here and below: it writes an upgraded hash without looking whether the password was
    # changed meanwhile, and so could bring the old one back.
    return Verified(user, amr, lambda fresh: check_password(password, fresh.password), spent)


@sensitive_variables()
def confirm(
    request: HttpRequest, session: RefreshSession, *, password: str | None, field: str = "password"
) -> None:
    """Let a signed-in user show again who they are.

    By the password, counted by the limits of log-in; an account without one by a log-in under ten minutes old.
    Raises InvalidPayload (no password where one is needed), RequestsExceeded or InvalidCredentials.
    """
    user = session.user
    who = caller.of(request)
    if not user.has_usable_password():
        if timezone.now() - session.created_at >= RECENT:
            raise errors.InvalidCredentials
        return
    if password is None:
        raise errors.InvalidPayload(_("This field is required."), field=field)
    attempt = _take_login(request, getattr(user, user.get_email_field_name()) or str(user.pk), who)
    if not check_password(password, user.password):
        events.record(AuthEvent.Kind.PASSWORD_REFUSED, user=user, who=who, session_id=session.id)
        raise errors.InvalidCredentials
    limits.give_back_login(attempt)


def _take_login(request: HttpRequest, email: str, who: caller.Caller) -> limits.LoginAttempt:
    try:
        return limits.take_login(email, who, is_familiar=lambda: events.is_familiar(email, who))
    except limits.Limited as limited:
        if limited.is_first:
            events.record(AuthEvent.Kind.LOGIN_LIMITED, who=who, reason="limited")
        events.announce(
            signals.login_failed, user=None, request=request, who=who, email=email, reason="limited"
        )
        raise


def _record_failure(request: HttpRequest, email: str, who: caller.Caller, reason: str) -> None:
    """Record a failed log-in. The look-up names the account to its admin, and is done for every address alike."""
    user = backends.find_by_email(email)
    events.record(AuthEvent.Kind.LOGIN_FAILED, user=user, who=who, reason=reason)
    events.announce(signals.login_failed, user=user, request=request, who=who, email=email, reason=reason)
