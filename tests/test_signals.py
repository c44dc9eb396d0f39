"""The signals for host projects."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import pytest
from django.contrib.auth import get_user_model
from django.contrib.auth.signals import user_logged_in, user_logged_out, user_login_failed
from django.dispatch import Signal

from platform_auth import signals
from platform_auth.caller import Caller
from platform_auth.models import OAuthIdentity, RefreshSession
from tests import life
from tests.conftest import Api
from tests.identity_provider import Provider

pytestmark = pytest.mark.django_db

ALL = {name: signal for name, signal in vars(signals).items() if isinstance(signal, Signal)}
DOCUMENTED: dict[str, dict[str, Any]] = {
    "logged_in": {"session": RefreshSession, "provider": str},
    "login_failed": {"email": str, "reason": str},
    "refreshed": {"session": RefreshSession},
    "logged_out": {"session": RefreshSession},
    "refresh_token_reused": {"session": RefreshSession},
    "password_reset_requested": {"outcome": str},
    "password_reset": {},
    "password_changed": {"session": RefreshSession},
    "factor_enabled": {},
    "factor_disabled": {"by": str},
    "identity_linked": {"identity": OAuthIdentity},
}


@contextlib.contextmanager
def heard() -> Iterator[dict[str, list[dict[str, Any]]]]:
    """Collect the arguments of all our signals."""
    calls: dict[str, list[dict[str, Any]]] = {name: [] for name in ALL}
    receivers = {}
    for name, signal in ALL.items():

        def receive(*, name: str = name, **facts: Any) -> None:
            calls[name].append(facts)

        receivers[name] = receive
        signal.connect(receive, weak=False)
    try:
        yield calls
    finally:
        for name, signal in ALL.items():
            signal.disconnect(receivers[name])


class TestSignals:
    def test_these_are_the_public_signals(self) -> None:
        assert set(ALL) == set(DOCUMENTED)

    def test_each_has_the_documented_arguments(self, provider: Provider, clock: Any) -> None:
        one = life.Life(provider, clock)
        with heard() as calls:
            one.live()

        common = {"sender", "signal", "user", "request", "client"}
        for name, documented in DOCUMENTED.items():
            assert calls[name], name
            for facts in calls[name]:
                assert set(facts) == common | set(documented), name
                assert facts["sender"] is get_user_model()
                assert isinstance(facts["client"], Caller)
                for argument, kind in documented.items():
                    assert isinstance(facts[argument], kind)
                assert not life.found_in(repr({**facts, "request": None}), one.secrets - {one.user.email})

    def test_a_failing_receiver_changes_nothing(
        self, api: Api, user: Any, caplog: pytest.LogCaptureFixture
    ) -> None:
        def fail(**facts: Any) -> None:
            raise RuntimeError("a receiver of the host")

        chosen = [*ALL.values(), user_logged_in, user_logged_out]
        for signal in chosen:
            signal.connect(fail, weak=False)
        try:
            api.login(user.email)
            api.refreshed()
            assert api.post("/auth/logout", {"refresh_token": api.refresh_token}).status_code == 204
            assert api.post("/auth/login", {"email": user.email, "password": "wrong"}).status_code == 401
        finally:
            for signal in chosen:
                signal.disconnect(fail)

        assert [record for record in caplog.records if "receiver" in record.getMessage()]

    def test_djangos_own_signals_are_sent_too(self, api: Api, user: Any) -> None:
        sent: list[str] = []
        receivers = []
        for name, signal in (("in", user_logged_in), ("out", user_logged_out), ("failed", user_login_failed)):

            def receive(*, name: str = name, **facts: Any) -> None:
                sent.append(name)

            signal.connect(receive, weak=False)
            receivers.append((signal, receive))
        try:
            api.login(user.email)
            api.post("/auth/logout", {"refresh_token": api.refresh_token})
            api.post("/auth/login", {"email": user.email, "password": "wrong"})
        finally:
            for signal, receive in receivers:
                signal.disconnect(receive)

        assert sent == ["in", "out", "failed"]
