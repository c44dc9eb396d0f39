"""Django admin of accounts: sessions, reset links, second factors, events, and the user's own page."""

from __future__ import annotations

import re
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

from django.contrib import admin, messages
from django.contrib.admin.sites import all_sites
from django.contrib.admin.utils import quote, unquote
from django.contrib.auth import get_user_model
from django.contrib.auth.models import Group
from django.core.exceptions import PermissionDenied, ValidationError
from django.core.paginator import Paginator
from django.db.models import QuerySet
from django.forms.models import BaseInlineFormSet
from django.http import HttpRequest, HttpResponse
from django.template.response import TemplateResponse
from django.urls import NoReverseMatch, path, reverse
from django.utils import timezone
from django.utils.html import format_html
from django.utils.translation import gettext_lazy as _
from django.utils.translation import ngettext, pgettext_lazy

from .. import caller, events, public_role, sessions
from ..conf import conf
from ..models import AuthEvent, OAuthIdentity, OAuthProvider, PasswordResetToken, RefreshSession, TOTPFactor
from ..public_role import exposure
from ..second_factor import enrolment, verification

if TYPE_CHECKING:
    RowModelAdmin = admin.ModelAdmin[Any]
    RowTabularInline = admin.TabularInline[Any, Any]
    RowFormSet = BaseInlineFormSet[Any, Any, Any]
    RowPaginator = Paginator[Any]
else:
    RowModelAdmin = admin.ModelAdmin
    RowTabularInline = admin.TabularInline
    RowFormSet = BaseInlineFormSet
    RowPaginator = Paginator

# Sessions, reset links, factors, events: to look at, and to end

AT_MOST = 10_000
"""Rows that a list counts; behind them its pages stop. Search and filters lead further."""


def is_hidden(options: Any, lookup: str) -> bool:
    """Return whether a query of a list asks for a column that no page shows.

    Whether there are rows for ever longer prefixes would spell out what stands there.
    """
    field = {field.name: field for field in options.fields}.get(lookup.partition("__")[0])
    return field is not None and not field.editable and not field.primary_key


class CappedPaginator(RowPaginator):
    """Counts no more rows than AT_MOST, so that a list costs the same at a thousand rows and at a million."""

    @cached_property
    def count(self) -> int:
        rows: Any = self.object_list
        return int(rows.order_by()[:AT_MOST].count())


class LiveFilter(admin.SimpleListFilter):
    """Rows whose time is not over, or is."""

    title = pgettext_lazy("session", "state")
    parameter_name = "state"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, Any]]:
        return [("live", pgettext_lazy("session", "live")), ("expired", pgettext_lazy("session", "expired"))]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        lookup = {"live": "expires_at__gt", "expired": "expires_at__lte"}.get(self.value() or "")
        return queryset.filter(**{lookup: timezone.now()}) if lookup else queryset


class ProviderFilter(admin.SimpleListFilter):
    """The provider of a log-in. Asks the few providers, not the many rows."""

    title = _("provider")
    parameter_name = "provider"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, Any]]:
        return [(key, label or key) for key, label in OAuthProvider.objects.values_list("key", "label")]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        return queryset.filter(provider=self.value()) if self.value() else queryset


