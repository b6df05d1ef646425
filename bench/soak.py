"""The service for an hour under load and faults of every kind: does anything grow?

    python -m bench.soak [--seconds N] [--rate N]

Some 100 events a second from one account, to a webhook, a broker and standard output, each of them in trouble from
time to time; the platform too. Twenty readers of /api/events come and go, one never reads; the configuration is
reloaded, also on a full disk. Standard error is blocked, the outbox is deleted or replaced under the service, and the
wall clock jumps by hours (where libfaketime is installed). It runs with the unit's settings for memory. Prints what
the process holds twenty times over the run, then whether it is flat: the last quarter against the second one (the
first is for warming up), the outbox against the calls of an hour; and at the end no pending delivery may be left. Exit
code 1 if not.
"""

import argparse
import asyncio
import logging
import math
import os
import re
import resource
import signal
import sqlite3
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, closing, suppress
from datetime import UTC, datetime, timedelta
from itertools import cycle
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp import web

from callcast.outbox.sqlite.schema import BEHIND
from callcast.simulator import Credential, Fault, Platform
from callcast.simulator.calls import Record, Truth
from callcast.simulator.scenarios.seed import ACCOUNT_ID, EXTENSION_ID, answers
from tests.faketime import WallClock, library
from tests.integration.sinks.brokers import mosquitto
from tests.ports import free_port
from tests.system.world import Service

RING_S, TALK_S, LINGER_S = 1.6, 1.6, 4.0
SAMPLES = 20
READERS = 20
CONFIG = """\
[service]
data_dir = "{data}"
http_listen = "127.0.0.1:{port}"
retention_h = 0.05
dead_letter_days = 0.0003
log_level = "warning"
[sources.acme]
server = "{server}"
client_id = "{credential.client_id}"
client_secret = "{credential.client_secret}"
jwt = "{credential.jwt}"
watch = "account"
poll_interval_s = 0.8
heavy_per_minute = 10000
call_log_after_s = 5
vanished_give_up_s = 20
[sinks.crm]
type = "webhook"
url = "http://127.0.0.1:{hook}/hook"
timeout_s = 2
[sinks.wall]
type = "mqtt"
url = "mqtt://127.0.0.1:{mqtt}"
tombstone_s = 5
timeout_s = 5
[sinks.lines]
type = "stdout"
"""


class Stream:
    """So many calls a second, each 1.6 s ringing and 1.6 s connected; the ended ones linger for a while."""

    account_id = ACCOUNT_ID

    def __init__(self, calls_per_s: float) -> None:
        self._every_s = 1 / calls_per_s
        self._began = time.monotonic()
        self._until: int | None = None

    def stop(self) -> None:
        self._until = self._begun()

    def _begun(self) -> int:
        count = int((time.monotonic() - self._began) / self._every_s)
        return count if self._until is None else min(count, self._until)

    def _records(self, last_s: float) -> Iterator[Record]:
        """Newest first, of the calls that began within the last seconds."""
        now_s, newest = time.monotonic() - self._began, self._begun()
        for number in range(newest - 1, max(-1, int((now_s - last_s) / self._every_s)), -1):
            age_s = now_s - number * self._every_s
            yield self._record(number, (age_s > RING_S) + (age_s > RING_S + TALK_S))

    def _record(self, number: int, step: int) -> Record:
        record: Record = answers()[step][0]
        start = datetime.now(UTC) - timedelta(seconds=time.monotonic() - self._began - number * self._every_s)
        times = {"startTime": start.isoformat(timespec="milliseconds").replace("+00:00", "Z")}
        session = {"telephonySessionId": f"s-{number}"}
        legs = [leg | times | session for leg in record["legs"]]
        return record | times | session | {"id": f"r{number}", "legs": legs}

    def extension_ids(self) -> Sequence[str]:
        return (EXTENSION_ID,)

    def poll(self, _extension: str | None, /) -> None:
        """Time goes on by itself."""

    def active(self, _extension: str | None, _now: datetime, /) -> list[Record]:
        return list(self._records(RING_S + TALK_S + LINGER_S))

    def log(
        self,
        _extension: str | None,
        _now: datetime,
        /,
        *,
        session_id: str | None = None,
        since: datetime | None = None,  # noqa: ARG002 (more may be given)
    ) -> list[Record]:
        if session_id is not None:
            return [self._record(int(session_id.removeprefix("s-")), 2)]
        return [one for one in self._records(120) if "duration" in one]

    def session(self, _session_id: str, _now: datetime, /) -> Record | None:
        return None

    def truth(self, _now: datetime, /) -> Sequence[Truth]:
        return ()


