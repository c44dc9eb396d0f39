"""Password reset links in Django admin."""

from __future__ import annotations

from django.contrib import admin, messages
from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils.translation import gettext_lazy as _
from django.utils.translation import ngettext

from ..models import PasswordResetToken
from .rows import LiveFilter, ReadOnlyAdmin, record


@admin.register(PasswordResetToken)
class PasswordResetTokenAdmin(ReadOnlyAdmin):
    """Reset links that are still valid, read-only; an action revokes them."""

    list_display = ("created_at", "user_link", "ip_address", "expires_at")
    list_filter = (LiveFilter, ("created_at", admin.DateFieldListFilter))
    search_fields = ("ip_address__iexact",)
    fields = ("user_link", "ip_address", "created_at", "expires_at")
    actions = ("revoke_links",)

    @admin.action(description=_("Revoke these links"), permissions=["end"])
    def revoke_links(self, request: HttpRequest, rows: QuerySet[PasswordResetToken]) -> None:
        count = 0
        for token in rows.iterator(chunk_size=1000):
            if rows.model._default_manager.filter(pk=token.pk).delete()[0]:
                record(request, f"revoked a reset link of user {token.user_id}")
                count += 1
        text = ngettext("%(count)d link revoked.", "%(count)d links revoked.", count)
        self.message_user(request, text % {"count": count}, messages.SUCCESS)
