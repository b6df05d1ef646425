"""The notifications to systemd: of the real process on a socket as systemd makes it, and of the heartbeat alone."""

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


class NotifySocket:
    """The other end of NOTIFY_SOCKET: keeps each datagram as its lines."""

    def __init__(self, listener: socket.socket, address: str) -> None:
        self.address = address
        self.received: list[list[str]] = []
        self._listener = listener

    def listen(self) -> list[str]:
        """All lines so far."""
        while True:
            try:
                self.received.append(self._listener.recv(65536).decode().split("\n"))
            except BlockingIOError:
                return [line for lines in self.received for line in lines]

    def count(self, line: str) -> int:
        return self.listen().count(line)

    def statuses(self) -> list[str]:
        return [line for line in self.listen() if line.startswith("STATUS=sources")]


@contextmanager
def notify_socket(address: str) -> Iterator[NotifySocket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as listener:
        listener.bind("\0" + address[1:] if address.startswith("@") else address)
        yield NotifySocket(listener, address)


def addresses(folder: Path) -> dict[str, str]:
    return {"path": str(folder / "notify"), "abstract": f"@callcast-test-{os.getpid()}-{folder.name}"}


async def started(world: World, notified: NotifySocket) -> None:
    await world.service.start({"NOTIFY_SOCKET": notified.address, "WATCHDOG_USEC": str(WATCHDOG_USEC)})
    await until(lambda: notified.count("READY=1") == 1, "READY=1")


@pytest.mark.parametrize("kind", ["path", "abstract"])
async def test_systemd_is_notified_of_ready_status_reload_and_stop(tmp_path: Path, kind: str) -> None:
    """READY once the service runs, a status line, RELOADING with its time and READY after it, STOPPING first of all."""
    async with seed_world(tmp_path) as world:
        with notify_socket(addresses(tmp_path)[kind]) as notified:
            await started(world, notified)
            assert notified.received[0][0] == "READY=1"
            await world.stage.seen()
            world.stage.show(0)
            await until(lambda: any("polls 0" not in s and ", calls 1," in s for s in notified.statuses()), "a call")
            assert notified.statuses()[-1].startswith("STATUS=sources 1, polls ")
            before_us = time.monotonic() * 1e6
            os.kill(world.service.pid, signal.SIGHUP)
            await until(lambda: notified.count("READY=1") == 2, "READY=1 after the reload")
            reloading = next(lines for lines in notified.received if "RELOADING=1" in lines)
            reloading_us = next(int(line.partition("=")[2]) for line in reloading if line.startswith("MONOTONIC_USEC="))
            assert before_us <= reloading_us <= time.monotonic() * 1e6
            assert await world.service.stop() == 0
            notified.listen()
            assert "STOPPING=1" in notified.received[-1]


async def test_the_watchdog_is_fed_while_a_penalty_is_waited_out(tmp_path: Path) -> None:
    """During a penalty of a minute no request is sent, and the watchdog is still fed."""
    async with seed_world(tmp_path) as world:
        with notify_socket(addresses(tmp_path)["path"]) as notified:
            await started(world, notified)
            await world.stage.seen()
            server = world.service.config.read_text().split('server = "')[1].split('"')[0]
            fault = {"kind": "status", "status": 429, "retry_after": 60}
            async with aiohttp.ClientSession() as session:
                answer = await session.post(f"{server}/simulator/faults", json=fault)
                assert answer.ok
            await until(lambda: any("rate_limited" in line for line in world.service.log), "the penalty")
            polls, fed = world.stage.polls, notified.count("WATCHDOG=1")
            await until(
                lambda: notified.count("WATCHDOG=1") >= fed + 4,
                "four more notifications: longer than the watchdog waits",
            )
            assert world.stage.polls <= polls + 1


class Patient:
    """A service whose scheduler steps when the test says so."""

    def __init__(self) -> None:
        self.last_step = 0.0
        self.text = "sources 1,\npolls 2"

    def stepped_at(self) -> float:
        return self.last_step

    def status(self) -> str:
        return self.text


async def test_a_scheduler_that_stopped_starves_the_watchdog(tmp_path: Path) -> None:
    """Fed every third of the time while it steps; not any more once it has not stepped for the watchdog's time."""
    clock, patient = TurnedClock(), Patient()
    with notify_socket(str(tmp_path / "notify")) as notified:
        supervisor = Supervisor.of({"NOTIFY_SOCKET": notified.address, "WATCHDOG_USEC": "30000000"})
        beating = asyncio.create_task(Heartbeat(supervisor, patient, clock).run())
        for _ in range(6):
            await clock.turn(10)
            patient.last_step = clock.monotonic()
        assert notified.count("WATCHDOG=1") == 7
        await clock.turn(40)
        starved = notified.count("WATCHDOG=1")
        assert starved <= 10
        await clock.turn(120)
        assert notified.count("WATCHDOG=1") == starved
        patient.last_step = clock.monotonic()
        await clock.turn(10)
        assert notified.count("WATCHDOG=1") == starved + 1
        assert notified.count("STATUS=sources 1, polls 2") >= 7
        beating.cancel()


def test_a_blocked_loop_starves_the_watchdog(tmp_path: Path) -> None:
    """The heartbeat runs in the loop itself: while the loop is blocked, the watchdog is not fed."""
    held, free = threading.Event(), threading.Event()

    async def live(notified: NotifySocket) -> None:
        supervisor = Supervisor.of({"NOTIFY_SOCKET": notified.address, "WATCHDOG_USEC": "60000"})
        clock = SystemClock()
        patient = Patient()
        beating = asyncio.create_task(Heartbeat(supervisor, patient, clock).run())
        for block in (lambda: None, lambda: (held.set(), free.wait())):
            fed = notified.count("WATCHDOG=1")
            while notified.count("WATCHDOG=1") < fed + 3:
                patient.last_step = clock.monotonic()
                await asyncio.sleep(0.005)
            block()
        beating.cancel()

    with notify_socket(str(tmp_path / "notify")) as notified:
        loop = threading.Thread(target=lambda: asyncio.run(live(notified)))
        loop.start()
        assert held.wait(WAIT_S)
        before = notified.count("WATCHDOG=1")
        time.sleep(0.5)  # eight times what the watchdog waits
        assert notified.count("WATCHDOG=1") == before >= 6
        free.set()
        loop.join()


async def test_ready_is_sent_until_it_has_arrived(tmp_path: Path) -> None:
    """A socket that is not there yet costs nothing: READY=1 comes with the next beat."""
    clock, address = TurnedClock(), str(tmp_path / "notify")
    beating = asyncio.create_task(Heartbeat(Supervisor(address), Patient(), clock).run())
    await clock.turn(25)
    with notify_socket(address) as notified:
        await clock.turn(30)
        assert notified.count("READY=1") == 1
        assert notified.count("WATCHDOG=1") == 0
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
