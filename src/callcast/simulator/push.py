"""The WebSocket gateway: single-use tokens, connections, subscriptions, recovery, notifications.

Facts: developers.ringcentral.com/guide/notifications/websockets, and the frames in tests/samples/ws. A notification is
sent when the scenario's time has come, by the platform's clock.
"""

import asyncio
import base64
import hashlib
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from datetime import datetime, timedelta
from heapq import heappop, heappush
from itertools import count
from typing import TYPE_CHECKING, Any
from uuid import UUID

import msgspec
from aiohttp import WSMsgType, web
from msgspec import Struct

from callcast.observability.fatal import observed
from callcast.simulator import events
from callcast.simulator.answers import (
    Refusal,
    api_refusal,
    app_permission_missing,
    invalid_parameter,
    not_found,
)
from callcast.simulator.calls import Record, Session
from callcast.simulator.clock import http_date, iso
from callcast.simulator.events import Event
from callcast.simulator.faults import Fault, Kind, reset
from callcast.simulator.subscriptions import Subscription, subscribe
from callcast.simulator.tokens import Session as SignIn

if TYPE_CHECKING:
    from callcast.simulator.platform import Platform

SUBSCRIPTION = "/restapi/v1.0/subscription"
UNAUTHORIZED = 4400  # close code
WSC_RENEWED_EVERY = 20  # notifications
WAKES_S = 1.0
CLOSES_WITHIN_S = 1.0
MOMENT = timedelta(milliseconds=1)
TIMEOUTS = {"WSG-902": "Idle timeout expired", "WSG-903": "Absolute timeout expired"}


class Push(Struct, frozen=True, kw_only=True):
    """The gateway's times and limits, as documented. A ping must be answered within half of `ping_s`."""

    token_life_s: float = 60
    idle_s: float = 1800
    absolute_s: float = 86_400
    recovery_s: float = 180
    recovery_buffer: int = 100
    ping_s: float = 20
    connections_max: int = 50
    subscriptions_max: int = 30


class Connection:
    """A connection, and after its loss what is kept for recovery."""

    def __init__(self, ws: web.WebSocketResponse, request: web.Request, sign_in: SignIn, now: datetime) -> None:
        self.ws = ws
        self.request = request
        self.sign_in = sign_in
        self.opened_at = self.heard_at = now
        self.lost_at: datetime | None = None
        self.subscription: Subscription | None = None
        self.wsc: list[str] = []
        self.missed: deque[list[Record]] = deque()
        self.notified = 0
        self.held: list[Record] | None = None  # behind the next one, by ws_reorder
        self.frames: asyncio.Queue[str | None] = asyncio.Queue()  # None: close

    async def write(self) -> None:
        """Write the frames in order. A client that does not read delays its own frames only."""
        with suppress(ConnectionError):
            while (frame := await self.frames.get()) is not None:
                await self.ws.send_str(frame)
            await self.ws.close()


