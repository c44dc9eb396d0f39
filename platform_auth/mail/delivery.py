"""Jobs that run after the response, so neither its time nor its content depends on them.

A job is a function of this package whose arguments are plain JSON values. MAIL_DELIVERY says who runs it: "thread", a
thread of this process; "task", a worker of Django's task framework (`tasks`); "inline", the caller, for tests. A job
that can't be done now raises `TryAgain` and is run again later. Any other exception is logged and ends that job only.
"""

from __future__ import annotations

import atexit
import heapq
import itertools
import logging
import os
import random
import threading
import time
from collections.abc import Callable
from typing import Any, NamedTuple

from django.contrib.auth import get_user_model
from django.db import InterfaceError, OperationalError, connections, router, transaction
from django.utils.module_loading import import_string

from .. import errors
from ..conf import conf

logger = logging.getLogger("platform_auth")

STARTS_AFTER = (0.1, 0.4)
"""Seconds, drawn between these two, before the thread starts a job. By then the response has been sent, so the work for
an existing account doesn't delay the response that must not reveal it.
"""
RETRIES_AFTER = (2, 15, 60, 300, 900)
"""Seconds until each retry."""
MAX_WAITING = 10_000
"""How many jobs may wait in one process; more are logged and dropped."""
FINISHES_WITHIN = 20.0
"""How many seconds an exiting process spends on waiting jobs."""

Job = Callable[..., None]
Again = Callable[[str, dict[str, Any], int, float], None]
"""Accepts the next attempt of a job: its name, its arguments, the attempt's number, the seconds until then."""

_jobs: dict[str, Job] = {}


class TryAgain(Exception):
    """Raised if a job can't be done now, but maybe later. The text says why, without secrets. `changes` replace
    arguments of the next attempt.
    """

    def __init__(self, text: str, **changes: Any) -> None:
        super().__init__(text)
        self.changes = changes


class Attempt(NamedTuple):
    """The number of an attempt, from 1, and whether it is the last."""

    number: int
    is_last: bool


def job(function: Job) -> Job:
    """Register a module-level function as a job. It takes an `attempt` (Attempt) in addition to its own arguments."""
    _jobs[name_of(function)] = function
    return function


def hand_over(function: Job, **arguments: Any) -> None:
    """Run a job after the response, when the caller's transaction has committed; with "inline" immediately. Never
    raises.

    `arguments` are JSON values without secrets, because a task queue may store them.
    """
    name = name_of(function)
    if conf.MAIL_DELIVERY == "inline":
        _run_or_log(name, arguments, 1, again=None)
        return
    database = router.db_for_write(get_user_model())
    # Checked first, because `on_commit` opens a connection that the request may not need.
    if connections[database].in_atomic_block:
        transaction.on_commit(lambda: _hand(name, arguments), using=database)
    else:
        _hand(name, arguments)


def run(name: str, arguments: dict[str, Any], number: int, *, again: Again | None) -> None:
    """Run one attempt of a job; if it raises TryAgain, `again` accepts the next attempt. None: this one is the last.

    Raises what ends the job: TryAgain if no attempt is left, or any other exception.
    """
    is_last = again is None or number > len(RETRIES_AFTER)
    try:
        _call(name, arguments, Attempt(number, is_last))
    except TryAgain as reason:
        if is_last or again is None:
            raise
        seconds = RETRIES_AFTER[number - 1]
        logger.warning("the job %s failed, next attempt in %s s: %s", name, seconds, reason)
        again(name, arguments | reason.changes, number + 1, seconds)


def name_of(function: Job) -> str:
    return f"{function.__module__.removeprefix('platform_auth.')}.{function.__name__}"


