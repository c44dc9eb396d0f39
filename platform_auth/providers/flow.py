"""The flow of a provider login: begin sends the browser to the provider, complete handles its return, finish adds the
one-time password.

begin:     row -> backend -> URL of the provider, and a cookie that holds the flow
complete:  cookie + state -> claimed flow -> backend -> ProviderAccount -> identity -> Grant (or a link)
finish:    cookie + one-time password -> Grant

The order of `complete` is its protection: first it finds the flow of this browser and claims it in the database, once.
Only then does it read the other parameters and send the code to the provider (ASVS 10.2.1; RFC 9700, 4.7).
"""

from __future__ import annotations

import functools
import logging
import secrets
import time
from collections.abc import Mapping
from typing import NamedTuple, cast

from django.core.exceptions import ImproperlyConfigured
from django.http import HttpRequest
from django.utils.translation import gettext as _
from django.views.decorators.debug import sensitive_variables
from social_core.exceptions import AuthSessionError, SocialAuthBaseException

from .. import caller, errors, events, login, redirects, signals
from ..conf import conf
from ..models import AuthEvent, Mode, OAuthIdentity, OAuthProvider, RefreshSession
from ..sessions import Evidence, Grant
from . import backends, flow_state, identities, outbound
from .backends import ProviderAccount
from .flow_state import Flow, Pending

logger = logging.getLogger("platform_auth")

RESERVED_KEYS = frozenset({"pwd", "otp", "mfa"})
"""Keys that a provider can't have, because they mean something else in `amr`."""

_UNUSABLE_CODES = frozenset({"connection_failed", "unavailable", "rate_limited", "malformed_response"})
"""Error codes of python-social-auth: no response; `error: server_error` or `temporarily_unavailable`; too many
requests; an unreadable response.
"""


class Begun(NamedTuple):
    """Where to send the browser, and the cookie that binds the flow to it."""

    url: str
    cookie: str

    def __repr__(self) -> str:
        return "<Begun>"


class Outcome(NamedTuple):
    """The result of a callback: a grant, a refusal, or (after linking) neither. `redirect` is where the browser goes,
    or "".

    `cookie` is the new value of the flow cookie, `pending` that of a login waiting for its one-time password; "" if
    there is none.
    """

    redirect: str
    cookie: str
    grant: Grant | None = None
    refusal: errors.PlatformAuthError | None = None
    pending: str = ""

    def __repr__(self) -> str:
        return "<Outcome>"


def url_at_home(host: str, path: str) -> str:
    """Return the URL of a path on PUBLIC_URL's host, or "" if the request already came to that host.

    The flow's cookie belongs to the host that sets it, so the start must be on the host of the callback.
    """
    home = redirects.origin_of(redirects.public_url()) or ""
    scheme, _mark, own = home.partition("://")
    is_home = host.lower().removesuffix({"http": ":80", "https": ":443"}.get(scheme, "")) == own
    return "" if is_home else f"{home}{path}"


def check_key(key: str) -> None:
    """Raise RouteNotFound if no provider can have this key.

    PostgreSQL accepts no NUL, and some databases don't distinguish `github` from `GitHub`.
    """
    if not OAuthProvider.KEY_SHAPE.fullmatch(key) or key in RESERVED_KEYS:
        raise errors.RouteNotFound


def find(key: str) -> OAuthProvider:
    """Return the enabled provider with a key. Raises RouteNotFound."""
    check_key(key)
    provider = OAuthProvider.objects.enabled().filter(key=key).first()
    if provider is None:
        raise errors.RouteNotFound
    return provider


def providers() -> list[OAuthProvider]:
    """Return the enabled providers in the admin's order."""
    return list(OAuthProvider.objects.enabled())


