"""Retries after the database gave up."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from django.db import DatabaseError, OperationalError, connection, transaction

from platform_auth import db, errors
from platform_auth.models import RateCounter
from tests.racing import together


class Failing:
    """A function that fails some times as a driver would, then returns."""

    def __init__(self, times: int, cause: Exception) -> None:
        self.times, self.cause, self.calls = times, cause, 0

    def __call__(self) -> str:
        self.calls += 1
        if self.calls <= self.times:
            raise OperationalError(*self.cause.args) from self.cause
        return "done"


class Driver(Exception):
    """An exception of a database driver."""

    def __init__(self, *args: Any, sqlstate: str | None = None) -> None:
        super().__init__(*args)
        self.sqlstate = sqlstate


GAVE_UP = {
    "serialization failure": Driver("could not serialize", sqlstate="40001"),
    "deadlock": Driver("deadlock detected", sqlstate="40P01"),
    "MariaDB deadlock": Driver(1213, "Deadlock found"),
    "MariaDB lock wait": Driver(1205, "Lock wait timeout exceeded"),
    "SQLite": Driver("database is locked"),
}


@pytest.mark.django_db(transaction=True)
class TestRetried:
    @pytest.mark.parametrize("cause", list(GAVE_UP.values()), ids=list(GAVE_UP))
    def test_it_retries_three_times(self, cause: Exception) -> None:
        function = Failing(3, cause)

        assert db.retried(function)() == "done"
        assert function.calls == 4

    @pytest.mark.parametrize("cause", list(GAVE_UP.values()), ids=list(GAVE_UP))
    def test_after_that_it_is_503(self, cause: Exception) -> None:
        function = Failing(9, cause)

        with pytest.raises(errors.ServiceUnavailable):
            db.retried(function)()
        assert function.calls == 4

    def test_other_errors_are_not_retried(self) -> None:
        function = Failing(1, Driver("connection refused", sqlstate="08006"))

        with pytest.raises(DatabaseError):
            db.retried(function)()
        assert function.calls == 1

    def test_nothing_is_retried_inside_a_transaction_of_the_caller(self) -> None:
        function = Failing(1, GAVE_UP["deadlock"])

        with pytest.raises(OperationalError), transaction.atomic():
            db.retried(function)()
        assert function.calls == 1


@pytest.mark.django_db(transaction=True)
class TestInTransaction:
    def write(self, error: Exception | None) -> None:
        @db.in_transaction
        def function() -> None:
            RateCounter.objects.create(key="a", resets_at="2030-01-01T00:00:00Z")
            if error is not None:
                raise error

        function()

    def test_a_success_is_committed(self) -> None:
        self.write(None)

        assert RateCounter.objects.exists()

    @pytest.mark.parametrize("error", [errors.InvalidCredentials(), ValueError(), OperationalError("gone")])
    def test_an_exception_rolls_back(self, error: Exception) -> None:
        with pytest.raises(type(error)):
            self.write(error)

        assert not RateCounter.objects.exists()

    @pytest.mark.parametrize("error", [errors.InvalidOTP(), errors.RequestsExceeded(1)])
    def test_an_error_that_keeps_changes_is_committed(self, error: Exception) -> None:
        with pytest.raises(type(error)):
            self.write(error)

        assert RateCounter.objects.exists()

    def test_the_whole_transaction_is_retried_if_the_database_gave_up(self) -> None:
        fails = Failing(3, GAVE_UP["deadlock"])

        @db.in_transaction
        def function() -> str:
            RateCounter.objects.create(key=f"a{fails.calls}", resets_at="2030-01-01T00:00:00Z")
            return fails()

        assert function() == "done"
        assert [row.key for row in RateCounter.objects.all()] == ["a3"]


@pytest.mark.race
@pytest.mark.django_db(transaction=True)
class TestRealDeadlock:
    def test_both_succeed(self) -> None:
        """Two transactions lock two rows in opposite order; the database ends one of them, which is retried."""
        if connection.vendor == "sqlite":
            pytest.skip("SQLite has one writer, so no deadlock")
        for key in ("a", "b"):
            RateCounter.objects.create(key=key, count=0, resets_at="2030-01-01T00:00:00Z")
        met = threading.Barrier(2)
        tries: list[str] = []

        def take(first: str, second: str) -> None:
            @db.retried
            def both() -> None:
                tries.append(first)
                with transaction.atomic():
                    RateCounter.objects.filter(key=first).update(count=1)
                    if tries.count(first) == 1:
                        met.wait(10)
                    RateCounter.objects.filter(key=second).update(count=2)

            both()

        together(lambda: take("a", "b"), lambda: take("b", "a"))

        assert len(tries) == 3
