"""The example project as its user meets it: a server process of its own, started by `manage.py demo`."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import httpx

ROOT = Path(__file__).resolve().parent.parent
MANAGE = ROOT / "example_project" / "manage.py"
STARTS_WITHIN = 180.0


class Site(NamedTuple):
    """A running site: its base URL, the folder of its mails, the file of its output, its process."""

    url: str
    outbox: Path
    log: Path
    process: subprocess.Popen[bytes]

    def client(self) -> httpx.Client:
        """Return a browser-like client: it keeps cookies."""
        return httpx.Client(base_url=self.url, timeout=30)


PASSWORDS = {
    "admin@example.com": "quiet-copper-lantern",
    "alice@example.com": "seven-green-harbours",
    "bob@example.com": "brisk-winter-orchard",
}
"""What `manage.py demo` prints; test_example.py compares."""


def environment(folder: Path, **variables: str) -> dict[str, str]:
    """Return an environment for the example whose files are in a folder, free of the settings of the tests."""
    kept = {name: value for name, value in os.environ.items() if name != "DJANGO_SETTINGS_MODULE"}
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
    port = free_port()
    url = f"http://localhost:{port}"
    log = folder / "demo.log"
    provider_port = free_port() if with_provider else 0
    command = [
        sys.executable,
        str(MANAGE),
        "demo",
        "--port",
        str(port),
        "--provider-port",
        str(provider_port),
    ]
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            env=environment(folder, PUBLIC_URL=url, **variables),
            cwd=folder,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
        try:
            _wait_until_served(url, process, log)
            yield Site(url, folder / "outbox", log, process)
        finally:
            process.terminate()
            process.wait(timeout=20)


def _wait_until_served(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    until = time.monotonic() + STARTS_WITHIN
    while time.monotonic() < until:
        if process.poll() is not None:
            break
        with contextlib.suppress(httpx.TransportError):
            httpx.get(url, timeout=5)
            return
        time.sleep(0.1)
    raise AssertionError(f"the demo did not start:\n{log.read_text()}")
