"""The load platform: answers prepared before requests come, changes with their times, polls counted.

    python -m bench.platform [--targets N] [--window S]

Each of N extensions has a list, with N = 0 the account as a whole. Prints {port}, then takes commands (`child.py`):

    calls   {count, every_s}  so many calls live from now on, each changing every so many seconds (0: never)
    burst   {count}           so many changes in one moment: new calls, then the next step of the same ones
    hang    {target, seconds} polls of this one are answered so late from now on
    least                     how often the fewest polls of any target, ever
    shown                     how many changes some answer has shown, and how many none has
    mark    {late_s}          what was counted since the last mark
    save    {path}            the ground truth for `checker.py`
"""

import argparse
import asyncio
import time
from array import array
from collections import deque
from datetime import UTC, datetime
from email.utils import formatdate
from pathlib import Path
from random import Random
from typing import Any

from bench.child import answer, run
from bench.records import ACCOUNT, STEPS, Call, extension_id, page

TICK_S = 0.01
EXTENSIONS_OF_ACCOUNT = 1000
_TOKEN = b'{"access_token":"t","token_type":"bearer","expires_in":3600,"scope":"ReadCallLog","owner_id":"1"}'
_NOTHING = b'{"records":[],"paging":{"page":1,"perPage":1000},"navigation":{}}'


def _head(window_s: int) -> bytes:
    """What the platform's own answers carry, with a limit that is never reached."""
    return (
        f"HTTP/1.1 200 OK\r\nServer: nginx\r\nDate: {formatdate(usegmt=True)}\r\n"
        "Content-Type: application/json;charset=utf-8\r\nConnection: keep-alive\r\n"
        "RCRequestId: ce4e4d40-5a97-11eb-8a0c-005056b3b3a1\r\n"
        "X-Rate-Limit-Group: heavy\r\nX-Rate-Limit-Limit: 100000\r\nX-Rate-Limit-Remaining: 100000\r\n"
        f"X-Rate-Limit-Window: {window_s}\r\nCache-Control: no-cache, no-store\r\nVary: Accept-Encoding\r\n"
    ).encode()


def _sized(body: bytes) -> bytes:
    return b"Content-Length: %d\r\n\r\n%b" % (len(body), body)


class Target:
    """What one path answers; `extension` None: the account."""

    __slots__ = (
        "_address",
        "answer",
        "calls",
        "extension",
        "gaps",
        "hang_s",
        "last_at",
        "polled",
        "polls",
        "unrecorded",
    )

    def __init__(self, address: str, extension: str | None) -> None:
        self._address = address
        self.extension = extension
        self.calls: dict[int, Call] = {}
        self.unrecorded: list[int] = []  # rows of the truth that no answer has shown yet
        self.hang_s = 0.0
        self.polled = 0  # times, ever
        self.polls = 0  # since the last mark
        self.last_at = 0.0
        self.gaps: list[float] = []
        self.answer: bytes | None = None

    def written(self) -> bytes:
        self.answer = _sized(page(self._address, [call.body() for call in self.calls.values()]))
        return self.answer


