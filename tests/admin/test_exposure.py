"""The page of Django admin that lists what the public role exposes."""

from __future__ import annotations

import pytest
from django.contrib.auth.models import Group, Permission
from django.test import Client
from django.urls import reverse

from tests.admin.staff import admin_client

pytestmark = pytest.mark.django_db


class TestExposurePage:
    """What the public role exposes, as a page."""

    def test_it_lists_routes(self) -> None:
        group = Group.objects.create(name="Public")
        group.permissions.set(Permission.objects.filter(codename__in=["view_note", "change_group"]))

        page = admin_client().get(reverse("admin:platform_auth_exposure")).content.decode()

        assert "/api/notes" in page
        assert "hostapp.Note" in page
        assert "auth.change_group" in page

    def test_it_needs_the_permission_to_view_groups(self) -> None:
        url = reverse("admin:platform_auth_exposure")

        assert admin_client("view_note").get(url).status_code == 403
        assert admin_client("view_group").get(url).status_code == 200
        assert Client().get(url).status_code == 302

    def test_the_index_of_the_app_links_to_it(self) -> None:
        page = admin_client().get(reverse("admin:app_list", args=["platform_auth"])).content.decode()

        assert reverse("admin:platform_auth_exposure") in page
