"""Requests to providers: allowed addresses, time, size."""

from __future__ import annotations

import socket
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.x509.oid import NameOID
from hypothesis import given
from hypothesis import strategies as st

from platform_auth.providers import outbound
from tests.identity_provider import EC_KEY, Provider, dripping, send

HEAD = b"HTTP/1.1 200 OK\r\n"
CLOSE = b"Connection: close\r\n"
"""After this header, http.client hands the socket over to the response."""
INTERIM = b"HTTP/1.1 100 Continue\r\nX: y\r\n\r\n"
LONGEST_HEADER = b"X: " + b"y" * 65_531 + b"\r\n"


def write(handler: BaseHTTPRequestHandler, raw: bytes) -> None:
    """Write these bytes instead of a response, until the caller hangs up."""
    with suppress(ConnectionError):
        handler.wfile.write(raw)
    handler.close_connection = True


def get(url: str, *, seconds: float = 5) -> Any:
    return outbound.send("GET", url, deadline=time.monotonic() + seconds)


class TestAddresses:
    """security.md, row 99; ASVS 13.2.4, 15.3.2."""

    @pytest.mark.parametrize(
        "address",
        [
            "127.0.0.1", "127.1.2.3", "0.0.0.0", "10.0.0.1", "172.16.0.1", "172.31.255.255", "192.168.1.1",
            "169.254.169.254", "100.64.0.1", "192.0.2.1", "198.18.0.1", "224.0.0.1", "239.1.1.1", "240.0.0.1",
            "255.255.255.255", "::", "::1", "fe80::1", "fe80::1%eth0", "fc00::1", "fd00:ec2::254", "fec0::1", "ff02::1",
            "::ffff:127.0.0.1", "::ffff:10.0.0.1", "::ffff:169.254.169.254", "64:ff9b::a00:1", "64:ff9b::7f00:1",
            "2002:7f00:1::", "2002:a00:1::1", "2001:db8::1", "2001:0:4136:e378:8000:63bf:f5ff:fffe",
        ],
    )  # fmt: skip
    def test_is_not_public(self, address: str) -> None:
        assert not outbound.is_public(address)

    @pytest.mark.parametrize(
        "address", ["8.8.8.8", "1.1.1.1", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808"]
    )
    def test_is_public(self, address: str) -> None:
        assert outbound.is_public(address)

    @given(st.ip_addresses(v=4))
    def test_an_ipv4_address_in_ipv6_is_checked_as_ipv4(self, address: Any) -> None:
        assert outbound.is_public(f"::ffff:{address}") == outbound.is_public(str(address))
        assert outbound.is_public(f"64:ff9b::{address}") == outbound.is_public(str(address))

    @pytest.mark.parametrize(
        "host",
        [
            "127.0.0.1", "localhost", "[::1]", "2130706433", "0x7f000001", "0177.0.0.1", "127.1", "0", "0.0.0.0",
            "[::ffff:127.0.0.1]", "169.254.169.254", "LOCALHOST", "localhost.",
        ],
    )  # fmt: skip
    def test_is_refused_in_every_spelling(self, host: str, settings: Any) -> None:
        settings.DEBUG = True
        with socket.create_server(("127.0.0.1", 0)) as listener:
            listener.settimeout(0.05)

            with pytest.raises(outbound.Unreachable):
                get(f"http://{host}:{listener.getsockname()[1]}/")

            with pytest.raises(TimeoutError):
                listener.accept()

    def test_a_listed_private_host_is_allowed(self, provider: Provider) -> None:
        assert get(f"{provider.issuer}/jwks").json() == {"keys": provider.keys}

    def test_the_checked_address_is_the_one_connected_to(self, provider: Provider, monkeypatch: Any) -> None:
        """A name that resolves to a public address when checked and to a private one later (DNS rebinding)."""
        port = int(provider.issuer.rpartition(":")[2])
        asked: list[str] = []

        def resolve(host: str, *args: Any, **kwargs: Any) -> Any:
            asked.append(host)
            address = "127.0.0.1" if len(asked) > 1 else "192.0.2.1"
            return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port))]

        monkeypatch.setattr(socket, "getaddrinfo", resolve)
        with pytest.raises(outbound.Refused):
            get(f"http://rebinding.example:{port}/jwks")

        assert asked == ["rebinding.example"]
        assert not provider.calls

    def test_of_several_addresses_the_private_ones_are_skipped(
        self, provider: Provider, monkeypatch: Any
    ) -> None:
        port = int(provider.issuer.rpartition(":")[2])
        found = [
            (socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port))
            for address in ("127.0.0.1", "10.0.0.1")
        ]
        monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **kwargs: found)

        with pytest.raises(outbound.Refused):
            get(f"http://two.example:{port}/jwks")

        assert not provider.calls

    def test_no_proxy_of_the_environment_is_used(self, provider: Provider, monkeypatch: Any) -> None:
        for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, "http://127.0.0.1:1/")

        assert get(f"{provider.issuer}/jwks").status_code == 200


