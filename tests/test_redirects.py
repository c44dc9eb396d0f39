"""Which URLs we send people to: `reset_url` and `redirect`, compared with two independent parsers."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from hypothesis import HealthCheck, example, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from platform_auth import errors, redirects
from tests.conftest import Api

HOSTILE = json.loads((Path(__file__).parent / "data" / "hostile-urls.json").read_text())
PUBLIC_URL = HOSTILE["allowed"]["PUBLIC_URL"]
ENTRY = HOSTILE["allowed"]["reset_url"][0]


@pytest.fixture(autouse=True)
def _lists(configure: Any) -> None:
    configure(
        PUBLIC_URL=PUBLIC_URL,
        PASSWORD_RESET_URL_ALLOW_LIST=[ENTRY],
        OAUTH_REDIRECT_ALLOW_LIST=["https://app.example:8443/done?x=1", "http://[::1]/x"],
    )


def accepts(check: Any, url: Any) -> bool:
    try:
        check(url)
    except errors.InvalidPayload:
        return False
    return True


class TestHostileURLs:
    """security.md, rows 78 to 80, 82: strings that look like an allowed URL to some parser."""

    @pytest.mark.parametrize("url", HOSTILE["refused_reset_url"])
    def test_none_passes_as_reset_url(self, url: str) -> None:
        assert not accepts(redirects.check_reset_url, url)

    @pytest.mark.parametrize("url", HOSTILE["refused_redirect"])
    def test_none_passes_as_redirect(self, url: str) -> None:
        assert not accepts(redirects.check_redirect, url)

    @pytest.mark.django_db
    @pytest.mark.parametrize("url", HOSTILE["refused_reset_url"])
    def test_none_passes_over_http(self, api: Api, url: str, mailoutbox: list[Any]) -> None:
        response = api.post("/auth/password/request", {"email": "ann@example.com", "reset_url": url})

        assert response.status_code == 400
        assert {e["extensions"]["code"] for e in response.json()["errors"]} == {"INVALID_PAYLOAD"}
        assert {e["extensions"]["field"] for e in response.json()["errors"]} == {"reset_url"}
        assert response.headers["Content-Type"] == "application/json"
        assert "Location" not in response.headers

    @pytest.mark.parametrize("url", HOSTILE["refused_reset_url"])
    def test_listing_one_does_not_allow_it(self, configure: Any, url: str) -> None:
        """The filter comes first: a bad entry is reported by a check, and isn't used either."""
        merely_another_url = {
            "https://evil.example?@allowed.example/reset",
            "http://allowed.example/reset",
            "https://evilallowed.example/reset",
            "https://sub.allowed.example/reset",
            "https://allowed.example/resetevil",
            "https://allowed.example/reset/",
            "https://allowed.example/reset?next=https://evil.example",
            "https://allowed.example/reset#https://evil.example",
            "https://xn--llowed-8nf.example/reset",
            "https://[::1]/reset",
            "https://127.0.0.1/reset",
        }
        configure(PASSWORD_RESET_URL_ALLOW_LIST=[url], OAUTH_REDIRECT_ALLOW_LIST=[url])

        if url not in merely_another_url:
            assert not accepts(redirects.check_reset_url, url)
            assert not accepts(redirects.check_redirect, url)

    @pytest.mark.parametrize("url", ["", "/", None])
    def test_an_empty_list_refuses_everything(self, configure: Any, url: Any) -> None:
        """security.md, row 77."""
        configure(PASSWORD_RESET_URL_ALLOW_LIST=[])

        assert not accepts(redirects.check_reset_url, ENTRY)
        assert not accepts(redirects.check_reset_url, url)


