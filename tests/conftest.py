"""Fixtures: users, a client that speaks JSON, a clock that can be moved."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

import hypothesis
import pyotp
import pytest
import time_machine
from django.contrib.auth import get_user_model
from django.core.cache import cache
from django.db.models.signals import pre_save
from django.dispatch import Signal
from django.test import Client
from django.utils import translation

from tests import chromium
from tests.endpoints import check_declared

# Deadlines would fail on a busy machine; with derandomized examples, a failure is the same everywhere.
hypothesis.settings.register_profile(
    "platform_auth",
    deadline=None,
    derandomize=True,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.load_profile("platform_auth")

# Tests that use the whole machine run in one worker: two races at once would exceed PostgreSQL's default of 100
# connections.
ALONE = ("race", "browser")

PASSWORD = "correct horse battery staple"
NOW = datetime(2026, 6, 15, 12, 0, 5, tzinfo=UTC)
"""A moment to stop the clock at."""
_numbers = itertools.count(1)


class Api:
    """A client of the API: JSON in, JSON out, with the access token in a header if it has one."""

    def __init__(self, **defaults: Any) -> None:
        self.client = Client(**defaults)
        self.access_token: str | None = None
        self.refresh_token: str | None = None

    def request(self, method: str, path: str, body: Any = None, **extra: Any) -> Any:
        headers = dict(extra.pop("headers", {}))
        if self.access_token and "Authorization" not in headers:
            headers["Authorization"] = f"Bearer {self.access_token}"
        if body is not None:
            extra.setdefault("content_type", "application/json")
            extra["data"] = body
        elif method not in ("get", "head"):
            extra.setdefault("content_type", "application/json")
        response = getattr(self.client, method)(path, headers=headers, **extra)
        check_declared(method, response)
        return response

    def get(self, path: str, **extra: Any) -> Any:
        return self.request("get", path, **extra)

    def post(self, path: str, body: Any = None, **extra: Any) -> Any:
        return self.request("post", path, body, **extra)

    def delete(self, path: str, body: Any = None, **extra: Any) -> Any:
        return self.request("delete", path, body, **extra)

    def login(self, email: str, password: str = PASSWORD, **fields: Any) -> Any:
        """Log in with JSON and keep the tokens."""
        response = self.post("/auth/login", {"email": email, "password": password, **fields})
        assert response.status_code == 200, response.content
        data = response.json()["data"]
        self.access_token, self.refresh_token = data.get("access_token"), data.get("refresh_token")
        return response

    def refresh(self, token: str | None = None, **fields: Any) -> Any:
        return self.post("/auth/refresh", {"refresh_token": token or self.refresh_token, **fields})

    def refreshed(self) -> str:
        """Refresh, keep the tokens, return the refresh token."""
        response = self.refresh()
        assert response.status_code == 200, response.content
        data = response.json()["data"]
        self.access_token, self.refresh_token = data["access_token"], data["refresh_token"]
        return data["refresh_token"]  # type: ignore[no-any-return]


class Authenticator:
    """An authenticator app that isn't ours: pyotp, with the secret of an enrolment."""

    def __init__(self, secret: str) -> None:
        self.secret = secret

    def code(self, steps: int = 0) -> str:
        """Return the app's code now, or some steps of 30 seconds from now."""
        return pyotp.TOTP(self.secret).at(time.time() + 30 * steps)

    def wrong(self) -> str:
        """Return six digits that no step near this one has."""
        shown = {self.code(steps) for steps in range(-3, 4)}
        return next(digits for digits in map("{:06d}".format, range(10)) if digits not in shown)


def enrol(api: Api, password: str | None = PASSWORD) -> tuple[Authenticator, list[str]]:
    """Set up a second factor for the user of a signed-in client; return the app and the recovery codes.

    The code of the current step is spent by that.
    """
    secret = api.post("/auth/tfa/generate", {"password": password}).json()["data"]["secret"]
    app = Authenticator(secret)
    response = api.post("/auth/tfa/enable", {"secret": secret, "otp": app.code()})
    assert response.status_code == 200, response.content
    return app, response.json()["data"]["recovery_codes"]


def make_user(email: str | None = None, password: str | None = PASSWORD, **fields: Any) -> Any:
    """Create a user of the variant's user model."""
    model = get_user_model()
    number = next(_numbers)
    email = email if email is not None else f"user{number}@example.com"
    if model.USERNAME_FIELD != "email":
        fields.setdefault("username", f"user{number}")
    user = model(email=email, **fields)
    user.set_password(password)
    user.save()
    return user


@contextmanager
def unrecordable(kind: str) -> Iterator[None]:
    """Make a receiver of the host's fail at every event of one kind."""

    def refuse(*, instance: Any, **kwargs: Any) -> None:
        if instance.kind == kind:
            raise RuntimeError("refused")

    pre_save.connect(refuse, sender="platform_auth.AuthEvent")
    try:
        yield
    finally:
        pre_save.disconnect(refuse, sender="platform_auth.AuthEvent")


@contextmanager
def hearing(*listened: Signal) -> Iterator[list[dict[str, Any]]]:
    """Collect the arguments of signals, in the order in which they are sent."""
    heard: list[dict[str, Any]] = []

    def listen(**facts: Any) -> None:
        heard.append(facts)

    for signal in listened:
        signal.connect(listen)
    try:
        yield heard
    finally:
        for signal in listened:
            signal.disconnect(listen)


def code_of(response: Any) -> str:
    """Return the code of the only error of a response, and check the response's shape."""
    body = response.json()
    assert set(body) == {"errors"}, body
    (error,) = body["errors"]
    assert set(error) == {"message", "extensions"}
    assert isinstance(error["message"], str)
    return str(error["extensions"]["code"])


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        kind = next((kind for kind in ALONE if item.get_closest_marker(kind)), None)
        if kind and not item.get_closest_marker("xdist_group"):
            item.add_marker(pytest.mark.xdist_group(kind))


@pytest.fixture(autouse=True)
def _empty_cache() -> Iterator[None]:
    cache.clear()
    yield
    cache.clear()


@pytest.fixture(autouse=True)
def _language_of_the_host() -> Iterator[None]:
    """Reset the language after each test: that of a request stays active in its thread."""
    yield
    translation.deactivate()


@pytest.fixture
def configure(settings: Any) -> Callable[..., None]:
    """Set keys of PLATFORM_AUTH for one test: `configure(PASSWORD_LOGIN=False)`."""

    def change(**values: Any) -> None:
        settings.PLATFORM_AUTH = {**settings.PLATFORM_AUTH, **values}

    return change


@pytest.fixture
def clock() -> Iterator[Any]:
    """Stop the clock at NOW; `clock.shift(seconds)` moves it."""
    with time_machine.travel(NOW, tick=False) as moved:
        yield moved


@pytest.fixture
def api() -> Api:
    return Api()


@pytest.fixture
def user(db: None) -> Any:
    return make_user()


@pytest.fixture
def signed_in(user: Any, api: Api) -> Api:
    api.login(user.email)
    return api


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A headless Chromium; `chromium.new_tab` opens a tab in it."""
    with chromium.launched() as browser:
        yield browser


@pytest.fixture
def provider(settings: Any, configure: Callable[..., None]) -> Iterator[Any]:
    """A provider in a thread, at a private address without TLS, as in DEBUG."""
    from tests.identity_provider import Provider

    settings.DEBUG = True
    configure(OAUTH_PRIVATE_HOSTS=["127.0.0.1"])
    running = Provider()
    yield running
    running.stop()
