"""Push: the platform announces the calls of one source on a WebSocket. It only yields hints, never events.

A connection (`push_connection`) is kept open, and opened again with growing pauses when it is lost. With each new OAuth
session, and before the platform's limit of 24 h, a second connection is opened before the first is closed.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Literal

from callcast.calls.model import Target
from callcast.observability.fatal import observed
from callcast.ports.clock import Clock
from callcast.ports.hints import Hint, HintsChange, Report
from callcast.ports.telemetry import Telemetry
from callcast.ports.upstream import PollFailed
from callcast.ringcentral import frames
from callcast.ringcentral.frames import Steps
from callcast.ringcentral.push_connection import Connector, Kind, Lost, Refused, Socket

TICK_S = 5.0
LIFETIME_S = 23 * 3600.0  # the platform closes a connection after 24 h
OVERLAP_S = 2.0  # how long the old connection stays open beside its replacement
PAUSES_S = (1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)
JITTER = 0.2
STEADY_S = 60.0  # a connection that lasted this long starts the pauses anew
REFUSED_EVERY_S = 3600.0
FILTERS_MAX = 500


class _Line:
    """Keeps one connection with its subscription open, and replaces it without a gap when that is due."""

    def __init__(
        self,
        keys: Sequence[str],
        connector: Connector,
        receiver: "Receiver",
        report: Report,
        clock: Clock,
        telemetry: Telemetry,
        random: Callable[[], float],
    ) -> None:
        self.kinds: Mapping[str, Kind] = {}  # what is subscribed now, by key
        self._keys = keys
        self._connector = connector
        self._receiver = receiver
        self._report = report
        self._clock = clock
        self._telemetry = telemetry
        self._random = random
        self._failures = 0  # since a connection lasted for some time
        self._sockets: set[Socket] = set()
        self._closing: set[asyncio.Task[None]] = set()

    async def keep_open(self, *, until_refused: bool = False) -> None:
        """Keep the subscription until cancelled. until_refused: raises Refused instead of trying again every hour."""
        lost: Socket | None = None
        try:
            while True:
                socket = await self._opened(lost, until_refused)
                self._now("recovered" if socket.recovered else "up", socket.kinds)
                lost = await self._until_lost(socket)
                self._now("lost", {})
                if lost.lost_at - lost.opened_at >= STEADY_S:
                    self._failures = 0
                await self._clock.sleep(self._failed(lost.lost()))
        finally:
            for closing in self._closing:
                closing.cancel()
            await asyncio.gather(*map(self._close, tuple(self._sockets)))

    def _now(self, state: Literal["up", "recovered", "lost"], kinds: Mapping[str, Kind]) -> None:
        self.kinds = kinds
        self._telemetry.hints_up("push", up=state != "lost")
        self._report(HintsChange(via="push", state=state, at=self._clock.monotonic()))

    async def _opened(self, lost: Socket | None, until_refused: bool) -> Socket:
        """Return a subscribed connection, after as many attempts as it takes."""
        while True:
            try:
                return await self._connect(lost)
            except Refused as error:
                if until_refused:
                    raise
                wait_s = self._refused(error)
            except (Lost, PollFailed) as error:
                wait_s = self._failed(error)
            await self._clock.sleep(wait_s)

    async def _until_lost(self, socket: Socket) -> Socket:
        """Return the last connection once it is lost. Replaces one that is due, and closes it a little later."""
        not_before = 0.0
        while await self._is_due(socket, not_before):
            try:
                following = await self._connect(None)
            except Refused as error:
                not_before = self._clock.monotonic() + self._refused(error)
                continue
            except (Lost, PollFailed) as error:
                not_before = self._clock.monotonic() + self._failed(error)
                continue
            if socket.reader.done():  # meanwhile: events may be missing
                self._now("lost", {})
                self._now("up", following.kinds)
            self.kinds = following.kinds
            closing = observed(asyncio.create_task(self._close(socket, after_s=OVERLAP_S)))
            self._closing.add(closing)
            closing.add_done_callback(self._closing.discard)
            socket = following
        await self._close(socket)
        return socket

    async def _is_due(self, socket: Socket, not_before: float) -> bool:
        """Wait until the connection must be replaced, and return true; false if it is lost."""
        while True:
            tick = asyncio.ensure_future(self._clock.sleep(TICK_S))
            try:
                await asyncio.wait((socket.reader, tick), return_when=asyncio.FIRST_COMPLETED)
            finally:
                tick.cancel()
            if socket.reader.done():
                return False
            with suppress(Lost):  # its reader will end as well
                await socket.heartbeat()
            now, oauth_session = self._clock.monotonic(), self._connector.oauth_session
            is_new = oauth_session is not None and oauth_session != socket.oauth_session
            if now >= not_before and (is_new or now - socket.opened_at >= LIFETIME_S):
                return True

    async def _connect(self, lost: Socket | None) -> Socket:
        socket = await self._connector.connect(self._receiver.notified, lost)
        self._sockets.add(socket)
        try:
            if not socket.recovered:
                socket.kinds, refused = await self._connector.subscribe(socket, self._keys)
                self._receiver.resubscribed()
                self._telemetry.push_subscribed(len(socket.kinds), {key: str(why) for key, why in refused.items()})
        except BaseException:
            await self._close(socket)
            raise
        self._telemetry.push_connected("recovered" if socket.recovered else "subscribed")
        return socket

    async def _close(self, socket: Socket, after_s: float = 0.0) -> None:
        if after_s:
            await self._clock.sleep(after_s)
        await socket.close()
        self._sockets.discard(socket)

    def _refused(self, error: Refused) -> float:
        """Report it. Returns the seconds to wait."""
        self._telemetry.push_connected("refused")
        self._telemetry.push_refused(str(error))
        return REFUSED_EVERY_S

    def _failed(self, error: Lost | PollFailed) -> float:
        """Report it. Returns the seconds to wait."""
        pause_s = PAUSES_S[min(self._failures, len(PAUSES_S) - 1)] * (1 + JITTER * (2 * self._random() - 1))
        self._failures += 1
        wait_s = max(pause_s, error.retry_after_s or 0.0)
        self._telemetry.push_connected("failed")
        self._telemetry.push_lost(error.reason, error.detail, wait_s)
        return wait_s


class Push:
    """The hints of one source that the platform pushes.

    source: its name, in targets. telemetry: receives what the operator should know.
    random: returns a number from 0 to 1.
    """

    def __init__(
        self, source: str, connector: Connector, clock: Clock, telemetry: Telemetry, random: Callable[[], float]
    ) -> None:
        self._source = source
        self._connector = connector
        self._clock = clock
        self._telemetry = telemetry
        self._random = random
        self._lines: list[_Line] = []

    def covers(self, target: Target) -> bool:
        return any((target.extension_id or "") in line.kinds or "" in line.kinds for line in self._lines)

    async def run(self, targets: Sequence[Target], report: Report) -> None:
        """Report hints until cancelled, whatever the platform and the network do."""
        receiver = Receiver(targets, report, self._clock, self._telemetry)
        keys = [target.extension_id or "" for target in targets]

        def line(of: Sequence[str]) -> _Line:
            shared = self._connector, receiver, report, self._clock, self._telemetry, self._random
            self._lines.append(_Line(of, *shared))
            return self._lines[-1]

        self._lines = []
        if len(keys) > FILTERS_MAX:  # one filter for the whole account; if that is refused, several connections
            with suppress(Refused):
                await line([""]).keep_open(until_refused=True)
        async with asyncio.TaskGroup() as tasks:
            for first in range(0, len(keys), FILTERS_MAX):
                tasks.create_task(line(keys[first : first + FILTERS_MAX]).keep_open())


class Receiver:
    """Turns events into hints of the watched targets."""

    def __init__(self, targets: Sequence[Target], report: Report, clock: Clock, telemetry: Telemetry) -> None:
        self._targets = {target.extension_id: target for target in targets}
        self._report = report
        self._clock = clock
        self._telemetry = telemetry
        self._steps = Steps()

    def resubscribed(self) -> None:
        self._steps.resubscribed()

    def notified(self, event: frames.Event) -> None:
        for one in self._steps.of_event(event):
            # A party outside the account has no call of its own in a list: the other party's event announces it.
            target = self._targets.get(one.extension_id) or self._targets.get(None)
            if target is None or one.extension_id is None:
                self._steps.ignored["unwatched"] += 1
                continue
            self._report(
                Hint(
                    target=target,
                    session_id=one.session,
                    party_id=one.party or None,
                    extension_id=one.extension_id,
                    step=one.step,
                    via="push",
                    at=self._clock.monotonic(),
                )
            )
        for reason, count in self._steps.ignored.items():
            self._telemetry.hints_ignored(reason, count)
        self._steps.ignored.clear()
