"""Limits, as in the contract; security.md, rows 110 to 117."""

from __future__ import annotations

import time
from typing import Any

import pytest
from django.contrib.auth import get_user_model
from django.core.cache import cache
from django.core.cache.backends.locmem import LocMemCache
from django.core.management import call_command
from django.db import OperationalError, connection
from django.test.utils import CaptureQueriesContext

from platform_auth import caller, errors, limits
from platform_auth.models import AuthEvent, FailedCode, RateCounter
from tests.conftest import NOW, PASSWORD, Api, code_of, make_user

pytestmark = pytest.mark.django_db

HERE = "203.0.113.7"


class BrokenCache(LocMemCache):
    """A cache whose server is down."""

    def _gone(self, *args: Any, **kwargs: Any) -> Any:
        raise ConnectionError("the cache is down")

    add = get = set = incr = decr = delete = touch = _gone


def caches(settings: Any, backend: str, **more: Any) -> None:
    settings.CACHES = {"default": {"BACKEND": backend, **more}}


@pytest.fixture(params=["as configured", "down", "dummy"])
def counted(request: pytest.FixtureRequest, settings: Any, db: None) -> str:
    """Where counts are stored."""
    match request.param:
        case "down":
            caches(settings, f"{__name__}.BrokenCache")
        case "dummy":
            caches(settings, "django.core.cache.backends.dummy.DummyCache")
    return str(request.param)


@pytest.fixture
def api(clock: Any) -> Api:
    """A client with one address; the clock is stopped at the start of a minute and an hour."""
    clock.move_to(NOW.replace(minute=0, second=0))
    return Api(REMOTE_ADDR=HERE)


def attempt(api: Api, email: str, password: str = "wrong", **extra: Any) -> Any:
    return api.post("/auth/login", {"email": email, "password": password}, **extra)


def statuses(api: Api, email: str, count: int, **extra: Any) -> list[int]:
    return [attempt(api, email, **extra).status_code for _ in range(count)]


