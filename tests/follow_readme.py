"""Install a wheel into an empty environment and follow the README there: `python -m tests.follow_readme WHEEL`.

It creates a project with `django-admin startproject`, appends the README's blocks to settings.py and urls.py, runs
its commands, and then logs in, gets a protected page, refreshes and logs out over HTTP. Needs only Python and uv or
pip.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
README = ROOT / "README.md"
EMAIL, PASSWORD = "ann@example.com", "four-violet-candles"


def blocks(language: str, *, page: Path = README) -> list[str]:
    """Return a page's code blocks in a language, in order."""
    return re.findall(rf"^```{language}\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL)


def block(name: str, *, page: Path = README) -> str:
    """Return a page's Python block that is named in its first line, such as "settings.py"."""
    (found,) = [text for text in blocks("python", page=page) if text.startswith(f"# {name}\n")]
    return found


def main(wheel: Path) -> None:
    with tempfile.TemporaryDirectory() as folder:
        follow(wheel.resolve(), Path(folder))


def follow(wheel: Path, folder: Path) -> None:
    python = install(wheel, folder)
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith(("DJANGO_", "PYTHON"))
    }
    environment |= {"DJANGO_SUPERUSER_PASSWORD": PASSWORD, "PYTHONWARNINGS": "ignore"}

    def run(*arguments: str) -> str:
        done = subprocess.run(
            [python, *arguments], cwd=folder, env=environment, text=True, capture_output=True, check=False
        )
        print("$ python", *arguments, done.stdout, done.stderr, sep=" ")
        if done.returncode:
            raise SystemExit(f"failed: {arguments}")
        return done.stdout + done.stderr

    run("-m", "django", "startproject", "host", ".")
    for name in ("settings.py", "urls.py"):
        with (folder / "host" / name).open("a") as file:
            file.write(f"\n{block(name)}")
    (commands,) = [text for text in blocks("sh") if "manage.py migrate" in text]
    for line in commands.splitlines():
        told = run(*line.partition("#")[0].split()[1:])
        # auth.User's email isn't unique, which the README leaves to the check.
        if set(re.findall(r"platform_auth\.[EW]\d+", told)) - {"platform_auth.W009"}:
            raise SystemExit("the checks report something")
    run("manage.py", "createsuperuser", "--noinput", "--username", "ann", "--email", EMAIL)

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = subprocess.Popen(
        [python, "manage.py", "runserver", "--noreload", str(port)], cwd=folder, env=environment
    )
    try:
        use(f"http://127.0.0.1:{port}")
    finally:
        server.terminate()
        server.wait(timeout=60)


def install(wheel: Path, folder: Path) -> str:
    """Create an environment with the wheel and its dependencies; return its Python."""
    environment = folder / "environment"
    uv = shutil.which("uv") or shutil.which("uv", path=str(Path(sys.executable).parent))
    python = str(environment / "bin" / "python")
    if uv:
        subprocess.run([uv, "venv", "--quiet", "--python", sys.executable, environment], check=True)
        subprocess.run([uv, "pip", "install", "--quiet", "--python", python, wheel], check=True)
    else:
        subprocess.run([sys.executable, "-m", "venv", environment], check=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", wheel], check=True)
    return python


def use(url: str) -> None:
    """Log in, refresh and log out, with a request to a protected page after each."""
    wait_for(url)
    expect(401, call(f"{url}/users/me"))
    tokens = expect(200, call(f"{url}/auth/login", {"email": EMAIL, "password": PASSWORD}))
    assert tokens["expires"] == 900
    assert expect(200, call(f"{url}/users/me", token=tokens["access_token"]))["email"] == EMAIL
    tokens = expect(200, call(f"{url}/auth/refresh", {"refresh_token": tokens["refresh_token"]}))
    expect(200, call(f"{url}/users/me", token=tokens["access_token"]))
    expect(204, call(f"{url}/auth/logout", {"refresh_token": tokens["refresh_token"]}))
    expect(401, call(f"{url}/users/me", token=tokens["access_token"]))
    print("The README works: logged in, refreshed, logged out.")


def call(url: str, body: dict[str, str] | None = None, *, token: str | None = None) -> tuple[int, Any]:
    request = urllib.request.Request(url, data=None if body is None else json.dumps(body).encode())
    request.add_header("Content-Type", "application/json")
    if token:
        request.add_header("Authorization", f"Bearer {token}")
    try:
        with urllib.request.urlopen(request, timeout=30) as response:
            text = response.read()
            return response.status, json.loads(text) if text else None
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read())


def expect(status: int, answer: tuple[int, Any]) -> Any:
    assert answer[0] == status, answer
    return (answer[1] or {}).get("data")


def wait_for(url: str) -> None:
    for _attempt in range(1200):
        with contextlib.suppress(OSError):
            call(url + "/auth/jwks")
            return
        time.sleep(0.1)
    raise SystemExit("the server did not start")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
