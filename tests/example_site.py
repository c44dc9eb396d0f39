"""The example project as a user sees it: a separate server process, started with `manage.py demo`."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urljoin

import requests

ROOT = Path(__file__).resolve().parent.parent
MANAGE = ROOT / "example_project" / "manage.py"
STARTS_WITHIN = 180.0


class Client(requests.Session):
    """A client of one site that keeps cookies like a browser and follows no redirects."""

    def __init__(self, url: str) -> None:
        super().__init__()
        self.url = url

    def request(self, method: Any, url: Any, *args: Any, **options: Any) -> requests.Response:
        options |= {"allow_redirects": False, "timeout": 60}
        return super().request(method, urljoin(self.url, url), *args, **options)


class Site(NamedTuple):
    """A running site: its base URL, the folder with its emails, its output file, its process."""

    url: str
    outbox: Path
    log: Path
    process: subprocess.Popen[bytes]

    def client(self) -> Client:
        return Client(self.url)


PASSWORDS = {
    "admin@example.com": "quiet-copper-lantern",
    "alice@example.com": "seven-green-harbours",
    "bob@example.com": "brisk-winter-orchard",
}
"""What `manage.py demo` prints; test_example.py compares."""


def environment(folder: Path, **variables: str) -> dict[str, str]:
    """Return environment variables for the example with its files in a folder, without those of the tests."""
    # The latter while a browser runs: see tests/chromium.py.
    foreign = ("DJANGO_SETTINGS_MODULE", "DJANGO_ALLOW_ASYNC_UNSAFE")
    kept = {name: value for name, value in os.environ.items() if name not in foreign}
    own = {
        "DATABASE_URL": f"sqlite:///{folder / 'db.sqlite3'}",
        "EMAIL_FILE_PATH": str(folder / "outbox"),
        "PYTHONUNBUFFERED": "1",
    }
    return {**kept, **own, **variables}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def serve(folder: Path, *, with_provider: bool = False, **variables: str) -> Iterator[Site]:
    """Run the demo on a free port until the block ends."""
    site = _start(folder, with_provider=with_provider, **variables)
    try:
        yield site
    finally:
        _stop(site.process)


def _start(folder: Path, *, with_provider: bool, **variables: str) -> Site:
    log = folder / "demo.log"
    # Another process may take the port between finding it and starting the server; then another port is tried.
    for _attempt in range(5):
        url = f"http://localhost:{free_port()}"
        ports = [
            "--port",
            url.rpartition(":")[2],
            "--provider-port",
            str(free_port() if with_provider else 0),
        ]
        with log.open("wb") as output:
            process = subprocess.Popen(
                [sys.executable, str(MANAGE), "demo", *ports],
                env=environment(folder, PUBLIC_URL=url, **variables),
                cwd=folder,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        if _is_served(url, process):
            return Site(url, folder / "outbox", log, process)
        _stop(process)
        if "in use" not in log.read_text():
            break
    raise AssertionError(f"the demo did not start:\n{log.read_text()}")


def _is_served(url: str, process: subprocess.Popen[bytes]) -> bool:
    until = time.monotonic() + STARTS_WITHIN
    while time.monotonic() < until and process.poll() is None:
        with contextlib.suppress(requests.ConnectionError):
            # Another process may have taken the port and be answering there.
            if "public" in requests.get(f"{url}/auth/oauth", timeout=60).text:
                return True
        time.sleep(0.1)
    return False


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    process.wait(timeout=120)
