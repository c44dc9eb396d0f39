"""The settings of the server that test_crash.py kills: the tests' own, over the database of the running test."""

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
    # A restart on a busy machine takes longer than ten seconds at times.
    "REFRESH_GRACE_PERIOD": timedelta(seconds=60),
}
