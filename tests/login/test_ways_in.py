"""Row 4: every way in is known, and enforces the same account state and the same policy of a second factor."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

import pytest

import platform_auth
from platform_auth.models import RefreshSession
from tests.conftest import PASSWORD, Api, code_of
from tests.endpoints import ENDPOINTS

PACKAGE = Path(platform_auth.__file__).parent

WAYS_IN = {"LoginView", "RefreshView", "OAuthCallbackView", "OAuthOTPView"}
"""The views that issue tokens. Whoever adds one adds tests that it refuses the inactive and asks for the factor."""

OTHERS = {
    "LogoutView", "ProviderListView", "OAuthListView", "OAuthStartView", "OAuthLinkView", "PasswordRequestView",
    "PasswordRequestPageView", "PasswordResetView", "PasswordResetPageView", "PasswordChangeView", "FactorStatusView",
    "FactorGenerateView", "FactorEnableView", "FactorDisableView", "RecoveryCodesView", "UserFactorEnableView",
    "SessionListView", "SessionDetailView", "IdentityListView", "IdentityDetailView", "UserView", "KeySetView",
}  # fmt: skip
"""The views that issue none."""

ISSUING = {"respond", "respond_to_callback", "set_cookies"}
"""What in `http.cookies` lets a token out."""


def calls(tree: ast.AST, module: str, names: set[str]) -> bool:
    return any(
        isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr in names
        and isinstance(node.func.value, ast.Name)
        and node.func.value.id == module
        for node in ast.walk(tree)
    )


class TestTheListOfWaysIn:
    def test_every_view_of_the_url_conf_is_on_one_of_the_lists(self) -> None:
        assert {endpoint.view.__name__ for endpoint in ENDPOINTS} == WAYS_IN | OTHERS

    def test_the_views_that_let_tokens_out_are_the_ways_in(self) -> None:
        tree = ast.parse((PACKAGE / "views" / "__init__.py").read_text())
        issuing = {
            node.name
            for node in tree.body
            if isinstance(node, ast.ClassDef) and calls(node, "cookies", ISSUING)
        }

        assert issuing == WAYS_IN

    def test_tokens_are_made_in_sessions_alone_and_sessions_opened_by_one_way_in(self) -> None:
        def modules(module: str, names: set[str]) -> set[str]:
            return {
                str(path.relative_to(PACKAGE))
                for path in PACKAGE.rglob("*.py")
                if calls(ast.parse(path.read_text()), module, names)
            }

        assert modules("tokens", {"issue_access_token"}) == {"sessions/__init__.py"}
        assert modules("tokens", {"new_refresh_token"}) == {"sessions/__init__.py"}
        assert modules("sessions", {"open"}) == {"login/__init__.py"}
        assert modules("login", {"log_in"}) == {"providers/flow.py"}

    def test_no_other_endpoint_answers_with_a_token(self, signed_in: Api) -> None:
        """Row 60, black box: whatever is asked of them, signed in and not."""
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
