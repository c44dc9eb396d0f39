"""Races, on the database of the variant; only PostgreSQL counts. TEST_ROUNDS scales the 20 rounds of 50 threads."""

from __future__ import annotations

import functools
import os
import threading
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from django.contrib.auth.hashers import PBKDF2PasswordHasher
from django.db import IntegrityError, connection, transaction
from django.db.backends.signals import connection_created
from django.utils import timezone

from platform_auth import db, errors, sessions
from platform_auth.models import AuthEvent, RateCounter, RefreshSession, TOTPFactor
from tests.conftest import PASSWORD, Api, make_user
from tests.racing import statuses, together

pytestmark = [pytest.mark.race, pytest.mark.django_db(transaction=True)]

THREADS = 50
ROUNDS = int(os.environ.get("TEST_ROUNDS", "20"))


@pytest.fixture(autouse=True)
def wide_limits(configure: Any) -> None:
    """Limits that these races don't reach; limits have their own tests."""
    many = "100000/m"
    configure(
        LIMITS={
            "login": {"account_and_address": many, "address": many, "account": many},
            "refresh": {"session": many},
        }
    )


@pytest.fixture(params=["as configured", "serializable"])
def isolation(request: pytest.FixtureRequest) -> Iterator[str]:
    """Run with the default isolation level and, on PostgreSQL and MariaDB, one where every conflict is an error too."""
    if request.param == "as configured":
        yield request.param
        return
    if connection.vendor == "sqlite":
        pytest.skip("SQLite has one level")
    level = "ISOLATION LEVEL SERIALIZABLE"
    statement = {
        "postgresql": f"SET SESSION CHARACTERISTICS AS TRANSACTION {level}",
        "mysql": f"SET SESSION TRANSACTION {level}",
    }[connection.vendor]

    def serialize(*, connection: Any, **kwargs: Any) -> None:
        with connection.cursor() as cursor:
            cursor.execute(statement)

    connection_created.connect(serialize)
    yield request.param
    connection_created.disconnect(serialize)
    connection.close()


def client() -> Api:
    return Api(raise_request_exception=False)


def refresh(token: str) -> Any:
    return client().post("/auth/refresh", {"refresh_token": token})


