"""POST /auth/password/request."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import jwt
import pytest
from django.contrib.auth import get_user_model
from django.core.mail.backends.locmem import EmailBackend
from django.test.utils import override_script_prefix
from django.utils import timezone

from platform_auth import passwords, signals
from platform_auth.mail import delivery
from platform_auth.models import AuthEvent, PasswordResetToken
from platform_auth.passwords import reset_tokens
from tests.conftest import Api, code_of, hearing, make_user
from tests.emails import link_of, token_of

URL = "/auth/password/request"
RESET = "https://app.example/reset"

pytestmark = pytest.mark.django_db


class BrokenMailServer(EmailBackend):
    """A mail server whose refusal quotes the email."""

    def send_messages(self, messages: Any) -> int:
        raise RuntimeError(f"could not send {messages[0].body}")


def outcomes() -> list[str]:
    rows = AuthEvent.objects.filter(kind=AuthEvent.Kind.RESET_REQUESTED)
    return list(rows.order_by("pk").values_list("reason", flat=True))


@pytest.fixture
def accounts() -> dict[str, str]:
    """An address of each class of accounts."""
    return {
        "sent": make_user().email,
        "unknown": "nobody@example.com",
        "inactive": make_user(is_active=False).email,
        "provider_only": make_user(password=None).email,
    }


class TestAnswer:
    """security.md, row 63: nothing reveals which accounts exist."""

    def test_it_is_the_same_for_every_class_of_account(self, api: Api, accounts: dict[str, str]) -> None:
        answers = [api.post(URL, {"email": email}) for email in accounts.values()]

        assert {answer.status_code for answer in answers} == {204}
        assert {answer.content for answer in answers} == {b""}
        assert len({str(sorted(answer.headers.items())) for answer in answers}) == 1
        assert "Content-Type" not in answers[0].headers
        assert outcomes() == list(accounts)

    def test_it_is_the_same_when_the_mail_server_is_down(
        self, api: Api, accounts: dict[str, str], settings: Any, caplog: Any
    ) -> None:
        settings.EMAIL_BACKEND = f"{__name__}.BrokenMailServer"

        answers = [api.post(URL, {"email": email}) for email in accounts.values()]

        assert {answer.status_code for answer in answers} == {204}
        assert len({str(sorted(answer.headers.items())) for answer in answers}) == 1
        assert outcomes() == ["mail_error", "unknown", "inactive", "provider_only"]
        assert "the job passwords.deliver_link failed for good: builtins.RuntimeError" in caplog.text

    def test_only_accounts_that_may_have_one_get_an_email(
        self, api: Api, accounts: dict[str, str], mailoutbox: list[Any]
    ) -> None:
        for email in accounts.values():
            api.post(URL, {"email": email})

        assert [message.to for message in mailoutbox] == [[accounts["sent"]]]

    def test_no_user_is_looked_up_during_the_request(
        self, api: Api, user: Any, configure: Any, django_assert_num_queries: Any
    ) -> None:
        configure(MAIL_DELIVERY="thread")

        # Inside a test's transaction, the job waits for a commit that never comes.
        with django_assert_num_queries(0):
            response = api.post(URL, {"email": user.email})

        assert response.status_code == 204

    def test_an_access_token_is_ignored(self, api: Api, user: Any) -> None:
        for header in ("null", "Bearer null", "Bearer a.b.c"):
            response = api.post(URL, {"email": user.email}, headers={"Authorization": header})
            assert response.status_code == 204

    def test_the_signal_has_the_outcome(self, api: Api, accounts: dict[str, str]) -> None:
        with hearing(signals.password_reset_requested) as heard:
            for email in accounts.values():
                api.post(URL, {"email": email})

        told = [
            (each["outcome"], getattr(each["user"], "email", None), each["client"].address) for each in heard
        ]
        known = {**accounts, "unknown": None}
        assert told == [(outcome, email, "127.0.0.1") for outcome, email in known.items()]


class TestDelivery:
    """What happens to a link whose email isn't sent at once."""

    @pytest.fixture
    def link(self, user: Any) -> dict[str, Any]:
        token = reset_tokens.issue(user)
        return {
            "token_id": str(token.pk),
            "user_id": str(user.pk),
            "reset_url": None,
            "language": "en",
            "address": "192.0.2.7",
            "user_agent": "",
        }

    def test_a_failing_email_is_reported_at_the_first_failure_and_at_the_last(
        self, link: dict[str, Any], settings: Any
    ) -> None:
        """Regardless of the attempt's number: the database may have failed in earlier ones."""
        settings.EMAIL_BACKEND = f"{__name__}.BrokenMailServer"
        told = []

        for number in range(2, 7):
            with pytest.raises(delivery.TryAgain) as caught:
                passwords.deliver_link(**link, attempt=delivery.Attempt(number, is_last=number == 6))
            link |= caught.value.changes
            told.append(len(outcomes()))

        assert told == [1, 1, 1, 1, 2]
        assert set(outcomes()) == {"mail_error"}

    def test_an_email_that_fails_and_is_sent_later_is_reported_as_both(
        self, link: dict[str, Any], settings: Any, mailoutbox: list[Any]
    ) -> None:
        working = settings.EMAIL_BACKEND
        settings.EMAIL_BACKEND = f"{__name__}.BrokenMailServer"
        with pytest.raises(delivery.TryAgain) as caught:
            passwords.deliver_link(**link, attempt=delivery.Attempt(1, is_last=False))

        settings.EMAIL_BACKEND = working
        passwords.deliver_link(**link, **caught.value.changes, attempt=delivery.Attempt(2, is_last=False))

        assert outcomes() == ["mail_error", "sent"]
        assert len(mailoutbox) == 1

    @pytest.mark.parametrize(
        ("template", "reason"),
        [
            (
                None,
                "django.template.exceptions.TemplateDoesNotExist: platform_auth/email/reset_link.subject.txt",
            ),
            ("{% include url %}", "django.template.exceptions.TemplateDoesNotExist"),
            ("{% nonsense %}", "django.template.exceptions.TemplateSyntaxError"),
        ],
        ids=["missing", "quoting", "broken"],
    )
    def test_an_email_that_cannot_be_rendered_is_reported_as_failing(
        self,
        api: Api,
        user: Any,
        settings: Any,
        tmp_path: Path,
        caplog: Any,
        template: str | None,
        reason: str,
    ) -> None:
        """security.md, row 120: the link isn't logged either."""
        engines = []
        if template is not None:
            folder = tmp_path / "platform_auth" / "email"
            folder.mkdir(parents=True)
            (folder / "reset_link.txt").write_text(template)
            engines = [{**settings.TEMPLATES[0], "DIRS": [str(tmp_path)]}]
        settings.TEMPLATES = engines

        response = api.post(URL, {"email": user.email})

        assert response.status_code == 204
        assert outcomes() == ["mail_error"]
        assert f"passwords.deliver_link failed for good: {reason}\n" in caplog.text
        assert "token=" not in caplog.text

    def test_the_email_states_the_remaining_life_of_the_link(
        self, clock: Any, link: dict[str, Any], mailoutbox: list[Any]
    ) -> None:
        clock.shift(20 * 60)

        passwords.deliver_link(**link, attempt=delivery.Attempt(4, is_last=False))

        assert "expires in 40 minutes." in mailoutbox[0].body

    @pytest.mark.parametrize(
        "end",
        [
            lambda user: PasswordResetToken.objects.update(expires_at=timezone.now()),
            lambda user: [reset_tokens.issue(user) for _ in range(3)],
            lambda user: get_user_model().objects.update(email="another@example.com"),
        ],
        ids=["expired", "superseded", "changed"],
    )
    def test_a_link_that_became_invalid_is_reported(
        self, link: dict[str, Any], user: Any, end: Any, mailoutbox: list[Any], caplog: Any
    ) -> None:
        end(user)

        with hearing(signals.password_reset_requested) as heard:
            passwords.deliver_link(**link, attempt=delivery.Attempt(1, is_last=False))

        assert mailoutbox == []
        assert outcomes() == ["dead"]
        (told,) = heard
        assert (told["outcome"], told["user"], told["client"].address) == ("dead", user, "192.0.2.7")
        assert "no longer valid" in caplog.text

    def test_the_link_of_a_deleted_user_is_reported(self, link: dict[str, Any], user: Any) -> None:
        user.delete()

        passwords.deliver_link(**link, attempt=delivery.Attempt(1, is_last=False))

        assert outcomes() == ["dead"]


