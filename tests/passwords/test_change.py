"""POST /auth/password/change."""

from __future__ import annotations

from datetime import timedelta
from functools import partial
from typing import Any

import pytest
from django.contrib.auth import get_user_model
from django.contrib.auth.hashers import PBKDF2PasswordHasher

from platform_auth import signals
from platform_auth.models import AuthEvent, PasswordResetToken, RefreshSession
from platform_auth.passwords import reset_tokens
from tests.conftest import PASSWORD, Api, code_of, enrol, hearing, make_user, unrecordable
from tests.racing import failing, together

URL = "/auth/password/change"
NEW = "a new one 4711"
FIELDS = {"current_password": PASSWORD, "password": NEW}


class MeddlingHasher(PBKDF2PasswordHasher):
    """An outdated hash; while it is verified, somebody else changes the password."""

    algorithm = "meddling"
    iterations = 1

    def verify(self, password: str, encoded: str) -> bool:
        get_user_model().objects.update(password="!changed meanwhile")
        return super().verify(password, encoded)


@pytest.mark.django_db
class TestSuccess:
    def test_it_sets_the_password(self, signed_in: Api, user: Any) -> None:
        response = signed_in.post(URL, FIELDS)

        assert (response.status_code, response.content) == (204, b"")
        assert "Content-Type" not in response.headers
        assert Api().login(user.email, NEW).status_code == 200
        old = Api().post("/auth/login", {"email": user.email, "password": PASSWORD})
        assert code_of(old) == "INVALID_CREDENTIALS"

    def test_every_other_session_ends_and_this_one_stays(self, signed_in: Api, user: Any) -> None:
        other = Api()
        other.login(user.email)

        signed_in.post(URL, FIELDS)

        assert code_of(other.get("/auth/sessions")) == "INVALID_TOKEN"
        assert code_of(other.refresh()) == "INVALID_CREDENTIALS"
        assert len(signed_in.get("/auth/sessions").json()["data"]) == 1
        assert signed_in.refresh().status_code == 200

    def test_reset_links_end(self, signed_in: Api, user: Any) -> None:
        token = reset_tokens.sign(reset_tokens.issue(user))

        signed_in.post(URL, FIELDS)

        assert not PasswordResetToken.objects.exists()
        response = Api().post("/auth/password/reset", {"token": token, "password": "another new one"})
        assert code_of(response) == "INVALID_TOKEN"

    def test_the_owner_gets_a_notice(self, signed_in: Api, user: Any, mailoutbox: list[Any]) -> None:
        signed_in.post(URL, FIELDS)

        (message,) = mailoutbox
        assert message.to == [user.email]
        assert "Your password was changed" in message.subject

    def test_it_is_recorded_and_the_signal_is_sent(self, signed_in: Api, user: Any) -> None:
        with hearing(signals.password_changed) as heard:
            signed_in.post(URL, FIELDS)

        assert [(facts["user"], facts["session"]) for facts in heard] == [
            (user, RefreshSession.objects.get())
        ]
        assert AuthEvent.objects.filter(kind=AuthEvent.Kind.PASSWORD_CHANGED, user=user).count() == 1

    def test_if_it_cannot_be_recorded_nothing_changes(
        self, signed_in: Api, user: Any, mailoutbox: list[Any]
    ) -> None:
        other = Api()
        other.login(user.email)
        signed_in.client.raise_request_exception = False

        with unrecordable(AuthEvent.Kind.PASSWORD_CHANGED):
            response = signed_in.post(URL, FIELDS)

        assert response.status_code == 500
        user.refresh_from_db()
        assert user.check_password(PASSWORD)
        assert other.refresh().status_code == 200
        assert mailoutbox == []

    def test_a_database_that_fails_costs_no_one_time_password(
        self, clock: Any, signed_in: Api, user: Any
    ) -> None:
        """As in the contract, a 503 consumes nothing."""
        app, _codes = enrol(signed_in)
        clock.shift(30)
        fields = {**FIELDS, "otp": app.code()}

        with failing(at="INSERT", of=AuthEvent):
            response = signed_in.post(URL, fields)

        assert (response.status_code, code_of(response)) == (503, "SERVICE_UNAVAILABLE")
        assert signed_in.post(URL, fields).status_code == 204

    def test_it_works_with_an_outdated_hash(self, signed_in: Api, user: Any) -> None:
        hasher = PBKDF2PasswordHasher()
        user.password = hasher.encode(PASSWORD, "salt" * 6, iterations=1000)
        user.save()

        assert signed_in.post(URL, FIELDS).status_code == 204


