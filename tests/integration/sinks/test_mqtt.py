"""What is special to the MQTT sink, against a real broker: retained state, will, properties, refusals, reconnects."""

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from aiohttp import test_utils, web
from cloudevents.v1.http import from_http
from msgspec import structs
from paho.mqtt import client as paho
from paho.mqtt.enums import CallbackAPIVersion
from pydantic import ValidationError

from callcast.calls.model import Call, Party, State
from callcast.calls.summary import Summary
from callcast.formats.cloudevents import Wire
from callcast.ports.clock import Clock
from callcast.ports.live_calls import LiveChange
from callcast.ports.sink import Delivered, Delivery, Outcome, Reconnecting, Rejected, Retry, Sink, SinkContext
from callcast.settings.secret import Secret
from callcast.sinks.mqtt import Settings, port_of
from callcast.sinks.mqtt.connection import Connection
from callcast.testing import RealClock, call, context, delivery, event, until
from tests.integration.sinks.brokers import Broker, iotcore, mosquitto
from tests.integration.sinks.certificates import Certificates
from tests.integration.sinks.remote_sides import Watcher
from tests.ports import free_port

EXTENSION = "62264425016"
PROTOCOLS = ("5", "3.1.1")


class InMemoryLiveCalls:
    """Live calls that the test changes."""

    def __init__(self) -> None:
        self.version = 1
        self.live: dict[str, Call] = {}
        self.ids = [EXTENSION]
        self.certain = True
        self._turned: tuple[Call, ...] = ()
        self._wake = asyncio.Event()

    def calls(self) -> Sequence[Call]:
        return list(self.live.values())

    def extensions(self, _source: str, /) -> Sequence[str]:
        return self.ids

    def watches(self, source: str, extension_id: str, /) -> bool:
        return source == "acme" and (not self.certain or extension_id in self.ids)

    def summaries(self) -> Sequence[Summary]:
        ringing = sum(one.state is State.RINGING for one in self.live.values())
        return [
            Summary(
                source="acme",
                ringing=ringing,
                dialing=0,
                connected=0,
                answered_today=0,
                missed_today=0,
                as_of=None,
                complete=True,
            )
        ]

    def turn(self, one: Call) -> None:
        self.live.pop(one.call_id, None)
        if one.live:
            self.live[one.call_id] = one
        self._turned = (*self._turned, one)
        self.version += 1
        self._wake.set()

    async def changed(self, since: int, /) -> LiveChange:
        while self.version <= since:
            await self._wake.wait()
            self._wake.clear()
        turned, self._turned = self._turned, ()
        return LiveChange(version=self.version, calls=turned)


class Stage:
    """A sink on a broker, a watcher of everything below its prefix, and what was logged."""

    def __init__(self, broker: Broker, protocol: str) -> None:
        self.broker = broker
        self.live_calls = InMemoryLiveCalls()
        self.names: dict[str, str] = {}
        self.logged: list[tuple[str, dict[str, object]]] = []
        self.watcher = Watcher(broker.port, protocol)
        self._protocol = protocol

    def settings(self, **keys: Any) -> Settings:
        url = f"mqtt://127.0.0.1:{self.broker.port}"
        return Settings.model_validate({"type": "mqtt", "url": url, "protocol": self._protocol, "timeout_s": 5, **keys})

    def context(self) -> SinkContext:
        return structs.replace(context(self.logged), live_calls=self.live_calls, names=self.names)

    @asynccontextmanager
    async def sink(self, wire: Wire | None = None, clock: Clock | None = None, **keys: Any) -> AsyncIterator[Sink]:
        await until(self.watcher.ready)
        here = structs.replace(self.context(), wire=wire or Wire(), clock=clock or RealClock())
        async with self.settings(**keys).open(here) as sink:
            yield sink

    async def shows(self, topic: str, true: Callable[[Any], bool] = bool) -> Any:
        """The newest message of a topic, once it is as wanted; None when it was removed."""

        def newest() -> Any:
            texts = [m.payload for m in list(self.watcher.seen) if m.topic == topic]
            return json.loads(texts[-1]) if texts and texts[-1] else None

        await until(lambda: any(m.topic == topic for m in list(self.watcher.seen)) and true(newest()))
        return newest()

    async def logs(self, name: str) -> dict[str, object]:
        await until(lambda: any(event_name == name for event_name, _ in self.logged))
        return next(facts for event_name, facts in self.logged if event_name == name)

    def retained_now(self) -> dict[str, bytes]:
        """The retained messages that the broker has now, by topic."""
        seen: dict[str, bytes] = {}
        fence = threading.Event()
        client = paho.Client(CallbackAPIVersion.VERSION2)

        def receive(_client: Any, _data: Any, message: paho.MQTTMessage) -> None:
            if message.topic == "fence":
                fence.set()
            elif message.retain:
                seen[message.topic] = message.payload

        client.on_message = receive
        client.connect("127.0.0.1", self.broker.port)
        client.loop_start()
        client.subscribe([("callcast/#", 0), ("homeassistant/#", 0), ("fence", 0)])
        client.publish("fence", "x")
        assert fence.wait(30)
        client.disconnect()
        client.loop_stop()
        return seen


@pytest.fixture(params=PROTOCOLS)
def protocol(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Broker]:
    with mosquitto(tmp_path) as one:
        yield one


