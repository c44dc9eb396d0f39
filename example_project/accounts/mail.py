"""The demo's emails: printed, and saved as files."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from django.core.mail import EmailMessage
from django.core.mail.backends.base import BaseEmailBackend
from django.core.mail.backends.console import EmailBackend as ConsoleBackend
from django.core.mail.backends.filebased import EmailBackend as FolderBackend


class ConsoleAndFolderBackend(BaseEmailBackend):
    """Prints each email and saves it as a file in EMAIL_FILE_PATH, instead of sending it."""

    def __init__(self, fail_silently: bool = False, **kwargs: Any) -> None:
        super().__init__(fail_silently=fail_silently)
        self.backends = [
            ConsoleBackend(fail_silently=fail_silently),
            FolderBackend(fail_silently=fail_silently),
        ]

    def send_messages(self, email_messages: Sequence[EmailMessage]) -> int:
        return min(backend.send_messages(email_messages) or 0 for backend in self.backends)
