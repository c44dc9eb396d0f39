"""Where the signed-in user is logged in."""

from __future__ import annotations

from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from .. import caller, errors, sessions
from ..http import shapes
from ..http.endpoint import Operation, SignedInView


class Session(shapes.Shape):
    id = serializers.UUIDField()
    current = serializers.BooleanField()
    created_at = shapes.time_field()
    refreshed_at = shapes.time_field(source="rotated_at")
    expires_at = shapes.time_field()
    ip_address = shapes.TextOrNull()
    user_agent = serializers.CharField()
    device = serializers.CharField()
    provider = shapes.TextOrNull()


class SessionListView(SignedInView):
    """GET /auth/sessions: the user's sessions. DELETE: end all other sessions."""

    @Operation(gives=Session(many=True))
    def get(self, request: Request) -> Response:
        return self.answer(
            {
                **vars(row),
                "current": row.id == self.session.id,
                "device": caller.device_name(row.user_agent),
            }
            for row in sessions.of(request.user)
        )

    @Operation()
    def delete(self, request: Request) -> Response:
        sessions.revoke_others(self.session, request=self.http_request)
        return self.answer()


class SessionDetailView(SignedInView):
    """DELETE /auth/sessions/{id}: end one session of the user."""

    @Operation(refuses=[errors.RouteNotFound])
    def delete(self, request: Request, session_id: str) -> Response:
        sessions.revoke_own(request.user, session_id, request=self.http_request)
        return self.answer()
