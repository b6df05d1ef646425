"""Who listens to `/api/events`, and what they get: recorded events, and for the page the turns of the board.

The pipe comes first: what happens is collected, and handed out in rounds of `ROUND_S`, in handfuls between which the
loop is free. Everything is encoded once; readers that are equally far get the same bytes, written straight to their
connections. Nobody is ever waited for: one that does not keep up is cut off, and comes back with `Last-Event-ID`.
"""

import asyncio
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any, NamedTuple, Protocol

import msgspec

from callcast.calls.model import Call
from callcast.formats.cloudevents import counts_dict, rfc3339, summary_dict
from callcast.ports.clock import Clock
from callcast.ports.live_calls import Statistics
from callcast.ports.outbox import OutboxUnavailable, Stored
from callcast.web.serializers import View

ROUND_S = 0.25
QUEUED_BYTES_MAX = 1024 * 1024  # per reader, behind the piece that it is being given
PAGE = 100  # events read from the outbox at once

_AT_ONCE = 8  # readers, or calls and events to encode, before the loop may do something else
_BYTES_AT_ONCE = 256 * 1024  # the same for what is written to readers
_BREATH_S = 0.002  # for which it then may
_ASKING_MAX = 2  # newcomers, of the outbox at once
_SUMMARY_EVERY_S = 2.0
_HEARTBEAT_S = 10.0
_NO_LIVE_CALLS = -1  # no version of the board: next comes all of it

_encode = msgspec.json.Encoder().encode


class Trouble(Protocol):
    """Since when polls cannot be stored, by this machine's clock, and why."""

    @property
    def since(self) -> datetime: ...

    @property
    def detail(self) -> str: ...


class History(Protocol):
    """What is asked of the outbox."""

    async def history(self, *, after_seq: int, limit: int) -> Sequence[Stored]: ...

    async def last_seq(self) -> int: ...


class Reader:
    """One listener, and how far it is. `board`: wants the board's turns too. `chunked`: as its answer's body is."""

    def __init__(self, transport: asyncio.Transport, *, live_calls: bool, chunked: bool) -> None:
        self.live_calls = live_calls
        self.chunked = chunked
        self.after_seq = 0  # the newest event that it was given
        self.version = _NO_LIVE_CALLS
        self.lines: _Lines | None = None  # as which it was given that
        self.written_at = 0.0  # monotonic
        self._waiting_max = QUEUED_BYTES_MAX
        self._transport = transport
        self._ended = asyncio.Event()

    def write(self, chunk: bytes) -> None:
        """Hand it on, if anything, without waiting. Ends a reader that is gone, or that has too much waiting."""
        if self._ended.is_set():  # then the connection may serve another request
            return
        if self._transport.is_closing():
            self.end()
            return
        waiting = self._transport.get_write_buffer_size()
        if not waiting:  # a single piece may be larger, as the board of a very large house is
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


