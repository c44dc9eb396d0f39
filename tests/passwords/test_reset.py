"""POST /auth/password/reset."""

from __future__ import annotations

import json
import logging
import os
from datetime import timedelta
from typing import Any, NamedTuple

import jwt
import pytest
from django.contrib.auth import get_user_model
from django.core.exceptions import ValidationError
from django.db import connections
from django.utils import timezone

from platform_auth import signals, signed_tokens
from platform_auth.models import AuthEvent, PasswordResetToken, RefreshSession
from platform_auth.passwords import reset_tokens
from tests.conftest import PASSWORD, Api, code_of, enrol, hearing, make_user, unrecordable
from tests.racing import together

URL = "/auth/password/reset"
NEW = "a new one 4711"

VALIDATION = "django.contrib.auth.password_validation"


class QuotingValidator:
    """A host's validator whose message has the password as a parameter, and which has no code."""

    def validate(self, password: str, user: Any = None) -> None:
        raise ValidationError("“%(value)s” is not good.", params={"value": password})

    def get_help_text(self) -> str:
        return ""


class VerboseValidator:
    """A host's validator that quotes the password in its message."""

    def validate(self, password: str, user: Any = None) -> None:
        raise ValidationError(
            [
                ValidationError(f"“{password}” was seen in a leak.", code="leaked"),
                ValidationError(
                    "It reads %(read)s.", code="readable", params={"read": f"'{password.upper()}'"}
                ),
                ValidationError("It is not good enough.", code="weak"),
            ]
        )

    def get_help_text(self) -> str:
        return ""


class MeddlingValidator:
    """Does something between reading the link and spending it, as a concurrent request might."""

    meddle: Any = None

    def validate(self, password: str, user: Any = None) -> None:
        type(self).meddle(type(user)._base_manager.filter(pk=user.pk))

    def get_help_text(self) -> str:
        return ""


class RememberingValidator:
    """A host's validator that keeps a history."""

    seen: list[Any] = []

    def validate(self, password: str, user: Any = None) -> None:
        pass

    def password_changed(self, password: str, user: Any = None) -> None:
        self.seen.append((password, user.email))

    def get_help_text(self) -> str:
        return ""


class BrokenValidator:
    """A host's validator whose history can't be written; its error quotes the password."""

    def validate(self, password: str, user: Any = None) -> None:
        pass

    def password_changed(self, password: str, user: Any = None) -> None:
        raise RuntimeError(f"could not keep {password}")

    def get_help_text(self) -> str:
        return ""


@pytest.fixture
def clean_validators() -> Any:
    """Clear the validators that Django caches."""
    from django.contrib.auth.password_validation import get_default_password_validators

    get_default_password_validators.cache_clear()
    yield get_default_password_validators.cache_clear
    get_default_password_validators.cache_clear()


@pytest.fixture(params=[False, True], ids=["autocommit", "ATOMIC_REQUESTS"])
def atomic_requests(request: Any, monkeypatch: Any) -> bool:
    monkeypatch.setitem(connections.settings["default"], "ATOMIC_REQUESTS", request.param)
    return bool(request.param)


def token_for(user: Any) -> str:
    return reset_tokens.sign(reset_tokens.issue(user))


def types_of(response: Any) -> list[str]:
    assert {error["extensions"]["code"] for error in response.json()["errors"]} == {"FAILED_VALIDATION"}
    assert {error["extensions"]["field"] for error in response.json()["errors"]} == {"password"}
    return [error["extensions"]["type"] for error in response.json()["errors"]]


