"""A source's poller with a turned clock and a real outbox: pacing, failures, ends, gaps, restarts."""

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from callcast.calls.freshness import Freshness
from callcast.calls.index import CallIndex
from callcast.calls.model import (
    CallEvent,
    CallObservation,
    ChangeSet,
    Direction,
    Disposition,
    Event,
    Known,
    Leg,
    Party,
    PollRecord,
    Provider,
    Reason,
    SourceEvent,
    State,
    Target,
)
from callcast.calls.tracker import Rules
from callcast.outbox.sqlite.store import SqliteOutbox, open_outbox
from callcast.polling.backfill import OBSERVATIONS_AT_ONCE, Backfill, whole_sessions
from callcast.polling.poller import ANSWER_WAIT_S, RECORDED_AT_ONCE, REFUSED_EVERY_S, SENT_AT_ONCE, SLOT_S, Poller
from callcast.polling.recorder import ChangeRecorder
from callcast.ports.outbox import OutboxUnavailable
from callcast.ports.telemetry import Telemetry
from callcast.ports.upstream import PollFailed
from tests.builders import NINE
from tests.clock import TurnedClock
from tests.outbox import busy
from tests.remote_side import ScriptedUpstream

NOTHING = Known(calls={}, polls={}, notes={})


class Notes(Telemetry):
    """Keeps what is reported."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.failures: list[Reason] = []
        self.missed = self.missed_reports = 0
        self.steps = 0
        self.twice: list[str] = []
        self.store_faults = 0
        self.store_fails = False
        self.watched: Sequence[str] | None = ()
        self.interval_s = 0.0

    def watching(self, extension_ids: Sequence[str] | None, interval_s: float) -> None:
        self.watched, self.interval_s = extension_ids, interval_s

    def watched_twice(self, extension_id: str) -> None:
        self.twice.append(extension_id)

    def paced(self, interval_s: float, promised_s: float) -> None:
        self.interval_s = interval_s

    def poll_failed(self, target: Target, error: PollFailed, took_s: float) -> None:
        self.failures.append(error.reason)

    def polls_missed(self, counts: Mapping[Target, int]) -> None:
        self.missed += sum(counts.values())
        self.missed_reports += 1

    def store_failed(self, error: OutboxUnavailable) -> None:
        self.store_faults += 1
        self.store_fails = True

    def store_recovered(self) -> None:
        self.store_fails = False

    def stepped(self, waiting: Mapping[Target, float] | None = None) -> None:
        self.steps += 1

    def lookup_failed(self, error: PollFailed) -> None:
        self.failures.append(error.reason)

    def change_recorded(self, change: ChangeSet) -> None:
        self.events += change.events


class Setup:
    """One source under test: remote side, clock, outbox and everything between."""

    def __init__(self, path: Path, clock: TurnedClock | None = None) -> None:
        self.path = path
        self.clock = clock or TurnedClock()
        self.upstream = ScriptedUpstream(self.clock)
        self.notes = Notes()
        self.events = self.notes.events
        self.rules = Rules()
        self.claim: Callable[[str], bool] = lambda _: True

    @asynccontextmanager
    async def polling(self, extensions: Sequence[str] | None = ("101",), **options: Any) -> AsyncIterator[SqliteOutbox]:
        async with open_outbox(self.path, self.clock, retention_h=72, outbox_max_mb=64, dead_letter_days=30) as outbox:
            self.clock.busy = busy(outbox)
            self.task = task = asyncio.create_task(
                self._poller(outbox, extensions, await outbox.known("acme"), **options).run()
            )
            await self.clock.settle()
            try:
                yield outbox
            finally:
                task.cancel()
                await asyncio.wait([task])
                self.clock.busy = lambda: False
                if not task.cancelled() and task.exception():
                    raise task.exception()  # type: ignore[misc]

    def _poller(self, outbox: SqliteOutbox, extensions: Sequence[str] | None, mine: Known, **options: Any) -> Poller:
        recorder = ChangeRecorder(CallIndex("acme", mine), outbox, self.rules, self.notes)
        backfill = Backfill(
            *(recorder, self.upstream, self.clock, self.notes),
            gaps=mine.notes.get("gaps"),
            refused=mine.notes.get("refused"),
        )
        return Poller(
            "acme",
            extensions,
            interval_s=options.pop("interval_s", None),
            upstream=self.upstream,
            recorder=recorder,
            backfill=backfill,
            freshness=Freshness("acme", mine.notes.get("freshness")),
            clock=self.clock,
            telemetry=self.notes,
            acquire=self.claim,
            **options,
        )

    @property
    def types(self) -> list[str]:
        return [event.type for event in self.events]

    def health(self) -> list[SourceEvent]:
        return [event for event in self.events if isinstance(event, SourceEvent)]

    def call_events(self) -> list[CallEvent]:
        return [event for event in self.events if isinstance(event, CallEvent)]


@pytest.fixture
def setup(tmp_path: Path) -> Setup:
    return Setup(tmp_path)


def observation(start: datetime, state: State = State.RINGING, **facts: Any) -> CallObservation:
    base: dict[str, Any] = {
        "extension_id": "101",
        "session_id": "s-1",
        "account_id": "9",
        "record_id": "r-1",
        "direction": Direction.INBOUND,
        "state": state,
        "from_party": Party(number="+15550100199"),
        "started_at": start,
        "legs": (Leg(kind="Accept", started_at=start, accepted=False),),
        "provider": Provider(name="ringcentral", record_id="r-1"),
    }
    return CallObservation(**(base | facts))


def over(start: datetime, lasted_s: float = 10, **facts: Any) -> CallObservation:
    ended = {"disposition": Disposition.MISSED, "ended_at": start + timedelta(seconds=lasted_s)}
    return observation(start, State.ENDED, **(ended | facts))


def failing(reason: Reason) -> Callable[[Target], PollFailed]:
    return lambda _: PollFailed(reason, "as the test says")


async def test_polls_lie_evenly_in_the_interval(setup: Setup) -> None:
    """Five extensions at one request a second: each is polled every five seconds, a second apart."""
    async with setup.polling([str(n) for n in range(5)]):
        await setup.clock.turn(20.5)
    assert [round(at) for at, _ in setup.upstream.polls] == list(range(21))
    assert [e for _, e in setup.upstream.polls][:10] == [*"01234", *"01234"]


async def test_a_configured_interval_is_kept_where_the_rate_limit_allows_it(setup: Setup) -> None:
    """Two extensions every ten seconds, five seconds apart, although the rate limit allows more."""
    async with setup.polling(["1", "2"], interval_s=10.0):
        await setup.clock.turn(30.5)
    assert [(round(at), e) for at, e in setup.upstream.polls] == [
        (0, "1"),
        (5, "2"),
        (10, "1"),
        (15, "2"),
        (20, "1"),
        (25, "2"),
        (30, "1"),
    ]


async def test_a_hanging_poll_delays_no_other_target_and_is_sent_once(setup: Setup) -> None:
    """While one extension's request hangs for 20 s, the other is polled on time; skipped polls are counted."""
    setup.upstream.took_s = lambda target: 20.0 if target.extension_id == "1" else 0.0
    async with setup.polling(["1", "2"]):
        await setup.clock.turn(24)
    slow = [at for at, e in setup.upstream.polls if e == "1"]
    other = [round(at) for at, e in setup.upstream.polls if e == "2"]
    assert slow == [0, 22]
    assert other == list(range(1, 24, 2))
    assert setup.notes.missed == 10


