"""Django admin."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Any, ClassVar

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from django import forms
from django.contrib import admin, messages
from django.contrib.auth import authenticate
from django.core.exceptions import ValidationError
from django.core.validators import DomainNameValidator
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import NoReverseMatch
from django.utils import timezone
from django.utils.decorators import method_decorator
from django.utils.html import format_html
from django.utils.text import capfirst
from django.utils.translation import gettext_lazy as _
from django.utils.translation import ngettext, pgettext_lazy
from django.views.decorators.debug import sensitive_post_parameters, sensitive_variables

from .. import caller, events, login
from ..models import AuthEvent, OAuthIdentity, OAuthProvider
from ..providers import backends, flow, outbound, probe
from .accounts import UserInlines as UserInlines
from .accounts import is_hidden

if TYPE_CHECKING:
    ProviderModelForm = forms.ModelForm[OAuthProvider]
    ProviderModelAdmin = admin.ModelAdmin[OAuthProvider]
    IdentityModelAdmin = admin.ModelAdmin[OAuthIdentity]
else:
    ProviderModelForm = forms.ModelForm
    ProviderModelAdmin = IdentityModelAdmin = admin.ModelAdmin

# Providers

HARMLESS_FIELDS = ("label", "icon", "order", "enabled")
"""What a provider's editor may change without the permission for the rest."""
SECRET_FIELDS = ("client_secret", "private_key")

Kind = OAuthProvider.Kind


class WriteOnlyTextarea(forms.Textarea):
    """What is typed is not given back, as with a password."""

    def format_value(self, value: Any) -> str:
        return ""


class OAuthProviderForm(ProviderModelForm):
    """A provider. Secrets are written and never shown; whom it talks to and lets in needs one's own password."""

    client_secret = forms.CharField(
        label=capfirst(_("client secret")),
        required=False,
        max_length=4096,
        widget=forms.PasswordInput(attrs={"autocomplete": "off", "class": "vTextField"}),
        help_text=_("Never shown again. Blank keeps what is stored."),
    )
    private_key = forms.CharField(
        label=capfirst(_("private key")),
        required=False,
        max_length=8192,
        widget=WriteOnlyTextarea(attrs={"autocomplete": "off", "rows": 4, "class": "vLargeTextField"}),
        help_text=_("Apple: the content of the .p8 file. Never shown again. Blank keeps what is stored."),
    )
    own_password = forms.CharField(
        label=capfirst(_("your own password")),
        required=False,
        strip=False,
        widget=forms.PasswordInput(attrs={"autocomplete": "current-password", "class": "vTextField"}),
        help_text=_("Needed for every change but of label, icon, order and enabled."),
    )

    class Meta:
        model = OAuthProvider
        exclude: ClassVar[list[str]] = [
            "sealed_secret",
            "sealed_private_key",
            "tested_at",
            "test_result",
            "created_at",
        ]

    request: HttpRequest
    """The admin's request; set on a subclass for each."""
    may_point_elsewhere: bool
    """Whether its user may change more than HARMLESS_FIELDS; set likewise."""

    @sensitive_variables()
    def clean(self) -> dict[str, Any]:
        values: dict[str, Any] = super().clean() or self.cleaned_data
        self._check_key(values)
        self._check_kind(values)
        self._check_domains(values)
        if set(self.changed_data) - {*HARMLESS_FIELDS, "own_password"}:
            if not self.may_point_elsewhere:
                self.add_error(None, _("You may change label, icon, order and enabled."))
            elif not self.errors:
                self._check_person(values.get("own_password", ""))
        return values

    @sensitive_variables()
    def save(self, commit: bool = True) -> OAuthProvider:
        for name in SECRET_FIELDS:
            if raw := self.cleaned_data.get(name):
                setattr(self.instance, name, raw)
        return super().save(commit)

    def _check_key(self, values: dict[str, Any]) -> None:
        if values.get("key") in flow.RESERVED_KEYS:
            self.add_error("key", _("This word has another meaning in tokens."))

    def _check_kind(self, values: dict[str, Any]) -> None:
        """Ask for what the kind needs, and judge its URLs as the flow will."""
        kind = values.get("kind", self.instance.kind)
        for name in ("authorization_url", "token_url", "userinfo_url", "issuer"):
            if name in values:
                self._check_url(name, values[name], needed=name in _NEEDED.get(kind, ()))
        for name in ("team_id", "key_id", "id_field"):
            if name in values and name in _NEEDED.get(kind, ()) and not values[name]:
                self.add_error(name, _("This kind of provider needs it."))
        if kind == Kind.MICROSOFT and "tenant" in values:
            try:
                values["tenant"] = str(uuid.UUID(values["tenant"]))
            except ValueError:
                self.add_error(
                    "tenant", _("The ID of one tenant, such as 72f988bf-86f1-41af-91ab-2d7cd011db47.")
                )
        if kind == Kind.APPLE:
            self._check_private_key(values.get("private_key", ""))
        elif kind not in (Kind.OIDC, Kind.OAUTH2) and not (
            values.get("client_secret") or self.instance.sealed_secret
        ):
            self.add_error("client_secret", _("This kind of provider needs it."))

    def _check_url(self, name: str, url: str, *, needed: bool) -> None:
        if not url:
            if needed:
                self.add_error(name, _("This kind of provider needs it."))
            return
        try:
            outbound.check_url(url)
        except outbound.Refused:
            self.add_error(name, _("An https URL without credentials and fragment."))

    @sensitive_variables()
    def _check_private_key(self, raw_key: str) -> None:
        if not raw_key:
            if not self.instance.sealed_private_key:
                self.add_error("private_key", _("This kind of provider needs it."))
            return
        try:
            key = load_pem_private_key(raw_key.encode(), password=None)
        except (ValueError, TypeError):
            key = None
        if not isinstance(key, ec.EllipticCurvePrivateKey) or key.curve.name != "secp256r1":
            self.add_error("private_key", _("A private key for ES256 in PEM, as Apple gives it."))

    def _check_domains(self, values: dict[str, Any]) -> None:
        for domain in values.get("allowed_domains", "").split():
            try:
                DomainNameValidator()(domain)
            except ValidationError:
                self.add_error("allowed_domains", _("Domains such as example.com, separated by blanks."))
                return

    @sensitive_variables()
    def _check_person(self, password: str) -> None:
        """Let the admin show again who they are; counted by the limits of log-in."""
        user: Any = self.request.user
        if (
            not user.has_usable_password()
            and user.last_login
            and timezone.now() - user.last_login < login.RECENT
        ):
            return
        found = password and authenticate(self.request, username=user.get_username(), password=password)
        if not found or found.pk != user.pk:
            self.add_error("own_password", _("Enter your own password to change this."))


