"""POST /auth/refresh."""

from __future__ import annotations

import base64
import secrets
from datetime import timedelta
from typing import Any

import pytest
from django.contrib.auth.hashers import check_password, make_password
from django.db import connection
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from platform_auth import conf, errors, sessions, signals
from platform_auth.models import AuthEvent, RefreshSession
from platform_auth.sessions import tokens
from tests.conftest import PASSWORD, Api, code_of, hearing, make_user

pytestmark = pytest.mark.django_db
COOKIE = "__Host-refresh_token"


@pytest.fixture
def api(user: Any, clock: Any) -> Api:
    """A signed-in client; the clock is stopped."""
    api = Api()
    api.login(user.email)
    return api


def row() -> dict[str, Any]:
    """Return every column of the only session's row."""
    return RefreshSession.objects.values().get()


def is_refused(response: Any) -> bool:
    return bool(
        response.status_code == 401 and code_of(response) == "INVALID_CREDENTIALS" and not response.cookies
    )


class TestRotation:
    """security.md, rows 33, 34."""

    def test_the_response_has_exactly_three_keys(self, api: Api) -> None:
        response = api.refresh()

        assert response.status_code == 200
        assert set(response.json()) == {"data"}
        assert set(response.json()["data"]) == {"access_token", "expires", "refresh_token"}
        assert response.json()["data"]["expires"] == 900
        assert not response.cookies

    def test_it_always_returns_a_new_refresh_token(self, api: Api) -> None:
        tokens = [api.refresh_token, *(api.refreshed() for _ in range(5))]

        assert len(set(tokens)) == 6
        assert RefreshSession.objects.count() == 1

    def test_the_new_access_token_works_and_names_the_same_session(self, api: Api) -> None:
        before = api.get("/auth/sessions").json()["data"]
        api.refreshed()
        after = api.get("/auth/sessions").json()["data"]

        assert [session["id"] for session in before] == [session["id"] for session in after]

    def test_the_older_access_token_works_until_it_expires(self, api: Api, clock: Any) -> None:
        older = api.access_token
        api.refreshed()

        api.access_token = older
        assert api.get("/api/whoami").status_code == 200
        clock.shift(901)
        assert code_of(api.get("/api/whoami")) == "TOKEN_EXPIRED"

    def test_no_access_token_is_needed_and_none_is_read(self, api: Api, clock: Any) -> None:
        clock.shift(3600)
        for header in ("null", "Bearer null", f"Bearer {api.access_token}", "Basic Og=="):
            response = api.post(
                "/auth/refresh", {"refresh_token": api.refresh_token}, headers={"Authorization": header}
            )
            assert response.status_code == 200, header
            api.refresh_token = response.json()["data"]["refresh_token"]

    def test_it_sends_the_signal(self, api: Api, user: Any) -> None:
        with hearing(signals.refreshed) as heard:
            api.refreshed()

        assert [(facts["user"], facts["session"]) for facts in heard] == [
            (user, RefreshSession.objects.get())
        ]

    def test_no_token_can_be_derived_from_the_database(self, api: Api) -> None:
        """security.md, row 33."""
        issued = [api.refresh_token or "", *(api.refreshed() for _ in range(3))]

        with connection.cursor() as cursor:
            tables = [table for table in connection.introspection.table_names() if "auth" in table]
            dump = b""
            for table in tables:
                cursor.execute(f"SELECT * FROM {connection.ops.quote_name(table)}")
                dump += repr(cursor.fetchall()).encode()
        session = RefreshSession.objects.get()
        for token in issued:
            secret = base64.urlsafe_b64decode(token)[16:]
            assert token.encode() not in dump
            assert token[-40:].encode() not in dump
            assert secret.hex().encode() not in dump
            assert repr(secret)[2:-1].encode() not in dump
        # Everything that a thief of the database could derive from it.
        guesses = [
            tokens.RefreshToken(session.key, bytes.fromhex(session.digest)),
            tokens.RefreshToken(session.key, bytes.fromhex(session.digest)).successor(session.salt),
            tokens.RefreshToken(session.key, bytes.fromhex(session.salt * 2)),
        ]
        assert not {str(guess) for guess in guesses} & set(issued)

    def test_changing_the_secret_key_logs_nobody_out(self, api: Api, settings: Any) -> None:
        settings.SECRET_KEY = "another-" + "y" * 60

        assert api.refresh().status_code == 200


