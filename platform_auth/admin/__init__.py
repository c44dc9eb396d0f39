"""Django admin: providers and linked accounts; sessions, reset links, second factors and events; the user's page."""

from __future__ import annotations

from .accounts import UserInlines as UserInlines
from .providers import OAuthProviderAdmin as OAuthProviderAdmin
