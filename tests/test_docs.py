"""The README and the pages in docs/ against the code: tables, names, code blocks and links can't drift."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any

import pytest
from django.conf import global_settings
from django.dispatch import Signal
from django.urls import Resolver404, resolve

from platform_auth import signals
from platform_auth.conf import DEFAULT_LIMITS
from tests import endpoint_table
from tests.endpoints import CODES
from tests.follow_readme import README, ROOT, block, blocks
from tests.settings_table import HEAD, table

PAGES = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md")] + sorted(
    (ROOT / "docs").rglob("*.md")
)
each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))

ARGON2 = "django.contrib.auth.hashers.Argon2PasswordHasher"
PBKDF2 = "django.contrib.auth.hashers.PBKDF2PasswordHasher"


def read(name: str) -> str:
    return (ROOT / name).read_text()


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def links(page: Path) -> list[str]:
    """Return a page's links to files and headings of this repository."""
    return [link for link in re.findall(r"\]\(([^)]+)\)", page.read_text()) if "://" not in link]


def make_targets(page: Path) -> set[str]:
    """Return the make targets that a page names."""
    return set(re.findall(r"(?:`|^)make ([\w-]+)", page.read_text(), re.MULTILINE))


class TestSettingsPage:
    def test_its_table_is_that_of_the_code(self) -> None:
        lines = [line for line in read("docs/settings.md").splitlines() if line.startswith("|")]

        assert lines == (HEAD + table()).splitlines(), "run `python -m tests.settings_table`"

    def test_its_limits_are_those_of_the_code(self) -> None:
        assert ast.literal_eval(block("LIMITS", page=ROOT / "docs" / "settings.md")) == DEFAULT_LIMITS


class TestEndpointTable:
    @pytest.mark.parametrize(("method", "path"), sorted(set(endpoint_table.named())))
    def test_every_endpoint_it_names_exists(self, method: str, path: str) -> None:
        try:
            view = resolve(path).func
        except Resolver404:
            pytest.fail(f"{path} leads nowhere")
        view_class: Any = getattr(view, "cls", None) or view.view_class

        assert hasattr(view_class, method.lower())

    def test_every_endpoint_is_named(self) -> None:
        """`make endpoints` adds the rows."""
        assert endpoint_table.missing() == []


class TestContract:
    def test_it_describes_every_endpoint(self) -> None:
        contract = read("docs/contract.md")

        calls = [f"{method} {path}" for method, path in endpoint_table.written()]
        assert calls
        assert [call for call in calls if call not in contract] == []

    def test_it_describes_every_error_code(self) -> None:
        assert set(re.findall(r"^\| `([A-Z_]+)` \| [45]", read("docs/contract.md"), re.MULTILINE)) == CODES


class TestExtendingPage:
    def test_it_names_every_signal(self) -> None:
        names = {name for name, value in vars(signals).items() if isinstance(value, Signal)}

        assert names == set(re.findall(r"`(\w+)`", read("docs/extending.md"))) & names


class TestEveryPage:
    @each_page
    def test_its_python_compiles(self, page: Path) -> None:
        for text in blocks("python", page=page):
            compile(text, page.name, "exec")

    def test_there_is_python_to_compile(self) -> None:
        assert sum(len(blocks("python", page=page)) for page in PAGES) >= 5

    @each_page
    def test_its_links_lead_somewhere(self, page: Path) -> None:
        for link in links(page):
            name, _, anchor = link.partition("#")
            target = (page.parent / name).resolve() if name else page
            assert target.exists(), link
            assert not anchor or anchor in anchors(target), link

    @each_page
    def test_its_make_targets_exist(self, page: Path) -> None:
        there = set(" ".join(re.findall(r"^([\w -]+):", read("Makefile"), re.MULTILINE)).split())

        assert make_targets(page) <= there

    @each_page
    def test_its_commands_install_no_other_project(self, page: Path) -> None:
        """The name on the Python package index belongs to somebody else."""
        assert "pip install platform" not in page.read_text()


