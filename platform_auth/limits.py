"""Limits: how often logins, one-time passwords, refreshes and reset requests may be tried.

An attempt is counted before the work that it limits, in one atomic step, so parallel guesses can't get past the limit
(Keycloak CVE-2024-4629 was a limit that read first and wrote later). Counters are in Django's default cache under a
key that contains the time window. If the cache is down or its `incr` isn't atomic, they are in the database. Keys
contain an HMAC of what is counted, so the cache holds no addresses and no emails.

Wrong one-time passwords are rows, because their count must survive a restart. Their limits hold for every period of
the given length: with fixed windows, nearly twice as many would pass around the edge of a window.

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
    """A limit is reached. `is_first`: the first refusal in this window, the one that is recorded."""

    def __init__(self, retry_after: float, *, is_first: bool) -> None:
        super().__init__(math.ceil(retry_after))
        self.is_first = is_first


class Taken(NamedTuple):
    """A counted attempt that can be given back. `until`: when its window ends at the latest, if it is in the
    database.
    """

    key: str
    until: datetime | None = None


class LoginAttempt(NamedTuple):
    """What one login attempt counted."""

    address: Taken | None
    account_and_address: Taken | None
    account: Taken | None


def take_login(email: str, who: Caller, *, is_familiar: Callable[[], bool]) -> LoginAttempt:
    """Count a login attempt before the password is checked. Raises Limited.

    The limit per account refuses only addresses that are unfamiliar to the account (`is_familiar`, called only if
    that limit is reached), so an attacker can't lock the owner out. Accounts that don't exist are counted alike.
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
    """After a successful login: give back what it counted for address and account, and clear the account's count from
    there.

    So many people can log in from one office address at the same time, and a job that logs in from a new address each
    time doesn't use up the account's limit.
    """
    for taken in (attempt.address, attempt.account):
        if taken:
            _give_back(taken)
    if attempt.account_and_address:
        _clear(attempt.account_and_address)


@contextmanager
def given_back_on_outage(attempt: LoginAttempt) -> Iterator[None]:
    """Give back what a login counted if the database fails in this block: a 503 costs no attempt."""
    try:
        yield
    except (errors.ServiceUnavailable, OperationalError, InterfaceError):
        # Counts in the database can't be given back while it is down.
        with suppress(errors.ServiceUnavailable, DatabaseError, InterfaceError):
            for taken in filter(None, attempt):
                _give_back(taken)
        raise


def give_back_address(attempt: LoginAttempt) -> None:
    """After the right password without its one-time password: give back what was counted for the address.

    So an office also gets in with a front end that asks for the password first and the code next. The account's
    counts stay; otherwise somebody who knows the password could try one-time passwords without end.
    """
    if attempt.address:
        _give_back(attempt.address)


def take_refresh(session_id: object) -> None:
    """Count a refresh of one session. Raises Limited."""
    _take("refresh", "session", str(session_id))


def take_password_request(who: Caller) -> None:
    """Count a password reset request of an address. Raises Limited."""
    if who.network is not None:
        _take("password_request", "address", who.network)


def allows_password_mail(email: str) -> bool:
    """Count a reset email to an account; return False if the limit is reached, which the caller keeps to itself."""
    try:
        _take("password_request", "account", _account(email))
    except Limited:
        return False
    return True


def otp_wait(user: Any) -> float:
    """Return the seconds until another one-time password of a user may be checked; 0 if now.

    Both limits must have room. The caller holds the row of the factor from this call until `add_wrong_otp`, so that
    parallel guesses see each other.
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
    """Forget a user's wrong one-time passwords: the factor is gone, and they say nothing about the next one."""
    FailedCode.objects.filter(user_id=user.pk).delete()


def otp_window() -> timedelta:
    """Return how long a wrong one-time password counts."""
    return max(conf.rate("otp", name).window for name in ("short", "long"))


def cache_is_atomic() -> bool:
    """Return whether the default cache can increment atomically. Django's base class reads, then writes."""
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
        logger.warning("the cache failed, so limits are counted in the database", exc_info=True)
        return _take_in_database(key, rate)
    if count > rate.limit:
        raise Limited((index + 1) * window - now, is_first=count == rate.limit + 1)
    return Taken(windowed)


def _increment(key: str, *, timeout: int) -> int:
    # The key lives longer than its window. Otherwise it could expire between the existence check and the increment in
    # Django's Redis backend, and the increment would create a key that never expires.
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
        # A count of a later window has a later end and isn't touched.
        rows = RateCounter.objects.filter(key=taken.key, count__gt=0, resets_at__lte=taken.until)
        rows.update(count=F("count") - 1)
        return
    try:
        cache.decr(taken.key)
    except Exception:
        logger.warning("a count could not be given back in the cache", exc_info=True)


def _clear(taken: Taken) -> None:
    if taken.until is not None:
        # Not deleted: a concurrent attempt would neither find the row nor be able to insert it.
        RateCounter.objects.filter(key=taken.key).update(count=0)
        return
    try:
        cache.delete(taken.key)
    except Exception:
        logger.warning("a count could not be cleared in the cache", exc_info=True)


def _make(key: str, **fields: Any) -> bool:
    """Insert a counter; return False if another request was first."""
    try:
        with transaction.atomic(using=router.db_for_write(RateCounter)):
            RateCounter.objects.create(key=key, **fields)
    except IntegrityError:
        return False
    return True


def _account(email: str) -> str:
    """Return what all spellings of an email address have in common: case and compatibility forms are folded."""
    return unicodedata.normalize("NFKC", email).casefold()


@sensitive_variables()
def _digest(subject: str) -> str:
    key = derive_key(conf.django_secrets[0], label="limits")
    return hmac.digest(key, subject.encode(errors="surrogatepass"), hashlib.sha256).hex()[:32]
