"""A user's own page in Django admin (security.md, row 51), and what admins do to users and groups (security.md, rows
121 and 127).
"""

from __future__ import annotations

import re
from html import unescape
from typing import Any

import pytest
from django.contrib import admin
from django.contrib.admin.utils import flatten_fieldsets
from django.contrib.auth import get_user_model
from django.contrib.auth.models import Permission
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import path, reverse
from django.utils import timezone

from platform_auth import sessions
from platform_auth.admin import AccountLinks, users
from platform_auth.models import AuthEvent, OAuthIdentity, RefreshSession, TOTPFactor
from tests.admin.staff import admin_client, enrol, link, list_url, save_user_page, user_url
from tests.conftest import make_user

MODELS = ("refreshsession", "totpfactor", "oauthidentity", "authevent")
NAME = get_user_model()._meta.model_name

pytestmark = pytest.mark.django_db


def shown(client: Any, user: Any) -> dict[str, tuple[str, str]]:
    """Return text and URL of each link to a list on a user's page, by model. Each must be there once."""
    page = client.get(user_url(user))
    assert page.status_code == 200
    found = re.findall(r'<a href="(/admin/platform_auth/(\w+)/\?[^"]*)">([^<]*)</a>', page.content.decode())
    links = {model: (text, unescape(url)) for url, model, text in found}
    assert len(links) == len(found)
    return links


