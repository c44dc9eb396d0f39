"""The emails: recipients, content, and what a host can change."""

from __future__ import annotations

from datetime import timedelta
from html import unescape
from pathlib import Path
from typing import Any

import pytest
from django.core import mail
from django.template.loader import get_template
from django.utils import translation

from platform_auth.caller import Caller
from platform_auth.mail import delivery, messages
from tests.conftest import Api, make_user
from tests.emails import link_of

LINK = "https://app.example/r?a=1&token=e.y.z"

pytestmark = pytest.mark.django_db


def send_link(user: Any, url: str = LINK, **fields: Any) -> Any:
    messages.send_reset_link(user, **{"url": url, "lifetime": timedelta(hours=1), "language": "en", **fields})
    return mail.outbox[-1]


def html_of(message: Any) -> str:
    (alternative,) = message.alternatives
    assert alternative[1] == "text/html"
    return str(alternative[0])


def escape(settings: Any, autoescape: bool) -> None:
    """Turn autoescape of the host's template engine on or off."""
    engine = settings.TEMPLATES[0]
    settings.TEMPLATES = [{**engine, "OPTIONS": {**engine["OPTIONS"], "autoescape": autoescape}}]


@pytest.fixture
def templates(settings: Any, tmp_path: Path) -> Path:
    """Return the folder of a host's own email templates."""
    settings.TEMPLATES = [{**settings.TEMPLATES[0], "DIRS": [str(tmp_path)]}]
    folder = tmp_path / "platform_auth" / "email"
    folder.mkdir(parents=True)
    return folder


class TestResetLink:
    def test_it_has_a_subject_a_text_part_and_an_html_part(self, user: Any, settings: Any) -> None:
        settings.DEFAULT_FROM_EMAIL = "site@example.com"

        message = send_link(user)

        assert message.subject == "Set a new password for testserver"
        assert message.from_email == "site@example.com"
        assert message.to == [user.email]
        assert f"\n{LINK}\n" in message.body
        assert "The link works once and expires in 60 minutes." in message.body
        assert 'href="https://app.example/r?a=1&amp;token=e.y.z"' in html_of(message)

    def test_it_contains_one_link(self, user: Any) -> None:
        assert link_of(send_link(user)) == LINK

    @pytest.mark.parametrize("autoescape", [True, False])
    def test_its_url_is_escaped(self, user: Any, settings: Any, autoescape: bool) -> None:
        """security.md, row 67: such a URL is refused earlier, but the template relies neither on that nor on the
        host's engine.
        """
        escape(settings, autoescape)
        message = send_link(user, 'https://app.example/"><img src=x>')

        assert "<img" not in html_of(message)

    def test_automatic_replies_are_suppressed(self, user: Any) -> None:
        assert send_link(user).extra_headers["Auto-Submitted"] == "auto-generated"

    @pytest.mark.parametrize(
        ("lifetime", "text"),
        [
            (timedelta(minutes=1), "expires in 1 minute."),
            (timedelta(minutes=90), "expires in 90 minutes."),
            (timedelta(seconds=1), "expires in 1 minute."),
        ],
    )
    def test_it_says_how_long_the_link_is_valid(self, user: Any, lifetime: timedelta, text: str) -> None:
        assert text in send_link(user, lifetime=lifetime).body

    def test_the_hosts_charset_does_not_change_it(self, user: Any, settings: Any, templates: Path) -> None:
        settings.DEFAULT_CHARSET = "iso-8859-1"
        (templates / "reset_link.txt").write_text("كلمة السر")

        parts = list(send_link(user).message().walk())[1:]

        assert {part.get_content_charset() for part in parts} == {"utf-8"}
        assert parts[0].get_payload(decode=True).decode() == "كلمة السر\n"

    def test_it_has_no_third_party_content(self, user: Any) -> None:
        html = html_of(send_link(user))

        assert "src=" not in html
        assert "url(" not in html
        assert "<script" not in html


class TestRecipient:
    """security.md, row 65: exactly one, the stored address."""

    @pytest.mark.parametrize(
        "stored",
        [
            "",
            "no address",
            "a@example.com,b@example.com",
            "a@example.com\nBcc: b@example.com",
            "a@b@c.example",
        ],
    )
    def test_an_account_without_a_valid_address_gets_none(self, stored: str, caplog: Any) -> None:
        user = make_user()
        user.email = stored

        messages.send(user, ("reset_link",), {"url": LINK, "minutes": 60})

        assert mail.outbox == []
        assert "has no valid email address" in caplog.text
        assert not stored or stored not in caplog.text


