"""Finding a user by email, and Django's `authenticate`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from django.contrib.auth import authenticate, get_user_model
from django.contrib.auth.hashers import (
    Argon2PasswordHasher,
    BasePasswordHasher,
    PBKDF2PasswordHasher,
    identify_hasher,
    make_password,
)
from django.test import Client
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from platform_auth import backends
from platform_auth.models import RefreshSession
from tests.conftest import PASSWORD, Api, make_user
from tests.racing import meanwhile

pytestmark = pytest.mark.django_db

# Different addresses that a collation, case mapping or normalization may consider equal.
LOOKALIKES = [
    ("mike@example.com", "m\u0131ke@example.com"),
    ("mike@example.com", "M\u0130KE@example.com"),
    ("mike@example.com", "mi\u0307ke@example.com"),
    ("kate@example.com", "\u212aate@example.com"),
    ("sam@example.com", "\u017fam@example.com"),
    ("strasse@example.com", "stra\u00dfe@example.com"),
    ("jose@example.com", "jos\u00e9@example.com"),
    ("jose@example.com", "jose\u0301@example.com"),
    ("jos\u00e9@example.com", "jose\u0301@example.com"),
    ("angstrom@example.com", "\u00e5ngstr\u00f6m@example.com"),
    ("a@example.com", "\uff41@example.com"),
    ("ae@example.com", "\u00e6@example.com"),
    ("file@example.com", "\ufb01le@example.com"),
    ("a@example.com", "a@example.com "),
    ("a@example.com", " a@example.com"),
    ("a_b@example.com", "axb@example.com"),
    ("a%@example.com", "ab@example.com"),
    ("user@example.com", "user@examp\u2113e.com"),
    ("user@example.com", "user@ex\u0430mple.com"),
    ("\u03c3@example.com", "\u03c2@example.com"),
]


class TestEmailLookup:
    """security.md, row 6 (CVE-2019-19844): `Lower()` in the database, then an exact comparison; two matches count as
    none.
    """

    @pytest.mark.parametrize(
        "typed", ["user@example.com", "USER@EXAMPLE.COM", "User@Example.Com", "uSER@example.com"]
    )
    def test_any_case_finds_the_user(self, typed: str) -> None:
        user = make_user("user@example.com")
        make_user("other@example.com")

        assert backends.find_by_email(typed) == user

    def test_any_case_in_the_database_is_found(self) -> None:
        user = make_user("John.Doe@Example.com")

        assert backends.find_by_email("john.doe@example.com") == user
        assert backends.find_by_email("JOHN.DOE@EXAMPLE.COM") == user

    @pytest.mark.parametrize(("one", "other"), LOOKALIKES)
    def test_a_lookalike_address_finds_nobody(self, one: str, other: str) -> None:
        make_user(one)
        assert backends.find_by_email(other) is None
        get_user_model().objects.all().delete()

        make_user(other)
        assert backends.find_by_email(one) is None

    @pytest.mark.parametrize(("one", "other"), LOOKALIKES)
    def test_a_lookalike_address_cannot_log_in(self, api: Api, one: str, other: str) -> None:
        make_user(one)

        assert api.post("/auth/login", {"email": other, "password": PASSWORD}).status_code in (400, 401)
        assert not RefreshSession.objects.exists()

    def test_two_accounts_with_the_same_address_match_nobody(self) -> None:
        if get_user_model()._meta.get_field("email").unique and not can_hold_both_cases():
            pytest.skip("this database's unique constraint knows no case")
        make_user("user@example.com")
        make_user("USER@example.com")

        assert backends.find_by_email("user@example.com") is None
        assert backends.find_by_email("USER@example.com") is None

    def test_an_empty_address_finds_nobody(self) -> None:
        make_user("")

        assert backends.find_by_email("a@example.com") is None

    @hypothesis_settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
    @given(typed=st.text(max_size=30).filter(lambda text: "\x00" not in text))
    def test_the_found_user_has_the_typed_address(self, user: Any, typed: str) -> None:
        found = backends.find_by_email(typed)

        assert found is None or found.email.lower() == typed.lower()

    def test_it_runs_one_statement(self, user: Any, django_assert_num_queries: Any) -> None:
        with django_assert_num_queries(1):
            assert backends.find_by_email(user.email) == user


def can_hold_both_cases() -> bool:
    from django.db import connection

    return connection.vendor != "mysql"


class Counting(BasePasswordHasher):
    """A hasher that counts its calls."""

    algorithm = "counting"
    encoded = 0

    def salt(self) -> str:
        return "salt"

    def encode(self, password: str, salt: str) -> str:
        Counting.encoded += 1
        return f"counting${salt}${password[::-1]}"

    def decode(self, encoded: str) -> dict[str, Any]:
        return {"algorithm": self.algorithm, "salt": "salt", "hash": encoded}

    def verify(self, password: str, encoded: str) -> bool:
        return self.encode(password, "salt") == encoded

    def must_update(self, encoded: str) -> bool:
        return False

    def harden_runtime(self, password: str, encoded: str) -> None:
        pass


class TestTheSameWork:
    """security.md, row 116: one hash for an unknown, inactive or password-less account and for a wrong password."""

    @pytest.mark.parametrize(
        "case", ["right", "wrong", "unknown", "inactive", "inactive, wrong", "password-less", "two accounts"]
    )
    def test_costs_one_hash(self, settings: Any, case: str) -> None:
        settings.PASSWORD_HASHERS = [f"{__name__}.Counting"]
        email, password = "user@example.com", PASSWORD
        match case:
            case "unknown":
                pass
            case "inactive" | "inactive, wrong":
                make_user(email, is_active=False)
            case "password-less":
                make_user(email, password=None)
            case "two accounts":
                if not can_hold_both_cases():
                    pytest.skip("this database's unique constraint knows no case")
                make_user(email)
                make_user(email.upper())
            case _:
                make_user(email)
        if "wrong" in case:
            password = "wrong"
        Counting.encoded = 0

        found = authenticate(None, username=email, email=email, password=password)

        assert (found is not None) == (case == "right")
        assert Counting.encoded == 1


class TestUpgradingAHash:
    """security.md, row 9."""

    def weaken(self, user: Any) -> str:
        weak = PBKDF2PasswordHasher().encode(PASSWORD, "saltsaltsalt", iterations=1000)
        type(user).objects.filter(pk=user.pk).update(password=weak)
        return weak

    def log_in_while(self, user: Any, act: Callable[[], Any]) -> Any:
        """Log in while something happens between the lookup and the password check; return who is logged in."""
        with meanwhile(act, after="SELECT", of=type(user)):
            return authenticate(None, email=user.email, password=PASSWORD)

    def test_a_weak_one_becomes_argon2id_at_login(self, api: Api, user: Any) -> None:
        self.weaken(user)

        api.login(user.email)

        user.refresh_from_db()
        assert user.password.startswith("argon2$argon2id$")
        assert user.check_password(PASSWORD)

    def test_other_sessions_stay(self, user: Any) -> None:
        first, second = Api(), Api()
        self.weaken(user)
        first.login(user.email)
        self.weaken(user)

        second.login(user.email)

        assert first.get("/api/whoami").status_code == 200
        assert first.refresh().status_code == 200

    def test_a_wrong_password_upgrades_nothing(self, api: Api, user: Any) -> None:
        weak = self.weaken(user)

        api.post("/auth/login", {"email": user.email, "password": "wrong"})

        user.refresh_from_db()
        assert user.password == weak

    def test_it_never_overwrites_a_password_that_changed_meanwhile(self, user: Any) -> None:
        self.weaken(user)
        new = make_password("the owner's new one")

        assert not self.log_in_while(user, lambda: type(user).objects.update(password=new))
        assert type(user).objects.get().password == new

    def test_a_concurrent_upgrade_wins(self, user: Any) -> None:
        self.weaken(user)
        upgraded = make_password(PASSWORD)

        logged_in = self.log_in_while(user, lambda: type(user).objects.update(password=upgraded))
        assert type(user).objects.get().password == upgraded == logged_in.password

    def test_a_hash_upgraded_elsewhere_is_read_from_the_primary(self, user: Any, settings: Any) -> None:
        """security.md, row 48: a lagging replica would bring the old password back."""
        self.weaken(user)
        upgraded = make_password(PASSWORD)

        def upgrade() -> None:
            type(user).objects.update(password=upgraded)
            settings.DATABASE_ROUTERS = ["tests.sessions.test_refresh.Replica"]

        assert self.log_in_while(user, upgrade) == user

    def test_a_user_deleted_meanwhile_is_refused(self, user: Any) -> None:
        self.weaken(user)

        assert not self.log_in_while(user, type(user).objects.all().delete)

    def test_djangos_argon2_parameters_meet_the_policy(self) -> None:
        """At least 19 MiB, two passes."""
        hasher = Argon2PasswordHasher()

        assert hasher.memory_cost >= 19 * 1024
        assert hasher.time_cost >= 2
        assert hasher.parallelism >= 1
        assert identify_hasher(hasher.encode("x", "saltsaltsalt")).algorithm == "argon2"


class TestDjangosAuthenticate:
    def test_email_and_password_authenticate(self, user: Any) -> None:
        assert authenticate(None, email=user.email.upper(), password=PASSWORD) == user
        assert authenticate(None, email=user.email, password="wrong") is None

    def test_a_username_alone_authenticates_as_in_the_admins_form(self, user: Any) -> None:
        username = getattr(user, user.USERNAME_FIELD)

        assert authenticate(None, username=username, password=PASSWORD) == user
        assert authenticate(None, username="nobody", password=PASSWORD) is None

    def test_a_username_is_ignored_if_there_is_an_email(self) -> None:
        victim = make_user()

        assert (
            authenticate(None, username=victim.get_username(), email="x@example.com", password=PASSWORD)
            is None
        )

    def test_a_username_equal_to_anothers_email_gains_nothing(self, api: Api) -> None:
        if get_user_model().USERNAME_FIELD == "email":
            pytest.skip("this user model has no username")
        make_user("attacker@example.com", username="victim@example.com")

        assert (
            api.post("/auth/login", {"email": "victim@example.com", "password": PASSWORD}).status_code == 401
        )

    def test_missing_credentials_authenticate_nobody(self, user: Any) -> None:
        backend = backends.EmailBackend()

        assert backend.authenticate(None) is None
        assert backend.authenticate(None, email=user.email) is None
        assert backend.authenticate(None, password=PASSWORD) is None

    def test_it_provides_permissions(self, user: Any) -> None:
        type(user).objects.update(is_superuser=True)
        user = authenticate(None, email=user.email, password=PASSWORD)

        assert user is not None
        assert user.has_perm("hostapp.view_note")
        assert backends.EmailBackend().get_user(user.pk) == user

    def test_staff_can_log_in_to_the_admin(self, user: Any) -> None:
        type(user).objects.update(is_staff=True, is_superuser=True)
        client = Client()

        response = client.post(
            "/admin/login/?next=/admin/", {"username": user.get_username(), "password": PASSWORD}
        )

        assert response.status_code == 302
        assert client.get("/admin/").status_code == 200
