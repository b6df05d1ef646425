"""One connection to a broker: one paho client, made afresh each time and thrown away with whatever it still held.

So paho neither queues, nor sends again, nor reconnects, and a late acknowledgement cannot meet a later message.
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
from callcast.sinks.mqtt.properties import Packed
from callcast.sinks.tls import tls_fault

RETAIN_NOT_SUPPORTED = 0x9A
QOS_NOT_SUPPORTED = 0x9B
PACKET_TOO_LARGE = 0x95
TAKEN_OVER = 0x8E
_FIRST_FAILURE = 0x80
_KEEPALIVE_S = 30


class Message(Struct, frozen=True):
    """What to publish, always with QoS 1. `properties` is for MQTT 5 only."""

    topic: str
    payload: bytes
    retain: bool = False
    properties: Packed | None = None


class Trouble(Struct, frozen=True):
    """Why there is no connection, or no good acknowledgement: a word for metrics, a few for people."""

    reason: str
    detail: str = ""
    code: int = 0


Answer = Trouble | None  # None is the good one
LOST = Trouble("disconnected", "the connection was lost")
_OVERDUE = Trouble("timeout", "the broker did not acknowledge in time")
_NO_QOS_1 = Trouble("qos_not_supported", "the broker takes no QoS 1", QOS_NOT_SUPPORTED)


class Access(Struct, frozen=True, kw_only=True):
    """How to get to the broker. `will` is what it says for us when we are lost; None: nothing."""

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
    answer: asyncio.Future[Answer]
    due_s: float


class Link:
    """One connection as the loop sees it. Every method runs on the loop."""

    def __init__(self, access: Access) -> None:
        self._client = _client(access)
        self._loop = asyncio.get_running_loop()
        self._acks: dict[int, _Ack] = {}  # in the order in which they are due
        self._overdue: asyncio.TimerHandle | None = None
        self._subscribed: dict[int, asyncio.Future[Sequence[ReasonCode]]] = {}
        self._in_flight_max = access.in_flight_max
        self._timeout_s = access.timeout_s
        self._packet_bytes_max = math.inf
        self._slots = asyncio.Semaphore(access.in_flight_max)
        self.heard: Callable[[str, bytes, bool], None] = ignore
        self.opened = asyncio.Event()
        self.over = asyncio.Event()  # then `trouble` says why
        self.gone = asyncio.Event()  # nothing is left open
        self.trouble = LOST
        self.takes_retained = True  # as far as the broker says, once `opened`; MQTT 3.1.1 has no word for it
        self.abandoned = False
        _listen(self._client, self)
        self._adapter = LoopAdapter(
            self._client, lambda: self._client.connect(access.host, access.port, _KEEPALIVE_S), self.ended
        )

    def give_up(self, trouble: Trouble) -> None:
        """Leave without waiting; if it is still connecting, as soon as it has."""
        self.trouble = trouble
        self.abandoned = True
        self._adapter.leave()
        self._close()

    def has_room(self) -> bool:
        """Whether `publish` takes no longer than `timeout_s`."""
        return not self._slots.locked()

    async def publish(self, message: Message) -> Answer:
        """Returns with the broker's acknowledgement, or when there can be none any more."""
        size = len(message.payload) + 3 * len(message.topic) + 512
        if size > self._packet_bytes_max and _packet_bytes(message) > self._packet_bytes_max:
            return Trouble("packet_too_large", "larger than the broker takes", PACKET_TOO_LARGE)
        await self._slots.acquire()
        mid = None
        try:
            mid = self._hand_over(message)
        finally:
            if mid is None:
                self._slots.release()
        if mid is None:
            return self.trouble
        ack = self._acks[mid] = _Ack(size, self._loop.create_future(), self._loop.time() + self._timeout_s)
        if self._overdue is None:
            self._overdue = self._loop.call_at(ack.due_s, self._check_overdue)
        return await ack.answer

    def _hand_over(self, message: Message) -> int | None:
        """To paho, which sends it in this turn of the loop. Returns the id by which it is acknowledged."""
        if self.over.is_set():
            return None
        info = self._client.publish(message.topic, message.payload, 1, message.retain, message.properties)
        return info.mid if info.rc == MQTTErrorCode.MQTT_ERR_SUCCESS else None

    def _check_overdue(self) -> None:
        """One that does not come costs the connection, whoever still waits: MQTT sends again on a new one only."""
        self._overdue = None
        oldest = next(iter(self._acks.values()), None)
        if oldest is None:
            return
        if oldest.due_s <= self._loop.time():
            self.give_up(_OVERDUE)
        else:
            self._overdue = self._loop.call_at(oldest.due_s, self._check_overdue)

    def subscribe(self, filters: Sequence[str]) -> asyncio.Future[Sequence[ReasonCode]]:
        """What the broker says to each filter; nothing when the connection is lost meanwhile."""
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

    # What paho tells:

    def connected(self, reason: ReasonCode, properties: Properties) -> None:
        if reason.is_failure:
            self.trouble = _refusal(reason.value, reason.getName())
            return
        self._slots = asyncio.Semaphore(
            min(self._in_flight_max, getattr(properties, "ReceiveMaximum", self._in_flight_max))
        )
        self._packet_bytes_max = getattr(properties, "MaximumPacketSize", math.inf)
        self.takes_retained = getattr(properties, "RetainAvailable", 1) != 0
        if getattr(properties, "MaximumQoS", 2) == 0:
            self.trouble = _NO_QOS_1
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
            self.trouble = _refusal(reason.value, reason.getName())
            if reason.value == PACKET_TOO_LARGE and self._acks:
                self._refuse_largest()

    def ended(self, error: Exception | None) -> None:
        if error is not None and not self.abandoned:
            self.trouble = _why(error)
        self.gone.set()
        self._close()

    def _close(self) -> None:
        """Nothing more will come: tell everybody who waits."""
        self.over.set()
        self.opened.set()
        for ack in self._acks.values():
            self._slots.release()
            if not ack.answer.done():
                ack.answer.set_result(self.trouble if self.trouble.code != PACKET_TOO_LARGE else LOST)
        if self._overdue is not None:
            self._overdue.cancel()
        for answer in self._subscribed.values():
            if not answer.done():
                answer.set_result(())
        self._acks.clear()
        self._subscribed.clear()

    def _refuse_largest(self) -> None:
        """The broker does not say which one it was; if one was too large, the largest was."""
        largest = max(self._acks.values(), key=lambda ack: ack.size)
        if not largest.answer.done():
            largest.answer.set_result(self.trouble)


