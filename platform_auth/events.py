"""Events: a row and a log record for everything that happens, and a signal for some of it.

The `reason` of a failed login: "credentials" (unknown, inactive, or a wrong password), "limited", "missing", "shape",
"code", "recovery code" or "enrolment" (what was wrong with the one-time password), with ", form" or ", by django-otp"
if it happened outside our API. For provider logins, `providers.identities` and
`providers.flow` give the reasons, such as "allowed domains: another domain".

Each event is one INSERT and one record of the logger `platform_auth`, with the facts in `record.event`. It contains
no password, code, token or link. Control characters become U+FFFD, so nobody can forge log lines.
"""

from __future__ import annotations

import hashlib
import logging
from datetime import timedelta
from typing import Any

from django.contrib.auth import get_user_model
from django.contrib.auth.models import Group
from django.contrib.auth.signals import user_logged_in
from django.db import DatabaseError, router, transaction
from django.dispatch import Signal
from django.http import HttpRequest
from django.utils import timezone, translation

from . import caller as callers
from .caller import NOBODY, Caller
from .models import AuthEvent

logger = logging.getLogger("platform_auth")

FAMILIAR_FOR = timedelta(days=30)

_FAMILIAR = (AuthEvent.Kind.LOGGED_IN, AuthEvent.Kind.PASSWORD_RESET)
_WARNINGS = frozenset(
    {
        AuthEvent.Kind.LOGIN_FAILED,
        AuthEvent.Kind.LOGIN_LIMITED,
        AuthEvent.Kind.REFRESH_REUSED,
        AuthEvent.Kind.REFRESH_LIMITED,
        AuthEvent.Kind.RESET_LIMITED,
        AuthEvent.Kind.RESET_FAILED,
        AuthEvent.Kind.FACTOR_FAILED,
        AuthEvent.Kind.FACTOR_LIMITED,
        AuthEvent.Kind.PASSWORD_REFUSED,
    }
)

_proxy_noted = False


def record(
    kind: AuthEvent.Kind,
    *,
    user: Any = None,
    user_id: Any = None,
    who: Caller = NOBODY,
    provider: str = "",
    reason: str = "",
    session_id: object = None,
) -> None:
    """Write an event: one INSERT, one log record. Pass `user_id` instead of `user` if only that is known."""
    _note_ignored_proxy()
    event = AuthEvent(
        kind=kind,
        user_id=user.pk if user is not None else user_id,
        ip_address=who.address,
        network=who.network or "",
        user_agent=callers.without_control(who.user_agent, 512),
        provider=callers.without_control(provider, 64),
        reason=callers.without_control(reason, 200),
        session_digest=session_digest(session_id),
    )
    event.save(force_insert=True)
    facts = {
        "kind": str(kind),
        "user_id": None if event.user_id is None else str(event.user_id),
        "address": event.ip_address,
        "user_agent": event.user_agent,
        "provider": event.provider,
        "reason": event.reason,
        "session": event.session_digest,
        "at": event.created_at.isoformat(),
    }
    logger.log(
        logging.WARNING if kind in _WARNINGS else logging.INFO,
        "%s user=%s address=%s provider=%s reason=%s",
        kind,
        facts["user_id"],
        event.ip_address,
        event.provider,
        event.reason,
        extra={"event": facts},
    )


def record_if_possible(kind: AuthEvent.Kind, **facts: Any) -> None:
    """Write an event about something that Django or the host did. It must not fail, even without a table (between
    migrations).
    """
    try:
        with transaction.atomic(using=router.db_for_write(AuthEvent)):
            record(kind, **{"who": callers.current(), **facts})
    except DatabaseError:
        logger.exception("an event could not be recorded: %s", kind)


def record_elsewhere(*, signal: Signal, request: Any, user: Any, **kwargs: Any) -> None:
    """Record a login or logout outside our API, such as in Django admin. A login makes its address familiar."""
    # Our own signals carry a session, and have recorded their event. `force_login` of a test client sends a request
    # without a method: nobody logged in.
    is_ours, is_sent = "session" in kwargs, getattr(request, "method", None) is not None
    if is_sent and not is_ours and isinstance(user, get_user_model()):
        kind = AuthEvent.Kind.LOGGED_IN if signal is user_logged_in else AuthEvent.Kind.LOGGED_OUT
        record_if_possible(kind, reason="form", user=user, who=callers.of(request))


def record_user_deleted(*, instance: Any, **kwargs: Any) -> None:
    """Record that an account was deleted. It is named in the reason, because there is no user to refer to any more."""
    record_if_possible(AuthEvent.Kind.USER_DELETED, reason=f"user {instance.pk}")


def record_admin_action(*, instance: Any, created: bool, **kwargs: Any) -> None:
    """Record what Django admin logs about a user or a group.

    Admin sends no such signal if many are deleted at once; then each account has an event of its own.
    """
    if not created or instance.content_type is None:
        return
    model = instance.content_type.model_class()
    if model is None or not issubclass(model, get_user_model() | Group):
        return
    # In one language, no matter who did it.
    with translation.override("en"):
        message = instance.get_change_message() or instance.get_action_flag_display()
    what = f"{model._meta.model_name} {instance.object_id}: {message}"
    record_if_possible(AuthEvent.Kind.ADMIN_CHANGED, reason=what, user_id=instance.user_id)


def announce(
    signal: Signal,
    *,
    user: Any,
    request: HttpRequest | None = None,
    who: Caller | None = None,
    **facts: Any,
) -> None:
    """Send a signal to the host's receivers. One that fails is logged and changes nothing."""
    caller = callers.of(request) if who is None else who
    responses = signal.send_robust(
        sender=get_user_model(), user=user, request=request, client=caller, **facts
    )
    log_failures(responses)


def log_failures(responses: list[tuple[Any, Any]]) -> None:
    """Log the receivers that raised an exception in `send_robust`."""
    for receiver, response in responses:
        if isinstance(response, Exception):
            logger.error("the signal receiver %r failed", receiver, exc_info=response)


def is_familiar(user: Any, who: Caller) -> bool:
    """Return whether a user logged in, or completed a reset, from this address within 30 days.

    For None (no such account) the same query runs, so that timing doesn't reveal which accounts exist.
    """
    if who.network is None:
        return False
    since = timezone.now() - FAMILIAR_FOR
    rows = AuthEvent.objects.filter(user=user, kind__in=_FAMILIAR, network=who.network, created_at__gt=since)
    return bool(rows.exists()) and user is not None


def session_digest(session_id: object) -> str:
    """Return how events name a session: by a digest, because they outlive it and must not name a live one."""
    return hashlib.sha256(str(session_id).encode()).hexdigest()[:16] if session_id else ""


def _note_ignored_proxy() -> None:
    """Leave one event about an ignored forwarding header, which `platform_auth_doctor` finds from its own process."""
    global _proxy_noted
    if callers.ignored_forwarding_seen and not _proxy_noted:
        _proxy_noted = True
        if not AuthEvent.objects.filter(kind=AuthEvent.Kind.PROXY_IGNORED).exists():
            AuthEvent.objects.create(kind=AuthEvent.Kind.PROXY_IGNORED)
