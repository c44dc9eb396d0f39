"""Linked provider accounts in Django admin, to unlink them."""

from __future__ import annotations

from typing import Any

from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest

from .. import caller, events
from ..models import AuthEvent, OAuthIdentity
from .rows import ReadOnlyAdmin, by


@admin.register(OAuthIdentity)
class OAuthIdentityAdmin(ReadOnlyAdmin):
    """Linked provider accounts: to look at, and to delete."""

    list_display = ("user_link", "provider", "email", "subject", "created_at", "last_used_at")
    list_display_links = ("subject",)
    list_filter = ("provider",)
    list_select_related = ("user", "provider")
    search_fields = ("email", "subject")
    fields = ("user_link", "provider", "issuer", "subject", "email", "created_at", "last_used_at")

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Allow it on our own pages too: deleting the row is all that unlinking takes."""
        return self.has_end_permission(request)

    def delete_model(self, request: HttpRequest, obj: OAuthIdentity) -> None:
        self._record(request, obj)
        super().delete_model(request, obj)

    def delete_queryset(self, request: HttpRequest, queryset: QuerySet[OAuthIdentity]) -> None:
        for identity in queryset.select_related("user", "provider"):
            self._record(request, identity)
        super().delete_queryset(request, queryset)

    def _record(self, request: HttpRequest, identity: OAuthIdentity) -> None:
        events.record(
            AuthEvent.Kind.IDENTITY_UNLINKED,
            user=identity.user,
            who=caller.of(request),
            provider=identity.provider.key,
            reason=by(request),
        )