class TestAllowed:
    def test_an_entry_passes_as_reset_url(self) -> None:
        assert redirects.check_reset_url(ENTRY) == ENTRY

    @pytest.mark.parametrize(
        ("redirect", "absolute"),
        [
            ("/", f"{PUBLIC_URL}/"),
            ("/a/b?c=/d&e=%20#".rstrip("#"), f"{PUBLIC_URL}/a/b?c=/d&e=%20"),
            (f"{PUBLIC_URL}/a", f"{PUBLIC_URL}/a"),
            (f"{PUBLIC_URL}:443/a", f"{PUBLIC_URL}:443/a"),
            (PUBLIC_URL, PUBLIC_URL),
            ("https://app.example:8443/done?x=1", "https://app.example:8443/done?x=1"),
        ],
    )
    def test_a_local_path_the_own_origin_and_an_entry_pass_as_redirect(
        self, redirect: str, absolute: str
    ) -> None:
        assert redirects.check_redirect(redirect) == absolute

    @pytest.mark.parametrize(
        "redirect",
        [
            "https://app.example:8443/done?x=2",
            "https://app.example:8443/done",
            f"{PUBLIC_URL}:444/a",
            f"{PUBLIC_URL}.evil.example/",
            f"{PUBLIC_URL}#",
            "/a#b",
            "/a/../b",
            "/a/./b",
            "/a/.",
            "/a//b",
            "/%2e%2e/",
            "/a%2Fb",
            "/a%5cb",
            "/a%00",
            "/a?b=%0d%0aSet-Cookie:x",
            "/a?b=%7f",
            "/a%",
            "/a%zz",
            "/{token}",
            "/'",
            "a",
            "",
            "/" + "a" * 2048,
        ],
    )
    def test_similar_urls_are_refused(self, redirect: str) -> None:
        assert not accepts(redirects.check_redirect, redirect)

    @pytest.mark.parametrize(
        "url", ["//evil.example", "/\\evil.example", "///", "https://a.example/", "a", ""]
    )
    def test_a_local_path_starts_with_a_single_slash(self, url: str) -> None:
        assert not redirects.is_local_path(url)


class TestResetURL:
    """What an entry may contain, apart from being unambiguous."""

    @pytest.mark.parametrize(
        "url",
        [
            "https://a.example/{token}",
            "https://a.example/?a={token}",
            "https://a.example/?token={token}",
            "https://a.example/?a=b#/{token}",
            "https://a.example/?tokens=b",
            "https://a.example#/reset?token=x",
            "https://127.0.0.1/",
            "https://[::1]:8443/",
            "https://[2001:db8::1]/",
            "https://xn--mnchen-3ya.example/",
            "https://r3---sn.example/",
            "https://1.a/",
        ],
    )
    def test_it_can_be_listed(self, url: str) -> None:
        assert redirects.is_unambiguous(url, for_reset=True)

    @pytest.mark.parametrize(
        "url",
        [
            "/reset",
            "/#/{token}",
            "{token}",
            "https://{token}.example/",
            "https://a{token}.example/",
            "https://a.example{token}/",
            "https://a.example{token}",
            "https://a.example:{token}/",
            "https://a.example/{token}/{token}",
            "https://a.example/{token}#{token}",
            "https://a.example/?token=x",
            "https://a.example/?token",
            "https://a.example/?token=",
            "https://a.example/?a=b&%74oken=x",
            "https://a.example/?a=b;token=x",
            "https://a.example/?token=x#/{token}",
            "https://a.example/{token}?token=x",
            "https://a.example/?token=x{token}",
            "https://127.1/",
            "https://127.0.0.01/",
            "https://2130706433/",
            "https://0x7f000001/",
            "https://a.0x/",
            "https://a.example.1/",
            "https://256.0.0.1/",
            "https://[::1%25eth0]/",
            "https://[::0]/",
            "https://[0:0:0:0:0:0:0:1]/",
            "https://[::ffff:127.0.0.1]/",
            "https://[::ffff:7f00:1]/",
            "https://[:::]/",
            "https://[.]/",
            "https://xn--/",
            "https://xn--a/",
            "https://xn--443.example/",
            "https://a.xn--abc-.example/",
            f"https://xn--{'a' * 60}.example/",
        ],
    )
    def test_it_cannot_be_listed(self, url: str) -> None:
        assert not redirects.is_unambiguous(url, for_reset=True)


class TestToken:
    """security.md, row 67."""

    @pytest.mark.parametrize(
        ("url", "expected"),
        [
            ("https://a.example/r", "https://a.example/r?token=T"),
            ("https://a.example/r?", "https://a.example/r?token=T"),
            ("https://a.example/r?x=1", "https://a.example/r?x=1&token=T"),
            ("https://a.example/r?x=1&", "https://a.example/r?x=1&token=T"),
            ("https://a.example/r&", "https://a.example/r&?token=T"),
            ("https://a.example/r#f", "https://a.example/r?token=T#f"),
            ("https://a.example/#/r/{token}", "https://a.example/#/r/T"),
            ("https://a.example/{token}?x=1", "https://a.example/T?x=1"),
        ],
    )
    def test_it_replaces_the_placeholder_or_is_added_to_the_query(self, url: str, expected: str) -> None:
        assert redirects.with_token(url, "T") == expected

    @given(st.text(min_size=1, max_size=60).filter(lambda text: text.isprintable()))
    def test_any_value_survives_in_the_query(self, value: str) -> None:
        url = redirects.with_parameter("https://a.example/r?x=1#f", "token", value)

        assert parse_qs(urlsplit(url).query)["token"] == [value]
        assert url.isascii()
        assert not set(url) & set("\"'<>\\ \r\n")


