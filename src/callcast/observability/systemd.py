"""What systemd is told of the service: ready, how it is, reloading, stopping, and that it is alive (sd_notify).

Without `NOTIFY_SOCKET` nobody listens and nothing is sent. The protocol is that of sd_notify(3): datagrams of
`NAME=value` lines on a Unix socket, whose name begins with `@` where it is an abstract one.
"""

import os
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Protocol

from callcast.ports.clock import Clock

BEAT_S = 10.0  # the status line is renewed at least this often
STATUS_CHARS_MAX = 300


class Vital(Protocol):
    """What is asked of the running service at every beat."""

    def stepped_at(self) -> float:
        """When the scheduler that is furthest behind last stepped, on the monotonic clock."""
        ...

    def status(self) -> str:
        """One line for people: sources, looks, calls, pending deliveries."""
        ...


@dataclass(frozen=True)
class Supervisor:
    """Where systemd listens, and how often it wants to hear of us; `watchdog_s` None: it does not watch."""

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
        """A third of the watchdog's time at most, so that one lost beat is no restart."""
        return min(BEAT_S, self.watchdog_s / 3) if self.watchdog_s else BEAT_S

    def tell(self, *lines: str) -> bool:
        """Whether systemd has it. Never waits: a full socket must not stop the loop."""
        if not self.address:
            return False
        with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as sender:
            name = self.address
            sender.sendto("\n".join(lines).encode(), b"\0" + name[1:].encode() if name.startswith("@") else name)
            return True
        return False


class Heartbeat:
    """The service's side. `run` until cancelled, from when the service is ready."""

    def __init__(self, supervisor: Supervisor, vital: Vital, clock: Clock) -> None:
        self._supervisor = supervisor
        self._vital = vital
        self._clock = clock

    async def run(self) -> None:
        """READY=1 until it has arrived; then the status, and the watchdog's food for as long as looks go on."""
        if not self._supervisor.address:
            return
        ready = False
        while True:
            lines = [] if ready else ["READY=1"]
            told = self._supervisor.tell(*lines, f"STATUS={_one_line(self._vital.status())}", *self._food())
            ready = ready or told
            await self._clock.sleep(self._supervisor.beat_s)

    def _food(self) -> list[str]:
        """A scheduler that stopped is as dead as a loop that stopped: then systemd hears nothing."""
        watchdog_s = self._supervisor.watchdog_s
        if watchdog_s is None or self._clock.monotonic() - self._vital.stepped_at() > watchdog_s:
            return []
        return ["WATCHDOG=1"]

    @contextmanager
    def reloading(self) -> Iterator[None]:
        usec = int(time.monotonic() * 1e6)  # CLOCK_MONOTONIC, as sd_notify(3) wants it
        self._supervisor.tell("RELOADING=1", f"MONOTONIC_USEC={usec}", "STATUS=reading the configuration again")
        try:
            yield
        finally:
            self._supervisor.tell("READY=1", f"STATUS={_one_line(self._vital.status())}")

    def stopping(self) -> None:
        self._supervisor.tell("STOPPING=1", "STATUS=letting deliveries in flight finish")


def _one_line(text: str) -> str:
    return " ".join(text.split())[:STATUS_CHARS_MAX]
