"""System checks: what triggers each of them, its id and its hint (security.md, rows 31, 48, 56, 83, 127 and 129)."""

from __future__ import annotations

import secrets
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import django
import pytest
from django.contrib.auth import get_user_model
from django.contrib.auth.models import Group, Permission
from django.core.checks import Error, Tags, run_checks
from django.core.management import call_command
from django.core.management.base import SystemCheckError
from django.db import connection
from django.db.models import Q, UniqueConstraint
from django.db.models.functions import Lower
from django.test import override_settings
from django.utils.module_loading import import_string
from django_otp.admin import OTPAdminSite

import platform_auth
from platform_auth import events
from platform_auth.caller import Caller
from platform_auth.conf import SETTINGS
from platform_auth.models import AuthEvent, OAuthProvider, TOTPFactor
from tests.checks import said
from tests.conftest import make_user

GOOD: dict[str, Any] = {"PUBLIC_URL": "https://site.example"}
PEM = """-----BEGIN PRIVATE KEY-----
MC4CAQAwBQYDK2VwBCIEIPO8sd6ZcmoHFVZcyNnUGK9XTd6pJ0jRhDhKZ8FT6DRb
-----END PRIVATE KEY-----
"""
REDIS = {"BACKEND": "django.core.cache.backends.redis.RedisCache", "LOCATION": "redis://127.0.0.1:6379/9"}
LOCAL = {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"}
ARGON2 = "django.contrib.auth.hashers.Argon2PasswordHasher"
DJANGO_TEMPLATES = "django.template.backends.django.DjangoTemplates"
TASKS = "django.tasks" if django.VERSION >= (6, 0) else "django_tasks"
BACKENDS = ["platform_auth.backends.EmailBackend", "platform_auth.backends.PublicRoleBackend"]
# The user model of the tests has no such constraint; the check has its own test.
ASIDE = {"platform_auth.W009"}


def found(*, deploy: bool = False, databases: list[str] | None = None, **configured: Any) -> dict[str, Any]:
    """Return the messages of our checks by id, with these values of PLATFORM_AUTH."""
    tags = ["platform_auth"]
    with override_settings(PLATFORM_AUTH={**GOOD, **configured}):
        messages = run_checks(tags=tags, include_deployment_checks=deploy, databases=databases or [])
    for message in messages:
        assert message.hint
        assert len(message.hint) > 10
    return {message.id: message for message in messages if message.id not in ASIDE}


class TestGoodSettings:
    def test_the_defaults_pass(self) -> None:
        assert found() == {}

    @override_settings(CACHES={"default": REDIS}, PASSWORD_HASHERS=[ARGON2])
    def test_the_defaults_are_fit_for_production(self) -> None:
        assert found(deploy=True) == {}

    def test_every_setting_at_its_default_passes(self) -> None:
        defaults = {name: setting.default for name, setting in SETTINGS.items()}

        assert found(**{**defaults, **GOOD}) == {}

    def test_errors_stop_a_command(self) -> None:
        with override_settings(PLATFORM_AUTH={"COOKIE_SECUR": True}), pytest.raises(SystemCheckError):
            call_command("check")


class TestNames:
    @pytest.mark.parametrize(
        ("typo", "meant"),
        [
            ("ACCESS_TOKEN_TLL", "ACCESS_TOKEN_TTL"),
            ("PUBLIC_UR", "PUBLIC_URL"),
            ("public_role", "PUBLIC_ROLE"),
            ("OAUTH_REDIRECT_ALLOWLIST", "OAUTH_REDIRECT_ALLOW_LIST"),
            ("REFRESH_TOKEN_LIFETIME", "REFRESH_TOKEN_TTL"),
        ],
    )
    def test_a_typo_names_the_nearest_setting(self, typo: str, meant: str) -> None:
        message = found(**{typo: 1})["platform_auth.E001"]

        assert typo in message.msg
        assert message.hint == f'Did you mean "{meant}"?'

    def test_a_name_without_a_similar_one_lists_all(self) -> None:
        assert "ACCESS_TOKEN_TTL" in found(X=1)["platform_auth.E001"].hint


class TestTypes:
    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("ACCESS_TOKEN_TTL", 900),
            ("REFRESH_TOKEN_TTL", "7 days"),
            ("SESSION_MAX_AGE", 30),
            ("REFRESH_GRACE_PERIOD", 10),
            ("PASSWORD_RESET_TOKEN_TTL", None),
            ("EVENT_RETENTION", 180),
            ("EXPIRES_UNIT", "ms"),
            ("ISSUER", 1),
            ("AUDIENCE", ["a"]),
            ("SIGNING_ALGORITHM", "none"),
            ("SIGNING_ALGORITHM", "HS512"),
            ("SIGNING_KEYS", "one"),
            ("SIGNING_KEYS", [1]),
            ("ENCRYPTION_KEYS", "one"),
            ("PUBLIC_URL", 1),
            ("PASSWORD_RESET_URL", 1),
            ("PASSWORD_RESET_URL_ALLOW_LIST", "https://site.example/reset"),
            ("OAUTH_REDIRECT_ALLOW_LIST", "https://site.example/"),
            ("OAUTH_REDIRECT_ALLOW_LIST", [1]),
            ("OAUTH_REDIRECT_ALLOW_LIST", None),
            ("MAIL_DELIVERY", "celery"),
            ("COOKIE_SECURE", "yes"),
            ("COOKIE_SAMESITE", "lax"),
            ("COOKIE_SAMESITE", None),
            ("COOKIE_DOMAIN", True),
            ("REFRESH_COOKIE_NAME", None),
            ("ACCESS_TOKEN_IN_QUERY", 1),
            ("PUBLIC_ROLE", None),
            ("PUBLIC_ROLE", ""),
            ("TRUSTED_PROXY_COUNT", "1"),
            ("TRUSTED_PROXY_COUNT", -1),
            ("TRUSTED_PROXY_COUNT", True),
            ("LIMITS", []),
            ("TFA_REQUIRED_GROUPS", "Staff"),
            ("TFA_REQUIRED_FOR_STAFF", None),
            ("OAUTH_PRIVATE_HOSTS", "intranet"),
            ("PASSWORD_LOGIN", "no"),
        ],
    )
    def test_a_wrong_type_is_an_error(self, name: str, value: Any) -> None:
        messages = found(deploy=True, **{name: value})

        assert name in messages["platform_auth.E002"].msg
        assert isinstance(messages["platform_auth.E002"], Error)

    def test_a_key_is_not_shown(self) -> None:
        message = found(ENCRYPTION_KEYS="a-secret-in-the-wrong-shape")["platform_auth.E002"]

        assert "a-secret" not in f"{message.msg} {message.hint}"

    def test_a_value_that_is_not_a_dictionary_is_an_error(self) -> None:
        for value in ([], ["PUBLIC_URL"], "PUBLIC_URL"):
            with override_settings(PLATFORM_AUTH=value):
                (message,) = said("E002")
            assert message.msg == "PLATFORM_AUTH must be a dictionary."


