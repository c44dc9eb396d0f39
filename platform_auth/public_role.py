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

from django.contrib.auth import get_user_model
from django.contrib.auth.models import Group, Permission
from django.core.cache import caches
from django.core.cache.backends.memcached import BaseMemcachedCache
from django.core.cache.backends.redis import RedisCache
from django.db import router, transaction

from .conf import conf

logger = logging.getLogger("platform_auth")

CACHED_FOR = 60
"""Seconds for which a change may go unseen that sends no signal (raw SQL) or did not reach the cache."""

_VERSION_KEY = "platform_auth:public-role:version"
_SHARED_MODULES = ("django_redis.", "django_valkey.")
_ON_USER = "_platform_auth_public_role"
_RESERVED_APPS = frozenset({"admin", "auth", "platform_auth", "sessions"})


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
    rows = (
        Permission.objects.using(router.db_for_write(Group))
        .filter(group__name=conf.PUBLIC_ROLE)
        .order_by("content_type__app_label", "codename")
        .values_list("content_type__app_label", "content_type__model", "codename")
    )
    return [f"{app_label}.{model}.{codename}" for app_label, model, codename in rows]


def reserved() -> list[str]:
    """Return the group's permissions that do not count: who may do what is never managed by everybody."""
    return [_short(name) for name in granted() if _is_reserved(name)]


def forget(*, using: str | None = None) -> None:
    """Have every process read the role again, once the change that is under way has committed."""
    transaction.on_commit(_replace_version, using=using or router.db_for_write(Group), robust=True)


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
    database = router.db_for_write(Group)
    if transaction.get_connection(database).in_atomic_block:
        # What is read here may be taken back, or older than the version: others get what is read after the
        # commit.
        transaction.on_commit(_fill, using=database, robust=True)
        return _ask()
    return _remember(cache, key)


def _fill() -> None:
    cache = _shared_cache()
    if cache is not None:
        _remember(cache, _key(cache))


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
    version = cache.get(_VERSION_KEY)
    if not isinstance(version, str):
        cache.add(_VERSION_KEY, secrets.token_hex(8), None)
        version = cache.get(_VERSION_KEY)
    name = hashlib.sha256(conf.PUBLIC_ROLE.encode()).hexdigest()[:16]
    return f"platform_auth:public-role:{name}:{version}"


def _replace_version() -> None:
    cache = _shared_cache()
    if cache is not None:
        cache.set(_VERSION_KEY, secrets.token_hex(8), None)


def _short(name: str) -> str:
    app_label, _model, codename = name.split(".", 2)
    return f"{app_label}.{codename}"


def _is_reserved(name: str) -> bool:
    """Return whether a permission is about users, rights or sessions. Seeing users is the host's decision."""
    app_label, model, codename = name.split(".", 2)
    options = get_user_model()._meta
    if (app_label, model) == (options.app_label, options.model_name):
        return codename != f"view_{options.model_name}"
    return app_label in _RESERVED_APPS or app_label.startswith("otp_")
