"""The texts in our sources that people read: found without GNU gettext, with Python's and Django's own parsers."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from django.utils.translation.template import templatize

PACKAGE = Path(__file__).parent.parent / "platform_auth"

_FORMS = {
    "gettext": "m",
    "gettext_lazy": "m",
    "gettext_noop": "m",
    "ngettext": "mp",
    "ngettext_lazy": "mp",
    "pgettext": "cm",
    "pgettext_lazy": "cm",
    "npgettext": "cmp",
    "npgettext_lazy": "cmp",
}
"""What the arguments of each function of Django are: message, plural, context."""
_IN_TEMPLATE = re.compile(r"\b(n?p?gettext)\((?=u?['\"])")


class Text(NamedTuple):
    """A text that a catalog has an entry for."""

    context: str | None
    message: str
    plural: str


class Call(NamedTuple):
    """A call of a translation function in Python."""

    text: Text
    is_lazy: bool
    is_inside_function: bool
    where: str


def calls() -> Iterator[Call]:
    """Yield every call in our Python files."""
    for path in sorted(PACKAGE.rglob("*.py")):
        tree = ast.parse(path.read_text())
        names = {
            alias.asname or alias.name: alias.name
            for node in ast.walk(tree)
            if isinstance(node, ast.ImportFrom) and node.module == "django.utils.translation"
            for alias in node.names
            if alias.name in _FORMS
        }
        yield from _calls_below(tree, names, path.name, is_inside_function=False)


def texts() -> set[Text]:
    """Return every text in our Python files and templates."""
    found = {call.text for call in calls()}
    for path in sorted(PACKAGE.glob("templates/**/*")):
        if path.is_file():
            found |= set(_texts_of_template(path.read_text()))
    return found


def _calls_below(
    node: ast.AST, names: dict[str, str], where: str, *, is_inside_function: bool
) -> Iterator[Call]:
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in names:
        name = names[node.func.id]
        yield Call(
            _text(node, name), name.endswith(("_lazy", "_noop")), is_inside_function, f"{where}:{node.lineno}"
        )
    for field, value in ast.iter_fields(node):
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.AST):
                # Decorators and default values are evaluated at import.
                is_body = isinstance(node, ast.FunctionDef | ast.Lambda) and field == "body"
                yield from _calls_below(child, names, where, is_inside_function=is_inside_function or is_body)


def _text(call: ast.Call, name: str) -> Text:
    parts = dict(zip(_FORMS[name], map(ast.literal_eval, call.args[: len(_FORMS[name])]), strict=True))
    return Text(parts.get("c"), parts["m"], parts.get("p", ""))


def _texts_of_template(source: str) -> Iterator[Text]:
    """Yield the texts of a template, from the code that Django's makemessages makes of it: calls between filler."""
    code = templatize(source)
    for match in _IN_TEMPLATE.finditer(code):
        literals = []
        position = match.end()
        while literal := re.compile(r"\s*,?\s*(u?(?:'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\"))").match(
            code, position
        ):
            literals.append(ast.literal_eval(literal[1]))
            position = literal.end()
        name = match[1]
        parts = dict(zip(_FORMS[name], literals[: len(_FORMS[name])], strict=True))
        yield Text(parts.get("c"), parts["m"], parts.get("p", ""))