async def test_a_slow_poll_that_ends_early_for_the_schedule_wakes_it(setup: Setup) -> None:
    """While the only other target is not due for minutes, the answer of a slow poll wakes the schedule."""
    setup.upstream.spacing = 0.1
    setup.upstream.took_s = lambda target: 0.2 if target.extension_id == "1" else 0.0
    setup.upstream.list_of = lambda target: () if target.extension_id == "1" else PollFailed("permission", "no")
    async with setup.polling(["1", "2"], interval_s=0.3):
        await setup.clock.turn(30)
    gaps = [b[0] - a[0] for a, b in itertools.pairwise(poll for poll in setup.upstream.polls if poll[1] == "1")]
    assert max(gaps) <= 0.3 + SLOT_S
    assert setup.notes.missed == 0


async def test_polls_that_are_due_close_together_are_sent_together(setup: Setup) -> None:
    """A thousand a second are sent in some fifty batches, each target once a second, none later than a slot."""
    setup.upstream.spacing = 0.0
    async with setup.polling([str(n) for n in range(1000)], interval_s=1.0):
        await setup.clock.turn(10)
    assert len({at for at, _ in setup.upstream.polls}) <= 10 * 52
    assert setup.notes.missed == 0
    at = sorted((int(extension or 0), at) for at, extension in setup.upstream.polls)
    assert all(0 <= at - turn - n / 1000 <= SLOT_S + 1e-6 for turn, (n, at) in zip(itertools.cycle(range(10)), at))


@pytest.mark.parametrize(
    ("answers_after_s", "all_sent_in_s"), [(ANSWER_WAIT_S / 5, 3 * ANSWER_WAIT_S), (60.0, 10 * ANSWER_WAIT_S)]
)
async def test_few_of_many_due_polls_are_sent_together_and_slow_ones_delay_no_other(
    setup: Setup, answers_after_s: float, all_sent_in_s: float
) -> None:
    """Ten times as many as are sent together, whose answers come fast, or not at all."""
    under_way = [0]
    setup.upstream.spacing = 0.0

    def took_s(_: Target) -> float:
        under_way.append(under_way[-1] + 1)
        return answers_after_s

    def answer(_: Target) -> list[CallObservation]:
        under_way.append(under_way[-1] - 1)
        return []

    setup.upstream.took_s, setup.upstream.list_of = took_s, answer
    async with setup.polling([str(n) for n in range(10 * SENT_AT_ONCE)], interval_s=ANSWER_WAIT_S):
        await setup.clock.turn(SLOT_S + all_sent_in_s)
    assert {extension for _, extension in setup.upstream.polls} == {str(n) for n in range(10 * SENT_AT_ONCE)}
    assert max(under_way) == (SENT_AT_ONCE if answers_after_s < ANSWER_WAIT_S else 10 * SENT_AT_ONCE)


class EarlyClock(TurnedClock):
    """Wakes a little before the time, as timers of whole milliseconds do."""

    async def sleep(self, seconds: float, /) -> None:
        await super().sleep(max(0.0, seconds - 0.0005))


async def test_slow_polls_delay_no_other_when_timers_fire_early(tmp_path: Path) -> None:
    setup = Setup(tmp_path, EarlyClock())
    setup.upstream.spacing = 0.0
    setup.upstream.took_s = lambda _: 60.0
    async with setup.polling([str(n) for n in range(10 * SENT_AT_ONCE)], interval_s=ANSWER_WAIT_S):
        await setup.clock.turn(SLOT_S + 10 * ANSWER_WAIT_S)
    assert len(setup.upstream.polls) == 10 * SENT_AT_ONCE


async def test_skipped_polls_are_reported_once_a_second(setup: Setup) -> None:
    setup.upstream.spacing = 0.0
    setup.upstream.took_s = lambda _: 0.5
    async with setup.polling([str(n) for n in range(100)], interval_s=0.1):
        await setup.clock.turn(10)
    assert setup.notes.missed > 1000
    assert setup.notes.missed_reports <= 10


async def test_polls_may_be_due_at_the_same_moment(setup: Setup) -> None:
    """A poll is rescheduled to the time of a first one that is still to come: both are sent."""

    def answer(_: Target) -> list[CallObservation]:
        setup.upstream.spacing = 0.0  # the first answer says that there is no limit
        return []

    setup.upstream.list_of = answer
    async with setup.polling(["1", "2", "3", "4"], interval_s=1.0):
        await setup.clock.turn(3)
    assert [e for at, e in setup.upstream.polls if at == 1] == ["2", "1"]


