"""A pytest suite that tests whether a sink fulfils the sink protocol. callcast's own sinks pass it too.

    class TestNtfy(SinkContract):
        @asynccontextmanager
        async def remote_side(self):
            async with my_ntfy_server() as server:
                yield NtfyRemoteSide(server)

`NtfyRemoteSide` is a `RemoteSide`: the remote end, under the test's control. pytest then runs every test of
`SinkContract`, each in an event loop of its own. Nothing but pytest is needed.
"""

# ruff: noqa: S101, ASYNC110 (a test suite asserts, and waits for what others do)

import asyncio
import gc
import logging
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, contextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any, Literal

import uvloop
from msgspec.structs import replace

from callcast.calls.model import (
    Call,
    CallEvent,
    Direction,
    Disposition,
    Event,
    Evidence,
    Observation,
    Party,
    Provider,
    Queue,
    SourceEvent,
    State,
)
from callcast.calls.summary import Summary
from callcast.formats.cloudevents import Wire
from callcast.ports.live_calls import LiveChange
from callcast.ports.sink import Delivered, Delivery, Outcome, Rejected, Retry, Sink, SinkContext
from callcast.sinks import SinkSettings

PATIENCE_S = 30.0  # a correct sink never needs this long
_A_MOMENT_S = 0.05  # long enough to catch a sink that does not wait; no correct sink depends on it
_AT = datetime(2021, 1, 19, 23, 58, 57, tzinfo=UTC)

Mode = Literal["accepting", "holding", "refusing", "down"]


class RemoteSide(ABC):
    """The remote end of a sink.

    settings: of the sink, pointing at this remote side; `timeout_s` should be small, such as 0.5.
    secrets: texts in the settings that must never be shown.
    can_refuse: false if the remote side cannot reject an event permanently.
    """

    settings: SinkSettings
    secrets: Sequence[str] = ()
    can_refuse: bool = True

    @abstractmethod
    async def become(self, mode: Mode, /) -> None:
        """Set the mode.

        accepting: accept and acknowledge every event.
        holding: accept events if possible, but do not respond; respond to them on becoming accepting again.
        refusing: reject every event permanently.
        down: unreachable.
        """

    @abstractmethod
    def received(self) -> Sequence[str]:
        """The ids of the received events, in order. Events received while holding may be left out until then."""

    async def reached(self) -> None:  # noqa: B027 (not every remote side can tell)
        """While holding: return once the sink waits for the response, if the remote side can tell."""

    def open(self, context: SinkContext, /) -> AbstractAsyncContextManager[Sink]:
        return self.settings.open(context)


class Bench:
    """One open sink, its remote side, and what it logged."""

    def __init__(self, remote_side: RemoteSide, sink: Sink, logged: list[tuple[str, dict[str, object]]]) -> None:
        self.remote_side = remote_side
        self.sink = sink
        self.logged = logged

    async def settled(self, wanted: Delivery) -> Delivered | Rejected:
        """Send until the outcome is not `Retry`."""
        while isinstance(outcome := await self.sink.send(wanted), Retry):
            await asyncio.sleep(_A_MOMENT_S)
        return outcome

    async def delivered(self, wanted: Delivery) -> None:
        """Send until the event is delivered and received."""
        assert await self.settled(wanted) == Delivered()
        await until(lambda: wanted.event.id in self.remote_side.received())

    async def held(self) -> asyncio.Task[Outcome]:
        """Start a delivery whose response the remote side holds back."""
        await self.remote_side.become("holding")
        sending = asyncio.create_task(self.sink.send(delivery()))
        await self.remote_side.reached()
        return sending


_Test = Callable[["SinkContract", Bench], Coroutine[Any, Any, None]]


def _with_sink(test: _Test, *, mode: Mode = "accepting") -> Callable[["SinkContract"], None]:
    """Run a test with a new sink, and check that no secret is logged and nothing stays open."""

    async def use(suite: "SinkContract", logs: list[str]) -> None:
        async with asyncio.timeout(PATIENCE_S):
            before = asyncio.all_tasks()
            async with suite.remote_side() as remote_side:
                await remote_side.become(mode)
                logged: list[tuple[str, dict[str, object]]] = []
                async with remote_side.open(context(logged)) as sink:
                    await test(suite, Bench(remote_side, sink, logged))
            await until(lambda: asyncio.all_tasks() <= before)
        shown = [*logs, repr(logged)]
        assert not any(secret in text for secret in remote_side.secrets for text in shown), "a secret was logged"

    def run(suite: "SinkContract") -> None:
        uvloop.run(asyncio.sleep(0))  # the first event loop opens files that libuv keeps for later ones
        before = _belongings()
        with _logs() as logs:
            uvloop.run(use(suite, logs))  # as the service does
        _nothing_left(before)

    run.__name__, run.__doc__ = test.__name__, test.__doc__  # not `wraps`: pytest would ask for a fixture `bench`
    return run


