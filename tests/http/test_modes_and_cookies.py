"""How tokens travel: modes, cookies, and the cross-origin rule."""

from __future__ import annotations

import itertools
import json
from http.cookies import SimpleCookie
from typing import Any

import pytest
from django.test import Client

from platform_auth import conf
from platform_auth.models import RefreshSession
from tests.conftest import PASSWORD, Api, code_of

pytestmark = pytest.mark.django_db

REFRESH, ACCESS = "__Host-refresh_token", "__Host-access_token"
MODES = ["json", "cookie", "session"]
BODIES = {
    "json": {"access_token", "expires", "refresh_token"},
    "cookie": {"access_token", "expires"},
    "session": {"expires"},
}
COOKIES = {"json": set(), "cookie": {REFRESH}, "session": {REFRESH, ACCESS}}


def login(user: Any, mode: str | None = None, api: Api | None = None, **extra: Any) -> tuple[Api, Any]:
    api = api or Api()
    fields = {"email": user.email, "password": PASSWORD} | ({"mode": mode} if mode else {})
    return api, api.post("/auth/login", fields, **extra)


def row() -> dict[str, Any]:
    return RefreshSession.objects.values().get()


class TestModesAtLogin:
    """security.md, row 7, and the table of modes in the contract."""

    @pytest.mark.parametrize("mode", [None, *MODES])
    def test_each_has_its_body_and_its_cookies(self, user: Any, mode: str | None) -> None:
        _api, response = login(user, mode)

        assert response.status_code == 200
        assert set(response.json()["data"]) == BODIES[mode or "json"]
        assert set(response.cookies) == COOKIES[mode or "json"]
        assert row()["mode"] == (mode or "json")

    @pytest.mark.parametrize("path", ["/auth/login", "/auth/refresh", "/auth/logout"])
    @pytest.mark.parametrize(
        "mode", ["", "JSON", "Cookie", " json", "token", 0, None, True, ["json"], {"json": 1}]
    )
    def test_any_other_mode_is_400(self, user: Any, path: str, mode: Any) -> None:
        api = Api()
        api.login(user.email)
        before = row()

        response = api.post(
            path,
            {"email": user.email, "password": PASSWORD, "refresh_token": api.refresh_token, "mode": mode},
        )

        assert (response.status_code, code_of(response)) == (400, "INVALID_PAYLOAD")
        assert response.json()["errors"][0]["extensions"]["field"] == "mode"
        assert not response.cookies
        assert row() == before

    def test_a_token_from_a_cookie_cannot_be_read_anywhere(self, user: Any) -> None:
        """security.md, row 60."""
        api, response = login(user, "session")
        tokens = [cookie.value for cookie in response.cookies.values()]
        answers = [
            response,
            api.get("/auth/sessions"),
            api.get("/users/me"),
            api.get("/auth/jwks"),
            api.post("/auth/refresh", {"mode": "json"}),
            api.post("/auth/refresh", {"mode": "other"}),
            (refreshed := api.post("/auth/refresh")),
            api.post("/auth/logout"),
        ]
        tokens += [cookie.value for cookie in refreshed.cookies.values()]

        for answer in answers:
            headers = {name: value for name, value in answer.items() if name != "Set-Cookie"}
            for token in tokens:
                assert token not in answer.content.decode()
                assert token not in repr(headers)