_NEEDED: dict[Any, tuple[str, ...]] = {
    Kind.OIDC: ("issuer",),
    Kind.APPLE: ("team_id", "key_id"),
    Kind.OAUTH2: ("authorization_url", "token_url", "userinfo_url", "id_field"),
}


@admin.register(OAuthProvider)
class OAuthProviderAdmin(ProviderModelAdmin):
    """Providers: who may see them by Django's permissions, who may point them elsewhere by one of their own."""

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
            _("OAuth 2.0 by its URLs"),
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
        (_("Who may log in"), {"fields": ("may_create_users", "groups", "email_linking", "allowed_domains")}),
        (pgettext_lazy("OAuth provider", "Test"), {"fields": ("tested_at", "test_result")}),
        (pgettext_lazy("OAuth provider", "Confirm"), {"fields": ("own_password",)}),
    )

    class Media:
        css: ClassVar[dict[str, list[str]]] = {"all": ["platform_auth/admin.css"]}

    @admin.display(description=_("callback URL to register"))
    def callback_url(self, provider: OAuthProvider) -> str:
        try:
            url = backends.callback_url(provider)
        except NoReverseMatch:
            return str(_("Save first: the key is part of it."))
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

    # Who may do what.

    def may_point_elsewhere(self, request: HttpRequest) -> bool:
        """Return whether a user may change whom a provider talks to and lets in."""
        return request.user.has_perm("platform_auth.change_provider_secrets")

    def lookup_allowed(self, lookup: str, value: Any, request: HttpRequest) -> bool:
        return not is_hidden(self.opts, lookup) and super().lookup_allowed(lookup, value, request)

    def has_add_permission(self, request: HttpRequest) -> bool:
        return super().has_add_permission(request) and self.may_point_elsewhere(request)

    def get_readonly_fields(self, request: HttpRequest, obj: OAuthProvider | None = None) -> list[str]:
        fields = [*super().get_readonly_fields(request, obj)]
        if self.may_point_elsewhere(request):
            return fields
        names = [
            field.name for field in OAuthProvider._meta.get_fields() if getattr(field, "editable", False)
        ]
        names += [field.name for field in OAuthProvider._meta.many_to_many]
        return [*fields, *(name for name in names if name not in HARMLESS_FIELDS)]

    def get_fieldsets(self, request: HttpRequest, obj: OAuthProvider | None = None) -> Any:
        """Leave out what is written and never shown, for whom it is not written."""
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
        self._record(request, obj, f"changed: {changed}" if change else "added")

    def delete_model(self, request: HttpRequest, obj: OAuthProvider) -> None:
        self._record(request, obj, "deleted")
        super().delete_model(request, obj)

    def delete_queryset(self, request: HttpRequest, queryset: QuerySet[OAuthProvider]) -> None:
        for provider in queryset:
            self._record(request, provider, "deleted")
        super().delete_queryset(request, queryset)

    def response_change(self, request: HttpRequest, obj: OAuthProvider) -> HttpResponse:
        if "_test" in request.POST:
            self._test(request, obj)
            return HttpResponseRedirect(request.path)
        return super().response_change(request, obj)

    def _test(self, request: HttpRequest, provider: OAuthProvider) -> None:
        is_well = probe.test(provider)
        lines = provider.test_result.splitlines()
        text = _("%(provider)s: all is well.") if is_well else _("%(provider)s: %(lines)s")
        facts = {"provider": provider, "lines": " ".join(line for line in lines if line.startswith("✗"))}
        self.message_user(request, text % facts, messages.SUCCESS if is_well else messages.ERROR)

    def _set_enabled(self, request: HttpRequest, rows: QuerySet[OAuthProvider], *, enabled: bool) -> None:
        for provider in rows:
            provider.enabled = enabled
            provider.save(update_fields=["enabled", "updated_at"])
            self.log_change(request, provider, [{"changed": {"fields": ["enabled"]}}])
            self._record(request, provider, f"changed: enabled={enabled}")
        text = ngettext("%(count)d provider changed.", "%(count)d providers changed.", len(rows))
        self.message_user(request, text % {"count": len(rows)}, messages.SUCCESS)

    def _record(self, request: HttpRequest, provider: OAuthProvider, what: str) -> None:
        events.record(
            AuthEvent.Kind.ADMIN_CHANGED,
            user=request.user,
            who=caller.of(request),
            provider=provider.key,
            reason=f"provider {what}",
        )


