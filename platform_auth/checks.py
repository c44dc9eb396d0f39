"""System checks: every setting that is mistyped, impossible or unsafe, with the fix as its hint.

Those below E020 and W020 run always, those from there under `check --deploy`, those from E040 and W040 where
checks may ask the database (`check --database default`, `migrate`).
"""

from __future__ import annotations

import difflib
import importlib
import re
from collections.abc import Callable, Iterable, Sequence
from datetime import timedelta
from typing import Any, cast
from urllib.parse import urlsplit

from django.apps import apps
from django.conf import settings
from django.contrib.admin.apps import AdminConfig
from django.contrib.auth import get_user_model
from django.contrib.auth.backends import ModelBackend
from django.contrib.auth.hashers import Argon2PasswordHasher
from django.contrib.auth.models import Group
from django.core.cache import caches
from django.core.cache.backends.locmem import LocMemCache
from django.core.checks import CheckMessage, Error, Tags, Warning, register
from django.core.exceptions import ImproperlyConfigured
from django.db import DatabaseError, connections, models, router
from django.db.models.functions import Lower
from django.template import TemplateDoesNotExist, TemplateSyntaxError
from django.template.loader import get_template
from django.utils.http import is_same_domain
from django.utils.module_loading import import_string

from . import events, limits, public_role, redirects, sealing, signed_tokens
from .backends import EmailBackend, PublicRoleBackend
from .conf import DEFAULT_LIMITS, MAXIMUM_GRACE_PERIOD, SECOND, SETTINGS, conf, configured, parse_rate
from .models import AuthEvent, OAuthProvider, TOTPFactor

MOST_TIMES = 20
"""How many times the default a limit may let through before it is none."""

TEMPLATES = (
    *(
        f"email/{name}.{ending}"
        for name in ("reset_link", "notice")
        for ending in ("subject.txt", "txt", "html")
    ),
    *("email/base.html", "base.html", "password_request.html", "password_reset.html", "error.html"),
)
"""What mails and pages are made of, below `platform_auth/`."""

MINIMUM_KEY_BYTES = 32
SAMPLE = 100
"""How many of the oldest and of the newest sealed factors are opened by way of trial."""

_CASELESS = re.compile(r"nocase|insensitive|_ci\b|_ci_", re.IGNORECASE)
_HOST = re.compile(r"[a-z0-9]([a-z0-9.-]*[a-z0-9])?|[0-9a-f:]*:[0-9a-f:.]*")
_COOKIE_CHARACTERS = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.")


def register_checks() -> None:
    """Register them all. Once, when the apps are ready."""
    for check in (
        check_apps,
        check_templates,
        check_names,
        check_types,
        check_limits,
        check_public_url,
        check_keys,
        check_lifetimes,
        check_cookies,
        check_allow_lists,
        check_private_hosts,
        check_backends,
        check_default_permissions,
        check_cache,
        check_mail_delivery,
        check_email_is_unique,
        check_one_database,
        check_admin,
    ):
        register(check, "platform_auth")
    register(check_deployment, "platform_auth", Tags.security, deploy=True)
    for check in (check_sealed_secrets, check_groups, check_public_role, check_proxies):
        register(check, "platform_auth", Tags.database)


def check_names(**kwargs: Any) -> list[CheckMessage]:
    """E001: a setting that does not exist."""
    found: list[CheckMessage] = []
    for name in configured():
        if name not in SETTINGS:
            found.append(
                Error(
                    f'PLATFORM_AUTH has no setting "{name}".',
                    hint=_nearest(str(name), SETTINGS),
                    id="platform_auth.E001",
                )
            )
    return found


def check_types(**kwargs: Any) -> list[CheckMessage]:
    """E002: a value of the wrong type, or none of the words that a setting may be."""
    if not isinstance(getattr(settings, "PLATFORM_AUTH", {}), dict):
        return [
            Error("PLATFORM_AUTH is no dict.", hint="Write PLATFORM_AUTH = {...}.", id="platform_auth.E002")
        ]
    return [
        Error(f'PLATFORM_AUTH["{name}"] is {_shown(name)}.', hint=_expected(name), id="platform_auth.E002")
        for name in SETTINGS
        if not _is_sound(name)
    ]


