"""Writes into docs/architecture.md which functions one call passes, from the poll that shows it to its delivery.

The service runs as `callcast run` starts it, against a server in this process that lists one ringing call and receives
its event. Recorded are the functions that run for the call: in the tasks of its poll and of its delivery, in callbacks
and in the outbox's thread. What the service does of its own accord (schedule, housekeeping, backfill) is left out.

python docs/make_trace.py writes the page; with --check it only says whether the page is up to date.
"""

import asyncio
import json
import sys
import tempfile
import threading
import time
from asyncio import Event, Task
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from email.utils import formatdate
from itertools import groupby
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

from aiohttp import web

import callcast
from callcast import app
from callcast.config import load

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "architecture.md"
SAMPLE = ROOT / "tests" / "samples" / "active-calls" / "seed-direct-1-ringing.json"
SOURCE = Path(callcast.__file__).parent
BEGIN, END = "<!-- trace: written by docs/make_trace.py -->", "<!-- end of trace -->"
QUIET_S = 1.0  # the call is delivered, and nothing more has run for it for this long
LIMIT_S = 60.0
CONFIG = """
[service]
data_dir = "{folder}"
http_listen = "127.0.0.1:0"
log_level = "error"

[sources.acme]
server = "{url}"
client_id = "id"
client_secret = "secret"
jwt = "jwt"
extensions = ["101"]
poll_interval_s = 0.5
heavy_per_minute = 1000
hints = "off"

[sinks.crm]
type = "webhook"
url = "{url}/hook"
"""


class Trace:
    """The functions of callcast that run for the call, in the order of their first call."""

    def __init__(self) -> None:
        self.found: dict[CodeType, None] = {}
        self.last_s = 0.0
        self._on = False
        self._loop_thread = threading.get_ident()
        self._left_out: set[Task[Any]] = set()

    def begin(self) -> None:
        """Leave out the tasks that run already, except those that wait for deliveries."""
        self._left_out = {task for task in asyncio.all_tasks() if _folder(task) not in ("delivery", "sinks")}
        self._on = True

    def end(self) -> None:
        self._on = False

    def called(self, frame: FrameType, event: str, _: object) -> None:
        code = frame.f_code
        if not self._on or event != "call" or code in self.found or not _is_traced(code):
            return
        if threading.get_ident() == self._loop_thread:
            try:
                task = asyncio.current_task()
            except RuntimeError:  # no loop runs yet
                return
            if task in self._left_out:
                return
        elif _is_check(frame):
            return
        self.found[code] = None
        self.last_s = time.monotonic()


def _is_traced(code: CodeType) -> bool:
    return code.co_filename.startswith(str(SOURCE)) and not code.co_name.startswith("<")


def _is_check(frame: FrameType | None) -> bool:
    """True for what the outbox's thread checks every few seconds while it has nothing else to do."""
    while frame is not None:
        if frame.f_code.co_name.startswith("_check"):
            return True
        frame = frame.f_back
    return False


def _folder(task: Task[Any]) -> str:
    code = getattr(task.get_coro(), "cr_code", None)
    return Path(code.co_filename).parent.name if code else ""


def _is_poll(task: Task[Any]) -> bool:
    code = getattr(task.get_coro(), "cr_code", None)
    return code is not None and code.co_filename == str(SOURCE / "polling" / "poller.py")


