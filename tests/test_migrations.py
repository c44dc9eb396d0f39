"""Migrations can be reversed, and the database itself refuses duplicates (security.md, row 131)."""

from __future__ import annotations

import uuid
from typing import Any

import pytest
from django.apps import apps
from django.core.management import call_command
from django.db import IntegrityError, connection, transaction
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


def assert_one_only(model: Any, **values: Any) -> None:
    """Check that the database refuses a second row with these values, past every form and `clean`."""
    model._default_manager.create(**values)
    with pytest.raises(IntegrityError), transaction.atomic():
        model._default_manager.create(**values)


@pytest.mark.django_db
class TestTheDatabaseRefuses:
    def test_a_second_session_with_the_same_key(self, user: Any) -> None:
        assert_one_only(
            RefreshSession, user=user, key=uuid.uuid4(), digest="0" * 64, expires_at=timezone.now()
        )

    def test_a_second_recovery_code_with_the_same_digest(self, user: Any) -> None:
        assert_one_only(RecoveryCode, user=user, digest="0" * 64)

    def test_a_second_provider_with_the_same_key(self) -> None:
        assert_one_only(OAuthProvider, key="github", label="GitHub", kind="github", client_id="id")

    def test_a_second_identity_with_the_same_subject(self, user: Any) -> None:
        provider = OAuthProvider.objects.create(key="github", label="GitHub", kind="github", client_id="id")

        assert_one_only(OAuthIdentity, user=user, provider=provider, issuer="https://github.com", subject="1")

    def test_a_second_use_of_a_state(self) -> None:
        assert_one_only(UsedState, digest="0" * 64, expires_at=timezone.now())

    def test_a_second_counter_with_the_same_key(self) -> None:
        assert_one_only(RateCounter, key="login", count=1, resets_at=timezone.now())
