"""What the public role exposes now: every route of the host's API that answers a request without a token.

Nothing is guessed from class names. Each view's own permission classes are asked twice, once with the public role as
it is and once without, which shows what is open by other means.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from django.contrib.admindocs.views import simplify_regex
from django.contrib.auth.models import AnonymousUser
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest
from django.urls import URLPattern, URLResolver, get_resolver
from django.views import View
from rest_framework.exceptions import NotAuthenticated
from rest_framework.exceptions import PermissionDenied as DRFPermissionDenied
from rest_framework.generics import GenericAPIView
from rest_framework.request import Request
from rest_framework.views import APIView

from .. import permissions, public_role

METHODS = tuple(permissions.ACTIONS)
_SAMPLES: dict[str, Any] = {"IntConverter": 1, "UUIDConverter": "00000000-0000-0000-0000-000000000000"}


class Route(NamedTuple):
    """One route of the host.

    `by_role`: the methods that the public role opens; `open_to_all`: those that are open regardless of it;
    `uncertain`: the view couldn't be asked, so it may expose more than is listed.
    """

    url: str
    view: str
    model: str
    by_role: tuple[str, ...]
    open_to_all: tuple[str, ...]
    uncertain: bool

    @property
    def is_exposed(self) -> bool:
        return bool(self.by_role or self.open_to_all or self.uncertain)


def routes() -> list[Route]:
    """Return every route of the host's API (views of Django REST framework), in the order of its URLs."""
    held = public_role.permissions()
    return [_judge(url, callback, samples, held) for url, callback, samples in _callbacks()]


def exposed() -> list[Route]:
    """Return the routes that answer without a token, and those for which that can't be ruled out."""
    return [route for route in routes() if route.is_exposed]


def _callbacks() -> Iterator[tuple[str, Any, dict[str, Any]]]:
    """Yield URL, callback and sample arguments of each API view that isn't ours."""
    found = [route for route in _walk(get_resolver().url_patterns, "", {}) if _is_of_the_host(route[1])]
    plain = {pattern.callback for _url, pattern, _samples in found if not _has_suffix(pattern)}
    for url, pattern, samples in found:
        # Routers add each route again with a suffix such as ".json".
        if not _has_suffix(pattern) or pattern.callback not in plain:
            yield url, pattern.callback, samples


def _is_of_the_host(pattern: URLPattern) -> bool:
    cls = getattr(pattern.callback, "cls", None)
    is_api = isinstance(cls, type) and issubclass(cls, APIView)
    return is_api and not cls.__module__.startswith("platform_auth.")


def _has_suffix(pattern: URLPattern) -> bool:
    return "format" in pattern.pattern.regex.groupindex


def _walk(patterns: list[Any], prefix: str, samples: dict[str, Any]) -> Iterator[tuple[str, URLPattern, Any]]:
    for pattern in patterns:
        taken = dict.fromkeys(pattern.pattern.regex.groupindex, "1")
        for name, converter in pattern.pattern.converters.items():
            taken[name] = _SAMPLES.get(type(converter).__name__, "1")
        url, merged = prefix + str(pattern.pattern), {**samples, **taken}
        if isinstance(pattern, URLResolver):
            yield from _walk(pattern.url_patterns, url, merged)
        else:
            yield simplify_regex(url), pattern, merged


def _judge(url: str, callback: Any, samples: dict[str, Any], held: frozenset[str]) -> Route:
    actions: dict[str, str] = getattr(callback, "actions", None) or {}
    by_role, open_to_all, uncertain, model = [], [], False, None
    for method in METHODS:
        if not _offers(callback.cls, actions, method):
            continue
        try:
            view = _view(callback, actions, method, samples, frozenset())
            model = model or permissions.model_of(view)
            if _passes(view):
                open_to_all.append(method)
                continue
            if _passes(_view(callback, actions, method, samples, held)):
                by_role.append(method)
            # If a view's rows depend on the request, a real request may be about another model.
            uncertain = uncertain or (model is None and _has_own_queryset(callback.cls))
        except Exception:
            uncertain = True
    label = model._meta.label if model else ""
    name = f"{callback.cls.__module__}.{callback.cls.__qualname__}"
    return Route(url, name, label, tuple(by_role), tuple(open_to_all), uncertain)


def _offers(cls: Any, actions: dict[str, str], method: str) -> bool:
    name = method.lower()
    if actions:
        return name in actions or (name == "head" and "get" in actions)
    if name not in cls.http_method_names:
        return False
    return hasattr(cls, name) or (name == "head" and hasattr(cls, "get"))


def _view(
    callback: Any, actions: dict[str, str], method: str, samples: dict[str, Any], held: frozenset[str]
) -> Any:
    """Return the view as a request without a token would have it just before its permissions are checked."""
    http_request = HttpRequest()
    http_request.method = method
    http_request.META = {"SERVER_NAME": "localhost", "SERVER_PORT": "443"}
    view: Any = callback.cls(**callback.initkwargs)
    View.setup(view, http_request, **samples)
    request = Request(http_request)
    request.user = public_role.remembering(AnonymousUser(), held)
    request.auth = None
    view.request, view.headers, view.format_kwarg = request, {}, None
    if actions:
        view.action_map = actions
        view.action = actions.get(method.lower(), actions.get("get"))
    return view


def _passes(view: Any) -> bool:
    """Check a view's permissions as DRF does, through the view's own hooks if it has any. Throttles aren't touched."""
    view.check_throttles = lambda request: None
    try:
        if type(view).initial is APIView.initial:
            view.check_permissions(view.request)
        else:
            view.initial(view.request, *view.args, **view.kwargs)
    except (NotAuthenticated, DRFPermissionDenied, PermissionDenied):
        return False
    return True


def _has_own_queryset(cls: Any) -> bool:
    get_queryset = getattr(cls, "get_queryset", None)
    return get_queryset is not None and get_queryset is not GenericAPIView.get_queryset
