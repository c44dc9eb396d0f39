"""Migrations can be reversed, and the database itself refuses duplicates (security.md, row 131)."""

from __future__ import annotations

from typing import Any

import pytest
from django.apps import apps
from django.core.management import call_command
from django.db import IntegrityError, connection, models, transaction
from django.utils import timezone

from platform_auth.models import (
    OAuthIdentity,
    OAuthProvider,
    RateCounter,
    RecoveryCode,
    RefreshSession,
    UsedState,
)


def our_tables() -> set[str]:
    return {model._meta.db_table for model in apps.get_app_config("platform_auth").get_models()}


@pytest.mark.django_db(transaction=True)
def test_the_tables_can_be_removed_and_created_again() -> None:
    try:
        call_command("migrate", "platform_auth", "zero", verbosity=0)

        assert our_tables() & set(connection.introspection.table_names()) == set()
    finally:
        call_command("migrate", verbosity=0)
    assert our_tables() <= set(connection.introspection.table_names())
    assert not RefreshSession.objects.exists()


def refuses(row: models.Model) -> bool:
    """Return whether the database refuses a second row with the same values, past every form and `clean`."""
    row.save()
    row.pk = None
    row._state.adding = True
    try:
        with transaction.atomic():
            row.save(force_insert=True)
    except IntegrityError:
        return True
    return False


@pytest.mark.django_db
class TestTheDatabaseRefuses:
    def test_a_second_session_with_the_same_key(self, user: Any) -> None:
        now = timezone.now()

        assert refuses(
            RefreshSession(user=user, digest="0" * 64, created_at=now, rotated_at=now, expires_at=now)
        )

    def test_a_second_recovery_code_with_the_same_digest(self, user: Any) -> None:
        assert refuses(RecoveryCode(user=user, digest="0" * 64))

    def test_a_second_provider_or_identity(self, user: Any) -> None:
        provider = OAuthProvider.objects.create(key="github", label="GitHub", kind="github", client_id="id")
        identity = OAuthIdentity(user=user, provider=provider, issuer="https://github.com", subject="1")

        assert refuses(identity)
        assert refuses(provider)

    def test_a_second_used_state_or_counter(self) -> None:
        now = timezone.now()
        state: dict[str, Any] = {"digest": "0" * 64, "expires_at": now}
        UsedState.objects.create(**state)
        counter: dict[str, Any] = {"key": "login", "count": 1, "resets_at": now}
        RateCounter.objects.create(**counter)

        for model, values in ((UsedState, state), (RateCounter, counter)):
            with pytest.raises(IntegrityError), transaction.atomic():
                model.objects.create(**values)
