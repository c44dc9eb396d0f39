"""Emails and pages: their templates, and how emails are delivered."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

from django.core.checks import Error, Warning
from django.core.exceptions import ImproperlyConfigured
from django.template import TemplateDoesNotExist, TemplateSyntaxError
from django.template.loader import get_template
from django.utils.module_loading import import_string

from ..conf import conf
from .registry import Messages, check

TEMPLATES = (
    *(f"email/{mail}.{end}" for mail in ("reset_link", "notice") for end in ("subject.txt", "txt", "html")),
    *("email/base.html", "base.html", "password_request.html", "password_reset.html", "error.html"),
)
"""The templates of emails and pages, below `platform_auth/`."""
_EFFECTS = {
    "ImmediateBackend": "the response waits for the email, and its time reveals which accounts exist",
    "DummyBackend": "no email is ever sent",
}


@check()
def templates() -> Messages:
    """E018: emails and pages that can't be rendered."""
    if faulty := [name for name in TEMPLATES if not _loads(name)]:
        yield Error(
            f"These templates of platform_auth's emails and pages can't be loaded: {', '.join(faulty)}.",
            hint="Add a DjangoTemplates engine with APP_DIRS = True, or with the loader app_directories, to TEMPLATES, "
            "and look for errors in templates of yours that override ours.",
            id="platform_auth.E018",
        )


def _loads(name: str) -> bool:
    try:
        return bool(get_template(f"platform_auth/{name}"))
    except (TemplateDoesNotExist, TemplateSyntaxError, ImproperlyConfigured):
        return False


@check()
def tasks() -> Messages:
    """E014, W008: tasks that nobody runs, that the request waits for, or that can't be retried later."""
    if conf.MAIL_DELIVERY != "task":
        return
    backend = _task_backend()
    name = type(backend).__name__
    if backend is None:
        yield Error(
            'MAIL_DELIVERY is "task", but no task framework is available.',
            hint="Use Django 6.0 or later or the extra platform-auth[tasks], and set TASKS to a backend with workers; "
            'or remove MAIL_DELIVERY to use the default, "thread".',
            id="platform_auth.E014",
        )
    elif name in _EFFECTS:
        yield Warning(
            f'MAIL_DELIVERY is "task" and the task backend is {name}: {_EFFECTS[name]}.',
            hint='Set TASKS to a backend with a worker, or remove MAIL_DELIVERY to use the default, "thread".',
            id="platform_auth.W008",
        )
    elif not backend.supports_defer:
        yield Warning(
            f'MAIL_DELIVERY is "task" and the task backend {name} can\'t run a task later: an email that fails once '
            "is not tried again.",
            hint="Set TASKS to a backend whose supports_defer is True, or remove MAIL_DELIVERY.",
            id="platform_auth.W008",
        )


def _task_backend() -> Any:
    """Return the default backend of Django's task framework, or of its backport; None if neither works."""
    try:
        framework = "django.tasks" if find_spec("django.tasks") else "django_tasks"
        return import_string(f"{framework}.task_backends")["default"]
    except Exception:
        return None
