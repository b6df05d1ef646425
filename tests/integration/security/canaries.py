"""A service whose secrets and numbers are all marked, with remote sides that echo what they receive."""

import base64
import json
import re
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aiohttp import web

from callcast.simulator import Credential, Fault, Platform
from callcast.simulator.scenarios.seed import EXTENSION_ID
from tests.ports import free_port
from tests.system.world import SeedStage, Service

SIGNING = "whsec_" + base64.b64encode(b"canary-signing-canary-signing").decode()
OTHER_SIGNING = "whsec_" + base64.b64encode(b"canary-another-canary-another").decode()
CREDENTIAL = Credential(client_secret="canary-client-secret", jwt="canary.jwt.assertion")
HTTP_TOKEN = "canary-http-token"
SECRETS = {
    "client secret": CREDENTIAL.client_secret,
    "jwt": CREDENTIAL.jwt,
    "signing secret": SIGNING,
    "second signing secret": OTHER_SIGNING,
    "signing key": "canary-signing-canary-signing",
    "url token": "canary-url-token",
    "url user": "canary-url-user",
    "url password": "canary-url-password",
    "header token": "canary-header-token",
    "mqtt password": "canary-mqtt-password",
    "http token": HTTP_TOKEN,
    "hash key": "canary-hash-key",
}
NUMBER = re.compile(r"(?<!\d)\+?1?(6504306662|6502886382|6502223366|6504223366|4155550199)(?!\d)")
CANARY_NUMBER = "+14155550199"  # in the answers of remote sides


STATUSES = (500, 401, 302, 413, 429, 410)


class Echo:
    """A receiver that echoes headers, address and body, with the status that its path gives."""

    def __init__(self) -> None:
        self.answered: set[int] = set()

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[int]:
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._take)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        try:
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            yield runner.addresses[0][1]
        finally:
            await runner.cleanup()

    async def _take(self, request: web.Request) -> web.Response:
        body, status = await request.read(), int(request.path.split("/")[1])
        self.answered.add(status)
        text = f"{request.method} {request.raw_path}\n{dict(request.headers)}\n{body.decode()}\n{CANARY_NUMBER}\n"
        headers = {"Location": f"http://127.0.0.1:1/{SECRETS['url token']}"} if status == 302 else {}
        return web.Response(status=status, text=text, headers=headers, reason=f"Canary {SECRETS['url token']}")


CONFIG = """\
[service]
data_dir = "{data}"
http_listen = "127.0.0.1:{port}"
http_token = "{token}"
hash_key = "canary-hash-key"
numbers = "last4"
log_level = "debug"
log_format = "{style}"

[sources.acme]
server = "{server}"
client_id = "{credential.client_id}"
client_secret = "{credential.client_secret}"
jwt = "{credential.jwt}"
extensions = ["{extension}"]
poll_interval_s = 0.1
heavy_per_minute = 10000

{receivers}
[sinks.dead]
type = "webhook"
url = "http://127.0.0.1:{closed}/canary-url-token"
secrets = ["{signing}"]

[sinks.broker]
type = "mqtt"
url = "mqtt://127.0.0.1:{mqtt}"
username = "callcast"
password = "canary-mqtt-password"

[sinks.nobroker]
type = "mqtt"
url = "mqtt://127.0.0.1:{closed}"
username = "callcast"
password = "canary-mqtt-password"
topic = "elsewhere"

[sinks.raising]
type = "canary"
key = "canary-header-token"
events = ["call.ended"]

[names]
{extension} = "Reception"
"""

RECEIVER = """\
[sinks.crm{status}]
type = "webhook"
url = "http://canary-url-user:canary-url-password@127.0.0.1:{hook}/{status}/canary-url-token?key=canary-url-token"
secrets = ["{signing}", "{other}"]
headers = {{ X-Key = "Bearer canary-header-token" }}
"""

