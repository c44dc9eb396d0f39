"""Verify a user's second factor: is there one, is one required, is this one-time password right.

`verify` is called only for someone who has passed the password or the provider, or is signed in, so nobody else can
use up its limit (`LIMITS["otp"]`). This limit replaces django-otp's throttle, whose delay doubles without end.
Recovery codes aren't limited and are stored as plain SHA-256 digests: with 80 random bits there is nothing to guess,
and a slow hash would add nothing.

A code is spent in the caller's transaction (`db.in_transaction`): if what it was needed for fails, it isn't spent. A
refusal keeps its count and its event (`errors.PlatformAuthError.keeps_changes`).
"""

from __future__ import annotations

import hashlib
import logging
import math
import re
from typing import Any, NoReturn

from django.db import transaction
from django.db.models import F
from django.utils import timezone
from django.utils.crypto import get_random_string
from django.views.decorators.debug import sensitive_variables

from .. import caller, db, errors, events, limits
from ..caller import NOBODY, Caller
from ..conf import conf
from ..mail import messages
from ..models import AuthEvent, FailedCode, RecoveryCode, TOTPFactor
from . import totp

logger = logging.getLogger("platform_auth")

RECOVERY_CODES = 10
_GROUPS, _GROUP_LENGTH = 4, 4
# Crockford's base32 has no I, L, O or U. Sixteen characters are 80 bits and easy to read from paper.
_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"
_READ_AS = str.maketrans("ilo", "110")
_RECOVERY_SHAPE = re.compile(r"[0-9A-Za-z]{4}(?:-?[0-9A-Za-z]{4}){3}")


def is_enrolled(user: Any) -> bool:
    """Return whether a user has a confirmed factor."""
    return bool(TOTPFactor.objects.filter(user_id=user.pk, confirmed=True).exists())


def is_required_for(user: Any) -> bool:
    """Return whether a policy requires a second factor of this user. Runs SQL only for TFA_REQUIRED_GROUPS: one
    query.
    """
    if conf.TFA_REQUIRED_FOR_STAFF and getattr(user, "is_staff", False):
        return True
    names = conf.TFA_REQUIRED_GROUPS
    groups = getattr(user, "groups", None)
    return bool(names) and groups is not None and groups.filter(name__in=names).exists()


def recovery_codes_left(user: Any) -> int:
    return RecoveryCode.objects.good().filter(user_id=user.pk).count()


@sensitive_variables()
def verify(user: Any, otp: str | None, *, who: Caller = NOBODY) -> None:
    """Spend a one-time password or a recovery code of a user, in the caller's transaction.

    Raises InvalidOTP or RequestsExceeded. Only six digits count as an attempt; a missing code, or something that is
    neither a code nor a recovery code, is refused without being counted.
    """
    factor = TOTPFactor.objects.select_for_update().filter(user_id=user.pk, confirmed=True).first()
    if otp is None or factor is None:
        _refuse(user, who, "missing")
    if totp.has_shape(otp):
        _spend(factor, user, otp, who, "code")
    elif _RECOVERY_SHAPE.fullmatch(otp):
        _spend_recovery_code(user, otp, who)
    else:
        _refuse(user, who, "shape")


@sensitive_variables()
def verify_enrolment(user: Any, secret: str, otp: str, *, who: Caller = NOBODY) -> int:
    """Return the time step of a code for a secret that isn't on yet. Counts and raises as `verify` does.

    Runs in a transaction that has locked the user's row, because there is no factor yet whose row could be locked.
    """
    if not totp.has_shape(otp):
        _refuse(user, who, "shape")
    _refuse_over_limit(user, who)
    step = totp.matching_step(secret, otp, at=timezone.now().timestamp())
    if step is None:
        _refuse_wrong(user, who, "enrolment")
    return step


def may_try(user: Any) -> bool:
    """Return whether a one-time password of a user would be checked now."""
    return not limits.otp_wait(user)


