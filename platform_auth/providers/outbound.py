"""All requests to providers: each to one public address, with a limit of time and size.

A provider's URLs come from an admin and from discovery documents, so they can't be trusted. Redirects are not
followed, proxies in the environment are not used, compression is not requested, and the address that was checked is
the one that is connected to (ASVS 13.2.4, 15.3.2), so a name that resolves differently the second time gains nothing.
"""

from __future__ import annotations

import base64
import contextlib
import functools
import http.client
import io
import ipaddress
import os
import queue
import socket
import ssl
import threading
import time
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

import requests
from django.conf import settings
from django.views.decorators.debug import sensitive_variables
from requests import certs

from ..conf import conf

TIMEOUT = 5.0
"""How many seconds one request may take in all: DNS, connection, TLS, headers, body."""

BUDGET = 9.0
"""How many seconds all requests of one callback may take together."""

MAX_BYTES = 1024 * 1024
"""The maximum size of a response's body in bytes. http.client limits its head to a hundred lines of 64 KiB."""

_CHUNK = 65536
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")


class Unreachable(Exception):
    """No usable response: connection refused, timeout, broken TLS, an unreadable or oversized response."""


class Refused(Unreachable):
    """A URL or address that we don't call: not https, not public, or invalid."""


class Budget:
    """The remaining time of a chain of requests."""

    def __init__(self, seconds: float = BUDGET) -> None:
        self._ends_at = time.monotonic() + seconds

    def next_deadline(self) -> float:
        """Return when the next request must have finished, on the monotonic clock. Raises Unreachable."""
        now = time.monotonic()
        if now >= self._ends_at:
            raise Unreachable("this provider took too long")
        return min(self._ends_at, now + TIMEOUT)


def check_url(url: object) -> str:
    """Return the URL if a provider may be called there: https, or http in DEBUG. Raises Refused."""
    if (
        not isinstance(url, str)
        or not url.isascii()
        or not url.isprintable()
        or " " in url
        or len(url) > 2048
    ):
        raise Refused("not a URL")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise Refused("not a URL") from None
    allowed = ("https", "http") if settings.DEBUG else ("https",)
    if parts.scheme not in allowed or not parts.hostname or port == 0:
        raise Refused("not an https URL")
    if parts.username is not None or parts.password is not None or "#" in url or "\\" in url:
        raise Refused("a URL with credentials or a fragment")
    return url


def is_public(address: str) -> bool:
    """Return whether an IP address is public, even if it is an IPv4 address inside an IPv6 one."""
    parsed = ipaddress.ip_address(address.split("%")[0])
    if isinstance(parsed, ipaddress.IPv6Address):
        carried = parsed.ipv4_mapped or parsed.sixtofour or (parsed.teredo[1] if parsed.teredo else None)
        if carried is None and parsed in _NAT64:
            carried = ipaddress.IPv4Address(int(parsed) & 0xFFFFFFFF)
        if carried is not None:
            return is_public(str(carried))
        if parsed.is_site_local:
            return False
    return (
        parsed.is_global and not parsed.is_multicast and not parsed.is_reserved and not parsed.is_unspecified
    )


@sensitive_variables()
def send(
    method: str,
    url: str,
    *,
    deadline: float,
    headers: Mapping[str, str | bytes] | None = None,
    data: Mapping[str, Any] | None = None,
    auth: tuple[str, str] | None = None,
    params: Mapping[str, Any] | None = None,
) -> requests.Response:
    """Send one request and read the whole response. A status of 3xx is returned, not followed. Raises Unreachable."""
    parts = urlsplit(check_url(url))
    query = "&".join(filter(None, [parts.query, urlencode(params or {}, doseq=True)]))
    target = (parts.path or "/") + (f"?{query}" if query else "")
    outgoing: dict[str, str | bytes] = {
        "Accept": "application/json",
        "User-Agent": "platform_auth",
        **(headers or {}),
    }
    body = None
    if data is not None:
        body = urlencode(data, doseq=True).encode()
        outgoing["Content-Type"] = "application/x-www-form-urlencoded"
    if auth is not None:
        # Form-encoded before they are joined (RFC 6749, 2.3.1).
        pair = ":".join(quote(part, safe="") for part in auth)
        outgoing["Authorization"] = "Basic " + base64.b64encode(pair.encode()).decode()
    outgoing |= {"Connection": "close", "Accept-Encoding": "identity"}
    connection = _Connection(parts.hostname or "", parts.port, deadline=deadline, tls=parts.scheme == "https")
    try:
        with connection:
            connection.request(method, target, body=body, headers=outgoing)
            with contextlib.closing(connection.getresponse()) as answer:
                return _response(url, answer, _read(answer, connection))
    except (OSError, http.client.HTTPException, ValueError) as error:
        is_late = connection.is_over or isinstance(error, TimeoutError)
        raise Unreachable(
            "no response in time" if is_late else f"no response ({type(error).__name__})"
        ) from None