class TestUrls:
    @pytest.mark.parametrize(
        "url",
        [
            "http://a.example/", "ftp://a.example/", "file:///etc/passwd", "//a.example/", "a.example", "", None, 5,
            "https://", "https:///x", "https://user@a.example/", "https://:pw@a.example/", "https://a.example/#x", "https://a.example/#",
            "https://a.example/ x", "https://a.example/\r\nX: y", "https://a.example\\@b.example/", "https://a.example:x/",
            "https://a.example:99999/", "https://ü.example/", "https://[::1/", "https://a.example/" + "x" * 2048,
            "gopher://a.example/", "javascript:alert(1)",
        ],
    )  # fmt: skip
    def test_is_refused(self, url: Any) -> None:
        with pytest.raises(outbound.Refused):
            outbound.check_url(url)

    @pytest.mark.parametrize(
        "url", ["https://a.example", "https://a.example:8443/x?y=z", "https://[2606:4700::1111]/"]
    )
    def test_is_accepted(self, url: str) -> None:
        assert outbound.check_url(url) == url

    def test_http_is_only_allowed_in_debug(self, settings: Any) -> None:
        settings.DEBUG = True

        assert outbound.check_url("http://a.example/")


class TestTime:
    """These servers never answer: without a time limit the tests wouldn't end."""

    @pytest.mark.timeout(60)
    def test_a_slow_name_lookup_is_aborted(self, monkeypatch: Any) -> None:
        given_up = threading.Event()

        def look_up(*args: Any, **kwargs: Any) -> list[Any]:
            given_up.wait()
            return []

        monkeypatch.setattr(socket, "getaddrinfo", look_up)

        with pytest.raises(outbound.Unreachable, match="in time"):
            get("https://slow.example/", seconds=0.3)

        given_up.set()

    @pytest.mark.timeout(60)
    def test_a_slow_handshake_is_aborted(self, configure: Any) -> None:
        configure(OAUTH_PRIVATE_HOSTS=["127.0.0.1"])
        with (
            socket.create_server(("127.0.0.1", 0)) as listener,
            pytest.raises(outbound.Unreachable, match="in time"),
        ):
            get(f"https://127.0.0.1:{listener.getsockname()[1]}/", seconds=0.3)

    def test_a_request_does_not_exceed_its_time_limit(self) -> None:
        before = time.monotonic()
        deadline = outbound.Budget(3600).next_deadline()

        assert before + outbound.TIMEOUT <= deadline <= time.monotonic() + outbound.TIMEOUT

    @pytest.mark.timeout(60)
    @pytest.mark.parametrize(
        ("start", "part", "pause"),
        [
            (HEAD + b"X: ", b"y", 0.05),
            (HEAD, b"X: y\r\n", 0.05),
            (b"", INTERIM, 0.05),
            (b"", INTERIM * 1000, 0),
            (HEAD + b"Transfer-Encoding: chunked\r\n\r\n0\r\n", b"X: y\r\n" * 1000, 0),
            (HEAD + CLOSE + b"Transfer-Encoding: chunked\r\n\r\n", b"0", 0.05),
            (HEAD + CLOSE + b"Transfer-Encoding: chunked\r\n\r\n0\r\nX: ", b"y", 0.05),
        ],
        ids=[
            "a dripping line",
            "dripping lines",
            "dripping interim answers",
            "a flood of them",
            "a flood of trailers",
            "a dripping size of a chunk",
            "a dripping trailer",
        ],
    )
    def test_an_endless_head_is_aborted_in_time(
        self, start: bytes, part: bytes, pause: float, provider: Provider
    ) -> None:
        """Each part arrives well within any timeout of a single read."""

        provider.raw["/endless"] = dripping(start, part, pause=pause)

        with pytest.raises(outbound.Unreachable, match=r"in time|incomplete"):
            get(f"{provider.issuer}/endless", seconds=0.5)

    def test_a_budget_does_not_restart(self, monkeypatch: Any) -> None:
        monkeypatch.setattr(outbound, "TIMEOUT", 7200)
        budget = outbound.Budget(3600)

        assert budget.next_deadline() == budget.next_deadline() <= time.monotonic() + 3600

    def test_a_used_up_budget_allows_no_request(self) -> None:
        with pytest.raises(outbound.Unreachable):
            outbound.Budget(0).next_deadline()

    def test_nothing_is_left_open(self, provider: Provider) -> None:
        """Threads and sockets are closed with the request, also if it fails."""
        provider.raw["/big"] = dripping(HEAD + b"\r\n", b"x" * 65536, pause=0)
        before = threading.active_count()

        for _ in range(20):
            with pytest.raises(outbound.Unreachable, match="1 MiB"):
                get(f"{provider.issuer}/big")

        deadline = time.monotonic() + 30
        while threading.active_count() > before and time.monotonic() < deadline:
            time.sleep(0.02)
        assert threading.active_count() <= before