class TestGracePeriod:
    """security.md, rows 38 to 40: a lost response can be given again."""

    def test_the_rotated_token_gets_the_same_successor(self, api: Api, clock: Any) -> None:
        spent = api.refresh_token
        successor = api.refreshed()
        clock.shift(9.9)

        again = api.refresh(spent)

        assert again.status_code == 200
        assert again.json()["data"]["refresh_token"] == successor
        api.access_token = again.json()["data"]["access_token"]
        assert api.get("/api/whoami").status_code == 200

    def test_the_row_does_not_change(self, api: Api, clock: Any) -> None:
        spent = api.refresh_token
        api.refreshed()
        before = row()
        clock.shift(5)

        api.post(
            "/auth/refresh", {"refresh_token": spent}, headers={"User-Agent": "x"}, REMOTE_ADDR="203.0.113.4"
        )

        assert row() == before

    def test_it_is_recorded(self, api: Api, user: Any) -> None:
        spent = api.refresh_token
        api.refreshed()
        api.refresh(spent)

        assert AuthEvent.objects.filter(kind="refresh_replayed", user=user).count() == 1

    def test_exactly_ten_seconds_is_within_it(self, api: Api, clock: Any) -> None:
        spent = api.refresh_token
        api.refreshed()
        clock.shift(10)

        assert api.refresh(spent).status_code == 200

    def test_after_the_grace_period_the_session_ends(self, api: Api, clock: Any) -> None:
        spent = api.refresh_token
        api.refreshed()
        clock.shift(10.1)

        assert is_refused(api.refresh(spent))
        assert not RefreshSession.objects.exists()

    def test_replays_extend_nothing(self, api: Api, clock: Any) -> None:
        """security.md, row 40."""
        spent = api.refresh_token
        api.refreshed()
        clock.shift(9)
        assert api.refresh(spent).status_code == 200
        clock.shift(3)

        assert is_refused(api.refresh(spent))
        assert not RefreshSession.objects.exists()

    def test_once_the_successor_was_rotated_the_older_token_is_refused(self, api: Api, clock: Any) -> None:
        oldest = api.refresh_token
        api.refreshed()
        api.refreshed()
        before = row()
        clock.shift(1)

        assert is_refused(api.refresh(oldest))
        assert row() == before
        assert api.refresh().status_code == 200

    def test_an_older_token_ends_the_session_only_after_the_grace_period(self, api: Api, clock: Any) -> None:
        """security.md, row 36: t0 → t1 → t2."""
        oldest = api.refresh_token
        api.refreshed()
        api.refreshed()
        clock.shift(10)
        assert is_refused(api.refresh(oldest))
        assert RefreshSession.objects.exists()

        clock.shift(0.1)
        assert is_refused(api.refresh(oldest))
        assert is_refused(api.refresh())
        assert api.get("/api/whoami").status_code == 401

    @pytest.mark.parametrize(
        ("configured", "within", "after"), [(0, 0, 0.1), (30, 30, 30.1), (3600, 60, 60.1)]
    )
    def test_the_setting_can_extend_it_to_sixty_seconds(
        self, api: Api, clock: Any, configure: Any, configured: int, within: float, after: float
    ) -> None:
        configure(REFRESH_GRACE_PERIOD=timedelta(seconds=configured))
        spent = api.refresh_token
        successor = api.refreshed()
        clock.shift(within)
        assert api.refresh(spent).json()["data"]["refresh_token"] == successor
        clock.shift(after - within + 0.001)

        assert is_refused(api.refresh(spent))
        assert not RefreshSession.objects.exists()

    @pytest.mark.parametrize(
        "cause", ["logout", "reuse", "revoked", "all revoked", "deleted by the admin", "expired"]
    )
    def test_it_never_applies_to_an_ended_session(self, api: Api, user: Any, clock: Any, cause: str) -> None:
        """security.md, row 38: six causes, each followed by a replay within a second."""
        oldest = api.refresh_token
        api.refreshed()
        clock.shift(60)
        spent = api.refresh_token
        newest = api.refreshed()
        session = RefreshSession.objects.get()
        match cause:
            case "logout":
                api.post("/auth/logout", {"refresh_token": newest})
            case "reuse":
                clock.shift(10.5)
                api.refresh(oldest)
            case "revoked":
                sessions.revoke(session)
            case "all revoked":
                sessions.revoke_all(user)
            case "deleted by the admin":
                RefreshSession.objects.all().delete()
            case "expired":
                RefreshSession.objects.update(expires_at=session.rotated_at + timedelta(seconds=0.5))
        clock.shift(0.9)

        assert is_refused(api.refresh(spent))
        assert is_refused(api.refresh(newest))


