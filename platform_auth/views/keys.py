"""The public signing keys."""

from __future__ import annotations

from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from .. import signed_tokens
from ..http.endpoint import ApiView, Operation

KEYS = serializers.ListField(child=serializers.DictField(child=serializers.JSONField()))


class KeySetView(ApiView):
    """GET /auth/jwks: the public signing keys (RFC 7517); empty for HS256."""

    @Operation(extra={"keys": KEYS})
    def get(self, request: Request) -> Response:
        return self.answer(keys=signed_tokens.public_keys())
