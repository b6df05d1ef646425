"""What systemd hears: from the real process on a socket as systemd makes it, and from the heartbeat by itself."""

import asyncio
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import aiohttp
import pytest

from callcast.app import SystemClock
from callcast.observability.systemd import Heartbeat, Supervisor
from tests.clock import TurnedClock
from tests.system.world import WAIT_S, World, seed_world, until

WATCHDOG_USEC = 3_000_000


class Systemd:
    """The far end of NOTIFY_SOCKET: keeps each datagram as its lines."""

    def __init__(self, listener: socket.socket, address: str) -> None:
        self.address = address
        self.heard: list[list[str]] = []
        self._listener = listener

    def listen(self) -> list[str]:
        """All lines so far."""
        while True:
            try:
                self.heard.append(self._listener.recv(65536).decode().split("\n"))
            except BlockingIOError:
                return [line for lines in self.heard for line in lines]

    def count(self, line: str) -> int:
        return self.listen().count(line)

    def statuses(self) -> list[str]:
        return [line for line in self.listen() if line.startswith("STATUS=sources")]


@contextmanager
def systemd(address: str) -> Iterator[Systemd]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as listener:
        listener.bind("\0" + address[1:] if address.startswith("@") else address)
        yield Systemd(listener, address)


def addresses(folder: Path) -> dict[str, str]:
    return {"path": str(folder / "notify"), "abstract": f"@callcast-test-{os.getpid()}-{folder.name}"}


async def started(world: World, heard: Systemd) -> None:
    await world.service.start({"NOTIFY_SOCKET": heard.address, "WATCHDOG_USEC": str(WATCHDOG_USEC)})
    await until(lambda: heard.count("READY=1") == 1, "READY=1")


@pytest.mark.parametrize("kind", ["path", "abstract"])
async def test_systemd_hears_ready_status_reload_and_stop(tmp_path: Path, kind: str) -> None:
    """READY once the service runs, a status line, RELOADING with its time and READY after it, STOPPING first of all."""
    async with seed_world(tmp_path) as world:
        with systemd(addresses(tmp_path)[kind]) as heard:
            await started(world, heard)
            assert heard.heard[0][0] == "READY=1"
            await world.stage.seen()
            world.stage.show(0)
            await until(lambda: any("polls 0" not in s and ", calls 1," in s for s in heard.statuses()), "a call")
            assert heard.statuses()[-1].startswith("STATUS=sources 1, polls ")
            before_us = time.monotonic() * 1e6
            os.kill(world.service.pid, signal.SIGHUP)
            await until(lambda: heard.count("READY=1") == 2, "READY=1 after the reload")
            reloading = next(lines for lines in heard.heard if "RELOADING=1" in lines)
            told_us = next(int(line.partition("=")[2]) for line in reloading if line.startswith("MONOTONIC_USEC="))
            assert before_us <= told_us <= time.monotonic() * 1e6
            assert await world.service.stop() == 0
            heard.listen()
            assert "STOPPING=1" in heard.heard[-1]


async def test_the_watchdog_is_fed_while_a_penalty_is_waited_out(tmp_path: Path) -> None:
    """The platform wants a minute of silence: nothing is asked, and systemd still hears that all is well."""
    async with seed_world(tmp_path) as world:
        with systemd(addresses(tmp_path)["path"]) as heard:
            await started(world, heard)
            await world.stage.seen()
            server = world.service.config.read_text().split('server = "')[1].split('"')[0]
            fault = {"kind": "status", "status": 429, "retry_after": 60}
            async with aiohttp.ClientSession() as session:
                answer = await session.post(f"{server}/simulator/faults", json=fault)
                assert answer.ok
            await until(lambda: any("rate_limited" in line for line in world.service.log), "the penalty")
            polls, fed = world.stage.polls, heard.count("WATCHDOG=1")
            await until(lambda: heard.count("WATCHDOG=1") >= fed + 4, "four more meals: longer than the watchdog waits")
            assert world.stage.polls <= polls + 1


class Patient:
    """A service whose scheduler steps when the test says so."""

    def __init__(self) -> None:
        self.last_step = 0.0
        self.said = "sources 1,\npolls 2"

    def stepped_at(self) -> float:
        return self.last_step

    def status(self) -> str:
        return self.said


