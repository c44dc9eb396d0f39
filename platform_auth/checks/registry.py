"""Registers generators of messages as Django's system checks, and what they share."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from datetime import timedelta
from typing import Any

from django.core.checks import CheckMessage, Tags, register
from django.db import DatabaseError, router
from django.db.models import Model

from ..conf import SETTINGS

Messages = Iterator[CheckMessage]
Check = Callable[[], Messages]


def check(*names: str, deploy: bool = False, asks: type[Model] | None = None) -> Callable[[Check], Check]:
    """Register a generator as a check, which runs if the settings with these names have the right types.

    `deploy`: only under `check --deploy`. `asks`: a model; only if checks may query that model's database.
    """
    tags = [Tags.database] if asks else [Tags.security] if deploy else []

    def registered(generator: Check) -> Check:
        def run(*, databases: Sequence[str] | None = None, **kwargs: Any) -> list[CheckMessage]:
            if not is_sound(*names) or (asks and router.db_for_write(asks) not in (databases or ())):
                return []
            # Before the first migration there are no tables to query.
            with suppress(*[DatabaseError] if asks else []):
                return list(generator())
            return []

        register(run, "platform_auth", *tags, deploy=deploy)
        return generator

    return registered


def is_sound(*names: str) -> bool:
    """Return whether settings have the right types, so that a check can use them."""
    return all(_is_sound(name) for name in names)


def _is_sound(name: str) -> bool:
    setting = SETTINGS[name]
    value, allowed, (least, _most) = setting.value, setting.type, setting.bounds
    if isinstance(allowed[0], str):
        return value in allowed
    # bool is a subclass of int.
    if not isinstance(value, allowed) or (isinstance(value, bool) and bool not in allowed):
        return False
    if isinstance(value, list | tuple):
        return all(isinstance(item, (str, bytes) if name.endswith("_KEYS") else str) for item in value)
    # Durations have checks of their own.
    if least is None or value is None or isinstance(value, timedelta):
        return True
    return bool((len(value) if isinstance(value, str) else value) >= least)


def nearest(name: str, known: Iterable[str]) -> str:
    """Return the hint for a name that isn't one of the known names."""
    names = list(known)
    for spelling in (name, name.upper()):
        if near := difflib.get_close_matches(spelling, names, n=1, cutoff=0.5):
            return f'Did you mean "{near[0]}"?'
    return f"Choose one of: {', '.join(sorted(names))}."
