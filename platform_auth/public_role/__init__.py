"""The public role: the group whose permissions everybody has, signed in or not.

One statement a request; none where the cache is shared by all processes. What is cached carries a version
that every change of groups and permissions replaces after its commit, so what was read before a change is
never found after it. No group, no permission, a look-up that fails: nothing.
"""

from __future__ import annotations

import hashlib
import logging
import secrets
from typing import Any

from asgiref.local import Local
from django.apps import apps
from django.contrib.auth import get_user_model
from django.contrib.auth.models import Group, Permission
from django.core.cache import caches
from django.core.cache.backends.memcached import BaseMemcachedCache
from django.core.cache.backends.redis import RedisCache
from django.db import connections, router, transaction

from ..conf import conf

logger = logging.getLogger("platform_auth")

CACHED_FOR = 60
"""Seconds for which a change may go unseen that sends no signal (raw SQL) or did not reach the cache."""

_SHARED_MODULES = ("django_redis.", "django_valkey.")
_ON_USER = "_platform_auth_public_role"
_RESERVED_APPS = (
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.sessions",
    "platform_auth",
    # Others that hold users, rights, tokens or factors.
    "allauth",
    "axes",
    "django_otp",
    "guardian",
    "knox",
    "oauth2_provider",
    "rest_framework.authtoken",
    "rest_framework_simplejwt",
    "social_django",
)
_unfilled = Local()


def permissions() -> frozenset[str]:
    """Return what everybody may do, as "app_label.codename"; nothing where that cannot be found out."""
    try:
        return _read()
    except Exception:
        logger.exception("the public role could not be read, so nobody has its permissions")
        return frozenset()


def permissions_of(user: Any) -> frozenset[str]:
    """Return the same, remembered on a user object: for one request, as Django's own are."""
    if user is None:
        return permissions()
    if not hasattr(user, _ON_USER):
        setattr(user, _ON_USER, permissions())
    return getattr(user, _ON_USER)  # type: ignore[no-any-return]


def remembering(user: Any, held: frozenset[str]) -> Any:
    """Return a user who takes the role to hold just this."""
    setattr(user, _ON_USER, held)
    return user


def granted() -> list[str]:
    """Ask the database for all that the group holds, as "app_label.model.codename". Raises what it raises."""
    role: object = conf.PUBLIC_ROLE
    # A look-up for None would find the permissions that no group has.
    if not isinstance(role, str) or not role:
        return []
    rows = (
        Permission.objects.using(router.db_for_write(Group))
        .filter(group__name=role)
        .order_by("content_type__app_label", "codename")
        .values_list("group__name", "content_type__app_label", "content_type__model", "codename")
    )
    # Some databases find "public" for "Public".
    return [f"{app}.{model}.{codename}" for group, app, model, codename in rows if group == role]


def reserved() -> list[str]:
    """Return the group's permissions that do not count: who may do what is never managed by everybody."""
    return [_short(name) for name in granted() if _is_reserved(name)]


def forget(*, using: str | None = None) -> None:
    """Have every process read the role again, once the change that is under way has committed."""
    transaction.on_commit(_replace_version, using=using or router.db_for_write(Group), robust=True)


def fill(**kwargs: Any) -> None:
    """Put into the cache, behind a request, what it could not: see `_read`."""
    if not getattr(_unfilled, "is_so", False):
        return
    _unfilled.is_so = False
    cache, connection = _shared_cache(), connections[router.db_for_write(Group)]
    if cache is None or connection.in_atomic_block:
        return
    try:
        _remember(cache, _key(cache))
    except Exception:
        logger.warning("the public role could not be cached", exc_info=True)
    connection.close_if_unusable_or_obsolete()


def _read() -> frozenset[str]:
    cache = _shared_cache()
    if cache is None:
        return _ask()
    try:
        key = _key(cache)
        names = cache.get(key)
    except Exception:
        logger.warning("the cache did not answer, the public role is read from the database", exc_info=True)
        return _ask()
    if isinstance(names, list):
        return frozenset(names)
    if connections[router.db_for_write(Group)].in_atomic_block:
        # What is read here may be taken back, or older than the version: others get what is read when the
        # request is over, whether it was committed or refused.
        _unfilled.is_so = True
        return _ask()
    return _remember(cache, key)


def _remember(cache: Any, key: str) -> frozenset[str]:
    """Read the role for a key whose version was there before the question was asked."""
    names = _ask()
    try:
        cache.set(key, sorted(names), CACHED_FOR)
    except Exception:
        logger.warning("the cache could not keep the public role", exc_info=True)
    return names


def _ask() -> frozenset[str]:
    return frozenset(_short(name) for name in granted() if not _is_reserved(name))


def _shared_cache() -> Any:
    """Return the default cache if all processes share it, and asking it is no statement; else None."""
    cache = caches["default"]
    if isinstance(cache, RedisCache | BaseMemcachedCache):
        return cache
    return cache if type(cache).__module__.startswith(_SHARED_MODULES) else None


def _key(cache: Any) -> str:
    version_key = _version_key()
    version = cache.get(version_key)
    if not isinstance(version, str):
        cache.add(version_key, secrets.token_hex(8), None)
        version = cache.get(version_key)
    name = hashlib.sha256(str(conf.PUBLIC_ROLE).encode()).hexdigest()[:16]
    return f"{version_key}:{version}:{name}"


def _version_key() -> str:
    """Return where the version stands, by the database: two sites may share a cache and its prefix."""
    database = connections[router.db_for_write(Group)].settings_dict
    facts = [str(database.get(name)) for name in ("ENGINE", "HOST", "PORT", "NAME")]
    return f"platform_auth:public-role:{hashlib.sha256(repr(facts).encode()).hexdigest()[:16]}"


def _replace_version() -> None:
    cache = _shared_cache()
    if cache is not None:
        cache.set(_version_key(), secrets.token_hex(8), None)


def _short(name: str) -> str:
    app_label, _model, codename = name.split(".", 2)
    return f"{app_label}.{codename}"


def _is_reserved(name: str) -> bool:
    """Return whether a permission is about users, rights, tokens or sessions. Seeing users is the host's decision.

    A proxy of the host's stands for what it is a proxy of. What has no model any more opens nothing.
    """
    app_label, model_name, codename = name.split(".", 2)
    try:
        model = apps.get_model(app_label, model_name)
    except LookupError:
        return True
    if issubclass(model, get_user_model()):
        return codename != f"view_{model_name}"
    module = model._meta.app_config.name
    return issubclass(model, Group | Permission) or f"{module}.".startswith(
        tuple(f"{name}." for name in _RESERVED_APPS)
    )
