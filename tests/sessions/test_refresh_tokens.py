"""The opaque refresh token."""

from __future__ import annotations

import base64
import hashlib
import hmac
import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from platform_auth.sessions import tokens

KEY = uuid.UUID("00112233-4455-6677-8899-aabbccddeeff")


class TestRefreshToken:
    """security.md, row 33."""

    def test_it_is_64_characters_of_key_and_secret(self) -> None:
        token = tokens.new_refresh_token(KEY)

        raw = base64.urlsafe_b64decode(str(token))
        assert len(str(token)) == 64
        assert raw[:16] == KEY.bytes
        assert raw[16:] == token.secret
        assert len(token.secret) == 32

    def test_tokens_never_repeat(self) -> None:
        assert len({str(tokens.new_refresh_token(KEY)) for _ in range(1000)}) == 1000

    def test_parse_reads_what_str_writes(self) -> None:
        token = tokens.new_refresh_token(uuid.uuid4())

        assert tokens.parse_refresh_token(str(token)) == token

    def test_the_digest_is_sha_256_of_the_secret(self) -> None:
        token = tokens.new_refresh_token(KEY)

        assert token.digest == hashlib.sha256(token.secret).hexdigest()

    def test_the_successor_depends_on_the_salt(self) -> None:
        token, salt = tokens.new_refresh_token(KEY), tokens.new_salt()

        assert token.successor(salt) == token.successor(salt)
        assert token.successor(salt) != token.successor(tokens.new_salt())
        assert token.successor(salt).key == KEY
        expected = hmac.digest(
            token.secret, b"platform_auth refresh successor\x00" + bytes.fromhex(salt), "sha256"
        )
        assert token.successor(salt).secret == expected

    def test_its_repr_hides_the_secret(self) -> None:
        token = tokens.new_refresh_token(KEY)

        assert repr(token) == "<RefreshToken>"

    @pytest.mark.parametrize(
        "text", ["", "A" * 63, "A" * 65, "A" * 63 + "=", "A" * 63 + "\n", "+" * 64, "é" * 64, "Ａ" * 64]
    )
    def test_any_other_string_is_none(self, text: str) -> None:
        assert tokens.parse_refresh_token(text) is None

    @given(st.text(max_size=70))
    def test_parsing_never_raises(self, text: str) -> None:
        token = tokens.parse_refresh_token(text)

        assert token is None or str(token) == text
