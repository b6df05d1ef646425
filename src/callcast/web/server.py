"""The HTTP side: the wallboard page, `/api`, metrics, health, reload (contract 9)."""

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Protocol

import msgspec
from aiohttp import HttpVersion11, hdrs, web

from callcast.calls.summary import Summary
from callcast.formats.cloudevents import Wire, counts_dict, rfc3339, summary_dict
from callcast.ports.clock import Clock
from callcast.ports.live_calls import Statistics
from callcast.ports.outbox import OutboxUnavailable
from callcast.web.auth import Guard, add_headers
from callcast.web.listener import FAULTS, listen
from callcast.web.serializers import View
from callcast.web.sse import Feed, Reader

METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"
BODY_BYTES_MAX = 64 * 1024
READERS_MAX = 500  # of /api/events at once
LAST_MAX = 100  # events that a fresh reader may ask for
IDLE_S = 75.0  # without a whole request, the first one too
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
        """What makes nothing unready and wants a person's eye all the same, in sentences."""
        ...


class Exposition(Protocol):
    def exposition(self) -> bytes: ...


class Admin:
    """A running HTTP side. `change` is what a reload does to it; `url` is where it listens."""

    def __init__(self, guard: Guard, feed: Feed, pages: "_Pages") -> None:
        self.url = ""
        self._guard = guard
        self._feed = feed
        self._pages = pages

    def change(self, *, token: str, hosts: Collection[str], wire: Wire, names: Mapping[str, str]) -> None:
        self._guard.change(token, hosts)
        view = View(wire, names)
        self._pages.view = view
        self._feed.show(view)


@asynccontextmanager
async def serve(
    host: str,
    port: int,
    *,
    live_calls: Statistics,
    metrics: Exposition,
    feed: Feed,
    health: Health,
    reload: Reload,
    clock: Clock,
    view: View,
    version: str,
    token: str = "",
    hosts: Collection[str] = (),
) -> AsyncIterator[Admin]:
    """Listen until the block ends; port 0 is any free one. Raises OSError when the address is unreachable.

    token: "" asks for none. hosts: further names that the Host header may have.
    The caller runs `feed.run()` for as long.
    """
    guard = Guard(host, token, hosts)
    pages = _Pages(live_calls, metrics, feed, health, reload, clock, view, version)
    app = web.Application(middlewares=[web.middleware(guard)], client_max_size=BODY_BYTES_MAX)
    app.on_response_prepare.append(add_headers)
    pages.add_to(app.router)
    runner = web.AppRunner(app, access_log=None, logger=FAULTS, shutdown_timeout=2.0, keepalive_timeout=IDLE_S)
    await runner.setup()
    try:
        listening = await listen(runner, host, port)
        try:
            admin = Admin(guard, feed, pages)
            admin.url = _url(listening)
            yield admin
        finally:
            feed.close()
            listening.close()
    finally:
        await runner.cleanup()


class _Pages:
    """One method for each path."""

    def __init__(
        self,
        live_calls: Statistics,
        metrics: Exposition,
        feed: Feed,
        health: Health,
        reload: Reload,
        clock: Clock,
        view: View,
        version: str,
    ) -> None:
        self.view = view
        self._live_calls = live_calls
        self._metrics = metrics
        self._feed = feed
        self._health = health
        self._reload = reload
        self._clock = clock
        self._version = version
        self._reading = 0

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
        return web.Response(body=self._metrics.exposition(), headers={hdrs.CONTENT_TYPE: METRICS_TYPE})

    async def healthz(self, _: web.Request) -> web.Response:
        return _json({"status": "ok", "version": self._version})

    async def readyz(self, _: web.Request) -> web.Response:
        reasons = self._health.reasons()
        return _json(
            {"ready": not reasons, "reasons": reasons, "warnings": self._health.warnings()},
            status=503 if reasons else 200,
        )

    async def calls(self, _: web.Request) -> web.Response:
        calls = [self.view.call(call) for call in self._live_calls.calls()]
        return _json({"now": rfc3339(self._clock.wall()), "calls": calls})

    async def summary(self, _: web.Request) -> web.Response:
        return _json(
            {
                "now": rfc3339(self._clock.wall()),
                "total": counts_dict(self._live_calls.total()),
                "queues": [],
                "sources": [self._source(summary) for summary in self._live_calls.summaries()],
            }
        )

    def _source(self, summary: Summary) -> dict[str, Any]:
        extensions = self._live_calls.extension_counts(summary.source)
        return summary_dict(summary) | {"extensions": {one: counts_dict(counts) for one, counts in extensions.items()}}

    async def reload(self, request: web.Request) -> web.Response:
        try:
            async with asyncio.timeout(BODY_S):
                await request.read()  # its size is bounded by the application
        except TimeoutError:
            raise web.HTTPRequestTimeout(text="408: the body did not come\n") from None
        faults = await self._reload()
        return _json({"reloaded": not faults, "faults": faults}, status=409 if faults else 200)

    async def events(self, request: web.Request) -> web.StreamResponse:
        """Recorded events as they come.

        `?board=1`: the board too. `?last=N`: the last events first. `?after=ID`: the same as Last-Event-ID.
        """
        if self._reading >= READERS_MAX:
            raise web.HTTPServiceUnavailable(text="503: too many readers\n", headers={"Retry-After": "10"})
        response = web.StreamResponse(
            headers={hdrs.CONTENT_TYPE: "text/event-stream; charset=utf-8", "X-Accel-Buffering": "no"}
        )
        transport = request.transport
        if transport is None:
            return response  # it left already
        chunked = request.version >= HttpVersion11  # as aiohttp does it for an answer without a length
        reader = Reader(transport, live_calls=request.query.get("board") == "1", chunked=chunked)
        self._reading += 1
        try:
            reader.after_seq = await self._start_seq(request)
            await response.prepare(request)
            await _write(response, self._hello() if reader.live_calls else b"retry: 1000\n\n")
            while chunk := await self._feed.catch_up(reader):
                await _write(response, chunk)
            self._feed.join(reader)
            await reader.ended()
        except (TimeoutError, ConnectionError, OutboxUnavailable):
            transport.abort()  # it comes back by itself, and says where it was
        finally:
            self._reading -= 1
            self._feed.leave(reader)
        return response

    def _hello(self) -> bytes:
        """What the page wants to know before all else: whether it is still the right one."""
        return b"retry: 1000\nevent: hello\ndata: %b\n\n" % msgspec.json.encode({"version": self._version})

    async def _start_seq(self, request: web.Request) -> int:
        """After which event the stream starts: the reader's own last one, unless the outbox is another one."""
        try:
            newest = await self._feed.last_seq()
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
