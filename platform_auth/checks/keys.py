"""Keys, and the secrets that are encrypted with them."""

from __future__ import annotations

from typing import Any

from django.core.checks import Error
from django.core.exceptions import ImproperlyConfigured
from django.utils.encoding import force_bytes

from .. import sealing, signed_tokens
from ..conf import SETTINGS, conf
from ..models import OAuthProvider, TOTPFactor
from .registry import Messages, check

MINIMUM_KEY_BYTES = 32
SAMPLE = 100
"""How many of the oldest and of the newest factors are decrypted as a test."""


@check("SIGNING_ALGORITHM", "SIGNING_KEYS", "ENCRYPTION_KEYS")
def keys() -> Messages:
    """E006-E008: keys that are missing, short, of another kind, or SECRET_KEY itself."""
    try:
        signed_tokens.keyring()
    except (ImproperlyConfigured, ValueError, TypeError) as error:
        yield Error(
            f"The signing keys cannot be used: {error}",
            hint='Set PLATFORM_AUTH["SIGNING_KEYS"] to a list, newest first: for HS256 strings of 32 random '
            "bytes or more, such as secrets.token_urlsafe(48), otherwise PEM keys, the first private. Without it, "
            "HS256 keys are derived from SECRET_KEY.",
            id="platform_auth.E006",
        )
    own = {
        name: {force_bytes(key) for key in SETTINGS[name].value or ()}
        for name in ("SIGNING_KEYS", "ENCRYPTION_KEYS")
    }
    if any(len(key) < MINIMUM_KEY_BYTES for key in own["ENCRYPTION_KEYS"]):
        yield Error(
            f'One of PLATFORM_AUTH["ENCRYPTION_KEYS"] has fewer than {MINIMUM_KEY_BYTES} bytes.',
            hint="Put a new one, such as secrets.token_urlsafe(48), in front of it, run "
            "`manage.py platform_auth_rotate_keys`, then remove the short one.",
            id="platform_auth.E007",
        )
    if own["SIGNING_KEYS"] & own["ENCRYPTION_KEYS"]:
        yield Error(
            "SIGNING_KEYS and ENCRYPTION_KEYS have a key in common.",
            hint="Use a key for one purpose only: put a new one in front of ENCRYPTION_KEYS, run "
            "`manage.py platform_auth_rotate_keys`, then remove the shared one from it.",
            id="platform_auth.E008",
        )
    for name, values in own.items():
        if values & {force_bytes(secret) for secret in conf.django_secrets}:
            yield Error(
                f'One of PLATFORM_AUTH["{name}"] is SECRET_KEY itself.',
                hint="Remove it: without the setting, a key for each purpose is derived from SECRET_KEY.",
                id="platform_auth.E008",
            )


@check(asks=TOTPFactor)
def sealed_secrets() -> Messages:
    """E040: secrets whose key is gone, as after a change of SECRET_KEY without SECRET_KEY_FALLBACKS."""
    broken = [
        f"provider {provider.key}"
        for provider in OAuthProvider.objects.all()
        if not _opens(provider, "client_secret", "private_key")
    ]
    lost = sum(not _opens(factor, "secret") for factor in _sample_of_factors())
    if lost:
        broken.append(f"{lost} of the second factors that were tested")
    if broken:
        yield Error(
            f"Some secrets can't be decrypted: {', '.join(broken)}.",
            hint="Restore the key that they were encrypted with, after the newest: in SECRET_KEY_FALLBACKS, or in "
            'PLATFORM_AUTH["ENCRYPTION_KEYS"]. Then run `manage.py platform_auth_rotate_keys`.',
            id="platform_auth.E040",
        )


def _sample_of_factors() -> set[TOTPFactor]:
    factors = TOTPFactor.objects
    return {*factors.order_by("pk")[:SAMPLE], *factors.order_by("-pk")[:SAMPLE]}


def _opens(row: Any, *names: str) -> bool:
    try:
        for name in names:
            getattr(row, name)
    except sealing.SealBroken:
        return False
    return True
