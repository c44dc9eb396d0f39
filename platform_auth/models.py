"""The tables: sessions, reset links, factors, providers, identities, counters, events.

Queries have names on the querysets; callers pass the current time.
"""

from __future__ import annotations

import hashlib
import re
import uuid
from datetime import datetime
from typing import Any, ClassVar

from django.conf import settings
from django.contrib.auth.models import Group
from django.core.validators import RegexValidator
from django.db import models
from django.utils import timezone
from django.utils.translation import gettext_lazy as _
from django.utils.translation import pgettext_lazy
from django.views.decorators.debug import sensitive_variables
from django_otp.models import Device, DeviceManager

from . import sealing
from .db import AppendOnlyModel, AppendOnlyQuerySet, PrimaryManager
from .second_factor import totp


class Mode(models.TextChoices):
    """How the tokens travel. A session may move forward in this order, never back."""

    JSON = "json", "json"
    COOKIE = "cookie", "cookie"
    SESSION = "session", "session"


class RefreshSessionQuerySet(models.QuerySet["RefreshSession"]):
    """Queries on sessions."""

    def live(self, *, now: datetime) -> RefreshSessionQuerySet:
        """Return the sessions that haven't expired."""
        return self.filter(expires_at__gt=now)

    def expired(self, *, now: datetime) -> RefreshSessionQuerySet:
        return self.filter(expires_at__lte=now)


class RefreshSession(models.Model):
    """A login, in one row for its whole life. Deleting the row revokes all its tokens."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    user = models.ForeignKey(
        settings.AUTH_USER_MODEL,
        models.CASCADE,
        verbose_name=_("user"),
        related_name="platform_auth_sessions",
    )
    # Identifies the session in its refresh tokens. Neither this nor the next two fields are shown or dumped.
    key = models.UUIDField(unique=True, default=uuid.uuid4, editable=False, serialize=False)
    digest = models.CharField(max_length=64, editable=False, serialize=False)
    salt = models.CharField(max_length=32, editable=False, serialize=False, default="", blank=True)
    mode = models.CharField(
        pgettext_lazy("authentication", "mode"), max_length=7, choices=Mode.choices, default=Mode.JSON
    )
    amr = models.CharField(
        _("authentication methods"),
        max_length=255,
        blank=True,
        help_text=_("How the user was authenticated, as space-separated methods (RFC 8176)."),
    )
    provider = models.CharField(_("provider"), max_length=64, blank=True)
    tfa_required = models.BooleanField(
        _("must set up a second factor"),
        default=False,
        help_text=_("Until then, this session can only be used to set it up."),
    )
    # The login proved a second factor that isn't ours, so no policy requires ours.
    factor_satisfied = models.BooleanField(default=False, editable=False)
    created_at = models.DateTimeField(_("logged in at"), default=timezone.now)
    rotated_at = models.DateTimeField(_("refreshed at"), default=timezone.now)
    expires_at = models.DateTimeField(_("expires at"))
    ip_address = models.GenericIPAddressField(_("IP address"), null=True, blank=True)
    user_agent = models.CharField(_("user agent"), max_length=512, blank=True)

    objects = PrimaryManager.from_queryset(RefreshSessionQuerySet)()

    class Meta:
        verbose_name = _("session")
        verbose_name_plural = _("sessions")
        ordering: ClassVar[list[str]] = ["-created_at"]
        indexes: ClassVar[list[models.Index]] = [
            models.Index(fields=["expires_at"], name="platform_auth_session_expires"),
            models.Index(fields=["-created_at"], name="platform_auth_session_created"),
        ]

    def __str__(self) -> str:
        return str(self.id)


class PasswordResetToken(models.Model):
    """A reset link that is still valid. Deleting the row spends the token: only one caller deletes it."""

    # The `jti` of the JWT. The JWT itself is not stored.
    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    user = models.ForeignKey(
        settings.AUTH_USER_MODEL,
        models.CASCADE,
        verbose_name=_("user"),
        related_name="platform_auth_reset_tokens",
    )
    # An HMAC of the email address and the password hash when the link was requested.
    fingerprint = models.CharField(max_length=64, editable=False, serialize=False)
    created_at = models.DateTimeField(_("requested at"), default=timezone.now)
    expires_at = models.DateTimeField(_("expires at"))
    ip_address = models.GenericIPAddressField(_("IP address"), null=True, blank=True)

    objects = PrimaryManager()

    class Meta:
        verbose_name = _("password reset link")
        verbose_name_plural = _("password reset links")
        ordering: ClassVar[list[str]] = ["-created_at"]
        indexes: ClassVar[list[models.Index]] = [
            models.Index(fields=["expires_at"], name="platform_auth_reset_expires"),
        ]

    def __str__(self) -> str:
        return str(self.id)


class FactorManager(PrimaryManager, DeviceManager):
    """django-otp's manager, reading from the primary database."""


