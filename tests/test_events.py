"""Events: rows that are only ever added, and log records (security.md, row 121)."""

from __future__ import annotations

import json
import logging
from typing import Any

import pytest
from django.contrib.auth import get_user_model
from django.db import IntegrityError, connection, transaction
from django.test.utils import CaptureQueriesContext

from platform_auth import events
from platform_auth.caller import Caller
from platform_auth.models import AuthEvent
from tests import life
from tests.conftest import PASSWORD, Api
from tests.identity_provider import Provider

Kind = AuthEvent.Kind

pytestmark = pytest.mark.django_db


def statements(captured: CaptureQueriesContext) -> list[str]:
    return [query["sql"] for query in captured if "platform_auth_authevent" in query["sql"]]


class TestEveryKind:
    def test_everything_that_happens_leaves_an_event(self, provider: Provider, clock: Any) -> None:
        """security.md, row 121: each kind, with user, time, address and reason."""
        one = life.Life(provider, clock)
        one.live()

        seen = life.kinds()
        # A proxy is recorded once per process, which has its own test in test_caller.
        assert set(Kind.values) - seen <= {Kind.PROXY_IGNORED}
        for event in AuthEvent.objects.exclude(kind__in=(Kind.PROXY_IGNORED, Kind.ADMIN_CHANGED)):
            assert event.ip_address == "127.0.0.1" or event.kind == Kind.FACTOR_DISABLED, event.kind
        about_a_session = (Kind.LOGGED_IN, Kind.LOGGED_OUT, Kind.REFRESH_REUSED, Kind.REFRESH_REPLAYED)
        for event in AuthEvent.objects.filter(kind__in=about_a_session):
            assert len(event.session_digest) == 16
            assert event.user_id is not None
        of_providers = (Kind.USER_CREATED, Kind.IDENTITY_LINKED, Kind.IDENTITY_UNLINKED)
        for event in AuthEvent.objects.filter(kind__in=of_providers):
            assert event.provider == "demo"
        explained = (Kind.LOGIN_FAILED, Kind.FACTOR_FAILED, Kind.ADMIN_CHANGED)
        assert not AuthEvent.objects.filter(kind__in=explained, reason="").exists()


class TestCost:
    def test_a_login_adds_one_statement(self, api: Api, user: Any) -> None:
        api.login(user.email)
        with CaptureQueriesContext(connection) as captured:
            api.login(user.email)

        assert len(statements(captured)) == 1

    def test_refreshes_and_requests_add_none(self, signed_in: Api) -> None:
        with CaptureQueriesContext(connection) as captured:
            signed_in.refreshed()
            signed_in.get("/api/whoami")
            signed_in.get("/auth/sessions")

        assert statements(captured) == []


class TestAppendOnly:
    """security.md, row 121: rows are added and pruned, never changed."""

    @pytest.fixture
    def event(self, user: Any) -> AuthEvent:
        events.record(Kind.LOGGED_IN, user=user, who=Caller("127.0.0.1", "agent"), reason="pwd")
        return AuthEvent.objects.get()

    def test_a_row_cannot_be_saved_again(self, event: AuthEvent) -> None:
        event.reason = "another"

        with pytest.raises(TypeError, match="never changed"):
            event.save()
        with pytest.raises(TypeError, match="never deleted"):
            event.delete()

    @pytest.mark.parametrize(
        "change",
        [
            lambda rows: rows.update(reason="another"),
            lambda rows: rows.delete(),
            lambda rows: rows.update_or_create(kind=Kind.LOGGED_IN, defaults={"reason": "another"}),
            lambda rows: rows.bulk_update([rows.get()], ["reason"]),
            lambda rows: rows.bulk_create(
                [AuthEvent(pk=rows.get().pk, kind=Kind.LOGGED_OUT)],
                update_conflicts=True,
                update_fields=["kind"],
                unique_fields=["id"],
            ),
            lambda rows: AuthEvent._base_manager.update(reason="another"),
            lambda rows: AuthEvent._base_manager.all().delete(),
        ],
        ids=[
            "update",
            "delete",
            "update_or_create",
            "bulk_update",
            "bulk_create",
            "base update",
            "base delete",
        ],
    )
    def test_rows_cannot_be_changed(self, event: AuthEvent, change: Any) -> None:
        with pytest.raises(TypeError, match="never"), transaction.atomic():
            change(AuthEvent.objects.all())

        assert AuthEvent.objects.get().reason == "pwd"

    def test_a_row_cannot_be_overwritten(self, event: AuthEvent) -> None:
        with pytest.raises(IntegrityError), transaction.atomic():
            AuthEvent(pk=event.pk, kind=Kind.LOGGED_OUT).save()

        assert AuthEvent.objects.get().kind == Kind.LOGGED_IN

    def test_they_stay_if_the_user_is_deleted(self, event: AuthEvent, user: Any) -> None:
        get_user_model().objects.filter(pk=user.pk).delete()

        kept = AuthEvent.objects.get(kind=Kind.LOGGED_IN)
        assert kept.user is None
        assert kept.ip_address == "127.0.0.1"


