"""Set up, confirm and remove a signed-in user's second factor; recovery codes.

A secret counts only after one of its codes was entered, so nobody is locked out by a QR code that they never scanned.
Changing a factor locks the user's row first, as `sessions.open` does: a login that verified no factor while one was
being turned on either sees it, or its session is ended.
"""

from __future__ import annotations

import hmac
from datetime import timedelta
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from django.conf import settings
from django.db import IntegrityError
from django.http import HttpRequest
from django.utils import timezone
from django.utils.translation import gettext as _
from django.views.decorators.debug import sensitive_variables

from .. import caller, db, errors, events, limits, sealing, sessions, signals
from ..caller import Caller
from ..conf import conf
from ..login import confirmation
from ..mail import messages
from ..models import AuthEvent, PendingFactor, RecoveryCode, RefreshSession, TOTPFactor
from . import totp, verification

PENDING_FOR = timedelta(minutes=10)
"""How long a new secret may be confirmed."""


class Status(NamedTuple):
    """Whether a user has a second factor, whether one is required, and how many recovery codes are left."""

    enabled: bool
    required: bool
    recovery_codes_left: int


class Enrolment(NamedTuple):
    """A new secret for an authenticator app, shown once: base32, otpauth:// URL, <svg> element."""

    secret: str
    otpauth_url: str
    qr_svg: str

    def __repr__(self) -> str:
        return "<Enrolment>"


def status(user: Any) -> Status:
    """Return the status of a user's second factor."""
    return Status(
        verification.is_enrolled(user),
        verification.is_required_for(user),
        verification.recovery_codes_left(user),
    )


@sensitive_variables()
def generate(session: RefreshSession, *, password: str | None = None, request: HttpRequest) -> Enrolment:
    """Give a session a secret, which must be confirmed within ten minutes and replaces the previous one. Turns
    nothing on.

    Raises the errors of `confirmation.confirm`, InvalidPayload if a factor is on, InvalidToken (the user is gone).
    """
    user = session.user
    confirmation.confirm(request, session, password=password)
    _refuse_if_enrolled(user)
    secret = totp.new_secret()
    _keep_pending(session, secret)
    # What the authenticator app shows for this site and this user.
    site = urlsplit(conf.PUBLIC_URL or "").hostname or conf.ISSUER
    account = getattr(user, user.get_email_field_name(), "") or user.get_username()
    url = totp.provisioning_url(secret, issuer=site, account=str(account))
    return Enrolment(secret, url, totp.qr_svg(url))


@sensitive_variables()
def enable(
    session: RefreshSession, *, secret: str, otp: str, request: HttpRequest, with_recovery_codes: bool = True
) -> list[str]:
    """Turn on the secret that `generate` gave to this session; return the recovery codes, which are shown once.

    Every other session of the user ends. Raises InvalidPayload (another secret, too late, a factor is already on),
    InvalidOTP, RequestsExceeded, InvalidToken (the session has ended).
    """
    user = session.user
    who = caller.of(request)
    _refuse_if_enrolled(user)
    pending = PendingFactor.objects.filter(
        session_id=session.id, user=user, expires_at__gt=timezone.now()
    ).first()
    if pending is None or not _is_waiting(pending, secret):
        raise errors.InvalidPayload(
            _("This secret is unknown or has expired. Generate a new one."), field="secret"
        )
    raw_codes = verification.new_recovery_codes() if with_recovery_codes else []
    try:
        _turn_on(session, pending=pending, secret=secret, otp=otp, raw_codes=raw_codes, who=who)
    except IntegrityError:
        raise _enrolled() from None
    events.announce(signals.factor_enabled, user=user, request=request, who=who)
    messages.send_notice(user, "factor_enabled", who=who)
    return raw_codes


@sensitive_variables()
def disable(session: RefreshSession, *, otp: str, request: HttpRequest) -> None:
    """Remove the factor and its recovery codes. `otp`: a one-time password or a recovery code.

    Raises InvalidPayload (there is no factor), InvalidOTP, RequestsExceeded.
    """
    user = session.user
    who = caller.of(request)
    _require_enrolled(user)
    _turn_off(user, otp=otp, who=who, reason="user", session_id=session.id)
    events.announce(signals.factor_disabled, user=user, request=request, who=who, by="user")
    messages.send_notice(user, "factor_disabled", who=who)


@sensitive_variables()
def renew_recovery_codes(
    session: RefreshSession, *, password: str | None = None, otp: str, request: HttpRequest
) -> list[str]:
    """Return ten new recovery codes, which are shown once; the old ones stop working.

    Raises the errors of `confirmation.confirm`, InvalidPayload (there is no factor), InvalidOTP, RequestsExceeded.
    """
    user = session.user
    who = caller.of(request)
    confirmation.confirm(request, session, password=password)
    _require_enrolled(user)
    raw_codes = verification.new_recovery_codes()
    _replace_codes(session, otp=otp, raw_codes=raw_codes, who=who)
    messages.send_notice(user, "recovery_codes_renewed", who=who)
    return raw_codes


