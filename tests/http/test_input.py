"""security.md, rows 104 to 109: every body gets a response in the usual shape and never a 5xx, at every endpoint."""

from __future__ import annotations

import io
import itertools
import json
from typing import Any

import pytest
from django.test import Client, RequestFactory
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from rest_framework.parsers import FormParser

from platform_auth import sessions, views
from platform_auth.http import shapes
from platform_auth.models import RefreshSession
from tests.conftest import PASSWORD, Api, make_user
from tests.endpoints import ENDPOINTS, Endpoint, check_declared, taking_json

pytestmark = pytest.mark.django_db

JSON = taking_json()
FIELDS = sorted({name for endpoint in JSON for name in endpoint.fields})
GOOD = dict.fromkeys(FIELDS, "x") | {
    "email": "nobody@example.com", "password": "a password of nobody", "mode": "json", "otp": "123456",
    "reset_url": "https://x.example/", "secret": "JBSWY3DPEHPK3PXPJBSWY3DPEHPK3PXP", "redirect": "/",
}  # fmt: skip
LONGEST = {
    "email": 254, "password": 1024, "mode": 7, "otp": 32, "token": 4096, "reset_url": 2048, "current_password": 1024,
    "secret": 1024, "redirect": 2048,
}  # fmt: skip
"""The maximum lengths in the contract; other fields declare theirs."""


@pytest.fixture
def send(user: Any, configure: Any) -> Any:
    """Send bytes to an endpoint, with an access token if it needs one."""
    configure(
        LIMITS={
            "login": dict.fromkeys(("account_and_address", "address", "account"), "9999999/m"),
            "password_request": {"address": "9999999/m", "account": "9999999/m"},
            "otp": {"short": "9999999/m", "long": "9999999/m"},
        }
    )
    api = Api(raise_request_exception=False)
    api.login(user.email)

    def sending(endpoint: Endpoint, body: bytes, media: str = "application/json", **extra: Any) -> Any:
        headers = {"HTTP_AUTHORIZATION": f"Bearer {api.access_token}"} if endpoint.is_signed_in else {}
        client = Client(raise_request_exception=False)
        response = client.generic(
            endpoint.method, endpoint.path, body, content_type=media, **headers, **extra
        )
        check_declared(endpoint.method, response)
        return response

    return sending


def check(response: Any, *statuses: int) -> None:
    """Check that a response is an error in the usual shape, with one of these statuses."""
    assert response.status_code in statuses, (response.status_code, response.content)
    errors = response.json()["errors"]
    assert errors
    for error in errors:
        assert set(error) == {"message", "extensions"}
        assert isinstance(error["message"], str)
        assert error["extensions"]["code"].isupper()
    assert not response.cookies


each = pytest.mark.parametrize("endpoint", JSON, ids=str)


def unknown_provider(endpoint: Endpoint) -> tuple[int, ...]:
    """The status that is also allowed if the URL names a provider: there is none with that key."""
    return (404,) if "oauth" in endpoint.name else ()


