"""/auth/tfa/*, /users/me/tfa/* and login with a second factor, over HTTP."""

from __future__ import annotations

import contextlib
import functools
import io
import json
import logging
from typing import Any

import jwt
import pyotp
import pytest
from django.contrib import admin
from django.contrib.auth import get_user_model
from django.core import mail
from django.core.cache import cache
from django.core.management import call_command
from django.db import OperationalError, connection
from django.test import RequestFactory
from django.urls import reverse
from django.views.debug import ExceptionReporter, SafeExceptionReporterFilter

from platform_auth import errors, sealing, sessions, signals
from platform_auth.models import (
    AuthEvent,
    FailedCode,
    PendingFactor,
    RecoveryCode,
    RefreshSession,
    TOTPFactor,
)
from platform_auth.second_factor import enrolment
from tests.conftest import PASSWORD, Api, Authenticator, code_of, enrol, hearing, make_user
from tests.racing import failing, meanwhile

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("clock")]

NO_LOGIN_LIMITS = {"address": "100000/m", "account_and_address": "100000/m", "account": "100000/h"}


@pytest.fixture
def no_login_limits(configure: Any) -> None:
    """Disable all limits except that of one-time passwords."""
    configure(LIMITS={"login": NO_LOGIN_LIMITS})


@pytest.fixture
def enrolled(signed_in: Api, clock: Any) -> tuple[Authenticator, list[str]]:
    """The app and the recovery codes of `user`, whose client is `signed_in`, in a new time step."""
    made = enrol(signed_in)
    clock.shift(30)
    return made


@pytest.fixture
def app(enrolled: tuple[Authenticator, list[str]]) -> Authenticator:
    return enrolled[0]


@pytest.fixture
def codes(enrolled: tuple[Authenticator, list[str]]) -> list[str]:
    return enrolled[1]


def log_in(user: Any, *, password: str = PASSWORD, **fields: Any) -> Any:
    """Try to log in from a new client."""
    return Api().post("/auth/login", {"email": user.email, "password": password, **fields})


def attempts() -> int:
    """Return how many wrong one-time passwords currently count."""
    return FailedCode.objects.count()


def assert_refused(response: Any, code: str, status: int = 401) -> None:
    """Check that a refusal contains no token in body or cookies."""
    assert response.status_code == status, response.content
    assert code_of(response) == code
    assert not response.cookies
    assert b"token" not in response.content


