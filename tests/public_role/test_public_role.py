"""Private by default, and the public role."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from asgiref.sync import async_to_sync
from django.contrib.auth.context_processors import PermWrapper
from django.contrib.auth.decorators import permission_required
from django.contrib.auth.models import AnonymousUser, Group, Permission
from django.db import connection, transaction
from django.http import HttpRequest, HttpResponse
from django.template import Context, Template
from django.test.utils import CaptureQueriesContext
from django.urls import path
from rest_framework import permissions, viewsets
from rest_framework.decorators import api_view
from rest_framework.metadata import SimpleMetadata
from rest_framework.response import Response
from rest_framework.views import APIView

from platform_auth import public_role, sessions
from platform_auth.authentication import StatelessAccessTokenAuthentication
from platform_auth.models import AuthEvent
from platform_auth.permissions import PrivateByDefault
from tests.conftest import Api, code_of, make_user
from tests.hostapp.models import Note, Team
from tests.hostapp.views import NoteSerializer, Plain

METHODS = {
    "get": "view",
    "head": "view",
    "post": "add",
    "put": "change",
    "patch": "change",
    "delete": "delete",
}
ALL = frozenset({"view", "add", "change", "delete"})


class NoteViewSet(Plain, viewsets.ModelViewSet[Note]):
    """Every method of one note, on one URL."""

    metadata_class = SimpleMetadata
    queryset = Note.objects.all()
    serializer_class = NoteSerializer

    def create(self, request: Any, *args: Any, **kwargs: Any) -> Response:
        return super().create(request)


class ComposedViewSet(NoteViewSet):
    permission_classes = [PrivateByDefault, permissions.DjangoModelPermissions]


class ComposedAnonymousViewSet(NoteViewSet):
    permission_classes = [PrivateByDefault & permissions.DjangoModelPermissionsOrAnonReadOnly]


class OwnerOnly(permissions.BasePermission):
    def has_object_permission(self, request: Any, view: Any, obj: Note) -> bool:
        return obj.owner_id == request.user.pk


class ObjectViewSet(NoteViewSet):
    permission_classes = [PrivateByDefault, OwnerOnly]


class EitherViewSet(NoteViewSet):
    """Readable for everyone, the rest as the public role says."""

    class ReadOnly(permissions.BasePermission):
        def has_permission(self, request: Any, view: Any) -> bool:
            return request.method in permissions.SAFE_METHODS

    permission_classes = [ReadOnly | PrivateByDefault]


class OwnNotesViewSet(NoteViewSet):
    def get_queryset(self) -> Any:
        return self.request.user.notes.all()


class OpenView(Plain, APIView):
    permission_classes = [permissions.AllowAny]

    def get(self, request: Any) -> Response:
        return Response("open")


class ModelView(Plain, APIView):
    model = Note

    def get(self, request: Any) -> Response:
        return Response("model")


class BareView(Plain, APIView):
    def get(self, request: Any) -> Response:
        return Response("bare")

    options = post = put = patch = delete = get


class StatelessNoteViewSet(NoteViewSet):
    authentication_classes = [StatelessAccessTokenAuthentication]


class UnauthenticatedView(Plain, APIView):
    queryset = Note.objects.all()
    permission_classes = [PrivateByDefault]

    def get(self, request: Any) -> Response:
        return Response(type(request.user).__name__)


@api_view()
def function_view(request: Any) -> Response:
    return Response("function")


@permission_required("hostapp.view_note", raise_exception=True)
def django_view(request: HttpRequest) -> HttpResponse:
    return HttpResponse("django")


ROUTES = {"get": "retrieve", "head": "retrieve", "post": "create", "put": "update", "patch": "partial_update"}


def _routes(name: str, view: Any) -> Any:
    actions = {**ROUTES, "delete": "destroy"}
    return path(f"{name}/<int:pk>", view.as_view(actions))


urlpatterns = [
    _routes("notes", NoteViewSet),
    _routes("composed", ComposedViewSet),
    _routes("composed-anonymous", ComposedAnonymousViewSet),
    _routes("object", ObjectViewSet),
    _routes("either", EitherViewSet),
    _routes("own", OwnNotesViewSet),
    _routes("stateless", StatelessNoteViewSet),
    path("open", OpenView.as_view()),
    path("model", ModelView.as_view()),
    path("bare", BareView.as_view()),
    path("unauthenticated", UnauthenticatedView.as_view()),
    path("function", function_view),
    path("django", django_view),
]

pytestmark = [pytest.mark.django_db, pytest.mark.urls(__name__)]


def give(*actions: str, name: str = "Public") -> Group:
    """Create the public role with these permissions on notes."""
    group, _created = Group.objects.get_or_create(name=name)
    group.permissions.set(Permission.objects.filter(codename__in=[f"{action}_note" for action in actions]))
    return group


@contextmanager
def statements(count: int) -> Iterator[None]:
    """Expect this many statements, not counting BEGIN, COMMIT and savepoints."""
    with CaptureQueriesContext(connection) as captured:
        yield
    asked = [query["sql"] for query in captured if query["sql"].startswith(("SELECT", "INSERT", "UPDATE"))]
    assert len(asked) == count, asked


def sign_in(user: Any) -> Api:
    api = Api()
    api.access_token = sessions.open(user).access_token
    return api


def send(api: Api, method: str, url: str) -> Any:
    body = {"text": "text"} if method in ("post", "put", "patch") else None
    return api.request(method, url, body)


@pytest.fixture(autouse=True)
def _usual_anonymous_user(settings: Any) -> None:
    """In every variant, because DRF's own permissions expect a user object, and OPTIONS metadata."""
    left_out = ("UNAUTHENTICATED_USER", "DEFAULT_METADATA_CLASS")
    settings.REST_FRAMEWORK = {k: v for k, v in settings.REST_FRAMEWORK.items() if k not in left_out}