class TestModeOfASession:
    """A session moves from json to cookie to session, never back."""

    PLACES = ["body", "cookie"]

    @pytest.mark.parametrize(
        ("start", "asked", "place"), list(itertools.product(MODES, [None, *MODES], PLACES))
    )
    def test_a_refresh_moves_it_forward_only(
        self, user: Any, start: str, asked: str | None, place: str
    ) -> None:
        api, response = login(user, start)
        token = response.json()["data"].get("refresh_token") or response.cookies[REFRESH].value
        rank = MODES.index
        api.client.cookies = SimpleCookie()
        body = {"mode": asked} if asked else {}
        if place == "body":
            body["refresh_token"] = token
            becomes = asked or "json"
            refused = rank(becomes) < rank(start)
        else:
            api.client.cookies[REFRESH] = token
            becomes = asked or (start if start != "json" else "cookie")
            refused = becomes == "json" or rank(becomes) < rank(start)
        before = row()

        response = api.post("/auth/refresh", body)

        if refused:
            assert (response.status_code, code_of(response)) == (400, "INVALID_PAYLOAD")
            assert row() == before
            assert not response.cookies
            return
        assert response.status_code == 200
        assert set(response.json()["data"]) == BODIES[becomes]
        assert set(response.cookies) == COOKIES[becomes]
        assert row()["mode"] == becomes

    def test_a_replay_cannot_turn_a_cookie_into_a_readable_token(self, user: Any) -> None:
        api, response = login(user, "cookie")
        spent = response.cookies[REFRESH].value
        api.post("/auth/refresh")
        newest = api.client.cookies[REFRESH].value
        api.client.cookies = SimpleCookie()

        for body in (
            {"refresh_token": spent},
            {"refresh_token": spent, "mode": "json"},
            {"refresh_token": newest},
        ):
            response = api.post("/auth/refresh", body)
            assert (response.status_code, code_of(response)) == (400, "INVALID_PAYLOAD")

    def test_a_replay_is_answered_in_the_requested_mode(self, user: Any) -> None:
        api = Api()
        api.login(user.email)
        moved = api.post("/auth/refresh", {"refresh_token": api.refresh_token, "mode": "cookie"})

        again = api.post("/auth/refresh", {"refresh_token": api.refresh_token, "mode": "cookie"})

        assert again.status_code == 200
        assert again.cookies[REFRESH].value == moved.cookies[REFRESH].value

    def test_the_body_takes_precedence_over_the_cookie(self, user: Any) -> None:
        api, _response = login(user, "cookie")
        other = Api()
        other.login(user.email)

        response = api.post("/auth/refresh", {"refresh_token": other.refresh_token})

        assert set(response.json()["data"]) == BODIES["json"]
        assert not response.cookies