class TestLogin:
    """One call: email, password, one-time password."""

    def test_all_three_open_a_session_with_both_methods(self, app: Authenticator, user: Any) -> None:
        response = log_in(user, otp=app.code())

        assert response.status_code == 200
        data = response.json()["data"]
        claims = jwt.decode(data["access_token"], options={"verify_signature": False})
        assert claims["amr"] == ["pwd", "otp"]
        assert RefreshSession.objects.get(pk=claims["sid"]).amr == "pwd otp"

    def test_the_methods_survive_refreshes(self, app: Authenticator, user: Any, clock: Any) -> None:
        api = Api()
        api.login(user.email, otp=app.code())

        for _ in range(3):
            clock.shift(600)
            api.refreshed()
            claims = jwt.decode(str(api.access_token), options={"verify_signature": False})
            assert claims["amr"] == ["pwd", "otp"]

    @pytest.mark.parametrize("mode", ["json", "cookie", "session"])
    def test_without_the_one_time_password_there_is_no_session(
        self, app: Authenticator, user: Any, mode: str
    ) -> None:
        """security.md, row 3 (ASVS 6.3.4): no token, no cookie, no session row."""
        before = RefreshSession.objects.count()

        response = log_in(user, mode=mode)

        assert_refused(response, "INVALID_OTP")
        assert "WWW-Authenticate" not in response.headers
        assert RefreshSession.objects.count() == before

    def test_a_missing_and_a_wrong_code_get_the_same_response(self, app: Authenticator, user: Any) -> None:
        """security.md, row 15."""
        missing, wrong = log_in(user), log_in(user, otp=app.wrong())

        assert_refused(missing, "INVALID_OTP")
        assert missing.content == wrong.content

    def test_a_wrong_password_with_the_right_code_looks_like_an_unknown_user(
        self, app: Authenticator, user: Any
    ) -> None:
        """security.md, row 15 (ASVS 6.3.8)."""
        wrong = log_in(user, password="wrong " + PASSWORD, otp=app.code())
        unknown = Api().post(
            "/auth/login", {"email": "nobody@example.com", "password": PASSWORD, "otp": app.code()}
        )

        assert_refused(wrong, "INVALID_CREDENTIALS")
        assert wrong.content == unknown.content
        assert log_in(user, otp=app.code()).status_code == 200

    @pytest.mark.usefixtures("no_login_limits")
    def test_the_one_time_password_is_never_checked_before_the_password(
        self, app: Authenticator, user: Any
    ) -> None:
        """security.md, row 14: after a hundred wrong passwords with a code, neither its count nor its step has
        changed.
        """
        step = TOTPFactor.objects.get().last_step

        for number in range(100):
            assert_refused(log_in(user, password=f"wrong {number}", otp=app.code()), "INVALID_CREDENTIALS")

        assert attempts() == 0
        assert TOTPFactor.objects.get().last_step == step
        assert not AuthEvent.objects.filter(kind__startswith="factor_failed").exists()
        assert log_in(user, otp=app.code()).status_code == 200

    def test_a_code_logs_in_once(self, app: Authenticator, user: Any) -> None:
        """security.md, row 10."""
        assert log_in(user, otp=app.code()).status_code == 200

        assert_refused(log_in(user, otp=app.code()), "INVALID_OTP")

    def test_the_code_that_enabled_the_factor_cannot_log_in(self, signed_in: Api, user: Any) -> None:
        app, _codes = enrol(signed_in)

        assert_refused(log_in(user, otp=app.code()), "INVALID_OTP")

    def test_a_recovery_code_logs_in_once_and_its_owner_is_notified(
        self, app: Authenticator, codes: list[str], user: Any, mailoutbox: Any
    ) -> None:
        """security.md, row 19."""
        mailoutbox.clear()

        assert log_in(user, otp=codes[3]).status_code == 200
        assert_refused(log_in(user, otp=codes[3]), "INVALID_OTP")

        assert [(mail.to, mail.subject) for mail in mailoutbox] == [
            ([user.email], "A recovery code was used (testserver)")
        ]
        assert RecoveryCode.objects.count() == 9
        assert AuthEvent.objects.filter(kind="recovery_code_used").count() == 1

    @pytest.mark.parametrize(
        "otp", [123456, 123456.0, True, False, None, [], ["123456"], {}, {"otp": "123456"}]
    )
    def test_anything_but_a_string_is_malformed(self, app: Authenticator, user: Any, otp: Any) -> None:
        """security.md, rows 11, 106: never converted, not counted."""
        response = log_in(user, otp=otp)

        assert_refused(response, "INVALID_PAYLOAD", 400)
        assert response.json()["errors"][0]["extensions"]["field"] == "otp"
        assert attempts() == 0

    @pytest.mark.parametrize("otp", ["", "12345", "1" * 33, "1" * 100_000, "12345\x00", "12345\ud800"])
    def test_strings_of_another_length_or_with_control_characters_are_malformed(
        self, app: Authenticator, user: Any, otp: str
    ) -> None:
        """security.md, rows 105, 108."""
        body = json.dumps({"email": user.email, "password": PASSWORD, "otp": otp})

        response = Api().client.post("/auth/login", body, content_type="application/json")

        assert_refused(
            response, *(("CONTENT_TOO_LARGE", 413) if len(body) > 65_536 else ("INVALID_PAYLOAD", 400))
        )
        assert attempts() == 0

    @pytest.mark.parametrize(
        "otp",
        ["１２３４５６", "123_456", "+123456", "-123456", " 123456", "123456 ", "1234567890", "0x1e240"],
    )
    def test_strings_that_int_accepts_are_refused_and_not_counted(
        self, app: Authenticator, user: Any, otp: str
    ) -> None:
        """security.md, row 11."""
        assert_refused(log_in(user, otp=otp), "INVALID_OTP")

        assert attempts() == 0

    def test_the_right_code_in_full_width_digits_is_refused(self, app: Authenticator, user: Any) -> None:
        wide = app.code().translate({ord(str(digit)): chr(0xFF10 + digit) for digit in range(10)})

        assert_refused(log_in(user, otp=wide), "INVALID_OTP")

    @pytest.mark.usefixtures("no_login_limits")
    def test_after_ten_wrong_codes_none_is_checked_for_a_while(
        self, app: Authenticator, user: Any, clock: Any
    ) -> None:
        """security.md, rows 13, 14: 429 with Retry-After, also for the right code, until the window has passed."""
        answers = [log_in(user, otp=app.wrong()).status_code for _ in range(12)]
        limited = log_in(user, otp=app.code())

        assert answers == [401] * 10 + [429] * 2
        assert_refused(limited, "REQUESTS_EXCEEDED", 429)
        wait = int(limited.headers["Retry-After"])
        assert 0 < wait <= 900
        assert limited.json()["errors"][0]["extensions"]["retry_after"] == wait
        clock.shift(wait)
        assert log_in(user, otp=app.code()).status_code == 200

    @pytest.mark.usefixtures("no_login_limits")
    def test_a_recovery_code_works_over_the_limit(
        self, app: Authenticator, codes: list[str], user: Any
    ) -> None:
        for _ in range(12):
            log_in(user, otp=app.wrong())

        assert log_in(user, otp=codes[0]).status_code == 200

    @pytest.mark.usefixtures("no_login_limits")
    def test_the_limit_survives_a_restart(self, app: Authenticator, user: Any) -> None:
        """security.md, row 13: the count is in the database, not in the cache."""
        for _ in range(12):
            log_in(user, otp=app.wrong())
        cache.clear()

        assert_refused(log_in(user, otp=app.code()), "REQUESTS_EXCEEDED", 429)

    def office(self, size: int) -> list[tuple[Any, Authenticator]]:
        """Users with a factor, behind one address."""
        made = []
        for _ in range(size):
            user, app = make_user(), Authenticator(pyotp.random_base32())
            factor = TOTPFactor(user=user)
            factor.secret = app.secret
            factor.save()
            made.append((user, app))
        return made

    def test_an_office_can_log_in_with_a_front_end_that_asks_twice(self, configure: Any) -> None:
        """Password first, then again with the one-time password: the address is charged for neither."""
        configure(LIMITS={"login": {"address": "10/m"}})

        answers = [
            (log_in(user).status_code, log_in(user, otp=app.code()).status_code)
            for user, app in self.office(15)
        ]

        assert answers == [(401, 200)] * 15

    def test_a_wrong_code_counts_for_the_address(self, configure: Any) -> None:
        configure(LIMITS={"login": {"address": "10/m"}})

        answers = [log_in(user, otp=app.wrong()).status_code for user, app in self.office(12)]

        assert answers == [401] * 10 + [429] * 2

    def test_a_missing_code_neither_costs_nor_clears_counts_of_the_account(
        self, app: Authenticator, user: Any
    ) -> None:
        """Somebody who knows the password doesn't get more guesses at the code, or at other logins of the account."""
        answers = [log_in(user, password=password) for password in ["wrong", PASSWORD] * 4]

        assert [answer.status_code for answer in answers] == [401] * 5 + [429] * 3

    def test_a_user_without_a_factor_needs_no_code_and_may_send_one(self, user: Any) -> None:
        response = log_in(user, otp="123456")

        claims = jwt.decode(response.json()["data"]["access_token"], options={"verify_signature": False})
        assert claims["amr"] == ["pwd"]

    def test_an_unconfirmed_secret_turns_nothing_on(self, signed_in: Api, user: Any) -> None:
        """security.md, row 16."""
        signed_in.post("/auth/tfa/generate", {"password": PASSWORD})

        assert log_in(user).status_code == 200

    def test_sessions_open_asks_for_the_factor_too(self, app: Authenticator, user: Any) -> None:
        """security.md, row 4: `sessions.open`, which every sign-in method uses, checks again."""
        with pytest.raises(errors.InvalidOTP):
            sessions.open(user, amr=("google",), provider="google")

    def test_a_lost_key_is_a_500_whose_details_are_only_in_the_log(
        self, app: Authenticator, user: Any, configure: Any, caplog: Any
    ) -> None:
        """security.md, row 122."""
        configure(ENCRYPTION_KEYS=["z" * 40])

        response = Api(raise_request_exception=False).post(
            "/auth/login", {"email": user.email, "password": PASSWORD, "otp": app.code()}
        )

        assert_refused(response, "INTERNAL_SERVER_ERROR", 500)
        assert "ENCRYPTION_KEYS" not in response.content.decode()
        assert "ENCRYPTION_KEYS" in caplog.text


