"""Discovery by Home Assistant: the devices that it is given, on a real broker.

`make home-assistant` gives the expected messages, `tests/home_assistant/messages.json`, to Home Assistant's own code.
`python -m tests.integration.sinks.test_home_assistant` writes them anew.
"""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from msgspec import structs
from pydantic import ValidationError

from callcast.calls.model import Call, Party, State
from callcast.formats.cloudevents import Wire
from callcast.ports.sink import Delivered, Filter
from callcast.sinks.mqtt import Settings
from callcast.sinks.mqtt.home_assistant import Devices
from callcast.sinks.mqtt.retained_topics import RetainedTopics
from callcast.sinks.mqtt.wire import Topics
from callcast.testing import call, delivery, event, until
from tests import TESTS
from tests.integration.sinks.brokers import mosquitto
from tests.integration.sinks.certificates import Certificates
from tests.integration.sinks.test_mqtt import EXTENSION, PROTOCOLS, InMemoryLiveCalls, Stage, _publish
from tests.integration.sinks.test_mqtt import broker as broker
from tests.integration.sinks.test_mqtt import protocol as protocol
from tests.integration.sinks.test_mqtt import stage as stage

MESSAGES = TESTS / "home_assistant" / "messages.json"
NAMES = {EXTENSION: "Reception"}
DEVICE = f"homeassistant/device/callcast/acme-{EXTENSION}/config"
SOURCE_DEVICE = "homeassistant/device/callcast/acme/config"


def published(*live: Call, numbers: str = "full", names: dict[str, str] | None = None) -> dict[str, Any]:
    """All retained topics with these live calls."""
    live_calls, topics, wire = InMemoryLiveCalls(), Topics("callcast"), Wire(numbers, b"key", "sink")  # type: ignore[arg-type]
    for each in live:
        live_calls.turn(each)
    devices = Devices(topics, ("*",), wire.numbers, "1.2.3")
    retained = RetainedTopics(topics, wire, Filter(), 60, devices)
    retained.mirror(live_calls, 0)
    retained.describe(live_calls, NAMES if names is None else names)
    return {topic: json.loads(text) for topic, text in retained.wanted.items()}


def messages() -> dict[str, Any]:
    """What Home Assistant gets: devices, states while calls ring, are connected and are over, and an event."""
    withheld = structs.replace(call(1), from_party=Party())
    connected = call(1, state=State.CONNECTED)
    situations = {"idle": published(), "ringing": published(call(1)), "withheld": published(withheld)}
    situations["connected"] = published(connected)
    for numbers in ("last4", "hash", "drop"):
        situations[f"ringing_{numbers}"] = published(call(1), numbers=numbers)
    states = {
        name: {topic: message for topic, message in sorted(all_.items()) if "/calls/" not in topic}
        for name, all_ in situations.items()
    }
    devices = {topic: message for topic, message in states["idle"].items() if topic.startswith("homeassistant/")}
    for retained in states.values():
        for topic in devices:
            del retained[topic]
    return {"devices": devices, "states": states, "event": json.loads(Wire().event(event()))}


def test_the_messages_are_those_that_home_assistant_was_given() -> None:
    """If this fails: write them anew, run `make home-assistant`, and judge the difference."""
    assert json.loads(MESSAGES.read_text()) == messages()


@pytest.mark.parametrize("numbers", ["full", "last4", "hash", "drop"])
def test_numbers_and_names_follow_the_policy(numbers: str) -> None:
    """No topic and no retained message holds a number that `numbers` masks; `hash` and `drop` leave out names too."""
    shown = published(call(1), numbers=numbers)
    assert ("6504306662" in json.dumps(shown)) == (numbers == "full")
    assert "6504306662" not in "".join(shown)
    name = "Reception" if numbers in ("full", "last4") else f"Extension {EXTENSION}"
    assert shown[DEVICE]["device"]["name"] == name


