"""The official JavaScript SDK sets up, uses and removes a second factor, unchanged."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from platform_auth.models import TOTPFactor
from tests import node_packages
from tests.conftest import PASSWORD, Authenticator, make_user

pytestmark = [
    pytest.mark.node,
    pytest.mark.django_db(transaction=True),
    pytest.mark.skipif(node_packages.missing() is not None, reason=node_packages.missing() or ""),
]


@pytest.fixture(scope="module")
def sdk() -> Path:
    """The folder where the official SDK can be run; installed before the clock is stopped."""
    return node_packages.install(Path(__file__).parent.parent / "node" / "sdk")


def test_generate_enable_login_and_disable_work(
    sdk: Path, live_server: Any, configure: Any, clock: Any
) -> None:
    configure(EXPIRES_UNIT="milliseconds")
    user = make_user()
    arguments = ["node", str(sdk / "tfa.mjs"), live_server.url, user.email, PASSWORD]

    with subprocess.Popen(
        arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as script:
        assert script.stdin is not None
        assert script.stdout is not None
        assert script.stderr is not None
        asked = 0
        for line in script.stdout:
            message = json.loads(line)
            if message.get("done"):
                break
            # As if the user waited for the next code.
            clock.shift(30)
            asked += 1
            script.stdin.write(Authenticator(message["secret"]).code() + "\n")
            script.stdin.flush()
        else:
            pytest.fail(script.stderr.read())

    assert asked == 3
    assert script.returncode == 0
    assert not TOTPFactor.objects.exists()
