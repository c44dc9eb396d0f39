"""The README against the code: its tables, names and blocks cannot drift from what they describe."""

from __future__ import annotations

import ast
import re
from typing import Any

import pytest
from django.dispatch import Signal
from django.urls import Resolver404, resolve

from platform_auth import signals
from platform_auth.conf import DEFAULT_LIMITS
from tests import endpoint_table, follow_readme
from tests.follow_readme import ROOT
from tests.readme_table import HEAD, table

README = (ROOT / "README.md").read_text()


def section(title: str) -> str:
    return README.partition(f"\n## {title}\n")[2].partition("\n## ")[0]


class TestTheReadme:
    def test_the_table_of_settings_is_that_of_the_code(self) -> None:
        lines = [line for line in section("Settings").splitlines() if line.startswith("|")]

        assert lines == (HEAD + table()).splitlines(), "run `python -m tests.readme_table`"

    def test_the_limits_are_those_of_the_code(self) -> None:
        (block,) = [text for text in follow_readme.blocks("python") if text.startswith("# LIMITS")]

        assert ast.literal_eval(block) == DEFAULT_LIMITS

    def test_names_every_signal(self) -> None:
        names = {name for name, value in vars(signals).items() if isinstance(value, Signal)}

        assert names == {name for name in names if f"`{name}`" in section("Extending")}

    @pytest.mark.parametrize(("method", "path"), sorted(set(endpoint_table.named())))
    def test_every_endpoint_it_names_is_there(self, method: str, path: str) -> None:
        try:
            view = resolve(path).func
        except Resolver404:
            pytest.fail(f"{path} leads nowhere")
        view_class: Any = getattr(view, "cls", None) or view.view_class

        assert hasattr(view_class, method.lower())

    def test_every_endpoint_is_named(self) -> None:
        """`make endpoints` adds the rows."""
        assert endpoint_table.missing() == []

    def test_its_python_is_python(self) -> None:
        blocks = follow_readme.blocks("python") + [
            re.sub(r"^  ", "", text, flags=re.MULTILINE)
            for text in re.findall(r"^  ```python\n(.*?)^  ```$", README, re.MULTILINE | re.DOTALL)
        ]

        assert len(blocks) >= 5
        for block in blocks:
            compile(block, "README.md", "exec")

    def test_its_links_lead_to_files(self) -> None:
        links = [link for link in re.findall(r"\]\(([^)]+)\)", README) if "://" not in link]

        assert links
        assert [link for link in links if not (ROOT / link).exists()] == []

    def test_its_make_targets_exist(self) -> None:
        makefile = (ROOT / "Makefile").read_text()

        targets = set(re.findall(r"(?:`|^)make ([\w-]+)", README, re.MULTILINE))
        assert targets >= {"demo", "test", "check"}
        there = set(" ".join(re.findall(r"^([\w -]+):", makefile, re.MULTILINE)).split())
        assert targets <= there

    def test_no_other_project_is_installed_by_its_commands(self) -> None:
        assert "pip install platform" not in README
