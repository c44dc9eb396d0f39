"""The example project as a user sees it: `manage.py demo`, its start page, its CORS, its production settings."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from collections.abc import Iterator
from email import message_from_bytes, policy
from html import unescape
from pathlib import Path
from typing import Any

import pyotp
import pytest
import requests

from tests import chromium, example_site
from tests.example_site import PASSWORDS, Site

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("example")]

ALICE = "alice@example.com"
SPA = "http://localhost:3000"
"""The origin that the example allows by default."""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with example_site.serve(tmp_path_factory.mktemp("site"), with_provider=True) as site:
        yield site


def log_in(site: Site, email: str = ALICE, **fields: str) -> requests.Response:
    with site.client() as client:
        return client.post("/auth/login", json={"email": email, "password": PASSWORDS[email], **fields})


def manage(folder: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(example_site.MANAGE), *arguments],
        env=example_site.environment(folder, **variables),
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=240,
    )


def mail_in(outbox: Path) -> Any:
    """Return the first email in the demo's folder."""
    until = time.monotonic() + 120
    whole = b"-" * 79 + b"\n"
    while not (mails := [mail for file in outbox.glob("*") if (mail := file.read_bytes()).endswith(whole)]):
        assert time.monotonic() < until, "no email came"
        time.sleep(0.1)
    return message_from_bytes(mails[0], policy=policy.default)


def link_in(mail: Any) -> str:
    (link,) = re.findall(r"http\S+", mail.get_body(("plain",)).get_content())
    return str(link)


def form_in(html: str) -> tuple[str, dict[str, str]]:
    """Return the target and the fields of a page's form."""
    (action,) = re.findall(r'<form method="post" action="([^"]+)">', html)
    fields = re.findall(r'<input[^>]* name="([^"]+)"[^>]* value="([^"]*)"', html)
    return unescape(action), {name: unescape(value) for name, value in fields}


PRODUCTION = {
    "DEBUG": "0",
    "SECRET_KEY": "production-" + "k3Yq8" * 12,
    "ALLOWED_HOSTS": "notes.example",
    "PUBLIC_URL": "https://notes.example",
    "CACHE_URL": "rediscache://127.0.0.1:6379/1",
    "EMAIL_URL": "smtp+tls://user:password@mail.example:587",
}


class TestDemo:
    def test_prints_passwords_that_work(self, site: Site) -> None:
        printed = dict(re.findall(r"^  (\S+@example\.com) +(\S+)$", site.log.read_text(), re.MULTILINE))

        assert printed == PASSWORDS
        for email in printed:
            assert log_in(site, email).status_code == 200

    def test_the_commands_of_the_readme_work(self, site: Site) -> None:
        with site.client() as client:
            tokens = log_in(site).json()["data"]
            bearer = {"Authorization": f"Bearer {tokens['access_token']}"}
            assert len(client.get("/api/notes", headers=bearer).json()) == 3
            assert client.get("/api/notes").status_code == 401

            refreshed = client.post("/auth/refresh", json={"refresh_token": tokens["refresh_token"]}).json()[
                "data"
            ]
            bearer = {"Authorization": f"Bearer {refreshed['access_token']}"}
            assert client.get("/api/notes", headers=bearer).status_code == 200

            ended = client.post("/auth/logout", json={"refresh_token": refreshed["refresh_token"]})
            assert (ended.status_code, ended.content) == (204, b"")
            refused = client.get("/api/notes", headers=bearer)
            assert refused.json()["errors"][0]["extensions"]["code"] == "INVALID_TOKEN"

    def test_a_user_can_only_change_their_own_notes(self, site: Site) -> None:
        with site.client() as client:
            token = log_in(site, "bob@example.com").json()["data"]["access_token"]
            client.headers["Authorization"] = f"Bearer {token}"

            created = client.post("/api/notes", json={"text": "Mine"})
            assert created.status_code == 201
            assert client.delete(f"/api/notes/{created.json()['id']}").status_code == 204
            assert client.delete("/api/notes/1").status_code == 404

    def test_emails_are_saved_and_printed(self, site: Site) -> None:
        with site.client() as client:
            client.post("/auth/password/request", json={"email": ALICE}).raise_for_status()

        mail = mail_in(site.outbox)
        assert mail["To"] == ALICE
        assert link_in(mail).startswith(f"{site.url}/auth/password/reset/page?token=")
        assert f"To: {ALICE}" in site.log.read_text()

    def test_a_forgotten_password_can_be_reset(self, tmp_path: Path) -> None:
        """From start to end: request a reset, read the email in the folder, open its link, submit its form, log in."""
        new = "ten-quiet-meadows"
        with example_site.serve(tmp_path) as site, site.client() as client:
            asked = client.post("/auth/password/request", json={"email": ALICE})
            link = link_in(mail_in(site.outbox))

            page = client.get(link)
            action, fields = form_in(page.text)
            done = client.post(action, data={**fields, "password": new, "password_again": new})

            old = log_in(site)
            answer = client.post("/auth/login", json={"email": ALICE, "password": new})
            again = client.get(link)

        assert asked.status_code == 204
        assert (page.status_code, fields["username"]) == (200, ALICE)
        assert (done.status_code, "Your new password is set" in done.text) == (200, True)
        assert (old.status_code, answer.status_code, again.status_code) == (401, 200, 401)

    def test_an_email_is_sent_even_if_the_demo_is_stopped_at_once(self, tmp_path: Path) -> None:
        with example_site.serve(tmp_path) as site:
            site.client().post("/auth/password/request", json={"email": ALICE}).raise_for_status()

        assert mail_in(site.outbox)["To"] == ALICE

    def test_starts_again_with_existing_data(self, tmp_path: Path) -> None:
        for _start in range(2):
            with example_site.serve(tmp_path) as site:
                assert log_in(site).status_code == 200

    def test_a_port_in_use_is_reported_first(self, site: Site, tmp_path: Path) -> None:
        port = site.url.rpartition(":")[2]

        ended = manage(tmp_path, "demo", "--port", port, "--provider-port", "0")

        assert ended.returncode == 1
        assert "--port" in ended.stderr
        assert "curl" not in ended.stdout

    def test_is_refused_outside_debug(self, tmp_path: Path) -> None:
        done = manage(tmp_path, "demo", **PRODUCTION)

        assert done.returncode != 0
        assert "only runs with DEBUG" in done.stderr
        assert not (tmp_path / "db.sqlite3").exists()