@pytest.fixture
def note(user: Any) -> Note:
    return Note.objects.create(owner=user, text="text")


@pytest.fixture
def caller(request: pytest.FixtureRequest, user: Any) -> tuple[str, Api]:
    kind = request.param
    if kind == "anonymous":
        return kind, Api()
    if kind == "user":
        return kind, sign_in(user)
    if kind == "admin":
        return kind, sign_in(make_user(is_staff=True, is_superuser=True))
    return kind, sign_in(make_user())


CALLERS = pytest.mark.parametrize("caller", ["anonymous", "user", "other", "admin"], indirect=True)
ROLES = pytest.mark.parametrize(
    "role",
    [None, frozenset(), frozenset({"view"}), ALL],
    ids=["absent", "empty", "view only", "all"],
)
EVERY_METHOD = pytest.mark.parametrize("method", [*METHODS, "options"])


@CALLERS
@ROLES
@EVERY_METHOD
class TestEveryCombination:
    """security.md, row 126: every combination of caller, role and method."""

    def test_a_view_is_closed_unless_the_public_role_opens_it(
        self, caller: tuple[str, Api], role: frozenset[str] | None, method: str, note: Note
    ) -> None:
        kind, api = caller
        if role is not None:
            give(*role)

        response = send(api, method, f"/notes/{note.pk}")

        if kind != "anonymous" or METHODS.get(method) in (role or ()):
            assert response.status_code in (200, 201, 204)
        else:
            assert response.status_code == 401
            assert response["WWW-Authenticate"] == "Bearer"
            assert Note.objects.get().text == "text"
            if method != "head":
                assert code_of(response) == "INVALID_CREDENTIALS"

    @pytest.mark.parametrize("route", ["composed", "composed-anonymous"])
    def test_django_model_permissions_count_the_public_role(
        self, caller: tuple[str, Api], role: frozenset[str] | None, method: str, note: Note, route: str
    ) -> None:
        """As with Django's permissions: reading needs none there, and the default class refuses anonymous users."""
        kind, api = caller
        if role is not None:
            give(*role)
        is_public = METHODS.get(method) in (role or ())
        needs_none = METHODS.get(method, "view") == "view"
        if kind == "anonymous":
            allowed = is_public and route == "composed-anonymous"
        else:
            allowed = kind == "admin" or needs_none or is_public

        response = send(api, method, f"/{route}/{note.pk}")

        refused = 401 if kind == "anonymous" else 403
        assert response.status_code in (200, 201, 204) if allowed else response.status_code == refused


