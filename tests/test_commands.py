"""The commands: prune, doctor, rotate keys (security.md, rows 31, 122, 128 and 129)."""

from __future__ import annotations

import json
from datetime import timedelta
from io import StringIO
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.db import connection, transaction
from django.test import override_settings
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from platform_auth import events, sealing, sessions
from platform_auth.caller import Caller
from platform_auth.management.commands import platform_auth_prune, platform_auth_rotate_keys
from platform_auth.models import (
    AuthEvent,
    OAuthProvider,
    PasswordResetToken,
    PendingFactor,
    RateCounter,
    RefreshSession,
    TOTPFactor,
    UsedState,
)
from platform_auth.passwords import reset_tokens
from tests.conftest import Api, make_user
from tests.racing import together

GOOD: dict[str, Any] = {"PUBLIC_URL": "https://site.example"}
PRODUCTION: dict[str, Any] = {
    "PLATFORM_AUTH": GOOD,
    "PASSWORD_HASHERS": ["django.contrib.auth.hashers.Argon2PasswordHasher"],
    "CACHES": {
        "default": {
            "BACKEND": "django.core.cache.backends.redis.RedisCache",
            "LOCATION": "redis://127.0.0.1:6379/9",
        }
    },
    "SILENCED_SYSTEM_CHECKS": ["platform_auth.W009"],
}


def run(name: str, *arguments: str, **options: Any) -> str:
    out = StringIO()
    call_command(name, *arguments, stdout=out, stderr=out, **options)
    return out.getvalue()


def fill(user: Any, *, count: int = 1) -> None:
    """Create `count` expired rows in each table, and one that isn't."""
    now = timezone.now()
    for index in range(count + 1):
        ends = now + timedelta(hours=1) if index == 0 else now - timedelta(seconds=index)
        session = sessions.open(user).session
        RefreshSession.objects.filter(pk=session.pk).update(expires_at=ends)
        PasswordResetToken.objects.create(user=user, fingerprint="f", expires_at=ends)
        PendingFactor.objects.create(session_id=session.pk, user=user, sealed_secret="s", expires_at=ends)
        UsedState.objects.create(digest=f"{index:064d}", expires_at=ends)
        RateCounter.objects.create(key=f"key-{index}", count=1, resets_at=ends)
    AuthEvent.objects.all().prune()
    for index in range(count + 1):
        when = now - (timedelta(days=179) if index == 0 else timedelta(days=181))
        AuthEvent.objects.create(kind=AuthEvent.Kind.LOGGED_IN, user=user, created_at=when)


TABLES = (RefreshSession, PasswordResetToken, PendingFactor, UsedState, RateCounter, AuthEvent)


