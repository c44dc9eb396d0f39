"""Sessions: open at login, rotate at refresh, end at logout, revoke.

A session is one row for its whole life. Every race is decided by the row count of a single conditional statement.

If a rotated refresh token is used again, either the response with its successor was lost (then the token comes back
soon and gets the same successor) or the token was stolen (then the second to use it reveals the theft, and the session
ends for both; RFC 9700, 4.14.2).
"""

from __future__ import annotations

import functools
import hmac
import uuid
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any, NamedTuple

from django.contrib.auth import get_user_model
from django.contrib.auth.signals import user_logged_in, user_logged_out
from django.db import connections
from django.http import HttpRequest
from django.utils import timezone
from django.utils.functional import SimpleLazyObject
from django.utils.translation import gettext as _
from django.views.decorators.debug import sensitive_variables

from .. import caller, db, errors, events, limits, signals
from ..caller import Caller
from ..conf import conf
from ..models import AuthEvent, Mode, PasswordResetToken, RefreshSession
from ..second_factor import verification
from . import tokens
from .tokens import RefreshToken

_ATTEMPTS = 3
_ORDER = list(Mode)


class Grant(NamedTuple):
    """The result of a login or refresh: the only place where the tokens exist in plain text.

    `expires_in` is the life of the access token in seconds; `mode` says how the tokens travel.
    """

    access_token: str
    refresh_token: str
    expires_in: int
    mode: Mode
    session: RefreshSession

    def __repr__(self) -> str:
        return f"<Grant of session {self.session.pk}>"


class Evidence(NamedTuple):
    """Proof of who is logging in, on which a session is opened.

    `amr`: the methods used (RFC 8176), including "otp" if a second factor has been verified already. `otp`: a
    one-time password that is still to be verified; it is spent if, and only if, the session is opened.
    `factor_satisfied`: a second factor other than ours was proven, so no policy requires ours.

    `still_holds` returns whether a fresh copy of the user has the password that was verified. `claim` is called in
    the transaction that opens the session; an exception rolls everything back.
    """

    user: Any
    amr: tuple[str, ...]
    provider: str = ""
    otp: str | None = None
    factor_satisfied: bool = False
    still_holds: Callable[[Any], bool] | None = None
    claim: Callable[[], None] | None = None

    def __repr__(self) -> str:
        return f"<Evidence of {' and '.join(self.amr)}>"


class _Changed(Exception):
    """The user's row has changed since it was verified."""


@sensitive_variables()
def open(
    user: Any,
    *,
    request: HttpRequest | None = None,
    mode: str = Mode.JSON,
    amr: Sequence[str] = ("pwd",),
    provider: str = "",
    otp: str | None = None,
    factor_satisfied: bool = False,
    replacing: str | None = None,
) -> Grant:
    """Open a session for a user whom the host has authenticated.

    See `Evidence` and `open_on` for the arguments and errors.
    """
    evidence = Evidence(user, tuple(amr), provider, otp, factor_satisfied)
    return open_on(evidence, mode=mode, replacing=replacing, request=request)


@sensitive_variables()
def open_on(
    evidence: Evidence,
    *,
    mode: str = Mode.JSON,
    replacing: str | None = None,
    request: HttpRequest | None = None,
) -> Grant:
    """Open a session on evidence. `replacing`: the refresh token of a session that this one replaces, which ends.

    With a one-time password, call it outside of a transaction of your own: a rollback would also undo the count of a
    wrong code. Raises InvalidOTP if the user has a second factor that was neither given nor satisfied;
    RequestsExceeded; InvalidCredentials if the password was changed or the user deactivated meanwhile.
    """
    user, opened = evidence.user, None
    replaced_token = tokens.parse_refresh_token(replacing) if replacing else None
    for _attempt in range(_ATTEMPTS):
        try:
            opened = _open(evidence, mode=Mode(mode), replacing=replaced_token, who=caller.of(request))
            break
        except _Changed:
            fresh = user.__class__._base_manager.using(db.alias()).filter(pk=user.pk).first()
            still_holds = evidence.still_holds
            if fresh is None or not fresh.is_active or still_holds is None or not still_holds(fresh):
                break
            user.password = fresh.password
    if opened is None:
        raise errors.InvalidCredentials
    grant, replaced = opened
    if replaced is not None:
        _announce_end(replaced, request=request)
    events.log_failures(
        user_logged_in.send_robust(sender=user.__class__, request=request, user=user, session=grant.session)
    )
    events.announce(
        signals.logged_in, user=user, request=request, session=grant.session, provider=evidence.provider
    )
    return grant


