"""Every setting: its default, meaning, type and bounds. Settings are read when they are used, never at import."""

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
        raise ImproperlyConfigured(
            f'PLATFORM_AUTH["LIMITS"]: {text!r} is not a rate such as "5/m" or "10/15m".'
        )
    limit, count, unit = match.groups()
    return Rate(int(limit), int(count or 1) * _UNITS[unit])


@sensitive_variables()
def derive_key(secret: str | bytes, *, label: str) -> bytes:
    """Derive 32 bytes for one purpose from a secret (HKDF-SHA256, RFC 5869)."""
    info = f"platform_auth:{label}".encode()
    return HKDF(algorithm=SHA256(), length=32, salt=None, info=info).derive(force_bytes(secret))


def configured() -> Mapping[str, Any]:
    """Return PLATFORM_AUTH as the host wrote it. A value that isn't a dictionary counts as empty, and a check reports
    it.
    """
    found = getattr(settings, "PLATFORM_AUTH", None)
    return found if isinstance(found, Mapping) else {}


@dataclass(eq=False)
class Setting(Generic[T]):
    """A setting. `conf.NAME` reads PLATFORM_AUTH each time, so `override_settings` works."""

    default: T | None
    meaning: str
    """What it means, as in docs/settings.md."""
    type: tuple[Any, ...] = ()
    """The allowed types, or the allowed words; by default the type of the default."""
    bounds: tuple[Any, Any] = (None, None)
    """The minimum (of a string: its minimum length) and the maximum that is safe in production."""
    read: Callable[[Any], T] | None = None
    """Computes the value that `conf` returns, if that is more than what was configured."""

    def __post_init__(self) -> None:
        self.type = self.type or (type(self.default),)

    def __set_name__(self, owner: object, name: str) -> None:
        self.name = name

    def __get__(self, instance: object, owner: object) -> T:
        return self.read(self.value) if self.read else self.value

    @property
    def value(self) -> Any:
        """The configured value or the default, unprocessed."""
        return configured().get(self.name, self.default)


def _or_public_url(name: str | None) -> str:
    return name or conf.PUBLIC_URL or "platform_auth"


def _public_url(url: str | None) -> str | None:
    """Return the base URL without a trailing slash, or None if it is missing (which a check reports)."""
    url = url or ("http://localhost:8000" if settings.DEBUG else None)
    return url.rstrip("/") if isinstance(url, str) else None


def _signing_keys(keys: Keys | None) -> Keys:
    """Return the configured keys. For HS256 without keys: 32 bytes derived from each SECRET_KEY."""
    if keys:
        return list(keys)
    if conf.SIGNING_ALGORITHM != "HS256":
        raise ImproperlyConfigured(
            f'PLATFORM_AUTH["SIGNING_KEYS"] must hold a PEM private key for {conf.SIGNING_ALGORITHM}.'
        )
    return [derive_key(secret, label="access-token") for secret in conf.django_secrets]


def _reset_urls(urls: list[str] | None) -> list[str]:
    """Return the configured URLs, or those of the environment variable, separated by commas."""
    if urls is None:
        urls = [url.strip() for url in os.environ.get("PASSWORD_RESET_URL_ALLOW_LIST", "").split(",")]
        return [url for url in urls if url]
    return list(urls)


