"""Helpers to read emails."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import parse_qs, urlsplit

from django.core.mail import EmailMultiAlternatives

_LINK = re.compile(r"https?://[^\s\"<>]+")


def link_of(message: Any) -> str:
    """Return the only link of an email, which is the same in text and HTML."""
    assert isinstance(message, EmailMultiAlternatives)
    (link,) = _LINK.findall(str(message.body))
    html = str(message.alternatives[0][0])
    (linked,) = re.findall(r'href="([^"]+)"', html)
    assert linked.replace("&amp;", "&") == link
    assert len(_LINK.findall(html)) == 1
    return link


def token_of(message: Any) -> str:
    """Return the token in the link of a reset email."""
    (token,) = parse_qs(urlsplit(link_of(message)).query)["token"]
    return token