class TestAdminWithSecondFactor:
    def test_it_asks_for_a_code_of_the_factor_set_up_through_the_api(self, tmp_path: Path) -> None:
        """security.md, row 125."""
        name, password = "admin@example.com", PASSWORDS["admin@example.com"]
        with example_site.serve(tmp_path, ADMIN_OTP="1") as site, site.client() as client:
            login = client.post("/auth/login", json={"email": name, "password": password}).json()["data"]
            bearer = {"Authorization": f"Bearer {login['access_token']}"}
            given = client.post("/auth/tfa/generate", json={"password": password}, headers=bearer)
            secret = given.json()["data"]["secret"]
            app = pyotp.TOTP(secret)
            enabled = client.post(
                "/auth/tfa/enable", json={"secret": secret, "otp": app.now()}, headers=bearer
            )

            def log_in(code: str) -> requests.Response:
                client.get("/admin/login/")
                token = client.cookies["csrftoken"]
                form = {
                    "username": name,
                    "password": password,
                    "otp_device": "platform_auth.totpfactor/1",
                    "otp_token": code,
                    "csrfmiddlewaretoken": token,
                }
                return client.post("/admin/login/?next=/admin/", data=form)

            without, with_it = log_in(""), log_in(app.at(time.time() + 30))

        assert enabled.status_code == 200
        assert without.status_code == 200
        assert "otp_token" in without.text
        assert (with_it.status_code, with_it.headers["location"]) == (302, "/admin/")


class TestStartPage:
    def test_works_without_scripts_and_allows_only_its_own(self, site: Site) -> None:
        with site.client() as client:
            page = client.get("/")

        assert page.status_code == 200
        assert "Forgot your password?" in page.text
        assert "default-src 'self'" in page.headers["Content-Security-Policy"]
        assert re.findall(r"<script(?![^>]* src=)|<style|\son\w+=", page.text) == []

    def test_its_files_are_served(self, site: Site) -> None:
        with site.client() as client:
            for path in re.findall(r'(?:src|href)="(/static/[^"]+)"', client.get("/").text):
                assert client.get(path).status_code == 200

    def test_the_linked_reset_page_exists(self, site: Site) -> None:
        with site.client() as client:
            assert client.get("/auth/password/request/page").status_code == 200


