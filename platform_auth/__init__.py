"""Authentication for Django APIs: log-in, refresh, log-out, reset, second factor, providers."""

__version__ = "0.1.0.dev0"