class TestGenerate:
    """POST /auth/tfa/generate: a secret to confirm; nothing is on yet."""

    def test_it_returns_what_an_authenticator_app_needs(self, signed_in: Api, user: Any) -> None:
        response = signed_in.post("/auth/tfa/generate", {"password": PASSWORD})

        assert response.status_code == 200
        data = response.json()["data"]
        assert set(data) == {"secret", "otpauth_url", "qr_svg"}
        read = pyotp.parse_uri(data["otpauth_url"])
        assert (read.secret, read.issuer, read.name) == (data["secret"], "testserver", user.email)
        assert len(pyotp.TOTP(data["secret"]).byte_secret()) == 20
        assert data["qr_svg"].startswith("<svg")
        assert response.headers["Cache-Control"] == "no-store"

    def test_nothing_is_on_yet(self, signed_in: Api) -> None:
        signed_in.post("/auth/tfa/generate", {"password": PASSWORD})

        assert signed_in.get("/auth/tfa").json()["data"]["enabled"] is False
        assert not TOTPFactor.objects.exists()

    @pytest.mark.parametrize(
        ("body", "status", "code"),
        [
            ({}, 400, "INVALID_PAYLOAD"),
            ({"password": None}, 400, "INVALID_PAYLOAD"),
            ({"password": 5}, 400, "INVALID_PAYLOAD"),
            ({"password": "wrong"}, 401, "INVALID_CREDENTIALS"),
        ],
    )
    def test_it_needs_the_password(self, signed_in: Api, body: Any, status: int, code: str) -> None:
        """security.md, row 18 (ASVS 7.5.1)."""
        response = signed_in.post("/auth/tfa/generate", body)

        assert_refused(response, code, status)
        assert "WWW-Authenticate" not in response.headers
        assert not PendingFactor.objects.exists()

    def test_guesses_of_the_password_are_limited(self, signed_in: Api) -> None:
        answers = [signed_in.post("/auth/tfa/generate", {"password": "wrong"}).status_code for _ in range(7)]

        assert answers == [401] * 5 + [429] * 2

    def test_without_a_password_a_login_counts_for_ten_minutes(
        self, signed_in: Api, user: Any, clock: Any
    ) -> None:
        user.set_unusable_password()
        user.save()

        assert signed_in.post("/auth/tfa/generate", {}).status_code == 200
        clock.shift(599)
        assert signed_in.post("/auth/tfa/generate", {}).status_code == 200
        clock.shift(2)
        assert_refused(signed_in.post("/auth/tfa/generate", {}), "INVALID_CREDENTIALS")

    def test_a_second_secret_replaces_the_first(self, signed_in: Api) -> None:
        first, second = (
            signed_in.post("/auth/tfa/generate", {"password": PASSWORD}).json()["data"]["secret"]
            for _ in range(2)
        )

        assert first != second
        assert PendingFactor.objects.count() == 1
        refused = signed_in.post("/auth/tfa/enable", {"secret": first, "otp": Authenticator(first).code()})
        assert_refused(refused, "INVALID_PAYLOAD", 400)
        accepted = signed_in.post("/auth/tfa/enable", {"secret": second, "otp": Authenticator(second).code()})
        assert accepted.status_code == 200

    def test_a_factor_that_is_on_is_not_replaced(self, app: Authenticator, signed_in: Api) -> None:
        assert_refused(signed_in.post("/auth/tfa/generate", {"password": PASSWORD}), "INVALID_PAYLOAD", 400)
        assert not PendingFactor.objects.exists()

    def test_a_user_deleted_meanwhile_gets_no_secret(self, signed_in: Api, user: Any) -> None:
        with meanwhile(user.delete, after="SELECT", of=TOTPFactor):
            response = signed_in.post("/auth/tfa/generate", {"password": PASSWORD})

        assert (response.status_code, code_of(response)) == (401, "INVALID_TOKEN")
        assert not PendingFactor.objects.exists()

    def test_the_pending_secret_is_encrypted(self, signed_in: Api) -> None:
        """security.md, row 122."""
        secret = signed_in.post("/auth/tfa/generate", {"password": PASSWORD}).json()["data"]["secret"]

        assert secret not in PendingFactor.objects.get().sealed_secret
        assert PendingFactor.objects.get().secret == secret