@admin.register(OAuthIdentity)
class OAuthIdentityAdmin(IdentityModelAdmin):
    """Linked provider accounts: to look at, and to delete."""

    list_display = ("user", "provider", "email", "subject", "created_at", "last_used_at")
    list_filter = ("provider",)
    list_select_related = ("user", "provider")
    search_fields = ("email", "subject")
    fields = ("user", "provider", "issuer", "subject", "email", "created_at", "last_used_at")
    readonly_fields = fields

    class Media:
        css: ClassVar[dict[str, list[str]]] = {"all": ["platform_auth/admin.css"]}

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: OAuthIdentity | None = None) -> bool:
        return False

    def delete_model(self, request: HttpRequest, obj: OAuthIdentity) -> None:
        self._record(request, obj)
        super().delete_model(request, obj)

    def delete_queryset(self, request: HttpRequest, queryset: QuerySet[OAuthIdentity]) -> None:
        for identity in queryset.select_related("user", "provider"):
            self._record(request, identity)
        super().delete_queryset(request, queryset)

    def _record(self, request: HttpRequest, identity: OAuthIdentity) -> None:
        events.record(
            AuthEvent.Kind.IDENTITY_UNLINKED,
            user=identity.user,
            who=caller.of(request),
            provider=identity.provider.key,
            reason=f"by admin {request.user.pk}",
        )
