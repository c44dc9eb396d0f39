"""DRF permissions: private by default."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from django.contrib.auth import get_permission_codename
from rest_framework.permissions import BasePermission

from . import public_role

if TYPE_CHECKING:
    # DRF's views import this module through DEFAULT_PERMISSION_CLASSES, so it can't import them.
    from rest_framework.request import Request
    from rest_framework.views import APIView

logger = logging.getLogger("platform_auth")

ACTIONS = {
    "GET": "view",
    "HEAD": "view",
    "POST": "add",
    "PUT": "change",
    "PATCH": "change",
    "DELETE": "delete",
}
"""The model permission that each method needs. Methods that aren't listed (OPTIONS) are closed to anonymous requests.
"""


class PrivateByDefault(BasePermission):
    """Allow signed-in users, and anonymous requests that the public role has the permission for.

    The model is that of the view's `queryset`, `get_queryset()` or `model`. A view without one is closed to anonymous
    requests. To open a view to everyone, give it DRF's `AllowAny` instead. Finer rights of signed-in users are up to
    the host: add `DjangoModelPermissions` (or another class), or combine them with `&` and `|`.
    """

    def has_permission(self, request: Request, view: APIView) -> bool:
        # None if the host sets UNAUTHENTICATED_USER to None.
        user: Any = request.user
        if user is not None and user.is_authenticated:
            return True
        permission = permission_needed(request.method or "", view)
        return permission is not None and permission in public_role.permissions_of(user)


def permission_needed(method: str, view: Any) -> str | None:
    """Return the permission that an anonymous request needs, as "app_label.codename"; None if there is none."""
    action = ACTIONS.get(method)
    model = model_of(view) if action else None
    if action is None or model is None:
        return None
    options = model._meta
    return f"{options.app_label}.{get_permission_codename(action, options)}"


def model_of(view: Any) -> Any:
    """Return the model of a view, or None.

    If `get_queryset` fails, for example because it expects a signed-in user, the view stays closed.
    """
    from rest_framework.generics import GenericAPIView

    get_queryset = getattr(view, "get_queryset", None)
    is_stock = getattr(type(view), "get_queryset", None) is GenericAPIView.get_queryset
    try:
        if get_queryset is not None and not (is_stock and view.queryset is None):
            return get_queryset().model
        if getattr(view, "queryset", None) is not None:
            return view.queryset.model
    except Exception as error:
        # No traceback: anyone can send such a request, as often as they like.
        logger.warning(
            "the model of %s could not be determined, so the view is closed: %r", type(view).__name__, error
        )
        return None
    model = getattr(view, "model", None)
    return model if hasattr(model, "_meta") else None
