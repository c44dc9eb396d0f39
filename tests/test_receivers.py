"""What acts when somebody else writes a user's row."""

from __future__ import annotations

import io
from typing import Any
from unittest import mock

import pytest
from django.contrib.auth.hashers import PBKDF2PasswordHasher
from django.core.management import call_command

from platform_auth.models import AuthEvent, PasswordResetToken, RefreshSession
from tests.conftest import PASSWORD, Api, code_of

pytestmark = pytest.mark.django_db


class TestPasswordSetElsewhere:
    def test_it_ends_the_sessions_and_links_of_the_user(self, signed_in: Api, user: Any) -> None:
        """Row 27: Django admin and the host's own code set passwords too."""
        signed_in.post("/auth/password/request", {"email": user.email})
        assert PasswordResetToken.objects.filter(user=user).exists()

        user.set_password("another horse and battery")
        user.save()

        assert code_of(signed_in.get("/users/me")) == "INVALID_TOKEN"
        assert code_of(signed_in.refresh()) == "INVALID_CREDENTIALS"
        assert not PasswordResetToken.objects.filter(user=user).exists()
        assert AuthEvent.objects.filter(kind="session_revoked", reason="password set", user=user).exists()

    def test_the_command_of_django_does_too(self, signed_in: Api, user: Any) -> None:
        with mock.patch("getpass.getpass", return_value="another horse and battery"):
            call_command("changepassword", user.get_username(), stdout=io.StringIO())

        assert not RefreshSession.objects.filter(user=user).exists()

    def test_any_other_change_of_the_user_ends_nothing(self, signed_in: Api, user: Any) -> None:
        user.email = "new@example.com"
        user.save()

        assert signed_in.get("/users/me").status_code == 200

    def test_an_upgraded_hash_is_the_same_password(self, signed_in: Api, user: Any) -> None:
        """Row 9."""
        hasher = PBKDF2PasswordHasher()
        type(user).objects.filter(pk=user.pk).update(password=hasher.encode(PASSWORD, "salt", iterations=1))
        user.refresh_from_db()

        assert user.check_password(PASSWORD)

        assert user.password.startswith("argon2")
        assert signed_in.get("/users/me").status_code == 200
