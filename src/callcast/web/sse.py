"""Server-sent events of `/api/events`: recorded events and, for the wallboard, changes of the live calls.

Polling and delivery have priority: changes are collected and sent in rounds of `ROUND_S`, in small batches between
which the event loop is free. Everything is encoded once; clients at the same position get the same bytes, written
directly to their connections. No client is waited for: one that falls behind is disconnected, and reconnects with
`Last-Event-ID`.
"""

import asyncio
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any, NamedTuple, Protocol

import msgspec

from callcast.calls.model import Call
from callcast.formats.cloudevents import counts_dict, rfc3339, summary_dict
from callcast.live.live_calls import InMemoryLiveCalls
from callcast.ports.clock import Clock
from callcast.ports.outbox import OutboxUnavailable, Stored
from callcast.web.serializers import CallSerializer

ROUND_S = 0.25
QUEUED_BYTES_MAX = 1024 * 1024  # per client, in addition to the message that is being sent
PAGE = 100  # events read from the outbox at once

_AT_ONCE = 8  # clients to write to, or calls and events to encode, before the event loop gets control
_BYTES_AT_ONCE = 256 * 1024  # the same limit for bytes written to clients
_YIELD_S = 0.002  # for how long the event loop gets control
_READS_MAX = 2  # new clients that read the outbox at once
_SUMMARY_EVERY_S = 2.0
_HEARTBEAT_S = 10.0
_NO_LIVE_CALLS = -1  # no version sent yet: all live calls come next

_encode = msgspec.json.Encoder().encode


class OutboxFailure(Protocol):
    """Since when polls cannot be stored, by this machine's clock, and why."""

    @property
    def since(self) -> datetime: ...

    @property
    def detail(self) -> str: ...


class History(Protocol):
    """The part of the outbox that event streams use."""

    async def history(self, *, after_seq: int, limit: int) -> Sequence[Stored]: ...

    async def last_seq(self) -> int: ...


class StreamClient:
    """One connected client and its position.

    live_calls: it also gets the live calls. chunked: the response body is chunked.
    """

    def __init__(self, transport: asyncio.Transport, *, live_calls: bool, chunked: bool) -> None:
        self.live_calls = live_calls
        self.chunked = chunked
        self.after_seq = 0  # the newest event sent to it
        self.version = _NO_LIVE_CALLS
        self.encoded: _EncodedCalls | None = None  # the encoding that `version` refers to
        self.written_at = 0.0  # monotonic
        self._waiting_max = QUEUED_BYTES_MAX
        self._transport = transport
        self._ended = asyncio.Event()

    def write(self, chunk: bytes) -> None:
        """Write without waiting. Ends the client if it has disconnected or its buffer is full."""
        if self._ended.is_set():  # the connection may serve another request by now
            return
        if self._transport.is_closing():
            self.end()
            return
        waiting = self._transport.get_write_buffer_size()
        if not waiting:  # one message may exceed the limit: all calls of a large account
            self._waiting_max = len(chunk) + QUEUED_BYTES_MAX
        if waiting + len(chunk) > self._waiting_max:
            self._transport.abort()
            self.end()
        elif chunk:
            self._transport.write(chunk)

    def end(self) -> None:
        self._ended.set()

    async def ended(self) -> None:
        await self._ended.wait()


