"""The story: begin sends the browser away, complete takes it back, finish adds the one-time password.

begin:     row -> backend -> URL of the provider, and a cookie that holds the flow
complete:  cookie + state -> claimed flow -> backend -> ProviderAccount -> identity -> Grant (or a link)
finish:    cookie + one-time password -> Grant

The order of `complete` is its protection. Whose flow it is comes first, and the database lets it pass once, before
anything that came along is believed and before a code is sent anywhere (ASVS 10.2.1; RFC 9700, 4.7).
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
"""What a provider cannot be called: in `amr` it would stand for something else."""

_UNUSABLE_CODES = frozenset({"connection_failed", "unavailable", "rate_limited", "malformed_response"})
"""Of python-social-auth: nobody answered; `error: server_error` or `temporarily_unavailable`; too many requests; an
answer that cannot be read."""


class Begun(NamedTuple):
    """Where to send the browser, and the cookie that binds the flow to it."""

    url: str
    cookie: str

    def __repr__(self) -> str:
        return "<Begun>"


class Outcome(NamedTuple):
    """How a callback ended: a grant, a refusal, or (a link) neither; `redirect` is where the browser goes, or "".

    `cookie` is the flow cookie's new value, `pending` that of a log-in which waits for its one-time password; "" for
    none.
    """

    redirect: str
    cookie: str
    grant: Grant | None = None
    refusal: errors.PlatformAuthError | None = None
    pending: str = ""

    def __repr__(self) -> str:
        return "<Outcome>"


def url_at_home(host: str, path: str) -> str:
    """Return the URL of a path at PUBLIC_URL's host, or "" for a request that came to it.

    The cookie of a flow is the host's that sets it, so the start must be where the callback will be.
    """
    home = redirects.origin_of(redirects.public_url()) or ""
    scheme, _mark, own = home.partition("://")
    is_home = host.lower().removesuffix({"http": ":80", "https": ":443"}.get(scheme, "")) == own
    return "" if is_home else f"{home}{path}"


def check_key(key: str) -> None:
    """Refuse what no provider can be called. Raises RouteNotFound.

    PostgreSQL takes no NUL, and not every database tells `github` from `GitHub`.
    """
    if not OAuthProvider.KEY_SHAPE.fullmatch(key) or key in RESERVED_KEYS:
        raise errors.RouteNotFound


def find(key: str) -> OAuthProvider:
    """Return the enabled provider of a key. Raises RouteNotFound."""
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
    """Start a flow. `cookie`: the browser's flow cookie so far; `session`: the one that links, instead of a log-in.

    Raises RouteNotFound, InvalidPayload (the redirect, or its mode), ServiceUnavailable (discovery).
    """
    provider = find(key)
    if redirect is not None:
        redirects.check_redirect(redirect)
    if redirect and mode == Mode.JSON:
        raise errors.InvalidPayload(
            _('Tokens can\'t be sent in a URL. Use mode "cookie" or "session".'), field="mode"
        )
    backend = backends.BACKENDS[provider.kind](provider)
    # Before the provider is asked anything: python-social-auth's own time of the state starts then, too.
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
    """Take the browser back from a provider. `parameters`: those of code, state, iss and error that were sent.

    `replacing`: the refresh token in the browser's cookie, whose session ends where the log-in sets that cookie.
    Raises RouteNotFound, or InvalidPayload for a `state` that this browser does not know: then there is nowhere to
    go. Whatever else is refused is in the Outcome, with the flow's own redirect.
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
    """Finish the log-in that waits in this browser for its one-time password. `replacing`: as in `login.log_in`.

    Raises RouteNotFound, InvalidPayload (none waits, or it was used), InvalidOTP, RequestsExceeded, and
    InvalidCredentials if the user was deactivated in the meantime.
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
    """Let the provider say who it is. Raises InvalidCredentials, ServiceUnavailable, InvalidPayload."""
    data = {"code": parameters.get("code", ""), "state": flow.state}
    backend = backends.BACKENDS[provider.kind](provider, data=data, transaction=flow.transaction)
    try:
        backend.check_response_issuer(parameters.get("iss"))
        if "error" not in parameters and data["code"]:
            return cast(ProviderAccount, backend.complete(user=None))
    except AuthSessionError:
        # The state again, and it had passed: a clock that went back.
        raise _over() from None
    except Exception as error:
        # What a provider answers is anything at all, and python-social-auth indexes into it.
        if isinstance(error, SocialAuthBaseException) and error.code not in _UNUSABLE_CODES:
            raise _ProviderRefused(_reason(error)) from None
        raise _unavailable(backend, error) from None
    raise _ProviderRefused("error" if "error" in parameters else "no code")


class _ProviderRefused(identities.Explained, errors.InvalidCredentials):
    """A refusal by the provider, or a check of its answer that failed."""


class _ProviderUnavailable(identities.Explained, errors.ServiceUnavailable):
    """No answer of the provider that can be read."""


def _unavailable(backend: backends.RowBackend, error: Exception) -> _ProviderUnavailable:
    match error:
        case SocialAuthBaseException():
            reason = _reason(error)
        case ImproperlyConfigured() | outbound.Refused():
            reason = str(error)
        case _:
            # Its text may quote the provider's answer.
            reason = f"{backend.stage}: {type(error).__name__}"
    logger.warning("provider %s gave no usable answer: %s", backend.provider.key, reason)
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
    """Return the provider of a flow that came back in time, for the first time, to the row that started it.

    Raises InvalidPayload, also where the row has been pointed elsewhere since; RouteNotFound.
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