def check_limits(**kwargs: Any) -> list[CheckMessage]:
    """E003: a limit that does not exist, or no rate."""
    found: list[CheckMessage] = []

    def add(message: str, hint: str) -> None:
        found.append(Error(f'PLATFORM_AUTH["LIMITS"]: {message}', hint=hint, id="platform_auth.E003"))

    if not _is_sound("LIMITS"):
        return found
    for purpose, rates in conf.LIMITS.items():
        if purpose not in DEFAULT_LIMITS:
            add(f'there is no "{purpose}".', _nearest(str(purpose), DEFAULT_LIMITS))
            continue
        if not isinstance(rates, dict):
            names = ", ".join(f'"{name}": "5/m"' for name in DEFAULT_LIMITS[purpose])
            add(f'"{purpose}" is no dict.', f'Write "{purpose}": {{{names}}}.')
            continue
        for name, rate in rates.items():
            if name not in DEFAULT_LIMITS[purpose]:
                add(f'"{purpose}" has no "{name}".', _nearest(str(name), DEFAULT_LIMITS[purpose]))
                continue
            try:
                parse_rate(rate)
            except ImproperlyConfigured:
                default = DEFAULT_LIMITS[purpose][name]
                add(
                    f'"{name}" of "{purpose}" is no rate.',
                    f'Write it as "{default}": a number, "/", s, m, h or d.',
                )
    return found


def check_public_url(**kwargs: Any) -> list[CheckMessage]:
    """E004, E005: no base URL, or what is none."""
    if not _is_sound("PUBLIC_URL"):
        return []
    url = conf.PUBLIC_URL
    if url is None:
        return [
            Error(
                "PUBLIC_URL is missing, so no mail can hold a link and no provider can send anybody back.",
                hint='Set PLATFORM_AUTH["PUBLIC_URL"] = "https://..." to the base URL of this site.',
                id="platform_auth.E004",
            )
        ]
    if redirects.origin_of(url) is None or not redirects.is_unambiguous(url) or "?" in url:
        return [
            Error(
                "PUBLIC_URL is no base URL.",
                hint='Write scheme and host in lower case, no query, no user: "https://site.example".',
                id="platform_auth.E005",
            )
        ]
    return []


def check_apps(**kwargs: Any) -> list[CheckMessage]:
    """E017: an app that is missing."""
    return [
        Error(
            f"{name} is not installed.",
            hint=f'Put "{name}" into INSTALLED_APPS, before "platform_auth".',
            id="platform_auth.E017",
        )
        for name in ("rest_framework", "django_otp")
        if not apps.is_installed(name)
    ]


def check_templates(**kwargs: Any) -> list[CheckMessage]:
    """E018: mails and pages that cannot be rendered."""
    faulty = []
    for name in TEMPLATES:
        try:
            get_template(f"platform_auth/{name}")
        except (TemplateDoesNotExist, TemplateSyntaxError, ImproperlyConfigured):
            faulty.append(name)
    if not faulty:
        return []
    return [
        Error(
            f"These templates of platform_auth, for its mails and pages, do not load: {', '.join(faulty)}.",
            hint="Give TEMPLATES an engine of DjangoTemplates with APP_DIRS = True, or with the loader "
            "app_directories, and look for a fault in those of yours that override ours.",
            id="platform_auth.E018",
        )
    ]


def check_keys(**kwargs: Any) -> list[CheckMessage]:
    """E006-E008: keys that are missing, short, of another kind, or SECRET_KEY itself."""
    if not _is_sound("SIGNING_ALGORITHM", "SIGNING_KEYS", "ENCRYPTION_KEYS"):
        return []
    found: list[CheckMessage] = []
    try:
        signed_tokens.keyring()
    except (ImproperlyConfigured, ValueError, TypeError) as error:
        found.append(
            Error(
                f"The signing keys cannot be used: {error}",
                hint='Set PLATFORM_AUTH["SIGNING_KEYS"] to a list, newest first: for HS256 strings of 32 random '
                "bytes or more, such as secrets.token_urlsafe(48); else PEM private keys. Without the setting, "
                "HS256 keys are derived from SECRET_KEY.",
                id="platform_auth.E006",
            )
        )
    own = {name: _get(name) or () for name in ("SIGNING_KEYS", "ENCRYPTION_KEYS")}
    if any(len(_as_bytes(key)) < MINIMUM_KEY_BYTES for key in own["ENCRYPTION_KEYS"]):
        found.append(
            Error(
                f'One of PLATFORM_AUTH["ENCRYPTION_KEYS"] has fewer than {MINIMUM_KEY_BYTES} bytes.',
                hint="Put a new one, such as secrets.token_urlsafe(48), in front of it, run "
                "`manage.py platform_auth_rotate_keys`, then take the short one away.",
                id="platform_auth.E007",
            )
        )
    if {_as_bytes(key) for key in own["SIGNING_KEYS"]} & {_as_bytes(key) for key in own["ENCRYPTION_KEYS"]}:
        found.append(
            Error(
                "A key stands in SIGNING_KEYS and in ENCRYPTION_KEYS.",
                hint="Use one key for one purpose: put a new one in front of ENCRYPTION_KEYS, run "
                "`manage.py platform_auth_rotate_keys`, then take the shared one out of it.",
                id="platform_auth.E008",
            )
        )
    secrets = {_as_bytes(secret) for secret in conf.django_secrets}
    for name, keys in own.items():
        if any(_as_bytes(key) in secrets for key in keys):
            found.append(
                Error(
                    f'One of PLATFORM_AUTH["{name}"] is SECRET_KEY itself.',
                    hint="Take it out: without the setting, a key for each purpose is derived from SECRET_KEY.",
                    id="platform_auth.E008",
                )
            )
    return found


