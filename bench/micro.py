"""The limits beside the pipe: decode, compare, commit, POST, publish, each alone and as fast as it goes.

python -m bench.micro
"""

import asyncio
import json
import os
import socket
import sqlite3
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import aiohttp
import msgspec
import paho.mqtt.client as paho

from bench import stored, usage
from bench.broker import Broker
from bench.child import BenchFailed, Child
from bench.peers.used import Page
from bench.records import Call, extension_id, page
from bench.world import gently
from callcast.app import SystemClock
from callcast.calls.model import ChangeSet, PollRecord, Target
from callcast.calls.tracker import CallIndex, Rules, compare
from callcast.formats.cloudevents import Wire
from callcast.outbox.sqlite.store import open_outbox
from callcast.ports.sink import Filter
from callcast.ringcentral.interpret import read_page, snapshot

ROUNDS = 40
TARGET = Target(source="acme", extension_id=extension_id(7))
ADDRESS = "/restapi/v1.0/account/809646016/extension/62264000007/active-calls"
AT = datetime(2026, 3, 2, 9, 0, tzinfo=UTC)
POST = b"POST /hook HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b"

Figures = dict[str, float]


def _us(work: Callable[[], object], times: int = 1) -> float:
    """Median processor time of one, of rounds of so many."""
    taken = []
    for _ in range(ROUNDS):
        began = time.thread_time()
        for _ in range(times):
            work()
        taken.append((time.thread_time() - began) / times)
    return 1e6 * statistics.median(taken)


def _body(count: int, steps: int = 0) -> bytes:
    calls = [Call(number, TARGET.extension_id or "", AT) for number in range(count)]
    for call in calls:
        for _ in range(steps):
            call.turn(AT + timedelta(seconds=3))
    return page(ADDRESS, [call.body() for call in calls])


def decoding() -> Figures:
    """Microseconds for a page of so many records."""
    typed, found = msgspec.json.Decoder(Page).decode, {}
    for count, times in ((0, 200), (1, 200), (100, 5)):
        body = _body(count, 1)
        last = bytes(bytearray(body))
        found |= {
            f"json, {count} records": _us(lambda body=body: json.loads(body), times),
            f"msgspec typed, {count} records": _us(lambda body=body: typed(body), times),
            f"callcast decodes and reads, {count} records": _us(lambda body=body: read_page(body, TARGET), times),
            f"bytes equal the last answer, {count} records": _us(lambda body=body, last=last: body == last, 1000),
        }
    return found


def comparing() -> Figures:
    """Microseconds from decoded pages to events, and an event to its bytes."""
    found = {}
    for count, times in ((1, 100), (100, 3)):
        index = CallIndex("acme")
        index.apply(PollRecord(target=TARGET, taken_at=AT), ChangeSet())
        first = snapshot(TARGET, [read_page(_body(count), TARGET)], AT)
        index.apply(PollRecord(target=TARGET, taken_at=AT), compare(index, first, Rules()))
        pages = [read_page(_body(count, 1), TARGET)]
        answered = snapshot(TARGET, pages, AT)
        found |= {
            f"snapshot of {count} records": _us(lambda pages=pages: snapshot(TARGET, pages, AT), times),
            f"diff, {count} unchanged": _us(lambda p=index, f=first: compare(p, f, Rules()), times),
            f"diff, {count} changed": _us(lambda p=index, a=answered: compare(p, a, Rules()), times),
        }
    event = stored.ended(1).events[0]
    return found | {"serialise an event": _us(lambda: Wire().event(event), 100)}


def committing(folder: Path) -> Figures:
    """Events a second in commits of 1, 10, 100: sqlite alone with synchronous=FULL, and callcast's outbox."""
    found = {}
    for together in (1, 10, 100):
        found[f"sqlite, commits of {together}"] = _sqlite(folder / f"plain{together}.db", together)
        found[f"callcast outbox, {together} at once"] = asyncio.run(_outbox(folder / f"outbox{together}", together))
    return found


def _sqlite(path: Path, together: int) -> float:
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("CREATE TABLE events (seq INTEGER PRIMARY KEY, body BLOB)")
    body, taken = os.urandom(1200), []
    for _ in range(ROUNDS * 3):
        began = time.perf_counter()
        connection.execute("BEGIN IMMEDIATE")
        connection.executemany("INSERT INTO events (body) VALUES (?)", [(body,)] * together)
        connection.execute("COMMIT")
        taken.append(time.perf_counter() - began)
    connection.close()
    return together / statistics.median(taken)