@pytest.mark.browser
class TestStartPageInABrowser:
    """With headless Chromium, under the page's own Content-Security-Policy."""

    @pytest.fixture
    def page(self, site: Site, browser: Any) -> Iterator[Any]:
        page = chromium.new_tab(browser)
        errors: list[str] = []
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.goto(site.url)
        yield page
        page.context.close()
        assert errors == []

    def test_a_user_can_log_in_read_notes_refresh_and_log_out(self, page: Any) -> None:
        page.get_by_label("Email").fill(ALICE)
        page.get_by_label("Password", exact=True).fill(PASSWORDS[ALICE])
        page.get_by_role("button", name="Log in", exact=True).click()

        page.get_by_text("Water the plants").wait_for()
        assert page.evaluate("document.cookie") == ""
        cookies = {cookie["name"]: cookie for cookie in page.context.cookies()}
        assert set(cookies) == {"refresh_token", "access_token"}
        assert all(cookie["httpOnly"] and cookie["sameSite"] == "Lax" for cookie in cookies.values())

        page.get_by_role("button", name="Refresh the session").click()
        page.get_by_text("both cookies have been replaced").wait_for()
        assert {cookie["value"] for cookie in page.context.cookies()}.isdisjoint(
            cookie["value"] for cookie in cookies.values()
        )

        page.get_by_role("button", name="Log out").click()
        page.get_by_role("button", name="Log in", exact=True).wait_for()
        assert page.context.cookies() == []

    def test_a_user_can_log_in_with_demo_id(self, page: Any) -> None:
        page.get_by_role("link", name="Log in with Demo ID").click()
        # The provider's form, whose texts differ between its versions.
        page.locator('button[name="sub"][value="demo"]').first.click()

        page.get_by_text("Hello, demo@example.com").wait_for()
        assert "?" not in page.url or "reason" not in page.url

    def test_a_wrong_password_is_reported(self, page: Any) -> None:
        page.get_by_label("Email").fill(ALICE)
        page.get_by_label("Password", exact=True).fill("wrong")
        page.get_by_role("button", name="Log in", exact=True).click()

        page.get_by_text("Invalid user credentials.").wait_for()


class TestCORS:
    """Credentialed CORS by django-cors-headers, for exact origins (security.md, row 59)."""

    def preflight(self, site: Site, origin: str) -> requests.Response:
        """Send the request that a browser sends before it posts JSON with cookies."""
        with site.client() as client:
            return client.options(
                "/auth/login",
                headers={
                    "Origin": origin,
                    "Access-Control-Request-Method": "POST",
                    "Access-Control-Request-Headers": "content-type",
                },
            )

    def test_the_preflight_of_an_allowed_origin_passes(self, site: Site) -> None:
        answer = self.preflight(site, SPA)

        assert answer.status_code == 200
        assert answer.headers["Access-Control-Allow-Origin"] == SPA
        assert answer.headers["Access-Control-Allow-Credentials"] == "true"
        assert "POST" in answer.headers["Access-Control-Allow-Methods"]
        assert "content-type" in answer.headers["Access-Control-Allow-Headers"]
        assert "origin" in answer.headers["Vary"].lower()

    @pytest.mark.parametrize(
        "origin",
        [
            "null",
            "http://localhost:3001",
            "https://localhost:3000",
            "http://localhost:3000.evil.example",
            "http://evil.example",
        ],
    )
    def test_no_other_origin_is_allowed(self, site: Site, origin: str) -> None:
        answer = self.preflight(site, origin)

        assert "Access-Control-Allow-Origin" not in answer.headers
        assert "Access-Control-Allow-Credentials" not in answer.headers

    def test_an_allowed_origin_can_log_in_with_cookies_and_refresh(self, site: Site) -> None:
        with site.client() as client:
            client.headers.update({"Origin": SPA, "Sec-Fetch-Site": "same-site"})
            body = {"email": ALICE, "password": PASSWORDS[ALICE], "mode": "cookie"}
            answer = client.post("/auth/login", json=body)
            assert answer.status_code == 200
            assert answer.headers["Access-Control-Allow-Origin"] == SPA
            assert "origin" in answer.headers["Vary"].lower()

            assert client.post("/auth/refresh", json={"mode": "cookie"}).status_code == 200

    def test_another_origin_can_neither_set_nor_use_a_cookie(self, site: Site) -> None:
        with site.client() as client:
            body = {"email": ALICE, "password": PASSWORDS[ALICE], "mode": "cookie"}
            client.post("/auth/login", json=body).raise_for_status()
            client.headers.update({"Origin": "http://evil.example", "Sec-Fetch-Site": "cross-site"})
            for path in ("/auth/login", "/auth/refresh", "/auth/logout"):
                answer = client.post(path, json=body)
                assert answer.status_code == 403
                assert "Set-Cookie" not in answer.headers
                assert "Access-Control-Allow-Origin" not in answer.headers

    def test_an_allowed_origin_can_read_a_refusal(self, site: Site) -> None:
        with site.client() as client:
            answer = client.get("/api/notes", headers={"Origin": SPA})

        assert answer.status_code == 401
        assert answer.headers["Access-Control-Allow-Origin"] == SPA


class TestProduction:
    def test_its_checks_pass(self, tmp_path: Path) -> None:
        done = manage(tmp_path, "check", "--deploy", "--fail-level", "WARNING", **PRODUCTION)

        assert done.returncode == 0, done.stderr

    def test_it_does_not_start_with_the_key_of_the_demo(self, tmp_path: Path) -> None:
        done = manage(tmp_path, "check", **{**PRODUCTION, "SECRET_KEY": ""})

        assert done.returncode != 0

    def test_its_migrations_are_complete(self, tmp_path: Path) -> None:
        done = manage(tmp_path, "makemigrations", "accounts", "notes", "--check", "--dry-run")

        assert done.returncode == 0, done.stdout
