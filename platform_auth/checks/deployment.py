"""The site around this app: installed apps, cache, proxies, and settings that are only fit for development."""

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

PROXY_HINT = (
    'Set PLATFORM_AUTH["TRUSTED_PROXY_COUNT"] to the number of proxies that append to X-Forwarded-For.'
)


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
    """W010: the user's page in the admin was registered too late to be extended."""
    if not apps.is_installed("django.contrib.admin"):
        return
    labels = [config.name for config in apps.get_app_configs()]
    finds_them_in_time = isinstance(apps.get_app_config("admin"), AdminConfig)
    if not finds_them_in_time or labels.index("django.contrib.admin") > labels.index("platform_auth"):
        yield Warning(
            "The user's page in the admin doesn't show sessions, the second factor or linked accounts.",
            hint='Put "django.contrib.admin" (not its SimpleAdminConfig) before "platform_auth" in INSTALLED_APPS, '
            "or put platform_auth.admin.AccountLinks first in the bases of your UserAdmin and silence this check.",
            id="platform_auth.W010",
        )


@check()
def cache() -> Messages:
    """W007: a cache that can't count atomically."""
    if not limits.cache_is_atomic():
        yield Warning(
            "The default cache can't count atomically, so limits are counted in the database.",
            hint="That is safe but slower: each login writes three rows. Use Redis or Memcached as the default cache.",
            id="platform_auth.W007",
        )


@check(deploy=True)
def deployment() -> Messages:
    """E020-E022, E025, W020-W023: settings that are fit for development only."""
    if settings.DEBUG:
        yield Error(
            "DEBUG is on: cookies are sent without Secure, and error pages reveal internals.",
            hint="Set DEBUG = False.",
            id="platform_auth.E020",
        )
    elif not conf.COOKIE_SECURE:
        yield Error(
            "The cookies with the tokens are sent over plain HTTP too.",
            hint='Remove PLATFORM_AUTH["COOKIE_SECURE"]: it is on unless DEBUG is.',
            id="platform_auth.E021",
        )
    if is_sound("PUBLIC_URL") and (conf.PUBLIC_URL or "").startswith("http:"):
        yield Error(
            "PUBLIC_URL is plain HTTP: reset links and provider logins would be sent unencrypted.",
            hint='Set PLATFORM_AUTH["PUBLIC_URL"] to the https URL of this site.',
            id="platform_auth.E022",
        )
    if conf.MAIL_DELIVERY == "inline":
        yield Error(
            'MAIL_DELIVERY is "inline": the time of a response reveals which accounts exist.',
            hint='Remove it to use the default, "thread", or set it to "task".',
            id="platform_auth.E025",
        )
    if isinstance(caches["default"], LocMemCache):
        yield Warning(
            "The default cache is local to each process: every process counts limits separately, and forgets them "
            "when it ends or its cache is full.",
            hint="Use Redis or Memcached as the default cache.",
            id="platform_auth.W020",
        )
    is_behind_proxy = (
        settings.SECURE_PROXY_SSL_HEADER or settings.USE_X_FORWARDED_HOST or settings.USE_X_FORWARDED_PORT
    )
    if is_behind_proxy and not conf.TRUSTED_PROXY_COUNT:
        yield Warning(
            "There seems to be a proxy in front, but TRUSTED_PROXY_COUNT is 0: all requests have its address.",
            hint=PROXY_HINT,
            id="platform_auth.W021",
        )
    if conf.ACCESS_TOKEN_IN_QUERY:
        yield Warning(
            "ACCESS_TOKEN_IN_QUERY is on: access tokens end up in the logs of servers and proxies.",
            hint="Remove it, and send tokens as Authorization: Bearer.",
            id="platform_auth.W022",
        )
    if conf.COOKIE_DOMAIN:
        yield Warning(
            "COOKIE_DOMAIN is set: every host below it receives the tokens and can replace them with its own.",
            hint="Remove it, unless you trust each of these hosts as much as this one.",
            id="platform_auth.W023",
        )


@check(asks=AuthEvent)
def ignored_proxy() -> Messages:
    """W042: a proxy was seen that the settings don't allow for."""
    seen = AuthEvent.objects.filter(kind=AuthEvent.Kind.PROXY_IGNORED)
    if not conf.TRUSTED_PROXY_COUNT and seen.exists():
        yield Warning(
            "A forwarding header from a private address was ignored: all requests may have the same address.",
            hint=PROXY_HINT,
            id="platform_auth.W042",
        )