class TOTPFactor(Device):
    """A user's confirmed authenticator app (RFC 6238), one per user. The secret is sealed for that user."""

    user = models.OneToOneField(
        settings.AUTH_USER_MODEL,
        models.CASCADE,
        verbose_name=_("user"),
        related_name="platform_auth_factor",
        help_text=_("The user that this factor belongs to."),
    )
    sealed_secret = models.TextField(editable=False)
    secret = sealing.Secret("sealed_secret", lambda factor: f"totp:{factor.user_id}")
    # The last time step of which a code was accepted. Each step is accepted once.
    last_step = models.BigIntegerField(editable=False, default=-1)
    created_at = models.DateTimeField(_("enabled at"), default=timezone.now)
    last_used_at = models.DateTimeField(_("last used at"), null=True, blank=True)

    objects: ClassVar[FactorManager] = FactorManager()

    class Meta:
        verbose_name = _("second factor")
        verbose_name_plural = _("second factors")
        # Used by `user.platform_auth_factor`.
        base_manager_name = "objects"

    def __str__(self) -> str:
        return str(_("Authenticator app"))

    def verify_is_allowed(self) -> tuple[bool, dict[str, Any] | None]:
        """Return whether `verify_token` would check a code now. Counts nothing."""
        # Imported here to avoid an import cycle: django-otp calls this model, and nothing else in this module needs
        # verification.
        from .second_factor import verification

        if verification.may_try(self.user):
            return True, None
        return False, {"error_message": _("Too many requests. Please try again later.")}

    @sensitive_variables()
    def verify_token(self, token: str) -> bool:
        """Check and spend a code that comes through django-otp, such as its admin site's form. The limits are the
        same.
        """
        from .second_factor import verification

        return verification.verify_elsewhere(self, token)

    @sensitive_variables()
    def spend(self, code: str) -> bool:
        """Accept a code of the current time step or one next to it, each step once (RFC 6238, 5.2). Counts nothing.

        The conditional UPDATE decides races on databases without row locks: the request that changes the row has used
        the step and all steps before it.
        """
        now = timezone.now()
        step = totp.matching_step(self.secret, code, at=now.timestamp())
        if step is None:
            return False
        rows = type(self).objects.filter(pk=self.pk, confirmed=True, last_step__lt=step)
        if not rows.update(last_step=step, last_used_at=now):
            return False
        self.last_step, self.last_used_at = step, now
        return True


class PendingFactor(models.Model):
    """A secret that `generate` gave to a session and that hasn't been confirmed by a code yet. It protects nothing."""

    # No foreign key: nothing is lost if a row outlives its session, and rows expire.
    session_id = models.UUIDField(primary_key=True, editable=False)
    user = models.ForeignKey(settings.AUTH_USER_MODEL, models.CASCADE, related_name="+")
    sealed_secret = models.TextField(editable=False)
    secret = sealing.Secret("sealed_secret", lambda pending: f"totp-pending:{pending.session_id}")
    created_at = models.DateTimeField(default=timezone.now)
    expires_at = models.DateTimeField()

    objects = PrimaryManager()

    class Meta:
        verbose_name = _("unconfirmed factor")
        verbose_name_plural = _("unconfirmed factors")
        indexes: ClassVar[list[models.Index]] = [
            models.Index(fields=["expires_at"], name="platform_auth_pending_expires"),
        ]

    def __str__(self) -> str:
        return str(self.session_id)