class TestReuse:
    """security.md, rows 36, 37."""

    def test_it_ends_the_session_with_its_newest_token_and_access_tokens(self, api: Api, clock: Any) -> None:
        stolen = api.refresh_token
        api.refreshed()
        clock.shift(11)

        assert is_refused(api.refresh(stolen))
        assert is_refused(api.refresh())
        assert code_of(api.get("/api/whoami")) == "INVALID_TOKEN"

    def test_a_thief_who_was_first_loses_the_session(self, api: Api, clock: Any) -> None:
        thief = Api()
        thief.refresh_token = api.refresh_token
        thief.refreshed()
        clock.shift(3600)

        assert is_refused(api.refresh())
        assert is_refused(thief.refresh())
        assert thief.get("/api/whoami").status_code == 401

    def test_other_sessions_stay(self, api: Api, user: Any, clock: Any) -> None:
        other, stranger = Api(), Api()
        other.login(user.email)
        stranger.login(make_user().email)
        stolen = api.refresh_token
        api.refreshed()
        clock.shift(11)

        api.refresh(stolen)

        assert other.refresh().status_code == 200
        assert stranger.refresh().status_code == 200

    def test_every_older_token_is_detected(self, api: Api, clock: Any) -> None:
        oldest = api.refresh_token
        for _ in range(20):
            api.refreshed()
        clock.shift(11)

        assert is_refused(api.refresh(oldest))
        assert not RefreshSession.objects.exists()

    def test_it_is_recorded_and_announced_once(self, api: Api, user: Any, clock: Any) -> None:
        session = RefreshSession.objects.get()
        stolen = api.refresh_token
        api.refreshed()
        clock.shift(11)

        with hearing(signals.refresh_token_reused) as heard:
            api.refresh(stolen)
            api.refresh(stolen)

        assert [(facts["user"], facts["session"]) for facts in heard] == [(user, session)]
        assert AuthEvent.objects.filter(kind="refresh_reused", user=user).count() == 1

    @pytest.mark.django_db(transaction=True)
    def test_the_revocation_is_committed_before_the_response(self, api: Api, clock: Any) -> None:
        """security.md, row 37: no transaction of the host's (ATOMIC_REQUESTS) can undo it."""
        stolen = api.refresh_token
        api.refreshed()
        clock.shift(11)
        was_atomic: list[bool] = []
        listen = lambda **kwargs: was_atomic.append(connection.in_atomic_block)  # noqa: E731
        signals.refresh_token_reused.connect(listen)
        try:
            api.refresh(stolen)
        finally:
            signals.refresh_token_reused.disconnect(listen)

        assert was_atomic == [False]
        assert not RefreshSession.objects.exists()


class TestClock:
    """security.md, row 49: a changing clock neither revives a used token nor ends a session."""

    @pytest.mark.parametrize("back", [0.5, 5, 10])
    def test_going_back_a_little_counts_as_within_the_grace_period(
        self, api: Api, clock: Any, back: float
    ) -> None:
        spent = api.refresh_token
        successor = api.refreshed()
        clock.shift(-back)

        assert api.refresh(spent).json()["data"]["refresh_token"] == successor

    @pytest.mark.parametrize("back", [10.5, 3600])
    def test_going_back_further_is_401_and_ends_nothing(self, api: Api, clock: Any, back: float) -> None:
        spent = api.refresh_token
        api.refreshed()
        before = row()
        clock.shift(-back)

        assert is_refused(api.refresh(spent))
        assert row() == before
        assert api.refresh().status_code == 200


