"""Encryption of secrets at rest: `seal(purpose, text)` and `unseal`.

Fernet (AES-128-CBC with HMAC-SHA256), with a key for each purpose that HKDF derives from ENCRYPTION_KEYS, newest
first. The purpose names row and field, so a ciphertext that is moved to another row can't be decrypted.
"""

from __future__ import annotations

import base64
from collections.abc import Callable
from typing import Any

from cryptography.fernet import Fernet, InvalidToken, MultiFernet
from django.core.exceptions import ImproperlyConfigured
from django.views.decorators.debug import sensitive_variables

from .conf import conf, derive_key

_VERSION = "v1."


class SealBroken(ImproperlyConfigured):
    """A secret can't be decrypted: its key is no longer in the settings, or it was altered or moved."""


@sensitive_variables()
def _fernet(purpose: str) -> MultiFernet:
    keys = [derive_key(secret, label=f"seal:{purpose}") for secret in conf.ENCRYPTION_KEYS]
    return MultiFernet([Fernet(base64.urlsafe_b64encode(key)) for key in keys])


@sensitive_variables()
def seal(purpose: str, text: str) -> str:
    """Encrypt a text for one purpose (such as "totp:42") with the newest key."""
    return _VERSION + _fernet(purpose).encrypt(text.encode()).decode()


@sensitive_variables()
def unseal(purpose: str, sealed: str, *, max_age: int | None = None) -> str:
    """Decrypt what `seal` made for the same purpose at most `max_age` seconds ago. Raises SealBroken."""
    try:
        if not sealed.startswith(_VERSION):
            raise InvalidToken
        return _fernet(purpose).decrypt(sealed.removeprefix(_VERSION).encode(), ttl=max_age).decode()
    except (InvalidToken, UnicodeError):
        raise SealBroken(
            f"The secret sealed for {purpose!r} can't be decrypted: put the key that sealed it back into "
            'PLATFORM_AUTH["ENCRYPTION_KEYS"] (or SECRET_KEY_FALLBACKS), or enter the secret again.'
        ) from None


@sensitive_variables()
def is_current(purpose: str, sealed: str) -> bool:
    """Return whether a secret is sealed with the newest key."""
    key = derive_key(conf.ENCRYPTION_KEYS[0], label=f"seal:{purpose}")
    try:
        Fernet(base64.urlsafe_b64encode(key)).decrypt(sealed.removeprefix(_VERSION).encode())
    except (InvalidToken, UnicodeError):
        return False
    return True


class Secret(property):
    """A row's secret in plain text. `column` stores it, sealed for `purpose(row)`.

    Reading raises SealBroken, even if the column is empty, because anyone can compute the codes of an empty key. Only
    an `optional` secret may be empty.
    """

    def __init__(self, column: str, purpose: Callable[[Any], str], *, optional: bool = False) -> None:
        super().__init__(self._read, self._write)
        self.column, self.purpose, self.optional = column, purpose, optional

    @sensitive_variables()
    def _read(self, row: Any) -> str:
        sealed = getattr(row, self.column)
        return "" if self.optional and not sealed else unseal(self.purpose(row), sealed)

    @sensitive_variables()
    def _write(self, row: Any, raw: str) -> None:
        setattr(row, self.column, "" if self.optional and not raw else seal(self.purpose(row), raw))
