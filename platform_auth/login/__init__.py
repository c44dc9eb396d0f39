"""One way in for every kind of proof: evidence -> Grant.

A password (`password`) and a provider (`providers.flow`) are sources of Evidence and nothing more. What every login
has to pass stands here and in `sessions.open`, once: the account is active and is still what was verified, a second
factor is shown where there is one, the policy is judged, and the code, the session and the event are one transaction.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from django.http import HttpRequest
from django.views.decorators.debug import sensitive_variables

from .. import caller, errors, events, limits, sessions, signals
from ..models import AuthEvent
from ..sessions import Grant


class Evidence(NamedTuple):
    """Who has shown who they are, and how; what a session is opened on.

    `amr`: by which methods (RFC 8176), without the one-time password. `otp`: the one-time password that is to be
    spent. `factor_satisfied`: a second factor that is not ours was shown. What must still hold when the session is
    written: `confirm` tells whether a fresh copy of the user still is what was verified; `once` raises where this
    evidence was used before. `email`: as typed, if it was. `attempt`: what the login took of its limits.
    """

    user: Any
    amr: tuple[str, ...]
    provider: str = ""
    otp: str | None = None
    factor_satisfied: bool = False
    confirm: Callable[[Any], bool] | None = None
    once: Callable[[], None] | None = None
    email: str = ""
    attempt: limits.LoginAttempt | None = None

    def __repr__(self) -> str:
        return f"<Evidence of {' and '.join(self.amr)}>"


@sensitive_variables()
def log_in(
    evidence: Evidence, *, mode: str = "json", replacing: str | None = None, request: HttpRequest
) -> Grant:
    """Open a session on evidence. `replacing`: the refresh token whose cookie the answer replaces; its session ends.

    Raises InvalidOTP (the user has a second factor and it is missing or wrong), RequestsExceeded,
    InvalidCredentials (the password changed, or the user was deactivated, meanwhile).
    """
    try:
        grant = sessions.open(
            evidence.user,
            request=request,
            mode=mode,
            amr=evidence.amr,
            provider=evidence.provider,
            otp=evidence.otp,
            factor_satisfied=evidence.factor_satisfied,
            confirm=evidence.confirm,
            once=evidence.once,
            replacing=replacing,
        )
    except (errors.InvalidOTP, errors.RequestsExceeded) as refusal:
        _tell_refusal(evidence, refusal, request)
        raise
    if evidence.attempt is not None:
        limits.give_back_login(evidence.attempt)
    return grant


def take_attempt(request: HttpRequest, email: str) -> limits.LoginAttempt:
    """Count an attempt at an account before its password is looked at. Raises RequestsExceeded."""
    who = caller.of(request)
    try:
        return limits.take_login(email, who, is_familiar=lambda: events.is_familiar(email, who))
    except limits.Limited as limited:
        if limited.is_first:
            events.record(AuthEvent.Kind.LOGIN_LIMITED, who=who, reason="limited")
        events.announce(signals.login_failed, user=None, request=request, email=email, reason="limited")
        raise


@sensitive_variables()
def _tell_refusal(evidence: Evidence, refusal: errors.PlatformAuthError, request: HttpRequest) -> None:
    if evidence.otp is None:
        if evidence.provider:
            # No failure: the callback of a provider cannot bring a code, and asks for it next.
            return
        events.record(
            AuthEvent.Kind.FACTOR_FAILED, user=evidence.user, who=caller.of(request), reason="missing"
        )
        if evidence.attempt is not None:
            limits.give_back_address(evidence.attempt)
    events.announce(
        signals.login_failed,
        user=evidence.user,
        request=request,
        email=evidence.email,
        reason="otp" if isinstance(refusal, errors.InvalidOTP) else "limited",
    )