def test_an_event_that_the_sink_does_not_get_has_no_entity() -> None:
    """The event entity lists the types that `events` admits; without one it is removed."""
    devices = Devices(Topics("callcast"), ("call.ended", "call.r*"), "full", "1.2.3")
    of_extension = json.loads(devices.message(("acme", "101"), {}))["components"]["event"]
    assert of_extension["event_types"] == ["call.ringing", "call.ended"]
    assert json.loads(devices.message(("acme", ""), {}))["components"]["event"] == {"platform": "event"}


def test_sinks_with_different_topics_have_different_devices() -> None:
    """The devices of one sink are never those of another, whatever characters the topics have."""
    prefixes = ["a/b", "a_b", "a-b", "a_2Fb", "ä", "a b"]
    assert len({Topics(prefix).device("acme") for prefix in prefixes}) == len(prefixes)
    for prefix in prefixes:
        devices = Devices(Topics(prefix), ("*",), "full", "1.2.3")
        for owner in (("acme", ""), ("acme_2", "101")):
            assert devices.owner(devices.topic(owner)) == owner
    assert Devices(Topics("a"), ("*",), "full", "1.2.3").owner(Topics("b").device("acme")) is None


def test_discovery_needs_retained_messages() -> None:
    with pytest.raises(ValidationError, match="needs retained messages"):
        Settings(url="mqtts://h", retain=False, discovery="homeassistant")


async def test_devices_are_retained_and_renamed(stage: Stage) -> None:
    """A device per source and extension; a name that a reload changes arrives without a new connection."""
    async with stage.sink(discovery="homeassistant"):
        stage.watcher.subscribe("homeassistant/#")
        shown = await stage.shows(DEVICE)
        assert shown["device"]["name"] == f"Extension {EXTENSION}"
        assert (await stage.shows(SOURCE_DEVICE))["device"]["name"] == "callcast acme"
        stage.names.update(NAMES)
        stage.live_calls.turn(call(1))
        await stage.shows(DEVICE, lambda shown: shown["device"]["name"] == "Reception")
        assert stage.retained_now().keys() >= {DEVICE, SOURCE_DEVICE}
    assert DEVICE in stage.retained_now()  # a stop removes nothing; the status says offline


async def test_after_an_outage_the_devices_are_published_again(stage: Stage) -> None:
    """A broker that lost its retained messages has the devices again after the reconnect."""
    async with stage.sink(discovery="homeassistant"):
        stage.watcher.subscribe("homeassistant/#")
        await stage.shows(DEVICE)
        stage.broker.stop()
        stage.watcher.seen.clear()
        stage.broker.start()
        await until(lambda: stage.retained_now().keys() >= {DEVICE, SOURCE_DEVICE})


async def test_an_extension_that_is_no_longer_watched_loses_its_device(stage: Stage) -> None:
    async with stage.sink(discovery="homeassistant"):
        stage.watcher.subscribe("homeassistant/#")
        await stage.shows(DEVICE)
        stage.live_calls.ids = []
        stage.live_calls.turn(call(2, state=State.ENDED))
        await stage.shows(DEVICE, lambda shown: shown is None)
        assert SOURCE_DEVICE in stage.retained_now()


async def test_a_device_stays_until_its_extension_is_known_to_be_unwatched(stage: Stage) -> None:
    """After a restart the extensions are not known at once. Home Assistant would delete the device meanwhile."""
    kept, gone = (f"homeassistant/device/callcast/{name}-101/config" for name in ("acme", "former"))
    _publish(stage.broker, kept, gone, "callcast/acme/101/state")
    stage.live_calls.certain = False
    async with stage.sink(discovery="homeassistant"):
        stage.watcher.subscribe("homeassistant/#")
        await stage.shows(gone, lambda shown: shown is None)
        await stage.shows(kept, lambda shown: shown["origin"]["name"] == "callcast")
        await stage.shows("callcast/acme/101/state", lambda shown: shown and shown["state"] == "idle")
        assert not [m for m in stage.watcher.seen if m.topic in (kept, "callcast/acme/101/state") and not m.payload]
        stage.live_calls.certain = True
        stage.live_calls.turn(call(2, state=State.ENDED))
        await stage.shows(kept, lambda shown: shown is None)
        await stage.shows("callcast/acme/101/state", lambda shown: shown is None)


