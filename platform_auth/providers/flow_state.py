"""What the browser keeps between two requests, in encrypted cookies: started flows, and a login waiting for its
one-time password.

The server stores nothing at the start, so a flood of starts costs nothing. The database decides that a flow, or a
waiting login, is used only once: the first request to insert its digest gets it (ASVS 10.1.2).
"""

from __future__ import annotations

import hashlib
import hmac
import json
import time
from collections.abc import Sequence
from datetime import timedelta
from typing import Any, NamedTuple

from django.db import IntegrityError, router, transaction
from django.utils import timezone
from django.utils.crypto import get_random_string
from django.views.decorators.debug import sensitive_variables

from .. import sealing
from ..models import UsedState

FLOW_LIFETIME = 600
"""How many seconds may pass between start and callback."""

PENDING_LIFETIME = 300
"""How many seconds a login waits for its one-time password."""

NEWEST = 4
MAX_COOKIE = 3800
"""In characters. Browsers silently drop cookies over 4096 bytes, including name and attributes."""

_REMEMBERED = timedelta(hours=1)


class Flow(NamedTuple):
    """A login (or link) that was started in this browser.

    `config` is a digest of the row that started it; `transaction` is what python-social-auth needs again: state,
    verifier, nonce; `redirect` is as given, or ""; `link_session` is the id of the session to link to, or "".
    """

    state: str
    provider: str
    config: str
    started_at: int
    transaction: dict[str, Any]
    mode: str
    redirect: str
    link_session: str

    def __repr__(self) -> str:
        return f"<Flow of provider {self.provider}>"

    @property
    def is_live(self) -> bool:
        return 0 <= time.time() - self.started_at + 1 <= FLOW_LIFETIME


class Pending(NamedTuple):
    """A login for which the provider has answered and the second factor is missing. `id` is claimed when it is used.

    `password` is a digest of the user's password hash: a new password invalidates what was begun before.
    """

    id: str
    user: str
    identity: str
    password: str

    def __repr__(self) -> str:
        return f"<Pending login of user {self.user}>"

    @classmethod
    @sensitive_variables()
    def of(cls, user: Any, *, identity: object) -> Pending:
        return cls(get_random_string(32), str(user.pk), str(identity), _digest(user.password))

    def is_of(self, user: Any) -> bool:
        """Return whether it belongs to this user with their current password."""
        return self.user == str(user.pk) and hmac.compare_digest(self.password, _digest(user.password))


@sensitive_variables()
def read_flows(cookie: str | None) -> list[Flow]:
    """Return the flows in a cookie, oldest first; none if it is missing, altered or old."""
    rows = _open("oauth:flow", cookie, FLOW_LIFETIME)
    try:
        return [Flow(*row) for row in rows or []]
    except TypeError:
        return []


@sensitive_variables()
def write_flows(flows: Sequence[Flow]) -> str:
    """Return a cookie with the newest live flows, as many as fit; "" if there are none."""
    kept = [flow for flow in flows if flow.is_live][-NEWEST:]
    while kept:
        cookie = sealing.seal("oauth:flow", json.dumps(kept, separators=(",", ":")))
        if len(cookie) <= MAX_COOKIE or len(kept) == 1:
            return cookie
        kept = kept[1:]
    return ""


@sensitive_variables()
def read_pending(cookie: str | None) -> Pending | None:
    row = _open("oauth:pending", cookie, PENDING_LIFETIME)
    try:
        return Pending(*row) if row else None
    except TypeError:
        return None


@sensitive_variables()
def write_pending(pending: Pending) -> str:
    return sealing.seal("oauth:pending", json.dumps(pending, separators=(",", ":")))


def claim(token: str) -> bool:
    """Claim a state, or the id of a pending login; True for the first caller only, as the database decides."""
    row = UsedState(digest=_digest(token), expires_at=timezone.now() + _REMEMBERED)
    try:
        with transaction.atomic(using=router.db_for_write(UsedState)):
            row.save(force_insert=True)
    except IntegrityError:
        return False
    return True


def is_claimed(token: str) -> bool:
    return UsedState.objects.using(router.db_for_write(UsedState)).filter(digest=_digest(token)).exists()


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


@sensitive_variables()
def _open(purpose: str, cookie: str | None, lifetime: int) -> Any:
    if not cookie:
        return None
    try:
        return json.loads(sealing.unseal(purpose, cookie, max_age=lifetime))
    except (sealing.SealBroken, ValueError):
        return None