class TestCookieAttributes:
    """security.md, row 56; RFC 6265bis, 4.1.3."""

    def attributes(self, user: Any) -> dict[str, dict[str, Any]]:
        _api, response = login(user, "session")
        raw = [morsel.OutputString() for morsel in response.cookies.values()]
        parsed = {}
        for line in raw:
            first, *rest = line.split("; ")
            name = first.partition("=")[0]
            parsed[name] = {k.lower(): v or True for k, _equals, v in (part.partition("=") for part in rest)}
        return parsed

    def test_they_are_those_of_the_contract(self, user: Any, clock: Any) -> None:
        cookies = self.attributes(user)

        assert set(cookies) == {REFRESH, ACCESS}
        for attributes in cookies.values():
            attributes.pop("expires")
            assert attributes == {
                "httponly": True, "secure": True, "samesite": "Lax", "path": "/", "max-age": str(7 * 86400),
            }  # fmt: skip

    def test_they_last_as_long_as_the_refresh_token(self, user: Any, clock: Any) -> None:
        api, _response = login(user, "session")
        for _day in range(29):
            clock.shift(86400)
            response = api.post("/auth/refresh")
        assert response.cookies[REFRESH]["max-age"] == 86400
        assert response.cookies[ACCESS]["max-age"] == 86400

    @pytest.mark.parametrize(
        ("values", "debug", "prefix"),
        [
            ({}, False, "__Host-"),
            ({}, True, ""),
            ({"COOKIE_SECURE": True}, True, "__Host-"),
            ({"COOKIE_SECURE": False}, False, ""),
            ({"COOKIE_DOMAIN": "example.com"}, False, "__Secure-"),
            ({"COOKIE_DOMAIN": "example.com"}, True, ""),
        ],
    )
    def test_the_prefix_follows_secure_and_domain(
        self, user: Any, settings: Any, configure: Any, values: dict[str, Any], debug: bool, prefix: str
    ) -> None:
        settings.DEBUG = debug
        configure(**values)

        cookies = self.attributes(user)

        assert set(cookies) == {f"{prefix}refresh_token", f"{prefix}access_token"}
        for attributes in cookies.values():
            assert ("secure" in attributes) == bool(prefix)
            assert attributes.get("domain") == values.get("COOKIE_DOMAIN")
            assert attributes["path"] == "/"
            assert attributes["httponly"]

    def test_they_work_and_are_cleared_with_every_prefix(self, user: Any, configure: Any) -> None:
        for values in ({}, {"COOKIE_SECURE": False}, {"COOKIE_DOMAIN": "example.com"}):
            configure(**{"COOKIE_SECURE": None, "COOKIE_DOMAIN": None, **values})
            api, _response = login(user, "session")
            assert api.post("/auth/refresh").status_code == 200
            assert api.get("/api/whoami").status_code == 200
            cleared = api.post("/auth/logout").cookies
            assert {cookie["max-age"] for cookie in cleared.values()} == {0}
            assert {cookie["domain"] for cookie in cleared.values()} == {values.get("COOKIE_DOMAIN") or ""}
            assert len(cleared) == 2

    def test_names_and_same_site_can_be_set(self, user: Any, configure: Any) -> None:
        configure(REFRESH_COOKIE_NAME="r", ACCESS_COOKIE_NAME="a", COOKIE_SAMESITE="Strict")

        cookies = self.attributes(user)

        assert set(cookies) == {"__Host-r", "__Host-a"}
        assert {attributes["samesite"] for attributes in cookies.values()} == {"Strict"}

    def test_a_cookie_without_the_prefix_is_ignored(self, user: Any) -> None:
        """security.md, row 61: only the `__Host-` cookie counts, which no sibling domain can set."""
        api = Api()
        api.login(user.email)
        api.client.cookies["refresh_token"] = api.refresh_token or ""
        api.client.cookies["access_token"] = api.access_token or ""
        api.access_token = None

        assert api.post("/auth/refresh", {"mode": "cookie"}).status_code == 400
        assert api.get("/api/whoami").status_code == 401

    def test_no_cookie_is_over_4096_bytes(self, user: Any, configure: Any) -> None:
        """security.md, row 61."""
        from tests.sessions.test_access_tokens import KEYS

        configure(SIGNING_ALGORITHM="RS256", SIGNING_KEYS=[KEYS["RS256"]])
        _api, response = login(user, "session")

        for morsel in response.cookies.values():
            assert len(morsel.OutputString()) < 4096


class TestDuplicateCookies:
    """security.md, row 61: of two cookies with the same name, neither counts."""

    def send(self, method: str, path: str, cookies: str) -> Any:
        return Client().generic(method, path, b"", HTTP_COOKIE=cookies)

    def test_two_refresh_cookies_are_400(self, user: Any) -> None:
        _api, response = login(user, "cookie")
        token = response.cookies[REFRESH].value
        before = row()

        for pair in ((token, "x"), ("x", token), (token, token)):
            cookies = f"{REFRESH}={pair[0]}; a=b; {REFRESH}={pair[1]}"
            response = self.send("POST", "/auth/refresh", cookies)
            assert (response.status_code, code_of(response)) == (400, "INVALID_PAYLOAD")
        assert row() == before

    @pytest.mark.parametrize("order", [("{}", "x"), ("x", "{}")])
    def test_a_logout_with_two_ends_the_sessions_of_both(self, user: Any, order: tuple[str, str]) -> None:
        _api, response = login(user, "cookie")
        token = response.cookies[REFRESH].value
        cookies = "; ".join(f"{REFRESH}={value.format(token)}" for value in order)

        response = self.send("POST", "/auth/logout", cookies)

        assert response.status_code == 204
        assert not RefreshSession.objects.exists()

    def test_two_access_cookies_are_400(self, user: Any) -> None:
        _api, response = login(user, "session")
        token = response.cookies[ACCESS].value

        response = self.send("GET", "/api/whoami", f"{ACCESS}={token}; {ACCESS}=x")

        assert (response.status_code, code_of(response)) == (400, "INVALID_PAYLOAD")

    def test_other_cookies_of_any_shape_do_no_harm(self, user: Any) -> None:
        _api, response = login(user, "session")
        token = response.cookies[ACCESS].value
        clutter = '=; ;;; x; refresh_token=1; refresh_token=2; \x7f=\xff; a="b; c"'

        assert self.send("GET", "/api/whoami", f"{clutter}; {ACCESS}={token}").status_code == 200