class FailedCode(models.Model):
    """A wrong one-time password, counted in the database so that the count survives a restart."""

    user = models.ForeignKey(settings.AUTH_USER_MODEL, models.CASCADE, related_name="+")
    failed_at = models.DateTimeField(default=timezone.now)

    objects = PrimaryManager()

    class Meta:
        verbose_name = _("refused one-time password")
        verbose_name_plural = _("refused one-time passwords")
        indexes: ClassVar[list[models.Index]] = [
            models.Index(fields=["user", "failed_at"], name="platform_auth_failed_code"),
            models.Index(fields=["failed_at"], name="platform_auth_failed_code_at"),
        ]

    def __str__(self) -> str:
        return f"#{self.pk}"


class RecoveryCodeQuerySet(models.QuerySet["RecoveryCode"]):
    """Queries on recovery codes."""

    def good(self) -> RecoveryCodeQuerySet:
        """Return the codes that can be used."""
        return self.filter(digest__isnull=False)


class RecoveryCode(models.Model):
    """An unused recovery code, as a digest. Deleting the row uses it up."""

    user = models.ForeignKey(
        settings.AUTH_USER_MODEL,
        models.CASCADE,
        verbose_name=_("user"),
        related_name="platform_auth_recovery_codes",
    )
    # Not dumped, so a code that is loaded from a fixture has no digest and can't be used. NULL, because "" would have
    # to be unique.
    digest = models.CharField(max_length=64, editable=False, serialize=False, null=True)  # noqa: DJ001
    created_at = models.DateTimeField(_("created at"), default=timezone.now)

    objects = PrimaryManager.from_queryset(RecoveryCodeQuerySet)()

    class Meta:
        verbose_name = _("recovery code")
        verbose_name_plural = _("recovery codes")
        constraints: ClassVar[list[models.BaseConstraint]] = [
            models.UniqueConstraint(fields=["user", "digest"], name="platform_auth_recovery_once"),
        ]

    def __str__(self) -> str:
        return f"#{self.pk}"


class OAuthProviderQuerySet(models.QuerySet["OAuthProvider"]):
    """Queries on providers."""

    def enabled(self) -> OAuthProviderQuerySet:
        return self.filter(enabled=True)


