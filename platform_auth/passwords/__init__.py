"""Passwords: request a reset, reset, change, validate.

A request does the same work for every address: it is checked, counted and handed over. Whether the account exists is
found out after the response, and the caller never learns it.

A function that sets a password first locks the user's row, with an UPDATE on the condition that the password is still
the one that was verified, and ends the sessions in the same transaction. If a reset, a change and a login run at once,
each sees what the one before it committed.
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
"""The minimum length at which a password inside a message counts as a quotation; one or two characters occur in any
text.
"""


def request_reset(email: str, *, reset_url: str | None = None, request: HttpRequest | None = None) -> None:
    """Email a reset link to the account with this address, if it exists and may have one, after the response.

    Raises InvalidPayload (a `reset_url` that isn't allowed) before anything is counted or looked up, and
    RequestsExceeded for the caller's address. Over the account's own limit, no email is sent and nobody is told.
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
    """Find the account of a request and create a link for it, or report why there is none."""
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
    """Email the link if it is still valid, or report that it isn't. Raises delivery.TryAgain.

    `mail_failed`: an earlier attempt has failed and reported it.
    """
    who = Caller(address, user_agent)
    token, now = reset_tokens.find(token_id), timezone.now()
    if token is None or not reset_tokens.is_good(token, now=now):
        logger.warning("a reset link was no longer valid when its email was due: user=%s", user_id)
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
        # The email has been sent; another attempt would send it again.
        logger.exception("a reset link was sent, but could not be recorded")


@sensitive_variables()
def check_link(raw_token: str) -> str:
    """Return the email address of the account whose password a token can set. Raises TokenExpired, InvalidToken."""
    user = reset_tokens.read(raw_token).user
    return str(getattr(user, user.get_email_field_name()))


@sensitive_variables()
def reset(raw_token: str, password: str, *, request: HttpRequest | None = None) -> None:
    """Set a password with the token of a link. All sessions and other links end; a second factor stays.

    Raises TokenExpired, InvalidToken, InvalidPayload, FailedValidation. A refused password doesn't spend the token.
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
    """Set a new password for a signed-in user, who gives the current one, and a one-time password if enrolled.

    Every other session and all reset links end. Raises the errors of `confirmation.confirm`, InvalidPayload,
    FailedValidation, InvalidOTP, and InvalidCredentials if the password was changed meanwhile.
    """
    user = session.user
    who = caller.of(request)
    confirmation.confirm(request, session, password=current_password, field="current_password")
    # Before the one-time password, which a refused new password must not use up.
    validate(password, user)
    hashed = make_password(password)
    _set_by_user(session, hashed, otp=otp, who=who)
    user.password = hashed
    _tell_validators(password, user)
    events.announce(signals.password_changed, user=user, request=request, who=who, session=session)
    messages.send_notice(user, "password_changed", who=who)


@sensitive_variables()
def validate(password: str, user: Any = None) -> None:
    """Raise FailedValidation if the host's AUTH_PASSWORD_VALIDATORS refuse a password, with one entry per broken
    rule.

    Regardless of the validators, an empty password, one over 1024 bytes or one that isn't valid UTF-8 raises
    InvalidPayload.
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
    """Record a refused token only if we signed it; otherwise anyone could fill the table."""
    if isinstance(refusal, reset_tokens.Dead):
        events.record(AuthEvent.Kind.RESET_FAILED, user=refusal.user, who=who, reason="used or superseded")
    elif isinstance(refusal, errors.TokenExpired):
        events.record(AuthEvent.Kind.RESET_FAILED, who=who, reason="expired")


def _page_url() -> str:
    """Return where links lead by default: PASSWORD_RESET_URL, or else the built-in page under PUBLIC_URL.

    Nothing in it comes from a request, not even the script prefix, which PUBLIC_URL includes.
    """
    if conf.PASSWORD_RESET_URL:
        return str(conf.PASSWORD_RESET_URL)
    path = reverse("platform_auth:password-reset-page").removeprefix(get_script_prefix())
    return f"{redirects.public_url()}/{path}"


@sensitive_variables()
@db.in_transaction
def _set_by_token(token: PasswordResetToken, hashed: str, *, who: Caller) -> None:
    """Spend a token, set the password and record it, in one transaction. Only one of several callers succeeds. Raises
    InvalidToken.
    """
    user = token.user
    if not _replace_password(user, hashed):
        # Without the user, who may be gone.
        raise reset_tokens.Dead
    if not PasswordResetToken.objects.filter(pk=token.pk).delete()[0]:
        raise reset_tokens.Dead(user=user)
    PasswordResetToken.objects.filter(user_id=user.pk).delete()
    sessions.revoke_all(user)
    events.record(AuthEvent.Kind.PASSWORD_RESET, user=user, who=who)


@sensitive_variables()
@db.in_transaction
def _set_by_user(session: RefreshSession, hashed: str, *, otp: str | None, who: Caller) -> None:
    """Spend the one-time password, set the password and record it, in one transaction.

    Raises InvalidOTP, RequestsExceeded, and InvalidCredentials if the password isn't the one that was verified any
    more.
    """
    user = session.user
    # Before the password is written: a refused code is still counted, and nothing else happens.
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
    """Set a password if the old password, the email address and `is_active` are still what was verified."""
    unchanged = ("password", user.get_email_field_name())
    return db.lock(user, unchanged=unchanged, active=True, password=hashed)


@sensitive_variables()
def _tell_validators(password: str, user: Any) -> None:
    """Call `password_changed` of the host's validators; one that fails is logged and changes nothing."""
    for validator in password_validation.get_default_password_validators():
        try:
            password_validation.password_changed(password, user, [validator])
        except Exception as error:
            # Without its text, which may quote the password.
            logger.error(
                "`password_changed` of the validator %s failed: %s",
                type(validator).__qualname__,
                type(error).__qualname__,
            )


@sensitive_variables()
def _entry(error: ValidationError, validator: object, password: str) -> tuple[str, str]:
    """Return type and message of a broken rule, without the password, which a message may quote."""
    kind = error.code or re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", type(validator).__name__).lower()
    if error.params:
        quoted = {name: "…" if value == password else value for name, value in error.params.items()}
        error = ValidationError(error.message, code=error.code, params=quoted)
    text = " ".join(error.messages)
    # Django's own messages quote nothing, but contain the word "password", which is also a common password.
    is_djangos = type(validator).__module__ == password_validation.__name__
    if not is_djangos and len(password) >= SHORTEST_QUOTE and password.casefold() in text.casefold():
        text = str(errors.FailedValidation.message)
    return kind, text
