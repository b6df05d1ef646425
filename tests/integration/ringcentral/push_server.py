"""A platform with push and presence whose every answer a test sets, and what a client needs to use it."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
from aiohttp import ClientSession, web

from callcast.calls.model import Target
from callcast.ports.hints import Hint, Hints, HintsChange, Via
from callcast.ringcentral.client import Client
from tests.clock import TurnedClock
from tests.unit.ringcentral.recording import RecordedTelemetry, make_client

CANARY = "canary-token"  # in every secret that the platform gives, so that a test can search for it
EXTENSIONS = ("7", "8")
TARGETS = [Target(source="acme", extension_id=one) for one in EXTENSIONS]
LIMITS = {"X-Rate-Limit-Limit": "40", "X-Rate-Limit-Remaining": "39", "X-Rate-Limit-Window": "60"}


class PushServer:
    """Answers as it should until a test changes an attribute. `sockets` are the open connections, oldest first."""

    def __init__(self) -> None:
        self.url = ""
        self.tokens = 0  # access tokens given
        self.wstokens = 0
        self.refresh_tokens = False
        self.token_status = 200
        self.wstoken_status = 200
        self.wstoken_statuses: list[int] = []  # of the next answers
        self.wstoken_body: object = None
        self.handshake_status = 101
        self.details: Callable[[web.Request], Any] = lambda _: {"recoveryTimeout": 180}
        self.first_frame: str | None = None
        self.subscription: Callable[[Sequence[str]], tuple[int, Any]] = self.accept
        self.presence: Callable[[Sequence[str]], web.Response] = self.all_idle
        self.sockets: list[web.WebSocketResponse] = []
        self.queries: list[dict[str, str]] = []  # of each connection
        self.subscribed: list[list[str]] = []  # filters of each subscription
        self.heartbeats = 0
        self.presences: list[list[str]] = []
        self._sequence = 0

    def accept(self, filters: Sequence[str]) -> tuple[int, Any]:
        return 200, {"id": f"sub-{len(self.subscribed)}", "eventFilters": list(filters)}

    def all_idle(self, ids: Sequence[str]) -> web.Response:
        return presence_answer({one: {"telephonyStatus": "NoCall", "totalActiveCalls": 0} for one in ids})

    async def push(self, event: dict[str, Any], *, socket: int = -1, subscription: str | None = None) -> None:
        body = {"subscriptionId": subscription or f"sub-{len(self.subscribed)}", **event}
        await self.sockets[socket].send_str(json.dumps([{"type": "ServerNotification", "status": 200}, body]))

    async def drop(self, socket: int = -1) -> None:
        """Break a connection without a word."""
        request = self.sockets[socket]._req
        assert request is not None
        assert request.transport is not None
        request.transport.abort()

    # The endpoints

    async def token(self, request: web.Request) -> web.Response:
        self.tokens += 1
        body = {"access_token": f"{CANARY}-access-{self.tokens}", "expires_in": 3600, "owner_id": "7"}
        if self.refresh_tokens:
            body |= {"refresh_token": f"{CANARY}-refresh", "refresh_token_expires_in": 600_000}
        return web.json_response(body, status=self.token_status)

    async def wstoken(self, request: web.Request) -> web.Response:
        self.wstokens += 1
        status = self.wstoken_statuses.pop(0) if self.wstoken_statuses else self.wstoken_status
        if status != 200:
            return web.json_response(self.wstoken_body, status=status)
        uri = self.url.replace("http", "ws") + "/ws"
        body = {"uri": uri, "ws_access_token": f"{CANARY}-ws-{self.wstokens}", "expires_in": 30}
        return web.json_response(self.wstoken_body or body)

    async def ws(self, request: web.Request) -> web.StreamResponse:
        self.queries.append(dict(request.query))
        if self.handshake_status != 101:
            return web.Response(status=self.handshake_status, headers={"Location": f"{self.url}/ws?x={CANARY}"})
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        self.sockets.append(socket)
        try:
            await self._serve(socket, request)
        finally:
            self.sockets.remove(socket)
        return socket

    async def _serve(self, socket: web.WebSocketResponse, request: web.Request) -> None:
        self._sequence += 1
        wsc = {"token": f"{CANARY}-wsc-{self._sequence}", "sequence": 1}
        frame = [{"type": "ConnectionDetails", "messageId": "1", "status": 200, "wsc": wsc}, self.details(request)]
        await socket.send_str(self.first_frame if self.first_frame is not None else json.dumps(frame))
        async for message in socket:
            if message.type is not aiohttp.WSMsgType.TEXT:
                continue
            meta, *body = json.loads(message.data)
            if meta["type"] == "Heartbeat":
                self.heartbeats += 1
                await socket.send_str(message.data)
            elif meta["type"] == "ClientRequest":
                self.subscribed.append(body[0]["eventFilters"])
                status, answer = self.subscription(self.subscribed[-1])
                reply = {"type": "ClientRequest", "messageId": meta["messageId"], "status": status}
                reply["headers"] = {"X-Rate-Limit-Group": "medium", **LIMITS}
                await socket.send_str(json.dumps([reply, answer]))

    async def read_presence(self, request: web.Request) -> web.Response:
        ids = request.match_info["ids"].split(",")
        self.presences.append(ids)
        return self.presence(ids)


def presence_answer(found: dict[str, Any], *, remaining: int = 40) -> web.Response:
    headers = {**LIMITS, "X-Rate-Limit-Group": "light", "X-Rate-Limit-Limit": "50"}
    headers["X-Rate-Limit-Remaining"] = str(remaining)
    if len(found) == 1:
        return web.json_response(next(iter(found.values())), headers=headers)
    items = [{"resourceId": one, "status": 200, "body": body} for one, body in found.items()]
    kind = "application/vnd.ringcentral.multipart+json"
    return web.json_response(items, status=207, headers=headers, content_type=kind)


@asynccontextmanager
async def push_server() -> AsyncIterator[PushServer]:
    server = PushServer()
    app = web.Application()
    app.router.add_post("/restapi/oauth/token", server.token)
    app.router.add_post("/restapi/oauth/wstoken", server.wstoken)
    app.router.add_get("/ws", server.ws)
    app.router.add_get("/restapi/v1.0/account/~/extension/{ids}/presence", server.read_presence)
    runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        server.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        yield server
    finally:
        await runner.cleanup()


class Noted(RecordedTelemetry):
    """Takes the reports of hints, and keeps them with the telemetry."""

    def __init__(self) -> None:
        super().__init__()
        self.hints: list[Hint] = []
        self.changes: list[str] = []  # such as "push up"
        self.connected: list[str] = []
        self.up: dict[str, bool] = {}
        self.subscribed: list[tuple[int, dict[str, str]]] = []
        self.refused: list[str] = []
        self.lost: list[tuple[str, str, float]] = []
        self.presence_refusals: list[str] = []
        self.ignored: dict[str, int] = {}

    def report(self, what: Hint | HintsChange) -> None:
        if isinstance(what, Hint):
            self.hints.append(what)
        else:
            self.changes.append(f"{what.via} {what.state}")

    def push_connected(self, outcome: str) -> None:
        self.connected.append(outcome)

    def hints_up(self, via: Via, *, up: bool) -> None:
        self.up[via] = up

    def push_subscribed(self, count: int, refused: Any) -> None:
        self.subscribed.append((count, dict(refused)))

    def push_refused(self, detail: str) -> None:
        self.refused.append(detail)

    def push_lost(self, reason: str, detail: str, wait_s: float) -> None:
        self.lost.append((reason, detail, wait_s))

    def presence_refused(self, detail: str) -> None:
        self.presence_refusals.append(detail)

    def hints_ignored(self, reason: str, count: int) -> None:
        self.ignored[reason] = self.ignored.get(reason, 0) + count

    def steps(self) -> list[tuple[str | None, str]]:
        return [(hint.extension_id, hint.step) for hint in self.hints]


class World:
    """A client of `server` with hints. `clock` is the client's: it stands still unless a test turns it."""

    def __init__(self, server: PushServer, clock: TurnedClock, noted: Noted, client: Client) -> None:
        self.server = server
        self.clock = clock
        self.noted = noted
        self.client = client
        self.hints: Hints = client.hints("acme", ("push",), lambda: 0.5)
        self.targets: Sequence[Target] = TARGETS

    @asynccontextmanager
    async def running(self, *ways: Via) -> AsyncIterator[None]:
        if ways:
            self.hints = self.client.hints("acme", ways, lambda: 0.5)
        task = asyncio.create_task(self.hints.run(self.targets, self.noted.report))
        try:
            yield
        finally:
            task.cancel()
            await asyncio.wait((task,))
            if not task.cancelled():
                task.result()

    async def until(self, condition: Callable[[], object], *, turn_s: float = 0.0) -> None:
        """Wait until it is so; meanwhile turn the clock, so much each time."""
        async with asyncio.timeout(30):
            while not condition():
                if turn_s:
                    await self.clock.turn(turn_s)
                await asyncio.sleep(0.001)

    async def up(self) -> None:
        await self.until(lambda: self.noted.changes[-1:] in (["push up"], ["push recovered"]), turn_s=0.5)


@asynccontextmanager
async def world() -> AsyncIterator[World]:
    clock, noted = TurnedClock(), Noted()
    async with push_server() as server, ClientSession(cookie_jar=aiohttp.DummyCookieJar()) as session:
        client = make_client(session, clock, noted, server=server.url)
        try:
            yield World(server, clock, noted, client)
        finally:
            await client.close()