OWN = "http://testserver"
TRUSTED = "https://app.example"
# (Sec-Fetch-Site, Origin, passes)
ORIGINS: list[tuple[str | None, str | None, bool]] = [
    # Not a browser
    (None, None, True),
    # Fetch Metadata decides, regardless of Origin
    ("same-origin", None, True),
    ("same-origin", OWN, True),
    ("same-origin", "https://evil.example", True),
    ("same-origin", "null", True),
    ("none", None, True),
    ("none", "null", True),
    # Any other value needs a trusted origin
    ("same-site", None, False),
    ("same-site", OWN, False),
    ("same-site", TRUSTED, True),
    ("same-site", "http://sub.testserver", False),
    ("cross-site", None, False),
    ("cross-site", OWN, False),
    ("cross-site", "null", False),
    ("cross-site", TRUSTED, True),
    ("cross-site", "https://evil.example", False),
    ("Same-Origin", None, False),
    ("", None, False),
    ("bogus", TRUSTED, True),
    ("same-origin, cross-site", None, False),
    # Without Fetch Metadata: the request's own origin or a trusted one
    (None, OWN, True),
    (None, "HTTP://TESTSERVER", True),
    (None, TRUSTED, True),
    (None, "null", False),
    (None, "", False),
    (None, "https://testserver", False),
    (None, "http://testserver:8080", False),
    (None, "http://testserver.evil.example", False),
    (None, "http://sub.testserver", False),
    (None, "http://eviltestserver", False),
    (None, "https://evil.example", False),
    (None, "http://app.example", False),
    (None, "https://app.example.evil.example", False),
    (None, "https://app.example:444", False),
    (None, "https://app.example/", False),
    (None, "https://app.example@evil.example", False),
    (None, "http://[", False),
    (None, "http://[::1", False),
    (None, "https://\xff", False),
    (None, f"{OWN} https://evil.example", False),
    # A wildcard of CSRF_TRUSTED_ORIGINS
    (None, "https://a.wild.example", True),
    (None, "https://a.b.wild.example", True),
    ("cross-site", "https://a.wild.example", True),
    (None, "http://a.wild.example", False),
    (None, "https://evilwild.example", False),
    (None, "https://wild.example.evil.example", False),
]