@pytest.fixture
def stage(broker: Broker, protocol: str) -> Iterator[Stage]:
    one = Stage(broker, protocol)
    yield one
    one.watcher.close()


@pytest.fixture
def stage5(broker: Broker) -> Iterator[Stage]:
    one = Stage(broker, "5")
    yield one
    one.watcher.close()


def in_ringing(number: int = 1) -> Call:
    return call(number)


# Events


async def test_an_event_is_on_its_topic(stage: Stage) -> None:
    """Topic, body and QoS; the CloudEvents SDK reads it."""
    async with stage.sink() as sink:
        assert await sink.send(delivery()) == Delivered()
        topic = f"callcast/acme/{EXTENSION}/events/call.ringing"
        await stage.shows(topic)
    (message,) = [m for m in stage.watcher.seen if m.topic == topic]
    assert (message.payload, message.qos, message.retain) == (Wire().event(event()), 1, False)
    parsed = from_http({"content-type": "application/cloudevents+json"}, message.payload)
    assert parsed["id"] == event().id


async def test_mqtt_5_describes_the_message(stage5: Stage) -> None:
    """Content type, payload format, expiry, correlation data and the CloudEvents attributes."""
    async with stage5.sink() as sink:
        assert await sink.send(delivery()) == Delivered()
        await stage5.shows(f"callcast/acme/{EXTENSION}/events/call.ringing")
        await stage5.shows(f"callcast/acme/{EXTENSION}/state")
    messages = {message.topic: message for message in stage5.watcher.seen}
    received = messages[f"callcast/acme/{EXTENSION}/events/call.ringing"].properties
    assert received is not None
    assert received.ContentType == "application/cloudevents+json; charset=utf-8"
    assert received.PayloadFormatIndicator == 1
    assert 55 <= received.MessageExpiryInterval <= 60
    assert received.CorrelationData == event().call.call_id.encode()
    assert dict(received.UserProperty)["type"] == "call.ringing"
    assert dict(received.UserProperty)["partitionkey"] == event().call.call_id
    assert "data" not in dict(received.UserProperty)
    state = messages[f"callcast/acme/{EXTENSION}/state"].properties
    assert state is not None
    assert state.ContentType == "application/json"


async def test_numbers_are_redacted_everywhere(stage5: Stage) -> None:
    """Neither body, topic nor property of anything holds a number under `drop`."""
    async with stage5.sink(Wire("drop")) as sink:
        stage5.live_calls.turn(in_ringing())
        assert await sink.send(delivery(1)) == Delivered()
        await stage5.shows(f"callcast/acme/{EXTENSION}/calls/s-{1:032x}")
        await stage5.shows(f"callcast/acme/{EXTENSION}/events/call.ringing")
    for message in stage5.watcher.seen:
        assert "6504306662" not in f"{message.topic} {message.payload!r} {message.properties}"


# The state


async def test_live_calls_are_mirrored_and_ended_ones_are_removed(stage: Stage) -> None:
    """A call appears with its state, ends, and is removed `tombstone_s` later; summary and state follow."""
    topic = f"callcast/acme/{EXTENSION}/calls/s-{1:032x}"
    async with stage.sink(tombstone_s=0.2):
        stage.live_calls.turn(in_ringing())
        await stage.shows(topic, lambda shown: shown["state"] == "ringing")
        await stage.shows(f"callcast/acme/{EXTENSION}/state", lambda shown: shown["state"] == "ringing")
        await stage.shows("callcast/acme/summary", lambda shown: shown["ringing"] == 1)
        stage.live_calls.turn(call(1, state=State.ENDED))
        await stage.shows(topic, lambda shown: shown is None or shown["state"] == "ended")
        await stage.shows(topic, lambda shown: shown is None)
        await stage.shows(f"callcast/acme/{EXTENSION}/state", lambda shown: shown["state"] == "idle")
        assert topic not in stage.retained_now()


class HeldClock(RealClock):
    """Short sleeps last until the test says so."""

    def __init__(self) -> None:
        self.go_on = asyncio.Event()

    async def sleep(self, seconds: float, /) -> None:
        await (self.go_on.wait() if seconds < 1 else asyncio.sleep(seconds))


async def test_of_many_changes_in_a_row_only_the_newest_is_published(stage: Stage) -> None:
    """The first is published at once; of those that follow soon after it, only the newest."""
    clock, topic = HeldClock(), f"callcast/acme/{EXTENSION}/calls/s-{1:032x}"
    stage.live_calls.turn(in_ringing())
    async with stage.sink(clock=clock) as sink:
        await stage.shows(topic, lambda shown: shown["state"] == "ringing")
        clock.go_on.set()
        clock.go_on = asyncio.Event()
        for state in (State.RINGING, State.CONNECTED, State.RINGING, State.CONNECTED):
            stage.live_calls.turn(structs.replace(call(1, state=state), queue=None))
            for _ in range(20):
                await asyncio.sleep(0)
        assert await sink.send(delivery()) == Delivered()
        await stage.shows(f"callcast/acme/{EXTENSION}/events/call.ringing")
        clock.go_on.set()
        await stage.shows(topic, lambda shown: shown["state"] == "connected")
    received = [json.loads(m.payload)["queue"] for m in stage.watcher.seen if m.topic == topic]
    states = [json.loads(m.payload)["state"] for m in stage.watcher.seen if m.topic == topic]
    assert states == ["ringing", "ringing", "connected"]
    assert received == [{"name": "Support"}, None, None]


