"""Every setting: its default, its type, its meaning; read when used, never at import."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from datetime import timedelta
from typing import Any, Literal, NamedTuple, cast

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.views.decorators.debug import sensitive_variables

Algorithm = Literal["HS256", "EdDSA", "ES256", "RS256"]
ExpiresUnit = Literal["seconds", "milliseconds"]
MailDelivery = Literal["thread", "task", "inline"]

MAXIMUM_GRACE_PERIOD = timedelta(seconds=60)

DEFAULT_LIMITS: Mapping[str, Mapping[str, str]] = {
    "login": {"account_and_address": "5/m", "address": "30/m", "account": "100/h"},
    "otp": {"short": "10/15m", "long": "35/d"},
    "password_request": {"address": "20/h", "account": "5/h"},
    "refresh": {"session": "60/m"},
}

DEFAULTS: Mapping[str, Any] = {
    # How long an access token lives.
    "ACCESS_TOKEN_TTL": timedelta(minutes=15),
    # How long a refresh token lives since the last refresh.
    "REFRESH_TOKEN_TTL": timedelta(days=7),
    # How long a session lives since its log-in; None: no end.
    "SESSION_MAX_AGE": timedelta(days=30),
    # How long a spent refresh token still yields its own successor; at most 60 seconds.
    "REFRESH_GRACE_PERIOD": timedelta(seconds=10),
    # How long the link of a password reset lives.
    "PASSWORD_RESET_TOKEN_TTL": timedelta(hours=1),
    # The unit of `expires` in answers: "seconds", or "milliseconds" for the official JavaScript SDKs.
    "EXPIRES_UNIT": "seconds",
    # The JWT's `iss` and `aud`; None: PUBLIC_URL, or "platform_auth" where there is none.
    "ISSUER": None,
    "AUDIENCE": None,
    # How access tokens are signed: HS256, EdDSA, ES256 or RS256.
    "SIGNING_ALGORITHM": "HS256",
    # Newest first: the first signs, all verify. HS256: strings of 32 bytes or more; else PEM private keys
    # (public ones too, behind the first). None: derived from SECRET_KEY and SECRET_KEY_FALLBACKS (HS256 only).
    "SIGNING_KEYS": None,
    # For secrets at rest, newest first: strings of 32 bytes or more. None: derived from SECRET_KEY likewise.
    "ENCRYPTION_KEYS": None,
    # The site's own base URL: links in mails, the redirect URI of providers. None: http://localhost:8000 in DEBUG.
    "PUBLIC_URL": None,
    # Where the link in a reset mail leads when the caller gives no `reset_url`; None: the built-in page.
    "PASSWORD_RESET_URL": None,
    # The values of `reset_url` that are taken; None: the environment variable of this name, comma-separated.
    "PASSWORD_RESET_URL_ALLOW_LIST": None,
    # The values of `redirect` that are taken beside local paths and the origin of PUBLIC_URL.
    "OAUTH_REDIRECT_ALLOW_LIST": (),
    # Whether a reset may give a password to an account that has none.
    "PASSWORD_RESET_FOR_PROVIDER_ACCOUNTS": False,
    # How mails leave the request: "thread", "task" (Django's task framework) or "inline" (tests).
    "MAIL_DELIVERY": "thread",
    # How long `platform_auth_prune` keeps events.
    "EVENT_RETENTION": timedelta(days=180),
    # The attributes of both cookies; COOKIE_SECURE None: not DEBUG.
    "COOKIE_SECURE": None,
    "COOKIE_SAMESITE": "Lax",
    "COOKIE_DOMAIN": None,
    # The names of the cookies, without the prefix that `Secure` brings.
    "REFRESH_COOKIE_NAME": "refresh_token",
    "ACCESS_COOKIE_NAME": "access_token",
    # Whether `?access_token=` is taken too. URLs are logged: leave it off where you can.
    "ACCESS_TOKEN_IN_QUERY": False,
    # The group whose permissions everybody has.
    "PUBLIC_ROLE": "Public",
    # How many proxies in front append to X-Forwarded-For.
    "TRUSTED_PROXY_COUNT": 0,
    # How often: see DEFAULT_LIMITS. A partial dict changes just what it names.
    "LIMITS": {},
    # Whether a provider log-in needs no one-time password.
    "OAUTH_SATISFIES_MFA": False,
    # Who must have a second factor: names of groups; all staff.
    "TFA_REQUIRED_GROUPS": (),
    "TFA_REQUIRED_FOR_STAFF": False,
    # Hosts of providers that may have an address that is not public.
    "OAUTH_PRIVATE_HOSTS": (),
    # False: log-in by providers only.
    "PASSWORD_LOGIN": True,
}

_RATE = re.compile(r"([1-9][0-9]{0,6})/([1-9][0-9]{0,3})?([smhd])")
_UNIT_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


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
    return Rate(int(limit), timedelta(seconds=int(count or 1) * _UNIT_SECONDS[unit]))


@sensitive_variables()
def derive_key(secret: str | bytes, *, label: str) -> bytes:
    """Derive 32 bytes for one purpose from a secret (HKDF-SHA256, RFC 5869)."""
    material = secret.encode() if isinstance(secret, str) else secret
    return HKDF(algorithm=SHA256(), length=32, salt=None, info=f"platform_auth:{label}".encode()).derive(
        material
    )


class Settings:
    """Reads `settings.PLATFORM_AUTH` at each access, so that `override_settings` simply works."""

    ACCESS_TOKEN_TTL: timedelta
    REFRESH_TOKEN_TTL: timedelta
    SESSION_MAX_AGE: timedelta | None
    PASSWORD_RESET_TOKEN_TTL: timedelta
    EXPIRES_UNIT: ExpiresUnit
    SIGNING_ALGORITHM: Algorithm
    PASSWORD_RESET_URL: str | None
    PASSWORD_RESET_FOR_PROVIDER_ACCOUNTS: bool
    MAIL_DELIVERY: MailDelivery
    EVENT_RETENTION: timedelta
    COOKIE_SAMESITE: Literal["Lax", "Strict", "None"]
    COOKIE_DOMAIN: str | None
    ACCESS_TOKEN_IN_QUERY: bool
    PUBLIC_ROLE: str
    TRUSTED_PROXY_COUNT: int
    LIMITS: Mapping[str, Mapping[str, str]]
    OAUTH_SATISFIES_MFA: bool
    TFA_REQUIRED_FOR_STAFF: bool
    PASSWORD_LOGIN: bool

    def _get(self, name: str) -> Any:
        configured = getattr(settings, "PLATFORM_AUTH", None) or {}
        return configured.get(name, DEFAULTS[name])

    def __getattr__(self, name: str) -> Any:
        if name not in DEFAULTS:
            raise AttributeError(f"PLATFORM_AUTH has no setting {name}")
        return self._get(name)

    # Those that are more than a look-up.

    @property
    def REFRESH_GRACE_PERIOD(self) -> timedelta:
        return min(cast(timedelta, self._get("REFRESH_GRACE_PERIOD")), MAXIMUM_GRACE_PERIOD)

    @property
    def ISSUER(self) -> str:
        return cast(str, self._get("ISSUER") or self.PUBLIC_URL or "platform_auth")

    @property
    def AUDIENCE(self) -> str:
        return cast(str, self._get("AUDIENCE") or self.PUBLIC_URL or "platform_auth")

    @property
    def SIGNING_KEYS(self) -> list[str | bytes]:
        """The configured keys, newest first; for HS256 without any, 32 bytes for each SECRET_KEY."""
        configured = self._get("SIGNING_KEYS")
        if configured:
            return list(configured)
        if self.SIGNING_ALGORITHM != "HS256":
            raise ImproperlyConfigured(
                f'PLATFORM_AUTH["SIGNING_KEYS"] must hold a PEM private key for {self.SIGNING_ALGORITHM}.'
            )
        return [derive_key(secret, label="access-token") for secret in self.django_secrets]

    @property
    def ENCRYPTION_KEYS(self) -> list[str | bytes]:
        """The secrets from which `sealing` derives its keys, newest first."""
        return list(self._get("ENCRYPTION_KEYS") or self.django_secrets)

    @property
    def django_secrets(self) -> list[str | bytes]:
        """SECRET_KEY and its fallbacks."""
        return [settings.SECRET_KEY, *settings.SECRET_KEY_FALLBACKS]

    @property
    def PUBLIC_URL(self) -> str | None:
        """The site's base URL without a trailing slash, or None where it is missing (a check error)."""
        configured = self._get("PUBLIC_URL") or ("http://localhost:8000" if settings.DEBUG else None)
        return configured.rstrip("/") if isinstance(configured, str) else None

    @property
    def PASSWORD_RESET_URL_ALLOW_LIST(self) -> list[str]:
        configured = self._get("PASSWORD_RESET_URL_ALLOW_LIST")
        if configured is None:
            listed = os.environ.get("PASSWORD_RESET_URL_ALLOW_LIST", "").split(",")
            return [entry.strip() for entry in listed if entry.strip()]
        return list(configured)

    @property
    def OAUTH_REDIRECT_ALLOW_LIST(self) -> list[str]:
        return list(self._get("OAUTH_REDIRECT_ALLOW_LIST"))

    @property
    def COOKIE_SECURE(self) -> bool:
        configured = self._get("COOKIE_SECURE")
        return not settings.DEBUG if configured is None else bool(configured)

    @property
    def TFA_REQUIRED_GROUPS(self) -> list[str]:
        return list(self._get("TFA_REQUIRED_GROUPS"))

    @property
    def OAUTH_PRIVATE_HOSTS(self) -> list[str]:
        return [host.lower() for host in self._get("OAUTH_PRIVATE_HOSTS")]

    def rate(self, purpose: str, name: str) -> Rate:
        """Return the rate of LIMITS[purpose][name], configured or default."""
        configured = self._get("LIMITS").get(purpose, {}).get(name)
        return parse_rate(DEFAULT_LIMITS[purpose][name] if configured is None else configured)

    def cookie_name(self, which: Literal["refresh", "access", "flow", "pending"]) -> str:
        """Return a cookie's name with the prefix that its attributes allow (RFC 6265bis, 4.1.3)."""
        if which in ("refresh", "access"):
            name = cast(str, self._get(f"{which.upper()}_COOKIE_NAME"))
            domain = self.COOKIE_DOMAIN
        else:
            name, domain = f"oauth_{which}", None
        if not self.COOKIE_SECURE:
            return name
        return f"__Secure-{name}" if domain else f"__Host-{name}"


conf = Settings()
