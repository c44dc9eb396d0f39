"""Work that leaves the request: an answer neither waits for it nor tells how it went.

A job is a function of this package that takes plain JSON values. MAIL_DELIVERY says who runs it: "thread", a thread of
this process; "task", a worker of Django's task framework (`tasks`); "inline", the caller, which is for tests. A job
that cannot be done now raises `TryAgain` and is run again later; anything else that it raises is logged and ends that
job alone.
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
"""Seconds, drawn between the two, before the thread takes up a job: by then the answer is out, so the work for an
account that exists does not slow down the very answer that must not tell."""
RETRIES_AFTER = (2, 15, 60, 300, 900)
"""Seconds until each further attempt."""
MAX_WAITING = 10_000
"""How many jobs may wait in one process; further ones are logged and dropped."""
FINISHES_WITHIN = 20.0
"""Seconds that a process which exits gives to what still waits."""

Job = Callable[..., None]
Again = Callable[[str, dict[str, Any], int, float], None]
"""Takes the next attempt of a job: its name, its arguments, the attempt's number, the seconds until then."""

_jobs: dict[str, Job] = {}


class TryAgain(Exception):
    """A job could not be done now; later it may. The text says why and holds no secret.

    `changes` replace arguments at the next attempt.
    """

    def __init__(self, text: str, **changes: Any) -> None:
        super().__init__(text)
        self.changes = changes


class Attempt(NamedTuple):
    """Which attempt of a job this is, from 1, and whether none will follow it."""

    number: int
    is_last: bool


def job(function: Job) -> Job:
    """Register a module's function as a job. It takes an `attempt` (Attempt) in addition to its own arguments."""
    _jobs[name_of(function)] = function
    return function


def hand_over(function: Job, **arguments: Any) -> None:
    """Run a job off the request, once the caller's transaction has committed; "inline" at once. Never raises.

    `arguments` are JSON values without secrets: a task queue may keep them.
    """
    name = name_of(function)
    if conf.MAIL_DELIVERY == "inline":
        _run_or_log(name, arguments, 1, again=None)
        return
    database = router.db_for_write(get_user_model())
    # Asked first: `on_commit` opens a connection, which a request that needs none should not pay for.
    if connections[database].in_atomic_block:
        transaction.on_commit(lambda: _hand(name, arguments), using=database)
    else:
        _hand(name, arguments)


def run(name: str, arguments: dict[str, Any], number: int, *, again: Again | None) -> None:
    """Run one attempt of a job; if it raises TryAgain, `again` takes the next attempt.

    None: this one is the last. Raises what ends the job: TryAgain where no attempt is left, or its own error.
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
            # By its name, as a worker finds it: importing the module takes a task framework, which not every host has.
            import_string("platform_auth.mail.tasks.run_job").enqueue(name, arguments, 1)
        else:
            worker.put(name, arguments, 1, random.uniform(*STARTS_AFTER))  # noqa: S311 - no secret
    except Exception:
        logger.exception("the job %s could not be handed over", name)


def _call(name: str, arguments: dict[str, Any], attempt: Attempt) -> None:
    if name not in _jobs:
        # A task worker may not have imported the module yet, which registers it.
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
    # SystemExit would end the thread without a word.
    except (Exception, SystemExit):
        logger.exception("the job %s failed", name)


class Worker:
    """A thread that does jobs in the order in which they fall due.

    One thread is enough: no request waits for it, and it takes one connection to the database and one to the mail
    server. It is a daemon, which `finish` waits for when the process exits: for any other thread Python itself waits,
    without a limit, and by then it starts no new one.
    """

    def __init__(self) -> None:
        self.start_clean()

    def start_clean(self) -> None:
        """Forget everything, as a forked child must: it has no thread, maybe a held lock, and the parent's jobs."""
        self.waiting: list[tuple[float, int, str, dict[str, Any], int]] = []
        # Of two jobs that fall due at once the first one is taken; their arguments cannot be compared.
        self._order = itertools.count()
        self.changed = threading.Condition()
        self.thread: threading.Thread | None = None
        self._is_busy = False
        self._is_finishing = False

    def put(self, name: str, arguments: dict[str, Any], number: int, seconds: float) -> None:
        """Have an attempt of a job made after so many seconds."""
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
        """Let the thread do now, once, what waits; True when nothing is left."""
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
                # A connection that lies idle for hours is dead when the next job needs it.
                connections.close_all()
            except Exception:
                logger.exception("the connections of the thread could not be closed")
            with self.changed:
                self._is_busy = False
                self.changed.notify_all()

    def _take(self) -> tuple[str, dict[str, Any], int]:
        """Wait for the next job that is due, and take it."""
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