class TestShape:
    """security.md, rows 65, 105, 106, 108: an invalid request is refused before anything is done."""

    @pytest.mark.parametrize(
        "body",
        [
            {},
            {"email": None},
            {"email": 5},
            {"email": ["a@example.com", "b@example.com"]},
            {"email": {"a": "a@example.com"}},
            {"email": ""},
            {"email": "no address"},
            {"email": "a@example.com,b@example.com"},
            {"email": "a@example.com\nBcc:b@example.com"},
            {"email": "a@example.com\r\nBcc: b@example.com"},
            {"email": "a@example.com\x00"},
            {"email": "a\ud800@example.com"},
            {"email": " a@example.com"},
            {"email": "a" * 250 + "@example.com"},
            {"email": "a@example.com", "reset_url": None},
            {"email": "a@example.com", "reset_url": 5},
            {"email": "a@example.com", "reset_url": ""},
            {"email": "a@example.com", "reset_url": [RESET]},
            {"email": "a@example.com", "reset_url": "https://app.example/" + "a" * 2048},
        ],
    )
    def test_the_shape_is_checked(self, api: Api, body: Any, mailoutbox: list[Any]) -> None:
        response = api.post(URL, body)

        assert response.status_code == 400
        assert {error["extensions"]["code"] for error in response.json()["errors"]} == {"INVALID_PAYLOAD"}
        assert mailoutbox == []
        assert not AuthEvent.objects.exists()

    def test_an_email_in_the_query_is_ignored(self, api: Api, user: Any) -> None:
        response = api.post(f"{URL}?email={user.email}")

        assert code_of(response) == "INVALID_PAYLOAD"


