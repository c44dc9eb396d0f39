"""One small class an endpoint: shape, act, answer. Subclass one and mount it at your own URL to change it."""

from __future__ import annotations

from typing import Any

from django.http import HttpRequest, HttpResponse
from django.http.response import HttpResponseBase
from django.utils.decorators import method_decorator
from django.views.decorators.debug import sensitive_variables
from rest_framework.request import Request
from rest_framework.response import Response

from .. import errors, login, passwords, sessions, signed_tokens
from ..conf import conf
from ..http import answers, cookies, pages, payload, shapes
from ..http.endpoint import ApiView, EnrolmentView, PasswordLoginView, SignedInView
from ..providers import flow, identities
from ..second_factor import enrolment

# Log in, refresh, log out


class LoginView(PasswordLoginView):
    """POST /auth/login: e-mail, password and one-time password for an access and a refresh token."""

    def post(self, request: Request) -> Response:
        fields = self.read(shapes.LoginSerializer)
        replacing = cookies.replaced_token(self.http_request, fields.get("mode", "json"))
        grant = login.with_password(self.http_request, replacing=replacing, **fields)
        return cookies.respond(self.http_request, grant)


class RefreshView(ApiView):
    """POST /auth/refresh: a refresh token, of the body or the cookie, for its successor and an access token."""

    def post(self, request: Request) -> Response:
        fields = self.read(shapes.RefreshSerializer)
        presented = cookies.require_refresh_token(self.http_request, fields)
        grant = sessions.rotate(
            presented.raw_token,
            mode=fields.get("mode"),
            from_cookie=presented.from_cookie,
            request=self.http_request,
        )
        return cookies.respond(self.http_request, grant)


class LogoutView(ApiView):
    """POST /auth/logout: end the session of a refresh token. 204 whatever the token."""

    def post(self, request: Request) -> Response:
        fields = self.read(shapes.LogoutSerializer)
        for raw_token in cookies.tokens_to_end(self.http_request, fields):
            sessions.end(raw_token, request=self.http_request)
        return cookies.respond_to_logout(self.http_request)


# Log in with a provider


class ProviderListView(ApiView):
    """GET /auth: the enabled providers with their labels, in the admin's order."""

    def get(self, request: Request) -> Response:
        rows = [answers.provider(row) for row in flow.providers()]
        return Response({"data": rows, "disableDefault": not conf.PASSWORD_LOGIN})


class OAuthStartView(ApiView):
    """GET /auth/oauth/{provider}: send the browser to the provider."""

    def get(self, request: Request, provider: str) -> HttpResponseBase:
        elsewhere = flow.url_at_home(self.http_request.get_host(), self.http_request.get_full_path())
        if elsewhere:
            return cookies.redirect(elsewhere)
        fields = payload.read_query(self.http_request, shapes.OAuthStartSerializer)
        cookie = cookies.read_cookie(self.http_request, conf.cookie_name("flow"))
        begun = flow.begin(provider, cookie=cookie, **fields)
        return cookies.respond_to_start(begun)


class OAuthListView(OAuthStartView):
    """GET /auth/oauth: the keys of the enabled providers; with ?provider={provider} the start of one."""

    def get(self, request: Request, provider: str = "") -> HttpResponseBase:
        payload.require_single(request.GET, "provider")
        if "provider" in request.GET:
            return super().get(request, request.GET["provider"])
        return Response({"public": True, "data": [row.key for row in flow.providers()]})


class OAuthCallbackView(ApiView):
    """GET or POST /auth/oauth/{provider}/callback: take the browser back."""

    # No HEAD: what only looks at the link (a mail scanner, a preview) must not spend it.
    http_method_names = ["get", "post"]

    @method_decorator(sensitive_variables())
    def get(self, request: Request, provider: str) -> HttpResponseBase:
        outcome = flow.complete(
            provider,
            flow.parameters_of(payload.take_query(self.http_request)),
            cookie=cookies.read_cookie(self.http_request, conf.cookie_name("flow")),
            replacing=cookies.cookie_token(self.http_request),
            request=self.http_request,
        )
        return cookies.respond_to_callback(self.http_request, outcome)

    def post(self, request: Request, provider: str) -> HttpResponseBase:
        flow.check_key(provider)
        parameters = flow.parameters_of(payload.read_form(self.http_request))
        return cookies.respond_to_form(self.http_request, parameters)


