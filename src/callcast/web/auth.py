"""Access control of the HTTP server: Host header, token, and the security headers of every response."""

import hashlib
import hmac
import ipaddress
import socket
from collections.abc import Awaitable, Callable, Collection

from aiohttp import hdrs, web

from callcast.settings.loopback import is_loopback

COOKIE = "callcast"
COOKIE_AGE_S = 180 * 24 * 3600  # a wallboard runs unattended for months
OPEN_PATHS = frozenset({"/healthz", "/readyz"})  # for health checks: no token, any Host header or none
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
<main><h1>This wallboard requires a token</h1>
<p>Open it once as <code>/?token=...</code>; this browser then remembers the token.</p>
<p><a href="/">Try again</a></p></main></html>
"""

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class AccessControl:
    """Middleware: passes a request on, or responds with 401, 415 or 421. An empty `token` disables the token check."""

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
        if not self.token and not is_open and not self._is_known_host(request.headers.get(hdrs.HOST, "")):
            raise web.HTTPMisdirectedRequest(text="421: unknown Host header: add the host name to service.http_hosts\n")
        if self.token and not is_open:
            if self._has_query_token(request):
                return self._redirect_with_cookie(request)
            if not self._is_authorized(request):
                return _unauthorized(request)
        if request.method == hdrs.METH_POST and request.content_type != "application/json":
            raise web.HTTPUnsupportedMediaType(text="415: POST requires content-type: application/json\n")
        return await handler(request)

    def _is_known_host(self, header: str) -> bool:
        """Protects against DNS rebinding: only known names are accepted, since any other may point to this host."""
        host = _without_port(header)
        return host in self._hosts or (self._any_address and _is_address(host))

    def _has_query_token(self, request: web.Request) -> bool:
        """A valid `?token=` on an existing path, so that the redirect stays on this site."""
        given = request.query.get("token")
        if given is None or request.method != hdrs.METH_GET or request.match_info.http_exception is not None:
            return False
        return _same(given, self.token)

    def _is_authorized(self, request: web.Request) -> bool:
        scheme, _, given = request.headers.get(hdrs.AUTHORIZATION, "").partition(" ")
        bearer = scheme.lower() == "bearer" and _same(given.strip(), self.token)
        return bearer or _same(request.cookies.get(COOKIE, ""), self._cookie())

    def _redirect_with_cookie(self, request: web.Request) -> web.StreamResponse:
        response = web.Response(status=303, headers={hdrs.LOCATION: str(request.rel_url.without_query_params("token"))})
        response.set_cookie(
            COOKIE, self._cookie(), max_age=COOKIE_AGE_S, httponly=True, samesite="Strict", secure=request.secure
        )
        return response

    def _cookie(self) -> str:
        """Derived from the token: a stolen cookie must not serve as a bearer token."""
        return hmac.digest(self.token.encode(), b"callcast cookie 1", hashlib.sha256).hex()


async def add_headers(_: web.Request, response: web.StreamResponse) -> None:
    """Handler for `on_response_prepare`, so error responses get the headers too."""
    response.headers.update(HEADERS)
    response.headers.setdefault(hdrs.CACHE_CONTROL, "no-store")
    response.headers[hdrs.SERVER] = "callcast"


def _unauthorized(request: web.Request) -> web.Response:
    headers = {hdrs.WWW_AUTHENTICATE: 'Bearer realm="callcast"'}
    if "text/html" in request.headers.get(hdrs.ACCEPT, ""):
        return web.Response(status=401, text=_LOGIN_PAGE, content_type="text/html", headers=headers)
    return web.Response(status=401, text="401: token required: send Authorization: Bearer TOKEN\n", headers=headers)


def _same(given: str, expected: str) -> bool:
    return hmac.compare_digest(given.encode("utf-8", "surrogateescape"), expected.encode())


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