class TestEmail:
    """security.md, rows 65 to 67: who gets it, and where its link leads."""

    def test_it_goes_to_the_stored_address(self, api: Api, mailoutbox: list[Any]) -> None:
        make_user("Ann.Lee@Example.com")

        api.post(URL, {"email": "aNN.lee@eXAMPLE.COM"})

        (message,) = mailoutbox
        assert message.recipients() == ["Ann.Lee@Example.com"]
        assert (message.cc, message.bcc, message.reply_to) == ([], [], [])

    @pytest.mark.parametrize(
        "typed",
        [
            "ánn@example.com",
            "ann@exámple.com",
            "ann@example.com.",
            "ann\u0131@example.com",
            "ａnn@example.com",
        ],
    )
    def test_a_lookalike_address_matches_nobody(self, api: Api, typed: str, mailoutbox: list[Any]) -> None:
        make_user("ann@example.com")
        make_user("anni@example.com")

        api.post(URL, {"email": typed})

        assert mailoutbox == []

    def test_an_address_of_two_accounts_gets_no_email(self, api: Api, mailoutbox: list[Any]) -> None:
        if get_user_model()._meta.get_field("email").unique:
            make_user("ann@example.com")
            make_user("Ann@example.com") if _compares_case() else pytest.skip("unique without regard to case")
        else:
            make_user("ann@example.com"), make_user("Ann@example.com")

        api.post(URL, {"email": "ann@example.com"})

        assert mailoutbox == []
        assert outcomes() == ["unknown"]

    def test_its_link_leads_to_the_built_in_page(self, api: Api, user: Any, mailoutbox: list[Any]) -> None:
        api.post(URL, {"email": user.email})

        link = link_of(mailoutbox[0])
        assert link.startswith("http://testserver/auth/password/reset/page?token=")

    def test_its_link_leads_to_the_configured_url(
        self, api: Api, user: Any, configure: Any, mailoutbox: list[Any]
    ) -> None:
        configure(PASSWORD_RESET_URL="https://app.example/#/r/{token}")

        api.post(URL, {"email": user.email})

        assert link_of(mailoutbox[0]).startswith("https://app.example/#/r/ey")

    @pytest.mark.parametrize(
        "poison",
        [
            {"HTTP_HOST": "evil.example"},
            {"HTTP_X_FORWARDED_HOST": "evil.example"},
            {"HTTP_X_FORWARDED_PROTO": "https", "HTTP_FORWARDED": "host=evil.example"},
            {"HTTP_ORIGIN": "https://evil.example"},
            {"HTTP_REFERER": "https://evil.example/"},
            {"SERVER_NAME": "evil.example"},
        ],
        ids=lambda poison: next(iter(poison)),
    )
    def test_its_link_does_not_change_with_the_request(
        self, api: Api, user: Any, settings: Any, mailoutbox: list[Any], poison: dict[str, str]
    ) -> None:
        """security.md, row 66."""
        settings.USE_X_FORWARDED_HOST = True

        response = api.client.post(URL, {"email": user.email}, content_type="application/json", **poison)

        assert response.status_code == 204
        assert link_of(mailoutbox[0]).startswith("http://testserver/auth/password/reset/page?token=")
        assert "evil" not in str(mailoutbox[0].message())

    def test_its_link_does_not_change_with_the_script_prefix(
        self, api: Api, user: Any, mailoutbox: list[Any]
    ) -> None:
        """security.md, row 66: a front server may take it from a header; PUBLIC_URL contains the site's own."""
        with override_script_prefix("/evil.example/"):
            api.post(URL, {"email": user.email})

        assert link_of(mailoutbox[0]).startswith("http://testserver/auth/password/reset/page?token=")

    def test_the_token_is_a_jwt_of_its_own_kind(
        self, api: Api, user: Any, mailoutbox: list[Any], clock: Any
    ) -> None:
        """security.md, row 68."""
        api.post(URL, {"email": user.email})

        token = token_of(mailoutbox[0])
        claims = jwt.decode(token, options={"verify_signature": False})
        row = PasswordResetToken.objects.get()
        assert set(claims) == {"sub", "jti", "iss", "aud", "iat", "exp", "token_type"}
        assert (claims["sub"], claims["jti"]) == (str(user.pk), str(row.pk))
        assert claims["token_type"] == "password_reset"
        assert claims["exp"] - claims["iat"] == 3600
        assert jwt.get_unverified_header(token)["typ"] != "at+jwt"

    def test_its_link_is_not_logged(self, api: Api, user: Any, mailoutbox: list[Any], caplog: Any) -> None:
        """security.md, rows 74, 120."""
        caplog.set_level(logging.DEBUG)

        api.post(URL, {"email": user.email})

        token = token_of(mailoutbox[0])
        signature = token.rpartition(".")[2]
        assert signature not in caplog.text + str([vars(record) for record in caplog.records])
        assert signature not in str(
            list(AuthEvent.objects.values()) + list(PasswordResetToken.objects.values())
        )

    def test_its_link_is_not_logged_if_the_mail_server_quotes_it(
        self, api: Api, user: Any, settings: Any, caplog: Any
    ) -> None:
        """security.md, row 120: some backends put the email into their exceptions."""
        caplog.set_level(logging.DEBUG)
        settings.EMAIL_BACKEND = f"{__name__}.BrokenMailServer"

        api.post(URL, {"email": user.email})

        assert "RuntimeError" in caplog.text
        assert "could not send" not in caplog.text
        assert "token=" not in caplog.text

    def test_a_provider_only_account_gets_one_only_if_the_setting_says_so(
        self, api: Api, configure: Any, mailoutbox: list[Any]
    ) -> None:
        """security.md, row 76."""
        configure(PASSWORD_RESET_FOR_PROVIDER_ACCOUNTS=True)
        user = make_user(password=None)

        api.post(URL, {"email": user.email})
        response = api.post(
            "/auth/password/reset", {"token": token_of(mailoutbox[0]), "password": "a new one 4711"}
        )

        assert response.status_code == 204
        user.refresh_from_db()
        assert user.check_password("a new one 4711")