def ignore(_topic: str, _payload: bytes, _retained: bool) -> None:
    """What is heard when nobody listens."""


def _listen(client: BrokerClient, link: Link) -> None:
    def on_connect(_client: paho.Client, _data: Any, _flags: Any, reason: ReasonCode, properties: Any) -> None:
        link.connected(reason, properties)

    def on_subscribe(_client: paho.Client, _data: Any, mid: int, reasons: Any, _properties: Any) -> None:
        link.subscribed(mid, reasons)

    def on_message(_client: paho.Client, _data: Any, message: paho.MQTTMessage) -> None:
        link.heard(message.topic, bytes(message.payload), message.retain)

    def on_disconnect(_client: paho.Client, _data: Any, flags: Any, reason: ReasonCode, _props: Any) -> None:
        link.left(reason, flags.is_disconnect_packet_from_server)

    client.on_socket_open = _send_at_once
    client.on_connect = on_connect
    client.on_acknowledged = link.acknowledged
    client.on_subscribe = on_subscribe
    client.on_message = on_message
    client.on_disconnect = on_disconnect


def _send_at_once(_client: paho.Client, _data: Any, sock: Any) -> None:
    """Small packets that wait for each other cost 40 ms each (Nagle's algorithm and delayed acknowledgements)."""
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def _client(access: Access) -> BrokerClient:
    version = MQTTProtocolVersion.MQTTv5 if access.version_5 else MQTTProtocolVersion.MQTTv311
    client = BrokerClient(CallbackAPIVersion.VERSION2, access.client_id, protocol=version, reconnect_on_failure=False)
    client.connect_timeout = access.timeout_s
    client.max_inflight_messages_set(0)  # counting is `Link`'s; with a limit paho looks through all at every answer
    client.max_queued_messages_set(access.in_flight_max)  # counts those in flight too: so none is ever queued
    if access.username:
        client.username_pw_set(access.username, access.password or None)
    if access.tls is not None:
        client.tls_set_context(access.tls)
    if (will := access.will) is not None:
        client.will_set(will.topic, will.payload, 1, will.retain, will.properties)
    return client


def _packet_bytes(message: Message) -> int:
    properties = message.properties.pack() if message.properties else b""
    return 5 + 2 + len(message.topic.encode()) + 2 + len(properties) + len(message.payload)


def _refusal(code: int, name: str) -> Trouble:
    return Trouble(re.sub(r"[^a-z0-9]+", "_", name.lower()), f"the broker said: {name}", code)


def _why(error: Exception) -> Trouble:
    match error:
        case socket.gaierror():
            return Trouble("dns", "the name cannot be resolved")
        case ssl.SSLError():
            return Trouble("tls", tls_fault(error))
        case TimeoutError():
            return Trouble("timeout", "no connection in time")
        case OSError():
            return Trouble("connect", os.strerror(error.errno).lower() if error.errno else "no connection")
    return Trouble("bad_answer", f"what came is not MQTT ({type(error).__name__})")
