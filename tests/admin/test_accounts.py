"""Django admin of sessions, links, factors and events, and of a user's own page (rows 123, 124 and 127)."""

from __future__ import annotations

import itertools
import uuid
from contextlib import suppress
from datetime import timedelta
from typing import Any

import pytest
from django.contrib import admin
from django.contrib.auth import get_user_model
from django.contrib.auth.models import Group, Permission
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from django.utils import timezone

from platform_auth import events, sealing, sessions
from platform_auth.admin import rows, users
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
from tests.conftest import Api, make_user

MODELS = ("refreshsession", "passwordresettoken", "totpfactor", "authevent")
FIREFOX = "Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0"

pytestmark = pytest.mark.django_db


def enrol(user: Any) -> TOTPFactor:
    factor = TOTPFactor(user=user, confirmed=True)
    factor.set_secret("JBSWY3DPEHPK3PXP")
    factor.save()
    RecoveryCode.objects.create(user=user, digest="d" * 64)
    return factor


def link(user: Any) -> OAuthIdentity:
    provider, _created = OAuthProvider.objects.get_or_create(key="github", label="GitHub", kind="github")
    return OAuthIdentity.objects.create(user=user, provider=provider, subject=str(uuid.uuid4()))


def admin_client(*permissions: str) -> Any:
    """Return a staff user's client; without permissions a superuser's."""
    user = make_user(is_staff=True, is_superuser=not permissions)
    user.user_permissions.set(Permission.objects.filter(codename__in=permissions))
    client = Client(HTTP_USER_AGENT="an admin's browser")
    client.force_login(user)
    client.user = user  # type: ignore[attr-defined]
    return client


def list_url(model: str) -> str:
    return reverse(f"admin:platform_auth_{model}_changelist")


def user_url(user: Any) -> str:
    options = get_user_model()._meta
    return reverse(f"admin:{options.app_label}_{options.model_name}_change", args=[user.pk])


def mark(client: Any, user: Any, prefix: str, *, count: int = 1, page: Any = None) -> Any:
    """Post a user's page (as it is now) as a browser does, with the first rows of one inline marked."""
    page = page or client.get(user_url(user))
    data: dict[str, Any] = {}
    form = page.context["adminform"].form
    for name, field in form.fields.items():
        value = form[name].value()
        if value not in (None, False, []):
            data[name] = field.prepare_value(value) if not isinstance(value, list) else value
    for formset in page.context["inline_admin_formsets"]:
        formset = formset.formset
        for name in formset.management_form.fields:
            data[f"{formset.prefix}-{name}"] = formset.management_form[name].value()
        for index, row in enumerate(formset.initial_forms):
            data[row.add_prefix(formset.model._meta.pk.name)] = str(row.instance.pk)
            if formset.prefix == prefix and index < count:
                data[row.add_prefix("DELETE")] = "on"
    data = {k: (v if not hasattr(v, "isoformat") else None) for k, v in data.items()}
    for name in ("last_login", "date_joined"):
        if name in form.fields:
            data.pop(name, None)
            moment = form[name].value()
            if moment:
                data[f"{name}_0"], data[f"{name}_1"] = (
                    moment.strftime("%Y-%m-%d"),
                    moment.strftime("%H:%M:%S"),
                )
    response = client.post(user_url(user), data)
    assert response.status_code == 302, response.context["errors"]
    return response