@sensitive_variables()
def rotate(
    raw_token: str, *, mode: str | None = None, from_cookie: bool = False, request: HttpRequest | None = None
) -> Grant:
    """Rotate a refresh token and return its successor; within the grace period, return the same successor again.

    `mode`: how the response travels. None means the session's mode for a token from a cookie, and `json` otherwise.
    Raises InvalidCredentials, UserSuspended, InvalidPayload (a mode that moves back), RequestsExceeded.
    """
    presented = tokens.parse_refresh_token(raw_token)
    if presented is None:
        raise errors.InvalidCredentials(session_over=from_cookie)
    # Counted once per request, no matter how often a race makes it try again.
    count = functools.cache(functools.partial(_take_refresh, request=request))
    try:
        return _rotate(_Refresh(presented, mode, from_cookie, request, count))
    except errors.PlatformAuthError as refusal:
        # If the token came in the body, a cookie may belong to another session.
        refusal.session_over &= from_cookie
        raise


@sensitive_variables()
def end(raw_token: str, *, request: HttpRequest | None = None, reason: str = "") -> None:
    """End the session of a refresh token, even of a rotated one. Unknown tokens are not an error (RFC 7009, 2.2)."""
    token = tokens.parse_refresh_token(raw_token)
    if token is None:
        return
    session = _take(AuthEvent.Kind.LOGGED_OUT, caller.of(request), reason, key=token.key)
    if session is not None:
        _announce_end(session, request=request)


def revoke(session: RefreshSession, *, request: HttpRequest | None = None, reason: str = "") -> None:
    """End a session. Its refresh token and access tokens stop working immediately."""
    _take(AuthEvent.Kind.SESSION_REVOKED, caller.of(request), reason, id=session.id)


@db.retried
def revoke_all(user: Any, keep: RefreshSession | None = None) -> int:
    """End all sessions of a user except `keep`; return how many."""
    sessions = RefreshSession.objects.filter(user_id=user.pk)
    if keep is not None:
        sessions = sessions.exclude(pk=keep.pk)
    count, _by_model = sessions.delete()
    return count


@db.in_transaction
def revoke_and_record(
    user: Any, *, keep: RefreshSession | None = None, who: Caller, reason: str, session_id: object = None
) -> int:
    """End all sessions of a user except `keep` and record why, in one transaction; return how many."""
    count = revoke_all(user, keep)
    if count:
        events.record(
            AuthEvent.Kind.SESSION_REVOKED, user=user, who=who, reason=reason, session_id=session_id
        )
    return count


def revoke_own(user: Any, session_id: str, *, request: HttpRequest | None = None) -> None:
    """End one session of a user by its id. Raises RouteNotFound if the user has no such session."""
    try:
        session = RefreshSession.objects.get(pk=uuid.UUID(session_id), user_id=user.pk)
    except (ValueError, RefreshSession.DoesNotExist):
        raise errors.RouteNotFound from None
    revoke(session, request=request, reason="user")


def revoke_others(session: RefreshSession, *, request: HttpRequest | None = None) -> None:
    """End all other sessions of a session's user."""
    revoke_and_record(session.user, keep=session, who=caller.of(request), reason="others")


def of(user: Any) -> list[RefreshSession]:
    """Return a user's live sessions, newest login first."""
    return list(RefreshSession.objects.filter(user_id=user.pk).live(now=timezone.now()))


