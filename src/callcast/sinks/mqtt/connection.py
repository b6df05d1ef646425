"""One connection to a broker, with a paho client of its own that is discarded when the connection ends.

Therefore paho never queues, resends or reconnects, and a late acknowledgement cannot be mistaken for that of a later
message.
"""

import asyncio
import math
import os
import re
import socket
import ssl
from collections.abc import Callable, Sequence
from typing import Any

from msgspec import Struct
from paho.mqtt import client as paho
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode, MQTTProtocolVersion
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode
from paho.mqtt.subscribeoptions import SubscribeOptions

from callcast.sinks.mqtt.client import BrokerClient, puback_name
from callcast.sinks.mqtt.loop_adapter import LoopAdapter
from callcast.sinks.mqtt.properties import EncodedProperties
from callcast.sinks.tls import tls_fault

RETAIN_NOT_SUPPORTED = 0x9A
QOS_NOT_SUPPORTED = 0x9B
PACKET_TOO_LARGE = 0x95
SESSION_TAKEN_OVER = 0x8E
_FIRST_FAILURE = 0x80
_KEEPALIVE_S = 30


class Message(Struct, frozen=True):
    """What to publish, always with QoS 1. `properties` is for MQTT 5 only."""

    topic: str
    payload: bytes
    retain: bool = False
    properties: EncodedProperties | None = None


class Failure(Struct, frozen=True):
    """Why a connection or a message failed: `reason` is a label for metrics, `detail` a description."""

    reason: str
    detail: str = ""
    code: int = 0


PublishResult = Failure | None  # None: acknowledged
LOST = Failure("disconnected", "the connection was lost")
_OVERDUE = Failure("timeout", "the broker did not acknowledge in time")
_NO_QOS_1 = Failure("qos_not_supported", "the broker does not support QoS 1", QOS_NOT_SUPPORTED)


class ConnectOptions(Struct, frozen=True, kw_only=True):
    """How to connect to the broker. `will` is published when the connection is lost; None: no will."""

    host: str
    port: int
    version_5: bool
    client_id: str
    username: str
    password: str
    tls: ssl.SSLContext | None
    timeout_s: float
    in_flight_max: int
    will: Message | None


class _Ack(Struct):
    size: int
    answer: asyncio.Future[PublishResult]
    due_s: float