class OAuthOTPView(ApiView):
    """POST /auth/oauth/{provider}/otp: the one-time password that the callback asked for."""

    def post(self, request: Request, provider: str) -> Response:
        flow.find(provider)
        fields = self.read(shapes.OAuthOTPSerializer)
        cookies.require_same_origin(self.http_request)
        grant = flow.finish(
            provider,
            cookie=cookies.read_cookie(self.http_request, conf.cookie_name("pending")),
            replacing=cookies.replaced_token(self.http_request, fields.get("mode", "json")),
            request=self.http_request,
            **fields,
        )
        response = cookies.respond(self.http_request, grant)
        cookies.keep_pending(response, "")
        return response


class OAuthLinkView(SignedInView):
    """POST /auth/oauth/{provider}/link: the URL at which a signed-in user links a provider account."""

    def post(self, request: Request, provider: str) -> Response:
        fields = self.read(shapes.OAuthLinkSerializer)
        cookies.require_same_origin(self.http_request)
        cookie = cookies.read_cookie(self.http_request, conf.cookie_name("flow"))
        begun = flow.begin(provider, cookie=cookie, session=self.session, **fields)
        response = Response({"data": {"url": begun.url}})
        cookies.keep_flow(response, begun.cookie)
        return response


# Passwords


class PasswordRequestView(ApiView):
    """POST /auth/password/request: a mail with a reset link. 204 whether there is such an account or not."""

    def post(self, request: Request) -> Response:
        fields = self.read(shapes.PasswordRequestSerializer)
        passwords.request_reset(**fields, request=self.http_request)
        return Response(status=204)


class PasswordResetView(ApiView):
    """POST /auth/password/reset: set a password by the token of a link. Logs nobody in."""

    @method_decorator(sensitive_variables())
    def post(self, request: Request) -> Response:
        fields = self.read(shapes.PasswordResetSerializer)
        passwords.reset(fields["token"], fields["password"], request=self.http_request)
        return Response(status=204)


class PasswordChangeView(SignedInView):
    """POST /auth/password/change: a new password for the old one. Every other session ends."""

    @method_decorator(sensitive_variables())
    def post(self, request: Request) -> Response:
        fields = self.read(shapes.PasswordChangeSerializer)
        passwords.change(self.session, **fields, request=self.http_request)
        return Response(status=204)


class PasswordRequestPageView(pages.PageView):
    """GET and POST /auth/password/request/page: the form that asks for a reset link."""

    template_name = "platform_auth/password_request.html"

    def get(self, request: HttpRequest) -> HttpResponse:
        return self.page()

    def post(self, request: HttpRequest) -> HttpResponse:
        fields = self.read(shapes.PasswordRequestPageSerializer)
        passwords.request_reset(fields["email"], request=request)
        return self.page(done=True)

    def refusal(self, error: errors.PlatformAuthError) -> HttpResponse:
        if isinstance(error, errors.InvalidPayload | errors.RequestsExceeded):
            email = self.typed.get("email", "")
            return self.page(status=error.status_code, messages=pages.messages_of(error), email=email)
        return super().refusal(error)


class PasswordResetPageView(pages.PageView):
    """GET and POST /auth/password/reset/page?token=: the form that a reset link leads to."""

    template_name = "platform_auth/password_reset.html"
    starts_anew = False

    @method_decorator(sensitive_variables())
    def get(self, request: HttpRequest) -> HttpResponse:
        return self.form(self.query.get("token", ""))

    @method_decorator(sensitive_variables())
    def post(self, request: HttpRequest) -> HttpResponse:
        fields = self.read(shapes.PasswordResetPageSerializer)
        pages.require_repeated(fields, "password")
        passwords.reset(fields["token"], fields["password"], request=request)
        return self.page(done=True)

    @method_decorator(sensitive_variables())
    def form(self, raw_token: str, *, status: int = 200, **context: Any) -> HttpResponse:
        """Render the form for a link that is good. Raises TokenExpired, InvalidToken."""
        account = passwords.check_link(raw_token)
        return self.page(status=status, token=raw_token, account=account, rules=passwords.rules(), **context)

    @method_decorator(sensitive_variables())
    def refusal(self, error: errors.PlatformAuthError) -> HttpResponse:
        token, status, messages = self.typed.get("token", ""), error.status_code, pages.messages_of(error)
        if isinstance(error, errors.FailedValidation | errors.InvalidPayload):
            return self.form(token, status=status, messages=messages)
        if isinstance(error, errors.TokenRefused):
            return self.page(status=status, dead=error.code)
        if token and status >= 500:
            # Without a look at the link: what it takes may be what is down.
            return self.page(status=status, token=token, messages=messages)
        return super().refusal(error)


