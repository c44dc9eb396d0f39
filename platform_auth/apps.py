"""The app configuration."""

from __future__ import annotations

from django.apps import AppConfig, apps
from django.utils.translation import gettext_lazy as _


class PlatformAuthConfig(AppConfig):
    name = "platform_auth"
    verbose_name = _("Authentication")
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        """Connect the receivers, register the checks, add to the admin's user page."""
        from . import checks, receivers  # noqa: F401 - the checks register themselves

        receivers.connect()
        if apps.is_installed("django.contrib.admin"):
            from .admin import users

            users.show_on_user_pages()
        if apps.is_installed("drf_spectacular"):
            from . import schema  # noqa: F401 - its classes register themselves
