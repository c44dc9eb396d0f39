"""The second factor under load: the database decides, not the order in which threads happen to run.

Threads with their own connections to a real database, through the whole HTTP stack. TEST_DATABASE chooses the
database, TEST_ROUNDS the number of rounds.
"""

from __future__ import annotations

import functools
import os
import threading
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
from django.db import connection, connections, transaction
from django.db.models.signals import post_delete
from django.test.utils import CaptureQueriesContext

from platform_auth import errors, sessions
from platform_auth.models import (
    AuthEvent,
    FailedCode,
    PendingFactor,
    RecoveryCode,
    RefreshSession,
    TOTPFactor,
)
from platform_auth.second_factor import enrolment, verification
from tests.conftest import PASSWORD, Api, Authenticator, enrol, make_user, unrecordable
from tests.racing import disconnecting, refused, together

pytestmark = [pytest.mark.race, pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("clock")]

THREADS = 20
ROUNDS = int(os.environ.get("TEST_ROUNDS", "50"))
NO_LOGIN_LIMITS = {"address": "100000/m", "account_and_address": "100000/m", "account": "100000/h"}


@pytest.fixture(autouse=True)
def _no_login_limits(configure: Any) -> None:
    configure(LIMITS={"login": NO_LOGIN_LIMITS})


@pytest.fixture(params=[False, True], ids=["", "atomic requests"])
def atomic_requests(request: Any) -> Iterator[bool]:
    """Run with ATOMIC_REQUESTS off and on."""
    before = connection.settings_dict["ATOMIC_REQUESTS"]
    connections.settings["default"]["ATOMIC_REQUESTS"] = request.param
    yield request.param
    connections.settings["default"]["ATOMIC_REQUESTS"] = before


def tally(answers: list[Any]) -> Counter[Any]:
    """Count status codes."""
    return Counter(answer.status_code for answer in answers)


def log_in(user: Any, otp: str) -> Any:
    return Api().post("/auth/login", {"email": user.email, "password": PASSWORD, "otp": otp})


