"""The user model: one account per email address, in the same database as the sessions."""

from __future__ import annotations

import re
from typing import Any

from django.apps import apps
from django.contrib.auth import get_user_model
from django.core.checks import Error, Warning
from django.db import connections, models, router
from django.db.models.functions import Lower

from .registry import Messages, check

_CASELESS = re.compile(r"nocase|insensitive|_ci\b|_ci_", re.IGNORECASE)


@check()
def unique_email() -> Messages:
    """W009: two accounts with the same email address, neither of which could log in."""
    user_model = get_user_model()
    options, name = user_model._meta, user_model.get_email_field_name()
    is_mysql = connections[router.db_for_write(user_model)].vendor == "mysql"
    if _is_unique_whatever_case(options, name, is_mysql=is_mysql):
        return
    index = f"{options.db_table}_{name}_once"
    if options.label == "auth.User":
        # The lookup implies this condition; otherwise PostgreSQL wouldn't use the index.
        columns = f"({name})" if is_mysql else f"(LOWER({name})) WHERE LOWER({name}) <> ''"
        drop = f"DROP INDEX {index}" + (f" ON {options.db_table}" if is_mysql else "")
        hint = (
            "auth.User can't be changed, but its table can. In a migration of yours: migrations.RunSQL("
            f'"CREATE UNIQUE INDEX {index} ON {options.db_table} {columns}", "{drop}"), '
            'then add "platform_auth.W009" to SILENCED_SYSTEM_CHECKS.'
        )
    elif is_mysql:
        hint = f'Set unique=True on the field "{name}" of {options.label}, and create a migration.'
    else:
        hint = (
            f'Add to the Meta of {options.label}: constraints = [models.UniqueConstraint(Lower("{name}"), '
            f'name="{index}")], with "from django.db.models.functions import Lower", and create a migration.'
        )
    yield Warning(
        f"Two accounts of {options.label} can have the same email address in different case. Neither could log in.",
        hint=hint,
        id="platform_auth.W009",
    )


def _is_unique_whatever_case(options: Any, name: str, *, is_mysql: bool) -> bool:
    field = options.get_field(name)
    # MySQL and MariaDB use collations that ignore case by default.
    collation = getattr(field, "db_collation", None) or ("_ci" if is_mysql else "")
    if field.unique and _CASELESS.search(collation):
        return True
    # MariaDB has no indexes on expressions, and Django skips such constraints.
    return not is_mysql and any(_is_on_lower(rule, name) for rule in options.constraints)


def _is_on_lower(rule: Any, name: str) -> bool:
    """Return whether a constraint is on the lower-cased field alone, for all rows."""
    is_plain = isinstance(rule, models.UniqueConstraint) and rule.condition is None
    match rule.expressions if is_plain else ():
        case (Lower() as lower,):
            return getattr(lower.source_expressions[0], "name", None) == name
    return False


@check()
def one_database() -> Messages:
    """E015: sessions and users in different databases, so that no transaction covers both."""
    home = router.db_for_write(get_user_model())
    ours = apps.get_app_config("platform_auth").get_models()
    if apart := sorted(model._meta.label for model in ours if router.db_for_write(model) != home):
        yield Error(
            f"These models are not written to {home!r}, the database of the users: {', '.join(apart)}.",
            hint='Route the app "platform_auth" to the database of the user model in DATABASE_ROUTERS.',
            id="platform_auth.E015",
        )