async def test_replay_and_retry_touch_no_retained_topic(stage5: Stage) -> None:
    """An old event sent again changes nothing but its own topic."""
    async with stage5.sink() as sink:
        await stage5.shows("callcast/acme/summary")
        before = stage5.retained_now()
        assert await sink.send(delivery(5, attempt=9)) == Delivered()
        await stage5.shows(f"callcast/acme/{EXTENSION}/events/call.ringing")
        assert stage5.retained_now() == before


async def test_status_is_online_and_then_offline(stage: Stage) -> None:
    """`status` says online while the sink is open and offline after a clean stop; both are retained."""
    async with stage.sink():
        status = await stage.shows("callcast/status", lambda shown: shown["state"] == "online")
        assert set(status) == {"state", "since", "version", "client_id"}
    assert stage.retained_now()["callcast/status"] == b'{"state":"offline"}'


async def test_the_will_says_offline_when_the_sink_is_lost(stage: Stage) -> None:
    """When the connection breaks, the broker publishes the will; after the reconnect the sink is online again."""
    async with stage.sink() as sink:
        await sink.send(delivery())
        _drop_connection(sink)
        await stage.shows("callcast/status", lambda shown: shown["state"] == "offline")
        await stage.shows("callcast/status", lambda shown: shown["state"] == "online")


def _drop_connection(sink: Any) -> None:
    """Break the connection without a DISCONNECT."""
    sink._connection._transport.abort()


async def test_stale_topics_of_its_own_are_removed(stage: Stage) -> None:
    """Stale topics of an earlier run are removed on connect; live calls and topics of others stay."""
    stage.live_calls.turn(in_ringing())
    left = ("callcast/acme/999/calls/s-old", "callcast/acme/999/state", "callcast/gone/summary")
    _publish(stage.broker, *left, "callcast/mine/too/deep/for/us", "elsewhere/acme/999/state")
    async with stage.sink():
        for topic in left:
            await stage.shows(topic, lambda shown: shown is None)
        await stage.shows(f"callcast/acme/{EXTENSION}/state")
        retained = stage.retained_now()
    assert retained.keys() >= {"callcast/mine/too/deep/for/us", f"callcast/acme/{EXTENSION}/calls/s-{1:032x}"}
    assert not retained.keys() & set(left)


async def test_a_thousand_stale_topics_are_removed(stage: Stage) -> None:
    """The sweep is not limited by what the broker sends at once."""
    left = {f"callcast/acme/999/calls/s-{number}" for number in range(1500)}
    _publish(stage.broker, *left)
    async with stage.sink():  # not what a watcher sees: a broker may leave out some of so many for a slow one
        while left & (await asyncio.to_thread(stage.retained_now)).keys():  # noqa: ASYNC110 (the broker does not notify)
            await asyncio.sleep(0.05)


def _publish(broker: Broker, *topics: str, payload: str = '{"old":true}') -> None:
    client = paho.Client(CallbackAPIVersion.VERSION2)
    client.max_inflight_messages_set(0)
    client.connect("127.0.0.1", broker.port)
    client.loop_start()
    for info in [client.publish(topic, payload, 1, retain=True) for topic in topics]:
        info.wait_for_publish(20)
    client.disconnect()
    client.loop_stop()


async def test_the_prefix_of_another_client_is_left_alone(stage: Stage) -> None:
    """When another client is online under the prefix, nothing is removed, and the sink logs it."""
    _publish(stage.broker, "callcast/acme/999/state")
    _publish(stage.broker, "callcast/status", payload='{"state":"online","client_id":"callcast-other"}')
    async with stage.sink():
        facts = await stage.logs("mqtt_stale_state_kept")
    assert "callcast-other" in str(facts["detail"])
    assert "callcast/acme/999/state" in stage.retained_now()


async def test_without_permission_to_read_it_says_so_and_works(tmp_path: Path, protocol: str) -> None:
    """Write-only permission: events and state go out, and only stale topics stay, which is logged."""
    acl = tmp_path / "acl"
    acl.write_text("user callcast\ntopic write callcast/#\n")
    with mosquitto(tmp_path, f"acl_file {acl}", "allow_zero_length_clientid true") as broker:
        live_calls_logged: list[tuple[str, dict[str, object]]] = []
        settings = Settings(url=f"mqtt://127.0.0.1:{broker.port}", protocol=protocol, username="callcast", timeout_s=5)  # type: ignore[arg-type]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("callcast.sinks.mqtt.retained_topics._READ_S", 0.3)
            async with settings.open(context(live_calls_logged)) as sink:
                assert await sink.send(delivery()) == Delivered()
                await until(lambda: bool(live_calls_logged))
    assert live_calls_logged[0][0] == "mqtt_stale_state_kept"


# Failure


async def test_nothing_is_published_while_there_is_no_connection(stage: Stage) -> None:
    """What was answered with `Retry` never arrives by itself later: paho's queue holds nothing."""
    async with stage.sink() as sink:
        assert await sink.send(delivery(1)) == Delivered()
        stage.watcher.close()
        stage.broker.stop()
        assert isinstance(await sink.send(delivery(2)), Retry)
        assert isinstance(await sink.send(delivery(3)), Retry)
        stage.broker.start()
        stage.watcher = Watcher(stage.broker.port, "5")
        await until(stage.watcher.ready)
        assert await _settled(sink, delivery(4)) == Delivered()
        await until(lambda: any("events" in message.topic for message in stage.watcher.seen))
    ids = [json.loads(m.payload)["id"] for m in stage.watcher.seen if "events" in m.topic]
    assert ids == [event(4).id]


