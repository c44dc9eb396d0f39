"""Imports run strictly downward: each module of the package has a layer, and imports only from lower layers."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

import platform_auth

ROOT = Path(platform_auth.__file__).parent

LAYERS: list[str] = [
    # Constants and pure functions.
    "conf errors signals mail.languages second_factor.totp",
    "db sealing caller redirects providers.outbound",
    # Tables and keys.
    "models signed_tokens",
    # Used by every capability.
    "events",
    "limits mail.delivery public_role sessions.tokens passwords.reset_tokens providers.flow_state",
    "mail.messages mail.tasks backends providers.strategy",
    # Capabilities, from the second factor up to those that use the others.
    "second_factor.verification providers.backends",
    "sessions",
    "login",
    "login.confirmation",
    "passwords second_factor.enrolment providers.identities providers.probe",
    "providers.flow",
    # The HTTP edge.
    "http.cookies http.shapes permissions",
    "authentication",
    "http.endpoint",
    "http.pages",
    "views.keys views.login views.passwords views.second_factor views.sessions views.users",
    "views.providers",
    "views",
    "urls urls_users",
    # Leaves: nothing above imports them.
    "checks.registry receivers public_role.exposure schema",
    "checks.access checks.deployment checks.keys checks.mail checks.settings checks.urls checks.users",
    "checks",
    "admin.rows admin.exposure admin.provider_form",
    "admin.sessions admin.passwords admin.second_factor admin.identities admin.events admin.providers admin.users",
    "admin",
    "apps management.commands.platform_auth_doctor management.commands.platform_auth_prune "
    "management.commands.platform_auth_rotate_keys",
]
LAYER_OF = {module: number for number, layer in enumerate(LAYERS) for module in layer.split()}
LAZY = {("models", "second_factor.verification")}
"""The only upward import, inside a function: django-otp asks the model of a factor whether a code is right."""
FIRST_OF_HTTP = LAYER_OF["http.cookies"]
FIRST_LEAF = LAYER_OF["checks.registry"]


class Module(NamedTuple):
    """A module's syntax tree, and whether it is the `__init__` of a package."""

    tree: ast.AST
    is_package: bool = False


def modules() -> dict[str, Module]:
    """Return every module with code, by its name in the package."""
    found = {}
    for path in sorted(ROOT.rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        tree = ast.parse(path.read_text())
        # A package whose `__init__` is only a docstring has no layer.
        if parts[0] not in ("__init__", "migrations") and len(tree.body) > 1:
            name = ".".join(part for part in parts if part != "__init__")
            found[name] = Module(tree, parts[-1] == "__init__")
    return found


def imports_of(name: str, module: Module) -> Iterator[tuple[str, str]]:
    """Yield module and name of every import in a module, also inside functions."""
    package = ["platform_auth", *name.split(".")][: None if module.is_package else -1]
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, "") for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            yield from (
                (".".join([*base, *([node.module] if node.module else [])]), alias.name)
                for alias in node.names
            )


def own_imports(name: str, module: Module) -> Iterator[str]:
    """Yield the modules of the package that a module imports."""
    for imported, what in imports_of(name, module):
        if imported.split(".")[0] == "platform_auth":
            below = imported.removeprefix("platform_auth").lstrip(".")
            inner = f"{below}.{what}".lstrip(".")
            yield inner if inner in LAYER_OF else below


MODULES = modules()


def test_every_module_has_a_layer() -> None:
    """A new module must be given a layer."""
    assert set(MODULES) == set(LAYER_OF)


@pytest.mark.parametrize("name", sorted(MODULES))
def test_imports_run_strictly_downward(name: str) -> None:
    for imported in own_imports(name, MODULES[name]):
        if (name, imported) not in LAZY:
            assert LAYER_OF[imported] < LAYER_OF[name], f"{name} imports {imported}"


def test_an_upward_import_is_found() -> None:
    """The test itself works: it finds what it must find."""
    tree = ast.parse(
        "def f():\n    from . import views\n    from .providers import flow\n    from .http.endpoint import ApiView"
    )

    assert list(own_imports("models", Module(tree))) == ["views", "providers.flow", "http.endpoint"]
    beside = Module(ast.parse("from .. import conf\nfrom . import flow"))
    assert list(own_imports("providers.outbound", beside)) == ["conf", "providers.flow"]
    inside = Module(ast.parse("from . import tokens"), is_package=True)
    assert list(own_imports("sessions", inside)) == ["sessions.tokens"]


def test_views_do_not_use_models() -> None:
    for name, module in MODULES.items():
        if name.split(".")[0] in ("views", "urls", "urls_users"):
            assert "models" not in set(own_imports(name, module)), name


def test_models_do_not_read_settings() -> None:
    assert "conf" not in set(own_imports("models", MODULES["models"]))


def test_capabilities_build_no_responses() -> None:
    """Below the HTTP edge, nothing builds a response, except one function in `errors`."""
    for name, module in MODULES.items():
        if name == "errors" or LAYER_OF[name] >= FIRST_OF_HTTP:
            continue
        imported = {imported for imported, _name in imports_of(name, module)}
        assert not {"rest_framework.response", "rest_framework.serializers"} & imported, name


def test_only_one_module_uses_simplejwt() -> None:
    knowing = {
        name
        for name, module in MODULES.items()
        for imported, _name in imports_of(name, module)
        if imported.startswith("rest_framework_simplejwt")
    }

    assert knowing == {"signed_tokens"}


def test_only_leaves_import_leaves() -> None:
    for name, module in MODULES.items():
        if LAYER_OF[name] < FIRST_LEAF:
            assert not [leaf for leaf in own_imports(name, module) if LAYER_OF[leaf] >= FIRST_LEAF]


def test_receivers_only_connects_signals() -> None:
    """The code that reacts is in a capability, and receivers only connects it."""
    tree = MODULES["receivers"].tree

    assert [node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)] == ["connect"]


def test_no_module_has_a_meaningless_name() -> None:
    vague = {"utils", "helpers", "common", "base", "services", "managers", "compat", "adapter"}

    assert not vague & {part for name in MODULES for part in name.split(".")}
