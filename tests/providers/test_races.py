"""Provider login, many at the same time: the database decides."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from django.contrib.auth import get_user_model
from django.db import connection

from platform_auth.models import OAuthIdentity, RefreshSession
from tests.conftest import Api, enrol
from tests.flows import Browser, add_provider
from tests.identity_provider import Provider
from tests.racing import disconnecting, meanwhile, statuses, together

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.race]


def copies(browser: Browser, count: int) -> list[Browser]:
    """Return several browsers with the cookies of one."""
    made = [Browser() for _ in range(count)]
    for copy in made:
        copy.client.cookies = browser.client.cookies.copy()
    return made


WORKER = """
import sys
import django
django.setup()
from django.conf import settings
from django.test import Client
settings.DEBUG = True
settings.PLATFORM_AUTH = {**settings.PLATFORM_AUTH, "OAUTH_PRIVATE_HOSTS": ["127.0.0.1"]}
for path in sys.stdin:
    response = Client().get(path.strip())
    print(response.status_code, response.get("Location") or response.json(), flush=True)
"""


class Worker:
    """Another process of the site with the test's database and its own caches."""

    def __init__(self) -> None:
        settings = {
            "DJANGO_SETTINGS_MODULE": "tests.crash_settings",
            "CRASH_DATABASE": str(connection.settings_dict["NAME"]),
        }
        self.process = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", WORKER],
            cwd=Path(__file__).parent.parent.parent, env={**os.environ, **settings},
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        )  # fmt: skip

    def get(self, path: str) -> tuple[int, str]:
        """Return the status of a GET, and its Location or body."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        print(path, file=self.process.stdin, flush=True)
        status, _blank, rest = self.process.stdout.readline().partition(" ")
        return int(status), rest.strip()

    def stop(self) -> None:
        self.process.communicate(timeout=30)


@pytest.mark.slow
class TestSecondProcess:
    """security.md, row 89: a change by an admin in one process takes effect at once in all."""

    @pytest.fixture
    def worker(self) -> Iterator[Worker]:
        running = Worker()
        yield running
        running.stop()

    @pytest.fixture
    def other(self) -> Iterator[Provider]:
        running = Provider()
        yield running
        running.stop()

    def test_an_edit_takes_effect_at_once(self, worker: Worker, provider: Provider, other: Provider) -> None:
        row = add_provider(provider)
        for _ in range(2):
            status, location = worker.get("/auth/oauth/demo")
            assert (status, location.partition("?")[0]) == (302, f"{provider.issuer}/authorize")
        assert provider.calls["/.well-known/openid-configuration"] == 1, "the worker keeps it"

        row.issuer, row.client_id = other.issuer, "client-2"
        row.save()

        status, location = worker.get("/auth/oauth/demo")
        assert (status, location.partition("?")[0]) == (302, f"{other.issuer}/authorize")
        assert "client_id=client-2" in location
        assert provider.calls["/.well-known/openid-configuration"] == 1

    @pytest.mark.parametrize("way", ["disable", "delete"])
    def test_disabling_or_deleting_takes_effect_at_once(
        self, way: str, worker: Worker, provider: Provider
    ) -> None:
        row = add_provider(provider)
        assert worker.get("/auth/oauth/demo")[0] == 302

        if way == "disable":
            row.enabled = False
            row.save()
        else:
            row.delete()

        assert worker.get("/auth/oauth/demo")[0] == 404
        assert worker.get("/auth/oauth") == (200, "{'public': True, 'data': []}")


class TestSimultaneous:
    def test_one_callback_succeeds_and_one_code_is_sent(self, provider: Provider) -> None:
        """security.md, row 85."""
        add_provider(provider, may_create_users=True)
        browser = Browser()
        parameters = provider.authorize(browser.start()["Location"])

        answers = together(*(lambda b=b: b.callback(parameters) for b in copies(browser, 8)))  # type: ignore[misc]

        assert statuses(answers) == [200] + [400] * 7
        assert provider.calls["/token"] == 1
        assert RefreshSession.objects.count() == 1

    def test_the_first_logins_of_one_person_create_one_account(self, provider: Provider) -> None:
        add_provider(provider, may_create_users=True)

        answers = together(*(lambda: Browser().log_in(provider) for _ in range(6)))

        assert statuses(answers) == [200] * 6
        assert get_user_model().objects.count() == OAuthIdentity.objects.count() == 1

    def test_two_people_with_one_address_do_not_share_an_account(self, provider: Provider) -> None:
        add_provider(provider, "a", may_create_users=True)
        add_provider(provider, "b", may_create_users=True)

        answers = together(
            lambda: Browser().log_in(provider, key="a"),
            lambda: Browser().log_in(provider, key="b"),
        )

        assert statuses(answers) == [200, 403]
        assert get_user_model().objects.count() == 1

    def test_the_only_sign_in_method_stays(self, provider: Provider) -> None:
        add_provider(provider, may_create_users=True)
        token = Browser().log_in(provider).json()["data"]["access_token"]
        first = OAuthIdentity.objects.get()
        second = OAuthIdentity.objects.create(
            user=first.user, provider=add_provider(provider, "b"), subject="1"
        )

        def unlink(identity: OAuthIdentity) -> Any:
            api = Api()
            api.access_token = token
            return api.delete(f"/auth/identities/{identity.pk}")

        answers = together(lambda: unlink(first), lambda: unlink(second))

        assert statuses(answers) == [204, 400]
        assert OAuthIdentity.objects.count() == 1

    def test_a_pending_login_is_finished_once(self, signed_in: Api, user: Any, provider: Provider) -> None:
        _app, codes = enrol(signed_in)
        row = add_provider(provider)
        OAuthIdentity.objects.create(user=user, provider=row, issuer=provider.issuer, subject="subject-1")
        RefreshSession.objects.all().delete()
        browser = Browser()
        browser.log_in(provider)

        def finish(copy: Browser, code: str) -> Any:
            return copy.post("/auth/oauth/demo/otp", {"otp": code}, content_type="application/json")

        pairs = zip(copies(browser, 5), codes, strict=False)
        answers = together(*(lambda pair=pair: finish(*pair) for pair in pairs))  # type: ignore[misc]

        assert statuses(answers) == [200] + [400] * 4
        assert RefreshSession.objects.count() == 1


def wait_until_blocking() -> None:
    """Return as soon as another connection waits for a lock of this one's transaction."""
    deadline = time.monotonic() + 30
    blocked = (
        "SELECT count(*) FROM pg_locks WHERE NOT granted AND pg_backend_pid() = ANY(pg_blocking_pids(pid))"
    )
    with connection.cursor() as cursor:
        while time.monotonic() < deadline:
            cursor.execute(blocked)
            if cursor.fetchone() != (0,):
                return
            time.sleep(0.05)
    raise AssertionError("nobody waits for this transaction")