async def _settled(sink: Sink, wanted: Delivery) -> object:
    while isinstance(outcome := await sink.send(wanted), Retry):  # noqa: ASYNC110
        await asyncio.sleep(0.02)
    return outcome


async def test_after_an_outage_all_state_is_published_again(stage: Stage) -> None:
    """A broker that lost its retained messages has all of them again, and `reconnected` returns."""
    async with stage.sink() as sink:
        assert isinstance(sink, Reconnecting)
        stage.live_calls.turn(in_ringing())
        await stage.shows(f"callcast/acme/{EXTENSION}/calls/s-{1:032x}")
        before = stage.retained_now().keys()
        back = asyncio.create_task(sink.reconnected())
        stage.watcher.close()
        stage.broker.stop()
        stage.broker.start()
        await back
        await until(lambda: stage.retained_now().keys() >= before)
        stage.watcher = Watcher(stage.broker.port, "5")


async def test_a_first_connection_is_no_reconnect(stage5: Stage) -> None:
    """Nothing was lost before, so nothing is made due."""
    async with stage5.sink() as sink:
        assert isinstance(sink, Reconnecting)
        await sink.send(delivery())
        back = asyncio.create_task(sink.reconnected())
        for _ in range(20):
            await asyncio.sleep(0)
        assert not back.done()
        back.cancel()


async def test_a_session_that_is_taken_over_is_logged() -> None:
    """A broker that gives the reason (MQTT 5): the sink logs it, and what to do."""

    async def take_over(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1024)
        writer.write(b"\x20\x03\x00\x00\x00" + b"\xe0\x02\x8e\x00")  # CONNACK, DISCONNECT
        writer.write_eof()
        await reader.read()  # closed with something unread, the connection would be reset, and the reason lost
        writer.close()

    listener = await asyncio.start_server(take_over, "127.0.0.1", 0)
    port = listener.sockets[0].getsockname()[1]
    logged: list[tuple[str, dict[str, object]]] = []
    async with listener, Settings(url=f"mqtt://127.0.0.1:{port}", client_id="both").open(context(logged)):
        await until(lambda: "mqtt_session_taken_over" in dict(logged))
    assert dict(logged)["mqtt_session_taken_over"]["client_id"] == "both"


class HurriedClock(RealClock):
    """Sleeps 50 ms at most, for any duration."""

    async def sleep(self, seconds: float, /) -> None:
        await asyncio.sleep(min(seconds, 0.05))


async def test_two_clients_with_one_id_are_suspected(stage: Stage) -> None:
    """A broker that gives no reason: after three short connections the sink logs what to check."""
    rival = paho.Client(CallbackAPIVersion.VERSION2, "both")
    rival.reconnect_delay_set(0, 0)
    rival.connect_async("127.0.0.1", stage.broker.port)
    rival.loop_start()
    here = structs.replace(context(stage.logged), clock=HurriedClock())
    try:
        async with stage.settings(client_id="both").open(here):
            facts = await stage.logs("mqtt_connection_unsteady")
    finally:
        rival.disconnect()
        rival.loop_stop()
    assert facts["client_id"] == "both"


async def test_too_large_for_the_broker_is_rejected_and_breaks_nothing(tmp_path: Path) -> None:
    """Mosquitto acknowledges it with a code that paho does not expect; other messages are delivered."""
    with mosquitto(tmp_path, "message_size_limit 5000") as broker:
        stage = Stage(broker, "5")
        async with stage.sink() as sink:
            large = structs.replace(event(), call=structs.replace(call(), from_party=Party(name="x" * 9000)))
            outcomes = await asyncio.gather(*(sink.send(delivery(n, of=large if n == 2 else None)) for n in range(4)))
            stage.watcher.close()
    assert [type(outcome) for outcome in outcomes] == [Delivered, Delivered, Rejected, Delivered]
    assert outcomes[2].reason == "packet_too_large"


async def test_a_size_that_the_broker_announced_is_respected(tmp_path: Path) -> None:
    """What is larger than the broker's maximum packet size is rejected without being sent."""
    with mosquitto(tmp_path, "max_packet_size 3000") as broker:
        stage = Stage(broker, "5")
        async with stage.sink() as sink:
            large = structs.replace(event(), call=structs.replace(call(), from_party=Party(name="x" * 9000)))
            outcome = await sink.send(delivery(of=large))
            assert await sink.send(delivery(1)) == Delivered()
            stage.watcher.close()
    assert isinstance(outcome, Rejected)
    assert outcome.reason == "packet_too_large"
    assert not stage.logged


async def test_what_mqtt_cannot_encode_is_rejected_and_frees_its_slot(stage: Stage) -> None:
    """A topic beyond 65,535 bytes is always invalid; after many of them, others are still delivered."""
    longest = structs.replace(call(), call_id=f"{EXTENSION}/{'s' * 70_000}", extension_id="9" * 70_000)
    async with stage.sink(concurrency=1) as sink:
        for number in range(20):
            outcome = await sink.send(delivery(number, of=structs.replace(event(number), call=longest)))
            assert isinstance(outcome, Rejected)
            assert outcome.reason == "malformed"
        assert await sink.send(delivery()) == Delivered()