class TestEnable:
    """POST /auth/tfa/enable: a code of the pending secret turns it on."""

    @pytest.fixture
    def waiting(self, signed_in: Api) -> Authenticator:
        """The app with the secret, which isn't confirmed yet."""
        answer = signed_in.post("/auth/tfa/generate", {"password": PASSWORD})
        return Authenticator(answer.json()["data"]["secret"])

    def enable(self, api: Api, app: Authenticator, **fields: Any) -> Any:
        return api.post("/auth/tfa/enable", {"secret": app.secret, "otp": app.code(), **fields})

    def test_it_returns_ten_recovery_codes(self, signed_in: Api, waiting: Authenticator) -> None:
        response = self.enable(signed_in, waiting)

        assert response.status_code == 200
        assert set(response.json()["data"]) == {"recovery_codes"}
        assert len(set(response.json()["data"]["recovery_codes"])) == 10
        assert response.headers["Cache-Control"] == "no-store"
        assert signed_in.get("/auth/tfa").json()["data"] == {
            "enabled": True,
            "required": False,
            "recovery_codes_left": 10,
        }
        assert not PendingFactor.objects.exists()

    def test_every_other_session_ends_and_this_one_stays(
        self, signed_in: Api, waiting: Authenticator, user: Any
    ) -> None:
        """security.md, row 18 (ASVS 7.4.3)."""
        other = Api()
        other.login(user.email)

        self.enable(signed_in, waiting)

        assert other.get("/auth/tfa").status_code == 401
        assert other.refresh().status_code == 401
        assert signed_in.get("/auth/tfa").status_code == 200
        signed_in.refreshed()
        claims = jwt.decode(str(signed_in.access_token), options={"verify_signature": False})
        assert claims["amr"] == ["pwd", "otp"]

    def test_the_owner_is_notified_and_the_signal_is_sent(
        self, signed_in: Api, waiting: Authenticator, user: Any, mailoutbox: Any
    ) -> None:
        """security.md, rows 18, 121 (ASVS 6.3.7)."""
        with hearing(signals.factor_enabled) as heard:
            self.enable(signed_in, waiting)

        assert [facts["user"] for facts in heard] == [user]
        assert [(mail.to, mail.subject) for mail in mailoutbox] == [
            ([user.email], "Two-factor authentication was turned on (testserver)")
        ]
        assert waiting.secret not in mailoutbox[0].message().as_string()
        event = AuthEvent.objects.get(kind="factor_enabled")
        assert (event.user, event.ip_address) == (user, "127.0.0.1")

    def test_a_wrong_code_turns_nothing_on_and_counts(self, signed_in: Api, waiting: Authenticator) -> None:
        response = self.enable(signed_in, waiting, otp=waiting.wrong())

        assert_refused(response, "INVALID_OTP")
        assert attempts() == 1
        assert not TOTPFactor.objects.exists()
        assert self.enable(signed_in, waiting).status_code == 200

    def test_wrong_codes_are_limited_here_too(self, signed_in: Api, waiting: Authenticator) -> None:
        answers = [self.enable(signed_in, waiting, otp=waiting.wrong()).status_code for _ in range(12)]

        assert answers == [401] * 10 + [429] * 2
        assert_refused(self.enable(signed_in, waiting), "REQUESTS_EXCEEDED", 429)

    @pytest.mark.parametrize("steps", [-2, 2])
    def test_a_code_two_steps_away_is_wrong(self, signed_in: Api, waiting: Authenticator, steps: int) -> None:
        """security.md, row 12."""
        assert_refused(self.enable(signed_in, waiting, otp=waiting.code(steps)), "INVALID_OTP")

    def test_a_code_of_the_next_step_spends_that_step(
        self, signed_in: Api, waiting: Authenticator, user: Any, clock: Any
    ) -> None:
        assert self.enable(signed_in, waiting, otp=waiting.code(1)).status_code == 200

        assert_refused(log_in(user, otp=waiting.code()), "INVALID_OTP")
        assert_refused(log_in(user, otp=waiting.code(1)), "INVALID_OTP")
        clock.shift(60)
        assert log_in(user, otp=waiting.code()).status_code == 200

    def test_a_secret_that_the_client_chose_is_refused(self, signed_in: Api, waiting: Authenticator) -> None:
        """Somebody else may know a secret that the server didn't create."""
        own = Authenticator(pyotp.random_base32())

        response = self.enable(signed_in, own)

        assert_refused(response, "INVALID_PAYLOAD", 400)
        assert response.json()["errors"][0]["extensions"]["field"] == "secret"
        assert attempts() == 0

    def test_the_secret_expires_after_ten_minutes(
        self, signed_in: Api, waiting: Authenticator, clock: Any
    ) -> None:
        clock.shift(600)

        assert_refused(self.enable(signed_in, waiting), "INVALID_PAYLOAD", 400)
        assert not TOTPFactor.objects.exists()

    def test_the_secret_works_until_then(self, signed_in: Api, waiting: Authenticator, clock: Any) -> None:
        clock.shift(599)

        assert self.enable(signed_in, waiting).status_code == 200

    def test_the_secret_of_another_session_is_refused(self, waiting: Authenticator, user: Any) -> None:
        """A stolen access token of another session can't finish what this session began."""
        other = Api()
        other.login(user.email)

        assert_refused(self.enable(other, waiting), "INVALID_PAYLOAD", 400)

    def test_a_secret_whose_key_is_lost_must_be_generated_again(
        self, signed_in: Api, waiting: Authenticator, configure: Any
    ) -> None:
        configure(ENCRYPTION_KEYS=["z" * 40])

        assert_refused(self.enable(signed_in, waiting), "INVALID_PAYLOAD", 400)
        enrol(signed_in)

    def test_a_secret_replaced_meanwhile_is_refused(self, signed_in: Api, waiting: Authenticator) -> None:
        """After it is confirmed and before it is turned on, another tab asks for a new one, which is then the pending
        one.
        """
        other_tab = Api()
        other_tab.access_token = signed_in.access_token
        new: list[Any] = []

        def ask() -> None:
            new.append(other_tab.post("/auth/tfa/generate", {"password": PASSWORD}).json()["data"])

        with meanwhile(ask, after="SELECT", of=PendingFactor):
            response = self.enable(signed_in, waiting)

        assert_refused(response, "INVALID_PAYLOAD", 400)
        assert not TOTPFactor.objects.exists()
        assert self.enable(signed_in, Authenticator(new[0]["secret"])).status_code == 200

    def test_a_second_time_is_refused(self, signed_in: Api, waiting: Authenticator, clock: Any) -> None:
        self.enable(signed_in, waiting)
        clock.shift(30)

        assert_refused(self.enable(signed_in, waiting), "INVALID_PAYLOAD", 400)

    @pytest.mark.parametrize(
        "body",
        [
            {}, {"secret": "A" * 32}, {"otp": "123456"}, {"secret": 5, "otp": "123456"},
            {"secret": None, "otp": None}, {"secret": "A" * 32, "otp": 123456},
            {"secret": "A" * 65, "otp": "123456"}, {"secret": "", "otp": "123456"},
            {"secret": "\x00" * 32, "otp": "123456"}, {"secret": "é" * 32, "otp": "123456"},
        ],
    )  # fmt: skip
    def test_malformed_fields_are_400(self, signed_in: Api, waiting: Authenticator, body: Any) -> None:
        """security.md, rows 105, 106."""
        response = signed_in.post("/auth/tfa/enable", body)

        assert response.status_code == 400, response.content
        codes = {error["extensions"]["code"] for error in response.json()["errors"]}
        assert codes == {"INVALID_PAYLOAD"}

    def test_a_session_that_ended_meanwhile_enables_nothing(
        self, signed_in: Api, waiting: Authenticator, user: Any, rf: Any
    ) -> None:
        """A reset that ends all sessions wins over an enrolment in progress."""
        session = RefreshSession.objects.select_related("user").get()
        RefreshSession.objects.all().delete()

        with pytest.raises(errors.InvalidToken):
            enrolment.enable(session, secret=waiting.secret, otp=waiting.code(), request=rf.post("/"))
        assert not TOTPFactor.objects.exists()


