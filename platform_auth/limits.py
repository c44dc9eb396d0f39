"""How often: log-in, one-time password, password request, refresh.

A count is taken before the work that it limits, in one atomic step, so that parallel guesses cannot slip past
(CVE-2024-4629 was a limit that read, then wrote). Counted in Django's cache under a key that names the window; in the
database where the cache is down or its `incr` is not atomic. What is counted is an HMAC: the cache holds no addresses
and no e-mails.

One-time passwords are always counted in the database, so that the count survives a restart, and by the times of all
that count, so that their limits hold for any 15 minutes and any 24 hours: windows that start anew let nearly twice as
many pass around an edge.

No limit changes a user's row, and none can lock a victim out: see `take_login`.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import math
import time
import unicodedata
from collections.abc import Callable
from datetime import datetime
from typing import Any, NamedTuple

from django.core.cache import cache, caches
from django.core.cache.backends.base import BaseCache
from django.db import IntegrityError, router, transaction
from django.db.models import F
from django.utils import timezone

from . import db, errors
from .caller import Caller
from .conf import Rate, conf, derive_key
from .models import RateCounter

logger = logging.getLogger("platform_auth")


class Limited(errors.RequestsExceeded):
    """Refused by a limit. `is_first`: the first refusal of its window, the one worth an event."""

    def __init__(self, retry_after: float, *, is_first: bool) -> None:
        super().__init__(math.ceil(retry_after))
        self.is_first = is_first


class Taken(NamedTuple):
    """One count taken, to be given back. `until`: the end of its window at the latest, where it is in the database."""

    key: str
    until: datetime | None = None


class LoginAttempt(NamedTuple):
    """The counts that one log-in took."""

    address: Taken | None
    account_and_address: Taken | None
    account: Taken | None


class OTPAttempt(NamedTuple):
    """One one-time password counted, to be given back."""

    key: str
    at: float


def take_login(email: str, who: Caller, *, is_familiar: Callable[[], bool]) -> LoginAttempt:
    """Count a log-in before the password is looked at. Raises Limited.

    The count of the whole account refuses only addresses that the account does not know (`is_familiar`, asked only
    when that limit is hit), so an attacker cannot lock its owner out. The same for accounts that do not exist.
    """
    account = _account(email)
    address = pair = whole = None
    if who.network is not None:
        address = _take("login", "address", who.network)
        pair = _take("login", "account_and_address", f"{account} {who.network}")
    try:
        whole = _take("login", "account", account)
    except Limited:
        if not is_familiar():
            raise
    return LoginAttempt(address, pair, whole)


def give_back_login(attempt: LoginAttempt) -> None:
    """After a success: return what it took from address and account, clear the account's count from that address.

    So an office behind one address logs in at nine, and a job that logs in from ever new addresses locks nobody out.
    """
    for taken in (attempt.address, attempt.account):
        if taken:
            _give_back(taken)
    if attempt.account_and_address:
        _clear(attempt.account_and_address)


def return_login(attempt: LoginAttempt) -> None:
    """After a log-in that could not be looked at: return what it took, and nothing else."""
    for taken in attempt:
        if taken:
            _give_back(taken)


def give_back_address(attempt: LoginAttempt) -> None:
    """After a right password whose one-time password is still to come: return what it took from the address alone.

    So the office gets in by a front end too that asks for one after the other. The account's counts stay, or whoever
    knows the password could guess on without an end.
    """
    if attempt.address:
        _give_back(attempt.address)


def take_refresh(session_id: object) -> None:
    """Count a refresh of one session. Raises Limited."""
    _take("refresh", "session", str(session_id))


def take_password_request(who: Caller) -> None:
    """Count a request for a reset mail by its address. Raises Limited."""
    if who.network is not None:
        _take("password_request", "address", who.network)


def allows_password_mail(email: str) -> bool:
    """Count a reset mail to an account; False when it is over: nobody is told."""
    try:
        _take("password_request", "account", _account(email))
    except Limited:
        return False
    return True


@db.retried
def take_otp(user: Any) -> OTPAttempt:
    """Count a one-time password of a user that is about to be checked. Raises Limited, with the longest wait.

    A refusal counts for neither limit.
    """
    with transaction.atomic(using=router.db_for_write(RateCounter)):
        row = _lock(_otp_key(user))
        now = time.time()
        wait = _otp_wait(row.times, now)
        if not wait:
            _add(row, now)
            return OTPAttempt(row.key, now)
        is_first = not row.refused
        if is_first:
            row.refused = True
            row.save(update_fields=["refused"])
    raise Limited(wait, is_first=is_first)


@db.retried
def give_back_otp(attempt: OTPAttempt) -> None:
    """After a right one: return its own count. Earlier failures stay, or a busy user would feed a guesser."""
    with transaction.atomic(using=router.db_for_write(RateCounter)):
        row = _lock(attempt.key)
        times = row.times
        if attempt.at in times:
            # One of them: two may have the same time.
            times.remove(attempt.at)
            row.times = times
            row.save(update_fields=["taken"])


def clear_otp(user: Any) -> None:
    """After the factor is gone: the guesses at it say nothing about the next one."""
    RateCounter.objects.filter(key=_otp_key(user)).update(taken="", refused=False)


def allows_otp(user: Any) -> bool:
    """Return whether a one-time password of a user would be looked at now; count nothing."""
    row = RateCounter.objects.filter(key=_otp_key(user)).first()
    return row is None or not _otp_wait(row.times, time.time())


def cache_is_atomic() -> bool:
    """Return whether the default cache counts in one step; Django's base class reads, then writes."""
    return getattr(type(caches["default"]), "incr", None) is not BaseCache.incr


