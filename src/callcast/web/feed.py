"""Who listens to `/api/events`, and what they get: recorded events, and for the page the turns of the board.

Everything is encoded once and handed to all readers. A reader has a bounded queue; one that does not keep up is
dropped and comes back with `Last-Event-ID`. Nobody is ever waited for.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol

import msgspec

from callcast.core.board import Board
from callcast.core.clock import Clock
from callcast.core.model import Call
from callcast.core.outbox import OutboxUnavailable, Stored
from callcast.core.wire import rfc3339
from callcast.web.views import View, summary_dict

QUEUED_BYTES_MAX = 4 * 1024 * 1024  # per reader
PAGE = 500  # events read from the outbox at once

_ROUND_S = 0.1  # the page's eye and the outbox both want changes in handfuls, not singly
_AT_ONCE = 16  # readers that are served before the loop may do something else
_SUMMARY_EVERY_S = 2.0
_OUTBOX_RETRY_S = 1.0

_encode = msgspec.json.Encoder().encode


class History(Protocol):
    """What is asked of the outbox."""

    async def history(self, *, after_seq: int, limit: int) -> Sequence[Stored]: ...

    async def last_seq(self) -> int: ...


class Reader:
    """One listener. `board`: wants the board's turns too. `drop` is called when it does not keep up."""

    def __init__(self, *, board: bool, drop: Callable[[], None]) -> None:
        self.board = board
        self.after_seq = 0  # the newest event that it was given
        self.closed = False
        self._drop = drop
        self._chunks: deque[bytes] = deque()
        self._queued_bytes = 0
        self._filled = asyncio.Event()

    def offer(self, chunk: bytes) -> None:
        self._chunks.append(chunk)
        self._queued_bytes += len(chunk)
        if self._queued_bytes > QUEUED_BYTES_MAX and len(self._chunks) > 1:
            self.close()
            self._drop()
        self._filled.set()

    def close(self) -> None:
        self.closed = True
        self._filled.set()

    async def take(self) -> bytes:
        """Everything that waits, joined; empty when the reader was closed."""
        await self._filled.wait()
        if self.closed:
            return b""
        taken = b"".join(self._chunks)
        self._chunks.clear()
        self._queued_bytes = 0
        self._filled.clear()
        return taken


class Feed:
    """`wake` after each commit; `run` for as long as the service runs."""

    def __init__(self, board: Board, history: History, clock: Clock, view: View) -> None:
        self._board = board
        self._history = history
        self._clock = clock
        self._view = view
        self._readers: set[Reader] = set()
        self._closed = False
        self._woken = asyncio.Event()
        self._lines: dict[tuple[str, str], tuple[Call, msgspec.Raw]] = {}

    def wake(self) -> None:
        """Something was recorded."""
        self._woken.set()

    def show(self, view: View) -> None:
        """From now on show everything this way."""
        self._view = view
        self._lines.clear()
        frame = self.whole_board()
        for reader in self._board_readers():
            reader.offer(frame)

    def join(self, reader: Reader) -> None:
        """From now on hand it what comes after `reader.after_seq`, and the whole board first if it wants that."""
        if reader.board:
            reader.offer(self.whole_board())
        self._readers.add(reader)
        self.wake()
        if self._closed:
            reader.close()

    def leave(self, reader: Reader) -> None:
        self._readers.discard(reader)

    @property
    def readers(self) -> int:
        return len(self._readers)

    def close(self) -> None:
        """The service ends: end every stream, and those that are about to start."""
        self._closed = True
        for reader in self._readers:
            reader.close()

    async def run(self) -> None:
        """Hand out what happens, until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._follow_outbox())
            tasks.create_task(self._follow_board())

    async def catch_up(self, reader: Reader) -> bytes:
        """The next page of events for a reader that has not joined yet; empty when there are no more."""
        page = await self._history.history(after_seq=reader.after_seq, limit=PAGE)
        if page:
            reader.after_seq = page[-1].seq
        return b"".join(map(self._event_frame, page))

    async def last_seq(self) -> int:
        return await self._history.last_seq()

    def whole_board(self) -> bytes:
        """The frame that a page starts from."""
        calls = self._board.calls()
        self._lines = {(call.source, call.call_id): (call, self._line(call)) for call in calls}
        return self._board_frame([line for _, line in self._lines.values()], whole=True)

    async def _follow_outbox(self) -> None:
        while True:
            await self._woken.wait()
            self._woken.clear()
            try:
                await self._hand_out_events()
            except OutboxUnavailable:
                self._woken.set()
                await asyncio.sleep(_OUTBOX_RETRY_S)
            await asyncio.sleep(_ROUND_S)

    async def _hand_out_events(self) -> None:
        """From where the readers are; with none, nothing is read."""
        while self._readers:
            start = min(reader.after_seq for reader in self._readers)
            page = await self._history.history(after_seq=start, limit=PAGE)
            frames = [(stored.seq, self._event_frame(stored)) for stored in page]
            if page:
                await self._offer_events(frames, start)
            if len(page) < PAGE:
                return

    async def _offer_events(self, frames: Sequence[tuple[int, bytes]], start: int) -> None:
        """To each reader what it has not: for nearly all of them the same bytes."""
        whole = b"".join(frame for _, frame in frames)
        for served, reader in enumerate(tuple(self._readers), 1):
            if reader.after_seq == start:
                reader.offer(whole)
            elif wanted := [frame for seq, frame in frames if seq > reader.after_seq]:
                reader.offer(b"".join(wanted))
            reader.after_seq = max(reader.after_seq, frames[-1][0])
            if served % _AT_ONCE == 0:
                await asyncio.sleep(0)

    async def _follow_board(self) -> None:
        version = self._board.version
        while True:
            calls: tuple[Call, ...] | None = ()
            try:
                async with asyncio.timeout(_SUMMARY_EVERY_S):
                    turn = await self._board.changed(version)
                version, calls = turn.version, turn.calls
            except TimeoutError:
                pass
            await self._hand_out_turn(calls)
            await asyncio.sleep(_ROUND_S)

    async def _hand_out_turn(self, calls: Iterable[Call] | None) -> None:
        readers = self._board_readers()
        if not readers:
            return
        if calls is None:
            frame = self.whole_board()
        else:
            frame = self._board_frame([self._line(call) for call in calls], whole=False)
        for served, reader in enumerate(readers, 1):
            reader.offer(frame)
            if served % _AT_ONCE == 0:
                await asyncio.sleep(0)

    def _board_readers(self) -> list[Reader]:
        return [reader for reader in self._readers if reader.board]

    def _line(self, call: Call) -> msgspec.Raw:
        """A call as the page gets it; encoded once for as long as it does not change."""
        key = (call.source, call.call_id)
        known = self._lines.get(key)
        if known is not None and known[0] is call:
            return known[1]
        line = msgspec.Raw(_encode(self._view.page_call(call)))
        if call.live:
            self._lines[key] = (call, line)
        else:
            self._lines.pop(key, None)
        return line

    def _board_frame(self, calls: Sequence[msgspec.Raw], *, whole: bool) -> bytes:
        data: dict[str, Any] = {
            "now": rfc3339(self._clock.wall()),
            "whole": whole,
            "calls": calls,
            "sources": [summary_dict(summary) for summary in self._board.summaries()],
        }
        return b"event: board\ndata: %b\n\n" % _encode(data)

    def _event_frame(self, stored: Stored) -> bytes:
        event = stored.event
        return b"id: %d\nevent: %b\ndata: %b\n\n" % (
            stored.seq,
            event.type.encode(),
            self._view.wire.event(event),
        )
