"""A host whose Django admin asks for the second factor: django-otp's admin site with our factor."""

from __future__ import annotations

from django.contrib.auth import get_user_model
from django.urls import include, path
from django_otp.admin import OTPAdminSite

site = OTPAdminSite(name="admin")
site.register(get_user_model())

urlpatterns = [
    path("auth/", include("platform_auth.urls")),
    path("admin/", site.urls),
]
