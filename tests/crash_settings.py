"""The settings of the server that test_crash.py kills: those of the tests, with the database of the running test."""

from __future__ import annotations

import os
from datetime import timedelta

from tests.settings import *  # noqa: F403
from tests.settings import DATABASES, PLATFORM_AUTH

DATABASES["default"]["NAME"] = os.environ["CRASH_DATABASE"]
PLATFORM_AUTH |= {
    "LIMITS": {
        "refresh": {"session": "1000000/m"},
        "login": {"account_and_address": "1000000/m", "address": "1000000/m", "account": "1000000/m"},
    },
    # On a busy machine, a restart sometimes takes longer than ten seconds.
    "REFRESH_GRACE_PERIOD": timedelta(seconds=60),
}
