"""MAIL_DELIVERY = "task": jobs as tasks of Django's task framework, or of its backport.

Imported by name, when the first job is handed over or by the framework's worker, so a host that uses neither needs
neither.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from django.utils import timezone

from . import delivery

try:
    from django.tasks import task  # type: ignore[import-not-found,unused-ignore]
except ImportError:
    from django_tasks import task  # type: ignore[no-redef,unused-ignore]


@task
def run_job(name: str, arguments: dict[str, Any], number: int) -> None:
    """Run one attempt of a job. The next one is a deferred task, if the backend can defer."""
    again = _enqueue if run_job.get_backend().supports_defer else None
    delivery.run(name, arguments, number, again=again)


def _enqueue(name: str, arguments: dict[str, Any], number: int, seconds: float) -> None:
    run_after = timezone.now() + timedelta(seconds=seconds)
    run_job.using(run_after=run_after).enqueue(name, arguments, number)