# A browser's parser


BROWSER = """
const lines = require('readline').createInterface({input: process.stdin});
lines.on('line', line => {
  const [url, base] = JSON.parse(line);
  let read = null;
  try { const u = new URL(url, base); read = [u.origin, u.pathname, u.search, u.hash]; } catch (error) {}
  process.stdout.write(JSON.stringify(read) + '\\n');
});
"""


class Browser:
    """The WHATWG URL parser of a node process: how a browser reads a Location header or a link."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            ["node", "-e", BROWSER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            encoding="utf-8",
        )

    def read(self, url: str, base: str = "https://evil.example/x/") -> Any:
        """Return [origin, path, query, fragment], or None if a browser would refuse the URL."""
        assert self.process.stdin
        assert self.process.stdout
        self.process.stdin.write(json.dumps([url, base]) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def close(self) -> None:
        assert self.process.stdin
        assert self.process.stdout
        self.process.stdin.close()
        self.process.wait(timeout=60)
        self.process.stdout.close()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    if shutil.which("node") is None:
        pytest.skip("node is not installed: its URL parser is the browser's in this test")
    process = Browser()
    yield process
    process.close()


_pieces = st.sampled_from(
    [
        *(
            "https://allowed.example",
            "allowed.example",
            "evil.example",
            "https://",
            "http://",
            "https:",
            "//",
            "/",
        ),
        *(
            "\\",
            "@",
            ":",
            "?",
            "#",
            ".",
            "..",
            "%",
            "%2e",
            "%2f",
            "%5c",
            "%00",
            "%0a",
            "%7f",
            "%40",
            "%25",
            "&",
            "=",
        ),
        *(
            "\t",
            "\n",
            "\r",
            " ",
            "\x00",
            "\u3002",
            "\uff0f",
            "\uff41",
            "\u2044",
            "\u00ad",
            "xn--",
            "[::1]",
            "127.1",
        ),
        *(
            "0x7f.1",
            "2130706433",
            "443",
            ":443",
            ":0",
            "javascript:",
            "data:",
            "reset",
            "a",
            "A",
            ";",
            ",",
            "!",
            "~",
        ),
        *(
            "|",
            "^",
            "`",
            "{",
            "}",
            "{token}",
            "'",
            '"',
            "<",
            ">",
            "*",
            "$",
            "(",
            ")",
            "+",
            "_",
            "-",
            "é",
            "\U0001f600",
        ),
    ]
)
urls = st.one_of(
    st.lists(_pieces, min_size=1, max_size=8).map("".join),
    st.lists(_pieces, max_size=6).map(lambda pieces: "/" + "".join(pieces)),
    st.lists(_pieces, max_size=6).map(lambda pieces: PUBLIC_URL + "".join(pieces)),
    st.lists(_pieces, max_size=6).map(lambda pieces: PUBLIC_URL + "/" + "".join(pieces)),
    st.text(alphabet=st.characters(min_codepoint=1, max_codepoint=0x7F), max_size=20).map(lambda t: "/" + t),
    st.text(max_size=30),
)
_parts_of_hosts = st.sampled_from(
    [
        *(
            "1",
            "0",
            "01",
            "08",
            "255",
            "256",
            "65536",
            "0x",
            "0x1",
            "0xg",
            "127.0.0.1",
            "a",
            "-",
            ".",
            "{token}",
        ),
        *(
            "xn--",
            "mnchen-3ya",
            "xn--mnchen-3ya",
            "xn--a",
            "443",
            ":80",
            ":443",
            "@",
            "[",
            "]",
            "::",
            "1:",
            "ffff:",
        ),
    ]
)
_endings = st.sampled_from(
    [
        "",
        "/",
        "/a",
        "/{token}",
        "?token=x",
        "?a=b;token=x",
        "?token={token}",
        "?a={token}&token=x",
        "#/{token}",
        "#a",
    ]
)
_hosts = st.one_of(
    st.lists(_parts_of_hosts, min_size=1, max_size=6).map("".join),
    st.ip_addresses(v=4).map(str),
    st.ip_addresses(v=6).flatmap(
        lambda ip: st.sampled_from([f"[{ip}]", f"[{ip.exploded}]", f"[::ffff:{ip}]"])
    ),
    st.ip_addresses(v=4).flatmap(
        lambda ip: st.sampled_from([f"[::ffff:{ip}]", f"[::{ip}]", str(int(ip)), hex(int(ip))])
    ),
)
addresses = st.builds("https://{}{}".format, _hosts, _endings)
many = hypothesis_settings(
    max_examples=1000,
    suppress_health_check=[
        HealthCheck.function_scoped_fixture,
        HealthCheck.filter_too_much,
        HealthCheck.too_slow,
    ],
)


@pytest.mark.node
class TestBrowser:
    """security.md, row 80: an accepted URL means the same to a browser, to urllib and to us."""

    @many
    @given(url=urls)
    @example(url="/\t/evil.example")
    @example(url="https:allowed.example")
    @example(url=f"{PUBLIC_URL}\\@evil.example")
    def test_an_accepted_redirect_leads_where_we_think(self, browser: Browser, url: str) -> None:
        try:
            absolute = redirects.check_redirect(url)
        except errors.InvalidPayload:
            return

        listed = url == "https://app.example:8443/done?x=1"
        parts = urlsplit(absolute)
        origin, path, query, _href = browser.read(absolute)
        # No matter which page the browser is on, because the Location is absolute.
        assert origin == ("https://app.example:8443" if listed else PUBLIC_URL)
        assert path == (parts.path or "/")
        assert query == (f"?{parts.query}" if parts.query else "")
        assert parts.hostname == urlsplit(origin).hostname
        assert (parts.username, parts.password, parts.fragment) == (None, None, "")

    @many
    @given(url=urls)
    def test_an_accepted_local_path_is_local_to_a_browser(self, browser: Browser, url: str) -> None:
        if not (redirects.is_local_path(url) and redirects.is_unambiguous(url)):
            return

        origin, path, query, _href = browser.read(url, f"{PUBLIC_URL}/somewhere/else")
        assert origin == PUBLIC_URL
        assert path + query == url.removesuffix("?") or path + query == url

    @many
    @given(
        url=st.one_of(urls, addresses),
        token=st.from_regex(r"[A-Za-z0-9_-]{1,9}\.[A-Za-z0-9_-]{1,9}", fullmatch=True),
    )
    @example(url="https://127.1/", token="e.y")
    @example(url="https://0x7f.0.0.1/", token="e.y")
    @example(url="https://0x/", token="e.y")
    @example(url="https://1.2.3.08/", token="e.y")
    @example(url="https://[::ffff:1.2.3.4]/", token="e.y")
    @example(url="https://[::ffff:102:304]/", token="e.y")
    @example(url="https://[0::1]/", token="e.y")
    @example(url="https://xn--/", token="e.y")
    @example(url="https://xn--443.example/", token="e.y")
    @example(url="https://a.example/{token}/{token}", token="e.y")
    @example(url="https://a{token}.example/", token="e.y")
    @example(url="https://a.example:{token}/", token="e.y")
    @example(url="https://a.example{token}/", token="e.y")
    @example(url="https://a.example/?%74oken=x", token="e.y")
    @example(url="https://a.example/&", token="e.y")
    def test_an_accepted_reset_url_leads_where_we_think(self, browser: Browser, url: str, token: str) -> None:
        if not redirects.is_unambiguous(url, for_reset=True):
            return

        linked = redirects.with_token(url, token)
        parts = urlsplit(linked)
        origin, path, query, fragment = browser.read(linked)
        assert origin == redirects.origin_of(url) == redirects.origin_of(linked)
        assert parts.hostname == urlsplit(origin).hostname
        assert (parts.username, parts.password) == (None, None)
        assert path == (parts.path or "/")
        assert query == (f"?{parts.query}" if parts.query else "")
        assert fragment == (f"#{parts.fragment}" if parts.fragment else "")
        if redirects.PLACEHOLDER not in url:
            assert parse_qs(parts.query)["token"] == [token]

    @pytest.mark.parametrize(
        "host",
        [
            "xn--mnchen-3ya.de",
            "xn--strae-oqa.de",
            "xn--mgbh0fb.xn--kgbechtv",
            "xn--99zt52a.jp",
            "a--b.example",
        ],
    )
    def test_hosts_of_every_script_are_accepted(self, browser: Browser, host: str) -> None:
        assert redirects.is_unambiguous(f"https://{host}/", for_reset=True)
        assert browser.read(f"https://{host}/")[0] == f"https://{host}"
