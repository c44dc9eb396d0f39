"""A provider with one defect at a time (after the OpenID Foundation's relying party tests): each must be refused.

Refused means: an error of the contract, no session, no user, no identity, no cookie with a value, never a 500.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import hmac
import json
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest
from django.contrib.auth import get_user_model

from platform_auth.models import AuthEvent, OAuthIdentity, OAuthProvider, RefreshSession
from platform_auth.providers import outbound
from tests import identity_provider
from tests.conftest import code_of, make_user
from tests.flows import Browser, add_provider
from tests.identity_provider import (
    CLIENT_ID,
    CLIENT_SECRET,
    EC_KEY,
    ED_KEY,
    OTHER_RSA_KEY,
    P384_KEY,
    RSA_KEY,
    SMALL_RSA_KEY,
    Provider,
    b64,
    dripping,
    encode,
    half_hash,
    jwk,
    public_pem,
    send,
)

pytestmark = pytest.mark.django_db

Defect = Callable[[Provider], None]


def claims(**changes: Any) -> Defect:
    """Change claims of the ID token; None removes one."""

    def break_it(provider: Provider) -> None:
        def change(honest: dict[str, Any]) -> dict[str, Any]:
            new = {name: value() if callable(value) else value for name, value in changes.items()}
            return {name: value for name, value in {**honest, **new}.items() if value is not None}

        provider.change_claims = change

    return break_it


def header(**changes: Any) -> Defect:
    """Change the header of the ID token, signed again with the right key."""

    def break_it(provider: Provider) -> None:
        def sign(payload: dict[str, Any]) -> str:
            return identity_provider.sign(
                payload, RSA_KEY, **{"alg": provider.alg, "kid": provider.kid, **changes}
            )

        provider.sign = sign

    return break_it


def unsigned(algorithm: str) -> Defect:
    def break_it(provider: Provider) -> None:
        provider.sign = lambda payload: f"{encode({'alg': algorithm, 'kid': 'k1'})}.{encode(payload)}."

    return break_it


def signed_with_secret(secret: bytes) -> Defect:
    """Sign with HS256 and a secret that the attacker knows too: the client secret, the public key."""

    def break_it(provider: Provider) -> None:
        def sign(payload: dict[str, Any]) -> str:
            signed = f"{encode({'alg': 'HS256', 'kid': 'k1'})}.{encode(payload)}"
            return f"{signed}.{b64(hmac.new(secret, signed.encode(), hashlib.sha256).digest())}"

        provider.sign = sign

    return break_it


def keys(
    *published: dict[str, Any], key: Any = RSA_KEY, alg: str = "RS256", kid: str | None = "k1"
) -> Defect:
    def break_it(provider: Provider) -> None:
        provider.keys, provider.key, provider.alg, provider.kid = list(published), key, alg, kid

    return break_it


def embedded_key(provider: Provider) -> None:
    def sign(payload: dict[str, Any]) -> str:
        return identity_provider.sign(payload, OTHER_RSA_KEY, alg="RS256", kid="k1", jwk=jwk(OTHER_RSA_KEY))

    provider.sign = sign


def altered_signature(provider: Provider) -> None:
    honest = provider.sign
    provider.sign = lambda payload: honest(payload)[:-8] + "AAAAAAAA"


def altered_payload(provider: Provider) -> None:
    honest = provider.sign

    def sign(payload: dict[str, Any]) -> str:
        head, _body, signature = honest(payload).split(".")
        return f"{head}.{encode({**payload, 'sub': 'somebody-else'})}.{signature}"

    provider.sign = sign


def id_token(text: Any) -> Defect:
    def break_it(provider: Provider) -> None:
        provider.change_token_answer = lambda answer: {**answer, "id_token": text}

    return break_it


def token_answer(**changes: Any) -> Defect:
    def break_it(provider: Provider) -> None:
        provider.change_token_answer = lambda answer: {
            name: value for name, value in {**answer, **changes}.items() if value is not None
        }

    return break_it


def userinfo(document: Any) -> Defect:
    def break_it(provider: Provider) -> None:
        provider.userinfo = document

    return break_it


def subject(value: Any) -> Defect:
    """Set the subject in both ID token and UserInfo."""

    def break_it(provider: Provider) -> None:
        claims(sub=value)(provider)
        provider.userinfo = {"sub": value}

    return break_it


def swapped_nonce(provider: Provider) -> None:
    """Use the ID token of another flow of the same client."""
    provider.change_claims = lambda honest: {**honest, "nonce": "n" * 64}


def now(offset: int) -> Callable[[], int]:
    return lambda: int(time.time()) + offset


CHECKS: dict[str, Defect] = {
    "alg none": unsigned("none"),
    "alg None": unsigned("None"),
    "alg empty": unsigned(""),
    "no signature": unsigned("RS256"),
    "HS256 with the client secret": signed_with_secret(CLIENT_SECRET.encode()),
    "HS256 with the public key": signed_with_secret(public_pem(RSA_KEY)),
    "HS256 with nothing": signed_with_secret(b""),
    "a symmetric key in the key set": keys(
        jwk(RSA_KEY),
        {"kty": "oct", "kid": "k1", "alg": "HS256", "k": b64(b"x" * 32)},
        key=b"x" * 32,
        alg="HS256",
    ),
    "another key with the right kid": keys(jwk(RSA_KEY), key=OTHER_RSA_KEY),
    "an unknown kid": keys(jwk(RSA_KEY, kid="other")),
    "no kid and none of two keys": keys(
        jwk(RSA_KEY, kid="a"), jwk(EC_KEY, kid="b", alg="ES256"), key=OTHER_RSA_KEY, kid=None
    ),
    "no keys": keys(),
    "a key for encryption": keys(jwk(RSA_KEY, use="enc")),
    "a key for another algorithm": keys(jwk(RSA_KEY, alg="PS256")),
    "a key of 1024 bits": keys(jwk(SMALL_RSA_KEY), key=SMALL_RSA_KEY),
    "a broken key": keys({"kty": "RSA", "kid": "k1", "n": "!", "e": "AQAB"}),
    "a curve that is not taken": keys(jwk(P384_KEY, alg="ES384"), key=P384_KEY, alg="ES384"),
    "an algorithm that is not taken": keys(jwk(RSA_KEY, alg="RS512"), alg="RS512"),
    "a key in the header": embedded_key,
    "a key URL in the header": header(jku="http://127.0.0.1:1/keys", kid="nobody"),
    "a critical header": header(crit=["exp"], exp=1),
    "an unknown critical header": header(crit=["x-evil"], **{"x-evil": True}),
    "a critical header that a library knows": header(crit=["b64"], b64=True),
    "an empty critical header": header(crit=[]),
    "an unencoded payload": header(b64=False),
    "an altered signature": altered_signature,
    "an altered payload": altered_payload,
    "another issuer": claims(iss="https://evil.example"),
    "an issuer with a slash more": lambda provider: claims(iss=provider.issuer + "/")(provider),
    "an issuer in a list": lambda provider: claims(iss=[provider.issuer])(provider),
    "no issuer": claims(iss=None),
    "another audience": claims(aud="client-2"),
    "another client's audience in a list": claims(aud=["client-2"]),
    "two audiences without azp": claims(aud=[CLIENT_ID, "client-2"]),
    "another azp": claims(azp="client-2"),
    "an audience that begins like ours": claims(aud=CLIENT_ID + "x"),
    "no audience": claims(aud=None),
    "an audience of another type": claims(aud={"client-1": True}),
    "no subject": claims(sub=None),
    "an empty subject": subject(""),
    "a number as subject": subject(5),
    "a list as subject": subject(["a"]),
    "a subject of 256 characters": subject("x" * 256),
    "a subject with NUL": subject("a\x00b"),
    "no expiry": claims(exp=None),
    "an expired token": claims(exp=now(-60)),
    "an expiry that is not a number": claims(exp="soon"),
    "an expiry in a text": claims(exp=lambda: str(now(300)())),
    "an expiry that is true": claims(exp=True),
    "an endless expiry": claims(exp=float("inf")),
    "an expiry in a list": claims(exp=lambda: [now(300)()]),
    "no time of issue": claims(iat=None),
    "issued in the future": claims(iat=now(120)),
    "issued long ago": claims(iat=now(-3600)),
    "issued at a text": claims(iat="now"),
    "issued at a number in a text": claims(iat=lambda: str(now(0)())),
    "issued at true": claims(iat=True),
    "issued at no number": claims(iat=float("nan")),
    "issued at a number too large for a float": claims(iat=10**400),
    "not yet valid": claims(nbf=now(120)),
    "not before a text": claims(nbf=lambda: str(now(0)())),
    "not before true": claims(nbf=True),
    "not before minus infinity": claims(nbf=float("-inf")),
    "no nonce": claims(nonce=None),
    "an empty nonce": claims(nonce=""),
    "a nonce of another type": claims(nonce=["x"]),
    "another transaction's nonce": swapped_nonce,
    "a wrong at_hash": claims(at_hash=half_hash("another token")),
    "an at_hash of another type": claims(at_hash=7),
    "an empty at_hash": claims(at_hash=""),
    "the whole hash as at_hash": claims(at_hash=b64(hashlib.sha256(b"x").digest())),
    "no ID token": token_answer(id_token=None),
    "an ID token that is not a string": id_token(7),
    "an ID token in two parts": id_token("e30.e30"),
    "an ID token in five parts": id_token("a.b.c.d.e"),
    "an ID token of garbage": id_token("!!!.???.###"),
    "an ID token with a list as header": id_token(f"{encode([])}.{encode({})}.x"),
    "an ID token with a list as payload": lambda provider: setattr(
        provider, "sign", lambda payload: f"{encode({'alg': 'RS256', 'kid': 'k1'})}.{encode([payload])}.x"
    ),
    "no access token": token_answer(access_token=None),
    "an access token that is not a string": token_answer(access_token=["a"]),
    "an empty access token": token_answer(access_token=""),
    "an error together with tokens": token_answer(error="invalid_grant"),
    "UserInfo without sub": userinfo({"email": "person@example.com", "email_verified": True}),
    "UserInfo of somebody else": userinfo({"sub": "somebody-else", "email": "person@example.com"}),
    "UserInfo with sub null": userinfo({"sub": None}),
    "UserInfo with sub in a list": userinfo({"sub": ["subject-1"]}),
    "UserInfo with sub in another case": userinfo({"sub": "SUBJECT-1"}),
    "UserInfo of another issuer": userinfo({"sub": "subject-1", "iss": "https://evil.example"}),
    "UserInfo with iss null": userinfo({"sub": "subject-1", "iss": None}),
    "UserInfo for another client": userinfo({"sub": "subject-1", "aud": "client-2"}),
    "UserInfo for other clients": userinfo({"sub": "subject-1", "aud": ["client-2", CLIENT_ID + "x"]}),
    "UserInfo for a client of another type": userinfo({"sub": "subject-1", "aud": {CLIENT_ID: True}}),
}
"""Defects of readable responses, which fail a check."""


def answer(body: bytes, *, status: int = 200, content_type: str = "application/json", **headers: str) -> Any:
    def write(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(status)
        handler.send_header("Content-Type", content_type)
        handler.send_header("Content-Length", str(len(body)))
        for name, value in headers.items():
            handler.send_header(name, value)
        handler.end_headers()
        handler.wfile.write(body)

    return write


def written(raw: bytes) -> Any:
    """Write these bytes instead of an HTTP answer, and close the connection."""

    def write(handler: BaseHTTPRequestHandler) -> None:
        handler.wfile.write(raw)
        handler.close_connection = True

    return write


def silence(handler: BaseHTTPRequestHandler) -> None:
    handler.server.provider.stopped.wait()  # type: ignore[attr-defined]


UNREADABLE: dict[str, Any] = {
    "HTML": answer(b"<html>503</html>", content_type="text/html"),
    "nothing": answer(b""),
    "half of JSON": answer(b'{"sub": "subj'),
    "a list": answer(b"[]"),
    "a text": answer(b'"x"'),
    "null": answer(b"null"),
    "not UTF-8": answer(b"\xff\xfe\xfd{}"),
    "a deep nest": answer(b"[" * 200_000),
    "a redirect": answer(b"", status=302, Location="/elsewhere"),
    "a redirect home": answer(b"", status=307, Location="https://evil.example/"),
    "an internal error": answer(b"{}", status=500),
    "too many requests": answer(b'{"error": "slow_down"}', status=429),
    "a bad gateway": answer(b"bad", status=502),
    "two megabytes": answer(b'"' + b"x" * 2_000_000 + b'"'),
    "an endless body": dripping(b"HTTP/1.0 200 OK\r\n\r\n", b"x" * 65536, pause=0),
    "less than announced": written(b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n{}"),
    "no HTTP": written(b"220 smtp ready\r\n"),
    "a broken chunk": written(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nZZ\r\n{}\r\n"),
    "a thousand headers": written(b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 1000 + b"\r\n{}"),
    "a long header": written(b"HTTP/1.1 200 OK\r\nX: " + b"y" * 200_000 + b"\r\n\r\n{}"),
    "a hundred headers of 64 KiB": written(
        b"HTTP/1.1 200 OK\r\n" + (b"X: " + b"y" * 65_531 + b"\r\n") * 100 + b"\r\n{}"
    ),
    "a hang-up": written(b""),
    "compressed": answer(b"\x1f\x8b\x08\x00\x00", **{"Content-Encoding": "gzip"}),
}
"""Unreadable answers, of every endpoint of a provider."""

SLOW: dict[str, Any] = {
    "a dripping header": dripping(b"HTTP/1.1 200 OK\r\nX-Slow: ", b"x", pause=0.05),
    "dripping headers": dripping(b"HTTP/1.1 200 OK\r\n", b"X-Slow: x\r\n", pause=0.2),
    "a dripping body": dripping(b"HTTP/1.0 200 OK\r\nContent-Length: 1000000\r\n\r\n", b" ", pause=0.05),
    "silence": silence,
}


def assert_nothing_happened(response: Any, *, status: int, code: str, users: int = 0) -> None:
    assert response.status_code == status, (response.status_code, response.content)
    assert code_of(response) == code
    assert not any(cookie.value for cookie in response.cookies.values())
    assert not RefreshSession.objects.exists()
    assert not OAuthIdentity.objects.exists()
    assert get_user_model().objects.count() == users


class TestChecks:
    """security.md, rows 90 to 92."""

    def test_there_are_at_least_40_defects(self) -> None:
        assert len(CHECKS) >= 40

    def test_without_a_defect_the_login_succeeds(self, provider: Provider) -> None:
        add_provider(provider, may_create_users=True)
        provider.change_claims = lambda honest: {**honest, "nbf": int(time.time()) + 5, "azp": CLIENT_ID}

        assert Browser().log_in(provider).status_code == 200

    @pytest.mark.parametrize("audience", [CLIENT_ID, ["client-2", CLIENT_ID]])
    def test_userinfo_with_our_issuer_and_client_id_passes(self, audience: Any, provider: Provider) -> None:
        add_provider(provider, may_create_users=True)
        provider.userinfo = {**provider.claims, "iss": provider.issuer, "aud": audience}

        assert Browser().log_in(provider).status_code == 200

    @pytest.mark.parametrize("name", CHECKS)
    def test_a_defect_is_refused(self, name: str, provider: Provider) -> None:
        add_provider(provider, may_create_users=True)
        CHECKS[name](provider)

        response = Browser().log_in(provider)

        assert_nothing_happened(response, status=401, code="INVALID_CREDENTIALS")
        assert provider.calls["/token"] == 1
        event = AuthEvent.objects.get()
        assert event.kind == "login_failed"
        assert event.provider == "demo"
        assert event.reason

    def test_a_defect_goes_to_the_redirect_with_a_reason(self, provider: Provider) -> None:
        """security.md, row 98."""
        add_provider(provider, may_create_users=True)
        provider.sign = lambda payload: "not.a.token"

        response = Browser().log_in(provider, redirect="/home")

        assert response.status_code == 302
        assert response["Location"] == "http://testserver/home?reason=INVALID_CREDENTIALS"
        assert not any(cookie.value for cookie in response.cookies.values())

    @pytest.mark.parametrize("alg", ["HS256", "RS256", "ES256"])
    def test_an_ed25519_token_needs_its_own_at_hash(self, alg: str, provider: Provider) -> None:
        add_provider(provider, may_create_users=True)
        keys(jwk(ED_KEY, alg="EdDSA"), key=ED_KEY, alg="EdDSA")(provider)
        provider.change_claims = lambda honest: {**honest, "at_hash": half_hash("another token", "sha512")}

        assert_nothing_happened(Browser().log_in(provider), status=401, code="INVALID_CREDENTIALS")


class TestUnreadable:
    """security.md, row 98."""

    @pytest.mark.parametrize("path", ["/token", "/userinfo", "/jwks"])
    @pytest.mark.parametrize("name", UNREADABLE)
    def test_an_unreadable_response_is_unavailable(self, name: str, path: str, provider: Provider) -> None:
        add_provider(provider, may_create_users=True)
        provider.raw[path] = UNREADABLE[name]

        response = Browser().log_in(provider)

        assert_nothing_happened(response, status=503, code="SERVICE_UNAVAILABLE")
        assert not provider.calls["/elsewhere"]

    @pytest.mark.parametrize(
        ("path", "stage"),
        [("/token", "token_exchange"), ("/jwks", "token_validation"), ("/userinfo", "user_info")],
    )
    def test_an_unforeseen_error_is_recorded_with_its_type_and_stage(
        self, path: str, stage: str, provider: Provider
    ) -> None:
        add_provider(provider)
        provider.raw[path] = UNREADABLE["a deep nest"]

        Browser().log_in(provider)

        assert AuthEvent.objects.get().reason == f"{stage}: RecursionError"

    @pytest.mark.parametrize("name", UNREADABLE)
    def test_an_unreadable_discovery_document_starts_nothing(self, name: str, provider: Provider) -> None:
        add_provider(provider)
        provider.raw["/.well-known/openid-configuration"] = UNREADABLE[name]

        response = Browser().get("/auth/oauth/demo")

        assert_nothing_happened(response, status=503, code="SERVICE_UNAVAILABLE")

    def test_the_time_limits_are_short(self) -> None:
        """security.md, row 99: five seconds for a request; security.md, row 98: less than ten for a whole callback."""
        assert outbound.TIMEOUT <= 5
        assert outbound.BUDGET < 10

    @pytest.mark.timeout(60)
    @pytest.mark.parametrize("name", SLOW)
    def test_a_slow_discovery_is_aborted(self, name: str, provider: Provider, monkeypatch: Any) -> None:
        """The provider never ends its response, so without a time limit the test wouldn't end either."""
        add_provider(provider)
        provider.raw["/.well-known/openid-configuration"] = SLOW[name]
        monkeypatch.setattr(outbound, "TIMEOUT", 0.3)

        response = Browser().get("/auth/oauth/demo")

        assert_nothing_happened(response, status=503, code="SERVICE_UNAVAILABLE")

    @pytest.mark.timeout(60)
    @pytest.mark.parametrize("name", SLOW)
    def test_a_slow_token_endpoint_is_aborted(self, name: str, provider: Provider, monkeypatch: Any) -> None:
        add_provider(provider)
        browser = Browser()
        parameters = provider.authorize(browser.start()["Location"])
        provider.raw["/token"] = SLOW[name]
        monkeypatch.setattr(outbound, "TIMEOUT", 0.3)

        response = browser.callback(parameters)

        assert_nothing_happened(response, status=503, code="SERVICE_UNAVAILABLE")

    def test_the_requests_of_a_callback_share_one_budget(self, provider: Provider, monkeypatch: Any) -> None:
        """Each of three answers arrives in time, but together they take longer than allowed."""
        add_provider(provider, may_create_users=True)
        browser = Browser()
        parameters = provider.authorize(browser.start()["Location"])
        honest_token = provider.token

        def slow_token(*args: Any) -> Any:
            time.sleep(0.5)
            return honest_token(*args)

        def slow(document: Any) -> Any:
            def write(handler: BaseHTTPRequestHandler) -> None:
                time.sleep(0.5)
                send(handler, json.dumps(document).encode())

            return write

        provider.token = slow_token  # type: ignore[method-assign]
        provider.raw["/jwks"] = slow({"keys": provider.keys})
        provider.raw["/userinfo"] = slow(provider.claims)
        # On a slow machine the budget is used up even earlier.
        monkeypatch.setattr(outbound, "Budget", functools.partial(outbound.Budget, 1.4))

        response = browser.callback(parameters)

        assert_nothing_happened(response, status=503, code="SERVICE_UNAVAILABLE")

    def test_a_provider_that_is_down_is_unavailable(self, provider: Provider) -> None:
        add_provider(provider)
        browser = Browser()
        parameters = provider.authorize(browser.start(redirect="/home")["Location"])
        provider.stop()

        response = browser.callback(parameters)

        assert response["Location"] == "http://testserver/home?reason=SERVICE_UNAVAILABLE"
        provider.__init__()  # type: ignore[misc]

    @pytest.mark.parametrize(
        ("status", "body"),
        [
            (400, {"error": "invalid_grant"}),
            (401, {"error": "invalid_client"}),
            (400, {"error": "unauthorized_client", "error_description": "<b>x</b>"}),
            (403, {"error": "a word of its own"}),
            (404, {"error": {"message": "x"}}),
            (200, {"error": "bad_verification_code"}),
            (200, {"error": {"message": "x", "code": 100}}),
        ],
    )
    def test_a_refused_code_is_a_refusal(self, status: int, body: Any, provider: Provider) -> None:
        add_provider(provider)
        provider.raw["/token"] = answer(json.dumps(body).encode(), status=status)

        response = Browser().log_in(provider)

        assert_nothing_happened(response, status=401, code="INVALID_CREDENTIALS")
        assert b"<b>" not in response.content

    @pytest.mark.parametrize(
        ("path", "status", "body"),
        [
            ("/token", 400, b""),
            ("/token", 403, b"{}"),
            ("/token", 404, b"<h1>not found</h1>"),
            ("/token", 404, b'["error"]'),
            ("/token", 400, b'{"error": ""}'),
            ("/token", 400, b"[" * 200_000),
            ("/token", 400, b'{"error": "temporarily_unavailable"}'),
            ("/token", 400, b'{"error": "server_error"}'),
            ("/token", 429, b'{"error": "invalid_grant"}'),
            ("/token", 500, b'{"error": "invalid_grant"}'),
            ("/jwks", 400, b'{"error": "access_denied"}'),
            ("/jwks", 401, b'{"error": "invalid_token"}'),
            ("/jwks", 403, b"{}"),
            ("/jwks", 404, b"{}"),
            ("/userinfo", 400, b'{"error": "invalid_request"}'),
            ("/userinfo", 404, b"{}"),
            ("/userinfo", 429, b"{}"),
        ],
    )
    def test_another_status_is_unavailable(
        self, path: str, status: int, body: bytes, provider: Provider
    ) -> None:
        add_provider(provider, may_create_users=True)
        provider.raw[path] = answer(body, status=status)

        assert_nothing_happened(Browser().log_in(provider), status=503, code="SERVICE_UNAVAILABLE")

    @pytest.mark.parametrize("status", [400, 401, 403, 404, 410])
    @pytest.mark.parametrize("body", [b"{}", b'{"error": "access_denied"}'])
    def test_a_discovery_document_that_disappears_is_unavailable(
        self, body: bytes, status: int, provider: Provider
    ) -> None:
        row = add_provider(provider, may_create_users=True)
        browser = Browser()
        parameters = provider.authorize(browser.start()["Location"])
        row.save()
        provider.raw["/.well-known/openid-configuration"] = answer(body, status=status)

        assert_nothing_happened(browser.callback(parameters), status=503, code="SERVICE_UNAVAILABLE")
        assert not provider.calls["/token"]

    @pytest.mark.parametrize("status", [401, 403])
    @pytest.mark.parametrize(
        "body", [b'{"error": "invalid_token"}', b"", b"[" * 200_000, b'{"error": "server_error"}']
    )
    def test_a_refused_access_token_is_a_refusal(self, body: bytes, status: int, provider: Provider) -> None:
        add_provider(provider)
        provider.raw["/userinfo"] = answer(body, status=status)

        assert_nothing_happened(Browser().log_in(provider), status=401, code="INVALID_CREDENTIALS")


