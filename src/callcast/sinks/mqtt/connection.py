"""One connection to a broker, with a paho client of its own that is discarded when the connection ends.

Therefore paho never queues, resends or reconnects, and a late acknowledgement cannot be mistaken for that of a later
message. paho encodes and decodes packets; the bytes go through an asyncio transport, so that connecting, TLS and
everything else run on the event loop.
"""

import asyncio
import math
import re
import ssl
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, cast

import aiohttp
from msgspec import Struct
from paho.mqtt import client as paho
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode
from paho.mqtt.subscribeoptions import SubscribeOptions

from callcast.observability.fatal import observed
from callcast.sinks.connectivity import CONNECTION_FAILURES, Resolver, connect, fix_of, unreachable
from callcast.sinks.mqtt import Settings, port_of
from callcast.sinks.mqtt.wire import Message
from callcast.sinks.tls import tls_fault

RETAIN_NOT_SUPPORTED = 0x9A
PACKET_TOO_LARGE = 0x95
SESSION_TAKEN_OVER = 0x8E
_FIRST_FAILURE = 0x80
_KEEPALIVE_S = 30
_CHECK_EVERY_S = 1.0  # how often paho checks its keepalive pings
_GOODBYE_S = 2.0


class Failure(Struct, frozen=True):
    """Why a connection or a message failed: `reason` is a label for metrics, `detail` a description."""

    reason: str
    detail: str = ""
    code: int = 0


LOST = Failure("disconnected", "the connection was lost")
_OVERDUE = Failure("timeout", "the broker did not acknowledge in time")
_NO_QOS_1 = Failure("qos_not_supported", "the broker does not support QoS 1", 0x9B)
_TOO_LARGE = Failure("packet_too_large", "larger than the maximum packet size of the broker", PACKET_TOO_LARGE)
_FIXES = {
    "bad_user_name_or_password": "check username and password",
    "unsupported_protocol_version": 'set protocol = "3.1.1"',
    "disconnected": 'check scheme and port in url: a TLS listener needs mqtts, an old broker needs protocol = "3.1.1"',
    "qos_not_supported": "callcast needs QoS 1: allow it in the broker (mosquitto: max_qos), or use another broker",
    "retain_not_supported": "set retain = false, or allow retained messages (mosquitto: retain_available true)",
    "websocket_refused": "check the path in url, and that this listener of the broker is one for MQTT over WebSocket",
    "topic_name_invalid": "set topic to one that the broker accepts",
    "packet_too_large": "raise the message size limit of the broker",
}


def fix_of_failure(failure: Failure, client_id: str) -> str:
    """How to fix a failed connection or a rejected message."""
    if failure.reason in ("not_authorized", "topic_name_invalid") and "(to " in failure.detail:
        return "allow callcast to publish to all topics below topic in the broker's access rules, or change topic"
    if failure.reason in ("not_authorized", "client_identifier_not_valid"):
        return f"check username and password, and that the broker allows the client id {client_id}"
    if failure.reason in _FIXES:
        return _FIXES[failure.reason]
    if failure.code or failure.reason not in CONNECTION_FAILURES:
        return "the broker rejected the request: check its log"
    return fix_of(failure.reason, failure.detail)


class _Ack(Struct):
    message: Message
    result: asyncio.Future[Failure | None]
    overdue: asyncio.TimerHandle


