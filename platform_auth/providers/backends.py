"""Provider backends: python-social-auth's, with stricter checks.

RowBackend              base of all: configured by a row, PKCE S256, requests through `outbound`, no pipeline
    OpenIDConnect       any issuer, by discovery
        Google, Microsoft, GitLab, Apple, LinkedIn, Slack
    GitHub, Facebook, Discord
    PlainOAuth2         any server, by its three URLs

What they add to python-social-auth: the issuer of a discovery document and of an authorization response (RFC 9207) is
checked; UserInfo without `sub`, or of another issuer or client, is refused, and so are times that are strings; EdDSA
with `at_hash`, and algorithms other than RS256, are supported; the URL that a flow starts at is encoded correctly;
caches are per row, not per class.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Mapping
from typing import Any, Generic, NamedTuple, TypeVar
from urllib.parse import unquote_plus, urlencode

import jwt
import requests
from django.core.exceptions import ValidationError
from django.core.validators import validate_email
from django.urls import reverse
from django.views.decorators.debug import sensitive_variables
from social_core.backends.discord import DiscordOAuth2
from social_core.backends.facebook import FacebookOAuth2
from social_core.backends.github import GithubOAuth2
from social_core.backends.oauth import BaseOAuth2, BaseOAuth2PKCE
from social_core.backends.open_id_connect import OpenIdConnectAuth
from social_core.backends.utils import jwt_error
from social_core.exceptions import AuthProviderError, AuthResponseError, SocialAuthBaseException
from social_core.utils import http_error

from .. import redirects
from ..models import OAuthProvider
from . import outbound, strategy

ALGORITHMS: Mapping[str, tuple[str, str | None]] = {
    "RS256": ("RSA", None),
    "PS256": ("RSA", None),
    "ES256": ("EC", "P-256"),
    "EdDSA": ("OKP", "Ed25519"),
}
"""The accepted signature algorithms, each with its key type and curve. None of them is symmetric."""

SKEW = 30
"""How many seconds a provider's clock may differ from ours."""

CACHED_FOR = 3600
"""How many seconds a discovery document and its keys are cached. Editing the row discards them."""

_MAX_KEYS = 50
_MIN_RSA_BITS = 2048


class ProviderAccount(NamedTuple):
    """Who the provider says has logged in. `email` is "" if there is no usable address."""

    issuer: str
    subject: str
    email: str
    email_verified: bool


