"""How long the event loop is held while an account with 1,000 calls is polled, by all that a poll passes through.

`python -m bench.held [ROUNDS]` serves 2.2 MB lists from a process of their own and takes each poll as the poller
does. Printed per step, each time the longest: for how long one callback had the loop's thread; what all threads of the
process used between two ticks of a task that ticks every millisecond, so also while the loop waited for one of them to
release the interpreter; both in processor time, which other programs do not affect. Then how late a tick
was by the clock, which a busy machine spoils, and what the garbage collector took.
"""

import asyncio
import gc
import json
import sys
import tempfile
import time
from asyncio.events import Handle
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp import web

from bench.decode import ended, page
from callcast import __version__
from callcast.app import SystemClock
from callcast.calls.model import Target
from callcast.calls.tracker import CallIndex, Rules
from callcast.live.live_calls import InMemoryLiveCalls
from callcast.observability import logs
from callcast.observability.metrics import Metrics
from callcast.observability.outbox_health import OutboxHealth
from callcast.outbox.sqlite.store import open_outbox
from callcast.polling.ownership import ExtensionOwnership
from callcast.polling.recorder import ChangeRecorder
from callcast.polling.telemetry import SourceTelemetry
from callcast.ringcentral.client import Client
from callcast.ringcentral.settings import SourceSettings
from callcast.ringcentral.sign_in import SignIns
from callcast.settings.secret import Secret

SOURCE = "acme"
TARGET = Target(source=SOURCE)
GOAL_MS = 20.0
TICK_S = 0.001
TOKEN = {"access_token": "t", "token_type": "bearer", "expires_in": 3600, "owner_id": "1"}


def bodies() -> dict[str, bytes]:
    """The lists of a round, poll by poll: no calls, then a thousand calls from their ringing to their end."""
    nothing = json.dumps({"records": [], "paging": {}, "navigation": {}}).encode()
    return {
        "no calls": nothing,
        "1,000 ring": page(sample="seed-direct-1-ringing"),
        "as it was": page(sample="seed-direct-1-ringing"),
        "all are answered": page(),
        "every tenth ends": page(ended),
        "all have ended": page(sample="seed-direct-3-ended"),
        "no calls, after that": nothing,
    }


# The platform, in a process of its own.


def platform(pipe: Connection) -> None:
    asyncio.run(_serve(pipe))


async def _serve(pipe: Connection) -> None:
    prepared = list(bodies().values())
    polls = 0

    async def token(_: web.Request) -> web.Response:
        return web.json_response(TOKEN)

    async def active_calls(_: web.Request) -> web.Response:
        nonlocal polls
        turn, step = divmod(polls, len(prepared))
        polls += 1
        body = prepared[step].replace(b'"s-0000', b'"s-%04d' % turn).replace(b'"LIef14l8N', b'"L%08d' % turn)
        return web.Response(body=body, content_type="application/json")

    app = web.Application()
    app.router.add_post("/restapi/oauth/token", token)
    app.router.add_get("/restapi/v1.0/account/~/active-calls", active_calls)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    pipe.send(runner.addresses[0][1])
    await asyncio.to_thread(pipe.recv)
    await runner.cleanup()


@contextmanager
def served() -> Iterator[str]:
    here, there = get_context("spawn").Pipe()
    process = get_context("spawn").Process(target=platform, args=(there,))
    process.start()
    try:
        yield f"http://127.0.0.1:{here.recv()}"
    finally:
        here.send(None)
        process.join()


# What is measured.


class Held:
    """The longest of a step, in milliseconds."""

    def __init__(self) -> None:
        self.cpu_ms = self.kept_ms = self.late_ms = self.collected_ms = 0.0
        self.by = ""
        self._collecting_since = 0.0

    def ran(self, callback: Callable[..., object], cpu_ms: float) -> None:
        if cpu_ms > self.cpu_ms:
            self.cpu_ms, self.by = cpu_ms, _name(callback)

    def collects(self, phase: str, _info: object) -> None:
        if phase == "start":
            self._collecting_since = time.thread_time()
        else:
            self.collected_ms = max(self.collected_ms, (time.thread_time() - self._collecting_since) * 1000)

    async def tick(self) -> None:
        while True:
            due, spent = time.perf_counter() + TICK_S, time.process_time()
            await asyncio.sleep(TICK_S)
            self.kept_ms = max(self.kept_ms, (time.process_time() - spent) * 1000)
            self.late_ms = max(self.late_ms, (time.perf_counter() - due) * 1000)


