"""Delete expired sessions, links, unconfirmed factors, used states and counters, and old events."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import datetime
from typing import Any, NamedTuple

from django.core.management.base import BaseCommand, CommandParser
from django.db import connections, router, transaction
from django.template.defaultfilters import pluralize
from django.utils import timezone

from platform_auth import db, limits
from platform_auth.conf import conf
from platform_auth.models import (
    AuthEvent,
    FailedCode,
    PasswordResetToken,
    PendingFactor,
    RateCounter,
    RefreshSession,
    UsedState,
)

BATCH_SIZE = 1000
MAX_IDLE = 50
"""How often to wait for rows that another process has locked, a tenth of a second each."""
REPORTS_EVERY = 5.0
"""Seconds between two progress reports."""


class Table(NamedTuple):
    """The rows to delete: those whose `field` is at or before `before`."""

    model: Any
    field: str
    before: datetime


class Command(BaseCommand):
    """Pruning isn't needed for security, because expired rows open nothing. It keeps the tables small."""

    help = (
        "Deletes expired rows, and events older than EVENT_RETENTION, in small batches. Safe during traffic."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--dry-run", action="store_true", help="Count, delete nothing.")
        parser.add_argument(
            "--batch-size", type=int, default=BATCH_SIZE, help=f"Rows per statement (default: {BATCH_SIZE})."
        )

    def handle(self, *args: Any, **options: Any) -> None:
        now = timezone.now()
        total = 0
        for table in _tables(now):
            if options["dry_run"]:  # noqa: SIM108 - two lines read better
                count = _over(table).count()
            else:
                count = self._prune(table, max(1, options["batch_size"]))
            total += count
            if count or options["verbosity"] > 1:
                self.stdout.write(f"{table.model._meta.verbose_name_plural}: {count}")
        would = "would be " if options["dry_run"] else ""
        self.stdout.write(f"{total} row{pluralize(total)} {would}deleted")

    def _prune(self, table: Table, batch_size: int) -> int:
        deleted, idle, reported_at = 0, 0, time.monotonic()
        while True:
            count = _delete_batch(table, batch_size)
            deleted += count
            if not count and (idle >= MAX_IDLE or not _over(table).exists()):
                return deleted
            # The remaining rows are locked by another prune; if it rolls back, we can delete them.
            idle = 0 if count else idle + 1
            if not count:
                time.sleep(0.1)
            if time.monotonic() - reported_at >= REPORTS_EVERY:
                reported_at = time.monotonic()
                self.stdout.write(f"{table.model._meta.verbose_name_plural}: {deleted} so far")


def _tables(now: datetime) -> list[Table]:
    return [
        Table(RefreshSession, "expires_at", now),
        Table(PasswordResetToken, "expires_at", now),
        Table(PendingFactor, "expires_at", now),
        Table(UsedState, "expires_at", now),
        Table(RateCounter, "resets_at", now),
        Table(FailedCode, "failed_at", now - limits.otp_window()),
        Table(AuthEvent, "created_at", now - conf.EVENT_RETENTION),
    ]


def _over(table: Table) -> Any:
    rows = table.model._default_manager.using(router.db_for_write(table.model))
    return rows.filter(**{f"{table.field}__lte": table.before})


@db.retried
def _delete_batch(table: Table, batch_size: int) -> int:
    """Delete up to `batch_size` rows in one short transaction; return how many.

    Rows that somebody else has locked, such as another prune, are skipped if the database can do that. The DELETE
    checks the time again, so a session that was refreshed meanwhile stays.
    """
    rows = _over(table)
    features = connections[rows.db].features
    size = min(batch_size, (features.max_query_params or batch_size + 10) - 10)
    with transaction.atomic(using=rows.db):
        picked = rows.order_by(table.field)
        if features.has_select_for_update_skip_locked:
            picked = picked.select_for_update(skip_locked=True)
        keys = list(picked.values_list("pk", flat=True)[:size])
        doomed = rows.filter(pk__in=keys)
        delete: Callable[[], Any] = doomed.prune if table.model is AuthEvent else doomed.delete
        deleted = delete() if keys else 0
    return deleted if isinstance(deleted, int) else int(deleted[0])
