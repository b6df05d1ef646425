"""The environment of system tests: simulated platform, webhook receiver, broker, and the real callcast process."""

import asyncio
import json
import os
import signal
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp import web
from paho.mqtt import client as paho
from paho.mqtt.enums import CallbackAPIVersion
from standardwebhooks import Webhook

from callcast.simulator import Credential, Platform, SimulatedClock
from callcast.simulator.scenarios.seed import EXTENSION_ID, MOMENTS, Recording
from tests.integration.sinks.brokers import Broker, iotcore
from tests.ports import free_port

SECRET = "whsec_c2VjcmV0LXNlY3JldC1zZWNyZXQtc2VjcmV0"
WAIT_S = 30.0


async def until(true: Callable[[], bool], what: str) -> None:
    """Wait until a condition holds; fails with `what` after a generous time limit."""
    try:
        async with asyncio.timeout(WAIT_S):
            while not true():  # noqa: ASYNC110 (what is waited for lives in other processes)
                await asyncio.sleep(0.01)
    except TimeoutError:
        raise AssertionError(f"never saw: {what}") from None


class SeedStage:
    """Recorded responses; the test chooses when each one is shown."""

    def __init__(self) -> None:
        self.shown = -1
        self.clock = SimulatedClock(MOMENTS[0].replace(second=50))
        self.polls = 0
        self.recording = Recording(lambda _extension, _now: self.shown, self._polled)

    def _polled(self, _extension: str | None) -> None:
        self.polls += 1

    def show(self, number: int) -> None:
        moment = MOMENTS[min(number, len(MOMENTS) - 1)]
        self.clock.turn((moment - self.clock.now()).total_seconds())
        self.shown = number

    async def seen(self, polls: int = 2) -> None:
        """Wait for so many new polls, so that the first of them is complete."""
        target = self.polls + polls
        await until(lambda: self.polls >= target, f"{polls} more polls")


class Receiver:
    """A webhook receiver that verifies each signature with the official package and records events."""

    def __init__(self) -> None:
        self.events: list[dict[str, Any]] = []
        self.attempts: list[str] = []
        self.status = 204
        self.url = ""

    @asynccontextmanager
    async def listening(self, port: int = 0) -> AsyncIterator["Receiver"]:
        app = web.Application()
        app.router.add_post("/hook", self._take)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        try:
            await web.TCPSite(runner, "127.0.0.1", port).start()
            self.url = f"http://127.0.0.1:{runner.addresses[0][1]}/hook"
            yield self
        finally:
            await runner.cleanup()

    async def _take(self, request: web.Request) -> web.Response:
        body = await request.read()
        Webhook(SECRET).verify(body, dict(request.headers))
        self.attempts.append(request.headers["webhook-id"])
        if self.status == 204:
            self.events.append(json.loads(body))
        return web.Response(status=self.status)


class Subscriber:
    """An MQTT client that records events and retained messages by topic."""

    def __init__(self, port: int) -> None:
        self.events: list[tuple[str, dict[str, Any]]] = []
        self.retained: dict[str, bytes] = {}
        self._ready = threading.Event()
        self._client = paho.Client(CallbackAPIVersion.VERSION2, protocol=paho.MQTTv5)
        self._client.on_connect = lambda *_: self._client.subscribe([("callcast/#", 1), ("homeassistant/#", 1)])
        self._client.on_subscribe = lambda *_: self._ready.set()
        self._client.on_message = self._take
        self._client.connect("127.0.0.1", port)
        self._client.loop_start()
        assert self._ready.wait(WAIT_S)

    def _take(self, _client: object, _data: object, message: paho.MQTTMessage) -> None:
        if "/events/" in message.topic:
            self.events.append((message.topic, json.loads(message.payload)))
        elif message.payload:
            self.retained[message.topic] = message.payload
        else:
            self.retained.pop(message.topic, None)

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()


