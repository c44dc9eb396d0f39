"""Encrypt every secret again with the newest key."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.template.defaultfilters import pluralize
from django.views.decorators.debug import sensitive_variables

from platform_auth import db, sealing
from platform_auth.models import OAuthProvider, PendingFactor, TOTPFactor

BATCH_SIZE = 500
REPORTS_EVERY = 5.0


SECRETS = (
    (TOTPFactor, "secret"),
    (PendingFactor, "secret"),
    (OAuthProvider, "client_secret"),
    (OAuthProvider, "private_key"),
)
"""Every sealing.Secret: its model and its name."""


class Command(BaseCommand):
    """To rotate a key: put a new one in front, deploy, run this command, then remove the old one."""

    help = (
        "Re-encrypts secrets at rest with the newest of ENCRYPTION_KEYS (or SECRET_KEY). Safe during traffic."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--dry-run", action="store_true", help="Count, change nothing.")

    def handle(self, *args: Any, **options: Any) -> None:
        renewed = broken = current = 0
        reported_at = time.monotonic()
        for model, name in SECRETS:
            for row in _rows(model, name):
                try:
                    changed = _renew(row, name, dry_run=options["dry_run"])
                except sealing.SealBroken:
                    broken += 1
                    self.stderr.write(f"{model._meta.verbose_name} {row.pk}: can't be decrypted with any key")
                    continue
                renewed, current = renewed + changed, current + (not changed)
                if time.monotonic() - reported_at >= REPORTS_EVERY:
                    reported_at = time.monotonic()
                    self.stdout.write(f"{renewed} so far")
        would = "would be " if options["dry_run"] else ""
        self.stdout.write(
            f"{renewed} secret{pluralize(renewed)} {would}re-encrypted, {current} already use the newest key"
        )
        if broken:
            raise CommandError(
                f"{broken} secret{pluralize(broken)} can't be decrypted: restore the old key (after the newest), run "
                "this again, and only then remove it."
            )


def _rows(model: Any, name: str) -> Iterator[Any]:
    """Yield the rows with a secret, in batches, ordered by primary key."""
    rows = model.objects.exclude(**{getattr(model, name).column: ""}).order_by("pk")
    batch = list(rows[:BATCH_SIZE])
    while batch:
        yield from batch
        batch = list(rows.filter(pk__gt=batch[-1].pk)[:BATCH_SIZE])


@sensitive_variables()
@db.retried
def _renew(row: Any, name: str, *, dry_run: bool) -> bool:
    """Encrypt a row's secret again, unless it was changed meanwhile; return whether it used an older key."""
    secret = getattr(type(row), name)
    before = getattr(row, secret.column)
    if sealing.is_current(secret.purpose(row), before):
        return False
    setattr(row, name, getattr(row, name))
    if not dry_run:
        unchanged = type(row).objects.filter(pk=row.pk, **{secret.column: before})
        unchanged.update(**{secret.column: getattr(row, secret.column)})
    return True
