"""Shapes of requests and responses: bodies, forms, queries and their fields.

A request is refused before anything is done with it. A known key of another JSON type is refused, never converted;
nothing is trimmed or normalized; unknown keys are ignored. Responses don't depend on the host's settings.
"""

from __future__ import annotations

import io
import json
import re
from collections import Counter
from datetime import UTC
from typing import Any
from urllib.parse import parse_qsl

from django.core.handlers.wsgi import WSGIRequest
from django.core.validators import validate_email
from django.http import HttpRequest, QueryDict
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy
from django.views.decorators.debug import sensitive_variables
from rest_framework import ISO_8601, serializers
from rest_framework.parsers import JSONParser
from rest_framework.request import Request

from .. import errors
from ..models import Mode

MAX_BYTES = 64 * 1024
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


# The base of shapes: fields and nothing else. It has no docstring, because that would be in the OpenAPI schema of
# each.
class Shape(serializers.Serializer[Any]):
    pass


@sensitive_variables()
def validate(fields: dict[str, Any], shape: type[Shape]) -> dict[str, Any]:
    """Return the validated fields of a shape; keys that weren't sent stay absent.

    Raises InvalidPayload with one entry for each invalid field.
    """
    # Made for each request, because a message made once would stay in one language.
    serializer = shape(data=fields)
    if not serializer.is_valid():
        raise errors.InvalidPayload.of_fields(
            (field, str(reason)) for field, reasons in serializer.errors.items() for reason in reasons
        )
    return dict(serializer.validated_data)


# Bodies


class BoundedRequest(Request):
    """DRF's request, which reads at most 64 KiB of the body, and all of it if it came without a length."""

    @property
    def stream(self) -> io.BytesIO | None:
        body = read_body(self._request)
        return io.BytesIO(body) if body else None


class StrictJSONParser(JSONParser):
    """Parses one JSON object in UTF-8: no BOM, no NaN, no repeated key. Raises UnsupportedMediaType, InvalidPayload."""

    @sensitive_variables()
    def parse(self, stream: Any, media_type: Any = None, parser_context: Any = None) -> dict[str, Any]:
        request = parser_context["request"]._request
        charset = (request.content_params or {}).get("charset", "utf-8")
        if request.content_type != self.media_type or charset.strip("\"'").lower() not in ("utf-8", "utf8"):
            raise errors.UnsupportedMediaType
        try:
            text = stream.read().decode("utf-8")
            parsed = json.loads(text, object_pairs_hook=_without_repeats, parse_constant=_no_constant)
        except (ValueError, RecursionError):
            raise errors.InvalidPayload(_("The request body is not valid UTF-8 JSON.")) from None
        if not isinstance(parsed, dict):
            raise errors.InvalidPayload(_("The request body must be a JSON object."))
        return parsed


def read_body(request: HttpRequest) -> bytes:
    """Return the body and leave it where Django puts it. Raises ContentTooLarge before more than 64 KiB are read."""
    if _announced(request) > MAX_BYTES:
        raise errors.ContentTooLarge
    if not hasattr(request, "_body"):
        try:
            chunked = _is_chunked(request)
            request._body = _read_chunked(request) if chunked else request.read(MAX_BYTES + 1)
        except OSError:
            raise errors.InvalidPayload(_("The request body is incomplete.")) from None
    if len(request.body) > MAX_BYTES:
        raise errors.ContentTooLarge
    return request.body


def _is_chunked(request: HttpRequest) -> bool:
    """Return whether the body has no Content-Length; Django reads nothing of it under WSGI."""
    return (
        isinstance(request, WSGIRequest)
        and "HTTP_TRANSFER_ENCODING" in request.META
        and not request.META.get("CONTENT_LENGTH")
    )


def _read_chunked(request: Any) -> bytes:
    """Read a chunked body. A logout whose body isn't read would answer 204 and end nothing."""
    if not request.environ.get("wsgi.input_terminated"):
        raise errors.InvalidPayload(_("Send the request body with a Content-Length header."))
    return bytes(request.environ["wsgi.input"].read(MAX_BYTES + 1))