class SinkContract(ABC):
    """The tests. Derive a class whose name starts with `Test`, and implement `remote_side`."""

    @abstractmethod
    def remote_side(self) -> AbstractAsyncContextManager[RemoteSide]: ...

    @_with_sink
    async def test_delivers_every_kind_of_event(self, bench: Bench) -> None:
        """Every event is delivered, and its id is on the wire, once."""
        for each in deliveries():
            assert await bench.sink.send(each) == Delivered()
        ids = [each.event.id for each in deliveries()]
        await until(lambda: len(bench.remote_side.received()) >= len(ids))
        assert list(bench.remote_side.received()) == ids

    @_with_sink
    async def test_delivers_at_the_same_time(self, bench: Bench) -> None:
        """As many deliveries as `concurrency` says may be under way at once."""
        many = [delivery(number) for number in range(bench.remote_side.settings.concurrency)]
        outcomes = await asyncio.gather(*(bench.sink.send(each) for each in many))
        assert outcomes == [Delivered()] * len(many)
        await until(lambda: len(bench.remote_side.received()) >= len(many))
        assert sorted(bench.remote_side.received()) == sorted(each.event.id for each in many)

    @_with_sink
    async def test_returns_only_after_the_response(self, bench: Bench) -> None:
        """While the remote side has not responded, the sink does not return."""
        await bench.delivered(delivery(1))
        sending = await bench.held()
        await asyncio.wait([sending], timeout=_A_MOMENT_S)
        assert not sending.done(), "returned before the remote side responded"
        await bench.remote_side.become("accepting")
        assert await sending == Delivered()

    @_with_sink
    async def test_returns_retry_during_an_outage_and_delivers_afterwards(self, bench: Bench) -> None:
        """An outage gives a retry, not a rejection or an exception, and the same sink delivers afterwards."""
        await bench.remote_side.become("down")
        outcome = await bench.sink.send(delivery())
        assert isinstance(outcome, Retry)
        assert outcome.reason
        await bench.remote_side.become("accepting")
        await bench.delivered(delivery())

    @partial(_with_sink, mode="down")
    async def test_can_be_opened_while_the_remote_side_is_down(self, bench: Bench) -> None:
        """A sink opens although its remote side is down, and delivers once it is up."""
        assert isinstance(await bench.sink.send(delivery()), Retry)
        await bench.remote_side.become("accepting")
        await bench.delivered(delivery())

    @_with_sink
    async def test_returns_rejected_on_a_permanent_rejection(self, bench: Bench) -> None:
        """A permanent rejection is not retried."""
        if bench.remote_side.can_refuse:
            await bench.remote_side.become("refusing")
            assert isinstance(await bench.settled(delivery()), Rejected)

    @_with_sink
    async def test_returns_retry_when_no_response_comes_in_time(self, bench: Bench) -> None:
        """`timeout_s` holds, and the sink can be used afterwards."""
        await bench.remote_side.become("holding")
        assert isinstance(await bench.sink.send(delivery()), Retry)
        await bench.remote_side.become("accepting")
        await bench.delivered(delivery(1))

    @_with_sink
    async def test_can_be_cancelled(self, bench: Bench) -> None:
        """A cancelled attempt ends at once, and the sink can be used afterwards."""
        sending = await bench.held()
        sending.cancel()
        await asyncio.wait([sending])
        assert sending.cancelled()
        await bench.remote_side.become("accepting")
        await bench.delivered(delivery(1))

    @_with_sink
    async def test_can_be_closed_while_the_remote_side_is_silent(self, bench: Bench) -> None:
        """Closing does not wait for a response."""
        sending = await bench.held()
        sending.cancel()
        await asyncio.wait([sending])

    @_with_sink
    async def test_takes_only_the_events_of_its_sources(self, bench: Bench) -> None:
        """`sources` is one of the filters that every sink has; it applies to calls and to the source's own events."""
        for source, wanted in (("acme", True), ("globex", False)):
            keys = {"events": ("*",), "dispositions": (), "sources": (source,)}
            one = bench.remote_side.settings.model_copy(update=keys).filter()
            assert [one.wants(each.event) for each in deliveries()] == [wanted] * len(deliveries())

    @_with_sink
    async def test_shows_no_secret(self, bench: Bench) -> None:
        """No secret appears in a representation or an outcome, in any mode. (No test may log one.)"""
        settings = bench.remote_side.settings
        shown = [repr(settings), str(settings), repr(vars(settings)), repr(bench.sink)]
        modes: tuple[Mode, ...] = ("accepting", "refusing", "down")
        for mode in modes if bench.remote_side.can_refuse else ("accepting", "down"):
            await bench.remote_side.become(mode)
            shown.append(repr(await bench.sink.send(delivery())))
        assert not any(secret in text for secret in bench.remote_side.secrets for text in shown)


