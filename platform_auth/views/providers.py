"""Log in with a provider; list and unlink the user's provider accounts."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlencode

from django.http import HttpResponse, QueryDict
from django.http.response import HttpResponseBase
from django.utils.encoding import escape_uri_path
from django.utils.translation import gettext_lazy as _
from rest_framework import serializers
from rest_framework.parsers import FormParser
from rest_framework.request import Request
from rest_framework.response import Response

from .. import errors, redirects
from ..conf import conf
from ..http import cookies, shapes
from ..http.endpoint import ApiView, Operation, SignedInView
from ..providers import backends, flow, identities
from .login import Tokens, TokensView

KEYS = serializers.ListField(child=serializers.CharField())
PUBLIC = {"public": serializers.BooleanField()}
GOES_ON = {302: "To the provider, or back to `redirect`."}


def redirect_field() -> shapes.Text:
    return shapes.Text(
        required=False,
        help_text=_(
            "Where to send the browser afterwards: a local path, a URL of this site "
            "or an entry of OAUTH_REDIRECT_ALLOW_LIST."
        ),
    )


class StartFields(shapes.Shape):
    redirect = redirect_field()
    mode = shapes.mode_field()


class ListFields(StartFields):
    provider = shapes.AnyText(required=False, help_text="Start a login with this provider.")


class CallbackFields(shapes.Shape):
    code = shapes.AnyText(required=False, help_text="From the provider.")
    state = shapes.AnyText(required=False, help_text="From the start of the flow.")
    iss = shapes.AnyText(required=False, help_text="RFC 9207.")
    error = shapes.AnyText(required=False, help_text="From the provider.")


class OTPFields(shapes.Shape):
    otp = shapes.otp_field()
    mode = shapes.mode_field()


class LinkFields(shapes.Shape):
    redirect = redirect_field()


class Provider(shapes.Shape):
    name = serializers.CharField(source="key")
    label = serializers.CharField()  # type: ignore[assignment]
    driver = serializers.SerializerMethodField()
    icon = shapes.TextOrNull()

    def get_driver(self, row: Any) -> str:
        return backends.BACKENDS[row.kind].DRIVER


class Link(shapes.Shape):
    url = serializers.CharField()


class Identity(shapes.Shape):
    id = serializers.CharField(source="pk")
    provider = serializers.CharField(source="provider.key")
    label = serializers.CharField(source="provider.label")  # type: ignore[assignment]
    email = shapes.TextOrNull()
    created_at = shapes.time_field()
    last_used_at = shapes.time_field(allow_null=True)


class ProviderListView(ApiView):
    """GET /auth: the enabled providers with their labels, in the admin's order."""

    @Operation(gives=Provider(many=True), extra={"disableDefault": serializers.BooleanField()})
    def get(self, request: Request) -> Response:
        return self.answer(flow.providers(), disableDefault=not conf.PASSWORD_LOGIN)


class OAuthStartView(ApiView):
    """GET /auth/oauth/{provider}: send the browser to the provider."""

    @Operation(takes=StartFields, also=GOES_ON, refuses=[errors.RouteNotFound])
    def get(self, request: Request, provider: str) -> HttpResponseBase:
        elsewhere = flow.url_at_home(self.http_request.get_host(), self.http_request.get_full_path())
        if elsewhere:
            return _redirect(elsewhere)
        fields = self.read()
        cookie = cookies.read_cookie(self.http_request, conf.cookie_name("flow"))
        begun = flow.begin(provider, cookie=cookie, redirect=fields.get("redirect"), mode=fields.get("mode"))
        response = _redirect(begun.url)
        cookies.keep_flow(response, begun.cookie)
        return response


class OAuthListView(OAuthStartView):
    """GET /auth/oauth: the keys of the enabled providers; ?provider={provider} starts a login there."""

    @Operation(takes=ListFields, gives=KEYS, extra=PUBLIC, also=GOES_ON, refuses=[errors.RouteNotFound])
    def get(self, request: Request, provider: str = "") -> HttpResponseBase:
        if "provider" in request.GET:
            return super().get(request, request.GET["provider"])
        return self.answer([row.key for row in flow.providers()], public=True)


