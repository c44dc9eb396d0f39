"""Access tokens: what they contain, what is accepted as one, which keys sign."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import socketserver
import threading
import time
import uuid
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from django.conf import settings as django_settings
from django.core import signing
from django.core.exceptions import ImproperlyConfigured
from django.utils import timezone
from django.views.debug import ExceptionReporter
from rest_framework_simplejwt import tokens as simplejwt

from platform_auth import conf, errors, sessions, signed_tokens
from platform_auth.models import RefreshSession
from platform_auth.passwords import reset_tokens
from platform_auth.sessions import tokens
from tests.conftest import PASSWORD, Api, code_of

pytestmark = pytest.mark.django_db

ALGORITHMS = ["HS256", "EdDSA", "ES256", "RS256"]


def pem(key: Any) -> str:
    return key.private_bytes(  # type: ignore[no-any-return]
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode()


def public_pem(private: str) -> str:
    key = serialization.load_pem_private_key(private.encode(), None).public_key()
    return key.public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    ).decode()


def new_key(algorithm: str) -> str:
    match algorithm:
        case "EdDSA":
            return pem(ed25519.Ed25519PrivateKey.generate())
        case "ES256":
            return pem(ec.generate_private_key(ec.SECP256R1()))
        case "RS256":
            return pem(rsa.generate_private_key(65537, 2048))
        case _:
            return base64.b64encode(uuid.uuid4().bytes * 3).decode()


KEYS = {algorithm: new_key(algorithm) for algorithm in ALGORITHMS}
RSA = KEYS["RS256"]


def b64(data: bytes | dict[str, Any]) -> str:
    raw = json.dumps(data).encode() if isinstance(data, dict) else data
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def unb64(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


class Good:
    """A valid token taken apart, and the key that signed it: more than a forger may know."""

    def __init__(self, token: str) -> None:
        self.token = token
        self.parts = token.split(".")
        self.header: dict[str, Any] = json.loads(unb64(self.parts[0]))
        self.claims: dict[str, Any] = json.loads(unb64(self.parts[1]))
        self.key = next(iter(signed_tokens.keyring().values())).signing

    def hs256(
        self, header: dict[str, Any], claims: Any, key: bytes | None = None, digest: str = "sha256"
    ) -> str:
        """Sign anything with HS256, with our own key unless another one is given."""
        body = f"{b64(header)}.{b64(claims if isinstance(claims, bytes) else json.dumps(claims).encode())}"
        return f"{body}.{b64(hmac.digest(self.key if key is None else key, body.encode(), digest))}"

    def with_header(self, **changes: Any) -> str:
        header = {k: v for k, v in {**self.header, **changes}.items() if v is not ...}
        return self.hs256(header, self.claims)

    def with_claims(self, **changes: Any) -> str:
        return self.hs256(self.header, {k: v for k, v in {**self.claims, **changes}.items() if v is not ...})

    def with_raw_exp(self, literal: str) -> str:
        text = json.dumps({**self.claims, "exp": 0}).replace('"exp": 0', f'"exp": {literal}')
        return self.hs256(self.header, text.encode())


Forgery = Callable[[Good], str]
SOON = 4_000_000_000

# Signed with our own key where possible, so that it is refused by the named check and not because of its signature.
FORGERIES: dict[str, Forgery] = {
    # security.md, row 22
    "alg none": lambda g: f"{b64({**g.header, 'alg': 'none'})}.{g.parts[1]}.",
    "alg None": lambda g: f"{b64({**g.header, 'alg': 'None'})}.{g.parts[1]}.",
    "alg nOnE": lambda g: f"{b64({**g.header, 'alg': 'nOnE'})}.{g.parts[1]}.",
    "alg NONE with the signature kept": lambda g: f"{b64({**g.header, 'alg': 'NONE'})}.{g.parts[1]}.{g.parts[2]}",
    "alg empty": lambda g: g.with_header(alg=""),
    "alg missing": lambda g: g.with_header(alg=...),
    "alg null": lambda g: g.with_header(alg=None),
    "alg a list": lambda g: g.with_header(alg=["HS256"]),
    "alg hs256": lambda g: g.with_header(alg="hs256"),
    "alg HS384, rightly signed": lambda g: g.hs256({**g.header, "alg": "HS384"}, g.claims, digest="sha384"),
    "alg HS512, rightly signed": lambda g: g.hs256({**g.header, "alg": "HS512"}, g.claims, digest="sha512"),
    "alg RS256": lambda g: jwt.encode(g.claims, RSA, "RS256", {**g.header, "alg": "RS256"}),
    "alg PS256": lambda g: jwt.encode(g.claims, RSA, "PS256", {**g.header, "alg": "PS256"}),
    "alg ES256": lambda g: jwt.encode(g.claims, KEYS["ES256"], "ES256", {**g.header, "alg": "ES256"}),
    "alg EdDSA": lambda g: jwt.encode(g.claims, KEYS["EdDSA"], "EdDSA", {**g.header, "alg": "EdDSA"}),
    "crit unknown": lambda g: g.with_header(crit=["urn:example:unknown"]),
    "crit b64": lambda g: g.with_header(crit=["b64"], b64=False),
    "b64 false": lambda g: g.with_header(b64=False),
    "b64 false with a raw payload": lambda g: (
        lambda head, body: f"{head}.{body}.{b64(hmac.digest(g.key, f'{head}.{body}'.encode(), 'sha256'))}"
    )(b64({**g.header, "b64": False}), json.dumps(g.claims)),
    "zip": lambda g: g.with_header(zip="DEF"),
    "a JWE": lambda g: f"{b64({'alg': 'dir', 'enc': 'A256GCM'})}..AAAA.{g.parts[1]}.AAAA",
    "a JWS in JSON": lambda g: json.dumps({"protected": g.parts[0], "payload": g.parts[1], "signature": g.parts[2]}),
    # Signatures
    "no signature": lambda g: f"{g.parts[0]}.{g.parts[1]}.",
    "two parts": lambda g: f"{g.parts[0]}.{g.parts[1]}",
    "four parts": lambda g: f"{g.token}.x",
    "signature altered": lambda g: f"{g.parts[0]}.{g.parts[1]}.{b64(bytes(32))}",
    "signature cut": lambda g: g.token[:-6],
    "padding behind it": lambda g: f"{g.token}=",
    "padding in the payload": lambda g: g.hs256(g.header, g.claims).replace(".", "=.", 1),
    "payload altered": lambda g: f"{g.parts[0]}.{b64({**g.claims, 'sub': 'x'})}.{g.parts[2]}",
    "another key": lambda g: g.hs256(g.header, g.claims, key=b"x" * 32),
    "the empty key": lambda g: g.hs256(g.header, g.claims, key=b""),
    "SECRET_KEY itself": lambda g: g.hs256(g.header, g.claims, key=django_settings.SECRET_KEY.encode()),
    "a public RSA key as a secret": lambda g: g.hs256(g.header, g.claims, key=public_pem(RSA).encode()),
    # security.md, row 23
    "kid missing": lambda g: g.with_header(kid=...),
    "kid unknown": lambda g: g.with_header(kid="deadbeef"),
    "kid of a file": lambda g: g.hs256({**g.header, "kid": "../../../../dev/null"}, g.claims, key=b""),
    "kid of SQL": lambda g: g.hs256({**g.header, "kid": "' UNION SELECT 'x' --"}, g.claims, key=b"x"),
    "kid a number": lambda g: g.with_header(kid=0),
    "kid a list": lambda g: g.with_header(kid=[g.header["kid"]]),
    "kid an object": lambda g: g.with_header(kid={"kid": g.header["kid"]}),
    "kid null": lambda g: g.with_header(kid=None),
    "jwk of the forger": lambda g: g.hs256(
        {**g.header, "jwk": {"kty": "oct", "k": b64(b"x" * 32)}}, g.claims, key=b"x" * 32
    ),
    "jwk with a valid signature": lambda g: g.with_header(jwk={"kty": "oct", "k": b64(b"x" * 32)}),
    "x5c with a valid signature": lambda g: g.with_header(x5c=["AAAA"]),
    "x5t with a valid signature": lambda g: g.with_header(x5t="AAAA"),
    # security.md, row 25: typ
    "typ JWT": lambda g: g.with_header(typ="JWT"),
    "typ missing": lambda g: g.with_header(typ=...),
    "typ of a reset token": lambda g: g.with_header(typ="password-reset+jwt"),
    "cty": lambda g: g.with_header(cty="JWT"),
    # security.md, row 24: claims
    **{
        f"{name} missing": (lambda g, name=name: g.with_claims(**{name: ...}))
        for name in ("sub", "sid", "iss", "aud", "iat", "exp", "jti", "token_type", "amr", "auth_time")
    },
    **{
        f"{name} null": (lambda g, name=name: g.with_claims(**{name: None}))
        for name in ("sub", "sid", "iss", "aud", "iat", "exp", "jti", "token_type", "amr", "auth_time")
    },
    "iss another": lambda g: g.with_claims(iss="http://testserver.evil.example"),
    "iss a prefix": lambda g: g.with_claims(iss=g.claims["iss"][:-1]),
    "iss with a slash": lambda g: g.with_claims(iss=g.claims["iss"] + "/"),
    "iss in capitals": lambda g: g.with_claims(iss=g.claims["iss"].upper()),
    "iss a list": lambda g: g.with_claims(iss=[g.claims["iss"]]),
    "iss empty": lambda g: g.with_claims(iss=""),
    "aud another": lambda g: g.with_claims(aud="other"),
    "aud a list of ours": lambda g: g.with_claims(aud=[g.claims["aud"]]),
    "aud a list with ours": lambda g: g.with_claims(aud=["other", g.claims["aud"]]),
    "aud a prefix": lambda g: g.with_claims(aud=g.claims["aud"][:-1]),
    "aud empty": lambda g: g.with_claims(aud=""),
    "token_type refresh": lambda g: g.with_claims(token_type="refresh"),
    "token_type of a reset token": lambda g: g.with_claims(token_type="password_reset"),
    "token_type Access": lambda g: g.with_claims(token_type="Access"),
    "exp a float": lambda g: g.with_claims(exp=SOON + 0.5),
    "exp a string": lambda g: g.with_claims(exp=str(SOON)),
    "exp true": lambda g: g.with_claims(exp=True),
    "exp negative": lambda g: g.with_claims(exp=-SOON),
    "exp a list": lambda g: g.with_claims(exp=[SOON]),
    "exp infinite": lambda g: g.with_raw_exp("1e999"),
    "exp not a number": lambda g: g.with_raw_exp("NaN"),
    "iat in the future": lambda g: g.with_claims(iat=g.claims["iat"] + 60),
    "iat a float": lambda g: g.with_claims(iat=float(g.claims["iat"])),
    "iat a string": lambda g: g.with_claims(iat=str(g.claims["iat"])),
    "nbf": lambda g: g.with_claims(nbf=g.claims["iat"]),
    "nbf in the future": lambda g: g.with_claims(nbf=SOON),
    "sub another": lambda g: g.with_claims(sub=str(uuid.uuid4())),
    "sub a number": lambda g: g.with_claims(sub=1),
    "sub empty": lambda g: g.with_claims(sub=""),
    "sub with a blank": lambda g: g.with_claims(sub=g.claims["sub"] + " "),
    "sid another": lambda g: g.with_claims(sid=str(uuid.uuid4())),
    "sid no uuid": lambda g: g.with_claims(sid="1"),
    "sid a number": lambda g: g.with_claims(sid=1),
    "sid a list": lambda g: g.with_claims(sid=[g.claims["sid"]]),
    "sid SQL": lambda g: g.with_claims(sid="' OR 1=1 --"),
    "jti empty": lambda g: g.with_claims(jti=""),
    "jti a number": lambda g: g.with_claims(jti=5),
    "amr a number": lambda g: g.with_claims(amr=5),
    "auth_time a word": lambda g: g.with_claims(auth_time="x"),
    "a claim too many": lambda g: g.with_claims(is_staff=True),
    "a payload that is a list": lambda g: g.hs256(g.header, []),
    "a payload that is a string": lambda g: g.hs256(g.header, "x"),
    "a payload that is not JSON": lambda g: g.hs256(g.header, b"{"),
    "a payload nested deep": lambda g: g.hs256(g.header, b"[" * 1400 + b"]" * 1400),
    "a header nested deep": lambda g: f"{b64(b'[' * 1400 + b']' * 1400)}.e30.AAAA",
    "a header that is a list": lambda g: f"{b64(b'[]')}.{g.parts[1]}.{g.parts[2]}",
    "over 4096 characters": lambda g: g.with_claims(jti="x" * 5000),
    # Not a token
    "empty": lambda g: "",
    "null": lambda g: "null",
    "undefined": lambda g: "undefined",
    "dots": lambda g: "..",
    "not ASCII": lambda g: "é.é.é",
    "the token twice": lambda g: f"{g.token},{g.token}",
    "a blank inside": lambda g: f"{g.token} x",
    # security.md, row 25: other kinds
    "a reset token of ours": lambda g: signed_tokens.sign(
        reset_tokens.PASSWORD_RESET, {"sub": g.claims["sub"]}, now=timezone.now(), lifetime=timedelta(hours=1)
    ),
    "a reset token with an access token's claims": lambda g: signed_tokens.sign(
        reset_tokens.PASSWORD_RESET,
        {name: g.claims[name] for name in ("sub", "sid", "amr", "auth_time")},
        now=timezone.now(),
        lifetime=timedelta(hours=1),
    ),
    "simplejwt's refresh token": lambda g: str(simplejwt.RefreshToken()),
    "simplejwt's access token": lambda g: str(simplejwt.AccessToken()),
    "simplejwt's sliding token": lambda g: str(simplejwt.SlidingToken()),
    "simplejwt's access token with our key": lambda g: jwt.encode(
        {"token_type": "access", "exp": SOON, "iat": g.claims["iat"], "jti": "x", "user_id": g.claims["sub"]},
        g.key,
        "HS256",
    ),
    "an id token": lambda g: jwt.encode(
        {"iss": g.claims["iss"], "aud": g.claims["aud"], "sub": g.claims["sub"], "exp": SOON, "iat": 1, "nonce": "x"},
        RSA, "RS256",
    ),
    "something signed by Django": lambda g: signing.dumps({"sub": g.claims["sub"]}),
    "the session's id": lambda g: str(g.claims["sid"]),
}  # fmt: skip


def ask(token: str) -> Any:
    return Api().client.get("/api/whoami", headers={"Authorization": f"Bearer {token}"})


# Somebody who has our key can name anyone, which only a lookup reveals.
TOLD_BY_A_LOOK_UP = ("sub another", "sid another", "sub with a blank")


class TestForgeries:
    """security.md, rows 22 to 25."""

    def test_there_are_at_least_25(self) -> None:
        assert len(FORGERIES) > 100

    @pytest.mark.parametrize("forgery", FORGERIES.values(), ids=FORGERIES)
    def test_it_is_refused(self, signed_in: Api, forgery: Forgery) -> None:
        good = Good(signed_in.access_token or "")
        # An unchanged copy made with the same tool is accepted, so the tool isn't the reason for the refusal.
        assert ask(good.hs256(good.header, good.claims)).status_code == 200

        response = ask(forgery(good))

        assert response.status_code == 401, response.content
        assert code_of(response) in ("INVALID_TOKEN", "TOKEN_EXPIRED")
        assert response["WWW-Authenticate"] == 'Bearer error="invalid_token"'
        assert not response.cookies

    @pytest.mark.parametrize("name", [name for name in FORGERIES if name not in TOLD_BY_A_LOOK_UP])
    def test_it_is_refused_by_stateless_authentication(self, signed_in: Api, name: str) -> None:
        token = FORGERIES[name](Good(signed_in.access_token or ""))

        response = Api().client.get("/api/stateless", headers={"Authorization": f"Bearer {token}"})

        assert response.status_code == 401, response.content

    def test_a_token_signed_with_the_public_key_is_refused(self, signed_in: Api, configure: Any) -> None:
        """security.md, row 22: HS256 signed with the RSA public key as PEM, DER and JWK."""
        configure(SIGNING_ALGORITHM="RS256", SIGNING_KEYS=[RSA])
        signed_in.refreshed()
        good = Good(signed_in.access_token or "")
        public = public_pem(RSA)
        loaded = serialization.load_pem_public_key(public.encode())
        der = loaded.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
        jwk = json.dumps(signed_in.get("/auth/jwks").json()["keys"][0]).encode()
        assert ask(good.token).status_code == 200

        for key in (public.encode(), public.strip().encode(), der, jwk):
            for algorithm in ("HS256", "RS256"):
                forged = good.hs256({**good.header, "alg": algorithm}, good.claims, key=key)
                assert ask(forged).status_code == 401

    def test_no_header_causes_a_fetch(self, signed_in: Api) -> None:
        """security.md, row 23."""
        calls: list[Any] = []

        class Listener(socketserver.BaseRequestHandler):
            def handle(self) -> None:
                calls.append(self.request)

        with socketserver.TCPServer(("127.0.0.1", 0), Listener) as server:
            thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
            thread.start()
            url = f"http://127.0.0.1:{server.server_address[1]}/keys"
            good = Good(signed_in.access_token or "")
            for header in ({"jku": url}, {"x5u": url}, {"kid": url}, {"jku": url, "kid": "x"}):
                assert ask(good.with_header(**header)).status_code == 401
            time.sleep(0.1)
            server.shutdown()
            thread.join()

        assert not calls

    def test_the_user_is_compared_with_the_session(self, signed_in: Api) -> None:
        from tests.conftest import make_user

        good = Good(signed_in.access_token or "")
        other = sessions.open(make_user())

        assert ask(good.with_claims(sid=str(other.session.pk))).status_code == 401
        assert ask(good.with_claims(sub=str(other.session.user_id))).status_code == 401


class TestTime:
    """security.md, rows 24, 28."""

    def test_it_is_valid_for_exactly_900_seconds(self, user: Any, clock: Any) -> None:
        api = Api()
        api.login(user.email)
        clock.shift(899)
        assert api.get("/api/whoami").status_code == 200
        clock.shift(1)

        response = api.get("/api/whoami")

        assert (response.status_code, code_of(response)) == (401, "TOKEN_EXPIRED")
        assert response["WWW-Authenticate"] == 'Bearer error="invalid_token"'

    @pytest.mark.parametrize(("ahead", "status"), [(5, 200), (10, 200), (12, 401)])
    def test_another_nodes_clock_may_be_ten_seconds_ahead(
        self, user: Any, clock: Any, ahead: int, status: int
    ) -> None:
        clock.shift(ahead)
        grant = sessions.open(user)
        clock.shift(-ahead)

        assert ask(grant.access_token).status_code == status

    def test_the_setting_changes_its_life(self, user: Any, configure: Any, clock: Any) -> None:
        configure(ACCESS_TOKEN_TTL=timedelta(seconds=60))
        grant = sessions.open(user)

        assert grant.expires_in == 60
        clock.shift(60)
        assert code_of(ask(grant.access_token)) == "TOKEN_EXPIRED"

    def test_an_expired_forgery_is_invalid_not_expired(self, user: Any, clock: Any) -> None:
        good = Good(sessions.open(user).access_token)
        clock.shift(3600)

        assert code_of(ask(good.hs256(good.header, good.claims, key=b"x" * 32))) == "INVALID_TOKEN"

    @pytest.mark.parametrize("claim", ["iss", "aud", "token_type"])
    def test_an_expired_token_of_another_site_is_invalid_not_expired(
        self, user: Any, clock: Any, claim: str
    ) -> None:
        """TOKEN_EXPIRED makes a client refresh, but a token of another site has no refresh token here."""
        good = Good(sessions.open(user).access_token)
        clock.shift(3600)

        assert code_of(ask(good.with_claims(**{claim: "another"}))) == "INVALID_TOKEN"
        assert code_of(ask(good.hs256(good.header, good.claims))) == "TOKEN_EXPIRED"


class TestSession:
    """security.md, rows 26, 27, 32."""

    def test_a_deactivated_user_is_refused_at_the_next_request(self, signed_in: Api, user: Any) -> None:
        type(user).objects.update(is_active=False)

        response = signed_in.get("/api/whoami")

        assert (response.status_code, code_of(response)) == (401, "INVALID_TOKEN")

    def test_a_deleted_user_is_refused(self, signed_in: Api, user: Any) -> None:
        user.delete()

        assert signed_in.get("/api/whoami").status_code == 401

    def test_permissions_are_read_from_the_database(self, signed_in: Api, user: Any) -> None:
        from rest_framework.request import Request
        from rest_framework.test import APIRequestFactory

        from platform_auth.authentication import AccessTokenAuthentication

        def authenticated() -> Any:
            request = APIRequestFactory().get(
                "/", headers={"Authorization": f"Bearer {signed_in.access_token}"}
            )
            return AccessTokenAuthentication().authenticate(Request(request))[0]  # type: ignore[index]

        assert not authenticated().is_superuser
        type(user).objects.update(is_superuser=True)
        assert authenticated().is_superuser

    def test_an_expired_session_is_refused_even_if_the_token_is_not_expired(self, signed_in: Api) -> None:
        RefreshSession.objects.update(expires_at="2020-01-01T00:00:00Z")

        assert code_of(signed_in.get("/api/whoami")) == "INVALID_TOKEN"


class TestWhereItIsRead:
    """security.md, row 29, and Tokens in the contract."""

    @pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER", "bEaReR"])
    def test_the_scheme_may_have_any_case(self, signed_in: Api, scheme: str) -> None:
        response = signed_in.get(
            "/api/whoami", headers={"Authorization": f"{scheme} {signed_in.access_token}"}
        )

        assert response.status_code == 200

    def test_it_is_not_read_from_a_body(self, signed_in: Api) -> None:
        token, signed_in.access_token = signed_in.access_token, None

        assert signed_in.post("/api/whoami", {"access_token": token}).status_code == 401

    def test_two_headers_are_401(self, signed_in: Api) -> None:
        token = signed_in.access_token
        # A WSGI server joins two headers of the same name with a comma.
        for joined in (f"Bearer {token},Bearer {token}", f"Bearer {token}, Basic Og=="):
            assert signed_in.get("/api/whoami", headers={"Authorization": joined}).status_code == 401

    def test_it_is_not_read_from_the_query_by_default(self, signed_in: Api) -> None:
        token, signed_in.access_token = signed_in.access_token, None

        assert signed_in.get(f"/api/whoami?access_token={token}").status_code == 401

    def test_it_is_read_from_the_query_if_the_setting_says_so(self, signed_in: Api, configure: Any) -> None:
        configure(ACCESS_TOKEN_IN_QUERY=True)
        token, signed_in.access_token = signed_in.access_token, None

        assert signed_in.get(f"/api/whoami?access_token={token}").status_code == 200
        for other in ("null", "Basic Og=="):
            assert (
                signed_in.get(
                    f"/api/whoami?access_token={token}", headers={"Authorization": other}
                ).status_code
                == 200
            )

    def test_header_and_query_together_are_400(self, signed_in: Api, configure: Any) -> None:
        configure(ACCESS_TOKEN_IN_QUERY=True)
        token = signed_in.access_token

        for query in (f"access_token={token}", f"access_token={token}&access_token={token}", "access_token="):
            response = signed_in.get(f"/api/whoami?{query}")
            assert (response.status_code, code_of(response)) == (400, "INVALID_PAYLOAD"), query

    def test_an_empty_token_is_invalid_not_missing(self, api: Api, db: None) -> None:
        for header in ("Bearer", "Bearer ", "Bearer  "):
            response = api.get("/api/whoami", headers={"Authorization": header})
            assert code_of(response) == "INVALID_TOKEN", header

    def test_another_scheme_is_ignored(self, api: Api, db: None) -> None:
        for header in ("null", "Basic dTpw", "Token x", "Digest x", "", "Bearerx.y.z"):
            response = api.get("/api/whoami", headers={"Authorization": header})
            assert code_of(response) == "INVALID_CREDENTIALS", header
            assert response["WWW-Authenticate"] == "Bearer"


class TestKeys:
    """security.md, row 31."""

    @pytest.fixture(params=ALGORITHMS)
    def algorithm(self, request: pytest.FixtureRequest, configure: Any) -> str:
        configure(SIGNING_ALGORITHM=request.param, SIGNING_KEYS=[KEYS[request.param]])
        return str(request.param)

    def test_every_algorithm_signs_and_verifies(self, algorithm: str, user: Any) -> None:
        grant = sessions.open(user)

        assert jwt.get_unverified_header(grant.access_token)["alg"] == algorithm
        assert ask(grant.access_token).status_code == 200

    def test_a_new_key_does_not_log_anyone_out(self, algorithm: str, user: Any, configure: Any) -> None:
        old = sessions.open(user)
        newer = new_key(algorithm)
        configure(SIGNING_ALGORITHM=algorithm, SIGNING_KEYS=[newer, KEYS[algorithm]])

        new = sessions.open(user)

        assert ask(old.access_token).status_code == 200
        assert ask(new.access_token).status_code == 200
        configure(SIGNING_ALGORITHM=algorithm, SIGNING_KEYS=[newer])
        assert ask(old.access_token).status_code == 401
        assert ask(new.access_token).status_code == 200

    def test_a_public_key_after_the_first_verifies(self, user: Any, configure: Any) -> None:
        for algorithm in ("EdDSA", "ES256", "RS256"):
            configure(SIGNING_ALGORITHM=algorithm, SIGNING_KEYS=[KEYS[algorithm]])
            old = sessions.open(user)
            configure(
                SIGNING_ALGORITHM=algorithm, SIGNING_KEYS=[new_key(algorithm), public_pem(KEYS[algorithm])]
            )
            assert ask(old.access_token).status_code == 200

    def test_a_public_key_cannot_be_the_first(self, configure: Any) -> None:
        configure(SIGNING_ALGORITHM="ES256", SIGNING_KEYS=[public_pem(KEYS["ES256"])])

        with pytest.raises(ImproperlyConfigured):
            signed_tokens.keyring()

    def test_after_a_change_of_algorithm_old_tokens_are_refused(self, user: Any, configure: Any) -> None:
        old = sessions.open(user)
        configure(SIGNING_ALGORITHM="EdDSA", SIGNING_KEYS=[KEYS["EdDSA"]])

        assert ask(old.access_token).status_code == 401

    def test_a_secret_key_fallback_verifies_but_does_not_sign(self, user: Any, settings: Any) -> None:
        old = sessions.open(user)
        settings.SECRET_KEY_FALLBACKS = [settings.SECRET_KEY]
        settings.SECRET_KEY = "new-" + "n" * 60
        new = sessions.open(user)

        assert ask(old.access_token).status_code == 200
        settings.SECRET_KEY_FALLBACKS = []
        assert ask(old.access_token).status_code == 401
        assert ask(new.access_token).status_code == 200

    def test_the_signing_key_is_derived_not_secret_key_itself(self) -> None:
        key = next(iter(signed_tokens.keyring().values()))

        assert len(key.signing) == 32
        assert key.signing != django_settings.SECRET_KEY.encode()
        assert key.kid == hashlib.sha256(key.signing).hexdigest()[:8]
        assert conf.derive_key(django_settings.SECRET_KEY, label="other") != key.signing

    @pytest.mark.parametrize(
        ("algorithm", "key"),
        [("HS256", "x" * 31), ("RS256", "x" * 64), ("EdDSA", RSA), ("ES256", KEYS["EdDSA"]),
         ("RS256", pem(rsa.generate_private_key(65537, 1024))),
         ("ES256", pem(ec.generate_private_key(ec.SECP384R1())))],
        # Keys differ in each process; as test ids, two workers would not agree on them.
        ids=["31 bytes", "no PEM", "RSA for EdDSA", "Ed25519 for ES256", "RSA of 1024 bits", "P-384 for ES256"],
    )  # fmt: skip
    def test_a_weak_key_or_one_of_another_kind_is_refused(
        self, configure: Any, algorithm: str, key: str
    ) -> None:
        configure(SIGNING_ALGORITHM=algorithm, SIGNING_KEYS=[key])

        with pytest.raises(ImproperlyConfigured) as raised:
            signed_tokens.keyring()
        assert key not in str(raised.value)

    @pytest.mark.parametrize("algorithm", ["EdDSA", "ES256", "RS256"])
    def test_an_asymmetric_algorithm_without_keys_is_refused(self, configure: Any, algorithm: str) -> None:
        configure(SIGNING_ALGORITHM=algorithm, SIGNING_KEYS=None)

        with pytest.raises(ImproperlyConfigured):
            signed_tokens.keyring()

    def test_the_repr_of_a_key_reveals_nothing(self) -> None:
        assert repr(next(iter(signed_tokens.keyring().values()))).startswith("<Key ")


class TestKeySet:
    """GET /auth/jwks (RFC 7517)."""

    def test_it_is_empty_for_hs256(self, api: Api, db: None) -> None:
        response = api.get("/auth/jwks")

        assert (response.status_code, response.json()) == (200, {"keys": []})

    @pytest.mark.parametrize("algorithm", ["EdDSA", "ES256", "RS256"])
    def test_another_service_can_verify_tokens_with_it(
        self, api: Api, user: Any, configure: Any, algorithm: str
    ) -> None:
        old, new = new_key(algorithm), KEYS[algorithm]
        configure(SIGNING_ALGORITHM=algorithm, SIGNING_KEYS=[new, old])
        token = sessions.open(user).access_token

        keys = api.get("/auth/jwks").json()["keys"]

        assert len(keys) == 2
        private = {"d", "p", "q", "dp", "dq", "qi", "oth", "k"}
        assert not any(private & set(key) for key in keys)
        assert all((key["use"], key["alg"]) == ("sig", algorithm) for key in keys)
        kid = jwt.get_unverified_header(token)["kid"]
        key = next(key for key in keys if key["kid"] == kid)
        claims = jwt.decode(
            token,
            jwt.PyJWK(key),
            algorithms=[algorithm],
            audience="http://testserver",
            issuer="http://testserver",
        )
        assert claims["sub"] == str(user.pk)

    def test_it_ignores_any_access_token(self, api: Api, db: None) -> None:
        assert api.get("/auth/jwks", headers={"Authorization": "Bearer x"}).status_code == 200


class TestKindsAreNotInterchangeable:
    """security.md, row 25: each kind of token in each place that accepts another kind."""

    @pytest.fixture
    def tokens(self, signed_in: Api, user: Any) -> dict[str, str]:
        reset = signed_tokens.sign(
            reset_tokens.PASSWORD_RESET,
            {"sub": str(user.pk), "jti": str(uuid.uuid4())},
            now=timezone.now(),
            lifetime=timedelta(hours=1),
        )
        return {
            "access": signed_in.access_token or "",
            "refresh": signed_in.refresh_token or "",
            "reset": reset,
            "simplejwt": str(simplejwt.AccessToken()),
        }

    @pytest.mark.parametrize("kind", ["refresh", "reset", "simplejwt"])
    @pytest.mark.parametrize(
        "path", ["/api/whoami", "/api/stateless", "/auth/sessions", "/users/me", "/auth/tfa"]
    )
    def test_only_an_access_token_authenticates(self, tokens: dict[str, str], kind: str, path: str) -> None:
        for extra in ({"headers": {"Authorization": f"Bearer {tokens[kind]}"}}, {"cookie": tokens[kind]}):
            api = Api()
            if cookie := extra.pop("cookie", None):
                api.client.cookies["__Host-access_token"] = cookie
            response = api.get(path, **extra)
            assert (response.status_code, code_of(response)) == (401, "INVALID_TOKEN")

    @pytest.mark.parametrize("kind", ["access", "reset", "simplejwt"])
    def test_only_a_refresh_token_refreshes(self, tokens: dict[str, str], kind: str) -> None:
        assert Api().post("/auth/refresh", {"refresh_token": tokens[kind]}).status_code == 401
        assert Api().post("/auth/logout", {"refresh_token": tokens[kind]}).status_code == 204
        assert RefreshSession.objects.exists()

    @pytest.mark.parametrize("kind", ["access", "refresh", "simplejwt"])
    def test_only_a_reset_token_resets(self, tokens: dict[str, str], kind: str) -> None:
        response = Api().post(
            "/auth/password/reset", {"token": tokens[kind], "password": "a new password of mine"}
        )

        assert (response.status_code, code_of(response)) == (401, "INVALID_TOKEN")

    def test_a_django_session_does_not_authenticate(self, user: Any) -> None:
        api = Api()
        api.client.force_login(user, backend="platform_auth.backends.EmailBackend")

        assert api.get("/api/whoami").status_code == 401
        assert api.get("/auth/sessions").status_code == 401


class TestIsolationFromSimpleJwt:
    """The host's SIMPLE_JWT doesn't affect us, and we don't affect the host's simplejwt."""

    def test_its_tokens_are_refused_by_us(self, user: Any) -> None:
        token = simplejwt.AccessToken()
        token["sub"] = str(user.pk)

        assert ask(str(token)).status_code == 401

    def test_our_tokens_are_refused_by_it(self, user: Any) -> None:
        from rest_framework_simplejwt.exceptions import TokenError

        token = sessions.open(user).access_token

        with pytest.raises(TokenError):
            simplejwt.AccessToken(token)

    def test_its_settings_do_not_change_our_claims(self, user: Any) -> None:
        good = Good(sessions.open(user).access_token)

        assert good.header == {"alg": "HS256", "typ": "at+jwt", "kid": good.header["kid"]}
        assert good.claims["exp"] - good.claims["iat"] == 900
        assert "user_id" not in good.claims
        assert "hostile_type" not in good.claims


class TestTokens:
    def test_verify_returns_what_issue_signed(self, user: Any) -> None:
        session = sessions.open(user, amr=("pwd", "otp")).session

        token, life = tokens.issue_access_token(session, now=timezone.now())
        claims = tokens.verify_access_token(token)

        assert life == 900
        assert claims.user_id == str(user.pk)
        assert claims.session_id == session.pk
        assert claims.methods == ["pwd", "otp"]

    def test_a_string_that_is_not_a_jwt_is_refused(self, user: Any) -> None:
        with pytest.raises(errors.InvalidToken):
            tokens.verify_access_token("x")

    def test_every_token_has_its_own_id(self, user: Any) -> None:
        session = sessions.open(user).session
        issued = {tokens.issue_access_token(session, now=timezone.now())[0] for _ in range(20)}

        assert len(issued) == 20


class TestErrorReport:
    """security.md, row 120: Django's error report about a host's own view contains no token."""

    @pytest.mark.parametrize("path", ["/api/whoami", "/api/stateless"])
    @pytest.mark.parametrize("where", ["header", "cookie"])
    def test_it_does_not_contain_the_token(
        self, api: Api, user: Any, configure: Any, rf: Any, path: str, where: str
    ) -> None:
        if where == "header":
            api.login(user.email)
            token = str(api.access_token)
            request = rf.get(path, headers={"Authorization": f"Bearer {token}"})
        else:
            api.post("/auth/login", {"email": user.email, "password": PASSWORD, "mode": "session"})
            token = api.client.cookies["__Host-access_token"].value
            request = rf.get(path, headers={"Cookie": f"__Host-access_token={token}"})
        configure(SIGNING_KEYS=["too short"])

        with pytest.raises(ImproperlyConfigured) as broken:
            api.get(path)

        # Through Django's handlers, as in a server.
        traceback = broken.tb
        while "core/handlers" not in traceback.tb_frame.f_code.co_filename:
            assert traceback.tb_next is not None
            traceback = traceback.tb_next
        reporter = ExceptionReporter(request, broken.type, broken.value, traceback)
        reports = reporter.get_traceback_html() + reporter.get_traceback_text()
        assert "authenticate" in reports
        assert "tokens.py" in reports
        assert token not in reports
        assert token.rpartition(".")[2] not in reports

    def test_it_does_not_if_a_host_verifies_tokens_itself(self, user: Any, configure: Any) -> None:
        token = sessions.open(user).access_token
        configure(SIGNING_KEYS=["too short"])

        with pytest.raises(ImproperlyConfigured) as broken:
            tokens.verify_access_token(token)

        frames = ExceptionReporter(None, broken.type, broken.value, broken.tb).get_traceback_data()["frames"]
        shown = [frame["vars"] for frame in frames if "/tests/" not in frame["filename"]]
        assert shown
        assert token not in str(shown)
