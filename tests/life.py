"""A run through everything that the package does, which keeps all secrets that were issued on the way."""

from __future__ import annotations

import base64
import contextlib
import logging
from collections.abc import Iterator
from io import StringIO
from typing import Any
from urllib.parse import parse_qsl, quote, urlsplit

from django.apps import apps
from django.contrib import admin
from django.contrib.auth import get_user_model
from django.contrib.auth.models import Group, Permission
from django.core import mail
from django.core.management import call_command
from django.db import connection
from django.test import Client
from django.urls import reverse

from platform_auth.models import AuthEvent, RefreshSession, TOTPFactor
from tests.conftest import PASSWORD, Api, enrol, make_user
from tests.emails import token_of
from tests.flows import Browser, add_provider
from tests.identity_provider import CLIENT_SECRET, Provider

NEW_PASSWORD = "plenty of violet umbrellas"
LAST_PASSWORD = "seven quiet lighthouses"
WRONG_PASSWORD = "wrong as can be, and typed by somebody"
USER_AGENT = "Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0"


class Life:
    """Issues secrets and keeps them: `secrets` could be used once, `digests` may only be in the database."""

    def __init__(self, provider: Provider, clock: Any) -> None:
        self.provider, self.clock = provider, clock
        self.secrets: set[str] = {CLIENT_SECRET, PASSWORD, NEW_PASSWORD, LAST_PASSWORD, WRONG_PASSWORD}
        self.digests: set[str] = set()
        self.user = make_user("person@example.org")
        self.admin = make_user("admin@example.org", is_staff=True, is_superuser=True)

    def api(self) -> Api:
        return Api(HTTP_USER_AGENT=USER_AGENT)

    def keep(self, response: Any) -> Any:
        """Remember every token of a response: in body, cookies and Location."""
        if "json" in response.headers.get("Content-Type", ""):
            data = response.json().get("data")
            if isinstance(data, dict):
                for name in ("access_token", "refresh_token", "secret", "otpauth_url"):
                    self.secrets |= {data[name]} if name in data else set()
                self.secrets |= set(data.get("recovery_codes", ()))
        self.secrets |= {cookie.value for cookie in response.cookies.values() if len(cookie.value) > 20}
        for name, value in parse_qsl(urlsplit(response.headers.get("Location", "")).query):
            self.secrets |= {value} if name in ("state", "nonce", "code") else set()
        return response

    def live(self) -> None:
        """Do everything. Each step asserts its result."""
        self.sessions()
        self.passwords()
        self.factor()
        self.provider_log_ins()
        self.admins()
        for session in RefreshSession.objects.all():
            self.digests |= {session.digest, str(session.key), session.key.hex}
        self.digests |= set(TOTPFactor.objects.values_list("sealed_secret", flat=True))
        self.secrets |= set(self.provider.secrets_issued)

    def sessions(self) -> None:
        """Log in, refresh, replay, reuse, log out, fail, run into limits."""
        api = self.api()
        first = self.keep(api.login(self.user.email)).json()["data"]["refresh_token"]
        self.keep(api.refresh(first))
        assert self.keep(api.refresh(first)).status_code == 200
        self.clock.shift(30)
        assert api.refresh(first).status_code == 401
        self.keep(api.login(self.user.email))
        self.clock.shift(-20)
        api.refresh(api.refresh_token)
        self.clock.shift(-600)
        spent = api.refresh_token
        api.refresh(spent)
        self.clock.shift(620)
        browser = self.api()
        self.keep(browser.post("/auth/login", self.credentials(mode="session")))
        self.keep(browser.post("/auth/refresh", {"mode": "session"}))
        assert browser.post("/auth/logout").status_code == 204
        self.keep(api.login(self.user.email))
        other = self.api()
        self.keep(other.login(self.user.email))
        other.delete("/auth/sessions")
        for _attempt in range(7):
            api.post("/auth/login", self.credentials(password=WRONG_PASSWORD))
        self.clock.shift(120)
        for _attempt in range(62):
            self.keep(other.refresh())
        self.clock.shift(3600)

    def passwords(self) -> None:
        """Request a reset, use it, fail with it, run into its limit, change the password."""
        api = self.api()
        assert api.post("/auth/password/request", {"email": self.user.email}).status_code == 204
        token = token_of(mail.outbox[-1])
        self.secrets.add(token)
        assert api.post("/auth/password/reset", {"token": token, "password": NEW_PASSWORD}).status_code == 204
        assert api.post("/auth/password/reset", {"token": token, "password": NEW_PASSWORD}).status_code == 401
        for _attempt in range(22):
            api.post("/auth/password/request", {"email": self.user.email})
        self.secrets |= {token_of(message) for message in mail.outbox if "token=" in str(message.body)}
        self.keep(api.login(self.user.email, NEW_PASSWORD))
        fields = {"current_password": WRONG_PASSWORD, "password": LAST_PASSWORD}
        assert api.post("/auth/password/change", fields).status_code == 401
        fields["current_password"] = NEW_PASSWORD
        assert api.post("/auth/password/change", fields).status_code == 204
        self.clock.shift(3600)

    def factor(self) -> None:
        """Set up a second factor, use it, guess codes, use and renew recovery codes, remove it."""
        api = self.api()
        self.keep(api.login(self.user.email, LAST_PASSWORD))
        app, codes = enrol(api, LAST_PASSWORD)
        self.secrets |= {app.secret, *codes, *(code.replace("-", "") for code in codes)}
        self.clock.shift(60)
        self.keep(api.login(self.user.email, LAST_PASSWORD, otp=app.code()))
        for _attempt in range(11):
            self.clock.shift(20)
            api.post("/auth/login", self.credentials(password=LAST_PASSWORD, otp=app.wrong()))
        self.clock.shift(3600)
        self.keep(api.login(self.user.email, LAST_PASSWORD, otp=codes[0]))
        fields = {"password": LAST_PASSWORD, "otp": app.code()}
        assert self.keep(api.post("/auth/tfa/recovery-codes", fields)).status_code == 200
        self.clock.shift(60)
        assert api.post("/auth/tfa/disable", {"otp": app.code()}).status_code == 204

    def provider_log_ins(self) -> None:
        """Create an account with a provider, be refused, link and unlink a provider account."""
        row = add_provider(self.provider, may_create_users=True)
        self.secrets.add(row.client_secret)
        browser = Browser()
        assert self.keep(browser.log_in(self.provider)).status_code == 200
        self.keep(browser.start())
        assert browser.callback({"error": "access_denied", "state": "s" * 40}).status_code in (400, 401)
        api = self.api()
        self.keep(api.login(self.user.email, LAST_PASSWORD))
        self.provider.claims = {"sub": "subject-2", "email": "other@example.com", "email_verified": True}
        started = self.keep(api.post("/auth/oauth/demo/link"))
        parameters = self.provider.authorize(started.json()["data"]["url"])
        answer = self.keep(api.get("/auth/oauth/demo/callback", data=parameters))
        assert answer.status_code == 204, answer.content
        (identity,) = api.get("/auth/identities").json()["data"]
        assert api.delete(f"/auth/identities/{identity['id']}").status_code == 204
        parameters = self.provider.authorize(browser.start()["Location"])
        self.provider.codes.clear()
        assert browser.callback(parameters).status_code in (401, 503)
        # Left over for the admin's pages.
        enrol_by, codes = enrol(api, LAST_PASSWORD)
        self.secrets |= {enrol_by.secret, *codes}

    def admins(self) -> None:
        """End a session, give the public role a permission, delete an account."""
        client = Client(HTTP_USER_AGENT=USER_AGENT)
        client.force_login(self.admin)
        session = RefreshSession.objects.first()
        assert session is not None
        data = {"action": "end_sessions", "_selected_action": str(session.pk)}
        client.post(reverse("admin:platform_auth_refreshsession_changelist"), data)
        options = get_user_model()._meta
        gone = make_user()
        url = reverse(f"admin:{options.app_label}_{options.model_name}_delete", args=[gone.pk])
        assert client.post(url, {"post": "yes"}).status_code == 302
        Group.objects.create(name="Public").permissions.set(Permission.objects.filter(codename="view_note"))

    def credentials(self, password: str = PASSWORD, **fields: str) -> dict[str, str]:
        return {"email": self.user.email, "password": password, **fields}