async def test_no_poll_is_sent_during_a_penalty(setup: Setup) -> None:
    """The scheduler still reports every second that it runs."""
    setup.upstream.hold = 60
    async with setup.polling():
        await setup.clock.turn(10)
        assert setup.upstream.polls == []
        assert setup.notes.steps >= 10
        setup.upstream.hold = 0
        await setup.clock.turn(1)
        assert len(setup.upstream.polls) == 1


async def test_a_failed_poll_is_never_an_empty_list(setup: Setup) -> None:
    """A live call stays live through failures of every reason, and ends by what the next good poll shows."""
    start = setup.clock.now()
    reasons: list[Reason] = ["timeout", "auth", "rate_limited", "server", "parse", "network"]
    setup.upstream.list_of = lambda _: [observation(start)]
    async with setup.polling() as outbox:
        await setup.clock.turn(2)
        turns = itertools.cycle(reasons)
        setup.upstream.list_of = lambda _: PollFailed(next(turns), "as the test says")
        await setup.clock.turn(200)
        assert setup.types == ["call.ringing", "source.degraded"]
        assert len((await outbox.known("acme")).calls) == 1
        setup.upstream.list_of = lambda _: [over(start, 210)]
        await setup.clock.turn(40)
    assert setup.types == ["call.ringing", "source.degraded", "call.ended", "source.recovered"]
    assert set(setup.notes.failures) == set(reasons)


@pytest.mark.parametrize("reason", ["timeout", "server", "parse", "network"])
async def test_a_failed_poll_is_repeated_at_the_plans_pace(setup: Setup, reason: Reason) -> None:
    """Neither faster nor slower, however long it lasts; each target keeps its place in the interval."""
    setup.upstream.list_of = failing(reason)
    async with setup.polling(["1", "2", "3"], interval_s=6.0):
        await setup.clock.turn(599)
    assert [(round(at), e) for at, e in setup.upstream.polls] == [(2 * n, str(n % 3 + 1)) for n in range(300)]
    assert setup.notes.missed == 0


async def test_no_change_is_missed_when_every_other_answer_is_garbled(setup: Setup) -> None:
    """A state that lasts for two intervals is seen where every other answer can be read."""
    start, answers = setup.clock.now(), itertools.count()

    def answer(_: Target) -> Any:
        if next(answers) % 2:
            return PollFailed("parse", "garbled")
        number, age_s = divmod((setup.clock.now() - start).total_seconds(), 10)
        state = State.RINGING if age_s < 5 else State.CONNECTED
        began = start + timedelta(seconds=10 * number)
        return [observation(began, state, session_id=f"s-{number}", record_id=f"r-{number}")]

    setup.upstream.list_of = answer
    async with setup.polling(interval_s=2.0):
        await setup.clock.turn(270)
    assert setup.types.count("call.ringing") == setup.types.count("call.answered") == 27


@pytest.mark.parametrize(("reason", "wait_s"), [("auth", 300.0), ("server", 40.0)])
async def test_the_delay_that_the_platform_asks_for_is_kept(setup: Setup, reason: Reason, wait_s: float) -> None:
    """`Retry-After`, or a credential that was refused: not polled before, and in the plan again after it."""
    setup.upstream.list_of = lambda _: PollFailed(reason, "as the test says", retry_after_s=wait_s)
    async with setup.polling(["1", "2"], interval_s=6.0):
        await setup.clock.turn(10)
        setup.upstream.list_of = lambda _: ()
        await setup.clock.turn(wait_s + 10)
    for extension, first in (("1", 0.0), ("2", 3.0)):
        times = [at for at, e in setup.upstream.polls if e == extension]
        assert times[0] == first
        assert first + wait_s <= times[1] <= first + wait_s + 6
        assert (times[1] - first) % 6 == 0


async def test_a_refused_extension_is_degraded_alone_and_its_share_goes_to_the_others(setup: Setup) -> None:
    """403 for one of two: degraded at once, polled every five minutes, the other twice as often."""

    def answer(target: Target) -> Any:
        return PollFailed("permission", "no") if target.extension_id == "2" else ()

    setup.upstream.list_of = answer
    async with setup.polling(["1", "2"]):
        await setup.clock.turn(3)
        assert setup.types == ["source.degraded"]
        await setup.clock.turn(397)
    refused = [at for at, e in setup.upstream.polls if e == "2"]
    assert [round(b - a) for a, b in itertools.pairwise(refused)] == [REFUSED_EVERY_S]
    assert [(e.type, e.extension_id) for e in setup.events if not isinstance(e, CallEvent)] == [
        ("source.degraded", "2")
    ]
    assert setup.notes.interval_s == 1.0


async def test_a_call_that_vanishes_is_looked_up_and_ends_with_what_the_log_says(setup: Setup) -> None:
    """The log is read after call_log_after_s, not before; one end, evidence call_log."""
    start = setup.clock.now()
    setup.upstream.list_of = lambda _: [observation(start)]
    async with setup.polling():
        await setup.clock.turn(3)
        setup.upstream.list_of = lambda _: ()
        await setup.clock.turn(28)
        assert setup.upstream.log_reads == []
        setup.upstream.log = [over(start, 5, disposition=Disposition.VOICEMAIL)]
        await setup.clock.turn(5)
    assert setup.types == ["call.ringing", "call.ended"]
    ended = setup.call_events()[-1]
    assert (ended.call.disposition, ended.observation.evidence) == ("voicemail", "call_log")


async def test_a_call_that_is_no_longer_known_ends_as_unknown_in_time(setup: Setup) -> None:
    """The log is read with backoff, and given up after vanished_give_up_s, not a backoff later."""
    start = setup.clock.now()
    setup.upstream.list_of = lambda _: [observation(start)]
    async with setup.polling():
        await setup.clock.turn(3)
        setup.upstream.list_of = lambda _: ()
        await setup.clock.turn(890)
        assert setup.types == ["call.ringing"]
        await setup.clock.turn(20)
    assert setup.types == ["call.ringing", "call.ended"]
    ended = setup.call_events()[-1]
    assert (ended.call.disposition, ended.observation.evidence) == ("unknown", "vanished")
    assert len(setup.upstream.log_reads) <= 8