class TestOneTokenUsedByMany:
    """security.md, rows 34, 35: one rotation, one distinct successor, every token of a 200 works, no 5xx."""

    def test_all_get_the_same_successor(self, isolation: str) -> None:
        user = make_user()
        for _round in range(ROUNDS if isolation == "as configured" else max(1, ROUNDS // 4)):
            grant = sessions.open(user)
            events = AuthEvent.objects.count()

            answers = together(*[functools.partial(refresh, grant.refresh_token)] * THREADS)

            assert statuses(answers) == [200] * THREADS
            successors = {answer.json()["data"]["refresh_token"] for answer in answers}
            assert len(successors) == 1
            assert RefreshSession.objects.filter(pk=grant.session.pk).count() == 1
            # All but one were replays of the same rotation.
            assert AuthEvent.objects.count() - events == THREADS - 1
            used = refresh(successors.pop())
            assert used.status_code == 200
            api = client()
            api.access_token = answers[-1].json()["data"]["access_token"]
            assert api.get("/api/whoami").status_code == 200

    def test_every_token_of_a_200_works_if_tabs_overtake_each_other(self) -> None:
        """A token and its successor are used at the same time; every client that gets a 200 can continue."""
        user = make_user()
        for _round in range(ROUNDS):
            first = sessions.open(user).refresh_token
            second = sessions.rotate(first).refresh_token

            answers = together(
                *[functools.partial(refresh, first)] * 10, *[functools.partial(refresh, second)] * 10
            )

            assert set(statuses(answers)) <= {200, 401}
            given = {a.json()["data"]["refresh_token"] for a in answers if a.status_code == 200}
            assert given <= {second, *(a.json()["data"]["refresh_token"] for a in answers[10:])}
            newest = given - {second}
            assert len(newest) == 1
            assert RefreshSession.objects.filter(user=user).exists()
            assert refresh(newest.pop()).status_code == 200
            RefreshSession.objects.all().delete()

    def test_reuse_by_many_ends_the_session_once(self, isolation: str) -> None:
        user = make_user()
        for _round in range(max(1, ROUNDS // 4)):
            grant = sessions.open(user)
            sessions.rotate(grant.refresh_token)
            past = timezone.now() - timedelta(seconds=30)
            RefreshSession.objects.update(rotated_at=past)
            AuthEvent.objects.all().prune()

            answers = together(*[functools.partial(refresh, grant.refresh_token)] * 20)

            assert statuses(answers) == [401] * 20
            assert not RefreshSession.objects.exists()
            assert AuthEvent.objects.filter(kind="refresh_reused").count() == 1

    def test_the_limit_counts_a_request_once_even_if_it_is_retried(self, configure: Any) -> None:
        configure(LIMITS={"refresh": {"session": f"{THREADS}/h"}})
        grant = sessions.open(make_user())

        answers = together(*[functools.partial(refresh, grant.refresh_token)] * THREADS)

        assert statuses(answers) == [200] * THREADS


class TestLogoutAgainstRefreshes:
    """security.md, row 47: after a logout has answered, no token of the session works."""

    @pytest.mark.parametrize("ending", ["logout", "session list"])
    def test_no_token_works_afterwards(self, isolation: str, ending: str) -> None:
        user = make_user()
        for _round in range(ROUNDS):
            grant = sessions.open(user)
            other = sessions.open(user)

            def end(grant: Any = grant, other: Any = other) -> Any:
                api = client()
                if ending == "logout":
                    return api.post("/auth/logout", {"refresh_token": grant.refresh_token})
                api.access_token = other.access_token
                return api.delete(f"/auth/sessions/{grant.session.pk}")

            answers = together(*[functools.partial(refresh, grant.refresh_token)] * 4, end)

            assert answers[-1].status_code == 204
            assert set(statuses(answers[:-1])) <= {200, 401}
            assert not RefreshSession.objects.filter(pk=grant.session.pk).exists()
            for answer in answers[:-1]:
                if answer.status_code == 200:
                    data = answer.json()["data"]
                    assert refresh(data["refresh_token"]).status_code == 401
                    api = client()
                    api.access_token = data["access_token"]
                    assert api.get("/api/whoami").status_code == 401


class TestLoginAgainstAChangeOfTheUser:
    """security.md, row 27: the second of two concurrent changes sees the first, so no session is left over."""

    LOGINS = 6

    @pytest.fixture
    def allowed(self, isolation: str) -> set[int]:
        """The statuses that a login may answer: 503 only if all writers of the user's row conflict by definition."""
        return {200, 401} if isolation == "as configured" else {200, 401, 503}

    def race(self, user: Any, change: Any) -> list[Any]:
        # A login takes some time for the hash; the change happens at another moment of that time in each round.
        delay = threading.Event()

        def login() -> Any:
            return client().post("/auth/login", {"email": user.email, "password": PASSWORD})

        def changing() -> Any:
            delay.wait(self.pause)
            return change()

        return together(*[login] * self.LOGINS, changing)[:-1]

    @pytest.fixture(autouse=True, params=[0, 0.004, 0.01])
    def _pause(self, request: pytest.FixtureRequest) -> None:
        self.pause = request.param

    def test_the_password_is_changed(self, allowed: set[int]) -> None:
        for _round in range(max(1, ROUNDS // 2)):
            user = make_user()
            other = type(user)()
            other.set_password("another password")

            def change(user: Any = user, other: Any = other) -> None:
                with transaction.atomic():
                    type(user).objects.filter(pk=user.pk).update(password=other.password)
                    sessions.revoke_all(user)

            answers = self.race(user, functools.partial(retrying, change))

            assert set(statuses(answers)) <= allowed
            assert not RefreshSession.objects.filter(user=user).exists()

    def test_the_user_is_deactivated(self, allowed: set[int]) -> None:
        for _round in range(max(1, ROUNDS // 2)):
            user = make_user()

            def change(user: Any = user) -> None:
                with transaction.atomic():
                    type(user).objects.filter(pk=user.pk).update(is_active=False)
                    sessions.revoke_all(user)

            answers = self.race(user, functools.partial(retrying, change))

            assert set(statuses(answers)) <= allowed
            assert not RefreshSession.objects.filter(user=user).exists()

    def test_a_factor_is_turned_on(self, allowed: set[int]) -> None:
        for _round in range(max(1, ROUNDS // 2)):
            user = make_user()

            def change(user: Any = user) -> None:
                with transaction.atomic():
                    type(user).objects.filter(pk=user.pk, password=user.password).update(
                        password=user.password
                    )
                    factor = TOTPFactor(user=user, name="app", confirmed=True)
                    factor.secret = "JBSWY3DPEHPK3PXPJBSWY3DPEHPK3PXP"
                    factor.save()
                    sessions.revoke_all(user)

            answers = self.race(user, functools.partial(retrying, change))

            assert set(statuses(answers)) <= allowed
            assert not RefreshSession.objects.filter(user=user).exists()

    def test_the_user_is_deleted(self) -> None:
        for _round in range(max(1, ROUNDS // 4)):
            user = make_user()
            pk = user.pk

            answers = self.race(user, functools.partial(retrying, lambda user=user: delete(user)))

            assert set(statuses(answers)) <= {200, 401}
            assert not RefreshSession.objects.filter(user_id=pk).exists()


def delete(user: Any) -> None:
    """Delete a user as Django does; again if a session was inserted between its statements."""
    for _attempt in range(10):
        try:
            type(user).objects.filter(pk=user.pk).delete()
        except IntegrityError:
            continue
        return


def retrying(change: Any) -> None:
    """Run a host's transaction, and retry it if the database gave up."""
    for _attempt in range(20):
        try:
            return db.retried(change)()
        except errors.ServiceUnavailable:
            continue
    raise AssertionError("never got through")


class TestUpgradedHash:
    """security.md, row 9: concurrent logins that upgrade the hash all succeed, and undo no password change of the
    owner.
    """

    def test_concurrent_logins_succeed(self) -> None:
        for _round in range(max(1, ROUNDS // 4)):
            user = make_user()
            weak = PBKDF2PasswordHasher().encode(PASSWORD, "saltsaltsalt", iterations=1000)
            type(user).objects.filter(pk=user.pk).update(password=weak)

            answers = together(
                *[lambda user=user: client().post("/auth/login", {"email": user.email, "password": PASSWORD})]
                * 8
            )

            assert statuses(answers) == [200] * 8
            assert type(user).objects.get(pk=user.pk).password.startswith("argon2")


class TestParallelGuesses:
    """security.md, row 113: attempts are counted before the check, in one step."""

    def test_of_200_at_once_no_more_than_the_limit_are_checked(self, configure: Any) -> None:
        configure(LIMITS={"login": {"account_and_address": "5/h", "address": "1000/h", "account": "1000/h"}})
        user = make_user()

        def guesses() -> list[Any]:
            return [
                client().post("/auth/login", {"email": user.email, "password": f"guess {number}"})
                for number in range(5)
            ]

        answers = [answer for some in together(*[guesses] * 40) for answer in some]

        assert statuses(answers) == [401] * 5 + [429] * 195
        assert AuthEvent.objects.filter(kind="login_failed").count() == 5
        assert AuthEvent.objects.filter(kind="login_limited").count() == 1

    def test_the_same_holds_for_counters_in_the_database(self, settings: Any, configure: Any) -> None:
        settings.CACHES = {"default": {"BACKEND": "django.core.cache.backends.dummy.DummyCache"}}
        self.test_of_200_at_once_no_more_than_the_limit_are_checked(configure)

        assert RateCounter.objects.exists()
