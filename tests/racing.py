"""Many threads at the same time, each with its own connections."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any, TypeVar

from django.db import OperationalError, connection, connections, models

T = TypeVar("T")


def disconnecting(act: Callable[[], T]) -> T:
    """Run a function in a thread and close the connections that the thread opened."""
    try:
        return act()
    finally:
        connections.close_all()


def connect() -> None:
    """Open this thread's connections, waiting while PostgreSQL is still closing those of an earlier race."""
    for alias in connections:
        for _attempt in range(600):
            with suppress(OperationalError):
                connections[alias].ensure_connection()
                break
            time.sleep(0.05)
        else:
            connections[alias].ensure_connection()


def together(*acts: Callable[[], T]) -> list[T]:
    """Run functions at the same time, one thread each; return their values in order. Raises their first exception."""
    barrier = threading.Barrier(len(acts))
    values: list[Any] = [None] * len(acts)
    raised: list[BaseException] = []

    def run(index: int, act: Callable[[], T]) -> None:
        try:
            # Before the barrier, because connecting isn't what is raced.
            connect()
            barrier.wait(60)
            values[index] = act()
        except BaseException as error:
            raised.append(error)
            barrier.abort()

    runs = [partial(run, *pair) for pair in enumerate(acts)]
    threads = [threading.Thread(target=disconnecting, args=(each,)) for each in runs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if raised:
        raise raised[0]
    return values


def statuses(responses: Sequence[Any]) -> list[int]:
    return sorted(response.status_code for response in responses)


@contextmanager
def meanwhile(act: Callable[[], Any], *, after: str, of: type[models.Model]) -> Iterator[None]:
    """Call a function once, right after the first statement of a kind ("UPDATE") on a model's table.

    This reproduces the race with a second caller every time.
    """
    waiting = [act]

    def execute_and_act(execute: Any, sql: str, params: Any, many: bool, context: Any) -> Any:
        result = execute(sql, params, many, context)
        if waiting and sql.startswith(after) and of._meta.db_table in sql:
            waiting.pop()()
        return result

    with connection.execute_wrapper(execute_and_act):
        yield
    assert not waiting, "there was no such statement"


@contextmanager
def failing(*, at: str, of: type[models.Model], times: int = 1) -> Iterator[None]:
    """Make the database fail, instead of running a kind of statement ("INSERT") on a model's table."""
    failures = [OperationalError("server closed the connection unexpectedly") for _ in range(times)]

    def execute_or_fail(execute: Any, sql: str, params: Any, many: bool, context: Any) -> Any:
        if failures and sql.startswith(at) and of._meta.db_table in sql:
            raise failures.pop()
        return execute(sql, params, many, context)

    with connection.execute_wrapper(execute_or_fail):
        yield
    assert not failures, "there was no such statement"


@contextmanager
def refused(*, at: str, of: type[models.Model]) -> Iterator[None]:
    """Make the database itself refuse a kind of statement on a model's table, which aborts a PostgreSQL transaction."""
    refusals = []

    def execute_or_refuse(execute: Any, sql: str, params: Any, many: bool, context: Any) -> Any:
        if not sql.startswith(at) or of._meta.db_table not in sql:
            return execute(sql, params, many, context)
        refusals.append(sql)
        return execute("SELECT * FROM no_such_table", None, False, context)

    with connection.execute_wrapper(execute_or_refuse):
        yield
    assert refusals, "there was no such statement"
