"""What our lists share: no search of secret columns, capped counts, and rows that can be viewed and ended but not
edited.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any, ClassVar

from django.contrib import admin, messages
from django.contrib.admin.utils import quote
from django.contrib.auth import get_user_model
from django.core.paginator import Paginator
from django.db.models import QuerySet
from django.http import HttpRequest
from django.urls import NoReverseMatch, reverse
from django.utils import timezone
from django.utils.html import format_html
from django.utils.http import urlencode
from django.utils.translation import gettext_lazy as _
from django.utils.translation import pgettext_lazy

from .. import caller, events
from ..models import AuthEvent, OAuthProvider

AT_MOST = 10_000
"""How many rows a list counts. Later rows can only be found by search or filters."""


def capped_count(rows: QuerySet[Any]) -> int:
    """Return the number of rows, but at most AT_MOST, so that the work doesn't grow with the table."""
    return rows.order_by()[:AT_MOST].count()


def by(request: HttpRequest) -> str:
    """Return how events name the admin who did something."""
    return f"admin {request.user.pk}"


def link(page: str, text: object, *args: object, **query: Any) -> str:
    """Return a link to an admin page, such as "app_model_changelist", or just the text if there is no such page."""
    try:
        url = reverse(f"admin:{page}", args=args)
    except NoReverseMatch:
        return str(text)
    return format_html('<a href="{}{}">{}</a>', url, f"?{urlencode(query)}" if query else "", text)


def record(request: HttpRequest, what: str, *, provider: str = "") -> None:
    """Record an action of the admin who sent a request."""
    who = caller.of(request)
    events.record(AuthEvent.Kind.ADMIN_CHANGED, user=request.user, who=who, provider=provider, reason=what)


class CappedPaginator(Paginator):  # type: ignore[type-arg]
    """Counts at most AT_MOST rows."""

    @cached_property
    def count(self) -> int:
        return capped_count(self.object_list)  # type: ignore[arg-type]


class LiveFilter(admin.SimpleListFilter):
    """Filters live or expired rows."""

    title = pgettext_lazy("session", "state")
    parameter_name = "state"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, Any]]:
        return [("live", pgettext_lazy("session", "live")), ("expired", pgettext_lazy("session", "expired"))]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        lookup = {"live": "expires_at__gt", "expired": "expires_at__lte"}.get(self.value() or "")
        return queryset.filter(**{lookup: timezone.now()}) if lookup else queryset


class ProviderFilter(admin.SimpleListFilter):
    """Filters by the provider of a login. Queries the few providers, not the many rows."""

    title = _("provider")
    parameter_name = "provider"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, Any]]:
        return [(key, label or key) for key, label in OAuthProvider.objects.values_list("key", "label")]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        return queryset.filter(provider=self.value()) if self.value() else queryset


class AuthAdmin(admin.ModelAdmin):  # type: ignore[type-arg]
    """A list that can't be searched by secret columns: otherwise lookups of ever longer prefixes would spell out
    their values.
    """

    class Media:
        css: ClassVar[dict[str, list[str]]] = {"all": ["platform_auth/admin.css"]}

    def lookup_allowed(self, lookup: str, value: Any, request: HttpRequest) -> bool:
        field = {field.name: field for field in self.opts.fields}.get(lookup.partition("__")[0])
        is_hidden = field is not None and not field.editable and not field.primary_key
        return not is_hidden and super().lookup_allowed(lookup, value, request)


class ReadOnlyAdmin(AuthAdmin):
    """A read-only list. Rows can't be added, changed or deleted by hand, but may be deleted along with their user."""

    paginator = CappedPaginator
    show_full_result_count = False
    # Each of these would count all rows.
    show_facets = admin.ShowFacets.NEVER
    list_select_related: ClassVar[tuple[str, ...]] = ("user",)
    list_per_page = 50
    ends_with_user = True

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Refuse deleting on our own pages. A page that deletes a user asks too, and may delete the user's rows."""
        name = (request.resolver_match and request.resolver_match.url_name) or ""
        own_pages = f"{self.opts.app_label}_{self.opts.model_name}_"
        # The pages that delete one row, and those selected in a list.
        deletes = name.endswith(("_delete", "_changelist"))
        return self.ends_with_user and deletes and not name.startswith(own_pages)

    def has_end_permission(self, request: HttpRequest) -> bool:
        """Return whether a user may end what is listed here: Django's permission to delete it."""
        return request.user.has_perm(f"{self.opts.app_label}.delete_{self.opts.model_name}")

    def response_action(
        self, request: HttpRequest, queryset: QuerySet[Any], *args: Any, **kwargs: Any
    ) -> Any:
        """Refuse an action on all rows if there are more than the AT_MOST that the page showed."""
        if queryset.order_by()[: AT_MOST + 1].count() > AT_MOST and request.POST.get("select_across") == "1":
            text = _(
                "You selected more than %(limit)d rows. Narrow the list with a filter or a search first."
            )
            self.message_user(request, text % {"limit": AT_MOST}, messages.ERROR)
            return None
        return super().response_action(request, queryset, *args, **kwargs)

    def get_search_fields(self, request: HttpRequest) -> list[str]:
        model = get_user_model()
        names = {model.get_email_field_name(), model.USERNAME_FIELD}
        return [*(f"user__{name}__istartswith" for name in sorted(names)), *self.search_fields]

    @admin.display(description=_("user"), ordering="user")
    def user_link(self, row: Any) -> str:
        """Return a link to the user's page if there is one, else the user's name."""
        user = row.user
        if user is None:
            return "-"
        return link(f"{user._meta.app_label}_{user._meta.model_name}_change", user, quote(user.pk))
