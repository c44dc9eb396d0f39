"""What a host project may listen to.

Every signal is sent with `send_robust` when what it tells is written: a receiver that fails is logged and changes
nothing. Within a transaction of the host's that is before the commit, for which `transaction.on_commit` waits.
`sender` is the user model. All carry `user` (None where there is no account), `request` (the Django request, or
None) and `client` (`platform_auth.caller.Caller`: address, user agent, device).
None carries a password, code or token.
"""

from __future__ import annotations

from django.dispatch import Signal

logged_in = Signal()
"""A session was opened. Also: `session` (RefreshSession), `provider` (its key, or "")."""

login_failed = Signal()
"""A log-in was refused. Also: `email` (as typed), `reason` ("credentials", "otp", "limited", "provider")."""

refreshed = Signal()
"""A refresh token was rotated. Also: `session`."""

logged_out = Signal()
"""A session was ended by its user. Also: `session`."""

refresh_token_reused = Signal()
"""A spent refresh token came back, so it had leaked; its session is over. Also: `session`."""

password_reset_requested = Signal()
"""The request for a reset was worked off.

Also: `outcome` ("sent", "unknown", "inactive", "provider_only", "limited", "mail_error",
"dead"). "mail_error" comes when the mail fails first, and once more when it is given up; between the two it is tried
again, so "sent" may follow. "dead": by the time of its mail the link had expired, newer ones had taken its place, or
the account had changed.
"""

password_reset = Signal()
"""A password was set by the link of a mail; every session of the user is over."""

password_changed = Signal()
"""A signed-in user changed the password. Also: `session`, the one that goes on."""

factor_enabled = Signal()
"""A second factor was confirmed."""

factor_disabled = Signal()
"""A second factor was removed. Also: `by` ("user" or "admin")."""

identity_linked = Signal()
"""A provider account was linked to a user. Also: `identity` (OAuthIdentity)."""
