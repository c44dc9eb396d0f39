"""Work done after the response: by a thread, by Django's task framework, inline."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import django
import pytest
import requests
from django.db import DatabaseError, OperationalError, connections, transaction
from django.utils.module_loading import import_string

from platform_auth import errors
from platform_auth.mail import delivery
from platform_auth.models import AuthEvent
from tests.conftest import Api, make_user
from tests.example_site import free_port
from tests.mail_server import MailServer

TASKS = "django.tasks" if django.VERSION >= (6, 0) else "django_tasks"

FAILURES = {
    "later": delivery.TryAgain,
    "bug": ValueError,
    "exit": SystemExit,
    "database": OperationalError,
    "busy database": errors.ServiceUnavailable,
}

done: list[Any] = []
"""What the jobs of these tests record."""
blocked: list[threading.Event] = []
"""What the job `block` waits for."""


@delivery.job
def note(*, what: str, attempt: delivery.Attempt) -> None:
    done.append((what, attempt.number, threading.current_thread().name))


@delivery.job
def fail(*, how: str, times: int, attempt: delivery.Attempt) -> None:
    done.append((how, attempt.number, threading.current_thread().name))
    if attempt.number <= times:
        raise FAILURES[how]("no")


@delivery.job
def learn(*, known: str = "nothing", attempt: delivery.Attempt) -> None:
    """Fail until the last attempt, passing what was learnt to the next one."""
    done.append((attempt.number, attempt.is_last, known))
    if not attempt.is_last:
        raise delivery.TryAgain("no", known=f"of {attempt.number}")


@delivery.job
def block(*, attempt: delivery.Attempt) -> None:
    blocked.pop().wait(60)


@delivery.job
def clock(*, attempt: delivery.Attempt) -> None:
    done.append(time.monotonic())


@delivery.job
def look(*, attempt: delivery.Attempt) -> None:
    AuthEvent.objects.count()
    done.append(connections["default"].connection is not None)
    done.append(connections["default"])


@delivery.job
def leave_broken(*, attempt: delivery.Attempt) -> None:
    """Leave a connection that can't be closed, because the server has closed its end."""
    connection = connections["default"]
    close = connection.close

    def fail_to_close() -> None:
        del connection.close
        close()
        raise OperationalError("gone")

    connection.close = fail_to_close  # type: ignore[method-assign]
    done.append("left")


@pytest.fixture(autouse=True)
def _nothing_done() -> Iterator[None]:
    done.clear()
    yield
    assert delivery.finish(timeout=30)
    done.clear()


@pytest.fixture
def by_thread(configure: Any) -> None:
    configure(MAIL_DELIVERY="thread")


def wait_until(condition: Callable[[], bool], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.02)