def check_lifetimes(**kwargs: Any) -> list[CheckMessage]:
    """E009, E010, W001, W002, W011: times that make no sense, a grace period that is too long or missing."""
    found: list[CheckMessage] = []
    for name in _lifetimes():
        if _get(name) is not None and _get(name) < SETTINGS[name].bounds[0]:
            found.append(
                Error(
                    f'PLATFORM_AUTH["{name}"] is {_shown(name)}, so nothing lives long enough to be used.',
                    hint=f"Leave it out: the default is {_duration(SETTINGS[name].default)}.",
                    id="platform_auth.E009",
                )
            )
    if _is_sound("REFRESH_TOKEN_TTL", "SESSION_MAX_AGE"):
        longest = conf.SESSION_MAX_AGE
        if longest is not None and longest < conf.REFRESH_TOKEN_TTL:
            found.append(
                Warning(
                    "REFRESH_TOKEN_TTL is longer than SESSION_MAX_AGE, which ends every session before.",
                    hint="Set REFRESH_TOKEN_TTL to at most SESSION_MAX_AGE.",
                    id="platform_auth.W001",
                )
            )
    if _is_sound("EVENT_RETENTION") and SECOND <= conf.EVENT_RETENTION < events.FAMILIAR_FOR:
        found.append(
            Warning(
                "EVENT_RETENTION is under 30 days, so addresses from which an account logged in are forgotten: its "
                "owner may be refused while somebody guesses.",
                hint=f"Set it to {_duration(events.FAMILIAR_FOR)} or more.",
                id="platform_auth.W011",
            )
        )
    if not _is_sound("REFRESH_GRACE_PERIOD"):
        return found
    grace = _get("REFRESH_GRACE_PERIOD")
    if not timedelta(0) <= grace <= MAXIMUM_GRACE_PERIOD:
        found.append(
            Error(
                f"REFRESH_GRACE_PERIOD is {_duration(grace)}; at most 60 seconds count.",
                hint="Leave it out (10 seconds): it is for answers that got lost and tabs that refresh together.",
                id="platform_auth.E010",
            )
        )
    elif not grace:
        found.append(
            Warning(
                "REFRESH_GRACE_PERIOD is 0: an answer that gets lost, or a second tab, ends the session.",
                hint="Leave it out (10 seconds). What was spent longer ago reveals a theft all the same.",
                id="platform_auth.W002",
            )
        )
    return found


def check_cookies(**kwargs: Any) -> list[CheckMessage]:
    """E011, E012, E016: cookies that browsers refuse or mix up."""
    if not _is_sound("COOKIE_SECURE", "COOKIE_SAMESITE", "REFRESH_COOKIE_NAME", "ACCESS_COOKIE_NAME"):
        return []
    found: list[CheckMessage] = []
    if conf.COOKIE_SAMESITE == "None" and not conf.COOKIE_SECURE:
        found.append(
            Error(
                'COOKIE_SAMESITE is "None" without COOKIE_SECURE, which browsers refuse.',
                hint='Leave COOKIE_SAMESITE out ("Lax"), or serve the site over https with COOKIE_SECURE.',
                id="platform_auth.E011",
            )
        )
    names = [_get("REFRESH_COOKIE_NAME"), _get("ACCESS_COOKIE_NAME")]
    taken = [settings.SESSION_COOKIE_NAME, settings.CSRF_COOKIE_NAME, "oauth_flow", "oauth_pending"]
    if len({*names, *taken}) < 6 or any(
        not name or set(name) - _COOKIE_CHARACTERS or name.startswith("__") for name in names
    ):
        found.append(
            Error(
                "REFRESH_COOKIE_NAME and ACCESS_COOKIE_NAME are no two names of their own.",
                hint="Use letters, digits, hyphens and underscores, and names that no other cookie of the site has.",
                id="platform_auth.E012",
            )
        )
    host = urlsplit(conf.PUBLIC_URL or "").hostname or "" if _is_sound("PUBLIC_URL") else ""
    domain = (conf.COOKIE_DOMAIN or "").lstrip(".") if _is_sound("COOKIE_DOMAIN") else ""
    if host and domain and not is_same_domain(host, f".{domain}"):
        found.append(
            Error(
                f"COOKIE_DOMAIN {domain!r} does not cover the host of PUBLIC_URL, so browsers drop the cookies.",
                hint=f"Leave it out, or name {host!r} or a domain above it.",
                id="platform_auth.E016",
            )
        )
    return found


