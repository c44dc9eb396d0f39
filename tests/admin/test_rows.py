"""Django admin of sessions, links, factors, identities and events (security.md, rows 123 and 124)."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from django.contrib import admin
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from django.utils import timezone

from platform_auth import events, sealing, sessions
from platform_auth.models import (
    AuthEvent,
    OAuthIdentity,
    OAuthProvider,
    PasswordResetToken,
    RecoveryCode,
    RefreshSession,
    TOTPFactor,
)
from platform_auth.passwords import reset_tokens
from tests.admin.staff import admin_client, enrol, link, list_url, user_url
from tests.conftest import Api, make_user

MODELS = ("refreshsession", "passwordresettoken", "totpfactor", "authevent")
LISTS = (*MODELS, "oauthidentity")

pytestmark = pytest.mark.django_db


class TestLists:
    @pytest.mark.parametrize("model", LISTS)
    def test_a_list_runs_as_many_statements_for_any_number_of_rows(self, model: str) -> None:
        client = admin_client()
        counts = []
        for _round in range(2):
            for _row in range(30):
                owner = make_user()
                sessions.open(owner)
                reset_tokens.issue(owner)
                enrol(owner)
                link(owner)
            with CaptureQueriesContext(connection) as captured:
                assert client.get(list_url(model)).status_code == 200
            counts.append(len(captured))

        assert counts[0] == counts[1]
        assert counts[0] <= 7

    def test_no_statement_counts_all_rows(self, user: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("platform_auth.admin.rows.AT_MOST", 5)
        for _number in range(8):
            sessions.open(user)
        with CaptureQueriesContext(connection) as captured:
            page = admin_client().get(list_url("refreshsession"))

        counting = [
            query["sql"]
            for query in captured
            if "COUNT(" in query["sql"] and "refreshsession" in query["sql"]
        ]
        assert counting
        assert all("LIMIT 5" in sql for sql in counting)
        assert page.context["cl"].paginator.count == 5

    def test_an_action_on_all_rows_is_refused_over_the_limit_of_the_page(
        self, user: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The list offers "Select all 10000" if there are a million rows."""
        monkeypatch.setattr("platform_auth.admin.rows.AT_MOST", 5)
        grants = [sessions.open(user) for _number in range(6)]
        client = admin_client()
        data = {
            "action": "end_sessions",
            "_selected_action": str(grants[0].session.pk),
            "select_across": "1",
            "index": "0",
        }

        page = client.post(list_url("refreshsession"), data, follow=True)
        assert RefreshSession.objects.count() == 6
        assert "more than 5" in page.content.decode()

        sessions.revoke(grants[0].session)
        client.post(list_url("refreshsession"), data)
        assert RefreshSession.objects.count() == 0

    @pytest.mark.parametrize("model", LISTS)
    @pytest.mark.parametrize("query", ["user", "127.0.0.1", "nonsense' --", "\u00e9", "0"])
    def test_every_list_can_be_searched(self, model: str, query: str, user: Any) -> None:
        sessions.open(user)

        assert admin_client().get(list_url(model), {"q": query}).status_code == 200

    def test_a_search_finds_addresses_and_users(self, api: Api, user: Any) -> None:
        api.login(user.email)
        sessions.open(make_user())
        client = admin_client()

        for query in (user.email, user.email[:5].upper() + user.email[5:], "127.0.0.1"):
            rows = client.get(list_url("refreshsession"), {"q": query}).context["cl"].result_list
            assert [row.user for row in rows] == [user]

    @pytest.mark.parametrize(
        ("model", "query"),
        [
            ("refreshsession", {"state": "expired"}),
            ("refreshsession", {"provider": "github"}),
            ("refreshsession", {"mode__exact": "cookie"}),
            ("refreshsession", {"created_at__gte": "2030-01-01 00:00:00+00:00"}),
            ("passwordresettoken", {"state": "expired"}),
            ("totpfactor", {"last_used_at__gte": "2030-01-01 00:00:00+00:00"}),
            ("authevent", {"kind__exact": "refresh_reused"}),
            ("authevent", {"provider": "github"}),
            ("authevent", {"session_digest": "0" * 16}),
        ],
    )
    def test_filters_work(self, model: str, query: dict[str, str], user: Any) -> None:
        OAuthProvider.objects.create(key="github", label="GitHub", kind="github")
        sessions.open(user)
        reset_tokens.issue(user)
        enrol(user)

        page = admin_client().get(list_url(model), query)

        assert page.status_code == 200
        assert list(page.context["cl"].result_list) == []

    def test_a_session_links_to_its_events(self, user: Any) -> None:
        session = sessions.open(user).session
        client = admin_client()
        page = client.get(reverse("admin:platform_auth_refreshsession_change", args=[session.pk]))
        url = f"{list_url('authevent')}?session_digest={events.session_digest(session.pk)}"

        assert url in page.content.decode()
        assert [event.kind for event in client.get(url).context["cl"].result_list] == ["logged_in"]


