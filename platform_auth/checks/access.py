"""Authentication backends, hashers, permissions, second-factor policy, public role."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from typing import Any

from django.apps import apps
from django.conf import settings
from django.contrib.auth.backends import ModelBackend
from django.contrib.auth.hashers import Argon2PasswordHasher
from django.contrib.auth.models import Group
from django.core.checks import Error, Warning
from django.utils.module_loading import import_string
from rest_framework.permissions import AllowAny
from rest_framework.settings import api_settings

from .. import public_role
from ..backends import EmailBackend, PublicRoleBackend
from ..conf import conf
from .registry import Messages, check, nearest


@check()
def backends() -> Messages:
    """W003-W005: authentication backends that are missing or in the way."""
    classes = _classes(settings.AUTHENTICATION_BACKENDS)
    if conf.PASSWORD_LOGIN and not any(issubclass(cls, EmailBackend) for cls in classes):
        yield Warning(
            "EmailBackend is not in AUTHENTICATION_BACKENDS, so nobody can log in with a local password.",
            hint='Put "platform_auth.backends.EmailBackend" first in AUTHENTICATION_BACKENDS.',
            id="platform_auth.W003",
        )
    if ModelBackend in classes:
        yield Warning(
            "ModelBackend is in AUTHENTICATION_BACKENDS: it accepts logins that EmailBackend refuses.",
            hint='Remove "django.contrib.auth.backends.ModelBackend": EmailBackend also provides the permissions, and '
            "the login by username in Django admin.",
            id="platform_auth.W004",
        )
    if not any(issubclass(cls, PublicRoleBackend) for cls in classes):
        yield Warning(
            "PublicRoleBackend is not in AUTHENTICATION_BACKENDS, so `has_perm` ignores the public role.",
            hint='Add "platform_auth.backends.PublicRoleBackend" to AUTHENTICATION_BACKENDS.',
            id="platform_auth.W005",
        )


@check(deploy=True)
def hashers() -> Messages:
    """E024: new passwords don't use Argon2."""
    classes = _classes(settings.PASSWORD_HASHERS)
    if not classes or not issubclass(classes[0], Argon2PasswordHasher):
        yield Error(
            "New passwords are not hashed with Argon2.",
            hint='Put "django.contrib.auth.hashers.Argon2PasswordHasher" first in PASSWORD_HASHERS. Old hashes '
            "are upgraded as their users log in.",
            id="platform_auth.E024",
        )


def _classes(paths: Iterable[str]) -> list[Any]:
    found = []
    for path in paths:
        # Django itself reports what can't be imported, when it is used.
        with suppress(ImportError):
            found.append(import_string(path))
    return found


@check()
def default_permissions() -> Messages:
    """W006: by DRF's default, a view without permissions is open to everyone."""
    try:
        classes: list[object] = list(api_settings.DEFAULT_PERMISSION_CLASSES)
    except ImportError:
        return
    if all(cls is AllowAny for cls in classes):
        yield Warning(
            "A view of yours without permission_classes is open to everyone.",
            hint='Set REST_FRAMEWORK["DEFAULT_PERMISSION_CLASSES"] to '
            '["platform_auth.permissions.PrivateByDefault"].',
            id="platform_auth.W006",
        )


@check("TFA_REQUIRED_GROUPS", deploy=True)
def admin_without_factor() -> Messages:
    """W026: a policy that Django admin doesn't enforce."""
    if not apps.is_installed("django.contrib.admin"):
        return
    from django.contrib import admin
    from django_otp.admin import OTPAdminSite

    is_policy = conf.TFA_REQUIRED_FOR_STAFF or conf.TFA_REQUIRED_GROUPS
    if is_policy and not isinstance(admin.site, OTPAdminSite):
        yield Warning(
            "A second factor is required, but Django admin asks for the password only.",
            hint="Use django_otp.admin.OTPAdminSite: docs/accounts.md shows how.",
            id="platform_auth.W026",
        )


@check("TFA_REQUIRED_GROUPS", asks=Group)
def missing_groups() -> Messages:
    """W040: a policy for a group that doesn't exist, and so for nobody."""
    there = set(Group.objects.values_list("name", flat=True))
    for name in conf.TFA_REQUIRED_GROUPS:
        if name not in there:
            yield Warning(
                f'TFA_REQUIRED_GROUPS: there is no group "{name}", so this policy applies to nobody.',
                hint=nearest(name, there) if there else "Create the group in the admin, or remove the name.",
                id="platform_auth.W040",
            )


@check("PUBLIC_ROLE", asks=Group)
def reserved_rights() -> Messages:
    """W041: permissions of the public role that have no effect."""
    if reserved := public_role.reserved():
        more = ", ..." if len(reserved) > 10 else ""
        yield Warning(
            f'The public role "{conf.PUBLIC_ROLE}" has permissions over users, permissions or sessions, which '
            f"have no effect: {', '.join(reserved[:10])}{more}.",
            hint="Remove them from the group in the admin.",
            id="platform_auth.W041",
        )
