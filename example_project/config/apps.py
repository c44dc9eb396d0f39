"""Django admin behind the second factor: ADMIN_OTP=1."""

from __future__ import annotations

from django.contrib.admin.apps import AdminConfig as DjangoAdminConfig


class AdminConfig(DjangoAdminConfig):
    default_site = "config.sites.AdminSite"
