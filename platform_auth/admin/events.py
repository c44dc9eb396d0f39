"""Events in Django admin, and the page of what the public role exposes."""

from __future__ import annotations

from functools import partial
from typing import Any

from django.contrib import admin
from django.urls import path

from ..models import AuthEvent
from . import exposure
from .rows import ProviderFilter, ReadOnlyAdmin


@admin.register(AuthEvent)
class AuthEventAdmin(ReadOnlyAdmin):
    """Events, read-only."""

    list_display = ("created_at", "kind", "user_link", "reason", "ip_address", "provider", "session_digest")
    list_filter = ("kind", ProviderFilter, ("created_at", admin.DateFieldListFilter))
    search_fields = ("ip_address__iexact", "session_digest__exact")
    fields = (
        "created_at",
        "kind",
        "user_link",
        "ip_address",
        "user_agent",
        "provider",
        "reason",
        "session_digest",
    )
    ends_with_user = False

    def get_urls(self) -> list[Any]:
        """Add the page that lists what the public role exposes, which has no model of its own."""
        page = self.admin_site.admin_view(partial(exposure.page, site=self.admin_site))
        return [path("exposure/", page, name="platform_auth_exposure"), *super().get_urls()]
