"""security.md, rows 120 and 123: no used secret is left in a log, the database, an admin page or a fixture."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
from django.core.management import call_command

from platform_auth.models import AuthEvent, RecoveryCode
from tests import life
from tests.conftest import PASSWORD, Api, Authenticator, enrol
from tests.identity_provider import Provider

pytestmark = pytest.mark.django_db


@pytest.fixture
def lived(provider: Provider, clock: Any) -> tuple[life.Life, str]:
    """Run through everything; return what was issued and everything that was logged at DEBUG."""
    one = life.Life(provider, clock)
    with life.log_of_everything() as log:
        one.live()
    return one, log.getvalue()


class TestSearch:
    """The search finds planted secrets."""

    def test_a_secret_is_found_in_every_encoding(self) -> None:
        secret = "a secret/with+signs=="

        for text in (
            "a secret/with+signs==",
            "x=a%20secret%2Fwith%2Bsigns%3D%3D&y",
            "YSBzZWNyZXQvd2l0aCtzaWducz09",
            secret.encode().hex(),
        ):
            assert life.found_in(f"before {text} after", {secret, "another"}) == {secret}
        assert life.found_in("nothing here", {secret}) == set()

    def test_it_reads_the_log(self) -> None:
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


@pytest.mark.django_db(transaction=True)
class TestFixture:
    """What `dumpdata` writes of a user with a factor can be loaded again."""

    @pytest.fixture
    def reloaded(self, clock: Any, signed_in: Api, tmp_path: Path) -> tuple[Authenticator, list[str]]:
        """The app and the recovery codes of a user whose database was dumped, emptied and loaded."""
        made = enrol(signed_in)
        clock.shift(30)
        fixture = str(tmp_path / "all.json")
        apps = ("auth", "hostapp", "platform_auth")
        call_command(
            "dumpdata", *apps, "--natural-foreign", output=fixture, exclude=["auth.permission"], verbosity=0
        )
        call_command("flush", interactive=False, verbosity=0)
        call_command("loaddata", fixture, verbosity=0)
        return made

    def test_the_factor_is_still_on_and_accepts_its_codes(
        self, clock: Any, reloaded: tuple[Authenticator, list[str]], user: Any
    ) -> None:
        app, _codes = reloaded
        api = Api()

        assert api.post("/auth/login", {"email": user.email, "password": PASSWORD}).status_code == 401
        api.login(user.email, otp=app.code())
        assert api.get("/auth/tfa").json()["data"]["enabled"] is True

    def test_the_recovery_codes_no_longer_work_and_do_not_count(
        self, clock: Any, reloaded: tuple[Authenticator, list[str]], user: Any
    ) -> None:
        """Their digests are not in the fixture."""
        app, codes = reloaded
        api = Api()
        api.login(user.email, otp=app.code())

        assert RecoveryCode.objects.count() == 10
        assert api.get("/auth/tfa").json()["data"]["recovery_codes_left"] == 0
        for code in codes[:3]:
            body = {"email": user.email, "password": PASSWORD, "otp": code}
            assert api.post("/auth/login", body).status_code == 401
        clock.shift(60)
        renewed = api.post("/auth/tfa/recovery-codes", {"password": PASSWORD, "otp": app.code()})
        assert len(renewed.json()["data"]["recovery_codes"]) == 10
        assert RecoveryCode.objects.count() == 10
        assert api.get("/auth/tfa").json()["data"]["recovery_codes_left"] == 10

    def test_the_session_no_longer_works(
        self, clock: Any, reloaded: tuple[Authenticator, list[str]], signed_in: Api
    ) -> None:
        assert signed_in.refresh().status_code == 401


class TestLeftovers:
    """A run through everything, then a search in every place."""

    def test_no_secret_is_left(self, lived: tuple[life.Life, str]) -> None:
        one, log = lived
        assert len(one.secrets) > 60
        assert len(one.digests) > 3
        assert "UPDATE" in log
        sealed = {digest for digest in one.digests if digest.startswith("v1.")}

        assert life.found_in(log, one.secrets) == set()
        assert life.found_in(life.database_dump(), one.secrets) == set()
        # A fixture of a factor contains its encrypted secret; otherwise it couldn't be loaded again.
        assert life.found_in(life.fixtures_dump(), one.secrets | (one.digests - sealed)) == set()
        assert life.found_in(life.admin_pages(one.admin), one.secrets | one.digests) == set()
