"""The public role: the group whose permissions everyone has, signed in or not.

One query per request, so a change takes effect immediately. Without the group, without the permission, or if the
lookup fails, there is no access.
"""

from __future__ import annotations

import logging
from typing import Any

from django.apps import apps
from django.contrib.auth import get_user_model
from django.contrib.auth.models import Group, Permission
from django.db import router

from .. import events
from ..conf import conf
from ..models import AuthEvent

logger = logging.getLogger("platform_auth")

_CHANGES = {"post_add": "added", "post_remove": "removed", "post_clear": "cleared"}
_ON_USER = "_platform_auth_public_role"
_RESERVED_APPS = (
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.sessions",
    "platform_auth",
    # Other models with users, permissions, tokens or factors.
    "allauth",
    "axes",
    "django_otp",
    "guardian",
    "knox",
    "oauth2_provider",
    "rest_framework.authtoken",
    "rest_framework_simplejwt",
    "social_django",
)


def permissions() -> frozenset[str]:
    """Return the permissions that everyone has, as "app_label.codename"; none if the lookup fails."""
    try:
        return frozenset(_short(name) for name in granted() if not _is_reserved(name))
    except Exception:
        logger.exception("the public role could not be read, so nobody has its permissions")
        return frozenset()


def permissions_of(user: Any) -> frozenset[str]:
    """Return the same, cached on the user object for one request, as Django's own permissions are."""
    if user is None:
        return permissions()
    if not hasattr(user, _ON_USER):
        setattr(user, _ON_USER, permissions())
    return getattr(user, _ON_USER)  # type: ignore[no-any-return]


def remembering(user: Any, held: frozenset[str]) -> Any:
    """Return an anonymous user for whom the public role has exactly these permissions."""
    setattr(user, _ON_USER, held)
    return user


def granted() -> list[str]:
    """Return all permissions of the group from the database, as "app_label.model.codename". Raises database errors."""
    role: object = conf.PUBLIC_ROLE
    # A lookup for None would find the permissions that no group has.
    if not isinstance(role, str) or not role:
        return []
    rows = (
        Permission.objects.using(router.db_for_write(Group))
        .filter(group__name=role)
        .order_by("content_type__app_label", "codename")
        .values_list("group__name", "content_type__app_label", "content_type__model", "codename")
    )
    # Some databases find "public" when asked for "Public".
    return [f"{app}.{model}.{codename}" for group, app, model, codename in rows if group == role]


def reserved() -> list[str]:
    """Return the group's permissions that have no effect: managing users, permissions or sessions is never public."""
    return [_short(name) for name in granted() if _is_reserved(name)]


def record_permissions_changed(
    *, instance: Any, action: str, reverse: bool, pk_set: set[Any] | None, using: str, **kwargs: Any
) -> None:
    """Record that permissions were added to or removed from the group, from either side of the relation."""
    if action not in _CHANGES:
        return
    if reverse:
        # permission.group_set.add(...): the groups are in pk_set, except after a clear().
        groups = Group.objects.using(using).filter(name=conf.PUBLIC_ROLE)
        if pk_set is None or groups.filter(pk__in=pk_set).exists():
            _record(f"{_CHANGES[action]} {instance.codename}")
    elif instance.name == conf.PUBLIC_ROLE:
        permissions = Permission.objects.using(using).filter(pk__in=pk_set or ())
        names = permissions.order_by("codename").values_list("codename", flat=True)
        _record(f"{_CHANGES[action]} {', '.join(names)}".strip())


def record_group_renamed(*, instance: Group, using: str, **kwargs: Any) -> None:
    """Record that the group is about to be renamed: from then on there is no public role."""
    groups = Group.objects.using(using).filter(pk=instance.pk, name=conf.PUBLIC_ROLE)
    if instance.name != conf.PUBLIC_ROLE and groups.exists():
        _record("group renamed")


def record_group_saved(*, instance: Group, **kwargs: Any) -> None:
    if instance.name == conf.PUBLIC_ROLE:
        _record("group saved")


def record_group_deleted(*, instance: Group, **kwargs: Any) -> None:
    if instance.name == conf.PUBLIC_ROLE:
        _record("group deleted")


def _record(change: str) -> None:
    events.record_if_possible(AuthEvent.Kind.ADMIN_CHANGED, reason=f"public role: {change}")


def _short(name: str) -> str:
    app_label, _model, codename = name.split(".", 2)
    return f"{app_label}.{codename}"


def _is_reserved(name: str) -> bool:
    """Return whether a permission is about users, permissions, tokens or sessions. Viewing users is up to the host.

    A proxy model counts as its concrete model. A permission whose model is gone opens nothing.
    """
    app_label, model_name, codename = name.split(".", 2)
    try:
        model = apps.get_model(app_label, model_name)
    except LookupError:
        return True
    if issubclass(model, get_user_model()):
        return codename != f"view_{model_name}"
    module = model._meta.app_config.name
    return issubclass(model, Group | Permission) or f"{module}.".startswith(
        tuple(f"{name}." for name in _RESERVED_APPS)
    )