class TestReadOnly:
    """security.md, rows 123, 124: rows can be viewed and ended but not edited, and no page shows secrets."""

    @pytest.mark.parametrize(
        ("model", "lookup"),
        [
            ("refreshsession", "digest__startswith=a"),
            ("refreshsession", "key__gt=00000000-0000-0000-0000-000000000000"),
            ("passwordresettoken", "fingerprint__startswith=a"),
            ("totpfactor", "sealed_secret__startswith=v1"),
            ("authevent", "network__startswith=1"),
            ("oauthidentity", "subject_digest__startswith=a"),
            ("oauthprovider", "sealed_secret__startswith=v1"),
            ("oauthprovider", "sealed_private_key__gt=v1"),
        ],
    )
    def test_hidden_columns_cannot_be_searched(self, model: str, lookup: str) -> None:
        """Searching for ever longer prefixes would spell out the value."""
        assert admin_client().get(f"{list_url(model)}?{lookup}").status_code == 400

    def test_the_index_shows_only_lists_that_one_may_view(self) -> None:
        page = admin_client("view_oauthprovider").get(reverse("admin:index")).content.decode()

        assert "/admin/platform_auth/oauthprovider/" in page
        for model in MODELS:
            assert f"/admin/platform_auth/{model}/" not in page

    @pytest.mark.parametrize("model", MODELS)
    def test_rows_cannot_be_added_changed_or_deleted_by_hand(self, model: str, user: Any) -> None:
        session = sessions.open(user).session
        rows = {
            "refreshsession": session,
            "passwordresettoken": reset_tokens.issue(user),
            "totpfactor": enrol(user),
            "authevent": AuthEvent.objects.first(),
        }
        row = rows[model]
        assert row is not None
        before = type(row)._base_manager.filter(pk=row.pk).values().get()
        client = admin_client()

        assert client.get(reverse(f"admin:platform_auth_{model}_add")).status_code == 403
        assert (
            client.post(reverse(f"admin:platform_auth_{model}_change", args=[row.pk]), {}).status_code == 403
        )
        assert (
            client.post(
                reverse(f"admin:platform_auth_{model}_delete", args=[row.pk]), {"post": "yes"}
            ).status_code
            == 403
        )
        data = {"action": "delete_selected", "_selected_action": str(row.pk), "post": "yes"}
        client.post(list_url(model), data)

        assert type(row)._base_manager.filter(pk=row.pk).values().get() == before

    def test_no_page_shows_a_secret(self, user: Any) -> None:
        grant = sessions.open(user)
        factor = enrol(user)
        token = reset_tokens.issue(user)
        row = grant.session
        hidden = [
            grant.refresh_token,
            grant.access_token,
            str(row.key),
            row.key.hex,
            row.digest,
            factor.secret,
            factor.sealed_secret,
            token.fingerprint,
            reset_tokens.sign(token),
            "d" * 64,
        ]
        client = admin_client()
        pages = [client.get(list_url(model)) for model in MODELS]
        for model, pk in zip(MODELS, (row.pk, token.pk, factor.pk, AuthEvent.objects.get().pk), strict=True):
            pages.append(client.get(reverse(f"admin:platform_auth_{model}_change", args=[pk])))
        pages.append(client.get(user_url(user)))

        for page in pages:
            assert page.status_code == 200
            for secret in hidden:
                assert secret not in page.content.decode()

    @pytest.mark.parametrize("model", LISTS)
    def test_viewing_needs_the_permission(self, model: str) -> None:
        assert admin_client("view_note").get(list_url(model)).status_code == 403
        assert admin_client(f"view_{model}").get(list_url(model)).status_code == 200


