"""Passwords: ask for a reset, reset, change, validate.

A request does the same work for every address: it is judged, counted and handed over. Whether there is an
account is found out off the request, and the caller never hears of it.

What sets a password locks the user's row first, by an UPDATE on the condition that the password is still the
one that was verified, and ends the sessions in the same transaction: of a reset, a change and a log-in at the
same moment, whoever comes second sees the first.
"""

from __future__ import annotations

import logging
import re
import uuid
from typing import Any

from django.contrib.auth import get_user_model, password_validation
from django.contrib.auth.hashers import make_password
from django.core.exceptions import ValidationError
from django.db import DatabaseError
from django.http import HttpRequest
from django.urls import get_script_prefix, reverse
from django.utils import timezone, translation
from django.utils.translation import gettext as _
from django.views.decorators.debug import sensitive_variables

from .. import backends, caller, db, errors, events, limits, redirects, sessions, signals
from ..caller import Caller
from ..conf import conf
from ..login import confirmation
from ..mail import delivery, messages
from ..models import AuthEvent, PasswordResetToken, RefreshSession
from ..second_factor import verification
from . import reset_tokens

logger = logging.getLogger("platform_auth")

MAX_BYTES = 1024
SHORTEST_QUOTE = 3
"""Characters from which a password that stands in a message is taken for a quotation: one or two stand in any."""


def request_reset(email: str, *, reset_url: str | None = None, request: HttpRequest | None = None) -> None:
    """Mail a reset link to the account of an address, if there is one that may have it; off the request.

    Raises InvalidPayload (a `reset_url` that is not allowed) before anything is counted or looked up, and
    RequestsExceeded by the caller's address. Over the account's own limit nothing is mailed and nobody is
    told.
    """
    if reset_url is not None:
        redirects.check_reset_url(reset_url)
    who = caller.of(request)
    try:
        limits.take_password_request(who)
    except limits.Limited as limited:
        if limited.is_first:
            events.record(AuthEvent.Kind.RESET_LIMITED, who=who, reason="address")
        raise
    delivery.hand_over(
        answer_request,
        token_id=str(uuid.uuid4()),
        email=email,
        within_limit=limits.allows_password_mail(email),
        reset_url=reset_url,
        language=translation.get_language(),
        address=who.address,
        user_agent=who.user_agent,
    )


@delivery.job
def answer_request(
    *,
    token_id: str,
    email: str,
    within_limit: bool,
    reset_url: str | None,
    language: str | None,
    address: str | None,
    user_agent: str,
    attempt: delivery.Attempt,
) -> None:
    """Find the account of a request; make a link for it, or report why there is none."""
    who = Caller(address, user_agent)
    if not within_limit:
        _report("limited", None, who)
        return
    user = backends.find_by_email(email)
    refusal = _refusal(user)
    if refusal is not None:
        _report(refusal, user, who)
        return
    token = reset_tokens.issue(user, who=who, token_id=uuid.UUID(token_id))
    delivery.hand_over(
        deliver_link,
        token_id=str(token.pk),
        user_id=str(user.pk),
        reset_url=reset_url,
        language=language,
        address=address,
        user_agent=user_agent,
    )


@delivery.job
@sensitive_variables()
def deliver_link(
    *,
    token_id: str,
    user_id: str,
    reset_url: str | None,
    language: str | None,
    address: str | None,
    user_agent: str,
    mail_failed: bool = False,
    attempt: delivery.Attempt,
) -> None:
    """Mail the link of a row that is still good, or report that it is not. Raises delivery.TryAgain.

    `mail_failed`: the mail did, at an earlier attempt, which is reported.
    """
    who = Caller(address, user_agent)
    token, now = reset_tokens.find(token_id), timezone.now()
    if token is None or not reset_tokens.is_good(token, now=now):
        logger.warning("a reset link was no longer good when its mail was to be sent: user=%s", user_id)
        _report("dead", get_user_model()._base_manager.filter(pk=user_id).first(), who)
        return
    url = redirects.with_token(reset_url or _page_url(), reset_tokens.sign(token))
    lifetime = token.expires_at - now
    try:
        messages.send_reset_link(token.user, url=url, lifetime=lifetime, language=language)
    except messages.Undelivered as error:
        if attempt.is_last or not mail_failed:
            _report("mail_error", token.user, who)
        raise delivery.TryAgain(str(error), mail_failed=True) from None
    try:
        _report("sent", token.user, who)
    except DatabaseError:
        # The mail is out: another attempt would send it again.
        logger.exception("a reset link was sent, which could not be recorded")


