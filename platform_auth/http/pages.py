"""What the built-in pages share: HTML forms that work without a script and use no cookie or session.

A page accepts a form-encoded POST of its own form. It ignores everything that a browser sends automatically (cookies,
sessions), so another site can't make use of it, and no CSRF token is needed. Templates can be overridden:
`platform_auth/base.html` and those that extend it. A style element needs the attribute `nonce="{{ nonce }}"`.
"""

from __future__ import annotations

import secrets
from typing import Any, ClassVar
from urllib.parse import urlsplit

from django.http import HttpRequest, HttpResponse
from django.template.loader import render_to_string
from django.utils.cache import patch_vary_headers
from django.utils.decorators import method_decorator
from django.utils.translation import gettext as _
from django.views.decorators.csrf import csrf_exempt
from django.views.decorators.debug import sensitive_post_parameters, sensitive_variables

from .. import errors
from ..conf import conf
from ..mail import languages
from . import endpoint, shapes

SECURITY_HEADERS = {
    **endpoint.SECURITY_HEADERS,
    "X-Frame-Options": "DENY",
    "Cross-Origin-Opener-Policy": "same-origin",
}
CONTENT_TYPE = "text/html; charset=utf-8"
"""Regardless of DEFAULT_CHARSET, because the templates declare it."""
CONTENT_SECURITY_POLICY = (
    "default-src 'none'; style-src 'nonce-{nonce}'; form-action 'self'; "
    "base-uri 'none'; frame-ancestors 'none'"
)


class PageView(endpoint.Edge):
    """The base of a page with one form; the fields are those of the shape that it `takes`."""

    takes: ClassVar[type[shapes.Shape]]
    template_name: ClassVar[str]
    error_template_name: ClassVar[str] = "platform_auth/error.html"
    can_retry: ClassVar[bool] = True
    """Whether the page can be opened by its URL alone."""
    http_method_names = ["get", "head", "post"]

    @classmethod
    def as_view(cls, **initkwargs: Any) -> Any:
        view: Any = csrf_exempt(super().as_view(**initkwargs))
        # Otherwise Django's LoginRequiredMiddleware would redirect people who have forgotten their password.
        view.login_required = False
        return view

    # Covers the frames below too, as in `ApiView`.
    @method_decorator(sensitive_post_parameters())
    @method_decorator(sensitive_variables())
    def dispatch(self, request: HttpRequest, *args: Any, **kwargs: Any) -> Any:
        """Answer with a page, even if an exception is raised."""
        self.typed: dict[str, Any] = {}
        try:
            # Everything that handles the request afterwards (Django's log of refusals, an error report) sees no link
            # that may still be valid.
            self.query = shapes.take_query(request)
            return super().dispatch(request, *args, **kwargs)
        except Exception as exc:
            try:
                return self.answer_to(exc)
            except Exception as again:
                # The form can't be shown again, for example because its link is invalid. Then that is the response.
                return self.answer_to(again)

    def http_method_not_allowed(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        raise errors.MethodNotAllowed

    def read(self) -> dict[str, Any]:
        """Return the validated fields of the form. Raises ContentTooLarge, UnsupportedMediaType or InvalidPayload."""
        self.typed = shapes.read_own_form(self.request)
        return shapes.validate(self.typed, self.takes)

    def page(self, *, status: int = 200, template_name: str = "", **context: Any) -> HttpResponse:
        """Render the page, or another template, with the context that all templates have."""
        nonce = secrets.token_urlsafe(16)
        everywhere = {
            "action": self.request.path,
            "language": languages.language(),
            "direction": languages.direction(),
            "nonce": nonce,
            "site": urlsplit(conf.PUBLIC_URL or "").netloc,
            "site_url": conf.PUBLIC_URL,
        }
        # Without the request: a host's context processors would read the session of its cookie.
        html = render_to_string(template_name or self.template_name, everywhere | context)
        response = HttpResponse(html, CONTENT_TYPE, status=status, headers=SECURITY_HEADERS)
        response.headers["Content-Security-Policy"] = CONTENT_SECURITY_POLICY.format(nonce=nonce)
        patch_vary_headers(response, ("Cookie", "Origin"))
        return response

    def refusal(self, error: errors.PlatformAuthError) -> HttpResponse:
        """Show an error. A page overrides this for errors that its form can show."""
        return self.page(
            status=error.status_code,
            template_name=self.error_template_name,
            messages=messages_of(error),
            can_retry=self.can_retry,
        )


@sensitive_variables()
def require_repeated(fields: dict[str, str], name: str) -> None:
    """Raise InvalidPayload if a field and its repetition (`<name>_again`) differ."""
    if fields[name] != fields[f"{name}_again"]:
        raise errors.InvalidPayload(_("The two passwords don't match."), field=f"{name}_again")


def messages_of(error: errors.PlatformAuthError) -> list[str]:
    """Return what a reader is told about an error: one sentence for each problem."""
    return [entry["extensions"].get("reason") or entry["message"] for entry in error.entries]
