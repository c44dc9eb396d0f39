"""What the public role exposes now."""

from __future__ import annotations

import json
from io import StringIO
from typing import Any

import pytest
from django.contrib.auth.models import Group, Permission
from django.core.management import call_command
from django.urls import include, path
from rest_framework import permissions, routers, viewsets
from rest_framework.decorators import api_view, permission_classes, throttle_classes
from rest_framework.response import Response
from rest_framework.views import APIView

from platform_auth.permissions import PrivateByDefault
from platform_auth.public_role import exposure
from tests.hostapp.models import Note
from tests.hostapp.views import NoteDetailView, NoteListView, NoteSerializer, Plain, WhoAmIView


class NoteViewSet(Plain, viewsets.ModelViewSet[Note]):
    queryset = Note.objects.all()
    serializer_class = NoteSerializer


class NestedViewSet(NoteViewSet):
    def get_queryset(self) -> Any:
        return Note.objects.filter(text=self.kwargs["owner"])


class OwnViewSet(NoteViewSet):
    def get_queryset(self) -> Any:
        return self.request.user.notes.all()


class ReadableViewSet(NoteViewSet):
    permission_classes = [PrivateByDefault | permissions.IsAuthenticatedOrReadOnly]


class OpenView(Plain, APIView):
    permission_classes = [permissions.AllowAny]

    def get(self, request: Any) -> Response:
        return Response()


class FormatView(OpenView):
    def get(self, request: Any, format: str) -> Response:
        return Response()


class UncheckedView(Plain, APIView):
    """Opened by overriding DRF's hooks, regardless of its permission classes."""

    permission_classes = [PrivateByDefault]

    def check_permissions(self, request: Any) -> None:
        pass

    def get(self, request: Any) -> Response:
        return Response()


class UninitialView(Plain, APIView):
    permission_classes = [PrivateByDefault]

    def initial(self, request: Any, *args: Any, **kwargs: Any) -> None:
        pass

    def get(self, request: Any) -> Response:
        return Response()


class BrokenView(Plain, APIView):
    class Broken(permissions.BasePermission):
        def has_permission(self, request: Any, view: Any) -> bool:
            raise RuntimeError

    permission_classes = [Broken]

    def get(self, request: Any) -> Response:
        return Response()


@api_view(["POST"])
@throttle_classes([])
@permission_classes([permissions.AllowAny])
def open_function(request: Any) -> Response:
    return Response()


def plain_view(request: Any) -> None:
    raise AssertionError


router = routers.DefaultRouter()
router.register("routed", NoteViewSet)

urlpatterns = [
    path("auth/", include("platform_auth.urls")),
    path("api/", include(router.urls)),
    path("notes", NoteListView.as_view()),
    path("notes/<int:pk>", NoteDetailView.as_view()),
    path("whoami", WhoAmIView.as_view()),
    path("owners/<uuid:owner>/notes", NestedViewSet.as_view({"get": "list"})),
    path("own", OwnViewSet.as_view({"get": "list"})),
    path("readable", ReadableViewSet.as_view({"get": "list", "post": "create"})),
    path("open", OpenView.as_view()),
    path("export/<str:format>", FormatView.as_view()),
    path("unchecked", UncheckedView.as_view()),
    path("uninitial", UninitialView.as_view()),
    path("broken", BrokenView.as_view()),
    path("function", open_function),
    path("plain", plain_view),
]

pytestmark = [pytest.mark.django_db, pytest.mark.urls(__name__)]


def give(*actions: str) -> None:
    group, _created = Group.objects.get_or_create(name="Public")
    group.permissions.set(Permission.objects.filter(codename__in=[f"{action}_note" for action in actions]))


def by_url() -> dict[str, exposure.Route]:
    return {route.url: route for route in exposure.routes()}


class TestExposure:
    def test_nothing_is_exposed_by_default(self) -> None:
        found = {route.url: (route.by_role, route.open_to_all) for route in exposure.exposed()}

        assert found == {
            "/readable": ((), ("GET", "HEAD")),
            "/open": ((), ("GET", "HEAD")),
            "/function": ((), ("POST",)),
            "/export/<str:format>": ((), ("GET", "HEAD")),
            "/unchecked": ((), ("GET", "HEAD")),
            "/uninitial": ((), ("GET", "HEAD")),
            "/own": ((), ()),
            "/broken": ((), ()),
        }

    def test_it_lists_what_the_public_role_opens(self) -> None:
        give("view", "add")

        found = by_url()

        assert found["/notes"].by_role == ("GET", "HEAD", "POST")
        assert found["/notes"].model == "hostapp.Note"
        assert found["/notes/<int:pk>"].by_role == ("GET", "HEAD")
        assert found["/api/routed/"].by_role == ("GET", "HEAD", "POST")
        assert found["/api/routed/<pk>/"].by_role == ("GET", "HEAD")
        assert found["/owners/<uuid:owner>/notes"].by_role == ("GET", "HEAD")
        assert found["/whoami"].is_exposed is False

    def test_routes_open_by_other_means_are_listed_separately(self) -> None:
        give("view", "add")

        found = by_url()

        assert found["/readable"].open_to_all == ("GET", "HEAD")
        assert found["/readable"].by_role == ("POST",)
        assert found["/open"].open_to_all == ("GET", "HEAD")

    def test_a_view_that_cannot_be_asked_is_listed(self) -> None:
        found = by_url()

        assert found["/own"].uncertain
        assert found["/broken"].uncertain
        assert not found["/owners/<uuid:owner>/notes"].uncertain

    def test_our_own_endpoints_and_plain_views_are_not_listed(self) -> None:
        assert not [url for url in by_url() if url.startswith("/auth") or url == "/plain"]

    def test_the_list_agrees_with_real_requests(self, client: Any) -> None:
        """The list is compared with real requests for every route without arguments."""
        give("view", "change")
        for route in exposure.routes():
            if "<" in route.url or route.uncertain:
                continue
            for method in exposure.METHODS:
                status = getattr(client, method.lower())(route.url).status_code
                listed = method in route.by_role + route.open_to_all
                assert listed == (status not in (401, 403, 405)), (route.url, method, status)

    def test_the_command_prints_it(self) -> None:
        give("view")
        out = StringIO()

        call_command("platform_auth_doctor", "--exposure", stdout=out)

        assert "/notes/<int:pk>" in out.getvalue()
        assert "hostapp.Note" in out.getvalue()

    def test_the_command_prints_it_as_json(self) -> None:
        give("view")
        out = StringIO()

        call_command("platform_auth_doctor", "--exposure", "--json", stdout=out)

        listed = {route["url"]: route for route in json.loads(out.getvalue())["exposure"]}
        assert listed["/notes"]["by_role"] == ["GET", "HEAD"]
        assert listed["/notes"]["model"] == "hostapp.Note"