class TestDisable:
    """POST /auth/tfa/disable."""

    def test_a_code_removes_the_factor(self, app: Authenticator, signed_in: Api, user: Any) -> None:
        response = signed_in.post("/auth/tfa/disable", {"otp": app.code()})

        assert (response.status_code, response.content) == (204, b"")
        assert "Content-Type" not in response.headers
        assert not TOTPFactor.objects.exists()
        assert not RecoveryCode.objects.exists()
        assert log_in(user).status_code == 200

    def test_a_recovery_code_removes_the_factor(
        self, app: Authenticator, codes: list[str], signed_in: Api
    ) -> None:
        assert signed_in.post("/auth/tfa/disable", {"otp": codes[0].upper()}).status_code == 204
        assert not TOTPFactor.objects.exists()

    @pytest.mark.parametrize("otp", ["123_456", "zzzz-zzzz-zzzz-zzzz", "wrong"])
    def test_nothing_else_removes_the_factor(self, app: Authenticator, signed_in: Api, otp: str) -> None:
        response = signed_in.post("/auth/tfa/disable", {"otp": app.wrong() if otp == "wrong" else otp})

        assert_refused(response, "INVALID_OTP")
        assert TOTPFactor.objects.exists()

    def test_a_code_that_was_used_to_log_in_is_refused(self, app: Authenticator, user: Any) -> None:
        api = Api()
        api.login(user.email, otp=app.code())

        assert_refused(api.post("/auth/tfa/disable", {"otp": app.code()}), "INVALID_OTP")

    def test_wrong_codes_are_limited_here_too(self, app: Authenticator, signed_in: Api) -> None:
        answers = [signed_in.post("/auth/tfa/disable", {"otp": app.wrong()}).status_code for _ in range(12)]

        assert answers == [401] * 10 + [429] * 2

    def test_a_missing_code_is_400(self, app: Authenticator, signed_in: Api) -> None:
        assert_refused(signed_in.post("/auth/tfa/disable", {}), "INVALID_PAYLOAD", 400)

    def test_without_a_factor_it_is_400(self, signed_in: Api) -> None:
        assert_refused(signed_in.post("/auth/tfa/disable", {"otp": "123456"}), "INVALID_PAYLOAD", 400)
        assert attempts() == 0

    def test_the_owner_is_notified_and_the_signal_is_sent(
        self, app: Authenticator, signed_in: Api, user: Any, mailoutbox: Any
    ) -> None:
        mailoutbox.clear()

        with hearing(signals.factor_disabled) as heard:
            signed_in.post("/auth/tfa/disable", {"otp": app.code()})

        assert [(facts["user"], facts["by"]) for facts in heard] == [(user, "user")]
        assert [(mail.to, mail.subject) for mail in mailoutbox] == [
            ([user.email], "Two-factor authentication was turned off (testserver)")
        ]
        assert AuthEvent.objects.get(kind="factor_disabled").user == user

    def test_wrong_codes_do_not_count_for_the_next_factor(
        self, app: Authenticator, codes: list[str], signed_in: Api
    ) -> None:
        for _ in range(12):
            signed_in.post("/auth/tfa/disable", {"otp": app.wrong()})
        signed_in.post("/auth/tfa/disable", {"otp": codes[0]})

        assert attempts() == 0
        enrol(signed_in)

    def test_it_can_be_set_up_again(self, app: Authenticator, signed_in: Api, user: Any, clock: Any) -> None:
        signed_in.post("/auth/tfa/disable", {"otp": app.code()})
        clock.shift(30)
        new_app, _codes = enrol(signed_in)
        clock.shift(30)

        assert_refused(log_in(user, otp=app.code()), "INVALID_OTP")
        assert log_in(user, otp=new_app.code()).status_code == 200


