"""The host's user rows, locked for the rest of a transaction by one conditional UPDATE.

Whatever ends sessions (a reset, a change, a new factor, a deactivation) and whatever opens one locks the same row
first, so of two at the same moment the second sees the first. An UPDATE and not SELECT ... FOR UPDATE: its row count
decides on every database, SQLite with its one writer included.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from django.db import router
from django.db.models import F
from django.views.decorators.debug import sensitive_variables


@sensitive_variables()
def lock(user: Any, *, unchanged: Iterable[str] = (), active: bool = False, **changes: Any) -> bool:
    """Lock a user's row; False, and nothing is locked, where it is gone or not what was verified.

    `unchanged`: fields that must still have the value on `user`. `active`: the user must be active, in a model
    that knows it. `changes` are written; without any the row is written as it is.
    """
    model = user.__class__
    condition: dict[str, Any] = {"pk": user.pk, **{name: getattr(user, name) for name in unchanged}}
    if active and any(field.name == "is_active" for field in model._meta.get_fields()):
        condition["is_active"] = True
    rows = model._base_manager.using(router.db_for_write(model)).filter(**condition)
    return bool(rows.update(**(changes or {"password": F("password")})))
