"""Try again what the database gave up on (serialization failures, deadlocks); undo what it left half done.

The statements retried are safe to repeat: the database rolled them back, and a conditional UPDATE or DELETE decides
once more. Inside a transaction of the caller nothing is tried again, since the whole of it is lost.
"""

from __future__ import annotations

import functools
import logging
import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import ParamSpec, TypeVar

from django.db import DatabaseError, InterfaceError, OperationalError, connections

from . import errors

logger = logging.getLogger("platform_auth")

ATTEMPTS = 4
"""The first and three more."""

_SQLSTATES = {"40001", "40P01"}
_MYSQL_CODES = {1205, 1213}

P = ParamSpec("P")
R = TypeVar("R")


def retried(function: Callable[P, R]) -> Callable[P, R]:
    """Call a function again, three times, where the database gave up; then raise ServiceUnavailable."""

    @functools.wraps(function)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
        for attempt in range(ATTEMPTS):
            try:
                return function(*args, **kwargs)
            except DatabaseError as error:
                if not gave_up(error):
                    raise
                if any(each.in_atomic_block for each in connections.all(initialized_only=True)):
                    raise
            time.sleep(random.uniform(0.005, 0.02) * 2**attempt)  # noqa: S311 - spreads callers, hides nothing
        raise errors.ServiceUnavailable

    return wrapper


@contextmanager
def compensated(undo: Callable[[], None]) -> Iterator[None]:
    """Undo what was done before where the database fails in here, so that the 503 has consumed nothing."""
    try:
        yield
    except (errors.ServiceUnavailable, OperationalError, InterfaceError):
        try:
            undo()
        except (errors.ServiceUnavailable, DatabaseError, InterfaceError):
            logger.warning("the database could not undo what it left half done", exc_info=True)
        raise


def gave_up(error: DatabaseError) -> bool:
    """Return whether the database asks to try again: 40001, 40P01, 1205, 1213, or a locked SQLite."""
    cause = error.__cause__ or error
    state = getattr(cause, "sqlstate", None) or getattr(cause, "pgcode", None)
    code = cause.args[0] if cause.args else None
    return state in _SQLSTATES or code in _MYSQL_CODES or "database is locked" in str(cause)
