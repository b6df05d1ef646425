"""callcast with a stopwatch in it: how long one callback holds the event loop, and in which rooms time is spent.

    BENCH_INSIDE=FILE python -m bench.inside run --config PATH

Writes FILE when callcast ends: {"callbacks", "longest_ms", "longest_cpu_ms", "over_20_ms", "worst", "shares"}. The
stopwatch goes around asyncio's own handles, from when the first poll can have been made; for it the service runs on
asyncio's loop, since uvloop's handles cannot be reached: the callbacks are the same. Shares are microseconds of
processor time: after every 5 ms of it, what each thread has used goes to its innermost frame of a room or a library.
"""

import asyncio
import atexit
import json
import os
import signal
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from types import FrameType
from typing import Any

import uvloop

QUIET_S = 3.0  # imports and opening files are the start's business
EVERY_S = 0.005
HELD_MS = 20.0


class Stopwatch:
    def __init__(self) -> None:
        self._since = time.monotonic() + QUIET_S
        self.callbacks = self.over = 0
        self.longest = self.longest_cpu = 0.0
        self.worst = ""

    def wrap(self) -> None:
        uvloop.run = asyncio.run
        plain = asyncio.events.Handle._run

        def timed(handle: asyncio.Handle) -> None:
            began, cpu = time.perf_counter(), time.thread_time()
            plain(handle)
            if time.monotonic() > self._since:
                self._took(handle, 1000 * (time.perf_counter() - began), 1000 * (time.thread_time() - cpu))

        asyncio.events.Handle._run = timed  # type: ignore[method-assign]

    def _took(self, handle: asyncio.Handle, wall_ms: float, cpu_ms: float) -> None:
        self.callbacks += 1
        self.over += wall_ms > HELD_MS
        self.longest_cpu = max(self.longest_cpu, cpu_ms)
        if wall_ms > self.longest:
            self.longest, self.worst = wall_ms, _named(handle)


def _named(handle: asyncio.Handle) -> str:
    callback: Any = handle._callback  # type: ignore[attr-defined]
    task = getattr(callback, "__self__", None)
    if isinstance(task, asyncio.Task):
        return str(getattr(task.get_coro(), "__qualname__", "a task"))
    return str(getattr(callback, "__qualname__", "a callback"))


class Sampler:
    """Started by a signal, not by a thread: a thread runs only where the others release the interpreter."""

    def __init__(self) -> None:
        self.found: Counter[str] = Counter()
        self._used: dict[int, float] = {}
        self._since = time.monotonic() + QUIET_S

    def start(self) -> None:
        signal.signal(signal.SIGPROF, self._poll)
        signal.setitimer(signal.ITIMER_PROF, EVERY_S, EVERY_S)

    def _poll(self, _number: int, interrupted: FrameType | None) -> None:
        own = threading.get_ident()
        for thread, frame in sys._current_frames().items():
            used_us = int(1e6 * self._since_last(thread))
            if time.monotonic() > self._since:
                self.found[_room(interrupted if thread == own else frame)] += used_us

    def _since_last(self, thread: int) -> float:
        now = time.clock_gettime(time.pthread_getcpuclockid(thread))
        before, self._used[thread] = self._used.get(thread, now), now
        return now - before


def _room(frame: FrameType | None) -> str:
    """The innermost frame that lies in callcast or in a library; asyncio's own where there is none."""
    while frame is not None:
        parts = str(frame.f_globals.get("__name__", "")).split(".")
        if parts[0] in ("callcast", "asyncio"):
            return ".".join(parts[:3])
        if parts[0] in ("aiohttp", "yarl", "multidict", "paho", "structlog", "prometheus_client", "uvloop"):
            return parts[0]
        frame = frame.f_back
    return "other"


def main() -> None:
    stopwatch, sampler = Stopwatch(), Sampler()
    if os.environ.get("BENCH_SHARES"):
        sampler.start()
    else:
        stopwatch.wrap()
    atexit.register(_write, stopwatch, sampler)
    from callcast.cli.main import main as callcast

    sys.exit(callcast(sys.argv[1:]))


def _write(stopwatch: Stopwatch, sampler: Sampler) -> None:
    measured = {
        "callbacks": stopwatch.callbacks,
        "longest_ms": stopwatch.longest,
        "longest_cpu_ms": stopwatch.longest_cpu,
        "over_20_ms": stopwatch.over,
        "worst": stopwatch.worst,
        "shares": dict(sampler.found.most_common(20)),
    }
    Path(os.environ["BENCH_INSIDE"]).write_text(json.dumps(measured))


if __name__ == "__main__":
    main()