def call(number: int = 0, *, state: State = State.RINGING, source: str = "acme") -> Call:
    """A sample call; a different one for each number."""
    ended = state is State.ENDED
    return Call(
        source=source,
        call_id=f"62264425016/s-{number:032x}",
        session_id=f"s-{number:032x}",
        extension_id="62264425016",
        account_id="809646016",
        sequence=1,
        direction=Direction.INBOUND,
        state=state,
        from_party=Party(number="+16504306662", name="Zoë “wireless” 電話", location="San Mateo, CA"),
        to_party=Party(number="+16502886382", name="Tyler Liu"),
        queue=Queue(name="Support"),
        started_at=_AT,
        answered_at=_AT + timedelta(seconds=4) if state is not State.RINGING else None,
        answered_exact=True,
        ended_at=_AT + timedelta(seconds=10) if ended else None,
        ended_exact=True,
        disposition=Disposition.ANSWERED if ended else None,
        provider=Provider(name="ringcentral", record_id=f"LI{number}", result="Connected"),
    )


def event(number: int = 0, *, kind: str = "call.ringing", state: State = State.RINGING) -> CallEvent:
    """A sample event of a call; its id depends on the number and the type."""
    return CallEvent(
        id=f"evt_{kind.replace('.', '')}{number:08d}",
        type=kind,
        time=_AT,
        call=call(number, state=state),
        previous_state=None,
        sequence=1,
        observation=Observation(after=None, before=_AT, exact=True, evidence=Evidence.ACTIVE_CALLS, first_poll=False),
    )


def delivery(number: int = 0, *, of: Event | None = None, attempt: int = 1) -> Delivery:
    """A delivery of an event, for one attempt."""
    now = datetime.now(UTC)
    return Delivery(
        sink="tested",
        seq=number + 1,
        event=of or event(number),
        attempt=attempt,
        recorded_at=now,
        expires_at=now + timedelta(seconds=60),
    )


def deliveries() -> Sequence[Delivery]:
    """One delivery of each kind: live, final, corrected, of a source, and with only the required fields."""
    ended = event(1, kind="call.ended", state=State.ENDED)
    bare = event(2)
    unknown = replace(bare.call, from_party=None, to_party=None, queue=None, account_id=None)
    source = SourceEvent(
        id="evt_source1", type="source.degraded", time=_AT, source="acme", extension_id=None, reason="server", since=_AT
    )
    return [
        delivery(0),
        delivery(1, of=ended),
        delivery(1, of=replace(ended, id="evt_corrected1", type="call.corrected", corrects=ended.id)),
        delivery(2, of=replace(bare, call=unknown)),
        delivery(3, of=source),
    ]


class StaticLiveCalls:
    """Live calls that never change."""

    version = 0

    def __init__(self, calls: Sequence[Call] = ()) -> None:
        self._calls = calls

    def calls(self) -> Sequence[Call]:
        return self._calls

    def extensions(self, _source: str, /) -> Sequence[str]:
        return ["62264425016"]

    def watches(self, source: str, _extension_id: str, /) -> bool:
        return source == "acme"

    def summaries(self) -> Sequence[Summary]:
        return [
            Summary(
                source="acme",
                ringing=0,
                dialing=0,
                connected=0,
                answered_today=0,
                missed_today=0,
                as_of=None,
                complete=True,
            )
        ]

    async def changed(self, _since: int, /) -> LiveChange:
        await asyncio.get_running_loop().create_future()
        raise AssertionError("nothing ever happens")


class RealClock:
    """The real time."""

    def now(self) -> datetime:
        return datetime.now(UTC)

    def wall(self) -> datetime:
        return datetime.now(UTC)

    def monotonic(self) -> float:
        return time.monotonic()

    async def sleep(self, seconds: float, /) -> None:
        await asyncio.sleep(seconds)


def context(logged: list[tuple[str, dict[str, object]]] | None = None) -> SinkContext:
    """The context of a sink under test. What it logs is added to `logged`."""
    kept = [] if logged is None else logged
    return SinkContext(
        name="tested",
        installation="0123456789abcdef",
        version="0.0.0",
        live_calls=StaticLiveCalls(),
        wire=Wire(),
        clock=RealClock(),
        log=lambda name, **facts: kept.append((name, facts)),
    )


async def until(true: Callable[[], bool]) -> None:
    """Wait until a condition holds. The caller limits the time with `PATIENCE_S`."""
    while not true():
        await asyncio.sleep(0.005)


@contextmanager
def _logs() -> Iterator[list[str]]:
    """Collect everything that is logged, by any logger."""
    texts: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: texts.append(handler.format(record))  # type: ignore[method-assign]
    root = logging.getLogger()
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    try:
        yield texts
    finally:
        root.removeHandler(handler)
        root.setLevel(level)


def _belongings() -> set[object]:
    """The process's threads, open files and sockets."""
    gc.collect()
    return {*threading.enumerate(), *Path("/dev/fd").iterdir()}


def _nothing_left(before: set[object]) -> None:
    """Fail if anything stays open. Waits, because a thread may be about to end."""
    deadline_s = time.monotonic() + PATIENCE_S
    while left := _belongings() - before:
        if time.monotonic() > deadline_s:
            raise AssertionError(f"left open after close: {left}")
        time.sleep(_A_MOMENT_S)