class Service:
    """A `callcast run` process."""

    def __init__(self, config: Path, url: str) -> None:
        self.config = config
        self.url = url
        self.lines: list[dict[str, Any]] = []
        self.arrived_at = 0.0  # of the last line, on time.perf_counter
        self.log: list[str] = []
        self.module = "callcast"
        self.environ: Mapping[str, str] = {}
        self._process: asyncio.subprocess.Process | None = None
        self._readers: list[asyncio.Task[None]] = []

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    async def start(self, environ: Mapping[str, str] | None = None) -> None:
        self._process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", self.module, "run", "--config", str(self.config)),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env={**os.environ, **self.environ, **(environ or {})},
            limit=1024 * 1024,
        )
        assert self._process.stdout is not None
        assert self._process.stderr is not None
        self._readers = [
            asyncio.create_task(self._read(self._process.stdout, self._take)),
            asyncio.create_task(self._read(self._process.stderr, lambda line: self.log.append(line.decode()))),
        ]

    async def ready(self) -> None:
        """Wait until /healthz responds."""
        async with aiohttp.ClientSession() as session, asyncio.timeout(WAIT_S):
            while True:
                assert self._process is not None
                assert self._process.returncode is None, "".join(self.log)
                try:
                    async with session.get(f"{self.url}/healthz") as answer:
                        if answer.status == 200:
                            return
                except aiohttp.ClientError:
                    await asyncio.sleep(0.02)

    async def kill(self) -> None:
        """Kill the process, as a power failure would."""
        assert self._process is not None
        self._process.kill()
        await self._over()

    async def stop(self) -> int:
        assert self._process is not None
        if self._process.returncode is None:
            self._process.send_signal(signal.SIGTERM)
        return await self._over()

    async def _over(self) -> int:
        assert self._process is not None
        async with asyncio.timeout(WAIT_S):
            code = await self._process.wait()
            await asyncio.gather(*self._readers)
        return code

    def _take(self, line: bytes) -> None:
        self.arrived_at = time.perf_counter()
        self.lines.append(json.loads(line))

    @staticmethod
    async def _read(stream: asyncio.StreamReader, take: Callable[[bytes], None]) -> None:
        async for line in stream:
            take(line)


class World:
    """A service with its remote sides."""

    def __init__(self, stage: SeedStage, receiver: Receiver, broker: Broker, subscriber: Subscriber) -> None:
        self.stage = stage
        self.receiver = receiver
        self.broker = broker
        self.subscriber = subscriber
        self.service: Service

    def webhook_ids(self) -> list[str]:
        return [event["id"] for event in self.receiver.events]

    def mqtt_ids(self) -> list[str]:
        return [event["id"] for _, event in self.subscriber.events]

    def stdout_ids(self) -> list[str]:
        return [event["id"] for event in self.service.lines]

    async def delivered(self, count: int) -> None:
        """Wait until each sink has received so many different events."""
        for name, ids in (("webhook", self.webhook_ids), ("mqtt", self.mqtt_ids), ("stdout", self.stdout_ids)):
            await until(lambda ids=ids: len(set(ids())) >= count, f"{count} events at {name}, only {len(ids())}")  # type: ignore[misc]


CONFIG = """\
[service]
data_dir = "{data}"
http_listen = "127.0.0.1:{port}"
numbers = "full"
log_format = "json"

[sources.acme]
server = "{server}"
client_id = "{credential.client_id}"
client_secret = "{credential.client_secret}"
jwt = "{credential.jwt}"
{watch}
poll_interval_s = 0.1
heavy_per_minute = 10000

[sinks.crm]
type = "webhook"
url = "{hook}"
secrets = ["{secret}"]

[sinks.wall]
type = "mqtt"
url = "mqtt://127.0.0.1:{mqtt}"

[sinks.lines]
type = "stdout"
"""


@asynccontextmanager
async def seed_world(folder: Path, *, watch: str = "extensions") -> AsyncIterator[World]:
    """The simulated platform, three remote sides, and a configuration for them; the service is not started."""
    stage, credential, port = SeedStage(), Credential(), free_port()
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(Platform(stage.recording, clock=stage.clock).serve())
        receiver = await stack.enter_async_context(Receiver().listening())
        broker = stack.enter_context(iotcore(folder, "5"))
        subscriber = Subscriber(broker.port)
        stack.callback(subscriber.close)
        wanted = 'watch = "account"' if watch == "account" else f'extensions = ["{EXTENSION_ID}"]'
        config = folder / "callcast.toml"
        config.write_text(
            CONFIG.format(
                data=folder / "data",
                port=port,
                server=server,
                credential=credential,
                watch=wanted,
                hook=receiver.url,
                secret=SECRET,
                mqtt=broker.port,
            )
        )
        world = World(stage, receiver, broker, subscriber)
        world.service = Service(config, f"http://127.0.0.1:{port}")
        try:
            yield world
        finally:
            await world.service.stop() if world.service._process else None
