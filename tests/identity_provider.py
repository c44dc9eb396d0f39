"""An OpenID Connect provider of our own, in a thread, of which one part at a time can be broken."""

from __future__ import annotations

import base64
import hashlib
import json
import secrets
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, parse_qsl, unquote, urlsplit

import jwt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

CLIENT_ID = "client-1"
CLIENT_SECRET = "a-client-secret-that-nobody-may-see"

RSA_KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)
OTHER_RSA_KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)
SMALL_RSA_KEY = rsa.generate_private_key(public_exponent=65537, key_size=1024)
EC_KEY = ec.generate_private_key(ec.SECP256R1())
P384_KEY = ec.generate_private_key(ec.SECP384R1())
ED_KEY = ed25519.Ed25519PrivateKey.generate()

_ALGORITHMS = {
    "RS256": jwt.algorithms.RSAAlgorithm,
    "ES256": jwt.algorithms.ECAlgorithm,
    "EdDSA": jwt.algorithms.OKPAlgorithm,
}


def jwk(
    private_key: Any, *, kid: str | None = "k1", alg: str | None = "RS256", **extra: Any
) -> dict[str, Any]:
    """Return the public JWK of a private key."""
    family = {"PS256": "RS256", "RS512": "RS256", "ES384": "ES256"}.get(alg or "RS256", alg or "RS256")
    document = _ALGORITHMS[family].to_jwk(private_key.public_key(), as_dict=True)
    document.pop("key_ops", None)
    document.update({"kid": kid, "alg": alg, "use": "sig"})
    document.update(extra)
    return {name: value for name, value in document.items() if value is not None}


def public_pem(private_key: Any) -> bytes:
    return private_key.public_key().public_bytes(  # type: ignore[no-any-return]
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )


