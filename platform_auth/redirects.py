"""Which URLs we send people to.

A URL is judged as a string, before anything is looked up. A `reset_url` must equal an entry of its allow-list byte
for byte. A `redirect` must be a local path, have the origin of PUBLIC_URL, or equal an entry of its list. Before
that, a filter refuses everything that two parsers could read differently (WHATWG URL and RFC 3986), so that browsers
follow what we compared.
"""

from __future__ import annotations

import ipaddress
import re
from urllib.parse import parse_qsl, quote

import idna
from django.core.exceptions import ImproperlyConfigured
from django.utils.translation import gettext as _

from . import errors
from .conf import conf

MAX_LENGTH = 2048
PLACEHOLDER = "{token}"

_PRINTABLE = re.compile(r"[!-~]+")
_UNSAFE_CHARACTERS = re.compile(r"[\\\"'<>^`{|}]")
_UNSAFE_ESCAPES = re.compile(r"%(?![0-9a-f]{2})|%(?:[01][0-9a-f]|7f)", re.IGNORECASE)
_UNSAFE_PATH_ESCAPES = re.compile(r"%(?:2e|2f|5c)", re.IGNORECASE)
_ORIGIN = re.compile(
    r"(?P<scheme>https?)://"
    r"(?P<host>[a-z0-9](?:[a-z0-9-]*[a-z0-9])?(?:\.[a-z0-9](?:[a-z0-9-]*[a-z0-9])?)*|\[[0-9a-f:.]+\])"
    r"(?::(?P<port>[1-9][0-9]{0,4}))?"
)

# Browsers read a host as an IPv4 address if its last label looks like this (WHATWG URL, "ends in a number").
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")


def check_reset_url(url: str) -> str:
    """Return `url` if a reset email may link to it. Raises InvalidPayload, the same for every reason."""
    if url not in conf.PASSWORD_RESET_URL_ALLOW_LIST or not is_unambiguous(url, for_reset=True):
        raise errors.InvalidPayload(_("This URL is not in PASSWORD_RESET_URL_ALLOW_LIST."), field="reset_url")
    return url


def check_redirect(url: str) -> str:
    """Return the absolute URL of `redirect` if a browser may be sent there. Raises InvalidPayload."""
    if is_unambiguous(url):
        if is_local_path(url):
            return f"{origin_of(public_url())}{url}"
        if url in conf.OAUTH_REDIRECT_ALLOW_LIST or origin_of(url) == origin_of(public_url()):
            return url
    raise errors.InvalidPayload(_("This URL is not in OAUTH_REDIRECT_ALLOW_LIST."), field="redirect")


def is_unambiguous(url: str, *, for_reset: bool = False) -> bool:
    """Return whether all parsers read a URL (or local path) alike.

    A reset URL is absolute and may have a fragment. The token has one place in it: the placeholder, which occurs
    once, after the origin; or else the query, which must not have a `token` yet.
    """
    plain = url.replace(PLACEHOLDER, "token", 1) if for_reset else url
    if not 1 <= len(url) <= MAX_LENGTH or not _PRINTABLE.fullmatch(plain):
        return False
    if _UNSAFE_CHARACTERS.search(plain) or _UNSAFE_ESCAPES.search(plain):
        return False
    if "#" in plain and not for_reset:
        return False
    rest = url
    if for_reset or not is_local_path(url):
        origin = _ORIGIN.match(url)
        if origin is None or int(origin["port"] or 0) > 65535 or not _is_canonical(origin["host"]):
            return False
        rest = url[origin.end() :]
        if rest and rest[0] not in "/?#":
            return False
    path, _mark, query = rest.partition("#")[0].partition("?")
    if "//" in path or _UNSAFE_PATH_ESCAPES.search(path):
        return False
    if any(segment in (".", "..") for segment in path.split("/")):
        return False
    return not (for_reset and _has_token(query))


def is_local_path(url: str) -> bool:
    """Return whether a URL is a path on this site ("/..." but not "//...")."""
    return url.startswith("/") and not url.startswith(("//", "/\\"))


def public_url() -> str:
    """Return PUBLIC_URL without a trailing slash. Raises ImproperlyConfigured if it is missing."""
    if conf.PUBLIC_URL is None:
        raise ImproperlyConfigured('Set PLATFORM_AUTH["PUBLIC_URL"] to the base URL of this site.')
    return conf.PUBLIC_URL


def with_token(url: str, token: str) -> str:
    """Put a reset token in place of {token}, or else into the query of a URL."""
    if PLACEHOLDER in url:
        return url.replace(PLACEHOLDER, quote(token, safe=""))
    return with_parameter(url, "token", token)


def with_parameter(url: str, name: str, value: str) -> str:
    """Add one parameter to the query of a URL and keep everything else, including the fragment."""
    rest, hash_sign, fragment = url.partition("#")
    query = rest.partition("?")[2]
    separator = "?" if "?" not in rest else "&" if query and not query.endswith("&") else ""
    return f"{rest}{separator}{quote(name, safe='')}={quote(value, safe='')}{hash_sign}{fragment}"


def origin_of(url: str) -> str | None:
    """Return the origin of an absolute URL as a browser writes it, without a default port."""
    match = _ORIGIN.match(url)
    if match is None or (url[match.end() :] and url[match.end()] not in "/?#"):
        return None
    default = {"http": "80", "https": "443"}[match["scheme"]]
    port = f":{match['port']}" if match["port"] and match["port"] != default else ""
    return f"{match['scheme']}://{match['host']}{port}"


def _is_canonical(host: str) -> bool:
    """Return whether browsers keep a host as it is written. They rewrite some addresses and refuse invalid labels."""
    try:
        if host.startswith("["):
            address = ipaddress.IPv6Address(host[1:-1])
            # Python versions differ in how they write an IPv4-mapped address.
            return f"[{address}]" == host and address.ipv4_mapped is None
        *_others, last = labels = host.split(".")
        if _NUMBER.fullmatch(last):
            return str(ipaddress.IPv4Address(host)) == host
        return all(
            idna.alabel(idna.ulabel(label)).decode() == label for label in labels if label.startswith("xn--")
        )
    except ValueError:
        return False


def _has_token(query: str) -> bool:
    """Return whether a query has a `token` other than the placeholder's."""
    fields = parse_qsl(query.replace(";", "&"), keep_blank_values=True)
    return any(name == "token" and value != PLACEHOLDER for name, value in fields)
