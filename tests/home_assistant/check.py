"""Give the messages in messages.json to Home Assistant over a broker; `make home-assistant` runs this.

Home Assistant needs a newer Python than the project, so this runs in an environment of its own.
"""

import asyncio
import getpass
import json
import logging
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from homeassistant import config_entries, loader
from homeassistant.core import CoreState, HomeAssistant
from homeassistant.helpers import (
    area_registry,
    category_registry,
    device_registry,
    entity,
    entity_registry,
    floor_registry,
    frame,
    issue_registry,
    label_registry,
    restore_state,
    translation,
)
from paho.mqtt import client as paho

MESSAGES: dict[str, Any] = json.loads(Path(__file__).with_name("messages.json").read_text())
IDLE = {
    "sensor.reception_state": "idle",
    "sensor.reception_calls": "0",
    "sensor.reception_caller": "unknown",
    "binary_sensor.reception_ringing": "off",
    "sensor.callcast_acme_state": "idle",
    "sensor.callcast_acme_calls": "0",
    "binary_sensor.callcast_acme_ringing": "off",
    "binary_sensor.callcast_acme_polls_overdue": "off",
}
RINGING = IDLE | {
    "sensor.reception_state": "ringing",
    "sensor.reception_calls": "1",
    "binary_sensor.reception_ringing": "on",
    "sensor.callcast_acme_state": "ringing",
    "sensor.callcast_acme_calls": "1",
    "binary_sensor.callcast_acme_ringing": "on",
}
CONNECTED = {"sensor.reception_state": "connected", "binary_sensor.reception_ringing": "off"}
EXPECTED: Mapping[str, Mapping[str, str]] = {
    "idle": IDLE,
    "ringing": RINGING | {"sensor.reception_caller": "+16504306662"},
    "ringing_last4": RINGING | {"sensor.reception_caller": "***6662"},
    "ringing_drop": RINGING,
    "withheld": RINGING,
    "connected": CONNECTED | {"sensor.reception_caller": "+16504306662"},
}
WARNINGS: list[str] = []  # of the MQTT integration: a template that fails, a message that it does not accept
REGISTRIES = (
    area_registry,
    category_registry,
    device_registry,
    entity_registry,
    floor_registry,
    issue_registry,
    label_registry,
)


async def home_assistant(folder: Path, port: int) -> HomeAssistant:
    """Home Assistant with nothing but its MQTT integration."""
    (folder / "configuration.yaml").touch()
    hass = HomeAssistant(str(folder))
    hass.config.skip_pip = True
    hass.config.components |= {"file_upload", "http"}
    frame.async_setup(hass)
    loader.async_setup(hass)
    entity.async_setup(hass)
    translation.async_setup(hass)
    hass.config_entries = config_entries.ConfigEntries(hass, {})
    await hass.config_entries.async_initialize()
    for registry in REGISTRIES:
        await registry.async_load(hass)
    await restore_state.async_load(hass)
    hass.set_state(CoreState.running)
    entry = config_entries.ConfigEntry(
        data={"broker": "127.0.0.1", "port": port, "protocol": "5"},
        discovery_keys=MappingProxyType({}),
        domain="mqtt",
        minor_version=2,
        options={},
        source=config_entries.SOURCE_USER,
        subentries_data=(),
        title="broker",
        unique_id=None,
        version=1,
    )
    hass.config_entries._entries[entry.entry_id] = entry
    assert await hass.config_entries.async_setup(entry.entry_id), entry.reason
    return hass


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not true():  # noqa: ASYNC110 (polled from outside)
            await asyncio.sleep(0.05)


async def shows(hass: HomeAssistant, expected: Mapping[str, str]) -> None:
    """Wait until the entities have these states."""
    try:
        await until(lambda: expected.items() <= states(hass).items())
    except TimeoutError:
        raise AssertionError(f"expected {expected}, got {states(hass)}") from None


def states(hass: HomeAssistant) -> dict[str, str]:
    return {one.entity_id: one.state for one in hass.states.async_all()}


async def main(folder: Path, port: int) -> None:
    client = paho.Client(paho.CallbackAPIVersion.VERSION2)
    client.connect("127.0.0.1", port)
    client.loop_start()

    def publish(messages: Mapping[str, Any], retain: bool = True) -> None:
        for topic, message in messages.items():
            client.publish(topic, "" if message is None else json.dumps(message), 1, retain).wait_for_publish(20)

    publish(MESSAGES["devices"] | MESSAGES["states"]["ringing"] | {"callcast/status": {"state": "online"}})
    hass = await home_assistant(folder, port)
    for name in ("ringing", *EXPECTED):
        publish(MESSAGES["states"][name])
        await shows(hass, EXPECTED[name])
    caller = hass.states.get("sensor.reception_caller")
    assert caller is not None
    assert caller.attributes["number"] == "+16504306662"
    devices = {device.name: device for device in device_registry.async_get(hass).devices.values()}
    assert devices["Reception"].via_device_id == devices["callcast acme"].id
    event = MESSAGES["event"]
    publish({f"callcast/acme/{event['data']['extension_id']}/events/{event['type']}": event}, retain=False)
    await until(lambda: states(hass)["event.reception_call_event"] != "unknown")
    shown = hass.states.get("event.reception_call_event")
    assert shown is not None
    assert shown.attributes["event_type"] == event["type"]
    assert shown.attributes["call_id"] == event["data"]["call_id"]
    entities = states(hass)
    publish({"callcast/status": {"state": "offline"}})
    await shows(hass, dict.fromkeys(entities, "unavailable"))
    publish({"callcast/status": {"state": "online"}} | dict.fromkeys(MESSAGES["states"]["idle"]))
    await shows(hass, {one: state for one, state in IDLE.items() if one != "binary_sensor.callcast_acme_polls_overdue"})
    publish(dict.fromkeys(MESSAGES["devices"]))
    await until(lambda: not states(hass) and not device_registry.async_get(hass).devices)
    await hass.async_stop(force=True)
    client.disconnect()
    client.loop_stop()
    assert not WARNINGS, WARNINGS
    print(f"Home Assistant showed and removed {len(devices)} devices with {len(entities)} entities")


class Warnings(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        if record.name.startswith(("homeassistant.components.mqtt", "homeassistant.helpers.template")):
            WARNINGS.append(record.getMessage())


def run() -> None:
    logging.basicConfig(level=logging.WARNING, handlers=[Warnings()])
    program = shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin:/usr/local/sbin")
    assert program, "mosquitto is not installed"
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        config = folder / "mosquitto.conf"
        config.write_text(f"user {getpass.getuser()}\nlistener {port} 127.0.0.1\nallow_anonymous true\n")
        with subprocess.Popen([program, "-c", str(config)], stderr=subprocess.DEVNULL) as broker:
            try:
                while True:
                    with socket.socket() as sock:
                        if sock.connect_ex(("127.0.0.1", port)) == 0:
                            break
                asyncio.run(main(folder, port))
            finally:
                broker.kill()


run()