class TestPrivateByDefault:
    """security.md, row 126: private by default."""

    @EVERY_METHOD
    def test_a_view_without_a_model_is_closed_regardless_of_the_public_role(self, method: str) -> None:
        give(*ALL)

        assert send(Api(), method, "/bare").status_code == 401
        assert Api().get("/function").status_code == 401

    def test_a_view_without_a_model_is_open_to_a_signed_in_user(self, user: Any) -> None:
        assert sign_in(user).get("/bare").status_code == 200
        assert sign_in(user).get("/function").status_code == 200

    def test_a_view_with_allow_any_is_open_without_a_query(self) -> None:
        with statements(0):
            assert Api().get("/open").status_code == 200

    def test_a_view_can_name_its_model(self) -> None:
        assert Api().get("/model").status_code == 401
        give("view")

        assert Api().get("/model").status_code == 200

    def test_object_permissions_of_the_host_keep_working(self, user: Any, note: Note) -> None:
        give("view")

        assert sign_in(user).get(f"/object/{note.pk}").status_code == 200
        assert sign_in(make_user()).get(f"/object/{note.pk}").status_code == 403
        assert Api().get(f"/object/{note.pk}").status_code == 401

    def test_it_combines_with_other_permissions(self, note: Note) -> None:
        assert Api().get(f"/either/{note.pk}").status_code == 200
        assert send(Api(), "put", f"/either/{note.pk}").status_code == 401
        give("change")

        assert send(Api(), "put", f"/either/{note.pk}").status_code == 200

    def test_a_queryset_that_needs_a_user_leaves_the_view_closed(self, user: Any, note: Note) -> None:
        give(*ALL)

        assert Api().get(f"/own/{note.pk}").status_code == 401
        assert sign_in(user).get(f"/own/{note.pk}").status_code == 200

    @pytest.mark.parametrize("header", ["Bearer nonsense", "Bearer ", "bearer a.b.c"])
    def test_a_bad_token_never_degrades_to_the_public_role(self, note: Note, header: str) -> None:
        give(*ALL)

        for url in (f"/notes/{note.pk}", f"/stateless/{note.pk}", "/open"):
            response = Api().get(url, headers={"Authorization": header})
            assert response.status_code == 401
            assert code_of(response) == "INVALID_TOKEN"

    def test_the_token_of_a_revoked_session_never_degrades_either(self, user: Any, note: Note) -> None:
        give(*ALL)
        api = sign_in(user)
        sessions.revoke_all(user)

        assert api.get(f"/notes/{note.pk}").status_code == 401

    def test_a_request_without_any_user_object_is_anonymous(self, settings: Any) -> None:
        """UNAUTHENTICATED_USER may be None: no user means anonymous, not admin."""
        settings.REST_FRAMEWORK = {**settings.REST_FRAMEWORK, "UNAUTHENTICATED_USER": None}

        assert Api().get("/unauthenticated").status_code == 401
        give("view")
        response = Api().get("/unauthenticated")

        assert response.status_code == 200
        assert response.json() == "NoneType"


