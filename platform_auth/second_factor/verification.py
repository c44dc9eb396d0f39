"""The second factor of a user: is there one, must there be one, is this one-time password right.

`verify` is reached only by who has passed the password: nobody else can drive its limit (`limits.take_otp`,
in place of django-otp's throttle, whose delay doubles without an end). A recovery code does not wait for that
limit: its 80 random bits need none. For the same reason it is kept as a plain SHA-256: there is nothing to
guess that a slow hash would slow down.

What `verify` spends is given back should the database fail before it was of use: see `given_back_on_failure`.
"""

from __future__ import annotations

import functools
import hashlib
import re
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple, NoReturn

import django_otp
from django.core.exceptions import ObjectDoesNotExist
from django.db import connections, router, transaction
from django.db.models import F
from django.http import HttpRequest
from django.utils import timezone
from django.views.decorators.debug import sensitive_variables

from .. import caller as callers
from .. import db, errors, events, limits, signals
from ..caller import NOBODY, Caller
from ..conf import conf
from ..mail import messages
from ..models import AuthEvent, CountedCode, RecoveryCode, TOTPFactor
from . import totp

RECOVERY_CODES = 10
_GROUPS, _GROUP_LENGTH = 4, 4
# Crockford's base32 has no I, L, O, U: sixteen characters are 80 bits, easy to read off paper.
_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"
_READ_AS = str.maketrans("ilo", "110")
_RECOVERY_SHAPE = re.compile(r"[0-9A-Za-z]{4}(?:-?[0-9A-Za-z]{4}){3}")


class Spent(NamedTuple):
    """What `verify` spent: the time step of a code, or a recovery code."""

    user: Any
    factor_id: int
    step: int | None = None
    recovery_code: RecoveryCode | None = None


def of(user: Any) -> TOTPFactor | None:
    """Return a user's factor, or None; no statement where the log-in has joined it."""
    try:
        factor = user.platform_auth_factor
    except ObjectDoesNotExist:
        return None
    return factor if factor is not None and factor.confirmed else None


def is_enrolled(user: Any) -> bool:
    """Ask the database, not what was joined earlier, whether a user has a factor."""
    return bool(TOTPFactor.objects.filter(user_id=user.pk, confirmed=True).exists())


def is_required_for(user: Any) -> bool:
    """Return whether a policy asks this user for a factor. No statement but for TFA_REQUIRED_GROUPS: one."""
    if conf.TFA_REQUIRED_FOR_STAFF and getattr(user, "is_staff", False):
        return True
    names = conf.TFA_REQUIRED_GROUPS
    groups = getattr(user, "groups", None)
    return bool(names) and groups is not None and groups.filter(name__in=names).exists()


def recovery_codes_left(user: Any) -> int:
    return RecoveryCode.objects.good().filter(user_id=user.pk).count()


@sensitive_variables()
def verify_at_login(user: Any, otp: str | None, *, email: str = "", request: HttpRequest | None) -> Spent:
    """Verify as `verify` does, and tell the host of a log-in that is refused here. `email`: as typed, if it was."""
    who = callers.of(request)
    try:
        return verify(user, otp, who=who)
    except (errors.InvalidOTP, errors.RequestsExceeded) as refusal:
        reason = "otp" if isinstance(refusal, errors.InvalidOTP) else "limited"
        events.announce(signals.login_failed, user=user, request=request, who=who, email=email, reason=reason)
        raise


@sensitive_variables()
def verify(user: Any, otp: str | None, *, who: Caller = NOBODY) -> Spent:
    """Spend a one-time password, or a recovery code, of a user whose password was right; return what was spent.

    Raises InvalidOTP or RequestsExceeded. Only six digits count as an attempt: nothing, or what is neither a
    code nor a recovery code, is refused without.
    """
    factor = of(user)
    if otp is None or factor is None:
        _refuse(user, who, "missing")
    if totp.has_shape(otp):
        return _verify_code(user, otp, who, spend=functools.partial(_spend, user, factor), reason="code")
    if not _RECOVERY_SHAPE.fullmatch(otp):
        _refuse(user, who, "shape")
    return _verify_recovery_code(user, factor, otp, who)


@contextmanager
def given_back_on_failure(spent: Spent | None) -> Iterator[None]:
    """Give back what was spent where the database fails in here: a 503 consumes nothing."""
    with db.compensated(functools.partial(_give_back, spent)):
        yield


@sensitive_variables()
def verify_enrolment(user: Any, secret: str, otp: str, *, who: Caller = NOBODY) -> int:
    """Return the time step of a code for a secret that is not on yet. Counts and raises as `verify` does."""
    if not totp.has_shape(otp):
        _refuse(user, who, "shape")
    attempt = _take(user, who)
    step = totp.matching_step(secret, otp, at=timezone.now().timestamp())
    if step is None:
        _refuse(user, who, "enrolment")
    limits.give_back_otp(attempt)
    return step


@sensitive_variables()
def new_recovery_codes() -> list[str]:
    """Return ten new recovery codes in clear, as "xxxx-xxxx-xxxx-xxxx"."""
    return ["-".join(_random_group() for _ in range(_GROUPS)) for _ in range(RECOVERY_CODES)]


