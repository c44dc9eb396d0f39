"""What we listen to: log-ins and passwords set elsewhere, the public role, users and groups in Django admin.

All act at once, whoever makes them, and leave an event.
"""

from __future__ import annotations

import contextlib
import logging
from typing import Any

from django.apps import apps
from django.contrib.auth import get_user_model
from django.contrib.auth.models import Group, Permission
from django.contrib.auth.signals import user_logged_in
from django.core.signals import request_finished
from django.db import DatabaseError, router, transaction
from django.db.models.signals import m2m_changed, post_delete, post_save, pre_save

from . import client, events, public_role, sessions
from .conf import conf
from .models import AuthEvent, PasswordResetToken

logger = logging.getLogger("platform_auth")

_CHANGES = {"post_add": "added", "post_remove": "removed", "post_clear": "cleared"}


def connect() -> None:
    """Listen. Once, when the apps are ready."""
    user_logged_in.connect(_logged_in_elsewhere, dispatch_uid="platform_auth")
    # Of any sender: a proxy model of the host's saves users too.
    post_save.connect(_password_set, dispatch_uid="platform_auth")
    m2m_changed.connect(_permissions_changed, sender=Group.permissions.through, dispatch_uid="platform_auth")
    pre_save.connect(_group_is_renamed, sender=Group, dispatch_uid="platform_auth")
    request_finished.connect(public_role.fill, dispatch_uid="platform_auth")
    for model in (Group, Permission):
        post_save.connect(_saved, sender=model, dispatch_uid="platform_auth")
        post_delete.connect(_deleted, sender=model, dispatch_uid="platform_auth")
    if apps.is_installed("django.contrib.admin"):
        log_entry = apps.get_model("admin", "LogEntry")
        post_save.connect(_admin_did, sender=log_entry, dispatch_uid="platform_auth")


def _logged_in_elsewhere(*, request: Any, user: Any, **kwargs: Any) -> None:
    """Record a log-in by another door, such as Django admin's form: its address is familiar from then on."""
    who = client.of(request)
    # Ours brings its session along, and has an event of its own.
    if "session" in kwargs or who.network is None or not isinstance(user, get_user_model()):
        return
    with contextlib.suppress(DatabaseError), transaction.atomic(using=router.db_for_write(AuthEvent)):
        events.record(AuthEvent.Kind.LOGGED_IN, user=user, client=who, reason="form")


def _password_set(*, instance: Any, created: bool, **kwargs: Any) -> None:
    """End the sessions and reset links of a user whose password somebody set: Django admin, `changepassword`, the host.

    Django keeps the raw password on the user between `set_password` and `save`, and not for an upgraded hash. Our own
    reset and change do not come here: they end sessions in the transaction that writes the password. A deactivation
    needs nothing: each use of a session looks at it.
    """
    if created or not isinstance(instance, get_user_model()) or getattr(instance, "_password", None) is None:
        return
    PasswordResetToken.objects.filter(user_id=instance.pk).delete()
    if sessions.revoke_all(instance):
        events.record(AuthEvent.Kind.SESSION_REVOKED, user=instance, reason="password set")


def _permissions_changed(
    *, instance: Any, action: str, reverse: bool, pk_set: set[Any] | None, using: str, **kwargs: Any
) -> None:
    if action not in _CHANGES:
        return
    public_role.forget(using=using)
    if reverse:
        # permission.group_set.add(...): the groups are in pk_set, which a clear() leaves out.
        groups = Group.objects.using(using).filter(name=conf.PUBLIC_ROLE)
        if pk_set is None or groups.filter(pk__in=pk_set).exists():
            _record(f"public role: {_CHANGES[action]} {instance.codename}", using)
    elif instance.name == conf.PUBLIC_ROLE:
        permissions = Permission.objects.using(using).filter(pk__in=pk_set or ())
        names = permissions.order_by("codename").values_list("codename", flat=True)
        _record(f"public role: {_CHANGES[action]} {', '.join(names)}".strip(), using)


def _group_is_renamed(*, instance: Group, using: str, **kwargs: Any) -> None:
    groups = Group.objects.using(using).filter(pk=instance.pk, name=conf.PUBLIC_ROLE)
    if instance.name != conf.PUBLIC_ROLE and groups.exists():
        _record("public role: group renamed", using)


def _saved(*, instance: Any, using: str, **kwargs: Any) -> None:
    public_role.forget(using=using)
    if isinstance(instance, Group) and instance.name == conf.PUBLIC_ROLE:
        _record("public role: group saved", using)


def _deleted(*, instance: Any, using: str, **kwargs: Any) -> None:
    public_role.forget(using=using)
    if isinstance(instance, Group) and instance.name == conf.PUBLIC_ROLE:
        _record("public role: group deleted", using)


def _admin_did(*, instance: Any, created: bool, using: str, **kwargs: Any) -> None:
    """Leave an event where Django admin logs that somebody added or changed a user or a group.

    What it logs of deletions sends no signal; the rows of ours that go along are listed on its page.
    """
    if not created or instance.content_type is None:
        return
    model = instance.content_type.model_class()
    if model not in (get_user_model(), Group):
        return
    what = f"{model._meta.model_name} {instance.object_id}: {instance.get_change_message()}"
    _record(what, using, user_id=instance.user_id)


def _record(change: str, using: str, **facts: Any) -> None:
    """Leave an event beside the change, which goes on where there is no table yet (between migrations)."""
    try:
        with transaction.atomic(using=router.db_for_write(AuthEvent)):
            events.record(AuthEvent.Kind.ADMIN_CHANGED, reason=change, **facts)
    except DatabaseError:
        logger.exception("a change by an admin could not be recorded")
