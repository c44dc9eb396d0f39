"""Row 120 and 123: nothing that opened anything is left in a log, the database, an admin page or a fixture."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from platform_auth.models import AuthEvent
from tests import life
from tests.providers import Provider

pytestmark = pytest.mark.django_db


@pytest.fixture
def lived(provider: Provider, clock: Any) -> tuple[life.Life, str]:
    """Run through everything; return what was issued, and all that was logged at DEBUG."""
    one = life.Life(provider, clock)
    with life.log_of_everything() as log:
        one.live()
    return one, log.getvalue()


class TestTheSearch:
    """It finds what is planted."""

    def test_a_secret_is_found_in_any_dress(self) -> None:
        secret = "a secret/with+signs=="

        for text in (
            "a secret/with+signs==",
            "x=a%20secret%2Fwith%2Bsigns%3D%3D&y",
            "YSBzZWNyZXQvd2l0aCtzaWducz09",
            secret.encode().hex(),
        ):
            assert life.found_in(f"before {text} after", {secret, "another"}) == {secret}
        assert life.found_in("nothing here", {secret}) == set()

    def test_it_reads_what_is_logged(self) -> None:
        with life.log_of_everything() as log:
            logging.getLogger("platform_auth").debug("token %s", "planted-one")
            logging.getLogger("django.request").info("fine", extra={"facts": {"token": "planted-two"}})
            logging.getLogger("somebody.else").debug("planted-three")

        planted = {"planted-one", "planted-two", "planted-three"}
        assert life.found_in(log.getvalue(), planted) == planted

    def test_it_reads_the_database_the_fixtures_and_the_admin(self, user: Any) -> None:
        AuthEvent.objects.create(kind=AuthEvent.Kind.LOGGED_IN, user=user, reason="planted-secret")
        user.is_staff = user.is_superuser = True
        user.save()

        for text in (life.database_dump(), life.fixtures_dump(), life.admin_pages(user)):
            assert life.found_in(text, {"planted-secret"}) == {"planted-secret"}


class TestWhatIsLeft:
    """One run through everything, then a look into every corner."""

    def test_nothing_that_opened_anything(self, lived: tuple[life.Life, str]) -> None:
        one, log = lived
        assert len(one.secrets) > 60
        assert len(one.digests) > 3
        assert "UPDATE" in log
        sealed = {digest for digest in one.digests if digest.startswith("v1.")}

        assert life.found_in(log, one.secrets) == set()
        assert life.found_in(life.database_dump(), one.secrets) == set()
        # A fixture of a factor holds its sealed secret, or it could not be loaded again.
        assert life.found_in(life.fixtures_dump(), one.secrets | (one.digests - sealed)) == set()
        assert life.found_in(life.admin_pages(one.admin), one.secrets | one.digests) == set()
