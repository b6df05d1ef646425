"""The WebSocket gateway: single-use tokens, connections, subscriptions, recovery, notifications.

Facts: developers.ringcentral.com/guide/notifications/websockets, and the frames in tests/samples/ws. A notification is
sent when the scenario's time has come, by the platform's clock.
"""

import asyncio
import base64
import hashlib
import re
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from heapq import heappop, heappush
from itertools import count
from typing import TYPE_CHECKING, Any
from uuid import UUID

import msgspec
from aiohttp import WSMsgType, web
from msgspec import Struct

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
from callcast.simulator.tokens import Session as SignIn

if TYPE_CHECKING:
    from callcast.simulator.platform import Platform

SUBSCRIPTION = "/restapi/v1.0/subscription"
UNAUTHORIZED = 4400  # close code
WSC_RENEWED_EVERY = 20  # notifications
WAKES_S = 1.0
FILTER = re.compile(
    r"/restapi/v1\.0/account/(?P<account>~|\d+)(?:/extension/(?P<extension>~|\d+))?"
    r"/(?P<what>telephony/sessions|presence)(?:\?(?P<query>.*))?"
)
TIMEOUTS = {"WSG-902": "Idle timeout expired", "WSG-903": "Absolute timeout expired"}


class Push(Struct, frozen=True, kw_only=True):
    """What the gateway promises; numbers as documented. A ping is answered within half of `ping_s`."""

    token_life_s: float = 60
    idle_s: float = 1800
    absolute_s: float = 86_400
    recovery_s: float = 180
    recovery_buffer: int = 100
    ping_s: float = 20
    connections_max: int = 50
    subscriptions_max: int = 30


class Filter(Struct, frozen=True, kw_only=True):
    """An event filter with the ids that `~` stands for; `extension_id` None: the account's."""

    text: str
    what: str
    extension_id: str | None
    detailed: bool


class Subscription(Struct, frozen=True, kw_only=True):
    id: str
    filters: tuple[Filter, ...]


class Line:
    """One connection, and what is kept of it for recovery after it was lost."""

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
        """Write the frames in order; a client that does not read holds up its own only."""
        with suppress(ConnectionError):
            while (frame := await self.frames.get()) is not None:
                await self.ws.send_str(frame)
            await self.ws.close()


