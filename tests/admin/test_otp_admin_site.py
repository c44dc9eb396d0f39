"""Django admin with a second factor: django-otp's OTPAdminSite accepts our factor."""

from __future__ import annotations

from typing import Any

import pytest
from django.contrib.auth.models import AnonymousUser
from django.test import Client
from django_otp import devices_for_user, match_token, user_has_device, verify_token
from django_otp.forms import OTPAuthenticationForm
from django_otp.models import Device

from platform_auth.models import AuthEvent, FailedCode, TOTPFactor
from tests.conftest import PASSWORD, Api, Authenticator, enrol, make_user

pytestmark = [
    pytest.mark.django_db,
    pytest.mark.usefixtures("clock"),
    pytest.mark.urls("tests.urls_otp_admin"),
]


@pytest.fixture(autouse=True)
def _otp_middleware(settings: Any) -> None:
    after = settings.MIDDLEWARE.index("django.contrib.auth.middleware.AuthenticationMiddleware") + 1
    settings.MIDDLEWARE = [
        *settings.MIDDLEWARE[:after],
        "django_otp.middleware.OTPMiddleware",
        *settings.MIDDLEWARE[after:],
    ]


@pytest.fixture
def staff(db: None) -> Any:
    return make_user(is_staff=True, is_superuser=True)


@pytest.fixture
def app(staff: Any, clock: Any) -> Authenticator:
    """The staff user's authenticator app, in a new time step."""
    api = Api()
    api.login(staff.email)
    made, _codes = enrol(api)
    clock.shift(30)
    return made


def log_in(client: Client, staff: Any, otp: str, device: TOTPFactor | None = None) -> Any:
    """Submit the admin's login form; USERNAME_FIELD may be the email address or not."""
    device = device or TOTPFactor.objects.get(user=staff)
    fields = {
        "username": staff.get_username(),
        "password": PASSWORD,
        "otp_device": device.persistent_id,
        "otp_token": otp,
        "next": "/admin/",
    }
    return client.post("/admin/login/", fields)


class TestOTPAdminSite:
    """security.md, row 125: the admin is a sign-in method, and this is how it can ask for the factor."""

    def test_password_and_code_log_in(self, client: Client, staff: Any, app: Authenticator) -> None:
        response = log_in(client, staff, app.code())

        assert response.status_code == 302, response.content.decode()
        assert client.get("/admin/").status_code == 200

    def test_the_password_alone_does_not(self, client: Client, staff: Any, app: Authenticator) -> None:
        response = log_in(client, staff, "")

        assert response.status_code == 200
        assert client.get("/admin/").status_code == 302

    def test_a_session_without_the_factor_is_refused(self, client: Client, staff: Any) -> None:
        client.force_login(staff, "platform_auth.backends.EmailBackend")

        assert client.get("/admin/").status_code == 302

    def test_a_code_works_once(self, client: Client, staff: Any, app: Authenticator) -> None:
        log_in(client, staff, app.code())

        assert log_in(Client(), staff, app.code()).status_code == 200

    def test_a_code_that_was_used_in_the_api_is_refused(
        self, client: Client, staff: Any, app: Authenticator
    ) -> None:
        Api().login(staff.email, otp=app.code())

        assert log_in(client, staff, app.code()).status_code == 200

    def test_another_users_factor_is_refused(self, client: Client, staff: Any, app: Authenticator) -> None:
        other = make_user(is_staff=True, is_superuser=True)

        response = log_in(client, other, app.code(), TOTPFactor.objects.get(user=staff))

        assert response.status_code == 200
        assert client.get("/admin/").status_code == 302

    def test_wrong_codes_are_limited_as_in_the_api(
        self, client: Client, staff: Any, app: Authenticator
    ) -> None:
        """security.md, row 13: after ten wrong codes in the form, the right one is refused, here and in the API."""
        for _ in range(11):
            assert log_in(client, staff, app.wrong()).status_code == 200
        failed = AuthEvent.objects.filter(kind=AuthEvent.Kind.FACTOR_FAILED)
        assert set(failed.values_list("ip_address", flat=True)) == {"127.0.0.1"}

        assert log_in(client, staff, app.code()).status_code == 200
        response = Api().post("/auth/login", {"email": staff.email, "password": PASSWORD, "otp": app.code()})
        assert response.status_code == 429
        assert AuthEvent.objects.filter(kind="factor_failed").count() == 10
        assert AuthEvent.objects.filter(kind="factor_limited").count() == 1

    def test_a_success_neither_counts_nor_clears_failures(
        self, client: Client, staff: Any, app: Authenticator
    ) -> None:
        log_in(client, staff, app.wrong())
        log_in(client, staff, app.code())

        assert FailedCode.objects.count() == 1

    def test_removing_the_factor_ends_access(self, client: Client, staff: Any, app: Authenticator) -> None:
        log_in(client, staff, app.code())
        TOTPFactor.objects.all().delete()

        assert client.get("/admin/").status_code == 302