class Hook:
    """A receiver in changing moods. `status` 0: never answers; -1: hangs up."""

    def __init__(self) -> None:
        self.status = 204
        self.taken = 0

    async def take(self, request: web.Request) -> web.Response:
        await request.read()
        if self.status == 0:
            await asyncio.sleep(3600)
        if self.status < 0 and request.transport is not None:
            request.transport.abort()
        self.taken += self.status == 204
        headers = {"Retry-After": "2"} if self.status in (429, 503) else {}
        return web.Response(status=max(self.status, 200), headers=headers)


class Watched(Service):
    """Its log is not read while the soak says so."""

    async def polled(self) -> None:
        """Before the troubles begin."""
        await self.ready()
        async with aiohttp.ClientSession() as session, asyncio.timeout(60):
            while True:
                async with session.get(f"{self.url}/readyz") as answer:
                    if answer.status == 200:
                        return
                await asyncio.sleep(0.1)

    def read_log(self, reads: bool) -> None:
        assert self._process is not None
        pipe = self._process._transport.get_pipe_transport(2)  # type: ignore[attr-defined]
        (pipe.resume_reading if reads else pipe.pause_reading)()


# None at the token endpoint: a credential that is refused there is left alone for five minutes, and one that was
# requested four times in a minute waits.
UPSTREAM: tuple[Fault, ...] = tuple(
    Fault(path="*active-calls", **fault)  # type: ignore[arg-type]
    for fault in (
        {"kind": "status", "status": 500, "count": 1},
        {"kind": "status", "status": 401, "count": 1},
        {"kind": "status", "status": 429, "headers": False, "retry_after": 1, "count": 1},
        {"kind": "html", "count": 1},
        {"kind": "not_json", "count": 1},
        {"kind": "truncated", "count": 1},
        {"kind": "reset", "count": 1},
        {"kind": "slow", "delay_s": 2, "count": 1},
        {"kind": "redirect", "count": 1},
        {"kind": "half", "count": 1},
        {"kind": "empty", "count": 1},
        {"kind": "bad_records", "count": 2},
        {"kind": "huge", "size_mb": 40, "count": 1},
        {"kind": "charset", "count": 1},
    )
)