class TestRecords:
    """The same facts as log records of the logger `platform_auth`."""

    def test_a_record_has_the_facts(self, user: Any, caplog: pytest.LogCaptureFixture) -> None:
        with caplog.at_level(logging.INFO, logger="platform_auth"):
            events.record(
                Kind.LOGIN_FAILED,
                user=user,
                who=Caller("192.0.2.1", "agent"),
                provider="github",
                reason="credentials",
                session_id="some-session",
            )

        (record,) = caplog.records
        assert record.levelno == logging.WARNING
        facts = record.event  # type: ignore[attr-defined]
        assert json.loads(json.dumps(facts)) == {
            "kind": "login_failed",
            "user_id": str(user.pk),
            "address": "192.0.2.1",
            "user_agent": "agent",
            "provider": "github",
            "reason": "credentials",
            "session": events.session_digest("some-session"),
            "at": AuthEvent.objects.get().created_at.isoformat(),
        }
        assert facts["at"].endswith("+00:00")

    @pytest.mark.parametrize("character", ["\n", "\r", "\x00", "\x1b", "\x7f", "\x85", "\u2028", "\ud800"])
    def test_nobody_can_forge_log_lines(
        self, api: Api, user: Any, caplog: pytest.LogCaptureFixture, character: str
    ) -> None:
        """security.md, row 121: control characters are neutralised, in rows and records."""
        with caplog.at_level(logging.INFO, logger="platform_auth"):
            events.record(
                Kind.LOGIN_FAILED,
                who=Caller("192.0.2.1", f"agent{character}INFO logged_in"),
                provider=f"a{character}b",
                reason=f"a{character}b",
            )

        event = AuthEvent.objects.get()
        assert event.user_agent == "agent\ufffdINFO logged_in"
        assert event.provider == event.reason == "a\ufffdb"
        assert character not in caplog.records[-1].getMessage()

    def test_long_texts_are_cut(self) -> None:
        events.record(Kind.LOGIN_FAILED, who=Caller(None, "a" * 5000), provider="b" * 500, reason="c" * 5000)

        event = AuthEvent.objects.get()
        assert (len(event.user_agent), len(event.provider), len(event.reason)) == (512, 64, 200)

    def test_a_session_is_not_named(self, api: Api, user: Any) -> None:
        """An event can't be traced to a live session."""
        from platform_auth.models import RefreshSession

        api.login(user.email)
        session = RefreshSession.objects.get()

        event = AuthEvent.objects.get()
        assert event.session_digest == events.session_digest(session.pk)
        assert str(session.pk) not in repr(vars(event))

    def test_a_failed_login_names_the_account_not_what_was_typed(self, api: Api, user: Any) -> None:
        api.post("/auth/login", {"email": user.email, "password": "wrong"})
        api.post("/auth/login", {"email": "nobody@example.com", "password": PASSWORD})

        known, unknown = AuthEvent.objects.order_by("pk")
        assert known.user == user
        assert unknown.user is None
        assert "nobody" not in repr(vars(unknown))
