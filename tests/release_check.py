"""Checks for a release that a single change need not pass: translations are complete, current and good.

`make release-check` runs them. `make test` doesn't, because of this file's name, so an English text can change before
its translations do.
"""

from __future__ import annotations

import gettext
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import django
import polib
import pytest
from django.core import mail
from django.utils import translation

from platform_auth.caller import Caller
from platform_auth.mail import languages, messages
from tests import texts

each_language = pytest.mark.parametrize("language", ["de", "fr", "es", "ar"])

_PLACEHOLDER = re.compile(r"%\(\w+\)[sd]|%[sd]")
_VERBATIM = re.compile(r"`[^`]+`|\b[A-Z]+(?:_[A-Z]+)+\b|/auth/\S+|\bapplication/json\b|\bRFC \d+\b")
_ISOLATES = str.maketrans("", "", "\u2066\u2067\u2068\u2069")

FIREFOX = "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0"


def source_of(language: str) -> polib.POFile:
    return polib.pofile(str(texts.PACKAGE / "locale" / language / "LC_MESSAGES" / "django.po"))


def translations_of(entry: Any) -> list[str]:
    return list(entry.msgstr_plural.values()) if entry.msgid_plural else [entry.msgstr]


def numbers_of(language: str) -> dict[int, list[int]]:
    """Return which of the numbers up to 1000 each plural form of a catalog is for."""
    rule = str(source_of(language).metadata["Plural-Forms"])
    form_of = gettext.c2py(rule.partition("plural=")[2].rstrip("; \n"))  # type: ignore[attr-defined]
    count = int(rule.partition("nplurals=")[2].partition(";")[0])
    return {form: [number for number in range(1001) if form_of(number) == form] for form in range(count)}


@each_language
class TestCatalog:
    def test_nothing_is_missing_fuzzy_or_obsolete(self, language: str) -> None:
        source = source_of(language)

        assert not source.metadata_is_fuzzy
        assert [entry.msgid for entry in source if entry.fuzzy or entry.obsolete] == []
        assert [entry.msgid for entry in source if not all(map(str.strip, translations_of(entry)))] == []

    def test_it_has_the_texts_of_the_sources_and_no_others(self, language: str) -> None:
        entries = {
            texts.Text(entry.msgctxt, entry.msgid, entry.msgid_plural or "") for entry in source_of(language)
        }

        assert entries == texts.texts()

    def test_it_is_compiled(self, language: str) -> None:
        folder = texts.PACKAGE / "locale" / language / "LC_MESSAGES"

        compiled = polib.mofile(str(folder / "django.mo"))

        def by_id(entries: Any) -> dict[Any, Any]:
            return {
                (entry.msgctxt, entry.msgid, entry.msgid_plural): translations_of(entry) for entry in entries
            }

        assert by_id(compiled) == by_id(source_of(language))
        assert compiled.metadata["Plural-Forms"] == source_of(language).metadata["Plural-Forms"]

    def test_each_plural_form_fits_its_numbers(self, language: str) -> None:
        forms = numbers_of(language)

        for entry in source_of(language):
            if entry.msgid_plural:
                assert set(entry.msgstr_plural) == set(forms), entry.msgid
        assert len(forms) == {"de": 2, "fr": 2, "es": 3, "ar": 6}[language]

    def test_placeholders_are_kept(self, language: str) -> None:
        forms = numbers_of(language)

        for entry in source_of(language):
            wanted = sorted(_PLACEHOLDER.findall(entry.msgid_plural or entry.msgid))
            for form, text in enumerate(translations_of(entry)):
                found = sorted(_PLACEHOLDER.findall(text))
                # A form for a single number may use a word for it, unless Python formats the number.
                is_one_word = bool(entry.msgid_plural) and len(forms[form]) == 1 and "%d" not in wanted
                assert found == wanted or (is_one_word and not found), entry.msgid

    def test_codes_and_names_are_kept(self, language: str) -> None:
        for entry in source_of(language):
            for text in translations_of(entry):
                if entry.msgid == "DATETIME_FORMAT":
                    continue
                wanted = [name.rstrip(".") for name in _VERBATIM.findall(entry.msgid)]
                assert [name for name in wanted if name not in text.translate(_ISOLATES)] == [], entry.msgid

    def test_punctuation_at_the_end_is_kept(self, language: str) -> None:
        for entry in source_of(language):
            for text in translations_of(entry):
                assert text == text.strip(), entry.msgid
                assert (entry.msgid[-1] in ".:") == (text[-1] in ".:"), entry.msgid
                assert entry.msgid[-1] not in ".:" or text[-1] == entry.msgid[-1], entry.msgid

    def test_direction_isolates_are_closed(self, language: str) -> None:
        for entry in source_of(language):
            for text in translations_of(entry):
                assert len(re.findall("[\u2066-\u2068]", text)) == text.count("\u2069"), entry.msgid

    def test_texts_that_django_has_too_are_translated_alike(self, language: str) -> None:
        """All apps share one catalog, so another translation of ours would appear in the host's forms."""
        ours = {entry.msgid: entry.msgstr for entry in source_of(language) if not entry.msgctxt}
        root = Path(django.__file__).parent
        theirs: dict[str, set[str]] = {}
        for folder in ("conf", "contrib/admin", "contrib/auth", "contrib/sessions"):
            for entry in polib.mofile(str(root / folder / "locale" / language / "LC_MESSAGES" / "django.mo")):
                if not entry.msgctxt and entry.msgstr:
                    theirs.setdefault(entry.msgid, set()).add(entry.msgstr)

        assert {text for text, said in ours.items() if text in theirs and said not in theirs[text]} == set()

    def test_it_declares_its_language(self, language: str) -> None:
        with translation.override(language):
            assert languages.language() == language
            assert languages.direction() == ("rtl" if language == "ar" else "ltr")


