"""The token of a reset link: a signed JWT whose `jti` is a row.

It is valid while its row exists and the user has the same email address and password as when it was made; the row
stores a fingerprint of both (as `django.contrib.auth.tokens` does in its hash). Using the link, changing the password
or the address, requesting a fourth link and deleting the row each end it.
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
"""How many links of a user are valid at the same time: the newest ones."""


class Dead(errors.InvalidToken):
    """A token that we signed, but whose link was used or superseded, or whose user has changed. `user` is None if the
    row is gone.
    """

    def __init__(self, *, user: Any = None) -> None:
        super().__init__()
        self.user = user


@sensitive_variables()
@db.in_transaction
def issue(user: Any, *, who: Caller = NOBODY, token_id: uuid.UUID | str | None = None) -> PasswordResetToken:
    """Create the row of a new link and delete those that it supersedes, in one transaction.

    Called again with the same `token_id`, it returns the row that it created, so a job that is tried again doesn't
    use up another link.
    """
    now = timezone.now()
    # Of two at the same time, the second sees the row of the first.
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
    # Not by the time alone: if another node's clock is ahead, this row would count as the oldest.
    older = others.exclude(pk=token.pk).order_by("-created_at", "-pk")[LIVE_AT_ONCE - 1 :]
    others.filter(pk__in=list(older.values_list("pk", flat=True))).delete()
    return token


@sensitive_variables()
def sign(token: PasswordResetToken) -> str:
    """Return the JWT of a row; it exists only in this value."""
    return signed_tokens.sign(
        PASSWORD_RESET,
        {"sub": str(token.user_id), "jti": str(token.pk)},
        now=token.created_at,
        lifetime=token.expires_at - token.created_at,
    )


@sensitive_variables()
def read(raw_token: str) -> PasswordResetToken:
    """Return the row of a token with its user, without spending it. Raises TokenExpired, InvalidToken."""
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
    """Return the row of a link with its user, or None."""
    token: PasswordResetToken | None = (
        PasswordResetToken.objects.filter(pk=token_id).select_related("user").first()
    )
    return token


def is_good(token: PasswordResetToken, *, now: datetime) -> bool:
    """Return whether a row hasn't expired and its user is active, with the same email address and password."""
    fingerprints = _fingerprints(token.user)
    return (
        token.expires_at > now
        and token.user.is_active
        and any(hmac.compare_digest(token.fingerprint, fingerprint) for fingerprint in fingerprints)
    )


@sensitive_variables()
def _fingerprints(user: Any) -> list[str]:
    """Return the HMAC of a user's email address and password hash with each SECRET_KEY, newest first."""
    address = getattr(user, user.get_email_field_name()) or ""
    state = f"{len(address)}:{address}{user.password}".encode()
    keys = [derive_key(secret, label="reset-fingerprint") for secret in conf.django_secrets]
    return [hmac.digest(key, state, hashlib.sha256).hex() for key in keys]