class TestLifetimes:
    """security.md, row 41: enforced at use, not by cleaning up."""

    def test_the_idle_life_is_seven_days_since_the_last_refresh(self, api: Api, clock: Any) -> None:
        clock.shift(7 * 86400 - 1)
        api.refreshed()
        clock.shift(7 * 86400)

        assert is_refused(api.refresh())

    def test_the_absolute_life_is_thirty_days_since_the_login(self, api: Api, clock: Any) -> None:
        for _ in range(29):
            clock.shift(86400)
            api.refreshed()
        assert row()["expires_at"] == row()["created_at"] + timedelta(days=30)
        clock.shift(86400 - 1)
        api.refreshed()
        clock.shift(1)

        assert is_refused(api.refresh())
        assert api.get("/api/whoami").status_code == 401

    def test_an_access_token_never_outlives_its_session(self, api: Api, clock: Any) -> None:
        for _ in range(29):
            clock.shift(86400)
            api.refreshed()
        clock.shift(86400 - 100)

        assert api.refresh().json()["data"]["expires"] == 100

    def test_without_the_setting_there_is_no_absolute_life(
        self, api: Api, clock: Any, configure: Any
    ) -> None:
        configure(SESSION_MAX_AGE=None)
        for _ in range(10):
            clock.shift(6 * 86400)
            api.refreshed()

        assert row()["expires_at"] - row()["rotated_at"] == timedelta(days=7)

    def test_lowering_the_absolute_life_ends_older_sessions(
        self, api: Api, clock: Any, configure: Any
    ) -> None:
        """security.md, row 35: otherwise a 200 would return tokens that have already expired."""
        clock.shift(5 * 86400)
        configure(SESSION_MAX_AGE=timedelta(days=1))

        assert is_refused(api.refresh())

    def test_lowering_the_idle_life_applies_at_the_next_refresh(
        self, api: Api, clock: Any, configure: Any
    ) -> None:
        configure(REFRESH_TOKEN_TTL=timedelta(hours=1))
        api.refreshed()
        clock.shift(3600)

        assert is_refused(api.refresh())


class TestUser:
    """security.md, rows 26, 42."""

    def test_a_deactivated_user_gets_user_suspended_and_every_session_ends(self, api: Api, user: Any) -> None:
        other = Api()
        other.login(user.email)
        type(user).objects.update(is_active=False)

        response = api.refresh()

        assert (response.status_code, code_of(response)) == (401, "USER_SUSPENDED")
        assert not RefreshSession.objects.exists()
        type(user).objects.update(is_active=True)
        assert is_refused(api.refresh())
        assert is_refused(other.refresh())

    def test_a_deleted_user_has_no_session(self, api: Api, user: Any) -> None:
        user.delete()

        assert is_refused(api.refresh())

    def test_a_user_created_again_with_the_same_key_inherits_nothing(self, api: Api, user: Any) -> None:
        primary_key = user.pk
        user.delete()
        make_user(id=primary_key)

        assert is_refused(api.refresh())
        assert api.get("/api/whoami").status_code == 401


