"""The emails we send: reset links, and notices to the owner of an account.

Each goes to one recipient, the address that is stored, in the language of the request that caused it, as text and
HTML, through Django's email backend. Templates can be overridden: `platform_auth/email/<name>.subject.txt`, `.txt`
and `.html`, where the name is `reset_link`, or for a notice its own name if such a file exists, else `notice`.
"""

from __future__ import annotations

import logging
import smtplib
from datetime import timedelta
from typing import Any
from urllib.parse import urlsplit

from django.contrib.auth import get_user_model
from django.core import mail
from django.core.exceptions import ValidationError
from django.core.mail import EmailMultiAlternatives
from django.core.validators import validate_email
from django.template import TemplateDoesNotExist
from django.template.loader import render_to_string
from django.utils import timezone, translation
from django.utils.dateparse import parse_datetime
from django.utils.functional import Promise
from django.utils.translation import gettext_lazy as _
from django.views.decorators.debug import sensitive_variables

from ..caller import NOBODY, Caller
from ..conf import conf
from . import delivery, languages

logger = logging.getLogger("platform_auth")

TIMEOUT = 15.0
"""How many seconds a silent mail server may take for each step, if EMAIL_TIMEOUT isn't set. Django's default is to
wait forever.
"""

NOTICES: dict[str, tuple[str | Promise, str | Promise]] = {
    "password_reset": (
        _("Your password was reset"),
        _("Your password was reset using a link we emailed you. You've been signed out on all devices."),
    ),
    "password_changed": (
        _("Your password was changed"),
        _("Your password was changed. You've been signed out on all other devices."),
    ),
    "factor_enabled": (
        _("Two-factor authentication was turned on"),
        _(
            "You'll now be asked for a one-time password when you sign in. You've been signed out on all other devices."
        ),
    ),
    "factor_disabled": (
        _("Two-factor authentication was turned off"),
        _("You'll no longer be asked for a one-time password when you sign in."),
    ),
    "recovery_code_used": (
        _("A recovery code was used"),
        _("One of your recovery codes was used. It can't be used again."),
    ),
    "recovery_codes_renewed": (
        _("You have new recovery codes"),
        _("New recovery codes were generated for your account. The old ones no longer work."),
    ),
    "identity_linked": (
        _("A new sign-in method was added"),
        _("Your account was linked to an account at the provider below, which can now be used to sign in."),
    ),
    "account_claimed": (
        _("Your account's sign-in methods were replaced"),
        _(
            "Someone signed in with an account at the provider below, which has verified your email address. "
            "Only that account can now be used to sign in here: your previous password and linked provider "
            "accounts no longer work. You've been signed out on all devices."
        ),
    ),
}
"""Subject and text of each notice."""


class Undelivered(Exception):
    """Raised if an email can't be rendered or sent. The text says why, quoting neither the email nor the server."""


def send_notice(
    user: Any, notice: str, *, who: Caller = NOBODY, language: str | None = None, **context: Any
) -> None:
    """Email a notice of NOTICES to the owner of an account, after the response.

    `who` did it; `language`: the language of the email, if not that of the request; `context`: JSON values without
    secrets for the templates (`provider`: its label).
    """
    delivery.hand_over(
        deliver_notice,
        user_id=str(user.pk),
        notice=notice,
        language=language or translation.get_language(),
        at=timezone.now().isoformat(),
        address=who.address,
        device=who.device,
        context=context,
    )


@delivery.job
def deliver_notice(
    *,
    user_id: str,
    notice: str,
    language: str | None,
    at: str,
    address: str | None,
    device: str,
    context: dict[str, Any],
    attempt: delivery.Attempt,
) -> None:
    """Send a notice now. Raises delivery.TryAgain."""
    user = get_user_model()._base_manager.filter(pk=user_id).first()
    if user is None:
        return
    with translation.override(language):
        headline, text = NOTICES[notice]
        facts = {"notice": notice, "headline": headline, "text": text, "address": address, "device": device}
        try:
            send(user, (notice, "notice"), {**context, **facts, "at": parse_datetime(at)})
        except Undelivered as error:
            raise delivery.TryAgain(str(error)) from None


@sensitive_variables()
def send_reset_link(user: Any, *, url: str, lifetime: timedelta, language: str | None) -> None:
    """Send a reset link now. Raises Undelivered."""
    minutes = max(1, round(lifetime.total_seconds() / 60))
    with translation.override(language):
        send(user, ("reset_link",), {"url": url, "minutes": minutes})


@sensitive_variables()
def send(user: Any, names: tuple[str, ...], context: dict[str, Any]) -> None:
    """Render an email with the first templates that exist, and send it to the stored address. Raises Undelivered.

    An account without a valid address gets none, which is logged.
    """
    recipient = getattr(user, user.get_email_field_name()) or ""
    try:
        validate_email(recipient)
    except ValidationError:
        logger.warning("no email %s to user %s: the account has no valid email address", names[0], user.pk)
        return
    everywhere = {
        "user": user,
        "site": urlsplit(conf.PUBLIC_URL or "").netloc,
        "language": languages.language(),
        "direction": languages.direction(),
    }
    try:
        subject, text, html = (
            render_to_string([f"platform_auth/email/{name}.{ending}" for name in names], everywhere | context)
            for ending in ("subject.txt", "txt", "html")
        )
        message = EmailMultiAlternatives(
            subject=" ".join(subject.split()),
            body=text.strip() + "\n",
            to=[recipient],
            # RFC 3834: suppresses out-of-office replies.
            headers={"Auto-Submitted": "auto-generated", "X-Auto-Response-Suppress": "All"},
        )
        message.encoding = "utf-8"
        message.attach_alternative(html, "text/html")
        _mailer().send_messages([message])
    except Exception as error:
        # Neither chained nor quoted: the exception of a template or backend may contain the email, and so the link.
        reason = _describe(error)
    else:
        return
    raise Undelivered(reason)


def _mailer() -> Any:
    """Return Django's email backend, with a timeout."""
    # Django 6.1 has `mailers` and deprecates `get_connection`.
    backend: Any = mail.mailers.default if hasattr(mail, "mailers") else mail.get_connection()
    if getattr(backend, "timeout", TIMEOUT) is None:
        backend.timeout = TIMEOUT
    return backend


def _describe(error: Exception) -> str:
    """Return what went wrong with an email, in our own words only."""
    name = f"{type(error).__module__}.{type(error).__qualname__}"
    if isinstance(error, TemplateDoesNotExist) and str(error).startswith("platform_auth/"):
        return f"{name}: {error}"
    if isinstance(error, smtplib.SMTPResponseException):
        return f"{name} {error.smtp_code}"
    if isinstance(error, OSError) and error.strerror:
        return f"{name}: {error.strerror}"
    return name
