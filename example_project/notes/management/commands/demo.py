"""`manage.py demo`: serve the site with users and notes, and start an identity provider."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
import time
import warnings
from collections.abc import Iterator
from typing import Any

from django.conf import settings
from django.contrib.auth.models import Group
from django.core.management import BaseCommand, CommandError, CommandParser, call_command

from accounts.models import User
from notes.models import Note
from platform_auth.models import OAuthProvider

PORT = 8000
PASSWORDS = {
    "admin@example.com": "quiet-copper-lantern",
    "alice@example.com": "seven-green-harbours",
    "bob@example.com": "brisk-winter-orchard",
}
NOTES = {
    "alice@example.com": ["Water the plants", "Call the plumber"],
    "bob@example.com": ["Return the library books"],
}
AT_PROVIDER = {"name": "Demo User", "email": "demo@example.com", "email_verified": True}

TEXT = """
  {url}/         start page: log in, read notes, log in with Demo ID (as "demo")
  {url}/admin/   Django admin

  {users}

  Log in. The answer contains the two tokens that the next commands use:

    curl {url}/auth/login {json} '{{"email": "alice@example.com", "password": "{password}"}}'
    ACCESS_TOKEN=... REFRESH_TOKEN=...

  A protected page, with and without the access token:

    curl {url}/api/notes -H "Authorization: Bearer $ACCESS_TOKEN"
    curl {url}/api/notes

  Refresh: a new refresh token replaces the old one. Log out: all tokens of the session stop working.

    curl {url}/auth/refresh {json} '{{"refresh_token": "'$REFRESH_TOKEN'"}}'
    curl -i {url}/auth/logout {json} '{{"refresh_token": "'$REFRESH_TOKEN'"}}'

  A password reset email, which is printed here and saved in {outbox}/:

    curl -i {url}/auth/password/request {json} '{{"email": "bob@example.com"}}'

  To make the notes public: in Django admin, Groups, Public, add "Can view note".
  Press Ctrl-C to stop. To start over, delete {database}.
"""


class Command(BaseCommand):
    help = "Creates the demo's database, users and notes, and serves them. Only with DEBUG."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--port", type=int, default=PORT)
        parser.add_argument("--provider-port", type=int, default=9400, help="0: no identity provider.")
        parser.add_argument("--since", type=float, help="When the start began, in Unix time.")

    def handle(self, *, port: int, provider_port: int, since: float | None, **options: Any) -> None:
        if not settings.DEBUG:
            raise CommandError("The demo only runs with DEBUG, because everyone knows its passwords.")
        began = since or time.time()
        for option, wanted in (("--port", port), ("--provider-port", provider_port)):
            require_free(wanted, option)
        if port != PORT and "PUBLIC_URL" not in os.environ:
            settings.PUBLIC_URL = settings.PLATFORM_AUTH["PUBLIC_URL"] = f"http://localhost:{port}"
        call_command("migrate", verbosity=0)
        users = [make_user(email, password) for email, password in PASSWORDS.items()]
        Group.objects.get_or_create(name="Public")
        with contextlib.ExitStack() as stack:
            if provider_port:
                stack.enter_context(identity_provider(provider_port))
            self.stdout.write(
                TEXT.format(
                    url=settings.PUBLIC_URL,
                    json="-H 'Content-Type: application/json' -d",
                    users="\n  ".join(users),
                    password=PASSWORDS["alice@example.com"],
                    outbox=os.path.relpath(settings.EMAIL_FILE_PATH),
                    database=os.path.relpath(settings.DATABASES["default"]["NAME"]),
                )
            )
            self.stdout.write(f"The demo is ready after {time.time() - began:.1f} s.\n\n")
            # runserver doesn't handle SIGTERM, which ends a process at once. With this handler it first sends waiting
            # emails.
            signal.signal(signal.SIGTERM, lambda *_: sys.exit())
            call_command("runserver", f"localhost:{port}", use_reloader=False)


def require_free(port: int, option: str) -> None:
    """Raise CommandError if a port is in use, before anything is printed."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            raise CommandError(f"Port {port} is in use: choose another one with {option}.") from None


def make_user(email: str, password: str) -> str:
    """Create a user and their notes if they don't exist; return a line to print."""
    name = email.partition("@")[0]
    is_admin = name == "admin"
    user, is_new = User.objects.get_or_create(
        email=email, defaults={"first_name": name.title(), "is_staff": is_admin, "is_superuser": is_admin}
    )
    if is_new:
        user.set_password(password)
        user.save()
        Note.objects.bulk_create(Note(owner=user, text=text) for text in NOTES.get(email, []))
    shown = password if user.check_password(password) else "(no longer the demo's password)"
    return f"{email:<20} {shown}"


@contextlib.contextmanager
def identity_provider(port: int) -> Iterator[None]:
    """Serve an OpenID Connect provider that lets everyone log in, and configure it as an admin would."""
    with warnings.catch_warnings(record=True):
        from oidc_provider_mock import User as Account
        from oidc_provider_mock import run_server_in_thread

    # On 127.0.0.1, while the site is on localhost: cookies ignore ports, so on one host they would mix.
    provider = OAuthProvider.objects.filter(key="demo").first() or OAuthProvider(
        key="demo", label="Demo ID", kind=OAuthProvider.Kind.OIDC, enabled=True, may_create_users=True
    )
    provider.issuer = f"http://127.0.0.1:{port}"
    provider.client_id, provider.client_secret = "notes", "any-will-do"
    provider.save()
    with run_server_in_thread(port=port, user_claims=[Account(sub="demo", claims=AT_PROVIDER)]):
        yield
