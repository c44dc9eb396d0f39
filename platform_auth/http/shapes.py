"""The shapes of requests. Fields and nothing else; `payload.read` applies them.

A known key of another JSON type is refused, never coerced; nothing is trimmed or normalised; unknown keys are ignored.
"""

from __future__ import annotations

import re
from typing import Any

from django.core.validators import validate_email
from django.utils.translation import gettext_lazy as _
from rest_framework import serializers

from ..models import Mode

_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


class Text(serializers.CharField):
    """A JSON string, exactly as sent: no NUL, no lone surrogate and, unless allowed, no control character."""

    def __init__(self, *, max_bytes: int | None = None, allow_control: bool = False, **kwargs: Any) -> None:
        super().__init__(trim_whitespace=False, **kwargs)
        self.max_bytes = max_bytes
        self.allow_control = allow_control

    def to_internal_value(self, data: Any) -> str:
        if not isinstance(data, str):
            self.fail("invalid")
        return data

    def run_validators(self, value: str) -> None:
        super().run_validators(value)
        if not self.allow_control and _CONTROL.search(value):
            raise serializers.ValidationError(_("Control characters are not allowed."))
        if self.max_bytes is not None and len(value.encode()) > self.max_bytes:
            raise serializers.ValidationError(
                _("Ensure this field has no more than %(limit)d bytes in UTF-8.") % {"limit": self.max_bytes}
            )


class AnyText(Text):
    """Any JSON string at all: a refresh token is known or unknown, never malformed."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(allow_blank=True, allow_control=True, **kwargs)
        self.validators = []


class Choice(serializers.ChoiceField):
    """One of some JSON strings; numbers and other types do not stand for them."""

    # DRF's own text repeats the value, which may hold what no answer can: a lone surrogate.
    default_error_messages = {"invalid_choice": _("This is not one of the choices.")}

    def to_internal_value(self, data: Any) -> str:
        if not isinstance(data, str):
            self.fail("invalid_choice", input=data)
        return str(super().to_internal_value(data))


def email_field(**kwargs: Any) -> Text:
    return Text(max_length=254, validators=[validate_email], **kwargs)


def password_field(**kwargs: Any) -> Text:
    return Text(max_bytes=1024, allow_control=True, style={"input_type": "password"}, **kwargs)


def otp_field(**kwargs: Any) -> Text:
    return Text(min_length=6, max_length=32, help_text=_("One-time password or recovery code."), **kwargs)


def mode_field() -> Choice:
    return Choice(
        choices=Mode.choices,
        required=False,
        help_text=_("Where the refresh token travels: JSON or httpOnly cookies."),
    )


class LoginSerializer(serializers.Serializer[Any]):
    email = email_field()
    password = password_field()
    mode = mode_field()
    otp = otp_field(required=False)


class RefreshSerializer(serializers.Serializer[Any]):
    refresh_token = AnyText(required=False)
    mode = mode_field()


class LogoutSerializer(RefreshSerializer):
    pass


class FactorGenerateSerializer(serializers.Serializer[Any]):
    password = password_field(required=False, help_text=_("Needed where the account has one."))


class FactorEnableSerializer(serializers.Serializer[Any]):
    secret = Text(max_length=64, help_text=_("The secret that `generate` gave to this session."))
    otp = otp_field()


class FactorDisableSerializer(serializers.Serializer[Any]):
    otp = otp_field()


class RecoveryCodesSerializer(FactorGenerateSerializer):
    otp = otp_field()


class OAuthStartSerializer(serializers.Serializer[Any]):
    redirect = Text(
        required=False, help_text=_("Where the browser goes in the end: a local path or a listed URL.")
    )
    mode = mode_field()


class OAuthLinkSerializer(serializers.Serializer[Any]):
    redirect = Text(
        required=False, help_text=_("Where the browser goes in the end: a local path or a listed URL.")
    )


class OAuthOTPSerializer(serializers.Serializer[Any]):
    otp = otp_field()
    mode = mode_field()


class PasswordRequestSerializer(serializers.Serializer[Any]):
    email = email_field()
    reset_url = Text(
        max_length=2048,
        required=False,
        help_text=_("Where the mail's link leads: an entry of the allow-list."),
    )


class PasswordResetSerializer(serializers.Serializer[Any]):
    token = Text(max_length=4096)
    password = password_field()


class PasswordChangeSerializer(serializers.Serializer[Any]):
    current_password = password_field(required=False)
    password = password_field()
    otp = otp_field(required=False)


class PasswordRequestPageSerializer(serializers.Serializer[Any]):
    email = email_field()


class PasswordResetPageSerializer(PasswordResetSerializer):
    password_again = password_field()