@sensitive_variables()
def begin(
    key: str,
    *,
    redirect: str | None = None,
    mode: str | None = None,
    cookie: str | None = None,
    session: RefreshSession | None = None,
) -> Begun:
    """Start a flow. `cookie`: the browser's current flow cookie; `session`: the one to link to, instead of logging
    in.

    Raises RouteNotFound, InvalidPayload (the redirect or its mode), ServiceUnavailable (discovery).
    """
    provider = find(key)
    if redirect is not None:
        redirects.check_redirect(redirect)
    if redirect and mode == Mode.JSON:
        raise errors.InvalidPayload(
            _('Tokens can\'t be sent in a URL. Use mode "cookie" or "session".'), field="mode"
        )
    backend = backends.BACKENDS[provider.kind](provider)
    # Measured first, because python-social-auth starts its own timeout of the state in `start`.
    started_at = int(time.time())
    try:
        url = backend.start()
        backend.check_configuration()
    except Exception as error:
        raise _unavailable(backend, error) from None
    begun = Flow(
        state=backend.transaction["state"],
        provider=str(provider.pk),
        config=backends.config_of(provider),
        started_at=started_at,
        transaction=backend.transaction,
        mode=mode or (Mode.SESSION if redirect else Mode.JSON),
        redirect=redirect or "",
        link_session=str(session.pk) if session else "",
    )
    return Begun(str(url), flow_state.write_flows([*flow_state.read_flows(cookie), begun]))


@sensitive_variables()
def complete(
    key: str,
    parameters: Mapping[str, str],
    *,
    cookie: str | None,
    replacing: str | None = None,
    request: HttpRequest,
) -> Outcome:
    """Handle the browser's return from a provider. `parameters`: those of code, state, iss and error that were sent.

    `replacing`: the refresh token in the browser's cookie, whose session ends if the login sets that cookie. Raises
    RouteNotFound, or InvalidPayload for a `state` that this browser doesn't know, because then there is no redirect.
    Every other refusal is in the Outcome, with the flow's own redirect.
    """
    flows = flow_state.read_flows(cookie)
    flow = _flow_of(flows, parameters.get("state", ""))
    if flow is None:
        find(key)
        raise _over()
    rest = flow_state.write_flows([other for other in flows if other is not flow])
    redirect, provider = "", None
    try:
        redirect = redirects.check_redirect(flow.redirect) if flow.redirect else ""
        provider = _spend(flow, key)
        account = _ask(provider, flow, parameters)
        if flow.link_session:
            identities.link(provider, account, session_id=flow.link_session, request=request)
            return Outcome(redirect, rest)
        identity = identities.identify(provider, account, request=request)
        evidence = Evidence(
            identity.user,
            (provider.key,),
            provider=provider.key,
            factor_satisfied=conf.OAUTH_SATISFIES_MFA,
        )
        replaces = None if flow.mode == Mode.JSON else replacing
        try:
            grant = login.log_in(evidence, mode=flow.mode, replacing=replaces, request=request)
        except errors.InvalidOTP as missing:
            waiting = flow_state.write_pending(Pending.of(identity.user, identity=identity.pk))
            return Outcome(redirect, rest, refusal=missing, pending=waiting)
        return Outcome(redirect, rest, grant=grant)
    except Exception as exception:
        refusal = errors.translate(exception)
        if refusal is None:
            raise
        _record_refusal(refusal, provider=provider, request=request)
        return Outcome(redirect, rest, refusal=refusal)


@sensitive_variables()
def finish(
    key: str,
    *,
    otp: str,
    mode: str = Mode.JSON,
    cookie: str | None,
    replacing: str | None = None,
    request: HttpRequest,
) -> Grant:
    """Finish the login in this browser that is waiting for a one-time password. `replacing`: as in `login.log_in`.

    Raises RouteNotFound, InvalidPayload (none is waiting, or it was used), InvalidOTP, RequestsExceeded, and
    InvalidCredentials if the user was deactivated meanwhile.
    """
    provider = find(key)
    pending = flow_state.read_pending(cookie)
    if pending is None or flow_state.is_claimed(pending.id):
        raise _nothing_waits()
    rows = OAuthIdentity.objects.filter(pk=pending.identity, provider=provider)
    identity = rows.select_related("user").first()
    if identity is None or not pending.is_of(identity.user):
        raise _nothing_waits()
    evidence = Evidence(
        identity.user,
        (provider.key,),
        provider=provider.key,
        otp=otp,
        claim=functools.partial(_claim, pending),
    )
    return login.log_in(evidence, mode=mode, replacing=replacing, request=request)