class TestBody:
    BODIES = {
        "not JSON": b"{",
        "a word": b"x",
        "empty list": b"[]",
        "list of an object": b"[{}]",
        "string": b'"x"',
        "number": b"5",
        "null": b"null",
        "true": b"true",
        "a blank": b" ",
        "NaN": b'{"email": NaN}',
        "Infinity": b'{"email": -Infinity}',
        "single quotes": b"{'email': 'x'}",
        "trailing comma": b'{"email": "x",}',
        "two objects": b"{}{}",
        "a comment": b"{} // x",
        "repeated key": b'{"mode": "json", "mode": "json"}',
        "repeated key deep inside": b'{"unknown": {"a": 1, "a": 1}}',
        "repeated key, escaped": b'{"mode": "json", "\\u006dode": "json"}',
        "BOM": b"\xef\xbb\xbf{}",
        "UTF-16": '{"email": "x"}'.encode("utf-16"),
        "UTF-16 without BOM": '{"email": "x"}'.encode("utf-16-le"),
        "UTF-32": '{"email": "x"}'.encode("utf-32"),
        "Latin-1": '{"email": "é"}'.encode("latin-1"),
        "overlong UTF-8": b'{"email": "\xc0\x80"}',
        "a surrogate in UTF-8": b'{"email": "\xed\xa0\x80"}',
        "nested 10,000 deep": b'{"unknown": ' + b"[" * 10_000 + b"]" * 10_000 + b"}",
        "nested 10,000 objects deep": b'{"a":' * 10_000 + b"1" + b"}" * 10_000,
        "a number of 5,000 digits": b'{"unknown": ' + b"9" * 5000 + b"}",
        "raw control character": b'{"email": "a\nb"}',
        "raw NUL": b'{"email": "a\x00b"}',
    }

    @each
    def test_that_is_not_a_json_object_in_utf_8_is_400(self, send: Any, endpoint: Endpoint) -> None:
        for body in self.BODIES.values():
            check(send(endpoint, body), 400, *unknown_provider(endpoint))

    @each
    def test_of_another_media_type_is_415(self, send: Any, endpoint: Endpoint) -> None:
        for media in (
            "text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "application/xml",
            "application/octet-stream", "text/json", "application/jsonx", "", "x", "application/json; charset=latin-1",
            "application/json; charset=utf-16", "application/vnd.api+json",
        ):  # fmt: skip
            check(send(endpoint, b"{}", media), 415, *unknown_provider(endpoint))

    @each
    def test_the_media_type_may_have_parameters_and_any_case(self, send: Any, endpoint: Endpoint) -> None:
        for media in (
            "application/json; charset=utf-8", "application/json;charset=UTF-8", "Application/JSON",
            'application/json; charset="utf-8"', "application/json; x=y",
        ):  # fmt: skip
            assert send(endpoint, b"{}", media).status_code not in (415, 500)

    @each
    def test_over_64_kib_is_413_before_it_is_parsed(self, send: Any, endpoint: Endpoint) -> None:
        largest = b'{"unknown": "' + b"x" * (65536 - 15) + b'"}'
        assert len(largest) == 65536

        assert send(endpoint, largest).status_code not in (413, 500)
        check(send(endpoint, largest + b" "), 413, *unknown_provider(endpoint))
        check(send(endpoint, b"[" * 10_000_000, "text/plain"), 413, *unknown_provider(endpoint))

    @each
    def test_a_wrong_length_never_causes_a_5xx(self, send: Any, endpoint: Endpoint) -> None:
        for length in ("", "x", "-5", "0", "1", "99999999999999999999", "1e3", " 2"):
            assert send(endpoint, b"{}", CONTENT_LENGTH=length).status_code < 500

    @each
    def test_no_body_counts_as_an_empty_object(self, send: Any, endpoint: Endpoint) -> None:
        for media in ("", "application/json", "text/plain"):
            response = send(endpoint, b"", media)
            assert response.status_code not in (415, 500)
            assert response.content == send(endpoint, b"{}").content


