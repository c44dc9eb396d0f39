"""Providers in Django admin."""

from __future__ import annotations

from typing import Any

from django.contrib import admin, messages
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import NoReverseMatch
from django.utils.decorators import method_decorator
from django.utils.html import format_html
from django.utils.translation import gettext_lazy as _
from django.utils.translation import ngettext, pgettext_lazy
from django.views.decorators.debug import sensitive_post_parameters

from ..models import OAuthProvider
from ..providers import backends, probe
from .provider_form import HARMLESS_FIELDS, SECRET_FIELDS, OAuthProviderForm
from .rows import AuthAdmin, record


@admin.register(OAuthProvider)
class OAuthProviderAdmin(AuthAdmin):
    """Providers. Django's permissions say who may see them, one of our own who may change where they point."""

    form = OAuthProviderForm
    list_display = ("label", "key", "kind", "enabled", "order", "tested_at")
    list_filter = ("enabled", "kind")
    search_fields = ("key", "label")
    filter_horizontal = ("groups",)
    readonly_fields = ("callback_url", "tested_at", "test_result")
    actions = ("test_providers", "enable_providers", "disable_providers")
    change_form_template = "admin/platform_auth/oauthprovider/change_form.html"
    fieldsets = (
        (None, {"fields": ("key", "label", "kind", "callback_url", "icon", "order", "enabled")}),
        (pgettext_lazy("OAuth provider", "Client"), {"fields": ("client_id", "client_secret", "scopes")}),
        (_("OpenID Connect, GitLab, Microsoft"), {"fields": ("issuer", "tenant")}),
        (_("Apple"), {"classes": ("collapse",), "fields": ("team_id", "key_id", "private_key")}),
        (
            _("OAuth 2.0 (manual URLs)"),
            {
                "classes": ("collapse",),
                "fields": (
                    "authorization_url",
                    "token_url",
                    "userinfo_url",
                    "client_authentication",
                    "id_field",
                    "email_field",
                    "email_verified_field",
                ),
            },
        ),
        (_("Who can log in"), {"fields": ("may_create_users", "groups", "email_linking", "allowed_domains")}),
        (pgettext_lazy("OAuth provider", "Test"), {"fields": ("tested_at", "test_result")}),
        (pgettext_lazy("OAuth provider", "Confirm"), {"fields": ("own_password",)}),
    )

    @admin.display(description=_("callback URL to register"))
    def callback_url(self, provider: OAuthProvider) -> str:
        try:
            url = backends.callback_url(provider)
        except NoReverseMatch:
            return str(_("Save the provider first: the URL contains its key."))
        return format_html('<input type="text" readonly dir="ltr" class="vLargeTextField" value="{}">', url)

    @admin.action(description=_("Test these providers"), permissions=["change"])
    def test_providers(self, request: HttpRequest, rows: QuerySet[OAuthProvider]) -> None:
        for provider in rows:
            self._test(request, provider)

    @admin.action(description=_("Enable these providers"), permissions=["change"])
    def enable_providers(self, request: HttpRequest, rows: QuerySet[OAuthProvider]) -> None:
        self._set_enabled(request, rows, enabled=True)

    @admin.action(description=_("Disable these providers"), permissions=["change"])
    def disable_providers(self, request: HttpRequest, rows: QuerySet[OAuthProvider]) -> None:
        self._set_enabled(request, rows, enabled=False)

    # Permissions

    def may_point_elsewhere(self, request: HttpRequest) -> bool:
        """Return whether a user may change where a provider points and whom it lets in."""
        return request.user.has_perm("platform_auth.change_provider_secrets")

    def has_add_permission(self, request: HttpRequest) -> bool:
        return super().has_add_permission(request) and self.may_point_elsewhere(request)

    def get_readonly_fields(self, request: HttpRequest, obj: OAuthProvider | None = None) -> list[str]:
        fields = [*super().get_readonly_fields(request, obj)]
        if self.may_point_elsewhere(request):
            return fields
        names = [field.name for field in self.opts.get_fields() if getattr(field, "editable", False)]
        return [*fields, *(name for name in names if name not in HARMLESS_FIELDS)]

    def get_fieldsets(self, request: HttpRequest, obj: OAuthProvider | None = None) -> Any:
        """Leave out write-only fields for users who may not change them."""
        fieldsets = super().get_fieldsets(request, obj)
        if self.may_point_elsewhere(request) and (obj is None or self.has_change_permission(request, obj)):
            return fieldsets
        hidden = {*SECRET_FIELDS, "own_password"}
        kept = [
            (name, {**options, "fields": tuple(field for field in options["fields"] if field not in hidden)})
            for name, options in fieldsets
        ]
        return [(name, options) for name, options in kept if options["fields"]]

    def get_form(
        self, request: HttpRequest, obj: OAuthProvider | None = None, change: bool = False, **kwargs: Any
    ) -> Any:
        form: Any = super().get_form(request, obj, change=change, **kwargs)
        facts = {"request": request, "may_point_elsewhere": self.may_point_elsewhere(request)}
        return type(form.__name__, (form,), facts)

    @method_decorator(sensitive_post_parameters())
    def changeform_view(self, request: HttpRequest, *args: Any, **kwargs: Any) -> Any:
        return super().changeform_view(request, *args, **kwargs)

    def save_model(self, request: HttpRequest, obj: OAuthProvider, form: Any, change: bool) -> None:
        super().save_model(request, obj, form, change)
        changed = ", ".join(name for name in form.changed_data if name != "own_password")
        record(request, f"provider changed: {changed}" if change else "provider added", provider=obj.key)

    def log_deletions(self, request: HttpRequest, queryset: Any) -> Any:
        """Record each deletion as an event too."""
        for provider in queryset:
            record(request, "provider deleted", provider=provider.key)
        return super().log_deletions(request, queryset)

    def response_change(self, request: HttpRequest, obj: OAuthProvider) -> HttpResponse:
        if "_test" in request.POST:
            self._test(request, obj)
            return HttpResponseRedirect(request.path)
        return super().response_change(request, obj)

    def _test(self, request: HttpRequest, provider: OAuthProvider) -> None:
        is_well = probe.test(provider)
        lines = provider.test_result.splitlines()
        text = _("%(provider)s: no problems found.") if is_well else _("%(provider)s: %(lines)s")
        facts = {"provider": provider, "lines": " ".join(line for line in lines if line.startswith("✗"))}
        self.message_user(request, text % facts, messages.SUCCESS if is_well else messages.ERROR)

    def _set_enabled(self, request: HttpRequest, rows: QuerySet[OAuthProvider], *, enabled: bool) -> None:
        for provider in rows:
            provider.enabled = enabled
            provider.save(update_fields=["enabled", "updated_at"])
            self.log_change(request, provider, [{"changed": {"fields": ["enabled"]}}])
            record(request, f"provider changed: enabled={enabled}", provider=provider.key)
        text = ngettext("%(count)d provider changed.", "%(count)d providers changed.", len(rows))
        self.message_user(request, text % {"count": len(rows)}, messages.SUCCESS)