class TestPublicRole:
    """security.md, rows 126 and 127: the group that everyone belongs to."""

    def test_a_failing_lookup_gives_no_access(self, note: Note, monkeypatch: pytest.MonkeyPatch) -> None:
        """security.md, row 126: the query itself fails, because it asks for something that doesn't exist."""
        give(*ALL)
        monkeypatch.setattr(Permission._meta.get_field("codename"), "column", "gone")
        Permission._meta.get_field("codename").__dict__.pop("cached_col", None)
        with transaction.atomic():
            found = public_role.permissions()
            transaction.set_rollback(True)
        monkeypatch.undo()
        Permission._meta.get_field("codename").__dict__.pop("cached_col", None)

        assert found == frozenset()
        assert public_role.permissions() != frozenset()

    def test_its_name_can_be_set(self, note: Note, configure: Any) -> None:
        give("view", name="Everybody")
        assert Api().get(f"/notes/{note.pk}").status_code == 401

        configure(PUBLIC_ROLE="Everybody")

        assert Api().get(f"/notes/{note.pk}").status_code == 200

    @pytest.mark.parametrize("name", [None, "", 0])
    def test_without_a_name_there_is_no_public_role(self, note: Note, configure: Any, name: Any) -> None:
        """security.md, row 126: a lookup for None would find every permission that is in no group."""
        give("view", name="Editors")
        configure(PUBLIC_ROLE=name)

        assert public_role.permissions() == frozenset()
        assert Api().get(f"/notes/{note.pk}").status_code == 401

    def test_a_group_with_a_similar_name_gives_no_access(self, note: Note) -> None:
        """Some databases find "public" when asked for "Public"."""
        give(*ALL, name="public")

        assert Api().get(f"/notes/{note.pk}").status_code == 401

    def test_other_groups_give_no_access(self, note: Note) -> None:
        give(*ALL, name="Editors")

        assert Api().get(f"/notes/{note.pk}").status_code == 401

    def test_permissions_over_users_and_permissions_have_no_effect(self, user: Any) -> None:
        """security.md, row 127: the public role can't manage who may do what."""
        group = Group.objects.create(name="Public")
        group.permissions.set(Permission.objects.all())
        model = type(user)._meta.model_name
        app = type(user)._meta.app_label

        held = public_role.permissions()

        assert "hostapp.add_note" in held
        assert f"{app}.view_{model}" in held
        for right in ("change_group", "add_permission", "view_group", "delete_group"):
            assert f"auth.{right}" not in held
        for right in ("add", "change", "delete"):
            assert f"{app}.{right}_{model}" not in held
        apps = {name.partition(".")[0] for name in held}
        assert not apps & {"platform_auth", "sessions", "admin"}
        assert "auth.change_group" in public_role.reserved()
        assert not AnonymousUser().has_perm("auth.change_group")

    def test_permissions_over_a_proxy_of_the_user_model_have_no_effect(self) -> None:
        """A proxy model of the host's counts as the user model."""
        give("view").permissions.add(
            *Permission.objects.filter(codename__in=("view_person", "change_person"))
        )

        assert public_role.permissions() == {"hostapp.view_note", "hostapp.view_person"}
        assert public_role.reserved() == ["hostapp.change_person"]

    @pytest.mark.parametrize("model", [Group, Team], ids=["a group", "a proxy"])
    def test_a_change_leaves_an_event(self, model: type[Group]) -> None:
        """security.md, row 127: changes are recorded, no matter who makes them."""
        group = model.objects.create(name="Public")
        group.permissions.add(Permission.objects.get(codename="view_note"))
        group.permissions.remove(Permission.objects.get(codename="view_note"))
        Permission.objects.get(codename="add_note").group_set.add(group)
        group.permissions.clear()
        group.name = "Other"
        group.save()
        group.name = "Public"
        group.save()
        group.delete()

        events = AuthEvent.objects.filter(kind=AuthEvent.Kind.ADMIN_CHANGED).order_by("pk")
        assert list(events.values_list("reason", flat=True)) == [
            "public role: group saved",
            "public role: added view_note",
            "public role: removed view_note",
            "public role: added add_note",
            "public role: cleared",
            "public role: group renamed",
            "public role: group saved",
            "public role: group deleted",
        ]

    def test_other_groups_leave_no_event(self) -> None:
        give(*ALL, name="Editors").delete()

        assert not AuthEvent.objects.exists()


