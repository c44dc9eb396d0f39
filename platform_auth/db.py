"""What the database decides: rows locked by a conditional UPDATE, and what it gave up on tried again.

Whatever ends sessions (a reset, a change, a new factor, a deactivation) and whatever opens one locks the user's row
first, so of two at the same moment the second sees the first. An UPDATE and not SELECT ... FOR UPDATE: its row count
decides on every database, SQLite with its one writer included.

The statements retried are safe to repeat: the database rolled them back, and a conditional UPDATE or DELETE decides
again. Inside a transaction of the caller nothing is tried again, since the whole of it is lost.
"""

from __future__ import annotations

import functools
import logging
import random
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, ParamSpec, TypeVar

from django.db import DatabaseError, InterfaceError, OperationalError, connections, router
from django.db.models import F
from django.views.decorators.debug import sensitive_variables

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


@sensitive_variables()
def lock(user: Any, *, unchanged: Iterable[str] = (), active: bool = False, **changes: Any) -> bool:
    """Lock a user's row; False, and nothing is locked, where it is gone or not what was verified.

    `unchanged`: fields that must still have the value on `user`. `active`: the user must be active, in a model
    that knows it. `changes` are written; without any the row is written as it is.
    """
    model = user.__class__
    condition: dict[str, Any] = {"pk": user.pk, **{name: getattr(user, name) for name in unchanged}}
    if active and any(field.name == "is_active" for field in model._meta.get_fields()):
        condition["is_active"] = True
    rows = model._base_manager.using(router.db_for_write(model)).filter(**condition)
    return bool(rows.update(**(changes or {"password": F("password")})))
