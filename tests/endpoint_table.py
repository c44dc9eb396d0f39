"""The README's table of endpoints: `make endpoints` adds missing ones, for somebody to describe."""

from __future__ import annotations

import re

import django
from django.urls import resolve

from tests.follow_readme import README

ALIASES = {"auth/login/(?P<provider>[^/]+)/?\\Z"}
"""The routes that the table mentions as another form of the same endpoint."""


def section() -> str:
    return README.read_text().partition("\n## Endpoints\n")[2].partition("\n## ")[0]


def written() -> list[tuple[str, str]]:
    """Return method and path of every endpoint in the table, such as ("DELETE", "/auth/sessions/{id}")."""
    return re.findall(r"`(GET|POST|PUT|PATCH|DELETE) (/[^`?]*)[^`]*`", section())


def named() -> list[tuple[str, str]]:
    """Return the same with samples for `{id}` and `{provider}`."""
    return [(method, path.format(id="1", provider="github")) for method, path in written()]


def missing() -> list[str]:
    """Return the rows that are missing in the table."""
    from tests.endpoints import ENDPOINTS

    routes = ALIASES | {resolve(path).route for _method, path in named()}
    rows = []
    for endpoint in ENDPOINTS:
        if resolve(endpoint.path).route not in routes:
            calls = ", ".join(f"`{name} {endpoint.path}`" for name in sorted(endpoint.methods - {"HEAD"}))
            rows.append(f"| {calls} | {endpoint.view.__doc__.partition(': ')[2]} |")
    return rows


def main() -> None:
    rows = [line for line in section().splitlines() if line.startswith("|")]
    README.write_text(README.read_text().replace(rows[-1], "\n".join([rows[-1], *missing()])))


if __name__ == "__main__":
    django.setup()
    main()