class Feed:
    """`wake` after each commit; `run` for as long as the service runs."""

    def __init__(
        self,
        live_calls: Statistics,
        history: History,
        clock: Clock,
        view: View,
        trouble: Callable[[], Trouble | None] = lambda: None,
    ) -> None:
        self._live_calls = live_calls
        self._trouble = trouble
        self._history = history
        self._clock = clock
        self._view = view
        self._lines = _Lines(view)
        self._readers: dict[Reader, None] = {}
        self._wanted = asyncio.Event()  # set while anybody reads
        self._asking = asyncio.Semaphore(_ASKING_MAX)  # however many come at once, the outbox has others to serve
        self._recorded = False  # something that not everybody has
        self._closed = False

    def wake(self) -> None:
        """Something was recorded."""
        self._recorded = True

    def show(self, view: View) -> None:
        """From the next round on show everything this way."""
        self._view = view

    def join(self, reader: Reader) -> None:
        """From now on hand it what comes after `reader.after_seq`, and the whole board first if it wants that."""
        if self._closed:
            reader.end()
            return
        reader.written_at = self._clock.monotonic()
        self._readers[reader] = None
        self._wanted.set()
        self.wake()

    def leave(self, reader: Reader) -> None:
        reader.end()
        self._readers.pop(reader, None)
        if not self._readers:
            self._wanted.clear()

    @property
    def readers(self) -> int:
        return len(self._readers)

    def close(self) -> None:
        """The service ends: end every stream, and those that are about to start."""
        self._closed = True
        for reader in self._readers:
            reader.end()

    async def run(self) -> None:
        """Hand out what happens, until cancelled."""
        while True:
            await self._wanted.wait()
            while await self._hand_out():
                pass
            await asyncio.sleep(ROUND_S)

    async def catch_up(self, reader: Reader) -> bytes:
        """The next page of events for a reader that has not joined yet; empty when there are no more."""
        async with self._asking:
            page = await self._history.history(after_seq=reader.after_seq, limit=PAGE)
        if page:
            reader.after_seq = page[-1].seq
        return b"".join([frame for _, frame in await _event_frames(page, self._view)])

    async def last_seq(self) -> int:
        async with self._asking:
            return await self._history.last_seq()

    async def _hand_out(self) -> bool:
        """One round; true when more events wait than it could hold."""
        if self._lines.view is not self._view:
            self._lines = _Lines(self._view)
        page = await self._new_events()
        events = await _event_frames(page, self._view)
        handing = _Round(self._live_calls, self._clock, self._lines, events, self._trouble)
        handful_bytes = 0
        for reader in tuple(self._readers):
            if size := await handing.serve(reader):
                handful_bytes += max(size, _BYTES_AT_ONCE // _AT_ONCE)
            if handful_bytes >= _BYTES_AT_ONCE:
                handful_bytes = 0
                await asyncio.sleep(_BREATH_S)
        return len(page) == PAGE

    async def _new_events(self) -> Sequence[Stored]:
        """From where the readers are; nothing while the outbox is unreachable."""
        if not self._recorded or not self._readers:
            return ()
        start = min(reader.after_seq for reader in self._readers)
        self._recorded = False  # what is recorded while this reads says so again
        try:
            page = await self._history.history(after_seq=start, limit=PAGE)
        except OutboxUnavailable:
            self._recorded = True
            return ()
        self._recorded |= len(page) == PAGE
        return page


class _Place(NamedTuple):
    """How far a reader is, and how it is written to: those in the same place get the same bytes."""

    after_seq: int
    version: int | None  # None: without the board
    chunked: bool
    silent: bool  # for so long that it wants to hear something


class _Portion(NamedTuple):
    chunk: bytes
    after_seq: int
    version: int


class _Round:
    """What one round hands out: made when the first reader in a place asks for it, then shared."""

    def __init__(
        self,
        live_calls: Statistics,
        clock: Clock,
        lines: "_Lines",
        events: Sequence[tuple[int, bytes]],
        trouble: Callable[[], Trouble | None],
    ) -> None:
        self._live_calls = live_calls
        self._trouble = trouble
        self._clock = clock
        self._lines = lines
        self._events = events
        self._portions: dict[_Place, _Portion] = {}

    async def serve(self, reader: Reader) -> int:
        """Write what the reader lacks, and say how much that was."""
        now = self._clock.monotonic()
        place = self._place(reader, now)
        portion = self._portions.get(place)
        if portion is None:
            portion = self._portions[place] = await self._portion(place)
        reader.after_seq, reader.version, reader.lines = portion.after_seq, portion.version, self._lines
        if portion.chunk:
            reader.written_at = now
        reader.write(portion.chunk)
        return len(portion.chunk)

    def _place(self, reader: Reader, now: float) -> _Place:
        version = reader.version if reader.lines is self._lines else _NO_LIVE_CALLS
        patience_s = _SUMMARY_EVERY_S if reader.live_calls else _HEARTBEAT_S
        silent = now - reader.written_at >= patience_s
        return _Place(reader.after_seq, version if reader.live_calls else None, reader.chunked, silent)

    async def _portion(self, place: _Place) -> _Portion:
        body = b"".join([frame for seq, frame in self._events if seq > place.after_seq])
        after_seq = max(place.after_seq, self._events[-1][0]) if self._events else place.after_seq
        version = _NO_LIVE_CALLS
        if place.version is not None:
            version, turned = await self._turned(place.version, place.silent)
            body += turned
        if place.silent and not body:
            body = b":\n\n"
        return _Portion(_chunk(body) if place.chunked and body else body, after_seq, version)

    async def _turned(self, version: int, silent: bool) -> tuple[int, bytes]:
        """The board since a version, and which one it is then; only its totals where it has not turned."""
        if self._live_calls.version == version:
            return version, self._frame((), whole=False) if silent else b""
        turn = await self._live_calls.changed(version)  # at once, as it has
        if turn.calls is None:
            return turn.version, self._frame(await self._lines.of_all(self._live_calls.calls()), whole=True)
        return turn.version, self._frame(await self._lines.of(turn.calls), whole=False)

    def _frame(self, calls: Sequence[msgspec.Raw], *, whole: bool) -> bytes:
        data: dict[str, Any] = {
            "now": rfc3339(self._clock.wall()),
            "whole": whole,
            "calls": calls,
            "total": counts_dict(self._live_calls.total()),
            "unstored": _told(self._trouble()),
            "sources": [summary_dict(summary) for summary in self._live_calls.summaries()],
        }
        if whole:
            data["names"] = self._lines.view.names
        return b"event: board\ndata: %b\n\n" % _encode(data)


def _told(trouble: "Trouble | None") -> dict[str, str] | None:
    return None if trouble is None else {"since": rfc3339(trouble.since), "detail": trouble.detail}


class _Lines:
    """Calls as the page gets them under one view, encoded once for as long as they do not change."""

    def __init__(self, view: View) -> None:
        self.view = view
        self._known: dict[tuple[str, str], tuple[Call, msgspec.Raw]] = {}

    async def of(self, calls: Sequence[Call]) -> Sequence[msgspec.Raw]:
        lines = []
        for call in calls:
            lines.append(self._line(call))
            if len(lines) % _AT_ONCE == 0:
                await asyncio.sleep(0)
        return lines

    async def of_all(self, calls: Sequence[Call]) -> Sequence[msgspec.Raw]:
        """Of every live call; what is known of others is forgotten."""
        live = {(call.source, call.call_id) for call in calls}
        self._known = {key: known for key, known in self._known.items() if key in live}
        return await self.of(calls)

    def _line(self, call: Call) -> msgspec.Raw:
        key = (call.source, call.call_id)
        known = self._known.get(key)
        if known is not None and known[0] is call:
            return known[1]
        line = msgspec.Raw(_encode(self.view.page_call(call)))
        if call.live:
            self._known[key] = (call, line)
        else:
            self._known.pop(key, None)
        return line


async def _event_frames(page: Sequence[Stored], view: View) -> Sequence[tuple[int, bytes]]:
    frames = []
    for stored in page:
        frames.append((stored.seq, _event_frame(stored, view)))
        if len(frames) % _AT_ONCE == 0:
            await asyncio.sleep(0)
    return frames


def _event_frame(stored: Stored, view: View) -> bytes:
    return b"id: %d\nevent: %b\ndata: %b\n\n" % (
        stored.seq,
        stored.event.type.encode(),
        view.wire.event(stored.event),
    )


def _chunk(body: bytes) -> bytes:
    """As HTTP/1.1 wants a body whose length nobody knows."""
    return b"%x\r\n%b\r\n" % (len(body), body)