def discovery(**changes: Any) -> Defect:
    def break_it(provider: Provider) -> None:
        provider.change_discovery = lambda document: {
            name: value for name, value in {**document, **changes}.items() if value is not None
        }

    return break_it


DISCOVERIES: dict[str, Defect] = {
    "another issuer": discovery(issuer="https://evil.example"),
    "an issuer with a slash more": lambda provider: discovery(issuer=provider.issuer + "/")(provider),
    "no issuer": discovery(issuer=None),
    "an issuer of another type": lambda provider: discovery(issuer=[provider.issuer])(provider),
    "no authorization endpoint": discovery(authorization_endpoint=None),
    "no token endpoint": discovery(token_endpoint=None),
    "no keys": discovery(jwks_uri=None),
    "a script as authorization endpoint": discovery(authorization_endpoint="javascript:alert(1)"),
    "a file as key set": discovery(jwks_uri="file:///etc/passwd"),
    "an endpoint of another type": discovery(token_endpoint=5),
    "an endpoint with credentials": discovery(token_endpoint="http://a:b@127.0.0.1/token"),
    "an endpoint with a line break": discovery(token_endpoint="http://127.0.0.1/\r\nX: y"),
    "UserInfo of another type": discovery(userinfo_endpoint=7),
}


class TestDiscovery:
    """security.md, row 90."""

    @pytest.mark.parametrize("name", DISCOVERIES)
    def test_a_wrong_document_starts_nothing_and_is_not_cached(self, name: str, provider: Provider) -> None:
        add_provider(provider, may_create_users=True)
        honest = provider.change_discovery
        DISCOVERIES[name](provider)

        response = Browser().get("/auth/oauth/demo")

        assert_nothing_happened(response, status=503, code="SERVICE_UNAVAILABLE")
        provider.change_discovery = honest
        assert Browser().log_in(provider).status_code == 200

    def test_without_debug_every_endpoint_is_https(self, provider: Provider, settings: Any) -> None:
        """security.md, row 99."""
        add_provider(provider)
        settings.DEBUG = False

        response = Browser().get("/auth/oauth/demo")

        assert_nothing_happened(response, status=503, code="SERVICE_UNAVAILABLE")
        assert not provider.calls

    def test_an_endpoint_that_is_not_public_is_not_called(self, provider: Provider, settings: Any) -> None:
        """security.md, row 99: the issuer may be private, but the URLs in its document may not."""
        port = provider.issuer.rpartition(":")[2]
        discovery(token_endpoint=f"http://localhost:{port}/token")(provider)
        add_provider(provider)

        response = Browser().log_in(provider)

        assert_nothing_happened(response, status=503, code="SERVICE_UNAVAILABLE")
        assert not provider.calls["/token"]

    def test_an_issuer_with_a_trailing_slash_is_kept_as_it_is(self, provider: Provider) -> None:
        issuer = provider.issuer + "/"
        add_provider(provider, issuer=issuer, may_create_users=True)
        discovery(issuer=issuer)(provider)
        provider.change_claims = lambda honest: {**honest, "iss": issuer}
        browser = Browser()
        parameters = provider.authorize(browser.start()["Location"]) | {"iss": issuer}

        assert browser.callback(parameters).status_code == 200