class TestCrossOriginRule:
    """security.md, rows 57, 58: it holds wherever a cookie is set or used as the credential."""

    @pytest.fixture(autouse=True)
    def trusted(self, settings: Any) -> None:
        settings.CSRF_TRUSTED_ORIGINS = [TRUSTED, "https://*.wild.example"]

    @pytest.fixture(params=ORIGINS, ids=lambda case: f"{case[0]} {case[1]}")
    def case(self, request: pytest.FixtureRequest) -> tuple[dict[str, str], bool]:
        site, origin, passes = request.param
        headers = {}
        if site is not None:
            headers["Sec-Fetch-Site"] = site
        if origin is not None:
            headers["Origin"] = origin
        return headers, passes

    def test_login(self, user: Any, case: tuple[dict[str, str], bool]) -> None:
        headers, passes = case
        for mode in ("cookie", "session"):
            _api, response = login(user, mode, headers=headers)
            self.check(response, passes, 200)
            assert RefreshSession.objects.count() == passes
            RefreshSession.objects.all().delete()
        # Without cookies there is nothing to protect.
        assert login(user, "json", headers=headers)[1].status_code == 200

    def test_refresh(self, user: Any, case: tuple[dict[str, str], bool]) -> None:
        headers, passes = case
        api, _response = login(user, "cookie")
        before = row()

        response = api.post("/auth/refresh", headers=headers)

        self.check(response, passes, 200)
        assert (row() == before) is not passes

    def test_refresh_from_a_body_into_a_cookie(self, user: Any, case: tuple[dict[str, str], bool]) -> None:
        headers, passes = case
        api = Api()
        api.login(user.email)
        before = row()

        response = api.post(
            "/auth/refresh", {"refresh_token": api.refresh_token, "mode": "cookie"}, headers=headers
        )

        self.check(response, passes, 200)
        assert (row() == before) is not passes

    def test_refresh_from_a_body_to_json_is_exempt(
        self, user: Any, case: tuple[dict[str, str], bool]
    ) -> None:
        headers, _passes = case
        api = Api()
        api.login(user.email)

        assert (
            api.post("/auth/refresh", {"refresh_token": api.refresh_token}, headers=headers).status_code
            == 200
        )

    def test_logout(self, user: Any, case: tuple[dict[str, str], bool]) -> None:
        headers, passes = case
        api, _response = login(user, "session")

        response = api.post("/auth/logout", headers=headers)

        self.check(response, passes, 204)
        assert RefreshSession.objects.exists() is not passes

    def test_an_access_cookie_on_an_unsafe_method(self, user: Any, case: tuple[dict[str, str], bool]) -> None:
        headers, passes = case
        api, _response = login(user, "session")

        assert api.get("/api/whoami", headers=headers).status_code == 200
        assert api.client.head("/api/whoami", headers=headers).status_code == 200
        self.check(api.post("/api/whoami", headers=headers), passes, 200)
        self.check(api.delete("/auth/sessions", headers=headers), passes, 204)

    def test_a_bearer_token_is_exempt(self, user: Any, case: tuple[dict[str, str], bool]) -> None:
        headers, _passes = case
        api, _response = login(user, "session")
        other = Api()
        other.login(user.email)
        api.access_token = other.access_token

        assert api.post("/api/whoami", headers=headers).status_code == 200

    def check(self, response: Any, passes: bool, status: int) -> None:
        if passes:
            assert response.status_code == status
            return
        assert (response.status_code, code_of(response)) == (403, "FORBIDDEN")
        assert not response.cookies

    def test_another_media_type_does_not_get_around_it(self, user: Any) -> None:
        """security.md, row 57: media types that a form of another origin can send aren't read at all."""
        for media in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"):
            body = json.dumps({"email": user.email, "password": PASSWORD, "mode": "cookie"})
            response = Client().generic("POST", "/auth/login", body, content_type=media)
            assert (response.status_code, code_of(response)) == (415, "UNSUPPORTED_MEDIA_TYPE")
            assert not response.cookies

    def test_another_host_name_is_another_origin(self, user: Any) -> None:
        _api, response = login(user, "cookie", headers={"Origin": OWN, "Host": "other.example"})

        self.check(response, False, 200)

    def test_a_default_port_is_the_same_origin(self, user: Any) -> None:
        for host in ("testserver", "testserver:80"):
            _api, response = login(user, "cookie", headers={"Origin": OWN, "Host": host})
            assert response.status_code == 200, host

    def test_https_belongs_to_the_requests_own_origin(self, user: Any) -> None:
        api = Api()
        fields = {"email": user.email, "password": PASSWORD, "mode": "cookie"}

        assert (
            api.post("/auth/login", fields, headers={"Origin": "https://testserver"}, secure=True).status_code
            == 200
        )
        assert (
            api.post("/auth/login", fields, headers={"Origin": "http://testserver"}, secure=True).status_code
            == 403
        )


