"""What we listen to: log-ins, log-outs and passwords elsewhere, the public role, users and groups in Django admin.

All act at once, whoever makes them, and leave an event.
"""

from __future__ import annotations

import logging
from typing import Any

from django.apps import apps
from django.contrib.auth import get_user_model
from django.contrib.auth.models import Group, Permission
from django.contrib.auth.signals import user_logged_in, user_logged_out, user_login_failed
from django.core.signals import request_finished, request_started
from django.db import DatabaseError, router, transaction
from django.db.models.signals import m2m_changed, post_delete, post_save, pre_save
from django.utils import translation

from . import backends, caller, events, sessions
from .conf import conf
from .models import AuthEvent, PasswordResetToken

logger = logging.getLogger("platform_auth")

_CHANGES = {"post_add": "added", "post_remove": "removed", "post_clear": "cleared"}


def connect() -> None:
    """Listen. Once, when the apps are ready.

    Never to a model's signal of any sender: Django would then load all rows that a host deletes at once.
    """
    user_logged_in.connect(_logged_in_elsewhere)
    user_login_failed.connect(_login_failed_elsewhere)
    user_logged_out.connect(_logged_out_elsewhere)
    request_started.connect(caller.remember)
    request_finished.connect(caller.forget)
    m2m_changed.connect(_permissions_changed, sender=Group.permissions.through)
    pre_save.connect(_group_is_renamed, sender=Group)
    post_save.connect(_group_saved, sender=Group)
    post_delete.connect(_group_deleted, sender=Group)
    user_model = get_user_model()
    with_password = user_model._meta.get_field("password").model
    for model in apps.get_models():
        # Each saves in its own name: a proxy, a parent or child with a table of its own.
        if issubclass(model, with_password):
            post_save.connect(_password_set, sender=model)
        # A parent or child that is deleted deletes the user in the user's name.
        if model._meta.concrete_model is user_model._meta.concrete_model:
            post_delete.connect(_user_deleted, sender=model)
    if apps.is_installed("django.contrib.admin"):
        post_save.connect(_admin_did, sender=apps.get_model("admin", "LogEntry"))


def _logged_in_elsewhere(*, request: Any, user: Any, **kwargs: Any) -> None:
    """Record a log-in by another door, such as Django admin's form: its address is familiar from then on."""
    if _is_elsewhere(request, user, kwargs):
        _record(AuthEvent.Kind.LOGGED_IN, "form", user=user, who=caller.of(request))


def _login_failed_elsewhere(*, credentials: dict[str, Any], request: Any = None, **kwargs: Any) -> None:
    """Record a log-in that another door refused, in the name of the account that was tried."""
    # Ours gives both names, and has an event of its own; a limit has too.
    if request is None or {"username", "email"} <= credentials.keys() or hasattr(request, backends.LIMITED):
        return
    name = credentials.get("username") or credentials.get(get_user_model().USERNAME_FIELD)
    user = backends.find_by_username(name) if isinstance(name, str) else None
    _record(AuthEvent.Kind.LOGIN_FAILED, "credentials, by a form", user=user, who=caller.of(request))


def _logged_out_elsewhere(*, request: Any, user: Any, **kwargs: Any) -> None:
    """Record a log-out by another door, such as Django admin's."""
    if _is_elsewhere(request, user, kwargs):
        _record(AuthEvent.Kind.LOGGED_OUT, "form", user=user, who=caller.of(request))


def _is_elsewhere(request: Any, user: Any, facts: dict[str, Any]) -> bool:
    """Return whether a log-in or log-out is none of ours, which bring their session along and have their own event.

    A request without a method is nobody's: a test client's `force_login` makes one.
    """
    is_ours, is_sent = "session" in facts, getattr(request, "method", None) is not None
    return is_sent and not is_ours and isinstance(user, get_user_model())


