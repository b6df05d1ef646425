"""Brokers that take no retained messages, and `retain = false`: events are delivered, state and will are left out."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from msgspec import structs

from callcast.ports.connectivity import ConnectivityRequest, ConnectivityResult
from callcast.ports.sink import Delivered
from callcast.sinks.mqtt import Settings
from callcast.sinks.mqtt.connection import LOST, RETAIN_NOT_SUPPORTED, Failure
from callcast.sinks.mqtt.retained_topics import ConnectionOutcome, RetainSupport
from callcast.testing import RealClock, context, delivery, until
from tests.integration.sinks.brokers import Broker, mosquitto
from tests.integration.sinks.test_mqtt import PROTOCOLS, HurriedClock, InMemoryLiveCalls, Stage, in_ringing

NO_RETAINED = "retain_available false"
REFUSED = Failure("retain_not_supported", "", RETAIN_NOT_SUPPORTED)


async def delivered(stage: Stage, **keys: Any) -> None:
    """An event arrives although there is no state; a change of state in between disturbs nothing."""
    async with stage.sink(clock=HurriedClock(), **keys) as sink:
        async with asyncio.timeout(20):
            while await sink.send(delivery()) != Delivered():  # noqa: ASYNC110
                await asyncio.sleep(0.02)
        stage.live_calls.turn(in_ringing())
        for number in range(1, 6):
            await asyncio.sleep(0.06)  # longer than the sink waits with a change of state
            assert await sink.send(delivery(number)) == Delivered()
        await until(lambda: len([one for one in stage.watcher.seen if "events" in one.topic]) >= 6)


@pytest.mark.parametrize("protocol", PROTOCOLS)
async def test_a_broker_without_retained_messages_gets_events(protocol: str, tmp_path: Path) -> None:
    """MQTT 5 reports it and 3.1.1 closes the connection; either way it is logged once, with the next step."""
    with mosquitto(tmp_path, NO_RETAINED) as broker:
        stage = Stage(broker, protocol)
        try:
            await delivered(stage)
        finally:
            stage.watcher.close()
    logged = [facts for name, facts in stage.logged if name == "mqtt_state_left_out"]
    assert len(logged) == 1
    assert "retain = false" in str(logged[0]["hint"])
    assert not [one for one in stage.watcher.seen if "events" not in one.topic]


@pytest.mark.parametrize("protocol", PROTOCOLS)
async def test_missing_support_is_logged_once_over_reconnects(protocol: str, tmp_path: Path) -> None:
    """After each outage the sink continues without state, and does not log that again."""
    with mosquitto(tmp_path, NO_RETAINED) as broker:
        stage = Stage(broker, protocol)
        stage.watcher.close()
        here = structs.replace(context(stage.logged), live_calls=InMemoryLiveCalls(), clock=HurriedClock())
        async with stage.settings().open(here) as sink, asyncio.timeout(30):
            for number in range(3):
                while await sink.send(delivery(number)) != Delivered():  # noqa: ASYNC110
                    await asyncio.sleep(0.02)
                broker.stop()
                broker.start()
    assert [name for name, _ in stage.logged].count("mqtt_state_left_out") == 1


@pytest.mark.parametrize("protocol", PROTOCOLS)
async def test_a_reconfigured_broker_gets_state(protocol: str, tmp_path: Path) -> None:
    """No manual step: the next connection after an outage tries retained messages again."""
    with mosquitto(tmp_path, NO_RETAINED) as broker:
        stage = Stage(broker, protocol)
        stage.watcher.close()
        here = structs.replace(context(stage.logged), live_calls=InMemoryLiveCalls(), clock=HurriedClock())
        async with stage.settings().open(here) as sink, asyncio.timeout(30):
            while await sink.send(delivery()) != Delivered():  # noqa: ASYNC110
                await asyncio.sleep(0.02)
            file = tmp_path / "mosquitto.conf"
            file.write_text(file.read_text().replace(NO_RETAINED, ""))
            broker.stop()
            broker.start()
            while "callcast/acme/summary" not in await asyncio.to_thread(stage.retained_now):  # noqa: ASYNC110
                await asyncio.sleep(0.05)


@pytest.mark.parametrize("broker_says", ["", NO_RETAINED])
@pytest.mark.parametrize("protocol", PROTOCOLS)
async def test_with_retain_false_there_is_no_state_and_no_will(protocol: str, broker_says: str, tmp_path: Path) -> None:
    """Only events, and nothing in the log, whatever the broker supports."""
    with mosquitto(tmp_path, *filter(None, [broker_says])) as broker:
        stage = Stage(broker, protocol)
        try:
            await delivered(stage, retain=False)
            retained = {} if broker_says else stage.retained_now()
        finally:
            stage.watcher.close()
    assert retained == {}
    assert stage.logged == []
    assert not [one for one in stage.watcher.seen if "events" not in one.topic]


class Unsteady:
    """A proxy before a broker: while the broker is down it accepts connections and closes them at once."""

    def __init__(self, broker: Broker, *, closes: int) -> None:
        self._broker = broker
        self.closes = closes

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[str]:
        listener = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        async with listener:
            yield f"mqtt://127.0.0.1:{listener.sockets[0].getsockname()[1]}"

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.closes > 0:
            self.closes -= 1
            await reader.read(1024)  # closed with something unread, the connection would be reset
            writer.close()
            return
        broker_reader, broker_writer = await asyncio.open_connection("127.0.0.1", self._broker.port)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(_copy(reader, broker_writer))
            tasks.create_task(_copy(broker_reader, writer))


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while piece := await reader.read(65_536):
            writer.write(piece)
    writer.close()


@pytest.mark.parametrize("closes", [1, 2, 3])
@pytest.mark.parametrize("protocol", PROTOCOLS)
async def test_a_proxy_that_closes_connections_is_not_mistaken_for_such_a_broker(
    protocol: str, closes: int, tmp_path: Path
) -> None:
    """It closes connections while the broker is down; once the broker is back, state and will are there."""
    with mosquitto(tmp_path) as broker:
        stage = Stage(broker, protocol)
        here = structs.replace(context(stage.logged), live_calls=InMemoryLiveCalls(), clock=HurriedClock())
        try:
            proxy = Unsteady(broker, closes=closes)
            async with proxy.listening() as url, stage.settings(url=url).open(here) as sink, asyncio.timeout(20):
                while await sink.send(delivery()) != Delivered():  # noqa: ASYNC110
                    await asyncio.sleep(0.02)
                await stage.shows("callcast/status", lambda shown: shown["state"] == "online")
        finally:
            stage.watcher.close()
    assert "mqtt_state_left_out" not in dict(stage.logged)


def test_no_state_is_left_out_for_one_closed_connection() -> None:
    """A restart of the broker in the middle of a greeting: tried without, confirmed, and back to normal."""
    support = RetainSupport(wanted=True)
    assert not support.learn(ConnectionOutcome.FAILED, LOST)
    assert not support.try_next
    assert not support.is_final(ConnectionOutcome.EVENTS_ONLY, reported=False), "nothing is proven yet"
    assert support.learn(ConnectionOutcome.EVENTS_ONLY, LOST)
    assert support.try_next
    assert support.is_final(ConnectionOutcome.RETAINING, reported=False)
    assert not support.to_announce()


def test_connections_are_never_tried_in_a_tight_loop() -> None:
    """Whatever happens, of five connections in a row at least one is followed by a pause."""
    fates = [
        *((ConnectionOutcome.FAILED, failure) for failure in (LOST, REFUSED, Failure("connect"))),
        (ConnectionOutcome.EVENTS_ONLY, LOST),
        (ConnectionOutcome.RETAINING, LOST),
    ]

    def follow(path: list[tuple[ConnectionOutcome, Failure]]) -> list[bool]:
        support = RetainSupport(wanted=True)
        pauses = []
        for greeting, failure in path:
            if greeting is not ConnectionOutcome.FAILED:
                support.is_final(greeting, reported=False)
            pauses.append(not support.learn(greeting, failure))
        return pauses

    def paths(length: int) -> list[list[tuple[ConnectionOutcome, Failure]]]:
        if length == 0:
            return [[]]
        return [[fate, *rest] for fate in fates for rest in paths(length - 1)]

    possible = [path for path in paths(5) if _can_happen(path)]
    assert len(possible) > 100
    assert all(any(follow(path)) for path in possible)


def _can_happen(path: list[tuple[ConnectionOutcome, Failure]]) -> bool:
    """A connection that does not try retained messages is never seen retaining."""
    support = RetainSupport(wanted=True)
    for greeting, failure in path:
        if greeting is (ConnectionOutcome.EVENTS_ONLY if support.try_next else ConnectionOutcome.RETAINING):
            return False
        if greeting is not ConnectionOutcome.FAILED:
            support.is_final(greeting, reported=False)
        support.learn(greeting, failure)
    return True


# The connectivity check


async def checked(broker: Broker, protocol: str, *, send: bool = True, **keys: Any) -> ConnectivityResult:
    settings = Settings.model_validate(
        {"type": "mqtt", "url": f"mqtt://127.0.0.1:{broker.port}", "protocol": protocol, "timeout_s": 5, **keys}
    )
    return await settings.check_connectivity(
        ConnectivityRequest(name="crm", version="1.2.3", clock=RealClock(), send=send)
    )


@pytest.mark.parametrize("send", [False, True])
@pytest.mark.parametrize("protocol", PROTOCOLS)
async def test_the_check_finds_a_broker_without_retained_messages(protocol: str, send: bool, tmp_path: Path) -> None:
    """A warning, since events are delivered; with `retain = false` it is good."""
    with mosquitto(tmp_path, NO_RETAINED) as broker:
        result = await checked(broker, protocol, send=send)
        accepted = await checked(broker, protocol, send=send, retain=False)
    assert (result.status, accepted.status) == ("warning", "good")
    assert "does not support retained messages" in result.detail
    assert "retain = false" in result.fix


async def test_the_check_finds_a_broker_without_qos_1(tmp_path: Path) -> None:
    """The next step is about QoS, with the will and without it, before anything is sent."""
    with mosquitto(tmp_path, "max_qos 0") as broker:
        for retain in (True, False):
            for send in (True, False):
                result = await checked(broker, "5", send=send, retain=retain)
                assert result.status == "failed"
                assert "QoS 1" in result.fix


@pytest.mark.parametrize("protocol", PROTOCOLS)
async def test_the_check_leaves_nothing_behind(protocol: str, tmp_path: Path) -> None:
    """It removes what it publishes as retained; its will is never published."""
    with mosquitto(tmp_path) as broker:
        stage = Stage(broker, protocol)
        try:
            await until(stage.watcher.ready)
            assert (await checked(broker, protocol)).status == "good"
            assert stage.retained_now() == {}
            await until(lambda: len(stage.watcher.seen) >= 3)
            topics = {one.topic for one in stage.watcher.seen}
        finally:
            stage.watcher.close()
    assert topics == {"callcast/check/events/callcast.check", "callcast/check/check/state"}


async def test_the_check_sees_that_state_is_refused(tmp_path: Path) -> None:
    """Permission for events alone: the check names the topic that the broker does not permit."""
    acl = tmp_path / "acl"
    acl.write_text("user callcast\ntopic write callcast/+/events/#\n")
    with mosquitto(tmp_path, f"acl_file {acl}") as broker:
        result = await checked(broker, "5", username="callcast")
    assert result.status == "warning"
    assert "callcast/check/check/state" in result.detail
    assert "access rules" in result.fix