class TestResponseIssuer:
    """security.md, row 88; RFC 9207."""

    @pytest.mark.parametrize("advertised", [True, False])
    @pytest.mark.parametrize("iss", ["https://evil.example", "", "{issuer}/", "{issuer}."])
    def test_another_issuer_is_refused_before_the_code_is_sent(
        self, iss: str, advertised: bool, provider: Provider
    ) -> None:
        provider.sends_iss = advertised
        add_provider(provider, may_create_users=True)
        browser = Browser()
        parameters = provider.authorize(browser.start()["Location"])

        response = browser.callback({**parameters, "iss": iss.format(issuer=provider.issuer)})

        assert_nothing_happened(response, status=401, code="INVALID_CREDENTIALS")
        assert not provider.calls["/token"]

    def test_an_advertised_issuer_is_required(self, provider: Provider) -> None:
        add_provider(provider, may_create_users=True)
        browser = Browser()
        parameters = provider.authorize(browser.start()["Location"])
        del parameters["iss"]

        assert_nothing_happened(browser.callback(parameters), status=401, code="INVALID_CREDENTIALS")
        assert not provider.calls["/token"]

    def test_an_issuer_that_is_not_advertised_is_optional(self, provider: Provider) -> None:
        provider.sends_iss = False
        add_provider(provider, may_create_users=True)

        assert Browser().log_in(provider).status_code == 200

    @pytest.mark.parametrize("code", ["", None])
    def test_a_missing_code_is_refused(self, code: str | None, provider: Provider) -> None:
        add_provider(provider)
        browser = Browser()
        parameters = provider.authorize(browser.start()["Location"])
        parameters = {
            name: value for name, value in {**parameters, "code": code}.items() if value is not None
        }

        assert_nothing_happened(browser.callback(parameters), status=401, code="INVALID_CREDENTIALS")
        assert not provider.calls["/token"]


