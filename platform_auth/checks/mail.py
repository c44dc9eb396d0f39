"""Mails and pages: their templates, and how mails leave the request."""

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
"""What mails and pages are made of, below `platform_auth/`."""


@check()
def templates() -> Messages:
    """E018: mails and pages that cannot be rendered."""
    if faulty := [name for name in TEMPLATES if not _loads(name)]:
        yield Error(
            f"These templates of platform_auth, for its mails and pages, do not load: {', '.join(faulty)}.",
            hint="Give TEMPLATES an engine of DjangoTemplates with APP_DIRS = True, or with the loader "
            "app_directories, and look for a fault in those of yours that override ours.",
            id="platform_auth.E018",
        )


def _loads(name: str) -> bool:
    try:
        return bool(get_template(f"platform_auth/{name}"))
    except (TemplateDoesNotExist, TemplateSyntaxError, ImproperlyConfigured):
        return False


@check()
def tasks() -> Messages:
    """E014, W008: tasks that nobody runs, that the request waits for, or that cannot be tried again later."""
    if conf.MAIL_DELIVERY != "task":
        return
    backend = _task_backend()
    name = type(backend).__name__
    if backend is None:
        yield Error(
            'MAIL_DELIVERY is "task", but there is no task framework that works.',
            hint="Use Django 6.0 or the extra platform-auth[tasks], and set TASKS to a backend with a worker; "
            'or leave MAIL_DELIVERY out ("thread").',
            id="platform_auth.E014",
        )
    elif name in ("ImmediateBackend", "DummyBackend"):
        yield Warning(
            f'MAIL_DELIVERY is "task" and the task backend is {name}: either no mail is ever sent, or the '
            "answer waits for it, and its time tells which accounts exist.",
            hint='Set TASKS to a backend with a worker, or leave MAIL_DELIVERY out ("thread").',
            id="platform_auth.W008",
        )
    elif not backend.supports_defer:
        yield Warning(
            f'MAIL_DELIVERY is "task" and the task backend {name} cannot run a task later: a mail that fails once '
            "is not tried again.",
            hint='Set TASKS to a backend whose supports_defer is True, or leave MAIL_DELIVERY out ("thread").',
            id="platform_auth.W008",
        )


def _task_backend() -> Any:
    """Return the default backend of Django's task framework, or of its backport; None where neither works."""
    try:
        framework = "django.tasks" if find_spec("django.tasks") else "django_tasks"
        return import_string(f"{framework}.task_backends")["default"]
    except Exception:
        return None
