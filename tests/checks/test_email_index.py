"""The lookup by email uses an index if the host has one (the recommended unique constraint)."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from django.contrib.auth import get_user_model
from django.db import IntegrityError, connection, models, transaction
from django.db.models.functions import Lower
from django.test.utils import CaptureQueriesContext

from platform_auth import backends
from tests.checks import said
from tests.conftest import make_user

USERS = 1_000_000
BUDGET = 0.05
"""How many seconds one lookup may take on a busy machine; a scan of the table takes several times as long."""


@contextmanager
def paste(hint: str) -> Iterator[str]:
    """Do what the hint of W009 says for this user model and database; yield the name of the index."""
    statements = re.search(r'RunSQL\("(.+?)", "(.+?)"\)', hint)
    constraint = re.search(r"constraints = \[(.+\))\]", hint)
    if statements:
        with connection.cursor() as cursor:
            cursor.execute(statements[1])
    elif constraint:
        made = eval(constraint[1], {"models": models, "Lower": Lower})
        with connection.schema_editor() as editor:
            editor.add_constraint(get_user_model(), made)
    yield re.findall(r"\w+_once", hint)[0]
    if statements:
        with connection.cursor() as cursor:
            cursor.execute(statements[2])
    elif constraint:
        with connection.schema_editor() as editor:
            editor.remove_constraint(get_user_model(), made)


@pytest.mark.django_db(transaction=True)
def test_the_hint_of_the_check_works_on_this_database() -> None:
    for warning in said("W009"):
        with paste(str(warning.hint)):
            make_user("one@example.com")
            with pytest.raises(IntegrityError), transaction.atomic():
                make_user("ONE@example.com")


@pytest.mark.django_db(transaction=True)
@pytest.mark.skipif(
    connection.vendor != "postgresql", reason="the plan is PostgreSQL's; the figures are of a million rows"
)
class TestAMillionUsers:
    def test_are_searched_by_an_index_scan(self) -> None:
        model = get_user_model()
        table = model._meta.db_table
        (warning,) = said("W009")
        with paste(str(warning.hint)) as index:
            self.fill(table)
            with CaptureQueriesContext(connection) as captured:
                found = backends.find_by_email("USER777777@example.com")
            assert found.email == "User777777@example.com"

            with connection.cursor() as cursor:
                cursor.execute(f"EXPLAIN (FORMAT TEXT) {captured.captured_queries[0]['sql']}")
                plan = "\n".join(line for (line,) in cursor.fetchall())
            assert index in plan, plan
            assert "Index Scan" in plan
            assert f"Seq Scan on {table}" not in plan

            started = time.perf_counter()
            for number in range(10):
                backends.find_by_email(f"user{number}00@EXAMPLE.com")
            assert (time.perf_counter() - started) / 10 < BUDGET
            with connection.cursor() as cursor:
                cursor.execute(f'TRUNCATE "{table}" CASCADE')

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