class TestTwoProviders:
    """security.md, row 89."""

    @pytest.fixture
    def other(self, provider: Provider) -> Any:
        running = Provider()
        running.claims = {"sub": "subject-1", "email": "other@example.com", "email_verified": True}
        running.key, running.keys = OTHER_RSA_KEY, [jwk(OTHER_RSA_KEY)]
        yield running
        running.stop()

    def test_share_neither_discovery_documents_nor_keys(self, provider: Provider, other: Provider) -> None:
        add_provider(provider, "first", may_create_users=True)
        add_provider(other, "second", may_create_users=True)

        for _ in range(2):
            assert Browser().log_in(provider, key="first").status_code == 200
            assert Browser().log_in(other, key="second").status_code == 200

        for each in (provider, other):
            assert each.calls["/.well-known/openid-configuration"] == 1
            assert each.calls["/jwks"] == 1
            assert each.calls["/token"] == 2
        assert OAuthIdentity.objects.values("user").distinct().count() == 2

    def test_the_key_of_one_verifies_nothing_of_the_other(self, provider: Provider, other: Provider) -> None:
        add_provider(provider, "first", may_create_users=True)
        add_provider(other, "second", may_create_users=True)
        other.key = RSA_KEY
        assert Browser().log_in(provider, key="first").status_code == 200

        assert Browser().log_in(other, key="second").status_code == 401

    def test_a_response_of_one_is_refused_at_the_other(self, provider: Provider, other: Provider) -> None:
        """security.md, row 88: the mix-up."""
        add_provider(provider, "first", may_create_users=True)
        add_provider(other, "second", may_create_users=True)
        browser = Browser()
        of_first = provider.authorize(browser.start("first")["Location"])
        of_second = other.authorize(browser.start("second")["Location"])

        assert browser.callback(of_first, key="second").status_code == 400
        response = browser.callback(
            {**of_second, "code": of_first["code"], "iss": of_first["iss"]}, key="second"
        )

        assert set(response.cookies) == {"oauth_flow"}
        response.cookies.clear()
        assert_nothing_happened(response, status=401, code="INVALID_CREDENTIALS")
        assert not provider.calls["/token"]
        assert not other.calls["/token"]

    @pytest.mark.parametrize("way", ["save", "update"])
    def test_the_document_of_an_edited_row_is_fetched_again(
        self, way: str, provider: Provider, other: Provider
    ) -> None:
        row = add_provider(provider, may_create_users=True)
        assert Browser().log_in(provider).status_code == 200
        if way == "save":
            row.issuer = other.issuer
            row.save()
        else:
            # This doesn't change `updated_at`.
            OAuthProvider.objects.update(issuer=other.issuer)

        assert Browser().log_in(other).status_code == 200

        assert other.calls["/.well-known/openid-configuration"] == 1


