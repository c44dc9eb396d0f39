"""The host project that is measured: that of the tests, with a real password hasher and very high limits.

BENCHMARK_DATABASE   path of the SQLite file; with TEST_DATABASE=postgres or mariadb, name of the database
BENCHMARK_MAIL_PORT  where the mail server listens
"""

import os

from tests.settings import *  # noqa: F403
from tests.settings import DATABASES, PLATFORM_AUTH

DATABASES["default"]["NAME"] = os.environ["BENCHMARK_DATABASE"]
DATABASES["default"]["CONN_MAX_AGE"] = None
PASSWORD_HASHERS = ["benchmarks.host.Hasher"]
EMAIL_BACKEND = "django.core.mail.backends.smtp.EmailBackend"
EMAIL_HOST = "127.0.0.1"
EMAIL_PORT = int(os.environ["BENCHMARK_MAIL_PORT"])
LOGGING = {
    "version": 1,
    "handlers": {"nowhere": {"class": "logging.NullHandler"}},
    "root": {"handlers": ["nowhere"]},
}
PLATFORM_AUTH = {
    **PLATFORM_AUTH,
    "MAIL_DELIVERY": "thread",
    "PASSWORD_RESET_URL_ALLOW_LIST": ["https://app.example/reset"],
    "LIMITS": {
        "login": {"account_and_address": "9999999/s", "address": "9999999/s", "account": "9999999/s"},
        "password_request": {"address": "9999999/s", "account": "9999999/s"},
    },
}


def __getattr__(name: str) -> object:
    """Create the hasher when Django asks for it, because its base can't be imported while settings are read."""
    if name != "Hasher":
        raise AttributeError(name)
    from django.contrib.auth.hashers import Argon2PasswordHasher

    # The minimum that OWASP allows: a difference shows best where the hash hides least.
    return type(
        "Hasher", (Argon2PasswordHasher,), {"memory_cost": 19 * 1024, "time_cost": 2, "parallelism": 1}
    )
