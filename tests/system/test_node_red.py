"""Node-RED's own nodes receive the events: HTTP in those of a webhook, MQTT in those of a broker."""

import json
import os
import shutil
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from paho.mqtt import publish

from tests import TESTS
from tests.integration.sinks.brokers import mosquitto
from tests.ports import free_port
from tests.system.test_reload import Town, table
from tests.system.test_reload import town as town
from tests.system.world import SECRET, until

PROGRAM = TESTS / "node/node_modules/node-red/red.js"
PROBE = "callcast/probe/0/events/probe"
SETTINGS = """\
module.exports = {{
  flowFile: "flow.json", uiHost: "127.0.0.1", uiPort: {port}, httpAdminRoot: false, httpNodeRoot: "/",
  credentialSecret: false, logging: {{ console: {{ level: "fatal" }} }},
  functionGlobalContext: {{ out: process.stdout }},
}};
"""
WRITE = """\
const line = {{ node: "{node}", topic: msg.topic, type: msg.payload.type, id: msg.payload.id }};
global.get("out").write(JSON.stringify(line) + "\\n");
return msg;
"""


def need_node() -> str:
    """The path of node. Without it or Node-RED the test is skipped, or fails under CI=true."""
    program = shutil.which("node")
    if program is None or not PROGRAM.exists():
        reason = "Node-RED is not installed: install node, then npm ci --prefix tests/node"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    return program


def flow(broker_port: int) -> list[dict[str, Any]]:
    """HTTP in -> JSON -> write -> HTTP response, and MQTT in -> write. HTTP in leaves CloudEvents unparsed."""

    def node(name: str, kind: str, *to: str, **more: Any) -> dict[str, Any]:
        return {"id": name, "type": kind, "z": "tab", "name": name, "x": 0, "y": 0, "wires": [list(to)], **more}

    def write(name: str, source: str, *to: str) -> dict[str, Any]:
        code = WRITE.format(node=source)
        return node(name, "function", *to, func=code, outputs=1, initialize="", finalize="", libs=[])

    return [
        {"id": "tab", "type": "tab", "label": "events"},
        node("hook", "http in", "parse", url="/hook", method="post", upload=False),
        node("parse", "json", "write-hook", action="obj", property="payload", pretty=False),
        write("write-hook", "http in", "done"),
        node("done", "http response", statusCode="204", headers={}),
        node(
            "subscription", "mqtt in", "write-message", topic="callcast/+/+/events/+", qos="1", datatype="json",
            broker="broker", nl=False, rap=True, rh=0, inputs=0,
        ),
        write("write-message", "mqtt in"),
        {
            "id": "broker", "type": "mqtt-broker", "name": "", "broker": "127.0.0.1", "port": str(broker_port),
            "clientid": "node-red", "autoConnect": True, "usetls": False, "protocolVersion": "5", "keepalive": "60",
            "cleansession": True,
        },
    ]  # fmt: skip


@contextmanager
def node_red(folder: Path, broker_port: int) -> Iterator[tuple[int, list[dict[str, Any]]]]:
    """Its port, and what its nodes received."""
    program, port, received = need_node(), free_port(), []
    (folder / "flow.json").write_text(json.dumps(flow(broker_port)))
    (folder / "settings.js").write_text(SETTINGS.format(port=port))
    command = [program, str(PROGRAM), "--userDir", str(folder), "--settings", str(folder / "settings.js")]
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True) as process:

        def read() -> None:
            received.extend(json.loads(line) for line in process.stdout or () if line.startswith("{"))

        reader = threading.Thread(target=read, daemon=True)
        reader.start()
        try:
            yield port, received
        finally:
            process.kill()
            reader.join()


def subscribed(broker_port: int, received: list[dict[str, Any]]) -> bool:
    """True once a message that is not retained arrives."""
    publish.single(PROBE, '{"type": "probe"}', qos=1, hostname="127.0.0.1", port=broker_port)
    return any(one["topic"] == PROBE for one in received)


async def test_node_red_receives_events_from_a_webhook_and_from_a_broker(town: Town) -> None:
    """The same events arrive at both of its nodes; what is sent before it has started is retried."""
    folder = town.folder / "node-red"
    folder.mkdir()
    with mosquitto(town.folder) as broker, node_red(folder, broker.port) as (port, received):
        url = f"http://127.0.0.1:{port}/hook"
        hook = table("sinks.hook", {"type": "webhook", "url": url, "secrets": [SECRET]})
        home = table("sinks.home", {"type": "mqtt", "url": f"mqtt://127.0.0.1:{broker.port}"})

        def ids(node: str) -> set[str]:
            return {one["id"] for one in received if one["node"] == node and one["type"] == "call.ringing"}

        await town.start(town.head(), town.source(), hook, home)
        await until(lambda: subscribed(broker.port, received), "Node-RED's subscription")
        town.call()
        await until(lambda: bool(ids("http in")) and ids("http in") == ids("mqtt in"), "the event at both nodes")
        (topic,) = {one["topic"] for one in received if one["node"] == "mqtt in" and one["type"] == "call.ringing"}
        assert topic.endswith("/events/call.ringing")
