"""What all endpoints share. Every DRF class is pinned, so a host's REST_FRAMEWORK setting can't change our API.

Each method of a view declares once, as an `Operation`, what it takes, gives and refuses. Validation, rendering, the
OpenAPI schema and the tests of all endpoints read that declaration. Every error has the same shape, and every response
the same headers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, TypeVar

from django.core.exceptions import ImproperlyConfigured
from django.core.signals import got_request_exception
from django.db import connections, transaction
from django.http import HttpRequest
from django.http.response import HttpResponseBase
from django.utils.cache import patch_vary_headers
from django.utils.decorators import method_decorator
from django.utils.log import log_response
from django.views.decorators.debug import sensitive_post_parameters, sensitive_variables
from django.views.generic import View
from rest_framework import serializers
from rest_framework.negotiation import BaseContentNegotiation
from rest_framework.parsers import BaseParser
from rest_framework.renderers import BaseRenderer, JSONRenderer
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from .. import errors
from ..authentication import AccessTokenAuthentication, EnrolmentAuthentication
from ..models import RefreshSession
from . import cookies, shapes

SECURITY_HEADERS = {
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
}

Field = serializers.Field[Any, Any, Any, Any]
Refusals = Sequence[type[errors.PlatformAuthError]]
Handler = TypeVar("Handler", bound=Callable[..., Any])


@dataclass(frozen=True, eq=False)
class Operation:
    """Decorator that declares what a view's method takes, gives and refuses.

    `takes`: the shape of the body, or of the query for GET. It is a class, because each request needs an instance
    with errors of its own. `gives`: the shape of the response's `data`; `extra`: what else the body contains; without
    both the response is 204. `also`: other statuses that aren't errors, each with its meaning. `refuses`: the errors,
    without those that all views of the same base have. A subclass that overrides the method keeps the declaration.
    """

    takes: type[shapes.Shape] | None = None
    gives: Field | None = None
    extra: Mapping[str, Field] = field(default_factory=dict)
    also: Mapping[int, str] = field(default_factory=dict)
    refuses: Refusals = ()

    def __call__(self, handler: Handler) -> Handler:
        handler.operation = self  # type: ignore[attr-defined]
        return handler


class Edge(View):
    """What endpoints and pages share: no transaction of the host's around them, and a response to every exception."""

    @classmethod
    def as_view(cls, **initkwargs: Any) -> Any:
        """Exempt the view from ATOMIC_REQUESTS: a rollback would undo the revocation that the response reports."""
        view = super().as_view(**initkwargs)
        for alias in connections:
            view = transaction.non_atomic_requests(using=alias)(view)
        return view

    @property
    def http_request(self) -> HttpRequest:
        """Django's request, even if DRF has wrapped it."""
        return getattr(self.request, "_request", self.request)

    def refusal(self, error: errors.PlatformAuthError) -> Any:
        """Return the response for an error."""
        raise NotImplementedError

    def answer_to(self, exc: Exception) -> Any:
        """Turn an exception into a response, and report unexpected ones to Django."""
        error = errors.translate(exc)
        if error is None:
            error = errors.InternalServerError()
            got_request_exception.send(sender=type(self), request=self.http_request)
        response = self.refusal(error)
        for name, value in error.headers.items():
            response.headers[name] = value
        if error.status_code == 405:
            response.headers["Allow"] = ", ".join(
                name.upper() for name in self.http_method_names if hasattr(self, name)
            )
        if isinstance(error, errors.InternalServerError):
            log_response(
                "Internal Server Error: %s",
                self.http_request.path,
                response=response,
                request=self.http_request,
                exception=exc,
            )
        return response


class AlwaysJSON(BaseContentNegotiation):
    """Answers JSON regardless of `Accept` and `?format=`."""

    def select_parser(self, request: Request, parsers: Any) -> BaseParser:
        return parsers[0]  # type: ignore[no-any-return]

    def select_renderer(
        self, request: Request, renderers: Any, format_suffix: Any = None
    ) -> tuple[BaseRenderer, str]:
        return renderers[0], renderers[0].media_type


class EnvelopeRenderer(JSONRenderer):
    """DRF's JSON renderer, with the options pinned that it would read from the host's settings."""

    charset = None
    compact = True
    strict = True
    ensure_ascii = False


