"""Who is calling: the address behind trusted proxies, the user agent, a name for the device.

Forwarding headers are trusted only as far as TRUSTED_PROXY_COUNT says. Each proxy appends the address that it saw to
X-Forwarded-For, so the n-th entry from the right was written by the outermost trusted proxy. Anything left of it may
be forged.
"""

from __future__ import annotations

import ipaddress
import logging
import re
from collections.abc import Mapping
from contextvars import ContextVar
from typing import Any, NamedTuple

from django.http import HttpRequest
from django.utils.translation import gettext as _

from .conf import conf

logger = logging.getLogger("platform_auth")

MAX_USER_AGENT = 512
_FORWARDING_HEADERS = ("HTTP_X_FORWARDED_FOR", "HTTP_FORWARDED", "HTTP_X_REAL_IP")
# Control characters, and those that change the writing direction of the line that shows them.
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")

_environ: ContextVar[Mapping[str, Any] | None] = ContextVar("platform_auth_environ", default=None)

ignored_forwarding_seen = False
"""Whether this process has ignored a forwarding header that came from a private address."""


class Caller(NamedTuple):
    """The sender of a request. `address` is None if there is none (a unix socket)."""

    address: str | None
    user_agent: str

    @property
    def network(self) -> str | None:
        """The key that limits count by: the IPv4 address, or the /64 of an IPv6 address."""
        return network_of(self.address)

    @property
    def device(self) -> str:
        return device_name(self.user_agent)


NOBODY = Caller(None, "")
"""The caller if there is no request: a command, a job, a shell."""


def of(request: HttpRequest | None) -> Caller:
    """Return who sent a request."""
    if request is None:
        return NOBODY
    return Caller(_address(request), without_control(request.META.get("HTTP_USER_AGENT", ""), MAX_USER_AGENT))


def without_control(text: str, length: int) -> str:
    """Return a text with control characters replaced by U+FFFD and cut to a length, fit for a log or a table."""
    return _CONTROL.sub("�", text)[:length]


def remember(
    *, environ: Mapping[str, Any] | None = None, scope: Mapping[str, Any] | None = None, **kwargs: Any
) -> None:
    """Remember the sender of the request that has started, for code that has no request: see `current`."""
    _environ.set(environ if scope is None else _environ_of(scope))


def forget(**kwargs: Any) -> None:
    """Forget the sender when the request has finished."""
    _environ.set(None)


def current() -> Caller:
    """Return the sender of the current request; NOBODY outside of one."""
    environ = _environ.get()
    if environ is None:
        return NOBODY
    request = HttpRequest()
    request.META = dict(environ)
    return of(request)


def network_of(address: str | None) -> str | None:
    """Return what limits and familiarity go by: the address, or the /64 of an IPv6 address."""
    if address is None:
        return None
    parsed = ipaddress.ip_address(address)
    if parsed.version == 4:
        return str(parsed)
    return str(ipaddress.ip_network((parsed, 64), strict=False))


def device_name(user_agent: str) -> str:
    """Return a short name such as "Firefox on Linux" (with the extra `devices`), or else the user agent's first
    product.
    """
    if not user_agent:
        return ""
    try:
        from ua_parser import parse
    except ImportError:
        return user_agent.split("/")[0].split(" ")[0][:64]
    result = parse(user_agent)
    names = [part.family for part in (result.user_agent, result.os) if part and part.family != "Other"]
    if len(names) == 2:
        return _("%(browser)s on %(system)s") % {"browser": names[0], "system": names[1]}
    return names[0] if names else user_agent.split("/")[0].split(" ")[0][:64]


def _environ_of(scope: Mapping[str, Any]) -> dict[str, str]:
    """Return the caller's address and headers from an ASGI scope, under their WSGI names."""
    headers = {
        f"HTTP_{name.decode('latin-1').upper().replace('-', '_')}": value.decode("latin-1")
        for name, value in scope.get("headers", ())
    }
    return {**headers, "REMOTE_ADDR": (scope.get("client") or [""])[0] or ""}


def _address(request: HttpRequest) -> str | None:
    remote = _parse(request.META.get("REMOTE_ADDR", ""))
    count = conf.TRUSTED_PROXY_COUNT
    if count < 1:
        _report_ignored_header(request, remote)
        return remote
    chain = request.META.get("HTTP_X_FORWARDED_FOR", "").split(",")
    if len(chain) < count:
        return remote
    return _parse(chain[-count]) or remote


def _parse(text: str) -> str | None:
    """Read an address with or without port and brackets. An IPv4 address in IPv6 form becomes IPv4."""
    text = text.strip()
    if text.startswith("["):
        text = text[1:].split("]")[0]
    elif text.count(":") == 1:
        text = text.split(":")[0]
    try:
        parsed = ipaddress.ip_address(text.split("%")[0])
    except ValueError:
        return None
    if isinstance(parsed, ipaddress.IPv6Address) and parsed.ipv4_mapped:
        parsed = parsed.ipv4_mapped
    return str(parsed)


def _report_ignored_header(request: HttpRequest, remote: str | None) -> None:
    global ignored_forwarding_seen
    if ignored_forwarding_seen or not any(header in request.META for header in _FORWARDING_HEADERS):
        return
    if remote is None or ipaddress.ip_address(remote).is_private:
        ignored_forwarding_seen = True
        logger.warning(
            "A forwarding header from a private address was ignored: all requests may have the same address. If a "
            'proxy of yours sends it, set PLATFORM_AUTH["TRUSTED_PROXY_COUNT"] to the number of your proxies.'
        )
