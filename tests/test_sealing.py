"""Secrets at rest."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from platform_auth import sealing


class TestSealing:
    """security.md, row 122."""

    @given(st.text())
    def test_unseal_returns_what_was_sealed(self, text: str) -> None:
        if text.encode(errors="ignore").decode() != text:
            return
        assert sealing.unseal("totp:1", sealing.seal("totp:1", text)) == text

    def test_the_ciphertext_has_a_version_and_never_repeats(self) -> None:
        one, other = sealing.seal("p", "secret"), sealing.seal("p", "secret")

        assert one.startswith("v1.")
        assert one != other
        assert "secret" not in one

    @pytest.mark.parametrize("purpose", ["totp:2", "totp:", "totp:1 ", "provider:1"])
    def test_it_cannot_be_decrypted_for_another_row_or_column(self, purpose: str) -> None:
        sealed = sealing.seal("totp:1", "secret")

        with pytest.raises(sealing.SealBroken):
            sealing.unseal(purpose, sealed)

    @pytest.mark.parametrize("broken", ["", "v1.", "v1.x", "secret", "v2.gAAAA", "é"])
    def test_an_invalid_ciphertext_is_an_error(self, broken: str) -> None:
        with pytest.raises(sealing.SealBroken):
            sealing.unseal("p", broken)

    def test_one_altered_character_is_an_error(self) -> None:
        sealed = sealing.seal("p", "secret")
        for index in (5, 20, len(sealed) - 5):
            altered = sealed[:index] + ("A" if sealed[index] != "A" else "B") + sealed[index + 1 :]
            with pytest.raises(sealing.SealBroken):
                sealing.unseal("p", altered)

    def test_keys_can_be_rotated(self, settings: Any) -> None:
        sealed = sealing.seal("p", "secret")
        settings.SECRET_KEY_FALLBACKS = [settings.SECRET_KEY]
        settings.SECRET_KEY = "new-" + "n" * 60
        assert sealing.unseal("p", sealed) == "secret"

        again = sealing.seal("p", sealing.unseal("p", sealed))
        settings.SECRET_KEY_FALLBACKS = []
        assert sealing.unseal("p", again) == "secret"
        with pytest.raises(sealing.SealBroken) as raised:
            sealing.unseal("p", sealed)
        assert "ENCRYPTION_KEYS" in str(raised.value)
        assert "secret-" not in str(raised.value)

    def test_encryption_keys_replace_secret_key(self, settings: Any, configure: Any) -> None:
        configure(ENCRYPTION_KEYS=["k" * 32])
        sealed = sealing.seal("p", "secret")
        settings.SECRET_KEY = "new-" + "n" * 60

        assert sealing.unseal("p", sealed) == "secret"

    def test_it_can_expire(self, clock: Any) -> None:
        sealed = sealing.seal("p", "secret")
        clock.shift(600)
        assert sealing.unseal("p", sealed, max_age=600) == "secret"
        clock.shift(1)

        with pytest.raises(sealing.SealBroken):
            sealing.unseal("p", sealed, max_age=600)