def _name(callback: Callable[..., object]) -> str:
    owner = getattr(callback, "__self__", callback)
    if isinstance(owner, asyncio.Task):
        return str(getattr(owner.get_coro(), "__qualname__", owner))
    return str(getattr(callback, "__qualname__", callback))


@contextmanager
def watched(held: Held) -> Iterator[None]:
    """Every callback of the loop is timed by the processor time of its thread."""
    run = Handle._run

    def timed(handle: Handle) -> None:
        began = time.thread_time()
        run(handle)
        held.ran(handle._callback, (time.thread_time() - began) * 1000)  # type: ignore[attr-defined]

    Handle._run = timed  # type: ignore[method-assign]
    gc.callbacks.append(held.collects)
    ticking = asyncio.ensure_future(held.tick())
    try:
        yield
    finally:
        ticking.cancel()
        gc.callbacks.remove(held.collects)
        Handle._run = run  # type: ignore[method-assign]


@asynccontextmanager
async def source(server: str, folder: Path) -> AsyncIterator[Callable[[], Any]]:
    """A source as the service builds it; gives what the poller does with each poll."""
    logs.configure("error", "json")
    clock, log = SystemClock(), logs.bound()
    async with AsyncExitStack() as stack:
        outbox = await stack.enter_async_context(
            open_outbox(folder, clock, retention_h=72, outbox_max_mb=1024, dead_letter_days=30)
        )
        session = await stack.enter_async_context(aiohttp.ClientSession())
        live_calls = InMemoryLiveCalls(clock)
        telemetry = SourceTelemetry(
            SOURCE, live_calls, Metrics(live_calls, clock, __version__), clock, log, OutboxHealth(clock, log)
        )
        client = Client(
            SourceSettings.model_construct(  # as fast as it can
                server=server,
                client_id="id",
                client_secret=Secret("secret"),
                jwt=Secret("jwt"),
                watch="account",
                heavy_per_minute=100_000,
            ),
            session=session,
            sign_ins=SignIns(clock),
            clock=clock,
            telemetry=telemetry,
            note=lambda *_: None,
            notes={},
        )
        recorder = ChangeRecorder(CallIndex(SOURCE), outbox, Rules(), telemetry)
        ownership = ExtensionOwnership()
        recorder.is_own = lambda seen: ownership.acquire_part(SOURCE, seen, telemetry.watched_twice)

        async def poll() -> None:
            snapshot = await client.poll(TARGET)
            telemetry.poll_succeeded(snapshot, 0.0)
            await recorder.record_poll(snapshot)

        yield poll


async def measure(server: str, folder: Path, rounds: int) -> dict[str, list[Held]]:
    steps: dict[str, list[Held]] = {name: [] for name in bodies()}
    async with source(server, folder) as poll:
        for _ in range(rounds):
            for found in steps.values():
                held = Held()
                with watched(held):
                    await asyncio.create_task(poll())
                found.append(held)
    return steps


def shown(name: str, found: Sequence[Held]) -> str:
    worst = max(found, key=lambda held: held.cpu_ms)
    others = [max(getattr(held, what) for held in found) for what in ("kept_ms", "late_ms", "collected_ms")]
    return f"{name:20} {worst.cpu_ms:8.1f} " + " ".join(f"{one:8.1f}" for one in others) + f"   {worst.by}"


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    gc.freeze()  # as `callcast run` does
    with tempfile.TemporaryDirectory() as folder, served() as server:
        steps = asyncio.run(measure(server, Path(folder), rounds))
    print(f"the worst of {rounds} rounds in ms, goal {GOAL_MS:.0f} ms")
    print(f"{'':20} callback  process    clock collector   the callback")
    for name, found in steps.items():
        print(shown(name, found))


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):
        main()