class Connection(asyncio.Protocol):
    """One connection to a broker. Every method runs on the event loop.

    accepted: set when the broker has accepted it, or when it is over. over: set when it has ended or is given up;
    `failure` says why. takes_retained: false if the broker says that it does not support retained messages (with MQTT
    3.1.1 a broker cannot say so).
    """

    def __init__(
        self, settings: Settings, tls: ssl.SSLContext, client_id: str, will: Message | None, *, in_flight_max: int
    ) -> None:
        self.accepted = asyncio.Event()
        self.over = asyncio.Event()
        self.failure = LOST
        self.takes_retained = True
        self.on_message_received: Callable[[str, bytes, bool], None] = ignore
        self._settings = settings
        self._tls = tls
        self._in_flight_max = in_flight_max
        self._loop = asyncio.get_running_loop()
        self._client = _Paho(settings, client_id, will, self)
        self._transport: asyncio.Transport | _WebSocket | None = None
        self._closed = asyncio.Event()
        self._misc: asyncio.TimerHandle | None = None
        self._acks: dict[int, _Ack] = {}
        self._subscribed: dict[int, asyncio.Future[Sequence[ReasonCode]]] = {}
        self._packet_bytes_max = math.inf
        self._slots = asyncio.Semaphore(in_flight_max)

    async def open(self) -> None:
        """Return when the broker has accepted the connection, or when it is `over`. The caller sets the time limit."""
        url = self._settings.address()
        host, port = url.hostname or "", port_of(url)
        tls = self._tls if url.scheme in ("mqtts", "wss") else None
        try:
            if url.scheme in ("ws", "wss"):
                await _WebSocket.open(url.geturl(), tls, self)
            else:
                sock, name = await connect(host, port), host if tls else None
                await self._loop.create_connection(lambda: self, sock=sock, ssl=tls, server_hostname=name)
        except aiohttp.WSServerHandshakeError as error:
            return self.give_up(Failure("websocket_refused", f"the response to the request was {error.status}"))
        except OSError as error:
            failed = unreachable(error)
            return self.give_up(Failure(failed.reason, failed.detail))
        except aiohttp.ClientError:
            return self.give_up(LOST)
        self._step(lambda: self._client.connect(host, port, _KEEPALIVE_S))
        self._keep_alive()
        await self.accepted.wait()
        return None

    async def close(self) -> None:
        """Give up, and disconnect properly if the broker still responds."""
        self.give_up(self.failure)
        if self._transport is None:
            return
        try:
            self._step(self._client.disconnect)
            self._step(self._client.loop_write)
            self._transport.close()
            with suppress(TimeoutError):
                async with asyncio.timeout(_GOODBYE_S):
                    await self._closed.wait()
        finally:
            if self._transport is not None:
                self._transport.abort()

    def give_up(self, failure: Failure) -> None:
        """Wake all waiting callers with this failure, unless the connection is over already."""
        if self.over.is_set():
            return
        self.failure = failure
        self.over.set()
        self.accepted.set()
        if self._misc is not None:
            self._misc.cancel()
        for ack in self._acks.values():
            ack.overdue.cancel()
            self._slots.release()
            if not ack.result.done():
                ack.result.set_result(failure if failure.code != PACKET_TOO_LARGE else LOST)
        for granted in self._subscribed.values():
            if not granted.done():
                granted.set_result(())
        self._acks.clear()
        self._subscribed.clear()

    async def publish(self, message: Message) -> Failure | None:
        """Return None when the broker has acknowledged the message, or why it failed.

        A missing acknowledgement ends the connection, because MQTT resends only on a new one.
        """
        if message.packet_bytes() > self._packet_bytes_max:
            return _TOO_LARGE
        await self._slots.acquire()
        mid = None
        try:
            if not self.over.is_set():
                info = self._client.publish(message.topic, message.payload, 1, message.retain, message.properties)
                mid = info.mid if info.rc == MQTTErrorCode.MQTT_ERR_SUCCESS else None
        finally:
            if mid is None:
                self._slots.release()
        if mid is None:
            return self.failure
        overdue = self._loop.call_later(self._settings.timeout_s, self.give_up, _OVERDUE)
        ack = self._acks[mid] = _Ack(message, self._loop.create_future(), overdue)
        return await ack.result

    def subscribe(self, filters: Sequence[str]) -> asyncio.Future[Sequence[ReasonCode]]:
        """The broker's reason code for each filter; empty if the connection is lost meanwhile."""
        topics: Any = [(each, 0) for each in filters]
        if self._client.protocol == MQTTProtocolVersion.MQTTv5:
            topics = [(each, SubscribeOptions(qos=0)) for each in filters]
        granted: asyncio.Future[Sequence[ReasonCode]] = self._loop.create_future()
        result, mid = self._client.subscribe(topics)
        if result != MQTTErrorCode.MQTT_ERR_SUCCESS or mid is None:
            granted.set_result(())
        else:
            self._subscribed[mid] = granted
        return granted

    def unsubscribe(self, filters: Sequence[str]) -> None:
        self._client.unsubscribe(list(filters))

    # Callbacks of the transport

    def connection_made(self, transport: "asyncio.BaseTransport | _WebSocket") -> None:
        self._transport = cast("asyncio.Transport | _WebSocket", transport)

    def data_received(self, data: bytes) -> None:
        received = self._client.pipe.received
        received += data
        self._step(self._client.read)

    def connection_lost(self, error: Exception | None) -> None:
        self._transport = None
        self._closed.set()
        self.give_up(Failure("tls", tls_fault(error)) if isinstance(error, ssl.SSLError) else LOST)

    # paho

    def write_soon(self) -> None:
        """Once for everything that is published in this iteration of the event loop."""
        self._loop.call_soon(self._step, self._client.loop_write)

    def _step(self, work: Callable[[], object]) -> None:
        """Let paho work, write what it has to send, and handle what it has received."""
        failure = None
        try:
            work()
        except Exception as error:  # noqa: BLE001 (paho raises various errors for data that is not MQTT)
            failure = Failure("bad_answer", f"the response is not MQTT ({type(error).__name__})")
        if self._client.pipe.to_send and self._transport is not None:
            self._transport.write(bytes(self._client.pipe.to_send))
            self._client.pipe.to_send.clear()
        calls, self._client.calls = self._client.calls, []
        for call in calls:
            call()
        if failure is not None or self._client.socket() is None:
            self.give_up(failure or LOST)

    def _keep_alive(self) -> None:
        self._step(self._client.loop_misc)
        if not self.over.is_set():
            self._misc = self._loop.call_later(_CHECK_EVERY_S, self._keep_alive)

    def connected(self, reason: ReasonCode, properties: Properties) -> None:
        if reason.is_failure:
            return self.give_up(_refusal(reason.value, reason.getName()))
        if getattr(properties, "MaximumQoS", 2) == 0:
            return self.give_up(_NO_QOS_1)
        in_flight_max = min(self._in_flight_max, getattr(properties, "ReceiveMaximum", self._in_flight_max))
        self._slots = asyncio.Semaphore(in_flight_max)
        self._packet_bytes_max = getattr(properties, "MaximumPacketSize", math.inf)
        self.takes_retained = getattr(properties, "RetainAvailable", 1) != 0
        self.accepted.set()
        return None

    def acknowledged(self, mid: int, code: int) -> None:
        ack = self._acks.pop(mid, None)
        if ack is None:
            return
        ack.overdue.cancel()
        self._slots.release()
        if not ack.result.done():
            ack.result.set_result(_refusal(code, _puback_name(code)) if code >= _FIRST_FAILURE else None)

    def subscribed(self, mid: int, reasons: Sequence[ReasonCode]) -> None:
        granted = self._subscribed.pop(mid, None)
        if granted is not None and not granted.done():
            granted.set_result(reasons)

    def disconnected_by_broker(self, reason: ReasonCode) -> None:
        failure = _refusal(reason.value, reason.getName())
        if failure.code == PACKET_TOO_LARGE and self._acks:
            # The broker does not say which message was too large; it must be the largest.
            largest = max(self._acks.values(), key=lambda ack: ack.message.packet_bytes())
            if not largest.result.done():
                largest.result.set_result(failure)
        self.give_up(failure)


