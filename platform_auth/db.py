"""Database helpers: lock a user's row, run a function in one transaction, retry after a deadlock.

Everything that ends sessions (a reset, a password change, a new factor, a deactivation) and everything that opens one
locks the user's row first, so each of them sees what the one before it committed. The lock is a conditional
UPDATE, not SELECT ... FOR UPDATE, because its row count decides the race on every database, including SQLite.

If the database gives up (a serialization failure, a deadlock), the whole transaction is tried again. It was rolled
back, so nothing is done twice.

The managers and the model base say how our tables are accessed: always on the primary database, and for events
append-only.
"""

from __future__ import annotations

import functools
import logging
import random
import time
from collections.abc import Callable, Iterable
from typing import Any, NoReturn, ParamSpec, TypeVar

from django.contrib.auth import get_user_model
from django.db import DatabaseError, connections, models, router, transaction
from django.db.models import F
from django.views.decorators.debug import sensitive_variables

from . import errors

logger = logging.getLogger("platform_auth")

ATTEMPTS = 4
"""One try and three retries."""

_SQLSTATES = {"40001", "40P01"}
_MYSQL_CODES = {1205, 1213}

P = ParamSpec("P")
R = TypeVar("R")


class PrimaryManager(models.Manager[Any]):
    """Reads from the primary database: a lagging replica must not bring a spent token back to life."""

    def get_queryset(self) -> models.QuerySet[Any]:
        return super().get_queryset().using(self._db or router.db_for_write(self.model))


class AppendOnlyQuerySet(models.QuerySet[Any]):
    """Rows are added, and pruned when they are old enough. The only change allowed is to forget a deleted user."""

    def update(self, **kwargs: Any) -> int:
        if kwargs != {"user": None}:
            raise TypeError("These rows are never changed.")
        return super().update(**kwargs)

    def bulk_create(self, *args: Any, update_conflicts: bool = False, **kwargs: Any) -> list[Any]:
        if update_conflicts:
            raise TypeError("These rows are never changed.")
        return super().bulk_create(*args, **kwargs)

    def delete(self) -> NoReturn:
        raise TypeError("These rows are never deleted, except by platform_auth_prune.")

    def prune(self) -> int:
        """Delete these rows and return their number. Only for platform_auth_prune."""
        return super().delete()[0]


class AppendOnlyModel(models.Model):
    """A model whose rows are written once. AppendOnlyQuerySet is in its default and its base manager."""

    class Meta:
        abstract = True

    def save(self, *args: Any, **kwargs: Any) -> None:
        if not self._state.adding:
            raise TypeError("These rows are never changed.")
        super().save(*args, **{**kwargs, "force_insert": True})

    def delete(self, *args: Any, **kwargs: Any) -> NoReturn:
        raise TypeError("These rows are never deleted, except by platform_auth_prune.")


def alias() -> str:
    """Return the alias of the database with the users, which also has our tables (check E015)."""
    return router.db_for_write(get_user_model())


def retried(function: Callable[P, R]) -> Callable[P, R]:
    """Call the function up to three more times if the database gave up, then raise ServiceUnavailable.

    Inside a transaction of the caller it isn't called again, because the whole transaction is lost.
    """

    @functools.wraps(function)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
        attempt = 1
        while True:
            try:
                return function(*args, **kwargs)
            except DatabaseError as error:
                is_nested = any(each.in_atomic_block for each in connections.all(initialized_only=True))
                if not gave_up(error) or is_nested:
                    raise
                if attempt == ATTEMPTS:
                    logger.exception("the database gave up %s times on %r", ATTEMPTS, function)
                    raise errors.ServiceUnavailable from error
            time.sleep(random.uniform(0.005, 0.02) * 2**attempt)  # noqa: S311 - spreads callers, hides nothing
            attempt += 1

    return wrapper


def in_transaction(function: Callable[P, R]) -> Callable[P, R]:
    """Run the function in a transaction of its own, and retry it if the database gave up: see `retried`.

    An exception rolls everything back, unless it is an error with `keeps_changes`: the count of a wrong one-time
    password outlives the response that reports it.
    """

    @retried
    @functools.wraps(function)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
        with transaction.atomic(using=alias()):
            try:
                return function(*args, **kwargs)
            except errors.PlatformAuthError as error:
                if not error.keeps_changes:
                    raise
                refusal = error
        raise refusal

    return wrapper


def gave_up(error: DatabaseError) -> bool:
    """Return whether the database asks for a retry: 40001, 40P01, 1205, 1213, or a locked SQLite file."""
    cause = error.__cause__ or error
    state = getattr(cause, "sqlstate", None) or getattr(cause, "pgcode", None)
    code = cause.args[0] if cause.args else None
    return state in _SQLSTATES or code in _MYSQL_CODES or "database is locked" in str(cause)


@sensitive_variables()
def lock(user: Any, *, unchanged: Iterable[str] = (), active: bool = False, **changes: Any) -> bool:
    """Lock a user's row until the transaction ends; return False if the row is gone or no longer what was verified.

    `unchanged`: fields that must still have their value on `user`. `active`: the user must be active, if the model
    has that field. `changes` are written; without any, the row is written as it is.
    """
    model = user.__class__
    condition: dict[str, Any] = {"pk": user.pk, **{name: getattr(user, name) for name in unchanged}}
    if active and any(field.name == "is_active" for field in model._meta.get_fields()):
        condition["is_active"] = True
    rows = model._base_manager.using(router.db_for_write(model)).filter(**condition)
    return bool(rows.update(**(changes or {"password": F("password")})))