@sensitive_variables()
def check_link(raw_token: str) -> str:
    """Return the address of the account whose password a token may set. Raises TokenExpired, InvalidToken."""
    user = reset_tokens.read(raw_token).user
    return str(getattr(user, user.get_email_field_name()))


@sensitive_variables()
def reset(raw_token: str, password: str, *, request: HttpRequest | None = None) -> None:
    """Set a password by the token of a link. All sessions end, other links too; a second factor stays.

    Raises TokenExpired, InvalidToken, InvalidPayload, FailedValidation. A refused password does not spend the
    token.
    """
    who = caller.of(request)
    try:
        token = reset_tokens.read(raw_token)
        user = token.user
        validate(password, user)
        hashed = make_password(password)
        _set_by_token(token, hashed, who=who)
    except errors.TokenRefused as refusal:
        _record_refusal(refusal, who)
        raise
    user.password = hashed
    _tell_validators(password, user)
    events.announce(signals.password_reset, user=user, request=request, who=who)
    messages.send_notice(user, "password_reset", who=who)


@sensitive_variables()
def change(
    session: RefreshSession,
    *,
    current_password: str | None = None,
    password: str,
    otp: str | None = None,
    request: HttpRequest,
) -> None:
    """Set a new password for a signed-in user who shows the current one, and a one-time password if enrolled.

    Every other session ends, reset links too. Raises what `confirmation.confirm` does, InvalidPayload,
    FailedValidation, InvalidOTP; InvalidCredentials if the password was changed meanwhile.
    """
    user = session.user
    who = caller.of(request)
    confirmation.confirm(request, session, password=current_password, field="current_password")
    # Before the one-time password: a refused new password must not cost one.
    validate(password, user)
    hashed = make_password(password)
    _set_by_user(session, hashed, otp=otp, who=who)
    user.password = hashed
    _tell_validators(password, user)
    events.announce(signals.password_changed, user=user, request=request, who=who, session=session)
    messages.send_notice(user, "password_changed", who=who)


@sensitive_variables()
def validate(password: str, user: Any = None) -> None:
    """Refuse what the host's AUTH_PASSWORD_VALIDATORS refuse: FailedValidation with one entry per broken
    rule.

    Before that, and whatever the host configured, what is no password at all: empty, over 1024 bytes, not
    UTF-8. Raises InvalidPayload for it.
    """
    try:
        length = len(password.encode())
    except UnicodeEncodeError:
        length = 0
    if not 1 <= length <= MAX_BYTES:
        raise errors.InvalidPayload(
            _("A password must be 1 to %(limit)d bytes long in UTF-8.") % {"limit": MAX_BYTES},
            field="password",
        )
    broken: list[tuple[str, str]] = []
    for validator in password_validation.get_default_password_validators():
        try:
            validator.validate(password, user)
        except ValidationError as refusal:
            broken += [_entry(error, validator, password) for error in refusal.error_list]
    if broken:
        raise errors.FailedValidation(broken)


def rules() -> list[str]:
    """Return the host's password rules as sentences."""
    return [text for text in password_validation.password_validators_help_texts() if text]


def _refusal(user: Any) -> str | None:
    """Return why an account gets no link, or None."""
    if user is None:
        return "unknown"
    if not user.is_active:
        return "inactive"
    if not user.has_usable_password() and not conf.PASSWORD_RESET_FOR_PROVIDER_ACCOUNTS:
        return "provider_only"
    return None


def _report(outcome: str, user: Any, who: Caller) -> None:
    events.record(AuthEvent.Kind.RESET_REQUESTED, user=user, who=who, reason=outcome)
    events.announce(signals.password_reset_requested, user=user, who=who, outcome=outcome)


