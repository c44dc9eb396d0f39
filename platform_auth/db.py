"""What the database decides: rows locked by a conditional UPDATE, work done in one transaction or not at all.

Whatever ends sessions (a reset, a change, a new factor, a deactivation) and whatever opens one locks the user's row
first, so of two at the same moment the second sees the first. An UPDATE and not SELECT ... FOR UPDATE: its row count
decides on every database, SQLite with its one writer included.

Where the database gives up (a serialization failure, a deadlock), the whole transaction is tried again: it was rolled
back, so nothing is done twice.

Also the managers and the model base that say how our rows are read and written: from the primary; once and never again.
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
"""The first and three more."""

_SQLSTATES = {"40001", "40P01"}
_MYSQL_CODES = {1205, 1213}

P = ParamSpec("P")
R = TypeVar("R")


class PrimaryManager(models.Manager[Any]):
    """Asks the database that is written to: a lagging replica must not bring a spent token back to life."""

    def get_queryset(self) -> models.QuerySet[Any]:
        return super().get_queryset().using(self._db or router.db_for_write(self.model))


class AppendOnlyQuerySet(models.QuerySet[Any]):
    """Rows are added and, past their time, pruned. Nothing else, but that a user who is deleted is forgotten."""

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
        """Delete these rows; return how many. For platform_auth_prune alone."""
        return super().delete()[0]


class AppendOnlyModel(models.Model):
    """A row that is written once. Its manager is made of AppendOnlyQuerySet, and is the base manager too."""

    class Meta:
        abstract = True

    def save(self, *args: Any, **kwargs: Any) -> None:
        if not self._state.adding:
            raise TypeError("These rows are never changed.")
        super().save(*args, **{**kwargs, "force_insert": True})

    def delete(self, *args: Any, **kwargs: Any) -> NoReturn:
        raise TypeError("These rows are never deleted, except by platform_auth_prune.")


def alias() -> str:
    """Return the database of the users, which is that of our tables too (check E015)."""
    return router.db_for_write(get_user_model())


def retried(function: Callable[P, R]) -> Callable[P, R]:
    """Call a function again, three times, where the database gave up; then raise ServiceUnavailable.

    Inside a transaction of the caller nothing is tried again, since the whole of it is lost.
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
    """Call a function in a transaction of its own, again where the database gave up: see `retried`.

    What it raises takes back what it wrote, except a refusal with `keeps_changes`: the count of a wrong one-time
    password outlives the answer that reports it.
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
