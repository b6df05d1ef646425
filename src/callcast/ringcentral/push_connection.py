"""The WebSocket of push: how a connection is opened, subscribed, read and continued.

Sources: developers.ringcentral.com/guide/notifications/websockets (subscribing, session recovery, heart-beats). What
matters here:

* A connection needs a token of its own (wstoken), valid for one connection and for a short time. It is part of the URL,
  so no URL, no text of aiohttp's exceptions and no exception chain may reach a log.
* One subscription per connection, alive as long as the connection, and silent once the OAuth session ends whose token
  opened it.
* A lost connection can be continued within 180 s by its recovery token, if the OAuth session is the same.
"""

import asyncio
import math
import re
import uuid
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, Literal

import aiohttp
import msgspec
from aiohttp import ClientSession, ClientWebSocketResponse, ClientWSTimeout, WSMsgType
from msgspec import Struct
from yarl import URL

from callcast.observability.fatal import observed
from callcast.ports.clock import Clock
from callcast.ports.upstream import PollFailed
from callcast.ringcentral import frames
from callcast.ringcentral.errors import NOT_PERMITTED, poll_failure
from callcast.ringcentral.frames import Frame
from callcast.ringcentral.http import CONNECT_TIMEOUT_S, Answer, Exchange, what_happened
from callcast.ringcentral.rate_limiter import RateLimiter
from callcast.ringcentral.token import Tokens
from callcast.settings.loopback import is_loopback

TOKEN_PATH = "/restapi/oauth/wstoken"  # noqa: S105 - an address
SUBSCRIPTION_PATH = "/restapi/v1.0/subscription"
TOKEN_TIMEOUT_S = 10.0
ANSWER_TIMEOUT_S = 10.0
PING_S = 20.0  # a connection that stays silent for one and a half times this long is lost
HEARTBEAT_S = 60.0
FRAME_BYTES_MAX = 1024 * 1024
YIELD_EVERY = 20  # frames: a burst must not hold the event loop
CLOSE_TIMEOUT_S = 0.3
GARBAGE_MAX, GARBAGE_WITHIN_S = 3, 60.0
ASKS_MAX = 10  # subscription requests on one connection: each can lead to another one without the refused filters
ONE_BY_ONE_MAX = 5  # of them leave out only the filters that the platform names; later ones all filters of that kind

Kind = Literal["telephony", "presence"]
PERMISSION: Mapping[Kind, str] = {"telephony": "CallControl", "presence": "ReadPresence"}
PUSH_PERMISSION = "WebSocket Subscriptions"
TOO_MANY = "SUB-505"


class Lost(Exception):
    """There is no connection; the next attempt follows by itself. The text contains no URL and no token.

    reason: one word.
    """

    def __init__(self, reason: str, detail: str, *, retry_after_s: float = 0.0) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail
        self.retry_after_s = retry_after_s


class Refused(Exception):
    """The platform does not permit push, or a filter. cause, fix: why, and what to allow. Another kind may be tried."""

    def __init__(self, cause: str, fix: str) -> None:
        super().__init__(f"{cause}: {fix}")
        self.cause = cause
        self.fix = fix

    def __add__(self, other: "Refused") -> "Refused":
        return Refused(f"{self.cause}; {other.cause}", f"{self.fix}; or {other.fix}")


class _Granted(Struct, frozen=True):
    uri: str
    ws_access_token: str


