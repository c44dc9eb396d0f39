"""security.md, rows 118, 119: errors have one shape, and every response has the same headers."""

from __future__ import annotations

import itertools
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlencode

import pytest
from django.core.handlers.base import BaseHandler
from django.core.signals import got_request_exception
from django.db import connection, connections
from django.test import Client
from django.views.debug import ExceptionReporter
from rest_framework.exceptions import APIException

from platform_auth import views
from platform_auth.http import endpoint as base
from platform_auth.http import pages
from platform_auth.models import RefreshSession
from tests.conftest import PASSWORD, Api, code_of, make_user
from tests.endpoints import CODES, ENDPOINTS, Endpoint

pytestmark = pytest.mark.django_db

METHODS = ["get", "head", "post", "put", "patch", "delete", "options", "trace"]
each = pytest.mark.parametrize("endpoint", ENDPOINTS, ids=str)


def check_headers(response: Any, endpoint: Endpoint | None = None) -> None:
    """Check the headers that every response must have."""
    assert response["Cache-Control"] == "no-store"
    assert response["X-Content-Type-Options"] == "nosniff"
    assert response["Referrer-Policy"] == "no-referrer"
    assert "default-src 'none'" in response["Content-Security-Policy"]
    assert "frame-ancestors 'none'" in response["Content-Security-Policy"]
    assert {"cookie", "origin"} <= {name.strip().lower() for name in response["Vary"].split(",")}
    if response.status_code == 204:
        assert response.content == b""
        assert "Content-Type" not in response
    elif response.content and not (endpoint and endpoint.is_page) and response.status_code not in (302, 303):
        assert response["Content-Type"] == "application/json"
    if response.status_code == 429:
        assert int(response["Retry-After"]) > 0
    if response.status_code == 405:
        assert response["Allow"]


def check_envelope(response: Any) -> None:
    body = response.json()
    assert set(body) == {"errors"}
    assert body["errors"]
    for error in body["errors"]:
        assert set(error) == {"message", "extensions"}
        assert error["message"]
        assert error["extensions"]["code"] in CODES


@contextmanager
def database_down() -> Iterator[None]:
    """Point the connection to an address where no database is."""
    connection.close()
    kept = {name: connection.settings_dict[name] for name in ("NAME", "PORT")}
    if connection.vendor == "sqlite":
        connection.settings_dict["NAME"] = "/nowhere/at/all.sqlite3"
    else:
        connection.settings_dict["PORT"] = "1"
    try:
        yield
    finally:
        connection.close()
        connection.settings_dict.update(kept)