@pytest.mark.django_db
class TestSuccess:
    """security.md, row 72."""

    def test_it_sets_the_password_and_logs_nobody_in(
        self, api: Api, user: Any, atomic_requests: bool
    ) -> None:
        response = api.post(URL, {"token": token_for(user), "password": NEW})

        assert (response.status_code, response.content) == (204, b"")
        assert "Content-Type" not in response.headers
        assert not response.cookies
        assert not RefreshSession.objects.exists()
        old = api.post("/auth/login", {"email": user.email, "password": PASSWORD})
        assert code_of(old) == "INVALID_CREDENTIALS"
        assert api.login(user.email, NEW).status_code == 200

    def test_it_ends_every_session_and_access_token(self, api: Api, user: Any) -> None:
        others = [Api(), Api()]
        for other in others:
            other.login(user.email)

        api.post(URL, {"token": token_for(user), "password": NEW})

        for other in others:
            assert code_of(other.get("/auth/sessions")) == "INVALID_TOKEN"
            assert code_of(other.refresh()) == "INVALID_CREDENTIALS"

    def test_it_ends_the_other_links(self, api: Api, user: Any) -> None:
        """security.md, row 71."""
        tokens = [token_for(user) for _ in range(3)]

        api.post(URL, {"token": tokens[0], "password": NEW})

        assert not PasswordResetToken.objects.exists()
        for token in tokens:
            assert code_of(api.post(URL, {"token": token, "password": NEW})) == "INVALID_TOKEN"

    def test_other_users_are_not_affected(self, api: Api, user: Any) -> None:
        other, client = make_user(), Api()
        client.login(other.email)
        token = token_for(other)

        api.post(URL, {"token": token_for(user), "password": NEW})

        assert client.refresh().status_code == 200
        assert api.post(URL, {"token": token, "password": NEW}).status_code == 204

    def test_a_second_factor_stays(self, signed_in: Api, user: Any) -> None:
        """security.md, row 20."""
        app, _codes = enrol(signed_in)

        Api().post(URL, {"token": token_for(user), "password": NEW})

        response = Api().post("/auth/login", {"email": user.email, "password": NEW})
        assert code_of(response) == "INVALID_OTP"
        assert Api().login(user.email, NEW, otp=app.code(1)).status_code == 200

    def test_the_owner_gets_a_notice(self, api: Api, user: Any, mailoutbox: list[Any]) -> None:
        api.post(URL, {"token": token_for(user), "password": NEW}, headers={"User-Agent": "curl/8"})

        (message,) = mailoutbox
        assert message.to == [user.email]
        assert "Your password was reset" in message.subject
        assert "127.0.0.1" in message.body
        assert NEW not in str(message.message())

    def test_it_is_recorded_and_the_signal_is_sent(self, api: Api, user: Any) -> None:
        with hearing(signals.password_reset) as heard:
            api.post(URL, {"token": token_for(user), "password": NEW})

        assert [(facts["user"], facts["client"].address) for facts in heard] == [(user, "127.0.0.1")]
        event = AuthEvent.objects.get(kind=AuthEvent.Kind.PASSWORD_RESET)
        assert (event.user, event.ip_address) == (user, "127.0.0.1")

    def test_the_hosts_validators_are_notified(
        self, api: Api, user: Any, settings: Any, clean_validators: Any
    ) -> None:
        settings.AUTH_PASSWORD_VALIDATORS = [{"NAME": f"{__name__}.RememberingValidator"}]

        api.post(URL, {"token": token_for(user), "password": NEW})

        assert RememberingValidator.seen.pop() == (NEW, user.email)

    def test_a_validator_that_fails_afterwards_is_logged_and_changes_nothing(
        self, api: Api, user: Any, settings: Any, clean_validators: Any, mailoutbox: list[Any], caplog: Any
    ) -> None:
        names = ("BrokenValidator", "RememberingValidator")
        settings.AUTH_PASSWORD_VALIDATORS = [{"NAME": f"{__name__}.{name}"} for name in names]

        with hearing(signals.password_reset) as heard:
            response = api.post(URL, {"token": token_for(user), "password": NEW})

        assert response.status_code == 204
        assert RememberingValidator.seen.pop() == (NEW, user.email)
        assert [facts["user"] for facts in heard] == [user]
        assert len(mailoutbox) == 1
        assert "BrokenValidator failed: RuntimeError" in caplog.text
        assert NEW not in caplog.text

    def test_if_it_cannot_be_recorded_nothing_changes(
        self, api: Api, user: Any, atomic_requests: bool, mailoutbox: list[Any]
    ) -> None:
        token, other = token_for(user), Api(raise_request_exception=False)
        api.login(user.email)

        with unrecordable(AuthEvent.Kind.PASSWORD_RESET):
            response = other.post(URL, {"token": token, "password": NEW})

        assert response.status_code == 500
        user.refresh_from_db()
        assert user.check_password(PASSWORD)
        assert api.refresh().status_code == 200
        assert mailoutbox == []
        assert other.post(URL, {"token": token, "password": NEW}).status_code == 204

    def test_a_token_stays_valid_if_its_secret_key_becomes_a_fallback(
        self, api: Api, user: Any, settings: Any
    ) -> None:
        token = token_for(user)
        settings.SECRET_KEY_FALLBACKS = [settings.SECRET_KEY]
        settings.SECRET_KEY = "another-" + "y" * 60

        assert api.post(URL, {"token": token, "password": NEW}).status_code == 204