class Connector:
    """Opens connections with the source's credential.

    medium: the rate limiter of subscriptions. account: in the paths of filters.
    """

    def __init__(
        self,
        exchange: Exchange,
        tokens: Tokens,
        medium: RateLimiter,
        session: ClientSession,
        clock: Clock,
        *,
        account: str,
        allow_plaintext: bool,
    ) -> None:
        self._exchange = exchange
        self._tokens = tokens
        self._medium = medium
        self._session = session
        self._clock = clock
        self._account = account
        self._allow_plaintext = allow_plaintext

    @property
    def oauth_session(self) -> int | None:
        """The number of the OAuth session in use; none without a valid token."""
        return self._tokens.oauth_session

    def wait_s(self) -> float:
        """Return the seconds until a connection can be opened, because tokens for it are limited."""
        return self._tokens.push_wait_s()

    async def connect(self, notified: Callable[[frames.Event], None], continued: "Socket | None" = None) -> "Socket":
        """Open a connection, as the continuation of a lost one if given. Raises PollFailed, Lost or Refused."""
        granted = await self._token()
        oauth_session = self._tokens.oauth_session
        if continued is not None and not continued.can_continue(oauth_session):
            continued = None
        ws = await self._open(self._url(granted, continued.recovery if continued else None))
        socket = Socket(ws, self._clock, oauth_session, notified, continued)
        try:
            await socket.begin()
        except BaseException:
            await socket.close()
            raise
        return socket

    async def _token(self) -> _Granted:
        """Return a new wstoken. Each is valid for one connection."""
        token = await self._tokens.current()
        answer, wait_s = await self._ask(token.reveal())
        if answer.status == 401 and await self._tokens.renewed(token):
            token = await self._tokens.current()
            answer, wait_s = await self._ask(token.reveal())
        self._tokens.answered(token, refused=answer.status == 401)
        if answer.status in (403, 404):
            raise _refusal(answer, PUSH_PERMISSION)
        if answer.status != 200:
            raise poll_failure(answer, extension=False, retry_after_s=wait_s)
        try:
            return msgspec.json.decode(answer.body, type=_Granted)
        except (msgspec.MsgspecError, UnicodeDecodeError):
            pass
        raise PollFailed("parse", "the answer with the push token cannot be read", request_id=answer.request_id)

    async def _ask(self, token: str) -> tuple[Answer, float | None]:
        async with self._tokens.push_slot() as slot:
            answer = await self._exchange.ask(
                "push_token",
                self._exchange.url(TOKEN_PATH),
                authorization=f"Bearer {token}",
                form={},
                timeout_s=TOKEN_TIMEOUT_S,
            )
            return answer, slot.answered(answer.status, answer.headers)

    def _url(self, granted: _Granted, recovery: tuple[int, str] | None) -> URL:
        try:
            url = URL(granted.uri)
            usable = url.host is not None and (
                url.scheme == "wss" or (url.scheme == "ws" and (self._allow_plaintext or is_loopback(url.host)))
            )
        except ValueError:
            usable = False
        if not usable:
            raise Lost("server", "the platform named an address for push that is not wss://: check server")
        query = {"access_token": granted.ws_access_token}
        if recovery:
            query["wsc"] = recovery[1]
        return url.update_query(query)

    async def _open(self, url: URL) -> ClientWebSocketResponse[Literal[False]]:
        try:
            proxy = self._exchange.proxy_for(url)
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                return await self._session.ws_connect(
                    url,
                    heartbeat=PING_S,
                    timeout=ClientWSTimeout(ws_close=CLOSE_TIMEOUT_S),
                    max_msg_size=FRAME_BYTES_MAX,
                    decode_text=False,
                    headers=self._exchange.user_agent,
                    proxy=proxy.url,
                    proxy_headers=proxy.headers,
                )
        except aiohttp.WSServerHandshakeError as error:
            detail = f"the push server answered {error.status}"
            lost = Lost("handshake", f"{detail}: check that firewalls and proxies let WebSocket connections through")
        except TimeoutError:
            lost = Lost("timeout", f"no connection to the push server within {CONNECT_TIMEOUT_S:.3g} s")
        except _Redirected as error:
            lost = Lost("handshake", str(error))
        except (aiohttp.ClientError, OSError, ValueError) as error:
            lost = Lost("network", what_happened(error))
        raise lost  # outside of the handler: the exception that it replaces can contain the URL

    # Subscribing

    async def subscribe(
        self, socket: "Socket", keys: Sequence[str]
    ) -> tuple[Mapping[str, Kind], Mapping[str, Refused]]:
        """Subscribe to these extensions, or to the account (an empty key), with one filter each.

        Where the platform refuses a kind of filter, the next kind is asked for. Returns the kind of each key that is
        subscribed, and why the others are not. Raises PollFailed, Lost or Refused if none is subscribed.
        """
        kinds: dict[str, Kind] = dict.fromkeys(keys, "telephony")
        refused: dict[str, Refused] = {}
        for number in range(ASKS_MAX):
            answer = await self._subscribe(socket, [self._filter(key, kind) for key, kind in kinds.items()])
            missing = self._missing(answer, kinds)
            again = answer.status != 200
            if again and number >= ONE_BY_ONE_MAX:  # one by one would take too many requests
                worst = {kinds[key]: why for key, why in missing.items()}
                missing = {key: worst[kind] for key, kind in kinds.items() if kind in worst}
            for key, why in missing.items():
                refused[key] = refused[key] + why if key in refused else why
                if kinds.pop(key) == "telephony" and key:  # presence of the whole account does not name its calls
                    kinds[key] = "presence"
                    again = True
            if not kinds:
                raise next(iter(refused.values()))
            if not again:
                return kinds, {key: why for key, why in refused.items() if key not in kinds}
        raise Lost("server", "the platform accepts no subscription: callcast retries automatically")

    def _filter(self, key: str, kind: Kind) -> str:
        root = f"/restapi/v1.0/account/{self._account}" + (f"/extension/{key}" if key else "")
        return f"{root}/telephony/sessions" if kind == "telephony" else f"{root}/presence?detailedTelephonyState=true"

    async def _subscribe(self, socket: "Socket", filters: Sequence[str]) -> Frame:
        body = {"eventFilters": filters, "deliveryMode": {"transportType": "WebSocket"}}
        async with self._medium.acquire("page", SUBSCRIPTION_PATH) as slot:
            frame = await socket.ask("POST", SUBSCRIPTION_PATH, body)
            retry_after_s = slot.answered(frame.status, frame.headers)
        if frame.status not in (200, 400, 403):
            raise poll_failure(_as_answer(frame), extension=False, retry_after_s=retry_after_s)
        return frame

    def _missing(self, answer: Frame, asked: Mapping[str, Kind]) -> Mapping[str, Refused]:
        """Return the keys that the platform left out or refused, and why. Raises Lost."""
        if answer.status == 200:
            found = frames.subscription(answer.body)
            if found is None:
                raise Lost("parse", "the answer to the subscription cannot be read")
            good = {_key_and_kind(one) for one in found.eventFilters}
            good -= {_key_and_kind(one.filter) for one in found.disabledFilters}
            left_out = {key: kind for key, kind in asked.items() if (key, kind) not in good}
            return {
                key: Refused(f"no {kind} events", NOT_PERMITTED.format(permission=PERMISSION[kind]))
                for key, kind in left_out.items()
            }
        text = answer.body.decode(errors="replace").replace("\\/", "/")
        if TOO_MANY in text:
            raise Lost("server", "this user and app have too many subscriptions: end other programs that use them")
        named = [key for key in asked if key and re.search(rf"/extension/{key}\b", text)]
        return {key: _refusal(_as_answer(answer), PERMISSION[asked[key]]) for key in named or asked}


