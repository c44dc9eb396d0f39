"""How tokens travel: a grant into JSON or cookies, a token out of either, and the cross-origin rule for cookies.

A refresh token that came in a cookie is never returned in a body, where a script could read it. A cookie counts only
if the request comes from this origin or a trusted one: see `require_same_origin`.
"""

from __future__ import annotations

import contextlib
import math
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from django.conf import settings
from django.http import HttpRequest
from django.http.response import HttpResponseBase
from django.utils import timezone
from django.utils.http import is_same_domain
from django.utils.translation import gettext as _
from django.views.decorators.debug import sensitive_variables
from rest_framework.response import Response

from .. import errors
from ..conf import Cookie, conf
from ..models import Mode
from ..providers import flow_state
from ..sessions import Grant

SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS", "TRACE"})


class Presented(NamedTuple):
    """A refresh token and where it came from."""

    raw_token: str
    from_cookie: bool

    def __repr__(self) -> str:
        return "<Presented>"


@sensitive_variables()
def set_cookies(request: HttpRequest, response: HttpResponseBase, grant: Grant) -> None:
    """Set the cookies of a grant whose mode isn't json: the refresh token's, or both.

    An access cookie of the session that this one replaces would make every public page fail, so it is cleared.
    """
    max_age = max(0, math.ceil((grant.session.expires_at - timezone.now()).total_seconds()))
    _set(response, "refresh", grant.refresh_token, max_age)
    if grant.mode == Mode.SESSION:
        _set(response, "access", grant.access_token, max_age)
    elif conf.cookie_name("access") in request.COOKIES:
        _set(response, "access", "", 0)


def keep_flow(response: HttpResponseBase, value: str) -> None:
    """Set the cookie with the provider flows that were started in this browser; "" clears it."""
    _set(response, "flow", value, flow_state.FLOW_LIFETIME)


def keep_pending(response: HttpResponseBase, value: str) -> None:
    """Set the cookie with the login that is waiting for its one-time password; "" clears it."""
    _set(response, "pending", value, flow_state.PENDING_LIFETIME)


def replaced_token(request: HttpRequest) -> str | None:
    """Return the refresh token whose cookie the response replaces. Raises Forbidden for a request of another origin."""
    require_same_origin(request)
    return cookie_token(request)


def cookie_token(request: HttpRequest) -> str | None:
    """Return the refresh token in the cookie, without the cross-origin rule."""
    return request.COOKIES.get(conf.cookie_name("refresh"))


def clear_cookies(request: HttpRequest, response: HttpResponseBase) -> None:
    """Clear those of the two cookies that were sent, with the attributes they were set with."""
    which: Cookie
    for which in ("refresh", "access"):
        if conf.cookie_name(which) in request.COOKIES:
            _set(response, which, "", 0)


@sensitive_variables()
def require_refresh_token(request: HttpRequest, fields: dict[str, Any]) -> Presented:
    """Return the refresh token in the body, or else the one in the cookie, subject to the cross-origin rule.

    Raises InvalidPayload if there is none, or if the cookie was sent twice (a sibling domain can set a second one);
    Forbidden if another origin sent the request and a cookie is read or would be set.
    """
    mode = fields.get("mode")
    raw_token = fields.get("refresh_token")
    from_cookie = raw_token is None
    if from_cookie:
        raw_token = read_cookie(request, conf.cookie_name("refresh"))
    if from_cookie and (not raw_token or mode == Mode.JSON):
        raise errors.InvalidPayload(
            _(
                'Send the refresh token in the body, or in the "%(cookie)s" cookie with mode "cookie" or "session".'
            )
            % {"cookie": conf.cookie_name("refresh")},
            field="refresh_token",
        )
    if from_cookie or mode not in (None, Mode.JSON):
        require_same_origin(request)
    return Presented(str(raw_token), from_cookie)


@sensitive_variables()
def tokens_to_end(request: HttpRequest, fields: dict[str, Any]) -> list[str]:
    """Return the refresh tokens of a logout: the one in the body, or else those in all cookies of that name.

    Raises Forbidden if a cookie is used from another origin.
    """
    if "refresh_token" in fields:
        return [fields["refresh_token"]]
    raw_tokens = _cookies_called(request, conf.cookie_name("refresh"))
    if raw_tokens:
        require_same_origin(request)
    return raw_tokens


