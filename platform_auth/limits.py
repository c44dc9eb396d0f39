"""How often: log-in, one-time password, password request, refresh.

A count is taken before the work that it limits, in one atomic step, so that parallel guesses cannot slip past
(CVE-2024-4629 was a limit that read, then wrote). Counted in Django's cache under a key that names the window; in the
database where the cache is down or its `incr` is not atomic. One-time passwords are always counted in the database,
so that the count survives a restart. What is counted is an HMAC: the cache holds no addresses and no e-mails.

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
from typing import Any, NamedTuple

from django.core.cache import cache, caches
from django.core.cache.backends.base import BaseCache
from django.db import IntegrityError, router, transaction
from django.db.models import F
from django.utils import timezone

from . import contention, errors
from .client import Client
from .conf import Rate, conf, derive_key
from .models import RateCounter

logger = logging.getLogger("platform_auth")


class Limited(errors.RequestsExceeded):
    """Refused by a limit. `is_first`: the first refusal of its window, the one worth an event."""

    def __init__(self, retry_after: float, *, is_first: bool) -> None:
        super().__init__(math.ceil(retry_after))
        self.is_first = is_first


class Taken(NamedTuple):
    """One count taken, to be given back."""

    key: str
    in_database: bool


class LoginAttempt(NamedTuple):
    """The counts that one log-in took."""

    address: Taken | None
    account_and_address: Taken | None
    account: Taken | None


def take_login(email: str, client: Client, *, is_familiar: Callable[[], bool]) -> LoginAttempt:
    """Count a log-in before the password is looked at. Raises Limited.

    The count of the whole account refuses only addresses that the account does not know (`is_familiar`, asked only
    when that limit is hit), so an attacker cannot lock its owner out. The same for accounts that do not exist.
    """
    account = _account(email)
    address = pair = whole = None
    if client.network is not None:
        address = _take("login", "address", client.network)
        pair = _take("login", "account_and_address", f"{account} {client.network}")
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


def take_refresh(session_id: object) -> None:
    """Count a refresh of one session. Raises Limited."""
    _take("refresh", "session", str(session_id))


def take_password_request(client: Client) -> None:
    """Count a request for a reset mail by its address. Raises Limited."""
    if client.network is not None:
        _take("password_request", "address", client.network)


def allows_password_mail(email: str) -> bool:
    """Count a reset mail to an account; False when it is over: nobody is told."""
    try:
        _take("password_request", "account", _account(email))
    except Limited:
        return False
    return True


def take_otp(user: Any) -> None:
    """Count a one-time password that is about to be checked. Raises Limited. In the database, by user."""
    for name in ("short", "long"):
        _take_in_database(_otp_key(user, name), conf.rate("otp", name))


def give_back_otp(user: Any) -> None:
    """After a right one: return its own count. Earlier failures stay, or a busy user would feed a guesser."""
    for name in ("short", "long"):
        _give_back(Taken(_otp_key(user, name), in_database=True))


def allows_otp(user: Any) -> bool:
    """Return whether a one-time password of a user would be looked at now; count nothing."""
    rows = RateCounter.objects.using(router.db_for_write(RateCounter)).filter(resets_at__gt=timezone.now())
    return not any(
        rows.filter(key=_otp_key(user, name), count__gte=conf.rate("otp", name).limit).exists()
        for name in ("short", "long")
    )


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
    return Taken(windowed, in_database=False)


def _increment(key: str, *, timeout: int) -> int:
    # The key outlives its window, so that it cannot expire between the existence check and the increment in
    # Django's Redis backend and then live for ever.
    try:
        return int(cache.incr(key))
    except ValueError:
        if cache.add(key, 1, timeout=timeout):
            return 1
        return int(cache.incr(key))


@contention.retried
def _take_in_database(key: str, rate: Rate) -> Taken:
    now = timezone.now()
    database = router.db_for_write(RateCounter)
    rows = RateCounter.objects.using(database).filter(key=key)
    for _attempt in range(2):
        if rows.filter(resets_at__gt=now, count__lt=rate.limit).update(count=F("count") + 1):
            return Taken(key, in_database=True)
        if rows.filter(resets_at__lte=now).update(count=1, resets_at=now + rate.window):
            return Taken(key, in_database=True)
        try:
            with transaction.atomic(using=database):
                RateCounter.objects.using(database).create(key=key, count=1, resets_at=now + rate.window)
        except IntegrityError:
            continue
        return Taken(key, in_database=True)
    is_first = bool(rows.filter(count=rate.limit).update(count=F("count") + 1))
    resets_at = rows.values_list("resets_at", flat=True).first() or now
    raise Limited((resets_at - now).total_seconds(), is_first=is_first)


def _give_back(taken: Taken) -> None:
    if taken.in_database:
        RateCounter.objects.filter(key=taken.key, count__gt=0).update(count=F("count") - 1)
        return
    try:
        cache.decr(taken.key)
    except Exception:
        logger.warning("the cache could not give back a count", exc_info=True)


def _clear(taken: Taken) -> None:
    if taken.in_database:
        # Not deleted: a count that is being taken would neither find the row nor be able to make it.
        RateCounter.objects.filter(key=taken.key).update(count=0)
        return
    try:
        cache.delete(taken.key)
    except Exception:
        logger.warning("the cache could not clear a count", exc_info=True)


def _account(email: str) -> str:
    """Return what all spellings of an e-mail share: case and compatibility forms are folded."""
    return unicodedata.normalize("NFKC", email).casefold()


def _digest(subject: str) -> str:
    key = derive_key(conf.django_secrets[0], label="limits")
    return hmac.digest(key, subject.encode(errors="surrogatepass"), hashlib.sha256).hex()[:32]


def _otp_key(user: Any, name: str) -> str:
    return f"platform_auth:otp:{name}:{user.pk}"
