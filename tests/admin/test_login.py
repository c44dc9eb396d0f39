"""Django admin's login form is a sign-in method, so the same limits apply (security.md, row 125)."""

from __future__ import annotations

from typing import Any

import pytest
from asgiref.sync import async_to_sync
from django.contrib.auth import aauthenticate, authenticate, get_user_model
from django.test import Client
from django.views.debug import ExceptionReporter

from platform_auth.backends import EmailBackend
from platform_auth.models import AuthEvent
from tests.conftest import PASSWORD, Api, make_user

pytestmark = pytest.mark.django_db


@pytest.fixture
def staff(db: None) -> Any:
    return make_user(is_staff=True, is_superuser=True)


def log_in(client: Client, staff: Any, password: str) -> bool:
    """Submit the form; return whether the login succeeded."""
    name = getattr(staff, get_user_model().USERNAME_FIELD)
    return client.post("/admin/login/", {"username": name, "password": password}).status_code == 302


class TestAdminLogin:
    def test_the_right_password_opens_the_admin(self, client: Client, staff: Any) -> None:
        assert log_in(client, staff, PASSWORD)

    def test_guessing_is_limited_as_in_the_api(self, client: Client, staff: Any) -> None:
        """security.md, row 125: five a minute per account and address; after that not even the right password works."""
        guesses = [log_in(client, staff, "wrong") for _ in range(5)]

        sixth = log_in(client, staff, PASSWORD)

        assert not any(guesses)
        assert not sixth
        assert AuthEvent.objects.filter(kind=AuthEvent.Kind.LOGIN_LIMITED).count() == 1

    def test_form_and_api_share_the_count_of_an_account(self, client: Client, staff: Any) -> None:
        """By email address in the API, by user name in the form."""
        api = Api()
        for _ in range(5):
            api.post("/auth/login", {"email": staff.email, "password": "wrong"})

        assert not log_in(client, staff, PASSWORD)

    def test_a_success_clears_the_count(self, client: Client, staff: Any) -> None:
        for _ in range(4):
            log_in(client, staff, "wrong")

        results = [log_in(Client(), staff, PASSWORD) for _ in range(7)]

        assert all(results)

    def test_an_admin_who_only_uses_the_form_cannot_be_locked_out(self, staff: Any) -> None:
        """security.md, row 111: the limit per account refuses only unfamiliar addresses."""
        assert log_in(Client(REMOTE_ADDR="203.0.113.1"), staff, PASSWORD)
        for number in range(25):
            stranger = Client(REMOTE_ADDR=f"198.51.100.{number}")
            for _ in range(4):
                log_in(stranger, staff, "wrong")

        assert not log_in(Client(REMOTE_ADDR="198.51.100.200"), staff, PASSWORD)
        assert log_in(Client(REMOTE_ADDR="203.0.113.1"), staff, PASSWORD)


class TestOtherLogins:
    def test_http_basic_is_counted(self, rf: Any, staff: Any) -> None:
        """DRF passes only the user name, under the name of USERNAME_FIELD."""
        name = {get_user_model().USERNAME_FIELD: getattr(staff, get_user_model().USERNAME_FIELD)}
        for _ in range(5):
            assert authenticate(rf.get("/"), password="wrong", **name) is None

        assert authenticate(rf.get("/"), password=PASSWORD, **name) is None

    def test_aauthenticate_finds_the_same_users(self, staff: Any) -> None:
        """Two accounts with the same address match no login, in both variants."""
        found = async_to_sync(aauthenticate)(
            None, username=staff.email, email="x@example.com", password=PASSWORD
        )

        assert found is None

    def test_an_error_report_of_aauthenticate_does_not_show_the_password(self, staff: Any) -> None:
        """security.md, row 120. The frames below belong to the library that moves it to a thread."""
        given = "a password for one report"

        with pytest.raises(AttributeError) as broken:
            async_to_sync(EmailBackend().aauthenticate)(object(), staff.email, given)

        reporter = ExceptionReporter(None, broken.type, broken.value, broken.tb)
        frames = reporter.get_traceback_data()["frames"]
        shown = [frame["vars"] for frame in frames if frame["function"] == "aauthenticate"]
        assert shown
        assert given not in str(shown)


class TestItsEvents:
    """security.md, row 121: logins outside the API leave the same events, with the address."""

    def kinds(self) -> list[tuple[str, Any, str | None]]:
        return list(AuthEvent.objects.order_by("pk").values_list("kind", "user", "ip_address"))

    def test_a_wrong_password(self, client: Client, staff: Any) -> None:
        log_in(client, staff, "wrong")

        assert self.kinds() == [("login_failed", staff.pk, "127.0.0.1")]

    def test_an_account_that_does_not_exist(self, client: Client, db: None) -> None:
        client.post("/admin/login/", {"username": "nobody@example.com", "password": "wrong"})

        assert self.kinds() == [("login_failed", None, "127.0.0.1")]

    def test_a_login_and_a_logout(self, client: Client, staff: Any) -> None:
        log_in(client, staff, PASSWORD)
        client.post("/admin/logout/")

        assert self.kinds() == [("logged_in", staff.pk, "127.0.0.1"), ("logged_out", staff.pk, "127.0.0.1")]

    def test_a_caller_without_an_address(self, staff: Any) -> None:
        """A unix socket."""
        log_in(Client(REMOTE_ADDR=""), staff, PASSWORD)

        assert self.kinds() == [("logged_in", staff.pk, None)]

    def test_a_refusal_by_a_limit_leaves_one_event(self, client: Client, staff: Any) -> None:
        for _ in range(8):
            log_in(client, staff, "wrong")

        kinds = [kind for kind, _user, _address in self.kinds()]
        assert kinds == ["login_failed"] * 5 + ["login_limited"]

    def test_a_login_through_the_api_leaves_one_event(self, staff: Any) -> None:
        api = Api()
        api.post("/auth/login", {"email": staff.email, "password": "wrong"})
        api.login(staff.email)
        api.post("/auth/logout", {"refresh_token": api.refresh_token})

        kinds = [kind for kind, _user, _address in self.kinds()]
        assert kinds == ["login_failed", "logged_in", "logged_out"]