class RowBackend(BaseOAuth2PKCE[str]):
    """Base of all backends: one provider row, for one flow."""

    REDIRECT_STATE = False
    STATE_PARAMETER = True
    DEFAULT_USE_PKCE = True
    DRIVER = "oauth2"
    ISSUER = ""
    VERIFIED_BY = ""
    """The claim that must be true for an email address to count as verified; "" if the provider has none."""

    def __init__(
        self,
        provider: OAuthProvider,
        *,
        data: dict[str, str] | None = None,
        transaction: dict[str, Any] | None = None,
    ) -> None:
        self.provider = provider
        # By the row, not by its key: a renamed key keeps its flows, and a reused key inherits none.
        self.name = f"oauth:{provider.pk}"
        # The stage of the flow, as python-social-auth names it, for errors that don't carry one.
        self.stage = "callback" if transaction else "begin"
        session = {self.transaction_key(transaction["state"]): transaction} if transaction else {}
        super().__init__(
            strategy.RowStrategy(provider, data=data or {}, session=session),
            redirect_uri=callback_url(provider),
        )

    @property
    def issuer(self) -> str:
        """The issuer that this provider must name; "" if it has none."""
        return self.ISSUER or self.provider.issuer

    @property
    def transaction(self) -> dict[str, Any]:
        """What `start` needs again at the callback: state, verifier, nonce, time."""
        session: dict[str, Any] = self.strategy.session  # type: ignore[attr-defined]
        (transaction,) = (value for value in session.values() if "code_verifier" in value)
        return transaction  # type: ignore[no-any-return]

    @property
    def urls(self) -> list[str]:
        """The URLs that a flow uses: authorization and token endpoint, and the others of the row."""
        return [self.authorization_url(), self.access_token_url()]

    def check_configuration(self) -> None:
        """Raise outbound.Refused if one of the row's URLs can't be used."""
        for url in self.urls:
            outbound.check_url(url)

    def check_response_issuer(self, issuer: str | None) -> None:
        """Compare the `iss` of the authorization response (RFC 9207, 2.4). Raises AuthResponseError."""
        if issuer is not None and self.issuer and issuer != self.issuer:
            raise AuthResponseError(self, claim="iss", code="invalid_claim", stage="callback")

    def auth_url(self) -> str:
        """Return the URL to send the browser to: the endpoint's own query unchanged, then our parameters, encoded."""
        state = self.get_or_create_state()
        parameters = {**self.auth_params(state), **self.get_scope_argument()}  # type: ignore[no-untyped-call]
        endpoint, _mark, query = self.authorization_url().partition("?")
        kept = [pair for pair in query.split("&") if unquote_plus(pair.partition("=")[0]) not in parameters]
        return f"{endpoint}?{'&'.join(filter(None, ['&'.join(kept), urlencode(parameters)]))}"

    def get_scope(self) -> list[str]:
        return list(dict.fromkeys(super().get_scope()))

    @sensitive_variables()
    def auth_complete_params(self, state: Any = None) -> dict[str, Any]:
        """Return the parameters that are sent with the code. A public client sends no secret, instead of an empty
        one.
        """
        params: dict[str, Any] = super().auth_complete_params(state)  # type: ignore[no-untyped-call]
        if not params.get("client_secret"):
            params.pop("client_secret", None)
        return params

    @sensitive_variables()
    def request(  # type: ignore[override]
        self,
        url: str,
        *,
        method: str = "GET",
        stage: Any = "user_info",
        json: None = None,
        timeout: None = None,
        **content: Any,
    ) -> requests.Response:
        """Send a request through `outbound`. Raises the errors that python-social-auth's own method would.

        `content`: what `outbound.send` takes. None of these backends sends JSON, and the budget limits the time.
        """
        self.stage = stage
        try:
            deadline = self.strategy.budget.next_deadline()  # type: ignore[attr-defined]
            response = outbound.send(method, url, deadline=deadline, **content)
        except outbound.Unreachable as error:
            raise AuthProviderError(self, str(error), code="connection_failed", stage=stage) from None
        if 200 <= response.status_code < 300:
            return response
        if response.status_code < 400:
            raise AuthProviderError(self, "redirects are not followed", code="connection_failed", stage=stage)
        # The token endpoint refuses with an `error` (RFC 6749, 5.2), UserInfo with its status (RFC 6750, 3.1). Any
        # other response means that something is wrong at the provider.
        if stage == "token_exchange" and _is_oauth_error(response):
            raise http_error(self, requests.HTTPError(response=response), stage=stage) from None
        is_refusal = stage == "user_info" and response.status_code in (401, 403)
        code = "http_error" if is_refusal else "connection_failed"
        raise AuthProviderError(self, f"status {response.status_code}", code=code, stage=stage)

    @sensitive_variables()
    def do_auth(self, access_token: str, *args: Any, **kwargs: Any) -> Any:
        """Return the ProviderAccount of an access token, which is used once and not stored."""
        profile = self.user_data(access_token)
        if not isinstance(profile, dict):
            raise AuthResponseError(self, code="malformed_response", stage="user_info")
        return self.account(profile)

    def account(self, profile: dict[str, Any]) -> ProviderAccount:
        """Return the ProviderAccount of a profile. Raises AuthResponseError."""
        return self._account(
            subject=profile.get("id"), email=profile.get("email"), email_verified=self.is_verified(profile)
        )

    def is_verified(self, claims: Mapping[str, Any]) -> bool:
        """Return whether the provider says that the email address in these claims is verified."""
        return claims.get(self.VERIFIED_BY) is True

    def _account(
        self, *, issuer: str = "", subject: object, email: object, email_verified: object
    ) -> ProviderAccount:
        if isinstance(subject, int) and not isinstance(subject, bool):
            subject = str(subject)
        if not isinstance(subject, str) or not 1 <= len(subject) <= 255 or not subject.isprintable():
            raise AuthResponseError(self, claim="sub", code="missing_claim", stage="user_info")
        address = usable_address(email)
        return ProviderAccount(issuer, subject, address, bool(address) and email_verified is True)