@sensitive_variables()
def replace_recovery_codes(user: Any, raw_codes: list[str]) -> None:
    """Make these the only recovery codes of a user. Within a transaction of the caller."""
    now = timezone.now()
    RecoveryCode.objects.filter(user_id=user.pk).delete()
    RecoveryCode.objects.bulk_create(
        [RecoveryCode(user=user, digest=_digest(user, raw), created_at=now) for raw in raw_codes]
    )


@sensitive_variables()
def _verify_code(
    user: Any, code: str, who: Caller, *, spend: Callable[[str], TOTPFactor | None], reason: str
) -> Spent:
    attempt = _take(user, who)
    with db.compensated(functools.partial(limits.give_back_otp, attempt)):
        factor = spend(code)
    if factor is None:
        _refuse(user, who, reason)
    spent = Spent(user, factor.pk, step=factor.last_step)
    with given_back_on_failure(spent):
        limits.give_back_otp(attempt)
    return spent


@sensitive_variables()
@db.retried
def _spend(user: Any, factor: TOTPFactor, code: str) -> TOTPFactor | None:
    """Let the factor accept a code that is counted, under its row's lock where the database has such locks.

    SQLite has none: there the conditional UPDATE in `spend` decides alone, outside a transaction that would have to
    turn from reading to writing.
    """
    database = router.db_for_write(TOTPFactor)
    counted = CountedCode(code)
    if not connections[database].features.has_select_for_update:
        return factor if factor.verify_token(counted) else None
    # django-otp opens its transaction on the default database, which may be another.
    with transaction.atomic(using=database):
        verified: TOTPFactor | None = django_otp.verify_token(user, factor.persistent_id, counted)  # type: ignore[no-untyped-call]
    return verified


@sensitive_variables()
def _verify_recovery_code(user: Any, factor: TOTPFactor, raw_code: str, who: Caller) -> Spent:
    code = _take_recovery_code(user, raw_code, who)
    if code is None:
        _refuse(user, who, "recovery code")
    messages.send_notice(user, "recovery_code_used", who=who)
    return Spent(user, factor.pk, recovery_code=code)


@sensitive_variables()
@db.retried
def _take_recovery_code(user: Any, raw_code: str, who: Caller) -> RecoveryCode | None:
    """Delete a recovery code and record it, both or neither; whoever deletes the row has spent it."""
    # Before the transaction: one of SQLite must not turn from reading to writing.
    code: RecoveryCode | None = RecoveryCode.objects.filter(
        user_id=user.pk, digest=_digest(user, raw_code)
    ).first()
    if code is None:
        return None
    with transaction.atomic(using=router.db_for_write(RecoveryCode)):
        if not RecoveryCode.objects.filter(pk=code.pk).delete()[0]:
            return None
        events.record(AuthEvent.Kind.RECOVERY_CODE_USED, user=user, who=who)
    return code


@db.retried
def _give_back(spent: Spent | None) -> None:
    """Let it be spent again, unless it is over: a later code was spent, the codes were renewed, the factor is gone."""
    if spent is None:
        return
    if spent.recovery_code is None:
        # To the step before, whatever the last one was: no older code comes back to life.
        rows = TOTPFactor.objects.filter(pk=spent.factor_id, last_step=spent.step)
        rows.update(last_step=F("last_step") - 1)
        return
    with transaction.atomic(using=router.db_for_write(RecoveryCode)):
        db.lock(spent.user)
        is_on = TOTPFactor.objects.filter(pk=spent.factor_id).exists()
        newer = RecoveryCode.objects.filter(
            user_id=spent.user.pk, created_at__gt=spent.recovery_code.created_at
        )
        if is_on and not newer.exists():
            spent.recovery_code.save(force_insert=True)


def _take(user: Any, who: Caller) -> limits.OTPAttempt:
    try:
        return limits.take_otp(user)
    except limits.Limited as limited:
        if limited.is_first:
            events.record(AuthEvent.Kind.FACTOR_LIMITED, user=user, who=who)
        raise


def _refuse(user: Any, who: Caller, reason: str) -> NoReturn:
    events.record(AuthEvent.Kind.FACTOR_FAILED, user=user, who=who, reason=reason)
    raise errors.InvalidOTP


@sensitive_variables()
def _digest(user: Any, raw_code: str) -> str:
    """Return what is stored of a recovery code, for this user alone."""
    read = raw_code.replace("-", "").lower().translate(_READ_AS)
    return hashlib.sha256(f"{user.pk}:{read}".encode()).hexdigest()


def _random_group() -> str:
    return "".join(secrets.choice(_ALPHABET) for _ in range(_GROUP_LENGTH))


class _Guard:
    """Counts by the same limit what comes through django-otp (Django admin behind OTPAdminSite, a host's view).

    django-otp does not tell a device who asks: it is whoever sent the request under way.
    """

    def is_open(self, factor: TOTPFactor) -> bool:
        return limits.allows_otp(factor.user)

    @sensitive_variables()
    def verify(self, factor: TOTPFactor, code: str) -> bool:
        try:
            if not totp.has_shape(code):
                _refuse(factor.user, callers.current(), "shape, by django-otp")
            _verify_code(
                factor.user,
                code,
                callers.current(),
                spend=lambda code: factor if factor.spend(code) else None,
                reason="code, by django-otp",
            )
        except (errors.InvalidOTP, limits.Limited):
            return False
        return True


TOTPFactor.guard = _Guard()
