"""How often: log-in, one-time password, password request, refresh.

A count is taken before the work that it limits, in one atomic step, so that parallel guesses cannot slip past
(CVE-2024-4629 was a limit that read, then wrote). Counted in Django's cache under a key that names the window; in the
database where the cache is down or its `incr` is not atomic. What is counted is an HMAC: the cache holds no addresses
and no e-mails.

Wrong one-time passwords are rows, so that the count survives a restart, and their limits hold for any 15 minutes and
any 24 hours: windows that start again would let nearly twice as many pass around an edge.

No limit changes a user's row, and none can lock a victim out: see `take_login`.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import math
import time
import unicodedata
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from django.core.cache import cache, caches
from django.core.cache.backends.base import BaseCache
from django.db import DatabaseError, IntegrityError, InterfaceError, OperationalError, router, transaction
from django.db.models import F
from django.utils import timezone
from django.views.decorators.debug import sensitive_variables

from . import db, errors
from .caller import Caller
from .conf import Rate, conf, derive_key
from .models import FailedCode, RateCounter

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


@contextmanager
def given_back_on_outage(attempt: LoginAttempt) -> Iterator[None]:
    """Return what a log-in took, and nothing else, where the database fails in here: a 503 costs no attempt."""
    try:
        yield
    except (errors.ServiceUnavailable, OperationalError, InterfaceError):
        # Counts in the database cannot be returned while it is down.
        with suppress(errors.ServiceUnavailable, DatabaseError, InterfaceError):
            for taken in filter(None, attempt):
                _give_back(taken)
        raise


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


def otp_wait(user: Any) -> float:
    """Return the seconds until another one-time password of a user may be checked; 0 if now.

    Until both limits have room again. Whoever checks a code holds its factor's row from this question to
    `add_wrong_otp`, so that parallel guesses see each other.
    """
    now = timezone.now()
    since = now - otp_window()
    rows = FailedCode.objects.filter(user_id=user.pk, failed_at__gt=since).order_by("failed_at")
    failed = list(rows.values_list("failed_at", flat=True))
    waits = [0.0]
    for name in ("short", "long"):
        limit, window = conf.rate("otp", name)
        counting = [at for at in failed if at + window > now]
        if len(counting) >= limit:
            waits.append((counting[-limit] + window - now).total_seconds())
    return max(waits)


def add_wrong_otp(user: Any) -> None:
    """Count a wrong one-time password of a user."""
    FailedCode.objects.create(user=user)


def clear_otp(user: Any) -> None:
    """After the factor is gone: the guesses at it say nothing about the next one."""
    FailedCode.objects.filter(user_id=user.pk).delete()


def otp_window() -> timedelta:
    """Return how long a wrong one-time password counts."""
    return max(conf.rate("otp", name).window for name in ("short", "long"))


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


def _account(email: str) -> str:
    """Return what all spellings of an e-mail share: case and compatibility forms are folded."""
    return unicodedata.normalize("NFKC", email).casefold()


@sensitive_variables()
def _digest(subject: str) -> str:
    key = derive_key(conf.django_secrets[0], label="limits")
    return hmac.digest(key, subject.encode(errors="surrogatepass"), hashlib.sha256).hex()[:32]