class TestLimits:
    @pytest.mark.parametrize(
        ("limits", "hint"),
        [
            ({"logn": {"address": "5/m"}}, 'Did you mean "login"?'),
            ({"login": {"adress": "5/m"}}, 'Did you mean "address"?'),
            ({"login": "5/m"}, "Write "),
            ({"login": {"address": "5 per minute"}}, "Write it like"),
            ({"login": {"address": 5}}, "Write it like"),
            ({"otp": {"short": "0/m"}}, "Write it like"),
        ],
    )
    def test_an_invalid_limit_is_an_error(self, limits: Any, hint: str) -> None:
        assert hint in found(LIMITS=limits)["platform_auth.E003"].hint

    def test_a_partial_dictionary_passes(self) -> None:
        assert found(LIMITS={"otp": {"short": "3/15m"}}) == {}


class TestPublicUrl:
    def test_it_is_required(self) -> None:
        assert set(found(PUBLIC_URL=None)) == {"platform_auth.E004"}

    @override_settings(DEBUG=True)
    def test_debug_has_a_default(self) -> None:
        assert found(PUBLIC_URL=None) == {}

    @pytest.mark.parametrize(
        "url",
        [
            "site.example",
            "https://Site.example",
            "https://a@site.example",
            "https://site.example/?a",
            "/",
            "ftp://a.b",
        ],
    )
    def test_another_url_than_a_base_url_is_an_error(self, url: str) -> None:
        assert set(found(PUBLIC_URL=url)) == {"platform_auth.E005"}

    @override_settings(CACHES={"default": REDIS}, PASSWORD_HASHERS=[ARGON2])
    def test_plain_http_is_not_fit_for_production(self) -> None:
        assert set(found(deploy=True, PUBLIC_URL="http://site.example")) == {"platform_auth.E022"}


