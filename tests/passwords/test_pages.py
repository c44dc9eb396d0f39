"""The built-in pages: /auth/password/request/page and /auth/password/reset/page."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from html import unescape
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
from django.db import OperationalError, connection
from django.test import Client

from platform_auth.models import AuthEvent, PasswordResetToken, RefreshSession
from platform_auth.passwords import reset_tokens
from tests import chromium
from tests.conftest import PASSWORD, Api, make_user, unrecordable
from tests.emails import link_of

REQUEST = "/auth/password/request/page"
RESET = "/auth/password/reset/page"
NEW = "a new one 4711"
FORM = "application/x-www-form-urlencoded"
MANY_FIELDS = "&".join(f"f{number}=1" for number in range(1100))
"""More than DATA_UPLOAD_MAX_NUMBER_FIELDS allows."""


class Page:
    """A browser without JavaScript: GET a page, POST its form."""

    def __init__(self) -> None:
        self.client = Client(enforce_csrf_checks=True)

    def get(self, path: str, **extra: Any) -> Any:
        return self.client.get(path, **extra)

    def post(self, path: str, fields: Any, **extra: Any) -> Any:
        body = fields if isinstance(fields, str | bytes) else urlencode(fields)
        return self.client.post(path, body, content_type=extra.pop("content_type", FORM), **extra)


@pytest.fixture
def page() -> Page:
    return Page()


def token_for(user: Any) -> str:
    return reset_tokens.sign(reset_tokens.issue(user))


def reset_fields(token: str, password: str = NEW, again: str | None = None) -> dict[str, str]:
    return {"token": token, "password": password, "password_again": password if again is None else again}


def text_of(response: Any) -> str:
    """Return the text that a reader sees."""
    body = re.sub(r"<style.*?</style>", "", response.content.decode(), flags=re.DOTALL)
    return " ".join(unescape(re.sub(r"<[^>]+>", " ", body)).split())


@pytest.mark.django_db
class TestRequestPage:
    def test_its_form_asks_for_an_address(self, page: Page) -> None:
        response = page.get(REQUEST)

        html = response.content.decode()
        assert response.status_code == 200
        assert f'<form method="post" action="{REQUEST}">' in html
        assert '<label for="email">' in html

    def test_it_answers_the_same_for_everyone(self, page: Page, mailoutbox: list[Any]) -> None:
        """security.md, row 63."""
        known = make_user()
        others = ["nobody@example.com", make_user(is_active=False).email, make_user(password=None).email]

        answers = [page.post(REQUEST, {"email": email}) for email in (known.email, *others)]

        assert {answer.status_code for answer in answers} == {200}
        assert len({re.sub(r'nonce="[^"]+"', "", answer.content.decode()) for answer in answers}) == 1
        assert "Check your email" in text_of(answers[0])
        assert "Send another" in text_of(answers[0])
        assert [message.to for message in mailoutbox] == [[known.email]]

    def test_a_malformed_address_is_reported_and_kept_in_the_form(self, page: Page) -> None:
        response = page.post(REQUEST, {"email": 'no"address>'})

        html = response.content.decode()
        assert response.status_code == 400
        assert "Enter a valid email address." in text_of(response)
        assert 'value="no&quot;address&gt;"' in html
        assert 'aria-invalid="true" aria-describedby="errors"' in html
        assert 'role="alert" id="errors"' in html

    @pytest.mark.usefixtures("clock")
    def test_it_has_the_limits_of_the_api(self, page: Page, api: Api) -> None:
        """security.md, row 75."""
        for number in range(10):
            page.post(REQUEST, {"email": f"user{number}@example.com"})
            api.post("/auth/password/request", {"email": f"user{number}@example.com"})

        response = page.post(REQUEST, {"email": "ann@example.com"})

        assert response.status_code == 429
        assert 0 < int(response.headers["Retry-After"]) <= 3600
        assert "Too many requests." in text_of(response)

    def test_a_trailing_slash_does_not_matter(self, page: Page) -> None:
        assert page.get(f"{REQUEST}/").status_code == 200
        assert page.post(f"{REQUEST}/", {"email": "ann@example.com"}).status_code == 200


@pytest.mark.django_db
class TestResetPage:
    def test_its_form_shows_the_account_and_the_rules(self, page: Page, user: Any) -> None:
        token = token_for(user)

        response = page.get(f"{RESET}?token={token}")

        html = response.content.decode()
        assert response.status_code == 200
        assert f'value="{user.email}"' in html
        assert "Your password must contain at least 8 characters." in text_of(response)
        assert "Your password can’t be entirely numeric." in text_of(response)
        # Posted to the path without the query, so that the token isn't in a second URL.
        assert f'<form method="post" action="{RESET}">' in html
        assert f'<input type="hidden" name="token" value="{token}">' in html
        assert PasswordResetToken.objects.count() == 1

    def test_its_form_sets_the_password(self, page: Page, user: Any) -> None:
        response = page.post(RESET, reset_fields(token_for(user)))

        assert response.status_code == 200
        assert "Your new password is set" in text_of(response)
        assert not response.cookies
        assert not RefreshSession.objects.exists()
        assert Api().login(user.email, NEW).status_code == 200

    def test_each_broken_rule_is_shown_and_the_link_stays_valid(self, page: Page, user: Any) -> None:
        """security.md, row 70."""
        token = token_for(user)

        response = page.post(RESET, reset_fields(token, "1234"))

        assert response.status_code == 400
        for sentence in ("too short", "too common", "entirely numeric"):
            assert f"This password is {sentence}" in text_of(response)
        assert "1234" not in response.content.decode().replace(token, "")
        assert page.post(RESET, reset_fields(token)).status_code == 200

    def test_two_different_passwords_are_refused(self, page: Page, user: Any) -> None:
        token = token_for(user)

        response = page.post(RESET, reset_fields(token, NEW, f"{NEW} "))

        assert response.status_code == 400
        assert "The two passwords don't match." in text_of(response)
        assert page.post(RESET, reset_fields(token)).status_code == 200

    def test_a_long_password_is_not_cut(self, page: Page, user: Any) -> None:
        """security.md, row 5: browsers silently cut pasted text at `maxlength`, which counts no bytes."""
        html = page.get(f"{RESET}?token={token_for(user)}").content.decode()

        fields = re.findall(r'<input[^>]* type="password"[^>]*>', html)
        assert len(fields) == 2
        assert all("maxlength" not in field for field in fields)

    @pytest.mark.parametrize("password", ["", "x" * 1025, "a\x00b"])
    def test_an_invalid_password_is_refused(self, page: Page, user: Any, password: str) -> None:
        response = page.post(RESET, reset_fields(token_for(user), password))

        assert response.status_code == 400
        assert 'role="alert"' in response.content.decode()
        user.refresh_from_db()
        assert user.check_password(PASSWORD)

    def test_expired_and_invalid_links_have_different_messages(
        self, page: Page, user: Any, clock: Any
    ) -> None:
        token = token_for(user)
        clock.shift(3601)

        expired = page.get(f"{RESET}?token={token}")
        expired_at_post = page.post(RESET, reset_fields(token))
        bad = page.get(f"{RESET}?token={token}x")

        assert (expired.status_code, expired_at_post.status_code, bad.status_code) == (401, 401, 401)
        assert "This link has expired" in text_of(expired)
        assert "This link has expired" in text_of(expired_at_post)
        assert "This link doesn't work" in text_of(bad)

    @pytest.mark.parametrize(
        "query", ["", "?token=", "?token=null", "?token=%00", "?token=%ff", "?token=a&token=b"]
    )
    def test_an_invalid_link_offers_a_new_one(self, page: Page, query: str) -> None:
        response = page.get(f"{RESET}{query}")

        assert response.status_code == 401
        assert f'<a href="{REQUEST}">Send another link</a>' in response.content.decode()

    def test_a_used_link_is_invalid(self, page: Page, user: Any) -> None:
        token = token_for(user)
        page.post(RESET, reset_fields(token))

        again = page.post(RESET, reset_fields(token))

        assert again.status_code == 401
        assert "It has already been used" in text_of(again)

    def test_opening_it_spends_nothing(self, page: Page, user: Any) -> None:
        """Mail scanners open links."""
        token = token_for(user)

        for _ in range(3):
            page.get(f"{RESET}?token={token}")
            page.client.head(f"{RESET}?token={token}")

        assert page.post(RESET, reset_fields(token)).status_code == 200


@pytest.mark.django_db
class TestOutage:
    """What a reader can do during an outage or after an error: never follow an invalid link."""

    @pytest.fixture
    def page(self) -> Page:
        page = Page()
        page.client.raise_request_exception = False
        return page

    @contextmanager
    def database_down(self) -> Iterator[None]:
        def fail(*args: Any) -> None:
            raise OperationalError("down")

        with connection.execute_wrapper(fail):
            yield

    def test_the_form_of_a_link_is_shown_again(self, page: Page, user: Any) -> None:
        token = token_for(user)
        for outage, status in (
            (self.database_down(), 503),
            (unrecordable(AuthEvent.Kind.PASSWORD_RESET), 500),
        ):
            with outage:
                response = page.post(RESET, reset_fields(token))

            html = response.content.decode()
            assert response.status_code == status
            assert f'<input type="hidden" name="token" value="{token}">' in html
            assert 'role="alert"' in html
            assert "Account" not in text_of(response)
            assert NEW not in html
        assert page.post(RESET, reset_fields(token)).status_code == 200

    def test_a_refused_password_during_an_outage_keeps_the_link_too(self, page: Page, user: Any) -> None:
        token = token_for(user)

        with self.database_down():
            response = page.post(RESET, reset_fields(token, NEW, "another"))

        assert response.status_code == 503
        assert f'value="{token}"' in response.content.decode()

    def test_without_a_form_the_page_refers_to_the_email(self, page: Page, user: Any) -> None:
        token = token_for(user)

        with self.database_down():
            opened = page.get(f"{RESET}?token={token}")
        answers = [opened, page.post(RESET, "{}", content_type="application/json"), page.client.put(RESET)]

        for response in answers:
            assert "Open the link in your email again." in text_of(response)
            assert "href" not in response.content.decode()

    def test_the_request_page_offers_to_try_again(self, page: Page) -> None:
        response = page.client.put(REQUEST)

        assert f'<a href="{REQUEST}">Try again</a>' in response.content.decode()


@pytest.mark.django_db
class TestEdge:
    """security.md, rows 57, 62, 66, 74, 105, 106, 119: what applies to every page and outcome."""

    def outcomes(self, page: Page, user: Any) -> Iterator[Any]:
        token = token_for(user)
        yield page.get(f"{REQUEST}?{MANY_FIELDS}")
        yield page.get(f"{RESET}?token={token}&{MANY_FIELDS}")
        yield page.post(f"{RESET}?{MANY_FIELDS}", reset_fields(token))
        yield page.get(REQUEST)
        yield page.post(REQUEST, {"email": user.email})
        yield page.post(REQUEST, {"email": "x"})
        yield page.client.put(REQUEST)
        yield page.client.options(REQUEST)
        yield page.post(REQUEST, "{}", content_type="application/json")
        yield page.get(RESET)
        yield page.get(f"{RESET}?token={token}")
        yield page.post(RESET, reset_fields(token, "1234"))
        yield page.post(RESET, reset_fields(token))
        yield page.post(RESET, "x=" + "y" * 70_000)
        yield page.client.delete(RESET)

    def test_every_response_has_the_headers(self, page: Page, user: Any) -> None:
        for response in self.outcomes(page, user):
            policy = response.headers["Content-Security-Policy"]
            (nonce,) = re.findall(r"'nonce-([^']+)'", policy)
            assert re.sub(r"nonce-[^']+", "nonce-N", policy) == (
                "default-src 'none'; style-src 'nonce-N'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
            )
            assert f'<style nonce="{nonce}">' in response.content.decode()
            assert response.headers["Cache-Control"] == "no-store"
            assert response.headers["Referrer-Policy"] == "no-referrer"
            assert response.headers["X-Content-Type-Options"] == "nosniff"
            assert response.headers["Cross-Origin-Opener-Policy"] == "same-origin"
            assert response.headers["X-Frame-Options"] == "DENY"
            assert {"Cookie", "Origin"} <= set(response.headers["Vary"].split(", "))
            assert response.headers["Content-Type"] == "text/html; charset=utf-8"
            assert not response.cookies

    def test_no_page_has_a_script_or_anything_of_a_third_party(self, page: Page, user: Any) -> None:
        for response in self.outcomes(page, user):
            html = response.content.decode()
            assert "<script" not in html
            assert " on" not in re.sub(
                r">[^<]*<", "><", re.sub(r"<style.*?</style>", "", html, flags=re.DOTALL)
            )
            assert not re.findall(r"(?:src|href)=\"(?:https?:)?//(?!testserver)", html)
            assert "url(" not in html
            assert "style=" not in html

    @pytest.mark.parametrize(
        ("method", "status"),
        [("put", 405), ("delete", 405), ("patch", 405), ("options", 405), ("trace", 405)],
    )
    def test_an_unknown_method_gets_a_page_too(self, page: Page, method: str, status: int) -> None:
        response = getattr(page.client, method)(REQUEST)

        assert response.status_code == status
        assert response.headers["Allow"] == "GET, HEAD, POST"
        assert "Something went wrong" in text_of(response)

    @pytest.mark.parametrize(
        ("body", "content_type", "status"),
        [
            ('{"email": "ann@example.com"}', "application/json", 415),
            ("email=ann@example.com", "text/plain", 415),
            ("email=ann@example.com", "multipart/form-data; boundary=x", 415),
            ("email=" + "a" * 70_000, FORM, 413),
            ("email=ann@example.com&email=bob@example.com", FORM, 400),
            ("email=ann%00@example.com", FORM, 400),
            ("email=ann%ff@example.com", FORM, 400),
            ("email=%ed%a0%80@example.com", FORM, 400),
            ("email=é@example.com", FORM, 400),
            ("email=ann%0aBcc:bob@example.com", FORM, 400),
            ("&".join(f"a{n}=1" for n in range(100)), FORM, 400),
            ("email=", FORM, 400),
            ("email[]=ann@example.com", FORM, 400),
        ],
    )
    def test_only_form_encoded_bodies_are_read(
        self, page: Page, body: str, content_type: str, status: int, mailoutbox: list[Any]
    ) -> None:
        response = page.post(REQUEST, body.encode(), content_type=content_type)

        assert response.status_code == status
        assert response.headers["Content-Type"].startswith("text/html")
        assert mailoutbox == []

    def test_a_query_that_django_refuses_gets_a_page_and_is_not_logged(
        self, page: Page, user: Any, caplog: Any
    ) -> None:
        token = token_for(user)

        request = page.get(f"{REQUEST}?{MANY_FIELDS}")
        reset = page.get(f"{RESET}?token={token}&{MANY_FIELDS}")

        assert request.status_code == 400
        assert "The request could not be read." in text_of(request)
        assert reset.status_code == 401
        # What an error report of the request would show.
        assert reset.wsgi_request.META["QUERY_STRING"] == ""
        assert token not in caplog.text

    def test_cookies_and_headers_are_ignored(
        self, page: Page, user: Any, django_assert_num_queries: Any
    ) -> None:
        """An admin's session or a foreign access token neither helps nor harms, and isn't loaded."""
        page.client.force_login(make_user(is_staff=True))
        page.client.cookies["access_token"] = "x"

        with django_assert_num_queries(0):
            response = page.get(REQUEST, headers={"Authorization": "Bearer x"})

        assert response.status_code == 200
        assert page.post(RESET, reset_fields(token_for(user))).status_code == 200

    def test_it_works_from_any_origin_and_without_a_csrf_token(self, page: Page, user: Any) -> None:
        """security.md, row 62: nothing that browsers send automatically is used, so there is nothing to forge."""
        headers = {"Origin": "null", "Sec-Fetch-Site": "cross-site", "Cookie": "csrftoken=x"}

        assert page.post(RESET, reset_fields(token_for(user)), headers=headers).status_code == 200

    def test_a_poisoned_host_appears_nowhere(self, page: Page, user: Any, mailoutbox: list[Any]) -> None:
        """security.md, row 66."""
        poison = {"HTTP_HOST": "evil.example", "HTTP_X_FORWARDED_HOST": "evil.example"}

        answers = [
            page.get(REQUEST, **poison),
            page.post(REQUEST, {"email": user.email}, **poison),
            page.get(f"{RESET}?token={token_for(user)}", **poison),
            page.post(RESET, reset_fields(token_for(user)), **poison),
        ]

        assert all("evil" not in answer.content.decode() for answer in answers)
        assert link_of(mailoutbox[0]).startswith("http://testserver/auth/")

    def test_the_hosts_charset_does_not_change_it(self, page: Page, settings: Any) -> None:
        settings.DEFAULT_CHARSET = "iso-8859-1"

        response = page.post(REQUEST, {"email": "žofie"})

        assert response.headers["Content-Type"] == "text/html; charset=utf-8"
        assert 'value="žofie"' in response.content.decode("utf-8")

    @pytest.mark.parametrize("autoescape", [True, False])
    def test_a_typed_value_is_escaped(self, page: Page, user: Any, settings: Any, autoescape: bool) -> None:
        """Also if the host's engine doesn't escape anything."""
        options = {**settings.TEMPLATES[0]["OPTIONS"], "autoescape": autoescape}
        settings.TEMPLATES = [{**settings.TEMPLATES[0], "OPTIONS": options}]
        attack = '"><img src=x onerror=alert(1)>'

        typed = page.post(REQUEST, {"email": attack})
        token = page.get(f"{RESET}?{urlencode({'token': attack})}")

        assert "<img" not in typed.content.decode()
        assert "<img" not in token.content.decode()

    def test_an_unexpected_error_gets_a_page_without_details(self, user: Any, configure: Any) -> None:
        """security.md, row 118."""
        configure(LIMITS={"password_request": {"address": "broken"}})
        page = Page()
        page.client.raise_request_exception = False

        response = page.post(REQUEST, {"email": user.email})

        assert response.status_code == 500
        assert "An unexpected error occurred." in text_of(response)
        assert "broken" not in response.content.decode()

    def test_neither_token_nor_password_is_logged(self, page: Page, user: Any, caplog: Any) -> None:
        """security.md, rows 74, 120."""
        caplog.set_level("DEBUG")
        token = token_for(user)

        page.get(f"{RESET}?token={token}")
        page.post(RESET, reset_fields(token, "1234"))
        page.post(RESET, reset_fields(token))
        page.post(RESET, reset_fields(token))
        page.get(f"{RESET}?token={token}")

        everything = caplog.text + str([vars(record) for record in caplog.records])
        everything += str(list(AuthEvent.objects.values()))
        assert token.rpartition(".")[2] not in everything
        assert NEW not in everything


@pytest.mark.django_db
class TestTemplates:
    def test_a_host_can_override_the_template(self, page: Page, settings: Any, tmp_path: Path) -> None:
        own = tmp_path / "platform_auth" / "base.html"
        own.parent.mkdir()
        own.write_text("<!doctype html><title>Ours</title>{% block content %}{% endblock %}")
        settings.TEMPLATES = [{**settings.TEMPLATES[0], "DIRS": [str(tmp_path)]}]

        assert "<title>Ours</title>" in page.get(REQUEST).content.decode()


# In a real browser


CONTRAST = """
() => {
  const channel = v => (v /= 255) <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4;
  const rgb = text => text.match(/[0-9.]+/g).map(Number);
  const light = c => .2126 * channel(c[0]) + .7152 * channel(c[1]) + .0722 * channel(c[2]);
  const ground = e => {
    const c = e ? rgb(getComputedStyle(e).backgroundColor) : [255, 255, 255];
    return c.length < 4 || c[3] > 0 ? c : ground(e.parentElement);
  };
  return [...document.querySelectorAll('h1, p, label, li, a, button, input:not([type=hidden]), .site')]
    .filter(e => e.offsetParent !== null)
    .map(e => { const [a, b] = [light(rgb(getComputedStyle(e).color)), light(ground(e))].sort((x, y) => y - x);
                return [e.tagName + ' ' + e.textContent.slice(0, 30), (a + .05) / (b + .05)]; });
}
"""


UNLABELLED = """
[...document.querySelectorAll('input')].filter(e => e.offsetParent !== null && !e.labels.length).length
"""


@pytest.mark.browser
@pytest.mark.django_db(transaction=True)
class TestBrowser:
    @pytest.fixture(autouse=True)
    def _public_url(self, configure: Any, live_server: Any) -> None:
        configure(PUBLIC_URL=live_server.url)

    @pytest.fixture(params=[True, False], ids=["scripts", "no scripts"])
    def tab(self, browser: Any, request: Any) -> Iterator[Any]:
        tab = chromium.new_tab(browser, java_script_enabled=request.param, locale="en")
        tab.complaints = []
        tab.on("console", lambda message: tab.complaints.append(message.text))
        tab.on("pageerror", lambda error: tab.complaints.append(str(error)))
        yield tab
        tab.context.close()

    def test_a_reader_sets_a_new_password(
        self, tab: Any, live_server: Any, mailoutbox: list[Any], user: Any
    ) -> None:
        """From start to end: request, open the link in the email, break the rules, follow them, log in."""
        tab.goto(live_server.url + REQUEST)
        tab.get_by_label("Email address").fill(user.email)
        tab.get_by_role("button", name="Send link").click()
        tab.get_by_role("heading", name="Check your email").wait_for()

        tab.goto(link_of(mailoutbox[0]))
        for label in ("New password", "Confirm new password"):
            tab.get_by_label(label, exact=True).fill("1234")
        tab.get_by_role("button", name="Set password").click()
        tab.get_by_role("alert").wait_for()
        assert tab.get_by_role("alert").get_by_role("listitem").count() == 3

        for label in ("New password", "Confirm new password"):
            tab.get_by_label(label, exact=True).fill(NEW)
        tab.keyboard.press("Enter")
        tab.get_by_role("heading", name="Your new password is set").wait_for()
        assert "token" not in tab.url
        assert Api().login(user.email, NEW).status_code == 200
        assert [text for text in tab.complaints if "status of 400" not in text] == []

    def test_an_invalid_link_leads_to_a_new_one(self, tab: Any, live_server: Any) -> None:
        tab.goto(f"{live_server.url}{RESET}?token=x")
        assert tab.get_by_role("heading").inner_text() == "This link doesn't work"

        tab.get_by_role("link", name="Send another link").click()

        tab.wait_for_url(live_server.url + REQUEST)

    @pytest.mark.parametrize("scheme", ["light", "dark"])
    @pytest.mark.parametrize("width", [320, 1200], ids=["phone", "desk"])
    def test_it_is_readable(self, browser: Any, live_server: Any, user: Any, scheme: str, width: int) -> None:
        """WCAG 2.2: contrast (1.4.3), reflow (1.4.10), focus (2.4.7), labels (3.3.2)."""
        tab = chromium.new_tab(
            browser, color_scheme=scheme, viewport={"width": width, "height": 800}, locale="en"
        )
        shots = os.environ.get("SCREENSHOTS")
        token = token_for(user)
        for name, path in (("request", REQUEST), ("reset", f"{RESET}?token={token}"), ("dead", RESET)):
            tab.goto(live_server.url + path)
            if name == "reset":
                for label in ("New password", "Confirm new password"):
                    tab.get_by_label(label, exact=True).fill("1234")
                tab.get_by_role("button", name="Set password").click()
                tab.get_by_role("alert").wait_for()
            if shots:
                tab.screenshot(path=f"{shots}/{name}-{scheme}-{width}.png", full_page=True)

            for element, ratio in tab.evaluate(CONTRAST):
                assert ratio >= 4.5, (name, element, ratio)
            assert tab.evaluate("document.documentElement.scrollWidth") <= width
            if name != "dead":
                assert tab.evaluate("document.activeElement.tagName") == "INPUT"
                assert tab.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
            assert tab.evaluate(UNLABELLED) == 0
            assert float(tab.evaluate("getComputedStyle(document.body).fontSize").removesuffix("px")) >= 16
        tab.context.close()


def test_the_pages_work_with_login_required_middleware(client: Any, settings: Any, db: None) -> None:
    """Django's LoginRequiredMiddleware: someone who forgot the password can't log in."""
    settings.MIDDLEWARE = [*settings.MIDDLEWARE, "django.contrib.auth.middleware.LoginRequiredMiddleware"]

    for page in ("request", "reset"):
        assert client.get(f"/auth/password/{page}/page").status_code in (200, 401)
