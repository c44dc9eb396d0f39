"""What all endpoints share: every DRF class pinned, so that a host's REST_FRAMEWORK cannot change our API.

A method of a view says once, as an `Operation`, what it takes, gives and refuses; validation, rendering, the OpenAPI
schema and the tests of all endpoints read it there. Errors of any kind leave in one envelope, and headers are the
same on every answer.
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
    """Declare what a view's method takes, gives and refuses. Used as its decorator.

    `takes` is the shape of the body, or for GET of the query: a class, since each request needs an instance with errors
    of its own. `gives` is the shape of the answer's `data`, `extra` is what else the body holds; without both the
    answer is 204. `also`: other statuses that are no refusals, each with its meaning. `refuses` leaves out what all
    views of the same base refuse. A subclass that overrides the method keeps all this.
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
    """What endpoints and pages share: no transaction of the host's around them, an answer to every exception."""

    @classmethod
    def as_view(cls, **initkwargs: Any) -> Any:
        """Exempt the view from ATOMIC_REQUESTS: a rollback would undo the revocation that the response reports."""
        view = super().as_view(**initkwargs)
        for alias in connections:
            view = transaction.non_atomic_requests(using=alias)(view)
        return view

    @property
    def http_request(self) -> HttpRequest:
        """Django's request, where DRF's is around it."""
        return getattr(self.request, "_request", self.request)

    def refusal(self, error: errors.PlatformAuthError) -> Any:
        """Return the answer that shows an error."""
        raise NotImplementedError

    def answer_to(self, exc: Exception) -> Any:
        """Turn an exception into a response; report unexpected ones to Django."""
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


class ApiView(Edge, APIView):
    """The base of every endpoint. Anonymous: an access token that comes along is not read at all."""

    operations: ClassVar[dict[str, Operation]] = {}
    """What each method declares."""
    refuses: ClassVar[Refusals] = (errors.InternalServerError, errors.ServiceUnavailable)
    """What all methods refuse."""

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
        """Return all that a method may refuse: what it names itself, what comes with its shape and with its base."""
        operation = cls.operations[method]
        refused = {*operation.refuses, *cls.refuses}
        if operation.takes:
            refused.add(errors.InvalidPayload)
        if operation.takes and method != "GET":
            refused |= {errors.ContentTooLarge, errors.UnsupportedMediaType}
        return refused

    # Covers the frames below it too: nothing that a view holds is in a report of an error.
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
        """Refuse a method that is not offered before anybody is asked who they are."""
        if request.method not in self.allowed_methods:
            raise errors.MethodNotAllowed
        super().initial(request, *args, **kwargs)

    @property
    def operation(self) -> Operation:
        """The declaration of the method that was asked for."""
        return self.operations["GET" if self.request.method == "HEAD" else str(self.request.method)]

    def read(self) -> dict[str, Any]:
        """Return the validated fields of what the operation takes."""
        shape = self.operation.takes
        if shape is None:
            raise ImproperlyConfigured(
                f"The operation of {type(self).__name__} says nothing of what it takes."
            )
        if self.request.method in ("GET", "HEAD"):
            return shapes.read_query(self.http_request, shape)
        return shapes.validate(dict(self.request.data), shape)

    def answer(self, value: Any = None, **extra: Any) -> Response:
        """Answer with what the operation gives, rendered as it says; 204 where it gives nothing."""
        operation = self.operation
        body = {name: shape.to_representation(extra[name]) for name, shape in operation.extra.items()}
        if operation.gives is not None:
            body["data"] = operation.gives.to_representation(value)
        return Response(body) if body else Response(status=204)

    def get_authenticate_header(self, request: Request) -> str:
        """Say that 401 stays 401; each error brings its own challenge."""
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
    """The base of what needs an access token: `request.user`, and `self.session` for the session it belongs to."""

    authentication_classes: Any = [AccessTokenAuthentication]
    refuses = (
        *ApiView.refuses,
        errors.InvalidCredentials,
        errors.InvalidToken,
        errors.TokenExpired,
        errors.TFARequired,
        # A token in two places; a cookie used from another origin.
        errors.InvalidPayload,
        errors.Forbidden,
    )

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
    refuses = tuple(error for error in SignedInView.refuses if error is not errors.TFARequired)
