"""The user that an access token belongs to."""

from __future__ import annotations

from typing import Any

from django.contrib.auth import get_user_model
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from ..http import shapes
from ..http.endpoint import EnrolmentView, Operation
from ..second_factor import verification


class User(shapes.Shape):
    id = serializers.CharField(source="pk")
    email = serializers.SerializerMethodField()
    first_name = serializers.CharField()
    last_name = serializers.CharField()
    tfa_enabled = serializers.SerializerMethodField()
    last_login = shapes.time_field(allow_null=True)

    def get_fields(self) -> dict[str, Any]:
        """Leave out fields that the host's user model doesn't have."""
        model = get_user_model()
        known = {field.name for field in model._meta.get_fields()}
        known |= {"id", "tfa_enabled", *({"email"} if model.get_email_field_name() in known else ())}
        return {name: field for name, field in super().get_fields().items() if name in known}

    def get_email(self, account: Any) -> str:
        return getattr(account, account.get_email_field_name())  # type: ignore[no-any-return]

    def get_tfa_enabled(self, account: Any) -> bool:
        return verification.is_enrolled(account)


class UserView(EnrolmentView):
    """GET /users/me: the user that the access token belongs to."""

    @Operation(gives=User())
    def get(self, request: Request) -> Response:
        return self.answer(request.user)