class Platform:
    def __init__(self, targets: int, window_s: int) -> None:
        self._window_s = window_s
        self.head = _head(window_s)
        self.targets: dict[bytes, Target] = {}
        self.others = 0  # requests that were no polls
        self._list = [self._prepare(extension_id(number)) for number in range(targets)] or [self._prepare(None)]
        self._truth: list[list[float]] = []  # key, changed at, first shown at
        self._numbers = 0
        self._ring: deque[tuple[Target, Call]] = deque()
        self._bursting: list[tuple[Target, Call]] = []
        self._driver: asyncio.Task[None] | None = None
        self._marked = (time.monotonic(), time.process_time())
        self._postponed = 0

    def _prepare(self, extension: str | None) -> Target:
        rest = f"{'' if extension is None else f'/extension/{extension}'}/active-calls"
        target = Target(f"/restapi/v1.0/account/{ACCOUNT}{rest}", extension)
        for account in ("~", ACCOUNT):
            self.targets[f"/restapi/v1.0/account/{account}{rest}".encode()] = target
        return target

    async def keep_date(self) -> None:
        while True:
            self.head = _head(self._window_s)
            await asyncio.sleep(0.5)

    def polled(self, target: Target) -> bytes:
        """The answer, stamped as if sent in this moment."""
        now = time.monotonic()
        if target.last_at:
            target.gaps.append(now - target.last_at)
        target.last_at = now
        target.polls += 1
        target.polled += 1
        content = target.answer or target.written()
        for row in target.unrecorded:
            self._truth[row][2] = now
        target.unrecorded.clear()
        return self.head + content

    # What changes

    def _tell(self, target: Target, call: Call, now: float) -> None:
        call.row = len(self._truth)
        self._truth.append([call.number * STEPS + call.step, now, 0.0])
        target.unrecorded.append(call.row)
        target.answer = None

    def _begin(self, target: Target, now: float) -> Call:
        extension = target.extension or extension_id(self._numbers % EXTENSIONS_OF_ACCOUNT)
        call = Call(self._numbers, extension, datetime.now(UTC))
        self._numbers += 1
        target.calls[call.number] = call
        self._tell(target, call, now)
        return call

    def _next(self, target: Target, call: Call, now: float) -> Call:
        """One step further; after its end the next call takes its place."""
        if call.step == STEPS - 1:
            del target.calls[call.number]
            return self._begin(target, now)
        call.turn(datetime.now(UTC))
        self._tell(target, call, now)
        return call

    def calls(self, count: int, every_s: float) -> None:
        """Spread over the targets; with `every_s` they begin one after the other, so that changes lie evenly.

        In no order: in that of the targets, changes would keep step with the polls and be seen all in one second.
        """
        if self._driver is not None:
            self._driver.cancel()
        self._ring.clear()
        places = [self._list[number * len(self._list) // count % len(self._list)] for number in range(count)]
        Random(count).shuffle(places)
        if every_s:
            self._driver = asyncio.ensure_future(self._drive(places, every_s))
        else:
            now = time.monotonic()
            for target in places:
                self._begin(target, now)

    async def _drive(self, places: list[Target], every_s: float) -> None:
        began, done = time.monotonic(), 0
        while places:
            await asyncio.sleep(TICK_S)
            now = time.monotonic()
            due = int((now - began) * len(places) / every_s)
            for number in range(done, due):
                self._step(places, number, now)
            done = due

    def _step(self, places: list[Target], number: int, now: float) -> None:
        """The next call's next step. One that has not been polled since its last waits for its next turn."""
        if number < len(places):
            self._ring.append((places[number], self._begin(places[number], now)))
            return
        target, call = self._ring.popleft()
        if self._truth[call.row][2]:
            call = self._next(target, call, now)
        else:
            self._postponed += 1
        self._ring.append((target, call))

    def burst(self, count: int) -> float:
        """Returns when."""
        now = time.monotonic()
        if self._bursting:
            self._bursting = [(target, self._next(target, call, now)) for target, call in self._bursting]
        else:
            targets = [self._list[number % len(self._list)] for number in range(count)]
            self._bursting = [(target, self._begin(target, now)) for target in targets]
        for target in self._list:
            if target.answer is None:
                target.written()
        return now

    # Commands of the parent

    def command(self, what: dict[str, Any]) -> Any:
        match what.pop("do"):
            case "calls":
                self.calls(**what)
            case "burst":
                return self.burst(**what)
            case "hang":
                self._list[what["target"]].hang_s = what["seconds"]
            case "least":
                return min(target.polled for target in self._list)
            case "shown":
                return self._shown()
            case "mark":
                return self._mark(**what)
            case "save":
                return self._save(**what)
        return time.monotonic()

    def _mark(self, late_s: float) -> dict[str, float]:
        now, cpu_s = time.monotonic(), time.process_time()
        gaps = sorted(gap for target in self._list for gap in target.gaps) or [0.0]
        counted = {
            "at": now,
            "seconds": now - self._marked[0],
            "cpu_s": cpu_s - self._marked[1],
            "polls": sum(target.polls for target in self._list),
            "gap_p50_s": gaps[len(gaps) // 2],
            "gap_p99_s": gaps[len(gaps) * 99 // 100],
            "gap_max_s": gaps[-1],
            "late": sum(gap > late_s for gap in gaps),
            "postponed": self._postponed,
            "others": self.others,
            "unshown": sum(len(target.unrecorded) for target in self._list),
        }
        for target in self._list:
            target.polls, target.gaps = 0, []
        self._marked, self._postponed, self.others = (now, cpu_s), 0, 0
        return counted

    def _shown(self) -> dict[str, int]:
        unshown = sum(len(target.unrecorded) for target in self._list)
        return {"shown": len(self._truth) - unshown, "unshown": unshown}

    def _save(self, path: str) -> int:
        with Path(path).open("wb") as file:
            array("d", [value for row in self._truth for value in row]).tofile(file)
        return len(self._truth)


class Connection(asyncio.Protocol):
    """Requests one after the other, as every client sends them that does not pipeline."""

    def __init__(self, platform: Platform) -> None:
        self._platform = platform
        self._left = b""

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        if self._left:
            data = self._left + data
        end = data.find(b"\r\n\r\n")
        if end < 0 or len(data) < end + 4 + _length(data[:end]):
            self._left = data
            return
        self._left = b""
        path = data[data.index(b" ") + 1 : data.index(b" ", 5)].partition(b"?")[0]
        target = self._platform.targets.get(path)
        if target is None:
            self._platform.others += 1
            self._transport.write(self._platform.head + _sized(_TOKEN if path.endswith(b"/token") else _NOTHING))
        elif target.hang_s:
            asyncio.get_running_loop().call_later(target.hang_s, self._late, target)
        else:
            self._transport.write(self._platform.polled(target))

    def _late(self, target: Target) -> None:
        if not self._transport.is_closing():
            self._transport.write(self._platform.polled(target))


def _length(head: bytes) -> int:
    if head.startswith(b"GET"):
        return 0
    context = head.lower().find(b"content-length:")
    return int(head[context + 15 :].split(b"\r\n", 1)[0]) if context >= 0 else 0


async def main(targets: int, window_s: int) -> None:
    loop, platform = asyncio.get_running_loop(), Platform(targets, window_s)
    server = await loop.create_server(lambda: Connection(platform), "127.0.0.1", 0, backlog=4096)
    dating = asyncio.ensure_future(platform.keep_date())
    await answer({"port": server.sockets[0].getsockname()[1]}, platform.command)
    dating.cancel()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--targets", type=int, default=0)
    parser.add_argument("--window", type=int, default=5, help="seconds in which 100,000 requests are allowed")
    options = parser.parse_args()
    run(main(options.targets, options.window))