def ignore(_topic: str, _payload: bytes, _retained: bool) -> None:
    """Ignore a received message."""


class _WebSocket:
    """Carries the bytes in the messages of a WebSocket, in the place of a transport."""

    @classmethod
    async def open(cls, url: str, tls: ssl.SSLContext | None, connection: Connection) -> None:
        """Raises OSError or aiohttp.ClientError."""
        session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(resolver=Resolver()), middlewares=(_no_redirect,)
        )
        try:
            websocket = await session.ws_connect(url, protocols=("mqtt",), ssl=tls or True)
        except BaseException:
            await session.close()
            raise
        cls(session, websocket, connection)

    def __init__(
        self, session: aiohttp.ClientSession, websocket: aiohttp.ClientWebSocketResponse, connection: Connection
    ) -> None:
        self._session = session
        self._websocket = websocket
        self._receiving = observed(asyncio.ensure_future(self._receive(connection)))
        connection.connection_made(self)

    async def _receive(self, connection: Connection) -> None:
        try:
            async for message in self._websocket:
                if message.type is aiohttp.WSMsgType.BINARY:
                    connection.data_received(message.data)
        finally:
            connection.connection_lost(None)
            await self._session.close()

    def write(self, data: bytes) -> None:
        observed(asyncio.ensure_future(self._write(data)))  # in order: the data is written before the first await

    async def _write(self, data: bytes) -> None:
        with suppress(OSError):  # `_receive` ends then
            await self._websocket.send_bytes(data)

    def close(self) -> None:
        observed(asyncio.ensure_future(self._websocket.close()))

    def abort(self) -> None:
        self._receiving.cancel()


