"""The table in docs/settings.md, made from `conf`: `python -m tests.settings_table` writes it."""

from __future__ import annotations

import re
from datetime import timedelta

from platform_auth.conf import SETTINGS
from tests.follow_readme import ROOT

PAGE = ROOT / "docs" / "settings.md"
HEAD = "| setting | default | meaning |\n|---|---|---|\n"

IN_WORDS = {
    "ISSUER": "`PUBLIC_URL`",
    "AUDIENCE": "`PUBLIC_URL`",
    "SIGNING_KEYS": "derived from `SECRET_KEY`",
    "ENCRYPTION_KEYS": "derived from `SECRET_KEY`",
    "PUBLIC_URL": "in DEBUG `http://localhost:8000`",
    "PASSWORD_RESET_URL": "the built-in page",
    "PASSWORD_RESET_URL_ALLOW_LIST": "the environment variable of that name, comma-separated; else `[]`",
    "COOKIE_SECURE": "not in DEBUG",
    "COOKIE_DOMAIN": "none",
    "LIMITS": "see below",
}
"""The defaults that are not a plain value."""


def table() -> str:
    """Return the rows below the head of the table."""
    return "".join(f"| `{name}` | {_default(name)} | {row.meaning} |\n" for name, row in SETTINGS.items())


def _default(name: str) -> str:
    value = SETTINGS[name].default
    if name in IN_WORDS:
        return IN_WORDS[name]
    if isinstance(value, timedelta):
        return _duration(value)
    return f'`"{value}"`' if isinstance(value, str) else f"`{value}`"


def _duration(value: timedelta) -> str:
    seconds = int(value.total_seconds())
    for size, unit in ((86400, "day"), (3600, "hour"), (60, "minute"), (1, "second")):
        if seconds % size == 0:
            count = seconds // size
            return f"{count} {unit}{'s' if count > 1 else ''}"
    raise AssertionError(value)


if __name__ == "__main__":
    before, head, after = PAGE.read_text().partition(HEAD)
    PAGE.write_text(before + head + table() + re.sub(r"\A(\|.*\n)*", "", after))
