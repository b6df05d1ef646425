"""The HTTP server: the wallboard page, `/api`, metrics, health and reload."""

import asyncio
import logging
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Sequence
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any, Protocol

import msgspec
from aiohttp import hdrs, web
from aiohttp.http_exceptions import HttpProcessingError

from callcast.calls.summary import Summary
from callcast.formats.cloudevents import counts_data, rfc3339, summary_data
from callcast.live.live_calls import InMemoryLiveCalls
from callcast.observability.metrics import CONTENT_TYPE, Metrics
from callcast.ports.clock import Clock
from callcast.ports.outbox import OutboxUnavailable
from callcast.web.auth import AccessControl, add_headers
from callcast.web.serializers import CallSerializer
from callcast.web.sse import Broadcaster, Client

CONNECTIONS_MAX = 600  # the usual limit of open files is 1024, and polls and deliveries need some
BODY_BYTES_MAX = 64 * 1024
READERS_MAX = 500  # of /api/events at once
LAST_MAX = 100  # past events that a new client may request
IDLE_S = 75.0  # without a complete request, also before the first one
BODY_S = 10.0

_WRITE_S = 10.0
_STATIC = Path(__file__).parent / "static"
_STATIC_TYPES = {".css": "text/css", ".html": "text/html", ".js": "text/javascript", ".svg": "image/svg+xml"}
_SEQ = re.compile(r"\d{1,18}")

Reload = Callable[[], Awaitable[Sequence[str]]]


class Health(Protocol):
    def reasons(self) -> Sequence[str]:
        """Why the service is not ready, in sentences; empty when it is."""
        ...

    def warnings(self) -> Sequence[str]:
        """Problems that need attention but do not affect readiness, in sentences."""
        ...


