"""The access token: who a request speaks for, for minutes, without a look-up of the token itself.

It names the session (`sid`), so that a revoked session kills its access tokens at once where the session is looked up.
It holds no personal data, no role and no right: those are read from the database.
"""

from __future__ import annotations

import uuid
from datetime import datetime
from typing import NamedTuple

from django.views.decorators.debug import sensitive_variables

from .. import errors, signed_tokens
from ..conf import conf
from ..models import RefreshSession


class Claims(NamedTuple):
    """What a good access token says."""

    user_id: str
    session_id: uuid.UUID
    methods: list[str]
    auth_time: int
    tfa_required: bool


@sensitive_variables()
def issue(session: RefreshSession, *, now: datetime) -> tuple[str, int]:
    """Return an access token of a session and its life in seconds, never past the session's own end."""
    expires_at = min(now + conf.ACCESS_TOKEN_TTL, session.expires_at)
    claims = {
        "sub": str(session.user_id),
        "sid": str(session.id),
        "amr": session.methods,
        "auth_time": int(session.created_at.timestamp()),
        **({"tfa_required": True} if session.tfa_required else {}),
    }
    lifetime = expires_at - now
    token = signed_tokens.sign(signed_tokens.ACCESS, claims, now=now, lifetime=lifetime)
    return token, int(expires_at.timestamp()) - int(now.timestamp())


@sensitive_variables()
def verify(raw_token: str) -> Claims:
    """Return what an access token says. Raises TokenExpired or InvalidToken, with the challenge of RFC 6750."""
    try:
        claims = signed_tokens.verify(signed_tokens.ACCESS, raw_token)
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