class Gateway:
    def __init__(self, platform: "Platform", rules: Push) -> None:
        self._platform = platform
        self.rules = rules
        self.connections: list[Connection] = []  # open ones, and lost ones that can be recovered
        self._tokens: dict[str, tuple[SignIn, datetime]] = {}
        self._due: list[tuple[datetime, int, Event]] = []  # a heap
        self._numbers = count(1)
        self._presences = 2000  # the sequence of presence events
        self._pump: asyncio.Task[None] | None = None
        self._woken = asyncio.Event()

    # Connecting

    def issue(self, sign_in: SignIn, origin: str) -> Record:
        """A token for one connection. Raises Refusal."""
        if "WebSocket" not in sign_in.credential.permissions:
            raise app_permission_missing("WebSocket")
        now = self._now()
        self._tokens = {token: known for token, known in self._tokens.items() if known[1] > now}
        token = self._opaque("token")
        self._tokens[token] = sign_in, now + timedelta(seconds=self.rules.token_life_s)
        return {
            "uri": f"ws{origin.removeprefix('http')}/ws",
            "ws_access_token": token,
            "expires_in": round(self.rules.token_life_s),
        }

    async def connect(self, request: web.Request) -> web.StreamResponse:
        refused = await self._refused(request)
        if isinstance(refused, web.Response):
            return refused
        ws = web.WebSocketResponse(heartbeat=self.rules.ping_s, autoping=False, timeout=CLOSES_WITHIN_S)
        await ws.prepare(request)
        sign_in, until = self._tokens.pop(request.query.get("access_token", ""), (None, self._now()))
        now = self._now()
        theirs = sum(one.sign_in is sign_in for one in self._open())
        if refused or sign_in is None or now >= until or theirs >= self.rules.connections_max:
            await ws.close(code=UNAUTHORIZED, message=b"Unauthorized")
            return ws
        connection = Connection(ws, request, sign_in, now)
        self._add(connection)
        writer = observed(asyncio.create_task(connection.write()))
        try:
            if self._greet(connection, request.query.get("wsc")):
                await self._listen(connection)
            else:
                connection.frames.put_nowait(None)
                await writer
        finally:
            writer.cancel()
            connection.lost_at = connection.lost_at or self._now()
        return ws

    async def _refused(self, request: web.Request) -> web.Response | bool:
        """What `ws_refuse` answers; true: close code 4400."""
        fault = next(self._faults("ws_refuse", request.path), None)
        if fault is None:
            return False
        if fault.status == 0:
            await asyncio.Event().wait()
        if fault.status == UNAUTHORIZED:
            return True
        return api_refusal(fault.status, fault.code or "WSG-401", "Connection refused").response()

    def _add(self, connection: Connection) -> None:
        story = self._platform.story
        if not self.connections and story is not None:
            now = self._now()
            for session in story.begun(now):
                self._plan(session, after=now)
            story.on_begin = self._plan
        self.connections.append(connection)
        if self._pump is None or self._pump.done():
            self._woken = asyncio.Event()
            self._pump = observed(asyncio.create_task(self._run()))
        self.wake()

    def _greet(self, connection: Connection, wsc: str | None) -> bool:
        """Send ConnectionDetails. False: the recovery token is unknown, and the connection ends."""
        state: Record = {}
        if wsc is not None:
            lost = next((one for one in self.connections if wsc in one.wsc), None)
            if lost is None:
                self._error(connection, "WSG-400", "Bad request: wsc is not valid", 400)
                return False
            state = self._recover(connection, lost)
        rules = self.rules
        meta = self._meta("ConnectionDetails", wsc=self._renewed(connection))
        created = connection.opened_at.isoformat(timespec="milliseconds").replace("+00:00", "+0000")
        limits = {
            "maxConnectionsPerSession": rules.connections_max,
            "recoveryBufferSize": rules.recovery_buffer,
            "recoveryTimeout": round(rules.recovery_s),
            "idleTimeout": round(rules.idle_s),
            "absoluteTimeout": round(rules.absolute_s),
            "maxActiveRequests": 10,
        }
        self._send(connection, [meta, {"creationTime": created, **state, **limits}])
        for frame in list(connection.missed):
            self._send(connection, frame)
        connection.missed.clear()
        return True

    def _recover(self, connection: Connection, lost: Connection) -> Record:
        """Take over a lost connection's subscription: in the same sign-in, in time, and if it had one."""
        self._end_what_is_over(self._now())
        code = None
        if lost.sign_in is not connection.sign_in or any(self._faults("ws_unrecoverable", "/ws")):
            code = "WSG-1003"
        elif lost.subscription is None:
            code = "WSG-1005"
        if lost in self.connections:
            self.connections.remove(lost)
        if code is not None:
            return {"recoveryState": "Failed", "recoveryErrorCode": code}
        connection.subscription, lost.subscription = lost.subscription, None
        connection.missed = lost.missed
        return {"recoveryState": "Successful"}

    # Listening

    async def _listen(self, connection: Connection) -> None:
        async for message in connection.ws:
            if any(self._faults("ws_silence", "/ws")):
                continue
            if message.type is WSMsgType.PING:
                await connection.ws.pong(message.data)
            elif message.type is WSMsgType.TEXT:
                connection.heard_at = self._now()
                self._catch_up()
                self._answer(connection, message.data)

    def _answer(self, connection: Connection, text: str) -> None:
        try:
            meta, *rest = msgspec.json.decode(text, type=list[dict[str, Any]])
        except (msgspec.MsgspecError, ValueError):
            self._error(connection, "WSG-400", "Bad request", 400)
            return
        if meta.get("type") == "Heartbeat":
            self._send(connection, [{"type": "Heartbeat", "messageId": meta.get("messageId", "")}])
        elif meta.get("type") == "ClientRequest":
            self._request(connection, meta, rest[0] if rest else {})

    def _request(self, connection: Connection, meta: Record, body: Record) -> None:
        """Answer a REST request over the socket; only subscriptions are simulated."""
        method, path = str(meta.get("method")), str(meta.get("path", "")).rstrip("/")
        now, platform, credential = self._now(), self._platform, connection.sign_in.credential
        noted = platform.requests.begin(now, method, path, "", connection.request.headers.get("User-Agent", ""))
        noted.client_id, noted.group = credential.client_id, "medium"
        answer: Record | None = None
        headers: dict[str, str] = {}
        try:
            if not platform.tokens.alive(connection.sign_in, now):
                raise api_refusal(401, "OAU-213", "Token not found", legacy_code="TokenInvalid")
            platform.limits.count(credential.user, "medium", now)
            if method == "POST" and path == SUBSCRIPTION:
                noted.status, answer = 200, self._subscribe(connection, body)
            elif method == "DELETE" and path.startswith(SUBSCRIPTION + "/"):
                connection.subscription, noted.status = None, 204
            else:
                raise not_found("resource")
        except Refusal as refusal:
            noted.status, answer, headers = refusal.status, dict(refusal.body), refusal.headers
        if connection.subscription is not None and noted.status == 200:
            headers["WSG-SubscriptionId"] = connection.subscription.id
        headers = {
            "Server": "nginx",
            "Date": http_date(now),
            "Content-Type": "application/json",
            "LocalHostInfo": "simulated",
            **headers,
            **platform.limits.headers(credential.user, "medium", now),
            "RoutingKey": "SIMULATED",
            "RCRequestId": noted.request_id,
        }
        if answer is None:
            del headers["Content-Type"]
        sent = {"type": "ClientRequest", "messageId": meta.get("messageId", ""), "status": noted.status}
        self._send(connection, [{**sent, "headers": headers}, *([] if answer is None else [answer])])

    def _subscribe(self, connection: Connection, body: Record) -> Record:
        """Replace the connection's subscription. Raises Refusal."""
        now = self._now()
        mode = body.get("deliveryMode")
        if not isinstance(mode, dict) or mode.get("transportType") != "WebSocket":
            raise invalid_parameter("deliveryMode", str(mode))
        credential = connection.sign_in.credential
        theirs = [one for one in self._open() if one.subscription and one is not connection]
        if sum(one.sign_in.credential.user == credential.user for one in theirs) >= self.rules.subscriptions_max:
            raise api_refusal(403, "SUB-505", "Subscriptions limit exceeded")
        subscription = subscribe(self._platform, credential, self._uuid(), body.get("eventFilters"))
        connection.subscription = subscription
        return {
            "uri": f"{SUBSCRIPTION}/{subscription.id}",
            "id": subscription.id,
            "creationTime": iso(now),
            "status": "Active",
            "eventFilters": [one.text for filters in subscription.filters.values() for one in filters],
            **({"disabledFilters": subscription.disabled} if subscription.disabled else {}),
            "expirationTime": iso(now + timedelta(days=1)),
            "expiresIn": 86_399,
            "deliveryMode": {"transportType": "WebSocket", "encryption": False},
        }

    # Notifying

    def wake(self) -> None:
        """Deliver what is due now: the clock was turned, a call placed, or a fault armed."""
        self._woken.set()

    async def close(self, app: web.Application) -> None:
        """End the connections of an application that shuts down."""
        for connection in self._open():
            if connection.request.app is app:
                await connection.ws.close(code=1001)
        if self._pump is not None:
            self._pump.cancel()

    async def _run(self) -> None:
        while self.connections:
            self._woken.clear()
            self._catch_up()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._woken.wait(), self._pause_s(self._now()))
        if self._platform.story is not None:
            self._platform.story.on_begin = None
        self._due.clear()

    def _catch_up(self) -> None:
        """Do what is due by now."""
        now = self._now()
        self._strike(now)
        self._end_what_is_over(now)
        if self._platform.story is not None:
            self._platform.story.advance(now)
        while self._due and self._due[0][0] <= now:
            self._notify(heappop(self._due)[2])

    def _pause_s(self, now: datetime) -> float:
        """Until the next notification or beginning, a second of the platform's time at the longest."""
        speed = getattr(self._platform.clock, "speed", 1.0) or 1.0
        story = self._platform.story
        begins_at = story.next_begins_at() if story is not None else None
        times = [begins_at, self._due[0][0] if self._due else None, self._platform.faults.next_begins_at(now)]
        waits = [(at - now).total_seconds() for at in times if at is not None]
        return min([*waits, WAKES_S]) / speed

    def _plan(self, session: Session, after: datetime | None = None) -> None:
        """Take the events of a session, or those that are sent after a moment."""
        for event in events.events_of(self._platform.scenario.account_id, session):
            if after is None or event.at > after:
                heappush(self._due, (event.at, next(self._numbers), event))
        self.wake()

    def _notify(self, event: Event) -> None:
        path, shown = self._platform.path_of(event.extension_id), None
        for connection in list(self.connections):
            if connection.subscription is None or not self._platform.tokens.alive(connection.sign_in, self._now()):
                continue  # the worst case: it stops silently when its sign-in ends
            for one in connection.subscription.taking(event.extension_id):
                if one.what == "telephony/sessions":
                    self._deliver(connection, f"{path}/{one.what}", event, event.uuid, event.body)
                elif shown := shown or self._presence(event):
                    hidden = () if one.detailed else ("activeCalls", "totalActiveCalls")
                    body = {key: value for key, value in shown.items() if key not in hidden}
                    query = "?detailedTelephonyState=true" if one.detailed else ""
                    self._deliver(connection, f"{path}/presence{query}", event, str(int(event.uuid) + 1), body)

    def _presence(self, event: Event) -> Record | None:
        """The presence of the event's extension just after it; None if the event does not change it."""
        story, extension_id, at = self._platform.story, event.extension_id, event.happened_at
        code = event.body["parties"][0]["status"]["code"]
        if story is None or extension_id not in story.extension_ids() or code == "Proceeding":
            return None
        self._presences += 1
        shown = events.presence(extension_id, story.sessions_of(extension_id, at), at, ended_since=at - MOMENT)
        return {"extensionId": extension_id, **shown, "sequence": self._presences}

    def _deliver(self, connection: Connection, path: str, event: Event, uuid: str, body: Record) -> None:
        connection.notified += 1
        wsc = self._renewed(connection) if connection.notified % WSC_RENEWED_EVERY == 0 else None
        notification = {
            "uuid": uuid,
            "event": path,
            "timestamp": iso(event.at),
            "subscriptionId": connection.subscription.id if connection.subscription else "",
            "ownerId": self._platform.own(connection.sign_in.credential),
            "body": body,
        }
        frame = [self._meta("ServerNotification", uuid, wsc=wsc), notification]
        if connection.lost_at is not None or any(self._faults("ws_silence", "/ws")):
            connection.missed.append(frame)
            while len(connection.missed) > self.rules.recovery_buffer:
                connection.missed.popleft()
        else:
            self._spoil(connection, path, frame)

    def _send(self, connection: Connection, frame: list[Record]) -> None:
        if not any(self._faults("ws_silence", "/ws")):
            connection.frames.put_nowait(msgspec.json.encode(frame).decode())

    def _error(self, connection: Connection, code: str, message: str, status: int) -> None:
        self._send(connection, [self._meta("Error", status=status), {"errorCode": code, "message": message}])

    def _meta(
        self, kind: str, message_id: str | None = None, *, status: int = 200, wsc: Record | None = None
    ) -> Record:
        request_id = self._uuid()
        return {
            "type": kind,
            "messageId": message_id or request_id,
            "status": status,
            **({"wsc": wsc} if wsc else {}),
            "headers": {"RCRequestId": request_id},
        }

    def _renewed(self, connection: Connection) -> Record:
        """A further recovery token; the earlier ones of the connection remain valid."""
        connection.wsc.append(self._opaque("wsc"))
        return {"token": connection.wsc[-1], "sequence": len(connection.wsc)}

    # Ends and faults

    def _end_what_is_over(self, now: datetime) -> None:
        rules = self.rules
        for connection in list(self.connections):
            if connection.lost_at is not None:
                lost = now - connection.lost_at
                if lost >= timedelta(seconds=rules.recovery_s):
                    connection.subscription = None
                if lost >= 2 * timedelta(seconds=rules.recovery_s):
                    self.connections.remove(connection)
            elif now - connection.opened_at >= timedelta(seconds=rules.absolute_s):
                self._expire(connection, "WSG-903")
            elif now - connection.heard_at >= timedelta(seconds=rules.idle_s):
                self._expire(connection, "WSG-902")

    def _expire(self, connection: Connection, code: str) -> None:
        self._error(connection, code, TIMEOUTS.get(code, "Connection closed"), 408)
        connection.lost_at = self._now()
        connection.frames.put_nowait(None)

    def _strike(self, now: datetime) -> None:
        """Apply the faults that happen once to each connection."""
        for connection in self._open():
            for fault in self._platform.faults.once(connection, connection.opened_at, now):
                match fault.kind:
                    case "ws_drop":
                        connection.lost_at = now
                        reset(connection.request.transport)
                    case "ws_expire":
                        self._expire(connection, fault.code or "WSG-903")
                    case "ws_garbage":
                        connection.frames.put_nowait('[{"type":"ServerNotification", and no JSON')
                    case "ws_huge":
                        connection.frames.put_nowait(
                            '[{"type":"ServerNotification"},"' + "x" * (fault.size_mb * 1_048_576) + '"]'
                        )

    def _spoil(self, connection: Connection, path: str, frame: list[Record]) -> None:
        """Send a notification as the faults allow."""
        if any(self._faults("ws_deaf", path)) or any(self._faults("ws_lose", path)):
            return
        copies = [frame] * (2 if any(self._faults("ws_duplicate", path)) else 1)
        delay_s = next((self._platform.faults.delay_s(fault) for fault in self._faults("ws_delay", path)), 0.0)
        if any(self._faults("ws_reorder", path)) and connection.held is None:
            connection.held = frame
            asyncio.get_running_loop().call_later(1.0, self._release, connection)
            return
        for one in copies:
            if delay_s:
                asyncio.get_running_loop().call_later(delay_s, self._send, connection, one)
            else:
                self._send(connection, one)
        self._release(connection)

    def _release(self, connection: Connection) -> None:
        if connection.held is not None:
            self._send(connection, connection.held)
            connection.held = None

    def _faults(self, kind: Kind, path: str) -> Iterator[Fault]:
        return self._platform.faults.striking(kind, path, self._now())

    # Small things

    def _open(self) -> list[Connection]:
        return [one for one in self.connections if one.lost_at is None]

    def _now(self) -> datetime:
        return self._platform.clock.now()

    def _opaque(self, kind: str) -> str:
        digest = hashlib.blake2b(f"{kind} {next(self._numbers)}".encode(), digest_size=48).digest()
        return base64.urlsafe_b64encode(digest).decode()

    def _uuid(self) -> str:
        return str(UUID(bytes=hashlib.blake2b(f"uuid {next(self._numbers)}".encode(), digest_size=16).digest()))
