"""Pages, emails, answers and the admin are in the reader's language.

The tests use their own catalog, which puts the name of the language in front of each text. So an English text can
change, and a new one needs no translation here. tests/release_check.py checks the real translations.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from html import unescape
from typing import Any

import polib
import pytest
from django.apps import apps
from django.contrib import admin
from django.contrib.auth.password_validation import password_validators_help_texts
from django.contrib.staticfiles import finders
from django.core import mail
from django.core.validators import validate_email
from django.test import override_settings
from django.urls import reverse
from django.utils import translation
from django.utils.functional import Promise
from django.utils.translation import gettext as _

from platform_auth import errors
from platform_auth.caller import Caller
from platform_auth.mail import delivery, messages
from platform_auth.models import OAuthIdentity, OAuthProvider
from tests import texts
from tests.conftest import PASSWORD, Api, code_of, enrol, make_user
from tests.emails import token_of

PLURALS = {
    "de": "nplurals=2; plural=(n != 1);",
    "fr": "nplurals=2; plural=(n > 1);",
    "es": "nplurals=2; plural=(n != 1);",
    "ar": "nplurals=2; plural=(n != 1);",
}
LANGUAGES = list(PLURALS)
REQUEST_PAGE = "/auth/password/request/page"
RESET_PAGE = "/auth/password/reset/page"

FIREFOX = "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0"

each_language = pytest.mark.parametrize("language", LANGUAGES)


@pytest.fixture(scope="module", autouse=True)
def _catalogue(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Translate each of our texts into `[de] text`, regardless of its real translation."""
    root = tmp_path_factory.mktemp("locale")
    for language, plurals in PLURALS.items():
        catalogue = polib.POFile()
        catalogue.metadata = {"Content-Type": "text/plain; charset=utf-8", "Plural-Forms": plurals}
        for context, text, plural in texts.texts():
            translated = {"en": language, "DATETIME_FORMAT": text}.get(text, f"[{language}] {text}")
            forms = {0: translated, 1: f"[{language}] {plural}"} if plural else {}
            catalogue.append(
                polib.POEntry(
                    msgctxt=context,
                    msgid=text,
                    msgid_plural=plural,
                    msgstr="" if plural else translated,
                    msgstr_plural=forms,
                )
            )
        folder = root / language / "LC_MESSAGES"
        folder.mkdir(parents=True)
        catalogue.save_as_mofile(str(folder / "django.mo"))
    with override_settings(LOCALE_PATHS=[str(root)]):
        yield


def language_of(text: str) -> str:
    """Return the language that our texts are currently in."""
    return text[1:3] if re.match(r"\[[a-z]{2}\] ", text) else "en"


def texts_in(page: str) -> list[str]:
    """Return the text of a page or HTML email, without tags."""
    without_style = re.sub(r"<style.*?</style>", "", page, flags=re.DOTALL)
    return [unescape(text).strip() for text in re.findall(r">([^<>]+)<", without_style) if text.strip()]


def lines_in(email: Any) -> list[str]:
    """Return the lines of an email's text and HTML, without its link."""
    html = str(email.alternatives[0][0])
    said = [line for line in email.body.splitlines() if line] + texts_in(html)
    return [line for line in said if not line.startswith("http")]


class TestSources:
    def test_texts_at_import_time_are_lazy(self) -> None:
        early = [call.where for call in texts.calls() if not call.is_lazy and not call.is_inside_function]

        assert early == []

    def test_every_error_message_can_be_translated(self) -> None:
        def below(error: type[Any]) -> list[type[Any]]:
            return [error, *(found for child in error.__subclasses__() for found in below(child))]

        _root, *refusals = below(errors.PlatformAuthError)
        # The host's own text.
        refusals.remove(errors.HostError)

        assert [error.__name__ for error in refusals if not isinstance(error.message, Promise)] == []

    def test_every_name_in_the_admin_can_be_translated(self) -> None:
        models = [
            model
            for model in apps.get_app_config("platform_auth").get_models()
            if admin.site.is_registered(model)
        ]

        assert len(models) >= 6
        for model in models:
            assert isinstance(model._meta.verbose_name, Promise), model
            assert isinstance(model._meta.verbose_name_plural, Promise), model


