"""Prune a million expired sessions on PostgreSQL during refreshes, and look at the admin's list of them.

    python -m benchmarks.prune [rows]

Needs PostgreSQL at TEST_DATABASE_HOST (127.0.0.1). Prints the time, the memory and the longest transaction of the
prune, and how long refreshes took before and during it.
"""

from __future__ import annotations

import os
import resource
import statistics
import sys
import threading
import time
from typing import Any

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "tests.settings")
os.environ["TEST_DATABASE"] = "postgres"
os.environ["TEST_DATABASE_NAME_SUFFIX"] = "_benchmark"

import django

django.setup()

from django.core.management import call_command  # noqa: E402
from django.db import connection  # noqa: E402
from django.test import Client  # noqa: E402
from django.test.utils import CaptureQueriesContext, setup_test_environment  # noqa: E402

from platform_auth import sessions  # noqa: E402
from platform_auth.models import RefreshSession  # noqa: E402

FILL = """
    INSERT INTO platform_auth_refreshsession
        (id, user_id, key, digest, salt, mode, amr, provider, tfa_required, factor_satisfied, created_at, rotated_at,
         expires_at, ip_address, user_agent)
    SELECT gen_random_uuid(), %s, gen_random_uuid(), repeat('0', 64), repeat('0', 32), 'json', 'pwd', '', false, false,
           now() - make_interval(secs => n), now() - make_interval(secs => n),
           now() + make_interval(secs => %s) - make_interval(secs => n %% 86400), '127.0.0.1', 'Mozilla/5.0'
    FROM generate_series(1, %s) AS n
"""


def main(rows: int) -> None:
    setup_test_environment()
    connection.creation.create_test_db(verbosity=0, autoclobber=True)
    try:
        user = _user("user@example.com")
        with connection.cursor() as cursor:
            cursor.execute(FILL, [user.pk, -1, rows])
            cursor.execute("ANALYZE platform_auth_refreshsession")
        print(f"{rows} expired sessions in {_size()}")
        _look_at_the_admin()
        _prune(rows)
    finally:
        connection.creation.destroy_test_db("postgres", verbosity=0)


def _prune(rows: int) -> None:
    tokens = [sessions.open(_user(f"refresher{number}@example.com")).refresh_token for number in range(2)]
    stop = threading.Event()
    times: list[tuple[float, float]] = []
    longest = [0.0]
    threads = [threading.Thread(target=_refresh, args=(token, stop, times)) for token in tokens]
    threads.append(threading.Thread(target=_watch, args=(stop, longest)))
    for thread in threads:
        thread.start()
    time.sleep(5)
    memory_before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    began = time.monotonic()
    call_command("platform_auth_prune")
    took = time.monotonic() - began
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    stop.set()
    for thread in threads:
        thread.join()
    print(f"pruned in {took:.0f} s, {rows / took:.0f} rows/s")
    print(f"peak memory of the process: {memory_before / 1024:.0f} MB before, {memory / 1024:.0f} MB after")
    print(f"longest transaction of the database meanwhile: {longest[0] * 1000:.0f} ms")
    for name, chosen in (
        ("before", [spent for at, spent in times if at < began]),
        ("during", [spent for at, spent in times if at >= began]),
    ):
        quantiles = statistics.quantiles(chosen, n=100)
        print(
            f"refreshes {name}: {len(chosen)}, median {quantiles[49] * 1000:.1f} ms, "
            f"p99 {quantiles[98] * 1000:.1f} ms, longest {max(chosen) * 1000:.0f} ms"
        )
    print(f"rows left: {RefreshSession.objects.count()}")


def _look_at_the_admin() -> None:
    client = Client()
    admin = _user("admin@example.com", is_staff=True, is_superuser=True)
    client.force_login(admin)
    for query in ("", "?q=user@example.com", "?q=127.0.0.1", "?state=expired", "?p=100"):
        with CaptureQueriesContext(connection) as captured:
            began = time.monotonic()
            assert client.get(f"/admin/platform_auth/refreshsession/{query}").status_code == 200
        took = time.monotonic() - began
        print(f"admin list {query or '(plain)'}: {len(captured)} statements, {took * 1000:.0f} ms")


def _refresh(token: str, stop: threading.Event, times: list[tuple[float, float]]) -> None:
    client = Client()
    while not stop.is_set():
        at = time.monotonic()
        response = client.post("/auth/refresh", {"refresh_token": token}, content_type="application/json")
        assert response.status_code == 200, response.content
        times.append((at, time.monotonic() - at))
        token = response.json()["data"]["refresh_token"]
    connection.close()


def _watch(stop: threading.Event, longest: list[float]) -> None:
    """Check every 5 ms how long the oldest transaction of the database has been running."""
    with connection.cursor() as cursor:
        while not stop.is_set():
            cursor.execute(
                "SELECT max(extract(epoch FROM clock_timestamp() - xact_start)) FROM pg_stat_activity "
                "WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
            longest[0] = max(longest[0], float(cursor.fetchone()[0] or 0))
            time.sleep(0.005)
    connection.close()


def _user(email: str, **fields: Any) -> Any:
    from tests.conftest import make_user

    return make_user(email, **fields)


def _size() -> str:
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_size_pretty(pg_total_relation_size('platform_auth_refreshsession'))")
        return str(cursor.fetchone()[0])


if __name__ == "__main__":
    from django.conf import settings

    # The prune is measured, not the limit of refreshes.
    settings.PLATFORM_AUTH["LIMITS"] = {"refresh": {"session": "1000000/m"}}
    settings.ALLOWED_HOSTS = ["*"]
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000)
