"""security.md, rows 37, 46: a real server is killed in the middle of refreshes. TEST_ROUNDS scales the 20 kills."""

from __future__ import annotations

import http.client
import json
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pyotp
import pytest
from django.db import connection
from django.utils import timezone

from platform_auth import sessions
from platform_auth.models import AuthEvent, RefreshSession, TOTPFactor
from tests.conftest import PASSWORD, Authenticator, make_user

pytestmark = [
    pytest.mark.slow,
    pytest.mark.race,
    pytest.mark.django_db(transaction=True),
    pytest.mark.timeout(600),
]

KILLS = int(os.environ.get("TEST_ROUNDS", "20"))
CLIENTS = 8
ROOT = Path(__file__).parent.parent.parent


class Server:
    """gunicorn with threads, on the test's database."""

    def __init__(self) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.start()

    def start(self) -> None:
        name = str(connection.settings_dict["NAME"])
        self.process = subprocess.Popen(
            [sys.executable, "-m", "gunicorn", "--threads", str(CLIENTS), "--bind", f"127.0.0.1:{self.port}",
             "--log-level", "critical", "--no-control-socket", "django.core.wsgi:get_wsgi_application()"],
            cwd=ROOT,
            env={**os.environ, "DJANGO_SETTINGS_MODULE": "tests.crash_settings", "CRASH_DATABASE": name,
                 "PYTHONPATH": str(ROOT)},
            start_new_session=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )  # fmt: skip
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            try:
                if self.ask("GET", "/auth/jwks")[0] == 200:
                    return
            except OSError:
                assert self.process.poll() is None, "the server did not start"
                time.sleep(0.05)
        raise AssertionError("the server did not start in time")

    def kill(self) -> None:
        """Kill master and workers without warning."""
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def ask(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        caller = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            caller.request(method, path, json.dumps(body or {}), {"Content-Type": "application/json"})
            response = caller.getresponse()
            raw = response.read()
            return response.status, json.loads(raw) if raw else None
        except http.client.HTTPException as error:
            raise ConnectionError from error
        finally:
            caller.close()

    def refresh(self, token: str) -> tuple[int, str]:
        status, body = self.ask("POST", "/auth/refresh", {"refresh_token": token})
        return status, body["data"]["refresh_token"] if status == 200 else ""


@contextmanager
def server() -> Iterator[Server]:
    running = Server()
    try:
        yield running
    finally:
        running.kill()


class Browser(threading.Thread):
    """A client that refreshes until the server is gone, and keeps the last token that it received."""

    def __init__(self, server: Server, token: str) -> None:
        super().__init__()
        self.server, self.token, self.refused, self.rounds = server, token, 0, 0

    def run(self) -> None:
        while True:
            try:
                status, successor = self.server.refresh(self.token)
            except (OSError, ValueError):
                return
            if status != 200:
                self.refused = status
                return
            self.token = successor
            self.rounds += 1


def test_every_client_can_continue_with_the_token_it_has() -> None:
    user = make_user()
    tokens = [sessions.open(user).refresh_token for _ in range(CLIENTS)]
    rounds = recovered = 0
    with server() as running:
        for _kill in range(KILLS):
            browsers = [Browser(running, token) for token in tokens]
            for browser in browsers:
                browser.start()
            # On a slow machine, the first answers take longer than the wait that follows.
            while not all(browser.rounds or not browser.is_alive() for browser in browsers):
                time.sleep(0.01)
            time.sleep(random.uniform(0.05, 0.4))
            running.kill()
            for browser in browsers:
                browser.join()
            assert not [browser.refused for browser in browsers if browser.refused]
            rounds += sum(browser.rounds for browser in browsers)

            running.start()
            answers_before = AuthEvent.objects.filter(kind="refresh_replayed").count()
            tokens = []
            for browser in browsers:
                status, successor = running.refresh(browser.token)
                assert status == 200
                status, newest = running.refresh(successor)
                assert status == 200
                # Never both: the previous token is used up for good.
                assert running.refresh(browser.token)[0] == 401
                tokens.append(newest)
            recovered += AuthEvent.objects.filter(kind="refresh_replayed").count() - answers_before

        assert RefreshSession.objects.count() == CLIENTS
        assert not AuthEvent.objects.filter(kind="refresh_reused").exists()
        assert rounds > KILLS
        print(
            f"{KILLS} kills, {rounds} refreshes, {recovered} answers lost and recovered within the grace period"
        )


def test_a_revocation_survives_a_kill_right_after_its_response() -> None:
    """security.md, row 37."""
    user = make_user()
    with server() as running:
        for _kill in range(max(1, KILLS // 5)):
            spent = sessions.open(user).refresh_token
            status, newest = running.refresh(spent)
            assert status == 200
            RefreshSession.objects.update(rotated_at=timezone.now() - timedelta(seconds=120))

            assert running.refresh(spent)[0] == 401
            running.kill()

            running.start()
            assert running.refresh(newest)[0] == 401
            assert not RefreshSession.objects.exists()


def test_counted_one_time_passwords_survive_restarts() -> None:
    """security.md, row 13. The server has no other limits: see crash_settings."""
    user = make_user()
    factor = TOTPFactor(user=user)
    factor.secret = pyotp.random_base32()
    factor.save()
    app = Authenticator(factor.secret)

    def log_in(otp: str) -> int:
        body = {"email": user.email, "password": PASSWORD, "otp": otp}
        return running.ask("POST", "/auth/login", body)[0]

    with server() as running:
        for _restart in range(2):
            assert [log_in(app.wrong()) for _ in range(5)] == [401] * 5
            running.kill()
            running.start()

        assert log_in(app.code()) == 429


def test_a_chunked_body_is_read() -> None:
    """It has no length, and Django reads nothing of it: a logout would answer 204 and end nothing."""
    token = sessions.open(make_user()).refresh_token
    with server() as running:
        caller = http.client.HTTPConnection("127.0.0.1", running.port, timeout=10)
        body = iter([b'{"refresh_token": ', json.dumps(token).encode(), b"}"])
        caller.request(
            "POST", "/auth/logout", body, {"Content-Type": "application/json"}, encode_chunked=True
        )
        assert caller.getresponse().status == 204
        caller.close()
        assert not RefreshSession.objects.exists()

        for chunks in ([b"{}"], [b'{"email": "x"}'], [b"x" * 1000] * 100):
            caller = http.client.HTTPConnection("127.0.0.1", running.port, timeout=10)
            caller.request(
                "POST", "/auth/login", iter(chunks), {"Content-Type": "application/json"}, encode_chunked=True
            )
            response = caller.getresponse()
            assert response.status == (413 if len(chunks) > 1 else 400)
            assert json.loads(response.read())["errors"]
            caller.close()