@sensitive_variables()
def _ask(provider: OAuthProvider, flow: Flow, parameters: Mapping[str, str]) -> ProviderAccount:
    """Ask the provider who has logged in. Raises InvalidCredentials, ServiceUnavailable, InvalidPayload."""
    data = {"code": parameters.get("code", ""), "state": flow.state}
    backend = backends.BACKENDS[provider.kind](provider, data=data, transaction=flow.transaction)
    try:
        backend.check_response_issuer(parameters.get("iss"))
        if "error" not in parameters and data["code"]:
            return cast(ProviderAccount, backend.complete(user=None))
    except AuthSessionError:
        # The state is checked again here, and it was valid before: the clock went back.
        raise _over() from None
    except Exception as error:
        # A provider's response may have any shape, and python-social-auth indexes into it.
        if isinstance(error, SocialAuthBaseException) and error.code not in _UNUSABLE_CODES:
            raise _ProviderRefused(_reason(error)) from None
        raise _unavailable(backend, error) from None
    raise _ProviderRefused("error" if "error" in parameters else "no code")


class _ProviderRefused(identities.Explained, errors.InvalidCredentials):
    """The provider refused, or a check of its response failed."""


class _ProviderUnavailable(identities.Explained, errors.ServiceUnavailable):
    """The provider gave no readable response."""


def _unavailable(backend: backends.RowBackend, error: Exception) -> _ProviderUnavailable:
    match error:
        case SocialAuthBaseException():
            reason = _reason(error)
        case ImproperlyConfigured() | outbound.Refused():
            reason = str(error)
        case _:
            # Its text may quote the provider's response.
            reason = f"{backend.stage}: {type(error).__name__}"
    logger.warning("provider %s gave no usable response: %s", backend.provider.key, reason)
    return _ProviderUnavailable(reason)


def _reason(error: SocialAuthBaseException) -> str:
    return f"{error.stage}: {backends.reason_of(error)}"


def _record_refusal(
    refusal: errors.PlatformAuthError, *, provider: OAuthProvider | None, request: HttpRequest
) -> None:
    who = caller.of(request)
    key = provider.key if provider else ""
    reason = refusal.reason if isinstance(refusal, identities.Explained) else refusal.code.lower()
    events.record(AuthEvent.Kind.LOGIN_FAILED, who=who, provider=key, reason=reason)
    events.announce(signals.login_failed, user=None, request=request, who=who, email="", reason="provider")


def _flow_of(flows: list[Flow], state: str) -> Flow | None:
    for flow in flows:
        if secrets.compare_digest(flow.state.encode(), state.encode("utf-8", "replace")):
            return flow
    return None


def _spend(flow: Flow, key: str) -> OAuthProvider:
    """Claim a flow and return its provider, if the flow is in time, unused and belongs to this provider.

    Raises InvalidPayload, even if the provider was pointed elsewhere since the start; RouteNotFound.
    """
    if not flow.is_live or not flow_state.claim(flow.state):
        raise _over()
    provider = find(key)
    if flow.provider != str(provider.pk) or flow.config != backends.config_of(provider):
        raise _over()
    return provider


def _claim(pending: Pending) -> None:
    if not flow_state.claim(pending.id):
        raise _nothing_waits()


def _nothing_waits() -> errors.InvalidPayload:
    return errors.InvalidPayload(
        _("No sign-in attempt is waiting for a one-time password. Please start again.")
    )


def _over() -> errors.InvalidPayload:
    return errors.InvalidPayload(
        _("This sign-in attempt is unknown or has expired. Please start again."), field="state"
    )