@pytest.mark.django_db
class TestResponses:
    def refusal(self, language: str, api: Api) -> Any:
        fields = {"email": "nobody@example.com", "password": PASSWORD}
        response = api.post("/auth/login", fields, headers={"Accept-Language": language})
        assert code_of(response) == "INVALID_CREDENTIALS"
        return response.json()["errors"][0]["message"]

    @each_language
    def test_an_error_message_is_translated_and_its_code_is_not(self, language: str, api: Api) -> None:
        assert self.refusal(language, api) == f"[{language}] {self.refusal('en', api)}"

    @each_language
    def test_a_malformed_field_keeps_its_name(self, language: str, api: Api) -> None:
        response = api.post("/auth/login", {"email": "a@example.com"}, headers={"Accept-Language": language})

        assert code_of(response) == "INVALID_PAYLOAD"
        (error,) = response.json()["errors"]
        assert error["extensions"]["field"] == "password"
        assert "password" in error["message"]
        assert language_of(error["message"]) == language

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
        with translation.override(language):
            assert _("This password is entirely numeric.") in messages
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
    def test_a_variant_falls_back_to_its_language_and_an_unknown_one_to_the_hosts(
        self, asked: str, answered: str, api: Api
    ) -> None:
        assert language_of(self.refusal(asked, api)) == answered

    def test_without_locale_middleware_it_is_the_hosts_language(self, settings: Any, api: Api) -> None:
        settings.MIDDLEWARE = [name for name in settings.MIDDLEWARE if "LocaleMiddleware" not in name]
        settings.LANGUAGE_CODE = "fr"
        translation.deactivate()

        assert language_of(self.refusal("de", api)) == "fr"


@pytest.mark.django_db(transaction=True)
@each_language
class TestEmails:
    """Sent by the thread, which has its own language."""

    @pytest.fixture(autouse=True)
    def _by_thread(self, configure: Any) -> None:
        configure(MAIL_DELIVERY="thread")

    def test_a_reset_link_is_in_the_language_of_the_request(self, language: str, api: Api) -> None:
        user = make_user()

        api.post("/auth/password/request", {"email": user.email}, headers={"Accept-Language": language})

        message = self.sent(language)
        assert "60" in message.body

    def test_a_link_requested_on_the_page_is_too(self, language: str, api: Api) -> None:
        user = make_user()

        api.client.post(
            REQUEST_PAGE,
            f"email={user.email}",
            content_type="application/x-www-form-urlencoded",
            headers={"Accept-Language": language},
        )

        self.sent(language)

    def test_a_notice_is_in_the_language_of_its_request(self, language: str, api: Api) -> None:
        user = make_user()
        api.login(user.email)

        api.post(
            "/auth/password/change",
            {"current_password": PASSWORD, "password": "another horse battery staple"},
            headers={"Accept-Language": language},
        )

        self.sent(language)

    def test_every_notice_can_be_translated(self, language: str) -> None:
        user = make_user()
        who = Caller("2001:db8::7", FIREFOX)

        for notice, (headline, text) in messages.NOTICES.items():
            with translation.override(language):
                messages.send_notice(user, notice, who=who, provider="Example ID")

            message = self.sent(language)
            with translation.override(language):
                assert str(headline) in message.subject
                assert str(text) in message.body
            for fact in ("2001:db8::7", "Example ID", who.device):
                assert fact in message.body
            mail.outbox.clear()

    def sent(self, language: str) -> Any:
        """Return the only email that was sent, and check that all of it is in this language."""
        assert delivery.finish(timeout=30)
        (message,) = mail.outbox
        assert language_of(message.subject) == language
        assert [line for line in lines_in(message) if language_of(line) != language] == []
        html = str(message.alternatives[0][0])
        assert f'<html lang="{language}" dir="{"rtl" if language == "ar" else "ltr"}">' in html
        return message


