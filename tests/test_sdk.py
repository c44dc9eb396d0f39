"""The official JavaScript clients of this API, unchanged, with the example site in a separate process."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import example_site, node_packages
from tests.example_site import Site

pytestmark = [
    pytest.mark.node,
    pytest.mark.skipif(node_packages.missing() is not None, reason=node_packages.missing() or ""),
    # One server for the module, so its tests run in one worker.
    pytest.mark.xdist_group("sdk"),
]

CLIENTS = [
    ("sdk", "json"),
    ("sdk", "cookie"),
    ("sdk", "session"),
    ("sdk-10", "json"),
    ("sdk-10", "cookie"),
    ("sdk-js", "json"),
    ("sdk-js", "cookie"),
]
"""@directus/sdk 26 and 10.3.5, @directus/sdk-js 9.0.0-rc.53, each in its modes."""


@pytest.fixture(scope="module")
def packages() -> Path:
    return node_packages.install(Path(__file__).parent / "node" / "sdk")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with example_site.serve(tmp_path_factory.mktemp("site"), EXPIRES_UNIT="milliseconds") as site:
        yield site


def run(
    packages: Path, site: Site, scenario: str, client: str, mode: str, *, email: str = "alice@example.com"
) -> str:
    """Run a scenario of run.mjs; return what it printed."""
    site.outbox.mkdir(exist_ok=True)
    variables = {
        "SITE": site.url,
        "EMAIL": email,
        "PASSWORD": example_site.PASSWORDS[email],
        "OUTBOX": str(site.outbox),
        # The second axios of these packages calls url.parse(), which node deprecates.
        "NODE_NO_WARNINGS": "1",
    }
    done = subprocess.run(
        ["node", "run.mjs", scenario, client, mode],
        cwd=packages,
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, f"{site.log.read_text()[-2000:]}\n{done.stdout}\n{done.stderr}"
    return done.stdout.strip()


class TestOfficialClients:
    @pytest.mark.parametrize(("client", "mode"), CLIENTS)
    def test_login_refresh_call_and_logout_work(
        self, packages: Path, site: Site, client: str, mode: str
    ) -> None:
        run(packages, site, "log in, refresh, call, log out", client, mode)

    @pytest.mark.parametrize(("client", "mode"), [("sdk", "json"), ("sdk", "session"), ("sdk-10", "json")])
    def test_a_second_factor_can_be_enabled_used_and_disabled(
        self, packages: Path, tmp_path: Path, client: str, mode: str
    ) -> None:
        with example_site.serve(tmp_path, EXPIRES_UNIT="milliseconds") as site:
            run(packages, site, "second factor", client, mode)

    @pytest.mark.parametrize(
        ("client", "email"),
        [("sdk", "alice@example.com"), ("sdk-10", "bob@example.com"), ("sdk-js", "admin@example.com")],
    )
    def test_a_password_can_be_reset(self, packages: Path, tmp_path: Path, client: str, email: str) -> None:
        with example_site.serve(tmp_path, EXPIRES_UNIT="milliseconds") as site:
            run(packages, site, "password reset", client, "json", email=email)


class TestExpiresUnit:
    """The official clients read `expires` as milliseconds: with seconds, a token seems to expire at once."""

    def test_with_milliseconds_the_clients_keep_their_token(self, packages: Path, site: Site) -> None:
        assert run(packages, site, "refreshes of ten calls", "sdk", "json") == "0"

    def test_with_seconds_the_clients_refresh_before_each_call(self, packages: Path, tmp_path: Path) -> None:
        with example_site.serve(tmp_path, EXPIRES_UNIT="seconds") as site:
            assert int(run(packages, site, "refreshes of ten calls", "sdk", "json")) >= 10