class TestLogin:
    """security.md, rows 110 to 113, 117."""

    def test_the_sixth_login_of_an_account_in_a_minute_is_limited(
        self, api: Api, user: Any, counted: str, clock: Any
    ) -> None:
        assert statuses(api, user.email, 6) == [401] * 5 + [429]
        # The password isn't checked any more.
        refused = attempt(api, user.email, PASSWORD)
        assert (refused.status_code, code_of(refused)) == (429, "REQUESTS_EXCEEDED")

        clock.shift(61)
        assert attempt(api, user.email, PASSWORD).status_code == 200

    def test_the_response_has_retry_after(self, api: Api, user: Any, counted: str, clock: Any) -> None:
        statuses(api, user.email, 5)
        clock.shift(20)

        response = attempt(api, user.email)

        (error,) = response.json()["errors"]
        assert error["extensions"] == {"code": "REQUESTS_EXCEEDED", "retry_after": 40}
        assert response["Retry-After"] == "40"
        assert not response.cookies

    def test_an_account_that_does_not_exist_is_limited_alike(self, api: Api, user: Any) -> None:
        known = [attempt(api, user.email) for _ in range(7)]
        unknown = [attempt(api, "nobody@example.com") for _ in range(7)]

        assert [(r.status_code, r.content) for r in known] == [(r.status_code, r.content) for r in unknown]

    def test_all_spellings_of_an_address_share_a_count(self, api: Api) -> None:
        """security.md, row 110."""
        spellings = ["user@example.com", "USER@example.com", "uſer@example.com", "\uff55ser@example.com"]
        mailed = [limits.allows_password_mail(spelling) for spelling in spellings * 2]

        assert mailed == [True] * 5 + [False] * 3
        answers = [attempt(api, email).status_code for email in ["user@example.com", "USER@EXAMPLE.COM"] * 3]
        assert answers == [401] * 5 + [429]

    def test_the_31st_login_of_an_address_in_a_minute_is_limited(
        self, api: Api, counted: str, clock: Any
    ) -> None:
        answers = [attempt(api, f"nobody{number}@example.com").status_code for number in range(31)]

        assert answers == [401] * 30 + [429]
        assert attempt(Api(REMOTE_ADDR="203.0.113.8"), "nobody0@example.com").status_code == 401
        clock.shift(60)
        assert attempt(api, "nobody0@example.com").status_code == 401

    def test_the_101st_login_of_an_account_in_an_hour_is_limited(
        self, user: Any, counted: str, clock: Any
    ) -> None:
        clock.move_to(NOW.replace(minute=0, second=0))
        strangers = [Api(REMOTE_ADDR=f"198.51.100.{number}") for number in range(21)]
        answers = [code for api in strangers for code in statuses(api, user.email, 5)]

        assert answers == [401] * 100 + [429] * 5
        clock.shift(3600)
        assert attempt(strangers[0], user.email).status_code == 401

    def test_a_success_gives_back_what_it_took_from_the_address(self, api: Api, counted: str) -> None:
        """Many people can log in from one office address at the same time."""
        office = [make_user() for _ in range(40)]

        assert {attempt(api, user.email, PASSWORD).status_code for user in office} == {200}

    def test_a_success_gives_back_what_it_took_from_the_account(
        self, user: Any, counted: str, clock: Any
    ) -> None:
        """A job that logs in from ever new addresses locks nobody out."""
        clock.move_to(NOW.replace(minute=0, second=0))
        addresses = [Api(REMOTE_ADDR=f"198.51.100.{number}") for number in range(102)]

        assert {attempt(api, user.email, PASSWORD).status_code for api in addresses} == {200}

    def test_a_success_clears_the_count_of_that_account_from_that_address(
        self, api: Api, user: Any, counted: str
    ) -> None:
        for _ in range(3):
            assert statuses(api, user.email, 4) == [401] * 4
            assert attempt(api, user.email, PASSWORD).status_code == 200

    def test_a_success_with_the_attackers_own_account_does_not_clear_the_address(
        self, api: Api, user: Any
    ) -> None:
        """security.md, row 112."""
        answers = []
        for number in range(40):
            assert attempt(api, user.email, PASSWORD).status_code in (200, 429)
            answers.append(attempt(api, f"victim{number}@example.com").status_code)

        assert answers.count(401) == 30 or answers.count(401) == 29

    def test_a_failure_gives_back_nothing(self, api: Api, user: Any) -> None:
        attempt(api, user.email)

        assert statuses(api, user.email, 5) == [401] * 4 + [429]

    def test_a_partial_setting_changes_only_what_it_names(self, api: Api, user: Any, configure: Any) -> None:
        configure(LIMITS={"login": {"account_and_address": "2/10m"}})

        assert statuses(api, user.email, 3) == [401, 401, 429]
        assert attempt(api, user.email)["Retry-After"] == "600"
        answers = [attempt(api, f"nobody{number}@example.com").status_code for number in range(27)]
        assert answers == [401] * 26 + [429]

    def test_only_the_first_refusal_of_a_window_is_recorded(self, api: Api, user: Any, counted: str) -> None:
        statuses(api, user.email, 9)

        assert AuthEvent.objects.filter(kind="login_limited").count() == 1
        assert AuthEvent.objects.filter(kind="login_failed").count() == 5

    def test_a_malformed_request_is_not_counted(self, api: Api, user: Any) -> None:
        for _ in range(40):
            assert attempt(api, "x").status_code == 400

        assert attempt(api, user.email, PASSWORD).status_code == 200

    def test_keys_contain_no_address_and_no_email(self, api: Api, user: Any, counted: str) -> None:
        attempt(api, user.email)

        kept = " ".join(RateCounter.objects.values_list("key", flat=True))
        if isinstance(getattr(cache, "_cache", None), dict):
            kept += " ".join(cache._cache)
        assert user.email not in kept
        assert HERE not in kept