@pytest.mark.django_db
class TestPrune:
    """security.md, row 128: idempotent, batched, safe during traffic and concurrent runs, never needed for
    correctness.
    """

    def test_expired_rows_are_deleted_and_others_stay(self, user: Any) -> None:
        fill(user, count=3)

        text = run("platform_auth_prune")

        assert [model._default_manager.count() for model in TABLES] == [1] * 6
        assert "18 rows deleted" in text
        assert "sessions: 3" in text

    def test_a_second_run_finds_nothing(self, user: Any) -> None:
        fill(user)
        run("platform_auth_prune")

        assert run("platform_auth_prune").strip() == "0 rows deleted"

    def test_a_dry_run_deletes_nothing(self, user: Any) -> None:
        fill(user)
        with CaptureQueriesContext(connection) as captured:
            text = run("platform_auth_prune", "--dry-run")

        assert "6 rows would be deleted" in text
        assert not [query for query in captured if query["sql"].startswith("DELETE")]

    def test_the_retention_of_events_can_be_set(self, user: Any, configure: Any) -> None:
        fill(user)
        configure(EVENT_RETENTION=timedelta(days=365))

        run("platform_auth_prune")

        assert AuthEvent.objects.count() == 2

    @pytest.mark.django_db(transaction=True)
    def test_rows_are_deleted_in_batches(self, user: Any) -> None:
        """No statement and no transaction touches more rows than a batch."""
        fill(user, count=7)
        with CaptureQueriesContext(connection) as captured:
            run("platform_auth_prune", "--batch-size", "3")

        statements = [query["sql"] for query in captured]
        picks = [sql for sql in statements if sql.startswith("SELECT") and "LIMIT 3" in sql]
        deletes = [sql for sql in statements if sql.startswith("DELETE")]
        assert len(deletes) == 3 * len(TABLES)
        assert len(picks) >= len(deletes)
        begun = [sql for sql in statements if sql.startswith(("BEGIN", "COMMIT"))]
        assert len(begun) >= len(deletes)

    def test_a_session_that_was_extended_meanwhile_stays(self, user: Any) -> None:
        """The DELETE checks the time again, so a session that was extended meanwhile isn't deleted."""
        fill(user)
        session = RefreshSession.objects.order_by("expires_at").first()
        assert session is not None
        picks: list[str] = []

        def extend_when_picked(execute: Any, sql: str, *rest: Any) -> Any:
            result = execute(sql, *rest)
            if not picks and sql.startswith("SELECT") and RefreshSession._meta.db_table in sql:
                picks.append(sql)
                later = timezone.now() + timedelta(hours=1)
                RefreshSession.objects.filter(pk=session.pk).update(expires_at=later)
            return result

        with connection.execute_wrapper(extend_when_picked):
            run("platform_auth_prune")

        assert picks
        assert RefreshSession.objects.filter(pk=session.pk).exists()

    @pytest.mark.race
    @pytest.mark.django_db(transaction=True)
    @pytest.mark.skipif(connection.vendor == "sqlite", reason="one writer at a time")
    def test_two_concurrent_runs_share_the_work(self, user: Any) -> None:
        fill(user, count=40)

        texts = together(*[lambda: run("platform_auth_prune", "--batch-size", "5")] * 3)

        deleted = sum(int(text.splitlines()[-1].split()[0]) for text in texts)
        assert deleted == 240
        assert [model._default_manager.count() for model in TABLES] == [1] * 6

    @pytest.mark.race
    @pytest.mark.django_db(transaction=True)
    @pytest.mark.skipif(connection.vendor == "sqlite", reason="one writer at a time")
    def test_locked_rows_do_not_block_it(self, user: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(platform_auth_prune, "MAX_IDLE", 1)
        fill(user, count=3)
        held = RefreshSession.objects.order_by("expires_at").first()
        with transaction.atomic():
            RefreshSession.objects.select_for_update().get(pk=held.pk)
            # It ends while the row is locked; otherwise this would never end.
            (text,) = together(lambda: run("platform_auth_prune"))

        assert RefreshSession.objects.count() == 2
        assert "17 rows deleted" in text

    def test_an_expired_session_opens_nothing_before_it_is_pruned(self, api: Api, user: Any) -> None:
        api.login(user.email)
        RefreshSession.objects.update(expires_at=timezone.now() - timedelta(seconds=1))

        assert api.refresh().status_code == 401
        assert api.get("/auth/sessions").status_code == 401


@pytest.mark.django_db
class TestRotateKeys:
    """security.md, rows 31 and 122: secrets at rest are encrypted with a new key, and the old one can be removed."""

    def make_secrets(self) -> tuple[TOTPFactor, PendingFactor, OAuthProvider]:
        factor = TOTPFactor(user=make_user())
        factor.secret = "JBSWY3DPEHPK3PXP"
        factor.save()
        session = sessions.open(make_user()).session
        pending = PendingFactor(session_id=session.pk, user=session.user, expires_at=timezone.now())
        pending.secret = "KRSXG5CTMVRXEZLU"
        pending.save()
        provider = OAuthProvider(key="apple", label="Apple", kind="apple")
        provider.client_secret = "client secret"
        provider.private_key = "private key"
        provider.save()
        return factor, pending, provider

    def test_all_secrets_are_encrypted_again_and_the_old_key_can_be_removed(self, settings: Any) -> None:
        factor, pending, provider = self.make_secrets()
        old = settings.SECRET_KEY
        settings.SECRET_KEY, settings.SECRET_KEY_FALLBACKS = "new-" * 16, [old]

        text = run("platform_auth_rotate_keys")
        settings.SECRET_KEY_FALLBACKS = []

        assert "4 secrets re-encrypted, 0 already" in text
        for row in (factor, pending, provider):
            row.refresh_from_db()
        assert factor.secret == "JBSWY3DPEHPK3PXP"
        assert pending.secret == "KRSXG5CTMVRXEZLU"
        assert provider.client_secret == "client secret"
        assert provider.private_key == "private key"

    def test_a_second_run_writes_nothing(self) -> None:
        self.make_secrets()
        with CaptureQueriesContext(connection) as captured:
            text = run("platform_auth_rotate_keys")

        assert "0 secrets re-encrypted, 4 already use the newest key" in text
        assert not [query for query in captured if query["sql"].startswith("UPDATE")]

    def test_a_dry_run_writes_nothing(self, settings: Any) -> None:
        factor, _pending, _provider = self.make_secrets()
        settings.SECRET_KEY, settings.SECRET_KEY_FALLBACKS = "new-" * 16, [settings.SECRET_KEY]
        before = factor.sealed_secret

        assert "4 secrets would be re-encrypted" in run("platform_auth_rotate_keys", "--dry-run")

        factor.refresh_from_db()
        assert factor.sealed_secret == before

    def test_a_key_of_its_own_can_be_introduced(self, settings: Any, configure: Any) -> None:
        factor, _pending, _provider = self.make_secrets()
        own = ["own-" * 12]
        configure(ENCRYPTION_KEYS=[*own, settings.SECRET_KEY])
        run("platform_auth_rotate_keys")
        configure(ENCRYPTION_KEYS=own)

        factor.refresh_from_db()
        assert factor.secret == "JBSWY3DPEHPK3PXP"

    def test_a_secret_that_cannot_be_decrypted_is_named_and_kept(self, settings: Any) -> None:
        factor, _pending, _provider = self.make_secrets()
        settings.SECRET_KEY = "new-" * 16

        with pytest.raises(CommandError, match="4 secrets can't be decrypted"):
            run("platform_auth_rotate_keys")

        settings.SECRET_KEY = "tests-" + "x" * 60
        factor.refresh_from_db()
        assert factor.secret == "JBSWY3DPEHPK3PXP"

    def test_a_secret_that_changes_meanwhile_wins(self, settings: Any) -> None:
        """Safe during traffic: an enrolment between reading and writing is not overwritten."""
        factor, _pending, _provider = self.make_secrets()
        settings.SECRET_KEY, settings.SECRET_KEY_FALLBACKS = "new-" * 16, [settings.SECRET_KEY]
        writes: list[str] = []

        def enrol_before_the_first_write(execute: Any, sql: str, *rest: Any) -> Any:
            if sql.startswith("UPDATE"):
                writes.append(sql)
                if len(writes) == 1:
                    factor.secret = "ORSXG5A2ORSXG5A2"
                    factor.save()
            return execute(sql, *rest)

        with connection.execute_wrapper(enrol_before_the_first_write):
            run("platform_auth_rotate_keys")

        assert TOTPFactor._meta.db_table in writes[0]
        factor.refresh_from_db()
        assert factor.secret == "ORSXG5A2ORSXG5A2"

    def test_more_rows_than_a_batch(self, settings: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(platform_auth_rotate_keys, "BATCH_SIZE", 2)
        for _number in range(5):
            factor = TOTPFactor(user=make_user())
            factor.secret = "JBSWY3DPEHPK3PXP"
            factor.save()
        settings.SECRET_KEY, settings.SECRET_KEY_FALLBACKS = "new-" * 16, [settings.SECRET_KEY]

        assert "5 secrets re-encrypted" in run("platform_auth_rotate_keys")
        assert all(
            sealing.is_current(f"totp:{row.user_id}", row.sealed_secret) for row in TOTPFactor.objects.all()
        )


@pytest.mark.django_db
class TestDoctor:
    def test_it_shows_what_the_installation_will_do(self) -> None:
        with override_settings(**PRODUCTION):
            text = run("platform_auth_doctor")

        for fact in (
            "access token: 900",
            "__Host-refresh_token",
            "HttpOnly; SameSite=Lax; Path=/; Secure",
            "cache (RedisCache)",
            "login per account: 100 in 3600 s",
            "SECRET_KEY (derived)",
            "https://site.example",
            "/auth/login",
            "REMOTE_ADDR",
            "no problems found",
        ):
            assert fact in text

    def test_it_can_print_json(self) -> None:
        OAuthProvider.objects.create(key="github", label="GitHub", kind="github", enabled=True)
        with override_settings(**PRODUCTION):
            facts = json.loads(run("platform_auth_doctor", "--json"))

        assert facts["lifetimes_in_seconds"]["refresh_token"] == 604800
        assert facts["providers"] == {"github": "GitHub, enabled"}
        assert facts["checks"] == []

    def test_it_fails_on_an_error_and_names_the_fix(self) -> None:
        with override_settings(**{**PRODUCTION, "PLATFORM_AUTH": {"PUBLIC_URL": None}}):
            out = StringIO()
            with pytest.raises(CommandError, match="1 error"):
                call_command("platform_auth_doctor", stdout=out)

        assert "platform_auth.E004" in out.getvalue()
        assert 'Set PLATFORM_AUTH["PUBLIC_URL"]' in out.getvalue()

    @pytest.mark.parametrize(
        "configured",
        [
            {"ACCESS_TOKEN_TTL": 900},
            {"SIGNING_KEYS": ["short"]},
            {"LIMITS": {"login": {"address": "often"}}},
            {"TRUSTED_PROXY_COUNT": "1"},
            {"COOKIE_SAMESITE": 5},
            {"TFA_REQUIRED_GROUPS": None},
        ],
    )
    def test_it_works_with_wrong_settings(self, configured: Any) -> None:
        with (
            override_settings(**{**PRODUCTION, "PLATFORM_AUTH": {**GOOD, **configured}}),
            pytest.raises(CommandError, match="error"),
        ):
            run("platform_auth_doctor")

    def test_it_reports_a_proxy_that_another_process_saw(self) -> None:
        events.record(AuthEvent.Kind.PROXY_IGNORED, who=Caller(None, ""))
        with override_settings(**PRODUCTION):
            facts = json.loads(run("platform_auth_doctor", "--json"))

        assert facts["callers"]["ignored_a_forwarding_header_from_a_private_address"] is True
        assert [check["id"] for check in facts["checks"]] == ["platform_auth.W042"]

    def test_it_prints_no_secret(self, user: Any) -> None:
        provider = OAuthProvider(key="github", label="GitHub", kind="github")
        provider.client_secret = "the-client-secret"
        provider.save()
        reset_tokens.issue(user)
        own = "own-encryption-key-of-this-test-123456"
        with override_settings(**{**PRODUCTION, "PLATFORM_AUTH": {**GOOD, "ENCRYPTION_KEYS": [own]}}):
            out = StringIO()
            with pytest.raises(CommandError):
                call_command("platform_auth_doctor", "--json", stdout=out)
            text = out.getvalue()

        for secret in ("the-client-secret", provider.sealed_secret, own, "x" * 20):
            assert secret not in text