async def test_discovery_that_is_switched_off_removes_the_devices(stage: Stage) -> None:
    """Those of this sink; the devices of other sinks and programs stay."""
    others = ["homeassistant/device/other/acme/config", "homeassistant/device/callcast/config"]
    _publish(stage.broker, DEVICE, SOURCE_DEVICE, *others)
    async with stage.sink():
        stage.watcher.subscribe("homeassistant/#")
        for topic in (DEVICE, SOURCE_DEVICE):
            await stage.shows(topic, lambda shown: shown is None)
        assert stage.retained_now().keys() >= set(others)
    assert not stage.retained_now().keys() & {DEVICE, SOURCE_DEVICE}


async def test_a_removed_sink_leaves_nothing_behind(stage: Stage) -> None:
    """Its devices and its retained state go, unless another sink has its topic."""
    settings = stage.settings(discovery="homeassistant")
    _publish(stage.broker, "homeassistant/device/other/acme/config")
    stage.live_calls.turn(call(1))
    async with settings.open(stage.context()) as sink:
        assert await sink.send(delivery()) == Delivered()
        await until(lambda: stage.retained_now().keys() >= {DEVICE, "callcast/acme/summary"})
    before = stage.retained_now()
    await settings.removed(stage.context(), [stage.settings(client_id="other")])
    assert stage.retained_now() == before
    await settings.removed(stage.context(), [stage.settings(topic="elsewhere")])
    assert stage.retained_now().keys() == {"homeassistant/device/other/acme/config"}
    assert stage.logged == []


async def test_a_removed_sink_reports_what_it_cannot_remove(
    stage: Stage, tmp_path: Path, certificates: Certificates
) -> None:
    """The broker is away, or a certificate file has gone: the log names the topic, the cause and what to do."""
    ca = Path(shutil.copy(certificates.ca, tmp_path))
    with_file = stage.settings(tls_ca=str(ca))
    ca.unlink()  # noqa: ASYNC240 (a small file)
    await with_file.removed(stage.context(), [])
    stage.broker.stop()
    await stage.settings(discovery="homeassistant").removed(stage.context(), [])
    details = [facts["detail"] for _, facts in stage.logged]
    assert [name for name, _ in stage.logged] == ["mqtt_state_left_behind"] * 2
    assert "No such file" in str(details[0])
    assert all(facts["topic"] == "callcast" and "remove" in str(facts["hint"]) for _, facts in stage.logged)


@pytest.mark.parametrize("protocol", PROTOCOLS)
async def test_without_permission_for_discovery_everything_else_works(tmp_path: Path, protocol: str) -> None:
    """A broker that permits only the sink's own topics: events, state and the removal of stale state go on."""
    acl = tmp_path / "acl"
    acl.write_text("topic readwrite callcast/#\ntopic read homeassistant/#\n")
    with mosquitto(tmp_path, f"acl_file {acl}", "allow_zero_length_clientid true") as broker:
        one = Stage(broker, protocol)
        _publish(broker, "callcast/acme/999/state")
        async with one.sink(discovery="homeassistant") as sink:
            await one.shows("callcast/acme/999/state", lambda shown: shown is None)
            assert await sink.send(delivery()) == Delivered()
            if protocol == "5":
                assert "homeassistant/" in str((await one.logs("mqtt_state_refused"))["topic"])
        one.watcher.close()


if __name__ == "__main__":
    MESSAGES.write_text(json.dumps(messages(), indent=1, ensure_ascii=False) + "\n")