class Soak:
    def __init__(self, platform: Platform, hook: Hook, broker: Any, service: Watched, wall: WallClock | None) -> None:
        self._platform = platform
        self._hook = hook
        self._broker = broker
        self._service = service
        self._wall = wall
        self._config = service.config.read_text()
        self._data = service.config.parent / "data"
        self._room = resource.prlimit(service.pid, resource.RLIMIT_FSIZE)
        self.faults = 0

    async def end(self) -> None:
        """All troubles are over."""
        self._hook.status = 204
        self._broker.thaw()
        await asyncio.to_thread(self._broker.start)
        self._platform.faults.clear()
        self._service.config.write_text(self._config)
        self._service.read_log(True)
        resource.prlimit(self._service.pid, resource.RLIMIT_FSIZE, self._room)
        if self._wall is not None:
            self._wall.set(0)

    async def upstream(self) -> None:
        for fault in cycle(UPSTREAM):
            await asyncio.sleep(4)
            self._platform.strike(fault)
            self.faults += 1

    async def receiver(self) -> None:
        for status in cycle((500, 429, 400, 503, 0, -1, 401)):
            await asyncio.sleep(9)
            self._hook.status = status
            await asyncio.sleep(2)
            self._hook.status = 204
            self.faults += 1

    async def broker(self) -> None:
        for trouble, end in cycle(((self._broker.stop, self._broker.start), (self._broker.freeze, self._broker.thaw))):
            await asyncio.sleep(14)
            await asyncio.to_thread(trouble)
            await asyncio.sleep(2)
            await asyncio.to_thread(end)
            self.faults += 1

    async def reloads(self) -> None:
        for timeout in cycle((3, 2)):
            await asyncio.sleep(21)
            await self._reload(timeout)
            self._service.config.write_text("[service]\nlog_levle = 1\n")
            await self._post_reload()
            self.faults += 1

    async def _reload(self, timeout_s: int) -> None:
        self._service.config.write_text(self._config.replace("timeout_s = 2\n", f"timeout_s = {timeout_s}\n"))
        await self._post_reload()

    async def full_disk(self) -> None:
        """No file may grow, a receiver refuses, and the sink is changed; then there is room again."""
        for timeout in cycle((4, 2)):
            await asyncio.sleep(17)
            self._hook.status = 500
            resource.prlimit(self._service.pid, resource.RLIMIT_FSIZE, (4096, self._room[1]))
            await asyncio.sleep(1)
            await self._reload(timeout)
            await asyncio.sleep(1)
            resource.prlimit(self._service.pid, resource.RLIMIT_FSIZE, self._room)
            self._hook.status = 204
            self.faults += 1

    async def log_reader(self) -> None:
        """Does not read for a while, and the pipe is full."""
        while True:
            await asyncio.sleep(13)
            self._service.read_log(False)
            pipe = os.open(f"/proc/{self._service.pid}/fd/2", os.O_WRONLY | os.O_NONBLOCK)
            with suppress(BlockingIOError):
                while True:
                    os.write(pipe, b"." * 1023 + b"\n")
            os.close(pipe)
            await asyncio.sleep(4)
            self._service.read_log(True)
            self.faults += 1

    async def outbox_file(self) -> None:
        """A clean-up, and a restore, while the service runs."""
        for restore in cycle((False, True)):
            await asyncio.sleep(19)
            await asyncio.to_thread(self._replace_outbox, restore)
            self.faults += 1

    def _replace_outbox(self, restore: bool) -> None:
        path, backup = self._data / "outbox.db", self._data / "backup"
        for kept in self._data.glob("outbox.db.replaced-*"):
            kept.unlink()
        if restore:
            with closing(sqlite3.connect(path, timeout=10)) as source, closing(sqlite3.connect(backup)) as target:
                source.backup(target)
        for tail in ("", "-wal", "-shm"):
            path.with_name(f"outbox.db{tail}").unlink(missing_ok=True)
        if restore:
            backup.rename(path)

    async def wall_clock(self) -> None:
        """Hours ahead, and hours behind; then it is put right."""
        if self._wall is None:
            return
        for ahead_s in cycle((7200, -7200, 86400, -86400)):
            await asyncio.sleep(11)
            self._wall.set(ahead_s)
            await asyncio.sleep(3)
            self._wall.set(0)
            self.faults += 1

    async def _post_reload(self) -> None:
        async with aiohttp.ClientSession() as session, session.post(f"{self._service.url}/-/reload", json={}) as answer:
            await answer.read()

    async def reader(self, number: int) -> None:
        async with aiohttp.ClientSession() as session:
            while True:
                with suppress(TimeoutError, aiohttp.ClientError):
                    url = f"{self._service.url}/api/events?board={number % 2}"
                    async with session.get(url) as answer, asyncio.timeout(5 + number):
                        async for _ in answer.content.iter_any():
                            pass
                await asyncio.sleep(0.5)

    async def stalled(self) -> None:
        """Never reads, until it is dropped; then the next one."""
        port = int(self._service.url.rpartition(":")[2])
        while True:
            with suppress(OSError):
                _, writer = await asyncio.open_connection("127.0.0.1", port, limit=1024)
                writer.write(b"GET /api/events?board=1 HTTP/1.1\r\nHost: localhost\r\n\r\n")
                await asyncio.sleep(60)
                writer.close()

    def all(self) -> Iterator[Callable[[], Awaitable[None]]]:
        yield from (self.upstream, self.receiver, self.broker, self.reloads, self.stalled)
        yield from (self.full_disk, self.log_reader, self.outbox_file, self.wall_clock)
        yield from (lambda n=n: self.reader(n) for n in range(READERS))  # type: ignore[misc]


