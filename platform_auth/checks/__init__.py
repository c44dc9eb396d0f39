"""System checks: every setting that is mistyped, impossible or unsafe, with the fix as its hint.

Errors and warnings below 20 always run, those from 20 to 39 under `check --deploy`, and those from 40 if checks may
query the database (`check --database default`, `migrate`).
"""

from __future__ import annotations

# They register themselves.
from . import access, deployment, keys, mail, settings, urls, users  # noqa: F401
