"""Server-sent events of `/api/events`: recorded events and, for the wallboard, changes of the live calls.

Once per round of `ROUND_S` the broadcaster encodes what is new and puts it into the bounded queue of every client; the
client's handler writes it. No client delays another: one whose queue is full is disconnected, and reconnects with
`Last-Event-ID`. A new client joins first and then reads the past from the outbox, so that it misses nothing; `Client`
leaves out what it has already.
"""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Callable, Sequence
from typing import Any, Protocol

import msgspec

from callcast.calls.model import Call
from callcast.formats.cloudevents import counts_data, rfc3339, summary_data
from callcast.live.live_calls import InMemoryLiveCalls
from callcast.observability.outbox_health import OutboxFailure
from callcast.ports.clock import Clock
from callcast.ports.outbox import OutboxUnavailable, Stored
from callcast.web.serializers import CallSerializer

ROUND_S = 0.25
BURST_ROUND_S = 0.025  # while more events wait than one round sends
QUEUED_ROUNDS_MAX = 100  # per client: 25 s, or 2.5 s of a burst of 4,000 events a second
PAGE = 100  # events read from the outbox at once

_AT_ONCE = 8  # clients to wake, or calls and events to encode, before the event loop gets control
_READS_MAX = 2  # new clients that read the outbox at once: it also serves sinks and sources
_SUMMARY_EVERY_S = 2.0
_HEARTBEAT_S = 10.0
_HEARTBEAT = b":\n\n"

_encode = msgspec.json.Encoder().encode


class History(Protocol):
    """The part of the outbox that event streams use."""

    async def history(self, *, after_seq: int, limit: int) -> Sequence[Stored]: ...

    async def last_seq(self) -> int: ...


class Round(msgspec.Struct, frozen=True):
    """What all clients get at once.

    events: as (seq, frame), oldest first; events_bytes: their frames joined. version: of the live calls; calls: their
    frame, empty without a change. A heartbeat is due if the round has nothing else for a client.
    """

    events: Sequence[tuple[int, bytes]] = ()
    events_bytes: bytes = b""
    version: int = -1
    calls: bytes = b""
    heartbeat: bool = False