async def _no_redirect(request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType) -> aiohttp.ClientResponse:
    """`ws_connect` would follow a redirect, and the other address would get the password."""
    response = await handler(request)
    if 300 <= response.status < 400:
        response.close()
        raise aiohttp.WSServerHandshakeError(response.request_info, (), status=response.status)
    return response


class _Pipe:
    """Stands in for the socket that paho reads from and writes to."""

    def __init__(self) -> None:
        self.received = bytearray()
        self.to_send = bytearray()

    def recv(self, size: int) -> bytes:
        if not self.received:
            raise BlockingIOError
        data = bytes(self.received[:size])
        del self.received[:size]
        return data

    def send(self, data: bytes) -> int:
        self.to_send += data
        return len(data)

    def setblocking(self, _: bool) -> None: ...

    def close(self) -> None: ...


class _Paho(paho.Client):
    """paho's client on a pipe, with acknowledgements decoded here.

    paho builds tables of property names for each acknowledgement, which takes longer than publishing the message. And
    mosquitto acknowledges a message above its message_size_limit with a code that MQTT 5 defines for other packets
    only; paho treats that as a malformed packet and closes the connection, with all other messages on it.
    """

    def __init__(self, settings: Settings, client_id: str, will: Message | None, connection: Connection) -> None:
        version = MQTTProtocolVersion.MQTTv5 if settings.protocol == "5" else MQTTProtocolVersion.MQTTv311
        super().__init__(CallbackAPIVersion.VERSION2, client_id, protocol=version, reconnect_on_failure=False)
        self.pipe = _Pipe()
        self._connection = connection
        # `Connection` counts; with a limit paho searches all messages at each acknowledgement.
        self.max_inflight_messages_set(0)
        if settings.username:
            self.username_pw_set(settings.username, settings.password.reveal() if settings.password else None)
        if will is not None:
            self.will_set(will.topic, will.payload, 1, will.retain, will.properties)
        # Called after paho has worked, so that no error in them is taken for an error of paho's.
        self.calls: list[Callable[[], object]] = []
        self.on_socket_register_write = lambda *_: connection.write_soon()
        self.on_connect = lambda _c, _d, _flags, *result: self.calls.append(partial(connection.connected, *result))
        self.on_subscribe = lambda _c, _d, mid, reasons, _p: self.calls.append(
            partial(connection.subscribed, mid, reasons)
        )
        self.on_message = lambda _c, _d, message: self.calls.append(
            lambda: connection.on_message_received(message.topic, bytes(message.payload), message.retain)
        )
        self.on_disconnect = self._disconnected

    def read(self) -> None:
        while self.pipe.received and self.socket() is not None:
            self.loop_read()

    def _disconnected(self, _client: Any, _data: Any, flags: Any, reason: ReasonCode, _properties: Any) -> None:
        if flags.is_disconnect_packet_from_server:
            self.calls.append(partial(self._connection.disconnected_by_broker, reason))

    def _create_socket_connection(self) -> Any:
        return self.pipe

    def _handle_pubackcomp(self, cmd: Any) -> MQTTErrorCode:
        packet = self._in_packet["packet"]
        if cmd != "PUBACK" or len(packet) < 2:
            return MQTTErrorCode.MQTT_ERR_PROTOCOL  # only QoS 1 is ever sent
        message_id = int.from_bytes(packet[:2], "big")
        if self._out_messages.pop(message_id, None) is not None:
            self._inflight_messages -= 1
            reason = packet[2] if len(packet) > 2 else 0
            self.calls.append(partial(self._connection.acknowledged, message_id, reason))
        return MQTTErrorCode.MQTT_ERR_SUCCESS


def _puback_name(code: int) -> str:
    """The name of a reason code for acknowledgements, or else for other packets."""
    names = ReasonCode.names.get(code, {})
    for name, packets in names.items():
        if PacketTypes.PUBACK in packets:
            return str(name)
    return str(next(iter(names), f"Reason code {code}"))


def _refusal(code: int, name: str) -> Failure:
    return Failure(re.sub(r"[^a-z0-9]+", "_", name.lower()), f"the broker reports: {name}", code)