@sensitive_variables()
def verify_elsewhere(factor: TOTPFactor, otp: str) -> bool:
    """Spend a one-time password that comes through django-otp (its admin site's form, a host's view), with the same
    limits.

    django-otp doesn't pass the request, so the caller is taken from the current one.
    """
    try:
        _spend_elsewhere(factor, otp)
    except (errors.InvalidOTP, errors.RequestsExceeded):
        return False
    return True


@sensitive_variables()
def new_recovery_codes() -> list[str]:
    """Return ten new recovery codes in plain text, such as "xxxx-xxxx-xxxx-xxxx"."""
    return [
        "-".join(get_random_string(_GROUP_LENGTH, _ALPHABET) for _ in range(_GROUPS))
        for _ in range(RECOVERY_CODES)
    ]


@sensitive_variables()
def replace_recovery_codes(user: Any, raw_codes: list[str]) -> None:
    """Replace a user's recovery codes, in the caller's transaction."""
    RecoveryCode.objects.filter(user_id=user.pk).delete()
    RecoveryCode.objects.bulk_create(
        [RecoveryCode(user=user, digest=_digest(user, raw)) for raw in raw_codes]
    )


@sensitive_variables()
def _spend(factor: TOTPFactor, user: Any, code: str, who: Caller, reason: str) -> None:
    """Spend a code of a factor whose row is locked."""
    _refuse_over_limit(user, who)
    if not factor.spend(code):
        _refuse_wrong(user, who, reason)


@sensitive_variables()
@db.in_transaction
def _spend_elsewhere(factor: TOTPFactor, otp: str) -> None:
    who = caller.current()
    if not totp.has_shape(otp):
        _refuse(factor.user, who, "shape, by django-otp")
    # Locks the row on every database: django-otp's SELECT ... FOR UPDATE does nothing on SQLite.
    TOTPFactor.objects.filter(pk=factor.pk).update(last_step=F("last_step"))
    _spend(factor, factor.user, otp, who, "code, by django-otp")


@sensitive_variables()
def _spend_recovery_code(user: Any, raw_code: str, who: Caller) -> None:
    """Delete a recovery code. Only the caller whose DELETE removed the row has used it."""
    if not RecoveryCode.objects.filter(user_id=user.pk, digest=_digest(user, raw_code)).delete()[0]:
        _refuse(user, who, "recovery code")
    events.record(AuthEvent.Kind.RECOVERY_CODE_USED, user=user, who=who)
    messages.send_notice(user, "recovery_code_used", who=who)


def _refuse_over_limit(user: Any, who: Caller) -> None:
    wait = limits.otp_wait(user)
    if not wait:
        return
    # Only the first refusal after the latest wrong code is recorded.
    latest = FailedCode.objects.filter(user_id=user.pk).latest("failed_at").failed_at
    limited = AuthEvent.objects.filter(user_id=user.pk, kind=AuthEvent.Kind.FACTOR_LIMITED)
    if not limited.filter(created_at__gte=latest).exists():
        events.record(AuthEvent.Kind.FACTOR_LIMITED, user=user, who=who)
    raise errors.RequestsExceeded(math.ceil(wait))


def _refuse_wrong(user: Any, who: Caller, reason: str) -> NoReturn:
    limits.add_wrong_otp(user)
    try:
        # A failing receiver of the host's must not undo the count, or guesses would be free.
        with transaction.atomic(using=db.alias()):
            events.record(AuthEvent.Kind.FACTOR_FAILED, user=user, who=who, reason=reason)
    except Exception:
        logger.exception("a refused one-time password could not be recorded")
    raise errors.InvalidOTP


def _refuse(user: Any, who: Caller, reason: str) -> NoReturn:
    events.record(AuthEvent.Kind.FACTOR_FAILED, user=user, who=who, reason=reason)
    raise errors.InvalidOTP


@sensitive_variables()
def _digest(user: Any, raw_code: str) -> str:
    """Return the digest that is stored of a user's recovery code."""
    read = raw_code.replace("-", "").lower().translate(_READ_AS)
    return hashlib.sha256(f"{user.pk}:{read}".encode()).hexdigest()
