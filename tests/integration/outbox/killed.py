"""A service in miniature that is killed: forks a worker for each line read, which records, claims and settles.

Each worker writes what it was promised, line by line, after the promise: `recorded ID`, `sent SINK SEQ KEY ID`,
`done SINK ID`. Forking from here saves each life the time to import.
"""

import asyncio
import os
import random
import sys
from collections.abc import Callable
from pathlib import Path

from callcast.outbox.sqlite.store import SqliteOutbox, open_outbox
from callcast.ports.outbox import Acked
from callcast.ports.sink import Filter
from tests.builders import change, event
from tests.clock import TurnedClock

SINKS = {"one": Filter(), "two": Filter(events=("call.ended",))}
TYPES = ("call.ringing", "call.answered", "call.ended")
Say = Callable[[str], None]


async def record(outbox: SqliteOutbox, life: str, ordering_key: int, say: Say) -> None:
    call = 0
    while True:
        for sequence, type_ in enumerate(TYPES, start=1):
            one = event(f"{life}-{ordering_key}-{call}", type_, sequence)
            await outbox.record("acme", None, change(one))
            say(f"recorded {one.id}")
        call += 1


async def deliver(outbox: SqliteOutbox, sink: str, say: Say) -> None:
    while True:
        for delivery in await outbox.claim(sink, limit=random.randint(1, 3)):
            say(f"sent {sink} {delivery.seq} {delivery.event.key} {delivery.event.id}")
            await outbox.ack([Acked(delivery, 0)])
            say(f"done {sink} {delivery.event.id}")
        await outbox.wait(sink, timeout_s=3600)


async def live(directory: Path, life: str, say: Say) -> None:
    limits = {"retention_h": 72, "outbox_max_mb": 100, "dead_letter_days": 30}
    async with open_outbox(directory, TurnedClock(), **limits) as outbox:
        await outbox.subscribe(SINKS)
        async with asyncio.TaskGroup() as group:
            for ordering_key in range(3):
                group.create_task(record(outbox, life, ordering_key, say))
            for sink in SINKS:
                group.create_task(deliver(outbox, sink, say))


def promising(path: Path) -> Say:
    file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    def say(text: str) -> None:
        os.write(file, f"{text}\n".encode())

    return say


def main(directory: Path, promises: Path) -> None:
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            asyncio.run(live(directory, line.strip(), promising(promises)))
        print(child, flush=True)
        os.waitpid(child, 0)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
