"""Second factors in Django admin."""

from __future__ import annotations

from django.contrib import admin, messages
from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils.translation import gettext_lazy as _
from django.utils.translation import ngettext, pgettext_lazy

from ..models import TOTPFactor
from ..second_factor import enrolment, verification
from .rows import ReadOnlyAdmin


@admin.register(TOTPFactor)
class TOTPFactorAdmin(ReadOnlyAdmin):
    """Second factors, read-only; an action removes them."""

    list_display = ("created_at", "user_link", "is_confirmed", "last_used_at")
    list_filter = (
        ("created_at", admin.DateFieldListFilter),
        ("last_used_at", admin.DateFieldListFilter),
    )
    fields = ("user_link", "is_confirmed", "created_at", "last_used_at", "recovery_codes")
    actions = ("reset_factors",)

    # django-otp's own name isn't translated.
    @admin.display(description=pgettext_lazy("second factor", "confirmed"), boolean=True)
    def is_confirmed(self, factor: TOTPFactor) -> bool:
        return bool(factor.confirmed)

    @admin.display(description=_("recovery codes left"))
    def recovery_codes(self, factor: TOTPFactor) -> int:
        return verification.recovery_codes_left(factor.user)

    @admin.action(description=_("Remove these users' second factors"), permissions=["end"])
    def reset_factors(self, request: HttpRequest, rows: QuerySet[TOTPFactor]) -> None:
        count = sum(
            enrolment.reset_by_admin(factor.user, request=request) for factor in rows.select_related("user")
        )
        text = ngettext("%(count)d second factor removed.", "%(count)d second factors removed.", count)
        self.message_user(request, text % {"count": count}, messages.SUCCESS)
