"""What all endpoints share: every DRF class pinned, so that a host's REST_FRAMEWORK cannot change our API.

Errors of any kind leave in one envelope, headers are the same on every answer, and no transaction of the host
(ATOMIC_REQUESTS) can take back a revocation or a count together with the refusal that reports it.
"""

from __future__ import annotations

from typing import Any

from django.core.signals import got_request_exception
from django.db import connections, transaction
from django.http import HttpRequest
from django.http.response import HttpResponseBase
from django.utils.cache import patch_vary_headers
from django.utils.decorators import method_decorator
from django.utils.log import log_response
from django.views.decorators.debug import sensitive_post_parameters, sensitive_variables
from rest_framework.negotiation import BaseContentNegotiation
from rest_framework.parsers import BaseParser, JSONParser
from rest_framework.renderers import BaseRenderer, JSONRenderer
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.serializers import Serializer
from rest_framework.views import APIView

from .. import errors
from ..authentication import AccessTokenAuthentication, EnrolmentAuthentication
from ..conf import conf
from ..models import RefreshSession
from . import cookies, payload

SECURITY_HEADERS = {
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
}


class AlwaysJSON(BaseContentNegotiation):
    """Answer JSON whatever `Accept` or `?format=` says."""

    def select_parser(self, request: Request, parsers: Any) -> BaseParser:
        return parsers[0]  # type: ignore[no-any-return]

    def select_renderer(
        self, request: Request, renderers: Any, format_suffix: Any = None
    ) -> tuple[BaseRenderer, str]:
        return renderers[0], renderers[0].media_type


class EnvelopeRenderer(JSONRenderer):
    """DRF's JSON, with the settings that it reads from the host pinned."""

    charset = None
    compact = True
    strict = True
    ensure_ascii = False


class ApiView(APIView):
    """The base of every endpoint. Anonymous: an access token that comes along is not read at all."""

    authentication_classes: Any = []
    permission_classes: Any = []
    throttle_classes: Any = []
    parser_classes: Any = [JSONParser]
    renderer_classes: Any = [EnvelopeRenderer]
    content_negotiation_class = AlwaysJSON
    metadata_class = None
    versioning_class = None
    http_method_names: Any = ["get", "head", "post", "patch", "put", "delete"]

    @classmethod
    def as_view(cls, **initkwargs: Any) -> Any:
        view = super().as_view(**initkwargs)
        for alias in connections:
            view = transaction.non_atomic_requests(using=alias)(view)
        return view

    @property
    def http_request(self) -> HttpRequest:
        """Django's request, below DRF's."""
        return self.request._request

    @method_decorator(sensitive_post_parameters())
    @method_decorator(sensitive_variables())
    def dispatch(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
        return super().dispatch(request, *args, **kwargs)

    def initial(self, request: Request, *args: Any, **kwargs: Any) -> None:
        """Refuse a method that is not offered before anybody is asked who they are."""
        if request.method not in self.allowed_methods:
            raise errors.MethodNotAllowed
        super().initial(request, *args, **kwargs)

    def read(self, shape: type[Serializer[Any]]) -> dict[str, Any]:
        """Return the validated fields of the request body."""
        return payload.read(self.http_request, shape)

    def get_authenticate_header(self, request: Request) -> str:
        """Say that 401 stays 401; each error brings its own challenge."""
        return "Bearer"

    def handle_exception(self, exc: Exception) -> Response:
        """Render a refusal; report a broken program to Django and answer without details."""
        error = errors.translate(exc)
        if error is None:
            error = errors.InternalServerError()
            got_request_exception.send(sender=type(self), request=self.http_request)
        response = errors.render(error)
        if isinstance(error, errors.InternalServerError):
            log_response(
                "Internal Server Error: %s",
                self.http_request.path,
                response=response,
                request=self.http_request,
                exception=exc,
            )
        if error.session_over:
            cookies.clear_cookies(self.http_request, response)
        response.exception = True
        return response

    def finalize_response(self, request: Request, response: Any, *args: Any, **kwargs: Any) -> Any:
        response = super().finalize_response(request, response, *args, **kwargs)
        for name, value in SECURITY_HEADERS.items():
            response.headers.setdefault(name, value)
        patch_vary_headers(response, ("Cookie", "Origin"))
        if response.status_code == 405:
            response.headers["Allow"] = ", ".join(self.allowed_methods)
        return response


class PasswordLoginView(ApiView):
    """The base of log-in by password: not there where PASSWORD_LOGIN is off."""

    def initial(self, request: Request, *args: Any, **kwargs: Any) -> None:
        if not conf.PASSWORD_LOGIN:
            raise errors.RouteNotFound
        super().initial(request, *args, **kwargs)


class SignedInView(ApiView):
    """The base of what needs an access token: `request.user`, and `self.session` for the session it belongs to."""

    authentication_classes: Any = [AccessTokenAuthentication]

    def initial(self, request: Request, *args: Any, **kwargs: Any) -> None:
        super().initial(request, *args, **kwargs)
        # Not `is None`: a host's UNAUTHENTICATED_TOKEN stands there for nobody.
        if not isinstance(request.auth, RefreshSession):
            raise errors.InvalidCredentials(challenge=True)

    @property
    def session(self) -> RefreshSession:
        return self.request.auth  # type: ignore[return-value]


class EnrolmentView(SignedInView):
    """The base of what a session may use before its user has set up the second factor that a policy asks for."""

    authentication_classes: Any = [EnrolmentAuthentication]
