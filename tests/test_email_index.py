"""The look-up by e-mail uses an index where the host has one (the recommended unique constraint)."""

from __future__ import annotations

import time

import pytest
from django.contrib.auth import get_user_model
from django.db import connection, models
from django.db.models.functions import Lower
from django.test.utils import CaptureQueriesContext

from platform_auth import backends

USERS = 1_000_000
BUDGET = 0.05
"""Seconds for one look-up on a busy machine; a scan of the table takes several times as long."""


@pytest.mark.django_db(transaction=True)
@pytest.mark.skipif(
    connection.vendor != "postgresql", reason="the plan is PostgreSQL's; the figures are of a million rows"
)
class TestAMillionUsers:
    def test_are_searched_by_an_index_scan(self) -> None:
        model = get_user_model()
        table = model._meta.db_table
        constraint = models.UniqueConstraint(Lower("email"), name="user_email_ci")
        with connection.schema_editor() as editor:
            editor.add_constraint(model, constraint)
        try:
            self.fill(table)
            with CaptureQueriesContext(connection) as captured:
                found = backends.find_by_email("USER777777@example.com")
            assert found.email == "User777777@example.com"

            with connection.cursor() as cursor:
                cursor.execute(f"EXPLAIN (FORMAT TEXT) {captured.captured_queries[0]['sql']}")
                plan = "\n".join(line for (line,) in cursor.fetchall())
            assert "user_email_ci" in plan, plan
            assert "Index Scan" in plan
            assert f"Seq Scan on {table}" not in plan

            started = time.perf_counter()
            for number in range(10):
                backends.find_by_email(f"user{number}00@EXAMPLE.com")
            assert (time.perf_counter() - started) / 10 < BUDGET
        finally:
            with connection.cursor() as cursor:
                cursor.execute(f'TRUNCATE "{table}" CASCADE')
            with connection.schema_editor() as editor:
                editor.remove_constraint(model, constraint)

    def fill(self, table: str) -> None:
        columns = {"email": "'User' || n || '@example.com'", "password": "'!'", "is_superuser": "false",
                   "is_active": "true", "is_staff": "false"}  # fmt: skip
        model = get_user_model()
        if model.USERNAME_FIELD == "username":
            columns |= {
                "username": "'user' || n",
                "first_name": "''",
                "last_name": "''",
                "date_joined": "now()",
            }
        else:
            columns["id"] = "gen_random_uuid()"
        with connection.cursor() as cursor:
            cursor.execute(
                f'INSERT INTO "{table}" ({", ".join(columns)}) '
                f"SELECT {', '.join(columns.values())} FROM generate_series(1, {USERS}) AS n"
            )
            cursor.execute(f'ANALYZE "{table}"')