class TestSources:
    def test_they_are_read_like_makemessages_does(self, tmp_path: Path) -> None:
        shutil.copytree(
            texts.PACKAGE, tmp_path / "package", ignore=shutil.ignore_patterns("locale", "__pycache__")
        )
        (tmp_path / "package" / "locale").mkdir()
        command = [sys.executable, "-W", "ignore", "-m", "django", "makemessages", "--locale", "de"]

        # The settings module of the tests can't be imported from there.
        environment = {name: value for name, value in os.environ.items() if name != "DJANGO_SETTINGS_MODULE"}

        subprocess.run(command, cwd=tmp_path / "package", env=environment, check=True, capture_output=True)

        fresh = polib.pofile(str(tmp_path / "package" / "locale" / "de" / "LC_MESSAGES" / "django.po"))
        assert {texts.Text(e.msgctxt, e.msgid, e.msgid_plural or "") for e in fresh} == texts.texts()


@pytest.mark.django_db
class TestArabicEmails:
    @pytest.mark.parametrize(
        ("minutes", "text"),
        [
            (1, "خلال دقيقة واحدة."),
            (2, "خلال دقيقتين."),
            (5, "خلال 5 دقائق."),
            (60, "خلال 60 دقيقة."),
            (102, "خلال 102 دقيقة."),
        ],
    )
    def test_plural_forms_are_right(self, minutes: int, text: str, user: Any) -> None:
        with translation.override("ar"):
            messages.send(user, ("reset_link",), {"url": "https://app.example/", "minutes": minutes})

        assert text in mail.outbox[-1].body

    def test_the_date_is_in_arabic(self, user: Any, clock: Any) -> None:
        with translation.override("ar"):
            messages.send_notice(user, "password_changed")

        assert "الوقت: 15 يونيو 2026، 12:00 (UTC)" in mail.outbox[-1].body

    def test_left_to_right_text_is_isolated(self, user: Any) -> None:
        with translation.override("ar"):
            messages.send_notice(user, "password_changed", who=Caller("2001:db8::7", FIREFOX))

        (message,) = mail.outbox
        for part in (message.body, str(message.alternatives[0][0])):
            for island in ("2001:db8::7", "testserver"):
                assert f"\u2068{island}\u2069" in part
