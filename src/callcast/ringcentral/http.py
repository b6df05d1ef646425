"""Sends one request and returns the complete answer, or raises PollFailed. Opens all connections to the platform."""

import os
from collections.abc import Mapping
from functools import lru_cache
from typing import Literal
from urllib.parse import urlsplit

import aiohttp
from aiohttp import ClientSession, ClientTimeout
from yarl import URL

from callcast import __version__
from callcast.ports.clock import Clock
from callcast.ports.telemetry import Telemetry
from callcast.ports.upstream import PollFailed
from callcast.ringcentral.platform_clock import PlatformClock
from callcast.ringcentral.settings import SourceSettings
from callcast.settings.loopback import is_loopback
from callcast.settings.proxy import Proxy, environment_proxy

Resource = Literal["active_calls", "call_log", "extensions", "presence", "token", "push_token"]

CONNECT_TIMEOUT_S = 5.0
RESPONSE_BYTES_MAX = 32 * 1024 * 1024
REQUEST_ID_MAX = 80


class Answer:
    """An answer of any status, with its complete body."""

    __slots__ = ("body", "headers", "request_id", "status", "took_s")

    def __init__(self, status: int, headers: Mapping[str, str], body: bytes, took_s: float) -> None:
        self.status = status
        self.headers = headers
        self.body = body
        self.took_s = took_s
        self.request_id = request_id(headers)


class Exchange:
    """Sends requests to one platform host, through the environment's proxy if `trust_env` is true.

    Raises ValueError for plain HTTP to a host other than loopback, unless `allow_plaintext` is true.
    """

    def __init__(
        self,
        settings: SourceSettings,
        *,
        session: ClientSession,
        clock: Clock,
        platform_clock: PlatformClock,
        telemetry: Telemetry,
    ) -> None:
        server, trust_env = settings.server, settings.trust_env
        parts = urlsplit(server)
        loopback = is_loopback(parts.hostname or "")
        if parts.scheme != "https" and not (parts.scheme == "http" and (loopback or settings.allow_plaintext)):
            raise ValueError("server must be an https URL, unless it is on this machine")
        self._server = server.rstrip("/")
        self._trust_env = trust_env
        self._proxy = environment_proxy(URL(self._server)) if trust_env else Proxy()
        # A proxy for http gets its credentials with each request, a proxy for https with CONNECT.
        self._through_plainly = self._proxy.headers or {} if parts.scheme == "http" else {}
        self._session = session
        self._clock = clock
        self._platform_clock = platform_clock
        self._telemetry = telemetry
        self._headers = {"User-Agent": f"callcast/{__version__}", "Accept": "application/json"}

    @property
    def user_agent(self) -> Mapping[str, str]:
        return {"User-Agent": self._headers["User-Agent"]}

    def proxy_for(self, url: URL) -> Proxy:
        """Return the proxy for a WebSocket to another host. Raises ValueError if the environment's is unusable."""
        scheme = "https" if url.scheme == "wss" else "http"
        return environment_proxy(url.with_scheme(scheme)) if self._trust_env else Proxy()

    def url(self, path: str, query: Mapping[str, str] | None = None) -> URL:
        return URL(self._server + path, encoded=False).update_query(query or {})

    async def ask(
        self,
        resource: Resource,
        url: URL,
        *,
        authorization: str,
        timeout_s: float,
        accept: str | None = None,
        form: Mapping[str, str] | None = None,
    ) -> Answer:
        """Send a GET request, or a POST request with a form.

        Raises PollFailed for every error. Its text never contains the request, which aiohttp's errors can quote.
        """
        asked_at = self._clock.monotonic()
        try:
            answer = await self._ask(url, _headers(authorization, accept), form, timeout_s)
        except aiohttp.ConnectionTimeoutError:
            failure = PollFailed("timeout", f"no connection within {CONNECT_TIMEOUT_S:.3g} s")
        except TimeoutError:
            failure = PollFailed("timeout", f"no complete answer within {timeout_s:.3g} s")
        except (aiohttp.ClientError, OSError, ValueError) as error:
            failure = PollFailed("network", what_happened(error))
        except PollFailed as error:
            failure = error
        else:
            self._telemetry.answered(resource, str(answer.status), answer.took_s, answer.request_id)
            return answer
        self._telemetry.answered(resource, failure.reason, self._clock.monotonic() - asked_at, failure.request_id)
        raise failure

    async def _ask(
        self, url: URL, headers: Mapping[str, str], form: Mapping[str, str] | None, timeout_s: float
    ) -> Answer:
        asked_at = self._clock.monotonic()
        async with self._session.request(
            "GET" if form is None else "POST",
            url,
            data=form,
            headers={**self._headers, **self._through_plainly, **headers},
            proxy=self._proxy.url,
            proxy_headers=self._proxy.headers,
            allow_redirects=False,
            middlewares=(_only_once,),
            timeout=_timeout(timeout_s),
        ) as response:
            # An answer that is not JSON comes from a proxy, and so does its Date header.
            date = response.headers.get("Date") if response.content_type == "application/json" else None
            self._platform_clock.update(date, asked_at=asked_at, answered_at=self._clock.monotonic())
            body = await _read(response)
            return Answer(response.status, response.headers, body, self._clock.monotonic() - asked_at)


