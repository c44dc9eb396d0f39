"""Our prose contains none of the phrases that docs/english.md advises against."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests import english

PLANTED = {
    "package.py": [
        '"""Whoever calls this logs in."""',
        'MESSAGE = "This is no address."',
        "# Look at your mail, and do it once",
        "# more.",
        "def test_the_session_is_over(): ...",
        "class TestWaysIn: ...",
    ],
    "page.html": ["<p>Enter your password once more.</p>"],
    "page.md": ["Separated by blanks."],
    "locale/de/LC_MESSAGES/django.po": ['msgid "Your e-mail address"', 'msgstr "Ihre E-Mail-Adresse"'],
    "Makefile": ["# Compile them anew"],
}
FINE = {
    "package.py": [
        '"""Send an email through the mail server; fail if it is over 64 KiB."""',
        'FOLDER = "mail"',
        "blank = True  # `blanks` are allowed, and so is MAIL_DELIVERY.",
    ],
    "page.md": ["```", "whatever", "```", "Use `mail/delivery.py`."],
}


def commit(folder: Path, files: dict[str, list[str]]) -> None:
    for name, lines in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("\n".join(lines) + "\n")
    subprocess.run(["git", "init", "--quiet"], cwd=folder, check=True)
    subprocess.run(["git", "add", "--all"], cwd=folder, check=True)


@pytest.mark.skipif(
    not (english.ROOT / ".git").exists(), reason="the files of a source archive are not tracked"
)
def test_nothing_is_left() -> None:
    assert [str(finding) for finding in english.findings()] == []


def test_every_kind_of_text_is_searched(tmp_path: Path) -> None:
    commit(tmp_path, PLANTED)

    found = {(finding.path, finding.phrase.lower()) for finding in english.findings(tmp_path)}

    assert found == {
        ("package.py", "whoever"),
        ("package.py", "is no address"),
        ("package.py", "mail"),
        ("package.py", "is over"),
        ("package.py", "ways in"),
        ("package.py", "once\nmore"),
        ("page.html", "once more"),
        ("page.md", "blanks"),
        ("locale/de/LC_MESSAGES/django.po", "e-mail"),
        ("Makefile", "anew"),
    }


def test_code_and_other_meanings_are_not_found(tmp_path: Path) -> None:
    commit(tmp_path, FINE)

    assert [str(finding) for finding in english.findings(tmp_path)] == []


def test_the_page_and_the_script_have_the_same_phrases() -> None:
    """A phrase in the first column of docs/english.md is one that the script finds."""
    table = (english.ROOT / "docs" / "english.md").read_text().partition("| not | but |\n|---|---|\n")[2]
    phrases = [
        phrase.strip()
        for row in table.partition("\n\n")[0].splitlines()
        for phrase in row.split("|")[1].partition(" (")[0].replace("; ", ", ").split(", ")
    ]

    assert len(phrases) >= 20
    for phrase in phrases:
        text = phrase.replace("X is no Y", "it is no use").replace("to log-in", "log-in")
        assert english.search(text), phrase
