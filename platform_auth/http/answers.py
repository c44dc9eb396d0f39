"""The shapes of answers: rows into what a client sees. Ids are strings, times RFC 3339 in UTC with `Z`."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from .. import caller
from ..models import OAuthIdentity, OAuthProvider, RefreshSession
from ..providers import backends
from ..second_factor import verification


def time(moment: datetime | None) -> str | None:
    """Return a time as RFC 3339 in UTC."""
    return None if moment is None else moment.astimezone(UTC).isoformat().replace("+00:00", "Z")


def session(row: RefreshSession, *, current: RefreshSession) -> dict[str, Any]:
    return {
        "id": str(row.id),
        "current": row.id == current.id,
        "created_at": time(row.created_at),
        "refreshed_at": time(row.rotated_at),
        "expires_at": time(row.expires_at),
        "ip_address": row.ip_address,
        "user_agent": row.user_agent,
        "device": caller.device_name(row.user_agent),
        "provider": row.provider or None,
    }


def provider(row: OAuthProvider) -> dict[str, Any]:
    return {
        "name": row.key,
        "label": row.label,
        "driver": backends.BACKENDS[row.kind].DRIVER,
        "icon": row.icon or None,
    }


def identity(row: OAuthIdentity) -> dict[str, Any]:
    return {
        "id": str(row.pk),
        "provider": row.provider.key,
        "label": row.provider.label,
        "email": row.email or None,
        "created_at": time(row.created_at),
        "last_used_at": time(row.last_used_at),
    }


def user(account: Any) -> dict[str, Any]:
    """Return a user, with those of the fields that the user model has."""
    known = {field.name for field in account._meta.get_fields()}
    email = account.get_email_field_name()
    return {
        "id": str(account.pk),
        **({"email": getattr(account, email)} if email in known else {}),
        **{name: getattr(account, name) for name in ("first_name", "last_name") if name in known},
        "tfa_enabled": verification.is_enrolled(account),
        **({"last_login": time(account.last_login)} if "last_login" in known else {}),
    }
