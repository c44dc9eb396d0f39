"""Staff users of Django admin, and helpers to read its pages."""

from __future__ import annotations

import uuid
from typing import Any

from django.contrib.auth import get_user_model
from django.contrib.auth.models import Permission
from django.test import Client
from django.urls import reverse

from platform_auth.models import OAuthIdentity, OAuthProvider, RecoveryCode, TOTPFactor
from tests.conftest import make_user


def enrol(user: Any) -> TOTPFactor:
    factor = TOTPFactor(user=user, confirmed=True)
    factor.secret = "JBSWY3DPEHPK3PXP"
    factor.save()
    RecoveryCode.objects.create(user=user, digest="d" * 64)
    return factor


def link(user: Any) -> OAuthIdentity:
    provider, _created = OAuthProvider.objects.get_or_create(key="github", label="GitHub", kind="github")
    return OAuthIdentity.objects.create(user=user, provider=provider, subject=str(uuid.uuid4()))


def admin_client(*permissions: str) -> Any:
    """Return a client logged in as staff; without permissions, as a superuser."""
    user = make_user(is_staff=True, is_superuser=not permissions)
    user.user_permissions.set(Permission.objects.filter(codename__in=permissions))
    client = Client(HTTP_USER_AGENT="an admin's browser")
    client.force_login(user)
    client.user = user  # type: ignore[attr-defined]
    return client


def list_url(model: str) -> str:
    return reverse(f"admin:platform_auth_{model}_changelist")


def user_url(user: Any) -> str:
    options = get_user_model()._meta
    return reverse(f"admin:{options.app_label}_{options.model_name}_change", args=[user.pk])


def save_user_page(client: Any, user: Any) -> None:
    """Submit a user's page unchanged, as a browser does."""
    form = client.get(user_url(user)).context["adminform"].form
    data: dict[str, Any] = {}
    for name, field in form.fields.items():
        value = form[name].value()
        if name in ("last_login", "date_joined"):
            if value:
                data[f"{name}_0"], data[f"{name}_1"] = value.strftime("%Y-%m-%d"), value.strftime("%H:%M:%S")
        elif value not in (None, False, []):
            data[name] = value if isinstance(value, list) else field.prepare_value(value)
    response = client.post(user_url(user), data)
    assert response.status_code == 302, response.context["errors"]