class TestNobodyIsLockedOut:
    """security.md, row 111: an attacker can't lock anyone out."""

    def flood(self, email: str, addresses: int = 21) -> None:
        """Fail five times from each of many addresses."""
        for number in range(addresses):
            statuses(Api(REMOTE_ADDR=f"198.51.100.{number}"), email, 5)

    def test_a_familiar_address_is_allowed(self, user: Any, clock: Any) -> None:
        victim = Api(REMOTE_ADDR=HERE)
        victim.login(user.email)
        clock.shift(29 * 86400)
        self.flood(user.email, addresses=200)

        assert attempt(victim, user.email, PASSWORD).status_code == 200
        assert attempt(Api(REMOTE_ADDR="192.0.2.1"), user.email, PASSWORD).status_code == 429
        user.refresh_from_db()
        assert user.is_active

    def test_an_address_that_completed_a_reset_is_allowed(self, user: Any) -> None:
        AuthEvent.objects.create(kind="password_reset", user=user, ip_address=HERE, network=HERE)
        self.flood(user.email)

        assert attempt(Api(REMOTE_ADDR=HERE), user.email, PASSWORD).status_code == 200

    def test_after_thirty_days_an_address_is_no_longer_familiar(self, user: Any, clock: Any) -> None:
        Api(REMOTE_ADDR=HERE).login(user.email)
        clock.shift(30 * 86400 + 1)
        self.flood(user.email)

        assert attempt(Api(REMOTE_ADDR=HERE), user.email, PASSWORD).status_code == 429

    def test_a_failed_login_does_not_make_an_address_familiar(self, user: Any) -> None:
        attempt(Api(REMOTE_ADDR=HERE), user.email)
        self.flood(user.email)

        assert attempt(Api(REMOTE_ADDR=HERE), user.email, PASSWORD).status_code == 429

    def test_an_address_is_familiar_to_one_account_only(self, user: Any) -> None:
        Api(REMOTE_ADDR=HERE).login(make_user().email)
        self.flood(user.email)

        assert attempt(Api(REMOTE_ADDR=HERE), user.email, PASSWORD).status_code == 429

    def test_an_account_with_a_lookalike_address_makes_no_address_familiar(self) -> None:
        """With a collation that treats é as e."""
        if connection.vendor == "mysql" and get_user_model()._meta.get_field("email").unique:
            pytest.skip("there cannot be such an account")
        victim = make_user("jose@example.com")
        lookalike = make_user("other@example.com")
        type(lookalike).objects.filter(pk=lookalike.pk).update(email="jos\u00e8@example.com")
        AuthEvent.objects.create(kind="logged_in", user=lookalike, ip_address=HERE, network=HERE)
        self.flood(victim.email)

        assert attempt(Api(REMOTE_ADDR=HERE), victim.email, PASSWORD).status_code == 429

    def test_the_login_of_a_deleted_account_makes_no_address_familiar(self) -> None:
        AuthEvent.objects.create(kind="logged_in", user=None, ip_address=HERE, network=HERE)
        self.flood("nobody@example.com")

        assert attempt(Api(REMOTE_ADDR=HERE), "nobody@example.com", PASSWORD).status_code == 429

    def test_a_missing_account_runs_the_same_statements(self, user: Any) -> None:
        """Timing must not reveal whether an account exists."""
        asked = []
        for email in (user.email, "nobody@example.com"):
            self.flood(email)
            with CaptureQueriesContext(connection) as captured:
                assert attempt(Api(REMOTE_ADDR=HERE), email).status_code == 429
            asked.append([query["sql"].split()[0] for query in captured])

        assert asked[0] == asked[1]

    def test_a_familiar_address_still_has_its_own_limit(self, user: Any, clock: Any) -> None:
        clock.move_to(NOW.replace(minute=0, second=0))
        api = Api(REMOTE_ADDR=HERE)
        api.login(user.email)
        self.flood(user.email)

        assert statuses(api, user.email, 6) == [401] * 5 + [429]

    def test_events_are_only_queried_if_the_limit_is_reached(self, user: Any) -> None:
        asked: list[bool] = []
        who = caller.Caller(HERE, "")

        for _ in range(5):
            limits.take_login(user.email, who, is_familiar=lambda: bool(asked.append(True)))

        assert not asked

    def test_refreshes_and_open_sessions_are_not_affected(self, user: Any) -> None:
        api = Api(REMOTE_ADDR=HERE)
        api.login(user.email)
        self.flood(user.email)

        assert api.refresh().status_code == 200
        assert api.get("/api/whoami").status_code == 200


