"""Repeated kill -9, at every step between poll and settlement and at random times; nothing may be lost.

    python -m tests.system.kills N [SEED]

The real service with its three sinks, against calls without end. At last every event of every call must have
arrived at every sink, with the id that its fact has, in order per call; what came twice was in flight at a kill.
"""

import asyncio
import json
import os
import random
import signal
import sqlite3
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, closing
from pathlib import Path
from typing import Any

from aiohttp import web

from callcast.outbox.sqlite import schema
from callcast.simulator import Credential, Platform
from tests import ROOT
from tests.integration.sinks.brokers import iotcore
from tests.ports import free_port
from tests.system.endless_calls import EndlessCalls
from tests.system.killable import POINTS
from tests.system.world import CONFIG, SECRET, Receiver, Subscriber, until

SENT_AT_ONCE = 6  # calls, and so about as many events in flight
LIFE_MAX_S = 0.15  # of a random one, from its first poll on


class MoodyReceiver(Receiver):
    """A receiver that sometimes rejects requests, so that there are second attempts."""

    def __init__(self, chance: random.Random) -> None:
        super().__init__()
        self._chance = chance
        self.refuse_next = 0

    async def _take(self, request: web.Request) -> web.Response:
        refused = self.refuse_next > 0 or self._chance.random() < 0.02
        self.refuse_next = max(0, self.refuse_next - 1)
        self.status = 500 if refused else 204
        return await super()._take(request)


class Mortal:
    """The service; each run is forked by `tests.system.killable`."""

    def __init__(self, config: Path) -> None:
        self.config = config
        self.events: list[dict[str, Any]] = []
        self.pid = 0

    @asynccontextmanager
    async def ready(self) -> AsyncIterator["Mortal"]:
        reading_end, writing_end = os.pipe()
        log = self.config.with_name("log")
        with log.open("wb") as errors:
            self._process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "tests.system.killable", str(self.config), str(writing_end)),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=errors,
                pass_fds=(writing_end,),
                cwd=ROOT,
            )
        os.close(writing_end)
        self._control = await _reader(reading_end)
        assert self._process.stdout is not None
        reading = asyncio.create_task(self._read(self._process.stdout))
        try:
            yield self
        finally:
            assert self._process.stdin is not None
            self._process.stdin.close()
            if self._process.returncode is None and self.pid:
                os.kill(self.pid, signal.SIGKILL)
            await self._process.wait()
            await reading

    async def begin(self, order: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{order}\n".encode())
        self.pid = int(await self._control.readline())

    async def died(self) -> int:
        """The exit code, or the negative signal number."""
        async with asyncio.timeout(20):
            status = int((await self._control.readline()).split()[1])
        self.pid = 0
        return status

    async def _read(self, stream: asyncio.StreamReader) -> None:
        async for line in stream:
            self.events.append(json.loads(line))


async def _reader(descriptor: int) -> asyncio.StreamReader:
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(descriptor, "rb", 0)
    )
    return reader