def check_allow_lists(**kwargs: Any) -> list[CheckMessage]:
    """E013: an entry to which nobody should be sent."""
    found: list[CheckMessage] = []
    lists: list[tuple[str, Sequence[Any], bool]] = []
    if _is_sound("PASSWORD_RESET_URL_ALLOW_LIST"):
        lists.append(("PASSWORD_RESET_URL_ALLOW_LIST", conf.PASSWORD_RESET_URL_ALLOW_LIST, True))
    if _is_sound("OAUTH_REDIRECT_ALLOW_LIST"):
        lists.append(("OAUTH_REDIRECT_ALLOW_LIST", conf.OAUTH_REDIRECT_ALLOW_LIST, False))
    if _is_sound("PASSWORD_RESET_URL") and conf.PASSWORD_RESET_URL is not None:
        lists.append(("PASSWORD_RESET_URL", [conf.PASSWORD_RESET_URL], True))
    for name, entries, for_reset in lists:
        for entry in entries:
            hint = _fault_of(entry, for_reset=for_reset)
            if hint:
                found.append(
                    Error(f"{name}: {entry!r} cannot stand there.", hint=hint, id="platform_auth.E013")
                )
    return found


def check_private_hosts(**kwargs: Any) -> list[CheckMessage]:
    """E019: what is no host stands for none, or was meant for all."""
    hosts = conf.OAUTH_PRIVATE_HOSTS if _is_sound("OAUTH_PRIVATE_HOSTS") else []
    return [
        Error(
            f"OAUTH_PRIVATE_HOSTS: {host!r} is no host.",
            hint='List each host by name or address, such as "id.internal.example": no wildcards, schemes or ports.',
            id="platform_auth.E019",
        )
        for host in hosts
        if not _HOST.fullmatch(host)
    ]


def check_backends(**kwargs: Any) -> list[CheckMessage]:
    """W003-W005: who finds a user, and who knows the public role."""
    classes = _classes(settings.AUTHENTICATION_BACKENDS)
    found: list[CheckMessage] = []
    if _get("PASSWORD_LOGIN") and not any(issubclass(cls, EmailBackend) for cls in classes):
        found.append(
            Warning(
                "EmailBackend is not among AUTHENTICATION_BACKENDS, so nobody logs in with a local password.",
                hint='Put "platform_auth.backends.EmailBackend" in front of AUTHENTICATION_BACKENDS.',
                id="platform_auth.W003",
            )
        )
    if ModelBackend in classes:
        found.append(
            Warning(
                "ModelBackend is among AUTHENTICATION_BACKENDS: it matches accounts that EmailBackend refuses.",
                hint='Take "django.contrib.auth.backends.ModelBackend" out: EmailBackend brings the permissions '
                "too, and logs in by user name in Django admin.",
                id="platform_auth.W004",
            )
        )
    if not any(issubclass(cls, PublicRoleBackend) for cls in classes):
        found.append(
            Warning(
                "PublicRoleBackend is not among AUTHENTICATION_BACKENDS: `has_perm` ignores the public role.",
                hint='Add "platform_auth.backends.PublicRoleBackend" to AUTHENTICATION_BACKENDS.',
                id="platform_auth.W005",
            )
        )
    return found


def check_default_permissions(**kwargs: Any) -> list[CheckMessage]:
    """W006: DRF's own default leaves a view without permissions open to everybody."""
    from rest_framework.permissions import AllowAny
    from rest_framework.settings import api_settings

    try:
        classes: list[Any] = list(api_settings.DEFAULT_PERMISSION_CLASSES)
    except ImportError:
        return []
    if classes and any(cls is not AllowAny for cls in classes):
        return []
    return [
        Warning(
            "A view of yours without permission_classes is open to everybody.",
            hint='Set REST_FRAMEWORK["DEFAULT_PERMISSION_CLASSES"] to '
            '["platform_auth.permissions.PrivateByDefault"].',
            id="platform_auth.W006",
        )
    ]


def check_cache(**kwargs: Any) -> list[CheckMessage]:
    """W007: a cache that cannot count."""
    if limits.cache_is_atomic():
        return []
    return [
        Warning(
            "The default cache cannot count in one step, so the limits are counted in the database.",
            hint="That is safe and slower: each log-in writes three rows. Use Redis or Memcached as the default cache.",
            id="platform_auth.W007",
        )
    ]


def check_mail_delivery(**kwargs: Any) -> list[CheckMessage]:
    """E014, W008: tasks that nobody runs, that the request waits for, or that cannot be tried again later."""
    if conf.MAIL_DELIVERY != "task":
        return []
    try:
        backend = _task_backends()["default"]
    except Exception:
        backend = None
    if backend is None:
        return [
            Error(
                'MAIL_DELIVERY is "task", but there is no task framework that works.',
                hint="Use Django 6.0 or the extra platform-auth[tasks], and set TASKS to a backend with a worker; "
                'or leave MAIL_DELIVERY out ("thread").',
                id="platform_auth.E014",
            )
        ]
    name = type(backend).__name__
    if name in ("ImmediateBackend", "DummyBackend"):
        return [
            Warning(
                f'MAIL_DELIVERY is "task" and the task backend is {name}: either no mail is ever sent, or the '
                "answer waits for it, and its time tells which accounts exist.",
                hint='Set TASKS to a backend with a worker, or leave MAIL_DELIVERY out ("thread").',
                id="platform_auth.W008",
            )
        ]
    if not backend.supports_defer:
        return [
            Warning(
                f'MAIL_DELIVERY is "task" and the task backend {name} cannot run a task later: a mail that fails once '
                "is not tried again.",
                hint='Set TASKS to a backend whose supports_defer is True, or leave MAIL_DELIVERY out ("thread").',
                id="platform_auth.W008",
            )
        ]
    return []