class TestKeys:
    """security.md, row 31."""

    @pytest.mark.parametrize(
        "configured",
        [
            {"SIGNING_KEYS": ["short"]},
            {"SIGNING_KEYS": ["x" * 31]},
            {"SIGNING_KEYS": ["x" * 32, "short"]},
            {"SIGNING_ALGORITHM": "EdDSA"},
            {"SIGNING_ALGORITHM": "EdDSA", "SIGNING_KEYS": ["x" * 64]},
            {"SIGNING_ALGORITHM": "RS256", "SIGNING_KEYS": [PEM]},
            {"SIGNING_KEYS": [PEM]},
        ],
        ids=[
            "short",
            "a byte short",
            "an old short one",
            "missing",
            "no PEM",
            "of another kind",
            "no secret",
        ],
    )
    def test_unusable_signing_keys_are_an_error(self, configured: Any) -> None:
        message = found(**configured)["platform_auth.E006"]

        assert "x" * 31 not in message.msg

    def test_usable_signing_keys_pass(self) -> None:
        assert found(SIGNING_ALGORITHM="EdDSA", SIGNING_KEYS=[PEM]) == {}
        assert found(SIGNING_KEYS=[secrets.token_urlsafe(48)]) == {}

    def test_a_short_encryption_key_is_an_error(self) -> None:
        assert set(found(ENCRYPTION_KEYS=["x" * 31])) == {"platform_auth.E007"}

    @pytest.mark.parametrize("name", ["SIGNING_KEYS", "ENCRYPTION_KEYS"])
    def test_secret_key_itself_is_an_error(self, name: str, settings: Any) -> None:
        assert set(found(**{name: [settings.SECRET_KEY]})) == {"platform_auth.E008"}
        settings.SECRET_KEY_FALLBACKS = ["f" * 50]
        assert set(found(**{name: [secrets.token_urlsafe(48), b"f" * 50]})) == {"platform_auth.E008"}

    def test_one_key_for_two_purposes_is_an_error(self) -> None:
        key = secrets.token_urlsafe(48)

        assert set(found(SIGNING_KEYS=[key], ENCRYPTION_KEYS=[key.encode()])) == {"platform_auth.E008"}


class TestCookieNames:
    def test_a_name_with_a_prefix_is_an_error(self) -> None:
        assert set(found(REFRESH_COOKIE_NAME="__Host-refresh_token")) == {"platform_auth.E012"}


class TestPrivateHosts:
    @pytest.mark.parametrize(
        "host", ["*", "*.internal", "https://id.internal", "id.internal:8443", "", "a b", "10.0.0.0/8"]
    )
    def test_something_else_than_a_host_is_an_error(self, host: str) -> None:
        assert set(found(OAUTH_PRIVATE_HOSTS=[host])) == {"platform_auth.E019"}

    @pytest.mark.parametrize(
        "host", ["id.internal", "ID.internal", "localhost", "127.0.0.1", "::1", "fd00::5"]
    )
    def test_hosts_pass(self, host: str) -> None:
        assert found(OAUTH_PRIVATE_HOSTS=[host]) == {}