async def kill(folder: Path, kills: int, seed: int, points: Sequence[str] = POINTS) -> str:
    """Kill the service so often, alternately at the next of these points and at random. Returns the results."""
    chance, calls, port, began_s = random.Random(seed), EndlessCalls(SENT_AT_ONCE), free_port(), time.perf_counter()
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(Platform(calls).serve())
        receiver = await stack.enter_async_context(MoodyReceiver(random.Random(seed)).listening())
        broker = stack.enter_context(iotcore(folder, "5"))
        subscriber = Subscriber(broker.port)
        stack.callback(subscriber.close)
        config = _write(folder, port, server, receiver.url, broker.port)
        service = await stack.enter_async_context(Mortal(config).ready())
        for number in range(kills):
            calls.restarted()
            if number % 2:
                await _random_life(service, calls, chance)
            else:
                point = points[number // 2 % len(points)]
                receiver.refuse_next = 1 if point.startswith(("retry", "postponing")) else 0
                await service.begin(f"{point} {chance.randint(1, 1 if point.startswith('subscribe') else 3)}")
                assert await service.died() == -signal.SIGKILL, point
        calls.restarted()
        calls.more = False
        await service.begin("-")
        sinks = {
            "webhook": lambda: receiver.events,
            "mqtt": lambda: [event for _, event in subscriber.events],
            "stdout": lambda: service.events,
        }
        await until(lambda: calls.over, "the last call's end")
        for name, events in sinks.items():
            wanted = {id_ for ids in calls.ids().values() for id_ in ids}
            await until(
                lambda events=events, wanted=wanted: wanted <= {event["id"] for event in events()},  # type: ignore[misc]
                f"every event at {name}",
            )
        # An event may have arrived in a process that was killed before it settled it: it is still pending.
        await until(lambda: pending(folder / "data") == 0, "every pending delivery settled")
        os.kill(service.pid, signal.SIGTERM)
        assert await service.died() == 0
        arrived = {name: events() for name, events in sinks.items()}
    again = {name: check(name, events, calls, kills) for name, events in arrived.items()}
    nothing_pending(folder / "data")
    came_again = ", ".join(f"{name} {count}" for name, count in again.items())
    took = f"{kills} kills in {time.perf_counter() - began_s:.0f} s"
    return f"{took}, {3 * calls.begun} events to each sink; came again: {came_again}"


async def _random_life(service: Mortal, calls: EndlessCalls, chance: random.Random) -> None:
    """How long a run lasts: usually some polls; one in eight is killed during the start."""
    polls = calls.polls
    await service.begin("-")
    if chance.random() > 0.125:
        await until(lambda: calls.polls > polls, "a poll")
    await asyncio.sleep(chance.random() * LIFE_MAX_S)
    os.kill(service.pid, signal.SIGKILL)
    assert await service.died() == -signal.SIGKILL


def check(sink: str, events: Sequence[dict[str, Any]], calls: EndlessCalls, kills: int) -> int:
    """Check that every event arrived, with equal ids and in order per call. Returns the number of duplicates."""
    wanted = calls.ids()
    seen: dict[str, list[str]] = {call: [] for call in wanted}
    for event in events:
        seen[event["subject"]].append(event["id"])
    for call, ids in seen.items():
        assert list(dict.fromkeys(ids)) == wanted[call], f"{sink}: {call} came as {ids}"
        places = [wanted[call].index(id_) for id_ in ids]
        assert places == sorted(places), f"{sink}: {call}: an event came again after a later one: {places}"
    again = len(events) - sum(map(len, wanted.values()))
    assert again <= kills * 2 * SENT_AT_ONCE, f"{sink}: {again} came again, which is more than can have been in flight"
    return again


def pending(folder: Path) -> int:
    """The pending deliveries of all sinks, read while the service runs."""
    with closing(sqlite3.connect(f"file:{folder / schema.FILE}?mode=ro", uri=True, timeout=5)) as connection:
        return int(connection.execute("SELECT sum(pending) FROM sinks").fetchone()[0])


def nothing_pending(folder: Path) -> None:
    connection = schema.connect(folder)
    assert connection.execute("SELECT sum(pending), sum(dead) FROM sinks").fetchone() == (0, 0)
    assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    connection.close()


def _write(folder: Path, port: int, server: str, hook: str, mqtt: int) -> Path:
    config = folder / "callcast.toml"
    text = CONFIG.format(
        data=folder / "data",
        port=port,
        server=server,
        credential=Credential(),
        watch='watch = "account"',
        hook=hook,
        secret=SECRET,
        mqtt=mqtt,
    )
    config.write_text(text.replace("poll_interval_s = 0.1", "poll_interval_s = 0.02"))
    return config


def main(kills: int, seed: int) -> None:
    """A hundred kills per environment, each checked at its end."""
    for number, done in enumerate(range(0, kills, 100)):
        with tempfile.TemporaryDirectory() as temporary:
            print(asyncio.run(kill(Path(temporary), min(100, kills - done), seed + number)), flush=True)


if __name__ == "__main__":
    numbers = [int(one) for one in sys.argv[1:]]
    main(numbers[0] if numbers else 100, numbers[1] if len(numbers) > 1 else 1)