def find_live(session_id: uuid.UUID) -> RefreshSession:
    """Return the live session of an access token, with its active user, in one SQL statement. Raises InvalidToken."""
    session = (
        RefreshSession.objects.select_related("user").live(now=timezone.now()).filter(pk=session_id).first()
    )
    if session is None or not session.user.is_active:
        raise errors.InvalidToken(challenge=True)
    return session


@sensitive_variables()
@db.in_transaction
def _open(
    evidence: Evidence, *, mode: Mode, replacing: RefreshToken | None, who: Caller
) -> tuple[Grant, RefreshSession | None]:
    """Spend the one-time password, insert the session and its event, and delete the replaced session, in one
    transaction.

    The conditional UPDATE locks the user's row, so a reset, password change, deactivation or new factor that commits
    at the same time is either seen here, or finds this session and ends it. Raises _Changed.
    """
    user, amr, provider = evidence.user, evidence.amr, evidence.provider
    if not db.lock(user, unchanged=("password",), active=True):
        raise _Changed
    # A separate statement after the lock: as part of the UPDATE it would see the state before it.
    if not evidence.factor_satisfied and "otp" not in amr and verification.is_enrolled(user):
        if evidence.otp is None:
            raise errors.InvalidOTP
        verification.verify(user, evidence.otp, who=who)
        amr = (*amr, "otp")
    if evidence.claim is not None:
        evidence.claim()
    now = timezone.now()
    token = tokens.new_refresh_token(uuid.uuid4())
    session = RefreshSession(
        user=user,
        key=token.key,
        digest=token.digest,
        mode=mode,
        amr=" ".join(amr),
        provider=provider,
        # Not if only the setting says so: that applies as long as the setting does.
        factor_satisfied=evidence.factor_satisfied and not _provider_will_do(provider),
        created_at=now,
        rotated_at=now,
        expires_at=_expiry(now, now),
        ip_address=who.address,
        user_agent=who.user_agent,
    )
    # After the lock too: a factor that an admin has just removed satisfies no policy.
    session.tfa_required = _tfa_required(session)
    session.save(force_insert=True)
    events.record(
        AuthEvent.Kind.LOGGED_IN,
        user=user,
        who=who,
        provider=provider,
        reason=session.amr,
        session_id=session.id,
    )
    replaced = None
    if replacing is not None:
        replaced = _take(AuthEvent.Kind.LOGGED_OUT, who, "replaced", key=replacing.key)
    return _grant(session, token, mode=mode, now=now), replaced


class _Refresh(NamedTuple):
    """A refresh request. `take` counts it."""

    presented: RefreshToken
    mode: str | None
    from_cookie: bool
    request: HttpRequest | None
    take: Callable[[RefreshSession], None]

    def __repr__(self) -> str:
        return "<Refresh>"

    def next_mode(self, session: RefreshSession) -> Mode:
        """Return the mode of the response. A session moves from json to cookie to session, never back."""
        remembered = Mode(session.mode)
        if self.mode is not None:
            chosen = Mode(self.mode)
        else:
            # The token in a cookie never becomes readable, regardless of the session's mode.
            chosen = max(remembered, Mode.COOKIE, key=_ORDER.index) if self.from_cookie else Mode.JSON
        if _ORDER.index(chosen) < _ORDER.index(remembered):
            raise errors.InvalidPayload(
                _('This session has moved to mode "%(mode)s" and can\'t move back.')
                % {"mode": remembered.value},
                field="mode",
            )
        return chosen


