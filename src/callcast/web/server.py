"""The HTTP server: the wallboard page, `/api`, metrics, health and reload."""

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any, Protocol

import msgspec
from aiohttp import hdrs, web

from callcast.calls.summary import Summary
from callcast.formats.cloudevents import Wire, counts_data, rfc3339, summary_data
from callcast.live.live_calls import InMemoryLiveCalls
from callcast.observability.metrics import CONTENT_TYPE, Metrics
from callcast.ports.clock import Clock
from callcast.ports.outbox import OutboxUnavailable
from callcast.web.auth import AccessControl, add_headers
from callcast.web.listener import LOGGER, listen
from callcast.web.serializers import CallSerializer
from callcast.web.sse import Broadcaster, Client

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
    """A running HTTP server. `change` applies a reload; `url` is where it listens."""

    def __init__(self, access: AccessControl, broadcaster: Broadcaster, routes: "_Routes") -> None:
        self.url = ""
        self._access = access
        self._broadcaster = broadcaster
        self._routes = routes

    def change(self, *, token: str, hosts: Collection[str], wire: Wire, names: Mapping[str, str]) -> None:
        self._access.change(token, hosts)
        serializer = CallSerializer(wire, names)
        self._routes.serializer = serializer
        self._broadcaster.use(serializer)


@asynccontextmanager
async def serve(
    host: str,
    port: int,
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
) -> AsyncIterator[WebServer]:
    """Listen until the block ends. Raises OSError when the address is unavailable.

    port: 0 for any free port. token: "" disables the token check. hosts: further accepted Host header names.
    The caller runs `broadcaster.run()` meanwhile.
    """
    access = AccessControl(host, token, hosts)
    routes = _Routes(live_calls, metrics, broadcaster, health, reload, clock, serializer, version)
    app = web.Application(middlewares=[web.middleware(access)], client_max_size=BODY_BYTES_MAX)
    app.on_response_prepare.append(add_headers)
    routes.add_to(app.router)
    runner = web.AppRunner(app, access_log=None, logger=LOGGER, shutdown_timeout=2.0, keepalive_timeout=IDLE_S)
    await runner.setup()
    try:
        listening = await listen(runner, host, port)
        try:
            admin = WebServer(access, broadcaster, routes)
            admin.url = _url(listening)
            yield admin
        finally:
            broadcaster.close()
            listening.close()
    finally:
        await runner.cleanup()


class _Routes:
    """The request handlers, one for each path."""

    def __init__(
        self,
        live_calls: InMemoryLiveCalls,
        metrics: Metrics,
        broadcaster: Broadcaster,
        health: Health,
        reload: Reload,
        clock: Clock,
        serializer: CallSerializer,
        version: str,
    ) -> None:
        self.serializer = serializer
        self._live_calls = live_calls
        self._metrics = metrics
        self._broadcaster = broadcaster
        self._health = health
        self._reload = reload
        self._clock = clock
        self._version = version
        self._streaming = 0

    def add_to(self, router: web.UrlDispatcher) -> None:
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
        calls = [self.serializer.call(call) for call in self._live_calls.calls()]
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


def _url(listening: asyncio.Server) -> str:
    host, port = listening.sockets[0].getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