def half_hash(text: str, hash_name: str = "sha256") -> str:
    digest = hashlib.new(hash_name, text.encode()).digest()
    return base64.urlsafe_b64encode(digest[: len(digest) // 2]).decode().rstrip("=")


def b64(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")


def encode(document: Any) -> str:
    return b64(json.dumps(document).encode())


def sign(claims: Any, key: Any, *, alg: str, **headers: Any) -> str:
    """Sign anything: PyJWT refuses to sign what a hostile provider sends."""
    signed = f"{encode({'alg': alg, 'typ': 'JWT', **headers})}.{encode(claims)}"
    return f"{signed}.{b64(jwt.get_algorithm_by_name(alg).sign(signed.encode(), key))}"


class Provider:
    """The provider. A test can replace each `make_*` or `raw[path]` to break one part."""

    def __init__(self) -> None:
        self.calls: Counter[str] = Counter()
        self.codes: dict[str, dict[str, str]] = {}
        self.secrets_issued: list[str] = []
        self.claims: dict[str, Any] = {
            "sub": "subject-1",
            "email": "person@example.com",
            "email_verified": True,
        }
        self.userinfo: dict[str, Any] | None = None
        self.key: Any = RSA_KEY
        self.alg = "RS256"
        self.kid: str | None = "k1"
        self.keys: list[dict[str, Any]] = [jwk(RSA_KEY)]
        self.sends_iss = True
        self.change_discovery: Callable[[dict[str, Any]], Any] = lambda document: document
        self.change_claims: Callable[[dict[str, Any]], Any] = lambda claims: claims
        self.change_token_answer: Callable[[dict[str, Any]], Any] = lambda answer: answer
        self.sign: Callable[[dict[str, Any]], str] = self._sign
        self.stopped = threading.Event()
        self.raw: dict[str, Callable[[BaseHTTPRequestHandler], None]] = {}
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        self._server.provider = self  # type: ignore[attr-defined]
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True
        )
        self._thread.start()

    @property
    def issuer(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def stop(self) -> None:
        self.stopped.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(5)

    def authorize(self, location: str) -> dict[str, str]:
        """Let the user log in and consent at the start URL; return the callback's parameters."""
        asked = dict(parse_qsl(urlsplit(location).query))
        code = secrets.token_urlsafe(24)
        self.codes[code] = asked
        self.secrets_issued += [code, asked["state"]]
        return {"code": code, "state": asked["state"], **({"iss": self.issuer} if self.sends_iss else {})}

    def discovery(self) -> Any:
        return self.change_discovery(
            {
                "issuer": self.issuer,
                "authorization_endpoint": f"{self.issuer}/authorize",
                "token_endpoint": f"{self.issuer}/token",
                "userinfo_endpoint": f"{self.issuer}/userinfo",
                "jwks_uri": f"{self.issuer}/jwks",
                "response_types_supported": ["code"],
                "subject_types_supported": ["public"],
                "id_token_signing_alg_values_supported": ["RS256"],
                "token_endpoint_auth_methods_supported": ["client_secret_basic"],
                "authorization_response_iss_parameter_supported": self.sends_iss,
            }
        )

    def token(self, form: dict[str, str], authorization: str) -> tuple[int, Any]:
        asked = self.codes.pop(form.get("code", ""), None)
        if asked is None or form.get("redirect_uri") != asked["redirect_uri"]:
            return 400, {"error": "invalid_grant"}
        pair = base64.b64decode(authorization.removeprefix("Basic ")).decode().split(":")
        if [unquote(part) for part in pair] != [CLIENT_ID, CLIENT_SECRET]:
            return 401, {"error": "invalid_client"}
        verifier = form.get("code_verifier", "")
        challenge = base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).decode().rstrip("=")
        if asked.get("code_challenge_method") != "S256" or challenge != asked.get("code_challenge"):
            return 400, {"error": "invalid_grant"}
        access_token = "provider-access-" + secrets.token_urlsafe(16)
        now = int(time.time())
        claims = {
            "iss": self.issuer,
            "aud": CLIENT_ID,
            "iat": now,
            "exp": now + 300,
            "nonce": asked.get("nonce"),
            "at_hash": half_hash(access_token, "sha512" if self.alg == "EdDSA" else "sha256"),
            **self.claims,
        }
        id_token = self.sign(self.change_claims(claims))
        self.secrets_issued += [access_token, id_token, verifier]
        answer = {
            "access_token": access_token,
            "token_type": "Bearer",
            "expires_in": 300,
            "id_token": id_token,
        }
        return 200, self.change_token_answer(answer)

    def _sign(self, claims: dict[str, Any]) -> str:
        return sign(claims, self.key, alg=self.alg, **({"kid": self.kid} if self.kid else {}))

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        provider = self

        class Handler(BaseHTTPRequestHandler):
            def answer(self) -> None:
                path = urlsplit(self.path).path
                provider.calls[path] += 1
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0)).decode()
                if path in provider.raw:
                    provider.raw[path](self)
                    return
                status: int = 200
                document: Any
                match path:
                    case "/.well-known/openid-configuration":
                        document = provider.discovery()
                    case "/jwks":
                        document = {"keys": provider.keys}
                    case "/token":
                        form = {name: values[0] for name, values in parse_qs(body, True).items()}
                        status, document = provider.token(form, self.headers.get("Authorization", ""))
                    case "/userinfo":
                        document = provider.claims if provider.userinfo is None else provider.userinfo
                    case _:
                        status, document = 404, {}
                send(self, json.dumps(document).encode(), status=status)

            do_GET = do_POST = answer

            def log_message(self, *args: Any) -> None:
                pass

        return Handler


def dripping(start: bytes, part: bytes, *, pause: float) -> Callable[[BaseHTTPRequestHandler], None]:
    """Return a handler that sends a start, then one part after another until the caller hangs up."""

    def drip(handler: BaseHTTPRequestHandler) -> None:
        with suppress(OSError):
            handler.wfile.write(start)
            while True:
                handler.wfile.write(part)
                time.sleep(pause)

    return drip


def send(
    handler: BaseHTTPRequestHandler, body: bytes, *, status: int = 200, content_type: str = "application/json"
) -> None:
    # A caller that hangs up is what some tests are about.
    with suppress(ConnectionError):
        handler.send_response(status)
        handler.send_header("Content-Type", content_type)
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        handler.wfile.write(body)
