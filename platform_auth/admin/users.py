"""A user's own page in Django admin: links to the lists of the user's sessions, events, factors and so on."""

from __future__ import annotations

from typing import Any

from django.contrib import admin
from django.contrib.admin.sites import all_sites
from django.contrib.admin.utils import flatten_fieldsets
from django.contrib.auth import get_user_model
from django.db.models import Model
from django.http import HttpRequest
from django.utils import timezone
from django.utils.translation import gettext, ngettext, pgettext_lazy
from django.utils.translation import gettext_lazy as _

from ..models import AuthEvent, OAuthIdentity, RefreshSession, TOTPFactor
from ..second_factor import verification
from . import rows

LINKS: dict[str, type[Model]] = {
    "platform_auth_live_sessions": RefreshSession,
    "platform_auth_second_factor": TOTPFactor,
    "platform_auth_linked_accounts": OAuthIdentity,
    "platform_auth_events": AuthEvent,
}
"""The fields of AccountLinks, each with the model that one must be allowed to view."""


class AccountLinks:
    """Mixin for a host's UserAdmin, first in its bases: counts of what belongs to the user, linked to the lists."""

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> list[Any]:
        """Return the host's fields, then ours."""
        return [*super().get_readonly_fields(request, obj), *_visible(request, obj)]  # type: ignore[misc]

    def get_fieldsets(self, request: HttpRequest, obj: Any = None) -> list[Any]:
        """Return the host's fieldsets, then one of ours."""
        fieldsets = [*super().get_fieldsets(request, obj)]  # type: ignore[misc]
        # Without fieldsets, a page lists all read-only fields, so ours are there already.
        placed = flatten_fieldsets(fieldsets)
        fields = [name for name in _visible(request, obj) if name not in placed]
        return [*fieldsets, (_("Authentication"), {"fields": fields})] if fields else fieldsets

    @admin.display(description=_("live sessions"))
    def platform_auth_live_sessions(self, user: Any) -> str:
        live = RefreshSession.objects.filter(user=user).live(now=timezone.now())
        return _link(RefreshSession, user, str(rows.capped_count(live)), state="live")

    @admin.display(description=_("second factor"))
    def platform_auth_second_factor(self, user: Any) -> str:
        if not verification.is_enrolled(user):
            return _link(TOTPFactor, user, gettext("No"))
        left = verification.recovery_codes_left(user)
        text = ngettext("Yes, %(count)d recovery code left", "Yes, %(count)d recovery codes left", left)
        return _link(TOTPFactor, user, text % {"count": left})

    @admin.display(description=_("linked provider accounts"))
    def platform_auth_linked_accounts(self, user: Any) -> str:
        return _link(OAuthIdentity, user, str(rows.capped_count(OAuthIdentity.objects.filter(user=user))))

    @admin.display(description=pgettext_lazy("authentication", "events"))
    def platform_auth_events(self, user: Any) -> str:
        return _link(AuthEvent, user, str(rows.capped_count(AuthEvent.objects.filter(user=user))))


def show_on_user_pages() -> None:
    """Put AccountLinks in front of the bases of the host's user admin classes. Called once, when the apps are ready."""
    model = get_user_model()
    for site in all_sites:
        if not site.is_registered(model) or isinstance(site.get_model_admin(model), AccountLinks):
            continue
        host = type(site.get_model_admin(model))
        site.unregister(model)
        # Keep the host's class name, which Django's checks show.
        site.register(model, type(host.__name__, (AccountLinks, host), {"__module__": host.__module__}))


def _visible(request: HttpRequest, user: Any) -> list[str]:
    """Return the fields that an admin may see on the page of an existing user, not on the form for a new one."""
    if user is None:
        return []
    return [
        name
        for name, model in LINKS.items()
        if any(
            request.user.has_perm(f"{model._meta.app_label}.{may}_{model._meta.model_name}")
            for may in ("view", "change")
        )
    ]


def _link(model: type[Model], user: Any, text: str, **query: str) -> str:
    """Return a link to the user's rows in a list."""
    page = f"{model._meta.app_label}_{model._meta.model_name}_changelist"
    return rows.link(page, text, user__exact=user.pk, **query)
