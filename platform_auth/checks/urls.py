"""URLs, hosts and cookies."""

from __future__ import annotations

import re
import string
from urllib.parse import urlsplit

from django.conf import settings
from django.core.checks import Error
from django.utils.http import is_same_domain

from .. import redirects
from ..conf import conf
from .registry import Messages, check, is_sound

_COOKIE_CHARACTERS = frozenset(string.ascii_letters + string.digits + "-_.")
_HOST = re.compile(r"[a-z0-9]([a-z0-9.-]*[a-z0-9])?|[0-9a-f:]*:[0-9a-f:.]*")


@check("PUBLIC_URL")
def public_url() -> Messages:
    """E004, E005: PUBLIC_URL is missing or invalid."""
    url = conf.PUBLIC_URL
    if url is None:
        yield Error(
            "PUBLIC_URL is missing, so emails can't contain links and providers can't send browsers back.",
            hint='Set PLATFORM_AUTH["PUBLIC_URL"] = "https://..." to the base URL of this site.',
            id="platform_auth.E004",
        )
    elif redirects.origin_of(url) is None or not redirects.is_unambiguous(url) or "?" in url:
        yield Error(
            "PUBLIC_URL must be a base URL.",
            hint='Write it like "https://site.example": scheme and host in lower case, without query and user info.',
            id="platform_auth.E005",
        )


@check()
def allow_lists() -> Messages:
    """E013: an unsafe entry of an allow-list."""
    for name in ("PASSWORD_RESET_URL_ALLOW_LIST", "OAUTH_REDIRECT_ALLOW_LIST", "PASSWORD_RESET_URL"):
        entries = getattr(conf, name) if is_sound(name) else None
        for entry in [entries] if isinstance(entries, str) else entries or ():
            if hint := _fault_of(entry, for_reset=name.startswith("PASSWORD_RESET")):
                yield Error(f"{name}: {entry!r} is not allowed.", hint=hint, id="platform_auth.E013")


def _fault_of(url: str, *, for_reset: bool) -> str | None:
    """Return how to fix an entry of an allow-list; None if it is right."""
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
    except ValueError:
        return "It must be a URL."
    is_local = host in ("localhost", "127.0.0.1", "::1")
    if parts.scheme != "https" and not (parts.scheme == "http" and is_local and settings.DEBUG):
        return 'Write the whole URL, starting with "https://" ("http://localhost" is only allowed in DEBUG).'
    if "*" in url:
        return "Wildcards are not supported: list each URL."
    if "@" in parts.netloc:
        return "Remove the user info, the part before the @."
    if "#" in url and not for_reset:
        return 'Remove the part from "#" on: redirects can\'t have it.'
    if not redirects.is_unambiguous(url, for_reset=for_reset):
        return (
            "Write it as browsers do: printable ASCII, host in lower case, addresses in their usual form, no quotes, "
            'brackets or backslashes, no dot segments, "//" or encoded slashes in the path. "{token}" may occur once, '
            "after the host; no other parameter may be called token."
        )
    return None


@check("OAUTH_PRIVATE_HOSTS")
def private_hosts() -> Messages:
    """E019: an entry that isn't a host would match nothing, or was meant to match everything."""
    for host in conf.OAUTH_PRIVATE_HOSTS:
        if not _HOST.fullmatch(host):
            yield Error(
                f"OAUTH_PRIVATE_HOSTS: {host!r} is not a host.",
                hint='List hosts by name or address, such as "id.internal.example", without wildcards, scheme or port.',
                id="platform_auth.E019",
            )


@check("COOKIE_SECURE", "COOKIE_SAMESITE", "REFRESH_COOKIE_NAME", "ACCESS_COOKIE_NAME")
def cookies() -> Messages:
    """E011, E012, E016: attributes, names and a domain of cookies that browsers or this site can't use."""
    if conf.COOKIE_SAMESITE == "None" and not conf.COOKIE_SECURE:
        yield Error(
            'COOKIE_SAMESITE is "None" without COOKIE_SECURE, which browsers reject.',
            hint='Remove COOKIE_SAMESITE to use the default, "Lax", or serve the site over HTTPS with COOKIE_SECURE.',
            id="platform_auth.E011",
        )
    names = [conf.REFRESH_COOKIE_NAME, conf.ACCESS_COOKIE_NAME]
    taken = [settings.SESSION_COOKIE_NAME, settings.CSRF_COOKIE_NAME, "oauth_flow", "oauth_pending"]
    if len({*names, *taken}) < 6 or any(
        not name or set(name) - _COOKIE_CHARACTERS or name.startswith("__") for name in names
    ):
        yield Error(
            'PLATFORM_AUTH["REFRESH_COOKIE_NAME"] and ["ACCESS_COOKIE_NAME"] must be different, valid cookie names.',
            hint="Use letters, digits, hyphens and underscores, and don't reuse the name of another cookie.",
            id="platform_auth.E012",
        )
    if not is_sound("PUBLIC_URL", "COOKIE_DOMAIN"):
        return
    host, domain = urlsplit(conf.PUBLIC_URL or "").hostname, (conf.COOKIE_DOMAIN or "").lstrip(".")
    if host and domain and not is_same_domain(host, f".{domain}"):
        yield Error(
            f"COOKIE_DOMAIN {domain!r} does not cover the host of PUBLIC_URL, so browsers drop the cookies.",
            hint=f"Remove it, or set it to {host!r} or a parent domain.",
            id="platform_auth.E016",
        )
