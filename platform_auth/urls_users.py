"""Optional endpoints for the official SDKs, mounted at /users."""

from __future__ import annotations

from django.urls import re_path

from . import views

app_name = "platform_auth_users"

urlpatterns = [
    re_path(r"^me/?\Z", views.UserView.as_view(), name="me"),
    re_path(r"^me/tfa/?\Z", views.FactorStatusView.as_view(), name="tfa-status"),
    re_path(r"^me/tfa/generate/?\Z", views.FactorGenerateView.as_view(), name="tfa-generate"),
    re_path(r"^me/tfa/enable/?\Z", views.UserFactorEnableView.as_view(), name="tfa-enable"),
    re_path(r"^me/tfa/disable/?\Z", views.FactorDisableView.as_view(), name="tfa-disable"),
    re_path(r"^me/tfa/recovery-codes/?\Z", views.RecoveryCodesView.as_view(), name="tfa-recovery-codes"),
]