class TestPlainOAuth2:
    """A plain OAuth 2.0 server: without an ID token, with the same care."""

    is_public = False

    @pytest.fixture
    def plain(self, provider: Provider) -> OAuthProvider:
        provider.claims = {"id": 42, "mail": "person@example.com", "profile": {"verified": True}}
        return add_provider(
            provider,
            kind="oauth2",
            issuer="",
            authorization_url=f"{provider.issuer}/authorize?fixed=1",
            token_url=f"{provider.issuer}/token",
            userinfo_url=f"{provider.issuer}/userinfo",
            email_field="mail",
            email_verified_field="profile.verified",
            scopes="one two",
            may_create_users=True,
            email_linking="proven",
        )

    @pytest.fixture(autouse=True)
    def came(self, provider: Provider) -> list[tuple[str | None, str]]:
        """Accept the secret in the body too; return what was received as client secret and as Authorization."""
        honest, came = provider.token, []

        def token(form: dict[str, str], authorization: str) -> Any:
            came.append((form.get("client_secret"), authorization))
            if self.is_public:
                assert form.get("client_id") == CLIENT_ID
                form["client_secret"] = CLIENT_SECRET
            if not authorization:
                pair = f"{form.get('client_id')}:{form.get('client_secret')}"
                authorization = "Basic " + base64.b64encode(pair.encode()).decode()
            return honest(form, authorization)

        provider.token = token  # type: ignore[method-assign]
        return came

    def test_a_refused_url_is_logged(
        self, plain: OAuthProvider, settings: Any, caplog: pytest.LogCaptureFixture
    ) -> None:
        settings.DEBUG = False

        assert Browser().get("/auth/oauth/demo").status_code == 503

        assert "provider demo gave no usable response: not an https URL" in caplog.text

    def test_logs_in_with_its_urls_and_fields(self, plain: OAuthProvider, provider: Provider) -> None:
        browser = Browser()
        location = browser.start()["Location"]

        response = browser.callback(provider.authorize(location))

        assert response.status_code == 200, response.content
        assert "fixed=1" in location
        assert "scope=one+two" in location or "scope=one two" in location
        assert "code_challenge_method=S256" in location
        assert "nonce" not in location
        identity = OAuthIdentity.objects.get()
        assert identity.subject == "42"
        assert identity.email == "person@example.com"
        assert not identity.founded_on_unverified_email

    @pytest.mark.parametrize(
        "client_id",
        ["a+b", "a b", "a&scope=admin", "a%41", "https://rp.example/c?x=1&y=2#z", "\u00e9", "a=b;c", 'a"<b>'],
    )
    def test_special_characters_in_the_client_id_are_encoded(
        self, client_id: str, plain: OAuthProvider
    ) -> None:
        plain.client_id = client_id
        plain.save()

        location = Browser().start()["Location"]

        asked = parse_qsl(urlsplit(location).query, strict_parsing=True)
        assert dict(asked)["client_id"] == client_id
        assert len(asked) == len(dict(asked)) == 8
        assert location.isascii()
        assert not set(location) & set('# "<>')

    @pytest.mark.parametrize(
        ("own", "kept"),
        [
            (
                "?resource=https%3A%2F%2Fa%2F%3Fx%3D1%26y%3D2&empty=&p=a%2Bb&&x",
                "resource=https%3A%2F%2Fa%2F%3Fx%3D1%26y%3D2&empty=&p=a%2Bb&&x",
            ),
            ("?a=1&client_id=evil&%73cope=admin&state=fixed&b=2&redirect_uri", "a=1&b=2"),
            ("?state=fixed", ""),
            ("?", ""),
            ("", ""),
        ],
    )
    def test_its_own_query_is_kept_except_for_our_parameters(
        self, own: str, kept: str, plain: OAuthProvider, provider: Provider
    ) -> None:
        plain.authorization_url = f"{provider.issuer}/authorize{own}"
        plain.save()

        location = Browser().start()["Location"]

        begin = f"{provider.issuer}/authorize?{kept}&" if kept else f"{provider.issuer}/authorize?"
        assert location.startswith(f"{begin}client_id=client-1&redirect_uri=")
        ours = parse_qsl(location.removeprefix(begin), strict_parsing=True)
        assert len(ours) == len(dict(ours)) == 7
        assert dict(ours)["scope"] == "one two"

    @pytest.mark.parametrize(
        ("authentication", "expected"),
        [
            ("post", (CLIENT_SECRET, "")),
            ("basic", (None, "Basic " + base64.b64encode(f"{CLIENT_ID}:{CLIENT_SECRET}".encode()).decode())),
        ],
    )
    def test_the_row_says_where_the_secret_goes(
        self, authentication: str, expected: Any, plain: OAuthProvider, provider: Provider, came: list[Any]
    ) -> None:
        """RFC 6749, 2.3.1."""
        plain.client_authentication = authentication
        plain.save()

        assert Browser().log_in(provider).status_code == 200
        assert came == [expected]

    @pytest.mark.parametrize("authentication", ["post", "basic"])
    def test_a_public_client_sends_no_secret(
        self, authentication: str, plain: OAuthProvider, provider: Provider, came: list[Any]
    ) -> None:
        self.is_public = True
        plain.client_authentication, plain.client_secret = authentication, ""
        plain.save()

        assert Browser().log_in(provider).status_code == 200
        assert came == [(None, "")]

    @pytest.mark.parametrize(
        "document",
        [
            {"mail": "person@example.com"},
            {"id": None},
            {"id": ""},
            {"id": True},
            {"id": {"a": 1}},
            {"id": [1]},
            {"id": 1.5},
            {"id": "x" * 256},
        ],
    )
    def test_a_missing_id_is_refused(self, document: Any, plain: OAuthProvider, provider: Provider) -> None:
        provider.userinfo = document

        assert_nothing_happened(Browser().log_in(provider), status=401, code="INVALID_CREDENTIALS")

    def test_an_id_in_the_token_response_does_not_count(
        self, plain: OAuthProvider, provider: Provider
    ) -> None:
        provider.userinfo = {"mail": "person@example.com"}
        token_answer(id="42")(provider)

        assert_nothing_happened(Browser().log_in(provider), status=401, code="INVALID_CREDENTIALS")

    def test_its_addresses_are_not_verified_by_default(
        self, plain: OAuthProvider, provider: Provider
    ) -> None:
        plain.email_verified_field = ""
        plain.email_linking = "proven"
        plain.save()
        make_user("person@example.com")

        assert_nothing_happened(Browser().log_in(provider), status=403, code="INVALID_PROVIDER", users=1)

    @pytest.mark.parametrize("verified", ["true", 1, "yes", [True]])
    def test_verified_is_a_boolean(self, verified: Any, plain: OAuthProvider, provider: Provider) -> None:
        """security.md, row 94."""
        provider.claims["profile"] = {"verified": verified}
        plain.email_linking = "proven"
        plain.save()
        make_user("person@example.com")

        assert_nothing_happened(Browser().log_in(provider), status=403, code="INVALID_PROVIDER", users=1)

    def test_an_issuer_in_its_response_is_compared(self, plain: OAuthProvider, provider: Provider) -> None:
        plain.issuer = "https://issuer.example"
        plain.save()

        assert_nothing_happened(Browser().log_in(provider), status=401, code="INVALID_CREDENTIALS")
        assert not provider.calls["/token"]

    def test_an_edited_secret_takes_effect_at_once(self, plain: OAuthProvider, provider: Provider) -> None:
        plain.client_secret = "another"
        plain.save()

        assert_nothing_happened(Browser().log_in(provider), status=401, code="INVALID_CREDENTIALS")