@pytest.mark.django_db
class TestRefusal:
    def test_it_needs_an_access_token(self, api: Api) -> None:
        response = api.post(URL, FIELDS)

        assert code_of(response) == "INVALID_CREDENTIALS"
        assert response.headers["WWW-Authenticate"].startswith("Bearer")

    @pytest.mark.usefixtures("clock")
    def test_a_wrong_current_password_is_refused_and_counted(self, signed_in: Api, user: Any) -> None:
        wrong = {**FIELDS, "current_password": "wrong"}

        answers = [signed_in.post(URL, wrong) for _ in range(6)]

        assert [code_of(answer) for answer in answers[:5]] == ["INVALID_CREDENTIALS"] * 5
        assert "WWW-Authenticate" not in answers[0].headers
        assert code_of(answers[5]) == "REQUESTS_EXCEEDED"
        user.refresh_from_db()
        assert user.check_password(PASSWORD)
        assert signed_in.get("/auth/sessions").status_code == 200

    def test_an_upgraded_hash_does_not_bring_back_a_password_that_was_changed_meanwhile(
        self, signed_in: Api, user: Any, settings: Any
    ) -> None:
        """A reset commits while the old password is being verified: the reset stands."""
        settings.PASSWORD_HASHERS = [*settings.PASSWORD_HASHERS, f"{__name__}.MeddlingHasher"]
        user.password = MeddlingHasher().encode(PASSWORD, "salt" * 6)
        user.save()

        response = signed_in.post(URL, FIELDS)

        assert code_of(response) == "INVALID_CREDENTIALS"
        user.refresh_from_db()
        assert user.password == "!changed meanwhile"

    @pytest.mark.parametrize("current", [None, 5, "", ["a"], "a\x00b", "x" * 1025])
    def test_a_malformed_current_password_is_400(self, signed_in: Api, current: Any) -> None:
        response = signed_in.post(URL, {**FIELDS, "current_password": current})

        assert response.status_code == 400
        assert {e["extensions"]["field"] for e in response.json()["errors"]} == {"current_password"}

    def test_a_missing_current_password_is_400(self, signed_in: Api) -> None:
        response = signed_in.post(URL, {"password": NEW})

        assert code_of(response) == "INVALID_PAYLOAD"
        assert response.json()["errors"][0]["extensions"]["field"] == "current_password"

    def test_the_hosts_validators_apply(self, signed_in: Api, user: Any) -> None:
        response = signed_in.post(URL, {**FIELDS, "password": "1234"})

        assert response.status_code == 400
        kinds = {e["extensions"]["type"] for e in response.json()["errors"]}
        assert kinds == {"password_too_short", "password_too_common", "password_entirely_numeric"}

    def test_the_current_password_is_checked_before_the_rules(self, signed_in: Api) -> None:
        response = signed_in.post(URL, {"current_password": "wrong", "password": "1234"})

        assert code_of(response) == "INVALID_CREDENTIALS"

    def test_a_success_gives_the_counts_back(self, signed_in: Api, user: Any) -> None:
        current = PASSWORD
        for number in range(8):
            response = signed_in.post(URL, {"current_password": current, "password": f"{NEW} {number}"})
            current = f"{NEW} {number}"
            assert response.status_code == 204


@pytest.mark.django_db
class TestSecondFactor:
    def test_an_enrolled_user_needs_a_one_time_password(self, signed_in: Api, user: Any) -> None:
        app, _codes = enrol(signed_in)

        missing = signed_in.post(URL, FIELDS)
        wrong = signed_in.post(URL, {**FIELDS, "otp": app.wrong()})
        right = signed_in.post(URL, {**FIELDS, "otp": app.code(1)})

        assert code_of(missing) == code_of(wrong) == "INVALID_OTP"
        assert right.status_code == 204

    def test_a_refused_password_does_not_cost_the_one_time_password(self, signed_in: Api, user: Any) -> None:
        app, _codes = enrol(signed_in)
        fields = {**FIELDS, "otp": app.code(1)}

        refused = signed_in.post(URL, {**fields, "password": "short"})

        assert refused.status_code == 400
        assert signed_in.post(URL, fields).status_code == 204

    def test_it_is_not_checked_before_the_password_is_right(self, signed_in: Api, user: Any) -> None:
        app, _codes = enrol(signed_in)
        fields = {**FIELDS, "otp": app.code(1)}

        wrong = signed_in.post(URL, {**fields, "current_password": "wrong"})

        assert code_of(wrong) == "INVALID_CREDENTIALS"
        assert signed_in.post(URL, fields).status_code == 204


@pytest.mark.django_db
class TestAccountWithoutPassword:
    """For a provider-only account, a login less than ten minutes old is enough."""

    @pytest.fixture
    def provider_only(self, signed_in: Api, user: Any) -> Api:
        user.set_unusable_password()
        user.save()
        return signed_in

    def test_a_recent_login_is_enough(self, provider_only: Api, user: Any) -> None:
        assert provider_only.post(URL, {"password": NEW}).status_code == 204

        assert Api().login(user.email, NEW).status_code == 200

    def test_an_old_login_is_not_enough(self, provider_only: Api, user: Any) -> None:
        session = RefreshSession.objects.get()
        session.created_at -= timedelta(minutes=10)
        session.save()

        assert code_of(provider_only.post(URL, {"password": NEW})) == "INVALID_CREDENTIALS"


@pytest.mark.race
@pytest.mark.django_db(transaction=True)
class TestRace:
    def test_of_five_concurrent_changes_one_succeeds(self) -> None:
        for _ in range(10):
            user, api = make_user(), Api()
            api.login(user.email)

            def change(number: int, token: str | None = api.access_token) -> Any:
                caller = Api()
                caller.access_token = token
                return caller.post(URL, {**FIELDS, "password": f"{NEW} {number}"})

            answers = together(*[partial(change, number) for number in range(5)])

            winners = [number for number, answer in enumerate(answers) if answer.status_code == 204]
            assert len(winners) == 1, [answer.content for answer in answers]
            user.refresh_from_db()
            assert user.check_password(f"{NEW} {winners[0]}")
