"""The rows of reset links: created completely, created once, and at most three of them valid."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import pytest
from django.db import OperationalError
from django.db.models.signals import pre_delete

from platform_auth import passwords
from platform_auth.mail import delivery
from platform_auth.models import AuthEvent, PasswordResetToken
from platform_auth.passwords import reset_tokens
from tests.conftest import make_user
from tests.racing import together


def ids() -> set[Any]:
    return set(PasswordResetToken.objects.values_list("pk", flat=True))


@contextmanager
def failing_deletes(*, times: int) -> Iterator[None]:
    """Make the database give up this many times while a link is superseded."""
    left = [times]

    def give_up(**kwargs: Any) -> None:
        if left[0]:
            left[0] -= 1
            raise OperationalError("database is locked")

    pre_delete.connect(give_up, sender=PasswordResetToken)
    try:
        yield
    finally:
        pre_delete.disconnect(give_up, sender=PasswordResetToken)


@pytest.mark.django_db
class TestIssue:
    def test_the_newest_three_stay(self, user: Any) -> None:
        """security.md, row 71."""
        made = [reset_tokens.issue(user).pk for _ in range(5)]

        assert ids() == set(made[2:])

    def test_those_of_other_users_stay(self, user: Any) -> None:
        other = reset_tokens.issue(make_user())

        for _ in range(4):
            reset_tokens.issue(user)

        assert other.pk in ids()

    @pytest.mark.parametrize("seconds", [-3600, -1, 0])
    def test_it_never_supersedes_the_new_link(self, user: Any, clock: Any, seconds: int) -> None:
        """Another node's clock may be ahead of this one's."""
        for _ in range(3):
            reset_tokens.issue(user)
        clock.shift(seconds)

        token = reset_tokens.issue(user)

        assert token.pk in ids()
        assert len(ids()) == 3

    def test_if_the_others_cannot_be_superseded_no_link_is_created(self, user: Any) -> None:
        made = {reset_tokens.issue(user).pk for _ in range(3)}

        with failing_deletes(times=99), pytest.raises(OperationalError):
            reset_tokens.issue(user)

        assert ids() == made

    def test_a_link_is_not_created_twice(self, user: Any) -> None:
        older = [reset_tokens.issue(user).pk for _ in range(2)]
        token_id = uuid.uuid4()

        first, again = (reset_tokens.issue(user, token_id=token_id) for _ in range(2))

        assert first == again
        assert ids() == {*older, token_id}

    def test_a_retried_request_supersedes_only_once(self, user: Any, mailoutbox: list[Any]) -> None:
        for number in (1, 2):
            passwords.answer_request(
                token_id="7b0e7fb6-6b5e-4b0c-8a3e-0d6f0c5f5b11",
                email=user.email,
                within_limit=True,
                reset_url=None,
                language="en",
                address=None,
                user_agent="",
                attempt=delivery.Attempt(number, is_last=False),
            )

        assert len(ids()) == 1
        assert AuthEvent.objects.filter(kind=AuthEvent.Kind.RESET_REQUESTED, reason="dead").count() == 0


@pytest.mark.django_db(transaction=True)
class TestContention:
    def test_it_is_retried_if_the_database_gives_up(self, user: Any) -> None:
        for _ in range(3):
            reset_tokens.issue(user)

        with failing_deletes(times=1):
            token = reset_tokens.issue(user)

        assert token.pk in ids()
        assert len(ids()) == 3

    @pytest.mark.race
    def test_of_many_concurrent_links_three_stay(self) -> None:
        for _ in range(10):
            user = make_user()

            made = together(*[partial(reset_tokens.issue, user) for _ in range(8)])

            live = {token.pk for token in made} & ids()
            assert len(live) == PasswordResetToken.objects.filter(user=user).count() == 3