@pytest.mark.django_db
class TestRules:
    """security.md, rows 70, 73, 104, 107."""

    @pytest.mark.parametrize(
        ("password", "types"),
        [
            ("1234567", ["password_too_short", "password_too_common", "password_entirely_numeric"]),
            ("hunter7", ["password_too_short"]),
            ("reset-me@example.com", ["password_too_similar"]),
            ("iloveyou", ["password_too_common"]),
        ],
    )
    def test_each_broken_rule_is_one_error(self, api: Api, password: str, types: list[str]) -> None:
        user = make_user("reset-me@example.com")

        response = api.post(URL, {"token": token_for(user), "password": password})

        assert response.status_code == 400
        assert [kind for kind in types_of(response) if kind in types] == types
        assert password not in response.content.decode()

    def test_a_refused_password_does_not_spend_the_token(
        self, api: Api, user: Any, atomic_requests: bool
    ) -> None:
        token = token_for(user)

        refused = api.post(URL, {"token": token, "password": "short"})
        malformed = api.post(URL, {"token": token, "password": ""})

        assert types_of(refused) == ["password_too_short"]
        assert code_of(malformed) == "INVALID_PAYLOAD"
        assert api.post(URL, {"token": token, "password": NEW}).status_code == 204

    def test_a_refused_password_is_never_quoted(
        self, api: Api, user: Any, settings: Any, clean_validators: Any
    ) -> None:
        settings.AUTH_PASSWORD_VALIDATORS = [{"NAME": f"{__name__}.QuotingValidator"}]

        response = api.post(URL, {"token": token_for(user), "password": NEW})

        assert types_of(response) == ["quoting_validator"]
        assert NEW not in response.content.decode()

    def test_djangos_messages_are_kept_for_the_password_password(self, api: Api, user: Any) -> None:
        """They contain the word "password", which quotes nothing."""
        response = api.post(URL, {"token": token_for(user), "password": "password"})

        assert "This password is too common." in [error["message"] for error in response.json()["errors"]]

    def test_a_message_that_quotes_the_password_is_replaced_and_its_code_kept(
        self, api: Api, user: Any, settings: Any, clean_validators: Any
    ) -> None:
        settings.AUTH_PASSWORD_VALIDATORS = [{"NAME": f"{__name__}.VerboseValidator"}]

        response = api.post(URL, {"token": token_for(user), "password": NEW})
        short = api.post(URL, {"token": token_for(user), "password": "go"})

        assert types_of(response) == types_of(short) == ["leaked", "readable", "weak"]
        assert [error["message"] for error in response.json()["errors"]] == [
            "The password doesn't meet the requirements.",
            "The password doesn't meet the requirements.",
            "It is not good enough.",
        ]
        assert short.json()["errors"][2]["message"] == "It is not good enough."

    @pytest.mark.parametrize("password", ["", None, 5, ["a"], "a\ud800", "a\x00b", "é" * 513, "x" * 1025])
    def test_an_invalid_password_never_passes(
        self, api: Api, user: Any, settings: Any, clean_validators: Any, password: Any
    ) -> None:
        """security.md, rows 104, 105: regardless of the host's validators."""
        settings.AUTH_PASSWORD_VALIDATORS = []
        before = user.password

        body = json.dumps({"token": token_for(user), "password": password})
        response = api.post(URL, body)

        assert response.status_code == 400
        assert {e["extensions"]["code"] for e in response.json()["errors"]} == {"INVALID_PAYLOAD"}
        user.refresh_from_db()
        assert user.password == before
        assert PasswordResetToken.objects.count() == 1

    @pytest.mark.parametrize(
        "password", [" ", " leading and trailing ", "x" * 1024, "é" * 512, "e\u0301", "\t\n"]
    )
    def test_without_validators_every_other_password_passes_unchanged(
        self, api: Api, user: Any, settings: Any, clean_validators: Any, password: str
    ) -> None:
        """security.md, rows 5, 107: neither trimmed, cut nor normalized."""
        settings.AUTH_PASSWORD_VALIDATORS = []

        assert api.post(URL, {"token": token_for(user), "password": password}).status_code == 204

        assert api.login(user.email, password).status_code == 200

    def test_a_huge_password_costs_no_hash(self, api: Api, user: Any, settings: Any) -> None:
        """security.md, row 104."""
        response = api.post(URL, {"token": token_for(user), "password": "x" * 70_000})

        assert code_of(response) == "CONTENT_TOO_LARGE"