class TestUnknownToken:
    """security.md, row 43: one response, and no session is touched unless the caller knows its key."""

    @pytest.mark.parametrize(
        "token",
        ["", " ", "x", "A" * 63, "A" * 64, "A" * 65, "A" * 60_000, "é" * 64, "\x00", "\x00" * 64, "=" * 64, "+/" * 32,
         "null", "undefined", "eyJhbGciOiJub25lIn0.e30.", "A" * 63 + "\n", "{}", "' OR 1=1 --"],
    )  # fmt: skip
    def test_is_401(self, api: Api, token: str) -> None:
        before = row()

        assert is_refused(api.post("/auth/refresh", {"refresh_token": token}))
        assert row() == before

    def test_a_lone_surrogate_is_401_like_any_unknown_token(self, api: Api) -> None:
        response = api.client.post(
            "/auth/refresh", b'{"refresh_token": "\\ud800"}', content_type="application/json"
        )

        assert is_refused(response)

    @hypothesis_settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
    @given(token=st.one_of(st.text(max_size=80), st.binary(min_size=48, max_size=48)))
    def test_any_string_is_401(self, api: Api, token: str | bytes) -> None:
        before = row()
        text = base64.urlsafe_b64encode(token).decode() if isinstance(token, bytes) else token

        assert is_refused(api.post("/auth/refresh", {"refresh_token": text}))
        assert row() == before

    def test_ten_thousand_strings_touch_no_session(self, api: Api) -> None:
        before = row()
        good = base64.urlsafe_b64decode(api.refresh_token or "")
        for number in range(10_000):
            # A valid secret with another key; most don't match any row.
            key = secrets.token_bytes(16) if number % 2 else bytes(16)
            text = base64.urlsafe_b64encode(key + good[16:]).decode()
            with pytest.raises(errors.InvalidCredentials):
                sessions.rotate(text if number % 10 == 0 else text[: number % 64])

        assert row() == before

    def test_a_known_key_with_another_secret_is_reuse_only_after_the_grace_period(
        self, api: Api, clock: Any
    ) -> None:
        key = base64.urlsafe_b64decode(api.refresh_token or "")[:16]
        made_up = base64.urlsafe_b64encode(key + secrets.token_bytes(32)).decode()

        assert is_refused(api.refresh(made_up))
        assert RefreshSession.objects.exists()

    def test_an_access_token_is_refused(self, api: Api) -> None:
        assert is_refused(api.refresh(api.access_token))

    def test_a_missing_token_is_400_naming_both_places(self, api: Api) -> None:
        response = api.client.post("/auth/refresh", {}, content_type="application/json")

        (error,) = response.json()["errors"]
        assert response.status_code == 400
        assert error["extensions"]["code"] == "INVALID_PAYLOAD"
        assert error["extensions"]["field"] == "refresh_token"
        assert "body" in error["extensions"]["reason"]
        assert "cookie" in error["extensions"]["reason"]


class TestFailure:
    """security.md, row 45: nothing is consumed."""

    def test_a_key_that_cannot_sign_consumes_nothing(self, api: Api, configure: Any) -> None:
        before = row()
        configure(SIGNING_KEYS=["too short"])
        api.client.raise_request_exception = False

        response = api.refresh()

        assert (response.status_code, code_of(response)) == (500, "INTERNAL_SERVER_ERROR")
        assert row() == before
        configure(SIGNING_KEYS=None)
        assert api.refresh().status_code == 200

    def test_a_refused_mode_consumes_nothing(self, api: Api) -> None:
        before = row()

        assert api.refresh(mode="other").status_code == 400
        assert row() == before

    @pytest.mark.usefixtures("clock")
    def test_a_reached_limit_consumes_nothing(self, api: Api, configure: Any) -> None:
        configure(LIMITS={"refresh": {"session": "1/m"}})
        api.refreshed()
        before = row()

        response = api.refresh()

        assert (response.status_code, code_of(response)) == (429, "REQUESTS_EXCEEDED")
        assert row() == before

    def test_a_failing_receiver_changes_nothing(self, api: Api) -> None:
        def failing(**kwargs: Any) -> None:
            raise RuntimeError("the host's bug")

        signals.refreshed.connect(failing)
        try:
            assert api.refresh().status_code == 200
        finally:
            signals.refreshed.disconnect(failing)


class Replica:
    """A host's router that reads from a lagging replica (which doesn't exist here)."""

    def db_for_read(self, model: Any, **hints: Any) -> str:
        return "replica"

    def db_for_write(self, model: Any, **hints: Any) -> str:
        return "default"

    def allow_relation(self, *args: Any, **hints: Any) -> bool:
        return True


