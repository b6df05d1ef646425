"""Faults: what goes wrong, on which paths, how often, from when and for how long."""

import asyncio
import socket
import struct
from collections.abc import Awaitable, Callable, Iterator
from datetime import datetime, timedelta
from fnmatch import fnmatchcase
from itertools import count
from random import Random
from typing import Annotated, Any, Literal
from weakref import WeakSet

import msgspec
from aiohttp import web
from msgspec import Meta, Struct, field

from callcast.simulator.answers import api_refusal, json_answer
from callcast.simulator.clock import Seconds, http_date

Kind = Literal[
    "status",
    "reset",
    "truncated",
    "huge",
    "html",
    "not_json",
    "charset",
    "slow",
    "hang",
    "redirect",
    "half",
    "empty",
    "bad_records",
    "ws_drop",
    "ws_silence",
    "ws_deaf",
    "ws_lose",
    "ws_duplicate",
    "ws_reorder",
    "ws_delay",
    "ws_refuse",
    "ws_expire",
    "ws_unrecoverable",
    "ws_garbage",
    "ws_huge",
]
ONCE = ("ws_drop", "ws_expire", "ws_garbage", "ws_huge")
Answer = Callable[[], Awaitable[web.StreamResponse]]

MESSAGES = {
    400: ("CMN-101", "Parameter value is invalid"),
    403: ("CMN-408", "User needs to have a permission for requested resource."),
    404: ("CMN-102", "Resource for parameter is not found"),
    429: ("CMN-301", "Request rate exceeded"),
    500: ("CMN-203", "Internal server error"),
    502: ("CMN-201", "Bad gateway"),
    503: ("CMN-201", "Service temporary unavailable"),
    504: ("CMN-201", "Gateway timeout"),
}


