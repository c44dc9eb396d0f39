"""Work that leaves the request: an answer neither waits for it nor tells how it went.

A job is a function of this package that takes plain JSON values. MAIL_DELIVERY says who runs it: "thread",
one worker in this process; "task", Django's task framework; "inline", the caller, which is for tests. A job
that fails for a while raises `TryAgain` and is run again later; whatever else it raises is logged and ends
that job alone.
"""

from __future__ import annotations

import atexit
import contextlib
import heapq
import importlib
import itertools
import logging
import os
import random
import signal
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from types import FrameType
from typing import Any, NamedTuple

from django.contrib.auth import get_user_model
from django.db import InterfaceError, OperationalError, connections, router, transaction
from django.utils import timezone

from .. import errors
from ..conf import conf

logger = logging.getLogger("platform_auth")

STARTS_AFTER = (0.1, 0.4)
"""Seconds, drawn between the two, before the thread takes up a job: by then the answer is out, so the work
for an account that exists does not slow down the very answer that must not tell."""
RETRIES_AFTER = (2, 15, 60, 300, 900)
"""Seconds until each further attempt."""
MAX_WAITING = 10_000
"""Jobs that wait in one process; what comes on top is logged and dropped."""
FINISHES_WITHIN = 20.0
"""Seconds that a process which ends gives to what still waits."""

Job = Callable[..., None]

_jobs: dict[str, Job] = {}


class TryAgain(Exception):
    """A job could not be done now; later it may. The text says why and holds no secret.

    `changes` take the place of arguments at the next attempt.
    """

    def __init__(self, text: str, **changes: Any) -> None:
        super().__init__(text)
        self.changes = changes


class Attempt(NamedTuple):
    """Which attempt of a job this is, from 1, and whether none will follow it."""

    number: int
    is_last: bool


class _Entry(NamedTuple):
    """A job in the thread's heap: when it falls due (monotonic seconds), in which order, what it is."""

    due: float
    order: int
    name: str
    arguments: dict[str, Any]
    attempt: int


def job(function: Job) -> Job:
    """Register a module's function as a job. It takes an `attempt` (Attempt) beside its own arguments."""
    _jobs[_name_of(function)] = function
    return function


def hand_over(function: Job, **arguments: Any) -> None:
    """Run a job off the request, once the caller's transaction has committed. Never raises.

    `arguments` are JSON values without secrets: a task queue may keep them.
    """
    name = _name_of(function)
    if conf.MAIL_DELIVERY == "inline":
        _attempt_inline(name, arguments)
        return
    hand = _enqueue if conf.MAIL_DELIVERY == "task" else _worker.put
    database = router.db_for_write(get_user_model())
    # Asked first: `on_commit` opens a connection, which a request that needs none should not pay for.
    if connections[database].in_atomic_block:
        transaction.on_commit(lambda: _hand(hand, name, arguments), using=database)
    else:
        _hand(hand, name, arguments)


def finish(*, timeout: float = FINISHES_WITHIN) -> bool:
    """Let the thread do now, once, what waits; True when nothing is left. Called when the process ends."""
    return _worker.finish(timeout=timeout)


def finish_at_sigterm() -> None:
    """Have a process that SIGTERM kills finish before, with the same exit code. Called when the apps are ready.

    Most servers turn the signal into an exit, at which `atexit` finishes. runserver leaves it as it is. uvicorn handles
    it, stops, and then raises it anew for the handler that it found: ours, unless the app is loaded after that, as in
    its worker processes; there it finishes at the end of its own shutdown.
    """
    if conf.MAIL_DELIVERY != "thread":
        return
    handler = signal.getsignal(signal.SIGTERM)
    server: Any = getattr(handler, "__self__", None)
    if handler is signal.SIG_DFL:
        # ValueError: not in the main thread, or not in the main interpreter.
        with contextlib.suppress(ValueError):
            signal.signal(signal.SIGTERM, _finish_and_die)
    elif type(server).__module__ == "uvicorn.server":
        _finish_after(server)


def run(name: str, arguments: dict[str, Any], *, attempt: Attempt) -> None:
    """Run one attempt of a job. Raises TryAgain, also where the database did not answer."""
    if name not in _jobs:
        # A task worker may not have imported the module yet.
        importlib.import_module(f"platform_auth.{name.rpartition('.')[0]}")
    try:
        _jobs[name](**arguments, attempt=attempt)
    except (OperationalError, InterfaceError, errors.ServiceUnavailable) as error:
        raise TryAgain(type(error).__name__) from None


def _name_of(function: Job) -> str:
    return f"{function.__module__.removeprefix('platform_auth.')}.{function.__name__}"


def _hand(hand: Callable[[str, dict[str, Any]], None], name: str, arguments: dict[str, Any]) -> None:
    try:
        hand(name, arguments)
    except Exception:
        logger.exception("the job %s could not be handed over", name)


def _attempt_inline(name: str, arguments: dict[str, Any]) -> None:
    try:
        run(name, arguments, attempt=Attempt(1, is_last=True))
    except TryAgain as reason:
        logger.error("the job %s failed: %s", name, reason)
    except Exception:
        logger.exception("the job %s failed", name)


# The thread.