class TestNotice:
    @pytest.mark.parametrize("notice", list(messages.NOTICES))
    def test_each_says_what_happened_when_and_from_where(self, user: Any, notice: str) -> None:
        who = Caller("192.0.2.7", "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0")

        messages.send_notice(user, notice, who=who)

        (message,) = mail.outbox
        headline, text = messages.NOTICES[notice]
        assert message.to == [user.email]
        assert message.subject == f"{headline} (testserver)"
        for part in (message.body, unescape(html_of(message))):
            assert str(text) in part
            assert "192.0.2.7" in part
            assert "UTC" in part
            assert "Firefox" in part
        assert "http" not in message.body

    def test_only_an_account_with_a_password_is_told_to_reset_it(self, user: Any) -> None:
        messages.send_notice(user, "identity_linked", provider="GitHub")
        user.set_unusable_password()
        user.save()
        messages.send_notice(user, "account_claimed", provider="GitHub")

        for message, expected in zip(mail.outbox, (True, False), strict=True):
            for part in (message.body, unescape(html_of(message))):
                assert ("reset your password" in part) is expected
                assert "contact the site's administrators" in part

    @pytest.mark.parametrize("autoescape", [True, False])
    def test_text_from_the_caller_is_escaped(self, user: Any, settings: Any, autoescape: bool) -> None:
        """security.md, row 67: the user agent is sent by the caller."""
        escape(settings, autoescape)
        who = Caller("192.0.2.7", "<script>alert(1)</script>")

        messages.send_notice(user, "password_changed", who=who, provider="<b>evil</b>\nBcc: x@example.com")

        (message,) = mail.outbox
        assert "<script" not in html_of(message)
        assert "<b>" not in html_of(message)
        assert message.recipients() == [user.email]
        assert "Bcc" not in message.message()

    def test_a_deleted_user_gets_none(self, user: Any) -> None:
        messages.send_notice(user, "password_changed")
        mail.outbox.clear()
        pk = str(user.pk)
        user.delete()

        messages.deliver_notice(
            user_id=pk,
            notice="password_changed",
            language="en",
            at="2026-01-01T00:00:00+00:00",
            address=None,
            device="",
            context={},
            attempt=delivery.Attempt(1, is_last=True),
        )

        assert mail.outbox == []

    def test_it_goes_to_the_address_at_the_time_of_sending(self, user: Any, settings: Any) -> None:
        messages.send_notice(user, "password_changed", who=Caller(None, ""))

        assert mail.outbox[0].to == [user.email]
        assert "Address:" not in mail.outbox[0].body


class TestTemplates:
    def test_a_host_can_override_them(self, user: Any, templates: Path) -> None:
        (templates / "reset_link.subject.txt").write_text("Ours\n for {{ user.email }}\n")
        (templates / "reset_link.txt").write_text("{{ url }}")

        message = send_link(user)

        assert message.subject == f"Ours for {user.email}"
        assert message.body == f"{LINK}\n".replace("&", "&amp;")

    def test_a_host_can_override_a_single_notice(self, user: Any, templates: Path) -> None:
        (templates / "password_changed.txt").write_text("Changed: {{ notice }}")

        messages.send_notice(user, "password_changed")
        messages.send_notice(user, "password_reset")

        assert mail.outbox[0].body == "Changed: password_changed\n"
        assert "reset using a link" in mail.outbox[1].body

    def test_a_subject_is_one_line(self, user: Any, templates: Path) -> None:
        (templates / "reset_link.subject.txt").write_text("One\r\nBcc: x@example.com")

        message = send_link(user)

        assert message.subject == "One Bcc: x@example.com"
        assert "Bcc" not in message.message()

    @pytest.mark.parametrize("name", ["reset_link", "notice"])
    @pytest.mark.parametrize("ending", ["subject.txt", "txt", "html"])
    def test_every_template_exists(self, name: str, ending: str) -> None:
        assert get_template(f"platform_auth/email/{name}.{ending}")


class TestLanguage:
    """The job carries the language of the request."""

    @pytest.fixture(autouse=True)
    def _say_the_language(self, templates: Path) -> None:
        text = "{% load i18n %}{% get_current_language as code %}{{ code }}"
        (templates / "reset_link.txt").write_text(text)
        (templates / "notice.txt").write_text(text)

    def test_a_reset_link_is_in_the_language_of_the_request(self, api: Api, user: Any) -> None:
        api.post("/auth/password/request", {"email": user.email}, headers={"Accept-Language": "fr"})

        assert mail.outbox[0].body == "fr\n"

    def test_a_notice_is_in_the_language_of_the_request(self, user: Any) -> None:
        with translation.override("en"):
            with translation.override("es"):
                messages.send_notice(user, "password_changed")
            assert translation.get_language() == "en"

        assert mail.outbox[0].body == "es\n"
