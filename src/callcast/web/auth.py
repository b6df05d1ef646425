"""Who may ask: the Host header, the token, and what every answer says to the browser (contract 9)."""

import hashlib
import hmac
import ipaddress
import socket
from collections.abc import Awaitable, Callable, Collection

from aiohttp import hdrs, web

from callcast.settings.loopback import is_loopback

COOKIE = "callcast"
COOKIE_AGE_S = 180 * 24 * 3600  # a wallboard's browser is opened once and left alone
OPEN_PATHS = frozenset({"/healthz", "/readyz"})  # for probes: any Host or none, and no token
HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}
_LOGIN_PAGE = """<!doctype html><html lang="en"><meta charset="utf-8"><title>callcast</title>
<meta name="color-scheme" content="light dark">
<meta name="viewport" content="width=device-width, initial-scale=1">
<main><h1>This wallboard wants its token</h1>
<p>Open it once as <code>/?token=...</code>; this browser then remembers it.</p>
<p><a href="/">Try again</a></p></main></html>
"""

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Guard:
    """Lets a request pass, or answers 401, 415 or 421. `token` empty: nobody is asked for one."""

    def __init__(self, listen_host: str, token: str, hosts: Collection[str] = ()) -> None:
        self._any_address = _is_wildcard(listen_host)
        self._own_hosts = {"localhost", listen_host.lower()}
        if self._any_address:
            self._own_hosts.add(socket.gethostname().lower())
        elif is_loopback(listen_host):
            self._own_hosts |= {"127.0.0.1", "::1"}
        self.change(token, hosts)

    def change(self, token: str, hosts: Collection[str]) -> None:
        self.token = token
        self._hosts = self._own_hosts | {host.lower() for host in hosts}

    async def __call__(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """The middleware."""
        is_open = request.path in OPEN_PATHS
        if not self.token and not is_open and not self._knows_host(request.headers.get(hdrs.HOST, "")):
            raise web.HTTPMisdirectedRequest(
                text="421: this service does not answer to that Host; service.http_hosts names further ones\n"
            )
        if self.token and not is_open:
            if self._brings_token(request):
                return self._remember(request)
            if not self._may_pass(request):
                return _unauthorized(request)
        if request.method == hdrs.METH_POST and request.content_type != "application/json":
            raise web.HTTPUnsupportedMediaType(text="415: POST wants content-type: application/json\n")
        return await handler(request)

    def _knows_host(self, header: str) -> bool:
        """Against DNS rebinding: a name that somebody else may point at us is no name of ours."""
        host = _without_port(header)
        return host in self._hosts or (self._any_address and _is_address(host))

    def _brings_token(self, request: web.Request) -> bool:
        """A valid `?token=` on a page that exists (so that the redirect leads nowhere else)."""
        given = request.query.get("token")
        if given is None or request.method != hdrs.METH_GET or request.match_info.http_exception is not None:
            return False
        return _same(given, self.token)

    def _may_pass(self, request: web.Request) -> bool:
        scheme, _, given = request.headers.get(hdrs.AUTHORIZATION, "").partition(" ")
        bearer = scheme.lower() == "bearer" and _same(given.strip(), self.token)
        return bearer or _same(request.cookies.get(COOKIE, ""), self._cookie())

    def _remember(self, request: web.Request) -> web.StreamResponse:
        response = web.Response(status=303, headers={hdrs.LOCATION: str(request.rel_url.without_query_params("token"))})
        response.set_cookie(
            COOKIE, self._cookie(), max_age=COOKIE_AGE_S, httponly=True, samesite="Strict", secure=request.secure
        )
        return response

    def _cookie(self) -> str:
        """Not the token itself: what a browser stores must not open the API elsewhere."""
        return hmac.digest(self.token.encode(), b"callcast cookie 1", hashlib.sha256).hex()


async def add_headers(_: web.Request, response: web.StreamResponse) -> None:
    """For `on_response_prepare`: on errors too."""
    response.headers.update(HEADERS)
    response.headers.setdefault(hdrs.CACHE_CONTROL, "no-store")
    response.headers[hdrs.SERVER] = "callcast"


def _unauthorized(request: web.Request) -> web.Response:
    headers = {hdrs.WWW_AUTHENTICATE: 'Bearer realm="callcast"'}
    if "text/html" in request.headers.get(hdrs.ACCEPT, ""):
        return web.Response(status=401, text=_LOGIN_PAGE, content_type="text/html", headers=headers)
    return web.Response(status=401, text="401: this service wants its token\n", headers=headers)


def _same(given: str, wanted: str) -> bool:
    return hmac.compare_digest(given.encode("utf-8", "surrogateescape"), wanted.encode())


def _without_port(header: str) -> str:
    if header.startswith("["):
        return header[1:].partition("]")[0].lower()
    return header.partition(":")[0].lower()


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _is_wildcard(host: str) -> bool:
    return not host or (_is_address(host) and ipaddress.ip_address(host).is_unspecified)