@pytest.mark.django_db
class TestToken:
    """security.md, rows 68 to 70."""

    def test_it_works_once(self, api: Api, user: Any, atomic_requests: bool) -> None:
        token = token_for(user)
        assert api.post(URL, {"token": token, "password": NEW}).status_code == 204

        response = api.post(URL, {"token": token, "password": "another new one"})

        assert response.status_code == 401
        assert code_of(response) == "INVALID_TOKEN"
        assert "WWW-Authenticate" not in response.headers
        user.refresh_from_db()
        assert user.check_password(NEW)
        assert AuthEvent.objects.filter(kind=AuthEvent.Kind.RESET_FAILED).count() == 1

    def test_it_expires(self, api: Api, user: Any, clock: Any) -> None:
        token = token_for(user)

        clock.shift(3599)
        in_time = api.post(URL, {"token": token, "password": "short"})
        clock.shift(2)
        late = api.post(URL, {"token": token, "password": NEW})

        assert types_of(in_time) == ["password_too_short"]
        assert late.status_code == 401
        assert code_of(late) == "TOKEN_EXPIRED"
        assert AuthEvent.objects.get(kind=AuthEvent.Kind.RESET_FAILED).reason == "expired"

    def test_it_expires_with_its_row(self, api: Api, user: Any) -> None:
        token = token_for(user)
        PasswordResetToken.objects.update(expires_at=timezone.now() - timedelta(seconds=1))

        assert code_of(api.post(URL, {"token": token, "password": NEW})) == "INVALID_TOKEN"

    @pytest.mark.parametrize(
        "change",
        [
            {"email": "another@example.com"},
            {"is_active": False},
            {"password": "!unusable"},
        ],
        ids=lambda change: next(iter(change)),
    )
    def test_it_is_bound_to_the_state_of_the_user(self, api: Api, user: Any, change: dict[str, Any]) -> None:
        token = token_for(user)
        get_user_model().objects.filter(pk=user.pk).update(**change)

        assert api.get(f"/auth/password/reset/page?token={token}").status_code == 401
        response = api.post(URL, {"token": token, "password": NEW})

        assert code_of(response) == "INVALID_TOKEN"
        user.refresh_from_db()
        assert not user.check_password(NEW)

    @pytest.mark.parametrize(
        "meddle",
        [
            lambda users: users.update(email="another@example.com"),
            lambda users: users.update(is_active=False),
            lambda users: users.update(password="!changed"),
            lambda users: users.delete(),
            lambda users: PasswordResetToken.objects.all().delete(),
        ],
        ids=["email", "is_active", "password", "user", "link"],
    )
    def test_that_state_is_checked_again_when_it_is_spent(
        self, api: Api, user: Any, settings: Any, clean_validators: Any, monkeypatch: Any, meddle: Any
    ) -> None:
        """security.md, row 69: the statement that sets the password checks the condition again."""
        settings.AUTH_PASSWORD_VALIDATORS = [{"NAME": f"{__name__}.MeddlingValidator"}]
        monkeypatch.setattr(MeddlingValidator, "meddle", staticmethod(meddle))

        response = api.post(URL, {"token": token_for(user), "password": NEW})

        assert code_of(response) == "INVALID_TOKEN"
        assert not any(account.check_password(NEW) for account in get_user_model().objects.all())

    def test_a_deleted_user_cannot_use_it(self, api: Api, user: Any) -> None:
        token = token_for(user)
        user.delete()

        assert code_of(api.post(URL, {"token": token, "password": NEW})) == "INVALID_TOKEN"

    def test_an_altered_one_is_refused(self, api: Api, user: Any) -> None:
        """security.md, row 68: each claim and each part."""
        victim, row = make_user(), reset_tokens.issue(user)
        token = reset_tokens.sign(row)
        header, body, signature = token.split(".")
        claims = jwt.decode(token, options={"verify_signature": False})
        none = jwt.encode({**claims, "sub": str(victim.pk)}, None, algorithm="none")
        forged = [
            "",
            "x",
            "a.b.c",
            "null",
            "é.é.é",
            token[:-2],
            f"{header}.{body}.",
            f"{header}.{none.split('.')[1]}.{signature}",
            none,
            jwt.encode({**claims, "sub": str(victim.pk)}, "x" * 32, algorithm="HS256"),
            f"{token}.{signature}",
        ]
        key = signed_tokens.keyring()
        kid, signing = next(iter(key)), next(iter(key.values())).signing
        headers = {"kid": kid, "typ": reset_tokens.PASSWORD_RESET.typ}
        for name in claims:
            less = {claim: value for claim, value in claims.items() if claim != name}
            forged.append(jwt.encode(less, signing, algorithm="HS256", headers=headers))
        for changed in (
            {"sub": str(victim.pk)},
            {"sub": 5},
            {"jti": "00000000-0000-0000-0000-000000000000"},
            {"jti": "x"},
            {"iss": "x"},
            {"aud": "x"},
            {"aud": [claims["aud"], "x"]},
            {"token_type": "access"},
            {"extra": 1},
        ):
            payload = {**claims, **changed}
            # PyJWT refuses to create some of these, so they are signed by hand.
            forged.append(jwt.api_jws.encode(json.dumps(payload).encode(), signing, "HS256", headers))

        for candidate in forged:
            response = api.post(URL, {"token": candidate, "password": NEW})
            assert response.status_code in (400, 401), candidate
            assert code_of(response) in ("INVALID_TOKEN", "INVALID_PAYLOAD"), candidate

        # Anyone can send those, so they leave no rows, except for two with a valid signature and another row or user.
        assert AuthEvent.objects.filter(kind=AuthEvent.Kind.RESET_FAILED).count() == 2
        assert api.post(URL, {"token": token, "password": NEW}).status_code == 204

    def test_tokens_of_other_kinds_are_refused(self, signed_in: Api, user: Any) -> None:
        """security.md, row 25."""
        for other in (signed_in.access_token, signed_in.refresh_token):
            assert code_of(Api().post(URL, {"token": other, "password": NEW})) == "INVALID_TOKEN"

    def test_it_is_not_accepted_as_another_kind(self, api: Api, user: Any) -> None:
        """security.md, row 25."""
        token = token_for(user)

        api.access_token = token
        assert code_of(api.get("/auth/sessions")) == "INVALID_TOKEN"
        assert code_of(api.get("/api/whoami")) == "INVALID_TOKEN"
        assert code_of(api.refresh(token)) == "INVALID_CREDENTIALS"

    def test_a_token_over_4096_characters_is_malformed(self, api: Api, db: None) -> None:
        response = api.post(URL, {"token": "x" * 4097, "password": NEW})

        assert code_of(response) == "INVALID_PAYLOAD"

    def test_neither_it_nor_the_password_is_logged(self, api: Api, user: Any, caplog: Any) -> None:
        """security.md, rows 74, 120."""
        caplog.set_level(logging.DEBUG)
        token = token_for(user)

        for password in ("short", NEW, NEW):
            api.post(URL, {"token": token, "password": password})

        everything = caplog.text + str([vars(record) for record in caplog.records])
        assert token.rpartition(".")[2] not in everything
        assert NEW not in everything
        assert token.rpartition(".")[2] not in str(list(AuthEvent.objects.values()))