@pytest.mark.skipif(connection.vendor != "postgresql", reason="pg_locks tells when the emptying waits")
class TestEmptyingDuringALink:
    def test_an_account_linked_at_that_moment_is_removed_too(
        self, signed_in: Api, user: Any, provider: Provider
    ) -> None:
        """security.md, row 95: a squatter's session has linked but not committed when the owner of the address
        arrives.
        """
        add_provider(provider, "squatters")
        add_provider(provider, "owners", email_linking="unproven")
        provider.claims |= {"email": user.email}
        url = signed_in.post("/auth/oauth/squatters/link", {}).json()["data"]["url"]
        parameters = provider.authorize(url)

        with ThreadPoolExecutor(1) as pool:
            arrivals = []

            def let_the_owner_arrive() -> None:
                owner = Browser()
                arrivals.append(pool.submit(disconnecting, lambda: owner.log_in(provider, key="owners")))
                wait_until_blocking()

            with meanwhile(let_the_owner_arrive, after="INSERT", of=OAuthIdentity):
                linked = signed_in.get("/auth/oauth/squatters/callback", data=parameters)
            (arrived,) = (arrival.result(60) for arrival in arrivals)

        assert (linked.status_code, arrived.status_code) == (204, 200)
        assert [identity.provider.key for identity in OAuthIdentity.objects.all()] == ["owners"]
        assert [session.provider for session in RefreshSession.objects.all()] == ["owners"]
