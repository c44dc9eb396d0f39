"""Which account a provider account signs in to: that of a known identity, one with the same proven address, or a new
one.

An identity is found by provider, issuer and subject, never by something a person can change (ASVS 6.8.1, 10.5.2). An
email address leads to an existing account only if the provider's settings allow it and the provider says, with a
boolean, that the address is verified. The person who registered an address first need not own it, so an unproven
account loses what it had (password, sessions, identities) when the owner of the address arrives. From then on the
address counts as proven for all providers, as long as the account keeps it.
"""

from __future__ import annotations

import uuid
from typing import Any

from django.contrib.auth import get_user_model
from django.core.exceptions import ValidationError
from django.db import DataError, IntegrityError
from django.db.models import F
from django.db.models.functions import Lower
from django.http import HttpRequest
from django.utils import timezone
from django.utils.translation import gettext as _

from .. import backends, caller, db, errors, events, sessions, signals
from ..conf import conf
from ..mail import messages
from ..models import AuthEvent, OAuthIdentity, OAuthProvider, RefreshSession
from .backends import ProviderAccount


class Explained:
    """Mixin for errors whose reason is recorded but never sent to the client."""

    def __init__(self, reason: str) -> None:
        super().__init__()
        self.reason = reason


class Unclaimed(Explained, errors.InvalidProvider):
    """This provider account can't be used to sign in."""


def identify(provider: OAuthProvider, account: ProviderAccount, *, request: HttpRequest) -> OAuthIdentity:
    """Return the identity of a provider account; link or create an account if the provider's settings allow it.

    Raises Unclaimed, or InvalidCredentials for an account that isn't active.
    """
    _check_domain(provider, account)
    # Try twice, because another request may have linked this account between the lookup and the refusal.
    for is_last in (False, True):
        identity = _find(provider, account)
        if identity is not None:
            return _use(identity, account)
        try:
            linked = _link_by_email(provider, account, request=request)
            return linked or _create(provider, account, request=request)
        except IntegrityError:
            # Another request was first, with the same provider account, which is now found, or with the same address.
            continue
        except Unclaimed:
            if is_last:
                raise
    raise Unclaimed("address or username taken")


def link(provider: OAuthProvider, account: ProviderAccount, *, session_id: str, request: HttpRequest) -> None:
    """Link a provider account to the user of a live session.

    Raises InvalidCredentials (the session has ended), Unclaimed (it is linked to somebody else, or could never log
    in).
    """
    _check_domain(provider, account)
    session = (
        RefreshSession.objects.select_related("user")
        .live(now=timezone.now())
        .filter(pk=uuid.UUID(session_id))
        .first()
    )
    if session is None or not session.user.is_active:
        raise errors.InvalidCredentials
    try:
        identity = _link_to_session(provider, account, session=session, request=request)
    except IntegrityError:
        raise Unclaimed("linked to another account") from None
    if identity is not None:
        _tell_link(identity, request=request)


def of(user: Any) -> list[OAuthIdentity]:
    """Return the provider accounts linked to a user, oldest first."""
    return list(OAuthIdentity.objects.filter(user_id=user.pk).select_related("provider"))


@db.in_transaction
def unlink(user: Any, identity_id: str, *, request: HttpRequest) -> None:
    """Unlink an identity of a user. Raises RouteNotFound (not theirs), InvalidPayload (the only sign-in method)."""
    if not identity_id.isascii() or not identity_id.isdigit() or len(identity_id) > 18:
        raise errors.RouteNotFound
    db.lock(user)
    identities = {identity.pk: identity for identity in of(user)}
    identity = identities.pop(int(identity_id), None)
    if identity is None:
        raise errors.RouteNotFound
    has_password = conf.PASSWORD_LOGIN and user.has_usable_password()
    if not has_password and not any(other.provider.enabled for other in identities.values()):
        raise errors.InvalidPayload(
            _("This is the account's only sign-in method. Set a password or link another account first.")
        )
    identity.delete()
    events.record(
        AuthEvent.Kind.IDENTITY_UNLINKED,
        user=user,
        who=caller.of(request),
        provider=identity.provider.key,
    )


