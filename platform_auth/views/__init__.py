"""One small class per endpoint: what it takes, gives and refuses; then read, act, answer.

To change an endpoint, subclass its view and mount it at your own URL.
"""

from __future__ import annotations

from .keys import KeySetView as KeySetView
from .login import LoginView as LoginView
from .login import LogoutView as LogoutView
from .login import RefreshView as RefreshView
from .passwords import PasswordChangeView as PasswordChangeView
from .passwords import PasswordRequestPageView as PasswordRequestPageView
from .passwords import PasswordRequestView as PasswordRequestView
from .passwords import PasswordResetPageView as PasswordResetPageView
from .passwords import PasswordResetView as PasswordResetView
from .providers import IdentityDetailView as IdentityDetailView
from .providers import IdentityListView as IdentityListView
from .providers import OAuthCallbackView as OAuthCallbackView
from .providers import OAuthLinkView as OAuthLinkView
from .providers import OAuthListView as OAuthListView
from .providers import OAuthOTPView as OAuthOTPView
from .providers import OAuthStartView as OAuthStartView
from .providers import ProviderListView as ProviderListView
from .second_factor import FactorDisableView as FactorDisableView
from .second_factor import FactorEnableView as FactorEnableView
from .second_factor import FactorGenerateView as FactorGenerateView
from .second_factor import FactorStatusView as FactorStatusView
from .second_factor import RecoveryCodesView as RecoveryCodesView
from .second_factor import UserFactorEnableView as UserFactorEnableView
from .sessions import SessionDetailView as SessionDetailView
from .sessions import SessionListView as SessionListView
from .users import UserView as UserView
