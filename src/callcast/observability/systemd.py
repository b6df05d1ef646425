"""Notifies systemd of the state of the service: ready, status, reloading, stopping, watchdog (sd_notify).

Nothing is sent without `NOTIFY_SOCKET`. The protocol is that of sd_notify(3): datagrams of `NAME=value` lines on a
Unix socket; the name of an abstract socket begins with `@`.
"""

import os
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Protocol

from callcast.ports.clock import Clock

BEAT_S = 10.0  # the status is sent at least this often
STATUS_CHARS_MAX = 300


class ServiceStatus(Protocol):
    """The state of the running service, read at every heartbeat."""

    def stepped_at(self) -> float:
        """When the scheduler that is furthest behind last ran, on the monotonic clock."""
        ...

    def status(self) -> str:
        """One readable line: sources, polls, calls, pending deliveries."""
        ...


@dataclass(frozen=True)
class Supervisor:
    """The notification socket of systemd and its watchdog interval; `watchdog_s` is None without a watchdog."""

    address: str = ""
    watchdog_s: float | None = None

    @classmethod
    def of(cls, environ: Mapping[str, str]) -> "Supervisor":
        address = environ.get("NOTIFY_SOCKET", "")
        if not address.startswith(("/", "@")):
            return cls()
        usec = environ.get("WATCHDOG_USEC", "")
        ours = environ.get("WATCHDOG_PID") in (None, str(os.getpid()))
        return cls(address, int(usec) / 1e6 if ours and usec.isdigit() and int(usec) else None)

    @property
    def beat_s(self) -> float:
        """At most a third of the watchdog interval, so that one lost message causes no restart."""
        return min(BEAT_S, self.watchdog_s / 3) if self.watchdog_s else BEAT_S

    def notify(self, *lines: str) -> bool:
        """Send the lines; returns whether systemd got them. Never blocks, even if the socket is full."""
        if not self.address:
            return False
        with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as sender:
            name = self.address
            sender.sendto("\n".join(lines).encode(), b"\0" + name[1:].encode() if name.startswith("@") else name)
            return True
        return False


class Heartbeat:
    """Sends heartbeats. Run `run` once the service is ready."""

    def __init__(self, supervisor: Supervisor, status: ServiceStatus, clock: Clock) -> None:
        self._supervisor = supervisor
        self._status = status
        self._clock = clock

    async def run(self) -> None:
        """Send READY=1 until it arrives, and the status and the watchdog message, until cancelled."""
        if not self._supervisor.address:
            return
        ready = False
        while True:
            lines = [] if ready else ["READY=1"]
            sent = self._supervisor.notify(*lines, f"STATUS={_one_line(self._status.status())}", *self._watchdog())
            ready = ready or sent
            await self._clock.sleep(self._supervisor.beat_s)

    def _watchdog(self) -> list[str]:
        """WATCHDOG=1, unless a scheduler is stuck: then systemd restarts the service."""
        watchdog_s = self._supervisor.watchdog_s
        if watchdog_s is None or self._clock.monotonic() - self._status.stepped_at() > watchdog_s:
            return []
        return ["WATCHDOG=1"]

    @contextmanager
    def reloading(self) -> Iterator[None]:
        usec = int(time.monotonic() * 1e6)  # CLOCK_MONOTONIC, as sd_notify(3) requires
        self._supervisor.notify("RELOADING=1", f"MONOTONIC_USEC={usec}", "STATUS=reloading the configuration")
        try:
            yield
        finally:
            self._supervisor.notify("READY=1", f"STATUS={_one_line(self._status.status())}")

    def stopping(self) -> None:
        self._supervisor.notify("STOPPING=1", "STATUS=finishing deliveries in flight")


def _one_line(text: str) -> str:
    return " ".join(text.split())[:STATUS_CHARS_MAX]