class TestRecoveryCodes:
    """POST /auth/tfa/recovery-codes: a new set."""

    def test_the_new_codes_work_and_the_old_ones_do_not(
        self, app: Authenticator, codes: list[str], signed_in: Api, user: Any
    ) -> None:
        body = {"password": PASSWORD, "otp": app.code()}

        response = signed_in.post("/auth/tfa/recovery-codes", body)

        assert response.status_code == 200
        new = response.json()["data"]["recovery_codes"]
        assert len(new) == 10
        assert not set(new) & set(codes)
        assert_refused(log_in(user, otp=codes[0]), "INVALID_OTP")
        assert log_in(user, otp=new[0]).status_code == 200
        assert AuthEvent.objects.filter(kind="recovery_codes_renewed").count() == 1
        assert any(message.subject.startswith("You have new recovery codes") for message in mail.outbox)

    def test_the_status_has_the_number_of_codes_left(
        self, app: Authenticator, codes: list[str], signed_in: Api, user: Any
    ) -> None:
        for left in (9, 8, 7):
            assert log_in(user, otp=codes[left]).status_code == 200
            assert signed_in.get("/auth/tfa").json()["data"]["recovery_codes_left"] == left

    def test_a_recovery_code_gets_a_new_set(
        self, app: Authenticator, codes: list[str], signed_in: Api
    ) -> None:
        body = {"password": PASSWORD, "otp": codes[0]}

        assert signed_in.post("/auth/tfa/recovery-codes", body).status_code == 200
        assert RecoveryCode.objects.count() == 10

    @pytest.mark.parametrize(
        ("changes", "status", "code"),
        [
            ({"password": "wrong"}, 401, "INVALID_CREDENTIALS"),
            ({"otp": "zzzz-zzzz-zzzz-zzzz"}, 401, "INVALID_OTP"),
            ({"password": None}, 400, "INVALID_PAYLOAD"),
            ({"otp": None}, 400, "INVALID_PAYLOAD"),
        ],
    )
    def test_it_needs_both_password_and_code(
        self, app: Authenticator, codes: list[str], signed_in: Api, changes: Any, status: int, code: str
    ) -> None:
        """security.md, row 18."""
        body = {"password": PASSWORD, "otp": app.code(), **changes}

        assert_refused(signed_in.post("/auth/tfa/recovery-codes", body), code, status)
        assert RecoveryCode.objects.count() == 10

    def test_the_password_comes_first(self, app: Authenticator, signed_in: Api) -> None:
        body = {"password": "wrong", "otp": app.wrong()}

        assert_refused(signed_in.post("/auth/tfa/recovery-codes", body), "INVALID_CREDENTIALS")
        assert attempts() == 0

    def test_without_a_factor_it_is_400(self, signed_in: Api) -> None:
        body = {"password": PASSWORD, "otp": "123456"}

        assert_refused(signed_in.post("/auth/tfa/recovery-codes", body), "INVALID_PAYLOAD", 400)
        assert not RecoveryCode.objects.exists()


class TestUsersMe:
    """/users/me/tfa/*: as the official SDK calls them."""

    def test_a_factor_can_be_set_up_and_removed(self, signed_in: Api, user: Any, clock: Any) -> None:
        secret = signed_in.post("/users/me/tfa/generate", {"password": PASSWORD}).json()["data"]["secret"]
        app = Authenticator(secret)

        enabled = signed_in.post("/users/me/tfa/enable", {"secret": secret, "otp": app.code()})

        assert (enabled.status_code, enabled.content) == (204, b"")
        assert "Content-Type" not in enabled.headers
        assert signed_in.get("/users/me/tfa").json()["data"] == {
            "enabled": True,
            "required": False,
            "recovery_codes_left": 0,
        }
        assert signed_in.get("/users/me").json()["data"]["tfa_enabled"] is True
        clock.shift(30)
        disabled = signed_in.post("/users/me/tfa/disable", {"otp": app.code()})
        assert (disabled.status_code, disabled.content) == (204, b"")
        assert log_in(user).status_code == 200

    def test_recovery_codes_are_created_on_request(self, signed_in: Api, clock: Any) -> None:
        secret = signed_in.post("/users/me/tfa/generate", {"password": PASSWORD}).json()["data"]["secret"]
        app = Authenticator(secret)
        signed_in.post("/users/me/tfa/enable", {"secret": secret, "otp": app.code()})
        clock.shift(30)

        response = signed_in.post("/users/me/tfa/recovery-codes", {"password": PASSWORD, "otp": app.code()})

        assert len(response.json()["data"]["recovery_codes"]) == 10


class TestEveryEndpoint:
    """What applies to all of them."""

    @pytest.mark.parametrize("path", ["generate", "enable", "disable", "recovery-codes"])
    @pytest.mark.parametrize("prefix", ["/auth/tfa/", "/users/me/tfa/"])
    def test_it_needs_an_access_token_and_only_allows_post(self, api: Api, prefix: str, path: str) -> None:
        for slash in ("", "/"):
            assert_refused(api.post(f"{prefix}{path}{slash}", {}), "INVALID_CREDENTIALS")
            response = api.get(f"{prefix}{path}{slash}")
            assert response.status_code == 405
            assert response.headers["Allow"] == "POST"

    def test_the_status_needs_a_user(self, api: Api) -> None:
        assert_refused(api.get("/auth/tfa"), "INVALID_CREDENTIALS")

    @pytest.mark.parametrize("name", ["status", "generate", "enable", "disable", "recovery-codes"])
    def test_the_url_names_are_public(self, name: str) -> None:
        assert reverse(f"platform_auth:tfa-{name}").startswith("/auth/tfa")


class TestReplica:
    """security.md, row 48: everything about a factor is read from the primary database."""

    @pytest.fixture
    def lagging(self, settings: Any) -> Any:
        """Switch to a host whose reads go to a replica that doesn't exist."""

        def switch() -> None:
            settings.DATABASE_ROUTERS = ["tests.sessions.test_refresh.Replica"]

        return switch

    def test_the_status(self, app: Authenticator, signed_in: Api, lagging: Any) -> None:
        lagging()

        assert signed_in.get("/auth/tfa").json()["data"]["recovery_codes_left"] == 10

    def test_the_set_up(self, signed_in: Api, lagging: Any) -> None:
        lagging()

        enrol(signed_in)

    @pytest.mark.parametrize("by", ["code", "recovery code"])
    def test_new_recovery_codes(
        self, app: Authenticator, codes: list[str], signed_in: Api, lagging: Any, by: str
    ) -> None:
        lagging()
        body = {"password": PASSWORD, "otp": app.code() if by == "code" else codes[0]}

        assert signed_in.post("/auth/tfa/recovery-codes", body).status_code == 200

    @pytest.mark.parametrize("by", ["code", "recovery code"])
    def test_its_removal(
        self, app: Authenticator, codes: list[str], signed_in: Api, lagging: Any, by: str
    ) -> None:
        lagging()
        body = {"otp": app.code() if by == "code" else codes[0]}

        assert signed_in.post("/auth/tfa/disable", body).status_code == 204

    def test_a_refresh_under_a_policy(self, signed_in: Api, configure: Any, lagging: Any, user: Any) -> None:
        configure(TFA_REQUIRED_FOR_STAFF=True)
        type(user).objects.update(is_staff=True)
        lagging()

        signed_in.refreshed()