class TestMiddlewareOfTheHost:
    """security.md, row 62: with Django's CSRF and session middleware, and without."""

    def everything(self, user: Any) -> None:
        client = Client(enforce_csrf_checks=True)
        body = json.dumps({"email": user.email, "password": PASSWORD, "mode": "session"})
        assert client.post("/auth/login", body, content_type="application/json").status_code == 200
        assert client.post("/auth/refresh", b"", content_type="application/json").status_code == 200
        assert client.get("/auth/sessions").status_code == 200
        assert client.post("/api/whoami", b"", content_type="application/json").status_code == 200
        assert client.delete("/auth/sessions").status_code == 204
        assert client.post("/auth/logout", b"", content_type="application/json").status_code == 204

    def test_requests_work_with_it(self, user: Any) -> None:
        self.everything(user)

    def test_requests_work_without_it(self, user: Any, settings: Any) -> None:
        settings.MIDDLEWARE = []

        self.everything(user)


class TestAccessCookie:
    """Mode session, as in the contract."""

    def test_it_authenticates_the_hosts_api(self, user: Any) -> None:
        api, _response = login(user, "session")

        assert api.get("/api/whoami").json() == {"user": str(user.pk)}
        assert api.get("/auth/sessions").status_code == 200

    def test_an_expired_token_in_it_is_401_token_expired(self, user: Any, clock: Any) -> None:
        api, _response = login(user, "session")
        clock.shift(901)

        response = api.get("/api/whoami")

        assert (response.status_code, code_of(response)) == (401, "TOKEN_EXPIRED")
        assert api.post("/auth/refresh").status_code == 200
        assert api.get("/api/whoami").status_code == 200

    def test_a_header_takes_precedence(self, user: Any) -> None:
        api, _response = login(user, "session")

        for header in ("Bearer x", "Bearer", "bearer null"):
            response = api.get("/api/whoami", headers={"Authorization": header})
            assert (response.status_code, code_of(response)) == (401, "INVALID_TOKEN"), header

    def test_a_header_of_another_scheme_is_ignored(self, user: Any) -> None:
        api, _response = login(user, "session")

        for header in ("null", "Basic dTpw", "Token x"):
            assert api.get("/api/whoami", headers={"Authorization": header}).status_code == 200, header

    def test_a_bad_token_never_degrades_to_anonymous(self, user: Any) -> None:
        api = Api()
        api.client.cookies[ACCESS] = "x"

        assert code_of(api.get("/api/whoami")) == "INVALID_TOKEN"

    def test_an_expired_token_does_not_break_login_or_refresh(self, user: Any, clock: Any) -> None:
        api, _response = login(user, "session")
        clock.shift(901)

        assert login(user, "session", api)[1].status_code == 200
        assert api.post("/auth/refresh").status_code == 200
        assert api.post("/auth/logout").status_code == 204

    def test_expires_is_the_life_of_the_access_token(self, user: Any) -> None:
        _api, response = login(user, "session")

        assert response.json() == {"data": {"expires": 900}}


def test_the_names_without_prefix_are_those_of_the_contract() -> None:
    assert conf.SETTINGS["REFRESH_COOKIE_NAME"].default == "refresh_token"
    assert conf.SETTINGS["ACCESS_COOKIE_NAME"].default == "access_token"


@pytest.mark.django_db
class TestReplacing:
    def test_a_login_in_cookie_mode_clears_the_access_cookie_of_the_replaced_session(self, user: Any) -> None:
        """Otherwise an invalid access token would make public pages fail."""
        api = Api()
        api.post("/auth/login", {"email": user.email, "password": PASSWORD, "mode": "session"})

        response = api.post("/auth/login", {"email": user.email, "password": PASSWORD, "mode": "cookie"})

        assert response.cookies[conf.conf.cookie_name("access")]["max-age"] == 0
        assert response.cookies[conf.conf.cookie_name("refresh")].value