class TestAddress:
    """security.md, row 114."""

    def test_a_forged_header_gives_no_new_count(self, api: Api, user: Any) -> None:
        answers = [
            attempt(
                api, user.email, headers={"X-Forwarded-For": f"10.0.0.{n}", "X-Real-IP": f"10.0.0.{n}"}
            ).status_code
            for n in range(6)
        ]

        assert answers == [401] * 5 + [429]

    def test_behind_a_trusted_proxy_each_caller_has_a_count(
        self, api: Api, user: Any, configure: Any
    ) -> None:
        configure(TRUSTED_PROXY_COUNT=1)
        answers = [
            attempt(api, user.email, headers={"X-Forwarded-For": f"1.1.1.1, 198.51.100.{n}"}).status_code
            for n in range(6)
        ]
        assert answers == [401] * 6

        forged = [
            attempt(api, user.email, headers={"X-Forwarded-For": f"{n}.1.1.1, 203.0.113.99"}).status_code
            for n in range(6)
        ]
        assert forged == [401] * 5 + [429]

    def test_an_ipv6_address_counts_by_its_64_bit_prefix(self, api: Api, user: Any) -> None:
        answers = [
            attempt(Api(REMOTE_ADDR=f"2001:db8:0:1::{n:x}"), user.email).status_code for n in range(1, 7)
        ]

        assert answers == [401] * 5 + [429]
        assert attempt(Api(REMOTE_ADDR="2001:db8:0:2::1"), user.email).status_code == 401

    def test_without_an_address_there_is_no_limit_by_address(self, user: Any, clock: Any) -> None:
        api = Api(REMOTE_ADDR="")

        assert statuses(api, user.email, 40) == [401] * 40
        assert attempt(api, user.email, PASSWORD).status_code == 200


class TestRefresh:
    def test_the_61st_refresh_of_a_session_in_a_minute_is_limited(
        self, api: Api, user: Any, counted: str, clock: Any
    ) -> None:
        api.login(user.email)
        other = Api()
        other.login(user.email)
        for _ in range(60):
            api.refreshed()

        response = api.refresh()

        assert (response.status_code, code_of(response)) == (429, "REQUESTS_EXCEEDED")
        assert int(response["Retry-After"]) == 60
        assert AuthEvent.objects.filter(kind="refresh_limited").count() == 1
        assert other.refresh().status_code == 200
        clock.shift(60)
        assert api.refresh().status_code == 200

    def test_an_unknown_token_is_not_counted(self, api: Api, user: Any) -> None:
        for _ in range(70):
            assert api.post("/auth/refresh", {"refresh_token": "A" * 64}).status_code == 401

    @pytest.mark.usefixtures("clock")
    def test_replays_count_too(self, api: Api, user: Any) -> None:
        api.login(user.email)
        spent = api.refresh_token
        for _ in range(60):
            assert api.refresh(spent).status_code == 200

        assert api.refresh(spent).status_code == 429


class TestWithoutTheCache:
    """security.md, row 115: never a 500, never unlimited, and it is logged."""

    def test_a_cache_that_is_down_is_logged(
        self, api: Api, user: Any, settings: Any, caplog: pytest.LogCaptureFixture
    ) -> None:
        caches(settings, f"{__name__}.BrokenCache")

        api.login(user.email)

        assert "the cache failed" in caplog.text
        assert RateCounter.objects.exists()

    @pytest.mark.parametrize(
        ("backend", "atomic"),
        [("locmem.LocMemCache", True), ("dummy.DummyCache", False), ("db.DatabaseCache", False),
         ("filebased.FileBasedCache", False), ("redis.RedisCache", True), ("memcached.PyMemcacheCache", True)],
    )  # fmt: skip
    def test_a_cache_whose_incr_is_not_atomic_is_not_used(
        self, settings: Any, backend: str, atomic: bool
    ) -> None:
        if "memcached" in backend:
            pytest.importorskip("pymemcache")
        caches(settings, f"django.core.cache.backends.{backend}", LOCATION="/nonexistent")

        assert limits.cache_is_atomic() is atomic

    def test_a_count_in_the_database_survives_a_restart_and_ends_with_its_window(
        self, settings: Any, clock: Any
    ) -> None:
        caches(settings, "django.core.cache.backends.dummy.DummyCache")
        who = caller.Caller(HERE, "")
        for _ in range(5):
            limits.take_login("a@example.com", who, is_familiar=bool)

        with pytest.raises(errors.RequestsExceeded):
            limits.take_login("a@example.com", who, is_familiar=bool)
        clock.shift(60)
        limits.take_login("a@example.com", who, is_familiar=bool)