@sensitive_variables()
@db.retried
def _rotate(refresh: _Refresh) -> Grant:
    now = timezone.now()
    for _attempt in range(_ATTEMPTS):
        session = RefreshSession.objects.select_related("user").filter(key=refresh.presented.key).first()
        # By the current setting too: lowering SESSION_MAX_AGE ends sessions that are older.
        if session is None or min(session.expires_at, _expiry(session.created_at, now)) <= now:
            raise errors.InvalidCredentials(session_over=True)
        who = caller.of(refresh.request)
        if not session.user.is_active:
            revoke_and_record(session.user, who=who, reason="user suspended", session_id=session.id)
            raise errors.UserSuspended
        if not hmac.compare_digest(refresh.presented.digest, session.digest):
            return _answer_spent(session, refresh, who=who, now=now)
        mode = refresh.next_mode(session)
        refresh.take(session)
        grant = _advance(session, refresh.presented, mode=mode, who=who, now=now)
        if grant is not None:
            # This is the most frequent request, so nothing is announced if nobody listens.
            if signals.refreshed.has_listeners(get_user_model()):
                events.announce(
                    signals.refreshed, user=session.user, request=refresh.request, who=who, session=session
                )
            return grant
    raise errors.ServiceUnavailable


@sensitive_variables()
def _advance(
    session: RefreshSession, presented: RefreshToken, *, mode: Mode, who: Caller, now: datetime
) -> Grant | None:
    """Rotate by one conditional UPDATE. Return None if another request was first, or a factor was turned on or off
    meanwhile.

    Everything that can fail, such as signing, happens before it, so a refresh that fails consumes nothing.
    """
    salt = tokens.new_salt()
    successor = presented.successor(salt)
    changes: dict[str, Any] = {
        "digest": successor.digest,
        "salt": salt,
        "rotated_at": now,
        "expires_at": _expiry(session.created_at, now),
        "mode": max(mode, Mode(session.mode), key=_ORDER.index),
        "tfa_required": _tfa_required(session),
        "ip_address": who.address,
        "user_agent": who.user_agent,
    }
    as_read = {name: getattr(session, name) for name in ("digest", "tfa_required", "amr")}
    unspent = RefreshSession.objects.filter(pk=session.pk, **as_read)
    for name, value in changes.items():
        setattr(session, name, value)
    grant = _grant(session, successor, mode=mode, now=now)
    return grant if unspent.update(**changes) else None


@sensitive_variables()
def _answer_spent(session: RefreshSession, refresh: _Refresh, *, who: Caller, now: datetime) -> Grant:
    """Answer a token that isn't the current one: a lost response, a second tab, or a theft."""
    age = now - session.rotated_at
    facts: dict[str, Any] = {"user": session.user, "who": who, "session_id": session.id}
    if abs(age) <= conf.REFRESH_GRACE_PERIOD:
        successor = refresh.presented.successor(session.salt) if session.salt else None
        if successor is not None and hmac.compare_digest(successor.digest, session.digest):
            mode = refresh.next_mode(session)
            refresh.take(session)
            events.record(AuthEvent.Kind.REFRESH_REPLAYED, **facts)
            return _grant(session, successor, mode=mode, now=now)
        raise errors.InvalidCredentials
    if age.total_seconds() < 0:
        # The clock went back. Nothing is known about the token, so the session stays.
        events.record(AuthEvent.Kind.REFRESH_REFUSED, reason="clock went back", **facts)
        raise errors.InvalidCredentials
    if _take(AuthEvent.Kind.REFRESH_REUSED, who, "", id=session.id) is not None:
        events.announce(
            signals.refresh_token_reused,
            user=session.user,
            request=refresh.request,
            who=who,
            session=session,
        )
    raise errors.InvalidCredentials(session_over=True)


@db.in_transaction
def _take(kind: AuthEvent.Kind, who: Caller, reason: str, **lookup: uuid.UUID) -> RefreshSession | None:
    """Delete a session and record why, in one transaction. Return None if another request was first."""
    session = _delete(**lookup)
    if session is not None:
        events.record(kind, user_id=session.user_id, who=who, reason=reason, session_id=session.id)
    return session