def _key_and_kind(event_filter: str) -> tuple[str, Kind]:
    path = event_filter.partition("?")[0]
    return frames.extension_of(path) or "", "telephony" if path.endswith("/telephony/sessions") else "presence"


def _refusal(answer: Answer, permission: str) -> Refused:
    """Return why the platform refuses it. A 400 to a subscription means a missing permission, too."""
    failure = poll_failure(answer, extension=False, permission=permission)
    return Refused(failure.cause, failure.fix if answer.status == 403 else NOT_PERMITTED.format(permission=permission))


def _as_answer(frame: Frame) -> Answer:
    return Answer(frame.status, frame.headers, frame.body, 0.0)


class _Redirected(aiohttp.ClientError):
    """The push server answered with a redirect, which is not followed."""


def push_session(session: ClientSession) -> ClientSession:
    """Return a session for WebSockets, on the connector of `session`. `ws_connect` would follow redirects otherwise."""
    return ClientSession(
        connector=session.connector,
        connector_owner=False,
        cookie_jar=aiohttp.DummyCookieJar(),
        middlewares=(_no_redirect,),
    )


async def _no_redirect(request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType) -> aiohttp.ClientResponse:
    response = await handler(request)
    if 300 <= response.status < 400:
        response.close()
        raise _Redirected(f"the push server answered {response.status}: redirects are not followed; check server")
    return response


