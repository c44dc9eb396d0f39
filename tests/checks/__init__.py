"""System checks."""

from __future__ import annotations

from django.core.checks import CheckMessage, run_checks


def said(number: str) -> list[CheckMessage]:
    """Return the messages of one check for the current settings, without the databases: `said("W009")`."""
    messages = run_checks(tags=["platform_auth"], databases=[])
    return [message for message in messages if message.id == f"platform_auth.{number}"]
