"""The two tokens of a session.

The access token is a JWT that is valid for minutes. It names the session (`sid`), so revoking the session also
revokes its access tokens wherever the session is looked up. It contains no personal data, roles or rights: those are
read from the database.

The refresh token is opaque: base64url(key + secret), where 16 bytes identify the session and 32 bytes are known to
its holder alone. The database stores the digest of the current secret and the salt of the last rotation. The
successor is computed from the rotated secret and that salt, so the holder of the rotated token can be given the same
successor again, while the database alone reveals no token.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
import secrets
import uuid
from datetime import datetime
from typing import NamedTuple

from django.views.decorators.debug import sensitive_variables

from .. import errors, signed_tokens
from ..conf import conf
from ..models import RefreshSession

ACCESS = signed_tokens.Kind(
    "access", "at+jwt", frozenset({"sid", "amr", "auth_time"}), frozenset({"tfa_required"})
)
"""An access token and the claims that `issue_access_token` puts into it."""

KEY_BYTES = 16
SECRET_BYTES = 32
SALT_BYTES = 16

_LABEL = b"platform_auth refresh successor\x00"
_SHAPE = re.compile(r"[A-Za-z0-9_-]{64}")


class Claims(NamedTuple):
    """The claims of a valid access token."""

    user_id: str
    session_id: uuid.UUID
    methods: list[str]
    auth_time: int
    tfa_required: bool


@sensitive_variables()
def issue_access_token(session: RefreshSession, *, now: datetime) -> tuple[str, int]:
    """Return an access token for a session and its life in seconds, which never exceeds the session's own."""
    expires_at = min(now + conf.ACCESS_TOKEN_TTL, session.expires_at)
    claims = {
        "sub": str(session.user_id),
        "sid": str(session.id),
        "amr": session.amr.split(),
        "auth_time": int(session.created_at.timestamp()),
        **({"tfa_required": True} if session.tfa_required else {}),
    }
    lifetime = expires_at - now
    token = signed_tokens.sign(ACCESS, claims, now=now, lifetime=lifetime)
    return token, int(expires_at.timestamp()) - int(now.timestamp())


@sensitive_variables()
def verify_access_token(raw_token: str) -> Claims:
    """Return the claims of an access token. Raises TokenExpired or InvalidToken, with the challenge of RFC 6750."""
    try:
        claims = signed_tokens.verify(ACCESS, raw_token)
        return Claims(
            claims["sub"],
            uuid.UUID(claims["sid"]),
            [str(method) for method in claims["amr"]],
            int(claims["auth_time"]),
            claims.get("tfa_required") is True,
        )
    except errors.InvalidToken:
        raise errors.InvalidToken(challenge=True) from None
    except errors.TokenExpired:
        raise errors.TokenExpired(challenge=True) from None
    except (ValueError, TypeError, AttributeError):
        raise errors.InvalidToken(challenge=True) from None


class RefreshToken(NamedTuple):
    """A refresh token in plain text."""

    key: uuid.UUID
    secret: bytes

    def __str__(self) -> str:
        """Return the 64 characters that clients see."""
        return base64.urlsafe_b64encode(self.key.bytes + self.secret).decode()

    def __repr__(self) -> str:
        return "<RefreshToken>"

    @property
    def digest(self) -> str:
        """The SHA-256 digest of the secret in hexadecimal: all that the database stores of it."""
        return hashlib.sha256(self.secret).hexdigest()

    def successor(self, salt: str) -> RefreshToken:
        """Return the token that follows this one with a salt (hexadecimal)."""
        return RefreshToken(self.key, hmac.digest(self.secret, _LABEL + bytes.fromhex(salt), "sha256"))


@sensitive_variables()
def new_refresh_token(key: uuid.UUID) -> RefreshToken:
    """Return the first token of a session, from the operating system's random bytes."""
    return RefreshToken(key, secrets.token_bytes(SECRET_BYTES))


def new_salt() -> str:
    """Return a random salt in hexadecimal."""
    return secrets.token_hex(SALT_BYTES)


@sensitive_variables()
def parse_refresh_token(raw_token: str) -> RefreshToken | None:
    """Parse the 64 characters of a token; return None for any other string."""
    if not _SHAPE.fullmatch(raw_token):
        return None
    try:
        raw = base64.urlsafe_b64decode(raw_token)
    except binascii.Error:
        return None
    return RefreshToken(uuid.UUID(bytes=raw[:KEY_BYTES]), raw[KEY_BYTES:])
