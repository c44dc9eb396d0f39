"""The host project of the tests. Environment variables choose the variant; see TEST_MATRIX in tests/run.sh.

TEST_DATABASE    sqlite (default), postgres, mariadb; TEST_DATABASE_HOST is their address
TEST_USER_MODEL  email (default: UUID key, email only), default (Django's own)
TEST_ATOMIC      1: ATOMIC_REQUESTS
TEST_HOSTILE     1: REST_FRAMEWORK and SIMPLE_JWT with settings that could break ours
TEST_CACHE       locmem (default), redis, dummy
TEST_DATABASE_NAME_SUFFIX  appended to the test database's name, so that two runs can share a server
"""

from __future__ import annotations

import os
from datetime import timedelta
from pathlib import Path
from typing import Any

BASE_DIR = Path(__file__).parent
DATABASE = os.environ.get("TEST_DATABASE", "sqlite")
WORKER = os.environ.get("PYTEST_XDIST_WORKER", "gw0")
ATOMIC = os.environ.get("TEST_ATOMIC") == "1"
HOSTILE = os.environ.get("TEST_HOSTILE") == "1"
HOST = os.environ.get("TEST_DATABASE_HOST", "127.0.0.1")
SUFFIX = os.environ.get("TEST_DATABASE_NAME_SUFFIX", "")

SECRET_KEY = "tests-" + "x" * 60
DEBUG = False
ALLOWED_HOSTS = ["*"]
USE_TZ = True
TIME_ZONE = "Europe/Berlin"
ROOT_URLCONF = "tests.urls"
STATIC_URL = "static/"
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

INSTALLED_APPS = [
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.messages",
    "django.contrib.sessions",
    "django.contrib.staticfiles",
    "rest_framework",
    "django_otp",
    "platform_auth",
    "tests.hostapp",
]
MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.locale.LocaleMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
]
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ]
        },
    }
]

DATABASES: dict[str, dict[str, Any]]
match DATABASE:
    case "postgres":
        DATABASES = {
            "default": {
                "ENGINE": "django.db.backends.postgresql",
                "HOST": HOST,
                "USER": "postgres",
                "NAME": "postgres",
                "TEST": {"NAME": f"test_platform_auth{SUFFIX}"},
            }
        }
    case "mariadb":
        import pymysql

        pymysql.version_info = (2, 2, 8, "final", 0)  # type: ignore[assignment]
        pymysql.install_as_MySQLdb()
        DATABASES = {
            "default": {
                "ENGINE": "django.db.backends.mysql",
                "HOST": HOST,
                "USER": "root",
                "NAME": "mysql",
                "OPTIONS": {"charset": "utf8mb4"},
                "TEST": {"NAME": f"test_platform_auth{SUFFIX}"},
            }
        }
    case _:
        DATABASES = {
            "default": {
                "ENGINE": "django.db.backends.sqlite3",
                "NAME": BASE_DIR / "test.sqlite3",
                "OPTIONS": {
                    "timeout": 30,
                    "transaction_mode": "IMMEDIATE",
                    "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=OFF;",
                },
                "TEST": {"NAME": BASE_DIR / f"test{SUFFIX}.sqlite3"},
            }
        }
DATABASES["default"].update(ATOMIC_REQUESTS=ATOMIC, CONN_MAX_AGE=0)

CACHES: dict[str, dict[str, Any]] = {
    "default": {
        "locmem": {
            "BACKEND": "django.core.cache.backends.locmem.LocMemCache",
            "OPTIONS": {"MAX_ENTRIES": 10_000},
        },
        "redis": {
            "BACKEND": "django.core.cache.backends.redis.RedisCache",
            # A database for each worker: emptying one must not empty another.
            "LOCATION": f"redis://127.0.0.1:6379/{8 + int(WORKER[2:]) % 8}",
            "KEY_PREFIX": WORKER,
        },
        "dummy": {"BACKEND": "django.core.cache.backends.dummy.DummyCache"},
    }[os.environ.get("TEST_CACHE", "locmem")]
}

if os.environ.get("TEST_USER_MODEL", "email") == "email":
    AUTH_USER_MODEL = "hostapp.User"
AUTHENTICATION_BACKENDS = ["platform_auth.backends.EmailBackend", "platform_auth.backends.PublicRoleBackend"]
PASSWORD_HASHERS = [
    "tests.hostapp.hashers.QuickArgon2PasswordHasher",
    "django.contrib.auth.hashers.PBKDF2PasswordHasher",
]
AUTH_PASSWORD_VALIDATORS = [
    {"NAME": "django.contrib.auth.password_validation.UserAttributeSimilarityValidator"},
    {"NAME": "django.contrib.auth.password_validation.MinimumLengthValidator"},
    {"NAME": "django.contrib.auth.password_validation.CommonPasswordValidator"},
    {"NAME": "django.contrib.auth.password_validation.NumericPasswordValidator"},
]
EMAIL_BACKEND = "django.core.mail.backends.locmem.EmailBackend"

REST_FRAMEWORK: dict[str, Any] = {
    "DEFAULT_AUTHENTICATION_CLASSES": ["platform_auth.authentication.AccessTokenAuthentication"],
    "DEFAULT_PERMISSION_CLASSES": ["platform_auth.permissions.PrivateByDefault"],
    "EXCEPTION_HANDLER": "platform_auth.errors.exception_handler",
}
PLATFORM_AUTH: dict[str, Any] = {"PUBLIC_URL": "http://testserver", "MAIL_DELIVERY": "inline"}

if HOSTILE:
    REST_FRAMEWORK |= {
        "DEFAULT_RENDERER_CLASSES": ["rest_framework.renderers.BrowsableAPIRenderer"],
        "DEFAULT_PARSER_CLASSES": ["rest_framework.parsers.MultiPartParser"],
        "DEFAULT_THROTTLE_CLASSES": ["rest_framework.throttling.AnonRateThrottle"],
        "DEFAULT_THROTTLE_RATES": {"anon": "1/day"},
        "DEFAULT_CONTENT_NEGOTIATION_CLASS": "rest_framework.negotiation.DefaultContentNegotiation",
        "DEFAULT_VERSIONING_CLASS": "rest_framework.versioning.AcceptHeaderVersioning",
        "DEFAULT_METADATA_CLASS": None,
        "UNAUTHENTICATED_USER": None,
        "UNAUTHENTICATED_TOKEN": object,
        "UNICODE_JSON": False,
        "COMPACT_JSON": False,
        "STRICT_JSON": False,
        "DATETIME_FORMAT": "%c",
        "NON_FIELD_ERRORS_KEY": "hostile",
        "URL_FORMAT_OVERRIDE": "mode",
        "NUM_PROXIES": 3,
    }
    SIMPLE_JWT = {
        "ALGORITHM": "HS512",
        "SIGNING_KEY": "hostile-" * 16,
        "ISSUER": "hostile",
        "AUDIENCE": "hostile",
        "ACCESS_TOKEN_LIFETIME": timedelta(days=365),
        "TOKEN_TYPE_CLAIM": "hostile_type",
        "JTI_CLAIM": None,
        "USER_ID_CLAIM": "email",
        "LEEWAY": 86400,
        "CHECK_REVOKE_TOKEN": True,
        "ROTATE_REFRESH_TOKENS": False,
    }

LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "loggers": {"platform_auth": {"level": "DEBUG", "propagate": True}},
}