class Connection:
    """One connection to a broker. Every method runs on the event loop."""

    def __init__(self, options: ConnectOptions) -> None:
        self._client = _client(options)
        self._loop = asyncio.get_running_loop()
        self._acks: dict[int, _Ack] = {}  # in the order in which they are due
        self._overdue: asyncio.TimerHandle | None = None
        self._subscribed: dict[int, asyncio.Future[Sequence[ReasonCode]]] = {}
        self._in_flight_max = options.in_flight_max
        self._timeout_s = options.timeout_s
        self._packet_bytes_max = math.inf
        self._slots = asyncio.Semaphore(options.in_flight_max)
        self.on_message_received: Callable[[str, bytes, bool], None] = ignore
        self.opened = asyncio.Event()
        self.over = asyncio.Event()  # set when the connection has ended; `failure` says why
        self.gone = asyncio.Event()  # set when the socket is closed
        self.failure = LOST
        self.takes_retained = True  # known once `opened`; a broker with MQTT 3.1.1 cannot say
        self.abandoned = False
        _set_callbacks(self._client, self)
        self._adapter = LoopAdapter(
            self._client, lambda: self._client.connect(options.host, options.port, _KEEPALIVE_S), self.ended
        )

    def give_up(self, failure: Failure) -> None:
        """Disconnect without waiting; while still connecting, as soon as that has finished."""
        self.failure = failure
        self.abandoned = True
        self._adapter.leave()
        self._close()

    def has_room(self) -> bool:
        """Whether `publish` takes no longer than `timeout_s`."""
        return not self._slots.locked()

    async def publish(self, message: Message) -> PublishResult:
        """Returns when the broker has acknowledged the message, or when the connection has ended."""
        size = len(message.payload) + 3 * len(message.topic) + 512
        if size > self._packet_bytes_max and _packet_bytes(message) > self._packet_bytes_max:
            return Failure("packet_too_large", "larger than the maximum packet size of the broker", PACKET_TOO_LARGE)
        await self._slots.acquire()
        mid = None
        try:
            mid = self._pass_to_paho(message)
        finally:
            if mid is None:
                self._slots.release()
        if mid is None:
            return self.failure
        ack = self._acks[mid] = _Ack(size, self._loop.create_future(), self._loop.time() + self._timeout_s)
        if self._overdue is None:
            self._overdue = self._loop.call_at(ack.due_s, self._check_overdue)
        return await ack.answer

    def _pass_to_paho(self, message: Message) -> int | None:
        """Pass the message to paho, which sends it at once. Returns the message id, or None."""
        if self.over.is_set():
            return None
        info = self._client.publish(message.topic, message.payload, 1, message.retain, message.properties)
        return info.mid if info.rc == MQTTErrorCode.MQTT_ERR_SUCCESS else None

    def _check_overdue(self) -> None:
        """A missing acknowledgement ends the connection, because MQTT resends only on a new one."""
        self._overdue = None
        oldest = next(iter(self._acks.values()), None)
        if oldest is None:
            return
        if oldest.due_s <= self._loop.time():
            self.give_up(_OVERDUE)
        else:
            self._overdue = self._loop.call_at(oldest.due_s, self._check_overdue)

    def subscribe(self, filters: Sequence[str]) -> asyncio.Future[Sequence[ReasonCode]]:
        """The broker's reason code for each filter; empty if the connection is lost meanwhile."""
        topics: Any = [(each, 0) for each in filters]
        if self._client.protocol == MQTTProtocolVersion.MQTTv5:
            topics = [(each, SubscribeOptions(qos=0)) for each in filters]
        answer: asyncio.Future[Sequence[ReasonCode]] = self._loop.create_future()
        result, mid = self._client.subscribe(topics)
        if result != MQTTErrorCode.MQTT_ERR_SUCCESS or mid is None:
            answer.set_result(())
        else:
            self._subscribed[mid] = answer
        return answer

    def unsubscribe(self, filters: Sequence[str]) -> None:
        self._client.unsubscribe(list(filters))

    # Callbacks from paho:

    def connected(self, reason: ReasonCode, properties: Properties) -> None:
        if reason.is_failure:
            self.failure = _refusal(reason.value, reason.getName())
            return
        self._slots = asyncio.Semaphore(
            min(self._in_flight_max, getattr(properties, "ReceiveMaximum", self._in_flight_max))
        )
        self._packet_bytes_max = getattr(properties, "MaximumPacketSize", math.inf)
        self.takes_retained = getattr(properties, "RetainAvailable", 1) != 0
        if getattr(properties, "MaximumQoS", 2) == 0:
            self.failure = _NO_QOS_1
            self._loop.call_soon(self.give_up, _NO_QOS_1)
            return
        self.opened.set()

    def acknowledged(self, mid: int, code: int) -> None:
        ack = self._acks.pop(mid, None)
        if ack is None:
            return
        self._slots.release()
        if not ack.answer.done():
            ack.answer.set_result(_refusal(code, puback_name(code)) if code >= _FIRST_FAILURE else None)

    def subscribed(self, mid: int, reasons: Sequence[ReasonCode]) -> None:
        answer = self._subscribed.pop(mid, None)
        if answer is not None and not answer.done():
            answer.set_result(reasons)

    def left(self, reason: ReasonCode, by_broker: bool) -> None:
        if by_broker and not self.abandoned:
            self.failure = _refusal(reason.value, reason.getName())
            if reason.value == PACKET_TOO_LARGE and self._acks:
                self._refuse_largest()

    def ended(self, error: Exception | None) -> None:
        if error is not None and not self.abandoned:
            self.failure = _why(error)
        self.gone.set()
        self._close()

    def _close(self) -> None:
        """Wake all waiting callers, because the connection has ended."""
        self.over.set()
        self.opened.set()
        for ack in self._acks.values():
            self._slots.release()
            if not ack.answer.done():
                ack.answer.set_result(self.failure if self.failure.code != PACKET_TOO_LARGE else LOST)
        if self._overdue is not None:
            self._overdue.cancel()
        for answer in self._subscribed.values():
            if not answer.done():
                answer.set_result(())
        self._acks.clear()
        self._subscribed.clear()

    def _refuse_largest(self) -> None:
        """The broker does not say which message was too large; it must be the largest."""
        largest = max(self._acks.values(), key=lambda ack: ack.size)
        if not largest.answer.done():
            largest.answer.set_result(self.failure)