def _headers(authorization: str, accept: str | None = None) -> Mapping[str, str]:
    return {"Authorization": authorization} | ({"Accept": accept} if accept else {})


@lru_cache(maxsize=16)
def _timeout(total_s: float) -> ClientTimeout:
    return ClientTimeout(total=total_s, sock_connect=CONNECT_TIMEOUT_S)


class _Disconnected(aiohttp.ClientError):
    """The connection broke after the request was sent on it."""


async def _only_once(request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType) -> aiohttp.ClientResponse:
    """Prevent aiohttp's automatic retry on a broken keep-alive connection: the rate limiter would not count it."""
    try:
        return await handler(request)
    except aiohttp.ClientConnectorError:
        raise
    except (aiohttp.ClientOSError, aiohttp.ServerDisconnectedError):
        failure = _Disconnected()
    raise failure


async def _read(response: aiohttp.ClientResponse) -> bytes:
    """Read the body, with a size limit that also holds for compressed answers."""
    body, size = bytearray(), response.content_length or 0  # one buffer, to avoid fragmenting the memory
    if size <= RESPONSE_BYTES_MAX:
        size = 0
        while not response.content.at_eof():
            chunk = await response.content.readany()
            size += len(chunk)
            if size > RESPONSE_BYTES_MAX:
                break
            body += chunk
    if size > RESPONSE_BYTES_MAX:
        response.close()
        detail = f"the answer is larger than {RESPONSE_BYTES_MAX // 1024 // 1024} MiB"
        raise PollFailed("parse", detail, request_id=request_id(response.headers))
    return bytes(body)


def request_id(headers: Mapping[str, str]) -> str | None:
    """Return the RCRequestId header, which the platform's support asks for."""
    text = headers.get("RCRequestId", "")
    return text[:REQUEST_ID_MAX] if text.isascii() and text.isprintable() and text else None


def what_happened(error: Exception) -> str:
    """Return a description that contains nothing of the request."""
    if isinstance(error, aiohttp.ClientProxyConnectionError):
        return "the proxy from the environment is unreachable: correct it, or set trust_env = false"
    if isinstance(error, aiohttp.ClientHttpProxyError):
        return f"the proxy from the environment answered {error.status}: correct it, or set trust_env = false"
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return "the host name was not found"
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        return "the host's certificate is not trusted"
    if isinstance(error, aiohttp.ClientSSLError):
        return "the TLS connection failed"
    if isinstance(error, aiohttp.ClientConnectorError):
        number = error.os_error.errno
        return f"no connection: {os.strerror(number) if number else type(error.os_error).__name__}"
    if isinstance(error, _Disconnected | ConnectionResetError):
        return "the connection was closed before the answer"
    if isinstance(error, aiohttp.ClientPayloadError):
        return "the answer is incomplete or corrupted"
    return f"the request failed ({type(error).__name__})"
