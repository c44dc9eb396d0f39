"""Who is calling: `platform_auth.caller`."""

from __future__ import annotations

import ipaddress
from typing import Any

import pytest
from django.test import RequestFactory
from hypothesis import given
from hypothesis import strategies as st

from platform_auth import caller


@pytest.fixture(autouse=True)
def _not_reported_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(caller, "ignored_forwarding_seen", False)


def address(remote: str = "203.0.113.7", **headers: str) -> str | None:
    return caller.of(RequestFactory().get("/", REMOTE_ADDR=remote, headers=headers)).address


class TestAddress:
    """security.md, row 114."""

    FORGED = {
        "X-Forwarded-For": "1.1.1.1",
        "X-Real-IP": "1.1.1.1",
        "Forwarded": "for=1.1.1.1",
        "Client-IP": "1.1.1.1",
    }

    def test_it_is_remote_addr_regardless_of_headers(self) -> None:
        assert address(**self.FORGED) == "203.0.113.7"

    @pytest.mark.parametrize(
        ("count", "header", "expected"),
        [
            (1, "198.51.100.1", "198.51.100.1"),
            (1, "1.1.1.1, 198.51.100.1", "198.51.100.1"),
            (2, "198.51.100.1, 10.0.0.2", "198.51.100.1"),
            (2, "1.1.1.1, 198.51.100.1, 10.0.0.2", "198.51.100.1"),
            (3, "198.51.100.1, 10.0.0.2", "10.0.0.9"),
            (1, "", "10.0.0.9"),
            (1, "unknown", "10.0.0.9"),
            (1, "1.1.1.1, ", "10.0.0.9"),
            (1, "198.51.100.1:4711", "198.51.100.1"),
            (1, "[2001:db8::1]:4711", "2001:db8::1"),
            (1, "2001:db8::1", "2001:db8::1"),
            (1, "::ffff:198.51.100.1", "198.51.100.1"),
            (1, "198.051.100.1", "10.0.0.9"),
            (1, "0x7f.1", "10.0.0.9"),
            (1, "198.51.100.1\x00", "10.0.0.9"),
        ],
    )
    def test_it_is_the_nth_from_the_right_behind_trusted_proxies(
        self, configure: Any, count: int, header: str, expected: str
    ) -> None:
        configure(TRUSTED_PROXY_COUNT=count)

        assert address("10.0.0.9", **{"X-Forwarded-For": header}) == expected

    def test_other_headers_are_ignored_behind_a_proxy_too(self, configure: Any) -> None:
        configure(TRUSTED_PROXY_COUNT=1)

        assert address("10.0.0.9", **{"X-Real-IP": "1.1.1.1", "Forwarded": "for=1.1.1.1"}) == "10.0.0.9"

    @pytest.mark.parametrize("remote", ["", "unix:", "/run/app.sock", "@"])
    def test_it_is_none_for_a_unix_socket(self, remote: str) -> None:
        who = caller.of(RequestFactory().get("/", REMOTE_ADDR=remote))

        assert (who.address, who.network) == (None, None)

    def test_an_ipv4_address_in_ipv6_becomes_ipv4(self) -> None:
        assert address("::ffff:203.0.113.7") == "203.0.113.7"

    def test_a_zone_is_removed(self) -> None:
        assert address("fe80::1%eth0") == "fe80::1"

    @given(st.text(max_size=60))
    def test_an_invalid_header_does_no_harm(self, header: str) -> None:
        request = RequestFactory().get("/", REMOTE_ADDR="10.0.0.9", HTTP_X_FORWARDED_FOR=header)
        request.META["REMOTE_ADDR"] = header

        address = caller.of(request).address
        assert address is None or str(ipaddress.ip_address(address)) == address


class TestNetwork:
    def test_an_ipv6_address_counts_by_its_64_bit_prefix(self) -> None:
        one, other, third = (
            caller.Caller(text, "").network
            for text in ("2001:db8:0:1::1", "2001:db8:0:1:ffff::", "2001:db8:0:2::1")
        )

        assert one == other == "2001:db8:0:1::/64"
        assert third != one

    def test_an_ipv4_address_is_its_own_network(self) -> None:
        assert caller.Caller("203.0.113.7", "").network == "203.0.113.7"


class TestIgnoredHeader:
    def test_it_is_reported_once_if_it_came_from_a_private_address(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        for _ in range(3):
            address("10.0.0.9", **{"X-Forwarded-For": "198.51.100.1"})

        assert [record.message for record in caplog.records].count(caplog.records[0].message) == 1
        assert "TRUSTED_PROXY_COUNT" in caplog.text
        assert caller.ignored_forwarding_seen

    def test_it_is_not_reported_if_it_came_from_a_public_address(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        address("8.8.8.8", **{"X-Forwarded-For": "198.51.100.1"})

        assert not caplog.records

    def test_it_is_not_reported_behind_a_trusted_proxy(
        self, configure: Any, caplog: pytest.LogCaptureFixture
    ) -> None:
        configure(TRUSTED_PROXY_COUNT=1)
        address("10.0.0.9", **{"X-Forwarded-For": "198.51.100.1"})

        assert not caplog.records


class TestUserAgent:
    def test_it_is_cut_and_control_characters_are_replaced(self) -> None:
        request = RequestFactory().get("/", headers={"User-Agent": "a\r\nb\x00c" + "x" * 1000})

        agent = caller.of(request).user_agent

        assert len(agent) == 512
        assert agent.startswith("a��b�cx")

    def test_a_device_has_a_short_name(self) -> None:
        firefox = "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0"

        assert caller.device_name(firefox) in ("Firefox on Linux", "Mozilla")
        assert caller.device_name("") == ""
        assert caller.device_name("curl/8.0").startswith("curl")

    @given(st.text(max_size=100))
    def test_every_user_agent_gives_a_device_name(self, agent: str) -> None:
        assert len(caller.device_name(agent)) <= 512


def test_without_a_request_there_is_no_caller() -> None:
    assert caller.of(None) is caller.NOBODY
    assert caller.NOBODY.network is None