class TestLifetimes:
    @pytest.mark.parametrize(
        "name",
        [
            "ACCESS_TOKEN_TTL",
            "REFRESH_TOKEN_TTL",
            "PASSWORD_RESET_TOKEN_TTL",
            "SESSION_MAX_AGE",
            "EVENT_RETENTION",
        ],
    )
    def test_a_duration_of_zero_is_an_error(self, name: str) -> None:
        assert "platform_auth.E009" in found(**{name: timedelta(0)})
        assert "platform_auth.E009" in found(**{name: timedelta(seconds=-1)})

    @pytest.mark.parametrize("seconds", [61, -1])
    def test_a_grace_period_out_of_bounds_is_an_error(self, seconds: int) -> None:
        """security.md, row 129."""
        assert set(found(REFRESH_GRACE_PERIOD=timedelta(seconds=seconds))) == {"platform_auth.E010"}

    def test_a_grace_period_of_zero_is_a_warning(self) -> None:
        assert set(found(REFRESH_GRACE_PERIOD=timedelta(0))) == {"platform_auth.W002"}
        assert found(REFRESH_GRACE_PERIOD=timedelta(seconds=60)) == {}

    def test_a_refresh_token_that_outlives_its_session_is_a_warning(self) -> None:
        assert set(found(REFRESH_TOKEN_TTL=timedelta(days=31))) == {"platform_auth.W001"}

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("ACCESS_TOKEN_TTL", timedelta(hours=2)),
            ("REFRESH_TOKEN_TTL", timedelta(days=91)),
            ("PASSWORD_RESET_TOKEN_TTL", timedelta(hours=2)),
        ],
    )
    def test_a_duration_too_long_for_production_is_an_error(self, name: str, value: timedelta) -> None:
        """security.md, row 129."""
        assert "platform_auth.E023" in found(deploy=True, SESSION_MAX_AGE=None, **{name: value})
        assert "platform_auth.E023" not in found(SESSION_MAX_AGE=None, **{name: value})

    @pytest.mark.parametrize("age", [None, timedelta(days=366)])
    def test_sessions_without_an_end_are_not_fit_for_production(self, age: timedelta | None) -> None:
        assert "platform_auth.W024" in found(deploy=True, SESSION_MAX_AGE=age)
        assert "platform_auth.W024" not in found(deploy=True, SESSION_MAX_AGE=timedelta(days=365))
        assert found(SESSION_MAX_AGE=age) == {}

    def test_pruning_events_within_30_days_is_a_warning(self) -> None:
        """security.md, row 111: familiar addresses keep the account open to its owner."""
        assert set(found(EVENT_RETENTION=timedelta(days=29))) == {"platform_auth.W011"}
        assert found(EVENT_RETENTION=timedelta(days=30)) == {}


class TestCookies:
    """security.md, row 56."""

    def test_same_site_none_needs_secure(self) -> None:
        assert set(found(COOKIE_SAMESITE="None", COOKIE_SECURE=False)) == {"platform_auth.E011"}
        assert found(COOKIE_SAMESITE="None", COOKIE_SECURE=True) == {}

    @pytest.mark.parametrize(
        ("refresh", "access"),
        [("token", "token"), ("", "access"), ("a b", "access"), ("a;b", "access"), ("sessionid", "access")],
    )
    def test_invalid_names_are_an_error(self, refresh: str, access: str) -> None:
        messages = found(REFRESH_COOKIE_NAME=refresh, ACCESS_COOKIE_NAME=access)

        assert set(messages) == {"platform_auth.E012"}

    def test_plain_http_is_not_fit_for_production(self) -> None:
        assert "platform_auth.E021" in found(deploy=True, COOKIE_SECURE=False)

    def test_a_shared_domain_is_a_warning(self) -> None:
        assert "platform_auth.W023" in found(deploy=True, COOKIE_DOMAIN="site.example")

    def test_a_domain_that_does_not_cover_the_site_is_an_error(self) -> None:
        """Browsers silently drop such cookies."""
        assert set(found(PUBLIC_URL="https://www.site.example", COOKIE_DOMAIN="evil.example")) == {
            "platform_auth.E016"
        }
        assert set(found(PUBLIC_URL="https://site.example", COOKIE_DOMAIN="www.site.example")) == {
            "platform_auth.E016"
        }
        assert found(PUBLIC_URL="https://www.site.example", COOKIE_DOMAIN="site.example") == {}