class Gateway:
    def __init__(self, platform: "Platform", rules: Push) -> None:
        self._platform = platform
        self.rules = rules
        self.lines: list[Line] = []  # open ones, and lost ones that can be recovered
        self._tokens: dict[str, tuple[SignIn, datetime]] = {}
        self._due: list[tuple[datetime, int, Event]] = []  # a heap
        self._numbers = count(1)
        self._presence_sequence: dict[str, int] = {}
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
        ws = web.WebSocketResponse(heartbeat=self.rules.ping_s, autoping=False)
        await ws.prepare(request)
        sign_in, until = self._tokens.pop(request.query.get("access_token", ""), (None, self._now()))
        now = self._now()
        mine = [line for line in self.lines if line.sign_in is sign_in and line.lost_at is None]
        if refused or sign_in is None or now >= until or len(mine) >= self.rules.connections_max:
            await ws.close(code=UNAUTHORIZED, message=b"Unauthorized")
            return ws
        line = Line(ws, request, sign_in, now)
        self._open(line)
        writer = asyncio.create_task(line.write())
        try:
            if self._greet(line, request.query.get("wsc")):
                await self._listen(line)
            else:
                line.frames.put_nowait(None)
                await writer
        finally:
            writer.cancel()
            self._lose(line)
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

    def _open(self, line: Line) -> None:
        story = self._platform.story
        if not self.lines and story is not None:
            now = self._now()
            for session in story.begun(now):
                self._plan(session, after=now)
            story.on_begin = self._plan
        self.lines.append(line)
        if self._pump is None or self._pump.done():
            self._woken = asyncio.Event()
            self._pump = asyncio.create_task(self._run())
        self.wake()

    def _lose(self, line: Line) -> None:
        """The connection is gone; a subscribed one is kept for recovery."""
        if line not in self.lines:
            return
        line.lost_at = self._now()
        if line.subscription is None and not line.wsc:
            self.lines.remove(line)

    def _greet(self, line: Line, wsc: str | None) -> bool:
        """Send ConnectionDetails. False: the recovery token is unknown, and the connection ends."""
        state: Record = {}
        if wsc is not None:
            lost = next((one for one in self.lines if wsc in one.wsc), None)
            if lost is None:
                self._error(line, "WSG-400", "Bad request: wsc is not valid", 400)
                return False
            state = self._recover(line, lost)
        rules = self.rules
        meta = self._meta("ConnectionDetails", wsc=self._renewed(line))
        created = line.opened_at.isoformat(timespec="milliseconds").replace("+00:00", "+0000")
        limits = {
            "maxConnectionsPerSession": rules.connections_max,
            "recoveryBufferSize": rules.recovery_buffer,
            "recoveryTimeout": round(rules.recovery_s),
            "idleTimeout": round(rules.idle_s),
            "absoluteTimeout": round(rules.absolute_s),
            "maxActiveRequests": 10,
        }
        self._send(line, [meta, {"creationTime": created, **state, **limits}])
        for frame in list(line.missed):
            self._send(line, frame)
        line.missed.clear()
        return True

    def _recover(self, line: Line, lost: Line) -> Record:
        """Take over what a lost connection had; only within its sign-in, in time, and if it was subscribed."""
        self._end_what_is_over(self._now())
        code = None
        if lost.sign_in is not line.sign_in or any(self._faults("ws_unrecoverable", "/ws")):
            code = "WSG-1003"
        elif lost.subscription is None:
            code = "WSG-1005"
        if lost in self.lines:
            self.lines.remove(lost)
        if code is not None:
            return {"recoveryState": "Failed", "recoveryErrorCode": code}
        line.subscription, lost.subscription = lost.subscription, None
        line.missed = lost.missed
        return {"recoveryState": "Successful"}

    # Listening

    async def _listen(self, line: Line) -> None:
        async for message in line.ws:
            if any(self._faults("ws_silence", "/ws")):
                continue
            if message.type is WSMsgType.PING:
                await line.ws.pong(message.data)
            elif message.type is WSMsgType.TEXT:
                line.heard_at = self._now()
                self._catch_up()
                self._answer(line, message.data)

    def _answer(self, line: Line, text: str) -> None:
        try:
            meta, *rest = msgspec.json.decode(text, type=list[dict[str, Any]])
        except (msgspec.MsgspecError, ValueError):
            self._error(line, "WSG-400", "Bad request", 400)
            return
        if meta.get("type") == "Heartbeat":
            self._send(line, [{"type": "Heartbeat", "messageId": meta.get("messageId", "")}])
        elif meta.get("type") == "ClientRequest":
            self._request(line, meta, rest[0] if rest else {})

    def _request(self, line: Line, meta: Record, body: Record) -> None:
        """Answer a REST request that came over the socket; only those about the subscription are known."""
        method, path = str(meta.get("method")), str(meta.get("path", "")).rstrip("/")
        now, platform, credential = self._now(), self._platform, line.sign_in.credential
        noted = platform.requests.begin(now, method, path, "", line.request.headers.get("User-Agent", ""))
        noted.client_id, noted.group = credential.client_id, "medium"
        answer: Record | None = None
        headers: dict[str, str] = {}
        try:
            if not platform.tokens.alive(line.sign_in, now):
                raise api_refusal(401, "OAU-213", "Token not found", legacy_code="TokenInvalid")
            platform.limits.count(credential.user, "medium", now)
            if method == "POST" and path == SUBSCRIPTION:
                noted.status, answer = 200, self._subscribe(line, body)
            elif method == "DELETE" and path.startswith(SUBSCRIPTION + "/"):
                line.subscription, noted.status = None, 204
            else:
                raise not_found("resource")
        except Refusal as refusal:
            noted.status, answer, headers = refusal.status, dict(refusal.body), refusal.headers
        if line.subscription is not None and noted.status == 200:
            headers["WSG-SubscriptionId"] = line.subscription.id
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
        self._send(line, [{**sent, "headers": headers}, *([] if answer is None else [answer])])

    def _subscribe(self, line: Line, body: Record) -> Record:
        """A new subscription in place of the connection's old one. Raises Refusal."""
        now = self._now()
        wanted = body.get("eventFilters")
        if body.get("deliveryMode", {}).get("transportType") != "WebSocket":
            raise invalid_parameter("transportType", str(body.get("deliveryMode", {}).get("transportType")))
        if not isinstance(wanted, list) or not wanted:
            raise invalid_parameter("eventFilters", str(wanted))
        user = line.sign_in.credential.user
        theirs = [one for one in self.lines if one.subscription and one.sign_in.credential.user == user]
        if len(theirs) - (line.subscription is not None) >= self.rules.subscriptions_max:
            raise api_refusal(403, "SUB-505", "Subscriptions limit exceeded")
        filters, disabled = self._filters(line, wanted)
        subscription = Subscription(id=self._uuid(), filters=tuple(filters))
        line.subscription = subscription
        return {
            "uri": f"{SUBSCRIPTION}/{subscription.id}",
            "id": subscription.id,
            "creationTime": iso(now),
            "status": "Active",
            "eventFilters": [one.text for one in filters],
            **({"disabledFilters": disabled} if disabled else {}),
            "expirationTime": iso(now + timedelta(days=1)),
            "expiresIn": 86_399,
            "deliveryMode": {"transportType": "WebSocket", "encryption": False},
        }

    def _filters(self, line: Line, wanted: Sequence[str]) -> tuple[list[Filter], list[Record]]:
        """The filters that are granted, and those that are disabled. Raises Refusal.

        Wrong ones and missing app permissions refuse the whole request. Without admin rights the account's and other
        extensions' are disabled; where nothing is left, that is a refusal too.
        """
        platform, credential = self._platform, line.sign_in.credential
        own, account_id = platform.own(credential), platform.scenario.account_id
        parsed = {text: FILTER.fullmatch(str(text)) for text in wanted}
        known = {*platform.scenario.extension_ids(), *platform.queue_ids(), "~"}
        good = {text: found for text, found in parsed.items() if found and (found["extension"] or "~") in known}
        if wrong := [str(text) for text in parsed if text not in good]:
            raise api_refusal(400, "SUB-508", f"Invalid event filters: [{', '.join(wrong)}]")
        granted, disabled = [], []
        for text, found in good.items():
            if found["account"] not in ("~", account_id):
                raise api_refusal(403, "SUB-406", "Not allowed subscribe for events to extensions of other account")
            extension_id = own if found["extension"] == "~" else found["extension"]
            what, query = found["what"], f"?{found['query']}" if found["query"] else ""
            needed = "CallControl" if what != "presence" else "ReadPresence" if extension_id else "ReadAccounts"
            if needed not in credential.permissions:
                raise app_permission_missing(needed)
            if what == "presence" and extension_id in platform.queue_ids():
                message = f"Presence feature is disabled for this extension type (extensionId / {text})"
                raise api_refusal(403, "SUB-402", message)
            if what == "presence" and extension_id and platform.hides_presence(extension_id, own):
                raise api_refusal(403, "SUB-403", "User disallowed to monitor his presence")
            if extension_id != own and not credential.admin:
                message = "Attempt to access another extension"
                disabled.append({"filter": text, "reason": "CMN-404", "message": message})
                continue
            place = f"/extension/{extension_id}" if extension_id else ""
            resolved = f"/restapi/v1.0/account/{account_id}{place}/{what}{query}"
            detailed = "detailedTelephonyState=true" in query
            granted.append(Filter(text=resolved, what=what, extension_id=extension_id, detailed=detailed))
        if not granted:
            raise api_refusal(403, "CMN-404", "Attempt to access another extension")
        return granted, disabled

    # Notifying

    def wake(self) -> None:
        """Something happened that the next wake would see too late: the clock was turned, a call placed, a fault."""
        self._woken.set()

    async def close(self, app: web.Application) -> None:
        """End the connections of an application that shuts down."""
        for line in [line for line in self.lines if line.request.app is app and line.lost_at is None]:
            await line.ws.close(code=1001)
        if self._pump is not None:
            self._pump.cancel()

    async def _run(self) -> None:
        while self.lines:
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
        shown = self._presence(event)
        for line in list(self.lines):
            if line.subscription is None or not self._platform.tokens.alive(line.sign_in, self._now()):
                continue  # a subscription whose sign-in has ended stops without a word
            for one in line.subscription.filters:
                if one.extension_id not in (None, event.extension_id):
                    continue
                path = self._path(event.extension_id)
                if one.what == "telephony/sessions":
                    self._deliver(line, f"{path}/{one.what}", event, event.uuid, event.body)
                elif shown is not None:
                    hidden = () if one.detailed else ("activeCalls", "totalActiveCalls")
                    body = {key: value for key, value in shown.items() if key not in hidden}
                    query = "?detailedTelephonyState=true" if one.detailed else ""
                    self._deliver(line, f"{path}/presence{query}", event, str(int(event.uuid) + 1), body)

    def _presence(self, event: Event) -> Record | None:
        """What presence says of the event's extension just after it; None where it says nothing new."""
        story, extension_id, at = self._platform.story, event.extension_id, event.happened_at
        if story is None or extension_id is None or extension_id not in story.extension_ids():
            return None
        if event.body["parties"][0]["status"]["code"] == "Proceeding":
            return None
        sequence = self._presence_sequence[extension_id] = self._presence_sequence.get(extension_id, 2000) + 1
        sessions = story.sessions_of(extension_id, at)
        shown = events.presence(extension_id, sessions, at, ended_since=at - timedelta(milliseconds=1))
        return {"extensionId": extension_id, **shown, "sequence": sequence}

    def _deliver(self, line: Line, path: str, event: Event, uuid: str, body: Record) -> None:
        line.notified += 1
        wsc = self._renewed(line) if line.notified % WSC_RENEWED_EVERY == 0 else None
        notification = {
            "uuid": uuid,
            "event": path,
            "timestamp": iso(event.at),
            "subscriptionId": line.subscription.id if line.subscription else "",
            "ownerId": self._platform.own(line.sign_in.credential),
            "body": body,
        }
        frame = [self._meta("ServerNotification", uuid, wsc=wsc), notification]
        if line.lost_at is not None or any(self._faults("ws_silence", "/ws")):
            line.missed.append(frame)
            while len(line.missed) > self.rules.recovery_buffer:
                line.missed.popleft()
        else:
            self._spoil(line, path, frame)

    def _send(self, line: Line, frame: list[Record]) -> None:
        if not any(self._faults("ws_silence", "/ws")):
            line.frames.put_nowait(msgspec.json.encode(frame).decode())

    def _error(self, line: Line, code: str, message: str, status: int) -> None:
        self._send(line, [self._meta("Error", status=status), {"errorCode": code, "message": message}])

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

    def _renewed(self, line: Line) -> Record:
        """Another recovery token; the earlier ones of the connection stay good."""
        line.wsc.append(self._opaque("wsc"))
        return {"token": line.wsc[-1], "sequence": len(line.wsc)}

    # Ends and faults

    def _end_what_is_over(self, now: datetime) -> None:
        rules = self.rules
        for line in list(self.lines):
            if line.lost_at is not None:
                lost = now - line.lost_at
                if lost >= timedelta(seconds=rules.recovery_s):
                    line.subscription = None
                if lost >= 2 * timedelta(seconds=rules.recovery_s):
                    self.lines.remove(line)
            elif now - line.opened_at >= timedelta(seconds=rules.absolute_s):
                self._expire(line, "WSG-903")
            elif now - line.heard_at >= timedelta(seconds=rules.idle_s):
                self._expire(line, "WSG-902")

    def _expire(self, line: Line, code: str) -> None:
        self._error(line, code, TIMEOUTS.get(code, "Connection closed"), 408)
        line.lost_at = self._now()
        line.frames.put_nowait(None)

    def _strike(self, now: datetime) -> None:
        """The faults that happen once to each connection."""
        for line in [line for line in self.lines if line.lost_at is None]:
            for fault in self._platform.faults.once(id(line), line.opened_at, now):
                match fault.kind:
                    case "ws_drop":
                        line.lost_at = now
                        reset(line.request.transport)
                    case "ws_expire":
                        self._expire(line, fault.code or "WSG-903")
                    case "ws_garbage":
                        line.frames.put_nowait('[{"type":"ServerNotification", and no JSON')
                    case "ws_huge":
                        line.frames.put_nowait(
                            '[{"type":"ServerNotification"},"' + "x" * (fault.size_mb * 1_048_576) + '"]'
                        )

    def _spoil(self, line: Line, path: str, frame: list[Record]) -> None:
        """Send a notification, or what the faults make of it."""
        if any(self._faults("ws_deaf", path)) or any(self._faults("ws_lose", path)):
            return
        copies = [frame] * (2 if any(self._faults("ws_duplicate", path)) else 1)
        delay_s = next((self._platform.faults.delay_s(fault) for fault in self._faults("ws_delay", path)), 0.0)
        if any(self._faults("ws_reorder", path)) and line.held is None:
            line.held = frame
            asyncio.get_running_loop().call_later(1.0, self._release, line)
            return
        for one in copies:
            if delay_s:
                asyncio.get_running_loop().call_later(delay_s, self._send, line, one)
            else:
                self._send(line, one)
        self._release(line)

    def _release(self, line: Line) -> None:
        if line.held is not None:
            self._send(line, line.held)
            line.held = None

    def _faults(self, kind: Kind, path: str) -> Iterator[Fault]:
        return self._platform.faults.striking(kind, path, self._now())

    # Small things

    def _now(self) -> datetime:
        return self._platform.clock.now()

    def _path(self, extension_id: str | None) -> str:
        place = f"/extension/{extension_id}" if extension_id else ""
        return f"/restapi/v1.0/account/{self._platform.scenario.account_id}{place}"

    def _opaque(self, kind: str) -> str:
        digest = hashlib.blake2b(f"{kind} {next(self._numbers)}".encode(), digest_size=48).digest()
        return base64.urlsafe_b64encode(digest).decode()

    def _uuid(self) -> str:
        return str(UUID(bytes=hashlib.blake2b(f"uuid {next(self._numbers)}".encode(), digest_size=16).digest()))
