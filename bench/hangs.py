"""How soon a webhook has its backlog after it has hung, without a new call.

    python -m bench.hangs [--events N] [--hang SECONDS,...]

The service starts with events that are pending for one webhook. The receiver takes connections and requests, and
says nothing for so long from its first request on; then it answers each request at once. `late`: also those that it
was sent while it hung, as a process does that was stopped or waited for its database;
the goal is that all are there within 10 s.
`never`: those are lost, so each costs its attempt's time limit of 15 s, however soon the receiver is back. Printed for
each: seconds from the receiver's return until it has taken half of the events and all of them, and its requests while
it hung.
"""

import argparse
import asyncio
import re
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from bench.receivers import TAKEN
from bench.stored import FIRST, LIMITS, ended
from callcast.app import SystemClock
from callcast.outbox.sqlite.store import open_outbox
from callcast.ports.sink import Filter
from callcast.simulator import Credential, Platform
from callcast.simulator.scenarios import crowd, played
from callcast.simulator.script import Script
from tests.ports import free_port
from tests.system.world import Service

GIVEN_UP_S = 120.0
CONFIG = """\
[service]
data_dir = "{data}"
http_listen = "127.0.0.1:{port}"
log_level = "error"
[sources.acme]
server = "{server}"
client_id = "{credential.client_id}"
client_secret = "{credential.client_secret}"
jwt = "{credential.jwt}"
watch = "account"
[sinks.crm]
type = "webhook"
url = "{hook}"
"""
_LENGTH, _ID = re.compile(rb"(?i)content-length: *(\d+)"), re.compile(rb"(?i)webhook-id: *(\S+)")


class Receiver:
    """`late`: what it was sent while it hung is answered when it is well again."""

    def __init__(self, events: int, hang_s: float, *, late: bool) -> None:
        self.well_at = 0.0  # known from the first request on
        self.taken: dict[bytes, float] = {}  # when each event was first answered
        self.unanswered: list[tuple[bytes, asyncio.Transport]] = []
        self.all_taken = asyncio.Event()
        self._events = events
        self._hang_s = hang_s
        self._late = late

    def request_received(self, event_id: bytes, transport: asyncio.Transport) -> None:
        if not self.well_at:
            self.well_at = time.monotonic() + self._hang_s
            asyncio.get_running_loop().call_later(self._hang_s, self._well)
        if time.monotonic() < self.well_at:
            self.unanswered.append((event_id, transport))
        else:
            self._take(event_id, transport)

    def _well(self) -> None:
        self.well_at = min(self.well_at, time.monotonic())
        for event_id, transport in self.unanswered if self._late else ():
            if not transport.is_closing():
                self._take(event_id, transport)

    def _take(self, event_id: bytes, transport: asyncio.Transport) -> None:
        self.taken.setdefault(event_id, time.monotonic())
        transport.write(TAKEN)
        if len(self.taken) >= self._events:
            self.all_taken.set()


class Requests(asyncio.Protocol):
    def __init__(self, receiver: Receiver) -> None:
        self._receiver = receiver
        self._left = b""

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._left += data
        while (end := self._left.find(b"\r\n\r\n")) >= 0:
            length, event_id = _LENGTH.search(self._left, 0, end), _ID.search(self._left, 0, end)
            assert length
            assert event_id
            whole = end + 4 + int(length[1])
            if len(self._left) < whole:
                return
            self._left = self._left[whole:]
            self._receiver.request_received(event_id[1], self._transport)


async def measure(folder: Path, events: int, hang_s: float, *, late: bool) -> str:
    receiver, credential, port = Receiver(events, hang_s, late=late), Credential(), free_port()
    server = await asyncio.get_running_loop().create_server(lambda: Requests(receiver), "127.0.0.1", 0)
    async with open_outbox(folder / "data", SystemClock(), **LIMITS) as outbox:
        await outbox.subscribe({"crm": Filter()})
        for number in range(FIRST, FIRST + events):
            await outbox.record("acme", None, ended(number))
    scenario = played(Script(account=crowd(1)), SystemClock().now())
    async with server, Platform(scenario).serve() as upstream:
        config = folder / "callcast.toml"
        hook = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
        config.write_text(
            CONFIG.format(data=folder / "data", port=port, server=upstream, credential=credential, hook=hook)
        )
        service = Service(config, f"http://127.0.0.1:{port}")
        await service.start()
        try:
            with suppress(TimeoutError):
                await asyncio.wait_for(receiver.all_taken.wait(), hang_s + GIVEN_UP_S)
        finally:
            await service.stop()
    at = sorted(at - receiver.well_at for at in receiver.taken.values())
    half, whole = (f"{at[n - 1]:5.1f}" if len(at) >= n else "never" for n in (events // 2, events))
    how = "late" if late else "never"
    return (
        f"hang of {hang_s:4.0f} s, answered {how:5}: half {half} s, all {whole} s, {len(receiver.unanswered)} requests"
    )


async def main(arguments: Any) -> None:
    for hang_s in map(float, arguments.hang.split(",")):
        for late in (True, False):
            with tempfile.TemporaryDirectory() as folder:
                print(await measure(Path(folder), arguments.events, hang_s, late=late), flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=int, default=54)
    parser.add_argument("--hang", default="5,20,60")
    asyncio.run(main(parser.parse_args()))