class TestOtherCallers:
    """security.md, row 13: code of a host that uses django-otp directly is subject to the same limit."""

    @pytest.fixture(autouse=True)
    def _no_login_limits(self, configure: Any) -> None:
        many = {"address": "100000/m", "account_and_address": "100000/m", "account": "100000/h"}
        configure(LIMITS={"login": many})

    def ask(self, how: str, staff: Any, otp: str) -> bool:
        factor = TOTPFactor.objects.get(user=staff)
        if how == "verify_token":
            return verify_token(staff, factor.persistent_id, otp) is not None
        if how == "match_token":
            return match_token(staff, otp) is not None
        return bool(factor.verify_token(otp))

    @pytest.mark.parametrize("how", ["verify_token", "match_token", "the device"])
    def test_guesses_are_counted(self, staff: Any, app: Authenticator, how: str) -> None:
        for _ in range(12):
            assert self.ask(how, staff, app.wrong()) is False

        assert self.ask(how, staff, app.code()) is False
        assert AuthEvent.objects.filter(kind="factor_failed").count() == 10
        assert AuthEvent.objects.filter(kind="factor_limited").count() == 1
        assert log_in_to_the_api(staff, app.code()) == 429

    @pytest.mark.parametrize("how", ["verify_token", "match_token", "the device"])
    def test_a_right_code_works_once_and_is_not_counted(
        self, staff: Any, app: Authenticator, how: str, clock: Any
    ) -> None:
        for _ in range(12):
            assert self.ask(how, staff, app.code()) is True
            clock.shift(30)

        self.ask(how, staff, app.code())
        assert self.ask(how, staff, app.code()) is False

    def test_something_else_than_a_code_is_not_counted(self, staff: Any, app: Authenticator) -> None:
        """security.md, row 11: `match_token` offers every device the codes of all others."""
        for otp in ["0123-4567-89ab-cdef", "12345678", "１２３４５６"] * 5:
            assert self.ask("match_token", staff, otp) is False

        assert self.ask("match_token", staff, app.code()) is True

    def test_verify_is_allowed_counts_nothing(self, staff: Any, app: Authenticator) -> None:
        for _ in range(20):
            assert TOTPFactor.objects.get().verify_is_allowed() == (True, None)

        assert log_in_to_the_api(staff, app.code()) == 200

    def test_verify_is_allowed_is_false_over_the_limit(self, staff: Any, app: Authenticator) -> None:
        for _ in range(10):
            log_in_to_the_api(staff, app.wrong())

        allowed, why = TOTPFactor.objects.get().verify_is_allowed()
        assert not allowed
        assert why == {"error_message": "Too many requests. Please try again later."}

    def test_the_api_counts_once(self, staff: Any, app: Authenticator) -> None:
        answers = [log_in_to_the_api(staff, app.wrong()) for _ in range(12)]

        assert answers == [401] * 10 + [429] * 2


def log_in_to_the_api(user: Any, otp: str) -> int:
    body = {"email": user.email, "password": PASSWORD, "otp": otp}
    return Api().post("/auth/login", body).status_code  # type: ignore[no-any-return]


class TestDjangoOTP:
    """The rest of django-otp's interface."""

    def test_the_device_is_found_and_named(self, staff: Any, app: Authenticator) -> None:
        assert user_has_device(staff)
        assert [device.name for device in devices_for_user(staff)] == ["Authenticator app"]
        assert not user_has_device(AnonymousUser())

    def test_the_form_offers_the_device(self, rf: Any, staff: Any, app: Authenticator) -> None:
        form = OTPAuthenticationForm(rf.post("/"), {"username": staff.get_username(), "password": PASSWORD})

        assert not form.is_valid()
        assert "Authenticator app" in str(form["otp_device"])

    def test_the_device_is_found_by_its_persistent_id(self, staff: Any, app: Authenticator) -> None:
        device = TOTPFactor.objects.get()

        assert Device.from_persistent_id(device.persistent_id) == device
