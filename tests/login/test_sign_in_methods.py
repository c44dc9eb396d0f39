"""security.md, row 4: every sign-in method is known, and enforces the same account state and second-factor policy."""

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

SIGN_IN_VIEWS = {"LoginView", "RefreshView", "OAuthCallbackView", "OAuthOTPView"}
"""The views that issue tokens. A new one needs tests that it refuses inactive users and asks for the second factor."""


class Function(NamedTuple):
    """A function of the package, as callers write it: `sessions.open`."""

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
    """Return the functions that return tokens."""
    return {
        Function(path.removesuffix(".py").removesuffix("/__init__").rpartition("/")[2], node.name)
        for path, tree in trees().items()
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef)
        and node.returns is not None
        and {name.id for name in ast.walk(node.returns) if isinstance(name, ast.Name)} & {"Grant", "Outcome"}
    }


class TestListOfSignInMethods:
    def test_every_view_that_declares_tokens_is_listed(self) -> None:
        giving = {
            endpoint.view.__name__
            for endpoint in ENDPOINTS
            if not endpoint.is_page
            and any(isinstance(operation.gives, Tokens) for operation in endpoint.view.operations.values())
        }

        assert giving == SIGN_IN_VIEWS

    def test_every_view_that_returns_tokens_is_listed(self) -> None:
        functions = granting()
        getting = {
            node.name
            for path, tree in trees().items()
            if path.startswith("views/")
            for node in tree.body
            if called(node) & functions
        }

        assert Function("sessions", "open") in functions
        assert getting == SIGN_IN_VIEWS

    def test_only_sessions_creates_tokens_and_one_function_opens_sessions(self) -> None:
        def modules(function: Function) -> set[str]:
            return {path for path, tree in trees().items() if function in called(tree)}

        assert modules(Function("tokens", "issue_access_token")) == {"sessions/__init__.py"}
        assert modules(Function("tokens", "new_refresh_token")) == {"sessions/__init__.py"}
        # Only hosts call `open`.
        assert not modules(Function("sessions", "open"))
        assert modules(Function("sessions", "open_on")) == {"login/__init__.py"}
        assert modules(Function("login", "log_in")) == {"providers/flow.py"}
        assert modules(Function("login", "with_password")) == {"views/login.py"}

    def test_no_other_endpoint_returns_a_token(self, signed_in: Api) -> None:
        """security.md, row 60, black box: for every request, signed in or not."""
        for endpoint in ENDPOINTS:
            if endpoint.view.__name__ in SIGN_IN_VIEWS:
                continue
            for method in endpoint.methods - {"DELETE"}:
                response = signed_in.request(method.lower(), endpoint.path)
                for key in (b"access_token", b"refresh_token"):
                    assert key + b'":"' not in response.content, endpoint.name
                assert not {"__Host-refresh_token", "__Host-access_token"} & set(response.cookies), (
                    endpoint.name
                )


@pytest.mark.django_db
class TestEverySignInMethod:
    """By password and by refresh; provider logins have their own tests."""

    def test_refuses_inactive_users(self, user: Any) -> None:
        api = Api()
        api.login(user.email)
        type(user).objects.update(is_active=False)

        assert api.post("/auth/login", {"email": user.email, "password": PASSWORD}).status_code == 401
        assert code_of(api.refresh()) == "USER_SUSPENDED"
        assert not RefreshSession.objects.exists()

    def test_restricts_sessions_if_a_second_factor_is_missing(self, user: Any, configure: Any) -> None:
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