class TestReplica:
    """security.md, row 48: the state of a token is read from the primary database."""

    def test_sessions_are_never_read_from_it(self, api: Api, clock: Any, settings: Any) -> None:
        settings.DATABASE_ROUTERS = [f"{__name__}.Replica"]
        spent = api.refresh_token

        api.refreshed()

        assert api.refresh(spent).status_code == 200
        assert api.get("/api/whoami").status_code == 200
        assert api.get("/auth/sessions").status_code == 200
        clock.shift(11)
        assert is_refused(api.refresh(spent))
        assert api.post("/auth/logout", {"refresh_token": api.refresh_token}).status_code == 204

    def test_a_password_that_changed_is_read_from_the_primary(self, user: Any, settings: Any) -> None:
        type(user).objects.filter(pk=user.pk).update(password=make_password(PASSWORD))
        settings.DATABASE_ROUTERS = [f"{__name__}.Replica"]
        evidence = sessions.Evidence(
            user, ("pwd",), still_holds=lambda fresh: check_password(PASSWORD, fresh.password)
        )

        assert sessions.open_on(evidence).session.user == user


class TestCookie:
    """As in the contract, a cookie is cleared only if its session has certainly ended."""

    @pytest.fixture
    def browser(self, user: Any, clock: Any) -> Api:
        browser = Api()
        browser.post("/auth/login", {"email": user.email, "password": PASSWORD, "mode": "cookie"})
        return browser

    def test_a_refresh_by_cookie_replaces_the_cookie(self, browser: Api) -> None:
        before = browser.client.cookies[COOKIE].value

        response = browser.post("/auth/refresh")

        assert response.status_code == 200
        assert set(response.json()["data"]) == {"access_token", "expires"}
        assert response.cookies[COOKIE].value not in ("", before)

    def test_a_loser_of_a_race_keeps_its_cookie(self, browser: Api) -> None:
        oldest = browser.client.cookies[COOKIE].value
        browser.post("/auth/refresh")
        browser.post("/auth/refresh")
        browser.client.cookies[COOKIE] = oldest

        response = browser.post("/auth/refresh")

        assert is_refused(response)

    def test_reuse_clears_the_cookie(self, browser: Api, clock: Any) -> None:
        stolen = browser.client.cookies[COOKIE].value
        browser.post("/auth/refresh")
        clock.shift(11)
        browser.client.cookies[COOKIE] = stolen

        response = browser.post("/auth/refresh")

        assert response.status_code == 401
        assert (response.cookies[COOKIE].value, response.cookies[COOKIE]["max-age"]) == ("", 0)

    def test_an_expired_session_clears_the_cookie(self, browser: Api, clock: Any) -> None:
        clock.shift(8 * 86400)

        response = browser.post("/auth/refresh")

        assert response.cookies[COOKIE]["max-age"] == 0

    def test_a_suspended_user_clears_the_cookie(self, browser: Api, user: Any) -> None:
        type(user).objects.update(is_active=False)

        response = browser.post("/auth/refresh")

        assert code_of(response) == "USER_SUSPENDED"
        assert response.cookies[COOKIE]["max-age"] == 0

    @pytest.mark.parametrize("token", ["x", "", "A" * 64])
    def test_a_bad_token_in_the_body_keeps_the_cookie_of_a_live_session(
        self, browser: Api, token: str
    ) -> None:
        response = browser.post("/auth/refresh", {"refresh_token": token})

        assert is_refused(response)
        assert browser.post("/auth/refresh").status_code == 200

    def test_json_mode_with_only_a_cookie_is_400(self, browser: Api) -> None:
        """security.md, row 44: a cookie's token never becomes readable."""
        before = row()

        response = browser.post("/auth/refresh", {"mode": "json"})

        assert (response.status_code, code_of(response)) == (400, "INVALID_PAYLOAD")
        assert row() == before
        assert not response.cookies


def test_the_grace_period_is_ten_seconds_by_default() -> None:
    assert conf.SETTINGS["REFRESH_GRACE_PERIOD"].default == timedelta(seconds=10)
