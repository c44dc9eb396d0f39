"""The texts that people read: complete in every language we ship, and in the reader's own."""

from __future__ import annotations

import gettext
import os
import re
import shutil
import subprocess
import sys
from html import unescape
from pathlib import Path
from typing import Any

import django
import polib
import pytest
from django.contrib import admin
from django.contrib.staticfiles import finders
from django.core import mail
from django.urls import reverse
from django.utils import translation
from django.utils.functional import Promise
from django.utils.translation import gettext as _

from platform_auth import errors
from platform_auth.caller import Caller
from platform_auth.mail import delivery, languages, messages
from platform_auth.models import OAuthIdentity, OAuthProvider
from tests import texts
from tests.conftest import PASSWORD, Api, code_of, enrol, make_user
from tests.mails import token_of

LANGUAGES = ["de", "fr", "es", "ar"]
REQUEST_PAGE = "/auth/password/request/page"
RESET_PAGE = "/auth/password/reset/page"
_PLACEHOLDER = re.compile(r"%\(\w+\)[sd]|%[sd]")
_VERBATIM = re.compile(r"`[^`]+`|\b[A-Z]+(?:_[A-Z]+)+\b|/auth/\S+|\bapplication/json\b|\bRFC \d+\b")
_ISOLATES = str.maketrans("", "", "\u2066\u2067\u2068\u2069")

FIREFOX = "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0"

each_language = pytest.mark.parametrize("language", LANGUAGES)


def source_of(language: str) -> polib.POFile:
    return polib.pofile(str(texts.PACKAGE / "locale" / language / "LC_MESSAGES" / "django.po"))


def translations_of(entry: Any) -> list[str]:
    return list(entry.msgstr_plural.values()) if entry.msgid_plural else [entry.msgstr]


def numbers_of(language: str) -> dict[int, list[int]]:
    """Return which of the first numbers each plural form of a catalogue is for."""
    rule = str(source_of(language).metadata["Plural-Forms"])
    form_of = gettext.c2py(rule.partition("plural=")[2].rstrip("; \n"))  # type: ignore[attr-defined]
    count = int(rule.partition("nplurals=")[2].partition(";")[0])
    return {form: [number for number in range(1001) if form_of(number) == form] for form in range(count)}


def said(text: str, language: str) -> str:
    with translation.override(language):
        return _(text)