def _password_set(*, instance: Any, created: bool, using: str, **kwargs: Any) -> None:
    """End the sessions and reset links of a user whose password somebody set: Django admin, `changepassword`, the host.

    Django keeps the raw password on the user between `set_password` and `save`, and not for an upgraded hash. Our own
    reset and change do not come here: they end sessions in the transaction that writes the password. A deactivation
    needs nothing: each use of a session looks at it.
    """
    user_model = get_user_model()
    holder = user_model._meta.get_field("password").model
    is_new = created and instance._meta.concrete_model is holder
    if is_new or getattr(instance, "_password", None) is None:
        return
    # Of the user model's parents and children, the key may be another.
    key = holder._meta.pk
    rows = user_model._base_manager.using(using)
    user = rows.filter(**{key.name: getattr(instance, key.attname)}).first()
    if user is None:
        return
    PasswordResetToken.objects.filter(user=user).delete()
    if sessions.revoke_all(user):
        _record(AuthEvent.Kind.SESSION_REVOKED, "password set", user=user)


def _user_deleted(*, instance: Any, **kwargs: Any) -> None:
    """Leave an event where an account goes, whoever deletes it; it names the account, which is no longer there."""
    _record(AuthEvent.Kind.USER_DELETED, f"user {instance.pk}")


def _permissions_changed(
    *, instance: Any, action: str, reverse: bool, pk_set: set[Any] | None, using: str, **kwargs: Any
) -> None:
    if action not in _CHANGES:
        return
    if reverse:
        # permission.group_set.add(...): the groups are in pk_set, which a clear() leaves out.
        groups = Group.objects.using(using).filter(name=conf.PUBLIC_ROLE)
        if pk_set is None or groups.filter(pk__in=pk_set).exists():
            _record(AuthEvent.Kind.ADMIN_CHANGED, f"public role: {_CHANGES[action]} {instance.codename}")
    elif instance.name == conf.PUBLIC_ROLE:
        permissions = Permission.objects.using(using).filter(pk__in=pk_set or ())
        names = permissions.order_by("codename").values_list("codename", flat=True)
        changes = f"public role: {_CHANGES[action]} {', '.join(names)}"
        _record(AuthEvent.Kind.ADMIN_CHANGED, changes.strip())


def _group_is_renamed(*, instance: Group, using: str, **kwargs: Any) -> None:
    groups = Group.objects.using(using).filter(pk=instance.pk, name=conf.PUBLIC_ROLE)
    if instance.name != conf.PUBLIC_ROLE and groups.exists():
        _record(AuthEvent.Kind.ADMIN_CHANGED, "public role: group renamed")


def _group_saved(*, instance: Group, **kwargs: Any) -> None:
    if instance.name == conf.PUBLIC_ROLE:
        _record(AuthEvent.Kind.ADMIN_CHANGED, "public role: group saved")


def _group_deleted(*, instance: Group, **kwargs: Any) -> None:
    if instance.name == conf.PUBLIC_ROLE:
        _record(AuthEvent.Kind.ADMIN_CHANGED, "public role: group deleted")


def _admin_did(*, instance: Any, created: bool, **kwargs: Any) -> None:
    """Leave an event where Django admin logs what somebody did to a user or a group.

    Of many that are deleted at once it sends no signal: each account leaves an event of its own.
    """
    if not created or instance.content_type is None:
        return
    model = instance.content_type.model_class()
    if model not in (get_user_model(), Group):
        return
    # In one language, whoever reads it.
    with translation.override("en"):
        message = instance.get_change_message() or instance.get_action_flag_display()
    what = f"{model._meta.model_name} {instance.object_id}: {message}"
    _record(AuthEvent.Kind.ADMIN_CHANGED, what, user_id=instance.user_id)


def _record(kind: AuthEvent.Kind, reason: str, **facts: Any) -> None:
    """Leave an event beside what happened, which goes on where there is no table yet (between migrations)."""
    try:
        with transaction.atomic(using=router.db_for_write(AuthEvent)):
            events.record(kind, reason=reason, **{"who": caller.current(), **facts})
    except DatabaseError:
        logger.exception("an event could not be recorded: %s", kind)