def check_email_is_unique(**kwargs: Any) -> list[CheckMessage]:
    """W009: two accounts of one address: neither could log in."""
    user_model = get_user_model()
    name = user_model.get_email_field_name()
    options = user_model._meta
    if _is_unique_whatever_case(user_model, name):
        return []
    index = f"{options.db_table}_{name}_once"
    is_mysql = _is_mysql(user_model)
    if options.label == "auth.User":
        # The condition is one that the look-up implies, or PostgreSQL would not use the index.
        columns = f"({name})" if is_mysql else f"(LOWER({name})) WHERE LOWER({name}) <> ''"
        drop = f"DROP INDEX {index}" + (f" ON {options.db_table}" if is_mysql else "")
        hint = (
            "auth.User cannot be changed, but its table can. In a migration of yours: migrations.RunSQL("
            f'"CREATE UNIQUE INDEX {index} ON {options.db_table} {columns}", "{drop}"), '
            'then put "platform_auth.W009" into SILENCED_SYSTEM_CHECKS.'
        )
    elif is_mysql:
        hint = f'Set unique=True on the field "{name}" of {options.label}, and make a migration.'
    else:
        hint = (
            f'Add to the Meta of {options.label}: constraints = [models.UniqueConstraint(Lower("{name}"), '
            f'name="{index}")], with "from django.db.models.functions import Lower", and make a migration.'
        )
    return [
        Warning(
            f"Two accounts of {options.label} may have one e-mail address but for its case. Neither could log in.",
            hint=hint,
            id="platform_auth.W009",
        )
    ]


def check_one_database(**kwargs: Any) -> list[CheckMessage]:
    """E015: sessions and users in different databases, which no transaction spans."""
    user_model = get_user_model()
    home = router.db_for_write(user_model)
    apart = [
        model._meta.label
        for model in apps.get_app_config("platform_auth").get_models()
        if router.db_for_write(model) != home
    ]
    if not apart:
        return []
    return [
        Error(
            f"These are not written to {home!r}, the database of the users: {', '.join(sorted(apart))}.",
            hint='Have DATABASE_ROUTERS send the app "platform_auth" to the database of the user model.',
            id="platform_auth.E015",
        )
    ]


def check_admin(**kwargs: Any) -> list[CheckMessage]:
    """W010: the user's page in the admin was registered too late to be added to."""
    if not apps.is_installed("django.contrib.admin"):
        return []
    labels = [config.name for config in apps.get_app_configs()]
    finds_them_in_time = isinstance(apps.get_app_config("admin"), AdminConfig)
    if finds_them_in_time and labels.index("django.contrib.admin") < labels.index("platform_auth"):
        return []
    return [
        Warning(
            "The user's page in the admin does not show sessions, second factor and linked accounts.",
            hint='Put "django.contrib.admin" (not its SimpleAdminConfig) before "platform_auth" in INSTALLED_APPS, '
            "or add platform_auth.admin.UserInlines to the bases of your UserAdmin and silence this check.",
            id="platform_auth.W010",
        )
    ]


def check_deployment(**kwargs: Any) -> list[CheckMessage]:
    """E020-E025, W020-W026: what is fit for a desk and not for a server."""
    return [message for judge in _DEPLOYMENT for message in judge()]


def _debug() -> Iterable[CheckMessage]:
    if settings.DEBUG:
        yield Error(
            "DEBUG is on: cookies travel without Secure, and error pages show what they should not.",
            hint="Set DEBUG = False.",
            id="platform_auth.E020",
        )


def _insecure_cookies() -> Iterable[CheckMessage]:
    if not settings.DEBUG and not conf.COOKIE_SECURE:
        yield Error(
            "The cookies with the tokens travel over plain http too.",
            hint='Leave PLATFORM_AUTH["COOKIE_SECURE"] out: it is on outside DEBUG.',
            id="platform_auth.E021",
        )


def _plain_public_url() -> Iterable[CheckMessage]:
    if _is_sound("PUBLIC_URL") and (conf.PUBLIC_URL or "https:").startswith("http:"):
        yield Error(
            "PUBLIC_URL is plain http: reset links and provider log-ins would travel in clear.",
            hint='Set PLATFORM_AUTH["PUBLIC_URL"] to the https URL of this site.',
            id="platform_auth.E022",
        )


