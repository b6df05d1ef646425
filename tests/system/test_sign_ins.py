"""Many sources of one application: the real process against a platform that counts token requests per application."""

import asyncio
import json
import stat
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from callcast.simulator import Credential, Limits, Platform, SimulatedClock
from callcast.simulator.scenarios import busy
from tests.effort import tries
from tests.ports import free_port
from tests.system.world import WAIT_S, Service, until

SOURCES = tries(5, 12)  # each four take a minute
READY_S = 60.0 * (SOURCES // 4) + WAIT_S
CONFIG = """\
[service]
data_dir = "{data}"
http_listen = "127.0.0.1:{port}"
log_format = "json"

[sinks.lines]
type = "stdout"
"""
SOURCE = """
[sources.phone_{number}]
server = "{server}"
client_id = "{credential.client_id}"
client_secret = "{credential.client_secret}"
jwt = "{credential.jwt}"
"""


class Town:
    def __init__(self, platform: Platform, service: Service, tokens: Path) -> None:
        self.platform = platform
        self.service = service
        self.tokens = tokens

    def token_requests(self) -> int:
        return sum(request.path.endswith("/oauth/token") for request in self.platform.requests)

    def refused(self) -> list[str]:
        return [request.path for request in self.platform.requests if request.status in (401, 429)]

    def degraded(self) -> list[Any]:
        return [line for line in self.service.lines if line["type"] == "source.degraded"]

    async def ready(self, *, seen: Callable[[Sequence[str]], None] = lambda _: None) -> None:
        """Until /readyz says so; `seen` is shown each answer's reasons."""
        async with aiohttp.ClientSession() as session, asyncio.timeout(READY_S):
            while True:
                async with session.get(f"{self.service.url}/readyz") as answer:
                    body = await answer.json()
                    seen(body["reasons"])
                    if answer.status == 200:
                        return
                await asyncio.sleep(0.05)


@asynccontextmanager
async def town(folder: Path) -> AsyncIterator[Town]:
    clock, port = SimulatedClock(), free_port()
    story = busy(clock.now(), SOURCES, 1)
    users = [
        Credential(jwt=f"jwt-{number}", extension_id=one, admin=False)
        for number, one in enumerate(story.extension_ids())
    ]
    platform = Platform(story, clock=clock, credentials=users, limits=Limits())
    async with platform.serve() as server:
        config = folder / "callcast.toml"
        text = CONFIG.format(data=folder / "data", port=port)
        for number, user in enumerate(users):
            text += SOURCE.format(number=number, server=server, credential=user)
        config.write_text(text)
        here = Town(platform, Service(config, f"http://127.0.0.1:{port}"), folder / "data" / "tokens.json")
        try:
            yield here
        finally:
            await here.service.stop()


@pytest.mark.timeout(600)
async def test_many_sources_start_without_a_refusal_and_restarts_blind_none(tmp_path: Path) -> None:
    """Four sign in at a time; who waits says how many are ahead, and is not degraded. Killed three times, all go on."""
    reasons: list[str] = []
    async with town(tmp_path) as here:
        await here.service.start()
        await here.service.ready()
        await here.ready(seen=reasons.extend)
        waited = {reason.partition(": ")[2] for reason in reasons if "waiting" in reason}
        assert {f"waiting to sign in, {ahead} ahead" for ahead in range(SOURCES - 4)} <= waited
        assert here.token_requests() == SOURCES
        # A token that is granted and not yet on the disk is requested again after a kill.
        await until(lambda: len(json.loads(here.tokens.read_bytes())["tokens"]) == SOURCES, "all tokens on the disk")
        assert stat.S_IMODE(here.tokens.stat().st_mode) == 0o600
        for _ in range(3):
            await here.service.kill()
            await here.service.start()
            await here.service.ready()
            await here.ready()
        assert here.token_requests() == SOURCES
        assert here.refused() == []
        assert here.degraded() == []
        assert await here.service.stop() == 0
        assert not [line for line in here.service.log if "token_refused" in line or "poll_failed" in line]