COLUMNS = ("at_s", "rss_mib", "fds", "threads", "outbox_mib", "pending", "dead", "events", "faults")
GROWTH = {"rss_mib": (1.05, 4.0), "fds": (1.0, 25.0), "threads": (1.0, 2.0)}
WARM_AFTER_S, WARMING_MIB = 600.0, 12.0  # so long memory grows towards what it stays at, and by so much more
# Ended calls are remembered for an hour at least, whatever retention_h says, so the outbox is full only then.
REMEMBERED_S = 3600
CALL_MIB, EVENT_MIB, OUTBOX_MIB = 2 / 1024, 2 / 1024, 16.0
# Long against every trouble here: what is still pending when its time has come is retried only hourly.
RETENTION_S = 180


# An event that failed four times in the troubles is due two minutes after them, and one that failed five times five.
PEACE_S, ANSWER_WAIT_S, LONGEST_PAUSE_S = 120.0, 30.0, 400.0

UNIT = Path(__file__).parent.parent / "deploy/callcast.service"


def unit_environ() -> dict[str, str]:
    """How the unit, and the image too, have the C library give memory back."""
    return dict(re.findall(r"(MALLOC_\w+)=(\S+)", UNIT.read_text()))


async def sample(service: Service) -> dict[str, float]:
    async with aiohttp.ClientSession() as session, session.get(f"{service.url}/metrics") as answer:
        text = await answer.text()

    def total(name: str) -> float:
        return sum(float(value) for value in re.findall(rf"^{name}(?:{{[^}}]*}})? (\S+)$", text, re.MULTILINE))

    status = Path(f"/proc/{service.pid}/status").read_text()  # noqa: ASYNC240
    return {
        "rss_mib": total("process_resident_memory_bytes") / 2**20,
        "fds": total("process_open_fds"),
        "threads": float(re.findall(r"Threads:\s+(\d+)", status)[0]),
        "outbox_mib": total("callcast_outbox_bytes") / 2**20,
        "pending": total("callcast_outbox_events"),
        "dead": total("callcast_dead_letters"),
        "events": total("callcast_events_total"),
    }


def say(row: dict[str, float]) -> None:
    print("".join(f"{row[name]:>12,.{1 if name.endswith('mib') else 0}f}" for name in COLUMNS), flush=True)


def grown(rows: Sequence[dict[str, float]]) -> list[str]:
    """What was larger in the last quarter than in the second, beyond what is allowed."""
    quarter = len(rows) // 4
    found = []
    for name, (times, plus) in GROWTH.items():
        before = statistics.median(row[name] for row in rows[quarter : 2 * quarter])
        after = statistics.median(row[name] for row in rows[-quarter:])
        if name == "rss_mib" and rows[quarter]["at_s"] < WARM_AFTER_S:
            plus += WARMING_MIB
        if after > before * times + plus:
            found.append(f"{name} grew from {before:,.1f} to {after:,.1f}")
    if rows[-1]["outbox_mib"] > (room := outbox_room(rows[-1])):
        found.append(f"the outbox has {rows[-1]['outbox_mib']:,.1f} MiB, and should have no more than {room:,.1f}")
    return found


def outbox_room(last: dict[str, float]) -> float:
    """MiB for the calls that are remembered and the events that are kept, those too that were pending for as long."""
    events_per_s = last["events"] / last["at_s"]
    calls = min(REMEMBERED_S, last["at_s"]) * events_per_s / 3
    events = min(2 * RETENTION_S, last["at_s"]) * events_per_s
    return OUTBOX_MIB + CALL_MIB * calls + EVENT_MIB * events