class Settings:
    """All settings, in the order of docs/settings.md."""

    # fmt: off
    ACCESS_TOKEN_TTL = Setting(15 * MINUTE, "how long an access token is valid", bounds=(SECOND, HOUR))
    REFRESH_TOKEN_TTL = Setting(
        7 * DAY, "how long a refresh token is valid after the last refresh", bounds=(SECOND, 90 * DAY))
    SESSION_MAX_AGE = Setting[timedelta | None](
        30 * DAY, "how long a session lasts after its login; `None`: without end", TIME_OR_NONE, (SECOND, 365 * DAY))
    REFRESH_GRACE_PERIOD = Setting(
        10 * SECOND, "how long a rotated refresh token is still answered with its successor; at most 60 seconds",
        bounds=(0 * SECOND, MAXIMUM_GRACE_PERIOD), read=lambda time: min(time, MAXIMUM_GRACE_PERIOD))
    PASSWORD_RESET_TOKEN_TTL = Setting(HOUR, "how long a password reset link is valid", bounds=(SECOND, HOUR))
    EXPIRES_UNIT = Setting[ExpiresUnit](
        "seconds", 'the unit of `expires` in responses; or `"milliseconds"`', get_args(ExpiresUnit))
    ISSUER = Setting[str](None, "the `iss` claim of tokens", TEXT_OR_NONE, read=_or_public_url)
    AUDIENCE = Setting[str](None, "the `aud` claim of tokens", TEXT_OR_NONE, read=_or_public_url)
    SIGNING_ALGORITHM = Setting[Algorithm](
        "HS256", 'the algorithm of all tokens; or `"EdDSA"`, `"ES256"`, `"RS256"`', get_args(Algorithm))
    # Public PEM keys are allowed after the first.
    SIGNING_KEYS = Setting[Keys](
        None, "newest first: the first signs, all verify. HS256: strings of 32 bytes or more; "
        "else PEM keys, of which the first is private", LIST_OR_NONE, read=_signing_keys)
    # Strings of 32 bytes or more, from which `sealing` derives its keys.
    ENCRYPTION_KEYS = Setting[Keys](
        None, "encrypt secrets at rest; newest first", LIST_OR_NONE,
        read=lambda keys: list(keys or conf.django_secrets))
    PUBLIC_URL = Setting[str | None](
        None, "the base URL of this site, for links in emails and the callback URLs of providers", TEXT_OR_NONE,
        read=_public_url)
    PASSWORD_RESET_URL = Setting[str | None](
        None, "where the link in a reset email leads if the request has no `reset_url`", TEXT_OR_NONE)
    PASSWORD_RESET_URL_ALLOW_LIST = Setting[list[str]](
        None, "the values of `reset_url` that are accepted", LIST_OR_NONE, read=_reset_urls)
    OAUTH_REDIRECT_ALLOW_LIST = Setting[list[str]](
        [], "the values of `redirect` that are accepted, in addition to local paths and the origin of `PUBLIC_URL`",
        LIST, read=list)
    PASSWORD_RESET_FOR_PROVIDER_ACCOUNTS = Setting(
        False, "whether a password reset may set a password for an account that has none")
    MAIL_DELIVERY = Setting[MailDelivery](
        "thread", 'who sends emails; or `"task"` (Django\'s task framework; extra `tasks` on 5.2), `"inline"` (tests)',
        get_args(MailDelivery))
    EVENT_RETENTION = Setting(180 * DAY, "how long `platform_auth_prune` keeps events", bounds=(SECOND, None))
    COOKIE_SECURE = Setting[bool](
        None, "whether cookies are `Secure`, with the prefix `__Host-`, or `__Secure-` if `COOKIE_DOMAIN` is set",
        (bool, NoneType),
        read=lambda secure: not settings.DEBUG if secure is None else bool(secure))
    COOKIE_SAMESITE = Setting[SameSite]("Lax", "the `SameSite` attribute of cookies", get_args(SameSite))
    COOKIE_DOMAIN = Setting[str | None](None, "the `Domain` attribute of cookies", TEXT_OR_NONE)
    REFRESH_COOKIE_NAME = Setting("refresh_token", "the name of the cookie with the refresh token, without prefix")
    ACCESS_COOKIE_NAME = Setting("access_token", "the name of the cookie with the access token, without prefix")
    ACCESS_TOKEN_IN_QUERY = Setting(False, "whether `?access_token=` is accepted too. Avoid it: URLs are logged")
    PUBLIC_ROLE = Setting("Public", "the group whose permissions everyone has", bounds=(1, None))
    TRUSTED_PROXY_COUNT = Setting(
        0, "how many proxies in front of the site append to `X-Forwarded-For`", bounds=(0, None))
    LIMITS = Setting(
        DEFAULT_LIMITS, "how often something may be tried; a partial dictionary changes only what it names")
    OAUTH_SATISFIES_MFA = Setting(False, "whether a login with a provider needs no one-time password")
    TFA_REQUIRED_GROUPS = Setting[list[str]]([], "groups whose members must have a second factor", LIST, read=list)
    TFA_REQUIRED_FOR_STAFF = Setting(False, "whether all staff users must have a second factor")
    OAUTH_PRIVATE_HOSTS = Setting[list[str]](
        [], "provider hosts that may resolve to private addresses", LIST,
        read=lambda hosts: [host.lower() for host in hosts])
    PASSWORD_LOGIN = Setting(True, "whether users can log in with a password; `False`: only with providers")
    # fmt: on

    @property
    def django_secrets(self) -> Keys:
        """SECRET_KEY and SECRET_KEY_FALLBACKS."""
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