class ApiView(Edge, APIView):
    """The base of every endpoint. Anonymous: an access token in the request is ignored."""

    operations: ClassVar[dict[str, Operation]] = {}
    """The declaration of each method."""
    refuses: ClassVar[Refusals] = (errors.InternalServerError, errors.ServiceUnavailable)
    """The errors that every method may return."""

    authentication_classes: Any = []
    permission_classes: Any = []
    throttle_classes: Any = []
    parser_classes: Any = [shapes.StrictJSONParser]
    renderer_classes: Any = [EnvelopeRenderer]
    content_negotiation_class = AlwaysJSON
    metadata_class = None
    versioning_class = None
    http_method_names: Any = ["get", "head", "post", "patch", "put", "delete"]

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        for name in cls.http_method_names:
            if operation := getattr(vars(cls).get(name), "operation", None):
                cls.operations = {**cls.operations, name.upper(): operation}

    @classmethod
    def refusals(cls, method: str) -> set[type[errors.PlatformAuthError]]:
        """Return all errors that a method may return: its own, those of its shape and those of its base."""
        operation = cls.operations[method]
        refused = {*operation.refuses, *cls.refuses}
        if operation.takes:
            refused.add(errors.InvalidPayload)
        if operation.takes and method != "GET":
            refused |= {errors.ContentTooLarge, errors.UnsupportedMediaType}
        return refused

    # Covers the frames below too: an error report contains no variables of the view.
    @method_decorator(sensitive_post_parameters())
    @method_decorator(sensitive_variables())
    def dispatch(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
        return super().dispatch(request, *args, **kwargs)

    def initialize_request(self, request: HttpRequest, *args: Any, **kwargs: Any) -> Request:
        return shapes.BoundedRequest(
            request,
            parsers=self.get_parsers(),
            authenticators=self.get_authenticators(),
            negotiator=self.get_content_negotiator(),
            parser_context=self.get_parser_context(request),
        )

    def initial(self, request: Request, *args: Any, **kwargs: Any) -> None:
        """Refuse an unknown method before authentication."""
        if request.method not in self.allowed_methods:
            raise errors.MethodNotAllowed
        super().initial(request, *args, **kwargs)

    @property
    def operation(self) -> Operation:
        """The declaration of the request's method."""
        return self.operations["GET" if self.request.method == "HEAD" else str(self.request.method)]

    def read(self) -> dict[str, Any]:
        """Return the validated fields of the body or query."""
        shape = self.operation.takes
        if shape is None:
            raise ImproperlyConfigured(f"The operation of {type(self).__name__} doesn't say what it takes.")
        if self.request.method in ("GET", "HEAD"):
            return shapes.read_query(self.http_request, shape)
        return shapes.validate(dict(self.request.data), shape)

    def answer(self, value: Any = None, **extra: Any) -> Response:
        """Return the response that the operation declares; 204 if it gives nothing."""
        operation = self.operation
        body = {name: shape.to_representation(extra[name]) for name, shape in operation.extra.items()}
        if operation.gives is not None:
            body["data"] = operation.gives.to_representation(value)
        return Response(body) if body else Response(status=204)

    def get_authenticate_header(self, request: Request) -> str:
        """Keep 401 from becoming 403. Each error has a challenge of its own."""
        return "Bearer"

    def handle_exception(self, exc: Exception) -> Response:
        response: Response = self.answer_to(exc)
        response.exception = True
        return response

    def refusal(self, error: errors.PlatformAuthError) -> Response:
        response = errors.render(error)
        if error.session_over:
            cookies.clear_cookies(self.http_request, response)
        return response

    def finalize_response(self, request: Request, response: Any, *args: Any, **kwargs: Any) -> Any:
        response = super().finalize_response(request, response, *args, **kwargs)
        for name, value in SECURITY_HEADERS.items():
            response.headers.setdefault(name, value)
        patch_vary_headers(response, ("Cookie", "Origin"))
        return response


class SignedInView(ApiView):
    """The base of endpoints that need an access token. `self.session` is the session that it belongs to."""

    authentication_classes: Any = [AccessTokenAuthentication]
    refuses = (
        *ApiView.refuses,
        errors.InvalidCredentials,
        errors.InvalidToken,
        errors.TokenExpired,
        errors.TFARequired,
        # An access token in two places; a cookie used from another origin.
        errors.InvalidPayload,
        errors.Forbidden,
    )

    def initial(self, request: Request, *args: Any, **kwargs: Any) -> None:
        super().initial(request, *args, **kwargs)
        # Not `is None`: without a user it has the host's UNAUTHENTICATED_TOKEN.
        if not isinstance(request.auth, RefreshSession):
            raise errors.InvalidCredentials(challenge=True)

    @property
    def session(self) -> RefreshSession:
        return self.request.auth  # type: ignore[return-value]


class EnrolmentView(SignedInView):
    """The base of endpoints that also admit a session whose user still has to set up a second factor."""

    authentication_classes: Any = [EnrolmentAuthentication]
    refuses = tuple(error for error in SignedInView.refuses if error is not errors.TFARequired)
