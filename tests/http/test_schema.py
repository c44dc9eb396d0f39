"""The OpenAPI schema of a host that uses drf-spectacular."""

from __future__ import annotations

import re
from contextlib import redirect_stderr
from io import StringIO
from typing import Any

import pytest
from django.conf import settings
from django.test import override_settings
from django.urls import include, path
from drf_spectacular.drainage import GENERATOR_STATS
from drf_spectacular.generators import SchemaGenerator
from drf_spectacular.validation import validate_schema

from platform_auth import schema, views
from platform_auth.http.endpoint import ApiView
from tests.hostapp.views import NoteListView

urlpatterns = [
    path("auth/", include("platform_auth.urls")),
    path("users/", include("platform_auth.urls_users")),
    path("api/notes", NoteListView.as_view()),
]


@pytest.fixture(scope="module")
def generated() -> tuple[Any, str]:
    """Generate the schema as a host does; return it, and what the generator complained of."""
    framework = {**settings.REST_FRAMEWORK, "DEFAULT_SCHEMA_CLASS": "drf_spectacular.openapi.AutoSchema"}
    GENERATOR_STATS.reset()
    with override_settings(REST_FRAMEWORK=framework), redirect_stderr(StringIO()) as complaints:
        schema = SchemaGenerator(urlconf=__name__).get_schema(request=None, public=True)
    return schema, complaints.getvalue()


@pytest.fixture
def described(generated: tuple[Any, str]) -> Any:
    return generated[0]


class TestSchema:
    def test_it_is_generated_without_a_warning(self, generated: tuple[Any, str]) -> None:
        schema, complaints = generated

        assert [line for line in complaints.splitlines() if "platform_auth" in line] == []
        validate_schema(schema)

    def test_it_has_every_endpoint(self, described: Any) -> None:
        paths = {re.sub(r"[/?\\Z]+$", "", url) for url in described["paths"]}

        for url in (
            "/auth/login",
            "/auth/refresh",
            "/auth/logout",
            "/auth/oauth/{provider}",
            "/auth/oauth/{provider}/callback",
            "/auth/password/request",
            "/auth/password/reset",
            "/auth/sessions/{session_id}",
            "/auth/tfa/enable",
            "/auth/jwks",
            "/users/me",
        ):
            assert url in paths

    def test_every_path_is_one_that_answers(self, described: Any) -> None:
        for url in described["paths"]:
            assert re.fullmatch(r"(/[a-z_{}-]+)+/?", url), url

    def test_every_method_of_every_view_is_described(self) -> None:
        for name, view in vars(views).items():
            if isinstance(view, type) and issubclass(view, ApiView) and view.__module__ == views.__name__:
                methods = {method for method in view.http_method_names if method in vars(view)}
                assert methods <= set(schema.OPERATIONS[name]), name

    def test_log_in_says_what_it_takes_and_gives(self, described: Any) -> None:
        operation = described["paths"]["/auth/login/"]["post"]

        body = operation["requestBody"]["content"]["application/json"]["schema"]["$ref"].rpartition("/")[2]
        assert set(described["components"]["schemas"][body]["required"]) == {"email", "password"}
        assert set(operation["responses"]) == {"200", "400", "401", "403", "429"}
        assert "security" not in operation or operation["security"] == [{}]

    def test_a_hosts_view_says_how_to_sign_in(self, described: Any) -> None:
        security = described["paths"]["/api/notes"]["get"]["security"]

        assert {"accessToken": []} in security
        assert {"accessTokenCookie": []} in security
        schemes = described["components"]["securitySchemes"]
        assert schemes["accessToken"] == {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"}
        assert schemes["accessTokenCookie"]["in"] == "cookie"

    def test_no_body_where_there_is_none(self, described: Any) -> None:
        assert "content" not in described["paths"]["/auth/logout/"]["post"]["responses"]["204"]
