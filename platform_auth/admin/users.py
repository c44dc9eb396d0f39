"""A user's own page in Django admin: sessions, second factor and provider accounts, to look at and to end."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, ClassVar

from django.contrib import admin
from django.contrib.admin.sites import all_sites
from django.contrib.admin.utils import unquote
from django.contrib.auth import get_user_model
from django.core.exceptions import ValidationError
from django.db.models import QuerySet
from django.forms.models import BaseInlineFormSet
from django.http import HttpRequest
from django.utils.translation import gettext_lazy as _

from .. import caller, events, sessions
from ..models import AuthEvent, OAuthIdentity, RefreshSession, TOTPFactor
from ..second_factor import enrolment, verification
from .rows import by

if TYPE_CHECKING:
    RowTabularInline = admin.TabularInline[Any, Any]
    RowFormSet = BaseInlineFormSet[Any, Any, Any]
else:
    RowTabularInline = admin.TabularInline
    RowFormSet = BaseInlineFormSet

SHOWN_AT_ONCE = 20


class EndingFormSet(RowFormSet):
    """Ends the rows that are marked, instead of deleting them unheard."""

    request: HttpRequest
    end: Any

    def delete_existing(self, obj: Any, commit: bool = True) -> None:
        # At once: a host that saves by commit=False deletes the objects itself, which ends nothing else.
        self.end(self.request, obj)


class UserInline(RowTabularInline):
    """Rows of one user on the user's page: to look at, and to end by "Delete?"."""

    extra = 0
    can_delete = True
    show_change_link = True

    class Media:
        css: ClassVar[dict[str, list[str]]] = {"all": ["platform_auth/admin.css"]}

    def get_formset(self, request: HttpRequest, obj: Any = None, **kwargs: Any) -> Any:
        formset: Any = super().get_formset(request, obj, formset=EndingFormSet, **kwargs)
        return type(formset.__name__, (formset,), {"request": request, "end": staticmethod(self.end)})

    def end(self, request: HttpRequest, row: Any) -> None:
        """End one row, as the user could."""
        raise NotImplementedError

    def get_queryset(self, request: HttpRequest) -> QuerySet[Any]:
        """Return the newest rows of the page's user, and those that the page which comes back had.

        Without the latter, a row that was marked and is among the newest no more would be left alone.
        """
        rows: QuerySet[Any] = self.model._default_manager.all()
        object_id = request.resolver_match.kwargs.get("object_id") if request.resolver_match else None
        user_id = unquote(object_id) if object_id else None
        try:
            of_user = rows.filter(user_id=user_id).order_by("-created_at")
            newest = list(of_user.values_list("pk", flat=True)[:SHOWN_AT_ONCE])
            return of_user.filter(pk__in=[*newest, *self._came_back(request)])
        except (ValueError, ValidationError):
            return rows.none()

    def _came_back(self, request: HttpRequest) -> list[Any]:
        """Return the keys of this inline's rows in a page that was sent. Raises ValidationError."""
        key = self.opts.pk
        field = self.model._meta.get_field("user")
        prefix = field.remote_field.get_accessor_name()
        shape = re.compile(rf"{re.escape(str(prefix))}-\d+-{key.name}")
        return [
            key.to_python(value) for name, value in request.POST.items() if shape.fullmatch(name) and value
        ]

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> Any:
        return self.fields

    def has_add_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_view_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Show it on the page of a user who is there, not on the form for a new one."""
        return obj is not None and super().has_view_permission(request, obj)

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return obj is not None and super().has_delete_permission(request, obj)


class SessionInline(UserInline):
    """The sessions of a user."""

    model = RefreshSession
    verbose_name_plural = _("sessions (mark to end)")
    fields = ("device", "ip_address", "provider", "amr", "created_at", "rotated_at", "expires_at")

    @admin.display(description=_("device"))
    def device(self, session: RefreshSession) -> str:
        return caller.device_name(session.user_agent) or str(_("unknown"))

    def end(self, request: HttpRequest, row: RefreshSession) -> None:
        sessions.revoke(row, request=request, reason=by(request))


class FactorInline(UserInline):
    """The second factor of a user."""

    model = TOTPFactor
    verbose_name = verbose_name_plural = _("second factor (mark to remove)")
    fields = ("created_at", "last_used_at", "recovery_codes")

    @admin.display(description=_("recovery codes left"))
    def recovery_codes(self, factor: TOTPFactor) -> int:
        return verification.recovery_codes_left(factor.user)

    def end(self, request: HttpRequest, row: TOTPFactor) -> None:
        enrolment.reset_by_admin(row.user, request=request)


class IdentityInline(UserInline):
    """The provider accounts of a user."""

    model = OAuthIdentity
    verbose_name_plural = _("linked provider accounts (mark to unlink)")
    fields = ("provider", "email", "subject", "created_at", "last_used_at")

    def get_queryset(self, request: HttpRequest) -> QuerySet[Any]:
        return super().get_queryset(request).select_related("provider")

    def end(self, request: HttpRequest, row: OAuthIdentity) -> None:
        row.delete()
        events.record(
            AuthEvent.Kind.IDENTITY_UNLINKED,
            user=row.user,
            who=caller.of(request),
            provider=row.provider.key,
            reason=by(request),
        )


USER_INLINES = (SessionInline, FactorInline, IdentityInline)


class UserInlines:
    """For the bases of a host's UserAdmin, in front: sessions, second factor and provider accounts on its page."""

    def get_inlines(self, request: HttpRequest, obj: Any) -> list[Any]:
        """Return the host's inlines, then ours, each once."""
        own = list(super().get_inlines(request, obj))  # type: ignore[misc]
        return [*own, *(inline for inline in USER_INLINES if inline not in own)]


def show_on_user_pages() -> None:
    """Add our inlines to the pages of users that the host has registered. Once, when the apps are ready."""
    for site in all_sites:
        user_admin: Any = site._registry.get(get_user_model())
        if user_admin is not None and not isinstance(user_admin, UserInlines):
            user_admin.inlines = [*user_admin.inlines, *USER_INLINES]