# Places where a secret could have been left


@contextlib.contextmanager
def log_of_everything() -> Iterator[StringIO]:
    """Collect everything that any logger logs at DEBUG: messages, arguments, `extra` and tracebacks."""
    text = StringIO()

    class Everything(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            text.write(self.format(record) + repr(vars(record)) + "\n")

    handler, root = Everything(), logging.getLogger()
    levels = {name: logging.getLogger(name).level for name in ("", "django", "platform_auth", "urllib3")}
    before = {name: logger.propagate for name, logger in _loggers()}
    root.addHandler(handler)
    for name in levels:
        logging.getLogger(name).setLevel(logging.DEBUG)
    for _name, logger in _loggers():
        logger.propagate = True
    try:
        yield text
    finally:
        root.removeHandler(handler)
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)
        for name, logger in _loggers():
            logger.propagate = before.get(name, True)


def database_dump() -> str:
    """Return every row of every table."""
    lines = []
    with connection.cursor() as cursor:
        for table in connection.introspection.table_names(cursor):
            cursor.execute(f"SELECT * FROM {connection.ops.quote_name(table)}")
            lines += [repr(row) for row in cursor.fetchall()]
    return "\n".join(lines)


def fixtures_dump() -> str:
    out = StringIO()
    call_command("dumpdata", stdout=out)
    return out.getvalue()


def admin_pages(user: Any) -> str:
    """Return the list and the page of every row of every registered model."""
    client = Client()
    client.force_login(user)
    pages = [client.get(reverse("admin:index")), client.get(reverse("admin:platform_auth_exposure"))]
    for model in filter(admin.site.is_registered, apps.get_models()):
        name = f"admin:{model._meta.app_label}_{model._meta.model_name}"
        pages.append(client.get(reverse(f"{name}_changelist")))
        for row in model._default_manager.all()[:200]:
            pages.append(client.get(reverse(f"{name}_change", args=[row.pk])))
            pages.append(client.get(reverse(f"{name}_history", args=[row.pk])))
    assert {page.status_code for page in pages} == {200}
    return "\n".join(page.content.decode() for page in pages)


def found_in(text: str, secrets: set[str]) -> set[str]:
    """Return the secrets that a text contains, in plain or encoded form."""
    return {secret for secret in secrets if any(form in text for form in _forms(secret))}


def _forms(secret: str) -> set[str]:
    raw = secret.encode()
    encoded = base64.b64encode(raw).decode().rstrip("=")
    return {secret, quote(secret, safe=""), repr(secret)[1:-1], encoded, raw.hex()}


def _loggers() -> list[tuple[str, logging.Logger]]:
    known = logging.root.manager.loggerDict.items()
    return [(name, logger) for name, logger in known if isinstance(logger, logging.Logger)]


def kinds() -> set[str]:
    return set(AuthEvent.objects.values_list("kind", flat=True))


def account(email: str) -> Any:
    return get_user_model().objects.get(email=email)