class TestResponses:
    def test_a_redirect_is_returned_and_not_followed(self, provider: Provider) -> None:
        provider.raw["/away"] = lambda handler: (
            handler.send_response(302),
            handler.send_header("Location", f"{provider.issuer}/jwks"),
            handler.end_headers(),
        )  # type: ignore[assignment, return-value]

        assert get(f"{provider.issuer}/away").status_code == 302
        assert not provider.calls["/jwks"]

    @pytest.mark.parametrize("head", [HEAD, HEAD + b"X: y\r\n" * 50, INTERIM * 20 + HEAD])
    def test_a_body_of_1_mib_is_read(self, head: bytes, provider: Provider) -> None:
        body = b"x" * outbound.MAX_BYTES
        provider.raw["/big"] = lambda handler: write(handler, head + b"\r\n" + body)

        assert get(f"{provider.issuer}/big").content == body

    @pytest.mark.parametrize("head", [HEAD, HEAD + b"X: y\r\n" * 50, INTERIM * 20 + HEAD])
    def test_one_byte_more_is_refused(self, head: bytes, provider: Provider) -> None:
        body = b"x" * (outbound.MAX_BYTES + 1)
        provider.raw["/big"] = lambda handler: write(handler, head + b"\r\n" + body)

        with pytest.raises(outbound.Unreachable, match="1 MiB"):
            get(f"{provider.issuer}/big")

    @pytest.mark.parametrize(
        "head",
        [
            HEAD + LONGEST_HEADER * 100,
            HEAD + b"X" + LONGEST_HEADER,
            HEAD + b"X: y\r\n" * 100,
            b"HTTP/1.1 200 " + b"y" * 65_536 + b"\r\n",
            INTERIM.replace(b"X: y\r\n", b"X: y\r\n" * 100) + HEAD,
        ],
        ids=["huge", "a long line", "many lines", "a long status", "a long interim answer"],
    )
    def test_a_head_over_the_limits_of_http_client_is_refused(self, head: bytes, provider: Provider) -> None:
        """Python's own limits: a hundred lines of 64 KiB, including the empty one."""
        provider.raw["/big"] = lambda handler: write(handler, head + b"\r\n{}")
        began = time.monotonic()

        with pytest.raises(outbound.Unreachable, match=r"\((HTTPException|LineTooLong)\)"):
            get(f"{provider.issuer}/big")

        assert time.monotonic() - began < outbound.TIMEOUT

    def test_the_longest_allowed_head_takes_little_time(self, provider: Provider) -> None:
        provider.raw["/big"] = lambda handler: write(handler, HEAD + LONGEST_HEADER * 99 + b"\r\n{}")
        began = time.monotonic()

        assert get(f"{provider.issuer}/big").content == b"{}"

        assert time.monotonic() - began < outbound.TIMEOUT

    def test_a_value_cannot_inject_a_header(self, provider: Provider) -> None:
        with pytest.raises(outbound.Unreachable):
            outbound.send(
                "GET", f"{provider.issuer}/jwks",
                deadline=time.monotonic() + 5, headers={"Authorization": "Bearer a\r\nX-Evil: 1"},
            )  # fmt: skip

        assert not provider.calls