class TestEveryResponse:
    @each
    def test_has_the_headers_for_every_method_and_token(self, endpoint: Endpoint) -> None:
        for method, token in itertools.product(METHODS, ("none", "bad", "good")):
            api = Api(raise_request_exception=False)
            if token == "good":
                api.login(make_user().email)
            elif token == "bad":
                api.access_token = "x"
            for path in (endpoint.path, endpoint.path.rstrip("/") + "/"):
                response = api.request(method, path)
                assert response.status_code < 500, (method, token)
                check_headers(response, endpoint)
                if response.status_code >= 400 and response.content and not endpoint.is_page:
                    check_envelope(response)
            RefreshSession.objects.all().delete()

    @each
    def test_to_an_unknown_method_is_405_with_allow(self, endpoint: Endpoint) -> None:
        for method in METHODS:
            if method.upper() in endpoint.methods:
                continue
            response = getattr(Client(), method)(endpoint.path)
            assert response.status_code == 405, method
            allowed = {name.strip() for name in response["Allow"].split(",")}
            assert allowed - {"OPTIONS"} == endpoint.methods
            check_headers(response, endpoint)
            if response.content and not endpoint.is_page:
                assert code_of(response) == "METHOD_NOT_ALLOWED"

    @pytest.mark.parametrize(
        "endpoint", [endpoint for endpoint in ENDPOINTS if not endpoint.is_page], ids=str
    )
    def test_is_json_regardless_of_accept(self, endpoint: Endpoint) -> None:
        for accept in ("text/html", "application/xml", "*/*;q=0", "", "x"):
            for query in ("", "?format=html", "?format=api", "?mode=api"):
                response = Client().get(f"{endpoint.path}{query}", headers={"Accept": accept})
                assert response.status_code < 406 or response.status_code == 429
                if response.status_code not in (302, 303):
                    assert response["Content-Type"] == "application/json"

    @each
    def test_is_made_outside_any_transaction_of_the_host(
        self, endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """ATOMIC_REQUESTS must not undo what a refusal reports, on any database, nor in subclasses."""
        for database in connections.settings.values():
            monkeypatch.setitem(database, "ATOMIC_REQUESTS", True)

        for view in (endpoint.callback, type("Theirs", (endpoint.view,), {}).as_view()):
            assert BaseHandler().make_view_atomic(view) is view

    @each
    def test_needs_no_csrf_token(self, endpoint: Endpoint) -> None:
        """security.md, row 62: the views are exempt, because cookies count only under the cross-origin rule."""
        assert endpoint.callback.csrf_exempt

    @pytest.mark.parametrize(
        "endpoint", [endpoint for endpoint in ENDPOINTS if endpoint.is_signed_in], ids=str
    )
    def test_to_a_signed_in_endpoint_without_a_token_is_401_with_the_challenge(
        self, endpoint: Endpoint
    ) -> None:
        for method in endpoint.methods - {"HEAD"}:
            response = Api().request(method.lower(), endpoint.path)
            assert (response.status_code, code_of(response)) == (401, "INVALID_CREDENTIALS")
            assert response["WWW-Authenticate"] == "Bearer"
            bad = Api().request(method.lower(), endpoint.path, headers={"Authorization": "Bearer x"})
            assert (bad.status_code, code_of(bad)) == (401, "INVALID_TOKEN")
            assert bad["WWW-Authenticate"] == 'Bearer error="invalid_token"'


class TestErrorReport:
    """security.md, row 120: an error report of a view or page, or of a host's subclass."""

    @pytest.mark.parametrize("base", [views.PasswordResetView, views.PasswordResetPageView])
    def test_it_shows_nothing_that_was_sent(self, base: Any, rf: Any) -> None:
        reports = []

        def report(request: Any, **kwargs: Any) -> None:
            reports.append(ExceptionReporter(request, *sys.exc_info()).get_traceback_html())

        class Theirs(base):  # type: ignore[misc]
            def post(self, request: Any) -> Any:
                fields = self.read()
                raise RuntimeError(len(fields))

        # Not written as it is, because a report shows lines of the source.
        secret = "-".join(["a", "secret"])
        sent = dict.fromkeys(["token", "password", "password_again"], secret)
        form = "application/x-www-form-urlencoded"
        request = (
            rf.post("/", urlencode(sent), content_type=form)
            if issubclass(base, pages.PageView)
            else rf.post("/", sent, content_type="application/json")
        )
        got_request_exception.connect(report)
        try:
            response = Theirs.as_view()(request)
        finally:
            got_request_exception.disconnect(report)

        assert response.status_code == 500
        (text,) = reports
        assert "RuntimeError" in text
        assert secret not in text


class TestOutcomes:
    """The headers of every outcome of login, refresh and logout."""

    def test_each_has_the_headers(self, user: Any, settings: Any) -> None:
        api = Api()
        good = {"email": user.email, "password": PASSWORD}
        answers = [
            api.post("/auth/login", good),
            api.post("/auth/login", {**good, "mode": "cookie"}),
            api.post("/auth/login", {**good, "mode": "session"}),
            api.post("/auth/login", {**good, "mode": "cookie"}, headers={"Origin": "https://evil.example"}),
            api.post("/auth/login", {**good, "password": "wrong"}),
            api.post("/auth/login", {}),
            api.client.post("/auth/login", b"x" * 70_000, content_type="application/json"),
            api.client.post("/auth/login", b"x", content_type="text/plain"),
            api.post("/auth/refresh"),
            api.post("/auth/refresh", {"refresh_token": "x"}),
            api.post("/auth/logout"),
            *[api.post("/auth/login", {"email": "nobody@example.com", "password": "x"}) for _ in range(6)],
        ]

        assert {answer.status_code for answer in answers} == {200, 204, 400, 401, 403, 413, 415, 429}
        for answer in answers:
            check_headers(answer)
            if answer.status_code >= 400:
                check_envelope(answer)


class TestUnexpectedError:
    """security.md, row 118: 500 without details."""

    @pytest.mark.parametrize("debug", [False, True])
    def test_it_is_500_in_the_usual_shape(
        self, user: Any, settings: Any, configure: Any, debug: bool, caplog: Any
    ) -> None:
        settings.DEBUG = debug
        configure(SIGNING_KEYS=["too short a key"])
        api = Api(raise_request_exception=False)

        response = api.post("/auth/login", {"email": user.email, "password": PASSWORD})

        assert (response.status_code, code_of(response)) == (500, "INTERNAL_SERVER_ERROR")
        check_headers(response)
        text = response.content.decode()
        for detail in (
            "Traceback",
            "short",
            "HS256",
            "platform_auth",
            ".py",
            "ImproperlyConfigured",
            PASSWORD,
        ):
            assert detail not in text
        # The log has the details, without the password.
        assert "ImproperlyConfigured" in caplog.text
        assert PASSWORD not in caplog.text
        assert not response.cookies

    def test_it_is_reported_to_django(self, user: Any, configure: Any) -> None:
        configure(SIGNING_KEYS=["too short a key"])

        with pytest.raises(Exception, match="HS256"):
            Api().post("/auth/login", {"email": user.email, "password": PASSWORD})


@pytest.mark.django_db(transaction=True)
class TestDatabaseDown:
    """503 in the usual shape, and nothing is consumed."""

    def test_every_endpoint_that_needs_it_is_503(self, settings: Any) -> None:
        user = make_user()
        api = Api(raise_request_exception=False)
        api.login(user.email)
        needy = {
            "/auth/login": {"email": user.email, "password": PASSWORD},
            "/auth/refresh": {"refresh_token": api.refresh_token},
            "/auth/logout": {"refresh_token": api.refresh_token},
            "/auth/tfa/generate": {"password": PASSWORD},
        }
        with database_down():
            answers = [api.post(path, body) for path, body in needy.items()]
            answers += [api.get(path) for path in ("/auth/sessions", "/users/me", "/auth/tfa")]
            answers += [api.delete("/auth/sessions")]

        for answer in answers:
            assert (answer.status_code, code_of(answer)) == (503, "SERVICE_UNAVAILABLE"), answer.content
            check_headers(answer)
            assert not answer.cookies
        assert api.refresh().status_code == 200

    def test_no_cookie_is_cleared(self) -> None:
        api = Api(raise_request_exception=False)
        api.post("/auth/login", {"email": make_user().email, "password": PASSWORD, "mode": "session"})

        with database_down():
            for path in ("/auth/refresh", "/auth/logout"):
                response = api.post(path)
                assert response.status_code == 503
                assert not response.cookies

        assert api.post("/auth/refresh").status_code == 200

    def test_no_endpoint_is_500(self) -> None:
        api = Api(raise_request_exception=False)
        api.login(make_user().email)
        with database_down():
            for endpoint in ENDPOINTS:
                for method in endpoint.methods:
                    response = api.request(method.lower(), endpoint.path)
                    assert response.status_code != 500, (endpoint.name, method)
                    check_headers(response, endpoint)


class TestBaseView:
    def test_a_hosts_subclass_answers_like_ours(self, user: Any) -> None:
        """Views can be subclassed and mounted elsewhere."""
        from django.test import RequestFactory

        class Theirs(views.LoginView):
            pass

        request = RequestFactory().post(
            "/elsewhere", {"email": user.email, "password": PASSWORD}, content_type="application/json"
        )
        response = Theirs.as_view()(request).render()

        assert response.status_code == 200
        check_headers(response)

    def test_an_exception_of_the_host_keeps_its_status_and_code(self, user: Any) -> None:
        from django.test import RequestFactory

        class Conflict(APIException):
            status_code = 409
            default_code = "conflict"
            default_detail = "Somebody was first."

        class Theirs(views.LoginView):
            def post(self, request: Any) -> Any:
                raise Conflict

        request = RequestFactory().post("/elsewhere", {}, content_type="application/json")
        response = Theirs.as_view()(request).render()

        assert response.status_code == 409
        error = {"message": "Somebody was first.", "extensions": {"code": "CONFLICT"}}
        assert json.loads(response.content) == {"errors": [error]}
        check_headers(response)

    def test_every_drf_class_is_pinned(self) -> None:
        from rest_framework.views import APIView

        settable = {name for name in vars(APIView) if name.endswith(("_class", "_classes"))} - {"schema"}
        for name in settable:
            assert name in vars(base.ApiView), name

    def test_the_codes_are_those_of_the_contract(self) -> None:
        assert {
            "INVALID_PAYLOAD", "FAILED_VALIDATION", "INVALID_CREDENTIALS", "INVALID_OTP", "USER_SUSPENDED",
            "TOKEN_EXPIRED", "INVALID_TOKEN", "FORBIDDEN", "TFA_REQUIRED", "INVALID_PROVIDER", "ROUTE_NOT_FOUND",
            "METHOD_NOT_ALLOWED", "CONTENT_TOO_LARGE", "UNSUPPORTED_MEDIA_TYPE", "REQUESTS_EXCEEDED",
            "INTERNAL_SERVER_ERROR", "SERVICE_UNAVAILABLE",
        } == CODES  # fmt: skip


class TestMissingTable:
    @pytest.mark.django_db(transaction=True)
    def test_is_an_error_not_an_outage(self, signed_in: Api) -> None:
        """A missing migration is 500 and reported, not 503, where nobody would look for it."""
        reported = []

        def report(**facts: Any) -> None:
            reported.append(facts["sender"])

        got_request_exception.connect(report)
        signed_in.client.raise_request_exception = False
        column = RefreshSession._meta.get_field("user_agent")
        name, column.column = column.column, "gone"
        column.__dict__.pop("cached_col", None)
        try:
            response = signed_in.get("/auth/sessions")
        finally:
            column.column = name
            column.__dict__.pop("cached_col", None)
            got_request_exception.disconnect(report)

        assert (response.status_code, code_of(response)) == (500, "INTERNAL_SERVER_ERROR")
        assert reported


class TestHostView:
    """`errors.exception_handler`: errors of the host's views have the same shape."""

    @pytest.mark.parametrize(
        ("method", "path", "status", "code"),
        [
            ("get", "/api/notes", 401, "INVALID_CREDENTIALS"),
            ("get", "/api/notes/999", 404, "ROUTE_NOT_FOUND"),
            ("put", "/api/notes", 405, "METHOD_NOT_ALLOWED"),
            ("post", "/api/notes", 400, "INVALID_PAYLOAD"),
        ],
    )
    def test_errors_have_the_usual_shape(
        self, signed_in: Api, method: str, path: str, status: int, code: str
    ) -> None:
        if status == 401:
            signed_in.access_token = None
        response = signed_in.request(method, path, {} if method == "post" else None)

        assert (response.status_code, code_of(response)) == (status, code)
        if status == 405:
            assert "GET" in response["Allow"]

    def test_another_media_type_is_415(self, signed_in: Api) -> None:
        response = signed_in.post("/api/notes", b"x", content_type="text/csv")

        assert (response.status_code, code_of(response)) == (415, "UNSUPPORTED_MEDIA_TYPE")