class OpenIDConnect(RowBackend, OpenIdConnectAuth[str]):
    """Any OpenID Connect issuer, by its discovery document (OpenID Connect Core and Discovery 1.0)."""

    DRIVER = "openid"
    REQUIRES_NONCE = True
    VERIFIED_BY = "email_verified"

    def oidc_config_url(self) -> str:
        return f"{self.issuer.rstrip('/')}/.well-known/openid-configuration"

    def oidc_config(self) -> dict[str, Any]:
        """Return the checked discovery document of this row. Raises AuthProviderError, AuthResponseError."""
        return _documents.get(self.provider, self.discover)

    def discover(self) -> dict[str, Any]:
        """Fetch the discovery document, without the cache."""
        document = self.get_json(self.oidc_config_url(), stage="begin")
        if not isinstance(document, dict):
            raise AuthResponseError(self, code="malformed_response", stage="begin")
        if document.get("issuer") != self.issuer:
            raise AuthResponseError(self, claim="issuer", code="invalid_claim", stage="begin")
        for name in ("authorization_endpoint", "token_endpoint", "jwks_uri", "userinfo_endpoint"):
            if name == "userinfo_endpoint" and name not in document:
                continue
            try:
                outbound.check_url(document.get(name))
            except outbound.Refused:
                raise AuthResponseError(self, claim=name, code="invalid_claim", stage="begin") from None
        return document

    def get_jwks_keys(self) -> list[dict[str, Any]]:
        return _keys.get(self.provider, self.get_remote_jwks_keys)

    def check_response_issuer(self, issuer: str | None) -> None:
        advertised = self.oidc_config().get("authorization_response_iss_parameter_supported") is True
        if (issuer is None and advertised) or (issuer is not None and issuer != self.issuer):
            raise AuthResponseError(self, claim="iss", code="invalid_claim", stage="callback")

    def use_basic_auth(self) -> bool:
        """Use HTTP Basic only if the provider doesn't accept the secret in the body: providers disagree on how to
        encode the header.
        """
        if not self.provider.sealed_secret:
            return False
        methods = self.oidc_config().get("token_endpoint_auth_methods_supported")
        return not (isinstance(methods, list) and "client_secret_post" in methods)

    # The ID token

    def get_and_store_nonce(self, url: str, state: Any) -> str:
        return self.strategy.random_string(64)

    def get_nonce(self, nonce: str) -> Any:
        return strategy.KeptNonce(self._oauth2_transaction["state"]) if self._oauth2_transaction else None

    def remove_nonce(self, nonce_id: object) -> None:
        self._oauth2_transaction = None

    @sensitive_variables()
    def decode_and_validate_id_token(self, id_token: str, access_token: str) -> dict[str, Any]:
        """Check signature, issuer, audience, times and at_hash of an ID token (OpenID Connect Core, 3.1.3.7)."""
        try:
            header = jwt.get_unverified_header(id_token)
            algorithm = str(header.get("alg"))
            if algorithm not in ALGORITHMS or "crit" in header or header.get("b64") is False:
                raise jwt.InvalidAlgorithmError("this algorithm is not accepted")
            key, signed = self._verified(id_token, algorithm, header.get("kid"))
            self._check_times(signed)
            claims: dict[str, Any] = jwt.decode(
                id_token,
                key,
                algorithms=[algorithm],
                audience=self.provider.client_id,
                issuer=self.issuer,
                leeway=SKEW,
                options={"require": ["iss", "sub", "aud", "exp", "iat"]},
            )
        except jwt.PyJWTError as error:
            raise jwt_error(self, error) from None
        self.validate_authorized_party(claims, self.provider.client_id)
        # Ed25519 uses SHA-512.
        at_hash = self.calc_at_hash(access_token, algorithm, "SHA512" if algorithm == "EdDSA" else None)
        if claims.get("at_hash", at_hash) != at_hash:
            raise AuthResponseError(self, claim="at_hash", code="invalid_claim", stage="token_validation")
        return claims

    def _verified(self, id_token: str, algorithm: str, kid: object) -> tuple[Any, dict[str, Any]]:
        """Return the issuer's key that verifies a token, and the token's claims. If none does, the keys are fetched
        again, once.
        """
        for is_last in (False, True):
            for key in _usable(self.get_jwks_keys(), algorithm, kid):
                try:
                    return key, jwt.decode(id_token, key, algorithms=[algorithm], options=_SIGNATURE_ONLY)
                except jwt.PyJWTError:
                    continue
            if not is_last and not _keys.drop(self.provider):
                break
        raise jwt.InvalidSignatureError("no key of this issuer verifies the token")

    def _check_times(self, claims: dict[str, Any]) -> None:
        """Raise an error if a time isn't a JSON number (RFC 7519, 2): PyJWT accepts what `int` does, including
        strings and booleans.
        """
        for name in ("exp", "iat", "nbf"):
            value = claims.get(name, 0)
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < 2**53:
                raise AuthResponseError(self, claim=name, code="invalid_claim", stage="token_validation")

    def validate_temporal_claims(self, id_token: Any) -> None:
        """Refuse an old token. PyJWT has already checked exp, nbf and iat."""
        if time.time() > id_token["iat"] + self.ID_TOKEN_MAX_AGE + SKEW:
            raise AuthResponseError(self, claim="iat", code="response_expired", stage="token_validation")

    def validate_claims(self, id_token: Any) -> None:
        if not self.REQUIRES_NONCE and "nonce" not in id_token:
            self.validate_temporal_claims(id_token)
            return
        super().validate_claims(id_token)

    # The account

    @sensitive_variables()
    def user_data(self, access_token: str, *args: Any, **kwargs: Any) -> dict[str, Any] | None:
        """Return the claims of UserInfo, whose `sub` must equal the ID token's (OpenID Connect Core, 5.3.2)."""
        if "userinfo_endpoint" not in self.oidc_config():
            return {}
        userinfo: Any = self.get_json(
            self.userinfo_url(), headers={"Authorization": f"Bearer {access_token}"}
        )
        if not isinstance(userinfo, dict):
            raise AuthResponseError(self, code="malformed_response", stage="user_info")
        if self.id_token is None or userinfo.get("sub") != self.id_token["sub"]:
            raise AuthResponseError(self, claim="sub", code="invalid_claim", stage="user_info")
        # These claims are optional (5.3.2 again: signed responses have them), but must be right if present.
        if userinfo.get("iss", self.issuer) != self.issuer:
            raise AuthResponseError(self, claim="iss", code="invalid_claim", stage="user_info")
        audience = userinfo.get("aud", self.provider.client_id)
        if self.provider.client_id not in (audience if isinstance(audience, list) else [audience]):
            raise AuthResponseError(self, claim="aud", code="invalid_claim", stage="user_info")
        return userinfo

    def account(self, profile: dict[str, Any]) -> ProviderAccount:
        claims = self.id_token or {}
        # Take the address and whether it is verified from the same document; mixing two documents could vouch for the
        # wrong address.
        source = profile if "email" in profile else claims
        return self._account(
            issuer=self.issuer,
            subject=claims.get("sub"),
            email=source.get("email"),
            email_verified=self.is_verified(source),
        )


