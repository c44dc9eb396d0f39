"""Every setting: its default, its meaning, its type, its bounds; read when used, never at import."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from types import NoneType
from typing import Any, Generic, Literal, NamedTuple, TypeVar, get_args

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.utils.encoding import force_bytes
from django.views.decorators.debug import sensitive_variables

Algorithm = Literal["HS256", "EdDSA", "ES256", "RS256"]
ExpiresUnit = Literal["seconds", "milliseconds"]
MailDelivery = Literal["thread", "task", "inline"]
SameSite = Literal["Lax", "Strict", "None"]
Cookie = Literal["refresh", "access", "flow", "pending"]
Keys = list[str | bytes]

SECOND, MINUTE, HOUR, DAY = (timedelta(seconds=seconds) for seconds in (1, 60, 3600, 86400))
MAXIMUM_GRACE_PERIOD = MINUTE
LIST = (list, tuple)
LIST_OR_NONE = (*LIST, NoneType)
TEXT_OR_NONE = (str, NoneType)
TIME_OR_NONE = (timedelta, NoneType)

DEFAULT_LIMITS: Mapping[str, Mapping[str, str]] = {
    "login": {"account_and_address": "5/m", "address": "30/m", "account": "100/h"},
    "otp": {"short": "10/15m", "long": "35/d"},
    "password_request": {"address": "20/h", "account": "5/h"},
    "refresh": {"session": "60/m"},
}

T = TypeVar("T")

_RATE = re.compile(r"([1-9][0-9]{0,6})/([1-9][0-9]{0,3})?([smhd])")
_UNITS = {"s": SECOND, "m": MINUTE, "h": HOUR, "d": DAY}


class Rate(NamedTuple):
    """At most `limit` in `window`."""

    limit: int
    window: timedelta


def parse_rate(text: object) -> Rate:
    """Read a rate such as "5/m" or "10/15m". Raises ImproperlyConfigured."""
    match = _RATE.fullmatch(text) if isinstance(text, str) else None
    if match is None:
        raise ImproperlyConfigured(f'PLATFORM_AUTH["LIMITS"]: {text!r} is no rate such as "5/m" or "10/15m".')
    limit, count, unit = match.groups()
    return Rate(int(limit), int(count or 1) * _UNITS[unit])


@sensitive_variables()
def derive_key(secret: str | bytes, *, label: str) -> bytes:
    """Derive 32 bytes for one purpose from a secret (HKDF-SHA256, RFC 5869)."""
    info = f"platform_auth:{label}".encode()
    return HKDF(algorithm=SHA256(), length=32, salt=None, info=info).derive(force_bytes(secret))


def configured() -> Mapping[str, Any]:
    """Return PLATFORM_AUTH as the host wrote it; what is no dict counts as empty, and a check says so."""
    found = getattr(settings, "PLATFORM_AUTH", None)
    return found if isinstance(found, Mapping) else {}


@dataclass(eq=False)
class Setting(Generic[T]):
    """A row of the table. `conf.X` reads PLATFORM_AUTH each time, so that `override_settings` simply works."""

    default: T | None
    meaning: str
    """As the README has it."""
    type: tuple[Any, ...] = ()
    """The types that it may have, or the words that it may be; left out, the type of the default."""
    bounds: tuple[Any, Any] = (None, None)
    """The least, of a text its length; and the most that is safe in production."""
    read: Callable[[Any], T] | None = None
    """Computes what `conf` gives, where that is more than the value."""

    def __post_init__(self) -> None:
        self.type = self.type or (type(self.default),)

    def __set_name__(self, owner: object, name: str) -> None:
        self.name = name

    def __get__(self, instance: object, owner: object) -> T:
        return self.read(self.value) if self.read else self.value

    @property
    def value(self) -> Any:
        """What is configured, or the default, as it was written."""
        return configured().get(self.name, self.default)


def _or_public_url(name: str | None) -> str:
    return name or conf.PUBLIC_URL or "platform_auth"


def _public_url(url: str | None) -> str | None:
    """Return the base URL without a trailing slash, or None where it is missing (a check error)."""
    url = url or ("http://localhost:8000" if settings.DEBUG else None)
    return url.rstrip("/") if isinstance(url, str) else None


def _signing_keys(keys: Keys | None) -> Keys:
    """Return the configured keys; for HS256 without any, 32 bytes for each SECRET_KEY."""
    if keys:
        return list(keys)
    if conf.SIGNING_ALGORITHM != "HS256":
        raise ImproperlyConfigured(
            f'PLATFORM_AUTH["SIGNING_KEYS"] must hold a PEM private key for {conf.SIGNING_ALGORITHM}.'
        )
    return [derive_key(secret, label="access-token") for secret in conf.django_secrets]


def _reset_urls(urls: list[str] | None) -> list[str]:
    """Return the configured URLs, or those of the environment variable, which are separated by commas."""
    if urls is None:
        urls = [url.strip() for url in os.environ.get("PASSWORD_RESET_URL_ALLOW_LIST", "").split(",")]
        return [url for url in urls if url]
    return list(urls)


class Settings:
    """The table, in the order of the README."""

    # fmt: off
    ACCESS_TOKEN_TTL = Setting(15 * MINUTE, "how long an access token lives", bounds=(SECOND, HOUR))
    REFRESH_TOKEN_TTL = Setting(
        7 * DAY, "how long a refresh token lives since the last refresh", bounds=(SECOND, 90 * DAY))
    SESSION_MAX_AGE = Setting[timedelta | None](
        30 * DAY, "how long a session lives since its log-in; `None`: no end", TIME_OR_NONE, (SECOND, 365 * DAY))
    REFRESH_GRACE_PERIOD = Setting(
        10 * SECOND, "how long a spent refresh token still yields its own successor; at most 60 seconds",
        bounds=(0 * SECOND, MAXIMUM_GRACE_PERIOD), read=lambda time: min(time, MAXIMUM_GRACE_PERIOD))
    PASSWORD_RESET_TOKEN_TTL = Setting(HOUR, "how long the link of a reset lives", bounds=(SECOND, HOUR))
    EXPIRES_UNIT = Setting[ExpiresUnit](
        "seconds", 'the unit of `expires` in answers, or `"milliseconds"`', get_args(ExpiresUnit))
    ISSUER = Setting[str](None, "the JWT's `iss`", TEXT_OR_NONE, read=_or_public_url)
    AUDIENCE = Setting[str](None, "the JWT's `aud`", TEXT_OR_NONE, read=_or_public_url)
    SIGNING_ALGORITHM = Setting[Algorithm]("HS256", 'or `"EdDSA"`, `"ES256"`, `"RS256"`', get_args(Algorithm))
    # Public PEM keys too, behind the first.
    SIGNING_KEYS = Setting[Keys](
        None, "newest first: the first signs, all verify. HS256: strings of 32 bytes or more; else PEM private keys",
        LIST_OR_NONE, read=_signing_keys)
    # Strings of 32 bytes or more, from which `sealing` derives its keys.
    ENCRYPTION_KEYS = Setting[Keys](
        None, "for secrets at rest, newest first", LIST_OR_NONE, read=lambda keys: list(keys or conf.django_secrets))
    PUBLIC_URL = Setting[str | None](
        None, "the site's own base URL: links in mails, redirect URI of providers", TEXT_OR_NONE, read=_public_url)
    PASSWORD_RESET_URL = Setting[str | None](
        None, "where the mail's link leads when the caller gives no `reset_url`", TEXT_OR_NONE)
    PASSWORD_RESET_URL_ALLOW_LIST = Setting[list[str]](
        None, "which `reset_url` are taken", LIST_OR_NONE, read=_reset_urls)
    OAUTH_REDIRECT_ALLOW_LIST = Setting[list[str]](
        [], "which `redirect` are taken beside local paths and the origin of `PUBLIC_URL`", LIST, read=list)
    PASSWORD_RESET_FOR_PROVIDER_ACCOUNTS = Setting(
        False, "whether a reset may give a password to an account that has none")
    MAIL_DELIVERY = Setting[MailDelivery](
        "thread", 'or `"task"` (Django\'s task framework; the extra `tasks` on 5.2), `"inline"` (tests)',
        get_args(MailDelivery))
    EVENT_RETENTION = Setting(180 * DAY, "how long `platform_auth_prune` keeps events", bounds=(SECOND, None))
    COOKIE_SECURE = Setting[bool](
        None, "the cookies' `Secure`, with the prefix `__Host-`", (bool, NoneType),
        read=lambda secure: not settings.DEBUG if secure is None else bool(secure))
    COOKIE_SAMESITE = Setting[SameSite]("Lax", "the cookies' `SameSite`", get_args(SameSite))
    COOKIE_DOMAIN = Setting[str | None](None, "the cookies' `Domain`", TEXT_OR_NONE)
    REFRESH_COOKIE_NAME = Setting("refresh_token", "without prefix")
    ACCESS_COOKIE_NAME = Setting("access_token", "without prefix")
    ACCESS_TOKEN_IN_QUERY = Setting(False, "whether `?access_token=` is taken too. URLs are logged: better not")
    PUBLIC_ROLE = Setting("Public", "the group whose permissions everybody has", bounds=(1, None))
    TRUSTED_PROXY_COUNT = Setting(0, "how many proxies in front append to `X-Forwarded-For`", bounds=(0, None))
    LIMITS = Setting(DEFAULT_LIMITS, "how often; a partial dict changes just what it names")
    OAUTH_SATISFIES_MFA = Setting(False, "whether a provider log-in needs no one-time password")
    TFA_REQUIRED_GROUPS = Setting[list[str]]([], "groups whose members must have a second factor", LIST, read=list)
    TFA_REQUIRED_FOR_STAFF = Setting(False, "whether all staff must")
    OAUTH_PRIVATE_HOSTS = Setting[list[str]](
        [], "hosts of providers that may have an address that is not public", LIST,
        read=lambda hosts: [host.lower() for host in hosts])
    PASSWORD_LOGIN = Setting(True, "`False`: log-in by providers only")
    # fmt: on

    @property
    def django_secrets(self) -> Keys:
        """SECRET_KEY and its fallbacks."""
        return [settings.SECRET_KEY, *settings.SECRET_KEY_FALLBACKS]

    def rate(self, purpose: str, name: str) -> Rate:
        """Return the rate of LIMITS[purpose][name], configured or default."""
        rate = self.LIMITS.get(purpose, {}).get(name)
        return parse_rate(DEFAULT_LIMITS[purpose][name] if rate is None else rate)

    def cookie_name(self, which: Cookie) -> str:
        """Return a cookie's name with the prefix that its attributes allow (RFC 6265bis, 4.1.3)."""
        names = {"refresh": self.REFRESH_COOKIE_NAME, "access": self.ACCESS_COOKIE_NAME}
        name = names.get(which, f"oauth_{which}")
        if not self.COOKIE_SECURE:
            return name
        return f"__Secure-{name}" if which in names and self.COOKIE_DOMAIN else f"__Host-{name}"


SETTINGS: Mapping[str, Setting[Any]] = {
    name: row for name, row in vars(Settings).items() if isinstance(row, Setting)
}
conf: Settings = Settings()