# The signed-in user


class SessionListView(SignedInView):
    """GET /auth/sessions: the user's sessions. DELETE: end all but this one."""

    def get(self, request: Request) -> Response:
        rows = sessions.of(request.user)
        return Response({"data": [answers.session(row, current=self.session) for row in rows]})

    def delete(self, request: Request) -> Response:
        sessions.revoke_others(self.session, request=self.http_request)
        return Response(status=204)


class SessionDetailView(SignedInView):
    """DELETE /auth/sessions/{id}: end one session of the user."""

    def delete(self, request: Request, session_id: str) -> Response:
        sessions.revoke_own(request.user, session_id, request=self.http_request)
        return Response(status=204)


class IdentityListView(SignedInView):
    """GET /auth/identities: the provider accounts that are linked to the user."""

    def get(self, request: Request) -> Response:
        return Response({"data": [answers.identity(row) for row in identities.of(request.user)]})


class IdentityDetailView(SignedInView):
    """DELETE /auth/identities/{id}: unlink one, but never the last way in."""

    def delete(self, request: Request, identity_id: str) -> Response:
        identities.unlink(request.user, identity_id, request=self.http_request)
        return Response(status=204)


class UserView(EnrolmentView):
    """GET /users/me: who the access token speaks for."""

    def get(self, request: Request) -> Response:
        return Response({"data": answers.user(request.user)})


# The second factor


class FactorStatusView(EnrolmentView):
    """GET /auth/tfa: is there a second factor, must there be one, how many recovery codes are left."""

    def get(self, request: Request) -> Response:
        return Response({"data": enrolment.status(request.user)._asdict()})


class FactorGenerateView(EnrolmentView):
    """POST /auth/tfa/generate: a secret for an authenticator app. Nothing is on yet."""

    @method_decorator(sensitive_variables())
    def post(self, request: Request) -> Response:
        fields = self.read(shapes.FactorGenerateSerializer)
        generated = enrolment.generate(self.session, request=self.http_request, **fields)
        return Response({"data": generated._asdict()})


class FactorEnableView(EnrolmentView):
    """POST /auth/tfa/enable: turn the secret on by a code of it; the recovery codes, this once."""

    @method_decorator(sensitive_variables())
    def post(self, request: Request) -> Response:
        fields = self.read(shapes.FactorEnableSerializer)
        codes = enrolment.enable(self.session, request=self.http_request, **fields)
        return Response({"data": {"recovery_codes": codes}})


class FactorDisableView(EnrolmentView):
    """POST /auth/tfa/disable: remove the factor, by a one-time password or a recovery code."""

    def post(self, request: Request) -> Response:
        fields = self.read(shapes.FactorDisableSerializer)
        enrolment.disable(self.session, request=self.http_request, **fields)
        return Response(status=204)


class RecoveryCodesView(EnrolmentView):
    """POST /auth/tfa/recovery-codes: a new set; the old codes are dead."""

    @method_decorator(sensitive_variables())
    def post(self, request: Request) -> Response:
        fields = self.read(shapes.RecoveryCodesSerializer)
        codes = enrolment.renew_recovery_codes(self.session, request=self.http_request, **fields)
        return Response({"data": {"recovery_codes": codes}})


class UserFactorEnableView(EnrolmentView):
    """POST /users/me/tfa/enable: as the official SDK calls it. 204, and no recovery codes."""

    def post(self, request: Request) -> Response:
        fields = self.read(shapes.FactorEnableSerializer)
        enrolment.enable(self.session, request=self.http_request, with_recovery_codes=False, **fields)
        return Response(status=204)


# Keys


class KeySetView(ApiView):
    """GET /auth/jwks: the public signing keys (RFC 7517); none for HS256."""

    def get(self, request: Request) -> Response:
        return Response({"keys": signed_tokens.public_keys()})