RAISING = '''
"""A sink that fails with all of its data in the exception."""

from contextlib import asynccontextmanager
from typing import Literal

from callcast.settings.secret import Secret
from callcast.sinks import SinkSettings


class Settings(SinkSettings):
    type: Literal["canary"] = "canary"
    key: Secret

    @asynccontextmanager
    async def open(self, place):
        yield Raising(self, place)


class Raising:
    def __init__(self, settings, place):
        self._settings, self._place = settings, place

    async def send(self, delivery):
        kept = {"settings": self._settings, "number": delivery.event.call.from_party}
        raise RuntimeError(f"cannot send {delivery.event} of {kept} with {self._settings!r}")
'''


def install(folder: Path) -> None:
    """Write the raising sink as a package for PYTHONPATH."""
    (folder / "callcast_canary.py").write_text(RAISING)
    metadata = folder / "callcast_canary-1.0.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: callcast-canary\nVersion: 1.0.0\n")
    (metadata / "entry_points.txt").write_text("[callcast.sinks]\ncanary = callcast_canary:Settings\n")


@dataclass
class Output:
    """All output, by its place."""

    texts: dict[str, str] = field(default_factory=dict)

    def add(self, where: str, text: str) -> None:
        self.texts[where] = self.texts.get(where, "") + text

    def leaks(self, platform: Platform) -> list[str]:
        """Leaked secrets: the place, the name of the secret, and the text around it."""
        marked = {**SECRETS, **tokens(platform)}
        found = []
        looked_for = [(name, form) for name, canary in marked.items() for form in forms(canary)]
        for where, text in self.texts.items():
            found += [
                f"{name} in {where}: {around(text, text.index(form))}" for name, form in looked_for if form in text
            ]
            found += [f"a number in {where}: {around(text, match.start())}" for match in NUMBER.finditer(text)]
        return found


def tokens(platform: Platform) -> dict[str, str]:
    return {f"access token {n}": one.access_token for n, one in enumerate(platform.tokens._sessions)}


def forms(canary: str) -> set[str]:
    """The secret as text, as base64 (Basic), and as hexadecimal bytes."""
    basic = base64.b64encode(f"{CREDENTIAL.client_id}:{canary}".encode()).decode()
    return {canary, basic, base64.b64encode(canary.encode()).decode(), canary.encode().hex()}


def around(text: str, at: int) -> str:
    return json.dumps(text[max(0, at - 120) : at + 120])


@dataclass
class House:
    folder: Path
    stage: SeedStage
    platform: Platform
    echo: Echo
    service: Service
    environ: dict[str, str]
    output: Output = field(default_factory=Output)

    def strike(self, kind: Any, path: str = "*active-calls*", **facts: Any) -> int:
        return self.platform.strike(Fault(kind=kind, path=path, **facts))


@asynccontextmanager
async def house(folder: Path, *, broker_port: int, style: str = "json") -> AsyncIterator[House]:
    """Start everything but the service; the folder `site` contains the raising sink."""
    stage, echo, port = SeedStage(), Echo(), free_port()
    site = folder / "site"
    site.mkdir()
    install(site)
    async with AsyncExitStack() as stack:
        platform = Platform(stage.recording, clock=stage.clock, credentials=[CREDENTIAL])
        server = await stack.enter_async_context(platform.serve())
        hook = await stack.enter_async_context(echo.listening())
        config = folder / "callcast.toml"
        values = {"data": folder / "data", "port": port, "token": HTTP_TOKEN, "style": style, "server": server}
        values |= {"credential": CREDENTIAL, "extension": EXTENSION_ID, "hook": hook, "signing": SIGNING}
        values |= {"other": OTHER_SIGNING, "closed": free_port(), "mqtt": broker_port}
        values["receivers"] = "".join(RECEIVER.format(status=status, **values) for status in STATUSES)
        config.write_text(CONFIG.format(**values))
        service = Service(config, f"http://127.0.0.1:{port}")
        made = House(folder, stage, platform, echo, service, {"PYTHONPATH": str(site)})
        try:
            yield made
        finally:
            await service.stop() if service._process else None