class Broadcaster:
    """Sends events and live calls to all connected clients.

    Call `wake` after each commit; `run` runs as long as the service.
    """

    def __init__(
        self,
        live_calls: InMemoryLiveCalls,
        history: History,
        clock: Clock,
        serializer: CallSerializer,
        failure: Callable[[], OutboxFailure | None] = lambda: None,
    ) -> None:
        self._live_calls = live_calls
        self._failure = failure
        self._history = history
        self._clock = clock
        self._serializer = serializer
        self._encoded = _EncodedCalls(serializer)
        self._clients: dict[StreamClient, None] = {}
        self._wanted = asyncio.Event()  # set while there are clients
        self._reads = asyncio.Semaphore(_READS_MAX)  # the outbox also serves sinks and sources
        self._recorded = False  # an event that some client may not have yet
        self._closed = False

    def wake(self) -> None:
        """Note that an event or a change was recorded."""
        self._recorded = True

    def use(self, serializer: CallSerializer) -> None:
        """Use this serializer from the next round on."""
        self._serializer = serializer

    def join(self, client: StreamClient) -> None:
        """Send the client all events after `client.after_seq`; first all live calls, if it asked for them."""
        if self._closed:
            client.end()
            return
        client.written_at = self._clock.monotonic()
        self._clients[client] = None
        self._wanted.set()
        self.wake()

    def leave(self, client: StreamClient) -> None:
        client.end()
        self._clients.pop(client, None)
        if not self._clients:
            self._wanted.clear()

    @property
    def clients(self) -> int:
        return len(self._clients)

    def close(self) -> None:
        """End every stream, and every later one, because the service stops."""
        self._closed = True
        for client in self._clients:
            client.end()

    async def run(self) -> None:
        """Send events and changes until cancelled."""
        while True:
            await self._wanted.wait()
            while await self._send_round():
                pass
            await asyncio.sleep(ROUND_S)

    async def catch_up(self, client: StreamClient) -> bytes:
        """The next page of past events for a client that has not joined yet; empty when there are no more."""
        async with self._reads:
            page = await self._history.history(after_seq=client.after_seq, limit=PAGE)
        if page:
            client.after_seq = page[-1].seq
        return b"".join([frame for _, frame in await _event_frames(page, self._serializer)])

    async def last_seq(self) -> int:
        async with self._reads:
            return await self._history.last_seq()

    async def _send_round(self) -> bool:
        """Run one round; true when more events wait than one round sends."""
        if self._encoded.serializer is not self._serializer:
            self._encoded = _EncodedCalls(self._serializer)
        page = await self._new_events()
        events = await _event_frames(page, self._serializer)
        round_ = _Round(self._live_calls, self._clock, self._encoded, events, self._failure)
        batch_bytes = 0
        for client in tuple(self._clients):
            if size := await round_.serve(client):
                batch_bytes += max(size, _BYTES_AT_ONCE // _AT_ONCE)
            if batch_bytes >= _BYTES_AT_ONCE:
                batch_bytes = 0
                await asyncio.sleep(_YIELD_S)
        return len(page) == PAGE

    async def _new_events(self) -> Sequence[Stored]:
        """Events after the position of the last client; none while the outbox is unavailable."""
        if not self._recorded or not self._clients:
            return ()
        start = min(client.after_seq for client in self._clients)
        self._recorded = False  # set again by what is recorded during this read
        try:
            page = await self._history.history(after_seq=start, limit=PAGE)
        except OutboxUnavailable:
            self._recorded = True
            return ()
        self._recorded |= len(page) == PAGE
        return page


class _Position(NamedTuple):
    """The position and kind of a client: clients with equal positions get the same bytes."""

    after_seq: int
    version: int | None  # None: without live calls
    chunked: bool
    silent: bool  # nothing was sent for so long that a heartbeat is due


class _Message(NamedTuple):
    chunk: bytes
    after_seq: int
    version: int


class _Round:
    """The messages of one round: each is made for the first client at a position, then shared."""

    def __init__(
        self,
        live_calls: InMemoryLiveCalls,
        clock: Clock,
        encoded: "_EncodedCalls",
        events: Sequence[tuple[int, bytes]],
        failure: Callable[[], OutboxFailure | None],
    ) -> None:
        self._live_calls = live_calls
        self._failure = failure
        self._clock = clock
        self._encoded = encoded
        self._events = events
        self._messages: dict[_Position, _Message] = {}

    async def serve(self, client: StreamClient) -> int:
        """Send what the client does not have yet; returns the number of bytes."""
        now = self._clock.monotonic()
        position = self._position(client, now)
        message = self._messages.get(position)
        if message is None:
            message = self._messages[position] = await self._message(position)
        client.after_seq, client.version, client.encoded = message.after_seq, message.version, self._encoded
        if message.chunk:
            client.written_at = now
        client.write(message.chunk)
        return len(message.chunk)

    def _position(self, client: StreamClient, now: float) -> _Position:
        version = client.version if client.encoded is self._encoded else _NO_LIVE_CALLS
        heartbeat_s = _SUMMARY_EVERY_S if client.live_calls else _HEARTBEAT_S
        silent = now - client.written_at >= heartbeat_s
        return _Position(client.after_seq, version if client.live_calls else None, client.chunked, silent)

    async def _message(self, position: _Position) -> _Message:
        body = b"".join([frame for seq, frame in self._events if seq > position.after_seq])
        after_seq = max(position.after_seq, self._events[-1][0]) if self._events else position.after_seq
        version = _NO_LIVE_CALLS
        if position.version is not None:
            version, changed = await self._changed(position.version, position.silent)
            body += changed
        if position.silent and not body:
            body = b":\n\n"
        return _Message(_chunk(body) if position.chunked and body else body, after_seq, version)

    async def _changed(self, version: int, silent: bool) -> tuple[int, bytes]:
        """The live calls that changed since a version, and the new version; only the totals if nothing changed."""
        if self._live_calls.version == version:
            return version, self._frame((), whole=False) if silent else b""
        change = await self._live_calls.changed(version)  # returns at once, because the version differs
        if change.calls is None:
            return change.version, self._frame(await self._encoded.of_all(self._live_calls.calls()), whole=True)
        return change.version, self._frame(await self._encoded.of(change.calls), whole=False)

    def _frame(self, calls: Sequence[msgspec.Raw], *, whole: bool) -> bytes:
        data: dict[str, Any] = {
            "now": rfc3339(self._clock.wall()),
            "whole": whole,
            "calls": calls,
            "total": counts_dict(self._live_calls.total()),
            "unstored": _unstored(self._failure()),
            "sources": [summary_dict(summary) for summary in self._live_calls.summaries()],
        }
        if whole:
            data["names"] = self._encoded.serializer.names
        return b"event: board\ndata: %b\n\n" % _encode(data)


def _unstored(failure: "OutboxFailure | None") -> dict[str, str] | None:
    return None if failure is None else {"since": rfc3339(failure.since), "detail": failure.detail}


class _EncodedCalls:
    """Calls as the page gets them, encoded again only when they change."""

    def __init__(self, serializer: CallSerializer) -> None:
        self.serializer = serializer
        self._cached: dict[tuple[str, str], tuple[Call, msgspec.Raw]] = {}

    async def of(self, calls: Sequence[Call]) -> Sequence[msgspec.Raw]:
        encoded = []
        for call in calls:
            encoded.append(self._encoding(call))
            if len(encoded) % _AT_ONCE == 0:
                await asyncio.sleep(0)
        return encoded

    async def of_all(self, calls: Sequence[Call]) -> Sequence[msgspec.Raw]:
        """All live calls; the encodings of other calls are discarded."""
        live = {(call.source, call.call_id) for call in calls}
        self._cached = {key: cached for key, cached in self._cached.items() if key in live}
        return await self.of(calls)

    def _encoding(self, call: Call) -> msgspec.Raw:
        key = (call.source, call.call_id)
        cached = self._cached.get(key)
        if cached is not None and cached[0] is call:
            return cached[1]
        encoding = msgspec.Raw(_encode(self.serializer.page_call(call)))
        if call.live:
            self._cached[key] = (call, encoding)
        else:
            self._cached.pop(key, None)
        return encoding


async def _event_frames(page: Sequence[Stored], serializer: CallSerializer) -> Sequence[tuple[int, bytes]]:
    frames = []
    for stored in page:
        frames.append((stored.seq, _event_frame(stored, serializer)))
        if len(frames) % _AT_ONCE == 0:
            await asyncio.sleep(0)
    return frames


def _event_frame(stored: Stored, serializer: CallSerializer) -> bytes:
    return b"id: %d\nevent: %b\ndata: %b\n\n" % (
        stored.seq,
        stored.event.type.encode(),
        serializer.wire.event(stored.event),
    )


def _chunk(body: bytes) -> bytes:
    """A chunk of the chunked transfer encoding of HTTP/1.1."""
    return b"%x\r\n%b\r\n" % (len(body), body)