class OAuthCallbackView(TokensView):
    """GET or POST /auth/oauth/{provider}/callback: the browser returns from the provider."""

    parser_classes = [FormParser]
    # No HEAD: software that only looks at the link (a mail scanner, a preview) must not use it up.
    http_method_names = ["get", "post"]

    @Operation(
        takes=CallbackFields,
        gives=Tokens(),
        extra=PUBLIC,
        also={204: "The account was linked, without `redirect`.", **GOES_ON},
        refuses=[errors.InvalidCredentials, errors.InvalidOTP, errors.InvalidProvider, errors.RouteNotFound],
    )
    def get(self, request: Request, provider: str) -> HttpResponseBase:
        outcome = flow.complete(
            provider,
            _parameters(shapes.take_query(self.http_request)),
            cookie=cookies.read_cookie(self.http_request, conf.cookie_name("flow")),
            replacing=cookies.cookie_token(self.http_request),
            request=self.http_request,
        )
        response = self.answer_outcome(outcome)
        cookies.keep_flow(response, outcome.cookie)
        if outcome.pending:
            cookies.keep_pending(response, outcome.pending)
        return response

    def answer_outcome(self, outcome: flow.Outcome) -> HttpResponseBase:
        """Redirect with cookies or with a reason.

        Without a redirect: answer with tokens, with an error, or with nothing after linking.
        """
        redirect, grant, refusal = outcome.redirect, outcome.grant, outcome.refusal
        if refusal is not None:
            reason = redirects.with_parameter(redirect, "reason", refusal.code) if redirect else ""
            return _redirect(reason) if reason else errors.render(refusal)
        if grant is None:
            return _redirect(redirect) if redirect else Response(status=204)
        if not redirect:
            return self.answer(grant, public=True)
        response = _redirect(redirect)
        cookies.set_cookies(self.http_request, response, grant)
        return response

    @Operation(takes=CallbackFields, also={303: "To the same path, as GET."}, refuses=[errors.RouteNotFound])
    def post(self, request: Request, provider: str) -> HttpResponseBase:
        # Send the browser back with GET: another site's POST comes without our Lax cookie.
        flow.check_key(provider)
        parameters = _parameters(shapes.read_form(self.http_request))
        return _redirect(f"{escape_uri_path(self.http_request.path)}?{urlencode(parameters)}", status=303)


class OAuthOTPView(TokensView):
    """POST /auth/oauth/{provider}/otp: finish a login with the one-time password that the callback asked for."""

    @Operation(
        takes=OTPFields,
        gives=Tokens(),
        refuses=[
            errors.InvalidCredentials,
            errors.InvalidOTP,
            errors.Forbidden,
            errors.RouteNotFound,
            errors.RequestsExceeded,
        ],
    )
    def post(self, request: Request, provider: str) -> Response:
        flow.find(provider)
        fields = self.read()
        cookies.require_same_origin(self.http_request)
        grant = flow.finish(
            provider,
            cookie=cookies.read_cookie(self.http_request, conf.cookie_name("pending")),
            replacing=self.replaced_token(fields.get("mode", "json")),
            request=self.http_request,
            **fields,
        )
        response = self.answer(grant)
        cookies.keep_pending(response, "")
        return response


class OAuthLinkView(SignedInView):
    """POST /auth/oauth/{provider}/link: the URL where a signed-in user links a provider account."""

    @Operation(takes=LinkFields, gives=Link(), refuses=[errors.RouteNotFound])
    def post(self, request: Request, provider: str) -> Response:
        fields = self.read()
        cookies.require_same_origin(self.http_request)
        cookie = cookies.read_cookie(self.http_request, conf.cookie_name("flow"))
        begun = flow.begin(provider, cookie=cookie, session=self.session, **fields)
        response = self.answer({"url": begun.url})
        cookies.keep_flow(response, begun.cookie)
        return response


class IdentityListView(SignedInView):
    """GET /auth/identities: the provider accounts that are linked to the user."""

    @Operation(gives=Identity(many=True))
    def get(self, request: Request) -> Response:
        return self.answer(identities.of(request.user))


class IdentityDetailView(SignedInView):
    """DELETE /auth/identities/{id}: unlink a provider account, unless it is the only sign-in method."""

    @Operation(refuses=[errors.RouteNotFound])
    def delete(self, request: Request, identity_id: str) -> Response:
        identities.unlink(request.user, identity_id, request=self.http_request)
        return self.answer()


def _parameters(query: QueryDict) -> dict[str, str]:
    """Return the CallbackFields that were sent; one that was sent twice is ambiguous and becomes ""."""
    sent = {name: query.getlist(name) for name in map(str, CallbackFields().fields) if name in query}
    return {name: values[0] if len(values) == 1 else "" for name, values in sent.items()}


def _redirect(url: str, *, status: int = 302) -> HttpResponseBase:
    return HttpResponse(status=status, headers={"Location": url, "Content-Type": "text/plain; charset=utf-8"})
