"""Ask a signed-in user to confirm their identity before a sensitive change (ASVS 7.5.1)."""

from __future__ import annotations

from datetime import timedelta

from django.contrib.auth.hashers import check_password
from django.http import HttpRequest
from django.utils import timezone
from django.utils.translation import gettext as _
from django.views.decorators.debug import sensitive_variables

from .. import caller, errors, events, limits, login
from ..models import AuthEvent, RefreshSession

RECENT = timedelta(minutes=10)
"""How old a login may be to count as confirmation for an account without a password."""


@sensitive_variables()
def confirm(
    request: HttpRequest, session: RefreshSession, *, password: str | None, field: str = "password"
) -> None:
    """Require a signed-in user to confirm their identity.

    By the password, subject to the limits of login; or, for an account without one, by a login less than ten minutes
    old. Raises InvalidPayload (a password is needed and missing), RequestsExceeded or InvalidCredentials.
    """
    user = session.user
    if not user.has_usable_password():
        if timezone.now() - session.created_at >= RECENT:
            raise errors.InvalidCredentials
        return
    if password is None:
        raise errors.InvalidPayload(_("This field is required."), field=field)
    attempt = login.take_attempt(request, getattr(user, user.get_email_field_name()) or str(user.pk))
    # Not `user.check_password`, which writes an upgraded hash without checking that the password is still the same.
    if not check_password(password, user.password):
        who = caller.of(request)
        events.record(AuthEvent.Kind.PASSWORD_REFUSED, user=user, who=who, session_id=session.id)
        raise errors.InvalidCredentials
    limits.give_back_login(attempt)
