"""security.md, row 4: every way in is known, and enforces the same account state and the same policy of a second
factor.
"""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import platform_auth
from platform_auth.models import RefreshSession
from platform_auth.views.login import Tokens
from tests.conftest import PASSWORD, Api, code_of
from tests.endpoints import ENDPOINTS

PACKAGE = Path(platform_auth.__file__).parent

WAYS_IN = {"LoginView", "RefreshView", "OAuthCallbackView", "OAuthOTPView"}
"""The views that issue tokens. Whoever adds one adds tests that it refuses the inactive and asks for the factor."""


class Function(NamedTuple):
    """A function of the package, as its callers write it: `sessions.open`."""

    module: str
    name: str


def trees() -> dict[str, ast.Module]:
    """Return the syntax trees of the package, by path."""
    return {str(path.relative_to(PACKAGE)): ast.parse(path.read_text()) for path in PACKAGE.rglob("*.py")}


def called(tree: ast.AST) -> set[Function]:
    return {
        Function(node.func.value.id, node.func.attr)
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and isinstance(node.func.value, ast.Name)
    }


def granting() -> set[Function]:
    """Return the functions whose value holds tokens."""
    return {
        Function(path.removesuffix(".py").removesuffix("/__init__").rpartition("/")[2], node.name)
        for path, tree in trees().items()
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef)
        and node.returns is not None
        and {name.id for name in ast.walk(node.returns) if isinstance(name, ast.Name)} & {"Grant", "Outcome"}
    }


class TestTheListOfWaysIn:
    def test_the_views_that_say_they_give_tokens_are_the_ways_in(self) -> None:
        giving = {
            endpoint.view.__name__
            for endpoint in ENDPOINTS
            if not endpoint.is_page
            and any(isinstance(operation.gives, Tokens) for operation in endpoint.view.operations.values())
        }

        assert giving == WAYS_IN

    def test_the_views_that_get_tokens_are_the_ways_in(self) -> None:
        functions = granting()
        getting = {
            node.name
            for path, tree in trees().items()
            if path.startswith("views/")
            for node in tree.body
            if called(node) & functions
        }

        assert Function("sessions", "open") in functions
        assert getting == WAYS_IN

    def test_tokens_are_made_in_sessions_alone_and_sessions_opened_by_one_way_in(self) -> None:
        def modules(function: Function) -> set[str]:
            return {path for path, tree in trees().items() if function in called(tree)}

        assert modules(Function("tokens", "issue_access_token")) == {"sessions/__init__.py"}
        assert modules(Function("tokens", "new_refresh_token")) == {"sessions/__init__.py"}
        # `open` is the host's way in alone.
        assert not modules(Function("sessions", "open"))
        assert modules(Function("sessions", "open_on")) == {"login/__init__.py"}
        assert modules(Function("login", "log_in")) == {"providers/flow.py"}
        assert modules(Function("login", "with_password")) == {"views/login.py"}

    def test_no_other_endpoint_answers_with_a_token(self, signed_in: Api) -> None:
        """security.md, row 60, black box: whatever is asked of them, signed in and not."""
        for endpoint in ENDPOINTS:
            if endpoint.view.__name__ in WAYS_IN:
                continue
            for method in endpoint.methods - {"DELETE"}:
                response = signed_in.request(method.lower(), endpoint.path)
                for key in (b"access_token", b"refresh_token"):
                    assert key + b'":"' not in response.content, endpoint.name
                assert not {"__Host-refresh_token", "__Host-access_token"} & set(response.cookies), (
                    endpoint.name
                )


@pytest.mark.django_db
class TestEveryWayInEnforcesTheSame:
    """By password and by refresh; a provider's is in its own tests."""

    def test_the_inactive_get_in_by_none(self, user: Any) -> None:
        api = Api()
        api.login(user.email)
        type(user).objects.update(is_active=False)

        assert api.post("/auth/login", {"email": user.email, "password": PASSWORD}).status_code == 401
        assert code_of(api.refresh()) == "USER_SUSPENDED"
        assert not RefreshSession.objects.exists()

    def test_a_policy_that_asks_for_a_factor_closes_sessions_of_each(self, user: Any, configure: Any) -> None:
        early, late = Api(), Api()
        early.login(user.email)
        type(user).objects.update(is_staff=True)
        configure(TFA_REQUIRED_FOR_STAFF=True)
        late.login(user.email)
        early.refreshed()

        for api in (early, late):
            response = api.get("/api/whoami")
            assert (response.status_code, code_of(response)) == (403, "TFA_REQUIRED")
            assert api.get("/auth/sessions").status_code == 403
            assert api.get("/auth/tfa").status_code == 200
