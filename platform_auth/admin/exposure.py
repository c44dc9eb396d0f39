"""The page in Django admin that shows what the public role exposes."""

from __future__ import annotations

from django.contrib.admin import AdminSite
from django.contrib.auth.models import Group
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse
from django.template.response import TemplateResponse
from django.utils.translation import gettext as _

from .. import public_role
from ..conf import conf
from ..public_role import exposure


def page(request: HttpRequest, *, site: AdminSite) -> HttpResponse:
    """List every route of the host that answers without a token, for users who may see groups."""
    if not request.user.has_perm("auth.view_group") and not request.user.has_perm("auth.change_group"):
        raise PermissionDenied
    context = {
        **site.each_context(request),
        "title": _("What the public role exposes"),
        "routes": exposure.exposed(),
        "public_role": conf.PUBLIC_ROLE,
        "group": Group.objects.filter(name=conf.PUBLIC_ROLE).first(),
        "permissions": sorted(public_role.permissions()),
        "ignored": public_role.reserved(),
    }
    return TemplateResponse(request, "admin/platform_auth/exposure.html", context)
