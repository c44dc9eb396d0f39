"""All endpoints, mounted at /auth. Every path works with and without a trailing slash, because clients send none."""

from __future__ import annotations

from django.urls import re_path

from . import views

app_name = "platform_auth"

urlpatterns = [
    # Log in, refresh, log out
    re_path(r"^login/?\Z", views.LoginView.as_view(), name="login"),
    re_path(r"^refresh/?\Z", views.RefreshView.as_view(), name="refresh"),
    re_path(r"^logout/?\Z", views.LogoutView.as_view(), name="logout"),
    # Log in with a provider
    re_path(r"^\Z", views.ProviderListView.as_view(), name="root"),
    re_path(r"^oauth/?\Z", views.OAuthListView.as_view(), name="oauth-list"),
    re_path(r"^oauth/(?P<provider>[^/]+)/?\Z", views.OAuthStartView.as_view(), name="oauth-start"),
    re_path(r"^login/(?P<provider>[^/]+)/?\Z", views.OAuthStartView.as_view(), name="login-provider"),
    re_path(
        r"^oauth/(?P<provider>[^/]+)/callback/?\Z", views.OAuthCallbackView.as_view(), name="oauth-callback"
    ),
    re_path(r"^oauth/(?P<provider>[^/]+)/otp/?\Z", views.OAuthOTPView.as_view(), name="oauth-otp"),
    re_path(r"^oauth/(?P<provider>[^/]+)/link/?\Z", views.OAuthLinkView.as_view(), name="oauth-link"),
    # Passwords
    re_path(r"^password/request/?\Z", views.PasswordRequestView.as_view(), name="password-request"),
    re_path(
        r"^password/request/page/?\Z", views.PasswordRequestPageView.as_view(), name="password-request-page"
    ),
    re_path(r"^password/reset/?\Z", views.PasswordResetView.as_view(), name="password-reset"),
    re_path(r"^password/reset/page/?\Z", views.PasswordResetPageView.as_view(), name="password-reset-page"),
    re_path(r"^password/change/?\Z", views.PasswordChangeView.as_view(), name="password-change"),
    # The second factor
    re_path(r"^tfa/?\Z", views.FactorStatusView.as_view(), name="tfa-status"),
    re_path(r"^tfa/generate/?\Z", views.FactorGenerateView.as_view(), name="tfa-generate"),
    re_path(r"^tfa/enable/?\Z", views.FactorEnableView.as_view(), name="tfa-enable"),
    re_path(r"^tfa/disable/?\Z", views.FactorDisableView.as_view(), name="tfa-disable"),
    re_path(r"^tfa/recovery-codes/?\Z", views.RecoveryCodesView.as_view(), name="tfa-recovery-codes"),
    # Sessions
    re_path(r"^sessions/?\Z", views.SessionListView.as_view(), name="session-list"),
    re_path(r"^sessions/(?P<session_id>[^/]+)/?\Z", views.SessionDetailView.as_view(), name="session-detail"),
    re_path(r"^identities/?\Z", views.IdentityListView.as_view(), name="identity-list"),
    re_path(
        r"^identities/(?P<identity_id>[^/]+)/?\Z", views.IdentityDetailView.as_view(), name="identity-detail"
    ),
    # Keys
    re_path(r"^jwks/?\Z", views.KeySetView.as_view(), name="jwks"),
]
