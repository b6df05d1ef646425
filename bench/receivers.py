"""The remote sides: a webhook that answers 204, a subscriber at the broker, a reader of the pipe; each stamps arrivals.

    python -m bench.receivers --mqtt PORT --pipe FILE_DESCRIPTOR

Prints {port} of the webhook once the broker has accepted the subscription, then takes these commands (`child.py`):

    count                how many changes came by webhook, mqtt, stdout
    save   {path}        all arrivals for `checker.py`, one file for each way
"""

import argparse
import asyncio
import os
import re
import time
from array import array
from pathlib import Path
from typing import Any

from bench.child import answer, run
from bench.records import key_of

WAYS = ("webhook", "mqtt", "stdout")
TOPICS = b"callcast/+/+/events/#"  # the retained topics are not events
_LENGTH = re.compile(rb"(?i)content-length: *(\d+)")
TAKEN = b"HTTP/1.1 204 No Content\r\n\r\n"


class Arrivals:
    """When each change arrived; `others` counts events that report no change."""

    def __init__(self) -> None:
        self.times = array("d")
        self.keys = array("q")
        self.others = 0

    def take(self, event: bytes) -> None:
        now, key = time.monotonic(), key_of(event)
        if key is None:
            self.others += 1
        else:
            self.times.append(now)
            self.keys.append(key)

    def save(self, path: Path) -> None:
        with path.open("wb") as file:
            array("q", [len(self.keys)]).tofile(file)
            self.times.tofile(file)
            self.keys.tofile(file)


class Posts(asyncio.Protocol):
    """Answers every request, however its bytes are split, with `answer_to` of its path and body; None: never."""

    def __init__(self) -> None:
        self._left = b""

    def answer_to(self, path: bytes, body: bytes) -> bytes | None:
        raise NotImplementedError

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._left += data
        while (end := self._left.find(b"\r\n\r\n")) >= 0:
            length = _LENGTH.search(self._left, 0, end)
            whole = end + 4 + (int(length[1]) if length else 0)
            if len(self._left) < whole:
                return
            path, body, self._left = self._left.split(b" ", 2)[1], self._left[end + 4 : whole], self._left[whole:]
            if (response := self.answer_to(path, body)) is not None:
                self._transport.write(response)


class Webhook(Posts):
    def __init__(self, arrivals: Arrivals) -> None:
        super().__init__()
        self._arrivals = arrivals

    def answer_to(self, path: bytes, body: bytes) -> bytes:  # noqa: ARG002
        self._arrivals.take(body)
        return TAKEN


class Subscriber(asyncio.Protocol):
    """As much of MQTT 3.1.1 as a subscriber with QoS 1 needs: a library would be what is measured."""

    def __init__(self, arrivals: Arrivals, loop: asyncio.AbstractEventLoop) -> None:
        self._arrivals = arrivals
        self._left = b""
        self.ready: asyncio.Future[None] = loop.create_future()

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        transport.write(b"\x10\x11\x00\x04MQTT\x04\x02\x00\x00\x00\x05bench")
        rest = b"\x00\x01" + len(TOPICS).to_bytes(2) + TOPICS + b"\x01"
        transport.write(b"\x82" + bytes([len(rest)]) + rest)

    def data_received(self, data: bytes) -> None:
        data, at, acks = self._left + data, 0, []
        while (packet := _packet(data, at)) is not None:
            kind, start, at = packet
            if kind >> 4 == 9 and not self.ready.done():
                self.ready.set_result(None)
            elif kind >> 4 == 3:
                body = start + 2 + int.from_bytes(data[start : start + 2])
                if kind & 0x06:
                    acks.append(b"\x40\x02" + data[body : body + 2])
                    body += 2
                self._arrivals.take(data[body:at])
        self._left = data[at:]
        if acks:
            self._transport.write(b"".join(acks))


def _packet(data: bytes, at: int) -> tuple[int, int, int] | None:
    """The first byte, and where its content begins and ends; None while it is not whole."""
    length, shift, context = 0, 0, at + 1
    while context < len(data):
        length |= (data[context] & 0x7F) << shift
        shift += 7
        context += 1
        if data[context - 1] < 0x80:
            return (data[at], context, context + length) if context + length <= len(data) else None
    return None


class Pipe(asyncio.Protocol):
    def __init__(self, arrivals: Arrivals) -> None:
        self._arrivals = arrivals
        self._left = b""

    def data_received(self, data: bytes) -> None:
        *lines, self._left = (self._left + data).split(b"\n")
        for line in lines:
            self._arrivals.take(line)


class Receivers:
    def __init__(self, arrivals: dict[str, Arrivals]) -> None:
        self._arrivals = arrivals

    def command(self, what: dict[str, Any]) -> Any:
        match what["do"]:
            case "count":
                return {way: len(one.keys) for way, one in self._arrivals.items()} | {
                    f"{way}_others": one.others for way, one in self._arrivals.items()
                }
            case "save":
                for way, one in self._arrivals.items():
                    one.save(Path(what["path"]) / way)
        return time.monotonic()


async def _subscribed(port: int, arrivals: Arrivals) -> None:
    loop = asyncio.get_running_loop()
    _, subscriber = await loop.create_connection(lambda: Subscriber(arrivals, loop), "127.0.0.1", port)
    await asyncio.wait_for(subscriber.ready, 10)


async def main(mqtt: int, pipe: int) -> None:
    loop, arrivals = asyncio.get_running_loop(), {way: Arrivals() for way in WAYS}
    server = await loop.create_server(lambda: Webhook(arrivals["webhook"]), "127.0.0.1", 0, backlog=4096)
    await _subscribed(mqtt, arrivals["mqtt"])
    await loop.connect_read_pipe(lambda: Pipe(arrivals["stdout"]), os.fdopen(pipe, "rb", 0))
    await answer({"port": server.sockets[0].getsockname()[1]}, Receivers(arrivals).command)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mqtt", type=int, required=True)
    parser.add_argument("--pipe", type=int, required=True)
    options = parser.parse_args()
    run(main(options.mqtt, options.pipe))
