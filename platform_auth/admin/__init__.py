"""Django admin: a module per list, and what a user's own page shows."""

from __future__ import annotations

from . import events, identities, passwords, providers, second_factor, sessions  # noqa: F401 - they register themselves
from .users import UserInlines as UserInlines