class TestReadme:
    def test_a_new_user_gets_through_it_in_one_sitting(self) -> None:
        assert len(README.read_text().splitlines()) <= 200

    def test_it_links_to_the_other_pages(self) -> None:
        assert links(README)

    def test_it_starts_the_demo_and_the_tests(self) -> None:
        assert make_targets(README) >= {"demo", "test"}


class TestContributing:
    def test_it_names_the_commands_that_a_change_must_pass(self) -> None:
        assert make_targets(ROOT / "CONTRIBUTING.md") >= {"demo", "test", "check"}


class TestTheSettingsToPaste:
    """A project that already has settings keeps them."""

    def paste_into(self, **settings: Any) -> dict[str, Any]:
        exec(block("settings.py"), settings)
        return settings

    def test_a_new_project_gets_everything(self) -> None:
        pasted = self.paste_into(INSTALLED_APPS=["django.contrib.auth"])

        assert pasted["INSTALLED_APPS"] == [
            "django.contrib.auth",
            "rest_framework",
            "django_otp",
            "platform_auth",
        ]
        assert pasted["AUTHENTICATION_BACKENDS"] == [
            "platform_auth.backends.EmailBackend",
            "platform_auth.backends.PublicRoleBackend",
        ]
        assert pasted["PASSWORD_HASHERS"][0] == ARGON2
        assert sorted(pasted["PASSWORD_HASHERS"]) == sorted(global_settings.PASSWORD_HASHERS)
        assert pasted["REST_FRAMEWORK"] == {
            "EXCEPTION_HANDLER": "platform_auth.errors.exception_handler",
            "DEFAULT_AUTHENTICATION_CLASSES": ["platform_auth.authentication.AccessTokenAuthentication"],
            "DEFAULT_PERMISSION_CLASSES": ["platform_auth.permissions.PrivateByDefault"],
        }

    def test_no_app_is_installed_twice(self) -> None:
        own = (
            "rest_framework.apps.RestFrameworkConfig",
            "notes",
            "django_otp",
            "django_otp.plugins.otp_totp",
        )

        assert self.paste_into(INSTALLED_APPS=own)["INSTALLED_APPS"] == [*own, "platform_auth"]

    def test_rest_framework_is_updated(self) -> None:
        own = {
            "PAGE_SIZE": 50,
            "EXCEPTION_HANDLER": "host.exception_handler",
            "DEFAULT_PERMISSION_CLASSES": ("rest_framework.permissions.IsAdminUser",),
            "DEFAULT_AUTHENTICATION_CLASSES": ["rest_framework.authentication.SessionAuthentication"],
        }

        pasted = self.paste_into(INSTALLED_APPS=[], REST_FRAMEWORK=own)["REST_FRAMEWORK"]

        assert pasted["PAGE_SIZE"] == 50
        assert pasted["EXCEPTION_HANDLER"] == "host.exception_handler"
        assert pasted["DEFAULT_PERMISSION_CLASSES"] == [
            "platform_auth.permissions.PrivateByDefault",
            "rest_framework.permissions.IsAdminUser",
        ]
        assert pasted["DEFAULT_AUTHENTICATION_CLASSES"] == [
            "platform_auth.authentication.AccessTokenAuthentication",
            "rest_framework.authentication.SessionAuthentication",
        ]

    def test_own_hashers_are_kept_behind_argon2(self) -> None:
        pasted = self.paste_into(INSTALLED_APPS=[], PASSWORD_HASHERS=["host.Hasher", ARGON2, PBKDF2])

        assert pasted["PASSWORD_HASHERS"] == [ARGON2, "host.Hasher", PBKDF2]

    def test_own_backends_are_kept_except_the_one_that_ours_replaces(self) -> None:
        own = ("host.LDAPBackend", "django.contrib.auth.backends.ModelBackend")

        pasted = self.paste_into(INSTALLED_APPS=[], AUTHENTICATION_BACKENDS=own)

        assert pasted["AUTHENTICATION_BACKENDS"] == [
            "platform_auth.backends.EmailBackend",
            "platform_auth.backends.PublicRoleBackend",
            "host.LDAPBackend",
        ]
