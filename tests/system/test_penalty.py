"""A crash loop in the middle of a penalty: the platform's request log is the witness."""

import asyncio
import sqlite3
from contextlib import closing
from datetime import timedelta
from pathlib import Path

import aiohttp
import msgspec

from callcast.simulator import Credential, Limits, Platform, SimulatedClock
from callcast.simulator.platform import Request
from callcast.simulator.scenarios import load
from tests.ports import free_port
from tests.system.world import WAIT_S, Service, until

PENALTY_S = 12
LIMITS = Limits(heavy=30, window_s=3, penalty_s=PENALTY_S)

CONFIG = """\
[service]
data_dir = "{data}"
http_listen = "127.0.0.1:{port}"
log_format = "json"

[sources.acme]
server = "{server}"
client_id = "{credential.client_id}"
client_secret = "{credential.client_secret}"
jwt = "{credential.jwt}"
watch = "account"
heavy_per_minute = 600
hints = "off"

[sinks.lines]
type = "stdout"
"""


def silence_kept(data: Path) -> bool:
    """Whether the penalty is on the disk."""
    with closing(sqlite3.connect(f"file:{data / 'outbox.db'}?mode=ro", uri=True)) as database:
        rows = database.execute("SELECT value FROM notes WHERE name = 'budget.heavy'").fetchall()
    return any(msgspec.json.decode(value)["silent_s"] > 0 for (value,) in rows)


async def penalty_shown(service: Service) -> None:
    """Wait until the service shows that it knows of a penalty."""
    name, labels = "callcast_rate_limit_penalty_until_timestamp_seconds", ('source="acme"', 'group="heavy"')
    async with aiohttp.ClientSession() as session, asyncio.timeout(WAIT_S):
        while True:
            async with session.get(f"{service.url}/metrics") as answer:
                lines = (await answer.text()).splitlines()
            shown = [line for line in lines if line.startswith(name) and all(label in line for label in labels)]
            if shown and not shown[0].endswith(" 0.0"):
                return
            await asyncio.sleep(0.05)


async def test_killed_twice_in_a_penalty_it_stays_silent_until_its_end(tmp_path: Path) -> None:
    """Each process knows of the penalty, shows it, and asks nothing; the first request comes when it is over."""
    clock, credential, port = SimulatedClock(), Credential(), free_port()
    platform = Platform(load("quiet", clock.now()), clock=clock, limits=LIMITS)
    async with platform.serve() as server:
        config, data = tmp_path / "callcast.toml", tmp_path / "data"
        config.write_text(CONFIG.format(data=data, port=port, server=server, credential=credential))
        service = Service(config, f"http://127.0.0.1:{port}")
        await service.start()
        try:
            await until(lambda: len(heavy(platform)) >= 3, "three polls")
            platform.limits.use(credential.client_id, "heavy", clock.now(), LIMITS.heavy)
            await until(lambda: heavy(platform)[-1].status == 429, "a refusal")
            refused = heavy(platform)[-1]
            await until(lambda: silence_kept(data), "the penalty on the disk")
            for _ in range(2):
                await service.kill()
                await service.start()
                await service.ready()
                await penalty_shown(service)
            assert heavy(platform)[-1] is refused
            await until(lambda: heavy(platform)[-1].status == 200, "a poll after the penalty")
        finally:
            await service.stop()
    after = heavy(platform)[heavy(platform).index(refused) + 1]
    assert after.at - refused.at >= timedelta(seconds=PENALTY_S)
    assert after.status == 200


def heavy(platform: Platform) -> list[Request]:
    return [request for request in platform.requests if request.group == "heavy"]
