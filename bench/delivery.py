"""How fast events go through the whole pipe: a look shows them, three sinks acknowledge them.

    python -m bench.delivery [--rates 200,500,1000] [--seconds 60] [--dir DIRECTORY]

The service is a process of its own, with synchronous=FULL, against a far side in another process that is never the
bottleneck: an account's list that changes with every look, a webhook receiver that only answers, mosquitto, and
standard output read from a pipe. Prints the disk's fsync first, then one JSON line per figure. Times from seen to
acknowledged come from the outbox's own record of every attempt.
"""

import argparse
import asyncio
import json
import multiprocessing
import os
import re
import signal
import socket
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from aiohttp import web

from bench.outbox import ended, fsync_ms, say
from callcast.app import SystemClock
from callcast.core.sink import Filter
from callcast.outboxes.sqlite import open_outbox
from callcast.simulator.scenarios.seed import ACCOUNT_ID
from tests.sinks.brokers import free_port, mosquitto
from tests.system.endless import record_of

SINKS = ("crm", "lines", "wall")
BACKLOG = 10_000
LOOKS_PER_S = 5
CONFIG = """\
[service]
data_dir = "{data}"
http_listen = "127.0.0.1:{port}"
log_level = "warning"
[sources.acme]
server = "http://127.0.0.1:{platform}"
client_id = "app"
client_secret = "secret"
jwt = "jwt"
watch = "account"
poll_interval_s = {interval_s}
heavy_per_minute = 10000
[sinks.crm]
type = "webhook"
url = "http://127.0.0.1:{hook}/hook"
secrets = ["whsec_c2VjcmV0LXNlY3JldC1zZWNyZXQtc2VjcmV0"]
[sinks.wall]
type = "mqtt"
url = "mqtt://127.0.0.1:{mqtt}"
[sinks.lines]
type = "stdout"
"""


class Bulk:
    """The platform's side: with every look so many calls move on, each ringing, answered, ended."""

    def __init__(self) -> None:
        self.per_look = 0
        self.begun = 0
        self._calls: list[tuple[int, int]] = []
        self._forms = [json.dumps(record_of(9_999_999, step)).encode() for step in range(3)]

    def body(self) -> bytes:
        self._calls = [(number, step + 1) for number, step in self._calls if step < 2]
        while len(self._calls) < self.per_look:
            self._calls.append((self.begun, 0))
            self.begun += 1
        records = b",".join(self._forms[step].replace(b"9999999", b"%d" % number) for number, step in self._calls)
        return b'{"records":[%b],"paging":{"page":1,"perPage":1000},"navigation":{}}' % records

    async def token(self, _: web.Request) -> web.Response:
        return web.json_response({"access_token": "t", "token_type": "bearer", "expires_in": 3600, "owner_id": "1"})

    async def active(self, _: web.Request) -> web.Response:
        return web.Response(body=self.body(), content_type="application/json")

    async def nothing(self, _: web.Request) -> web.Response:
        return web.json_response({"records": [], "paging": {"page": 1, "perPage": 1000}, "navigation": {}})

    async def turn(self, request: web.Request) -> web.Response:
        self.per_look = int(request.query["per_look"])
        return web.Response(text=str(self.begun))


class Receiver(asyncio.Protocol):
    """Answers 204 to whatever is posted."""

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        self._left = b""

    def data_received(self, data: bytes) -> None:
        self._left += data
        while (end := self._left.find(b"\r\n\r\n")) >= 0:
            length = re.search(rb"(?i)content-length: (\d+)", self._left[:end])
            whole = end + 4 + (int(length[1]) if length else 0)
            if len(self._left) < whole:
                return
            self._left = self._left[whole:]
            self._transport.write(b"HTTP/1.1 204 No Content\r\n\r\n")


async def _far_side(platform: int, hook: int) -> None:
    bulk, app = Bulk(), web.Application()
    account = f"/restapi/v1.0/account/{{account:~|{ACCOUNT_ID}}}"
    app.router.add_post("/restapi/oauth/token", bulk.token)
    app.router.add_get(f"{account}/active-calls", bulk.active)
    app.router.add_get(f"{account}/call-log", bulk.nothing)
    app.router.add_get("/turn", bulk.turn)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", platform).start()
    server = await asyncio.get_running_loop().create_server(Receiver, "127.0.0.1", hook)
    await server.serve_forever()


def far_side(platform: int, hook: int) -> None:
    asyncio.run(_far_side(platform, hook))


def _until_there(*ports: int) -> None:
    """A sink that is refused at the start probes half a minute later, which is not what is measured here."""
    for port in ports:
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                break
            except OSError:
                time.sleep(0.02)