class TestFields:
    VALUES: dict[str, Any] = {
        "a number": 5, "zero": 0, "a float": 1.5, "true": True, "false": False, "null": None, "a list": ["x"],
        "an empty list": [], "an object": {"x": "y"}, "an empty object": {}, "a huge number": 10**400,
        "nested": [[[{}]]],
    }  # fmt: skip
    STRINGS: dict[str, str] = {
        "NUL": '"a\\u0000b"',
        "only NUL": '"\\u0000"',
        "a lone high surrogate": '"\\ud800"',
        "a lone low surrogate": '"x\\udfffx"',
        "surrogates the wrong way round": '"\\udc00\\ud800"',
    }

    @each
    def test_of_another_type_are_400_and_each_is_named(self, send: Any, endpoint: Endpoint) -> None:
        for value in self.VALUES.values():
            response = send(endpoint, json.dumps(dict.fromkeys(FIELDS, value)).encode())

            if response.status_code == 404 and "oauth" in endpoint.name:
                continue
            check(response, 400)
            named = {error["extensions"]["field"] for error in response.json()["errors"]}
            assert named == set(endpoint.fields)

    @each
    def test_that_are_the_number_1e999_are_400(self, send: Any, endpoint: Endpoint) -> None:
        body = "{" + ", ".join(f'"{name}": 1e999' for name in FIELDS) + "}"

        check(send(endpoint, body.encode()), 400, *unknown_provider(endpoint))

    @each
    def test_with_characters_that_a_database_cannot_store_are_400(
        self, send: Any, endpoint: Endpoint
    ) -> None:
        for name, text in itertools.product(endpoint.fields, self.STRINGS.values()):
            fields = {key: json.dumps(GOOD[key]) for key in endpoint.fields} | {name: text}
            response = send(
                endpoint, ("{" + ", ".join(f'"{k}": {v}' for k, v in fields.items()) + "}").encode()
            )
            if isinstance(endpoint.fields[name], shapes.AnyText):
                # Like any unknown token.
                assert response.status_code in (401, 204)
                continue
            if response.status_code == 404 and "oauth" in endpoint.name:
                continue
            check(response, 400)
            assert name in {error["extensions"]["field"] for error in response.json()["errors"]}

    @each
    def test_that_are_too_long_are_400(self, send: Any, endpoint: Endpoint) -> None:
        for name, field in endpoint.fields.items():
            if isinstance(field, shapes.AnyText):
                continue
            longest = LONGEST.get(name) or field.max_length or field.max_bytes
            fields = {key: GOOD[key] for key in endpoint.fields} | {name: "x" * (longest + 1)}
            response = send(endpoint, json.dumps(fields).encode())
            if response.status_code == 404 and "oauth" in endpoint.name:
                continue
            assert response.status_code in (400, 401) if name == "secret" else response.status_code == 400
            assert "x" * 33 not in response.content.decode()

    @each
    def test_with_unknown_names_are_ignored(self, send: Any, endpoint: Endpoint) -> None:
        clutter = {
            "unknown": 5,
            "is_staff": True,
            "user": {"a": [1]},
            "__proto__": {},
            "": "",
            "a" * 1000: 1e300,
        }
        good = {name: GOOD[name] for name in endpoint.fields}

        with_clutter = send(endpoint, json.dumps(good | clutter).encode())

        assert with_clutter.status_code == send(endpoint, json.dumps(good).encode()).status_code
        assert with_clutter.status_code < 500

    def test_control_characters_are_refused_in_all_but_passwords(self, send: Any) -> None:
        """security.md, row 105."""
        login = next(endpoint for endpoint in JSON if endpoint.name == "platform_auth:login")
        for control in ("\x01", "\n", "\r", "\t", "\x7f", "\x1b"):
            assert send(login, json.dumps({**GOOD, "otp": f"1234{control}56"}).encode()).status_code == 400
            assert (
                send(login, json.dumps({**GOOD, "email": f"a{control}@example.com"}).encode()).status_code
                == 400
            )
            assert send(login, json.dumps({**GOOD, "password": f"a{control}b"}).encode()).status_code == 401


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(FIELDS) | st.text(max_size=5), inner)
    ),
    max_leaves=10,
)


# How a WSGI server decodes the bytes of a header.
WIRE = st.binary(max_size=40).map(lambda raw: raw.decode("latin-1"))


class TestArbitraryInput:
    """Fuzzed: never a 5xx, always the usual shape, never a session."""

    @each
    @hypothesis_settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck))
    @given(
        body=st.one_of(st.binary(max_size=200), st.dictionaries(st.sampled_from(FIELDS), ANYTHING), ANYTHING)
    )
    def test_as_a_body_never_causes_a_5xx(self, send: Any, endpoint: Endpoint, body: Any) -> None:
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()

        response = send(endpoint, raw)

        assert response.status_code < 500
        if response.status_code not in (200, 204):
            check(response, 400, 401, 404, 413, 415, 429)
        assert RefreshSession.objects.count() == 1

    @each
    @hypothesis_settings(max_examples=10, deadline=None, suppress_health_check=list(HealthCheck))
    @given(media=WIRE, query=WIRE, agent=WIRE)
    def test_as_headers_and_query_never_causes_a_5xx(
        self, send: Any, endpoint: Endpoint, media: str, query: str, agent: str
    ) -> None:
        response = send(endpoint, b"{}", media, QUERY_STRING=query, HTTP_USER_AGENT=agent, HTTP_ORIGIN=agent)

        assert response.status_code < 500

    @hypothesis_settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
    @given(value=WIRE)
    def test_as_an_authorization_header_or_a_cookie_never_causes_a_5xx(self, user: Any, value: str) -> None:
        for extra in (
            {"HTTP_AUTHORIZATION": f"Bearer {value}"},
            {"HTTP_COOKIE": f"__Host-access_token={value}"},
        ):
            response = Client().generic("GET", "/auth/sessions", **extra)
            assert response.status_code in (400, 401), value
        response = Client().generic("POST", "/auth/refresh", HTTP_COOKIE=f"__Host-refresh_token={value}")
        assert response.status_code in (400, 401)