async def settled(service: Service) -> list[str]:
    """What is still pending when nothing happens any more, and everything was due and has had time for an attempt."""
    data, deadline = service.config.parent / "data", time.monotonic() + PEACE_S
    while waiting := pending(data):
        last_s = max(due_s for _, due_s in waiting)
        deadline = max(deadline, time.monotonic() + min(last_s, LONGEST_PAUSE_S) + ANSWER_WAIT_S)
        if time.monotonic() > deadline:
            return [f"{what}, due in {due_s:.0f} s" for what, due_s in waiting]
        await asyncio.sleep(2)
    return []


def pending(data: Path) -> list[tuple[str, float]]:
    """Each pending delivery, and in how many seconds it is due; never by itself while it waits for its call."""
    with closing(sqlite3.connect(f"file:{data / 'outbox.db'}?mode=ro", uri=True, timeout=10)) as outbox:
        rows = outbox.execute(
            "SELECT s.name, d.seq, d.state, d.attempts, d.reason, d.detail, d.due_at"
            " FROM deliveries d JOIN sinks s ON s.id = d.sink"
        ).fetchall()
    now_us = time.time() * 1e6
    return [
        (
            f"event {seq} to {sink}: state {state}, {attempts} attempts, the last {reason} {detail}",
            (due_at - now_us) / 1e6 if state != BEHIND else -math.inf,
        )
        for sink, seq, state, attempts, reason, detail, due_at in rows
    ]


async def main(seconds: float, rate: float) -> int:
    stream, hook, credential, port = Stream(rate / 3), Hook(), Credential(), free_port()
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        app = web.Application()
        app.router.add_post("/hook", hook.take)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1, handler_cancellation=True)
        await runner.setup()
        stack.push_async_callback(runner.cleanup)
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        platform = Platform(stream)
        server = await stack.enter_async_context(platform.serve())
        broker = stack.enter_context(mosquitto(folder))
        config = folder / "callcast.toml"
        places = {"data": folder / "data", "port": port, "server": server, "mqtt": broker.port}
        config.write_text(CONFIG.format(**places, credential=credential, hook=runner.addresses[0][1]))
        service = Watched(config, f"http://127.0.0.1:{port}")
        wall = WallClock(folder) if library() else None
        if wall is None:
            print("no libfaketime here, so the wall clock does not jump: install faketime")
        await service.start({**unit_environ(), **(wall.environ(every_s=1) if wall else {})})
        await service.polled()
        soak = Soak(platform, hook, broker, service, wall)
        return await _watch(service, soak, stream, seconds)


async def _watch(service: Service, soak: Soak, stream: Stream, seconds: float) -> int:
    tasks = [asyncio.create_task(work()) for work in soak.all()]
    began, rows = time.monotonic(), []
    print("".join(f"{name:>12}" for name in COLUMNS))
    try:
        for number in range(1, SAMPLES + 1):
            await _until(began + number * seconds / SAMPLES, tasks, service)
            row = await sample(service)
            rows.append(row | {"at_s": time.monotonic() - began, "faults": float(soak.faults)})
            say(rows[-1])
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    await soak.end()
    stream.stop()
    await asyncio.sleep(RING_S + TALK_S + LINGER_S + 15)
    left = await settled(service)
    code = await service.stop()
    faults = [*grown(rows), *([f"{len(left)} events are still pending: {'; '.join(left[:10])}"] if left else [])]
    faults += [f"it ended with {code}"] if code else []
    faults += ["a trace is in the log"] if any("Traceback" in line for line in service.log) else []
    print("; ".join(faults) or f"flat, and nothing is pending, after {soak.faults} faults")
    return bool(faults)


async def _until(at: float, tasks: Sequence["asyncio.Task[None]"], service: Service) -> None:
    """Meanwhile the service's output is discarded, and a task that fails ends the run."""
    while time.monotonic() < at:
        await asyncio.sleep(min(1.0, max(0.0, at - time.monotonic())))
        service.lines.clear()
        for task in tasks:
            if task.done():
                task.result()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=3600)
    parser.add_argument("--rate", type=float, default=100, help="events a second (100)")
    options = parser.parse_args()
    logging.getLogger("aiohttp.server").setLevel(logging.CRITICAL)  # of the remote sides, whom we hang up on
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    sys.exit(asyncio.run(main(options.seconds, options.rate)))