class TestUserPage:
    """The counts link to the lists whose actions end what they count."""

    def test_it_counts_what_belongs_to_the_user(self, user: Any) -> None:
        sessions.open(user)
        sessions.open(user)
        expired = sessions.open(user).session
        RefreshSession.objects.filter(pk=expired.pk).update(expires_at=timezone.now())
        enrol(user)
        link(user)
        self.give_everything_to(make_user())

        links = shown(admin_client(), user)

        assert {model: text for model, (text, _url) in links.items()} == {
            "refreshsession": "2",
            "totpfactor": "Yes, 1 recovery code left",
            "oauthidentity": "1",
            "authevent": str(AuthEvent.objects.filter(user=user).count()),
        }

    def test_it_works_for_a_user_who_has_nothing(self, user: Any) -> None:
        links = shown(admin_client(), user)

        assert {model: text for model, (text, _url) in links.items()} == {
            "refreshsession": "0",
            "totpfactor": "No",
            "oauthidentity": "0",
            "authevent": "0",
        }

    def test_each_count_links_to_the_rows_of_this_user(self, user: Any) -> None:
        self.give_everything_to(user)
        self.give_everything_to(make_user())
        client = admin_client()

        links = shown(client, user)

        assert set(links) == set(MODELS)
        for _text, url in links.values():
            rows = client.get(url).context["cl"].result_list
            assert {row.user for row in rows} == {user}, url

    @pytest.mark.parametrize("model", [*MODELS, "passwordresettoken"])
    @pytest.mark.parametrize("lookup", ["user", "user__exact", "user__pk__exact", "user__id__exact"])
    def test_lists_can_be_filtered_by_user_in_any_spelling(self, model: str, lookup: str, user: Any) -> None:
        self.give_everything_to(make_user())

        page = admin_client().get(list_url(model), {lookup: str(user.pk)})

        assert page.status_code == 200
        assert list(page.context["cl"].result_list) == []

    @pytest.mark.parametrize(
        ("model", "action", "kind"),
        [
            ("refreshsession", "end_sessions", "session_revoked"),
            ("totpfactor", "reset_factors", "factor_disabled"),
            ("oauthidentity", "delete_selected", "identity_unlinked"),
        ],
    )
    def test_the_linked_lists_have_actions_that_end_the_rows(
        self, model: str, action: str, kind: str, user: Any
    ) -> None:
        """security.md, row 51: the event says who did it, and other users keep theirs."""
        other = make_user()
        self.give_everything_to(user)
        self.give_everything_to(other)
        client = admin_client()
        _text, url = shown(client, user)[model]
        rows = client.get(url).context["cl"].result_list

        selected = [str(row.pk) for row in rows]
        client.post(url, {"action": action, "_selected_action": selected, "post": "yes"})

        assert shown(client, user)[model][0] in ("0", "No")
        assert [row.user for row in type(rows[0])._default_manager.all()] == [other]
        event = AuthEvent.objects.get(kind=kind)
        assert (event.user, event.reason) == (user, f"admin {client.user.pk}")

    def test_saving_the_page_ends_nothing(self, user: Any) -> None:
        self.give_everything_to(user)

        save_user_page(admin_client(), user)

        assert (
            RefreshSession.objects.count() == TOTPFactor.objects.count() == OAuthIdentity.objects.count() == 1
        )

    def test_counts_are_capped_like_lists(self, user: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("platform_auth.admin.rows.AT_MOST", 3)
        for _number in range(5):
            sessions.open(user)

        links = shown(admin_client(), user)

        assert links["refreshsession"][0] == links["authevent"][0] == "3"

    def test_it_runs_five_statements(self, user: Any) -> None:
        self.give_everything_to(user)
        counts = []
        for permissions in ((), MODELS):
            client = admin_client(f"view_{NAME}", *(f"view_{model}" for model in permissions))
            with CaptureQueriesContext(connection) as captured:
                client.get(user_url(user))
            counts.append(len(captured))

        assert counts[1] - counts[0] == 5

    def test_the_form_for_a_new_user_has_no_counts(self) -> None:
        options = get_user_model()._meta
        page = admin_client().get(reverse(f"admin:{options.app_label}_{options.model_name}_add"))

        assert page.status_code == 200
        assert not set(users.LINKS) & set(flatten_fieldsets(page.context["adminform"].fieldsets))

    def test_an_admin_without_our_permissions_sees_no_counts(self, user: Any) -> None:
        self.give_everything_to(user)
        page = admin_client(f"view_{NAME}", f"change_{NAME}").get(user_url(user))

        assert "/admin/platform_auth/" not in page.content.decode()
        assert not set(users.LINKS) & set(flatten_fieldsets(page.context["adminform"].fieldsets))

    @pytest.mark.parametrize("may", ["view", "change"])
    @pytest.mark.parametrize("model", MODELS)
    def test_an_admin_sees_only_permitted_counts(self, may: str, model: str, user: Any) -> None:
        """security.md, row 124."""
        client = admin_client(f"view_{NAME}", f"{may}_{model}")

        links = shown(client, user)

        assert set(links) == {model}
        assert client.get(links[model][1]).status_code == 200

    def give_everything_to(self, user: Any) -> None:
        sessions.open(user)
        enrol(user)
        link(user)

    def test_deleting_a_user_deletes_their_rows(self, user: Any) -> None:
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


class Plain(admin.ModelAdmin):  # type: ignore[type-arg]
    pass


class WithFields(admin.ModelAdmin):  # type: ignore[type-arg]
    fields = ("email", "is_active")
    readonly_fields = ("is_active",)


class WithFieldsets(admin.ModelAdmin):  # type: ignore[type-arg]
    fieldsets = ((None, {"fields": ("email",)}), ("Their own", {"fields": (("is_active", "is_staff"),)}))


class WithMethods(admin.ModelAdmin):  # type: ignore[type-arg]
    """Doesn't call `super()`, and makes every field of the page read-only."""

    def get_fieldsets(self, request: Any, obj: Any = None) -> Any:
        return [("Their own", {"fields": ["email", "is_active"]})]

    def get_readonly_fields(self, request: Any, obj: Any = None) -> Any:
        return ("is_active", *flatten_fieldsets(self.get_fieldsets(request, obj)))


class WithAForm(admin.ModelAdmin):  # type: ignore[type-arg]
    def get_fields(self, request: Any, obj: Any = None) -> Any:
        return ["email"]

    def get_form(self, request: Any, obj: Any = None, **kwargs: Any) -> Any:
        return super().get_form(request, obj, **{**kwargs, "fields": ["email"]})


class WithLinks(AccountLinks, admin.ModelAdmin):  # type: ignore[type-arg]
    fields = ("email",)


HOSTS = (Plain, WithFields, WithFieldsets, WithMethods, WithAForm, WithLinks)


class TestHostAdmins:
    """A host's own admin class of users keeps what it has and gets our links."""

    def serve(self, settings: Any, host: Any, *, lists: bool = True) -> admin.AdminSite:
        """Serve /admin/ with this admin class of users, as when the apps are ready."""
        site = admin.AdminSite()
        site.register(get_user_model(), host)
        if lists:
            for model, page in admin.site._registry.items():
                if model._meta.app_label == "platform_auth":
                    site.register(model, type(page))
        users.show_on_user_pages()
        settings.ROOT_URLCONF = (path("admin/", site.urls),)
        return site

    @pytest.mark.parametrize("host", HOSTS)
    def test_the_page_has_their_fields_and_ours(self, host: Any, settings: Any, user: Any) -> None:
        site = self.serve(settings, host)
        sessions.open(user)
        client = admin_client()

        links = shown(client, user)
        page = client.get(user_url(user))

        assert {model: text for model, (text, _url) in links.items()} == {
            "refreshsession": "1",
            "totpfactor": "No",
            "oauthidentity": "0",
            "authevent": "1",
        }
        fields = flatten_fieldsets(page.context["adminform"].fieldsets)
        assert len(fields) == len(set(fields))
        own = host(get_user_model(), site)
        request = page.wsgi_request
        assert set(flatten_fieldsets(own.get_fieldsets(request, user))) <= set(fields)
        assert set(own.get_readonly_fields(request, user)) <= set(page.context["adminform"].readonly_fields)

    @pytest.mark.parametrize("host", [WithFields, WithFieldsets, WithAForm, WithLinks])
    def test_their_form_saves(self, host: Any, settings: Any, user: Any) -> None:
        self.serve(settings, host)
        data = {"email": "changed@example.com", "is_active": "on"}

        assert admin_client().post(user_url(user), data).status_code == 302

        user.refresh_from_db()
        assert user.email == "changed@example.com"

    @pytest.mark.parametrize("host", HOSTS)
    def test_without_permission_nothing_is_added(self, host: Any, settings: Any, user: Any) -> None:
        self.serve(settings, host)

        assert shown(admin_client(f"view_{NAME}"), user) == {}

    def test_a_class_keeps_its_name_and_is_extended_once(self, settings: Any) -> None:
        site = self.serve(settings, WithFields)
        extended = type(site.get_model_admin(get_user_model()))
        users.show_on_user_pages()

        assert type(site.get_model_admin(get_user_model())) is extended
        assert extended.__mro__[1:3] == (AccountLinks, WithFields)
        assert (extended.__module__, extended.__name__) == (WithFields.__module__, "WithFields")

    def test_without_the_lists_there_are_only_counts(self, settings: Any, user: Any) -> None:
        """A site of the host's that has only users."""
        self.serve(settings, Plain, lists=False)
        sessions.open(user)
        client = admin_client()

        page = client.get(user_url(user)).content.decode()

        assert shown(client, user) == {}
        assert re.search(
            r'class="form-row field-platform_auth_live_sessions">.*?<div class="readonly">1<', page, re.S
        )


class TestChangesByAdmins:
    """security.md, row 121: what an admin does to users and groups leaves an event that says who did what."""

    def test_changing_a_user_is_recorded(self, user: Any) -> None:
        client = admin_client()

        save_user_page(client, user)

        event = AuthEvent.objects.get(kind=AuthEvent.Kind.ADMIN_CHANGED)
        assert event.user == client.user
        assert event.reason.startswith(f"user {user.pk}: ")
        assert event.ip_address == "127.0.0.1"
        assert event.user_agent == "an admin's browser"

    def test_deleting_a_user_is_recorded(self, user: Any) -> None:
        client = admin_client()
        options = type(user)._meta

        url = reverse(f"admin:{options.app_label}_{options.model_name}_delete", args=[user.pk])
        client.post(url, {"post": "yes"}, headers={"Accept-Language": "ar"})

        event = AuthEvent.objects.get(kind=AuthEvent.Kind.ADMIN_CHANGED)
        assert (event.user, event.reason) == (client.user, f"user {user.pk}: Deletion")
        event = AuthEvent.objects.get(kind=AuthEvent.Kind.USER_DELETED)
        assert (event.reason, event.ip_address) == (f"user {user.pk}", "127.0.0.1")

    def test_deleting_many_users_is_recorded(self) -> None:
        """Django admin logs them in bulk, which sends no signal."""
        client = admin_client()
        users = [make_user() for _number in range(2)]
        options = type(users[0])._meta

        url = reverse(f"admin:{options.app_label}_{options.model_name}_changelist")
        keys = [str(user.pk) for user in users]
        client.post(url, {"action": "delete_selected", "_selected_action": keys, "post": "yes"})

        gone = AuthEvent.objects.filter(kind=AuthEvent.Kind.USER_DELETED, ip_address="127.0.0.1")
        assert set(gone.values_list("reason", flat=True)) == {f"user {key}" for key in keys}

    @pytest.mark.parametrize("model", ["auth_group", "hostapp_team"], ids=["a group", "a proxy"])
    def test_changing_a_group_is_recorded(self, model: str) -> None:
        client = admin_client()

        client.post(reverse(f"admin:{model}_add"), {"name": "Editors"})

        event = AuthEvent.objects.get(kind=AuthEvent.Kind.ADMIN_CHANGED)
        assert event.user == client.user
        assert event.reason.startswith(f"{model.partition('_')[2]} ")

    def test_changing_the_public_role_takes_effect_at_once(self) -> None:
        """security.md, row 127: the event says what changed."""
        client = admin_client()
        assert Client().get("/api/notes").status_code == 401
        data = {"name": "Public", "permissions": [Permission.objects.get(codename="view_note").pk]}

        client.post(reverse("admin:auth_group_add"), data)

        assert Client().get("/api/notes").status_code == 200
        reasons = list(AuthEvent.objects.order_by("pk").values_list("reason", flat=True))
        assert reasons[:2] == ["public role: group saved", "public role: added view_note"]