async def test_a_call_log_that_fails_does_not_keep_a_vanished_call_for_ever(setup: Setup) -> None:
    """Even when every lookup fails, the call ends as unknown."""
    start = setup.clock.now()
    setup.upstream.list_of = lambda _: [observation(start)]
    async with setup.polling():
        await setup.clock.turn(3)
        setup.upstream.list_of = lambda _: ()
        setup.upstream.log_answers = PollFailed("server", "no")
        await setup.clock.turn(910)
    assert setup.types == ["call.ringing", "call.ended"]


async def test_a_question_that_hangs_keeps_no_call_open_beyond_its_time(setup: Setup) -> None:
    """The call log may take for ever to answer: what vanished is given up all the same, and gaps are filled."""
    start = setup.clock.now()
    setup.upstream.list_of = lambda _: [observation(start)]
    setup.upstream.log_took_s = 1e6
    async with setup.polling():
        await setup.clock.turn(3)
        setup.upstream.list_of = lambda _: ()
        await setup.clock.turn(920)
    assert setup.types == ["call.ringing", "call.ended"]


@pytest.mark.parametrize("watched", [["101", "102"], None])
async def test_a_call_of_an_extension_that_is_refused_ends_as_unknown_in_time(
    setup: Setup, watched: Sequence[str] | None
) -> None:
    """403 or 404 while it is live: after vanished_give_up_s it ends, over restarts too, and the other one goes on."""
    start = setup.clock.now()
    live = observation(start)
    setup.upstream.list_of = lambda target: [live] if target.extension_id in ("101", None) else ()
    async with setup.polling(watched):
        await setup.clock.turn(3.5)
        setup.upstream.list_of = lambda target: PollFailed("permission", "no") if target.extension_id != "102" else ()
        await setup.clock.turn(400)
    await setup.clock.turn(60)
    async with setup.polling(watched):
        await setup.clock.turn(430)
        assert "call.ended" not in setup.types
        await setup.clock.turn(20)
    ended = setup.call_events()[-1]
    assert (ended.type, ended.call.disposition, ended.observation.evidence) == ("call.ended", "unknown", "refused")
    assert ended.observation.after is not None
    assert start < ended.observation.after <= ended.observation.before == ended.call.ended_at
    assert (ended.call.ended_at - start).total_seconds() < 10
    setup.upstream.list_of = lambda _: [live]
    async with setup.polling(watched):
        await setup.clock.turn(310)
        setup.upstream.list_of = lambda _: [over(start, 1200, disposition=Disposition.ANSWERED)]
        await setup.clock.turn(10)
    kinds = [event.type for event in setup.call_events()]
    assert kinds == ["call.ringing", "call.ended", "call.corrected"]
    assert setup.call_events()[-1].call.disposition == "answered"


async def test_a_refusal_that_does_not_last_ends_no_call(setup: Setup) -> None:
    """The permission was granted again in time."""
    start = setup.clock.now()
    setup.upstream.list_of = lambda _: [observation(start)]
    async with setup.polling():
        await setup.clock.turn(3)
        setup.upstream.list_of = failing("permission")
        await setup.clock.turn(650)
        setup.upstream.list_of = lambda _: [observation(start)]
        await setup.clock.turn(600)
    assert [event.type for event in setup.call_events()] == ["call.ringing"]


async def test_a_refusal_of_an_earlier_run_ends_no_call_before_the_platform_answers(setup: Setup) -> None:
    """Down for longer than a refused call is kept: the list shows it again, and its first answer takes a while."""
    start = setup.clock.now()
    live = observation(start, State.CONNECTED)
    setup.upstream.list_of = lambda _: [live]
    async with setup.polling():
        await setup.clock.turn(3)
        setup.upstream.list_of = failing("permission")
        await setup.clock.turn(10)
    await setup.clock.turn(1200)
    setup.upstream.list_of, setup.upstream.took_s = lambda _: [live], lambda _: 0.5
    async with setup.polling():
        await setup.clock.turn(60)
    assert [event.type for event in setup.call_events()] == ["call.answered"]


@pytest.mark.parametrize("reason", ["server", "timeout", "auth"])
async def test_one_refusal_before_other_trouble_ends_no_call(setup: Setup, reason: Reason) -> None:
    """A single 403, then failures that say nothing of the extension for longer than a refused call is kept."""
    start = setup.clock.now()
    setup.upstream.list_of = lambda _: [observation(start)]
    async with setup.polling():
        await setup.clock.turn(3)
        setup.upstream.list_of = failing("permission")
        await setup.clock.turn(2)
        setup.upstream.list_of = failing(reason)
        await setup.clock.turn(1300)
        setup.upstream.list_of = lambda _: [observation(start)]
        await setup.clock.turn(20)
    assert [event.type for event in setup.call_events()] == ["call.ringing"]


async def test_what_vanished_before_a_restart_is_not_given_up_before_a_good_poll(setup: Setup) -> None:
    """Down for longer than a vanished call is kept: it is back in the list, and its first answer takes a while."""
    start = setup.clock.now()
    setup.upstream.list_of = lambda _: [observation(start)]
    async with setup.polling():
        await setup.clock.turn(3)
        setup.upstream.list_of = lambda _: ()
        await setup.clock.turn(10)
    await setup.clock.turn(1200)
    setup.upstream.list_of, setup.upstream.took_s = lambda _: [observation(start)], lambda _: 3.5
    async with setup.polling():
        await setup.clock.turn(60)
    assert setup.types == ["call.ringing"]


async def test_a_provisional_call_is_asked_about_with_backoff_for_as_long_as_it_lasts(setup: Setup) -> None:
    """One that stays listed is never given up, and never looked up every second."""
    start = setup.clock.now()
    stopped = over(start, provisional=True, rings_alone=False)
    setup.upstream.list_of = lambda _: [stopped]
    async with setup.polling():
        await setup.clock.turn(1800)
    assert 6 <= len(setup.upstream.log_reads) <= 12


