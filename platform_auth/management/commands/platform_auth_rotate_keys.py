"""Seal every secret again under the newest key."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any, NamedTuple

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import router
from django.views.decorators.debug import sensitive_variables

from platform_auth import db, sealing
from platform_auth.models import OAuthProvider, PendingFactor, TOTPFactor

BATCH_SIZE = 500
REPORTS_EVERY = 5.0


class Sealed(NamedTuple):
    """A column that holds sealed secrets, and what each was sealed for."""

    model: Any
    column: str
    purpose: Any


SEALED = (
    Sealed(TOTPFactor, "sealed_secret", lambda row: row.seal_purpose),
    Sealed(PendingFactor, "sealed_secret", lambda row: row.seal_purpose),
    Sealed(OAuthProvider, "sealed_secret", lambda row: row.seal_purpose("client_secret")),
    Sealed(OAuthProvider, "sealed_private_key", lambda row: row.seal_purpose("private_key")),
)


class Command(BaseCommand):
    """Put a new key in front, deploy, run this, then take the old key away."""

    help = "Re-encrypts secrets at rest under the newest of ENCRYPTION_KEYS (or SECRET_KEY). Safe beside traffic."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--dry-run", action="store_true", help="Count, change nothing.")

    def handle(self, *args: Any, **options: Any) -> None:
        renewed = broken = current = 0
        reported_at = time.monotonic()
        for sealed in SEALED:
            for row in _rows(sealed):
                try:
                    changed = _renew(sealed, row, dry_run=options["dry_run"])
                except sealing.SealBroken:
                    broken += 1
                    self.stderr.write(
                        f"{sealed.model._meta.verbose_name} {row.pk}: does not open with any key"
                    )
                    continue
                renewed, current = renewed + changed, current + (not changed)
                if time.monotonic() - reported_at >= REPORTS_EVERY:
                    reported_at = time.monotonic()
                    self.stdout.write(f"{renewed} so far")
        would = "would be " if options["dry_run"] else ""
        self.stdout.write(f"{renewed} secrets {would}sealed again, {current} under the newest key already")
        if broken:
            raise CommandError(
                f"{broken} secrets do not open: put the key that sealed them back (behind the newest), run this "
                "again, and only then take it away."
            )


def _rows(sealed: Sealed) -> Iterator[Any]:
    """Yield the rows with a secret, a batch at a time, in the order of their keys."""
    rows = sealed.model._default_manager.using(router.db_for_write(sealed.model)).exclude(
        **{sealed.column: ""}
    )
    last = None
    while True:
        batch = list((rows if last is None else rows.filter(pk__gt=last)).order_by("pk")[:BATCH_SIZE])
        yield from batch
        if len(batch) < BATCH_SIZE:
            return
        last = batch[-1].pk


@sensitive_variables()
@db.retried
def _renew(sealed: Sealed, row: Any, *, dry_run: bool) -> bool:
    """Seal a row's secret again, unless it was changed meanwhile; return whether it was under an older key."""
    before = getattr(row, sealed.column)
    purpose = sealed.purpose(row)
    if sealing.is_current(purpose, before):
        return False
    after = sealing.reseal(purpose, before)
    if not dry_run:
        rows = sealed.model._default_manager.using(router.db_for_write(sealed.model))
        rows.filter(pk=row.pk, **{sealed.column: before}).update(**{sealed.column: after})
    return True
