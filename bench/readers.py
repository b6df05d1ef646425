"""What 200 readers of /api/events cost the pipe: paired runs, turn about with readers and without.

    python -m bench.readers [--pairs N] [--calls N] [--readers N]

One service, one extension polled every 100 ms; the readers, half of them as the page reads, are a process of their
own, which runs only where nothing else needs the processor: real readers have machines of their own. Prints, for each,
the delay from the answer that first shows a change to its line on standard output, and the service's processor time
for a change; then the median of the pairs' differences.
"""

import argparse
import asyncio
import multiprocessing
import os
import statistics
import tempfile
from multiprocessing.connection import Connection
from pathlib import Path

from bench.spine import CONFIG, Calls, _delay_ms
from callcast.simulator import Credential, Platform
from callcast.simulator.scenarios.seed import EXTENSION_ID
from tests.ports import free_port
from tests.system.world import Service

Run = tuple[float, float, float]  # median and 95th percentile in ms, processor ms for a change


async def _read(port: int, number: int, joined: asyncio.Semaphore) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(f"GET /api/events?board={number % 2} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
    await reader.readline()
    joined.release()
    while await reader.read(65536):
        pass


async def _crowd(port: int, count: int, parent: Connection) -> None:
    """Come and go as the parent says, until it says no more."""
    while await asyncio.to_thread(parent.recv) == "come":
        joined = asyncio.Semaphore(0)
        tasks = [asyncio.create_task(_read(port, number, joined)) for number in range(count)]
        for _ in range(count):
            await joined.acquire()
        parent.send("here")
        await asyncio.to_thread(parent.recv)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        parent.send("gone")


def _readers(port: int, count: int, parent: Connection) -> None:
    os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    asyncio.run(_crowd(port, count, parent))


class Bench:
    def __init__(self, service: Service, crowd: Connection, calls: Calls, calls_each: int) -> None:
        self._service = service
        self._crowd = crowd
        self._calls = calls
        self._each = calls_each
        self._number = 0

    async def run(self) -> Run:
        before_s = _processor_s(self._service.pid)
        delays = []
        for _ in range(self._each):
            delays += [await _delay_ms(self._service, self._calls, self._number, step) for step in range(3)]
            self._number += 1
        used_ms = 1000 * (_processor_s(self._service.pid) - before_s)
        return statistics.median(delays), statistics.quantiles(delays, n=20)[-1], used_ms / len(delays)

    async def crowded(self) -> Run:
        await self._ask_crowd("come")
        found = await self.run()
        await self._ask_crowd("go")
        return found

    async def _ask_crowd(self, what: str) -> None:
        self._crowd.send(what)
        await asyncio.to_thread(self._crowd.recv)
        await asyncio.sleep(1)


def _processor_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def main(folder: Path, pairs: int, calls_each: int, count: int) -> None:
    calls, credential, port = Calls(), Credential(), free_port()
    async with Platform(calls.scenario).serve() as server:
        config = folder / "callcast.toml"
        places = {"data": folder / "data", "port": port, "server": server}
        config.write_text(CONFIG.format(**places, credential=credential, extension=EXTENSION_ID))
        service = Service(config, f"http://127.0.0.1:{port}")
        await service.start()
        await service.ready()
        ours, theirs = multiprocessing.Pipe()
        crowd = multiprocessing.get_context("spawn").Process(target=_readers, args=(port, count, theirs))
        crowd.start()
        await asyncio.sleep(2)
        try:
            bench = Bench(service, ours, calls, calls_each)
            await bench.run()  # to warm up
            print(f"| pair | alone | with {count} readers |  median ms, 95 % within ms, processor ms for a change")
            differences = [await _pair(bench, number) for number in range(1, pairs + 1)]
        finally:
            ours.send("no more")
            await asyncio.to_thread(crowd.join)
            await service.stop()
    median, within, used = (statistics.median(one[context] for one in differences) for context in range(3))
    print(f"the median pair differs by {median:+.1f} ms, {within:+.1f} ms at 95 %, {used:+.1f} ms of processor")


async def _pair(bench: Bench, number: int) -> Run:
    """Every other pair the other way round, so that a machine that grows slower favours none of them."""
    if number % 2:
        alone, crowded = await bench.run(), await bench.crowded()
    else:
        crowded, alone = await bench.crowded(), await bench.run()
    figures = (", ".join(f"{value:.1f}" for value in run) for run in (alone, crowded))
    print(f"| {number} | {' | '.join(figures)} |", flush=True)
    return crowded[0] - alone[0], crowded[1] - alone[1], crowded[2] - alone[2]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=10)
    parser.add_argument("--calls", type=int, default=20, help="in each run; each makes three changes (20)")
    parser.add_argument("--readers", type=int, default=200)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        asyncio.run(main(Path(temporary), options.pairs, options.calls, options.readers))