def respond_to_logout(request: HttpRequest) -> Response:
    """Answer 204 and clear the cookies that were sent, unless another origin sent them."""
    response = Response(status=204)
    with contextlib.suppress(errors.Forbidden):
        require_same_origin(request)
        clear_cookies(request, response)
    return response


@sensitive_variables()
def read_access_token(request: HttpRequest) -> str | None:
    """Return the access token in the Authorization header, the query (if allowed) or the cookie; None if there is
    none.

    Raises InvalidPayload for a token in both header and query (RFC 6750, 2) or a cookie that was sent twice;
    Forbidden if another origin uses the cookie with an unsafe method.
    """
    found: list[str] = []
    scheme, _space, credentials = request.META.get("HTTP_AUTHORIZATION", "").strip().partition(" ")
    if scheme.lower() == "bearer":
        found.append(credentials.strip())
    if conf.ACCESS_TOKEN_IN_QUERY:
        found += request.GET.getlist("access_token")
    if len(found) > 1:
        raise errors.InvalidPayload(_("Send only one access token, in one place."), field="access_token")
    if found:
        return found[0]
    raw_token = read_cookie(request, conf.cookie_name("access"))
    if raw_token and request.method not in SAFE_METHODS:
        require_same_origin(request)
    return raw_token or None


def read_cookie(request: HttpRequest, name: str) -> str | None:
    """Return a cookie's value. Raises InvalidPayload if two cookies of that name were sent."""
    if len(_cookies_called(request, name)) > 1:
        raise errors.InvalidPayload(_("This cookie was sent twice."), field=name)
    return request.COOKIES.get(name)


@sensitive_variables()
def _cookies_called(request: HttpRequest, name: str) -> list[str]:
    """Return the values of all cookies with a name; `request.COOKIES` only has the last one."""
    pairs = [pair.partition("=") for pair in request.META.get("HTTP_COOKIE", "").split(";")]
    return [value.strip() for key, _equals, value in pairs if key.strip() == name]


def require_same_origin(request: HttpRequest) -> None:
    """Raise Forbidden if a page of another origin caused the request (Fetch Metadata, or else Origin).

    A request with neither header doesn't come from a current browser and passes. Origins in CSRF_TRUSTED_ORIGINS
    always pass.
    """
    origin = request.META.get("HTTP_ORIGIN")
    site = request.META.get("HTTP_SEC_FETCH_SITE")
    if site in ("same-origin", "none"):
        return
    if origin is not None and is_trusted_origin(origin):
        return
    if site is None and (origin is None or origin.lower() == _own_origin(request)):
        return
    raise errors.Forbidden(_("Cookies are not accepted from another origin."))


def is_trusted_origin(origin: str) -> bool:
    """Return whether CSRF_TRUSTED_ORIGINS contains an origin, with Django's wildcards for subdomains."""
    if origin == "null":
        return False
    for trusted in settings.CSRF_TRUSTED_ORIGINS:
        if "*" not in trusted:
            if origin == trusted:
                return True
            continue
        wanted = urlsplit(trusted)
        try:
            given = urlsplit(origin)
        except ValueError:
            return False
        if given.scheme == wanted.scheme and is_same_domain(given.netloc, wanted.netloc.lstrip("*")):
            return True
    return False


def _own_origin(request: HttpRequest) -> str:
    scheme, host = request.scheme or "http", request.get_host().lower()
    return f"{scheme}://{host.removesuffix({'http': ':80', 'https': ':443'}.get(scheme, ' '))}"


def _set(response: HttpResponseBase, which: Cookie, value: str, max_age: int) -> None:
    """Set one of our cookies. `max_age` is in seconds; an empty value clears the cookie."""
    is_token = which in ("refresh", "access")
    response.set_cookie(
        conf.cookie_name(which),
        value,
        max_age=max_age if value else 0,
        path="/",
        domain=conf.COOKIE_DOMAIN if is_token else None,
        secure=conf.COOKIE_SECURE,
        httponly=True,
        # The cookie of a flow is always Lax, because the browser returns from the provider by a link on another site.
        samesite=conf.COOKIE_SAMESITE if is_token else "Lax",
    )
