"""Provider log-in, many at one moment: the database decides."""

from __future__ import annotations

from typing import Any

import pytest
from django.contrib.auth import get_user_model

from platform_auth.models import OAuthIdentity, RefreshSession
from tests.conftest import Api, enrol
from tests.oauth import Browser, configure
from tests.providers import Provider
from tests.racing import statuses, together

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.race, pytest.mark.xdist_group("race")]


def copies(browser: Browser, count: int) -> list[Browser]:
    """Return browsers with the cookies of one."""
    made = [Browser() for _ in range(count)]
    for copy in made:
        copy.client.cookies = browser.client.cookies.copy()
    return made


class TestAtOnce:
    def test_one_callback_passes_and_one_code_is_sent(self, provider: Provider) -> None:
        """Row 85."""
        configure(provider, may_create_users=True)
        browser = Browser()
        parameters = provider.authorize(browser.start()["Location"])

        answers = together(*(lambda b=b: b.callback(parameters) for b in copies(browser, 8)))  # type: ignore[misc]

        assert statuses(answers) == [200] + [400] * 7
        assert provider.calls["/token"] == 1
        assert RefreshSession.objects.count() == 1

    def test_the_first_log_ins_of_one_person_make_one_account(self, provider: Provider) -> None:
        configure(provider, may_create_users=True)

        answers = together(*(lambda: Browser().log_in(provider) for _ in range(6)))

        assert statuses(answers) == [200] * 6
        assert get_user_model().objects.count() == OAuthIdentity.objects.count() == 1

    def test_two_people_with_one_address_do_not_share_an_account(self, provider: Provider) -> None:
        configure(provider, "a", may_create_users=True)
        configure(provider, "b", may_create_users=True)

        answers = together(
            lambda: Browser().log_in(provider, key="a"),
            lambda: Browser().log_in(provider, key="b"),
        )

        assert statuses(answers) == [200, 403]
        assert get_user_model().objects.count() == 1

    def test_the_last_way_in_stays(self, provider: Provider) -> None:
        configure(provider, may_create_users=True)
        token = Browser().log_in(provider).json()["data"]["access_token"]
        first = OAuthIdentity.objects.get()
        second = OAuthIdentity.objects.create(user=first.user, provider=configure(provider, "b"), subject="1")

        def unlink(identity: OAuthIdentity) -> Any:
            api = Api()
            api.access_token = token
            return api.delete(f"/auth/identities/{identity.pk}")

        answers = together(lambda: unlink(first), lambda: unlink(second))

        assert statuses(answers) == [204, 400]
        assert OAuthIdentity.objects.count() == 1

    def test_a_waiting_log_in_is_finished_once(self, signed_in: Api, user: Any, provider: Provider) -> None:
        _app, codes = enrol(signed_in)
        row = configure(provider)
        OAuthIdentity.objects.create(user=user, provider=row, issuer=provider.issuer, subject="subject-1")
        RefreshSession.objects.all().delete()
        browser = Browser()
        browser.log_in(provider)

        def finish(copy: Browser, code: str) -> Any:
            return copy.client.post("/auth/oauth/demo/otp", {"otp": code}, content_type="application/json")

        pairs = zip(copies(browser, 5), codes, strict=False)
        answers = together(*(lambda pair=pair: finish(*pair) for pair in pairs))  # type: ignore[misc]

        assert statuses(answers) == [200] + [400] * 4
        assert RefreshSession.objects.count() == 1