class _Connection(http.client.HTTPConnection):
    """A connection to a checked address, which is cut at its deadline in any state."""

    def __init__(self, host: str, port: int | None, *, deadline: float, tls: bool) -> None:
        # The default port, which `Host` leaves out: some servers reject a host with a port.
        self.default_port = 443 if tls else 80
        super().__init__(host, port or self.default_port)
        self._deadline = deadline
        self._tls = tls
        self._alarm: threading.Timer | None = None
        # Kept for `_cut`: with `Connection: close`, http.client hands the socket to the response and drops its own
        # reference.
        self._reached: socket.socket | None = None
        self.is_over = False

    @property
    def left(self) -> float:
        remaining = self._deadline - time.monotonic()
        if remaining <= 0:
            self.is_over = True
            raise Unreachable("no response in time")
        return remaining

    def connect(self) -> None:
        # A socket's timeout starts again with every byte, so only a timer ends a response that drips.
        self._alarm = threading.Timer(self.left, self._cut)
        self._alarm.daemon = True
        self._alarm.start()
        self.sock = self._reached = self._reach()
        if self._tls:
            authorities = os.environ.get("SSL_CERT_FILE") or certs.where()  # type: ignore[attr-defined]
            self.sock = self._reached = _tls_context(authorities).wrap_socket(
                self.sock, server_hostname=self.host, do_handshake_on_connect=False
            )
            self.sock.settimeout(self.left)
            self.sock.do_handshake()
        self.sock.settimeout(self.left)

    def _reach(self) -> socket.socket:
        addresses = _resolve(self.host, self.port, seconds=self.left)
        if self.host.lower() not in conf.OAUTH_PRIVATE_HOSTS:
            addresses = [entry for entry in addresses if is_public(str(entry[4][0]))]
            if not addresses:
                raise Refused("an address that is not public")
        failure: OSError = OSError("no address")
        for family, kind, protocol, _name, address in addresses:
            reached = socket.socket(family, kind, protocol)
            try:
                reached.settimeout(self.left)
                reached.connect(address)
            except OSError as error:
                reached.close()
                failure = error
            except BaseException:
                reached.close()
                raise
            else:
                return reached
        raise failure

    def _cut(self) -> None:
        self.is_over = True
        if self._reached is not None:
            # On the plain socket, because the TLS one would first send a closing message.
            with contextlib.suppress(OSError):
                socket.socket.shutdown(self._reached, socket.SHUT_RDWR)

    def __enter__(self) -> _Connection:
        return self

    def __exit__(self, *exc_info: object) -> None:
        if self._alarm is not None:
            self._alarm.cancel()
        self.close()


def _resolve(host: str, port: int, *, seconds: float) -> list[Any]:
    """Resolve a name in a thread, because the system's resolver has no timeout."""
    found: queue.SimpleQueue[list[Any] | OSError] = queue.SimpleQueue()

    def look_up() -> None:
        try:
            found.put(list(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)))
        except (OSError, UnicodeError) as error:
            found.put(error if isinstance(error, OSError) else OSError("not a name"))

    threading.Thread(target=look_up, daemon=True).start()
    try:
        result = found.get(timeout=seconds)
    except queue.Empty:
        raise Unreachable("no response in time") from None
    if isinstance(result, OSError):
        raise result
    return result


def _read(answer: http.client.HTTPResponse, connection: _Connection) -> bytes:
    content = b""
    while chunk := answer.read1(_CHUNK):
        content += chunk
        if len(content) > MAX_BYTES:
            raise Unreachable("a response larger than 1 MiB")
        _ = connection.left
    if connection.is_over or (answer.length or 0) > 0:
        raise Unreachable("an incomplete response")
    return content


def _response(url: str, answer: http.client.HTTPResponse, content: bytes) -> requests.Response:
    """Return the response in the form that python-social-auth reads."""
    response = requests.Response()
    response.status_code = answer.status
    response.reason = answer.reason
    response.headers.update(dict(answer.getheaders()))
    response.url = url
    response.encoding = "utf-8"
    response.raw = io.BytesIO(content)
    return response


@functools.lru_cache(maxsize=4)
def _tls_context(authorities: str) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=authorities)