class _Worker:
    """One thread that does jobs in the order in which they fall due."""

    def __init__(self) -> None:
        self._waiting: list[_Entry] = []
        self._order = itertools.count()
        # A signal may have `finish` interrupt `put` in one thread.
        self._changed = threading.Condition(threading.RLock())
        self._thread: threading.Thread | None = None
        self._is_busy = False
        self._is_finishing = False

    def put(
        self, name: str, arguments: dict[str, Any], *, attempt: int = 1, delay: float | None = None
    ) -> None:
        seconds = random.uniform(*STARTS_AFTER) if delay is None else delay  # noqa: S311 - no secret
        with self._changed:
            if len(self._waiting) >= MAX_WAITING:
                logger.error("the job %s was dropped: %s are waiting", name, MAX_WAITING)
                return
            due = time.monotonic() + seconds
            heapq.heappush(self._waiting, _Entry(due, next(self._order), name, arguments, attempt))
            self._start()
            self._changed.notify_all()

    def finish(self, *, timeout: float) -> bool:
        with self._changed:
            self._is_finishing = True
            if self._waiting:
                self._start()
            self._changed.notify_all()
            try:
                done = self._changed.wait_for(lambda: not self._waiting and not self._is_busy, timeout)
            finally:
                self._is_finishing = False
            if not done:
                logger.error("%s jobs were not done in time", len(self._waiting) + self._is_busy)
            return done

    def _start(self) -> None:
        if self._thread is None or not self._thread.is_alive():
            self._thread = threading.Thread(target=self._work, name="platform_auth-mail", daemon=True)
            self._thread.start()

    def _work(self) -> None:
        while True:
            entry = self._next()
            try:
                self._attempt(entry)
            finally:
                with self._changed:
                    self._is_busy = False
                    self._changed.notify_all()

    def _next(self) -> _Entry:
        """Wait for the next job that is due, and take it."""
        with self._changed:
            while True:
                if self._waiting:
                    seconds = self._waiting[0].due - time.monotonic()
                    if seconds <= 0 or self._is_finishing:
                        self._is_busy = True
                        return heapq.heappop(self._waiting)
                    self._changed.wait(seconds)
                else:
                    self._changed.wait()

    def _attempt(self, entry: _Entry) -> None:
        is_last = self._is_finishing or entry.attempt > len(RETRIES_AFTER)
        try:
            run(entry.name, entry.arguments, attempt=Attempt(entry.attempt, is_last))
        except TryAgain as reason:
            if is_last:
                logger.error("the job %s failed for good: %s", entry.name, reason)
            else:
                self._put_back(entry, reason)
        except Exception:
            logger.exception("the job %s failed", entry.name)
        finally:
            _close_connections()

    def _put_back(self, entry: _Entry, reason: TryAgain) -> None:
        seconds = RETRIES_AFTER[entry.attempt - 1]
        logger.warning("the job %s failed, next attempt in %s s: %s", entry.name, seconds, reason)
        self.put(entry.name, entry.arguments | reason.changes, attempt=entry.attempt + 1, delay=seconds)


def _close_connections() -> None:
    """Close the thread's: one that lies idle for hours is dead when the next job needs it."""
    for connection in connections.all(initialized_only=True):
        try:
            connection.close()
        except Exception:
            logger.exception("the connection to the database %s could not be closed", connection.alias)


_worker = _Worker()


def _start_afresh() -> None:
    """In a forked child: the thread did not come along, a lock may be held, the jobs are the parent's."""
    global _worker
    _worker = _Worker()


def _finish_and_die(number: int, frame: FrameType | None) -> None:
    # First, so that whoever sends it twice need not wait.
    signal.signal(number, signal.SIG_DFL)
    try:
        finish()
    finally:
        signal.raise_signal(number)


def _finish_after(server: Any) -> None:
    """Have a server of uvicorn finish when it has answered its last request."""
    shutdown = server.shutdown

    async def shutdown_and_finish(*args: Any, **kwargs: Any) -> None:
        await shutdown(*args, **kwargs)
        finish()

    server.shutdown = shutdown_and_finish


os.register_at_fork(after_in_child=_start_afresh)
atexit.register(finish)


# Django's task framework.


def _enqueue(name: str, arguments: dict[str, Any]) -> None:
    _task().enqueue(name, arguments, 1)


def _run_job(name: str, arguments: dict[str, Any], attempt: int) -> None:
    """Run a job in a task worker; what is to be tried again is enqueued again where the backend can defer."""
    task = _task()
    is_last = not task.get_backend().supports_defer or attempt > len(RETRIES_AFTER)
    try:
        run(name, arguments, attempt=Attempt(attempt, is_last))
    except TryAgain as reason:
        if is_last:
            logger.error("the job %s failed for good: %s", name, reason)
            raise
        seconds = RETRIES_AFTER[attempt - 1]
        logger.warning("the job %s failed, next attempt in %s s: %s", name, seconds, reason)
        later = timezone.now() + timedelta(seconds=seconds)
        task.using(run_after=later).enqueue(name, arguments | reason.changes, attempt + 1)


def _task() -> Any:
    return globals().get("run_job") or __getattr__("run_job")


def __getattr__(name: str) -> Any:
    """Make the task `run_job` when first asked for: by `hand_over`, or by a worker, which knows its path."""
    if name != "run_job":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        from django.tasks import task  # type: ignore[import-not-found,unused-ignore]
    except ImportError:
        from django_tasks import task  # type: ignore[no-redef,unused-ignore]
    # The task framework finds a task by its function's path, which must lead here.
    _run_job.__name__ = _run_job.__qualname__ = name
    made = globals()[name] = task(_run_job)
    return made
