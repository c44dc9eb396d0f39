"""A host's subclass of a view reads the request as DRF has it, before and after ours has answered."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest
from django.core.handlers.asgi import ASGIRequest
from django.test import Client, RequestFactory
from django.urls import path
from rest_framework.test import APIClient

from platform_auth import views
from platform_auth.models import RefreshSession
from tests.conftest import PASSWORD, code_of

pytestmark = pytest.mark.django_db

seen: list[Any] = []


class Before(views.LoginView):
    """Audits before it logs in."""

    def post(self, request: Any) -> Any:
        seen.append(request.data["email"])
        return super().post(request)


class After(views.LoginView):
    """Audits after it logged in: the data, and the body as it came."""

    def post(self, request: Any) -> Any:
        response = super().post(request)
        seen.append(request.data["email"])
        assert json.loads(request.body) == request.data
        return response


class Changing(views.LoginView):
    """Chooses the mode itself."""

    def post(self, request: Any) -> Any:
        request.data["mode"] = "cookie"
        return super().post(request)


urlpatterns = [
    path("before", Before.as_view()),
    path("after", After.as_view()),
    path("changing", Changing.as_view()),
]


@pytest.fixture(autouse=True)
def _mounted(settings: Any) -> None:
    settings.ROOT_URLCONF = __name__
    seen.clear()


@pytest.mark.parametrize("url", ["/before", "/after"])
class TestASubclassThatReadsTheData:
    def test_logs_in_and_opens_one_session(self, user: Any, url: str) -> None:
        for number in (1, 2):
            response = Client().post(
                url, {"email": user.email, "password": PASSWORD}, content_type="application/json"
            )

            assert response.status_code == 200
            assert set(response.json()["data"]) == {"access_token", "expires", "refresh_token"}
            assert seen == [user.email] * number
            assert RefreshSession.objects.count() == number

    def test_does_so_for_the_client_of_drf(self, user: Any, url: str) -> None:
        response = APIClient().post(url, {"email": user.email, "password": PASSWORD}, format="json")

        assert response.status_code == 200
        assert RefreshSession.objects.count() == 1

    @pytest.mark.parametrize(
        ("body", "media", "status", "code"),
        [
            (b"{", "application/json", 400, "INVALID_PAYLOAD"),
            (b'{"email": "a", "email": "b"}', "application/json", 400, "INVALID_PAYLOAD"),
            (b"{}", "text/plain", 415, "UNSUPPORTED_MEDIA_TYPE"),
            (b"email=a", "application/x-www-form-urlencoded", 415, "UNSUPPORTED_MEDIA_TYPE"),
            (b" " * 65_537, "application/json", 413, "CONTENT_TOO_LARGE"),
        ],
    )
    def test_is_refused_a_body_as_ours_is(
        self, url: str, body: bytes, media: str, status: int, code: str
    ) -> None:
        response = Client().post(url, body, content_type=media)

        assert (response.status_code, code_of(response)) == (status, code)
        assert not RefreshSession.objects.exists()


def test_a_subclass_may_change_the_data(user: Any) -> None:
    response = Client().post(
        "/changing", {"email": user.email, "password": PASSWORD}, content_type="application/json"
    )

    assert response.cookies["__Host-refresh_token"].value


def test_a_body_that_asgi_has_without_a_length_is_read(user: Any) -> None:
    """DRF takes a body without a Content-Length for none at all."""
    scope = {
        "type": "http",
        "method": "POST",
        "path": "/after",
        "headers": [(b"content-type", b"application/json")],
    }
    body = io.BytesIO(json.dumps({"email": user.email, "password": PASSWORD}).encode())

    assert After.as_view()(ASGIRequest(scope, body)).status_code == 200


def test_a_body_that_was_read_before_is_read_again(user: Any) -> None:
    """By a middleware that logs, say."""
    request = RequestFactory().post(
        "/after", {"email": user.email, "password": PASSWORD}, content_type="application/json"
    )
    assert request.body

    assert After.as_view()(request).status_code == 200