def _long_lifetimes() -> Iterable[CheckMessage]:
    for name in _lifetimes():
        longest = SETTINGS[name].bounds[1]
        if longest and name != "SESSION_MAX_AGE" and _get(name) > longest:
            yield Error(
                f'PLATFORM_AUTH["{name}"] is {_shown(name)}.',
                hint=f"Set it to {_duration(longest)} or less; the default is {_duration(SETTINGS[name].default)}.",
                id="platform_auth.E023",
            )


def _endless_sessions() -> Iterable[CheckMessage]:
    longest = SETTINGS["SESSION_MAX_AGE"].bounds[1]
    if _is_sound("SESSION_MAX_AGE") and (conf.SESSION_MAX_AGE is None or longest < conf.SESSION_MAX_AGE):
        yield Warning(
            f"SESSION_MAX_AGE is {_shown('SESSION_MAX_AGE')}: whoever got hold of a session keeps it by refreshing.",
            hint=f"Set it to {_duration(longest)} or less; the default is "
            f"{_duration(SETTINGS['SESSION_MAX_AGE'].default)}.",
            id="platform_auth.W024",
        )


def _hashers() -> Iterable[CheckMessage]:
    classes = _classes(settings.PASSWORD_HASHERS)
    if not classes or not issubclass(classes[0], Argon2PasswordHasher):
        yield Error(
            "New passwords are not hashed with Argon2.",
            hint='Put "django.contrib.auth.hashers.Argon2PasswordHasher" first in PASSWORD_HASHERS. Old hashes '
            "are upgraded as their users log in.",
            id="platform_auth.E024",
        )


def _inline_mail() -> Iterable[CheckMessage]:
    if conf.MAIL_DELIVERY == "inline":
        yield Error(
            'MAIL_DELIVERY is "inline": the time of an answer tells which accounts exist.',
            hint='Leave it out ("thread"), or use "task".',
            id="platform_auth.E025",
        )


def _local_cache() -> Iterable[CheckMessage]:
    if isinstance(caches["default"], LocMemCache):
        yield Warning(
            "The default cache is one process's own: each process counts limits for itself and forgets them when "
            "it ends or its cache is full.",
            hint="Use Redis or Memcached as the default cache.",
            id="platform_auth.W020",
        )


def _unknown_proxies() -> Iterable[CheckMessage]:
    is_behind_one = (
        settings.SECURE_PROXY_SSL_HEADER or settings.USE_X_FORWARDED_HOST or settings.USE_X_FORWARDED_PORT
    )
    if is_behind_one and not conf.TRUSTED_PROXY_COUNT:
        yield Warning(
            "There seems to be a proxy in front, but TRUSTED_PROXY_COUNT is 0: all callers look like one.",
            hint='Set PLATFORM_AUTH["TRUSTED_PROXY_COUNT"] to how many proxies append to X-Forwarded-For.',
            id="platform_auth.W021",
        )


def _tokens_in_urls() -> Iterable[CheckMessage]:
    if conf.ACCESS_TOKEN_IN_QUERY:
        yield Warning(
            "ACCESS_TOKEN_IN_QUERY is on: access tokens end up in the logs of servers and proxies.",
            hint="Leave it out, and send Authorization: Bearer.",
            id="platform_auth.W022",
        )


def _shared_cookies() -> Iterable[CheckMessage]:
    if conf.COOKIE_DOMAIN:
        yield Warning(
            "COOKIE_DOMAIN is set: every host below it gets the tokens, and can set its own in their place.",
            hint="Leave it out, unless each of these hosts is as trusted as this one.",
            id="platform_auth.W023",
        )


def _high_limits() -> Iterable[CheckMessage]:
    if not _is_sound("LIMITS") or check_limits():
        return
    for purpose, names in DEFAULT_LIMITS.items():
        for name, default in names.items():
            rate, usual = conf.rate(purpose, name), parse_rate(default)
            if rate.limit * usual.window > MOST_TIMES * usual.limit * rate.window:
                yield Warning(
                    f'LIMITS: "{name}" of "{purpose}" lets through over {MOST_TIMES} times what "{default}" does.',
                    hint=f'So high, it stops nobody. Leave it out ("{default}"), or write a lower one.',
                    id="platform_auth.W025",
                )


def _admin_without_factor() -> Iterable[CheckMessage]:
    if not apps.is_installed("django.contrib.admin") or not _is_sound("TFA_REQUIRED_GROUPS"):
        return
    if not (conf.TFA_REQUIRED_FOR_STAFF or conf.TFA_REQUIRED_GROUPS):
        return
    from django.contrib import admin
    from django_otp.admin import OTPAdminSite

    if not isinstance(admin.site, OTPAdminSite):
        yield Warning(
            "A policy asks for a second factor, and Django admin lets in by the password alone.",
            hint="Put the admin behind the factor by django_otp.admin.OTPAdminSite: see the README, Second factor.",
            id="platform_auth.W026",
        )