@db.in_transaction
def _link_to_session(
    provider: OAuthProvider, account: ProviderAccount, *, session: RefreshSession, request: HttpRequest
) -> OAuthIdentity | None:
    """Return the new identity of this session's user, or None if it was linked to them before."""
    # Locks the session's row: an earlier revocation is seen, a later one waits.
    if not RefreshSession.objects.filter(pk=session.pk).update(mode=F("mode")):
        raise errors.InvalidCredentials
    identity = _find(provider, account)
    if identity is not None:
        if identity.user_id != session.user_id:
            raise Unclaimed("linked to another account")
        return None
    identity = _insert(provider, account, user=session.user)
    _record_link(identity, request=request, session_id=session.pk)
    return identity


def _find(provider: OAuthProvider, account: ProviderAccount) -> OAuthIdentity | None:
    digest = OAuthIdentity.digest(account.issuer, account.subject)
    rows = OAuthIdentity.objects.filter(provider=provider, subject_digest=digest)
    return rows.select_related("user").first()


@db.retried
def _use(identity: OAuthIdentity, account: ProviderAccount) -> OAuthIdentity:
    changes = {"last_used_at": timezone.now(), **({"email": account.email} if account.email else {})}
    OAuthIdentity.objects.filter(pk=identity.pk).update(**changes)
    return identity


def _insert(provider: OAuthProvider, account: ProviderAccount, *, user: Any, **facts: Any) -> OAuthIdentity:
    """Insert the identity of a provider account. Raises IntegrityError if another request was first."""
    identity: OAuthIdentity = OAuthIdentity.objects.create(
        user=user,
        provider=provider,
        issuer=account.issuer,
        subject=account.subject,
        email=account.email,
        last_used_at=timezone.now(),
        **facts,
    )
    return identity


def _check_domain(provider: OAuthProvider, account: ProviderAccount) -> None:
    """Raise Unclaimed for an address outside the allowed domains; an unverified address proves nothing about its
    domain.
    """
    allowed = {
        domain.lower().removeprefix("@") for domain in provider.allowed_domains.replace(",", " ").split()
    }
    if not allowed:
        return
    if not account.email_verified:
        raise Unclaimed("allowed domains: no verified address")
    if account.email.rpartition("@")[2].lower() not in allowed:
        raise Unclaimed("allowed domains: another domain")


def _link_by_email(
    provider: OAuthProvider, account: ProviderAccount, *, request: HttpRequest
) -> OAuthIdentity | None:
    """Link to the account with the same address if the provider's settings allow it; return None if there is no such
    account.
    """
    if not account.email:
        raise Unclaimed("no address")
    if not _is_taken(account.email):
        return None
    user = backends.find_by_email(account.email)
    if user is None:
        raise Unclaimed("address not unique")
    if provider.email_linking == OAuthProvider.EmailLinking.NEVER:
        raise Unclaimed("address of an account, linking is off")
    if not account.email_verified:
        raise Unclaimed("address of an account, not verified")
    identity, is_claimed = _link_to_user(provider, account, user=user, request=request)
    _tell_link(identity, request=request, notice="account_claimed" if is_claimed else "identity_linked")
    return identity


@db.in_transaction
def _link_to_user(
    provider: OAuthProvider, account: ProviderAccount, *, user: Any, request: HttpRequest
) -> tuple[OAuthIdentity, bool]:
    """Link a provider account to the user with its address; return also whether the user's account was emptied."""
    if not db.lock(user, active=True):
        raise errors.InvalidCredentials
    if not db.lock(user, unchanged=(user.get_email_field_name(),)):
        raise Unclaimed("address of the account changed meanwhile")
    is_claimed = _must_be_emptied(user, provider, account)
    if is_claimed:
        _empty(user)
        events.record(
            AuthEvent.Kind.SESSION_REVOKED, user=user, who=caller.of(request), reason="linked by email"
        )
    identity = _insert(provider, account, user=user, verified_email=account.email)
    _record_link(identity, request=request)
    return identity, is_claimed