class OAuthProvider(models.Model):
    """An identity provider that an admin configured."""

    KEY_SHAPE = re.compile(r"^[a-z0-9][a-z0-9_-]*\Z")

    class Kind(models.TextChoices):
        OIDC = "oidc", _("OpenID Connect (discovery)")
        GITHUB = "github", "GitHub"
        GOOGLE = "google", "Google"
        FACEBOOK = "facebook", "Facebook"
        MICROSOFT = "microsoft", _("Microsoft (single tenant)")
        GITLAB = "gitlab", "GitLab"
        APPLE = "apple", "Apple"
        DISCORD = "discord", "Discord"
        LINKEDIN = "linkedin", "LinkedIn"
        SLACK = "slack", "Slack"
        OAUTH2 = "oauth2", _("OAuth 2.0 (manual URLs)")

    class ClientAuthentication(models.TextChoices):
        POST = "post", _("Client secret in the request body")
        BASIC = "basic", "HTTP Basic"

    class EmailLinking(models.TextChoices):
        NEVER = "never", _("Never")
        PROVEN = "proven", _("Yes: this site has verified its users' email addresses")
        UNPROVEN = (
            "unproven",
            _(
                "Yes, but this site has not verified them: linking removes the password and other linked provider "
                "accounts, and ends all sessions"
            ),
        )

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    key = models.CharField(
        pgettext_lazy("OAuth provider", "key"),
        max_length=64,
        unique=True,
        validators=[
            RegexValidator(KEY_SHAPE.pattern, _("Use lowercase letters, digits, hyphens and underscores."))
        ],
        help_text=_("Identifies the provider in URLs such as /auth/oauth/example."),
    )
    label = models.CharField(
        pgettext_lazy("OAuth provider", "label"),
        max_length=100,
        help_text=_("The text on the login button."),
    )
    kind = models.CharField(pgettext_lazy("OAuth provider", "kind"), max_length=16, choices=Kind.choices)
    icon = models.CharField(
        pgettext_lazy("OAuth provider", "icon"),
        max_length=200,
        blank=True,
        help_text=_("An icon name or URL for the site's login page."),
    )
    order = models.PositiveSmallIntegerField(pgettext_lazy("OAuth provider", "order"), default=0)
    enabled = models.BooleanField(pgettext_lazy("OAuth provider", "enabled"), default=False)

    client_id = models.CharField(_("client ID"), max_length=512)
    sealed_secret = models.TextField(editable=False, blank=True, default="")
    client_secret = sealing.Secret(
        "sealed_secret", lambda row: f"provider:{row.id}:client_secret", optional=True
    )
    scopes = models.CharField(
        _("scopes"),
        max_length=512,
        blank=True,
        help_text=_("Space-separated, in addition to the scopes that this kind of provider always requests."),
    )
    issuer = models.CharField(
        pgettext_lazy("OAuth provider", "issuer"),
        max_length=512,
        blank=True,
        help_text=_(
            "OpenID Connect: exactly as in the discovery document, including any trailing slash. "
            "GitLab: the URL of the server."
        ),
    )
    tenant = models.CharField(
        pgettext_lazy("OAuth provider", "tenant"),
        max_length=128,
        blank=True,
        help_text=_("Microsoft: the ID of the tenant."),
    )
    team_id = models.CharField(
        _("team ID"), max_length=64, blank=True, help_text=_("Apple: the ID of your team.")
    )
    key_id = models.CharField(
        _("key ID"), max_length=64, blank=True, help_text=_("Apple: the ID of the private key.")
    )
    sealed_private_key = models.TextField(editable=False, blank=True, default="")
    private_key = sealing.Secret(
        "sealed_private_key", lambda row: f"provider:{row.id}:private_key", optional=True
    )
    authorization_url = models.CharField(_("authorization URL"), max_length=512, blank=True)
    token_url = models.CharField(_("token URL"), max_length=512, blank=True)
    userinfo_url = models.CharField(_("user info URL"), max_length=512, blank=True)
    client_authentication = models.CharField(
        _("client authentication"),
        max_length=8,
        choices=ClientAuthentication.choices,
        default=ClientAuthentication.POST,
        help_text=_(
            "How the client secret is sent to the token URL. Without a secret, this is a public client."
        ),
    )
    id_field = models.CharField(_("ID field"), max_length=64, blank=True, default="id")
    email_field = models.CharField(_("email field"), max_length=64, blank=True, default="email")
    email_verified_field = models.CharField(
        _("email verified field"),
        max_length=64,
        blank=True,
        help_text=_("If empty, email addresses from this provider are treated as unverified."),
    )

    may_create_users = models.BooleanField(_("can create users"), default=False)
    groups = models.ManyToManyField(
        Group,
        blank=True,
        verbose_name=_("groups"),
        related_name="+",
        help_text=_("Groups that new users from this provider are added to."),
    )
    email_linking = models.CharField(
        _("link to existing accounts by verified email address"),
        max_length=8,
        choices=EmailLinking.choices,
        default=EmailLinking.NEVER,
    )
    allowed_domains = models.CharField(
        _("allowed email domains"),
        max_length=1000,
        blank=True,
        help_text=_("Space-separated. Leave empty to allow all domains."),
    )

    tested_at = models.DateTimeField(_("last tested"), null=True, blank=True, editable=False)
    test_result = models.TextField(_("test result"), blank=True, default="", editable=False)
    created_at = models.DateTimeField(_("created at"), default=timezone.now, editable=False)
    updated_at = models.DateTimeField(_("last changed"), auto_now=True)

    objects = PrimaryManager.from_queryset(OAuthProviderQuerySet)()

    class Meta:
        verbose_name = _("OAuth provider")
        verbose_name_plural = _("OAuth providers")
        permissions: ClassVar[Any] = [
            ("change_provider_secrets", "Can change an OAuth provider's URLs, credentials and login rules"),
        ]
        ordering: ClassVar[list[str]] = ["order", "key"]

    def __str__(self) -> str:
        return self.label or self.key