def _hand(name: str, arguments: dict[str, Any]) -> None:
    try:
        if conf.MAIL_DELIVERY == "task":
            # Imported by name, as a worker does: the module needs a task framework, which not every host has.
            import_string("platform_auth.mail.tasks.run_job").enqueue(name, arguments, 1)
        else:
            worker.put(name, arguments, 1, random.uniform(*STARTS_AFTER))  # noqa: S311 - no secret
    except Exception:
        logger.exception("the job %s could not be handed over", name)


def _call(name: str, arguments: dict[str, Any], attempt: Attempt) -> None:
    if name not in _jobs:
        # A task worker may not have imported the module that registers the job.
        import_string(f"platform_auth.{name}")
    try:
        _jobs[name](**arguments, attempt=attempt)
    except (OperationalError, InterfaceError, errors.ServiceUnavailable) as error:
        raise TryAgain(type(error).__name__) from None


def _run_or_log(name: str, arguments: dict[str, Any], number: int, *, again: Again | None) -> None:
    try:
        run(name, arguments, number, again=again)
    except TryAgain as reason:
        logger.error("the job %s failed for good: %s", name, reason)
    # SystemExit would end the thread silently.
    except (Exception, SystemExit):
        logger.exception("the job %s failed", name)


class Worker:
    """A thread that runs jobs in the order in which they are due.

    One thread is enough: no request waits for it, and it needs one connection to the database and one to the mail
    server. It is a daemon thread, and `finish` waits for it when the process exits: Python waits for other threads
    without a timeout, and can't start new ones during exit.
    """

    def __init__(self) -> None:
        self.start_clean()

    def start_clean(self) -> None:
        """Forget everything. A forked child has no thread, maybe a locked lock, and the parent's jobs."""
        self.waiting: list[tuple[float, int, str, dict[str, Any], int]] = []
        # The counter decides between jobs that are due at the same time, because their arguments can't be compared.
        self._order = itertools.count()
        self.changed = threading.Condition()
        self.thread: threading.Thread | None = None
        self._is_busy = False
        self._is_finishing = False

    def put(self, name: str, arguments: dict[str, Any], number: int, seconds: float) -> None:
        """Schedule an attempt of a job after some seconds."""
        with self.changed:
            if len(self.waiting) >= MAX_WAITING:
                logger.error("the job %s was dropped: %s are waiting", name, MAX_WAITING)
                return
            if self.thread is None or not self.thread.is_alive():
                self.thread = threading.Thread(target=self._work, name="platform_auth-mail", daemon=True)
                self.thread.start()
            heapq.heappush(
                self.waiting, (time.monotonic() + seconds, next(self._order), name, arguments, number)
            )
            self.changed.notify_all()

    def finish(self, *, timeout: float = FINISHES_WITHIN) -> bool:
        """Have the thread run all waiting jobs now, once; return True if none is left."""
        with self.changed:
            self._is_finishing = True
            self.changed.notify_all()
            is_done = self.changed.wait_for(lambda: not self.waiting and not self._is_busy, timeout)
            self._is_finishing = False
            if not is_done:
                logger.error("%s jobs were not done in time", len(self.waiting) + self._is_busy)
        return is_done

    def _work(self) -> None:
        while True:
            name, arguments, number = self._take()
            _run_or_log(name, arguments, number, again=None if self._is_finishing else self.put)
            try:
                # A connection that was idle for hours would be dead at the next job.
                connections.close_all()
            except Exception:
                logger.exception("the connections of the thread could not be closed")
            with self.changed:
                self._is_busy = False
                self.changed.notify_all()

    def _take(self) -> tuple[str, dict[str, Any], int]:
        """Wait for the next due job and take it."""
        with self.changed:
            while True:
                seconds = self.waiting[0][0] - time.monotonic() if self.waiting else None
                if seconds is not None and (seconds <= 0 or self._is_finishing):
                    self._is_busy = True
                    return heapq.heappop(self.waiting)[2:]
                self.changed.wait(seconds)


worker = Worker()
finish = worker.finish
atexit.register(finish)
os.register_at_fork(after_in_child=worker.start_clean)