class TestResetURL:
    """security.md, rows 64, 77, 78."""

    @pytest.fixture(autouse=True)
    def _allow_list(self, configure: Any) -> None:
        allowed = [RESET, "https://app.example/r?a=1", "https://app.example/#/reset/{token}"]
        configure(PASSWORD_RESET_URL_ALLOW_LIST=allowed)

    @pytest.mark.parametrize(
        ("reset_url", "link"),
        [
            (RESET, f"{RESET}?token=ey"),
            ("https://app.example/r?a=1", "https://app.example/r?a=1&token=ey"),
            ("https://app.example/#/reset/{token}", "https://app.example/#/reset/ey"),
        ],
    )
    def test_a_listed_url_gets_the_token(
        self, api: Api, user: Any, mailoutbox: list[Any], reset_url: str, link: str
    ) -> None:
        response = api.post(URL, {"email": user.email, "reset_url": reset_url})

        assert response.status_code == 204
        assert link_of(mailoutbox[0]).startswith(link)

    @pytest.mark.parametrize(
        "reset_url", [f"{RESET}/", "https://evil.example/reset", "https://app.example/#/reset/x"]
    )
    def test_another_url_is_refused_before_anything_is_looked_up(
        self, api: Api, user: Any, reset_url: str, mailoutbox: list[Any], django_assert_num_queries: Any
    ) -> None:
        with django_assert_num_queries(0):
            known = api.post(URL, {"email": user.email, "reset_url": reset_url})
            unknown = api.post(URL, {"email": "nobody@example.com", "reset_url": reset_url})

        assert known.status_code == unknown.status_code == 400
        assert known.content == unknown.content
        assert known.json()["errors"][0]["extensions"]["field"] == "reset_url"
        assert mailoutbox == []

    def test_a_refused_url_is_not_counted(self, api: Api, user: Any) -> None:
        for _ in range(25):
            api.post(URL, {"email": user.email, "reset_url": "https://evil.example"})

        assert api.post(URL, {"email": user.email}).status_code == 204

    @pytest.mark.parametrize("allowed", [[], None])
    def test_an_empty_list_refuses_every_url(
        self, api: Api, user: Any, configure: Any, monkeypatch: Any, allowed: Any
    ) -> None:
        """security.md, row 77."""
        monkeypatch.delenv("PASSWORD_RESET_URL_ALLOW_LIST", raising=False)
        configure(PASSWORD_RESET_URL_ALLOW_LIST=allowed)

        response = api.post(URL, {"email": user.email, "reset_url": RESET})

        assert code_of(response) == "INVALID_PAYLOAD"

    def test_the_list_can_come_from_the_environment(
        self, api: Api, user: Any, configure: Any, monkeypatch: Any, mailoutbox: list[Any]
    ) -> None:
        monkeypatch.setenv("PASSWORD_RESET_URL_ALLOW_LIST", f"https://other.example/r , {RESET},")
        configure(PASSWORD_RESET_URL_ALLOW_LIST=None)

        response = api.post(URL, {"email": user.email, "reset_url": RESET})

        assert response.status_code == 204
        assert link_of(mailoutbox[0]).startswith(RESET)