class Google(OpenIDConnect):
    ISSUER = "https://accounts.google.com"


class Microsoft(OpenIDConnect):
    """A single tenant. The issuer contains its ID, so no other tenant's token is accepted.

    Only the ID token says who it is: UserInfo repeats the address without the claim that says whether it is verified.
    """

    # Addresses are what a tenant's admin typed, unless Microsoft says that the owner of the domain was verified.
    VERIFIED_BY = "xms_edov"

    @property
    def issuer(self) -> str:
        return f"https://login.microsoftonline.com/{self.provider.tenant}/v2.0"

    @sensitive_variables()
    def user_data(self, access_token: str, *args: Any, **kwargs: Any) -> dict[str, Any] | None:
        return {}


class GitLab(OpenIDConnect):
    @property
    def issuer(self) -> str:
        return self.provider.issuer or "https://gitlab.com"


class Slack(OpenIDConnect):
    ISSUER = "https://slack.com"


class LinkedIn(OpenIDConnect):
    """LinkedIn sends no nonce in ID tokens; if one is present, it must be ours."""

    ISSUER = "https://www.linkedin.com/oauth"
    REQUIRES_NONCE = False

    def use_basic_auth(self) -> bool:
        # Its discovery document lists no methods, which would mean Basic; LinkedIn accepts the secret in the body
        # only.
        return False


class Apple(OpenIDConnect):
    """Apple's client secret is a JWT signed with the private key; the response is a form if scopes are requested."""

    ISSUER = "https://appleid.apple.com"
    DEFAULT_SCOPE = ["openid", "email"]

    def use_basic_auth(self) -> bool:
        return False

    def auth_params(self, state: Any = None) -> dict[str, Any]:
        return {**super().auth_params(state), "response_mode": "form_post"}  # type: ignore[no-untyped-call]

    @sensitive_variables()
    def get_key_and_secret(self) -> tuple[str, str]:
        now = int(time.time())
        claims = {
            "iss": self.provider.team_id,
            "iat": now,
            "exp": now + 300,
            "aud": self.ISSUER,
            "sub": self.provider.client_id,
        }
        secret = jwt.encode(
            claims, self.provider.private_key, algorithm="ES256", headers={"kid": self.provider.key_id}
        )
        return self.provider.client_id, secret

    def is_verified(self, claims: Mapping[str, Any]) -> bool:
        # Apple documents "a string or boolean".
        return claims.get("email_verified") in (True, "true")