def _announced(request: HttpRequest) -> int:
    """Return the Content-Length of the request; 0 if there is none."""
    try:
        return int(request.META.get("CONTENT_LENGTH") or 0)
    except ValueError:
        return 0


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    keys = dict(pairs)
    if len(keys) != len(pairs):
        ((repeated, _times),) = Counter(name for name, _value in pairs).most_common(1)
        raise errors.InvalidPayload(
            _("This field was sent more than once."), field=repeated.encode(errors="replace").decode()[:64]
        )
    return keys


def _no_constant(name: str) -> Any:
    raise ValueError(name)


# Forms and queries


def read_form(request: HttpRequest) -> QueryDict:
    """Return a form that another site may have sent. Raises ContentTooLarge, UnsupportedMediaType."""
    return QueryDict(_form_bytes(request), encoding="utf-8")


@sensitive_variables()
def read_own_form(request: HttpRequest) -> dict[str, str]:
    """Return the fields of a form of our own pages: at most 64 KiB of UTF-8, each field once.

    Raises ContentTooLarge, UnsupportedMediaType or InvalidPayload.
    """
    try:
        text = _form_bytes(request).decode("ascii")
        pairs = parse_qsl(text, keep_blank_values=True, errors="strict", max_num_fields=50)
        return _without_repeats(pairs)
    except ValueError:
        raise errors.InvalidPayload(_("The form could not be read.")) from None


def read_query(request: HttpRequest, shape: type[Shape]) -> dict[str, Any]:
    """Return the query as the validated fields of a shape. Raises InvalidPayload, even for a field that was sent
    twice.
    """
    repeated = [name for name in map(str, shape().fields) if len(request.GET.getlist(name)) > 1]
    if repeated:
        raise errors.InvalidPayload.of_fields(
            (name, _("This field was sent more than once.")) for name in repeated
        )
    return validate(request.GET.dict(), shape)


def take_query(request: HttpRequest) -> QueryDict:
    """Return the query and remove it from the request, so that no log or error report repeats it.

    A query with too many fields is removed too, before Django's error is raised.
    """
    try:
        return request.GET
    finally:
        request.GET = QueryDict()
        request.META["QUERY_STRING"] = ""
        # gunicorn, uWSGI and mod_wsgi repeat the whole URL here.
        for name in ("RAW_URI", "REQUEST_URI"):
            if name in request.META:
                request.META[name] = request.META[name].partition("?")[0]


def _form_bytes(request: HttpRequest) -> bytes:
    if request.content_type != "application/x-www-form-urlencoded":
        raise errors.UnsupportedMediaType(
            _("Send the form as application/x-www-form-urlencoded, encoded in UTF-8.")
        )
    return read_body(request)


# Fields of requests


class Text(serializers.CharField):
    """A JSON string, exactly as sent: without NUL, lone surrogates and, unless allowed, control characters."""

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
    """Any JSON string: a refresh token is known or unknown, never malformed."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(allow_blank=True, allow_control=True, **kwargs)
        self.validators = []


class Choice(serializers.ChoiceField):
    """One of several JSON strings; numbers and other types are not converted."""

    # DRF's own text repeats the value, which may contain a lone surrogate that can't be encoded.
    default_error_messages = {"invalid_choice": gettext_lazy("This is not a valid choice.")}

    def to_internal_value(self, data: Any) -> str:
        if not isinstance(data, str):
            self.fail("invalid_choice", input=data)
        return str(super().to_internal_value(data))


def email_field(**kwargs: Any) -> Text:
    return Text(max_length=254, validators=[validate_email], **kwargs)


def password_field(**kwargs: Any) -> Text:
    return Text(max_bytes=1024, allow_control=True, style={"input_type": "password"}, **kwargs)


def otp_field(**kwargs: Any) -> Text:
    return Text(
        min_length=6,
        max_length=32,
        help_text=gettext_lazy("A one-time password or a recovery code."),
        **kwargs,
    )


def mode_field() -> Choice:
    return Choice(
        choices=Mode.choices,
        required=False,
        help_text=gettext_lazy("How the tokens are sent: in JSON or in HttpOnly cookies."),
    )


# Fields of responses


def time_field(**kwargs: Any) -> serializers.DateTimeField:
    """A time in RFC 3339 format, in UTC with `Z`."""
    return serializers.DateTimeField(format=ISO_8601, default_timezone=UTC, **kwargs)


class TextOrNull(serializers.CharField):
    """A string, or null if it is empty."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(allow_null=True, **kwargs)

    def to_representation(self, value: str) -> Any:
        return value or None