async def test_a_gap_is_put_off_when_the_disk_is_full(setup: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    """The call log is not read every second for what cannot be stored; later it is stored."""
    start = setup.clock.now()
    async with setup.polling():
        await setup.clock.turn(3)
    await setup.clock.turn(600)
    setup.upstream.log = [over(start + timedelta(seconds=300), 20)]
    async with setup.polling() as outbox:
        await setup.clock.turn(10)

        async def full(*_: object) -> None:
            raise OutboxUnavailable("the disk is full")

        monkeypatch.setattr(outbox, "record", full)
        await setup.clock.turn(60)
        assert len(setup.upstream.log_reads) <= 2
        monkeypatch.undo()
        await setup.clock.turn(130)
    assert setup.types == ["call.ended"]


async def test_a_gap_of_a_target_no_longer_watched_is_dropped(setup: Setup) -> None:
    """Its calls are no longer polled."""
    start = setup.clock.now()
    async with setup.polling(["101", "102"]):
        await setup.clock.turn(5)
    await setup.clock.turn(600)
    setup.upstream.log = [over(start + timedelta(seconds=300), 20, extension_id="102")]
    async with setup.polling(["101", "102"]):
        await setup.clock.turn(10)
    async with setup.polling(["101"]):
        await setup.clock.turn(100)
    assert setup.types == []


async def test_a_slow_cycle_reads_the_call_log_after_any_time_in_which_a_record_can_come_and_go(setup: Setup) -> None:
    """At 90 s between polls, one missed poll is a gap: three intervals are longer than a record is listed."""
    start = setup.clock.now()
    async with setup.polling(interval_s=90.0):
        await setup.clock.turn(95)
        setup.upstream.list_of = failing("server")
        await setup.clock.turn(90)
        setup.upstream.list_of = lambda _: ()
        setup.upstream.log = [over(start + timedelta(seconds=120), 20)]
        await setup.clock.turn(300)
    assert setup.types == ["call.ended"]


async def test_a_change_of_the_watched_targets_leaves_no_gap_unread(setup: Setup) -> None:
    """From extensions to the account and back: the last poll that covered a target counts, whatever read it."""
    start = setup.clock.now()
    async with setup.polling(["101"]):
        await setup.clock.turn(3)
    await setup.clock.turn(300)
    setup.upstream.log = [over(start + timedelta(seconds=100), 20)]
    async with setup.polling(None):
        await setup.clock.turn(100)
        assert setup.types == ["call.ended"]
    setup.upstream.log_reads.clear()
    async with setup.polling(["101"]):
        await setup.clock.turn(100)
    assert setup.upstream.log_reads == []


async def test_a_store_that_works_again_is_reported_although_no_poll_succeeds(
    setup: Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk is full while the platform denies access: what failed is stored later, and then nothing fails."""
    setup.upstream.list_of = failing("permission")
    full, note = True, SqliteOutbox.note

    async def noted(outbox: SqliteOutbox, source: str, name: str, value: bytes | None, /) -> None:
        if full and name == "refused":
            raise OutboxUnavailable("the disk is full")
        await note(outbox, source, name, value)

    monkeypatch.setattr(SqliteOutbox, "note", noted)
    async with setup.polling():
        await setup.clock.turn(5)
        assert setup.notes.store_fails
        full = False
        await setup.clock.turn(5)
        assert not setup.notes.store_fails


async def test_a_full_disk_does_not_degrade_a_source_whose_polls_succeed(
    setup: Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No source is degraded, the failure of the disk is reported, and the calls of that time are not lost."""
    start = setup.clock.now()
    async with setup.polling() as outbox:
        await setup.clock.turn(3)

        async def full(*_: object) -> None:
            raise OutboxUnavailable("the disk is full")

        monkeypatch.setattr(outbox, "record", full)
        setup.upstream.list_of = lambda _: [observation(start)]
        await setup.clock.turn(120)
        assert setup.types == []
        assert setup.notes.store_faults
        monkeypatch.undo()
        await setup.clock.turn(5)
    assert setup.types == ["call.ringing"]


async def test_an_outage_noted_but_not_recorded_before_a_kill_is_recorded_after_the_restart(
    setup: Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Under its own id, which the event of another outage never gets."""
    async with setup.polling(["101", "102"]) as outbox:
        await setup.clock.turn(3)
        setup.upstream.list_of = lambda target: PollFailed("permission", "no") if target.extension_id == "101" else ()

        async def dies(*_: object) -> None:
            raise OutboxUnavailable("killed here")

        monkeypatch.setattr(outbox, "record", dies)
        await setup.clock.turn(5)
        monkeypatch.undo()
        setup.upstream.hold = 1e6
    setup.upstream.hold = 0
    setup.upstream.list_of = lambda target: PollFailed("permission", "no") if target.extension_id == "102" else ()
    async with setup.polling(["101", "102"]):
        await setup.clock.turn(10)
    outages = [(e.type, e.extension_id) for e in setup.events if not isinstance(e, CallEvent)]
    assert outages == [("source.degraded", "101"), ("source.recovered", "101"), ("source.degraded", "102")]
    assert len({e.id for e in setup.events}) == 3


async def test_a_commit_in_progress_at_the_end_is_published_too(setup: Setup) -> None:
    """Cancelled while the outbox writes: what is on the disk is also in the live calls."""
    start = setup.clock.now()
    async with setup.polling() as outbox:
        await setup.clock.turn(3)
        setup.upstream.list_of = lambda _: [observation(start)]
        real = outbox.record

        async def slow(source: str, poll: Any, change: ChangeSet, /) -> None:
            setup.task.cancel()
            await asyncio.sleep(0)
            await real(source, poll, change)

        outbox.record = slow  # type: ignore[method-assign]
        await setup.clock.turn(2)
        outbox.record = real  # type: ignore[method-assign]
    async with open_outbox(setup.path, setup.clock, retention_h=72, outbox_max_mb=64, dead_letter_days=30) as outbox:
        assert len((await outbox.known("acme")).calls) == 1
    assert setup.types == ["call.ringing"]


async def test_a_bounded_number_of_polls_is_recorded_at_a_time(setup: Setup) -> None:
    """However many have something to record; those that hang take no place from them, and none is left out."""
    start, gate = setup.clock.now(), asyncio.Event()
    setup.upstream.spacing = 0.0
    hung = {str(n) for n in range(RECORDED_AT_ONCE + 4)}
    setup.upstream.took_s = lambda target: 3600.0 if target.extension_id in hung else 0.0
    setup.upstream.list_of = lambda t: [
        observation(start, extension_id=t.extension_id, session_id=f"s-{t.extension_id}")
    ]
    extensions = [str(n) for n in range(len(hung) + 2 * RECORDED_AT_ONCE)]
    under_way: list[str] = []
    async with setup.polling([]) as outbox:
        real = outbox.record

        async def slow(source: str, poll: Any, change: ChangeSet, /) -> None:
            under_way.append(poll.target.extension_id)
            await gate.wait()
            await real(source, poll, change)

        outbox.record = slow  # type: ignore[method-assign]
        poller = asyncio.create_task(setup._poller(outbox, extensions, NOTHING, interval_s=600.0).run())
        await setup.clock.turn(600)
        assert len(under_way) == RECORDED_AT_ONCE
        gate.set()
        await setup.clock.turn(1)
        assert {call.call.extension_id for call in setup.call_events()} == set(extensions) - hung
        poller.cancel()
        await asyncio.wait([poller])
        outbox.record = real  # type: ignore[method-assign]


async def test_a_glitch_of_the_list_is_no_event_and_drops_the_lookup(setup: Setup) -> None:
    """A call that is back in the list was never gone."""
    start = setup.clock.now()
    setup.upstream.list_of = lambda _: [observation(start)]
    async with setup.polling():
        await setup.clock.turn(3)
        setup.upstream.list_of = lambda _: ()
        await setup.clock.turn(10)
        setup.upstream.list_of = lambda _: [observation(start)]
        await setup.clock.turn(60)
    assert setup.types == ["call.ringing"]
    assert setup.upstream.log_reads == []


async def test_after_downtime_what_was_missed_comes_from_the_call_log_once(setup: Setup) -> None:
    """Live calls end, calls that came and went are emitted without a late ringing, and a second start emits nothing."""
    start = setup.clock.now()
    setup.upstream.list_of = lambda _: [observation(start)]
    async with setup.polling():
        await setup.clock.turn(3)
    await setup.clock.turn(600)
    missed = start + timedelta(seconds=300)
    setup.upstream.log = [
        over(start, 60),
        over(missed, 20, session_id="s-2", record_id="r-2", disposition=Disposition.ANSWERED),
        over(start - timedelta(seconds=900), 20, session_id="s-0", record_id="r-0"),
    ]
    setup.upstream.list_of = lambda _: ()
    async with setup.polling():
        await setup.clock.turn(70)
    assert sorted((e.type, e.call.session_id, e.observation.evidence) for e in setup.call_events()[1:]) == [
        ("call.ended", "s-1", "call_log"),
        ("call.ended", "s-2", "call_log"),
    ]
    emitted = len(setup.events)
    async with setup.polling():
        await setup.clock.turn(70)
    assert len(setup.events) == emitted


@pytest.mark.parametrize("log_is_down_s", [0, 7200])
async def test_a_stop_longer_than_the_retention_ends_no_call_twice(setup: Setup, log_is_down_s: float) -> None:
    """A call that ended just before is remembered until the call log was read for the gap, however late."""
    start = setup.clock.now()
    setup.upstream.list_of = lambda _: [observation(start)]
    async with setup.polling():
        await setup.clock.turn(3)
        setup.upstream.list_of = lambda _: [over(start, 4)]
        await setup.clock.turn(3)
    setup.upstream.list_of = lambda _: ()
    setup.upstream.log = [over(start, 4)]
    await setup.clock.turn(80 * 3600)
    setup.upstream.log_answers = PollFailed("server", "as the test says") if log_is_down_s else None
    async with setup.polling(interval_s=60.0) as outbox:
        for _ in range(10):
            assert (await outbox.prune(setup.clock.now())).calls == 0
            await setup.clock.turn(1 + log_is_down_s / 10)
        setup.upstream.log_answers = None
        await setup.clock.turn(360)
        assert setup.types == ["call.ringing", "call.ended"]
        await setup.clock.turn(3700)
        later = setup.clock.now() + timedelta(hours=73)
        polled = PollRecord(target=Target(source="acme", extension_id="101"), taken_at=later)
        await outbox.record("acme", polled, ChangeSet())  # ages are counted by the last poll
        assert (await outbox.prune(later)).calls == 1


async def test_a_gap_is_filled_even_when_the_service_dies_before_it_was(setup: Setup) -> None:
    """The gap is kept before the poll that would hide it."""
    start = setup.clock.now()
    async with setup.polling():
        await setup.clock.turn(3)
    await setup.clock.turn(600)
    setup.upstream.log = [over(start + timedelta(seconds=300), 20)]
    async with setup.polling():
        await setup.clock.turn(5)
        assert setup.types == []
    async with setup.polling():
        await setup.clock.turn(70)
    assert setup.types == ["call.ended"]


async def test_a_call_log_that_fails_is_asked_about_a_gap_again_but_not_at_once(setup: Setup) -> None:
    """With backoff, for as long as it takes; then what was missed is emitted."""
    start = setup.clock.now()
    async with setup.polling():
        await setup.clock.turn(3)
    await setup.clock.turn(600)
    setup.upstream.log_answers = PollFailed("server", "no")
    async with setup.polling():
        await setup.clock.turn(1000)
        assert 4 <= len(setup.upstream.log_reads) <= 8
        setup.upstream.log_answers = None
        setup.upstream.log = [over(start + timedelta(seconds=300), 20)]
        await setup.clock.turn(310)
    assert setup.types == ["call.ended"]


async def test_every_gap_of_a_source_that_fails_again_and_again_is_filled(setup: Setup) -> None:
    """Every third poll fails for an hour: no blind time puts off the question about an earlier one for ever, and
    there is one question in 30 s at most.
    """
    start, answers = setup.clock.now(), itertools.count()
    setup.upstream.list_of = lambda _: PollFailed("parse", "garbled") if next(answers) % 3 else ()
    async with setup.polling(interval_s=6.0):
        for minute in range(1, 60):
            began = start + timedelta(seconds=60 * minute)
            setup.upstream.log.append(over(began, 20, session_id=f"s-{minute}", record_id=f"r-{minute}"))
            await setup.clock.turn(60)
        await setup.clock.turn(90)
    assert setup.types.count("call.ended") == 59
    log_reads = [at for _, at in setup.upstream.log_reads]
    assert len(log_reads) <= 3690 / 30


@pytest.mark.parametrize(("down_s", "log_reads"), [(4.0, False), (12.0, True), (29.0, True)])
async def test_the_call_log_is_read_after_a_short_downtime(setup: Setup, down_s: float, log_reads: bool) -> None:
    """A call that began and ended meanwhile, and that the list dropped at once: looked up when the last good poll
    is more than an interval and 5 s ago.
    """
    async with setup.polling(interval_s=6.0):
        await setup.clock.turn(6.5)
    began = setup.clock.now()
    await setup.clock.turn(down_s)
    setup.upstream.log = [over(began, down_s)]
    async with setup.polling(interval_s=6.0):
        await setup.clock.turn(40)
    assert bool(setup.upstream.log_reads) == log_reads
    assert setup.types == (["call.ended"] if log_reads else [])


async def test_a_shorter_interval_is_no_gap(setup: Setup) -> None:
    """The platform allows more: the first poll at the new pace comes an old interval after the last one."""
    setup.upstream.spacing = 20.0
    async with setup.polling(["1", "2"]):
        await setup.clock.turn(50)
        setup.upstream.spacing = 1.0
        await setup.clock.turn(100)
        setup.upstream.spacing = 20.0
        await setup.clock.turn(100)
    assert setup.upstream.log_reads == []


async def test_a_recovered_source_reports_its_outage_and_fills_the_gap(setup: Setup) -> None:
    """Blind for minutes without a restart: degraded, recovered, and the call of that time from the log."""
    start = setup.clock.now()
    async with setup.polling():
        await setup.clock.turn(5)
        setup.upstream.list_of = failing("network")
        await setup.clock.turn(300)
        setup.upstream.list_of = lambda _: ()
        setup.upstream.log = [over(start + timedelta(seconds=100), 20)]
        await setup.clock.turn(80)
    assert setup.types == ["source.degraded", "source.recovered", "call.ended"]


async def test_the_own_extension_is_requested_until_the_platform_answers(setup: Setup) -> None:
    """`~` becomes a number before the first poll."""
    setup.upstream.own = PollFailed("auth", "wrong secret")
    async with setup.polling(["~"]):
        await setup.clock.turn(20)
        assert setup.upstream.polls == []
        assert "auth" in setup.notes.failures
        setup.upstream.own = "77"
        await setup.clock.turn(40)
    assert {e for _, e in setup.upstream.polls} == {"77"}


@pytest.mark.parametrize("hangs", [False, True])
async def test_a_credential_that_is_refused_from_the_start_degrades_its_source(setup: Setup, hangs: bool) -> None:
    """Before `~` is resolved; the answer may also not come at all. Emitted once, also over a restart."""
    setup.upstream.own = PollFailed("auth", "wrong secret")
    setup.upstream.own_took_s = 1e6 if hangs else 0.0
    async with setup.polling(["~", "102"], interval_s=6.0):
        await setup.clock.turn(29)
        assert setup.types == []
        await setup.clock.turn(3)
        [degraded] = setup.health()
        assert (degraded.type, degraded.extension_id) == ("source.degraded", None)
        assert degraded.reason == ("timeout" if hangs else "auth")
        assert setup.notes.steps >= 30
    async with setup.polling(["~", "102"], interval_s=6.0):
        await setup.clock.turn(60)
        setup.upstream.own, setup.upstream.own_took_s = "101", 0.0
        setup.upstream.list_of = lambda _: PollFailed("server", "no")
        if not hangs:
            await setup.clock.turn(60)
            assert setup.types == ["source.degraded"]
            setup.upstream.list_of = lambda _: ()
            await setup.clock.turn(20)
    assert setup.types == ["source.degraded", *([] if hangs else ["source.recovered"])]


async def test_an_extension_that_was_degraded_stays_so_while_the_credential_is_refused(setup: Setup) -> None:
    """Its outage is emitted once, and ends, although it takes a while after a restart to resolve `~`."""
    setup.upstream.list_of = lambda t: PollFailed("permission", "no") if t.extension_id == "102" else ()
    async with setup.polling(["~", "102"]):
        await setup.clock.turn(10)
    setup.upstream.own = PollFailed("network", "no")
    async with setup.polling(["~", "102"]):
        await setup.clock.turn(10)
        setup.upstream.own = "101"
        await setup.clock.turn(20)
        setup.upstream.list_of = lambda _: ()
        await setup.clock.turn(310)
    assert [(e.type, e.extension_id) for e in setup.health()] == [
        ("source.degraded", "102"),
        ("source.recovered", "102"),
    ]


async def test_the_scheduler_is_alive_while_a_source_waits_to_sign_in(setup: Setup) -> None:
    """Minutes in the queue of an application's sign-ins: the supervisor must not take it for stuck."""
    setup.upstream.own, setup.upstream.own_took_s, setup.upstream.ahead = "77", 200, 1
    async with setup.polling(["~"]):
        for _ in range(190):
            before = setup.notes.steps
            await setup.clock.turn(1)
            assert setup.notes.steps > before
        assert setup.upstream.polls == []
        assert setup.types == []
        setup.upstream.ahead = None
        await setup.clock.turn(11)
    assert {e for _, e in setup.upstream.polls} == {"77"}


async def test_a_source_that_only_waits_for_its_place_to_sign_in_is_not_degraded(setup: Setup) -> None:
    """However long; once it does not wait any more, 30 s without a good poll are 30 s."""
    setup.upstream.list_of, setup.upstream.ahead = failing("auth"), 3
    async with setup.polling():
        await setup.clock.turn(300)
        assert setup.types == []
        setup.upstream.ahead = None
        await setup.clock.turn(28)
        assert setup.types == []
        await setup.clock.turn(5)
        assert setup.types == ["source.degraded"]


async def test_waiting_behind_a_hanging_sign_in_degrades_the_source(setup: Setup) -> None:
    """What counts is when that one began: after 30 s the source is degraded, since then."""
    setup.upstream.own, setup.upstream.own_took_s, setup.upstream.ahead = "77", 1e6, 1
    async with setup.polling(["~"]):
        await setup.clock.turn(20)
        since = setup.clock.now()
        setup.upstream.sign_in_hangs_since = setup.clock.monotonic()
        await setup.clock.turn(29)
        assert setup.types == []
        await setup.clock.turn(3)
    [degraded] = setup.health()
    assert degraded.type == "source.degraded"
    assert abs((degraded.since - since).total_seconds()) <= 1


async def test_a_restart_repeats_neither_an_outage_nor_an_end_that_is_still_listed(setup: Setup) -> None:
    """The degraded source and the ended call that is still listed are known after a restart."""
    start = setup.clock.now()
    setup.upstream.list_of = lambda _: [observation(start)]
    async with setup.polling():
        await setup.clock.turn(2)
        setup.upstream.list_of = lambda _: [over(start)]
        await setup.clock.turn(2)
    async with setup.polling():
        await setup.clock.turn(5)
        setup.upstream.list_of = failing("network")
        await setup.clock.turn(60)
    emitted = ["call.ringing", "call.ended", "source.degraded"]
    assert setup.types == emitted
    async with setup.polling():
        await setup.clock.turn(60)
        setup.upstream.list_of = lambda _: [over(start)]
        await setup.clock.turn(60)
    assert setup.types == [*emitted, "source.recovered"]


async def test_a_source_without_extensions_of_its_own_sends_no_request(setup: Setup) -> None:
    """Every extension is watched by another source: no poll, nothing degraded, and its scheduler is alive."""
    setup.claim = lambda _: False
    async with setup.polling(["1", "2"]):
        await setup.clock.turn(120)
        assert setup.notes.steps >= 100
    assert setup.upstream.polls == []
    assert setup.events == []
    assert setup.notes.twice == ["1", "2"]
    assert setup.notes.watched == []


async def test_when_every_extension_is_refused_the_source_is_degraded_as_a_whole(setup: Setup) -> None:
    """403 on all, one after another: each is tried every five minutes, and when they are shown again all is well."""
    setup.upstream.list_of = failing("permission")
    async with setup.polling(["1", "2", "3"]):
        await setup.clock.turn(890)
        assert [(e.type, e.extension_id) for e in setup.health()] == [
            ("source.degraded", "1"),
            ("source.degraded", "2"),
            ("source.degraded", None),
        ]
        assert len(setup.upstream.polls) == 3 * 3
        setup.upstream.list_of = lambda _: ()
        await setup.clock.turn(330)
    last = {e.extension_id: e.type for e in setup.health()}
    assert last.keys() >= {"1", "2", None}
    assert set(last.values()) == {"source.recovered"}
    assert setup.notes.interval_s == 3.0


async def test_an_extension_that_another_source_watches_is_not_polled(setup: Setup) -> None:
    """The later source reports that, and polls the rest."""
    setup.claim = lambda extension_id: extension_id != "2"
    async with setup.polling(["1", "2"]):
        await setup.clock.turn(3)
    assert {e for _, e in setup.upstream.polls} == {"1"}
    assert setup.notes.twice == ["2"]


async def test_the_upstream_learns_which_targets_are_polled(setup: Setup) -> None:
    """A reload that removes a target builds a new poller on the same client, which must forget that target."""
    setup.claim = lambda extension_id: extension_id != "2"
    async with setup.polling(["1", "2", "3"]):
        assert [t.extension_id for t in setup.upstream.watched] == ["1", "3"]
    async with setup.polling(["3"]):
        assert [t.extension_id for t in setup.upstream.watched] == ["3"]


async def test_calls_of_an_extension_no_longer_watched_end_as_unwatched(setup: Setup) -> None:
    """A restart with another list of extensions leaves no call open for ever."""
    start = setup.clock.now()
    setup.upstream.list_of = lambda target: [observation(start)] if target.extension_id == "101" else ()
    async with setup.polling(["101", "102"]):
        await setup.clock.turn(3)
    async with setup.polling(["102"]):
        await setup.clock.turn(3)
    ended = setup.call_events()[-1]
    assert (ended.type, ended.call.disposition, ended.observation.evidence) == ("call.ended", "unknown", "unwatched")


async def test_the_last_poll_is_stored_every_20_s_and_on_a_clean_stop(setup: Setup) -> None:
    """Polls without changes are not stored one by one, and the last one is."""
    async with setup.polling() as outbox:
        await setup.clock.turn(15)
        kept = (await outbox.known("acme")).polls[Target(source="acme", extension_id="101")]
        assert kept < setup.clock.now() - timedelta(seconds=10)
        await setup.clock.turn(10)
        kept = (await outbox.known("acme")).polls[Target(source="acme", extension_id="101")]
        assert kept > setup.clock.now() - timedelta(seconds=10)
        last = setup.upstream.polls[-1][0]
    async with open_outbox(setup.path, setup.clock, retention_h=72, outbox_max_mb=64, dead_letter_days=30) as outbox:
        kept = (await outbox.known("acme")).polls[Target(source="acme", extension_id="101")]
    assert kept == setup.clock._start + timedelta(seconds=last)


def test_a_long_call_log_is_compared_in_slices_of_whole_sessions() -> None:
    """No observation is lost or doubled, no session torn apart, and no slice is much longer than it may be."""
    sessions = [f"s-{n % 300}" for n in range(700)]
    found = [over(NINE, session_id=session, record_id=f"r-{n}") for n, session in enumerate(sessions)]
    parts = list(whole_sessions(found))
    assert sorted(s.record_id for part in parts for s in part) == sorted(s.record_id for s in found)
    assert all(len(part) < OBSERVATIONS_AT_ONCE + 3 for part in parts)
    seen = [{s.session_id for s in part} for part in parts]
    assert sum(map(len, seen)) == len(set(sessions))
    assert list(whole_sessions([])) == []