async def test_a_scheduler_that_stopped_starves_the_watchdog(tmp_path: Path) -> None:
    """Fed every third of the time while it steps; not any more once it has not stepped for the watchdog's time."""
    clock, patient = TurnedClock(), Patient()
    with systemd(str(tmp_path / "notify")) as heard:
        supervisor = Supervisor.of({"NOTIFY_SOCKET": heard.address, "WATCHDOG_USEC": "30000000"})
        beating = asyncio.create_task(Heartbeat(supervisor, patient, clock).run())
        for _ in range(6):
            await clock.turn(10)
            patient.last_step = clock.monotonic()
        assert heard.count("WATCHDOG=1") == 7
        await clock.turn(40)
        starved = heard.count("WATCHDOG=1")
        assert starved <= 10
        await clock.turn(120)
        assert heard.count("WATCHDOG=1") == starved
        patient.last_step = clock.monotonic()
        await clock.turn(10)
        assert heard.count("WATCHDOG=1") == starved + 1
        assert heard.count("STATUS=sources 1, polls 2") >= 7
        beating.cancel()


def test_a_blocked_loop_starves_the_watchdog(tmp_path: Path) -> None:
    """The heart beats in the loop itself: while something holds the loop, systemd hears nothing."""
    held, free = threading.Event(), threading.Event()

    async def live(heard: Systemd) -> None:
        supervisor = Supervisor.of({"NOTIFY_SOCKET": heard.address, "WATCHDOG_USEC": "60000"})
        clock = SystemClock()
        patient = Patient()
        beating = asyncio.create_task(Heartbeat(supervisor, patient, clock).run())
        for block in (lambda: None, lambda: (held.set(), free.wait())):
            fed = heard.count("WATCHDOG=1")
            while heard.count("WATCHDOG=1") < fed + 3:
                patient.last_step = clock.monotonic()
                await asyncio.sleep(0.005)
            block()
        beating.cancel()

    with systemd(str(tmp_path / "notify")) as heard:
        loop = threading.Thread(target=lambda: asyncio.run(live(heard)))
        loop.start()
        assert held.wait(WAIT_S)
        before = heard.count("WATCHDOG=1")
        time.sleep(0.5)  # eight times what the watchdog waits
        assert heard.count("WATCHDOG=1") == before >= 6
        free.set()
        loop.join()


async def test_ready_is_told_until_it_has_arrived(tmp_path: Path) -> None:
    """A socket that is not there yet costs nothing: READY=1 comes with the next beat."""
    clock, address = TurnedClock(), str(tmp_path / "notify")
    beating = asyncio.create_task(Heartbeat(Supervisor(address), Patient(), clock).run())
    await clock.turn(25)
    with systemd(address) as heard:
        await clock.turn(30)
        assert heard.count("READY=1") == 1
        assert heard.count("WATCHDOG=1") == 0
    beating.cancel()


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, Supervisor()),
        ({"NOTIFY_SOCKET": "", "WATCHDOG_USEC": "1000000"}, Supervisor()),
        ({"NOTIFY_SOCKET": "vsock:2:1"}, Supervisor()),
        ({"NOTIFY_SOCKET": "@a"}, Supervisor("@a")),
        ({"NOTIFY_SOCKET": "/a", "WATCHDOG_USEC": "0"}, Supervisor("/a")),
        ({"NOTIFY_SOCKET": "/a", "WATCHDOG_USEC": "soon"}, Supervisor("/a")),
        ({"NOTIFY_SOCKET": "/a", "WATCHDOG_USEC": "9000000"}, Supervisor("/a", 9.0)),
        ({"NOTIFY_SOCKET": "/a", "WATCHDOG_USEC": "9000000", "WATCHDOG_PID": "1"}, Supervisor("/a")),
        ({"NOTIFY_SOCKET": "/a", "WATCHDOG_USEC": "9000000", "WATCHDOG_PID": str(os.getpid())}, Supervisor("/a", 9.0)),
    ],
)
def test_what_the_environment_says(environ: dict[str, str], expected: Supervisor) -> None:
    """The variables of sd_notify(3) and sd_watchdog_enabled(3), and what else may stand there."""
    assert Supervisor.of(environ) == expected


def test_the_beat_is_a_third_of_the_watchdogs_time_at_most() -> None:
    """And the status line is never older than ten seconds."""
    assert Supervisor("/a", 9.0).beat_s == 3.0
    assert Supervisor("/a", 3600.0).beat_s == 10.0
    assert Supervisor("/a").beat_s == 10.0
