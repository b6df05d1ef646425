"""The service as a process that starts quickly and is killed at a chosen point.

    python -m tests.system.killable CONFIG CONTROL_FD

Each line read begins a life, forked from here so that nothing is imported again: `-`, or a point and how often it is
passed before the life ends there, as `kill -9` would end it. The control pipe gets the `PID` of each life and how it
ended (`died STATUS`). The points are the steps between a poll and the settlement of its events.
"""

import asyncio
import os
import signal
import sys
from collections.abc import Awaitable, Callable
from functools import wraps
from pathlib import Path
from typing import Any

from callcast import app
from callcast.config import load
from callcast.outbox.sqlite import deliveries as deliveries
from callcast.outbox.sqlite import store as sqlite
from callcast.outbox.sqlite import writer as worker
from callcast.ringcentral import client
from callcast.ringcentral import rate_limiter as limiter
from callcast.sinks import stdout, webhook
from callcast.sinks.mqtt import sink as mqtt

# Each of these has two points: before and after.
STEPS: dict[str, tuple[Any, str]] = {
    "subscribe": (sqlite.SqliteOutbox, "subscribe"),
    "poll": (client.Client, "poll"),
    "record": (sqlite.SqliteOutbox, "record"),
    "claim": (sqlite.SqliteOutbox, "claim"),
    "webhook": (webhook._Webhook, "send"),
    "mqtt": (mqtt.MqttSink, "send"),
    "stdout": (stdout._Lines, "send"),
    "ack": (sqlite.SqliteOutbox, "ack"),
    "retry": (sqlite.SqliteOutbox, "retry"),
}
# The process dies right after these: written but not committed; committed but not reported.
IN_THREAD: dict[str, tuple[Any, str]] = {
    "recording": (deliveries.Deliveries, "record"),
    "settling": (deliveries.Deliveries, "settle"),
    "postponing": (deliveries.Deliveries, "retry"),
    "committed": (worker.WriterThread, "_commit"),
}
POINTS = tuple(f"{step}.{side}" for step in STEPS for side in ("before", "after")) + tuple(IN_THREAD)


class Fate:
    def __init__(self, point: str, times: int) -> None:
        self._point = point
        self._left = times

    def passes(self, point: str) -> None:
        if point == self._point:
            self._left -= 1
            if self._left == 0:
                os.kill(os.getpid(), signal.SIGKILL)


def doom(fate: Fate) -> None:
    for step, (owner, name) in STEPS.items():
        setattr(owner, name, _watched(getattr(owner, name), step, fate))
    for step, (owner, name) in IN_THREAD.items():
        setattr(owner, name, _watched_in_thread(getattr(owner, name), step, fate))


def _watched(method: Callable[..., Awaitable[Any]], step: str, fate: Fate) -> Callable[..., Awaitable[Any]]:
    @wraps(method)
    async def watched(*given: Any, **named: Any) -> Any:
        fate.passes(f"{step}.before")
        result = await method(*given, **named)
        fate.passes(f"{step}.after")
        return result

    return watched


def _watched_in_thread(method: Callable[..., Any], step: str, fate: Fate) -> Callable[..., Any]:
    @wraps(method)
    def watched(*given: Any, **named: Any) -> Any:
        result = method(*given, **named)
        fate.passes(step)
        return result

    return watched


def live(config: Path, order: str) -> int:
    settings = load(config, {})
    if order != "-":
        point, times = order.split()
        doom(Fate(point, int(times)))
    # What is remembered of the rate limit would have each life wait for two seconds first. It has its own tests.
    limiter.RateLimiter._restore = lambda *_: None  # type: ignore[method-assign]
    return asyncio.run(app.run(settings, read_config=lambda: settings))


def main(config: Path, control: int) -> None:
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            os._exit(live(config, line.strip()))
        os.write(control, f"{child}\n".encode())
        _, status = os.waitpid(child, 0)
        os.write(control, f"died {os.waitstatus_to_exitcode(status)}\n".encode())


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