class OAuthIdentity(models.Model):
    """A provider account that a user can log in with. Found by provider, issuer and subject, never by email."""

    user = models.ForeignKey(
        settings.AUTH_USER_MODEL,
        models.CASCADE,
        verbose_name=_("user"),
        related_name="platform_auth_identities",
    )
    provider = models.ForeignKey(
        OAuthProvider, models.CASCADE, verbose_name=_("provider"), related_name="identities"
    )
    issuer = models.CharField(pgettext_lazy("OAuth provider", "issuer"), max_length=512, blank=True)
    subject = models.CharField(pgettext_lazy("OAuth provider", "subject"), max_length=255)
    # SHA-256 of issuer and subject: an exact comparison even on databases that ignore case.
    subject_digest = models.CharField(max_length=64, editable=False)
    email = models.CharField(_("email address at the provider"), max_length=254, blank=True)
    # This identity created the account with an address that nobody trusted had verified. If the owner of the address
    # arrives, the account is emptied.
    founded_on_unverified_email = models.BooleanField(default=False, editable=False)
    # The verified address with which a trusted provider created or linked the account. Empty if a signed-in user
    # linked it, because that proves no address.
    verified_email = models.CharField(max_length=254, blank=True, default="", editable=False)
    created_at = models.DateTimeField(_("linked at"), default=timezone.now)
    last_used_at = models.DateTimeField(_("last used at"), null=True, blank=True)

    objects = PrimaryManager()

    class Meta:
        verbose_name = _("linked provider account")
        verbose_name_plural = _("linked provider accounts")
        ordering: ClassVar[list[str]] = ["created_at"]
        constraints: ClassVar[list[models.BaseConstraint]] = [
            models.UniqueConstraint(
                fields=["provider", "subject_digest"], name="platform_auth_identity_once"
            ),
        ]

    def __str__(self) -> str:
        return f"{self.provider}: {self.email or self.subject}"

    def save(self, *args: Any, **kwargs: Any) -> None:
        self.subject_digest = self.digest(self.issuer, self.subject)
        super().save(*args, **kwargs)

    @staticmethod
    def digest(issuer: str, subject: str) -> str:
        """Return the digest that an identity is found by."""
        return hashlib.sha256(f"{len(issuer)}:{issuer}{subject}".encode()).hexdigest()


class UsedState(models.Model):
    """The digest of a `state` that has been used: it isn't accepted again."""

    digest = models.CharField(max_length=64, primary_key=True, editable=False)
    expires_at = models.DateTimeField()

    class Meta:
        verbose_name = _("used OAuth state")
        verbose_name_plural = _("used OAuth states")
        indexes: ClassVar[list[models.Index]] = [
            models.Index(fields=["expires_at"], name="platform_auth_state_expires"),
        ]

    def __str__(self) -> str:
        return self.digest[:8]


class RateCounter(models.Model):
    """A limit's counter, if the cache is down or can't count atomically."""

    key = models.CharField(max_length=128, primary_key=True, editable=False)
    count = models.PositiveIntegerField(default=0)
    # Whether a request has been refused in this window: only the first refusal is recorded.
    refused = models.BooleanField(default=False, editable=False)
    resets_at = models.DateTimeField()

    objects = PrimaryManager()

    class Meta:
        verbose_name = _("rate counter")
        verbose_name_plural = _("rate counters")
        indexes: ClassVar[list[models.Index]] = [
            models.Index(fields=["resets_at"], name="platform_auth_counter_resets"),
        ]

    def __str__(self) -> str:
        return self.key