def reset_by_admin(user: Any, *, request: HttpRequest | None = None) -> bool:
    """Remove a user's factor and recovery codes for an admin; return whether there was a factor."""
    who = caller.of(request)
    admin = getattr(request, "user", None)
    reason = f"admin {admin.pk}" if admin is not None and admin.pk is not None else "admin"
    if not _turn_off(user, who=who, reason=reason):
        return False
    events.announce(signals.factor_disabled, user=user, request=request, who=who, by="admin")
    # Not in the language of the request, which is the admin's.
    messages.send_notice(user, "factor_disabled", language=settings.LANGUAGE_CODE)
    return True


@sensitive_variables()
@db.in_transaction
def _keep_pending(session: RefreshSession, secret: str) -> None:
    """Store the session's pending secret in place of the previous one. Raises InvalidToken."""
    # If the same session asks twice at the same time, the later response counts.
    if not db.lock(session.user):
        raise errors.InvalidToken(challenge=True)
    now = timezone.now()
    pending = PendingFactor(
        session_id=session.id, user=session.user, created_at=now, expires_at=now + PENDING_FOR
    )
    pending.secret = secret
    pending.save()


@sensitive_variables()
def _is_waiting(pending: PendingFactor, secret: str) -> bool:
    try:
        return hmac.compare_digest(pending.secret.encode(), secret.encode())
    except sealing.SealBroken:
        # Its key was removed from the settings within the last ten minutes. The user can simply generate a new one.
        return False


@sensitive_variables()
@db.in_transaction
def _turn_on(
    session: RefreshSession,
    *,
    pending: PendingFactor,
    secret: str,
    otp: str,
    raw_codes: list[str],
    who: Caller,
) -> None:
    """Turn a pending secret on with one of its codes, in one transaction. Raises IntegrityError if a factor is on."""
    user = session.user
    if not db.lock(user):
        raise errors.InvalidToken(challenge=True)
    # The confirming code is spent, so it can't be used to log in.
    step = verification.verify_enrolment(user, secret, otp, who=who)
    # The row count decides: one secret isn't turned on twice, nor one that was replaced.
    confirmed = PendingFactor.objects.filter(pk=pending.pk, sealed_secret=pending.sealed_secret)
    if not confirmed.delete()[0]:
        raise errors.InvalidPayload(
            _("This secret has already been used. Generate a new one."), field="secret"
        )
    amr = " ".join(dict.fromkeys([*session.amr.split(), "otp"]))
    kept = RefreshSession.objects.filter(pk=session.pk)
    if not kept.update(tfa_required=False, amr=amr):
        raise errors.InvalidToken(challenge=True)
    TOTPFactor.objects.filter(user=user, confirmed=False).delete()
    factor = TOTPFactor(user=user, name=_("Authenticator app"), last_step=step, last_used_at=timezone.now())
    factor.secret = secret
    factor.save(force_insert=True)
    verification.replace_recovery_codes(user, raw_codes)
    sessions.revoke_all(user, keep=session)
    events.record(AuthEvent.Kind.FACTOR_ENABLED, user=user, who=who, session_id=session.id)
    session.tfa_required, session.amr = False, amr


@sensitive_variables()
@db.in_transaction
def _turn_off(
    user: Any, *, otp: str | None = None, who: Caller, reason: str, session_id: object = None
) -> bool:
    """Delete the factor and everything that belongs to it and record why, in one transaction. Return False if there
    was none.

    `otp`: the code that is spent for it; None if an admin removes the factor.
    """
    db.lock(user)
    if otp is not None:
        verification.verify(user, otp, who=who)
    if not TOTPFactor.objects.filter(user=user).delete()[0]:
        return False
    RecoveryCode.objects.filter(user=user).delete()
    PendingFactor.objects.filter(user=user).delete()
    limits.clear_otp(user)
    if verification.is_required_for(user):
        bound = RefreshSession.objects.filter(user=user, factor_satisfied=False)
        if conf.OAUTH_SATISFIES_MFA:
            bound = bound.filter(provider="")
        bound.update(tfa_required=True)
    events.record(AuthEvent.Kind.FACTOR_DISABLED, user=user, who=who, reason=reason, session_id=session_id)
    return True


@sensitive_variables()
@db.in_transaction
def _replace_codes(session: RefreshSession, *, otp: str, raw_codes: list[str], who: Caller) -> None:
    user = session.user
    db.lock(user)
    # If the factor was removed meanwhile, new codes would be valid for the next one.
    _require_enrolled(user)
    verification.verify(user, otp, who=who)
    verification.replace_recovery_codes(user, raw_codes)
    events.record(AuthEvent.Kind.RECOVERY_CODES_RENEWED, user=user, who=who, session_id=session.id)


def _refuse_if_enrolled(user: Any) -> None:
    if verification.is_enrolled(user):
        raise _enrolled()


def _require_enrolled(user: Any) -> None:
    if not verification.is_enrolled(user):
        raise errors.InvalidPayload(_("No second factor is enabled."))


def _enrolled() -> errors.InvalidPayload:
    return errors.InvalidPayload(_("A second factor is already enabled."))