@pytest.mark.django_db
class TestPages:
    @pytest.mark.parametrize("asked", ["en", *LANGUAGES])
    @pytest.mark.parametrize("path", [REQUEST_PAGE, f"{RESET_PAGE}?token=x"])
    def test_a_page_declares_its_language_and_direction(self, asked: str, path: str, api: Api) -> None:
        response = api.client.get(path, headers={"Accept-Language": asked})

        html = response.content.decode()
        assert f'<html lang="{asked}" dir="{"rtl" if asked == "ar" else "ltr"}">' in html
        assert "Accept-Language" in response.headers["Vary"]
        assert response.headers["Content-Language"] == asked
        self.check(html, asked)

    @pytest.mark.parametrize("asked", ["fa", "he", "it"])
    def test_a_page_in_english_declares_english_for_an_unknown_language(self, asked: str, api: Api) -> None:
        html = api.client.get(REQUEST_PAGE, headers={"Accept-Language": asked}).content.decode()

        assert '<html lang="en" dir="ltr">' in html
        self.check(html, "en")

    @each_language
    def test_the_form_of_a_link_is_in_the_readers_language(self, language: str, user: Any, api: Api) -> None:
        api.post("/auth/password/request", {"email": user.email})
        path = f"{RESET_PAGE}?token={token_of(mail.outbox[-1])}"

        html = api.client.get(path, headers={"Accept-Language": language}).content.decode()

        with translation.override(language):
            rules = password_validators_help_texts()
        assert set(rules) <= set(texts_in(html))
        assert [rule for rule in rules if rule.startswith("Your")] == []
        self.check(html, language, *rules)

    @each_language
    def test_errors_of_a_form_are_in_the_readers_language(self, language: str, api: Api) -> None:
        response = api.client.post(
            REQUEST_PAGE,
            "email=nonsense",
            content_type="application/x-www-form-urlencoded",
            headers={"Accept-Language": language},
        )

        html = response.content.decode()
        with translation.override(language):
            refusal = str(validate_email.message)
        assert refusal in texts_in(html)
        self.check(html, language, refusal)

    def check(self, html: str, language: str, *djangos: str) -> None:
        """Check that a page is in one language, except for the site's name and Django's texts."""
        said = [text for text in texts_in(html) if text not in ("testserver", *djangos)]
        assert said
        assert [text for text in said if language_of(text) != language] == []

    def test_left_to_right_values_stay_left_to_right(self, api: Api) -> None:
        html = api.client.get(REQUEST_PAGE, headers={"Accept-Language": "ar"}).content.decode()

        (field,) = re.findall(r'<input[^>]*type="email"[^>]*>', html)
        assert 'dir="ltr"' in field

    def test_the_style_uses_no_left_and_right(self) -> None:
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
            assert not set(labels) & set(english), model

    @each_language
    def test_a_users_page_is_in_the_readers_language(self, language: str, user: Any, signed_in: Api) -> None:
        enrol(signed_in)
        signed_in.client.force_login(make_user(is_staff=True, is_superuser=True))

        path = reverse(f"admin:{user._meta.app_label}_{user._meta.model_name}_change", args=[user.pk])
        html = unescape(signed_in.client.get(path, headers={"Accept-Language": language}).content.decode())

        with translation.override(language):
            for text in ("Authentication", "live sessions", "second factor", "linked provider accounts"):
                assert translation.gettext(text).casefold() in html.casefold(), text
        assert f"[{language}] Yes, 10 recovery codes left" in html

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
            (model, admin.site.get_model_admin(model))
            for model in apps.get_app_config("platform_auth").get_models()
            if admin.site.is_registered(model)
        ]