class TestPublicRoleBackend:
    """Function views, templates and `has_perm` agree with `PrivateByDefault`."""

    def test_an_anonymous_user_has_the_roles_permissions(self) -> None:
        assert not AnonymousUser().has_perm("hostapp.view_note")
        assert not AnonymousUser().has_module_perms("hostapp")
        give("view")

        assert AnonymousUser().has_perm("hostapp.view_note")
        assert not AnonymousUser().has_perm("hostapp.add_note")
        assert AnonymousUser().has_module_perms("hostapp")
        assert not AnonymousUser().has_module_perms("auth")
        assert AnonymousUser().get_all_permissions() == {"hostapp.view_note"}

    def test_a_user_has_the_roles_permissions_in_addition_to_their_own(self, user: Any) -> None:
        give("view")
        user.user_permissions.add(Permission.objects.get(codename="add_note"))

        assert user.get_all_permissions() == {"hostapp.view_note", "hostapp.add_note"}
        assert user.has_perms(["hostapp.view_note", "hostapp.add_note"])

    def test_a_deactivated_user_has_none(self, user: Any) -> None:
        give("view")
        user.is_active = False

        assert not user.has_perm("hostapp.view_note")
        assert not user.has_module_perms("hostapp")

    def test_there_are_no_object_permissions(self, note: Note) -> None:
        give("view")

        assert not AnonymousUser().has_perm("hostapp.view_note", note)

    def test_django_views_and_templates_agree(self, client: Any, rf: Any) -> None:
        assert client.get("/django").status_code == 403
        give("view")

        assert client.get("/django").status_code == 200
        template = Template("{{ perms.hostapp.view_note }} {{ perms.hostapp.add_note }}")
        assert template.render(Context({"perms": PermWrapper(AnonymousUser())})) == "True False"

    @pytest.mark.django_db(transaction=True)
    def test_the_asynchronous_methods_agree(self) -> None:
        give("view")

        assert async_to_sync(AnonymousUser().ahas_perm)("hostapp.view_note")
        assert async_to_sync(AnonymousUser().ahas_module_perms)("hostapp")
        assert not async_to_sync(AnonymousUser().ahas_perm)("hostapp.add_note")


class TestStatements:
    """One statement per anonymous request."""

    @pytest.mark.parametrize("route", ["notes", "composed-anonymous"])
    def test_a_refused_request_runs_one_statement(self, route: str) -> None:
        with statements(1):
            assert Api().get(f"/{route}/1").status_code == 401

    def test_several_checks_in_one_request_run_one_statement(self) -> None:
        give(*ALL)
        with statements(2):
            assert send(Api(), "put", "/composed-anonymous/1").status_code == 404


class TestChanges:
    @pytest.mark.parametrize(
        "change",
        [
            lambda group: group.permissions.remove(Permission.objects.get(codename="view_note")),
            lambda group: group.permissions.clear(),
            lambda group: group.permissions.set([]),
            lambda group: Permission.objects.get(codename="view_note").group_set.clear(),
            lambda group: group.delete(),
            lambda group: (setattr(group, "name", "Other"), group.save()),
            lambda group: Group.objects.filter(name="Public").delete(),
            lambda group: Group.objects.filter(name="Public").update(name="Other"),
        ],
        ids=[
            "remove",
            "clear",
            "set",
            "reverse clear",
            "delete",
            "rename",
            "queryset delete",
            "queryset update",
        ],
    )
    def test_a_change_takes_effect_at_once(self, note: Note, change: Any) -> None:
        group = give("view")
        assert Api().get(f"/notes/{note.pk}").status_code == 200
        assert Api().get(f"/notes/{note.pk}").status_code == 200

        change(group)

        assert Api().get(f"/notes/{note.pk}").status_code == 401
