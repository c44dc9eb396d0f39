"""A shared cache must not keep what one user's cookie or token opened."""

from __future__ import annotations

from typing import Any

import pytest
from django.test import override_settings

from platform_auth.conf import conf
from tests.conftest import PASSWORD, Api, make_user

pytestmark = pytest.mark.django_db

CACHED = [
    "django.middleware.cache.UpdateCacheMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.cache.FetchFromCacheMiddleware",
]


def in_session_mode(user: Any) -> Api:
    api = Api()
    response = api.post("/auth/login", {"email": user.email, "password": PASSWORD, "mode": "session"})
    assert response.cookies[conf.cookie_name("access")].value
    return api


class TestHostViews:
    @pytest.mark.parametrize("path", ["/api/whoami", "/api/stateless"])
    def test_the_response_depends_on_cookie_and_authorization(self, signed_in: Api, path: str) -> None:
        """security.md, row 126: signed in, refused, and with a bad token."""
        answers = [
            signed_in.get(path),
            Api().get(path),
            Api().get(path, headers={"Authorization": "Bearer x"}),
        ]

        for answer in answers:
            assert {"cookie", "authorization"} <= set(answer["Vary"].lower().replace(" ", "").split(","))

    @pytest.mark.parametrize("path", ["/api/whoami", "/api/stateless"])
    def test_a_site_wide_cache_keeps_users_apart(self, path: str) -> None:
        one, other = make_user(), make_user()
        with override_settings(MIDDLEWARE=CACHED):
            first = in_session_mode(one).get(path)
            second = in_session_mode(other).get(path)
            nobody = Api().get(path)

        assert first.json() == {"user": str(one.pk)}
        assert second.json() == {"user": str(other.pk)}
        assert nobody.status_code == 401