@each_language
class TestCatalogue:
    def test_nothing_is_missing_uncertain_or_left_over(self, language: str) -> None:
        source = source_of(language)

        assert not source.metadata_is_fuzzy
        assert [entry.msgid for entry in source if entry.fuzzy or entry.obsolete] == []
        assert [entry.msgid for entry in source if not all(map(str.strip, translations_of(entry)))] == []

    def test_it_has_the_texts_of_the_sources_and_no_others(self, language: str) -> None:
        entries = {
            texts.Text(entry.msgctxt, entry.msgid, entry.msgid_plural or "") for entry in source_of(language)
        }

        assert entries == texts.texts()

    def test_it_is_compiled_as_it_stands(self, language: str) -> None:
        folder = texts.PACKAGE / "locale" / language / "LC_MESSAGES"

        compiled = polib.mofile(str(folder / "django.mo"))

        def by_id(entries: Any) -> dict[Any, Any]:
            return {
                (entry.msgctxt, entry.msgid, entry.msgid_plural): translations_of(entry) for entry in entries
            }

        assert by_id(compiled) == by_id(source_of(language))
        assert compiled.metadata["Plural-Forms"] == source_of(language).metadata["Plural-Forms"]

    def test_each_number_has_its_form(self, language: str) -> None:
        forms = numbers_of(language)

        for entry in source_of(language):
            if entry.msgid_plural:
                assert set(entry.msgstr_plural) == set(forms), entry.msgid
        assert len(forms) == {"de": 2, "fr": 2, "es": 3, "ar": 6}[language]

    def test_placeholders_stay_as_they_are(self, language: str) -> None:
        forms = numbers_of(language)

        for entry in source_of(language):
            wanted = sorted(_PLACEHOLDER.findall(entry.msgid_plural or entry.msgid))
            for form, text in enumerate(translations_of(entry)):
                found = sorted(_PLACEHOLDER.findall(text))
                # Where a form is for one number alone, that number may be a word, unless Python counts on it.
                is_one_word = bool(entry.msgid_plural) and len(forms[form]) == 1 and "%d" not in wanted
                assert found == wanted or (is_one_word and not found), entry.msgid

    def test_names_that_machines_read_stay_as_they_are(self, language: str) -> None:
        for entry in source_of(language):
            for text in translations_of(entry):
                if entry.msgid == "DATETIME_FORMAT":
                    continue
                wanted = [name.rstrip(".") for name in _VERBATIM.findall(entry.msgid)]
                assert [name for name in wanted if name not in text.translate(_ISOLATES)] == [], entry.msgid

    def test_sentences_end_as_they_do(self, language: str) -> None:
        for entry in source_of(language):
            for text in translations_of(entry):
                assert text == text.strip(), entry.msgid
                assert (entry.msgid[-1] in ".:") == (text[-1] in ".:"), entry.msgid
                assert entry.msgid[-1] not in ".:" or text[-1] == entry.msgid[-1], entry.msgid

    def test_isolated_islands_are_closed(self, language: str) -> None:
        for entry in source_of(language):
            for text in translations_of(entry):
                assert len(re.findall("[\u2066-\u2068]", text)) == text.count("\u2069"), entry.msgid

    def test_a_text_that_django_has_too_says_the_same(self, language: str) -> None:
        """All apps share one catalogue: another translation of ours would show in the host's forms."""
        ours = {entry.msgid: entry.msgstr for entry in source_of(language) if not entry.msgctxt}
        root = Path(django.__file__).parent
        theirs: dict[str, set[str]] = {}
        for folder in ("conf", "contrib/admin", "contrib/auth", "contrib/sessions"):
            for entry in polib.mofile(str(root / folder / "locale" / language / "LC_MESSAGES" / "django.mo")):
                if not entry.msgctxt and entry.msgstr:
                    theirs.setdefault(entry.msgid, set()).add(entry.msgstr)

        assert {text for text, said in ours.items() if text in theirs and said not in theirs[text]} == set()

    def test_it_says_which_language_it_is(self, language: str) -> None:
        with translation.override(language):
            assert languages.language() == language
            assert languages.direction() == ("rtl" if language == "ar" else "ltr")


class TestSources:
    def test_what_is_said_at_import_waits_for_the_reader(self) -> None:
        early = [call.where for call in texts.calls() if not call.is_lazy and not call.is_inside_function]

        assert early == []

    def test_every_refusal_has_a_text_that_can_be_translated(self) -> None:
        def below(error: type[Any]) -> list[type[Any]]:
            return [error, *(found for child in error.__subclasses__() for found in below(child))]

        _root, *refusals = below(errors.PlatformAuthError)
        # The host's own text.
        refusals.remove(errors.HostError)

        assert [error.__name__ for error in refusals if not isinstance(error.message, Promise)] == []

    def test_every_name_in_the_admin_can_be_translated(self) -> None:
        models = [model for model in admin.site._registry if model._meta.app_label == "platform_auth"]

        assert len(models) >= 6
        for model in models:
            assert isinstance(model._meta.verbose_name, Promise), model
            assert isinstance(model._meta.verbose_name_plural, Promise), model

    @pytest.mark.skipif(shutil.which("xgettext") is None, reason="GNU gettext is not installed")
    def test_they_are_read_as_makemessages_reads_them(self, tmp_path: Path) -> None:
        shutil.copytree(
            texts.PACKAGE, tmp_path / "package", ignore=shutil.ignore_patterns("locale", "__pycache__")
        )
        (tmp_path / "package" / "locale").mkdir()
        command = [sys.executable, "-W", "ignore", "-m", "django", "makemessages", "--locale", "de"]

        # The settings of the tests are not to be found from there.
        environment = {name: value for name, value in os.environ.items() if name != "DJANGO_SETTINGS_MODULE"}

        subprocess.run(command, cwd=tmp_path / "package", env=environment, check=True, capture_output=True)

        fresh = polib.pofile(str(tmp_path / "package" / "locale" / "de" / "LC_MESSAGES" / "django.po"))
        assert {texts.Text(e.msgctxt, e.msgid, e.msgid_plural or "") for e in fresh} == texts.texts()