class Socket:
    """One WebSocket, read by one task until it is lost.

    notified: called with each event of this connection's subscription.
    continued: the lost one that it is asked to continue.
    """

    def __init__(
        self,
        ws: ClientWebSocketResponse[Literal[False]],
        clock: Clock,
        oauth_session: int | None,
        notified: Callable[[frames.Event], None],
        continued: "Socket | None" = None,
    ) -> None:
        self.oauth_session = oauth_session
        self.opened_at = clock.monotonic()
        self.lost_at = math.inf
        self.recovery: tuple[int, str] | None = None
        self.recovered = False  # continues a lost connection: its subscription, without a gap
        self.kinds: Mapping[str, Kind] = {}  # what is subscribed, by key
        self.subscriptions: set[str] = set()
        self._recovery_s = 0.0
        self._continued = continued
        self._ws = ws
        self._clock = clock
        self._notified = notified
        self._active_at = clock.monotonic()
        self._code = ""  # of the last Error frame
        self._garbage: list[float] = []
        self._awaited: dict[str, asyncio.Future[Frame]] = {"ConnectionDetails": asyncio.Future()}
        self.reader = observed(asyncio.create_task(self._read()))  # ends with the reason of the loss

    def can_continue(self, oauth_session: int | None) -> bool:
        """Whether a new connection could continue this lost one without losing an event."""
        within = self._clock.monotonic() - self.lost_at < self._recovery_s
        return bool(self.subscriptions and self.recovery and within and oauth_session == self.oauth_session)

    async def begin(self) -> None:
        """Wait for the first frame: nothing may be sent before it. Raises Lost."""
        await self._frame("ConnectionDetails")

    async def ask(self, method: str, path: str, body: Any) -> Frame:
        """Send a request and return its answer. Raises Lost."""
        key = str(uuid.uuid4())
        self._awaited[key] = asyncio.Future()
        await self._send([{"type": "ClientRequest", "messageId": key, "method": method, "path": path}, body])
        return await self._frame(key)

    async def heartbeat(self) -> None:
        """Send a frame after a minute of quiet: the platform closes idle connections. Raises Lost."""
        if self._clock.monotonic() - self._active_at >= HEARTBEAT_S:
            await self._send([{"type": "Heartbeat", "messageId": str(uuid.uuid4())}])

    async def close(self) -> None:
        """Close the connection; the subscription ends with it."""
        with suppress(aiohttp.ClientError, OSError, TimeoutError):
            async with asyncio.timeout(CLOSE_TIMEOUT_S):
                await self._ws.close()
        await asyncio.wait((self.reader,), timeout=CLOSE_TIMEOUT_S)
        self.reader.cancel()

    def lost(self) -> Lost:
        """Why the connection is lost, after `reader` has ended."""
        return self.reader.result()

    async def _send(self, frame: Any) -> None:
        self._active_at = self._clock.monotonic()
        try:
            async with asyncio.timeout(ANSWER_TIMEOUT_S):
                await self._ws.send_str(msgspec.json.encode(frame).decode())
            return
        except TimeoutError:
            lost = Lost("timeout", "the push server accepts no data")
        except (aiohttp.ClientError, OSError):
            lost = Lost("network", "the push connection was closed")
        raise lost

    async def _frame(self, key: str) -> Frame:
        awaited = self._awaited[key]
        try:
            await asyncio.wait((awaited, self.reader), timeout=ANSWER_TIMEOUT_S, return_when=asyncio.FIRST_COMPLETED)
        finally:
            del self._awaited[key]
        if awaited.done():
            return awaited.result()
        if self.reader.done():
            raise self.lost()
        raise Lost("timeout", f"the push server did not answer within {ANSWER_TIMEOUT_S:.3g} s")

    # Reading

    async def _read(self) -> Lost:
        """Read until the connection is lost. Nothing here waits for anything but the next frame."""
        count = 0
        try:
            while True:
                message = await self._ws.receive()
                if message.type not in (WSMsgType.TEXT, WSMsgType.BINARY):
                    return self._lost(message.type)
                if not self._take(message.data):
                    return Lost(
                        "garbage", "the push server sends data that is not a frame: check whether a proxy is in between"
                    )
                count += 1
                if count % YIELD_EVERY == 0:
                    await asyncio.sleep(0)
        except (aiohttp.ClientError, OSError):
            return Lost("network", "the push connection broke")
        finally:
            self.lost_at = self._clock.monotonic()

    def _lost(self, kind: WSMsgType) -> Lost:
        code = self._ws.close_code
        if kind is WSMsgType.ERROR or code == aiohttp.WSCloseCode.ABNORMAL_CLOSURE:
            too_big = code == aiohttp.WSCloseCode.MESSAGE_TOO_BIG
            return Lost("garbage", "a frame is too large") if too_big else Lost("network", "the push connection broke")
        why = f", code {self._code}" if self._code else ""
        return Lost("closed", f"the push server closed the connection ({code}{why})")

    def _take(self, data: bytes) -> bool:
        """Handle a frame. Returns false once there were too many that are not frames."""
        now = self._active_at = self._clock.monotonic()
        frame = frames.read_frame(data)
        if frame is None:
            self._garbage = [at for at in self._garbage if now - at < GARBAGE_WITHIN_S] + [now]
            return len(self._garbage) < GARBAGE_MAX
        if frame.recovery and (frame.type == "ConnectionDetails" or frame.recovery > (self.recovery or (-1, ""))):
            self.recovery = frame.recovery
        if frame.type == "ServerNotification":
            if (event := frames.event(frame.body)) and event.subscriptionId in self.subscriptions:
                self._notified(event)
        elif frame.type == "ConnectionDetails":
            self._details(frames.connection(frame.body))
        elif frame.type == "ClientRequest":
            if subscription := frames.subscription(frame.body):
                self.subscriptions.add(subscription.id)  # before the next frame, which can be its first event
        elif frame.type == "Error":
            self._code = frames.error_code(frame.body)
        key = frame.message_id if frame.type == "ClientRequest" else frame.type
        if (awaited := self._awaited.get(key)) and not awaited.done():
            awaited.set_result(frame)
        return True

    def _details(self, details: frames.Connection) -> None:
        self._recovery_s = details.recovery_s
        if self._continued is not None and details.recovered:
            self.recovered = True
            self.kinds = self._continued.kinds
            self.subscriptions |= self._continued.subscriptions
        self._continued = None
