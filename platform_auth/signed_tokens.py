"""Signed tokens (JWT): the keys, the kinds, and the checks that all kinds share.

The only module that uses djangorestframework-simplejwt, and only its `TokenBackend`: simplejwt's tokens, views and
settings read the host's global SIMPLE_JWT. The rules are those of RFC 8725: one algorithm, one `typ` for each kind,
keys only from the settings, every claim required and compared exactly. Headers that name or carry keys (`jku`, `jwk`,
`x5c`, `x5u`) or ask for extensions (`crit`, `b64`, `zip`) are refused without being read.
"""

from __future__ import annotations

import hashlib
import re
import uuid
from datetime import datetime, timedelta
from functools import lru_cache
from typing import Any, NamedTuple

import jwt
from cryptography.hazmat.primitives import serialization
from django.core.exceptions import ImproperlyConfigured
from django.utils import timezone
from django.utils.encoding import force_bytes
from django.views.decorators.debug import sensitive_variables
from jwt.algorithms import get_default_algorithms
from rest_framework_simplejwt.backends import TokenBackend
from rest_framework_simplejwt.exceptions import TokenBackendError, TokenBackendExpiredToken

from . import errors
from .conf import Algorithm, conf

MAX_LENGTH = 4096
CLOCK_SKEW = timedelta(seconds=10)
"""How far in the future `iat` may be, because another node's clock may be ahead. There is no leeway for `exp`."""
MINIMUM_HS256_BYTES = 32


class Kind(NamedTuple):
    """A kind of token: its `token_type` claim, its `typ` header, and its claims in addition to the common ones."""

    token_type: str
    typ: str
    claims: frozenset[str]
    optional_claims: frozenset[str] = frozenset()


# PyJWT accepts padding too. Here a token has exactly one spelling (RFC 7515, 2).
_COMPACT = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+")
_COMMON_CLAIMS = frozenset({"sub", "jti", "iss", "aud", "iat", "exp", "token_type"})


class Key(NamedTuple):
    """A configured key. `signing` is None for a public key, which only verifies; `backend` verifies with it."""

    kid: str
    signing: Any
    verifying: Any
    backend: Any

    def __repr__(self) -> str:
        return f"<Key {self.kid}>"


def keyring() -> dict[str, Key]:
    """Return the configured keys by their `kid`, newest first. Raises ImproperlyConfigured."""
    return _keyring(conf.SIGNING_ALGORITHM, tuple(conf.SIGNING_KEYS))


def public_keys() -> list[dict[str, Any]]:
    """Return the verifying keys as JWKs (RFC 7517); none for HS256, whose keys are secret."""
    if conf.SIGNING_ALGORITHM == "HS256":
        return []
    algorithm = get_default_algorithms()[conf.SIGNING_ALGORITHM]
    return [
        {
            # `use` without `key_ops`: a key should have only one of them (RFC 7517, 4.3).
            **{k: v for k, v in algorithm.to_jwk(key.verifying, as_dict=True).items() if k != "key_ops"},
            "kid": key.kid,
            "use": "sig",
            "alg": conf.SIGNING_ALGORITHM,
        }
        for key in keyring().values()
    ]


@sensitive_variables()
def sign(kind: Kind, claims: dict[str, Any], *, now: datetime, lifetime: timedelta) -> str:
    """Return a token with these claims and the common ones. A `jti` among them is kept."""
    payload = {
        "jti": str(uuid.uuid4()),
        **claims,
        "token_type": kind.token_type,
        "iss": conf.ISSUER,
        "aud": conf.AUDIENCE,
        "iat": int(now.timestamp()),
        "exp": int((now + lifetime).timestamp()),
    }
    key = next(iter(keyring().values()))
    headers = {"kid": key.kid, "typ": kind.typ}
    return jwt.encode(payload, key.signing, algorithm=conf.SIGNING_ALGORITHM, headers=headers)