class Pipe:
    """The service, what it writes, what it says of itself, and what of the machine it uses."""

    def __init__(self, folder: Path, platform: int, hook: int, mqtt: int) -> None:
        self.data = folder / "data"
        self.port = free_port()
        self.config = folder / "callcast.toml"
        self._platform = platform
        self.config.write_text(
            CONFIG.format(
                data=self.data, port=self.port, platform=platform, hook=hook, mqtt=mqtt, interval_s=1 / LOOKS_PER_S
            )
        )

    @contextmanager
    def running(self) -> Iterator["Pipe"]:
        self.lines = 0
        self._process = subprocess.Popen(
            [sys.executable, "-m", "callcast", "run", "--config", str(self.config)], stdout=subprocess.PIPE
        )
        reading = threading.Thread(target=self._read)
        reading.start()
        try:
            self._wait_ready()
            yield self
        finally:
            self._process.send_signal(signal.SIGTERM)
            self._process.wait(30)
            reading.join()

    def _read(self) -> None:
        assert self._process.stdout is not None
        while data := os.read(self._process.stdout.fileno(), 65536):
            self.lines += data.count(b"\n")

    def _wait_ready(self) -> None:
        while True:
            try:
                self.metrics()
                return
            except OSError:
                time.sleep(0.02)

    def metrics(self) -> dict[str, float]:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/metrics", timeout=10) as answer:
            text = answer.read().decode()
        rows = (line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
        return {name: float(value) for name, value in rows}

    def acknowledged(self) -> int:
        """Events that every sink has taken."""
        now = self.metrics()
        return min(int(now.get(f'callcast_event_latency_seconds_count{{sink="{sink}"}}', 0)) for sink in SINKS)

    def seen(self) -> int:
        return int(sum(value for name, value in self.metrics().items() if name.startswith("callcast_events_total{")))

    def turn(self, per_look: int) -> None:
        """From now on so many events with every look."""
        urllib.request.urlopen(f"http://127.0.0.1:{self._platform}/turn?per_look={per_look}", timeout=10).close()

    def rss_mib(self) -> float:
        """The most it ever had."""
        status = Path(f"/proc/{self._process.pid}/status").read_text()
        return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")) / 1024

    def cpu_s(self) -> float:
        fields = Path(f"/proc/{self._process.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def latencies_ms(self, sink: str, since_seq: int) -> list[float]:
        connection = sqlite3.connect(self.data / "outbox.db")
        rows = connection.execute(
            "SELECT (a.at - e.recorded_at) / 1000.0 FROM attempts a JOIN events e ON e.seq = a.seq"
            " JOIN sinks s ON s.id = a.sink WHERE s.name = ? AND e.seq > ? AND a.word = 'delivered'",
            (sink, since_seq),
        ).fetchall()
        connection.close()
        return sorted(ms for (ms,) in rows)

    def last_seq(self) -> int:
        connection = sqlite3.connect(self.data / "outbox.db")
        (seq,) = connection.execute("SELECT coalesce(max(seq), 0) FROM events").fetchone()
        connection.close()
        return int(seq)


def sustained(pipe: Pipe, rate: int, seconds: float) -> None:
    """`rate` events a second for so long; whether what is owed grows, and how long an event takes."""
    after_seq, cpu_s, seen, done = pipe.last_seq(), pipe.cpu_s(), pipe.seen(), pipe.acknowledged()
    began = time.perf_counter()
    pipe.turn(rate // LOOKS_PER_S)
    behind = []
    while time.perf_counter() - began < seconds:
        time.sleep(min(1.0, seconds / 10))
        behind.append(pipe.seen() - seen - (pipe.acknowledged() - done))
    took_s = time.perf_counter() - began
    got, offered, used_s = pipe.acknowledged() - done, pipe.seen() - seen, pipe.cpu_s() - cpu_s
    pipe.turn(0)
    half = len(behind) // 2
    say(
        what="sustained",
        rate=rate,
        seconds=took_s,
        seen_per_s=offered / took_s,
        acknowledged_per_s=got / took_s,
        behind_first_half=statistics.mean(behind[:half]),
        behind_second_half=statistics.mean(behind[half:]),
        cpu_ms_per_event=1000 * used_s / max(1, got),
        rss_mib=pipe.rss_mib(),
    )
    _settle(pipe, done + offered)
    for sink in SINKS:
        taken = pipe.latencies_ms(sink, after_seq)
        say(
            what="seen_to_acknowledged",
            rate=rate,
            sink=sink,
            median_ms=statistics.median(taken),
            p99_ms=taken[int(len(taken) * 0.99)],
            worst_ms=taken[-1],
        )


def _settle(pipe: Pipe, at_least: int) -> None:
    while pipe.acknowledged() < max(at_least, pipe.seen()):
        time.sleep(0.1)


async def fill(data: Path) -> None:
    """So many events that all sinks are owed, as an outage leaves them."""
    limits = {"retention_h": 72.0, "outbox_max_mb": 1024.0, "dead_letter_days": 30.0}
    async with open_outbox(data, SystemClock(), **limits) as outbox:
        await outbox.subscribe({sink: Filter() for sink in SINKS})
        await asyncio.gather(*(outbox.record(None, ended(f"backlog-{number}")) for number in range(BACKLOG)))


def drained(pipe: Pipe) -> None:
    """From the start of a service that is owed a backlog until all three sinks have taken all of it."""
    began = time.perf_counter()
    with pipe.running():
        ready_s = time.perf_counter() - began
        while pipe.acknowledged() < BACKLOG:
            time.sleep(0.1)
        took_s = time.perf_counter() - began
        say(what="backlog", events=BACKLOG, seconds=took_s, of_which_start_s=ready_s, rss_mib=pipe.rss_mib())


def main(folder: Path, rates: list[int], seconds: float) -> None:
    say(what="disk", fsync_ms=fsync_ms(folder))
    platform, hook = free_port(), free_port()
    far = multiprocessing.get_context("spawn").Process(target=far_side, args=(platform, hook), daemon=True)
    far.start()
    _until_there(platform, hook)
    with mosquitto(folder) as broker:
        pipe = Pipe(folder, platform, hook, broker.port)
        asyncio.run(fill(pipe.data))
        drained(pipe)
        with pipe.running():
            time.sleep(2)
            for rate in rates:
                sustained(pipe, rate, seconds)
    far.kill()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rates", default="100,500,1000", help="events a second, one run each")
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--dir", type=Path, help="where the outbox lies (default: the folder for temporary files)")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=args.dir) as temporary:
        main(Path(temporary), [int(rate) for rate in args.rates.split(",")], args.seconds)