@pytest.mark.django_db
class TestAnswers:
    @each_language
    def test_a_refusal_is_in_the_readers_language_and_its_code_is_not(self, language: str, api: Api) -> None:
        fields = {"email": "nobody@example.com", "password": PASSWORD}

        response = api.post("/auth/login", fields, headers={"Accept-Language": language})

        assert code_of(response) == "INVALID_CREDENTIALS"
        message = response.json()["errors"][0]["message"]
        assert message == said("Invalid user credentials.", language) != "Invalid user credentials."

    @each_language
    def test_a_malformed_field_keeps_its_name(self, language: str, api: Api) -> None:
        response = api.post("/auth/login", {"email": "a@example.com"}, headers={"Accept-Language": language})

        assert code_of(response) == "INVALID_PAYLOAD"
        (error,) = response.json()["errors"]
        assert error["extensions"]["field"] == "password"
        assert "password" in error["message"]
        assert "required" not in error["message"]

    @each_language
    def test_password_rules_are_in_the_readers_language(self, language: str, user: Any, api: Api) -> None:
        api.post("/auth/password/request", {"email": user.email})
        fields = {"token": token_of(mail.outbox[-1]), "password": "123"}

        response = api.post("/auth/password/reset", fields, headers={"Accept-Language": language})

        found = response.json()["errors"]
        assert {error["extensions"]["code"] for error in found} == {"FAILED_VALIDATION"}
        types = {error["extensions"]["type"] for error in found}
        assert types == {"password_too_short", "password_too_common", "password_entirely_numeric"}
        messages = [error["message"] for error in found]
        assert said("This password is entirely numeric.", language) in messages
        assert [message for message in messages if message.startswith("This")] == []

    @pytest.mark.parametrize(
        ("asked", "answered"),
        [
            ("de-AT", "de"),
            ("es-MX,en;q=0.5", "es"),
            ("ar-dz", "ar"),
            ("fr-CA", "fr"),
            ("fa", "en"),
            ("xx", "en"),
        ],
    )
    def test_a_variant_is_answered_by_its_language_and_an_unknown_one_in_the_hosts(
        self, asked: str, answered: str, api: Api
    ) -> None:
        response = api.get("/users/me", headers={"Accept-Language": asked})

        assert response.json()["errors"][0]["message"] == said("Invalid user credentials.", answered)

    def test_without_locale_middleware_it_is_the_hosts_language(self, settings: Any, api: Api) -> None:
        settings.MIDDLEWARE = [name for name in settings.MIDDLEWARE if "LocaleMiddleware" not in name]
        settings.LANGUAGE_CODE = "fr"
        translation.deactivate()

        response = api.get("/users/me", headers={"Accept-Language": "de"})

        assert response.json()["errors"][0]["message"] == said("Invalid user credentials.", "fr")


@pytest.mark.django_db(transaction=True)
@each_language
class TestMails:
    """Sent by the thread, which has a language of its own."""

    @pytest.fixture(autouse=True)
    def _by_thread(self, configure: Any) -> None:
        configure(MAIL_DELIVERY="thread")

    def test_a_reset_link_is_in_the_language_of_who_asked(self, language: str, api: Api) -> None:
        user = make_user()

        api.post("/auth/password/request", {"email": user.email}, headers={"Accept-Language": language})

        message = self.sent()
        with translation.override(language):
            assert message.subject == _("Set a new password for %(site)s") % {"site": "testserver"}
            text = _("If it was not you, there is nothing to do: your password stays as it is.")
        self.check(message, text, language)
        assert "60" in message.body
        assert "account" not in message.body

    def test_a_link_asked_for_on_the_page_is_too(self, language: str, api: Api) -> None:
        user = make_user()

        api.client.post(
            REQUEST_PAGE,
            f"email={user.email}",
            content_type="application/x-www-form-urlencoded",
            headers={"Accept-Language": language},
        )

        message = self.sent()
        self.check(message, said("Set a new password", language), language, in_text=False)

    def test_a_notice_is_in_the_language_of_the_request_that_caused_it(self, language: str, api: Api) -> None:
        user = make_user()
        api.login(user.email)

        api.post(
            "/auth/password/change",
            {"current_password": PASSWORD, "password": "another horse battery staple"},
            headers={"Accept-Language": language},
        )

        message = self.sent()
        assert message.subject == f"{said('Your password was changed', language)} (testserver)"
        text = "The password of your account was changed. All other devices were logged out."
        self.check(message, said(text, language), language)

    def test_every_notice_is(self, language: str) -> None:
        user = make_user()
        who = Caller("2001:db8::7", FIREFOX)

        for notice in messages.NOTICES:
            with translation.override(language):
                messages.send_notice(user, notice, who=who, provider="Example ID")
            message = self.sent()

            headline, text = messages.NOTICES[notice]
            with translation.override(language):
                assert message.subject == f"{headline} (testserver)"
                self.check(message, str(text), language)
                self.check(message, _("Address: %(address)s") % {"address": "2001:db8::7"}, language)
                self.check(message, _("Provider: %(provider)s") % {"provider": "Example ID"}, language)
                self.check(message, _("Device: %(device)s") % {"device": who.device}, language)
            assert " on " not in message.body
            assert "When:" not in message.body
            mail.outbox.clear()

    def sent(self) -> Any:
        assert delivery.finish(timeout=30)
        (message,) = mail.outbox
        return message

    def check(self, message: Any, text: str, language: str, *, in_text: bool = True) -> None:
        html = str(message.alternatives[0][0])
        assert text in unescape(html)
        assert not in_text or text in message.body
        assert f'<html lang="{language}" dir="{"rtl" if language == "ar" else "ltr"}">' in html


