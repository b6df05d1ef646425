"""The service with a programming error injected into one of its parts.

python -m tests.system.faulty PART run --config CONFIG
"""

import asyncio
import sys
import threading
from collections.abc import Callable
from typing import Any

from callcast import __main__, service
from callcast.delivery import worker as delivery_worker
from callcast.live.live_calls import InMemoryLiveCalls
from callcast.observability import log_writer
from callcast.outbox import claims
from callcast.outbox.sqlite import store as sqlite
from callcast.outbox.sqlite import writer as worker
from callcast.polling import poller, sources
from callcast.polling import recorder as recorder
from callcast.ports.sink import Delivery, Outcome
from callcast.ringcentral import rate_limiter as limiter
from callcast.ringcentral import sign_in, token
from callcast.sinks import stdout
from callcast.web import sse


class Injected(Exception):
    """An error that no part of callcast handles."""


def fails(*_: Any, **__: Any) -> Any:
    raise Injected


async def fails_later(*_: Any, **__: Any) -> Any:
    await asyncio.sleep(0)
    raise Injected


async def cancelled_caller(outbox: sqlite.SqliteOutbox, *_: Any, **__: Any) -> None:
    """An operation that fails after its caller was cancelled."""
    begun, may_fail = threading.Event(), threading.Event()

    def operation(_deliveries: Any) -> None:
        begun.set()
        may_fail.wait()
        raise Injected

    caller = asyncio.ensure_future(outbox._writer.submit(operation))
    await asyncio.to_thread(begun.wait)
    caller.cancel()
    may_fail.set()
    await asyncio.sleep(3600)


async def in_the_executor(*_: Any, **__: Any) -> None:
    """Work in a thread that fails after its caller was cancelled."""
    async with asyncio.TaskGroup() as tasks:
        caller = tasks.create_task(recorder._compared(fails, recorder.COMPARED_ON_LOOP_MAX + 1))
        await asyncio.sleep(0)
        caller.cancel()
        await asyncio.sleep(3600)


async def in_the_thread(lines: stdout._Lines, delivery: Delivery) -> Outcome:
    return await lines._write(b"a line\n")


async def delayed_callback(*_: Any, **__: Any) -> None:
    asyncio.get_running_loop().call_later(0.01, fails)
    await asyncio.sleep(3600)


async def soon_callback(*_: Any, **__: Any) -> None:
    asyncio.get_running_loop().call_soon(fails)
    await asyncio.sleep(3600)


async def forgotten_task(*_: Any, **__: Any) -> None:
    task = asyncio.create_task(fails_later())
    await asyncio.sleep(0.05)
    del task
    await asyncio.sleep(3600)


PARTS: dict[str, list[tuple[Any, str, Callable[..., Any]]]] = {
    "callback": [(service.Service, "_housekeeping", soon_callback)],
    "timer": [(service.Service, "_housekeeping", delayed_callback)],
    "forgotten task": [(service.Service, "_housekeeping", forgotten_task)],
    "house": [(service.Service, "_housekeeping", fails_later)],
    "reload": [(service, "_needs_restart", fails)],
    "sse": [(sse.Broadcaster, "run", fails_later)],
    "poller": [(poller.Poller, "run", fails_later)],
    "poll": [(poller.Poller, "_poll", fails_later)],
    "budget": [(limiter.RateLimiter, "_wake", fails_later)],
    "sign-in": [(token.Tokens, "_sign_in", fails_later)],
    "token file": [(sign_in.SignIns, "_write", fails_later)],
    "note": [(sources.Sources, "_note", fails_later)],
    "bell": [(claims.SinkQueue, "wake", fails)],
    "alarm": [(claims.SinkQueue, "_on_timer", fails)],
    "board": [(InMemoryLiveCalls, "apply", fails)],
    "outbox thread": [(worker.WriterThread, "_check_for_other_writers", fails)],
    "operation without a caller": [(sqlite.SqliteOutbox, "check", cancelled_caller)],
    "executor": [(service.Service, "_housekeeping", in_the_executor)],
    "claim": [(sqlite.SqliteOutbox, "claim", fails_later)],
    "sender": [(delivery_worker.DeliveryWorker, "_attempt", fails_later)],
    "sink": [(stdout._Lines, "send", fails_later)],
    "stdout thread": [(stdout._Lines, "send", in_the_thread), (stdout._WholeLines, "write", fails)],
    "log thread": [],
}


def break_the_log_thread() -> None:
    """Fail once only, because logging the traceback uses it too."""
    real = log_writer.LogWriter._put
    left = [2]  # lines before

    def put(writer: log_writer.LogWriter, line: bytes) -> bool:
        left[0] -= 1
        if left[0] == 0:
            raise Injected
        return real(writer, line)

    log_writer.LogWriter._put = put  # type: ignore[method-assign]


if __name__ == "__main__":
    part, *sys.argv[1:] = sys.argv[1:]
    for owner, name, fault in PARTS[part]:
        getattr(owner, name)  # it is still called so
        setattr(owner, name, fault)
    if part == "log thread":
        break_the_log_thread()
    __main__.main()
