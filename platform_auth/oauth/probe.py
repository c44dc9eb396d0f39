"""The admin's test of a provider: what a log-in would need, without a user."""

from __future__ import annotations

from typing import NamedTuple

import jwt
from django.core.exceptions import ImproperlyConfigured
from django.utils import timezone
from django.utils.translation import gettext as _
from social_core.exceptions import SocialAuthBaseException

from ..models import OAuthProvider
from . import http, kinds


class Finding(NamedTuple):
    """One line of a test's result."""

    ok: bool
    text: str

    def __str__(self) -> str:
        return f"{'✓' if self.ok else '✗'} {self.text}"


def test(provider: OAuthProvider) -> bool:
    """Examine a provider, keep result and time on its row, return whether all is well."""
    findings = examine(provider)
    result = "\n".join(str(finding) for finding in findings)
    provider.tested_at, provider.test_result = timezone.now(), result
    # Not `save`: a test changes nothing that a cache was filled for.
    OAuthProvider.objects.filter(pk=provider.pk).update(tested_at=provider.tested_at, test_result=result)
    return all(finding.ok for finding in findings)


def examine(provider: OAuthProvider) -> list[Finding]:
    """Return what is found: the redirect URI, the secrets, and what the provider publishes."""
    backend = kinds.BACKENDS[provider.kind](provider)
    findings = [Finding(True, _("Redirect URI to register: %(url)s") % {"url": kinds.callback_url(provider)})]
    findings.append(_examine_secret(backend))
    if isinstance(backend, kinds.OpenIDConnect):
        return findings + _examine_issuer(backend)
    return findings + _examine_urls(backend)


def _examine_secret(backend: kinds.RowBackend) -> Finding:
    try:
        _client_id, secret = backend.get_key_and_secret()
    except ImproperlyConfigured as error:
        return Finding(False, str(error))
    except (jwt.PyJWTError, ValueError, TypeError):
        return Finding(False, _("The private key cannot be read."))
    if not secret:
        return Finding(True, _("No client secret: a public client."))
    return Finding(True, _("The client secret can be read."))


def _examine_issuer(backend: kinds.OpenIDConnect) -> list[Finding]:
    address = backend.oidc_config_url()
    try:
        document = backend.discover()
    except SocialAuthBaseException as error:
        claim = getattr(error, "claim", None)
        if claim == "issuer":
            text = _("%(url)s names another issuer than %(issuer)s.")
        elif claim:
            text = _("%(url)s: %(claim)s is missing or no https URL.")
        else:
            text = _("%(url)s cannot be fetched or read (%(code)s).")
        facts = {"url": address, "issuer": backend.issuer, "claim": claim, "code": error.detail or error.code}
        return [Finding(False, text % facts)]
    findings = [
        Finding(True, _("Discovery fetched from %(url)s.") % {"url": address}),
        Finding(True, _("The issuer is %(issuer)s.") % {"issuer": backend.issuer}),
        Finding(True, _("All endpoints are good URLs.")),
    ]
    try:
        usable = kinds.usable_keys(backend.get_remote_jwks_keys(document["jwks_uri"]))
    except SocialAuthBaseException as error:
        return [
            *findings,
            Finding(False, _("The keys cannot be fetched or read (%(code)s).") % {"code": error.code}),
        ]
    if usable:
        findings.append(Finding(True, _("The keys can be read.")))
    else:
        algorithms = ", ".join(kinds.ALGORITHMS)
        findings.append(
            Finding(False, _("No key is usable for %(algorithms)s.") % {"algorithms": algorithms})
        )
    methods = document.get("code_challenge_methods_supported")
    if isinstance(methods, list) and "S256" not in methods:
        findings.append(Finding(False, _("The provider says that it does not know PKCE with S256.")))
    return findings


def _examine_urls(backend: kinds.RowBackend) -> list[Finding]:
    findings = []
    for url in (backend.authorization_url(), backend.access_token_url(), *backend.further_urls):
        try:
            # What it answers to this says nothing, but that it answers does.
            http.send("GET", url, deadline=http.Budget().next_deadline())
        except http.Unreachable as error:
            findings.append(Finding(False, _("%(url)s: %(reason)s.") % {"url": url, "reason": error}))
        else:
            findings.append(Finding(True, _("%(url)s answers.") % {"url": url}))
    return findings