class TestOneCode:
    """security.md, row 10 (ASVS 6.5.1): a code is accepted once."""

    def test_twenty_logins_with_one_code_open_one_session(
        self, user: Any, clock: Any, atomic_requests: bool
    ) -> None:
        api = Api()
        api.login(user.email)
        app, _codes = enrol(api)

        for _ in range(ROUNDS):
            clock.shift(30)
            FailedCode.objects.all().delete()
            before = RefreshSession.objects.count()
            otp = app.code()

            answers = together(*[lambda otp=otp: log_in(user, otp)] * THREADS)

            counts = tally(answers)
            assert counts[200] == 1, counts
            assert set(counts) <= {200, 401, 429}, counts
            assert RefreshSession.objects.count() == before + 1

    def test_twenty_stale_copies_of_the_factor_accept_one_code_once(self, user: Any, clock: Any) -> None:
        """Without a lock: only the conditional UPDATE decides."""
        factor = TOTPFactor(user=user)
        factor.secret = "JBSWY3DPEHPK3PXPJBSWY3DPEHPK3PXP"
        factor.save()
        app = Authenticator(factor.secret)

        for _ in range(ROUNDS):
            clock.shift(30)
            otp = app.code()
            copies = [TOTPFactor.objects.get() for _ in range(THREADS)]

            answers = together(*[lambda copy=copy, otp=otp: copy.spend(otp) for copy in copies])

            assert Counter(answers) == {True: 1, False: THREADS - 1}

    def test_twenty_logins_with_one_recovery_code_open_one_session(
        self, user: Any, atomic_requests: bool
    ) -> None:
        """security.md, row 19."""
        api = Api()
        api.login(user.email)
        enrol(api)

        for _ in range(-(-ROUNDS // verification.RECOVERY_CODES)):
            raw_codes = verification.new_recovery_codes()
            verification.replace_recovery_codes(user, raw_codes)
            for raw_code in raw_codes:
                before = RefreshSession.objects.count()

                answers = together(*[lambda raw_code=raw_code: log_in(user, raw_code)] * THREADS)

                assert tally(answers) == {200: 1, 401: THREADS - 1}
                assert RefreshSession.objects.count() == before + 1


class Elsewhere:
    """A host's router that puts everything into another database than the default one."""

    def db_for_read(self, model: Any, **hints: Any) -> str:
        return "elsewhere"

    db_for_write = db_for_read

    def allow_relation(self, *args: Any, **hints: Any) -> bool:
        return True


class TestAnotherDatabase:
    """Users and factors in another database than `default`, in which django-otp opens its transaction."""

    @pytest.fixture
    def elsewhere(self, settings: Any) -> Iterator[str]:
        # The same tables through a second connection: what matters is whose transaction it is.
        connections.settings["elsewhere"] = {**connections.settings["default"]}
        # Before Django's test case checks it, which doesn't know this alias.
        connections["elsewhere"].connect()
        settings.DATABASE_ROUTERS = [f"{__name__}.Elsewhere"]
        yield "elsewhere"
        connections["elsewhere"].close()
        del connections["elsewhere"]
        del connections.settings["elsewhere"]

    def test_a_code_logs_in_once(self, user: Any, clock: Any, elsewhere: str) -> None:
        api = Api()
        api.login(user.email)
        app, _codes = enrol(api)
        clock.shift(30)

        assert log_in(user, app.wrong()).status_code == 401
        assert log_in(user, app.code()).status_code == 200
        assert log_in(user, app.code()).status_code == 401

    def test_a_code_is_checked_while_its_row_is_locked(self, user: Any, clock: Any, elsewhere: str) -> None:
        if not connections[elsewhere].features.has_select_for_update:
            pytest.skip("this database has no row locks")
        factor = TOTPFactor(user=user)
        factor.secret = "JBSWY3DPEHPK3PXPJBSWY3DPEHPK3PXP"
        factor.save()

        with (
            CaptureQueriesContext(connections[elsewhere]) as captured,
            pytest.raises(errors.InvalidOTP),
            transaction.atomic(using=elsewhere),
        ):
            verification.verify(user, Authenticator(factor.secret).wrong())

        assert [query for query in captured.captured_queries if "FOR UPDATE" in query["sql"]]


@pytest.mark.slow
class TestGuesses:
    """security.md, row 13 (Keycloak GHSA-85v8-vx4w-q684): as many parallel guesses are checked as serial ones."""

    def test_of_a_thousand_wrong_codes_ten_are_checked(self, user: Any, atomic_requests: bool) -> None:
        api = Api()
        api.login(user.email)
        app, _codes = enrol(api)
        wrong = app.wrong()

        def guess() -> Counter[int]:
            return Counter(log_in(user, wrong).status_code for _ in range(1000 // THREADS))

        answers = together(*[guess] * THREADS)

        counts = sum(answers, Counter())
        assert counts == {401: 10, 429: 990}
        assert AuthEvent.objects.filter(kind="factor_failed").count() == 10
        assert AuthEvent.objects.filter(kind="factor_limited").count() == 1
        assert FailedCode.objects.count() == 10
        assert log_in(user, app.code(1)).status_code == 429


class TestFailingEvent:
    """security.md, row 13: no rollback undoes a count."""

    def test_a_wrong_code_still_counts(self, user: Any, clock: Any, atomic_requests: bool) -> None:
        """If a failing receiver of the host's undid the count, guesses would be free."""
        api = Api()
        api.login(user.email)
        app, _codes = enrol(api)

        with unrecordable("factor_failed"):
            answers = [log_in(user, app.wrong()).status_code for _ in range(11)]

        assert answers == [401] * 10 + [429]
        assert FailedCode.objects.count() == 10

    def test_a_wrong_code_counts_if_the_database_refuses_its_event(self, user: Any, clock: Any) -> None:
        """PostgreSQL rolls back the whole transaction in which a statement failed."""
        api = Api()
        api.login(user.email)
        app, _codes = enrol(api)

        with refused(at="INSERT", of=AuthEvent):
            assert log_in(user, app.wrong()).status_code == 401

        assert FailedCode.objects.count() == 1


class TestPolicy:
    """Refreshes while a factor is added and removed."""

    def test_session_and_factor_agree_in_the_end(self, configure: Any, clock: Any) -> None:
        configure(TFA_REQUIRED_FOR_STAFF=True)
        user = make_user(is_staff=True)
        enrolled = False

        def refreshes(token: str) -> None:
            for _ in range(5):
                token = sessions.rotate(token).refresh_token

        for _ in range(ROUNDS):
            clock.shift(30)
            grant = sessions.open(user, amr=("pwd", "otp"))
            api = Api()
            api.access_token = grant.access_token
            change = (
                functools.partial(enrolment.reset_by_admin, user)
                if enrolled
                else functools.partial(enrol, api)
            )
            enrolled = not enrolled

            together(change, functools.partial(refreshes, grant.refresh_token))

            assert RefreshSession.objects.get(pk=grant.session.pk).tfa_required is not enrolled


class TestEnrolment:
    """Races while the factor is turned on."""

    def test_ten_confirmations_of_one_secret_turn_it_on_once(self, db: None) -> None:
        for _ in range(max(1, ROUNDS // 10)):
            FailedCode.objects.all().delete()
            api = Api()
            api.login(make_user().email)
            before = TOTPFactor.objects.count()
            secret = api.post("/auth/tfa/generate", {"password": PASSWORD}).json()["data"]["secret"]
            body = {"secret": secret, "otp": Authenticator(secret).code()}

            answers = together(*[lambda api=api, body=body: api.post("/auth/tfa/enable", body)] * 10)

            assert tally(answers) == {200: 1, 400: 9}
            assert TOTPFactor.objects.count() == before + 1
            assert RecoveryCode.objects.count() == verification.RECOVERY_CODES * (before + 1)

    def test_of_ten_concurrent_secrets_the_pending_one_is_confirmed(self, user: Any) -> None:
        api = Api()
        api.login(user.email)

        answers = together(*[lambda: api.post("/auth/tfa/generate", {"password": PASSWORD})] * 10)

        assert tally(answers) == {200: 10}
        assert PendingFactor.objects.count() == 1
        assert PendingFactor.objects.get().secret in {answer.json()["data"]["secret"] for answer in answers}

    def test_a_concurrent_login_never_keeps_a_session_without_the_factor(self, db: None) -> None:
        """A login that verified the password before the factor was on is refused, or its session is ended."""
        for _ in range(ROUNDS):
            FailedCode.objects.all().delete()
            user = make_user()
            api = Api()
            api.login(user.email)
            secret = api.post("/auth/tfa/generate", {"password": PASSWORD}).json()["data"]["secret"]
            body = {"secret": secret, "otp": Authenticator(secret).code()}
            credentials = {"email": user.email, "password": PASSWORD}

            answers = together(
                lambda api=api, body=body: api.post("/auth/tfa/enable", body),
                *[lambda credentials=credentials: Api().post("/auth/login", credentials)] * 7,
            )

            assert answers[0].status_code == 200, answers
            assert set(tally(answers)) <= {200, 401}, tally(answers)
            assert [session.amr.split() for session in RefreshSession.objects.filter(user=user)] == [
                ["pwd", "otp"]
            ]

    def test_a_login_between_its_last_statement_and_its_commit_is_refused(self, user: Any) -> None:
        """The lock on the user's row makes the login wait until it can see the factor."""
        api, other = Api(), Api()
        api.login(user.email)
        other.login(user.email)
        secret = api.post("/auth/tfa/generate", {"password": PASSWORD}).json()["data"]["secret"]
        late: list[Any] = []

        def log_in_late() -> None:
            late.append(Api().post("/auth/login", {"email": user.email, "password": PASSWORD}))

        thread = threading.Thread(target=disconnecting, args=(log_in_late,))

        def meanwhile(**_facts: Any) -> None:
            thread.start()
            thread.join(1.5)

        post_delete.connect(meanwhile, sender=RefreshSession)
        try:
            body = {"secret": secret, "otp": Authenticator(secret).code()}
            enabled = api.post("/auth/tfa/enable", body)
        finally:
            post_delete.disconnect(meanwhile, sender=RefreshSession)
        thread.join(60)

        assert enabled.status_code == 200
        assert [answer.status_code for answer in late] == [401]
        assert [session.amr.split() for session in RefreshSession.objects.filter(user=user)] == [
            ["pwd", "otp"]
        ]