class TestForms:
    """Form-encoded requests."""

    FORMS = [
        endpoint._replace(method="POST")
        for endpoint in ENDPOINTS
        if "POST" in endpoint.methods and (endpoint.is_page or endpoint.view.parser_classes == [FormParser])
    ]

    @pytest.mark.parametrize("endpoint", FORMS, ids=str)
    def test_no_form_causes_a_5xx(self, send: Any, endpoint: Endpoint) -> None:
        form = "application/x-www-form-urlencoded"
        for body in (b"", b"x", b"email=%00&token=%00", b"a=1&a=2", b"&" * 5000, b"a=1&" * 5000, b"%", b"%ff=%ff",
                     b"\xff", b"email=%ED%A0%80&password=%ED%A0%80&token=%ED%A0%80",
                     b"code=x&state=x" * 10):  # fmt: skip
            assert send(endpoint, body, form).status_code < 500
        for length in ("x", "-5", "1e3", "99999999999"):
            assert send(endpoint, b"a=1", form, CONTENT_LENGTH=length).status_code < 500
        assert send(endpoint, b"a=" + b"x" * 100_000, form).status_code == 413
        assert send(endpoint, b"{}", "application/json").status_code == 415

    @pytest.mark.parametrize(
        ("path", "status"),
        [
            ("/auth/oauth/demo/callback", 400),
            ("/auth/password/reset/page", 401),
            ("/auth/password/request/page", 400),
        ],
    )
    def test_a_query_with_too_many_fields_is_refused(self, path: str, status: int, db: None) -> None:
        """The response is ours, with our headers, not Django's page for a bad request."""
        response = Client().get(f"{path}?{'a=1&' * 1001}token=x&state=x&code=x")
        without = Client().get(path)

        assert response.status_code == status
        assert set(response.headers) == set(without.headers)
        assert response["Cache-Control"] == "no-store"
        assert response["Content-Type"] == without["Content-Type"]


def test_a_password_of_1024_bytes_takes_as_long_as_any_other(send: Any) -> None:
    """security.md, row 104: our work doesn't grow with its length."""
    user = make_user()
    login = next(endpoint for endpoint in JSON if endpoint.name == "platform_auth:login")

    assert send(login, json.dumps({"email": user.email, "password": "x" * 1024}).encode()).status_code == 401
    assert send(login, json.dumps({"email": user.email, "password": PASSWORD}).encode()).status_code == 200


class TestBodyWithoutALength:
    """Django reads nothing of it under WSGI; that must not count as an empty body."""

    def ask(self, body: bytes, **environ: Any) -> Any:
        request = RequestFactory().post("/auth/logout", content_type="application/json")
        del request.META["CONTENT_LENGTH"]
        request.META |= {"HTTP_TRANSFER_ENCODING": "chunked", "wsgi.input": io.BytesIO(body), **environ}
        return views.LogoutView.as_view()(request).render()

    def test_is_read_if_the_server_marks_its_end(self, user: Any) -> None:
        grant = sessions.open(user)

        response = self.ask(
            json.dumps({"refresh_token": grant.refresh_token}).encode(), **{"wsgi.input_terminated": True}
        )

        assert response.status_code == 204
        assert not RefreshSession.objects.exists()

    def test_is_refused_if_the_server_does_not_mark_its_end(self, user: Any) -> None:
        response = self.ask(b"{}")

        assert response.status_code == 400

    def test_has_the_same_limit(self, user: Any) -> None:
        response = self.ask(b"x" * 65_537, **{"wsgi.input_terminated": True})

        assert response.status_code == 413