class RemoteSide:
    """The platform and the receiver of events, in one server."""

    def __init__(self) -> None:
        self.polls = self.polls_with_call = 0
        self.shows_call = False
        self.received = Event()
        self.may_end = Event()
        self._headers = {"Date": formatdate(usegmt=True)}  # one time, so that the clock is corrected once

    @asynccontextmanager
    async def serve(self) -> AsyncIterator[str]:
        server = web.Application()
        server.router.add_post("/restapi/oauth/token", self._token)
        server.router.add_get("/restapi/v1.0/account/~/extension/101/active-calls", self._active_calls)
        server.router.add_post("/hook", self._receive)
        runner = web.AppRunner(server, access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        try:
            yield f"http://127.0.0.1:{runner.addresses[0][1]}"
        finally:
            await runner.cleanup()

    async def _token(self, _: web.Request) -> web.Response:
        return web.json_response({"access_token": "t", "token_type": "bearer", "expires_in": 3600, "owner_id": "101"})

    async def _active_calls(self, _: web.Request) -> web.Response:
        self.polls += 1
        if not self.shows_call:
            return web.json_response({"records": [], "paging": {}, "navigation": {}}, headers=self._headers)
        self.polls_with_call += 1
        if self.polls_with_call > 1:  # a second one would pass other functions
            await self.may_end.wait()
        return web.Response(body=SAMPLE.read_bytes(), content_type="application/json", headers=self._headers)

    async def _receive(self, _: web.Request) -> web.Response:
        self.received.set()
        return web.Response(status=204)


async def traced() -> Trace:
    trace, remote, stop, started = Trace(), RemoteSide(), Event(), Event()
    threading.setprofile(trace.called)  # for the outbox's thread
    housekeeping = _hold_long_sleeps()
    with tempfile.TemporaryDirectory() as folder:
        async with asyncio.timeout(LIMIT_S), remote.serve() as url:
            config = Path(folder) / "config.toml"
            config.write_text(CONFIG.format(folder=folder, url=url))
            running = asyncio.create_task(
                app.run(
                    load(config, {}),
                    read_config=lambda: load(config, {}),
                    stop=stop,
                    started=lambda _: started.set(),
                )
            )
            await started.wait()
            while remote.polls < 2 or len(housekeeping) < 2 or any(map(_is_poll, asyncio.all_tasks())):  # noqa: ASYNC110
                await asyncio.sleep(0.01)
            trace.begin()
            sys.setprofile(trace.called)
            remote.shows_call = True
            await remote.received.wait()
            while not _is_acknowledged(trace) or time.monotonic() - trace.last_s < QUIET_S:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
            sys.setprofile(None)
            trace.end()
            remote.may_end.set()
            stop.set()
            await running
    threading.setprofile(None)
    return trace


def _hold_long_sleeps() -> list[float]:
    """Let no task that works every ten seconds or less often work a second time. Returns the held sleeps."""
    held: list[float] = []
    sleep = app.SystemClock.sleep

    async def held_sleep(clock: app.SystemClock, seconds: float, /) -> None:
        if seconds >= 10:
            held.append(seconds)
            await Event().wait()
        await sleep(clock, seconds)

    app.SystemClock.sleep = held_sleep  # type: ignore[method-assign]
    return held


def _is_acknowledged(trace: Trace) -> bool:
    return any(code.co_name == "ack" and "outbox" in code.co_filename for code in trace.found)


def listed(trace: Trace) -> str:
    """The functions by module, a line whenever the module changes."""
    named = [(Path(code.co_filename).relative_to(SOURCE).as_posix(), code.co_qualname) for code in trace.found]
    lines = [f"{len(named)} functions in {len({module for module, _ in named})} files", ""]
    lines += [
        f"{module}: {', '.join(name for _, name in names)}" for module, names in groupby(named, key=lambda one: one[0])
    ]
    return "\n".join(lines)


def page(text: str, trace: Trace) -> str:
    before, rest = text.split(BEGIN)
    return f"{before}{BEGIN}\n\n```text\n{listed(trace)}\n```\n\n{END}{rest.split(END)[1]}"


def functions(text: str) -> set[tuple[str, str]]:
    """The functions that a page lists. Their order may vary: the outbox's thread runs beside the loop's."""
    block = text.split(BEGIN)[1].split(END)[0]
    pairs = [line.split(": ") for line in block.splitlines() if ".py: " in line]
    return {(module, name) for module, names in pairs for name in names.split(", ")}


def main() -> int:
    text = PAGE.read_text()
    new = page(text, asyncio.run(traced()))
    differing = sorted(functions(text) ^ functions(new))
    if "--check" in sys.argv[1:]:
        print(json.dumps(differing))
        return 1 if differing else 0
    if differing:
        PAGE.write_text(new)
    return 0


if __name__ == "__main__":
    sys.exit(main())
