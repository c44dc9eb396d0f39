"""The site around this app: what is installed, its cache and proxies, and what is fit for a desk alone."""

from __future__ import annotations

from django.apps import apps
from django.conf import settings
from django.contrib.admin.apps import AdminConfig
from django.core.cache import caches
from django.core.cache.backends.locmem import LocMemCache
from django.core.checks import Error, Warning

from .. import limits
from ..conf import conf
from ..models import AuthEvent
from .registry import Messages, check, is_sound

PROXY_HINT = 'Set PLATFORM_AUTH["TRUSTED_PROXY_COUNT"] to how many proxies append to X-Forwarded-For.'


@check()
def missing_apps() -> Messages:
    """E017: an app that is missing."""
    for name in ("rest_framework", "django_otp"):
        if not apps.is_installed(name):
            yield Error(
                f"{name} is not installed.",
                hint=f'Put "{name}" into INSTALLED_APPS, before "platform_auth".',
                id="platform_auth.E017",
            )


@check()
def late_admin() -> Messages:
    """W010: the user's page in the admin was registered too late to be added to."""
    if not apps.is_installed("django.contrib.admin"):
        return
    labels = [config.name for config in apps.get_app_configs()]
    finds_them_in_time = isinstance(apps.get_app_config("admin"), AdminConfig)
    if not finds_them_in_time or labels.index("django.contrib.admin") > labels.index("platform_auth"):
        yield Warning(
            "The user's page in the admin does not show sessions, second factor and linked accounts.",
            hint='Put "django.contrib.admin" (not its SimpleAdminConfig) before "platform_auth" in INSTALLED_APPS, '
            "or put platform_auth.admin.AccountLinks first in the bases of your UserAdmin and silence this check.",
            id="platform_auth.W010",
        )


@check()
def cache() -> Messages:
    """W007: a cache that cannot count."""
    if not limits.cache_is_atomic():
        yield Warning(
            "The default cache cannot count in one step, so the limits are counted in the database.",
            hint="That is safe and slower: each log-in writes three rows. Use Redis or Memcached as the default cache.",
            id="platform_auth.W007",
        )


@check(deploy=True)
def deployment() -> Messages:
    """E020-E022, E025, W020-W023: what is fit for a desk and not for a server."""
    if settings.DEBUG:
        yield Error(
            "DEBUG is on: cookies travel without Secure, and error pages show what they should not.",
            hint="Set DEBUG = False.",
            id="platform_auth.E020",
        )
    elif not conf.COOKIE_SECURE:
        yield Error(
            "The cookies with the tokens travel over plain http too.",
            hint='Leave PLATFORM_AUTH["COOKIE_SECURE"] out: it is on outside DEBUG.',
            id="platform_auth.E021",
        )
    if is_sound("PUBLIC_URL") and (conf.PUBLIC_URL or "").startswith("http:"):
        yield Error(
            "PUBLIC_URL is plain http: reset links and provider log-ins would travel in clear.",
            hint='Set PLATFORM_AUTH["PUBLIC_URL"] to the https URL of this site.',
            id="platform_auth.E022",
        )
    if conf.MAIL_DELIVERY == "inline":
        yield Error(
            'MAIL_DELIVERY is "inline": the time of an answer tells which accounts exist.',
            hint='Leave it out ("thread"), or use "task".',
            id="platform_auth.E025",
        )
    if isinstance(caches["default"], LocMemCache):
        yield Warning(
            "The default cache is one process's own: each process counts limits for itself and forgets them when "
            "it ends or its cache is full.",
            hint="Use Redis or Memcached as the default cache.",
            id="platform_auth.W020",
        )
    is_behind_proxy = (
        settings.SECURE_PROXY_SSL_HEADER or settings.USE_X_FORWARDED_HOST or settings.USE_X_FORWARDED_PORT
    )
    if is_behind_proxy and not conf.TRUSTED_PROXY_COUNT:
        yield Warning(
            "There seems to be a proxy in front, but TRUSTED_PROXY_COUNT is 0: all callers look like one.",
            hint=PROXY_HINT,
            id="platform_auth.W021",
        )
    if conf.ACCESS_TOKEN_IN_QUERY:
        yield Warning(
            "ACCESS_TOKEN_IN_QUERY is on: access tokens end up in the logs of servers and proxies.",
            hint="Leave it out, and send Authorization: Bearer.",
            id="platform_auth.W022",
        )
    if conf.COOKIE_DOMAIN:
        yield Warning(
            "COOKIE_DOMAIN is set: every host below it gets the tokens, and can set its own in their place.",
            hint="Leave it out, unless each of these hosts is as trusted as this one.",
            id="platform_auth.W023",
        )


@check(asks=AuthEvent)
def ignored_proxy() -> Messages:
    """W042: a proxy that was seen and is not reckoned with."""
    seen = AuthEvent.objects.filter(kind=AuthEvent.Kind.PROXY_IGNORED)
    if not conf.TRUSTED_PROXY_COUNT and seen.exists():
        yield Warning(
            "A forwarding header came from a private address and was ignored: all callers may look like one.",
            hint=PROXY_HINT,
            id="platform_auth.W042",
        )
