"""Does the time of a response reveal which accounts exist? Measured with POST /auth/password/request and /auth/login.

    python -m benchmarks.enumeration [--samples 2000] [--only request|login] [--mail up,down,slow]
                                     [--reset-url absent,allowed,refused]

A separate server process (gunicorn with threads) is asked over one connection, with the classes of accounts in random
order: known, unknown, inactive, provider-only, and `control`, a second set of unknown addresses, which shows what no
difference looks like on this machine. Each class is compared with `unknown`: the difference of the medians must be
below max(2 ms, 3 %), and the AUC (the probability that an attacker who sees one response of each guesses right) between
0.45 and 0.55. Otherwise it exits with 1. Run it on a machine that is idle.
"""

from __future__ import annotations

import argparse
import bisect
import contextlib
import gc
import http.client
import json
import os
import random
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from tests.mail_server import MailServer

CLASSES = ("known", "unknown", "inactive", "provider_only", "control")
ACCOUNTS = 50
"""How many addresses each class has, all of the same length."""
PASSWORD = "correct horse battery staple"
RESET_URLS = {"absent": None, "allowed": "https://app.example/reset", "refused": "https://evil.example/reset"}
"""The `reset_url` of a request; the allowed one is in the settings of `benchmarks.host`."""


class Run(NamedTuple):
    """What is measured: an endpoint, the state of the mail server, the kind of `reset_url`."""

    path: str
    mood: str = "up"
    reset_url: str = "absent"

    @property
    def title(self) -> str:
        if self.path.endswith("login"):
            return f"POST {self.path}"
        return f"POST {self.path}, mail server {self.mood}, reset_url {self.reset_url}"

    @property
    def body(self) -> dict[str, str]:
        """Return what each request sends in addition to the address."""
        if self.path.endswith("login"):
            return {"password": "a wrong password"}
        url = RESET_URLS[self.reset_url]
        return {"reset_url": url} if url else {}

    @property
    def status(self) -> int:
        if self.path.endswith("login"):
            return 401
        return 400 if self.reset_url == "refused" else 204


def address(kind: str, number: int) -> str:
    return f"{kind:x<13}-{number:04}@example.com"


def prepare(environment: dict[str, str]) -> None:
    """Create the database and the accounts, in a separate process."""
    code = """
import django
django.setup()
from django.core.management import call_command
from django.contrib.auth import get_user_model
from django.contrib.auth.hashers import make_password
from benchmarks.enumeration import ACCOUNTS, PASSWORD, address
call_command("migrate", verbosity=0, run_syncdb=True)
User, hashed = get_user_model(), make_password(PASSWORD)
fields = lambda email: {"email": email} if User.USERNAME_FIELD == "email" else {"email": email, "username": email}
User.objects.all().delete()
User.objects.bulk_create(
    User(**fields(address(kind, n)), is_active=kind != "inactive",
         password=make_password(None) if kind == "provider_only" else hashed)
    for kind in ("known", "inactive", "provider_only") for n in range(ACCOUNTS)
)
# More accounts, so that a lookup uses an index.
User.objects.bulk_create(User(**fields(f"other{n}@example.com"), password="!") for n in range(2000))
"""
    subprocess.run([sys.executable, "-c", code], env=environment, check=True)


@contextlib.contextmanager
def served(environment: dict[str, str]) -> Iterator[http.client.HTTPConnection]:
    """Run the host and yield a connection to it. In the end it is killed, because nobody waits for its emails."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [
        "gunicorn",
        "--bind",
        f"127.0.0.1:{port}",
        "--workers",
        "1",
        "--threads",
        "4",
        "--keep-alive",
        "600",
    ]
    server = subprocess.Popen(
        [sys.executable, "-m", *command, "--log-level", "error", "benchmarks.enumeration:make_application()"],
        env=environment,
        start_new_session=True,
    )
    try:
        for _ in range(200):
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
                break
            time.sleep(0.1)
        yield http.client.HTTPConnection("127.0.0.1", port)
    finally:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()


def make_application() -> object:
    """Return the host's WSGI application, for gunicorn."""
    from django.core.wsgi import get_wsgi_application

    return get_wsgi_application()


