"""Django authentication backends: login by email, and the permissions of the public role."""

from __future__ import annotations

from typing import Any

from asgiref.sync import sync_to_async
from django.contrib.auth import get_user_model
from django.contrib.auth.backends import BaseBackend, ModelBackend
from django.contrib.auth.hashers import check_password, make_password
from django.core.exceptions import PermissionDenied
from django.db.models.functions import Lower
from django.http import HttpRequest
from django.views.decorators.debug import sensitive_variables

from . import caller, db, events, limits, public_role
from .models import AuthEvent

LIMITED = "_platform_auth_limited"
"""Set on a request whose login through a form was refused by a limit before the password was checked."""


def find_by_email(email: str) -> Any:
    """Return the user with this email address in any case, or None, even if there are several.

    `Lower()` in the database finds candidates, using an index on it. An exact comparison in Python then decides,
    because collations treat accented and look-alike letters as equal (CVE-2019-19844). A non-ASCII letter never
    matches an ASCII one, as the Kelvin sign would if lower-cased.
    """
    user_model = get_user_model()
    field = user_model.get_email_field_name()
    candidates = user_model._default_manager.alias(platform_auth_email=Lower(field)).filter(
        platform_auth_email=email.lower()
    )
    hits = [user for user in candidates if _same_address(email, getattr(user, field) or "")]
    return hits[0] if len(hits) == 1 else None


def find_by_username(username: str) -> Any:
    """Return the user with this USERNAME_FIELD, or None. Email addresses are compared as in `find_by_email`."""
    user_model = get_user_model()
    if user_model.get_email_field_name() == user_model.USERNAME_FIELD:
        return find_by_email(username)
    return user_model._default_manager.filter(**{user_model.USERNAME_FIELD: username}).first()


def _same_address(typed: str, stored: str) -> bool:
    return typed.lower() == stored.lower() and typed.isascii() == stored.isascii()


class EmailBackend(ModelBackend):
    """Log in with email and password; the work is the same for every address.

    The API passes both `username` and `email`, and has counted the attempt. If only one is passed, as by Django
    admin's form (a `username`, looked up in USERNAME_FIELD) or HTTP Basic, the attempt is counted here, so the API's
    limits hold everywhere.
    """

    @sensitive_variables()
    def authenticate(
        self,
        request: HttpRequest | None,
        username: str | None = None,
        password: str | None = None,
        email: str | None = None,
        **kwargs: Any,
    ) -> Any:
        if username is None and email is None:
            username = kwargs.get(get_user_model().USERNAME_FIELD)
        if password is None or (username is None and email is None):
            return None
        if username is not None and email is not None:
            return self._check(find_by_email(email), password)
        found = find_by_username(str(username)) if username is not None else find_by_email(str(email))
        attempt = _take_login(request, str(username or email), found) if request is not None else None
        user = self._check(found, password)
        if user is not None and attempt is not None:
            limits.give_back_login(attempt)
        return user

    @sensitive_variables()
    async def aauthenticate(
        self,
        request: HttpRequest | None,
        username: str | None = None,
        password: str | None = None,
        **kwargs: Any,
    ) -> Any:
        """Do the same: ModelBackend's method would look up by username and count nothing."""
        return await sync_to_async(self.authenticate)(request, username, password, **kwargs)

    @sensitive_variables()
    def _check(self, user: Any, password: str) -> Any:
        """Return the user if the password is right and they may log in. If there is no user, do the same work."""
        if user is None:
            make_password(password)
            return None
        if not self._check_password(user, password) or not self.user_can_authenticate(user):
            return None
        return user

    @sensitive_variables()
    def _check_password(self, user: Any, password: str) -> bool:
        """Check a password, and upgrade an old hash unless the password was changed meanwhile."""
        upgraded: list[str] = []
        if not check_password(
            password, user.password, setter=lambda raw: upgraded.append(make_password(raw))
        ):
            return False
        if upgraded:
            rows = type(user)._base_manager.filter(pk=user.pk, password=user.password)
            if rows.update(password=upgraded[0]):
                user.password = upgraded[0]
            else:
                fresh = type(user)._base_manager.using(db.alias()).filter(pk=user.pk).first()
                user.password = "" if fresh is None else fresh.password
                return check_password(password, user.password)
        return True


def _take_login(request: HttpRequest, name: str, user: Any) -> limits.LoginAttempt:
    """Count a login through a form; an account is counted by its address, as in the API.

    Raises PermissionDenied, after which Django asks no other backend.
    """
    who = caller.of(request)
    if user is not None:
        name = getattr(user, user.get_email_field_name(), "") or name
    try:
        return limits.take_login(name, who, is_familiar=lambda: events.is_familiar(user, who))
    except limits.Limited as limited:
        if limited.is_first:
            events.record(AuthEvent.Kind.LOGIN_LIMITED, who=who, reason="limited, form")
        setattr(request, LIMITED, True)
        raise PermissionDenied from None


def record_failed_login_elsewhere(*, credentials: dict[str, Any], request: Any = None, **kwargs: Any) -> None:
    """Record a failed login outside our API, with the account that was tried."""
    # Our API passes both names and records its own event; a refusal by a limit has been recorded too.
    if request is None or {"username", "email"} <= credentials.keys() or hasattr(request, LIMITED):
        return
    name = credentials.get("username") or credentials.get(get_user_model().USERNAME_FIELD)
    user = find_by_username(name) if isinstance(name, str) else None
    events.record_if_possible(
        AuthEvent.Kind.LOGIN_FAILED, reason="credentials, form", user=user, who=caller.of(request)
    )


class PublicRoleBackend(BaseBackend):
    """Give everyone, signed in or not, the permissions of the group named by PUBLIC_ROLE.

    So `user.has_perm`, `perms` in templates, `permission_required` and DRF's `DjangoModelPermissions` agree with
    `PrivateByDefault`. As with `ModelBackend`, a deactivated user has none, and there are no permissions for single
    objects.
    """

    def get_group_permissions(self, user_obj: Any, obj: Any = None) -> set[str]:
        if obj is not None or not (user_obj.is_anonymous or user_obj.is_active):
            return set()
        return set(public_role.permissions_of(user_obj))

    def has_module_perms(self, user_obj: Any, app_label: str) -> bool:
        """Return whether the public role has any permission in an app."""
        return any(name.partition(".")[0] == app_label for name in self.get_all_permissions(user_obj))

    async def ahas_module_perms(self, user_obj: Any, app_label: str) -> bool:
        return await sync_to_async(self.has_module_perms)(user_obj, app_label)