class TestAllOrNothing:
    """A change of the factor and its event are one transaction: if the database fails, nothing is half done."""

    def test_the_set_up(self, signed_in: Api, user: Any, mailoutbox: Any) -> None:
        other = Api()
        other.login(user.email)
        secret = signed_in.post("/auth/tfa/generate", {"password": PASSWORD}).json()["data"]["secret"]
        body = {"secret": secret, "otp": Authenticator(secret).code()}

        with failing(at="INSERT", of=AuthEvent):
            response = signed_in.post("/auth/tfa/enable", body)

        assert_refused(response, "SERVICE_UNAVAILABLE", 503)
        assert not TOTPFactor.objects.exists()
        assert not RecoveryCode.objects.exists()
        assert not mailoutbox
        assert other.get("/auth/tfa").status_code == 200
        assert signed_in.post("/auth/tfa/enable", body).status_code == 200
        assert len(mailoutbox) == 1

    def test_its_removal(self, app: Authenticator, signed_in: Api, mailoutbox: Any) -> None:
        mailoutbox.clear()

        with failing(at="INSERT", of=AuthEvent):
            response = signed_in.post("/auth/tfa/disable", {"otp": app.code()})

        assert_refused(response, "SERVICE_UNAVAILABLE", 503)
        assert TOTPFactor.objects.exists()
        assert RecoveryCode.objects.count() == 10
        assert not mailoutbox
        assert signed_in.post("/auth/tfa/disable", {"otp": app.code()}).status_code == 204

    def test_its_removal_by_an_admin(self, app: Authenticator, user: Any, mailoutbox: Any) -> None:
        mailoutbox.clear()

        with failing(at="INSERT", of=AuthEvent), pytest.raises(OperationalError):
            enrolment.reset_by_admin(user)

        assert TOTPFactor.objects.exists()
        assert not mailoutbox

    def test_new_recovery_codes(
        self, app: Authenticator, codes: list[str], signed_in: Api, user: Any
    ) -> None:
        body = {"password": PASSWORD, "otp": app.code()}

        with failing(at="INSERT", of=AuthEvent):
            response = signed_in.post("/auth/tfa/recovery-codes", body)

        assert_refused(response, "SERVICE_UNAVAILABLE", 503)
        assert log_in(user, otp=codes[0]).status_code == 200
        assert signed_in.post("/auth/tfa/recovery-codes", body).status_code == 200


class TestDatabaseFailure:
    """As in the contract, nothing of the user's was consumed."""

    def assert_fails(self, user: Any, otp: str, at: str = "INSERT", of: Any = RefreshSession) -> None:
        with failing(at=at, of=of):
            assert_refused(log_in(user, otp=otp), "SERVICE_UNAVAILABLE", 503)

    def test_a_code_can_be_used_again_and_once(self, app: Authenticator, user: Any) -> None:
        self.assert_fails(user, app.code())

        assert log_in(user, otp=app.code()).status_code == 200
        assert_refused(log_in(user, otp=app.code()), "INVALID_OTP")

    def test_an_older_code_cannot_be_used(self, app: Authenticator, user: Any) -> None:
        """Not even the one of the previous step, used or not: only one code is given back."""
        log_in(user, otp=app.code(-1))
        self.assert_fails(user, app.code())

        assert_refused(log_in(user, otp=app.code(-1)), "INVALID_OTP")
        assert log_in(user, otp=app.code()).status_code == 200

    def test_a_recovery_code_can_be_used_again_and_once(
        self, app: Authenticator, codes: list[str], user: Any
    ) -> None:
        self.assert_fails(user, codes[0])

        assert RecoveryCode.objects.count() == 10
        assert log_in(user, otp=codes[0]).status_code == 200
        assert_refused(log_in(user, otp=codes[0]), "INVALID_OTP")

    def test_the_last_recovery_code_can_be_used_again_too(
        self, app: Authenticator, codes: list[str], user: Any
    ) -> None:
        for code in codes[1:]:
            assert log_in(user, otp=code).status_code == 200
        self.assert_fails(user, codes[0])

        assert log_in(user, otp=codes[0]).status_code == 200

    @pytest.mark.parametrize("kind", ["code", "recovery code"])
    def test_neither_is_lost_if_its_own_bookkeeping_fails(
        self, app: Authenticator, codes: list[str], user: Any, kind: str, mailoutbox: Any
    ) -> None:
        mailoutbox.clear()
        otp = app.code() if kind == "code" else codes[0]
        done = ("UPDATE", TOTPFactor) if kind == "code" else ("DELETE", RecoveryCode)

        with contextlib.ExitStack() as database:
            fail = functools.partial(database.enter_context, failing(at="INSERT", of=AuthEvent))
            with meanwhile(fail, after=done[0], of=done[1]):
                assert_refused(log_in(user, otp=otp), "SERVICE_UNAVAILABLE", 503)

        assert not mailoutbox
        assert log_in(user, otp=otp).status_code == 200

    @pytest.mark.django_db(transaction=True)
    def test_a_counted_attempt_is_not_lost_either(self, app: Authenticator, user: Any) -> None:
        self.assert_fails(user, app.code(), at="UPDATE", of=TOTPFactor)

        assert attempts() == 0
        assert log_in(user, otp=app.code()).status_code == 200

    def test_if_a_session_cannot_be_replaced_nothing_is_consumed(self, app: Authenticator, user: Any) -> None:
        browser = Api()
        body = {"email": user.email, "password": PASSWORD, "mode": "cookie"}
        assert browser.post("/auth/login", {**body, "otp": app.code()}).status_code == 200

        with failing(at="DELETE", of=RefreshSession):
            response = browser.post("/auth/login", {**body, "otp": app.code(1)})

        assert response.status_code == 503
        assert browser.post("/auth/login", {**body, "otp": app.code(1)}).status_code == 200


