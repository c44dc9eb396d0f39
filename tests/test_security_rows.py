"""docs/security.md against the tests: every row that is cited exists, and every row names the tests that cite it."""

from __future__ import annotations

import re
from pathlib import Path

from tests.follow_readme import ROOT

PAGE = ROOT / "docs" / "security.md"
ROW = re.compile(r"^\| (\d+) \| .+? \| (.+?) \|", re.MULTILINE)
CITATION = re.compile(r"security\.md, rows? ((?:\d+(?:(?:, | and | to )(?=\d))?)+)")


def cited_in(path: Path) -> set[int]:
    """Return the rows that a file cites, one by one or as "rows 1, 2 and 4 to 6"."""
    rows: set[int] = set()
    for text in CITATION.findall(" ".join(path.read_text().split())):
        for part in re.split(r", | and ", text):
            first, _to, last = part.partition(" to ")
            rows |= set(range(int(first), int(last or first) + 1))
    return rows


def listed() -> dict[int, set[str]]:
    """Return the files that each row of the page names."""
    return {
        int(number): set(re.findall(r"\]\(\.\./([^)]+)\)", files))
        for number, files in ROW.findall(PAGE.read_text())
    }


def test_the_rows_are_numbered_without_gaps() -> None:
    numbers = [int(number) for number, _files in ROW.findall(PAGE.read_text())]

    assert sorted(numbers) == list(range(1, len(numbers) + 1))


def test_every_row_names_the_tests_that_cite_it() -> None:
    citing: dict[int, set[str]] = {}
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        if path != Path(__file__):
            for row in cited_in(path):
                citing.setdefault(row, set()).add(str(path.relative_to(ROOT)))

    tests = {row: {name for name in names if name.startswith("tests/")} for row, names in listed().items()}
    assert citing.keys() <= tests.keys()
    assert {row: citing.get(row, set()) for row in tests} == tests


def test_every_row_names_a_file_that_exists() -> None:
    for row, names in listed().items():
        assert names, row
        assert [name for name in names if not (ROOT / name).is_file()] == [], row


def test_the_package_cites_rows_that_exist() -> None:
    cited = {row for path in (ROOT / "platform_auth").rglob("*.py") for row in cited_in(path)}
    cited |= {row for path in (ROOT / "docs").rglob("*.md") if path != PAGE for row in cited_in(path)}

    assert cited <= listed().keys()