@sensitive_variables()
def verify(kind: Kind, raw_token: str) -> dict[str, Any]:
    """Return the claims of a token of this kind. Raises TokenExpired, or InvalidToken for everything else.

    Every claim must be present, of its exact type, with no others. Only then is the expiry checked.
    """
    backend = _key_of(kind, raw_token).backend
    try:
        claims: dict[str, Any] = backend.decode(raw_token)
    except TokenBackendExpiredToken:
        # The signature is right, so check the claims before reporting that it has expired: it may be for another
        # site.
        claims = backend.decode(raw_token, verify=False)
    # PyJWT before 2.15 raises the last two for an infinite time and for deeply nested JSON.
    except (TokenBackendError, OverflowError, RecursionError):
        raise errors.InvalidToken from None
    wanted = _COMMON_CLAIMS | kind.claims
    good = (
        wanted <= claims.keys() <= wanted | kind.optional_claims
        and claims["token_type"] == kind.token_type
        and claims["iss"] == conf.ISSUER
        and claims["aud"] == conf.AUDIENCE
        and all(type(claims[name]) is int for name in ("iat", "exp"))
        and all(isinstance(claims[name], str) and claims[name] for name in ("sub", "jti"))
    )
    if not good:
        raise errors.InvalidToken
    if claims["exp"] <= timezone.now().timestamp():
        raise errors.TokenExpired
    return claims


@sensitive_variables()
def _key_of(kind: Kind, raw_token: str) -> Key:
    """Return the key that a token's header names. Raises InvalidToken for any header that isn't exactly ours."""
    try:
        if len(raw_token) <= MAX_LENGTH and _COMPACT.fullmatch(raw_token):
            header = jwt.get_unverified_header(raw_token)
            if header == {"alg": conf.SIGNING_ALGORITHM, "typ": kind.typ, "kid": header.get("kid")}:
                return keyring()[header["kid"]]
    except (jwt.PyJWTError, KeyError, RecursionError):
        pass
    raise errors.InvalidToken


@lru_cache(maxsize=8)
@sensitive_variables()
def _keyring(algorithm: Algorithm, configured: tuple[str | bytes, ...]) -> dict[str, Key]:
    keys = [_load(algorithm, force_bytes(raw)) for raw in configured]
    if not keys or keys[0].signing is None:
        raise ImproperlyConfigured('The first of PLATFORM_AUTH["SIGNING_KEYS"] must be able to sign.')
    return {key.kid: key for key in keys}


@sensitive_variables()
def _load(algorithm: Algorithm, raw: bytes) -> Key:
    prepare = get_default_algorithms()[algorithm].prepare_key
    if algorithm == "HS256":
        if len(raw) < MINIMUM_HS256_BYTES:
            raise ImproperlyConfigured(f"A signing key for HS256 needs {MINIMUM_HS256_BYTES} bytes or more.")
        try:
            prepare(raw)
        except jwt.InvalidKeyError:
            raise ImproperlyConfigured(
                "A signing key for HS256 must be a secret, not a PEM or SSH key."
            ) from None
        return _key(algorithm, raw, signing=raw, verifying=raw)
    try:
        signing = prepare(raw) if b"PRIVATE KEY" in raw else None
        verifying = signing.public_key() if signing else prepare(raw)
    except (jwt.PyJWTError, ValueError, TypeError):
        raise ImproperlyConfigured(f"A signing key for {algorithm} must be a PEM key.") from None
    if algorithm == "RS256" and verifying.key_size < 2048:
        raise ImproperlyConfigured("A signing key for RS256 needs 2048 bits or more.")
    spki = verifying.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return _key(algorithm, spki, signing=signing, verifying=verifying)


@sensitive_variables()
def _key(algorithm: Algorithm, material: bytes, *, signing: Any, verifying: Any) -> Key:
    # simplejwt verifies HS256 with the signing key. The leeway is for `iat`; `verify` checks `exp` again without it.
    backend = TokenBackend(algorithm, verifying, verifying, leeway=CLOCK_SKEW)
    return Key(hashlib.sha256(material).hexdigest()[:8], signing, verifying, backend)
