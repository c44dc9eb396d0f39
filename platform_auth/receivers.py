"""Connects Django's signals to the capabilities that react to them.

A reaction takes effect immediately, no matter who makes the change, and leaves an event.
"""

from __future__ import annotations

from django.apps import apps
from django.contrib.auth import get_user_model
from django.contrib.auth.models import Group
from django.contrib.auth.signals import user_logged_in, user_logged_out, user_login_failed
from django.core.signals import request_finished, request_started
from django.db.models.signals import m2m_changed, post_delete, post_save, pre_save

from . import backends, caller, events, public_role, sessions


def connect() -> None:
    """Connect the receivers. Called once, when the apps are ready.

    Signals of models are always connected with a sender: with a receiver for all models, Django would load every row
    that a host deletes.
    """
    request_started.connect(caller.remember)
    request_finished.connect(caller.forget)

    # Logins and logouts outside our API, such as in Django admin.
    user_logged_in.connect(events.record_elsewhere)
    user_login_failed.connect(backends.record_failed_login_elsewhere)
    user_logged_out.connect(events.record_elsewhere)

    user_model = get_user_model()
    password = user_model._meta.get_field("password")
    for model in apps.get_models():
        # Each of these sends the signal as itself: a proxy, or a parent or child with its own table.
        if issubclass(model, password.model):
            post_save.connect(sessions.end_at_new_password, sender=model)
        # Of these, only a proxy sends post_delete as itself.
        if model._meta.concrete_model is user_model._meta.concrete_model:
            post_delete.connect(events.record_user_deleted, sender=model)
        if issubclass(model, Group):
            pre_save.connect(public_role.record_group_renamed, sender=model)
            post_save.connect(public_role.record_group_saved, sender=model)
        if model._meta.concrete_model is Group:
            post_delete.connect(public_role.record_group_deleted, sender=model)
    m2m_changed.connect(public_role.record_permissions_changed, sender=Group.permissions.through)

    if apps.is_installed("django.contrib.admin"):
        post_save.connect(events.record_admin_action, sender=apps.get_model("admin", "LogEntry"))
