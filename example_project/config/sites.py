"""The admin site that also asks for a one-time password: the second factor that users set up through the API."""

from __future__ import annotations

from django_otp.admin import OTPAdminSite


class AdminSite(OTPAdminSite):
    def __init__(self, name: str = "admin") -> None:
        super().__init__(name)  # type: ignore[no-untyped-call]
