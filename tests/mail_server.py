"""A real SMTP server for the tests that accepts emails, is slow, refuses, or says nothing."""

from __future__ import annotations

import contextlib
import socketserver
import threading
import time
from email import message_from_bytes
from email.message import Message
from typing import Any, Literal

Mood = Literal["takes", "slow", "refuses", "silent"]


class MailServer:
    """Listens on 127.0.0.1 inside a `with`. `mood` can be changed at any time; `mails` are (recipients, message)."""

    def __init__(self, mood: Mood = "takes", *, port: int = 0, pause: float = 1.0) -> None:
        self.mood: Mood = mood
        self.pause = pause
        self.mails: list[tuple[list[str], Message]] = []
        self.ended = threading.Event()
        self.server = _Server(("127.0.0.1", port), _Conversation)
        self.server.owner = self
        self.port: int = self.server.server_address[1]

    def __enter__(self) -> MailServer:
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True)
        self.thread.start()
        return self

    def __exit__(self, *exc: Any) -> None:
        self.ended.set()
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


class _Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True
    owner: MailServer


class _Conversation(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        with contextlib.suppress(ConnectionError):
            self.talk()

    def say(self, line: str) -> None:
        self.wfile.write(line.encode() + b"\r\n")

    def talk(self) -> None:
        server = self.server
        assert isinstance(server, _Server)
        owner = server.owner
        if owner.mood == "silent":
            owner.ended.wait(60)
            return
        if owner.mood == "slow":
            time.sleep(owner.pause)
        self.say("220 test")
        recipients: list[str] = []
        while line := self.rfile.readline():
            verb = line.decode().strip()
            match verb[:4].upper():
                case "EHLO" | "HELO" | "MAIL" | "RSET":
                    self.say("250 ok")
                case "RCPT" if owner.mood == "refuses":
                    self.say(f"550 no: {verb}")
                case "RCPT":
                    recipients.append(verb.partition(":")[2].strip("<> "))
                    self.say("250 ok")
                case "DATA":
                    self.say("354 go on")
                    body = bytearray()
                    while (piece := self.rfile.readline()) not in (b".\r\n", b""):
                        body += piece
                    owner.mails.append((recipients, message_from_bytes(bytes(body))))
                    recipients = []
                    self.say("250 taken")
                case "QUIT":
                    self.say("221 bye")
                    return
                case _:
                    self.say("500 what?")