_DEPLOYMENT: tuple[Callable[[], Iterable[CheckMessage]], ...] = (
    _debug,
    _insecure_cookies,
    _plain_public_url,
    _long_lifetimes,
    _endless_sessions,
    _hashers,
    _inline_mail,
    _local_cache,
    _unknown_proxies,
    _tokens_in_urls,
    _shared_cookies,
    _high_limits,
    _admin_without_factor,
)


def check_sealed_secrets(*, databases: Sequence[str] | None = None, **kwargs: Any) -> list[CheckMessage]:
    """E040: secrets whose key is gone, as after a change of SECRET_KEY without SECRET_KEY_FALLBACKS."""
    broken: list[str] = []
    if router.db_for_write(TOTPFactor) not in (databases or ()):
        return []
    try:
        for provider in OAuthProvider.objects.all():
            broken += [f"provider {provider.key}"] * (not _opens(provider, "client_secret", "private_key"))
        lost = sum(not _opens(factor, "secret") for factor in _sample_of_factors())
    except DatabaseError:
        # Before the first migration.
        return []
    if lost:
        broken.append(f"{lost} second factors (of those that were tried)")
    if not broken:
        return []
    return [
        Error(
            f"Sealed secrets do not open: {', '.join(broken)}.",
            hint="Put the key that sealed them back, behind the new one: into SECRET_KEY_FALLBACKS, or into "
            'PLATFORM_AUTH["ENCRYPTION_KEYS"]. Then run `manage.py platform_auth_rotate_keys`.',
            id="platform_auth.E040",
        )
    ]


def check_groups(*, databases: Sequence[str] | None = None, **kwargs: Any) -> list[CheckMessage]:
    """W040: a policy for a group that is not there, and so for nobody."""
    if not _is_sound("TFA_REQUIRED_GROUPS") or router.db_for_write(Group) not in (databases or ()):
        return []
    wanted = conf.TFA_REQUIRED_GROUPS
    try:
        there = set(Group.objects.values_list("name", flat=True))
    except DatabaseError:
        return []
    return [
        Warning(
            f'TFA_REQUIRED_GROUPS: there is no group "{name}", so nobody in it must have a second factor.',
            hint=_nearest(name, there) if there else "Make the group in the admin, or take the name out.",
            id="platform_auth.W040",
        )
        for name in wanted
        if name not in there
    ]


def check_public_role(*, databases: Sequence[str] | None = None, **kwargs: Any) -> list[CheckMessage]:
    """W041: rights of the public role that never count."""
    if not _is_sound("PUBLIC_ROLE") or router.db_for_write(Group) not in (databases or ()):
        return []
    try:
        reserved = public_role.reserved()
    except DatabaseError:
        return []
    if not reserved:
        return []
    more = ", ..." if len(reserved) > 10 else ""
    return [
        Warning(
            f'The public role "{conf.PUBLIC_ROLE}" holds rights over users, rights or sessions, which do not '
            f"count for everybody: {', '.join(reserved[:10])}{more}.",
            hint="Take them away from the group in the admin.",
            id="platform_auth.W041",
        )
    ]


def check_proxies(*, databases: Sequence[str] | None = None, **kwargs: Any) -> list[CheckMessage]:
    """W042: a proxy that was seen and is not reckoned with."""
    if conf.TRUSTED_PROXY_COUNT or router.db_for_write(AuthEvent) not in (databases or ()):
        return []
    try:
        seen = AuthEvent.objects.filter(kind=AuthEvent.Kind.PROXY_IGNORED).exists()
    except DatabaseError:
        return []
    if not seen:
        return []
    return [
        Warning(
            "A forwarding header came from a private address and was ignored: all callers may look like one.",
            hint='Set PLATFORM_AUTH["TRUSTED_PROXY_COUNT"] to how many proxies append to X-Forwarded-For.',
            id="platform_auth.W042",
        )
    ]


# Judging one value.


def _get(name: str) -> Any:
    return SETTINGS[name].value


def _lifetimes() -> list[str]:
    """Return the settings that are sound times, but the grace period, after which nothing ends."""
    return [
        name
        for name, setting in SETTINGS.items()
        if timedelta in setting.type and name != "REFRESH_GRACE_PERIOD" and _is_sound(name)
    ]


def _is_sound(*names: str) -> bool:
    """Return whether settings are of their types, so that other checks can look at them."""
    return all(_fits(name, _get(name)) for name in names)


