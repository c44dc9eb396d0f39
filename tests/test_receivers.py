"""What happens if other code changes a user's row, and that nothing happens for a host's other models."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from datetime import timedelta
from typing import Any
from unittest import mock

import pytest
from django.contrib.auth.hashers import PBKDF2PasswordHasher
from django.contrib.sessions.models import Session
from django.core.management import call_command
from django.db import connection
from django.db.models import signals
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from platform_auth.models import AuthEvent, PasswordResetToken, RefreshSession
from tests.conftest import PASSWORD, Api, code_of, make_user
from tests.hostapp.models import Employee, Note, Person

pytestmark = pytest.mark.django_db

NEW_PASSWORD = "another horse and battery"


def employee_of(user: Any) -> Employee:
    """Create a row for a user in the table of the user model's child."""
    employee = Employee(user_ptr=user, badge="7")
    employee.save_base(raw=True)
    return Employee.objects.get(pk=user.pk)


def as_proxy(user: Any) -> Any:
    return Person.objects.get(pk=user.pk)


MODEL_SIGNALS = [signal for signal in vars(signals).values() if isinstance(signal, signals.ModelSignal)]
AS_ANOTHER_MODEL = pytest.mark.parametrize(
    "as_model", [as_proxy, employee_of], ids=["a proxy", "a child with a table of its own"]
)


class TestPasswordSetElsewhere:
    def test_it_ends_the_sessions_and_links_of_the_user(self, signed_in: Api, user: Any) -> None:
        """security.md, row 27: Django admin and the host's own code set passwords too."""
        signed_in.post("/auth/password/request", {"email": user.email})
        assert PasswordResetToken.objects.filter(user=user).exists()

        user.set_password(NEW_PASSWORD)
        user.save()

        assert code_of(signed_in.get("/users/me")) == "INVALID_TOKEN"
        assert code_of(signed_in.refresh()) == "INVALID_CREDENTIALS"
        assert not PasswordResetToken.objects.filter(user=user).exists()
        assert AuthEvent.objects.filter(kind="session_revoked", reason="password set", user=user).exists()

    def test_djangos_changepassword_does_too(self, signed_in: Api, user: Any) -> None:
        with mock.patch("getpass.getpass", return_value=NEW_PASSWORD):
            call_command("changepassword", user.get_username(), stdout=io.StringIO())

        assert not RefreshSession.objects.filter(user=user).exists()

    def test_it_works_if_no_event_can_be_written(
        self, signed_in: Api, user: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Between migrations there may be no table yet."""
        monkeypatch.setattr(AuthEvent._meta, "db_table", "gone")
        user.set_password(NEW_PASSWORD)
        user.save()

        assert type(user).objects.get(pk=user.pk).check_password(NEW_PASSWORD)
        assert not RefreshSession.objects.filter(user=user).exists()

    @AS_ANOTHER_MODEL
    def test_it_can_be_set_through_another_model(self, signed_in: Api, user: Any, as_model: Any) -> None:
        """security.md, row 27: each model sends the signal as itself."""
        same = as_model(user)
        same.set_password(NEW_PASSWORD)
        same.save()

        assert code_of(signed_in.get("/users/me")) == "INVALID_TOKEN"
        assert AuthEvent.objects.get(kind="session_revoked").user == user

    def test_a_new_child_row_can_belong_to_an_old_account(self, signed_in: Api, user: Any) -> None:
        employee = Employee(user_ptr=user, badge="7")
        employee.__dict__.update(vars(user))
        employee.set_password(NEW_PASSWORD)
        employee.save()

        assert code_of(signed_in.get("/users/me")) == "INVALID_TOKEN"

    def test_a_new_account_has_nothing_to_end(self) -> None:
        """It runs as many statements as without us."""
        with CaptureQueriesContext(connection) as captured:
            make_user()

        assert [query["sql"].split()[0] for query in captured] == ["INSERT"]

    def test_any_other_change_of_the_user_ends_nothing(self, signed_in: Api, user: Any) -> None:
        user.email = "new@example.com"
        user.save()

        assert signed_in.get("/users/me").status_code == 200

    def test_an_upgraded_hash_is_the_same_password(self, signed_in: Api, user: Any) -> None:
        """security.md, row 9."""
        hasher = PBKDF2PasswordHasher()
        type(user).objects.filter(pk=user.pk).update(password=hasher.encode(PASSWORD, "salt", iterations=1))
        user.refresh_from_db()

        assert user.check_password(PASSWORD)

        assert user.password.startswith("argon2")
        assert signed_in.get("/users/me").status_code == 200


class TestUserDeleted:
    @AS_ANOTHER_MODEL
    def test_it_leaves_one_event_through_every_model(self, user: Any, as_model: Any) -> None:
        """security.md, row 121."""
        same = as_model(user)
        what = f"user {user.pk}"
        same.delete()

        assert not type(user).objects.filter(pk=user.pk).exists()
        assert AuthEvent.objects.filter(kind="user_deleted", reason=what).count() == 1

    @AS_ANOTHER_MODEL
    def test_deleting_many_leaves_one_event_each(self, user: Any, as_model: Any) -> None:
        both = [as_model(user), as_model(make_user())]
        type(both[0]).objects.filter(pk__in=[each.pk for each in both]).delete()

        assert AuthEvent.objects.filter(kind="user_deleted").count() == 2

    def test_deleting_only_a_child_row_records_nothing(self, user: Any) -> None:
        employee_of(user).delete(keep_parents=True)

        assert not AuthEvent.objects.filter(kind="user_deleted").exists()


class TestUserModelInTwoTables:
    def test_every_reaction_works(self) -> None:
        """security.md, rows 27 and 121: a separate host whose user model inherits from one with the password."""
        done = subprocess.run(
            [sys.executable, "-m", "tests.parentapp"], capture_output=True, text=True, check=False
        )

        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout) == {
            "password set": {"Member": 0, "Person": 0, "Contact": 0, "Clerk": 0, "Customer": 0},
            "deleted": {"Member": 1, "Person": 1, "Contact": 1, "Clerk": 1},
        }


class TestModelsOfTheHost:
    """With a receiver for all models, Django would load each row that a host deletes."""

    @pytest.mark.parametrize("model", [Note, Session])
    @pytest.mark.parametrize("signal", MODEL_SIGNALS)
    def test_no_receiver_is_connected_to_them(self, signal: Any, model: Any) -> None:
        assert not signal.has_listeners(model)

    def test_many_rows_are_deleted_in_one_statement(self) -> None:
        expired = timezone.now() - timedelta(days=1)
        Session.objects.bulk_create(
            Session(session_key=f"{number:032}", session_data="", expire_date=expired)
            for number in range(2500)
        )
        with CaptureQueriesContext(connection) as captured:
            Session.objects.filter(expire_date__lt=timezone.now()).delete()

        assert len([query for query in captured if "django_session" in query["sql"]]) == len(captured) == 1
        assert not Session.objects.exists()

    def test_rows_deleted_with_a_user_are_not_loaded(self, user: Any) -> None:
        Note.objects.bulk_create(Note(owner=user, text="text") for _number in range(10))
        with CaptureQueriesContext(connection) as captured:
            user.delete()

        of_notes = [query["sql"] for query in captured if Note._meta.db_table in query["sql"]]
        assert [sql.split()[0] for sql in of_notes] == ["DELETE"]
