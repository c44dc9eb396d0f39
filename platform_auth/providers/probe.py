"""The admin's test of a provider: everything that a login needs, without a user."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import jwt
from django.core.exceptions import ImproperlyConfigured
from django.utils import timezone
from django.utils.translation import gettext as _
from social_core.exceptions import SocialAuthBaseException

from ..models import OAuthProvider
from . import backends, outbound


class Finding(NamedTuple):
    """One line of a test's result."""

    ok: bool
    text: str

    def __str__(self) -> str:
        return f"{'✓' if self.ok else '✗'} {self.text}"


def test(provider: OAuthProvider) -> bool:
    """Test a provider, store result and time on its row, and return whether everything is right."""
    findings = []
    try:
        for finding in _examine(provider):
            findings.append(finding)
    except Exception as error:
        # A provider may publish anything; the findings so far still help.
        text = _("The test failed because something could not be read (%(error)s).")
        findings.append(Finding(False, text % {"error": type(error).__name__}))
    result = "\n".join(str(finding) for finding in findings)
    provider.tested_at, provider.test_result = timezone.now(), result
    # Not `save`: a test must not invalidate what is cached for the row.
    OAuthProvider.objects.filter(pk=provider.pk).update(tested_at=provider.tested_at, test_result=result)
    return all(finding.ok for finding in findings)


def _examine(provider: OAuthProvider) -> Iterator[Finding]:
    """Yield the findings: the callback URL, the secrets, and what the provider publishes."""
    backend = backends.BACKENDS[provider.kind](provider)
    yield Finding(True, _("Callback URL to register: %(url)s") % {"url": backends.callback_url(provider)})
    yield _examine_secret(backend)
    if isinstance(backend, backends.OpenIDConnect):
        yield from _examine_issuer(backend)
    else:
        yield from _examine_urls(backend)


def _examine_secret(backend: backends.RowBackend) -> Finding:
    try:
        _client_id, secret = backend.get_key_and_secret()
    except ImproperlyConfigured as error:
        return Finding(False, str(error))
    except (jwt.PyJWTError, ValueError, TypeError):
        return Finding(False, _("The private key can't be read."))
    if not secret:
        return Finding(True, _("There is no client secret: this is a public client."))
    return Finding(True, _("The client secret can be read."))


def _examine_issuer(backend: backends.OpenIDConnect) -> Iterator[Finding]:
    address = backend.oidc_config_url()
    try:
        document = backend.discover()
    except SocialAuthBaseException as error:
        claim = getattr(error, "claim", None)
        if claim == "issuer":
            text = _("%(url)s names a different issuer, not %(issuer)s.")
        elif claim:
            text = _("%(url)s: %(claim)s is missing or is not an https URL.")
        else:
            text = _("%(url)s can't be fetched or read (%(code)s).")
        facts = {"url": address, "issuer": backend.issuer, "claim": claim, "code": backends.reason_of(error)}
        yield Finding(False, text % facts)
        return
    yield Finding(True, _("Discovery document fetched from %(url)s.") % {"url": address})
    yield Finding(True, _("The issuer is %(issuer)s.") % {"issuer": backend.issuer})
    yield Finding(True, _("All endpoint URLs are valid."))
    yield _examine_keys(backend, document["jwks_uri"])
    methods = document.get("code_challenge_methods_supported")
    if isinstance(methods, list) and "S256" not in methods:
        yield Finding(False, _("The provider says that it doesn't support PKCE with S256."))


def _examine_keys(backend: backends.OpenIDConnect, url: str) -> Finding:
    try:
        usable = backends.usable_keys(backend.get_remote_jwks_keys(url))
    except SocialAuthBaseException as error:
        text = _("The keys can't be fetched or read (%(code)s).")
        return Finding(False, text % {"code": backends.reason_of(error)})
    if usable:
        return Finding(True, _("The keys can be read."))
    algorithms = ", ".join(backends.ALGORITHMS)
    return Finding(False, _("No key can be used for %(algorithms)s.") % {"algorithms": algorithms})


def _examine_urls(backend: backends.RowBackend) -> Iterator[Finding]:
    for url in backend.urls:
        try:
            # The response doesn't matter, only that there is one.
            outbound.send("GET", url, deadline=outbound.Budget().next_deadline())
        except outbound.Unreachable as error:
            yield Finding(False, _("%(url)s: %(reason)s.") % {"url": url, "reason": error})
        else:
            yield Finding(True, _("%(url)s responds.") % {"url": url})
