"""Notifies systemd of the state of the service: ready, status, reloading, stopping, watchdog (sd_notify).

Nothing is sent without `NOTIFY_SOCKET`. The protocol is that of sd_notify(3): datagrams of `NAME=value` lines on a
Unix socket; the name of an abstract socket begins with `@`.
"""

import os
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
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


class SystemdNotifier:
    """Sends notifications as the environment asks for them. Run `run` once the service is ready."""

    def __init__(self, environ: Mapping[str, str], status: ServiceStatus, clock: Clock) -> None:
        self._status = status
        self._clock = clock
        address = environ.get("NOTIFY_SOCKET", "")
        self.address = "\0" + address[1:] if address.startswith("@") else address if address.startswith("/") else ""
        usec = environ.get("WATCHDOG_USEC", "")
        is_ours = environ.get("WATCHDOG_PID") in (None, str(os.getpid()))
        self.watchdog_s = int(usec) / 1e6 if self.address and is_ours and usec.isdigit() and int(usec) else None
        # At most a third of the watchdog interval, so that one lost message causes no restart.
        self.beat_s = min(BEAT_S, self.watchdog_s / 3) if self.watchdog_s else BEAT_S

    async def run(self) -> None:
        """Send READY=1 until it arrives, and the status and the watchdog message, until cancelled."""
        if not self.address:
            return
        ready = False
        while True:
            sent = self._notify(*([] if ready else ["READY=1"]), self._status_line(), *self._watchdog())
            ready = ready or sent
            await self._clock.sleep(self.beat_s)

    @contextmanager
    def reloading(self) -> Iterator[None]:
        usec = int(time.monotonic() * 1e6)  # CLOCK_MONOTONIC, as sd_notify(3) requires
        self._notify("RELOADING=1", f"MONOTONIC_USEC={usec}", "STATUS=reloading the configuration")
        try:
            yield
        finally:
            self._notify("READY=1", self._status_line())

    def stopping(self) -> None:
        self._notify("STOPPING=1", "STATUS=finishing deliveries in flight")

    def _notify(self, *lines: str) -> bool:
        """Send the lines; returns whether systemd got them. Never blocks, even if the socket is full."""
        if not self.address:
            return False
        with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as sender:
            sender.sendto("\n".join(lines).encode(), self.address)
            return True
        return False

    def _watchdog(self) -> list[str]:
        """WATCHDOG=1, unless a scheduler is stuck: then systemd restarts the service."""
        is_stuck = self.watchdog_s and self._clock.monotonic() - self._status.stepped_at() > self.watchdog_s
        return ["WATCHDOG=1"] if self.watchdog_s and not is_stuck else []

    def _status_line(self) -> str:
        return f"STATUS={' '.join(self._status.status().split())[:STATUS_CHARS_MAX]}"