class ReadOnlyAdmin(RowModelAdmin):
    """To look at. Rows are not added, changed or deleted by hand, but may go together with their user."""

    paginator = CappedPaginator
    show_full_result_count = False
    # Each would count all rows.
    show_facets = admin.ShowFacets.NEVER
    list_select_related = ("user",)
    list_per_page = 50
    ends_with_user = True

    class Media:
        css: ClassVar[dict[str, list[str]]] = {"all": ["platform_auth/admin.css"]}

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> Any:
        return self.fields

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Refuse on our own pages; a page that deletes a user asks too, and takes the user's rows along."""
        name = (request.resolver_match and request.resolver_match.url_name) or ""
        own_pages = f"{self.opts.app_label}_{self.opts.model_name}_"
        # The pages that delete: one row, and those selected in a list.
        deletes = name.endswith(("_delete", "_changelist"))
        return self.ends_with_user and deletes and not name.startswith(own_pages)

    def has_end_permission(self, request: HttpRequest) -> bool:
        """Return whether a user may end what is listed here: Django's permission to delete it."""
        return request.user.has_perm(f"{self.opts.app_label}.delete_{self.opts.model_name}")

    def lookup_allowed(self, lookup: str, value: Any, request: HttpRequest) -> bool:
        return not is_hidden(self.opts, lookup) and super().lookup_allowed(lookup, value, request)

    def response_action(
        self, request: HttpRequest, queryset: QuerySet[Any], *args: Any, **kwargs: Any
    ) -> Any:
        """Refuse to do to all rows what the page said of AT_MOST."""
        if queryset.order_by()[: AT_MOST + 1].count() > AT_MOST and request.POST.get("select_across") == "1":
            text = _("These are more than %(limit)d. Narrow the list by a filter or a search first.")
            self.message_user(request, text % {"limit": AT_MOST}, messages.ERROR)
            return None
        return super().response_action(request, queryset, *args, **kwargs)

    def get_search_fields(self, request: HttpRequest) -> list[str]:
        model = get_user_model()
        names = {model.get_email_field_name(), model.USERNAME_FIELD}
        return [*(f"user__{name}__istartswith" for name in sorted(names)), *self.search_fields]

    @admin.display(description=_("user"), ordering="user")
    def user_link(self, row: Any) -> str:
        return _link_to_user(row.user)


@admin.register(RefreshSession)
class RefreshSessionAdmin(ReadOnlyAdmin):
    """Who is logged in, from where, since when."""

    # What does not fit into the width of a screen stands last.
    list_display = (
        "user_link",
        "device",
        "ip_address",
        "created_at",
        "rotated_at",
        "expires_at",
        "provider",
        "amr",
    )
    list_display_links = ("device",)
    search_fields = ("ip_address__iexact",)
    fields = (
        "user_link",
        "device",
        "user_agent",
        "ip_address",
        "provider",
        "amr",
        "mode",
        "tfa_required",
        "created_at",
        "rotated_at",
        "expires_at",
        "events_link",
    )
    actions = ("end_sessions", "end_all_of_users")
    list_filter = (LiveFilter, ProviderFilter, "mode", ("created_at", admin.DateFieldListFilter))

    @admin.display(description=_("device"))
    def device(self, session: RefreshSession) -> str:
        return caller.device_name(session.user_agent) or str(_("unknown"))

    @admin.display(description=pgettext_lazy("authentication", "events"))
    def events_link(self, session: RefreshSession) -> str:
        url = reverse("admin:platform_auth_authevent_changelist")
        digest = events.session_digest(session.pk)
        return format_html('<a href="{}?session_digest={}">{}</a>', url, digest, _("Show"))

    @admin.action(description=_("End these sessions"), permissions=["end"])
    def end_sessions(self, request: HttpRequest, rows: QuerySet[RefreshSession]) -> None:
        count = 0
        for session in rows.iterator(chunk_size=1000):
            sessions.revoke(session, request=request, reason=_by(request))
            count += 1
        text = ngettext("%(count)d session ended.", "%(count)d sessions ended.", count)
        self.message_user(request, text % {"count": count}, messages.SUCCESS)

    @admin.action(description=_("End all sessions of these users"), permissions=["end"])
    def end_all_of_users(self, request: HttpRequest, rows: QuerySet[RefreshSession]) -> None:
        count = 0
        for user in get_user_model()._default_manager.filter(pk__in=rows.order_by().values("user")):
            count += sessions.revoke_all(user)
            events.record(
                AuthEvent.Kind.SESSION_REVOKED,
                user=user,
                who=caller.of(request),
                reason=f"all, {_by(request)}",
            )
        text = ngettext("%(count)d session ended.", "%(count)d sessions ended.", count)
        self.message_user(request, text % {"count": count}, messages.SUCCESS)


@admin.register(PasswordResetToken)
class PasswordResetTokenAdmin(ReadOnlyAdmin):
    """Links of reset mails that are still good."""

    list_display = ("created_at", "user_link", "ip_address", "expires_at")
    list_filter = (LiveFilter, ("created_at", admin.DateFieldListFilter))
    search_fields = ("ip_address__iexact",)
    fields = ("user_link", "ip_address", "created_at", "expires_at")
    actions = ("withdraw_links",)

    @admin.action(description=_("Withdraw these links"), permissions=["end"])
    def withdraw_links(self, request: HttpRequest, rows: QuerySet[PasswordResetToken]) -> None:
        count = 0
        for token in rows.select_related("user").iterator(chunk_size=1000):
            if rows.model._default_manager.filter(pk=token.pk).delete()[0]:
                _record(request, f"withdrew a reset link of user {token.user_id}")
                count += 1
        text = ngettext("%(count)d link withdrawn.", "%(count)d links withdrawn.", count)
        self.message_user(request, text % {"count": count}, messages.SUCCESS)