async def _outbox(folder: Path, together: int) -> float:
    taken = []
    async with open_outbox(folder, SystemClock(), **stored.LIMITS) as outbox:
        await outbox.subscribe({"crm": Filter(), "wall": Filter(), "lines": Filter()})
        for turn in range(ROUNDS):
            changes = [stored.ended(turn * together + number) for number in range(together)]
            began = time.perf_counter()
            await asyncio.gather(*(outbox.record("acme", None, change) for change in changes))
            taken.append(time.perf_counter() - began)
    return together / statistics.median(taken)


@contextmanager
def _remote_sides(folder: Path) -> Iterator[tuple[int, int]]:
    """Ports of a webhook and of a broker with a subscriber."""
    with ExitStack() as stack:
        broker = Broker(folder)
        stack.callback(broker.close)
        out, into = os.pipe()
        stack.callback(os.close, into)
        receivers = Child("bench.receivers", "--mqtt", str(broker.port), "--pipe", str(out), pass_fds=(out,))
        os.close(out)
        stack.callback(receivers.close)
        yield receivers.hello["port"], broker.port


def sending(folder: Path, seconds: float = 1.0) -> Figures:
    """Events a second, acknowledged."""
    event = Wire().event(stored.ended(1).events[0])
    with _remote_sides(folder) as (hook, mqtt):
        return {
            "POST, raw socket, one after the other": _raw_posts(hook, event, seconds),
            "POST, aiohttp, 8 at once": asyncio.run(_posts(hook, event, seconds)),
            "publish, paho, 20 in flight": _published(mqtt, event, seconds, 20),
            "publish, paho, 1000 in flight": _published(mqtt, event, seconds, 1000),
        }


def _raw_posts(port: int, event: bytes, seconds: float) -> float:
    request, count = POST % (len(event), event), 0
    with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
        began = time.perf_counter()
        while time.perf_counter() - began < seconds:
            connection.sendall(request)
            connection.recv(4096)
            count += 1
        return count / (time.perf_counter() - began)


async def _posts(port: int, event: bytes, seconds: float) -> float:
    count, until = 0, time.perf_counter() + seconds

    async def post(session: aiohttp.ClientSession) -> None:
        nonlocal count
        while time.perf_counter() < until:
            async with session.post(f"http://127.0.0.1:{port}/hook", data=event) as answer:
                await answer.read()
            count += 1

    async with aiohttp.ClientSession() as session:
        await asyncio.gather(*(post(session) for _ in range(8)))
    return count / seconds


def _published(port: int, event: bytes, seconds: float, window: int) -> float:
    client, acknowledged = paho.Client(paho.CallbackAPIVersion.VERSION2), 0

    def taken(*_: object) -> None:
        nonlocal acknowledged
        acknowledged += 1

    client.on_publish = taken
    client.max_inflight_messages_set(window)
    client.connect("127.0.0.1", port)
    client.loop_start()
    sent, began = 0, time.perf_counter()
    while time.perf_counter() - began < seconds:
        if sent - acknowledged < window:
            client.publish("callcast/acme/1/events/call.ended", event, qos=1)
            sent += 1
        else:
            time.sleep(0.0005)
    took_s, found = time.perf_counter() - began, acknowledged
    client.disconnect()
    client.loop_stop()
    return found / took_s


class Micro(msgspec.Struct, frozen=True):
    fsync_ms: float
    decode_us: Figures
    compare_us: Figures
    commit_per_s: Figures
    send_per_s: Figures


def measure() -> Micro:
    with tempfile.TemporaryDirectory(prefix="callcast-bench-") as temporary:
        folder = Path(temporary)
        return Micro(usage.fsync_ms(folder), decoding(), comparing(), committing(folder), sending(folder))


if __name__ == "__main__":
    gently()
    try:
        print(msgspec.json.format(msgspec.json.encode(measure()), indent=1).decode())
    except (BenchFailed, KeyboardInterrupt) as failed:
        sys.exit(f"bench: {str(failed) or 'stopped'}")