class Fault(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One fault.

    path: glob over the request's path. skip: that many requests pass first. count: that many are hit (0: no end).
    from_s, for_s: from when, after the platform's start (or the admin call), and how long, on its clock.
    status, code, headers, retry_after: for `status`; `headers` false: a bare 429 or 503 as global limits send it;
    retry_after: seconds, or "date" for a date 30 s ahead. location: for `redirect`.
    delay_s: for `slow`, in seconds of this machine. size_mb: for `huge` and `ws_huge`.
    p: the share of the requests, or notifications, that are hit.

    Those of the WebSocket: ws_drop (RST), ws_expire (`code` WSG-902 or WSG-903), ws_garbage and ws_huge happen once to
    each connection that is open when they begin, and until `for_s` is over to each later one. ws_refuse answers new
    connections with `status` 401, 403, 503, 4400 (the close code), or 0 (never). ws_silence sends nothing at all, no
    pongs either; ws_unrecoverable fails each recovery. ws_deaf, ws_lose, ws_duplicate, ws_reorder and ws_delay
    (`delay_s`, to `delay_most_s`) hit notifications; for them `path` is that of the event.
    """

    kind: Kind
    path: str = "*"
    count: Annotated[int, Meta(ge=0)] = 0
    skip: Annotated[int, Meta(ge=0)] = 0
    from_s: Seconds = 0
    for_s: Seconds | None = None
    status: Annotated[int, Meta(ge=0, le=4999)] = 500
    code: str | None = None
    headers: bool = True
    retry_after: int | str | None = None
    location: str = "/elsewhere"
    delay_s: Seconds = 5
    delay_most_s: Seconds | None = None
    size_mb: Annotated[int, Meta(ge=0, le=1024)] = 40
    p: Annotated[float, Meta(ge=0, le=1)] = 1

    def __post_init__(self) -> None:
        if self.kind == "status" and not 200 <= self.status <= 599:
            raise ValueError("status: expected a number from 200 to 599")


class _Armed(Struct, kw_only=True):
    number: int
    fault: Fault
    begins: datetime
    met: int = 0
    once: WeakSet[object] = field(default_factory=WeakSet)  # the connections that it has happened to

    def strikes(self, path: str, now: datetime, dice: Random) -> bool:
        fault = self.fault
        if not fnmatchcase(path, fault.path) or now < self.begins or self.over(now):
            return False
        if fault.p < 1 and dice.random() >= fault.p:
            return False
        self.met += 1
        return self.met > fault.skip

    def over(self, now: datetime) -> bool:
        fault = self.fault
        spent = bool(fault.count) and self.met >= fault.skip + fault.count
        return spent or (fault.for_s is not None and now >= self.begins + timedelta(seconds=fault.for_s))


class Faults:
    """The armed faults, oldest first. The first that matches a request is applied."""

    def __init__(self) -> None:
        self._armed: list[_Armed] = []
        self._dice = Random(1)  # noqa: S311 (chance, not secrecy)
        self._numbers = count(1)

    def add(self, fault: Fault, now: datetime) -> int:
        """Arm a fault. Returns its number, for `remove`."""
        begins = now + timedelta(seconds=fault.from_s)
        self._armed.append(_Armed(number=next(self._numbers), fault=fault, begins=begins))
        return self._armed[-1].number

    def remove(self, number: int) -> bool:
        kept = [armed for armed in self._armed if armed.number != number]
        found = len(kept) < len(self._armed)
        self._armed = kept
        return found

    def clear(self) -> None:
        self._armed.clear()

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for armed in self._armed:
            yield {"id": armed.number, "met": armed.met, **msgspec.to_builtins(armed.fault)}

    def strike(self, path: str, now: datetime) -> Fault | None:
        """The fault to apply to a request."""
        armed = (one for one in self._armed if not one.fault.kind.startswith("ws_"))
        return next((one.fault for one in armed if one.strikes(path, now, self._dice)), None)

    def striking(self, kind: Kind, path: str, now: datetime) -> Iterator[Fault]:
        """The faults of one kind to apply to a connection or a notification."""
        armed = (one for one in self._armed if one.fault.kind == kind)
        return (one.fault for one in armed if one.strikes(path, now, self._dice))

    def once(self, connection: object, opened_at: datetime, now: datetime) -> Iterator[Fault]:
        """The faults that happen once to each connection and have not yet happened to this one."""
        for one in self._armed:
            fault = one.fault
            last = one.begins + timedelta(seconds=fault.for_s or 0)
            due = fault.kind in ONCE and connection not in one.once and opened_at <= last
            if due and one.strikes("/ws", now, self._dice):
                one.once.add(connection)
                yield fault

    def next_begins_at(self, now: datetime) -> datetime | None:
        return min((one.begins for one in self._armed if one.begins > now), default=None)

    def delay_s(self, fault: Fault) -> float:
        most_s = fault.delay_s if fault.delay_most_s is None else fault.delay_most_s
        return self._dice.uniform(fault.delay_s, most_s)


async def perform(fault: Fault, request: web.Request, now: datetime, answer: Answer) -> web.StreamResponse:
    """Answer a request with a fault; `answer` gives the right answer."""
    match fault.kind:
        case "status":
            return _status(fault, now)
        case "reset":
            reset(request.transport)
            return web.Response(status=500)
        case "huge":
            return await _huge(request, fault.size_mb)
        case "html":
            page = "<!DOCTYPE html><html><body><h1>We will be back soon</h1></body></html>"
            return web.Response(text=page, content_type="text/html")
        case "not_json":
            return web.Response(body=b'{"records": [', content_type="application/json")
        case "slow":
            await asyncio.sleep(fault.delay_s)
            return await answer()
        case "hang":
            await asyncio.Event().wait()
            raise AssertionError
        case "redirect":
            return web.Response(status=302, headers={"Location": fault.location})
        case _:  # those that change an answer; those of a WebSocket are applied by its gateway
            good = await answer()
            return await _changed(fault.kind, request, good) if isinstance(good, web.Response) else good


def _status(fault: Fault, now: datetime) -> web.Response:
    code, message = MESSAGES.get(fault.status, ("CMN-203", "Internal server error"))
    headers = {}
    retry_after = fault.retry_after
    if retry_after is None and fault.headers and fault.status == 429:
        retry_after = 60
    if retry_after is not None:
        date = http_date(now + timedelta(seconds=30))
        headers["Retry-After"] = date if retry_after == "date" else str(retry_after)
    if fault.headers and fault.status == 429:
        headers |= {"X-Rate-Limit-Group": "heavy", "X-Rate-Limit-Limit": "10"}
        headers |= {"X-Rate-Limit-Remaining": "0", "X-Rate-Limit-Window": "60"}
    return api_refusal(fault.status, fault.code or code, message, headers=headers).response()


def reset(transport: asyncio.Transport | None) -> None:
    """End a connection with a RST."""
    if transport is not None:
        sock = transport.get_extra_info("socket")
        if sock is not None:  # linger 0 makes the close a RST
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        transport.abort()


async def _huge(request: web.Request, size_mb: int) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Type": "application/json"})
    await response.prepare(request)
    await response.write(b'{"records":[],"filler":"')
    for _ in range(size_mb):
        await response.write(b"x" * 1_048_576)
    await response.write(b'"}')
    return response


async def _changed(kind: Kind, request: web.Request, good: web.Response) -> web.StreamResponse:
    body = good.body if isinstance(good.body, bytes) else b"{}"
    if kind == "truncated":
        response = web.StreamResponse(headers={"Content-Type": good.headers["Content-Type"]})
        response.content_length = len(body)
        await response.prepare(request)
        await response.write(body[: len(body) // 2])
        if request.transport is not None:
            request.transport.close()
        return response
    if kind == "charset":  # UTF-16 that claims to be UTF-8
        headers = {"Content-Type": "application/json;charset=utf-8"}
        return web.Response(body=body.decode().encode("utf-16"), headers=headers)
    page = msgspec.json.decode(body)
    if good.status != 200 or "records" not in page:
        return good
    records = page["records"]
    if kind == "half":  # the next page fails
        if request.query.get("page", "1") != "1":
            return api_refusal(502, "CMN-201", "Bad gateway").response()
        page["navigation"]["nextPage"] = {"uri": str(request.url.update_query(page="2"))}
        page["records"] = records[: len(records) // 2]
    elif kind == "empty":
        page["records"] = []
    else:  # two records that lack a field, and one that is not a record
        first = records[0] if records else {"id": "spoilt", "type": "Voice"}
        lacking = [{key: value for key, value in first.items() if key != lost} for lost in ("id", "startTime")]
        page["records"] = [*lacking, {"id": "spoilt", "type": ["Voice"]}, *records]
    return json_answer(page)