class TestOneTimePassword:
    """security.md, row 13: in the database, 10 in any 15 minutes and 35 in any 24 hours."""

    SHORT, LONG = 900, 86400

    def fail(self, user: Any, count: int = 1) -> list[float]:
        """Enter wrong codes as long as they are checked; return when."""
        at = []
        for _ in range(count):
            if not limits.otp_wait(user):
                limits.add_wrong_otp(user)
                at.append(time.time())
        return at

    def wait(self, user: Any) -> float:
        """Return the wait of a user whose next code isn't checked."""
        seconds = limits.otp_wait(user)
        assert seconds
        return seconds

    def test_ten_in_15_minutes_and_35_in_a_day(self, user: Any, clock: Any) -> None:
        taken = 0
        for _quarter in range(5):
            taken += len(self.fail(user, 12))
            clock.shift(901)
        assert taken == 35

        clock.shift(self.LONG)
        assert not limits.otp_wait(user)

    def test_no_more_pass_around_the_edge_of_a_window(self, user: Any, clock: Any) -> None:
        """One try, then ten more just before and just after its 15 minutes have passed."""
        self.fail(user)
        clock.shift(self.SHORT - 10)
        taken = self.fail(user, 12)
        clock.shift(11)
        taken += self.fail(user, 12)

        assert len(taken) == 10

    @pytest.mark.parametrize("pace", [7, 89, 91, 300, 899, 901, 2469])
    def test_the_limits_hold_for_any_period(self, user: Any, clock: Any, pace: int) -> None:
        """For any pace over hours or days, in bursts of any size."""
        taken: list[float] = []
        tries = min(300, 2 * self.LONG // pace)
        for number in range(tries):
            taken += self.fail(user, number % 4)
            clock.shift(pace)

        assert taken
        for start in taken:
            assert sum(start <= at < start + self.SHORT for at in taken) <= 10
            assert sum(start <= at < start + self.LONG for at in taken) <= 35

    def test_tries_expire_one_by_one(self, user: Any, clock: Any) -> None:
        """Not all at once: each try counts for the whole window."""
        for _ in range(10):
            self.fail(user)
            clock.shift(10)

        assert self.wait(user) == self.SHORT - 100
        clock.shift(self.SHORT - 100)
        assert len(self.fail(user, 3)) == 1
        assert self.wait(user) == 10

    def test_few_failures_never_lock_out(self, user: Any, clock: Any) -> None:
        """One failure a day, for any time."""
        for _day in range(60):
            assert self.fail(user)
            clock.shift(self.LONG - 60)

    def test_the_longer_of_two_waits_is_returned(self, user: Any, clock: Any) -> None:
        """Both limits are reached, so the wait is that of the day."""
        for _ in range(3):
            assert len(self.fail(user, 10)) == 10
            clock.shift(self.SHORT)
        assert len(self.fail(user, 5)) == 5
        assert self.wait(user) == self.LONG - 3 * self.SHORT

        clock.shift(self.LONG - 3 * self.SHORT)
        assert len(self.fail(user, 12)) == 10

    def test_both_limits_can_be_reached_at_once(self, user: Any, clock: Any, configure: Any) -> None:
        configure(LIMITS={"otp": {"short": "2/15m", "long": "3/d"}})
        self.fail(user)
        clock.shift(1000)
        self.fail(user, 2)

        assert self.wait(user) == self.LONG - 1000

    def test_wrong_codes_of_one_user_can_be_cleared(self, user: Any) -> None:
        other = make_user()
        self.fail(user, 10)
        self.fail(other, 10)

        limits.clear_otp(user)

        assert len(self.fail(user, 12)) == 10
        assert limits.otp_wait(other)

    def test_a_configured_limit_holds(self, user: Any, configure: Any, clock: Any) -> None:
        configure(LIMITS={"otp": {"short": "3/20s", "long": "5/m"}})

        assert len(self.fail(user, 9)) == 3
        clock.shift(20)
        assert len(self.fail(user, 9)) == 2
        clock.shift(40)
        assert len(self.fail(user, 9)) == 3

    def test_lowering_a_limit_applies_at_once(self, user: Any, configure: Any, clock: Any) -> None:
        for _ in range(5):
            self.fail(user)
            clock.shift(10)
        configure(LIMITS={"otp": {"short": "2/15m"}})

        assert self.wait(user) == self.SHORT - 20

    def test_old_failures_are_pruned(self, user: Any, clock: Any) -> None:
        self.fail(user, 3)
        clock.shift(self.LONG + 1)
        self.fail(user, 2)

        call_command("platform_auth_prune", verbosity=0)

        assert FailedCode.objects.count() == 2


class TestCountGivenBack:
    """In the database, where a count has no separate key for each window."""

    @pytest.fixture(autouse=True)
    def _in_the_database(self, settings: Any) -> None:
        caches(settings, "django.core.cache.backends.dummy.DummyCache")

    def test_given_back_late_it_does_not_change_a_later_window(self, clock: Any) -> None:
        who = caller.Caller(HERE, "")
        under_way = limits.take_login("a@example.com", who, is_familiar=bool)
        clock.shift(60)
        limits.take_login("b@example.com", who, is_familiar=bool)

        limits.give_back_login(under_way)

        assert RateCounter.objects.get(key__contains=":login:address:").count == 1

    def test_given_back_after_a_refusal_it_allows_another_attempt(self, clock: Any, configure: Any) -> None:
        configure(LIMITS={"login": {"address": "2/m"}})
        who = caller.Caller(HERE, "")
        first = limits.take_login("a@example.com", who, is_familiar=bool)
        limits.take_login("b@example.com", who, is_familiar=bool)
        with pytest.raises(limits.Limited):
            limits.take_login("c@example.com", who, is_familiar=bool)

        limits.give_back_login(first)

        limits.take_login("d@example.com", who, is_familiar=bool)


class TestOutage:
    """A 503 costs no attempt."""

    def counts(self) -> list[int]:
        return list(RateCounter.objects.order_by("key").values_list("count", flat=True))

    def test_what_a_login_counted_is_given_back(self, settings: Any, clock: Any) -> None:
        caches(settings, "django.core.cache.backends.dummy.DummyCache")
        attempt = limits.take_login("a@example.com", caller.Caller(HERE, ""), is_familiar=bool)
        assert self.counts() == [1, 1, 1]

        for failure in (OperationalError("gone"), errors.ServiceUnavailable()):
            with pytest.raises(type(failure)), limits.given_back_on_outage(attempt):
                raise failure

        assert self.counts() == [0, 0, 0]

    def test_a_refused_attempt_is_not_given_back(self, settings: Any, clock: Any) -> None:
        caches(settings, "django.core.cache.backends.dummy.DummyCache")
        attempt = limits.take_login("a@example.com", caller.Caller(HERE, ""), is_familiar=bool)

        with pytest.raises(errors.InvalidCredentials), limits.given_back_on_outage(attempt):
            raise errors.InvalidCredentials

        assert self.counts() == [1, 1, 1]


class TestPasswordRequest:
    def test_twenty_requests_an_hour_from_an_address(self, counted: str, clock: Any) -> None:
        clock.move_to(NOW.replace(minute=0, second=0))
        who = caller.Caller(HERE, "")
        for _ in range(20):
            limits.take_password_request(who)

        with pytest.raises(errors.RequestsExceeded):
            limits.take_password_request(who)
        limits.take_password_request(caller.NOBODY)
        limits.take_password_request(caller.Caller("203.0.113.8", ""))

    def test_five_emails_an_hour_to_an_account(self, counted: str, clock: Any) -> None:
        clock.move_to(NOW.replace(minute=0, second=0))

        assert [limits.allows_password_mail("a@example.com") for _ in range(6)] == [True] * 5 + [False]
        assert limits.allows_password_mail("b@example.com")
        clock.shift(3600)
        assert limits.allows_password_mail("A@example.com")
