"""A host's subclass of a view can read the request, before and after our view has answered."""

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
    """Reads the data before the login."""

    def post(self, request: Any) -> Any:
        seen.append(request.data["email"])
        return super().post(request)


class After(views.LoginView):
    """Reads the data and the raw body after the login."""

    def post(self, request: Any) -> Any:
        response = super().post(request)
        seen.append(request.data["email"])
        assert json.loads(request.body) == request.data
        return response


class Changing(views.LoginView):
    """Sets the mode itself."""

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
class TestSubclassThatReadsTheData:
    def test_logs_in_and_opens_one_session(self, user: Any, url: str) -> None:
        for number in (1, 2):
            response = Client().post(
                url, {"email": user.email, "password": PASSWORD}, content_type="application/json"
            )

            assert response.status_code == 200
            assert set(response.json()["data"]) == {"access_token", "expires", "refresh_token"}
            assert seen == [user.email] * number
            assert RefreshSession.objects.count() == number

    def test_works_with_drfs_test_client(self, user: Any, url: str) -> None:
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
    def test_refuses_a_bad_body_like_our_view(
        self, url: str, body: bytes, media: str, status: int, code: str
    ) -> None:
        response = Client().post(url, body, content_type=media)

        assert (response.status_code, code_of(response)) == (status, code)
        assert not RefreshSession.objects.exists()


def test_a_subclass_can_change_the_data(user: Any) -> None:
    response = Client().post(
        "/changing", {"email": user.email, "password": PASSWORD}, content_type="application/json"
    )

    assert response.cookies["__Host-refresh_token"].value


def test_a_body_without_a_length_is_read_under_asgi(user: Any) -> None:
    """DRF treats a body without a Content-Length as empty."""
    scope = {
        "type": "http",
        "method": "POST",
        "path": "/after",
        "headers": [(b"content-type", b"application/json")],
    }
    body = io.BytesIO(json.dumps({"email": user.email, "password": PASSWORD}).encode())

    assert After.as_view()(ASGIRequest(scope, body)).status_code == 200


def test_a_body_that_was_read_before_can_be_read_again(user: Any) -> None:
    """For example by a middleware that logs it."""
    request = RequestFactory().post(
        "/after", {"email": user.email, "password": PASSWORD}, content_type="application/json"
    )
    assert request.body

    assert After.as_view()(request).status_code == 200
