"""StatelessAccessTokenAuthentication: the token is accepted without a lookup."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from django.utils import timezone
from rest_framework.request import Request
from rest_framework.test import APIRequestFactory

from platform_auth import errors, sessions, signed_tokens
from platform_auth.authentication import StatelessAccessTokenAuthentication
from platform_auth.sessions import tokens
from tests.conftest import PASSWORD, Api, code_of
from tests.test_budgets import statements

pytestmark = pytest.mark.django_db


def authenticate(token: str) -> Any:
    request = APIRequestFactory().get("/", headers={"Authorization": f"Bearer {token}"})
    return StatelessAccessTokenAuthentication().authenticate(Request(request))


class TestWithoutALookup:
    def test_a_request_runs_no_statement(self, signed_in: Api, user: Any) -> None:
        with statements() as run:
            response = signed_in.get("/api/stateless")

        assert response.json() == {"user": str(user.pk)}
        assert run() == []

    def test_the_user_is_loaded_only_if_more_than_the_key_is_needed(
        self, signed_in: Api, user: Any, django_assert_num_queries: Any
    ) -> None:
        with django_assert_num_queries(0):
            found, claims = authenticate(signed_in.access_token or "")
            assert found.pk == user.pk
            assert found == user
            assert found.is_authenticated
            assert claims.user_id == str(user.pk)
        with django_assert_num_queries(1):
            assert found.email == user.email

    def test_a_revoked_session_works_until_its_token_expires(self, user: Any, clock: Any) -> None:
        """security.md, row 27, without the lookup: at most 15 minutes."""
        api = Api()
        api.login(user.email)
        sessions.revoke_all(user)

        assert api.get("/api/stateless").status_code == 200
        clock.shift(900)
        response = api.get("/api/stateless")
        assert (response.status_code, code_of(response)) == (401, "TOKEN_EXPIRED")

    def test_a_deleted_user_is_401_when_loaded(self, signed_in: Api, user: Any) -> None:
        user.delete()
        found, _claims = authenticate(signed_in.access_token or "")

        with pytest.raises(errors.InvalidToken):
            assert found.email

    @pytest.mark.parametrize("header", ["Bearer", "Bearer x", "Bearer x.y.z", "bearer null"])
    def test_a_bad_token_is_401_not_anonymous(self, api: Api, db: None, header: str) -> None:
        response = api.get("/api/stateless", headers={"Authorization": header})

        assert (response.status_code, code_of(response)) == (401, "INVALID_TOKEN")
        assert response["WWW-Authenticate"] == 'Bearer error="invalid_token"'

    def test_a_missing_token_is_refused_by_the_permission(self, api: Api, db: None) -> None:
        response = api.get("/api/stateless")

        assert (response.status_code, code_of(response)) == (401, "INVALID_CREDENTIALS")
        assert response["WWW-Authenticate"] == "Bearer"

    def test_a_subject_that_is_not_a_primary_key_is_401(self, api: Api, db: None) -> None:
        token = signed_tokens.sign(
            tokens.ACCESS,
            {"sub": "no key", "sid": "00000000-0000-4000-8000-000000000000", "amr": [], "auth_time": 1},
            now=timezone.now(),
            lifetime=timedelta(minutes=1),
        )

        assert api.get("/api/stateless", headers={"Authorization": f"Bearer {token}"}).status_code == 401


class TestCookie:
    def test_it_authenticates_and_is_protected_on_unsafe_methods(self, user: Any) -> None:
        """security.md, row 57."""
        api = Api()
        api.post("/auth/login", {"email": user.email, "password": PASSWORD, "mode": "session"})
        evil = {"Origin": "https://evil.example"}

        assert api.get("/api/stateless").status_code == 200
        assert api.post("/api/stateless").status_code == 200
        response = api.post("/api/stateless", headers=evil)
        assert (response.status_code, code_of(response)) == (403, "FORBIDDEN")

    def test_a_bad_header_takes_precedence_over_a_good_cookie(self, user: Any) -> None:
        api = Api()
        api.post("/auth/login", {"email": user.email, "password": PASSWORD, "mode": "session"})

        assert api.get("/api/stateless", headers={"Authorization": "Bearer x"}).status_code == 401
        assert api.get("/api/stateless", headers={"Authorization": "null"}).status_code == 200


class TestSecondFactorPolicy:
    def test_a_session_that_must_set_up_a_factor_is_403(self, user: Any, configure: Any) -> None:
        configure(TFA_REQUIRED_FOR_STAFF=True)
        type(user).objects.update(is_staff=True)
        api = Api()
        api.login(user.email)

        response = api.get("/api/stateless")

        assert (response.status_code, code_of(response)) == (403, "TFA_REQUIRED")
