"""(c) The practical limit of Python: an asyncio script tuned by hand, without an outbox, a retry or a metric.

uvloop; aiohttp with everything switched off that it does by itself and ready URLs; msgspec decoding only the fields
that are used; an answer whose bytes equal the last one is not read; the polls lie evenly in the interval; as many
posters as connections, each with a queue of its own, so that one call's events stay in order; paho in its thread.
"""

import asyncio
import itertools
import os
from collections.abc import Iterator

import aiohttp
import msgspec
import paho.mqtt.client as paho
import uvloop
from msgspec import Struct
from yarl import URL

from bench.peers import job
from bench.peers.used import QUERY, Page, Record, Side

LOOKERS = 16
POSTERS = 16


class Event(Struct, rename={"from_": "from"}, gc=False):
    type: str
    session_id: str
    extension_id: str
    direction: str
    started_at: str
    result: str
    from_: Side | None
    to: Side | None
    duration: int | None


class Target:
    __slots__ = ("body", "busy", "known", "url")

    def __init__(self, url: URL) -> None:
        self.url = url
        self.body = b""
        self.busy = False
        self.known: dict[str, str] = {}


def state_of(record: Record) -> str:
    if record.result != "In Progress":
        return "call.ended"
    return "call.answered" if any(leg.reason == "Accepted" for leg in record.legs) else "call.ringing"


_decode = msgspec.json.Decoder(Page).decode
_encode = msgspec.json.Encoder().encode


class Script:
    def __init__(self, todo: job.Job) -> None:
        self._todo = todo
        self._targets = [Target(URL(todo.server + path + QUERY, encoded=True)) for path in todo.targets]
        self._hook = URL(todo.hook, encoded=True)
        self._queues: list[asyncio.Queue[bytes]] = [asyncio.Queue() for _ in range(POSTERS)]
        self._broker = paho.Client(paho.CallbackAPIVersion.VERSION2)
        self._broker.connect("127.0.0.1", todo.mqtt)
        self._broker.loop_start()

    async def run(self) -> None:
        grant = {"grant_type": "urn:ietf:params:oauth:grant-type:jwt-bearer", "assertion": "jwt"}
        async with _session() as session:
            login = session.post(
                f"{self._todo.server}/restapi/oauth/token", data=grant, auth=aiohttp.BasicAuth("app", "secret")
            )
            async with login as answer:
                token = (await answer.json())["access_token"]
        async with _session({"Authorization": f"Bearer {token}"}) as api, _session() as hook:
            numbers, began = itertools.count(), asyncio.get_running_loop().time()
            lookers = [self._poll(api, numbers, began) for _ in range(LOOKERS)]
            await asyncio.gather(*lookers, *(self._post(hook, queue) for queue in self._queues))

    async def _poll(self, api: aiohttp.ClientSession, numbers: Iterator[int], began: float) -> None:
        targets, loop = self._targets, asyncio.get_running_loop()
        gap_s = self._todo.interval_s / len(targets)
        while True:
            number = next(numbers)
            if gap_s and (wait_s := began + number * gap_s - loop.time()) > 0:
                await asyncio.sleep(wait_s)
            target = targets[number % len(targets)]
            if target.busy:
                await asyncio.sleep(0)
                continue
            target.busy = True
            async with api.get(target.url) as answer:
                body = await answer.read()
            target.busy = False
            if body != target.body:
                target.body = body
                self._read(target, body)

    def _read(self, target: Target, body: bytes) -> None:
        before, now = target.known, {}
        for record in _decode(body).records:
            state = now[record.telephony_session_id] = state_of(record)
            if before.get(record.telephony_session_id) != state:
                self._send(record, state)
        target.known = now

    def _send(self, record: Record, state: str) -> None:
        event = Event(
            state,
            record.telephony_session_id,
            str(record.extension.id),
            record.direction,
            record.start_time,
            record.result,
            record.from_,
            record.to,
            record.duration,
        )
        text = _encode(event)
        self._queues[hash(event.session_id) % POSTERS].put_nowait(text)
        self._broker.publish(f"callcast/acme/{event.extension_id}/events/{state}", text, qos=1)
        os.write(1, text + b"\n")

    async def _post(self, hook: aiohttp.ClientSession, queue: asyncio.Queue[bytes]) -> None:
        headers = {"Content-Type": "application/json"}
        while True:
            text = await queue.get()
            async with hook.post(self._hook, data=text, headers=headers) as answer:
                answer.raise_for_status()


def _session(headers: dict[str, str] | None = None) -> aiohttp.ClientSession:
    return aiohttp.ClientSession(
        headers=headers,
        cookie_jar=aiohttp.DummyCookieJar(),
        connector=aiohttp.TCPConnector(limit=0, ttl_dns_cache=None),
        skip_auto_headers=("User-Agent", "Accept-Encoding"),
        auto_decompress=False,
        timeout=aiohttp.ClientTimeout(total=30),
    )


if __name__ == "__main__":
    uvloop.run(Script(job.read()).run())