class TestActions:
    def run(self, client: Any, model: str, action: str, *rows: Any) -> Any:
        # Django asks for confirmation before deleting; "post" confirms.
        data = {"action": action, "_selected_action": [str(row.pk) for row in rows], "post": "yes"}
        return client.post(list_url(model), data)

    def test_ending_a_session(self, api: Api, user: Any) -> None:
        """The token stops working at once, and the event says who did it."""
        api.login(user.email)
        session = RefreshSession.objects.get()
        client = admin_client()

        self.run(client, "refreshsession", "end_sessions", session)

        assert api.get("/auth/sessions").status_code == 401
        assert api.refresh().status_code == 401
        event = AuthEvent.objects.get(kind=AuthEvent.Kind.SESSION_REVOKED)
        assert event.user == user
        assert event.reason == f"admin {client.user.pk}"
        assert event.ip_address == "127.0.0.1"

    def test_ending_all_sessions_of_a_user(self, user: Any) -> None:
        first = sessions.open(user).session
        sessions.open(user)
        other = sessions.open(make_user()).session

        self.run(admin_client(), "refreshsession", "end_all_of_users", first)

        assert list(RefreshSession.objects.all()) == [other]
        assert AuthEvent.objects.filter(kind=AuthEvent.Kind.SESSION_REVOKED, user=user).count() == 1

    def test_revoking_a_link(self, user: Any) -> None:
        token = reset_tokens.issue(user)

        self.run(admin_client(), "passwordresettoken", "revoke_links", token)

        assert not PasswordResetToken.objects.exists()
        assert AuthEvent.objects.get(kind=AuthEvent.Kind.ADMIN_CHANGED).reason.startswith(
            "revoked a reset link"
        )

    def test_removing_a_second_factor(self, user: Any) -> None:
        factor = enrol(user)

        self.run(admin_client(), "totpfactor", "reset_factors", factor)

        assert not TOTPFactor.objects.exists()
        assert not RecoveryCode.objects.exists()
        assert AuthEvent.objects.get(kind=AuthEvent.Kind.FACTOR_DISABLED).user == user

    def test_unlinking_a_provider_account(self, user: Any) -> None:
        identity = link(user)
        client = admin_client()

        self.run(client, "oauthidentity", "delete_selected", identity)

        assert not OAuthIdentity.objects.exists()
        event = AuthEvent.objects.get(kind=AuthEvent.Kind.IDENTITY_UNLINKED)
        assert (event.user, event.provider, event.reason) == (user, "github", f"admin {client.user.pk}")

    @pytest.mark.parametrize(
        ("model", "action"),
        [
            ("refreshsession", "end_sessions"),
            ("refreshsession", "end_all_of_users"),
            ("passwordresettoken", "revoke_links"),
            ("totpfactor", "reset_factors"),
            ("oauthidentity", "delete_selected"),
        ],
    )
    def test_viewing_alone_does_not_allow_ending(self, model: str, action: str, user: Any) -> None:
        """security.md, row 124."""
        rows = {
            "refreshsession": sessions.open(user).session,
            "passwordresettoken": reset_tokens.issue(user),
            "totpfactor": enrol(user),
            "oauthidentity": link(user),
        }

        self.run(admin_client(f"view_{model}"), model, action, rows[model])
        assert type(rows[model])._default_manager.count() == 1

        self.run(admin_client(f"view_{model}", f"delete_{model}"), model, action, rows[model])
        assert type(rows[model])._default_manager.count() == 0


def test_every_page_renders(user: Any) -> None:
    """The list and a row of every registered model."""
    sessions.open(user)
    reset_tokens.issue(user)
    enrol(user)
    link(user)
    sealing.seal("a", "b")
    client = admin_client()

    answered = []
    for model in admin.site._registry:
        if model._meta.app_label == "platform_auth":
            row = model._default_manager.first()
            assert row is not None, model
            name = f"admin:platform_auth_{model._meta.model_name}"
            assert client.get(reverse(f"{name}_changelist")).status_code == 200
            assert client.get(reverse(f"{name}_change", args=[row.pk])).status_code == 200
            answered.append(model)
    assert len(answered) == 6


def test_expired_rows_can_be_filtered(user: Any) -> None:
    sessions.open(user)
    RefreshSession.objects.update(expires_at=timezone.now() - timedelta(seconds=1))
    client = admin_client()

    assert len(client.get(list_url("refreshsession"), {"state": "expired"}).context["cl"].result_list) == 1
    assert len(client.get(list_url("refreshsession"), {"state": "live"}).context["cl"].result_list) == 0
