"""POST requests with aiohttp where the status line alone decides the result.

aiohttp returns a response only after all headers have arrived and are valid. This module also reads the status line
itself, so that the status counts whatever follows it, and so that it knows whether a lost connection had returned any
data.
"""

import asyncio
import re
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from contextvars import ContextVar
from functools import partial
from typing import Any, cast

import aiohttp
from aiohttp.client_proto import ResponseHandler
from aiohttp.connector import Connection
from aiohttp.tracing import Trace
from msgspec import Struct
from yarl import URL

from callcast.settings.proxy import Proxy
from callcast.sinks.connectivity import Resolver

REST_S = 1.0  # how long to wait for the rest of a response after its status line
RESPONSE_BYTES_MAX = 64 * 1024  # of the body, and of one header
RECEIVED_BYTES_MAX = 4 * RESPONSE_BYTES_MAX  # of the whole response, so that endless headers cannot fill the memory
HEADERS_MAX = 1000

_STATUS_LINE = re.compile(rb"[\r\n]*HTTP/\d(?:\.\d)?[ \t]+(\d{3})(?=[ \t\r\n])")
_HEAD_END = re.compile(rb"\r?\n\r?\n")


class Response(Struct, frozen=True):
    """A response. exhausted_for: the receiver allows no further request for this many seconds, as it said."""

    status: int
    retry_after: str | None = None
    exhausted_for: str | None = None


class Client:
    """Posts to one URL."""

    def __init__(self, session: aiohttp.ClientSession, connector: aiohttp.TCPConnector, url: URL, proxy: Proxy) -> None:
        self._session = session
        self._connector = connector
        self._url = url
        self._proxy = proxy

    async def post(self, body: bytes, headers: Mapping[str, str], *, timeout_s: float) -> Response:
        """Raises aiohttp.ClientError, OSError or TimeoutError when no status line arrives.

        If a reused connection is lost before the first byte of the response, the request is sent again on another
        connection. It is also sent again, once, if a cached address cannot be connected to.
        """
        renewed = False
        exchange = _Exchange()
        try:
            async with asyncio.timeout(timeout_s) as limit:
                while True:
                    exchange = _Exchange(limit)
                    try:
                        return await self._post_once(exchange, body, headers)
                    except aiohttp.ClientConnectorError:
                        self._connector.clear_dns_cache()
                        if renewed or not exchange.cached_address:
                            raise
                        renewed = True
                    except (aiohttp.ClientOSError, aiohttp.ServerDisconnectedError):
                        if exchange.received or not exchange.reused:
                            raise
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            if exchange.response is not None:
                return exchange.response
            if isinstance(error, TimeoutError) and exchange.protocol is None:
                self._connector.clear_dns_cache()
                raise aiohttp.ConnectionTimeoutError from None
            raise

    async def _post_once(self, exchange: "_Exchange", body: bytes, headers: Mapping[str, str]) -> Response:
        _current.set(exchange)
        proxy, proxy_headers = self._proxy.url, self._proxy.headers
        try:
            async with self._session.post(
                self._url, data=body, headers=headers, proxy=proxy, proxy_headers=proxy_headers, allow_redirects=False
            ) as response:
                got = response.headers
                exhausted_for = got.get("x-ratelimit-reset-after") if got.get("x-ratelimit-remaining") == "0" else None
                result = exchange.respond(Response(response.status, got.get("retry-after"), exhausted_for))
                try:
                    await _drain(response)
                except BaseException:
                    response.close()
                    raise
                return result
        finally:
            exchange.end()


@asynccontextmanager
async def open_client(
    url: URL, proxy: Proxy, *, connections: int, headers: Mapping[str, str], **settings: Any
) -> AsyncIterator[Client]:
    """`settings` are those of aiohttp's connector."""
    connector = _Connector(limit=connections, resolver=Resolver(), **settings)
    tracing = aiohttp.TraceConfig()
    tracing.on_dns_cache_hit.append(_address_was_cached)
    async with aiohttp.ClientSession(
        connector=connector,
        cookie_jar=aiohttp.DummyCookieJar(),
        timeout=aiohttp.ClientTimeout(),  # none: `post` sets one limit for everything
        auto_decompress=False,
        headers=headers,
        max_line_size=RESPONSE_BYTES_MAX,
        max_field_size=RESPONSE_BYTES_MAX,
        max_headers=HEADERS_MAX,
        trace_configs=[tracing],
    ) as session:
        yield Client(session, connector, url, proxy)


class _Exchange:
    """The state of one request.

    limit: the time limit, shortened when the status line arrives.
    reused: the connection has served another request before. received: bytes of the response so far.
    """

    def __init__(self, limit: asyncio.Timeout | None = None) -> None:
        self.response: Response | None = None
        self.cached_address = False
        self.protocol: _Protocol | None = None
        self.reused = False
        self.received = 0
        self._limit = limit
        self._head = b""

    def begin(self, protocol: "_Protocol") -> None:
        self.protocol, self.reused = protocol, protocol.used
        protocol.exchange, protocol.used = self, True

    def end(self) -> None:
        if self.protocol is not None and self.protocol.exchange is self:
            self.protocol.exchange = None

    def receive(self, data: bytes) -> None:
        self.received += len(data)
        if self.response is not None or len(self._head) > RESPONSE_BYTES_MAX:
            return
        self._head += data
        while line := _STATUS_LINE.match(self._head):
            status = int(line[1])
            if status >= 200 or status == 101:
                self.respond(Response(status))
                return
            if not (end := _HEAD_END.search(self._head, line.end())):
                return
            self._head = self._head[end.end() :]

    def respond(self, response: Response) -> Response:
        """Store the response; its rest must arrive within `REST_S`."""
        if self.response is None and self._limit is not None and not self._limit.expired():
            rest_until = asyncio.get_running_loop().time() + REST_S
            self._limit.reschedule(min(rest_until, self._limit.when() or rest_until))
        self.response = response
        return response


_current: ContextVar[_Exchange] = ContextVar("exchange")


class _Protocol(ResponseHandler):
    """A connection that passes received data to the exchange before aiohttp parses it."""

    exchange: _Exchange | None = None
    used = False

    def data_received(self, data: bytes) -> None:
        if self.exchange is not None:
            self.exchange.receive(data)
            if self.exchange.received > RECEIVED_BYTES_MAX and self.transport is not None:
                self.transport.abort()
                return
        elif self.used and data:  # no request is pending; this must not become the response to the next one
            self.close()
            return
        super().data_received(data)


class _Connector(aiohttp.TCPConnector):
    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        protocol: type[ResponseHandler] = _Protocol
        self._factory = partial(protocol, loop=asyncio.get_running_loop())

    async def connect(
        self,
        req: aiohttp.ClientRequest,
        traces: list[Trace],
        timeout: aiohttp.ClientTimeout,  # noqa: ASYNC109 (aiohttp's parameter)
    ) -> Connection:
        while True:
            connection = await super().connect(req, traces, timeout)
            protocol = cast("_Protocol", connection.protocol)
            if protocol.used and protocol.should_close:  # data followed the last response
                connection.close()
                continue
            _current.get().begin(protocol)
            return connection


async def _address_was_cached(*_: object) -> None:
    _current.get().cached_address = True


async def _drain(response: aiohttp.ClientResponse) -> None:
    """Read a small body so that the connection can be reused; abort a large or broken one.

    The status is known by now, so an error in the body changes nothing.
    """
    with suppress(aiohttp.ClientError, OSError):
        left = RESPONSE_BYTES_MAX
        async for piece in response.content.iter_any():
            left -= len(piece)
            if left < 0:
                break
        else:
            return
    response.close()