class WebServer:
    """The HTTP server, with one request handler for each path.

    token: "" disables the token check. hosts: further accepted Host header names. `change` applies a reload.
    The caller runs `broadcaster.run()` meanwhile.
    """

    def __init__(
        self,
        host: str,
        *,
        live_calls: InMemoryLiveCalls,
        metrics: Metrics,
        broadcaster: Broadcaster,
        health: Health,
        reload: Reload,
        clock: Clock,
        serializer: CallSerializer,
        version: str,
        token: str = "",
        hosts: Collection[str] = (),
    ) -> None:
        self.url = ""  # where it listens
        self._host = host
        self._live_calls = live_calls
        self._metrics = metrics
        self._broadcaster = broadcaster
        self._health = health
        self._reload = reload
        self._clock = clock
        self._serializer = serializer
        self._version = version
        self._access = AccessControl(host, token, hosts)
        self._streaming = 0

    def change(self, *, token: str, hosts: Collection[str], serializer: CallSerializer) -> None:
        self._access.change(token, hosts)
        self._serializer = serializer
        self._broadcaster.use(serializer)

    @asynccontextmanager
    async def listening(self, port: int) -> AsyncIterator[None]:
        """Listen until the block ends; 0 is any free port. Raises OSError when the address is unavailable."""
        app = web.Application(middlewares=[web.middleware(self._access)], client_max_size=BODY_BYTES_MAX)
        app.on_response_prepare.append(add_headers)
        self._add_routes(app.router)
        runner = web.AppRunner(app, access_log=None, logger=LOGGER, shutdown_timeout=2.0, keepalive_timeout=IDLE_S)
        await runner.setup()
        try:
            server = runner.server
            assert server is not None, "the runner was set up"  # noqa: S101 (its type cannot say so)
            loop = asyncio.get_running_loop()
            listener = await loop.create_server(
                lambda: server() if len(server.connections) < CONNECTIONS_MAX else _Closed(), self._host or None, port
            )
            host, port = listener.sockets[0].getsockname()[:2]
            self.url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
            try:
                yield
            finally:
                self._broadcaster.close()
                listener.close()
        finally:
            await runner.cleanup()

    def _add_routes(self, router: web.UrlDispatcher) -> None:
        router.add_get("/", _static_file(_STATIC / "index.html"))
        for file in sorted(_STATIC.iterdir()):
            router.add_get(f"/static/{file.name}", _static_file(file))
        router.add_get("/metrics", self.metrics)
        router.add_get("/healthz", self.healthz)
        router.add_get("/readyz", self.readyz)
        router.add_get("/api/calls", self.calls)
        router.add_get("/api/summary", self.summary)
        router.add_get("/api/events", self.events, allow_head=False)
        router.add_post("/-/reload", self.reload)

    async def metrics(self, _: web.Request) -> web.Response:
        return web.Response(body=self._metrics.exposition(), headers={hdrs.CONTENT_TYPE: CONTENT_TYPE})

    async def healthz(self, _: web.Request) -> web.Response:
        return _json({"status": "ok", "version": self._version})

    async def readyz(self, _: web.Request) -> web.Response:
        reasons = self._health.reasons()
        return _json(
            {"ready": not reasons, "reasons": reasons, "warnings": self._health.warnings()},
            status=503 if reasons else 200,
        )

    async def calls(self, _: web.Request) -> web.Response:
        calls = [self._serializer.call(call) for call in self._live_calls.calls()]
        return _json({"now": rfc3339(self._clock.wall()), "calls": calls})

    async def summary(self, _: web.Request) -> web.Response:
        return _json(
            {
                "now": rfc3339(self._clock.wall()),
                "total": counts_data(self._live_calls.total()),
                "queues": [],
                "sources": [self._source(summary) for summary in self._live_calls.summaries()],
            }
        )

    def _source(self, summary: Summary) -> dict[str, Any]:
        extensions = self._live_calls.extension_counts(summary.source)
        fields: dict[str, Any] = msgspec.to_builtins(summary_data(summary))
        return fields | {"extensions": {one: counts_data(counts) for one, counts in extensions.items()}}

    async def reload(self, request: web.Request) -> web.Response:
        try:
            async with asyncio.timeout(BODY_S):
                await request.read()  # its size is bounded by the application
        except TimeoutError:
            raise web.HTTPRequestTimeout(text="408: the request body did not arrive in time\n") from None
        faults = await self._reload()
        return _json({"reloaded": not faults, "faults": faults}, status=409 if faults else 200)

    async def events(self, request: web.Request) -> web.StreamResponse:
        """Stream recorded events.

        `?board=1`: also the live calls. `?last=N`: start with the last N events. `?after=ID`: like Last-Event-ID.
        """
        if self._streaming >= READERS_MAX:
            raise web.HTTPServiceUnavailable(text="503: too many readers\n", headers={"Retry-After": "10"})
        response = web.StreamResponse(
            headers={hdrs.CONTENT_TYPE: "text/event-stream; charset=utf-8", "X-Accel-Buffering": "no"}
        )
        self._streaming += 1
        try:
            client = Client(await self._start_seq(request), live_calls=request.query.get("board") == "1")
            await response.prepare(request)
            await _write(response, self._hello() if client.live_calls else b"retry: 1000\n\n")
            async with aclosing(self._broadcaster.stream(client)) as messages:
                async for message in messages:
                    await _write(response, message)
        except (TimeoutError, ConnectionError, OutboxUnavailable):
            if request.transport is not None:
                request.transport.abort()  # the client reconnects with Last-Event-ID
        finally:
            self._streaming -= 1
        return response

    def _hello(self) -> bytes:
        """The first message: the version, so that the page can reload itself after an update."""
        return b"retry: 1000\nevent: hello\ndata: %b\n\n" % msgspec.json.encode({"version": self._version})

    async def _start_seq(self, request: web.Request) -> int:
        """The seq after which the stream starts: the client's last event, unless the outbox was replaced since."""
        try:
            newest = await self._broadcaster.last_seq()
        except OutboxUnavailable as error:
            raise web.HTTPServiceUnavailable(text=f"503: {error}\n") from error
        given = request.headers.get("Last-Event-ID") or request.query.get("after", "")
        if _SEQ.fullmatch(given) and int(given) <= newest:
            return int(given)
        last = request.query.get("last", "0")
        return max(0, newest - min(int(last) if _SEQ.fullmatch(last) else 0, LAST_MAX))


async def _write(response: web.StreamResponse, chunk: bytes) -> None:
    async with asyncio.timeout(_WRITE_S):
        await response.write(chunk)


def _static_file(file: Path) -> Callable[[web.Request], Awaitable[web.Response]]:
    body = file.read_bytes()
    content_type = _STATIC_TYPES[file.suffix]

    async def answer(_: web.Request) -> web.Response:
        return web.Response(
            body=body, content_type=content_type, charset="utf-8", headers={hdrs.CACHE_CONTROL: "no-cache"}
        )

    return answer


def _json(value: Any, status: int = 200) -> web.Response:
    return web.Response(body=msgspec.json.encode(value), content_type="application/json", status=status)


class _Closed(asyncio.Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport.close()


def _is_server_error(record: logging.LogRecord) -> bool:
    """False for malformed requests: they would fill the log, and aiohttp's message may quote a header with a token."""
    error = record.exc_info[1] if record.exc_info else None
    return not isinstance(error, HttpProcessingError)


LOGGER = logging.getLogger("callcast.web")  # receives aiohttp's own messages
LOGGER.addFilter(_is_server_error)
