"""GET /users/me."""

from __future__ import annotations

from typing import Any

import pytest

from tests.conftest import Api, code_of

pytestmark = pytest.mark.django_db


class TestUserView:
    def test_it_returns_the_fields_that_the_user_model_has(self, signed_in: Api, user: Any) -> None:
        response = signed_in.get("/users/me")

        data = response.json()["data"]
        names = {"first_name", "last_name"} if hasattr(user, "first_name") else set()
        assert set(data) == {"id", "email", "tfa_enabled", "last_login"} | names
        assert data["id"] == str(user.pk)
        assert data["email"] == user.email
        assert data["tfa_enabled"] is False
        assert data["last_login"].endswith("Z")

    def test_it_works_with_and_without_a_trailing_slash(self, signed_in: Api) -> None:
        assert signed_in.get("/users/me").json() == signed_in.get("/users/me/").json()

    def test_without_a_token_it_is_401(self, api: Api, db: None) -> None:
        response = api.get("/users/me")

        assert response.status_code == 401
        assert code_of(response) == "INVALID_CREDENTIALS"
        assert response.headers["WWW-Authenticate"] == "Bearer"