@pytest.mark.django_db(transaction=True)
@pytest.mark.usefixtures("by_thread")
class TestThread:
    def test_it_starts_after_the_response_was_sent(self) -> None:
        """security.md, row 63: work for an existing account must not slow down the response."""
        began = time.monotonic()
        delivery.hand_over(clock)
        wait_until(lambda: bool(done))

        (started,) = done
        assert started - began >= delivery.STARTS_AFTER[0]

    def test_it_runs_in_its_own_thread(self) -> None:
        delivery.hand_over(note, what="x")
        wait_until(lambda: bool(done))

        assert done == [("x", 1, "platform_auth-mail")]

    @pytest.mark.parametrize("how", ["bug", "exit"])
    def test_it_survives_a_failing_job(self, how: str, caplog: Any) -> None:
        delivery.hand_over(fail, how=how, times=9)
        delivery.finish()
        thread = delivery.worker.thread

        delivery.hand_over(note, what="x")
        wait_until(lambda: len(done) == 2)

        assert [what for what, *_rest in done] == [how, "x"]
        assert delivery.worker.thread is thread
        assert "failed" in caplog.text

    def test_it_survives_a_connection_that_cannot_be_closed(self, caplog: Any) -> None:
        delivery.hand_over(leave_broken)
        delivery.finish()
        thread = delivery.worker.thread

        delivery.hand_over(note, what="x")
        delivery.finish()

        assert [done[0], done[1][0]] == ["left", "x"]
        assert delivery.worker.thread is thread
        assert "could not be closed" in caplog.text

    @pytest.mark.parametrize("how", ["later", "database", "busy database"])
    def test_a_job_that_raises_try_again_is_tried_again(self, how: str, caplog: Any) -> None:
        delivery.hand_over(fail, how=how, times=1)

        wait_until(lambda: len(done) == 2)

        assert [attempt for _what, attempt, _thread in done] == [1, 2]
        assert "next attempt in 2 s" in caplog.text

    def test_an_exiting_process_runs_waiting_jobs_once(self, caplog: Any) -> None:
        delivery.worker.put(delivery.name_of(fail), {"how": "later", "times": 9}, 1, 3600)
        for number in range(5):
            delivery.hand_over(note, what=str(number))

        assert delivery.finish(timeout=60)

        assert len(done) == 6
        assert "failed for good" in caplog.text

    def test_an_exiting_process_does_not_wait_forever(self, caplog: Any) -> None:
        released = threading.Event()
        blocked.append(released)
        delivery.hand_over(block)

        assert not delivery.finish(timeout=0.5)
        released.set()

        assert "1 jobs were not done in time" in caplog.text

    def test_it_gives_up_after_the_last_attempt(self, caplog: Any) -> None:
        worker = delivery.Worker()
        name = delivery.name_of(fail)

        worker.put(name, {"how": "later", "times": 99}, len(delivery.RETRIES_AFTER) + 1, 0)
        wait_until(lambda: "failed for good" in caplog.text)

        assert worker.waiting == []

    def test_an_attempt_gets_changed_arguments_and_knows_whether_it_is_the_last(
        self, monkeypatch: Any
    ) -> None:
        monkeypatch.setattr(delivery, "RETRIES_AFTER", (0, 0))

        delivery.hand_over(learn)
        wait_until(lambda: len(done) == 3)

        assert done == [(1, False, "nothing"), (2, False, "of 1"), (3, True, "of 2")]

    def test_in_an_exiting_process_the_attempt_is_the_last(self) -> None:
        delivery.worker.put(delivery.name_of(learn), {}, 1, 3600)

        assert delivery.finish(timeout=60)

        assert done == [(1, True, "nothing")]

    def test_it_leaves_no_connection_open(self) -> None:
        delivery.hand_over(look)
        delivery.finish()

        was_open, used = done
        assert was_open
        assert used.connection is None
        assert used is not connections["default"]

    def test_it_waits_for_the_callers_commit(self) -> None:
        with contextlib.suppress(DatabaseError), transaction.atomic():
            delivery.hand_over(note, what="rolled back")
            raise DatabaseError
        with transaction.atomic():
            delivery.hand_over(note, what="committed")
            delivery.finish()
            assert done == []

        delivery.finish()
        assert [what for what, *_rest in done] == ["committed"]

    def test_the_queue_is_limited(self, caplog: Any) -> None:
        worker = delivery.Worker()
        name = delivery.name_of(note)

        for number in range(delivery.MAX_WAITING + 3):
            worker.put(name, {"what": str(number)}, 1, 3600)

        assert len(worker.waiting) == delivery.MAX_WAITING
        assert caplog.text.count("was dropped") == 3

    def test_concurrent_callers_lose_no_job(self) -> None:
        threads = [
            threading.Thread(target=lambda: [delivery.hand_over(note, what="x") for _ in range(50)])
            for _ in range(8)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

        delivery.finish()
        assert len(done) == 400


SCRIPT = """
import os, sys
import django
from django.conf import settings
settings.configure(
    SECRET_KEY="x" * 50,
    DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}},
    INSTALLED_APPS=["django.contrib.auth", "django.contrib.contenttypes", "django_otp", "platform_auth"],
    PLATFORM_AUTH={"PUBLIC_URL": "https://site.example"},
    DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
)
django.setup()
from platform_auth import errors
from platform_auth.mail import delivery

@delivery.job
def say(*, what, attempt):
    os.write(1, f"{what}\\n".encode())
"""


def run_script(body: str, *, ends: int = 0, logs: str = "") -> list[str]:
    """Run a host's process until it ends with an exit code; return the lines that its jobs wrote.

    It must log nothing, or what `logs` says.
    """
    result = subprocess.run(
        [
            sys.executable,
            "-W",
            "error",
            "-W",
            "ignore::DeprecationWarning",
            "-c",
            SCRIPT + textwrap.dedent(body),
        ],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd=Path(__file__).parent.parent.parent,
    )
    assert result.returncode == ends, result.stderr
    assert logs in result.stderr if logs else not result.stderr, result.stderr
    return sorted(result.stdout.split())


class TestProcess:
    """What happens to the thread when its process ends or forks."""

    @pytest.mark.parametrize("mode", ["thread", "task", "inline"])
    def test_it_keeps_its_signal_handlers(self, mode: str) -> None:
        body = f"""
            import signal
            settings.PLATFORM_AUTH = {{"MAIL_DELIVERY": "{mode}"}}
            delivery.hand_over(say, what="job")
            delivery.finish()
            assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
            os.kill(os.getpid(), signal.SIGTERM)
        """
        run_script(body, ends=-signal.SIGTERM)

    def test_a_worker_imports_the_module_of_a_job(self) -> None:
        body = """
            assert "platform_auth.passwords" not in sys.modules
            asked = {"email": "alice@example.com", "within_limit": True, "address": None, "user_agent": ""}
            nothing = dict.fromkeys(["token_id", "reset_url", "language"])
            try:
                delivery.run("passwords.answer_request", {**asked, **nothing}, 1, again=None)
            except delivery.TryAgain as reason:
                # This process has no tables.
                print(reason)
        """
        assert run_script(body) == ["OperationalError"]

    def test_the_thread_works_without_a_task_framework(self) -> None:
        body = """
            sys.modules["django.tasks"] = sys.modules["django_tasks"] = None
            delivery.hand_over(say, what="job")
        """
        assert run_script(body) == ["job"]

    def test_an_exiting_process_finishes_its_jobs(self) -> None:
        assert run_script('for n in range(3): delivery.hand_over(say, what=f"job{n}")') == [
            "job0",
            "job1",
            "job2",
        ]

    def test_an_exiting_process_waits_for_a_slow_job_up_to_a_limit(self) -> None:
        body = """
            import atexit, time
            atexit.unregister(delivery.finish)
            atexit.register(delivery.finish, timeout=1)

            @delivery.job
            def dawdle(attempt):
                time.sleep(120)

            delivery.hand_over(dawdle)
        """
        assert run_script(body, logs="1 jobs were not done in time") == []

    def test_a_process_that_gets_sigterm_finishes_its_jobs(self) -> None:
        """As application servers do: SIGTERM becomes SystemExit in a worker."""
        body = """
            import signal, time
            signal.signal(signal.SIGTERM, lambda *args: sys.exit(0))
            delivery.hand_over(say, what="job")
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(60)
        """
        assert run_script(body) == ["job"]

    def test_a_forked_child_has_its_own_thread_and_no_jobs_of_the_parent(self) -> None:
        """As gunicorn does with --preload."""
        body = """
            delivery.hand_over(say, what="parent")
            child = os.fork()
            delivery.hand_over(say, what="child" if child == 0 else "parent-too")
            if child:
                os.waitpid(child, 0)
        """
        assert run_script(body) == ["child", "parent", "parent-too"]

    def test_a_child_forked_while_the_lock_is_held_does_not_hang(self) -> None:
        body = """
            with delivery.worker.changed:
                child = os.fork()
                if child == 0:
                    delivery.hand_over(say, what="child")
                    sys.exit(0)
            os.waitpid(child, 0)
        """
        assert run_script(body) == ["child"]


SITE = "tests.delivery_site"


class Server(NamedTuple):
    """A host's server: its command before `host:port`, and its exit code after SIGTERM."""

    name: str
    arguments: Sequence[str]
    exit_code: int

    @contextlib.contextmanager
    def serve(self, file: Path) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
        pytest.importorskip(self.name)
        port = free_port()
        process = subprocess.Popen(
            [sys.executable, "-m", *(argument.format(port=port) for argument in self.arguments)],
            env={**os.environ, "DONE_FILE": str(file), "DJANGO_SETTINGS_MODULE": ""},
            cwd=Path(__file__).parent.parent.parent,
        )
        try:
            url = f"http://127.0.0.1:{port}/"
            wait_until(lambda: answers(url))
            yield url, process
        finally:
            process.kill()
            process.wait()


def answers(url: str) -> bool:
    """Return whether a server has loaded its app, which takes longer than to start listening."""
    with contextlib.suppress(requests.RequestException):
        return requests.get(f"{url}nowhere", timeout=30).status_code == 404
    return False


UVICORN = ("uvicorn", f"{SITE}:asgi", "--port", "{port}", "--log-level", "error")
GUNICORN = Server("gunicorn", ("gunicorn", f"{SITE}:wsgi", "--bind", "127.0.0.1:{port}", "--threads", "4"), 0)
SERVERS = [
    Server("django", (SITE, "runserver", "--noreload", "--skip-checks", "127.0.0.1:{port}"), -signal.SIGTERM),
    Server("uvicorn", UVICORN, -signal.SIGTERM),
    Server("uvicorn", (*UVICORN, "--workers", "2"), 0),
    GUNICORN,
]


class TestServer:
    """Servers are stopped with SIGTERM."""

    def test_it_runs_waiting_jobs_before_it_exits(self, tmp_path: Path) -> None:
        file = tmp_path / "done"
        with GUNICORN.serve(file) as (url, process):
            assert requests.get(f"{url}?what=job", timeout=30).status_code == 204
            process.terminate()
            assert process.wait(timeout=60) == GUNICORN.exit_code

        assert file.read_text() == "job\n"

    def test_it_runs_the_jobs_of_requests_that_it_still_answers(self, tmp_path: Path) -> None:
        file = tmp_path / "done"
        with GUNICORN.serve(file) as (url, process), ThreadPoolExecutor() as pool:
            assert requests.get(f"{url}?what=waiting", timeout=30).status_code == 204
            slow = pool.submit(requests.get, f"{url}?what=late&after=2", timeout=60)
            time.sleep(0.7)
            process.terminate()
            assert slow.result().status_code == 204
            process.wait(timeout=60)

        assert sorted(file.read_text().split()) == ["late", "waiting"]

    @pytest.mark.parametrize("server", SERVERS, ids=lambda server: " ".join(server.arguments[:2]))
    def test_it_exits_at_once_if_nothing_waits(self, server: Server, tmp_path: Path) -> None:
        with server.serve(tmp_path / "done") as (_url, process):
            began = time.monotonic()
            process.terminate()
            assert process.wait(timeout=60) == server.exit_code
            assert time.monotonic() - began < delivery.FINISHES_WITHIN


@pytest.mark.django_db
class TestInline:
    @pytest.mark.parametrize("how", ["later", "bug", "database"])
    def test_an_error_is_logged_and_never_raised(self, how: str, caplog: Any) -> None:
        delivery.hand_over(fail, how=how, times=9)

        assert len(done) == 1
        assert "failed" in caplog.text

    def test_it_runs_in_the_caller(self) -> None:
        delivery.hand_over(note, what="x")

        assert done == [("x", 1, threading.current_thread().name)]


@pytest.mark.django_db(transaction=True)
class TestTask:
    """Django's task framework, part of Django 6.0 and available for 5.2 as django-tasks."""

    @pytest.fixture(autouse=True)
    def _by_task(self, settings: Any, configure: Any) -> None:
        pytest.importorskip(TASKS)
        configure(MAIL_DELIVERY="task")
        settings.TASKS = {"default": {"BACKEND": f"{TASKS}.backends.dummy.DummyBackend"}}
        self.backend().clear()

    def task(self) -> Any:
        from platform_auth.mail import tasks

        return tasks.run_job

    def backend(self) -> Any:
        handler = import_string(f"{TASKS}.task_backends")
        return handler["default"]

    def test_a_worker_finds_the_task_by_its_path(self) -> None:
        assert import_string(self.task().module_path) is self.task()

    def test_the_job_is_enqueued_as_json(self, api: Api, user: Any) -> None:
        api.post("/auth/password/request", {"email": user.email})

        (result,) = self.backend().results
        name, arguments, attempt = result.args
        assert (name, attempt) == ("passwords.answer_request", 1)
        assert json.loads(json.dumps(arguments)) == arguments
        assert set(arguments) == {
            "token_id",
            "email",
            "within_limit",
            "reset_url",
            "language",
            "address",
            "user_agent",
        }

    def test_a_worker_sends_the_email_and_the_queue_contains_no_token(
        self, api: Api, user: Any, mailoutbox: list[Any]
    ) -> None:
        """security.md, row 120."""
        api.post("/auth/password/request", {"email": user.email})

        backend = self.backend()
        for number in range(2):
            self.task().call(*backend.results[number].args)

        assert [message.to for message in mailoutbox] == [[user.email]]
        assert [result.args[0] for result in backend.results] == [
            "passwords.answer_request",
            "passwords.deliver_link",
        ]
        assert "ey" not in str(backend.results[1].args[1]["token_id"])

    def test_a_job_that_raises_try_again_is_enqueued_for_later(self) -> None:
        self.task().call(delivery.name_of(fail), {"how": "later", "times": 9}, 1)

        (result,) = self.backend().results
        assert result.args[2] == 2
        assert result.task.run_after is not None

    def test_the_next_attempt_gets_changed_arguments(self) -> None:
        self.task().call(delivery.name_of(learn), {}, 1)
        self.task().call(delivery.name_of(learn), {}, 6)

        (result,) = self.backend().results
        assert list(result.args[1:]) == [{"known": "of 1"}, 2]
        assert done == [(1, False, "nothing"), (6, True, "nothing")]

    def test_without_deferring_the_first_attempt_is_the_last(self, settings: Any, monkeypatch: Any) -> None:
        backend = type("Backend", (type(self.backend()),), {"supports_defer": False})
        monkeypatch.setattr(f"{__name__}.Backend", backend, raising=False)
        settings.TASKS = {"default": {"BACKEND": f"{__name__}.Backend"}}

        self.task().call(delivery.name_of(learn), {}, 1)
        with pytest.raises(delivery.TryAgain):
            self.task().call(delivery.name_of(fail), {"how": "later", "times": 99}, 1)

        assert done[0] == (1, True, "nothing")
        assert self.backend().results == []

    def test_a_failed_last_attempt_is_a_failed_task(self) -> None:
        with pytest.raises(delivery.TryAgain):
            self.task().call(delivery.name_of(fail), {"how": "later", "times": 99}, 6)

    def test_a_queue_that_is_down_is_logged_and_never_raised(
        self, settings: Any, api: Api, caplog: Any
    ) -> None:
        settings.TASKS = {"default": {"BACKEND": "nowhere.Backend"}}

        response = api.post("/auth/password/request", {"email": make_user().email})

        assert response.status_code == 204
        assert "could not be handed over" in caplog.text


@pytest.mark.django_db(transaction=True)
@pytest.mark.usefixtures("by_thread")
class TestMailServer:
    """If the mail server is down or slow, the caller notices nothing, it is logged, and the email is tried again."""

    @pytest.fixture(autouse=True)
    def _smtp(self, settings: Any) -> None:
        settings.EMAIL_BACKEND = "django.core.mail.backends.smtp.EmailBackend"
        settings.EMAIL_HOST = "127.0.0.1"

    def outcomes(self) -> list[str]:
        rows = AuthEvent.objects.filter(kind=AuthEvent.Kind.RESET_REQUESTED).order_by("pk")
        return list(rows.values_list("reason", flat=True))

    def test_a_slow_server_does_not_delay_the_response(self, api: Api, user: Any, settings: Any) -> None:
        with MailServer("slow", pause=6.0) as server:
            settings.EMAIL_PORT = server.port
            began = time.monotonic()
            response = api.post("/auth/password/request", {"email": user.email})
            took = time.monotonic() - began
            delivery.finish()

            assert (response.status_code, took < server.pause) == (204, True)
            assert [recipients for recipients, _message in server.mails] == [[user.email]]

    def test_an_email_is_sent_later_if_the_server_was_down(
        self, api: Api, user: Any, settings: Any, caplog: Any
    ) -> None:
        with MailServer() as server:
            settings.EMAIL_PORT = server.port
        response = api.post("/auth/password/request", {"email": user.email})
        wait_until(lambda: self.outcomes() == ["mail_error"])

        with MailServer(port=settings.EMAIL_PORT) as server:
            wait_until(lambda: bool(server.mails))
            delivery.finish()

        assert response.status_code == 204
        assert self.outcomes() == ["mail_error", "sent"]
        assert "next attempt in 2 s: builtins.ConnectionRefusedError" in caplog.text

    def test_a_refusal_is_logged_without_the_servers_text(
        self, api: Api, user: Any, settings: Any, caplog: Any
    ) -> None:
        with MailServer("refuses") as server:
            settings.EMAIL_PORT = server.port
            api.post("/auth/password/request", {"email": user.email})
            delivery.finish()

        assert "smtplib.SMTPRecipientsRefused" in caplog.text
        assert user.email not in caplog.text

    def test_a_silent_server_does_not_block_the_thread_forever(
        self, api: Api, user: Any, settings: Any, monkeypatch: Any
    ) -> None:
        from platform_auth.mail import messages

        monkeypatch.setattr(messages, "TIMEOUT", 0.5)
        with MailServer("silent") as server:
            settings.EMAIL_PORT = server.port
            api.post("/auth/password/request", {"email": user.email})

            assert delivery.finish(timeout=60)

        assert set(self.outcomes()) == {"mail_error"}