class GitHub(RowBackend, GithubOAuth2[str]):
    DEFAULT_SCOPE = ["read:user", "user:email"]
    SCOPE_SEPARATOR = " "
    VERIFIED_BY = "email_verified"

    @sensitive_variables()
    def user_data(self, access_token: str, *args: Any, **kwargs: Any) -> dict[str, Any] | None:
        """Return the profile with the primary address of the list that says which addresses are verified."""
        profile = self._user_data(access_token)  # type: ignore[no-untyped-call]
        addresses: Any = self._user_data(access_token, "/emails")  # type: ignore[no-untyped-call]
        if not isinstance(profile, dict) or not isinstance(addresses, list):
            return None
        primary = [entry for entry in addresses if isinstance(entry, dict) and entry.get("primary") is True]
        entry = primary[0] if primary else {}
        return {"id": profile.get("id"), "email": entry.get("email"), "email_verified": entry.get("verified")}


class Facebook(RowBackend, FacebookOAuth2[str]):
    """Facebook's addresses count as unverified, because nothing in its response says that they are."""

    RESPONSE_TYPE = "code"  # type: ignore[assignment]
    DEFAULT_SCOPE = ["email"]
    ACCESS_TOKEN_METHOD = "POST"  # noqa: S105

    @sensitive_variables()
    def auth_complete(self, *args: Any, **kwargs: Any) -> Any:
        # The original sends no verifier, and the secret in a URL.
        return BaseOAuth2.auth_complete(self, *args, **kwargs)

    def setting(self, name: str, default: Any = None) -> Any:
        if name == "PROFILE_EXTRA_PARAMS":
            return {"fields": "id,email"}
        return super().setting(name, default)


class Discord(RowBackend, DiscordOAuth2[str]):
    USERINFO_URL = "https://discord.com/api/users/@me"
    DEFAULT_SCOPE = ["identify", "email"]
    SCOPE_SEPARATOR = " "
    VERIFIED_BY = "verified"

    @sensitive_variables()
    def user_data(self, access_token: str, *args: Any, **kwargs: Any) -> dict[str, Any] | None:
        return self.get_json(self.USERINFO_URL, headers={"Authorization": f"Bearer {access_token}"})


class PlainOAuth2(RowBackend):
    """Any OAuth 2.0 server, by its three URLs and the names of its fields; a dot in a name leads into an object."""

    def authorization_url(self) -> str:
        return self.provider.authorization_url

    def access_token_url(self) -> str:
        return self.provider.token_url

    @property
    def urls(self) -> list[str]:
        return [*super().urls, self.provider.userinfo_url]

    def use_basic_auth(self) -> bool:
        is_basic = self.provider.client_authentication == OAuthProvider.ClientAuthentication.BASIC
        return is_basic and bool(self.provider.sealed_secret)

    @sensitive_variables()
    def user_data(self, access_token: str, *args: Any, **kwargs: Any) -> dict[str, Any] | None:
        return self.get_json(self.provider.userinfo_url, headers={"Authorization": f"Bearer {access_token}"})

    def account(self, profile: dict[str, Any]) -> ProviderAccount:
        return self._account(
            subject=_field(profile, self.provider.id_field),
            email=_field(profile, self.provider.email_field),
            email_verified=_field(profile, self.provider.email_verified_field),
        )


# To add a provider: a backend class above and its entry here, a Kind in models.OAuthProvider with its migration, and
# the fields that its row needs in admin/provider_form._NEEDED.
BACKENDS: Mapping[str, type[RowBackend]] = {
    OAuthProvider.Kind.OIDC: OpenIDConnect,
    OAuthProvider.Kind.GITHUB: GitHub,
    OAuthProvider.Kind.GOOGLE: Google,
    OAuthProvider.Kind.FACEBOOK: Facebook,
    OAuthProvider.Kind.MICROSOFT: Microsoft,
    OAuthProvider.Kind.GITLAB: GitLab,
    OAuthProvider.Kind.APPLE: Apple,
    OAuthProvider.Kind.DISCORD: Discord,
    OAuthProvider.Kind.LINKEDIN: LinkedIn,
    OAuthProvider.Kind.SLACK: Slack,
    OAuthProvider.Kind.OAUTH2: PlainOAuth2,
}