def _take(purpose: str, name: str, subject: str) -> Taken:
    rate = conf.rate(purpose, name)
    window = rate.window.total_seconds()
    key = f"platform_auth:{purpose}:{name}:{_digest(subject)}"
    if not cache_is_atomic():
        return _take_in_database(key, rate)
    now = time.time()
    index = int(now // window)
    windowed = f"{key}:{int(window)}:{index}"
    try:
        count = _increment(windowed, timeout=int(2 * window))
    except Exception:
        logger.warning("the cache cannot count, limits are counted in the database", exc_info=True)
        return _take_in_database(key, rate)
    if count > rate.limit:
        raise Limited((index + 1) * window - now, is_first=count == rate.limit + 1)
    return Taken(windowed)


def _increment(key: str, *, timeout: int) -> int:
    # The key outlives its window, so that it cannot expire between the existence check and the increment in
    # Django's Redis backend and then live for ever.
    try:
        return int(cache.incr(key))
    except ValueError:
        if cache.add(key, 1, timeout=timeout):
            return 1
        return int(cache.incr(key))


@db.retried
def _take_in_database(key: str, rate: Rate) -> Taken:
    now = timezone.now()
    until = now + rate.window
    rows = RateCounter.objects.filter(key=key)
    for _attempt in range(2):
        if rows.filter(resets_at__gt=now, count__lt=rate.limit).update(count=F("count") + 1):
            return Taken(key, until)
        if rows.filter(resets_at__lte=now).update(count=1, refused=False, resets_at=until):
            return Taken(key, until)
        if _make(key, count=1, resets_at=until):
            return Taken(key, until)
    is_first = bool(rows.filter(refused=False).update(refused=True))
    resets_at = rows.values_list("resets_at", flat=True).first() or now
    raise Limited((resets_at - now).total_seconds(), is_first=is_first)


def _give_back(taken: Taken) -> None:
    if taken.until is not None:
        # A window that began later ends later: its count is not touched.
        rows = RateCounter.objects.filter(key=taken.key, count__gt=0, resets_at__lte=taken.until)
        rows.update(count=F("count") - 1)
        return
    try:
        cache.decr(taken.key)
    except Exception:
        logger.warning("the cache could not give back a count", exc_info=True)


def _clear(taken: Taken) -> None:
    if taken.until is not None:
        # Not deleted: a count that is being taken would neither find the row nor be able to make it.
        RateCounter.objects.filter(key=taken.key).update(count=0)
        return
    try:
        cache.delete(taken.key)
    except Exception:
        logger.warning("the cache could not clear a count", exc_info=True)


def _make(key: str, **fields: Any) -> bool:
    """Make a counter; False where somebody was first."""
    try:
        with transaction.atomic(using=router.db_for_write(RateCounter)):
            RateCounter.objects.create(key=key, **fields)
    except IntegrityError:
        return False
    return True


def _lock(key: str) -> RateCounter:
    """Return a counter, made where there is none, locked for the rest of the transaction.

    An UPDATE first, so that a transaction of SQLite need not turn from reading to writing.
    """
    rows = RateCounter.objects.filter(key=key)
    if not rows.update(refused=F("refused")) and not _make(key, resets_at=timezone.now()):
        rows.update(refused=F("refused"))
    row: RateCounter = rows.get()
    return row


def _add(row: RateCounter, now: float) -> None:
    """Write one more time, beside those that still count for any limit."""
    longest = max(conf.rate("otp", name).window for name in ("short", "long"))
    row.times = sorted([*(at for at in row.times if at + longest.total_seconds() > now), now])
    row.refused = False
    # Then none of them counts, and the row may be pruned.
    row.resets_at = timezone.now() + longest
    row.save(update_fields=["taken", "refused", "resets_at"])


def _otp_wait(times: list[float], now: float) -> float:
    """Return for how many seconds no further one is looked at: until all limits have room again. 0: one is."""
    waits = [0.0]
    for name in ("short", "long"):
        rate = conf.rate("otp", name)
        window = rate.window.total_seconds()
        counting = [at for at in times if at + window > now]
        if len(counting) >= rate.limit:
            waits.append(counting[-rate.limit] + window - now)
    return max(waits)


def _account(email: str) -> str:
    """Return what all spellings of an e-mail share: case and compatibility forms are folded."""
    return unicodedata.normalize("NFKC", email).casefold()


def _digest(subject: str) -> str:
    key = derive_key(conf.django_secrets[0], label="limits")
    return hmac.digest(key, subject.encode(errors="surrogatepass"), hashlib.sha256).hex()[:32]


def _otp_key(user: Any) -> str:
    return f"platform_auth:otp:{user.pk}"
