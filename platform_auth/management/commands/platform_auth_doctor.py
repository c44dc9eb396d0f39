"""Show the effective configuration and any problems with it."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

from django.conf import settings
from django.core.cache import caches
from django.core.checks import CheckMessage, Error, run_checks
from django.core.exceptions import ImproperlyConfigured
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import DatabaseError, connections, router
from django.template.defaultfilters import pluralize
from django.urls import NoReverseMatch, reverse
from django.utils import timezone

from platform_auth import limits, public_role, signed_tokens
from platform_auth.conf import DEFAULT_LIMITS, SETTINGS, conf
from platform_auth.models import AuthEvent, OAuthProvider, RefreshSession
from platform_auth.public_role import exposure

AT_MOST = 10_000
"""How many rows are counted; more are shown as "10000 or more"."""

Facts = dict[str, Any]


class Command(BaseCommand):
    """Facts first, then all checks, including those for deployment and the database. No secret is printed."""

    help = "Shows the effective configuration and any problems with it. Fails if a check reports an error."
    requires_system_checks = []

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--json", action="store_true", help="Print JSON.")
        parser.add_argument(
            "--exposure", action="store_true", help="List the routes that respond without a token instead."
        )

    def handle(self, *args: Any, **options: Any) -> None:
        if options["exposure"]:
            self._show_exposure(as_json=options["json"])
            return
        facts = {name: _ask(section) for name, section in SECTIONS.items()}
        messages = _messages()
        if options["json"]:
            checks = [
                {
                    "id": message.id,
                    "level": "error" if isinstance(message, Error) else "warning",
                    "message": str(message.msg),
                    "hint": str(message.hint or ""),
                }
                for message in messages
            ]
            self.stdout.write(json.dumps({**facts, "checks": checks}, indent=2, default=str))
        else:
            self._show(facts, messages)
        errors = sum(isinstance(message, Error) for message in messages)
        if errors:
            raise CommandError(f"{errors} error{pluralize(errors)}")

    def _show(self, facts: Facts, messages: list[CheckMessage]) -> None:
        for name, section in facts.items():
            self.stdout.write(self.style.MIGRATE_HEADING(name.replace("_", " ")))
            for key, value in section.items():
                self.stdout.write(f"  {key.replace('_', ' ')}: {_text(value)}")
        self.stdout.write(self.style.MIGRATE_HEADING("checks"))
        for message in messages:
            style = self.style.ERROR if isinstance(message, Error) else self.style.WARNING
            self.stdout.write(style(f"  {message.id}: {message.msg}"))
            self.stdout.write(f"    {message.hint}")
        if not messages:
            self.stdout.write(self.style.SUCCESS("  no problems found"))

    def _show_exposure(self, *, as_json: bool) -> None:
        found = exposure.exposed()
        if as_json:
            listed = [route._asdict() for route in found]
            self.stdout.write(json.dumps({"public_role": conf.PUBLIC_ROLE, "exposure": listed}, indent=2))
            return
        for route in found:
            for methods, reason in (
                (route.by_role, f'by the public role "{conf.PUBLIC_ROLE}"'),
                (route.open_to_all, "to everyone, regardless of the public role"),
                (("?",) if route.uncertain else (), "unknown: the view depends on the request"),
            ):
                if methods:
                    self.stdout.write(f"{route.url}  {', '.join(methods)}  {route.model or '-'}  {reason}")
        if not found:
            self.stdout.write("No route on this site responds without a token.")


def _lifetimes() -> Facts:
    return {
        "access_token": _seconds(conf.ACCESS_TOKEN_TTL),
        "refresh_token": _seconds(conf.REFRESH_TOKEN_TTL),
        "session": _seconds(conf.SESSION_MAX_AGE),
        "grace_period": _seconds(conf.REFRESH_GRACE_PERIOD),
        "password_reset_link": _seconds(conf.PASSWORD_RESET_TOKEN_TTL),
        "events": _seconds(conf.EVENT_RETENTION),
        "unit_of_expires": conf.EXPIRES_UNIT,
    }


def _keys() -> Facts:
    ring = signed_tokens.keyring()
    return {
        "algorithm": conf.SIGNING_ALGORITHM,
        "signs_with": next(iter(ring)),
        "verifies_with": list(ring),
        "signing_keys_from": _source("SIGNING_KEYS"),
        "encryption_keys_from": _source("ENCRYPTION_KEYS"),
        "encryption_keys": len(conf.ENCRYPTION_KEYS),
        "issuer": conf.ISSUER,
        "audience": conf.AUDIENCE,
    }


def _source(name: str) -> str:
    return name if SETTINGS[name].value else "SECRET_KEY (derived)"


def _cookies() -> Facts:
    attributes = [
        "HttpOnly",
        f"SameSite={conf.COOKIE_SAMESITE}",
        "Path=/",
        *(["Secure"] if conf.COOKIE_SECURE else []),
        *([f"Domain={conf.COOKIE_DOMAIN}"] if conf.COOKIE_DOMAIN else []),
    ]
    return {
        "refresh_token": conf.cookie_name("refresh"),
        "access_token": conf.cookie_name("access"),
        "attributes": "; ".join(attributes),
        "trusted_origins": list(settings.CSRF_TRUSTED_ORIGINS),
    }


def _limits() -> Facts:
    cache = type(caches["default"])
    where = (
        f"cache ({cache.__name__})"
        if limits.cache_is_atomic()
        else f"database ({cache.__name__} can't count atomically)"
    )
    facts: Facts = {"counted_in": where, "one_time_passwords_counted_in": "database"}
    for purpose, rates in DEFAULT_LIMITS.items():
        for name in rates:
            limit, window = conf.rate(purpose, name)
            key = f"otp_in_the_{name}_window" if purpose == "otp" else f"{purpose}_per_{name}"
            facts[key] = f"{limit} in {_seconds(window)} s"
    return facts


def _callers() -> Facts:
    seen = AuthEvent.objects.filter(kind=AuthEvent.Kind.PROXY_IGNORED).exists()
    count = conf.TRUSTED_PROXY_COUNT
    return {
        "address_from": f"X-Forwarded-For, entry {count} from the right" if count else "REMOTE_ADDR",
        "trusted_proxies": count,
        "ignored_a_forwarding_header_from_a_private_address": seen,
    }


def _mail() -> Facts:
    return {
        "delivery": conf.MAIL_DELIVERY,
        "backend": settings.EMAIL_BACKEND,
        "sender": settings.DEFAULT_FROM_EMAIL,
        "reset_link": conf.PASSWORD_RESET_URL or "the built-in page",
        "reset_urls_allowed": conf.PASSWORD_RESET_URL_ALLOW_LIST,
    }


def _urls() -> Facts:
    facts: Facts = {"public_url": conf.PUBLIC_URL, "redirects_allowed": conf.OAUTH_REDIRECT_ALLOW_LIST}
    for name in ("login", "refresh", "logout"):
        try:
            facts[name] = reverse(f"platform_auth:{name}")
        except NoReverseMatch:
            facts[name] = "missing: include platform_auth.urls in ROOT_URLCONF"
    return facts


def _providers() -> Facts:
    return {
        provider.key: f"{provider.get_kind_display()}, {'enabled' if provider.enabled else 'disabled'}"
        for provider in OAuthProvider.objects.order_by("order", "key")
    }


def _second_factor() -> Facts:
    return {
        "required_for_groups": conf.TFA_REQUIRED_GROUPS,
        "required_for_staff": conf.TFA_REQUIRED_FOR_STAFF,
        "provider_login_skips_one_time_password": conf.OAUTH_SATISFIES_MFA,
        "password_login": conf.PASSWORD_LOGIN,
    }


def _public_role() -> Facts:
    return {
        "group": conf.PUBLIC_ROLE,
        "permissions": sorted(public_role.permissions()),
        "ignored": public_role.reserved(),
    }


def _tables() -> Facts:
    now = timezone.now()
    database = router.db_for_write(RefreshSession)
    old = AuthEvent.objects.filter(created_at__lte=now - conf.EVENT_RETENTION)
    return {
        "database": connections[database].vendor,
        "live_sessions": _count(RefreshSession.objects.live(now=now)),
        "sessions_to_prune": _count(RefreshSession.objects.expired(now=now)),
        "events_to_prune": _count(old),
    }


SECTIONS = {
    "lifetimes_in_seconds": _lifetimes,
    "keys": _keys,
    "cookies": _cookies,
    "limits": _limits,
    "callers": _callers,
    "mail": _mail,
    "urls": _urls,
    "providers": _providers,
    "second_factor": _second_factor,
    "public_role": _public_role,
    "tables": _tables,
}


def _ask(section: Any) -> Facts:
    """Return the facts of a section, or why there are none: this command must work when the installation doesn't."""
    try:
        return section()  # type: ignore[no-any-return]
    except (DatabaseError, ImproperlyConfigured) as error:
        return {"unknown": str(error).strip() or type(error).__name__}
    except (TypeError, ValueError, AttributeError):
        return {"unknown": "a setting has the wrong type, see the checks"}


def _messages() -> list[CheckMessage]:
    databases = [router.db_for_write(RefreshSession)]
    messages = run_checks(tags=["platform_auth"], include_deployment_checks=True, databases=databases)
    return sorted(
        (message for message in messages if not message.is_silenced()),
        key=lambda message: (not isinstance(message, Error), message.id),
    )


def _count(rows: Any) -> int | str:
    count = rows.order_by()[:AT_MOST].count()
    return f"{AT_MOST} or more" if count == AT_MOST else count


def _seconds(time: timedelta | None) -> int | None:
    return None if time is None else int(time.total_seconds())


def _text(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(str(item) for item in value) or "none"
    if value is None:
        return "none"
    return {True: "yes", False: "no"}.get(value, str(value)) if isinstance(value, bool) else str(value)
