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
from drf_spectacular.utils import extend_schema
from drf_spectacular.validation import validate_schema

from platform_auth import schema, views
from tests.endpoints import ENDPOINTS
from tests.hostapp.views import NoteListView

FRAMEWORK = {**settings.REST_FRAMEWORK, "DEFAULT_SCHEMA_CLASS": "drf_spectacular.openapi.AutoSchema"}
"""The settings of a host that generates its schema."""

urlpatterns = [
    path("auth/", include("platform_auth.urls")),
    path("users/", include("platform_auth.urls_users")),
    path("api/notes", NoteListView.as_view()),
]


def describe(**source: Any) -> Any:
    with override_settings(REST_FRAMEWORK=FRAMEWORK):
        return SchemaGenerator(**source).get_schema(request=None, public=True)


@pytest.fixture(scope="module")
def generated() -> tuple[Any, str]:
    """Generate the schema as a host does; return it and the generator's warnings."""
    GENERATOR_STATS.reset()
    with redirect_stderr(StringIO()) as complaints:
        schema = describe(urlconf=__name__)
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

    def test_every_path_exists(self, described: Any) -> None:
        for url in described["paths"]:
            assert re.fullmatch(r"(/[a-z_{}-]+)+/?", url), url

    def test_every_method_of_every_view_is_described(self, described: Any) -> None:
        endpoints = [endpoint for endpoint in ENDPOINTS if not endpoint.is_page]
        for endpoint in endpoints:
            assert endpoint.methods - {"HEAD"} == set(endpoint.view.operations), endpoint.name

        operations = [
            operation
            for url, methods in described["paths"].items()
            if not url.startswith("/api/")
            for operation in methods.values()
        ]
        assert len(operations) == sum(len(endpoint.view.operations) for endpoint in endpoints)
        assert all(operation["summary"] for operation in operations)

    def test_login_declares_its_fields_and_response(self, described: Any) -> None:
        operation = described["paths"]["/auth/login/"]["post"]

        body = operation["requestBody"]["content"]["application/json"]["schema"]["$ref"].rpartition("/")[2]
        assert body.startswith(schema.PREFIX)
        assert set(described["components"]["schemas"][body]["required"]) == {"email", "password"}
        statuses = {"200", "400", "401", "403", "404", "413", "415", "429", "500", "503"}
        assert set(operation["responses"]) == statuses
        assert operation["responses"]["401"]["description"] == "`INVALID_CREDENTIALS`, `INVALID_OTP`"
        assert operation["summary"] == views.LoginView.__doc__
        assert "security" not in operation or operation["security"] == [{}]

    def test_a_hosts_view_declares_the_security_schemes(self, described: Any) -> None:
        security = described["paths"]["/api/notes"]["get"]["security"]

        assert {"accessToken": []} in security
        assert {"accessTokenCookie": []} in security
        schemes = described["components"]["securitySchemes"]
        assert schemes["accessToken"] == {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"}
        assert schemes["accessTokenCookie"]["in"] == "cookie"

    def test_a_204_has_no_body(self, described: Any) -> None:
        assert "content" not in described["paths"]["/auth/logout/"]["post"]["responses"]["204"]

    def test_a_subclass_is_described_like_our_view(self, described: Any) -> None:
        class Theirs(views.LoginView):
            """Log in here."""

            def post(self, request: Any) -> Any:
                return super().post(request)

        theirs = describe(patterns=[path("theirs", Theirs.as_view())])["paths"]["/theirs"]["post"]

        ours = described["paths"]["/auth/login/"]["post"]
        assert theirs["requestBody"] == ours["requestBody"]
        assert theirs["responses"]["401"] == ours["responses"]["401"]
        assert theirs["responses"].keys() == ours["responses"].keys()
        assert theirs["summary"] == "Log in here."

    def test_a_subclass_with_the_same_name_does_not_clash(self) -> None:
        theirs = type("LoginView", (views.LoginView,), {"post": lambda self, request: None})
        patterns = [path("auth/login", theirs.as_view()), path("auth/", include("platform_auth.urls"))]
        GENERATOR_STATS.reset()

        with redirect_stderr(StringIO()) as complaints:
            describe(patterns=patterns)

        assert "identical names" not in complaints.getvalue()

    def test_a_subclass_can_add_to_the_schema(self) -> None:
        with override_settings(REST_FRAMEWORK=FRAMEWORK):

            class Theirs(views.LoginView):
                @extend_schema(summary="Theirs", request=None, responses={200: None})
                def post(self, request: Any) -> Any:
                    return super().post(request)

        theirs = describe(patterns=[path("theirs", Theirs.as_view())])["paths"]["/theirs"]["post"]

        assert theirs["summary"] == "Theirs"
        assert set(theirs["responses"]) == {"200"}
