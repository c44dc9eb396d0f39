"""The language of the texts that a reader gets: that of the message catalog in use, which may differ from the one
requested.

A language without a catalog falls back to another one, by Django's rules. A page or email must declare the language
that it is really in.
"""

from __future__ import annotations

from django.conf import settings
from django.utils.translation import ngettext_lazy, pgettext

DJANGOS = (
    ngettext_lazy(
        "This password is too short. It must contain at least %d character.",
        "This password is too short. It must contain at least %d characters.",
    ),
)
"""Texts of Django that our readers see and that aren't translated into all of our languages."""


def language() -> str:
    """Return the tag (BCP 47) of the language that our texts are currently in."""
    return pgettext("the BCP 47 tag of the language that this catalogue translates into", "en")


def direction() -> str:
    """Return "rtl" or "ltr", for the `dir` attribute of HTML."""
    return "rtl" if language().partition("-")[0] in settings.LANGUAGES_BIDI else "ltr"