def ask(connection: http.client.HTTPConnection, path: str, body: dict[str, str], status: int) -> float:
    """Send one request; return the seconds until the whole response has arrived."""
    raw = json.dumps(body)
    began = time.perf_counter()
    connection.request("POST", path, raw, {"Content-Type": "application/json"})
    response = connection.getresponse()
    response.read()
    took = time.perf_counter() - began
    assert response.status == status, (response.status, path)
    return took


def measure(connection: http.client.HTTPConnection, run: Run, samples: int) -> dict[str, list[float]]:
    """Return the times of `samples` answers for each class, in seconds, asked in random order."""
    times: dict[str, list[float]] = {kind: [] for kind in CLASSES}
    for _ in range(50):
        ask(connection, run.path, {"email": "warm.up@example.com", **run.body}, run.status)
    gc.disable()
    for number in range(samples):
        for kind in random.sample(CLASSES, len(CLASSES)):
            body = {"email": address(kind, number % ACCOUNTS), **run.body}
            times[kind].append(ask(connection, run.path, body, run.status))
    gc.enable()
    return times


def auc(ours: list[float], theirs: list[float]) -> float:
    """Return the probability that one of `ours` is larger than one of `theirs` (Mann-Whitney); ties count half."""
    theirs = sorted(theirs)
    below = sum(bisect.bisect_left(theirs, value) + bisect.bisect_right(theirs, value) for value in ours)
    return below / (2 * len(ours) * len(theirs))


def report(title: str, times: dict[str, list[float]]) -> bool:
    """Print what was measured; return whether it is within the bounds."""
    base = statistics.median(times["unknown"])
    bound = max(0.002, 0.03 * base)
    print(f"\n{title}: {len(times['unknown'])} samples per class, bound {bound * 1000:.2f} ms", flush=True)
    print(f"  {'class':<14}{'median ms':>10}{'difference ms':>15}{'%':>8}{'AUC':>8}")
    good = True
    for kind in CLASSES:
        median, chance = statistics.median(times[kind]), auc(times[kind], times["unknown"])
        within = abs(median - base) <= bound and 0.45 <= chance <= 0.55
        good &= within
        mark = "" if within else "  <- out of bounds"
        apart = median - base
        print(
            f"  {kind:<14}{median * 1000:>10.3f}{apart * 1000:>15.3f}{100 * apart / base:>8.2f}{chance:>8.3f}{mark}"
        )
    return good


@contextlib.contextmanager
def mail_server(mood: str) -> Iterator[int]:
    """Yield the port of a mail server in this state; `down`: a port where nothing listens."""
    server = MailServer("slow" if mood == "slow" else "takes", pause=1.0)
    if mood == "down":
        server.server.server_close()
        yield server.port
        return
    with server:
        yield server.port


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--samples", type=int, default=2000)
    parser.add_argument("--only", choices=["request", "login"])
    parser.add_argument("--mail", default="up,down,slow")
    parser.add_argument("--reset-url", default=",".join(RESET_URLS))
    options = parser.parse_args()
    moods, kinds = options.mail.split(","), options.reset_url.split(",")
    runs = []
    if options.only != "login":
        # A refused `reset_url` sends no email, so one state is enough.
        runs += [
            Run("/auth/password/request", mood, kind)
            for mood in moods
            for kind in kinds
            if kind != "refused" or mood == moods[0]
        ]
    if options.only != "request":
        runs.append(Run("/auth/login"))
    good = True
    with tempfile.TemporaryDirectory() as folder:
        environment = {
            **os.environ,
            "DJANGO_SETTINGS_MODULE": "benchmarks.host",
            "BENCHMARK_DATABASE": os.environ.get(
                "BENCHMARK_DATABASE", str(Path(folder) / "benchmark.sqlite3")
            ),
            "BENCHMARK_MAIL_PORT": "9",
        }
        prepare(environment)
        for run in runs:
            with (
                mail_server(run.mood) as port,
                served({**environment, "BENCHMARK_MAIL_PORT": str(port)}) as connection,
            ):
                times = measure(connection, run, options.samples)
            good &= report(run.title, times)
    print("\nwithin the bounds" if good else "\nout of bounds")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
