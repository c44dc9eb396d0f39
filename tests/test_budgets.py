"""The number of SQL statements and rows of a request."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

import platform_auth
from platform_auth import errors, limits, sessions
from platform_auth.models import AuthEvent, RateCounter, RefreshSession
from tests.conftest import PASSWORD, Api, enrol, make_user

pytestmark = pytest.mark.django_db

TAKEN = ["SELECT", "DELETE"] if connection.vendor == "mysql" else ["DELETE"]
"""Deletes a session and returns its row, if the database can do that."""
_TRANSACTION = ("BEGIN", "COMMIT", "SAVEPOINT", "RELEASE", "ROLLBACK", "SET ", "START TRANSACTION")


@contextmanager
def statements() -> Iterator[Callable[[], list[str]]]:
    """Capture SQL statements, except those that begin and end transactions and those of limits in the database."""
    with CaptureQueriesContext(connection) as captured:
        yield lambda: [
            query["sql"]
            for query in captured.captured_queries
            if not query["sql"].upper().startswith(_TRANSACTION)
            and RateCounter._meta.db_table not in query["sql"]
            and "cache_table" not in query["sql"]
        ]


class TestStatements:
    def test_a_refresh_runs_two(self, signed_in: Api) -> None:
        with statements() as run:
            assert signed_in.refresh().status_code == 200

        assert [sql.split()[0] for sql in run()] == ["SELECT", "UPDATE"], run()

    def test_limits_in_the_cache_run_none(self, signed_in: Api) -> None:
        signed_in.refresh()

        assert RateCounter.objects.exists() is not limits.cache_is_atomic()

    def test_a_refresh_by_cookie_runs_two(self, user: Any) -> None:
        api = Api()
        api.post("/auth/login", {"email": user.email, "password": PASSWORD, "mode": "session"})
        with statements() as run:
            assert api.post("/auth/refresh").status_code == 200

        assert len(run()) == 2

    def test_a_replay_runs_one_and_its_event(self, signed_in: Api) -> None:
        spent = signed_in.refresh_token
        signed_in.refreshed()
        with statements() as run:
            assert signed_in.refresh(spent).status_code == 200

        assert [sql.split()[0] for sql in run()] == ["SELECT", "INSERT"]

    def test_an_authenticated_request_runs_one(self, signed_in: Api) -> None:
        with statements() as run:
            assert signed_in.get("/api/whoami").status_code == 200

        assert [sql.split()[0] for sql in run()] == ["SELECT"]

    def test_an_authenticated_request_by_cookie_runs_one(self, user: Any) -> None:
        api = Api()
        api.post("/auth/login", {"email": user.email, "password": PASSWORD, "mode": "session"})
        with statements() as run:
            assert api.get("/api/whoami").status_code == 200

        assert len(run()) == 1

    def test_a_stateless_request_runs_none(self, signed_in: Api) -> None:
        with statements() as run:
            assert signed_in.get("/api/stateless").status_code == 200

        assert run() == []

    def test_an_anonymous_request_runs_one(self, api: Api, db: None) -> None:
        """The public role is looked up each time, so a change takes effect at once."""
        with statements() as run:
            assert api.get("/api/notes").status_code == 401

        assert [sql.split()[0] for sql in run()] == ["SELECT"]

    def test_a_logout_runs_two_and_three_on_mariadb(self, signed_in: Api) -> None:
        with statements() as run:
            assert (
                signed_in.post("/auth/logout", {"refresh_token": signed_in.refresh_token}).status_code == 204
            )

        assert [sql.split()[0] for sql in run()] == [*TAKEN, "INSERT"], run()

    def test_a_logout_with_an_unknown_token_runs_none(self, api: Api, db: None) -> None:
        with statements() as run:
            api.post("/auth/logout", {"refresh_token": "x"})

        assert run() == []

    def test_a_login_runs_at_most_six_with_its_event(self, api: Api, user: Any) -> None:
        with statements() as run:
            api.login(user.email)

        kinds = [sql.split()[0] for sql in run()]
        assert len(kinds) <= 6, run()
        assert kinds.count("INSERT") == 2
        assert AuthEvent.objects.filter(kind="logged_in").count() == 1

    def test_a_login_with_a_second_factor_runs_few_more(self, clock: Any, api: Api, user: Any) -> None:
        api.login(user.email)
        app, _codes = enrol(api)
        clock.shift(60)
        code = app.code()
        with statements() as run:
            Api().login(user.email, otp=code)

        # The code is spent while its row is locked: a SELECT and an UPDATE. Nothing asks whether there is a factor.
        assert len(run()) <= 9, run()

    def test_a_failed_login_runs_as_many_for_every_reason(self, api: Api, user: Any) -> None:
        inactive = make_user(is_active=False)
        unusable = make_user(password=None)
        costs = []
        for email, password in (
            (user.email, "wrong"),
            ("nobody@example.com", "wrong"),
            (inactive.email, PASSWORD),
            (unusable.email, "wrong"),
        ):
            with statements() as run:
                assert api.post("/auth/login", {"email": email, "password": password}).status_code == 401
            costs.append([sql.split()[0] for sql in run()])

        assert all(cost == costs[0] for cost in costs), costs

    def test_a_request_without_a_valid_access_token_runs_none(self, api: Api, db: None) -> None:
        for header in ({}, {"Authorization": "Bearer x"}):
            with statements() as run:
                assert api.get("/auth/sessions", headers=header).status_code == 401
            assert run() == []


class TestFiles:
    """How many of our files a reader who follows a request must visit."""

    def visited(self, act: Callable[[], Any]) -> set[str]:
        folder = str(Path(platform_auth.__file__).parent)
        files = set()

        def note(frame: Any, event: str, argument: Any) -> None:
            if event == "call" and frame.f_code.co_filename.startswith(folder):
                files.add(frame.f_code.co_filename.removeprefix(folder))

        sys.setprofile(note)
        try:
            act()
        finally:
            sys.setprofile(None)
        return files

    def test_a_login_visits_at_most_14(self, api: Api, user: Any) -> None:
        api.login(user.email)

        assert len(self.visited(lambda: api.login(user.email))) <= 14

    def test_a_refresh_visits_at_most_11(self, signed_in: Api) -> None:
        signed_in.refreshed()

        assert len(self.visited(signed_in.refreshed)) <= 11


class TestRows:
    @pytest.mark.parametrize("count", [100, pytest.param(10_000, marks=pytest.mark.slow)])
    def test_refreshes_add_none_and_never_get_more_expensive(
        self, count: int, user: Any, configure: Any
    ) -> None:
        """security.md, row 50."""
        configure(LIMITS={"refresh": {"session": "1000000/m"}, "login": {"address": "1000000/m"}})
        grant = sessions.open(user)
        before = (RefreshSession.objects.count(), AuthEvent.objects.count())
        for _number in range(count):
            grant = sessions.rotate(grant.refresh_token)
        assert (RefreshSession.objects.count(), AuthEvent.objects.count()) == before

        with statements() as run:
            sessions.rotate(grant.refresh_token)
        assert len(run()) == 2
        with statements() as run:
            sessions.rotate(grant.refresh_token)
        assert len(run()) == 2
        RefreshSession.objects.update(rotated_at="2020-01-01T00:00:00Z")
        with statements() as run, pytest.raises(errors.InvalidCredentials):
            sessions.rotate(grant.refresh_token)
        assert [sql.split()[0] for sql in run()] == ["SELECT", *TAKEN, "INSERT"]
        assert not RefreshSession.objects.exists()

    def test_the_session_and_its_user_are_read_in_one_statement(self, signed_in: Api) -> None:
        with statements() as run:
            signed_in.get("/api/whoami")

        (sql,) = run()
        assert RefreshSession._meta.db_table in sql
        assert "JOIN" in sql