def callback_url(provider: OAuthProvider) -> str:
    """Return the callback URL to register: from PUBLIC_URL, never from a request."""
    path = reverse("platform_auth:oauth-callback", args=[provider.key])
    return f"{redirects.origin_of(redirects.public_url())}{path}"


def config_of(provider: OAuthProvider) -> str:
    """Return a digest of the fields that decide where a row's requests go, so that a code never goes to another
    server.
    """
    facts = (
        provider.kind,
        provider.client_id,
        provider.issuer,
        provider.tenant,
        provider.authorization_url,
        provider.token_url,
        provider.userinfo_url,
    )
    return hashlib.sha256(repr(facts).encode()).hexdigest()[:16]


def usable_address(email: object) -> str:
    """Return an address that an account may have, or "". ASCII only: look-alikes are somebody else's address."""
    if not isinstance(email, str) or len(email) > 254 or not email.isascii():
        return ""
    try:
        validate_email(email)
    except ValidationError:
        return ""
    return email


def reason_of(error: SocialAuthBaseException) -> str:
    """Return what went wrong in our own words: a provider's text is neither logged nor shown."""
    if error.code == "connection_failed" and error.detail:
        return str(error.detail)
    claim = getattr(error, "claim", None)
    return f"{error.code} ({claim})" if claim else str(error.code)


_SIGNATURE_ONLY: Any = {
    "verify_exp": False,
    "verify_nbf": False,
    "verify_iat": False,
    "verify_aud": False,
    "verify_iss": False,
    "verify_sub": False,
    "verify_jti": False,
}


def _usable(keys: list[dict[str, Any]], algorithm: str, kid: object) -> list[Any]:
    """Return the public keys of a set that can verify signatures of this algorithm."""
    kty, curve = ALGORITHMS[algorithm]
    usable = []
    for key in keys[:_MAX_KEYS]:
        if kid is not None and key.get("kid") != kid:
            continue
        if key.get("kty") != kty or (curve and key.get("crv") != curve) or key.get("use", "sig") != "sig":
            continue
        if key.get("alg", algorithm) != algorithm:
            continue
        try:
            public = jwt.PyJWK({k: v for k, v in key.items() if k != "d"}, algorithm=algorithm).key
        except (jwt.PyJWTError, ValueError, TypeError, KeyError):
            continue
        if getattr(public, "key_size", _MIN_RSA_BITS) < _MIN_RSA_BITS and kty == "RSA":
            continue
        usable.append(public)
    return usable


def usable_keys(keys: list[dict[str, Any]]) -> int:
    """Return how many keys of a set can verify any accepted algorithm."""
    return sum(len(_usable([key], algorithm, None)[:1]) for key in keys for algorithm in ALGORITHMS)


def _is_oauth_error(response: requests.Response) -> bool:
    if response.status_code == 429 or response.status_code >= 500:
        return False
    try:
        document = response.json()
    except (ValueError, RecursionError):
        return False
    return isinstance(document, dict) and bool(document.get("error"))


def _field(profile: Mapping[str, Any], path: str) -> Any:
    value: Any = profile
    for name in path.split("."):
        value = value.get(name) if isinstance(value, dict) else None
    return value


T = TypeVar("T")


class _Cache(Generic[T]):
    """A cache of what was fetched for a row, by its id, so rows share nothing. It is fetched again if the row has
    changed.

    A change shows in the row's time and in the digest of its fields, because an update by a queryset doesn't change
    the time.
    """

    REFETCH_AFTER = 5
    """How many seconds a fresh value isn't fetched again."""

    def __init__(self) -> None:
        self._kept: dict[Any, tuple[Any, float, T]] = {}

    def get(self, provider: OAuthProvider, fetch: Callable[[], T]) -> T:
        row = (provider.updated_at, config_of(provider))
        kept = self._kept.get(provider.pk)
        if kept and kept[0] == row and 0 <= time.time() - kept[1] < CACHED_FOR:
            return kept[2]
        value = fetch()
        self._kept[provider.pk] = (row, time.time(), value)
        return value

    def drop(self, provider: OAuthProvider) -> bool:
        """Forget a row's value unless it was fetched just now; return whether it was forgotten."""
        kept = self._kept.get(provider.pk)
        if kept and 0 <= time.time() - kept[1] < self.REFETCH_AFTER:
            return False
        self._kept.pop(provider.pk, None)
        return True


_documents = _Cache[dict[str, Any]]()
_keys = _Cache[list[dict[str, Any]]]()
