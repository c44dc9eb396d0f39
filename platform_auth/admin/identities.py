"""Linked provider accounts in Django admin."""

from __future__ import annotations

from typing import Any

from django.contrib import admin
from django.http import HttpRequest

from .. import caller, events
from ..models import AuthEvent, OAuthIdentity
from .rows import ReadOnlyAdmin, by


@admin.register(OAuthIdentity)
class OAuthIdentityAdmin(ReadOnlyAdmin):
    """Linked provider accounts, read-only; deleting one unlinks it."""

    list_display = ("user_link", "provider", "email", "subject", "created_at", "last_used_at")
    list_display_links = ("subject",)
    list_filter = ("provider",)
    list_select_related = ("user", "provider")
    search_fields = ("email", "subject")
    fields = ("user_link", "provider", "issuer", "subject", "email", "created_at", "last_used_at")

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Allow deleting on our own pages too: deleting the row is all that unlinking needs."""
        return self.has_end_permission(request)

    def log_deletions(self, request: HttpRequest, queryset: Any) -> Any:
        """Record each deletion as an event too."""
        for identity in queryset:
            events.record(
                AuthEvent.Kind.IDENTITY_UNLINKED,
                user=identity.user,
                who=caller.of(request),
                provider=identity.provider.key,
                reason=by(request),
            )
        return super().log_deletions(request, queryset)
