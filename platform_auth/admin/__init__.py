"""Django admin: a module for each list, and the links on a user's own page."""

from __future__ import annotations

from . import events, identities, passwords, providers, second_factor, sessions  # noqa: F401 - they register themselves
from .users import AccountLinks as AccountLinks
