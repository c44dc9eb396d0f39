"""Imports run strictly downward: each module of the package has a layer, and imports only from layers below."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import platform_auth

ROOT = Path(platform_auth.__file__).parent

LAYERS: list[str] = [
    # Words and pure functions.
    "conf errors signals totp catalogue refresh_tokens user_rows",
    "client sealing redirects contention outbox public_role oauth.http",
    # Rows, and keys.
    "models signed_tokens",
    # One capability each.
    "access_tokens reset_tokens limits events emails oauth.flow_state",
    "backends factors oauth.strategy",
    # Capabilities that use capabilities.
    "credentials sessions oauth.kinds",
    "mfa passwords oauth.accounts oauth.probe",
    "oauth.flow",
    # The HTTP edge.
    "transport payload serializers answers permissions",
    "authentication pages",
    "api",
    "views",
    "urls urls_users",
    # Leaves: nothing above imports them.
    "checks receivers exposure schema",
    "account_admin",
    "admin",
    "apps management.commands.platform_auth_doctor management.commands.platform_auth_prune "
    "management.commands.platform_auth_rotate_keys",
]
LAYER_OF = {module: number for number, layer in enumerate(LAYERS) for module in layer.split()}
FIRST_OF_HTTP = LAYER_OF["transport"]
FIRST_LEAF = LAYER_OF["checks"]

WITHOUT_CODE = {"", "oauth", "management", "management.commands"}
"""Packages whose `__init__` imports nothing of ours."""


def modules() -> dict[str, ast.Module]:
    """Return the syntax tree of every module, by its name below the package."""
    found = {}
    for path in sorted(ROOT.rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        if parts[0] != "migrations":
            found[".".join(parts).removesuffix("__init__").removesuffix(".")] = ast.parse(path.read_text())
    return found


def imports_of(name: str, tree: ast.AST, *, is_package: bool = False) -> Iterator[tuple[str, str]]:
    """Yield (module, name) for each name that a module imports, wherever the import stands; ours without the prefix."""
    package = ["platform_auth", *name.split(".")] if is_package else ["platform_auth", *name.split(".")[:-1]]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, "") for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            yield from ((module, alias.name) for alias in node.names)


def own_imports(name: str, tree: ast.AST) -> Iterator[str]:
    """Yield the modules of the package that a module imports."""
    for module, imported in imports_of(name, tree, is_package=name in WITHOUT_CODE):
        if module.split(".")[0] == "platform_auth":
            below = module.removeprefix("platform_auth").lstrip(".")
            inner = f"{below}.{imported}".lstrip(".")
            yield inner if inner in LAYER_OF or inner in WITHOUT_CODE else below


MODULES = modules()


def test_every_module_has_a_layer() -> None:
    """A new module must be given its place."""
    assert set(MODULES) - WITHOUT_CODE == set(LAYER_OF)


@pytest.mark.parametrize("name", sorted(MODULES))
def test_imports_run_strictly_downward(name: str) -> None:
    for imported in own_imports(name, MODULES[name]):
        if name in WITHOUT_CODE:
            pytest.fail(f"{name or 'platform_auth'} imports {imported}")
        if imported not in WITHOUT_CODE:
            assert LAYER_OF[imported] < LAYER_OF[name], f"{name} imports {imported}"


def test_an_import_upward_is_found() -> None:
    """The test itself: what it must find, it finds."""
    tree = ast.parse(
        "def f():\n    from . import views\n    from .oauth import flow\n    from .api import ApiView"
    )

    assert list(own_imports("models", tree)) == ["views", "oauth.flow", "api"]
    assert list(own_imports("oauth.http", ast.parse("from .. import conf\nfrom . import flow"))) == [
        "conf",
        "oauth.flow",
    ]


def test_views_do_not_touch_rows() -> None:
    for name in ("views", "urls", "urls_users"):
        assert "models" not in set(own_imports(name, MODULES[name]))


def test_rows_do_not_read_settings() -> None:
    assert "conf" not in set(own_imports("models", MODULES["models"]))


def test_capabilities_know_no_responses() -> None:
    """Below the HTTP edge, nothing makes an answer; `errors` has the one place that does, when it is called."""
    for name, tree in MODULES.items():
        if name in WITHOUT_CODE or name == "errors" or LAYER_OF[name] >= FIRST_OF_HTTP:
            continue
        imported = {module for module, _name in imports_of(name, tree)}
        assert not {"rest_framework.response", "rest_framework.serializers"} & imported, name


def test_one_module_knows_simplejwt() -> None:
    knowing = {
        name
        for name, tree in MODULES.items()
        for module, _name in imports_of(name, tree)
        if module.startswith("rest_framework_simplejwt")
    }

    assert knowing == {"signed_tokens"}


def test_nothing_imports_a_leaf_but_leaves() -> None:
    for name, tree in MODULES.items():
        if name not in WITHOUT_CODE and LAYER_OF[name] < FIRST_LEAF:
            assert not [leaf for leaf in own_imports(name, tree) if LAYER_OF.get(leaf, 0) >= FIRST_LEAF]


def test_no_module_is_called_after_nothing() -> None:
    vague = {"utils", "helpers", "common", "base", "services", "managers", "compat", "adapter"}

    assert not vague & {part for name in MODULES for part in name.split(".")}