@pytest.mark.race
@pytest.mark.django_db(transaction=True)
class TestRace:
    """security.md, row 69."""

    def test_of_twenty_callers_with_one_token_one_succeeds(self) -> None:
        for round_number in range(int(os.environ.get("TEST_ROUNDS", "50"))):
            user = make_user()
            token = token_for(user)
            answers = together(*[Reset(token, f"{NEW} of caller {n}") for n in range(20)])

            winners = [n for n, answer in enumerate(answers) if answer.status_code == 204]
            assert len(winners) == 1, (round_number, [a.content for a in answers])
            losers = {code_of(answer) for n, answer in enumerate(answers) if n not in winners}
            assert losers == {"INVALID_TOKEN"}
            user.refresh_from_db()
            assert user.check_password(f"{NEW} of caller {winners[0]}")
            assert not PasswordResetToken.objects.filter(user=user).exists()

    def test_of_three_concurrent_links_one_succeeds(self) -> None:
        for _ in range(10):
            user = make_user()
            answers = together(*[Reset(token_for(user), f"{NEW} {n}") for n in range(3)])

            assert sorted(answer.status_code for answer in answers) == [204, 401, 401]

    def test_a_login_with_the_old_password_leaves_no_session(self, configure: Any) -> None:
        """A login that verified the old password while the reset was being committed."""
        # On a fast machine there are more than the limit of one address allows in a minute.
        configure(LIMITS={"login": {"address": "1000/m"}})
        for _ in range(15):
            user = make_user()
            login = Login(user.email)

            answers = together(Reset(token_for(user), NEW), login, login, login)

            assert answers[0].status_code == 204
            assert {answer.status_code for answer in answers[1:]} <= {200, 401}
            assert not RefreshSession.objects.filter(user=user).exists()


class Reset(NamedTuple):
    token: str
    password: str

    def __call__(self) -> Any:
        return Api().post(URL, {"token": self.token, "password": self.password})


class Login(NamedTuple):
    email: str

    def __call__(self) -> Any:
        return Api().post("/auth/login", {"email": self.email, "password": PASSWORD})
