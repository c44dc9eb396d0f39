"""System checks: every setting that is mistyped, impossible or unsafe, with the fix as its hint.

Those below E020 and W020 run always, those from there under `check --deploy`, those from E040 and W040 where
checks may ask the database (`check --database default`, `migrate`).
"""

from __future__ import annotations

# They register themselves.
from . import access, deployment, keys, mail, settings, urls, users  # noqa: F401