def _record_refusal(refusal: errors.TokenRefused, who: Caller) -> None:
    """Record a token that did not do, if it is one that we signed: anybody could fill the table with others."""
    if isinstance(refusal, reset_tokens.Dead):
        events.record(AuthEvent.Kind.RESET_FAILED, user=refusal.user, who=who, reason="used or superseded")
    elif isinstance(refusal, errors.TokenExpired):
        events.record(AuthEvent.Kind.RESET_FAILED, who=who, reason="expired")


def _page_url() -> str:
    """Return where a link leads by default: PASSWORD_RESET_URL, else the built-in page under PUBLIC_URL.

    Nothing in it comes from a request, not even the script prefix: PUBLIC_URL has it.
    """
    if conf.PASSWORD_RESET_URL:
        return str(conf.PASSWORD_RESET_URL)
    path = reverse("platform_auth:password-reset-page").removeprefix(get_script_prefix())
    return f"{redirects.public_url()}/{path}"


@sensitive_variables()
@db.in_transaction
def _set_by_token(token: PasswordResetToken, hashed: str, *, who: Caller) -> None:
    """Spend a token, set the password and record it, or nothing. Of many callers one passes. Raises InvalidToken."""
    user = token.user
    if not _replace_password(user, hashed):
        # Without the user, who may be the one that is gone.
        raise reset_tokens.Dead
    if not PasswordResetToken.objects.filter(pk=token.pk).delete()[0]:
        raise reset_tokens.Dead(user=user)
    PasswordResetToken.objects.filter(user_id=user.pk).delete()
    sessions.revoke_all(user)
    events.record(AuthEvent.Kind.PASSWORD_RESET, user=user, who=who)


@sensitive_variables()
@db.in_transaction
def _set_by_user(session: RefreshSession, hashed: str, *, otp: str | None, who: Caller) -> None:
    """Spend the one-time password, set the password and record it, or nothing.

    Raises InvalidOTP, RequestsExceeded; InvalidCredentials where the password that was verified is no longer it.
    """
    user = session.user
    # Before the password is written: a refused code keeps its count, and nothing else.
    if not db.lock(user, unchanged=("password",)):
        raise errors.InvalidCredentials
    if verification.is_enrolled(user):
        verification.verify(user, otp, who=who)
    if not _replace_password(user, hashed):
        raise errors.InvalidCredentials
    PasswordResetToken.objects.filter(user_id=user.pk).delete()
    sessions.revoke_all(user, keep=session)
    events.record(AuthEvent.Kind.PASSWORD_CHANGED, user=user, who=who, session_id=session.id)


@sensitive_variables()
def _replace_password(user: Any, hashed: str) -> bool:
    """Set a password if the old one, the address and `is_active` are what was verified."""
    unchanged = ("password", user.get_email_field_name())
    return db.lock(user, unchanged=unchanged, active=True, password=hashed)


@sensitive_variables()
def _tell_validators(password: str, user: Any) -> None:
    """Tell the host's validators of a new password; one that fails is logged and changes nothing."""
    for validator in password_validation.get_default_password_validators():
        try:
            password_validation.password_changed(password, user, [validator])
        except Exception as error:
            # Without its words, which may quote the password.
            logger.error(
                "`password_changed` of the validator %s failed: %s",
                type(validator).__qualname__,
                type(error).__qualname__,
            )


@sensitive_variables()
def _entry(error: ValidationError, validator: object, password: str) -> tuple[str, str]:
    """Return type and message of a broken rule, without the password that a message may want to quote."""
    kind = error.code or re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", type(validator).__name__).lower()
    if error.params:
        quoted = {name: "…" if value == password else value for name, value in error.params.items()}
        error = ValidationError(error.message, code=error.code, params=quoted)
    text = " ".join(error.messages)
    # Django's own quote nothing, and speak of "password", which is the worst of passwords.
    is_djangos = type(validator).__module__ == password_validation.__name__
    if not is_djangos and len(password) >= SHORTEST_QUOTE and password.casefold() in text.casefold():
        text = str(errors.FailedValidation.message)
    return kind, text
