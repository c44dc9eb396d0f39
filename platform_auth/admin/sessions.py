"""Sessions in Django admin."""

from __future__ import annotations

from django.contrib import admin, messages
from django.contrib.auth import get_user_model
from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils.translation import gettext_lazy as _
from django.utils.translation import ngettext, pgettext_lazy

from .. import caller, events, sessions
from ..models import RefreshSession
from .rows import LiveFilter, ProviderFilter, ReadOnlyAdmin, by, link


@admin.register(RefreshSession)
class RefreshSessionAdmin(ReadOnlyAdmin):
    """Sessions, read-only; actions end them."""

    # Columns that don't fit on a screen come last.
    list_display = (
        "user_link",
        "device",
        "ip_address",
        "created_at",
        "rotated_at",
        "expires_at",
        "provider",
        "amr",
    )
    list_display_links = ("device",)
    list_filter = (LiveFilter, ProviderFilter, "mode", ("created_at", admin.DateFieldListFilter))
    search_fields = ("ip_address__iexact",)
    fields = (
        "user_link",
        "device",
        "user_agent",
        "ip_address",
        "provider",
        "amr",
        "mode",
        "tfa_required",
        "created_at",
        "rotated_at",
        "expires_at",
        "events_link",
    )
    actions = ("end_sessions", "end_all_of_users")

    @admin.display(description=_("device"))
    def device(self, session: RefreshSession) -> str:
        return caller.device_name(session.user_agent) or str(_("unknown"))

    @admin.display(description=pgettext_lazy("authentication", "events"))
    def events_link(self, session: RefreshSession) -> str:
        digest = events.session_digest(session.pk)
        return link("platform_auth_authevent_changelist", _("Show"), session_digest=digest)

    @admin.action(description=_("End these sessions"), permissions=["end"])
    def end_sessions(self, request: HttpRequest, rows: QuerySet[RefreshSession]) -> None:
        count = 0
        for session in rows.iterator(chunk_size=1000):
            sessions.revoke(session, request=request, reason=by(request))
            count += 1
        text = ngettext("%(count)d session ended.", "%(count)d sessions ended.", count)
        self.message_user(request, text % {"count": count}, messages.SUCCESS)

    @admin.action(description=_("End all sessions of these users"), permissions=["end"])
    def end_all_of_users(self, request: HttpRequest, rows: QuerySet[RefreshSession]) -> None:
        count = 0
        for user in get_user_model()._default_manager.filter(pk__in=rows.order_by().values("user")):
            count += sessions.revoke_and_record(user, who=caller.of(request), reason=f"all, {by(request)}")
        text = ngettext("%(count)d session ended.", "%(count)d sessions ended.", count)
        self.message_user(request, text % {"count": count}, messages.SUCCESS)
