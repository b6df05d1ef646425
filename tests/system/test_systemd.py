"""The notifications that systemd gets, from the service and from `SystemdNotifier` alone."""

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
from callcast.observability.systemd import SystemdNotifier
from tests.clock import TurnedClock
from tests.system.world import WAIT_S, World, seed_world, until

WATCHDOG_USEC = 3_000_000


class Systemd:
    """The other end of NOTIFY_SOCKET: collects each datagram as its lines."""

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
async def test_systemd_gets_ready_status_reload_and_stop(tmp_path: Path, kind: str) -> None:
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
            sent_us = next(int(line.partition("=")[2]) for line in reloading if line.startswith("MONOTONIC_USEC="))
            assert before_us <= sent_us <= time.monotonic() * 1e6
            assert await world.service.stop() == 0
            heard.listen()
            assert "STOPPING=1" in heard.heard[-1]


async def test_watchdog_messages_continue_during_a_penalty(tmp_path: Path) -> None:
    """Requests are paused for a minute, and the watchdog message is still sent."""
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
            await until(
                lambda: heard.count("WATCHDOG=1") >= fed + 4,
                "four more watchdog messages",
            )
            assert world.stage.polls <= polls + 1


class Status:
    """A service whose scheduler steps when the test says so."""

    def __init__(self) -> None:
        self.last_step = 0.0
        self.text = "sources 1,\npolls 2"

    def stepped_at(self) -> float:
        return self.last_step

    def status(self) -> str:
        return self.text


async def test_a_stuck_scheduler_stops_the_watchdog_messages(tmp_path: Path) -> None:
    """They are sent while the scheduler runs, and not once it has not run for the watchdog interval."""
    clock, status = TurnedClock(), Status()
    with systemd(str(tmp_path / "notify")) as heard:
        environ = {"NOTIFY_SOCKET": heard.address, "WATCHDOG_USEC": "30000000"}
        beating = asyncio.create_task(SystemdNotifier(environ, status, clock).run())
        for _ in range(6):
            await clock.turn(10)
            status.last_step = clock.monotonic()
        assert heard.count("WATCHDOG=1") == 7
        await clock.turn(40)
        count = heard.count("WATCHDOG=1")
        assert count <= 10
        await clock.turn(120)
        assert heard.count("WATCHDOG=1") == count
        status.last_step = clock.monotonic()
        await clock.turn(10)
        assert heard.count("WATCHDOG=1") == count + 1
        assert heard.count("STATUS=sources 1, polls 2") >= 7
        beating.cancel()


def test_a_blocked_event_loop_stops_the_watchdog_messages(tmp_path: Path) -> None:
    """They are sent from the event loop: while it is blocked, systemd gets nothing."""
    held, free = threading.Event(), threading.Event()

    async def live(heard: Systemd) -> None:
        environ = {"NOTIFY_SOCKET": heard.address, "WATCHDOG_USEC": "60000"}
        clock = SystemClock()
        status = Status()
        beating = asyncio.create_task(SystemdNotifier(environ, status, clock).run())
        for block in (lambda: None, lambda: (held.set(), free.wait())):
            fed = heard.count("WATCHDOG=1")
            while heard.count("WATCHDOG=1") < fed + 3:
                status.last_step = clock.monotonic()
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


async def test_ready_is_sent_until_it_arrives(tmp_path: Path) -> None:
    """If the socket does not exist yet, READY=1 is sent again with the next heartbeat."""
    clock, address = TurnedClock(), str(tmp_path / "notify")
    beating = asyncio.create_task(SystemdNotifier({"NOTIFY_SOCKET": address}, Status(), clock).run())
    await clock.turn(25)
    with systemd(address) as heard:
        await clock.turn(30)
        assert heard.count("READY=1") == 1
        assert heard.count("WATCHDOG=1") == 0
    beating.cancel()


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, ("", None)),
        ({"NOTIFY_SOCKET": "", "WATCHDOG_USEC": "1000000"}, ("", None)),
        ({"NOTIFY_SOCKET": "vsock:2:1"}, ("", None)),
        ({"NOTIFY_SOCKET": "@a"}, ("\0a", None)),
        ({"NOTIFY_SOCKET": "/a", "WATCHDOG_USEC": "0"}, ("/a", None)),
        ({"NOTIFY_SOCKET": "/a", "WATCHDOG_USEC": "soon"}, ("/a", None)),
        ({"NOTIFY_SOCKET": "/a", "WATCHDOG_USEC": "9000000"}, ("/a", 9.0)),
        ({"NOTIFY_SOCKET": "/a", "WATCHDOG_USEC": "9000000", "WATCHDOG_PID": "1"}, ("/a", None)),
        ({"NOTIFY_SOCKET": "/a", "WATCHDOG_USEC": "9000000", "WATCHDOG_PID": str(os.getpid())}, ("/a", 9.0)),
    ],
)
def test_the_environment_gives_socket_and_watchdog(environ: dict[str, str], expected: tuple[str, float | None]) -> None:
    """The variables of sd_notify(3) and sd_watchdog_enabled(3); other values are ignored."""
    notifier = SystemdNotifier(environ, Status(), TurnedClock())
    assert (notifier.address, notifier.watchdog_s) == expected


@pytest.mark.parametrize(("watchdog_usec", "beat_s"), [("9000000", 3.0), ("3600000000", 10.0), ("", 10.0)])
def test_the_heartbeat_is_sent_three_times_per_watchdog_interval(watchdog_usec: str, beat_s: float) -> None:
    """And at least every ten seconds, because of the status line."""
    environ = {"NOTIFY_SOCKET": "/a", "WATCHDOG_USEC": watchdog_usec}
    assert SystemdNotifier(environ, Status(), TurnedClock()).beat_s == beat_s