class TestNoPlainTextAnywhere:
    """security.md, rows 17, 120, 123: the secret and the recovery codes are nowhere but in the one response."""

    def test_the_database_dumps_admin_pages_and_logs_have_none(
        self, signed_in: Api, user: Any, clock: Any, caplog: Any, client: Any
    ) -> None:
        caplog.set_level(logging.DEBUG)
        app, codes = enrol(signed_in)
        clock.shift(30)
        log_in(user, otp=app.code())
        log_in(user, otp=app.wrong())
        log_in(user, otp=codes[0])
        other = make_user()
        waiting = Api()
        waiting.login(other.email)
        pending = waiting.post("/auth/tfa/generate", {"password": PASSWORD}).json()["data"]["secret"]
        places = {
            "database": dump_of_the_database(),
            "dumpdata": dumpdata(),
            "admin": admin_pages(client),
            "logs": caplog.text + "".join(str(vars(record)) for record in caplog.records),
            "repr": repr([TOTPFactor.objects.all(), PendingFactor.objects.all()]),
        }

        raw = [pyotp.TOTP(secret).byte_secret() for secret in (app.secret, pending)]
        secrets = [app.secret, pending, *codes, *(code.replace("-", "") for code in codes)]
        secrets += [key.hex() for key in raw] + [repr(key) for key in raw]
        for place, text in places.items():
            for secret in secrets:
                assert secret.lower() not in text.lower(), place
        assert "sealed_secret" in places["dumpdata"]

    def test_error_reports_have_none(self, signed_in: Api, configure: Any, app: Authenticator) -> None:
        """Local variables with secrets are hidden in tracebacks."""
        session = RefreshSession.objects.select_related("user").get()
        request = RequestFactory().post("/")
        given = app.code()
        configure(ENCRYPTION_KEYS=["z" * 40])

        with pytest.raises(sealing.SealBroken) as broken:
            enrolment.disable(session, otp=given, request=request)

        reporter = ExceptionReporter(request, broken.type, broken.value, broken.tb)
        reporter.filter = SafeExceptionReporterFilter()
        frames = reporter.get_traceback_data()["frames"]
        shown = "".join(str(frame["vars"]) for frame in frames if "/platform_auth/" in frame["filename"])
        assert "otp" in shown
        assert given not in shown


class TestResetByAnAdmin:
    """`enrolment.reset_by_admin`, which the admin's action calls."""

    def test_it_removes_everything_and_notifies_the_owner(
        self, app: Authenticator, user: Any, rf: Any, mailoutbox: Any
    ) -> None:
        mailoutbox.clear()
        request = rf.post("/")
        request.user = make_user(is_staff=True)

        with hearing(signals.factor_disabled) as heard:
            assert enrolment.reset_by_admin(user, request=request) is True

        assert not TOTPFactor.objects.exists()
        assert not RecoveryCode.objects.exists()
        assert [(facts["user"], facts["by"]) for facts in heard] == [(user, "admin")]
        assert [(mail.to, mail.subject) for mail in mailoutbox] == [
            ([user.email], "Two-factor authentication was turned off (testserver)")
        ]
        assert AuthEvent.objects.get(kind="factor_disabled").reason == f"admin {request.user.pk}"
        assert log_in(user).status_code == 200

    @pytest.mark.usefixtures("no_login_limits")
    def test_wrong_codes_do_not_count_for_the_next_factor(
        self, app: Authenticator, user: Any, clock: Any
    ) -> None:
        """Both limits: an admin is asked if nothing else helps."""
        for _ in range(4):
            for _ in range(12):
                log_in(user, otp=app.wrong())
            clock.shift(901)
        assert_refused(log_in(user, otp=app.code()), "REQUESTS_EXCEEDED", 429)

        enrolment.reset_by_admin(user)

        api = Api()
        api.login(user.email)
        enrol(api)

    def test_without_a_factor_nothing_happens(self, user: Any, mailoutbox: Any) -> None:
        assert enrolment.reset_by_admin(user) is False
        assert not mailoutbox
        assert not AuthEvent.objects.exists()


def dump_of_the_database() -> str:
    """Return every row of every table as text."""
    rows: list[str] = []
    with connection.cursor() as cursor:
        for table in connection.introspection.table_names(cursor):
            cursor.execute(f"SELECT * FROM {connection.ops.quote_name(table)}")
            rows += [str(row) for row in cursor.fetchall()]
    assert len(rows) > 20
    return "\n".join(rows)


def dumpdata() -> str:
    out = io.StringIO()
    call_command("dumpdata", stdout=out)
    return out.getvalue()


def admin_pages(client: Any) -> str:
    """Return the list and the detail pages of every registered model that has rows of ours."""
    staff = make_user(is_staff=True, is_superuser=True)
    client.force_login(staff, "platform_auth.backends.EmailBackend")
    pages = ""
    for model in admin.site._registry:
        if model._meta.app_label != "platform_auth" and model is not get_user_model():
            continue
        name = f"admin:{model._meta.app_label}_{model._meta.model_name}"
        urls = [reverse(f"{name}_changelist")]
        urls += [reverse(f"{name}_change", args=[row.pk]) for row in model._default_manager.all()]
        for url in urls:
            response = client.get(url)
            assert response.status_code == 200, url
            pages += response.content.decode()
    assert "platform_auth/totpfactor/" in pages
    return pages