async def test_once_the_name_is_resolved_there_is_no_thread(stage: Stage) -> None:
    """Sending, acknowledging and keeping the connection alive happen on the event loop."""
    threads = threading.active_count()
    async with stage.sink() as sink:
        assert await sink.send(delivery()) == Delivered()
        await until(lambda: threading.active_count() <= threads)


async def test_a_refused_message_is_tried_again(tmp_path: Path) -> None:
    """The broker's operator may fix missing permissions: `Retry` with the broker's reason (MQTT 5)."""
    acl = tmp_path / "acl"
    acl.write_text("user callcast\ntopic readwrite callcast/status\ntopic read callcast/#\n")
    with mosquitto(tmp_path, f"acl_file {acl}") as broker:
        stage = Stage(broker, "5")
        async with stage.sink(username="callcast") as sink:
            outcome = await sink.send(delivery())
            facts = await stage.logs("mqtt_state_refused")
            stage.watcher.close()
    assert isinstance(outcome, Retry)
    assert outcome.reason == "not_authorized"
    assert "Not authorized" in str(facts["detail"])


async def test_a_wrong_password_is_a_reason_of_its_own(tmp_path: Path, protocol: str) -> None:
    """The broker's refusal of the login is what `Retry` says."""
    with mosquitto(tmp_path, anonymous=False) as broker:
        settings = Settings.model_validate({
            "type": "mqtt", "url": f"mqtt://127.0.0.1:{broker.port}", "protocol": protocol,
            "username": "callcast", "password": "wrong", "timeout_s": 5,
        })  # fmt: skip
        async with settings.open(context()) as sink:
            outcome = await sink.send(delivery())
    assert isinstance(outcome, Retry)
    assert outcome.reason in ("not_authorized", "bad_user_name_or_password")


class SmallBroker:
    """Enough of MQTT 5 to limit messages in flight, to acknowledge with any reason, and to record client ids."""

    def __init__(self, receive_maximum: int = 100, reason: int = 0) -> None:
        self.receive_maximum = receive_maximum
        self.reason = reason
        self.waiting = self.most_waiting = 0
        self.client_ids: list[str] = []
        self.pings = 0
        self.answers_pings = True
        self.accepts = True
        self.ended = False

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[str]:
        """Its URL."""
        listener = await asyncio.start_server(self.serve, "127.0.0.1", 0)
        async with listener:
            yield f"mqtt://127.0.0.1:{listener.sockets[0].getsockname()[1]}"

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(asyncio.IncompleteReadError):
            while True:
                kind, body = (await reader.readexactly(1))[0], await self._body(reader)
                if kind == 0x10:
                    self.client_ids.append(body[13 : 13 + body[12]].decode())  # after name, version, flags, keep-alive
                    if self.accepts:
                        writer.write(bytes([0x20, 6, 0, 0, 3, 0x21]) + self.receive_maximum.to_bytes(2, "big"))
                elif kind == 0x82:
                    writer.write(bytes([0x90, 7, *body[:2], 0, 0, 0, 0, 0]))
                elif kind & 0xF0 == 0x30:
                    self._take(body, writer)
                elif kind == 0xC0:
                    self.pings += 1
                    writer.write(b"\xd0\x00" if self.answers_pings else b"")
        self.ended = True
        writer.close()

    async def _body(self, reader: asyncio.StreamReader) -> bytes:
        length = shift = 0
        while True:
            (byte,) = await reader.readexactly(1)
            length |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return await reader.readexactly(length)

    def _take(self, body: bytes, writer: asyncio.StreamWriter) -> None:
        self.waiting += 1
        self.most_waiting = max(self.most_waiting, self.waiting)
        after_topic = 2 + int.from_bytes(body[:2], "big")
        if self.accepts:
            asyncio.get_running_loop().call_later(0.002, self._acknowledge, body[after_topic : after_topic + 2], writer)

    def _acknowledge(self, packet_id: bytes, writer: asyncio.StreamWriter) -> None:
        self.waiting -= 1
        writer.write(bytes([0x40, 3]) + packet_id + bytes([self.reason]))


async def test_a_broker_that_takes_few_at_a_time_gets_few_at_a_time() -> None:
    """The broker's receive maximum is kept, and everything arrives (MQTT 5)."""
    broker = SmallBroker(receive_maximum=2)
    async with broker.listening() as url, Settings(url=url, timeout_s=5, concurrency=50).open(context()) as sink:
        outcomes = await asyncio.gather(*(sink.send(delivery(number)) for number in range(50)))
    assert outcomes == [Delivered()] * 50
    assert broker.most_waiting == 2


TO = "to callcast/acme/62264425016/events/call.ringing"  # needed to fix the broker's access rules
WORDS: Sequence[tuple[int, Outcome]] = [
    (0x00, Delivered()),
    (0x10, Delivered()),  # no matching subscribers
    *(
        (code, Retry(word.lower().replace(" ", "_"), f"the broker reports: {word} ({TO})"))
        for code, word in {
            0x80: "Unspecified error",
            0x83: "Implementation specific error",
            0x87: "Not authorized",
            0x97: "Quota exceeded",
        }.items()
    ),
    (0x95, Rejected("packet_too_large", "the broker reports: Packet too large")),
    (0x90, Rejected("topic_name_invalid", f"the broker reports: Topic name invalid ({TO})", unless_alone=True)),
    (0x99, Rejected("payload_format_invalid", f"the broker reports: Payload format invalid ({TO})", unless_alone=True)),
]


