"""Authentication for Django APIs: login, refresh, logout, password reset, second factor, providers."""

__version__ = "0.1.0.dev0"
