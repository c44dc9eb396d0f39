"""The mails we send: the link of a reset, and notices to the owner of an account.

Each goes to one recipient, the address that is stored, in the language of the request that caused it, as text
and HTML, through Django's e-mail backend. Templates, overridable: `platform_auth/email/<name>.subject.txt`,
`.txt`, `.html`, where the name is `reset_link`, or for a notice its own name if there is such a file, else
`notice`.
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
"""Seconds for each step with a mail server that says nothing, where EMAIL_TIMEOUT is not set:
Django's own default is to wait for ever."""

NOTICES: dict[str, tuple[str | Promise, str | Promise]] = {
    "password_reset": (
        _("Your password was reset"),
        _("The password was set anew by a link that we mailed to you. All devices were logged out."),
    ),
    "password_changed": (
        _("Your password was changed"),
        _("The password of your account was changed. All other devices were logged out."),
    ),
    "factor_enabled": (
        _("Two-factor authentication is on"),
        _("Your account now asks for a one-time password at log-in. All other devices were logged out."),
    ),
    "factor_disabled": (
        _("Two-factor authentication is off"),
        _("Your account no longer asks for a one-time password at log-in."),
    ),
    "recovery_code_used": (
        _("A recovery code was used"),
        _("One of your recovery codes took the place of a one-time password. It does not work again."),
    ),
    "recovery_codes_renewed": (
        _("Your recovery codes are new"),
        _("Your account has new recovery codes. The old ones no longer work."),
    ),
    "identity_linked": (
        _("A provider account was linked"),
        _("Your account can now also be opened by logging in at another provider."),
    ),
    "account_claimed": (
        _("A provider account was linked, the former ways in were removed"),
        _(
            "Somebody logged in at a provider that has verified your e-mail address, and their account there opens "
            "yours from now on. The former password and the provider accounts linked before no longer do. All devices "
            "were logged out."
        ),
    ),
}
"""Subject and text of each notice."""


class Undelivered(Exception):
    """A mail could not be rendered, or was not taken. The text says why and quotes neither the mail nor the server."""


def send_notice(
    user: Any, notice: str, *, who: Caller = NOBODY, language: str | None = None, **context: Any
) -> None:
    """Mail a notice of NOTICES to the owner of an account, off the request.

    `who` did it; `language`: of the mail, where it is not the request's; `context`, JSON values without
    secrets, reaches the templates (`provider`: its label).
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
    """Send the link of a reset now. Raises Undelivered."""
    minutes = max(1, round(lifetime.total_seconds() / 60))
    with translation.override(language):
        send(user, ("reset_link",), {"url": url, "minutes": minutes})


@sensitive_variables()
def send(user: Any, names: tuple[str, ...], context: dict[str, Any]) -> None:
    """Render a mail by the first templates that exist, and send it to the stored address. Raises Undelivered.

    An account without a good address gets none: the log says it.
    """
    recipient = getattr(user, user.get_email_field_name()) or ""
    try:
        validate_email(recipient)
    except ValidationError:
        logger.warning("no mail %s to user %s: the account has no valid e-mail address", names[0], user.pk)
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
            # RFC 3834: no out-of-office replies to this.
            headers={"Auto-Submitted": "auto-generated", "X-Auto-Response-Suppress": "All"},
        )
        message.encoding = "utf-8"
        message.attach_alternative(html, "text/html")
        _mailer().send_messages([message])
    except Exception as error:
        # Not chained, and not quoted: a template or a mail backend may put the mail, and so the link, into its words.
        reason = _describe(error)
    else:
        return
    raise Undelivered(reason)


def _mailer() -> Any:
    """Return Django's e-mail backend, with a timeout."""
    # Django 6.1 has `mailers` and deprecates `get_connection`.
    backend: Any = mail.mailers.default if hasattr(mail, "mailers") else mail.get_connection()
    if getattr(backend, "timeout", TIMEOUT) is None:
        backend.timeout = TIMEOUT
    return backend


def _describe(error: Exception) -> str:
    """Say what went wrong with a mail, without the words of others."""
    name = f"{type(error).__module__}.{type(error).__qualname__}"
    if isinstance(error, TemplateDoesNotExist) and str(error).startswith("platform_auth/"):
        return f"{name}: {error}"
    if isinstance(error, smtplib.SMTPResponseException):
        return f"{name} {error.smtp_code}"
    if isinstance(error, OSError) and error.strerror:
        return f"{name}: {error.strerror}"
    return name
