"""The request body: its size, its media type, its JSON, its shape; refused before anything is done with it."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any
from urllib.parse import parse_qsl

from django.core.handlers.wsgi import WSGIRequest
from django.http import HttpRequest, QueryDict
from django.utils.translation import gettext as _
from django.views.decorators.debug import sensitive_variables
from rest_framework.serializers import Serializer

from .. import errors

MAX_BYTES = 64 * 1024


@sensitive_variables()
def read(request: HttpRequest, shape: type[Serializer[Any]]) -> dict[str, Any]:
    """Return the body as the validated fields of a shape; keys that were not sent stay absent.

    Raises ContentTooLarge, UnsupportedMediaType, or InvalidPayload with one entry for each field that is wrong.
    """
    return validate(_object(read_bytes(request), request), shape)


@sensitive_variables()
def validate(fields: dict[str, Any], shape: type[Serializer[Any]]) -> dict[str, Any]:
    """Return fields as the validated ones of a shape. Raises InvalidPayload with one entry for each that is wrong."""
    serializer = shape(data=fields)
    if not serializer.is_valid():
        raise errors.InvalidPayload.of_fields(
            (field, str(reason)) for field, reasons in serializer.errors.items() for reason in reasons
        )
    return dict(serializer.validated_data)


def read_query(request: HttpRequest, shape: type[Serializer[Any]]) -> dict[str, Any]:
    """Return the query as the validated fields of a shape. Raises InvalidPayload, also for a field that came twice."""
    require_single(request.GET, *map(str, shape().fields))
    return validate(request.GET.dict(), shape)


def require_single(query: QueryDict, *names: str) -> None:
    """Raise InvalidPayload for those of these fields that came twice."""
    repeated = [name for name in names if len(query.getlist(name)) > 1]
    if repeated:
        raise errors.InvalidPayload.of_fields((name, _("Send this once.")) for name in repeated)


def take_query(request: HttpRequest) -> QueryDict:
    """Return the query and take it out of the request, so that no log or error report of the request repeats it.

    Raises what Django does for a query of too many fields, which is taken out all the same.
    """
    try:
        return request.GET
    finally:
        request.GET = QueryDict()
        request.META["QUERY_STRING"] = ""
        # Where gunicorn, uWSGI and mod_wsgi put the whole line once more.
        for name in ("RAW_URI", "REQUEST_URI"):
            if name in request.META:
                request.META[name] = request.META[name].partition("?")[0]


def read_form(request: HttpRequest) -> QueryDict:
    """Return a form that another site may have made, as it came. Raises ContentTooLarge, UnsupportedMediaType."""
    return QueryDict(_form_bytes(request), encoding="utf-8")


@sensitive_variables()
def read_own_form(request: HttpRequest) -> dict[str, str]:
    """Return the fields of a form of our own pages, at most 64 KiB of UTF-8, each once.

    Raises ContentTooLarge, UnsupportedMediaType or InvalidPayload.
    """
    try:
        text = _form_bytes(request).decode("ascii")
        pairs = parse_qsl(text, keep_blank_values=True, errors="strict", max_num_fields=50)
        return _without_repeats(pairs)
    except ValueError:
        raise errors.InvalidPayload(_("The form could not be read.")) from None


def read_bytes(request: HttpRequest) -> bytes:
    """Return the raw body, at most 64 KiB. Raises ContentTooLarge before more than that is read."""
    if _announced(request) > MAX_BYTES:
        raise errors.ContentTooLarge
    try:
        if _is_chunked(request):
            body = _read_chunked(request)
        elif hasattr(request, "_body"):
            body = request.body
        else:
            body = request.read(MAX_BYTES + 1)
    except OSError:
        raise errors.InvalidPayload(_("The request body broke off.")) from None
    if len(body) > MAX_BYTES:
        raise errors.ContentTooLarge
    return body


def _is_chunked(request: HttpRequest) -> bool:
    """Return whether a body came without a length, of which Django reads nothing under WSGI."""
    return (
        isinstance(request, WSGIRequest)
        and "HTTP_TRANSFER_ENCODING" in request.META
        and not request.META.get("CONTENT_LENGTH")
    )


def _read_chunked(request: Any) -> bytes:
    """Read what the server has taken apart. A log-out that is not read would answer 204 and end nothing."""
    if not request.environ.get("wsgi.input_terminated"):
        raise errors.InvalidPayload(_("Send the request body with a Content-Length."))
    return bytes(request.environ["wsgi.input"].read(MAX_BYTES + 1))


def _announced(request: HttpRequest) -> int:
    """Return the length that the request says its body has; 0 for none."""
    try:
        return int(request.META.get("CONTENT_LENGTH") or 0)
    except ValueError:
        return 0


def _form_bytes(request: HttpRequest) -> bytes:
    if request.content_type != "application/x-www-form-urlencoded":
        raise errors.UnsupportedMediaType(_("Send this form as a browser does."))
    return read_bytes(request)


@sensitive_variables()
def _object(body: bytes, request: HttpRequest) -> dict[str, Any]:
    if not body:
        return {}
    charset = (request.content_params or {}).get("charset", "utf-8")
    if request.content_type != "application/json" or charset.strip("\"'").lower() not in ("utf-8", "utf8"):
        raise errors.UnsupportedMediaType
    try:
        text = body.decode("utf-8")
        parsed = json.loads(text, object_pairs_hook=_without_repeats, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        raise errors.InvalidPayload(_("The request body is not valid JSON in UTF-8.")) from None
    if not isinstance(parsed, dict):
        raise errors.InvalidPayload(_("The request body must be a JSON object."))
    return parsed


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    keys = dict(pairs)
    if len(keys) != len(pairs):
        ((repeated, _times),) = Counter(name for name, _value in pairs).most_common(1)
        raise errors.InvalidPayload(
            _("Send this once."), field=repeated.encode(errors="replace").decode()[:64]
        )
    return keys


def _no_constant(name: str) -> Any:
    raise ValueError(name)
