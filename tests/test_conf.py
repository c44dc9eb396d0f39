"""Settings are read when they are used."""

from __future__ import annotations

from datetime import timedelta
from typing import Any, Literal, get_args, get_origin

import pytest
from django.core.exceptions import ImproperlyConfigured

from platform_auth.conf import SETTINGS, Rate, Setting, conf, derive_key, parse_rate


class TestReading:
    def test_a_change_takes_effect_at_once(self, configure: Any) -> None:
        configure(ACCESS_TOKEN_TTL=timedelta(seconds=1))
        assert timedelta(seconds=1) == conf.ACCESS_TOKEN_TTL
        configure(ACCESS_TOKEN_TTL=timedelta(seconds=2))
        assert timedelta(seconds=2) == conf.ACCESS_TOKEN_TTL

    def test_every_setting_has_a_default(self, settings: Any) -> None:
        del settings.PLATFORM_AUTH
        for name, setting in SETTINGS.items():
            assert setting.value is setting.default
            getattr(conf, name)

    def test_the_types_for_mypy_and_for_the_checks_agree(self) -> None:
        """mypy reads `Setting[X]`, the checks read the field `type`."""
        for name, setting in SETTINGS.items():
            declared = getattr(setting, "__orig_class__", Setting[type(setting.default)])
            (kind,) = get_args(declared)
            if get_args(kind) and not setting.read:
                assert setting.type == get_args(kind)
            if get_origin(kind) is not Literal:
                assert isinstance(getattr(conf, name), list if get_origin(kind) is list else kind)

    def test_an_unknown_setting_is_an_error(self) -> None:
        with pytest.raises(AttributeError):
            _ = conf.NO_SUCH_SETTING

    def test_the_defaults_are_those_that_hosts_rely_on(self, settings: Any) -> None:
        settings.PLATFORM_AUTH = {}

        assert timedelta(minutes=15) == conf.ACCESS_TOKEN_TTL
        assert timedelta(days=7) == conf.REFRESH_TOKEN_TTL
        assert timedelta(days=30) == conf.SESSION_MAX_AGE
        assert timedelta(seconds=10) == conf.REFRESH_GRACE_PERIOD
        assert timedelta(hours=1) == conf.PASSWORD_RESET_TOKEN_TTL
        assert conf.EXPIRES_UNIT == "seconds"
        assert conf.SIGNING_ALGORITHM == "HS256"
        assert conf.COOKIE_SAMESITE == "Lax"
        assert conf.COOKIE_DOMAIN is None
        assert conf.COOKIE_SECURE is True
        assert conf.TRUSTED_PROXY_COUNT == 0
        assert conf.PUBLIC_ROLE == "Public"
        assert not conf.ACCESS_TOKEN_IN_QUERY
        assert not conf.OAUTH_SATISFIES_MFA
        assert conf.PASSWORD_LOGIN
        assert conf.ISSUER == conf.AUDIENCE == "platform_auth"
        assert conf.PUBLIC_URL is None

    def test_the_public_url_is_local_in_debug_and_loses_its_slash(
        self, settings: Any, configure: Any
    ) -> None:
        settings.PLATFORM_AUTH = {}
        settings.DEBUG = True
        assert conf.PUBLIC_URL == conf.ISSUER == "http://localhost:8000"
        configure(PUBLIC_URL="https://site.example/")
        assert conf.PUBLIC_URL == "https://site.example"

    def test_the_reset_urls_come_from_the_environment_unless_set(
        self, configure: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("PASSWORD_RESET_URL_ALLOW_LIST", " https://a.example/r , ,https://b.example/r")
        assert conf.PASSWORD_RESET_URL_ALLOW_LIST == ["https://a.example/r", "https://b.example/r"]
        configure(PASSWORD_RESET_URL_ALLOW_LIST=[])
        assert conf.PASSWORD_RESET_URL_ALLOW_LIST == []


class TestRates:
    @pytest.mark.parametrize(
        ("text", "limit", "seconds"),
        [("5/m", 5, 60), ("30/s", 30, 1), ("100/h", 100, 3600), ("35/d", 35, 86400), ("10/15m", 10, 900)],
    )
    def test_rates_are_parsed(self, text: str, limit: int, seconds: int) -> None:
        assert parse_rate(text) == Rate(limit, timedelta(seconds=seconds))

    @pytest.mark.parametrize(
        "text", ["", "5", "5/", "/m", "0/m", "-5/m", "5/w", "5/0m", "5 /m", "5/m\n", "٥/m", None, 5]
    )
    def test_any_other_text_is_an_error(self, text: Any) -> None:
        with pytest.raises(ImproperlyConfigured):
            parse_rate(text)

    def test_the_defaults_are_those_of_the_contract(self) -> None:
        rates = {
            ("login", "account_and_address"): "5/m",
            ("login", "address"): "30/m",
            ("login", "account"): "100/h",
            ("otp", "short"): "10/15m",
            ("otp", "long"): "35/d",
            ("password_request", "address"): "20/h",
            ("password_request", "account"): "5/h",
            ("refresh", "session"): "60/m",
        }
        for (purpose, name), text in rates.items():
            assert conf.rate(purpose, name) == parse_rate(text)


class TestDerivedKeys:
    def test_each_purpose_has_its_own_key(self) -> None:
        keys = {derive_key("secret", label=label) for label in ("a", "b", "access-token")}

        assert len(keys) == 3
        assert {len(key) for key in keys} == {32}
        assert derive_key("secret", label="a") == derive_key(b"secret", label="a")