class TestWeakProtections:
    @pytest.mark.parametrize("rate", ["9999999/s", "10000/m"])
    def test_a_limit_that_stops_nobody_is_a_warning(self, rate: str) -> None:
        limits = {"login": {"account_and_address": rate}}

        assert "platform_auth.W025" in found(deploy=True, LIMITS=limits)

    def test_a_moderately_higher_limit_passes(self) -> None:
        assert "platform_auth.W025" not in found(
            deploy=True, LIMITS={"login": {"account_and_address": "50/m"}}
        )

    def test_a_policy_that_the_admin_does_not_enforce_is_a_warning(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """security.md, row 125."""
        assert "platform_auth.W026" in found(deploy=True, TFA_REQUIRED_FOR_STAFF=True)

        monkeypatch.setattr("django.contrib.admin.site", OTPAdminSite())

        assert "platform_auth.W026" not in found(deploy=True, TFA_REQUIRED_FOR_STAFF=True)


class TestAllowLists:
    """security.md, row 83: entries are checked at startup."""

    @pytest.mark.parametrize("name", ["PASSWORD_RESET_URL_ALLOW_LIST", "OAUTH_REDIRECT_ALLOW_LIST"])
    @pytest.mark.parametrize(
        "entry",
        [
            "http://site.example/reset",
            "http://localhost:3000/reset",
            "https://*.site.example/reset",
            "https://site.example/*",
            "https://user@site.example/reset",
            "https://user:pass@site.example/reset",
            "//site.example/reset",
            "/reset",
            "",
            "reset",
            "javascript:alert(1)",
            "myapp://reset",
            "https://SITE.example/reset",
            "https://site.example/a/../reset",
            "https://site.example//reset",
            "https://site.example\\reset",
            "https://site.example/re set",
            "https://[::1/reset",
            "https://sité.example/reset",
            "https://127.1/reset",
            "https://[0:0:0:0:0:0:0:1]/reset",
            "https://{token}.example/",
            "https://site.example/{token}/{token}",
        ],
    )
    def test_an_unsafe_entry_is_an_error(self, name: str, entry: str) -> None:
        messages = found(**{name: [entry]})

        assert set(messages) == {"platform_auth.E013"}
        assert isinstance(messages["platform_auth.E013"], Error)

    def test_safe_entries_pass(self) -> None:
        reset = [
            "https://site.example/reset",
            "https://site.example/#/reset/{token}",
            "https://site.example/?a={token}",
        ]

        assert found(PASSWORD_RESET_URL_ALLOW_LIST=reset) == {}
        assert found(OAUTH_REDIRECT_ALLOW_LIST=["https://site.example:8443/a?b=c"]) == {}

    def test_a_fragment_is_only_allowed_in_reset_urls(self) -> None:
        assert set(found(OAUTH_REDIRECT_ALLOW_LIST=["https://site.example/#/a"])) == {"platform_auth.E013"}

    def test_a_url_with_a_token_parameter_is_an_error(self) -> None:
        entries = ["https://site.example/?token=x", "https://site.example/?token=x#/{token}"]

        assert set(found(PASSWORD_RESET_URL_ALLOW_LIST=entries)) == {"platform_auth.E013"}
        assert found(OAUTH_REDIRECT_ALLOW_LIST=entries[:1]) == {}

    @override_settings(DEBUG=True)
    def test_localhost_passes_in_debug(self) -> None:
        assert found(OAUTH_REDIRECT_ALLOW_LIST=["http://localhost:3000/", "http://127.0.0.1/"]) == {}
        assert set(found(OAUTH_REDIRECT_ALLOW_LIST=["http://site.example/"])) == {"platform_auth.E013"}

    def test_the_environment_variable_is_checked_too(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv(
            "PASSWORD_RESET_URL_ALLOW_LIST", "https://site.example/reset, http://site.example/reset"
        )

        assert set(found()) == {"platform_auth.E013"}

    def test_the_default_link_is_checked_too(self) -> None:
        assert set(found(PASSWORD_RESET_URL="http://site.example/reset")) == {"platform_auth.E013"}


def _read_tasks_again() -> None:
    backends = import_string(f"{TASKS}.task_backends")
    backends.__dict__.pop("settings", None)
    with suppress(AttributeError):
        del backends["default"]


def _backend_class(*, defers: bool) -> Any:
    """Return a backend with a worker, of the installed task framework."""
    base = import_string(f"{TASKS}.backends.base.BaseTaskBackend")
    return type("Backend", (base,), {"supports_defer": defers, "enqueue": lambda *args: None})


class TestHost:
    """The host's other settings."""

    def test_a_missing_email_backend_is_a_warning(self, settings: Any) -> None:
        settings.AUTHENTICATION_BACKENDS = BACKENDS[1:]

        assert set(found()) == {"platform_auth.W003"}
        assert found(PASSWORD_LOGIN=False) == {}

    def test_djangos_model_backend_is_a_warning(self, settings: Any) -> None:
        settings.AUTHENTICATION_BACKENDS = [*BACKENDS, "django.contrib.auth.backends.ModelBackend"]

        assert set(found()) == {"platform_auth.W004"}

    def test_a_missing_public_role_backend_is_a_warning(self, settings: Any) -> None:
        settings.AUTHENTICATION_BACKENDS = BACKENDS[:1]

        assert set(found()) == {"platform_auth.W005"}

    @pytest.mark.parametrize("classes", [[], ["rest_framework.permissions.AllowAny"]])
    def test_views_that_are_open_by_default_are_a_warning(self, settings: Any, classes: list[str]) -> None:
        """security.md, row 126."""
        settings.REST_FRAMEWORK = {**settings.REST_FRAMEWORK, "DEFAULT_PERMISSION_CLASSES": classes}

        assert set(found()) == {"platform_auth.W006"}

    @pytest.mark.parametrize("backend", ["dummy.DummyCache", "db.DatabaseCache", "filebased.FileBasedCache"])
    def test_a_cache_that_cannot_count_atomically_is_a_warning(self, settings: Any, backend: str) -> None:
        settings.CACHES = {
            "default": {"BACKEND": f"django.core.cache.backends.{backend}", "LOCATION": "somewhere"}
        }

        assert set(found()) == {"platform_auth.W007"}

    def test_a_cache_local_to_a_process_is_not_fit_for_production(self, settings: Any) -> None:
        settings.CACHES = {"default": LOCAL}

        assert "platform_auth.W020" in found(deploy=True)

    def test_tasks_that_the_request_waits_for_are_a_warning(self) -> None:
        """The default backend runs a task immediately."""
        assert set(found(MAIL_DELIVERY="task")) == {"platform_auth.W008"}

    @pytest.mark.parametrize(("defers", "ids"), [(False, {"platform_auth.W008"}), (True, set())])
    def test_tasks_that_cannot_be_retried_later_are_a_warning(
        self, settings: Any, monkeypatch: Any, defers: bool, ids: set[str]
    ) -> None:
        backend = _backend_class(defers=defers)
        monkeypatch.setattr(f"{__name__}.Backend", backend, raising=False)
        settings.TASKS = {"default": {"BACKEND": f"{__name__}.Backend"}}
        _read_tasks_again()
        try:
            messages = found(MAIL_DELIVERY="task")
        finally:
            _read_tasks_again()

        assert set(messages) == ids
        assert all("not tried again" in message.msg for message in messages.values())

    def test_tasks_without_a_backend_are_an_error(self, settings: Any) -> None:
        settings.TASKS = {"default": {"BACKEND": "no.such.Backend"}}
        _read_tasks_again()
        try:
            assert set(found(MAIL_DELIVERY="task")) == {"platform_auth.E014"}
        finally:
            _read_tasks_again()

    def test_inline_delivery_is_not_fit_for_production(self) -> None:
        assert "platform_auth.E025" in found(deploy=True, MAIL_DELIVERY="inline")

    @override_settings(DEBUG=True)
    def test_debug_is_not_fit_for_production(self) -> None:
        assert "platform_auth.E020" in found(deploy=True)

    @pytest.mark.parametrize("hashers", [["django.contrib.auth.hashers.PBKDF2PasswordHasher", ARGON2], []])
    def test_passwords_without_argon2_are_not_fit_for_production(
        self, settings: Any, hashers: list[str]
    ) -> None:
        settings.PASSWORD_HASHERS = hashers

        assert "platform_auth.E024" in found(deploy=True)

    def test_a_proxy_that_the_settings_ignore_is_a_warning(self, settings: Any) -> None:
        settings.SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https")

        assert "platform_auth.W021" in found(deploy=True)
        assert "platform_auth.W021" not in found(deploy=True, TRUSTED_PROXY_COUNT=1)

    def test_tokens_in_urls_are_not_fit_for_production(self) -> None:
        assert "platform_auth.W022" in found(deploy=True, ACCESS_TOKEN_IN_QUERY=True)

    @pytest.mark.parametrize(
        ("constraint", "is_sound"),
        [
            (UniqueConstraint(Lower("email"), name="once"), connection.vendor != "mysql"),
            (UniqueConstraint(Lower("email"), name="once", condition=Q(is_active=True)), False),
            (UniqueConstraint(fields=["email"], name="once"), False),
        ],
        ids=["on the lower-cased address", "under a condition", "on the address as it is"],
    )
    def test_two_accounts_with_the_same_address_are_a_warning(
        self, monkeypatch: pytest.MonkeyPatch, constraint: Any, is_sound: bool
    ) -> None:
        """The hint's code is tested in test_email_index."""
        monkeypatch.setitem(vars(get_user_model()._meta.get_field("email")), "unique", False)
        monkeypatch.setattr(get_user_model()._meta, "constraints", [constraint])

        assert (said("W009") == []) is is_sound

    @pytest.mark.parametrize(
        ("collation", "is_sound"),
        [("NOCASE", True), ("case_insensitive", True), ("C", False), (None, connection.vendor == "mysql")],
    )
    def test_a_unique_address_with_a_collation_that_ignores_case_passes(
        self, monkeypatch: pytest.MonkeyPatch, collation: str | None, is_sound: bool
    ) -> None:
        field = get_user_model()._meta.get_field("email")
        monkeypatch.setitem(vars(field), "unique", True)
        monkeypatch.setattr(field, "db_collation", collation)

        assert (said("W009") == []) is is_sound

    def test_sessions_and_users_in_different_databases_are_an_error(self, settings: Any) -> None:
        """security.md, row 48."""
        settings.DATABASE_ROUTERS = ["tests.checks.test_checks.RouterApart"]

        message = found()["platform_auth.E015"]

        assert "platform_auth.RefreshSession" in message.msg

    @pytest.mark.parametrize("missing", ["rest_framework", "django_otp"])
    def test_a_missing_app_is_an_error(self, settings: Any, missing: str) -> None:
        names = [name for name in settings.INSTALLED_APPS if name != missing]
        with override_settings(INSTALLED_APPS=names):
            (message,) = said("E017")
        assert message.msg == f"{missing} is not installed."

    @pytest.mark.parametrize("engines", [[], [{"BACKEND": DJANGO_TEMPLATES}]], ids=["none", "no APP_DIRS"])
    def test_templates_that_are_not_found_are_an_error(self, settings: Any, engines: list[Any]) -> None:
        settings.TEMPLATES = engines

        message = found()["platform_auth.E018"]

        assert isinstance(message, Error)
        assert "email/reset_link.txt" in message.msg

    def test_a_broken_template_of_the_hosts_is_an_error(self, settings: Any, tmp_path: Path) -> None:
        (tmp_path / "platform_auth").mkdir()
        (tmp_path / "platform_auth" / "error.html").write_text("{% nonsense %}")
        settings.TEMPLATES = [{**settings.TEMPLATES[0], "DIRS": [str(tmp_path)]}]

        assert ": error.html." in found()["platform_auth.E018"].msg

    @override_settings(TEMPLATES=[])
    def test_every_template_is_checked(self) -> None:
        folder = Path(platform_auth.__file__).parent / "templates" / "platform_auth"
        names = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}

        (message,) = said("E018")

        assert set(message.msg.partition(": ")[2].rstrip(".").split(", ")) == names

    def test_the_admin_after_this_package_is_a_warning(self, settings: Any) -> None:
        names = [name for name in settings.INSTALLED_APPS if name != "django.contrib.admin"]
        with override_settings(INSTALLED_APPS=[*names, "django.contrib.admin"]):
            assert said("W010")

    def test_an_admin_without_autodiscovery_is_a_warning(self, settings: Any) -> None:
        simple = "django.contrib.admin.apps.SimpleAdminConfig"
        names = [simple if name == "django.contrib.admin" else name for name in settings.INSTALLED_APPS]
        with override_settings(INSTALLED_APPS=names):
            assert said("W010")


class RouterApart:
    """Routes sessions to another database than users."""

    def db_for_write(self, model: Any, **hints: Any) -> str | None:
        return "elsewhere" if model.__name__ == "RefreshSession" else None


@pytest.mark.django_db
class TestDatabase:
    """Checks that need the database; under `check --database default`."""

    def test_good_rows_pass(self) -> None:
        assert found(databases=["default"]) == {}

    def test_they_only_run_if_the_database_may_be_queried(self, django_assert_num_queries: Any) -> None:
        with django_assert_num_queries(0):
            found()

    @pytest.mark.django_db(transaction=True)
    def test_they_find_nothing_before_the_first_migration(self) -> None:
        table = AuthEvent._meta.db_table
        with connection.schema_editor() as editor:
            editor.alter_db_table(AuthEvent, table, "away")
        try:
            assert found(databases=["default"]) == {}
        finally:
            with connection.schema_editor() as editor:
                editor.alter_db_table(AuthEvent, "away", table)

    def test_a_factor_whose_key_is_gone_is_an_error(self, settings: Any) -> None:
        """Keys that were derived from an old SECRET_KEY."""
        factor = TOTPFactor(user=make_user())
        factor.secret = "JBSWY3DPEHPK3PXP"
        factor.save()
        assert found(databases=["default"]) == {}
        lost = settings.SECRET_KEY

        settings.SECRET_KEY = "another" * 8
        assert set(found(databases=["default"])) == {"platform_auth.E040"}
        settings.SECRET_KEY_FALLBACKS = [lost]
        assert found(databases=["default"]) == {}

    def test_a_provider_whose_key_is_gone_is_an_error(self, settings: Any) -> None:
        provider = OAuthProvider(key="github", kind="github", client_id="id")
        provider.client_secret = "secret"
        provider.save()

        settings.SECRET_KEY = "another" * 8

        assert "provider github" in found(databases=["default"])["platform_auth.E040"].msg

    def test_a_policy_for_a_group_that_does_not_exist_is_a_warning(self) -> None:
        Group.objects.create(name="Accounting")

        message = found(databases=["default"], TFA_REQUIRED_GROUPS=["Acounting"])["platform_auth.W040"]

        assert message.hint == 'Did you mean "Accounting"?'
        assert found(databases=["default"], TFA_REQUIRED_GROUPS=["Accounting"]) == {}

    def test_a_public_role_that_manages_permissions_is_a_warning(self) -> None:
        """security.md, row 127."""
        group = Group.objects.create(name="Public")
        group.permissions.set(Permission.objects.filter(codename__in=["change_group", "view_note"]))

        message = found(databases=["default"])["platform_auth.W041"]

        assert "auth.change_group" in message.msg
        assert "view_note" not in message.msg

    def test_a_proxy_that_was_seen_is_a_warning(self) -> None:
        events.record(AuthEvent.Kind.PROXY_IGNORED, who=Caller(None, ""))

        assert set(found(databases=["default"])) == {"platform_auth.W042"}
        assert found(databases=["default"], TRUSTED_PROXY_COUNT=1) == {}

    def test_they_have_djangos_database_tag(self) -> None:
        with override_settings(PLATFORM_AUTH={**GOOD, "TFA_REQUIRED_GROUPS": ["nobody"]}):
            messages = run_checks(tags=[Tags.database], databases=["default"])

        assert "platform_auth.W040" in {message.id for message in messages}
