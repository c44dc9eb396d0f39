"""How a provider's row drives python-social-auth: its settings, storage and session.

No setting of the host's is read (the stock strategy reads `SOCIAL_AUTH_*` and plain settings), nothing is stored, and
the session is a dictionary that lives as long as the request.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from django.views.decorators.debug import sensitive_variables
from social_core.storage import BaseStorage, NonceMixin
from social_core.strategy import BaseStrategy

from ..models import OAuthProvider
from . import flow_state, outbound


class _States(NonceMixin):
    """Storage of states: the cookie holds the flow, and the callback claims its state before python-social-auth
    checks it.
    """

    @classmethod
    def use(cls, server_url: str, timestamp: Any, salt: str) -> bool:
        return True

    @classmethod
    def consume(cls, server_url: str, timestamp: int, salt: str) -> bool:
        return True


class _Storage(BaseStorage):
    nonce = _States


class RowStrategy(BaseStrategy[str]):
    """The strategy for one flow of one provider row. A "response" is the URL to send the browser to."""

    def __init__(self, provider: OAuthProvider, *, data: dict[str, str], session: dict[str, Any]) -> None:
        super().__init__(_Storage)
        self.provider = provider
        self.data = data
        self.session = session
        self.budget = outbound.Budget()

    @sensitive_variables()
    def setting(self, name: str, default: Any = None, backend: Any = None) -> Any:
        match name:
            case "KEY":
                return self.provider.client_id
            case "SECRET":
                return self.provider.client_secret
            case "SCOPE":
                return self.provider.scopes.split()
            case "STATE_LIFETIME":
                return flow_state.FLOW_LIFETIME
            case "USE_PKCE":
                return True
            case _:
                return default

    def redirect(self, url: str) -> str:
        return url

    def get_request_data(self, merge: bool = True) -> dict[str, Any]:
        return self.data

    def session_get(self, name: str, default: Any = None) -> Any:
        return self.session.get(name, default)

    def session_set(self, name: str, value: Any) -> None:
        self.session[name] = value

    def session_pop(self, name: str) -> Any:
        return self.session.pop(name, None)

    def build_absolute_uri(self, path: str | None = None) -> str:
        return path or ""


class KeptNonce(NamedTuple):
    """What python-social-auth looks up for a nonce. The nonce is in its flow, where `validate_claims` compares it; no
    row is written.
    """

    assoc_type: str
    id: None = None
