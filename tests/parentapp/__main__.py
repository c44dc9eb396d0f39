"""Set passwords and delete accounts through each model of the app; print what was left, as JSON.

A process of its own, since the user model of a process cannot change.
"""

from __future__ import annotations

import json
import uuid
from typing import Any

import django
from django.conf import settings
from django.core.management import call_command

settings.configure(
    SECRET_KEY="x" * 50,
    DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}},
    INSTALLED_APPS=[
        "django.contrib.auth",
        "django.contrib.contenttypes",
        "rest_framework",
        "django_otp",
        "platform_auth",
        "tests.parentapp",
    ],
    AUTH_USER_MODEL="parentapp.Member",
    PLATFORM_AUTH={"PUBLIC_URL": "http://127.0.0.1"},
    USE_TZ=True,
)
django.setup()

from platform_auth import sessions  # noqa: E402 - its models want the settings
from platform_auth.models import AuthEvent  # noqa: E402
from tests.parentapp.models import Badge, Clerk, Contact, Customer, Member, Person  # noqa: E402


def somebody() -> Clerk:
    """Create an account that has a row in the table of each model except Customer."""
    # The keys of the two parents shall differ.
    Badge.objects.create()
    return Clerk.objects.create(email=f"{uuid.uuid4()}@example.com", password="!")


def sessions_left(model: Any) -> int:
    """Set a password through a model; return how many sessions are left of one."""
    clerk = somebody()
    Customer(person_ptr=clerk.person_ptr).save_base(raw=True)
    member = Member.objects.get(pk=clerk.pk)
    sessions.open(member)
    row = model.objects.get(email=clerk.email)
    row.set_password("another horse and battery")
    row.save()
    return len(sessions.of(member))


def events_left(model: Any) -> int:
    """Delete an account through a model; return how many events report it."""
    clerk = somebody()
    model.objects.get(email=clerk.email).delete()
    return AuthEvent.objects.filter(kind="user_deleted", reason=f"user {clerk.pk}").count()


call_command("migrate", run_syncdb=True, verbosity=0)
print(
    json.dumps(
        {
            "password set": {
                m.__name__: sessions_left(m) for m in (Member, Person, Contact, Clerk, Customer)
            },
            "deleted": {m.__name__: events_left(m) for m in (Member, Person, Contact, Clerk)},
        }
    )
)