@pytest.mark.django_db
class TestArabicMails:
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
    def test_arabic_counts_as_arabic_does(self, minutes: int, text: str, user: Any) -> None:
        with translation.override("ar"):
            messages.send(user, ("reset_link",), {"url": "https://app.example/", "minutes": minutes})

        assert text in mail.outbox[-1].body

    def test_the_date_is_written_as_in_arabic(self, user: Any, clock: Any) -> None:
        with translation.override("ar"):
            messages.send_notice(user, "password_changed")

        assert "الوقت: 15 يونيو 2026، 12:00 (UTC)" in mail.outbox[-1].body

    def test_what_is_written_from_left_to_right_is_isolated(self, user: Any) -> None:
        with translation.override("ar"):
            messages.send_notice(user, "password_changed", who=Caller("2001:db8::7", FIREFOX))

        (message,) = mail.outbox
        for part in (message.body, str(message.alternatives[0][0])):
            for island in ("2001:db8::7", "testserver"):
                assert f"\u2068{island}\u2069" in part


@pytest.mark.django_db
class TestPages:
    @pytest.mark.parametrize("asked", ["en", *LANGUAGES])
    @pytest.mark.parametrize("path", [REQUEST_PAGE, f"{RESET_PAGE}?token=x"])
    def test_a_page_says_its_language_and_direction(self, asked: str, path: str, api: Api) -> None:
        response = api.client.get(path, headers={"Accept-Language": asked})

        html = response.content.decode()
        assert f'<html lang="{asked}" dir="{"rtl" if asked == "ar" else "ltr"}">' in html
        assert "Accept-Language" in response.headers["Vary"]
        assert response.headers["Content-Language"] == asked
        (title,) = re.findall(r"<h1[^>]*>(.+)</h1>", html)
        with translation.override(asked):
            assert unescape(title) == (
                _("Set a new password") if path == REQUEST_PAGE else _("This link is not valid")
            )

    @pytest.mark.parametrize("asked", ["fa", "he", "it"])
    def test_a_page_in_english_says_english_whatever_was_asked_for(self, asked: str, api: Api) -> None:
        html = api.client.get(REQUEST_PAGE, headers={"Accept-Language": asked}).content.decode()

        assert '<html lang="en" dir="ltr">' in html
        assert "Set a new password" in html

    @each_language
    def test_the_form_of_a_link_is_in_the_readers_language(self, language: str, user: Any, api: Api) -> None:
        api.post("/auth/password/request", {"email": user.email})
        path = f"{RESET_PAGE}?token={token_of(mail.outbox[-1])}"

        html = unescape(api.client.get(path, headers={"Accept-Language": language}).content.decode())

        with translation.override(language):
            for text in ("New password", "The same once more", "Set the password", "Account:"):
                assert _(text) in html
            assert _("Your password can’t be entirely numeric.") in html
        for english in ("New password", "Your password", "Account:"):
            assert english not in html

    @each_language
    def test_refusals_of_a_form_are_too(self, language: str, api: Api) -> None:
        response = api.client.post(
            REQUEST_PAGE,
            "email=nonsense",
            content_type="application/x-www-form-urlencoded",
            headers={"Accept-Language": language},
        )

        assert said("Enter a valid email address.", language) in unescape(response.content.decode())
        assert f"<title>{said('Error:', language)}" in unescape(response.content.decode())

    def test_what_is_written_from_left_to_right_stays_so(self, api: Api) -> None:
        html = api.client.get(REQUEST_PAGE, headers={"Accept-Language": "ar"}).content.decode()

        (field,) = re.findall(r'<input[^>]*type="email"[^>]*>', html)
        assert 'dir="ltr"' in field

    def test_the_style_knows_no_left_and_right(self) -> None:
        for path in (texts.PACKAGE / "templates").rglob("*.html"):
            source = path.read_text()
            assert (
                re.findall(r"(?:margin|padding|border)-(?:left|right)|text-align: *(?:left|right)", source)
                == []
            )


