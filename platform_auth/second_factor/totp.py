"""Time-based one-time passwords (RFC 6238): the time step of a code, and what an authenticator app is given.

Six digits, SHA-1, 30 seconds: the only parameters that every authenticator app supports. One step of tolerance to
either side: a client's clock drift isn't remembered, so a series of early codes can't move the window.
"""

from __future__ import annotations

import base64
import hmac
import re
import secrets
from urllib.parse import quote, urlencode

import segno
from django.views.decorators.debug import sensitive_variables
from django_otp.oath import hotp

DIGITS = 6
STEP_SECONDS = 30
TOLERANCE = 1
"""How many steps before and after the current one are accepted."""
SECRET_BYTES = 20
"""160 bits: the length of the HMAC's output (RFC 4226, 4, R6)."""

# Checked before int(), which also accepts full-width digits, spaces, underscores and signs.
_CODE = re.compile(r"[0-9]{6}")


def has_shape(text: str) -> bool:
    """Return whether a string looks like a code: exactly six ASCII digits."""
    return _CODE.fullmatch(text) is not None


@sensitive_variables()
def new_secret() -> str:
    """Return a new secret: base32 without padding, 32 characters."""
    return base64.b32encode(secrets.token_bytes(SECRET_BYTES)).decode().rstrip("=")


@sensitive_variables()
def matching_step(secret: str, code: str, *, at: float) -> int | None:
    """Return the time step of a code, or None. `at`: Unix seconds."""
    if not has_shape(code):
        return None
    key = base64.b32decode(secret + "=" * (-len(secret) % 8))
    now = int(at) // STEP_SECONDS
    found = None
    # All steps, even after a match, so that the time taken doesn't reveal which step matched.
    for step in range(max(now - TOLERANCE, 0), now + TOLERANCE + 1):
        number = hotp(key, step, digits=DIGITS)  # type: ignore[no-untyped-call]
        expected = f"{number:0{DIGITS}d}"
        if hmac.compare_digest(expected, code):
            found = step
    return found


@sensitive_variables()
def provisioning_url(secret: str, *, issuer: str, account: str) -> str:
    """Return the otpauth:// URL of a secret, which authenticator apps read from a QR code."""
    label = f"{quote(issuer, safe='')}:{quote(account, safe='')}"
    query = {
        "secret": secret,
        "issuer": issuer,
        "algorithm": "SHA1",
        "digits": DIGITS,
        "period": STEP_SECONDS,
    }
    return f"otpauth://totp/{label}?{urlencode(query, quote_via=quote)}"


@sensitive_variables()
def qr_svg(url: str) -> str:
    """Return a QR code of a URL as an <svg> element."""
    return str(segno.make(url, error="m").svg_inline(scale=4))
