"""Real remote sides for the built-in sinks, controlled by the test."""

import asyncio
import json
import os
import select
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager, asynccontextmanager, suppress
from pathlib import Path
from typing import Literal, get_args

from aiohttp import web
from paho.mqtt import client as paho
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion

from callcast.ports.sink import Sink, SinkContext
from callcast.settings.secret import Secret
from callcast.sinks import mqtt as mqtt_sink
from callcast.sinks import stdout, webhook
from callcast.sinks.webhook.presets import FormatName
from callcast.testing import Mode, RemoteSide, until
from tests.integration.sinks.brokers import Broker, mosquitto
from tests.ports import free_port

Protocol = Literal["5", "3.1.1"]
PROTOCOLS: tuple[Protocol, ...] = get_args(Protocol)
SIGNING_SECRET = "whsec_" + "c2VjcmV0LXNlY3JldC1zZWNyZXQtc2VjcmV0"
URL_TOKEN = "token-in-the-url"
HEADER_TOKEN = "token-in-a-header"


class HttpRemoteSide(RemoteSide):
    """A web server that records requests. `answers` holds the response status of each mode."""

    accepts_with = 204
    refuses_with = 413

    def __init__(self) -> None:
        self.port = free_port()
        self.requests: list[web.Request] = []
        self.bodies: list[bytes] = []
        self._ids: list[str] = []
        self._mode: Mode = "accepting"
        self._runner: web.AppRunner | None = None
        self._released = asyncio.Event()
        self._reached = asyncio.Event()

    def event_id(self, request: web.Request, _body: bytes) -> str:
        return request.headers["webhook-id"]

    def received(self) -> Sequence[str]:
        return self._ids

    async def become(self, mode: Mode, /) -> None:
        self._mode = mode
        self._reached.clear()
        if mode == "holding":
            self._released.clear()
        else:
            self._released.set()
        if mode == "down":
            await self.stop()
        elif self._runner is None:
            await self._start()

    async def reached(self) -> None:
        await self._reached.wait()

    async def stop(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    async def _start(self) -> None:
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._take)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1, access_log=None)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", self.port).start()

    async def _take(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        self._reached.set()
        await self._released.wait()
        if self._mode == "refusing":
            return web.Response(status=self.refuses_with)
        self.requests.append(request)
        self.bodies.append(body)
        self._ids.append(self.event_id(request, body))
        return web.Response(status=self.accepts_with)


@asynccontextmanager
async def preset_remote_side(product: FormatName) -> AsyncIterator[HttpRemoteSide]:
    remote_side = HttpRemoteSide()
    url = Secret(f"http://127.0.0.1:{remote_side.port}/hooks/{URL_TOKEN}")
    remote_side.settings = webhook.Settings(url=url, format=product, timeout_s=0.5)
    remote_side.secrets = (URL_TOKEN,)
    try:
        yield remote_side
    finally:
        await remote_side.become("down")


@asynccontextmanager
async def webhook_remote_side() -> AsyncIterator[HttpRemoteSide]:
    remote_side = HttpRemoteSide()
    remote_side.settings = webhook.Settings(
        url=Secret(f"http://127.0.0.1:{remote_side.port}/hooks/{URL_TOKEN}?key={URL_TOKEN}"),
        secrets=(Secret(SIGNING_SECRET),),
        headers={"x-team": Secret(HEADER_TOKEN)},
        timeout_s=0.5,
    )
    remote_side.secrets = (SIGNING_SECRET, SIGNING_SECRET.removeprefix("whsec_"), URL_TOKEN, HEADER_TOKEN)
    try:
        yield remote_side
    finally:
        await remote_side.become("down")


class MqttRemoteSide(RemoteSide):
    """A broker, and a subscriber that records event ids."""

    def __init__(self, broker: Broker, protocol: Protocol, url: str = "") -> None:
        self.broker = broker
        self.can_refuse = protocol == "5" and broker.refuse is not None  # 3.1.1 has no reason codes
        self.settings = mqtt_sink.Settings(
            url=url or f"mqtt://127.0.0.1:{broker.port}",
            username="callcast",
            password=Secret("password-of-the-broker"),
            protocol=protocol,
            timeout_s=1.0,
        )
        self.secrets = ("password-of-the-broker",)
        self._ids: list[str] = []
        self._watcher: Watcher | None = None

    def received(self) -> Sequence[str]:
        return list(self._ids)

    async def become(self, mode: Mode, /) -> None:
        if mode == "holding":
            return self.broker.freeze()
        self.broker.thaw()
        if mode in ("down", "refusing"):
            self._stop()
        if mode == "refusing" and self.broker.refuse is not None:
            self.broker.refuse()
        if mode != "down" and self._watcher is None:
            self.broker.start()
            self._watcher = Watcher(self.broker.port, self.settings.protocol, "callcast/+/+/events/+", self._note)
            self._watcher.subscribe("callcast/+/events/+")
            await until(self._watcher.ready)
        return None

    def _stop(self) -> None:
        if self._watcher is not None:
            self._watcher.close()
            self._watcher = None
        self.broker.stop()

    def _note(self, message: paho.MQTTMessage) -> None:
        self._ids.append(json.loads(message.payload)["id"])


@asynccontextmanager
async def mqtt_remote_side(
    running: Callable[[Path], AbstractContextManager[Broker]], protocol: Protocol, folder: Path
) -> AsyncIterator[MqttRemoteSide]:
    with running(folder) as broker:
        remote_side = MqttRemoteSide(broker, protocol)
        yield remote_side
        await remote_side.become("down")


@asynccontextmanager
async def websocket_remote_side(folder: Path) -> AsyncIterator[MqttRemoteSide]:
    """A broker that the sink reaches over WebSocket."""
    port = free_port()
    with mosquitto(folder, f"listener {port} 127.0.0.1", "protocol websockets") as broker:
        remote_side = MqttRemoteSide(broker, "5", f"ws://127.0.0.1:{port}/mqtt")
        yield remote_side
        await remote_side.become("down")


class Watcher:
    """A subscriber. `seen` holds every message, the newest of each topic last."""

    def __init__(self, port: int, protocol: str, topic: str = "callcast/#", note: object = None) -> None:
        version = MQTTProtocolVersion.MQTTv5 if protocol == "5" else MQTTProtocolVersion.MQTTv311
        self.seen: list[paho.MQTTMessage] = []
        self._asked = self._granted = 0
        self._client = paho.Client(CallbackAPIVersion.VERSION2, protocol=version)
        self._client.on_message = self._hear
        self._client.on_subscribe = self._subscribed
        self._note = note
        self._client.connect("127.0.0.1", port)
        self._client.loop_start()
        self.subscribe(topic)

    def subscribe(self, topic: str) -> None:
        self._asked += 1
        self._client.subscribe(topic, qos=1)

    def ready(self) -> bool:
        return self._granted >= self._asked

    def latest(self) -> dict[str, bytes]:
        return {message.topic: message.payload for message in list(self.seen) if message.payload}

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()
        self._client.on_message = self._client.on_subscribe = None

    def _subscribed(self, *_: object) -> None:
        self._granted += 1

    def _hear(self, _client: object, _data: object, message: paho.MQTTMessage) -> None:
        self.seen.append(message)
        if callable(self._note):
            self._note(message)


class FifoReader(RemoteSide):
    """A named pipe whose reader can be absent, stop reading, and return."""

    can_refuse = False
    settings: stdout.Settings

    def __init__(self, path: Path) -> None:
        os.mkfifo(path)
        self.settings = stdout.Settings(timeout_s=0.5)
        self._path = path
        self._text = b""
        self._reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        self.file = path.open("wb", buffering=0)
        os.close(self._reader)
        self._reader = -1

    def open(self, context: SinkContext, /) -> AbstractAsyncContextManager[Sink]:
        return self.settings.open_on(self.file, context)

    def received(self) -> Sequence[str]:
        return [json.loads(line)["id"] for line in self.lines()]

    def lines(self) -> list[bytes]:
        """The complete lines, without the filler that the test wrote into the pipe."""
        return self._text.replace(b"\0", b"").split(b"\n")[:-1]

    async def become(self, mode: Mode, /) -> None:
        loop = asyncio.get_running_loop()
        if self._reader < 0 and mode != "down":
            self._reader = os.open(self._path, os.O_RDONLY | os.O_NONBLOCK)
        if self._reader >= 0:
            loop.remove_reader(self._reader)
        if mode == "down" and self._reader >= 0:
            os.close(self._reader)
            self._reader = -1
        if mode == "holding":
            self.fill()
        if mode == "accepting":
            loop.add_reader(self._reader, self._read)

    def fill(self, *, leave: int = 0) -> None:
        """Fill the pipe, except for some bytes (whole pages)."""
        descriptor = os.open(self._path, os.O_WRONLY | os.O_NONBLOCK)
        with suppress(BlockingIOError):
            while True:
                os.write(descriptor, b"\0" * select.PIPE_BUF)
        os.close(descriptor)
        if leave:
            os.read(self._reader, leave)

    def _read(self) -> None:
        with suppress(BlockingIOError):
            while piece := os.read(self._reader, 65_536):
                self._text += piece

    async def close(self) -> None:
        await self.become("down")
        self.file.close()


@asynccontextmanager
async def fifo_remote_side(folder: Path) -> AsyncIterator[FifoReader]:
    remote_side = FifoReader(folder / "lines")
    try:
        yield remote_side
    finally:
        await remote_side.close()
