"""The signed-in user's second factor."""

from __future__ import annotations

from django.utils.translation import gettext_lazy as _
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from .. import errors
from ..http import shapes
from ..http.endpoint import EnrolmentView, Operation
from ..second_factor import enrolment


class GenerateFields(shapes.Shape):
    password = shapes.password_field(required=False, help_text=_("Required if the account has one."))


class EnableFields(shapes.Shape):
    secret = shapes.Text(max_length=64, help_text=_("The secret that `generate` returned to this session."))
    otp = shapes.otp_field()


class DisableFields(shapes.Shape):
    otp = shapes.otp_field()


class RecoveryCodesFields(GenerateFields):
    otp = shapes.otp_field()


class Factor(shapes.Shape):
    enabled = serializers.BooleanField()
    required = serializers.BooleanField()  # type: ignore[assignment]
    recovery_codes_left = serializers.IntegerField()


class Enrolment(shapes.Shape):
    secret = serializers.CharField()
    otpauth_url = serializers.CharField()
    qr_svg = serializers.CharField()


class RecoveryCodes(shapes.Shape):
    recovery_codes = serializers.ListField(child=serializers.CharField())


class FactorStatusView(EnrolmentView):
    """GET /auth/tfa: whether a second factor is on and whether it is required; the number of recovery codes left."""

    @Operation(gives=Factor())
    def get(self, request: Request) -> Response:
        return self.answer(enrolment.status(request.user))


class FactorGenerateView(EnrolmentView):
    """POST /auth/tfa/generate: a secret for an authenticator app. Turns nothing on yet."""

    @Operation(takes=GenerateFields, gives=Enrolment(), refuses=[errors.RequestsExceeded])
    def post(self, request: Request) -> Response:
        fields = self.read()
        return self.answer(enrolment.generate(self.session, request=self.http_request, **fields))


class FactorEnableView(EnrolmentView):
    """POST /auth/tfa/enable: turn the second factor on with a code; the recovery codes, this once."""

    @Operation(
        takes=EnableFields, gives=RecoveryCodes(), refuses=[errors.InvalidOTP, errors.RequestsExceeded]
    )
    def post(self, request: Request) -> Response:
        fields = self.read()
        codes = enrolment.enable(self.session, request=self.http_request, **fields)
        return self.answer({"recovery_codes": codes})


class FactorDisableView(EnrolmentView):
    """POST /auth/tfa/disable: remove the second factor, with a one-time password or a recovery code."""

    @Operation(takes=DisableFields, refuses=[errors.InvalidOTP, errors.RequestsExceeded])
    def post(self, request: Request) -> Response:
        fields = self.read()
        enrolment.disable(self.session, request=self.http_request, **fields)
        return self.answer()


class RecoveryCodesView(EnrolmentView):
    """POST /auth/tfa/recovery-codes: a new set of recovery codes; the old ones stop working."""

    @Operation(
        takes=RecoveryCodesFields, gives=RecoveryCodes(), refuses=[errors.InvalidOTP, errors.RequestsExceeded]
    )
    def post(self, request: Request) -> Response:
        fields = self.read()
        codes = enrolment.renew_recovery_codes(self.session, request=self.http_request, **fields)
        return self.answer({"recovery_codes": codes})


class UserFactorEnableView(EnrolmentView):
    """POST /users/me/tfa/enable: the same for the official SDK. 204, without recovery codes."""

    @Operation(takes=EnableFields, refuses=[errors.InvalidOTP, errors.RequestsExceeded])
    def post(self, request: Request) -> Response:
        fields = self.read()
        enrolment.enable(self.session, request=self.http_request, with_recovery_codes=False, **fields)
        return self.answer()