def ignore(_topic: str, _payload: bytes, _retained: bool) -> None:
    """Ignore a received message."""


def _set_callbacks(client: BrokerClient, connection: Connection) -> None:
    def on_connect(_client: paho.Client, _data: Any, _flags: Any, reason: ReasonCode, properties: Any) -> None:
        connection.connected(reason, properties)

    def on_subscribe(_client: paho.Client, _data: Any, mid: int, reasons: Any, _properties: Any) -> None:
        connection.subscribed(mid, reasons)

    def on_message(_client: paho.Client, _data: Any, message: paho.MQTTMessage) -> None:
        connection.on_message_received(message.topic, bytes(message.payload), message.retain)

    def on_disconnect(_client: paho.Client, _data: Any, flags: Any, reason: ReasonCode, _props: Any) -> None:
        connection.left(reason, flags.is_disconnect_packet_from_server)

    client.on_socket_open = _disable_nagle
    client.on_connect = on_connect
    client.on_acknowledged = connection.acknowledged
    client.on_subscribe = on_subscribe
    client.on_message = on_message
    client.on_disconnect = on_disconnect


def _disable_nagle(_client: paho.Client, _data: Any, sock: Any) -> None:
    """Disable Nagle's algorithm, which with delayed acknowledgements costs 40 ms for each small packet."""
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def _client(options: ConnectOptions) -> BrokerClient:
    version = MQTTProtocolVersion.MQTTv5 if options.version_5 else MQTTProtocolVersion.MQTTv311
    client = BrokerClient(CallbackAPIVersion.VERSION2, options.client_id, protocol=version, reconnect_on_failure=False)
    client.connect_timeout = options.timeout_s
    client.max_inflight_messages_set(
        0
    )  # `Connection` counts; with a limit paho searches all messages at each acknowledgement
    client.max_queued_messages_set(options.in_flight_max)  # includes those in flight, so none is ever queued
    if options.username:
        client.username_pw_set(options.username, options.password or None)
    if options.tls is not None:
        client.tls_set_context(options.tls)
    if (will := options.will) is not None:
        client.will_set(will.topic, will.payload, 1, will.retain, will.properties)
    return client


def _packet_bytes(message: Message) -> int:
    properties = message.properties.pack() if message.properties else b""
    return 5 + 2 + len(message.topic.encode()) + 2 + len(properties) + len(message.payload)


def _refusal(code: int, name: str) -> Failure:
    return Failure(re.sub(r"[^a-z0-9]+", "_", name.lower()), f"the broker reports: {name}", code)


def _why(error: Exception) -> Failure:
    match error:
        case socket.gaierror():
            return Failure("dns", "the name cannot be resolved")
        case ssl.SSLError():
            return Failure("tls", tls_fault(error))
        case TimeoutError():
            return Failure("timeout", "no connection in time")
        case OSError():
            return Failure("connect", os.strerror(error.errno).lower() if error.errno else "no connection")
    return Failure("bad_answer", f"the response is not MQTT ({type(error).__name__})")
