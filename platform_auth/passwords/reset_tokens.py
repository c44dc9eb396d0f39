"""The token of a reset link: a signed JWT whose `jti` is a row.

It is good while its row lives and the user has the e-mail address and the password of the moment it was made:
a row keeps a fingerprint of both (after `django.contrib.auth.tokens`, whose hash covers the same state).
Using the link, changing the password or the address, or asking for the fourth link each end it, and so does
deleting the row.
"""

from __future__ import annotations

import hashlib
import hmac
import uuid
from datetime import datetime
from typing import Any

from django.utils import timezone
from django.views.decorators.debug import sensitive_variables

from .. import db, errors, signed_tokens
from ..caller import NOBODY, Caller
from ..conf import conf, derive_key
from ..models import PasswordResetToken

PASSWORD_RESET = signed_tokens.Kind("password_reset", "password-reset+jwt", frozenset())
LIVE_AT_ONCE = 3
"""How many links of one user are good at the same time: the newest."""


class Dead(errors.InvalidToken):
    """A token that we signed, but its link is used, superseded, or of a user who is not what they were.

    `user` is None where the row is gone.
    """

    def __init__(self, *, user: Any = None) -> None:
        super().__init__()
        self.user = user


@sensitive_variables()
@db.in_transaction
def issue(user: Any, *, who: Caller = NOBODY, token_id: uuid.UUID | str | None = None) -> PasswordResetToken:
    """Make a row for a new link and delete those that it supersedes, or neither.

    Asked again with the same `token_id` it returns the row that it made: a job that is tried again takes no second
    place.
    """
    now = timezone.now()
    # Of two at once the second sees what the first made.
    db.lock(user)
    others = PasswordResetToken.objects.filter(user=user)
    token: PasswordResetToken | None = others.filter(pk=token_id).first() if token_id else None
    if token is not None:
        return token
    token = PasswordResetToken.objects.create(
        pk=token_id or uuid.uuid4(),
        user=user,
        fingerprint=_fingerprints(user)[0],
        created_at=now,
        expires_at=now + conf.PASSWORD_RESET_TOKEN_TTL,
        ip_address=who.address,
    )
    # Not by the time alone: the clock of another node may be ahead, and would make this one the oldest.
    older = others.exclude(pk=token.pk).order_by("-created_at", "-pk")[LIVE_AT_ONCE - 1 :]
    others.filter(pk__in=list(older.values_list("pk", flat=True))).delete()
    return token


@sensitive_variables()
def sign(token: PasswordResetToken) -> str:
    """Return the JWT of a row: the only moment at which it exists."""
    return signed_tokens.sign(
        PASSWORD_RESET,
        {"sub": str(token.user_id), "jti": str(token.pk)},
        now=token.created_at,
        lifetime=token.expires_at - token.created_at,
    )


@sensitive_variables()
def read(raw_token: str) -> PasswordResetToken:
    """Return the row of a token, joined with its user; spend nothing. Raises TokenExpired, InvalidToken."""
    claims = signed_tokens.verify(PASSWORD_RESET, raw_token)
    try:
        token_id = uuid.UUID(claims["jti"])
    except ValueError:
        raise errors.InvalidToken from None
    token = find(token_id)
    if token is None or str(token.user_id) != claims["sub"]:
        raise Dead
    if not is_good(token, now=timezone.now()):
        raise Dead(user=token.user)
    return token


def find(token_id: uuid.UUID | str) -> PasswordResetToken | None:
    """Return the row of a link, joined with its user, or None."""
    token: PasswordResetToken | None = (
        PasswordResetToken.objects.filter(pk=token_id).select_related("user").first()
    )
    return token


def is_good(token: PasswordResetToken, *, now: datetime) -> bool:
    """Return whether a row's time is not over and its user is active, with the same address and password."""
    fingerprints = _fingerprints(token.user)
    return (
        token.expires_at > now
        and token.user.is_active
        and any(hmac.compare_digest(token.fingerprint, fingerprint) for fingerprint in fingerprints)
    )


@sensitive_variables()
def _fingerprints(user: Any) -> list[str]:
    """Return the HMAC over a user's address and password hash, under each SECRET_KEY, newest first."""
    address = getattr(user, user.get_email_field_name()) or ""
    state = f"{len(address)}:{address}{user.password}".encode()
    keys = [derive_key(secret, label="reset-fingerprint") for secret in conf.django_secrets]
    return [hmac.digest(key, state, hashlib.sha256).hex() for key in keys]
