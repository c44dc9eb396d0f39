"""The opaque refresh token: mint, parse, digest, successor. Pure functions over the standard library.

A token is base64url(key + secret): 16 bytes that name the session, 32 bytes that only its holder knows. The
database keeps the digest of the current secret and the salt of the last rotation. The successor is computed from
the spent secret and that salt, so whoever holds the spent token can be given the same successor again, while the
database alone gives nothing.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
import secrets
import uuid
from typing import NamedTuple

KEY_BYTES = 16
SECRET_BYTES = 32
SALT_BYTES = 16

_LABEL = b"platform_auth refresh successor\x00"
_SHAPE = re.compile(r"[A-Za-z0-9_-]{64}")


class RefreshToken(NamedTuple):
    """A refresh token in clear."""

    key: uuid.UUID
    secret: bytes

    def __str__(self) -> str:
        """Return the 64 characters that travel."""
        return base64.urlsafe_b64encode(self.key.bytes + self.secret).decode()

    def __repr__(self) -> str:
        return "<RefreshToken>"

    @property
    def digest(self) -> str:
        """SHA-256 of the secret, in hexadecimal: all that the database keeps of it."""
        return hashlib.sha256(self.secret).hexdigest()

    def successor(self, salt: str) -> RefreshToken:
        """Return the token that follows this one under a salt (hexadecimal)."""
        return RefreshToken(self.key, hmac.digest(self.secret, _LABEL + bytes.fromhex(salt), "sha256"))


def mint(key: uuid.UUID) -> RefreshToken:
    """Make the first token of a session from the operating system's random bytes."""
    return RefreshToken(key, secrets.token_bytes(SECRET_BYTES))


def new_salt() -> str:
    """Return a fresh salt in hexadecimal."""
    return secrets.token_hex(SALT_BYTES)


def parse(raw_token: str) -> RefreshToken | None:
    """Read the 64 characters of a token; None for any other string."""
    if not _SHAPE.fullmatch(raw_token):
        return None
    try:
        raw = base64.urlsafe_b64decode(raw_token)
    except binascii.Error:
        return None
    return RefreshToken(uuid.UUID(bytes=raw[:KEY_BYTES]), raw[KEY_BYTES:])