@admin.register(TOTPFactor)
class TOTPFactorAdmin(ReadOnlyAdmin):
    """Who has a second factor."""

    list_display = ("created_at", "user_link", "is_confirmed", "last_used_at")
    list_filter = (
        ("created_at", admin.DateFieldListFilter),
        ("last_used_at", admin.DateFieldListFilter),
    )
    fields = ("user_link", "is_confirmed", "created_at", "last_used_at", "recovery_codes")
    actions = ("reset_factors",)

    # django-otp's own name for it is not translated.
    @admin.display(description=pgettext_lazy("second factor", "confirmed"), boolean=True)
    def is_confirmed(self, factor: TOTPFactor) -> bool:
        return bool(factor.confirmed)

    @admin.display(description=_("recovery codes left"))
    def recovery_codes(self, factor: TOTPFactor) -> int:
        return verification.recovery_codes_left(factor.user)

    @admin.action(description=_("Remove the second factor of these users"), permissions=["end"])
    def reset_factors(self, request: HttpRequest, rows: QuerySet[TOTPFactor]) -> None:
        count = sum(
            enrolment.reset_by_admin(factor.user, request=request) for factor in rows.select_related("user")
        )
        text = ngettext("%(count)d second factor removed.", "%(count)d second factors removed.", count)
        self.message_user(request, text % {"count": count}, messages.SUCCESS)


@admin.register(AuthEvent)
class AuthEventAdmin(ReadOnlyAdmin):
    """What happened. Nobody changes it here."""

    list_display = ("created_at", "kind", "user_link", "reason", "ip_address", "provider", "session_digest")
    list_filter = ("kind", ProviderFilter, ("created_at", admin.DateFieldListFilter))
    search_fields = ("ip_address__iexact", "session_digest__exact")
    fields = (
        "created_at",
        "kind",
        "user_link",
        "ip_address",
        "user_agent",
        "provider",
        "reason",
        "session_digest",
    )
    ends_with_user = False

    def lookup_allowed(self, lookup: str, value: Any, request: HttpRequest) -> bool:
        return lookup == "user__id__exact" or super().lookup_allowed(lookup, value, request)

    def get_urls(self) -> list[Any]:
        """Bring the page that lists what the public role exposes."""
        page = self.admin_site.admin_view(self.exposure_view)
        return [path("exposure/", page, name="platform_auth_exposure"), *super().get_urls()]

    def exposure_view(self, request: HttpRequest) -> HttpResponse:
        """List every route of the host that answers without a token, for those who may see groups."""
        if not request.user.has_perm("auth.view_group") and not request.user.has_perm("auth.change_group"):
            raise PermissionDenied
        context = {
            **self.admin_site.each_context(request),
            "title": _("What the public role exposes"),
            "routes": exposure.exposed(),
            "public_role": conf.PUBLIC_ROLE,
            "group": Group.objects.filter(name=conf.PUBLIC_ROLE).first(),
            "permissions": sorted(public_role.permissions()),
            "ignored": public_role.reserved(),
        }
        return TemplateResponse(request, "admin/platform_auth/exposure.html", context)


# The user's own page

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
        sessions.revoke(row, request=request, reason=_by(request))


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
            reason=_by(request),
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


def _link_to_user(user: Any) -> str:
    """Return a link to a user's page where there is one, else the name."""
    if user is None:
        return "-"
    try:
        url = reverse(f"admin:{user._meta.app_label}_{user._meta.model_name}_change", args=[quote(user.pk)])
    except NoReverseMatch:
        return str(user)
    return format_html('<a href="{}">{}</a>', url, user)


def _by(request: HttpRequest) -> str:
    return f"admin {request.user.pk}"


def _record(request: HttpRequest, reason: str) -> None:
    events.record(AuthEvent.Kind.ADMIN_CHANGED, user=request.user, who=caller.of(request), reason=reason)
