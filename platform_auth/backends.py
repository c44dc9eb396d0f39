"""Django authentication backends: by e-mail; the public role."""

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
"""Set on a request whose log-in by a form was refused by a limit, unlooked at."""


def find_by_email(email: str) -> Any:
    """Return the one user with this e-mail address, in any case, or None; two hits are none.

    `Lower()` in the database finds candidates (and uses an index on it); an exact comparison in Python decides,
    since collations take accents and look-alikes for the same (CVE-2019-19844). A letter outside ASCII never
    matches one inside it, as the Kelvin sign would by lower-casing.
    """
    user_model = get_user_model()
    field = user_model.get_email_field_name()
    candidates = user_model._default_manager.alias(platform_auth_email=Lower(field)).filter(
        platform_auth_email=email.lower()
    )
    hits = [user for user in candidates if _same_address(email, getattr(user, field) or "")]
    return hits[0] if len(hits) == 1 else None


def find_by_username(username: str) -> Any:
    """Return the user whose USERNAME_FIELD this is, or None; an e-mail address by the rule of `find_by_email`."""
    user_model = get_user_model()
    if user_model.get_email_field_name() == user_model.USERNAME_FIELD:
        return find_by_email(username)
    return user_model._default_manager.filter(**{user_model.USERNAME_FIELD: username}).first()


def _same_address(typed: str, stored: str) -> bool:
    return typed.lower() == stored.lower() and typed.isascii() == stored.isascii()


class EmailBackend(ModelBackend):
    """Log in with e-mail and password, doing the same work for every address.

    The API gives both `username` and `email`, and has counted. One that comes alone, as from Django admin's form (a
    `username`, looked up in USERNAME_FIELD) or HTTP Basic, is counted here: no other door is wider than the API's.
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
        """Do the same: ModelBackend's own would find by username, uncounted."""
        return await sync_to_async(self.authenticate)(request, username, password, **kwargs)

    @sensitive_variables()
    def _check(self, user: Any, password: str) -> Any:
        """Return the user if the password is theirs and they may log in; the same work for nobody."""
        if user is None:
            make_password(password)
            return None
        if not self._check_password(user, password) or not self.user_can_authenticate(user):
            return None
        return user

    @sensitive_variables()
    def _check_password(self, user: Any, password: str) -> bool:
        """Check a password; upgrade an old hash only where it is still the one that was checked."""
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
    """Count a log-in by a form, an account by its address: the API counts the same.

    Raises PermissionDenied, at which Django asks no further backend.
    """
    who = caller.of(request)
    if user is not None:
        name = getattr(user, user.get_email_field_name(), "") or name
    try:
        return limits.take_login(name, who, is_familiar=lambda: events.is_familiar(user, who))
    except limits.Limited as limited:
        if limited.is_first:
            events.record(AuthEvent.Kind.LOGIN_LIMITED, who=who, reason="limited, by a form")
        setattr(request, LIMITED, True)
        raise PermissionDenied from None


def record_failed_login_elsewhere(*, credentials: dict[str, Any], request: Any = None, **kwargs: Any) -> None:
    """Record a login that another door refused, in the name of the account that was tried."""
    # Ours gives both names, and has an event of its own; a limit has too.
    if request is None or {"username", "email"} <= credentials.keys() or hasattr(request, LIMITED):
        return
    name = credentials.get("username") or credentials.get(get_user_model().USERNAME_FIELD)
    user = find_by_username(name) if isinstance(name, str) else None
    events.record_if_possible(
        AuthEvent.Kind.LOGIN_FAILED, reason="credentials, by a form", user=user, who=caller.of(request)
    )


class PublicRoleBackend(BaseBackend):
    """Give everybody, anonymous or not, the permissions of the group named by PUBLIC_ROLE.

    So `user.has_perm`, `perms` in templates, `permission_required` and DRF's `DjangoModelPermissions` agree
    with `PrivateByDefault`. As in `ModelBackend`, a deactivated user has none, and none is about one object.
    """

    def get_group_permissions(self, user_obj: Any, obj: Any = None) -> set[str]:
        if obj is not None or not (user_obj.is_anonymous or user_obj.is_active):
            return set()
        return set(public_role.permissions_of(user_obj))

    def has_module_perms(self, user_obj: Any, app_label: str) -> bool:
        """Return whether everybody has any permission in an app."""
        return any(name.partition(".")[0] == app_label for name in self.get_all_permissions(user_obj))

    async def ahas_module_perms(self, user_obj: Any, app_label: str) -> bool:
        return await sync_to_async(self.has_module_perms)(user_obj, app_label)
