"""POST requests on aiohttp's connections, answered by the status line alone.

aiohttp gives an answer once all of its headers are there and right. Here the status line is read beside it, so that
it counts whatever comes after it, and so is known whether anything has come when a connection dies.
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

REST_S = 1.0  # how long the rest of an answer is waited for once its status line has come
RESPONSE_BYTES_MAX = 64 * 1024  # of the body, and of one header
ANSWER_BYTES_MAX = 4 * RESPONSE_BYTES_MAX  # of everything: headers without end must not fill the memory
HEADERS_MAX = 1000

_STATUS_LINE = re.compile(rb"[\r\n]*HTTP/\d(?:\.\d)?[ \t]+(\d{3})(?=[ \t\r\n])")
_HEAD_END = re.compile(rb"\r?\n\r?\n")


class Answer(Struct, frozen=True):
    status: int
    retry_after: str | None = None


class Client:
    def __init__(self, session: aiohttp.ClientSession, connector: aiohttp.TCPConnector, timeout_s: float) -> None:
        self._session = session
        self._connector = connector
        self._timeout_s = timeout_s

    async def post(
        self,
        url: URL,
        body: bytes,
        headers: Mapping[str, str],
        *,
        proxy: URL | None = None,
        proxy_headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """Raises aiohttp.ClientError, OSError or TimeoutError when no status line comes.

        A kept connection that dies before a byte of the answer says nothing about the receiver: the request goes
        out again on another one. So it does, once, when an address that was looked up earlier cannot be connected to.
        """
        renewed = False
        exchange = _Exchange()
        request = {"data": body, "headers": headers, "proxy": proxy, "proxy_headers": proxy_headers}
        try:
            async with asyncio.timeout(self._timeout_s) as limit:
                while True:
                    exchange = _Exchange(limit)
                    try:
                        return await self._once(exchange, url, **request)
                    except aiohttp.ClientConnectorError:
                        self._connector.clear_dns_cache()
                        if renewed or not exchange.cached_address:
                            raise
                        renewed = True
                    except (aiohttp.ClientOSError, aiohttp.ServerDisconnectedError):
                        if exchange.heard or not exchange.kept:
                            raise
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            if exchange.answer is not None:
                return exchange.answer
            if isinstance(error, TimeoutError) and exchange.protocol is None:
                self._connector.clear_dns_cache()
                raise aiohttp.ConnectionTimeoutError from None
            raise

    async def _once(self, exchange: "_Exchange", url: URL, **request: Any) -> Answer:
        _current.set(exchange)
        try:
            async with self._session.post(url, allow_redirects=False, **request) as response:
                answer = exchange.answered(Answer(response.status, response.headers.get("retry-after")))
                try:
                    await _drain(response)
                except BaseException:
                    response.close()
                    raise
                return answer
        finally:
            exchange.end()


@asynccontextmanager
async def open_client(
    *, timeout_s: float, connections: int, headers: Mapping[str, str], **settings: Any
) -> AsyncIterator[Client]:
    """`settings` are those of aiohttp's connector."""
    connector = _Connector(limit=connections, **settings)
    tracing = aiohttp.TraceConfig()
    tracing.on_dns_cache_hit.append(_address_was_cached)
    async with aiohttp.ClientSession(
        connector=connector,
        cookie_jar=aiohttp.DummyCookieJar(),
        timeout=aiohttp.ClientTimeout(),  # none: `post` has one limit for all that it takes
        auto_decompress=False,
        headers=headers,
        max_line_size=RESPONSE_BYTES_MAX,
        max_field_size=RESPONSE_BYTES_MAX,
        max_headers=HEADERS_MAX,
        trace_configs=[tracing],
    ) as session:
        yield Client(session, connector, timeout_s)


class _Exchange:
    """What is known of one request's answer.

    limit: of time, which is drawn closer when the status line comes.
    kept: the connection has served another request before. heard: so many bytes of the answer have come.
    """

    def __init__(self, limit: asyncio.Timeout | None = None) -> None:
        self.answer: Answer | None = None
        self.cached_address = False
        self.protocol: _Protocol | None = None
        self.kept = False
        self.heard = 0
        self._limit = limit
        self._head = b""

    def begin(self, protocol: "_Protocol") -> None:
        self.protocol, self.kept = protocol, protocol.used
        protocol.exchange, protocol.used = self, True

    def end(self) -> None:
        if self.protocol is not None and self.protocol.exchange is self:
            self.protocol.exchange = None

    def hear(self, data: bytes) -> None:
        self.heard += len(data)
        if self.answer is not None or len(self._head) > RESPONSE_BYTES_MAX:
            return
        self._head += data
        while line := _STATUS_LINE.match(self._head):
            status = int(line[1])
            if status >= 200 or status == 101:
                self.answered(Answer(status))
                return
            if not (end := _HEAD_END.search(self._head, line.end())):
                return
            self._head = self._head[end.end() :]

    def answered(self, answer: Answer) -> Answer:
        """From now on the rest of the answer has a second at most."""
        if self.answer is None and self._limit is not None and not self._limit.expired():
            rest_until = asyncio.get_running_loop().time() + REST_S
            self._limit.reschedule(min(rest_until, self._limit.when() or rest_until))
        self.answer = answer
        return answer


_current: ContextVar[_Exchange] = ContextVar("exchange")


class _Protocol(ResponseHandler):
    """aiohttp's side of a connection, which shows what comes to the exchange before aiohttp judges it."""

    exchange: _Exchange | None = None
    used = False

    def data_received(self, data: bytes) -> None:
        if self.exchange is not None:
            self.exchange.hear(data)
            if self.exchange.heard > ANSWER_BYTES_MAX and self.transport is not None:
                self.transport.abort()
                return
        elif self.used and data:  # nothing was asked, and it must not become the answer to the next request
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
        timeout: aiohttp.ClientTimeout,  # noqa: ASYNC109 (aiohttp's own)
    ) -> Connection:
        while True:
            connection = await super().connect(req, traces, timeout)
            protocol = cast("_Protocol", connection.protocol)
            if protocol.used and protocol.should_close:  # more has come on it than the last answer
                connection.close()
                continue
            _current.get().begin(protocol)
            return connection


async def _address_was_cached(*_: object) -> None:
    _current.get().cached_address = True


async def _drain(response: aiohttp.ClientResponse) -> None:
    """Read a small answer so that the connection can be used again; break off a large or a broken one.

    The status has said everything by now: trouble with the body changes nothing.
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