class Client:
    """One connected client: its position in both streams and the rounds that wait for it."""

    def __init__(self, after_seq: int, *, live_calls: bool) -> None:
        self.after_seq = after_seq  # the newest event that it has
        self.live_calls = live_calls
        self.version = -1  # of the live calls that it has
        self._rounds: deque[Round] = deque()
        self._changed = asyncio.Event()
        self._ended = False

    def put(self, round_: Round) -> None:
        """Queue a round; ends the client if its queue is full."""
        if len(self._rounds) >= QUEUED_ROUNDS_MAX:
            self.end()
        self._rounds.append(round_)
        self._changed.set()

    def end(self) -> None:
        self._ended = True
        self._changed.set()

    async def messages(self) -> AsyncGenerator[bytes, None]:
        """Yield what to write, until the client is ended."""
        while not self._ended:
            if not self._rounds:
                self._changed.clear()
                await self._changed.wait()
            elif message := self._message(self._rounds.popleft()):
                yield message

    def _message(self, round_: Round) -> bytes:
        """A round without what the client has already."""
        body = b""
        if round_.events:
            first, last = round_.events[0][0], round_.events[-1][0]
            body = round_.events_bytes
            if first <= self.after_seq:
                body = b"".join([frame for seq, frame in round_.events if seq > self.after_seq])
            self.after_seq = max(self.after_seq, last)
        if self.live_calls and round_.version >= self.version:
            self.version = round_.version
            body += round_.calls
        return body or (_HEARTBEAT if round_.heartbeat else b"")


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
        self._encoded: dict[tuple[str, str], tuple[Call, msgspec.Raw]] = {}
        self._clients: set[Client] = set()
        self._wanted = asyncio.Event()  # set while there are clients
        self._reads = asyncio.Semaphore(_READS_MAX)
        self._recorded = False  # an event that was not sent yet
        self._after_seq = 0  # the newest event that was sent
        self._version = -1  # of the live calls that were sent; -1: all of them come next
        self._calls_sent_at = self._round_sent_at = 0.0  # monotonic
        self._closed = False

    def wake(self) -> None:
        """Note that an event or a change was recorded."""
        self._recorded = True

    def use(self, serializer: CallSerializer) -> None:
        """Use this serializer from the next round on; all live calls are sent again."""
        self._serializer = serializer
        self._encoded = {}
        self._version = -1

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
            await asyncio.sleep(BURST_ROUND_S if await self._send_round() else ROUND_S)

    async def last_seq(self) -> int:
        """The newest event's seq. Raises OutboxUnavailable."""
        async with self._reads:
            return await self._history.last_seq()

    async def stream(self, client: Client) -> AsyncGenerator[bytes, None]:
        """Yield what the client does not have yet: all live calls, past events, and then each round."""
        async for page in self._past(client):
            yield page
        now = self._clock.monotonic()
        if not self._clients:
            self._after_seq, self._round_sent_at = client.after_seq, now
        if client.live_calls and not self._has_pages():
            self._version, self._calls_sent_at = self._live_calls.version, now
        self._clients.add(client)
        self._wanted.set()
        self.wake()
        if self._closed:
            client.end()
        try:
            async for page in self._past(client):  # recorded between the last read and joining
                yield page
            if client.live_calls:
                client.version = self._live_calls.version
                yield await self._frame(self._live_calls.calls(), whole=True)
            async for message in client.messages():
                yield message
        finally:
            self._clients.discard(client)
            if not self._clients:
                self._wanted.clear()

    async def _past(self, client: Client) -> AsyncGenerator[bytes, None]:
        page: Sequence[Stored] = ()
        while not page or len(page) == PAGE:
            async with self._reads:
                page = await self._history.history(after_seq=client.after_seq, limit=PAGE)
            if not page:
                return
            client.after_seq = page[-1].seq
            yield b"".join([frame for _, frame in await self._event_frames(page)])

    async def _send_round(self) -> bool:
        """Send one round; true when more events wait than one round sends."""
        now = self._clock.monotonic()
        page = await self._new_events()
        events = await self._event_frames(page)
        version, calls = await self._changed_calls(now)
        heartbeat = now - self._round_sent_at >= _HEARTBEAT_S
        if events or calls or heartbeat:
            events_bytes = b"".join([frame for _, frame in events])
            round_ = Round(events, events_bytes, version, calls, heartbeat)
            self._round_sent_at = now if events or heartbeat else self._round_sent_at
            for count, client in enumerate(tuple(self._clients), 1):
                client.put(round_)
                if count % _AT_ONCE == 0:
                    await asyncio.sleep(0)
        return len(page) == PAGE

    async def _new_events(self) -> Sequence[Stored]:
        """Events that were not sent yet; none while the outbox is unavailable."""
        if not self._recorded:
            return ()
        self._recorded = False  # set again by what is recorded during this read
        try:
            page = await self._history.history(after_seq=self._after_seq, limit=PAGE)
        except OutboxUnavailable:
            self._recorded = True
            return ()
        if page:
            self._after_seq = page[-1].seq
        self._recorded |= len(page) == PAGE
        return page

    async def _changed_calls(self, now: float) -> tuple[int, bytes]:
        """The frame of the live calls that changed since the last round, and their version.

        Only the totals if nothing has changed; empty if these were just sent.
        """
        if not self._has_pages():
            return self._version, b""
        if self._live_calls.version == self._version:
            if now - self._calls_sent_at < _SUMMARY_EVERY_S:
                return self._version, b""
            calls: Sequence[Call] | None = ()
        else:
            change = await self._live_calls.changed(self._version)  # returns at once, because the version differs
            self._version, calls = change.version, change.calls
        self._calls_sent_at, version = now, self._version  # `_version` may change while the frame is made
        return version, await self._frame(self._live_calls.calls() if calls is None else calls, whole=calls is None)

    def _has_pages(self) -> bool:
        return any(client.live_calls for client in self._clients)

    async def _frame(self, calls: Sequence[Call], *, whole: bool) -> bytes:
        serializer = self._serializer
        if whole:
            live = {(call.source, call.call_id) for call in calls}
            self._encoded = {key: cached for key, cached in self._encoded.items() if key in live}
        data: dict[str, Any] = {
            "now": rfc3339(self._clock.wall()),
            "whole": whole,
            "calls": await self._encoded_calls(calls),
            "total": counts_data(self._live_calls.total()),
            "unstored": _unstored(self._failure()),
            "sources": [summary_data(summary) for summary in self._live_calls.summaries()],
        }
        if whole:
            data["names"] = serializer.names
        return b"event: board\ndata: %b\n\n" % _encode(data)

    async def _encoded_calls(self, calls: Sequence[Call]) -> Sequence[msgspec.Raw]:
        """Calls as the page gets them, encoded again only when they have changed."""
        serializer, cache = self._serializer, self._encoded
        encoded: list[msgspec.Raw] = []
        for call in calls:
            key = (call.source, call.call_id)
            cached = cache.get(key)
            if cached is None or cached[0] is not call:
                cached = (call, msgspec.Raw(_encode(serializer.page_call(call))))
                if len(encoded) % _AT_ONCE == 0:
                    await asyncio.sleep(0)
            if call.live:
                cache[key] = cached
            else:
                cache.pop(key, None)
            encoded.append(cached[1])
        return encoded

    async def _event_frames(self, page: Sequence[Stored]) -> Sequence[tuple[int, bytes]]:
        frames = []
        for stored in page:
            frames.append((stored.seq, _event_frame(stored, self._serializer)))
            if len(frames) % _AT_ONCE == 0:
                await asyncio.sleep(0)
        return frames


def _unstored(failure: OutboxFailure | None) -> dict[str, str] | None:
    return None if failure is None else {"since": rfc3339(failure.since), "detail": failure.detail}


def _event_frame(stored: Stored, serializer: CallSerializer) -> bytes:
    return b"id: %d\nevent: %b\ndata: %b\n\n" % (
        stored.seq,
        stored.event.type.encode(),
        serializer.wire.event(stored.event),
    )
