"""The language of the texts that a reader gets: that of the catalogue in use, which need not be the one asked for.

Who asks for a language without a catalogue reads another one, by Django's rules; what says it is in a language
must say that one.
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
"""Texts of Django that reach our readers and that it has not translated into all of our languages."""


def language() -> str:
    """Return the tag (BCP 47) of the language that our texts are in now."""
    return pgettext("the BCP 47 tag of the language that this catalogue translates into", "en")


def direction() -> str:
    """Return "rtl" or "ltr", as HTML's `dir` takes it."""
    return "rtl" if language().partition("-")[0] in settings.LANGUAGES_BIDI else "ltr"