def certificate(path: Path, *names: str, days: int = 1) -> Path:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test")])
    now = datetime.now(UTC)
    built = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(EC_KEY.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=2))
        .not_valid_after(now + timedelta(days=days))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(each) for each in names]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(EC_KEY, hashes.SHA256())
    )
    key = EC_KEY.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path.write_bytes(built.public_bytes(serialization.Encoding.PEM) + key)
    return path


class TestTLS:
    """security.md, row 98."""

    hosts: list[str]

    @pytest.fixture
    def serve(self, configure: Any) -> Iterator[Any]:
        configure(OAUTH_PRIVATE_HOSTS=["localhost"])
        servers: list[HTTPServer] = []
        hosts = self.hosts = []

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                hosts.append(self.headers["Host"])
                if self.path == "/drips":
                    dripping(HEAD + CLOSE + b"Transfer-Encoding: chunked\r\n\r\n", b"0", pause=0.05)(self)
                else:
                    send(self, b'{"ok": true}')

            def log_message(self, *args: Any) -> None:
                pass

        class Quiet(HTTPServer):
            def handle_error(self, *args: Any) -> None:
                pass

            def get_request(self) -> Any:
                try:
                    return super().get_request()
                except ssl.SSLError as error:
                    raise OSError from error

        def start(cert: Path) -> str:
            server = Quiet(("127.0.0.1", 0), Handler)
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(cert)
            server.socket = context.wrap_socket(server.socket, server_side=True)
            threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
            servers.append(server)
            return f"https://localhost:{server.server_port}/"

        yield start
        for server in servers:
            server.shutdown()
            server.server_close()

    def test_a_trusted_certificate_is_accepted(self, serve: Any, tmp_path: Path, monkeypatch: Any) -> None:
        cert = certificate(tmp_path / "good.pem", "localhost")
        monkeypatch.setenv("SSL_CERT_FILE", str(cert))

        assert get(serve(cert)).json() == {"ok": True}

    @pytest.mark.timeout(60)
    def test_a_dripping_response_is_aborted_in_time(
        self, serve: Any, tmp_path: Path, monkeypatch: Any
    ) -> None:
        cert = certificate(tmp_path / "good.pem", "localhost")
        monkeypatch.setenv("SSL_CERT_FILE", str(cert))

        with pytest.raises(outbound.Unreachable, match=r"in time|incomplete"):
            get(f"{serve(cert)}drips", seconds=0.5)

    def test_an_unknown_certificate_is_refused(self, serve: Any, tmp_path: Path) -> None:
        with pytest.raises(outbound.Unreachable):
            get(serve(certificate(tmp_path / "unknown.pem", "localhost")))

    @pytest.mark.parametrize(("name", "days"), [("other.example", 1), ("localhost", -1)])
    def test_a_certificate_for_another_host_is_refused(
        self, name: str, days: int, serve: Any, tmp_path: Path, monkeypatch: Any
    ) -> None:
        cert = certificate(tmp_path / f"{name}{days}.pem", name, days=days)
        monkeypatch.setenv("SSL_CERT_FILE", str(cert))

        with pytest.raises(outbound.Unreachable):
            get(serve(cert))

    @pytest.mark.parametrize(("port", "host"), [("", "provider.example"), (":8443", "provider.example:8443")])
    def test_the_host_header_is_that_of_the_url(
        self, port: str, host: str, serve: Any, tmp_path: Path, monkeypatch: Any, configure: Any
    ) -> None:
        cert = certificate(tmp_path / "good.pem", "provider.example")
        monkeypatch.setenv("SSL_CERT_FILE", str(cert))
        configure(OAUTH_PRIVATE_HOSTS=["provider.example"])
        address = ("127.0.0.1", int(serve(cert).rpartition(":")[2].strip("/")))
        found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", address)]
        monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **kwargs: found)

        assert get(f"https://provider.example{port}/").json() == {"ok": True}
        assert self.hosts == [host]