@pytest.mark.django_db
class TestAdmin:
    @each_language
    def test_its_lists_are_in_the_readers_language(self, language: str, user: Any, signed_in: Api) -> None:
        enrol(signed_in)
        signed_in.post("/auth/password/request", {"email": user.email})
        provider = OAuthProvider.objects.create(key="example", label="Example", kind="oidc")
        OAuthIdentity.objects.create(user=user, provider=provider, subject="1")
        signed_in.client.force_login(make_user(is_staff=True, is_superuser=True))

        for model, page in self.pages():
            path = reverse(f"admin:platform_auth_{model._meta.model_name}_changelist")
            html = unescape(
                signed_in.client.get(path, headers={"Accept-Language": language}).content.decode()
            )

            assert f'lang="{language}"' in html
            with translation.override(language):
                labels = [str(admin.utils.label_for_field(name, model, page)) for name in page.list_display]
                assert str(model._meta.verbose_name_plural).casefold() in html.casefold()
            with translation.override("en"):
                english = [str(admin.utils.label_for_field(name, model, page)) for name in page.list_display]
            assert [label for label in labels if label.casefold() not in html.casefold()] == [], model
            # Words that some language shares with English: French "mode", "type", "user agent".
            assert len(set(labels) & set(english)) <= (1 if language == "fr" else 0), model

    @each_language
    def test_a_users_page_names_what_they_have(self, language: str, user: Any, signed_in: Api) -> None:
        enrol(signed_in)
        signed_in.client.force_login(make_user(is_staff=True, is_superuser=True))

        path = reverse(f"admin:{user._meta.app_label}_{user._meta.model_name}_change", args=[user.pk])
        html = unescape(signed_in.client.get(path, headers={"Accept-Language": language}).content.decode())

        for text in ("Authentication", "live sessions", "second factor", "linked provider accounts"):
            assert said(text, language).casefold() in html.casefold(), text
        assert "recovery codes left" not in html

    def test_values_keep_their_direction_on_every_page(self, signed_in: Api) -> None:
        signed_in.client.force_login(make_user(is_staff=True, is_superuser=True))
        provider = OAuthProvider.objects.create(key="example", label="Example", kind="oidc")
        paths = [
            reverse(f"admin:platform_auth_{model._meta.model_name}_changelist")
            for model, _page in self.pages()
        ]
        paths += [
            reverse("admin:platform_auth_oauthprovider_change", args=[provider.pk]),
            reverse("admin:platform_auth_exposure"),
        ]

        for path in paths:
            html = signed_in.client.get(path, headers={"Accept-Language": "ar"}).content.decode()

            assert 'dir="rtl"' in html
            assert 'href="/static/platform_auth/admin.css"' in html, path
            assert "app-platform_auth" in html, path
        assert finders.find("platform_auth/admin.css")

    @each_language
    def test_no_action_is_in_english(self, language: str) -> None:
        for model, page in self.pages():
            for name in page.actions or ():
                label: Any = getattr(page, name).short_description
                assert isinstance(label, Promise), (model, name)
                with translation.override("en"):
                    english = str(label)
                with translation.override(language):
                    assert str(label) != english

    def pages(self) -> list[tuple[Any, Any]]:
        return [
            (model, page)
            for model, page in admin.site._registry.items()
            if model._meta.app_label == "platform_auth"
        ]