class TestLimits:
    """security.md, row 75."""

    @pytest.mark.usefixtures("clock")
    def test_an_address_has_twenty_requests_an_hour(self, api: Api) -> None:
        answers = [api.post(URL, {"email": f"user{number}@example.com"}) for number in range(22)]

        assert [answer.status_code for answer in answers] == [204] * 20 + [429] * 2
        assert code_of(answers[-1]) == "REQUESTS_EXCEEDED"
        assert 0 < int(answers[-1].headers["Retry-After"]) <= 3600
        assert AuthEvent.objects.filter(kind=AuthEvent.Kind.RESET_LIMITED).count() == 1

    def test_an_account_gets_five_emails_an_hour_and_nobody_is_told(
        self, api: Api, user: Any, mailoutbox: list[Any]
    ) -> None:
        answers = [api.post(URL, {"email": user.email.upper() if n % 2 else user.email}) for n in range(8)]

        assert {answer.status_code for answer in answers} == {204}
        assert len({str(sorted(answer.headers.items())) for answer in answers}) == 1
        assert len(mailoutbox) == 5
        assert outcomes() == ["sent"] * 5 + ["limited"] * 3

    def test_sent_links_stay_valid_over_the_limit(self, api: Api, user: Any, mailoutbox: list[Any]) -> None:
        for _ in range(8):
            api.post(URL, {"email": user.email})

        fields = {"token": token_of(mailoutbox[-3]), "password": "a new one 4711"}
        assert api.post("/auth/password/reset", fields).status_code == 204

    def test_requests_do_not_block_logins(self, api: Api, user: Any) -> None:
        for _ in range(25):
            api.post(URL, {"email": user.email})

        assert api.login(user.email).status_code == 200

    def test_the_newest_three_links_are_valid(self, api: Api, user: Any, mailoutbox: list[Any]) -> None:
        """security.md, row 71."""
        for _ in range(5):
            api.post(URL, {"email": user.email})

        dead, alive = mailoutbox[:2], mailoutbox[2:]
        for message in dead:
            response = api.post("/auth/password/reset", {"token": token_of(message), "password": "x"})
            assert code_of(response) == "INVALID_TOKEN"
        for message in alive:
            response = api.post("/auth/password/reset", {"token": token_of(message), "password": "x"})
            assert {e["extensions"]["code"] for e in response.json()["errors"]} == {"FAILED_VALIDATION"}


def _compares_case() -> bool:
    from django.db import connection

    return connection.vendor != "mysql"