def _must_be_emptied(user: Any, provider: OAuthProvider, account: ProviderAccount) -> bool:
    """Return whether the account may have been opened by somebody other than the owner of its address, who is here
    now.
    """
    identities = list(OAuthIdentity.objects.filter(user_id=user.pk))
    if any(identity.founded_on_unverified_email for identity in identities):
        return True
    is_proven = any(identity.verified_email.lower() == account.email.lower() for identity in identities)
    return provider.email_linking == OAuthProvider.EmailLinking.UNPROVEN and not is_proven


def _empty(user: Any) -> None:
    """Remove everything with which somebody else may have kept access to an account with this address.

    The second factor stays: it opens nothing alone, and somebody who took over the address must not get past it.
    """
    user.set_unusable_password()
    db.lock(user, password=user.password)
    # Sessions first: a session that is just linking an account has its row locked, so this statement waits for it and
    # the next one sees the link.
    sessions.revoke_all(user)
    OAuthIdentity.objects.filter(user_id=user.pk).delete()


def _create(provider: OAuthProvider, account: ProviderAccount, *, request: HttpRequest) -> OAuthIdentity:
    """Create a user with an unusable password and the provider's groups, and nothing else."""
    if not provider.may_create_users:
        raise Unclaimed("no account, creation is off")
    user_model: Any = get_user_model()
    email_field = user_model.get_email_field_name()
    user = user_model()
    for name in {email_field, user_model.USERNAME_FIELD}:
        if len(account.email) > (user_model._meta.get_field(name).max_length or 254):
            raise Unclaimed(f"address too long for the {name} of a user")
        setattr(user, name, account.email)
    user.set_unusable_password()
    try:
        identity = _insert_user(user, provider, account, request=request)
    except (DataError, ValidationError) as error:
        raise Unclaimed(f"the user model refuses it: {type(error).__name__}") from error
    events.announce(signals.identity_linked, user=user, request=request, identity=identity)
    return identity


@db.in_transaction
def _insert_user(
    user: Any, provider: OAuthProvider, account: ProviderAccount, *, request: HttpRequest
) -> OAuthIdentity:
    """Insert a new user with the provider's groups, and the identity that founded the account."""
    user.save(force_insert=True)
    if hasattr(user, "groups"):
        user.groups.set(provider.groups.all())
    # Proven if the provider has verified the address and the admin trusts this provider's verified addresses.
    is_trusted = provider.email_linking != OAuthProvider.EmailLinking.NEVER
    verified = account.email if is_trusted and account.email_verified else ""
    identity = _insert(
        provider, account, user=user, verified_email=verified, founded_on_unverified_email=not verified
    )
    events.record(AuthEvent.Kind.USER_CREATED, user=user, who=caller.of(request), provider=provider.key)
    _record_link(identity, request=request)
    return identity


def _is_taken(email: str) -> bool:
    """Return whether any account has this address, compared by the database regardless of case."""
    user_model = get_user_model()
    rows: Any = user_model._default_manager.alias(
        platform_auth_email=Lower(user_model.get_email_field_name())
    )
    return bool(rows.filter(platform_auth_email=email.lower()).exists())


def _record_link(identity: OAuthIdentity, *, request: HttpRequest, session_id: object = None) -> None:
    events.record(
        AuthEvent.Kind.IDENTITY_LINKED,
        user=identity.user,
        who=caller.of(request),
        provider=identity.provider.key,
        session_id=session_id,
    )


def _tell_link(identity: OAuthIdentity, *, request: HttpRequest, notice: str = "identity_linked") -> None:
    messages.send_notice(identity.user, notice, who=caller.of(request), provider=identity.provider.label)
    events.announce(signals.identity_linked, user=identity.user, request=request, identity=identity)