@pytest.mark.parametrize(("code", "outcome"), WORDS)
async def test_the_reason_code_decides(code: int, outcome: Outcome) -> None:
    """What an operator can fix is retried; what is always invalid is rejected (MQTT 5)."""
    async with SmallBroker(reason=code).listening() as url, Settings(url=url, timeout_s=5).open(context()) as sink:
        assert await sink.send(delivery()) == outcome


async def test_an_unknown_reason_code_is_retried() -> None:
    """A reason code that MQTT does not define is a failure of this message, not of the program."""
    async with SmallBroker(reason=0xEE).listening() as url, Settings(url=url, timeout_s=5).open(context()) as sink:
        assert isinstance(await sink.send(delivery()), Retry)


@pytest.mark.parametrize("answered", [True, False])
async def test_a_silent_connection_is_kept_alive_or_given_up(answered: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """An idle sink sends pings; it gives up a broker that does not respond to them."""
    monkeypatch.setattr("callcast.sinks.mqtt.connection._KEEPALIVE_S", 1)
    broker = SmallBroker()
    broker.answers_pings = answered
    async with broker.listening() as url, Settings(url=url, timeout_s=5).open(context()):
        if answered:
            await until(lambda: broker.pings >= 2)
            assert len(broker.client_ids) == 1
        else:
            await until(lambda: len(broker.client_ids) >= 2)


async def test_the_client_id_is_the_same_each_time() -> None:
    """Made of the installation's id and the sink's name, so that a broker recognizes it."""
    broker = SmallBroker()
    async with broker.listening() as url:
        for _ in range(2):
            async with Settings(url=url, timeout_s=5).open(context()) as sink:
                assert await sink.send(delivery()) == Delivered()
        async with Settings(url=url, timeout_s=5, client_id="ours").open(context()) as sink:
            assert await sink.send(delivery()) == Delivered()
    assert broker.client_ids == ["callcast-0123456789abcdef-tested"] * 2 + ["ours"]


class RecordingClock(RealClock):
    """Sleeps 1 ms and records the requested duration."""

    def __init__(self) -> None:
        self.pauses_s: list[float] = []

    async def sleep(self, seconds: float, /) -> None:
        self.pauses_s.append(seconds)
        await asyncio.sleep(0.001)


async def test_reconnects_are_delayed_exponentially_and_differ_between_clients() -> None:
    """0.5 to 1 s at first, twice that each time, a minute at most; random for each client."""
    pauses: list[Sequence[float]] = []
    for client_id in ("one", "other"):
        clock = RecordingClock()
        here = structs.replace(context(), clock=clock, live_calls=InMemoryLiveCalls())
        async with Settings(url=f"mqtt://127.0.0.1:{free_port()}", client_id=client_id).open(here):
            await until(lambda: len(_backoffs(clock)) >= 9)  # noqa: B023
        pauses.append(_backoffs(clock)[:9])
    for taken_s in pauses:
        assert all(
            0.5 * limit <= pause <= limit
            for pause, limit in zip(taken_s, (1, 2, 4, 8, 16, 32, 60, 60, 60), strict=True)
        )
    assert not set(pauses[0]) & set(pauses[1])


def _backoffs(clock: RecordingClock) -> Sequence[float]:
    """Without the pauses of the mirror, which are always the same."""
    return [pause for pause in clock.pauses_s if pause not in (0.25, 10.0)]


def _open_files() -> int:
    return len(list(Path("/dev/fd").iterdir()))


async def test_closed_while_connecting_it_leaves_nothing_open(tmp_path: Path, certificates: Certificates) -> None:
    """Stopping does not wait for a slow TLS handshake, and closes its socket."""
    lines = (f"certfile {certificates.server}", f"keyfile {certificates.server_key}")
    with mosquitto(tmp_path, *lines) as broker:
        before = _open_files()
        broker.freeze()
        settings = Settings(url=f"mqtts://127.0.0.1:{broker.port}", tls_ca=certificates.ca, timeout_s=20)
        async with settings.open(context()):
            await until(lambda: _open_files() > before)
        await until(lambda: _open_files() <= before)
        broker.thaw()


async def test_closed_before_the_broker_accepts_it_publishes_nothing() -> None:
    """No offline status on a connection that the broker has not accepted: nothing would acknowledge it."""
    broker = SmallBroker()
    broker.accepts = False
    async with broker.listening() as url, Settings(url=url, timeout_s=20).open(context()):
        await until(lambda: bool(broker.client_ids))
    await until(lambda: broker.ended)
    assert broker.waiting == 0


async def test_a_missing_acknowledgement_leads_to_a_new_connection(stage: Stage) -> None:
    """It ends the connection, because MQTT resends only on a new one."""
    async with stage.sink(timeout_s=0.3) as sink:
        assert await sink.send(delivery()) == Delivered()
        assert isinstance(sink, Reconnecting)
        back = asyncio.create_task(sink.reconnected())
        stage.broker.freeze()
        assert await sink.send(delivery(1)) == Retry("timeout", "the broker did not acknowledge in time")
        await until(lambda: sink._connection is None)  # type: ignore[attr-defined]
        stage.broker.thaw()
        await back
        assert await _settled(sink, delivery(2)) == Delivered()


async def test_a_fault_of_the_program_is_not_mistaken_for_one_of_the_broker(monkeypatch: pytest.MonkeyPatch) -> None:
    """An error in the handling of an acknowledgement reaches the event loop, where it ends the process."""
    faults: list[object] = []

    def fail(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(Connection, "acknowledged", fail)
    asyncio.get_running_loop().set_exception_handler(lambda _loop, facts: faults.append(facts.get("exception")))
    async with SmallBroker().listening() as url, Settings(url=url, timeout_s=5).open(context()):
        await until(lambda: any(isinstance(fault, ZeroDivisionError) for fault in faults))


async def test_something_else_listens_there() -> None:
    """A server that is no broker is a failure of the delivery, not a crash, and leaves no thread."""

    async def nonsense(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(b"\x20\x03\x00\xfe\x00")  # a CONNACK with a reason code that does not exist
        await writer.drain()
        writer.close()

    listener = await asyncio.start_server(nonsense, "127.0.0.1", 0)
    port = listener.sockets[0].getsockname()[1]
    threads = threading.active_count()
    async with listener, Settings(url=f"mqtt://127.0.0.1:{port}", timeout_s=2).open(context()) as sink:
        outcome = await sink.send(delivery())
    assert isinstance(outcome, Retry)
    assert outcome.reason in ("bad_answer", "disconnected")
    await until(lambda: threading.active_count() <= threads)


# TLS


async def test_tls_with_own_authority_and_client_certificate(tmp_path: Path, certificates: Certificates) -> None:
    """mqtts with `tls_ca` and a client certificate; without the authority nothing is sent."""
    port = free_port()
    lines = (
        f"listener {port} 127.0.0.1", f"cafile {certificates.ca}", f"certfile {certificates.server}",
        f"keyfile {certificates.server_key}", "require_certificate true", "tls_version tlsv1.2",
    )  # fmt: skip
    keys = {"type": "mqtt", "url": f"mqtts://127.0.0.1:{port}", "timeout_s": 5}
    own = {"tls_ca": certificates.ca, "tls_cert": certificates.client, "tls_key": certificates.client_key}
    with mosquitto(tmp_path, *lines):
        async with Settings.model_validate(keys | own).open(context()) as sink:
            assert await sink.send(delivery()) == Delivered()
        async with Settings.model_validate(keys).open(context()) as sink:
            outcome = await sink.send(delivery())
    assert isinstance(outcome, Retry)
    assert outcome.reason == "tls"


async def test_a_certificate_for_another_name_is_refused(certificates: Certificates) -> None:
    """The broker's name is verified, not only the signature."""
    broker, tls = SmallBroker(), certificates.of_another().server_context()
    listener = await asyncio.start_server(broker.serve, "127.0.0.1", 0, ssl=tls)
    port = listener.sockets[0].getsockname()[1]
    settings = Settings(url=f"mqtts://127.0.0.1:{port}", tls_ca=certificates.ca, timeout_s=5)
    async with listener, settings.open(context()) as sink:
        outcome = await sink.send(delivery())
    assert isinstance(outcome, Retry)
    assert outcome.reason == "tls"
    assert not broker.client_ids


class ChattyBroker(SmallBroker):
    """Sends another message before each acknowledgement, in the same TLS record."""

    def _take(self, body: bytes, writer: asyncio.StreamWriter) -> None:
        after_topic = 2 + int.from_bytes(body[:2], "big")
        chatter = bytes([0x30, 6, 0, 1]) + b"x" + bytes([0]) + b"{}"
        writer.write(chatter + bytes([0x40, 2]) + body[after_topic : after_topic + 2])


async def test_all_of_a_tls_record_is_read_at_once(certificates: Certificates) -> None:
    """An acknowledgement behind another message in one TLS record is read without further data."""
    broker = ChattyBroker(receive_maximum=100)
    listener = await asyncio.start_server(broker.serve, "127.0.0.1", 0, ssl=certificates.server_context())
    port = listener.sockets[0].getsockname()[1]
    settings = Settings(url=f"mqtts://127.0.0.1:{port}", tls_ca=certificates.ca, timeout_s=2)
    async with listener, settings.open(context()) as sink:
        assert await sink.send(delivery()) == Delivered()


async def test_no_such_host() -> None:
    """A name that does not resolve is a reason of its own."""
    async with Settings(url="mqtts://no-such-host.invalid", timeout_s=5).open(context()) as sink:
        outcome = await sink.send(delivery())
    assert isinstance(outcome, Retry)
    assert outcome.reason == "dns"


# WebSocket


@pytest.mark.parametrize("scheme", ["ws", "wss"])
async def test_a_websocket_carries_everything(
    scheme: str, protocol: str, tmp_path: Path, certificates: Certificates
) -> None:
    """Events, retained state, the will and the offline status, over mosquitto's WebSocket listener."""
    port = free_port()
    tls = (f"certfile {certificates.server}", f"keyfile {certificates.server_key}") if scheme == "wss" else ()
    with mosquitto(tmp_path, f"listener {port} 127.0.0.1", "protocol websockets", *tls) as broker:
        stage = Stage(broker, protocol)
        keys = {"url": f"{scheme}://127.0.0.1:{port}/mqtt"} | ({"tls_ca": certificates.ca} if tls else {})
        async with stage.sink(**keys) as sink:
            many = await asyncio.gather(*(sink.send(delivery(number)) for number in range(200)))
            assert set(many) == {Delivered()}
            await stage.shows("callcast/status", lambda shown: shown["state"] == "online")
            _drop_connection(sink)
            await stage.shows("callcast/status", lambda shown: shown["state"] == "offline")
            await stage.shows("callcast/status", lambda shown: shown["state"] == "online")
            assert await _settled(sink, delivery(1)) == Delivered()
        await stage.shows("callcast/status", lambda shown: shown["state"] == "offline")
        stage.watcher.close()


async def test_a_web_server_that_opens_no_websocket() -> None:
    """Its answer is a reason of its own."""

    async def no_websocket(_request: web.BaseRequest) -> web.Response:
        return web.Response(status=404)

    server = test_utils.RawTestServer(no_websocket, host="127.0.0.1")
    await server.start_server()
    async with Settings(url=f"ws://127.0.0.1:{server.port}/mqtt", timeout_s=5).open(context()) as sink:
        outcome = await sink.send(delivery())
    await server.close()
    assert outcome == Retry("websocket_refused", "the response to the request was 404")


async def test_a_redirect_of_a_websocket_is_not_followed(tmp_path: Path) -> None:
    """The other address would get the password, perhaps unencrypted."""
    port = free_port()

    async def elsewhere(_request: web.BaseRequest) -> web.Response:
        return web.Response(status=302, headers={"Location": f"ws://127.0.0.1:{port}/mqtt"})

    server = test_utils.RawTestServer(elsewhere, host="127.0.0.1")
    await server.start_server()
    with mosquitto(tmp_path, f"listener {port} 127.0.0.1", "protocol websockets"):
        async with Settings(url=f"ws://127.0.0.1:{server.port}/mqtt", timeout_s=5).open(context()) as sink:
            outcome = await sink.send(delivery())
    await server.close()
    assert outcome == Retry("websocket_refused", "the response to the request was 302")


# Another broker


@pytest.mark.parametrize("protocol", PROTOCOLS)
async def test_the_embedded_broker_agrees(tmp_path: Path, protocol: str) -> None:
    """Mirror, birth and goodbye on another implementation of each protocol."""
    with iotcore(tmp_path, protocol) as broker:
        stage = Stage(broker, protocol)
        async with stage.sink() as sink:
            assert await sink.send(delivery()) == Delivered()
            stage.live_calls.turn(in_ringing())
            await stage.shows(f"callcast/acme/{EXTENSION}/calls/s-{1:032x}")
            await stage.shows("callcast/status", lambda shown: shown["state"] == "online")
        await stage.shows("callcast/status", lambda shown: shown["state"] == "offline")
        stage.watcher.close()


# Settings

FAULTS = [
    ({"url": "broker.example.com"}, "mqtts://HOST"),
    ({"url": "https://broker.example.com"}, "mqtts://HOST"),
    ({"url": "mqtts://broker.example.com:0"}, "mqtts://HOST"),
    ({"url": "mqtts://broker.example.com:99999"}, "mqtts://HOST"),
    ({"url": f"mqtts://{'a' * 64}.example.com"}, "mqtts://HOST"),
    ({"url": "mqtts://broker.example.com/path"}, "mqtts://HOST"),
    ({"url": "mqtts://user:password@broker.example.com"}, "username and password"),
    ({"url": "mqtt://broker.example.com"}, "is not encrypted"),
    ({"url": "ws://broker.example.com"}, "is not encrypted"),
    ({"url": "wss://broker.example.com/mqtt?token=x"}, "wss://HOST"),
    ({"password": "x"}, "without username"),
    ({"topic": ""}, "topic prefix"),
    ({"topic": "a/"}, "topic prefix"),
    ({"topic": "/a"}, "topic prefix"),
    ({"topic": "a//b"}, "topic prefix"),
    ({"topic": "a/+"}, "topic prefix"),
    ({"topic": "#"}, "topic prefix"),
    ({"topic": "$SYS"}, "topic prefix"),
    ({"protocol": "3.1"}, "3.1.1"),
    ({"tombstone_s": -1}, "greater"),
]


@pytest.mark.parametrize(("keys", "says"), FAULTS)
def test_a_fault_in_the_settings_is_found_at_once(keys: dict[str, Any], says: str) -> None:
    """It is found when the configuration is read, with a message that helps."""
    with pytest.raises(ValidationError, match=says) as error:
        Settings.model_validate({"type": "mqtt", "url": "mqtts://broker.example.com"} | keys)
    assert "password@" not in str(error.value)


def test_defaults_are_those_of_the_contract() -> None:
    """Port by scheme, prefix, protocol, tombstones."""
    settings = Settings(url="mqtts://broker.example.com")
    ports = {
        "mqtts://h": 8883,
        "mqtt://localhost": 1883,
        "mqtt://[::1]:1": 1,
        "wss://h/mqtt": 443,
        "ws://localhost": 80,
    }
    assert {url: port_of(Settings(url=url).address()) for url in ports} == ports
    assert (settings.topic, settings.protocol, settings.tombstone_s) == ("callcast", "5", 60)
    assert settings == Settings(url="mqtts://broker.example.com")
    assert Settings(url="mqtts://h", username="a", password=Secret("b")) != Settings(url="mqtts://h", username="a")