def _fits(name: str, value: Any) -> bool:
    allowed = SETTINGS[name].type
    if isinstance(allowed[0], str):
        return value in allowed
    if isinstance(value, bool):
        return bool in allowed
    if value is None:
        return None in allowed
    if not isinstance(value, tuple(kind for kind in allowed if kind is not None)):
        return False
    if isinstance(value, list | tuple):
        kinds: Any = (str, bytes) if name.endswith("_KEYS") else str
        return all(isinstance(item, kinds) for item in value)
    least = SETTINGS[name].bounds[0]
    if least is None or isinstance(value, timedelta):
        return True
    return bool((len(value) if isinstance(value, str) else value) >= least)


def _expected(name: str) -> str:
    allowed = SETTINGS[name].type
    if isinstance(allowed[0], str):
        return f"It is one of {', '.join(repr(word) for word in allowed)}."
    examples = {
        timedelta: "a timedelta, such as timedelta(minutes=15)",
        str: "a string",
        bool: "True or False",
        int: "a number from 0",
        dict: "a dict",
        list: "a list of strings",
    }
    words = [examples[kind] for kind in allowed if kind in examples]
    return f"It is {' or '.join([*words, *(['None'] if None in allowed else [])])}."


def _shown(name: str) -> str:
    """Return a value for a message; of keys only the type."""
    value = _get(name)
    if name.endswith("_KEYS"):
        return f"a {type(value).__name__} of the wrong kind"
    return _duration(value) if isinstance(value, timedelta) else repr(value)


def _duration(value: timedelta | None) -> str:
    if value is None:
        return "None"
    seconds = int(value.total_seconds())
    for unit, length in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds and seconds % length == 0:
            return f"timedelta({unit}={seconds // length})"
    return f"timedelta(seconds={seconds})"


def _nearest(name: str, known: Iterable[str]) -> str:
    names = list(known)
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.5) or difflib.get_close_matches(
        name.upper(), names, n=1, cutoff=0.5
    )
    return f'Did you mean "{near[0]}"?' if near else f"There are: {', '.join(sorted(names))}."


def _fault_of(url: Any, *, for_reset: bool) -> str | None:
    """Return what is wrong with an entry of an allow-list, as the way to put it right; None for nothing."""
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
    except ValueError:
        return "It is no URL."
    is_local = host in ("localhost", "127.0.0.1", "::1")
    if parts.scheme != "https" and not (parts.scheme == "http" and is_local and settings.DEBUG):
        return 'Write the whole URL, beginning with "https://" ("http://localhost" is taken in DEBUG alone).'
    if "*" in url:
        return "There are no wildcards: list each URL."
    if "@" in parts.netloc:
        return "Take the user name out."
    if "#" in url and not for_reset:
        return 'Take the part from "#" away: a redirect cannot go there.'
    if not redirects.is_unambiguous(url, for_reset=for_reset):
        return (
            "Write it as browsers do: printable ASCII, host in lower case, addresses in their usual spelling, no "
            'quotes, brackets or backslashes, no dot segments, "//" or encoded slashes in the path. For the token: '
            '"{token}" once, behind the host, or nothing; no other parameter of that name.'
        )
    return None


def _classes(paths: Iterable[str]) -> list[Any]:
    found = []
    for path in paths:
        try:
            found.append(import_string(path))
        except ImportError:
            # Django says so itself, when it is used.
            continue
    return found


def _task_backends() -> Any:
    """Return the backends of Django's task framework, or of its backport."""
    try:
        module = importlib.import_module("django.tasks")
    except ImportError:
        module = importlib.import_module("django_tasks")
    return module.task_backends


def _as_bytes(key: str | bytes) -> bytes:
    return key.encode() if isinstance(key, str) else key


def _is_mysql(model: Any) -> bool:
    """Return whether a model's rows are in MySQL or MariaDB, whose collations take no notice of case by default."""
    return connections[router.db_for_write(model)].vendor == "mysql"


def _is_unique_whatever_case(user_model: Any, name: str) -> bool:
    field = user_model._meta.get_field(name)
    collation = getattr(field, "db_collation", None) or ("_ci" if _is_mysql(user_model) else "")
    if field.unique and _CASELESS.search(collation):
        return True
    for constraint in user_model._meta.constraints:
        if not isinstance(constraint, models.UniqueConstraint) or len(constraint.expressions) != 1:
            continue
        # MariaDB has no such index, and Django leaves the constraint out.
        if constraint.condition is not None or _is_mysql(user_model):
            continue
        (expression,) = cast(Any, constraint.expressions)
        inner: Any = expression.source_expressions[0] if isinstance(expression, Lower) else None
        if getattr(inner, "name", None) == name:
            return True
    return False


def _sample_of_factors() -> list[TOTPFactor]:
    factors = TOTPFactor.objects.using(router.db_for_write(TOTPFactor))
    sample = [*factors.order_by("pk")[:SAMPLE], *factors.order_by("-pk")[:SAMPLE]]
    return list({factor.pk: factor for factor in sample}.values())


def _opens(row: Any, *names: str) -> bool:
    try:
        for name in names:
            getattr(row, name)
    except sealing.SealBroken:
        return False
    return True
