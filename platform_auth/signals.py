"""Signals that a host project can connect to.

Each is sent with `send_robust` after the change is written: a receiver that fails is logged and changes nothing.
Inside a transaction of the host's, that is before the commit; use `transaction.on_commit` to wait for it. `sender` is
the user model. All carry `user` (None if there is no account), `request` (the Django request, or None) and `client`
(a `platform_auth.caller.Caller`: address, user agent, device). None of them carries a password, code or token.
"""

from __future__ import annotations

from django.dispatch import Signal

logged_in = Signal()
"""A session was opened. Also: `session` (RefreshSession), `provider` (its key, or "")."""

login_failed = Signal()
"""A login failed. Also: `email` (as typed), `reason` ("credentials", "otp", "limited" or "provider")."""

refreshed = Signal()
"""A refresh token was rotated. Also: `session`."""

logged_out = Signal()
"""A session ended because its user logged out, or a new login replaced it. Also: `session`."""

refresh_token_reused = Signal()
"""A rotated refresh token was used again, so it has leaked; its session was ended. Also: `session`."""

password_reset_requested = Signal()
"""A password reset request was processed.

Also: `outcome` ("sent", "unknown", "inactive", "provider_only", "limited", "mail_error" or "dead"). "mail_error" is
sent when the email fails for the first time and again when the last attempt has failed; between the two, "sent" may
follow. "dead": when the email was due, the link had expired or been superseded, or the account had changed.
"""

password_reset = Signal()
"""A password was set using the link in an email; all sessions of the user have ended."""

password_changed = Signal()
"""A signed-in user changed their password. Also: `session`, the one that stays."""

factor_enabled = Signal()
"""A second factor was turned on."""

factor_disabled = Signal()
"""A second factor was removed. Also: `by` ("user" or "admin")."""

identity_linked = Signal()
"""A provider account was linked to a user. Also: `identity` (OAuthIdentity)."""