def _delete(**lookup: uuid.UUID) -> RefreshSession | None:
    """Delete the session with this value of a unique field and return it. Return None if another request was first.

    One statement on PostgreSQL and SQLite; two on other databases, where the row count of the second decides.
    """
    rows = RefreshSession.objects.filter(**lookup)
    connection = connections[rows.db]
    if (
        connection.vendor not in ("postgresql", "sqlite")
        or not connection.features.can_return_rows_from_bulk_insert
    ):
        session = rows.first()
        return session if session is not None and rows.delete()[0] else None
    ((name, value),) = lookup.items()
    field: Any = RefreshSession._meta.get_field(name)
    quote = connection.ops.quote_name
    table, column = quote(RefreshSession._meta.db_table), quote(field.column)
    sql = f"DELETE FROM {table} WHERE {column} = %s RETURNING *"  # noqa: S608 - names of ours
    taken = list(rows.raw(sql, [field.get_db_prep_value(value, connection)]))
    return taken[0] if taken else None


def _announce_end(session: RefreshSession, *, request: HttpRequest | None) -> None:
    # The user is only loaded if a receiver asks for it.
    user = SimpleLazyObject(lambda: session.user)
    events.log_failures(
        user_logged_out.send_robust(sender=get_user_model(), request=request, user=user, session=session)
    )
    events.announce(signals.logged_out, user=user, request=request, session=session)


def _take_refresh(session: RefreshSession, *, request: HttpRequest | None) -> None:
    try:
        limits.take_refresh(session.id)
    except limits.Limited as limited:
        if limited.is_first:
            events.record(
                AuthEvent.Kind.REFRESH_LIMITED,
                user=session.user,
                who=caller.of(request),
                session_id=session.id,
            )
        raise


def _tfa_required(session: RefreshSession) -> bool:
    """Return whether the policy requires a second factor that is missing; runs SQL only if a policy is set."""
    if not (conf.TFA_REQUIRED_FOR_STAFF or conf.TFA_REQUIRED_GROUPS):
        return False
    if session.factor_satisfied or _provider_will_do(session.provider):
        return False
    return verification.is_required_for(session.user) and not verification.is_enrolled(session.user)


def _provider_will_do(provider: str) -> bool:
    return bool(provider) and conf.OAUTH_SATISFIES_MFA


@sensitive_variables()
def _grant(session: RefreshSession, token: RefreshToken, *, mode: str, now: datetime) -> Grant:
    access_token, expires_in = tokens.issue_access_token(session, now=now)
    return Grant(access_token, str(token), expires_in, Mode(mode), session)


def _expiry(created_at: datetime, now: datetime) -> datetime:
    """Return when a session that is refreshed now expires: it slides, but never past the session's absolute life."""
    slides_to = now + conf.REFRESH_TOKEN_TTL
    return slides_to if conf.SESSION_MAX_AGE is None else min(slides_to, created_at + conf.SESSION_MAX_AGE)


def end_at_new_password(*, instance: Any, created: bool, using: str, **kwargs: Any) -> None:
    """End the sessions and reset links of a user whose password was set elsewhere: Django admin, `changepassword`,
    the host.

    Django keeps the raw password on the user between `set_password` and `save`, but not for an upgraded hash. Our own
    reset and change don't get here, because they end sessions in the transaction that writes the password. A
    deactivation needs nothing, because every use of a session checks it.
    """
    if getattr(instance, "_password", None) is None:
        return
    user_model = get_user_model()
    # The instance may be a parent or child of the user model with a key of its own. All of them have the key of the
    # table that holds the password.
    owner = user_model._meta.get_field("password").model
    key = owner._meta.pk
    if created and instance._meta.concrete_model is owner:
        return
    rows = user_model._base_manager.using(using).filter(**{key.name: getattr(instance, key.attname)})
    user = rows.first()
    if user is None:
        return
    PasswordResetToken.objects.filter(user=user).delete()
    if revoke_all(user):
        events.record_if_possible(AuthEvent.Kind.SESSION_REVOKED, reason="password set", user=user)