class TestLists:
    @pytest.mark.parametrize("model", MODELS)
    def test_a_list_costs_the_same_at_any_number_of_rows(self, model: str) -> None:
        client = admin_client()
        counts = []
        for _round in range(2):
            for _row in range(30):
                owner = make_user()
                sessions.open(owner)
                reset_tokens.issue(owner)
                enrol(owner)
            with CaptureQueriesContext(connection) as captured:
                assert client.get(list_url(model)).status_code == 200
            counts.append(len(captured))

        assert counts[0] == counts[1]
        assert counts[0] <= 7

    def test_no_statement_counts_all_rows(self, user: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(rows, "AT_MOST", 5)
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

    def test_an_action_on_all_ends_no_more_than_the_page_says(
        self, user: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A list says "Select all 10000" where there are a million."""
        monkeypatch.setattr(rows, "AT_MOST", 5)
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

    @pytest.mark.parametrize("model", MODELS)
    @pytest.mark.parametrize("query", ["user", "127.0.0.1", "nonsense' --", "\u00e9", "0"])
    def test_every_list_can_be_searched(self, model: str, query: str, user: Any) -> None:
        sessions.open(user)

        assert admin_client().get(list_url(model), {"q": query}).status_code == 200

    def test_a_search_finds_by_address_and_by_user(self, api: Api, user: Any) -> None:
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
    def test_filters(self, model: str, query: dict[str, str], user: Any) -> None:
        OAuthProvider.objects.create(key="github", label="GitHub", kind="github")
        sessions.open(user)
        reset_tokens.issue(user)
        enrol(user)

        page = admin_client().get(list_url(model), query)

        assert page.status_code == 200
        assert list(page.context["cl"].result_list) == []

    def test_the_events_of_a_session_are_one_link_away(self, user: Any) -> None:
        session = sessions.open(user).session
        client = admin_client()
        page = client.get(reverse("admin:platform_auth_refreshsession_change", args=[session.pk]))
        url = f"{list_url('authevent')}?session_digest={events.session_digest(session.pk)}"

        assert url in page.content.decode()
        assert [event.kind for event in client.get(url).context["cl"].result_list] == ["logged_in"]


class TestReadOnly:
    """Row 124: rows are looked at and ended, never edited; row 123: nothing secret is on a page."""

    @pytest.mark.parametrize(
        ("model", "lookup"),
        [
            ("refreshsession", "digest__startswith=a"),
            ("refreshsession", "key__gt=00000000-0000-0000-0000-000000000000"),
            ("passwordresettoken", "fingerprint__startswith=a"),
            ("totpfactor", "sealed_secret__startswith=v1"),
            ("authevent", "network__startswith=1"),
            ("oauthprovider", "sealed_secret__startswith=v1"),
            ("oauthprovider", "sealed_private_key__gt=v1"),
        ],
    )
    def test_no_list_is_searched_by_what_no_page_shows(self, model: str, lookup: str) -> None:
        """Whether ever longer prefixes match would spell it out."""
        assert admin_client().get(f"{list_url(model)}?{lookup}").status_code == 400

    def test_who_may_see_other_things_finds_no_such_lists_in_the_index(self) -> None:
        page = admin_client("view_oauthprovider").get(reverse("admin:index")).content.decode()

        assert "/admin/platform_auth/oauthprovider/" in page
        for model in MODELS:
            assert f"/admin/platform_auth/{model}/" not in page

    @pytest.mark.parametrize("model", MODELS)
    def test_nothing_is_added_changed_or_deleted_by_hand(self, model: str, user: Any) -> None:
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

    def test_no_page_shows_what_opens_anything(self, user: Any) -> None:
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

    @pytest.mark.parametrize("model", MODELS)
    def test_who_may_not_see_it_does_not(self, model: str) -> None:
        assert admin_client("view_note").get(list_url(model)).status_code == 403
        assert admin_client(f"view_{model}").get(list_url(model)).status_code == 200


class TestActions:
    def run(self, client: Any, model: str, action: str, *rows: Any) -> Any:
        data = {"action": action, "_selected_action": [str(row.pk) for row in rows]}
        return client.post(list_url(model), data)

    def test_ending_a_session(self, api: Api, user: Any) -> None:
        """The token is dead at once, and the event says who did it."""
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

    def test_withdrawing_a_link(self, user: Any) -> None:
        token = reset_tokens.issue(user)

        self.run(admin_client(), "passwordresettoken", "withdraw_links", token)

        assert not PasswordResetToken.objects.exists()
        assert AuthEvent.objects.get(kind=AuthEvent.Kind.ADMIN_CHANGED).reason.startswith(
            "withdrew a reset link"
        )

    def test_removing_a_second_factor(self, user: Any) -> None:
        factor = enrol(user)

        self.run(admin_client(), "totpfactor", "reset_factors", factor)

        assert not TOTPFactor.objects.exists()
        assert not RecoveryCode.objects.exists()
        assert AuthEvent.objects.get(kind=AuthEvent.Kind.FACTOR_DISABLED).user == user

    @pytest.mark.parametrize(
        ("model", "action"),
        [
            ("refreshsession", "end_sessions"),
            ("refreshsession", "end_all_of_users"),
            ("passwordresettoken", "withdraw_links"),
            ("totpfactor", "reset_factors"),
        ],
    )
    def test_who_may_only_look_ends_nothing(self, model: str, action: str, user: Any) -> None:
        """Row 124."""
        rows = {
            "refreshsession": sessions.open(user).session,
            "passwordresettoken": reset_tokens.issue(user),
            "totpfactor": enrol(user),
        }

        self.run(admin_client(f"view_{model}"), model, action, rows[model])
        assert type(rows[model])._default_manager.count() == 1

        self.run(admin_client(f"view_{model}", f"delete_{model}"), model, action, rows[model])
        assert type(rows[model])._default_manager.count() == 0


class TestUserPage:
    """A user's own page: sessions, factor and provider accounts, with what ends them."""

    def test_it_shows_them(self, api: Api, user: Any) -> None:
        api.client.defaults["HTTP_USER_AGENT"] = FIREFOX
        api.login(user.email)
        enrol(user)
        link(user)

        page = admin_client().get(user_url(user)).content.decode()

        assert "127.0.0.1" in page
        assert "GitHub" in page
        for heading in (
            "sessions (mark to end)",
            "second factor (mark to remove)",
            "linked provider accounts",
        ):
            assert heading.lower() in page.lower()

    def test_others_rows_are_not_there(self, user: Any) -> None:
        sessions.open(make_user())

        page = admin_client().get(user_url(user))

        assert [len(formset.formset.initial_forms) for formset in page.context["inline_admin_formsets"]] == [
            0,
            0,
            0,
        ]

    def test_ending_a_session(self, user: Any) -> None:
        sessions.open(user)
        sessions.open(user)

        mark(admin_client(), user, "platform_auth_sessions")

        assert RefreshSession.objects.count() == 1
        assert AuthEvent.objects.get(kind=AuthEvent.Kind.SESSION_REVOKED).reason.startswith("admin ")

    def test_removing_the_factor(self, user: Any) -> None:
        enrol(user)

        mark(admin_client(), user, "platform_auth_factor")

        assert not TOTPFactor.objects.exists()
        assert AuthEvent.objects.filter(kind=AuthEvent.Kind.FACTOR_DISABLED, user=user).exists()

    def test_unlinking_an_account(self, user: Any) -> None:
        link(user)

        mark(admin_client(), user, "platform_auth_identities")

        assert not OAuthIdentity.objects.exists()
        assert AuthEvent.objects.filter(kind=AuthEvent.Kind.IDENTITY_UNLINKED, user=user).exists()

    def test_saving_the_page_ends_nothing(self, user: Any) -> None:
        sessions.open(user)
        enrol(user)
        link(user)

        mark(admin_client(), user, "none")

        assert (
            RefreshSession.objects.count() == TOTPFactor.objects.count() == OAuthIdentity.objects.count() == 1
        )

    def test_many_sessions_are_a_page_of_the_newest(self, user: Any) -> None:
        for _number in range(users.SHOWN_AT_ONCE + 5):
            sessions.open(user)

        page = admin_client().get(user_url(user))

        formset = page.context["inline_admin_formsets"][0].formset
        assert len(formset.initial_forms) == users.SHOWN_AT_ONCE

    def test_a_marked_session_ends_though_it_is_among_the_newest_no_more(self, user: Any) -> None:
        marked = sessions.open(user).session
        client = admin_client()
        page = client.get(user_url(user))
        for _number in range(users.SHOWN_AT_ONCE):
            sessions.open(user)

        mark(client, user, "platform_auth_sessions", page=page)

        assert not RefreshSession.objects.filter(pk=marked.pk).exists()
        assert RefreshSession.objects.count() == users.SHOWN_AT_ONCE

    def test_a_session_of_somebody_else_is_not_ended_by_its_key(self, user: Any) -> None:
        other = sessions.open(make_user()).session
        sessions.open(user)
        client = admin_client()
        page = client.get(user_url(user))
        (form,) = page.context["inline_admin_formsets"][0].formset.initial_forms
        form.instance.pk = other.pk

        with suppress(AssertionError):
            mark(client, user, "platform_auth_sessions", page=page)

        assert RefreshSession.objects.filter(pk=other.pk).exists()

    def test_a_host_that_deletes_what_is_marked_by_itself(
        self, user: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """By Django's documented way: `save(commit=False)`, then `deleted_objects`."""
        enrol(user)

        def save_formset(self: Any, request: Any, form: Any, formset: Any, change: bool) -> None:
            formset.save(commit=False)
            for row in formset.deleted_objects:
                row.delete()

        host_admin = admin.site._registry[get_user_model()]
        monkeypatch.setattr(type(host_admin), "save_formset", save_formset)

        mark(admin_client(), user, "platform_auth_factor")

        assert not RecoveryCode.objects.exists()
        assert AuthEvent.objects.filter(kind=AuthEvent.Kind.FACTOR_DISABLED, user=user).exists()

    def test_the_form_for_a_new_user_has_none(self) -> None:
        options = get_user_model()._meta
        page = admin_client().get(reverse(f"admin:{options.app_label}_{options.model_name}_add"))

        assert page.context["inline_admin_formsets"] == []

    def test_an_admin_of_users_alone_sees_none(self, user: Any) -> None:
        sessions.open(user)
        name = get_user_model()._meta.model_name

        page = admin_client(f"view_{name}", f"change_{name}").get(user_url(user))

        assert page.context["inline_admin_formsets"] == []

    def test_deleting_a_user_takes_their_rows_along(self, user: Any) -> None:
        """An admin who may delete users needs no permission for each of our tables."""
        sessions.open(user)
        enrol(user)
        options = get_user_model()._meta
        client = admin_client(f"view_{options.model_name}", f"delete_{options.model_name}")

        url = reverse(f"admin:{options.app_label}_{options.model_name}_delete", args=[user.pk])
        assert client.post(url, {"post": "yes"}).status_code == 302

        assert not get_user_model().objects.filter(pk=user.pk).exists()
        assert not RefreshSession.objects.exists()
        assert AuthEvent.objects.get(kind=AuthEvent.Kind.LOGGED_IN).user is None


class TestChangesByAdmins:
    """Row 121: what an admin does to users and groups leaves an event that says who did what."""

    def test_changing_a_user(self, user: Any) -> None:
        client = admin_client()

        mark(client, user, "none")

        event = AuthEvent.objects.get(kind=AuthEvent.Kind.ADMIN_CHANGED)
        assert event.user == client.user
        assert event.reason.startswith(f"user {user.pk}: ")
        assert event.ip_address == "127.0.0.1"
        assert event.user_agent == "an admin's browser"

    def test_deleting_one(self, user: Any) -> None:
        client = admin_client()
        options = type(user)._meta

        url = reverse(f"admin:{options.app_label}_{options.model_name}_delete", args=[user.pk])
        client.post(url, {"post": "yes"}, headers={"Accept-Language": "ar"})

        event = AuthEvent.objects.get(kind=AuthEvent.Kind.ADMIN_CHANGED)
        assert (event.user, event.reason) == (client.user, f"user {user.pk}: Deletion")
        event = AuthEvent.objects.get(kind=AuthEvent.Kind.USER_DELETED)
        assert (event.reason, event.ip_address) == (f"user {user.pk}", "127.0.0.1")

    def test_deleting_many(self) -> None:
        """Django admin logs them in bulk, which sends no signal."""
        client = admin_client()
        users = [make_user() for _number in range(2)]
        options = type(users[0])._meta

        url = reverse(f"admin:{options.app_label}_{options.model_name}_changelist")
        keys = [str(user.pk) for user in users]
        client.post(url, {"action": "delete_selected", "_selected_action": keys, "post": "yes"})

        gone = AuthEvent.objects.filter(kind=AuthEvent.Kind.USER_DELETED, ip_address="127.0.0.1")
        assert set(gone.values_list("reason", flat=True)) == {f"user {key}" for key in keys}

    def test_changing_a_group(self) -> None:
        client = admin_client()

        client.post(reverse("admin:auth_group_add"), {"name": "Editors"})

        event = AuthEvent.objects.get(kind=AuthEvent.Kind.ADMIN_CHANGED)
        assert event.user == client.user
        assert event.reason.startswith("group ")

    def test_changing_the_public_role_acts_at_once(self) -> None:
        """Row 127: and says what changed."""
        client = admin_client()
        assert Client().get("/api/notes").status_code == 401
        data = {"name": "Public", "permissions": [Permission.objects.get(codename="view_note").pk]}

        client.post(reverse("admin:auth_group_add"), data)

        assert Client().get("/api/notes").status_code == 200
        reasons = list(AuthEvent.objects.order_by("pk").values_list("reason", flat=True))
        assert reasons[:2] == ["public role: group saved", "public role: added view_note"]


class TestExposurePage:
    """What the public role exposes, as a page."""

    def test_it_lists_routes(self) -> None:
        group = Group.objects.create(name="Public")
        group.permissions.set(Permission.objects.filter(codename__in=["view_note", "change_group"]))

        page = admin_client().get(reverse("admin:platform_auth_exposure")).content.decode()

        assert "/api/notes" in page
        assert "hostapp.Note" in page
        assert "auth.change_group" in page

    def test_it_is_for_those_who_may_see_groups(self) -> None:
        url = reverse("admin:platform_auth_exposure")

        assert admin_client("view_note").get(url).status_code == 403
        assert admin_client("view_group").get(url).status_code == 200
        assert Client().get(url).status_code == 302

    def test_the_index_of_the_app_leads_there(self) -> None:
        page = admin_client().get(reverse("admin:app_list", args=["platform_auth"])).content.decode()

        assert reverse("admin:platform_auth_exposure") in page


def test_every_page_of_ours_answers(user: Any) -> None:
    """Lists and rows of every registered model, with a row in each."""
    sessions.open(user)
    reset_tokens.issue(user)
    enrol(user)
    link(user)
    sealing.seal("a", "b")
    client = admin_client()
    from django.contrib import admin

    answered = []
    for model in itertools.chain(admin.site._registry):
        if model._meta.app_label == "platform_auth":
            row = model._default_manager.first()
            assert row is not None, model
            name = f"admin:platform_auth_{model._meta.model_name}"
            assert client.get(reverse(f"{name}_changelist")).status_code == 200
            assert client.get(reverse(f"{name}_change", args=[row.pk])).status_code == 200
            answered.append(model)
    assert len(answered) == 6


def test_expired_rows_are_told_apart(user: Any) -> None:
    sessions.open(user)
    RefreshSession.objects.update(expires_at=timezone.now() - timedelta(seconds=1))
    client = admin_client()

    assert len(client.get(list_url("refreshsession"), {"state": "expired"}).context["cl"].result_list) == 1
    assert len(client.get(list_url("refreshsession"), {"state": "live"}).context["cl"].result_list) == 0
