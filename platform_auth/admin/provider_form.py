"""The form of a provider in Django admin: what its kind needs, write-only secrets, the admin's own password."""

from __future__ import annotations

import uuid
from typing import Any, ClassVar

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from django import forms
from django.contrib.auth import authenticate
from django.core.exceptions import ValidationError
from django.core.validators import DomainNameValidator
from django.http import HttpRequest
from django.utils import timezone
from django.utils.text import capfirst
from django.utils.translation import gettext_lazy as _
from django.views.decorators.debug import sensitive_variables

from ..login import confirmation
from ..models import OAuthProvider
from ..providers import flow, outbound

HARMLESS_FIELDS = ("label", "icon", "order", "enabled")
"""The fields that can be changed without the permission `change_provider_secrets`."""
SECRET_FIELDS = ("client_secret", "private_key")

Kind = OAuthProvider.Kind

_NEEDED: dict[Any, tuple[str, ...]] = {
    Kind.OIDC: ("issuer",),
    Kind.APPLE: ("team_id", "key_id", "private_key"),
    Kind.OAUTH2: ("authorization_url", "token_url", "userinfo_url", "id_field"),
}
"""The fields that each kind of provider needs; all other kinds need the client secret."""


class WriteOnlyTextarea(forms.Textarea):
    """A textarea that doesn't return what was typed, like a password field."""

    def format_value(self, value: Any) -> str:
        return ""


class OAuthProviderForm(forms.ModelForm):  # type: ignore[type-arg]
    """A provider. Secrets are never shown. Changing where it points or whom it lets in needs the admin's own
    password.
    """

    client_secret = forms.CharField(
        label=capfirst(_("client secret")),
        required=False,
        max_length=4096,
        widget=forms.PasswordInput(attrs={"autocomplete": "off", "class": "vTextField"}),
        help_text=_("Never shown again. Leave blank to keep the stored value."),
    )
    private_key = forms.CharField(
        label=capfirst(_("private key")),
        required=False,
        max_length=8192,
        widget=WriteOnlyTextarea(attrs={"autocomplete": "off", "rows": 4, "class": "vLargeTextField"}),
        help_text=_(
            "Apple: the contents of the .p8 file. Never shown again. Leave blank to keep the stored value."
        ),
    )
    own_password = forms.CharField(
        label=capfirst(_("your own password")),
        required=False,
        strip=False,
        widget=forms.PasswordInput(attrs={"autocomplete": "current-password", "class": "vTextField"}),
        help_text=_("Required for any change other than label, icon, order and enabled."),
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
    """The admin's request, set on a subclass for each request."""
    may_point_elsewhere: bool
    """Whether that admin may change more than HARMLESS_FIELDS; set in the same way."""

    @sensitive_variables()
    def clean(self) -> dict[str, Any]:
        values: dict[str, Any] = super().clean() or self.cleaned_data
        self._check_key(values)
        self._check_kind(values)
        self._check_domains(values)
        if set(self.changed_data) - {*HARMLESS_FIELDS, "own_password"}:
            if not self.may_point_elsewhere:
                self.add_error(None, _("You can only change label, icon, order and enabled."))
            elif not self.errors:
                self._check_person(values.get("own_password", ""))
        return values

    @sensitive_variables()
    def save(self, commit: bool = True) -> OAuthProvider:
        for name in SECRET_FIELDS:
            if raw := self.cleaned_data.get(name):
                setattr(self.instance, name, raw)
        return super().save(commit)  # type: ignore[no-any-return]

    def _check_key(self, values: dict[str, Any]) -> None:
        if values.get("key") in flow.RESERVED_KEYS:
            self.add_error("key", _("This key is reserved."))

    def _check_kind(self, values: dict[str, Any]) -> None:
        """Require the fields that the kind needs, and check its URLs as the flow will."""
        kind = values.get("kind", self.instance.kind)
        for name in _NEEDED.get(kind, ("client_secret",)):
            is_stored = name in SECRET_FIELDS and getattr(self.instance, getattr(OAuthProvider, name).column)
            if name in values and not values[name] and not is_stored:
                self.add_error(name, _("Required for this kind of provider."))
        for name in ("authorization_url", "token_url", "userinfo_url", "issuer"):
            try:
                if values.get(name):
                    outbound.check_url(values[name])
            except outbound.Refused:
                self.add_error(name, _("Enter an https URL without credentials or a fragment."))
        if kind == Kind.MICROSOFT and "tenant" in values:
            try:
                values["tenant"] = str(uuid.UUID(values["tenant"]))
            except ValueError:
                self.add_error(
                    "tenant",
                    _("Enter the ID of a single tenant, such as 72f988bf-86f1-41af-91ab-2d7cd011db47."),
                )
        if kind == Kind.APPLE and values.get("private_key"):
            self._check_private_key(values["private_key"])

    @sensitive_variables()
    def _check_private_key(self, raw_key: str) -> None:
        try:
            key = load_pem_private_key(raw_key.encode(), password=None)
        except (ValueError, TypeError):
            key = None
        if not isinstance(key, ec.EllipticCurvePrivateKey) or key.curve.name != "secp256r1":
            self.add_error("private_key", _("Enter the ES256 private key from Apple, in PEM format."))

    def _check_domains(self, values: dict[str, Any]) -> None:
        for domain in values.get("allowed_domains", "").split():
            try:
                DomainNameValidator()(domain)
            except ValidationError:
                self.add_error(
                    "allowed_domains", _("Enter domains such as example.com, separated by spaces.")
                )
                return

    @sensitive_variables()
    def _check_person(self, password: str) -> None:
        """Ask the admin for their password again, subject to the limits of login."""
        user: Any = self.request.user
        if (
            not user.has_usable_password()
            and user.last_login
            and timezone.now() - user.last_login < confirmation.RECENT
        ):
            return
        found = password and authenticate(self.request, username=user.get_username(), password=password)
        if not found or found.pk != user.pk:
            self.add_error("own_password", _("Enter your own password to make this change."))
