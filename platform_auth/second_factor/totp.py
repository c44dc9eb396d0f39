"""One-time passwords by the clock (RFC 6238): the step of a code, and what an authenticator app is given.

Six digits, SHA-1, 30 seconds: what every authenticator app understands, Google's knows nothing else. One
step of tolerance to either side and none beyond: nothing remembers a client's drift, so a row of early codes
cannot walk the window forward.
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
"""Steps before and after the current one whose code is accepted."""
SECRET_BYTES = 20
"""160 bits: the length of the HMAC's output (RFC 4226, 4, R6)."""

# Before any int(): that takes full-width digits, blanks, underscores and signs for numbers too.
_CODE = re.compile(r"[0-9]{6}")


def has_shape(text: str) -> bool:
    """Return whether a text looks like a code: six ASCII digits and nothing else."""
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
    # All of them, also after a hit: the time that it takes does not tell which one it was.
    for step in range(max(now - TOLERANCE, 0), now + TOLERANCE + 1):
        number = hotp(key, step, digits=DIGITS)  # type: ignore[no-untyped-call]
        expected = f"{number:0{DIGITS}d}"
        if hmac.compare_digest(expected, code):
            found = step
    return found


@sensitive_variables()
def provisioning_url(secret: str, *, issuer: str, account: str) -> str:
    """Return the otpauth:// URL of a secret, as authenticator apps read it from a QR code."""
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
    """Return a QR code of a URL as an <svg> element to put into a page."""
    return str(segno.make(url, error="m").svg_inline(scale=4))
