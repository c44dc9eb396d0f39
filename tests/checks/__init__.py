"""System checks."""

from __future__ import annotations

from django.core.checks import CheckMessage, run_checks


def said(number: str) -> list[CheckMessage]:
    """Return what one check says of the settings as they are: `said("W009")`."""
    return [
        message for message in run_checks(tags=["platform_auth"]) if message.id == f"platform_auth.{number}"
    ]