class AuthEvent(AppendOnlyModel):
    """Something that happened. Rows are added and pruned, and changed only to forget a deleted user."""

    class Kind(models.TextChoices):
        LOGGED_IN = "logged_in", _("logged in")
        LOGIN_FAILED = "login_failed", _("login failed")
        LOGIN_LIMITED = "login_limited", _("login rate-limited")
        LOGGED_OUT = "logged_out", _("logged out")
        SESSION_REVOKED = "session_revoked", _("session ended")
        REFRESH_REPLAYED = "refresh_replayed", _("refresh token used again within the grace period")
        REFRESH_REUSED = "refresh_reused", _("refresh token reuse detected, session ended")
        REFRESH_REFUSED = "refresh_refused", _("refresh refused")
        REFRESH_LIMITED = "refresh_limited", _("refresh rate-limited")
        RESET_REQUESTED = "reset_requested", _("password reset requested")
        RESET_LIMITED = "reset_limited", _("password reset rate-limited")
        PASSWORD_RESET = "password_reset", _("password reset")
        RESET_FAILED = "reset_failed", _("password reset failed")
        PASSWORD_CHANGED = "password_changed", _("password changed")
        PASSWORD_REFUSED = "password_refused", _("current password refused")
        FACTOR_ENABLED = "factor_enabled", _("second factor enabled")
        FACTOR_DISABLED = "factor_disabled", _("second factor disabled")
        FACTOR_FAILED = "factor_failed", _("one-time password refused")
        FACTOR_LIMITED = "factor_limited", _("one-time password rate-limited")
        RECOVERY_CODE_USED = "recovery_code_used", _("recovery code used")
        RECOVERY_CODES_RENEWED = "recovery_codes_renewed", _("recovery codes regenerated")
        IDENTITY_LINKED = "identity_linked", _("provider account linked")
        IDENTITY_UNLINKED = "identity_unlinked", _("provider account unlinked")
        USER_CREATED = "user_created", _("account created by provider login")
        USER_DELETED = "user_deleted", _("account deleted")
        ADMIN_CHANGED = "admin_changed", _("changed by an admin")
        PROXY_IGNORED = "proxy_ignored", _("forwarding header from a private address ignored")

    kind = models.CharField(
        pgettext_lazy("authentication", "event type"), max_length=32, choices=Kind.choices
    )
    user = models.ForeignKey(
        settings.AUTH_USER_MODEL,
        models.SET_NULL,
        null=True,
        blank=True,
        verbose_name=_("user"),
        related_name="+",
    )
    created_at = models.DateTimeField(pgettext_lazy("authentication", "time"), default=timezone.now)
    ip_address = models.GenericIPAddressField(_("IP address"), null=True, blank=True)
    # Decides whether an address is familiar: the IPv4 address, or the /64 of an IPv6 address.
    network = models.CharField(max_length=43, blank=True, editable=False)
    user_agent = models.CharField(_("user agent"), max_length=512, blank=True)
    provider = models.CharField(_("provider"), max_length=64, blank=True)
    reason = models.CharField(pgettext_lazy("authentication", "reason"), max_length=200, blank=True)
    # The shortened SHA-256 of the session's id: events outlive sessions and must not name a live one.
    session_digest = models.CharField(_("session"), max_length=16, blank=True)

    objects: ClassVar[models.Manager[Any]] = AppendOnlyQuerySet.as_manager()

    class Meta:
        verbose_name = pgettext_lazy("authentication", "event")
        verbose_name_plural = pgettext_lazy("authentication", "events")
        base_manager_name = "objects"
        ordering: ClassVar[list[str]] = ["-created_at", "-id"]
        indexes: ClassVar[list[models.Index]] = [
            models.Index(fields=["user", "network", "created_at"], name="platform_auth_event_familiar"),
            models.Index(fields=["-created_at"], name="platform_auth_event_created"),
        ]

    def __str__(self) -> str:
        return f"{self.created_at:%Y-%m-%d %H:%M:%S} {self.kind}"
