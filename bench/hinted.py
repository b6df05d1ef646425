"""Detection with hints, in turned time: calls, a list that is late, push, presence, a rate limit, the real scheduler.

An event-driven simulation of one credential. Calls happen; the list shows them late (starts and answers 0.5-1 s, ends
3-10 s); push announces them after 0.1-0.2 s, and may lose, double and delay; presence is read every 5 s. Only the
network is a model: the scheduler and the rate windows are those of the service.
"""

import heapq
import math
import statistics
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from random import Random
from typing import Any

import msgspec

from callcast.calls.model import CallObservation, Direction, Disposition, Provider, Snapshot, State, Target
from callcast.polling.scheduler import Poll, Scheduler
from callcast.ports.hints import STEPS, Hint, HintsChange, Report, Step, Via
from callcast.ports.telemetry import Telemetry
from callcast.ringcentral.rate_limiter import RateLimiter, Slot

ANSWER_S = 0.2
LISTED_S = 120.0
PRESENCE_S = 5.0
REVIEW_S = 3.0
EPOCH = datetime(2026, 3, 2, tzinfo=UTC)
HOUR = 3600.0
QUIET_S = 700.0


class SimulatedCall:
    """One extension's part. `happened`: when each step did; `listed`: when the list shows it."""

    def __init__(self, target: int, name: str, started: float, answered: float | None, ended: float, r: Random) -> None:
        self.target = target
        self.name = name
        self.session_id = name
        self.extension_id = str(target)
        self.happened: tuple[float, float | None, float] = (started, answered, ended)
        listed_start = started + r.uniform(0.5, 1)
        listed_answer = None if answered is None else max(listed_start, answered + r.uniform(0.5, 1))
        self.listed = (listed_start, listed_answer, max(listed_answer or listed_start, ended + r.uniform(3, 10)))
        self.seen: list[float | None] = [None, None, None]
        self._shown: dict[int, CallObservation] = {}

    def level(self, at: float, times: Sequence[float | None]) -> int:
        return max((n for n, one in enumerate(times, 1) if one is not None and one <= at), default=0)

    def note(self, level: int, now: float) -> None:
        """A poll shows it. Ringing counts only while the list shows it ringing."""
        for n, reached in enumerate((level == 1, level >= 2, level == 3)):
            if reached and self.seen[n] is None:
                self.seen[n] = now

    def observation(self, level: int) -> CallObservation:
        if level not in self._shown:
            answered = self.happened[1] is not None
            self._shown[level] = CallObservation(
                extension_id=self.extension_id,
                session_id=self.session_id,
                account_id="9",
                record_id=self.name,
                direction=Direction.INBOUND,
                state=(State.RINGING, State.CONNECTED, State.ENDED)[level - 1],
                disposition=None if level < 3 else Disposition.ANSWERED if answered else Disposition.MISSED,
                started_at=EPOCH + timedelta(seconds=self.happened[0]),
                provider=Provider(name="model", record_id=self.name),
            )
        return self._shown[level]


class Scenario(msgspec.Struct, frozen=True, kw_only=True):
    """targets 0: the account. pause_s: between two calls of a target; of the account: between two starts of calls.

    lost, doubled, late: shares of the pushed hints. mute: targets that neither push nor presence announces anything of.
    phantoms: hints per hour of calls that no list ever shows. storm: a target that rings 30 times a minute.
    groups: calls per hour that ring every target. neighbour: requests per minute of another program, evenly.
    more: windows of the platform that it has not announced before it refuses a request.
    """

    name: str
    targets: int = 1
    pause_s: float = 450.0
    presence: bool = False
    lost: float = 0.0
    doubled: float = 0.05
    late: float = 0.02
    mute: tuple[int, ...] = ()
    phantoms: float = 0.0
    storm: int | None = None
    groups: float = 0.0
    neighbour: float = 0.0
    more: tuple[tuple[int, float], ...] = ()


class Outcome(msgspec.Struct):
    calls: list[Any]
    polls: int
    minutes: float
    refused: int
    longest_gap_s: float
    offsets: tuple[float, float]


class Platform:
    """10 requests in 60 s, of all programs together, and further windows; a request too many starts a penalty of 60 s.

    Answers announce the 60 s. A refusal announces the window that was full, and later answers all, one after another.
    """

    def __init__(self, more: Sequence[tuple[int, float]] = ()) -> None:
        self.windows = [(10, 60.0), *more]
        self.arrived: deque[float] = deque()
        self.announced = self.windows[:1]
        self.penalty_until = -math.inf
        self.refused = 0

    def ask(self, now: float, *, ours: bool = True) -> tuple[int, dict[str, str]]:
        while self.arrived and self.arrived[0] <= now - 60:
            self.arrived.popleft()
        full = [(limit, length_s) for limit, length_s in self.windows if self._used(now, length_s) >= limit]
        if now < self.penalty_until or full:
            self.penalty_until = now + 60
            self.refused += ours
            self.announced = self.windows
            return 429, {"Retry-After": "60", **self._headers(now, *(full or self.windows)[-1])}
        self.arrived.append(now)
        return 200, self._headers(now, *self.announced[len(self.arrived) % len(self.announced)])

    def _used(self, now: float, length_s: float) -> int:
        return sum(at > now - length_s for at in self.arrived)

    def _headers(self, now: float, limit: int, length_s: float) -> dict[str, str]:
        return {
            "X-Rate-Limit-Group": "heavy",
            "X-Rate-Limit-Limit": str(limit),
            "X-Rate-Limit-Remaining": str(limit - self._used(now, length_s)),
            "X-Rate-Limit-Window": str(math.ceil(length_s)),
        }


def _calls(scenario: Scenario, end: float, r: Random) -> Iterator[SimulatedCall]:
    """The calls of all targets, by their start. The last minutes have none, so that each is over and polled."""
    calls: list[SimulatedCall] = []
    for target in range(max(1, scenario.targets)):
        calls += _storm(target, end, r) if target == scenario.storm else _calls_of(target, scenario, end, r)
    if scenario.groups:
        calls += _group_calls(scenario, end, r)
    yield from sorted((call for call in calls if call.happened[2] < end - QUIET_S), key=lambda call: call.happened[0])


def _storm(target: int, end: float, r: Random) -> Iterator[SimulatedCall]:
    for n in range(int(end / 2)):
        yield SimulatedCall(target, f"storm-{n}", 2.0 * n, None, 2.0 * n + 1, r)


def _calls_of(target: int, scenario: Scenario, end: float, r: Random) -> Iterator[SimulatedCall]:
    """Those of an extension, one after the other; or those of the account, which may overlap."""
    at = 0.0
    while at < end:
        at += r.expovariate(1 / scenario.pause_s)
        answered, ended = _course(at, r)
        yield SimulatedCall(target, f"{target}-{at}", at, answered, ended, r)
        if scenario.targets:
            at = ended


def _group_calls(scenario: Scenario, end: float, r: Random) -> Iterator[SimulatedCall]:
    """Each rings every extension, until one answers or the caller hangs up."""
    at = 0.0
    while at < end:
        at += r.expovariate(scenario.groups / HOUR)
        (answered, ended), by = _course(at, r), r.randrange(scenario.targets)
        for target in range(scenario.targets):
            answers = target == by and answered is not None
            stops = ended if answers or answered is None else answered
            call = SimulatedCall(target, f"group-{target}-{at}", at, answered if answers else None, stops, r)
            call.session_id = f"group-{at}"
            yield call


def _course(start: float, r: Random) -> tuple[float | None, float]:
    """Rings 3-18 s; four of five are answered, and last 81 s in the median."""
    over = start + r.uniform(3, 18)
    if r.random() < 0.8:
        return over, over + r.lognormvariate(math.log(81), 1.0)
    return None, over


class _Coverage:
    """Implements Hints for a connection that is always up."""

    def __init__(self, scenario: Scenario) -> None:
        self._witnessed_since = 0.0 if scenario.presence else None

    async def run(self, _targets: Sequence[Target], _report: Report, /) -> None: ...

    def covers(self, _target: Target, /) -> bool:
        return True

    def witnessed_since(self, _target: Target, /) -> float | None:
        return self._witnessed_since


class Simulation:
    """One run. Implements Clock as far as the limiter needs it."""

    def __init__(self, scenario: Scenario, hours: float, seed: int, *, hinted: bool) -> None:
        self.scenario = scenario
        self.end = hours * HOUR
        self.random = Random(seed)
        self.hinted = hinted
        self.now = 0.0
        self.order = 0
        self.events: list[tuple[float, int, Callable[[], None]]] = []
        n = max(1, scenario.targets)
        ids = [str(i) for i in range(n)] if scenario.targets else [None]
        self.targets = [Target(source="acme", extension_id=one) for one in ids]
        self.number = {target: n for n, target in enumerate(self.targets)}
        self.calls = list(_calls(scenario, self.end, Random(self.random.random())))
        self.limiter = RateLimiter("heavy", per_minute=10, headroom=0.8, clock=self, now=self.wall)
        self.platform = Platform(scenario.more)
        self.scheduler = Scheduler(
            self.targets, interval_s=None, hints=_Coverage(scenario) if hinted else None, telemetry=Telemetry()
        )
        self.in_list: list[deque[SimulatedCall]] = [deque() for _ in range(n)]
        self.unread: list[tuple[SimulatedCall, Step]] = []  # what presence shows since it was read
        self.polls = 0
        self.last_poll = [0.0] * n
        self.longest_gap = 0.0
        self.wake_at = math.inf
        self.stirred = True
        self.offsets = [math.inf, 0.0]

    # The clock

    def monotonic(self) -> float:
        return self.now

    def wall(self) -> datetime:
        return EPOCH + timedelta(seconds=self.now)

    # The world

    def at(self, when: float, action: Callable[[], None]) -> None:
        self.order += 1
        heapq.heappush(self.events, (when, self.order, action))

    def _announce(self) -> None:
        s, r = self.scenario, Random(self.random.random())
        for call in self.calls:
            self.at(call.listed[0], partial(self.in_list[call.target].append, call))
            if not self.hinted or call.target in s.mute:
                continue
            for step, happened in zip(STEPS, call.happened, strict=True):
                if happened is None:
                    continue
                if s.presence:
                    self.at(happened, partial(self.unread.append, (call, step)))
                if r.random() < s.lost:
                    continue
                for _ in range(1 + (r.random() < s.doubled)):
                    delay = r.uniform(1, 5) if r.random() < s.late else r.uniform(0.1, 0.2)
                    self.at(happened + delay, partial(self._hint, call, step, "push"))
        at = 0.0
        while self.hinted and s.phantoms and at < self.end:
            at += r.expovariate(s.phantoms / HOUR)
            phantom = SimulatedCall(r.randrange(max(1, s.targets)), f"phantom-{at}", at, None, at + 5, r)
            self.at(at, partial(self._hint, phantom, "started", "push"))

    def _hint(self, call: SimulatedCall, step: Step, via: Via) -> None:
        self.stirred = True
        self.scheduler.hint(
            Hint(
                target=self.targets[call.target],
                session_id=call.session_id,
                party_id=call.name,
                extension_id=call.extension_id,
                step=step,
                via=via,
                at=self.now,
            )
        )

    def _read_presence(self) -> None:
        """What has changed until 0.1 s after the request is known 0.1 s later. Steps between two readings are one; of
        a call that began and ended between them nothing is seen.
        """
        self.at(self.now + 0.1, self._answer_presence)
        self.at(self.now + PRESENCE_S, self._read_presence)

    def _answer_presence(self) -> None:
        steps: dict[str, list[tuple[SimulatedCall, Step]]] = {}
        for call, step in self.unread:
            steps.setdefault(call.name, []).append((call, step))
        self.unread.clear()
        for of_call in steps.values():
            if not (of_call[0][1] == "started" and of_call[-1][1] == "ended"):
                self.at(self.now + 0.1, partial(self._hint, *of_call[-1], "presence"))

    # The run

    def run(self) -> Outcome:
        self._announce()
        self.scheduler.start(0.0, self.limiter.places().spacing_s)
        if self.hinted:
            self._connect("push")
            self.at(1.0, self._review)
        if self.hinted and self.scenario.presence:
            self._connect("presence")
            self.at(0.0, self._read_presence)
        if self.scenario.neighbour:
            every = 60 / self.scenario.neighbour
            self.platform.arrived.extend(-every * n for n in range(int(self.scenario.neighbour) - 1, 0, -1))
            self.at(0.0, self._neighbour)
        self._schedule()
        while self.events:
            when, _, action = heapq.heappop(self.events)
            if when > self.end:
                break
            self.now = when
            action()
            if self.stirred:
                self.stirred = False
                self._schedule()
        return Outcome(
            self.calls,
            self.polls,
            self.end / 60,
            self.platform.refused,
            self.longest_gap,
            (self.offsets[0], self.offsets[1]),
        )

    def _connect(self, via: Via) -> None:
        self.scheduler.change(HintsChange(via=via, state="up", at=self.now), self.limiter.places())

    def _review(self) -> None:
        self.scheduler.review(self.now, self.limiter.places())
        starts = [self.scheduler.offsets[1], self.scheduler.offsets[2]]
        self.offsets = [min(self.offsets[0], *starts), max(self.offsets[1], *starts)]
        self.at(self.now + REVIEW_S, self._review)

    def _neighbour(self) -> None:
        status, _ = self.platform.ask(self.now, ours=False)
        self.at(self.now + (61 if status == 429 else 60 / self.scenario.neighbour), self._neighbour)

    def _schedule(self) -> None:
        while True:
            found = self.scheduler.next(self.now, self.limiter.places(), self.limiter.hold_s())
            if not isinstance(found, Poll):
                break
            self._send(found)
        at = self.now + max(found, 0.001)
        if at < self.wake_at or self.wake_at <= self.now:
            self.wake_at = at
            self.at(at, self._stir)

    def _stir(self) -> None:
        self.stirred = True

    def _send(self, poll: Poll) -> None:
        slot = self.limiter.acquire("poll" if poll.paced else "hint", str(poll.target.extension_id))
        self._begin(slot, poll)

    def _begin(self, slot: Slot, poll: Poll) -> None:
        if not self.limiter.begun_at_once(slot):
            wait_s = min(max(self.limiter.wait_s(slot.purpose), 0.01), 0.3)
            self.at(self.now + wait_s, partial(self._begin, slot, poll))
            return
        self.polls += 1
        self.at(self.now + ANSWER_S / 2, partial(self._arrive, poll, slot))

    def _arrive(self, poll: Poll, slot: Slot) -> None:
        status, headers = self.platform.ask(self.now)
        n = self.number[poll.target]
        shown = None
        if status == 200:
            listed = self.in_list[n]
            while listed and listed[0].listed[2] + LISTED_S < self.now:
                listed.popleft()
            shown = [(c, c.level(self.now, c.listed)) for c in listed if c.listed[2] + LISTED_S >= self.now]
        self.at(self.now + ANSWER_S / 2, partial(self._answer, poll, slot, status, headers, shown))

    def _answer(
        self,
        poll: Poll,
        slot: Slot,
        status: int,
        headers: dict[str, str],
        shown: list[tuple[SimulatedCall, int]] | None,
    ) -> None:
        self.stirred = True
        slot.answered(status, headers)
        self.limiter.end(slot)
        if shown is None:
            self.scheduler.failed(poll, self.now)
            self.scheduler.reschedule(poll, self.now, self.limiter.places())
            return
        n = self.number[poll.target]
        self.longest_gap = max(self.longest_gap, poll.sent_at - self.last_poll[n])
        self.last_poll[n] = poll.sent_at
        for call, level in shown:
            call.note(level, self.now)
        snapshot = Snapshot(
            target=poll.target,
            taken_at=EPOCH,
            observations=tuple(call.observation(level) for call, level in shown),
        )
        self.scheduler.succeeded(poll, snapshot, self.now)
        self.scheduler.reschedule(poll, self.now, self.limiter.places())


class Figures(msgspec.Struct):
    """means, within: seconds after it happened, ringing / answered / ended; `within`: 95 %."""

    means: tuple[float, ...]
    within: tuple[float, ...]
    unseen: float
    per_minute: float
    refused: int
    longest_gap_s: float
    offsets: tuple[float, float]


def figures(scenario: Scenario, hours: float, seeds: Sequence[int], *, hinted: bool) -> Figures:
    """Of all targets but those that are mute or storm."""
    left_out = {*scenario.mute, scenario.storm}
    outcomes = [Simulation(scenario, hours, seed, hinted=hinted).run() for seed in seeds]
    calls = [call for one in outcomes for call in one.calls if call.target not in left_out]
    delays = [list(_delays(calls, step)) for step in range(3)]
    return Figures(
        means=tuple(statistics.fmean(one) for one in delays),
        within=tuple(statistics.quantiles(one, n=20)[-1] for one in delays),
        unseen=sum(call.seen[0] is None for call in calls) / len(calls),
        per_minute=statistics.fmean(one.polls / one.minutes for one in outcomes),
        refused=sum(one.refused for one in outcomes),
        longest_gap_s=max(one.longest_gap_s for one in outcomes),
        offsets=(min(one.offsets[0] for one in outcomes), max(one.offsets[1] for one in outcomes)),
    )


def _delays(calls: Sequence[SimulatedCall], step: int) -> Iterator[float]:
    for call in calls:
        happened, seen = call.happened[step], call.seen[step]
        if happened is not None and seen is not None:
            yield seen - happened


# The table

ONE = Scenario(name="1 extension, push")
TEN = Scenario(name="10 extensions, push and presence", targets=10, pause_s=900.0, presence=True)
ACCOUNT = Scenario(name="account, 54 calls an hour, push", targets=0, pause_s=HOUR / 54)
SEEDS = (1, 2, 3)


class Row(msgspec.Struct, frozen=True):
    """goals: the means that a run may exceed by `above`; None: the means of polling, without hints, are the goals.
    above: None: only the 429s count.

    refused: 429s allowed a run.
    """

    scenario: Scenario
    goals: tuple[float, float, float] | None = None
    above: float | None = 0.15
    longest_gap_s: float | None = None
    refused: int = 0


def _like(scenario: Scenario, name: str, **facts: Any) -> Scenario:
    return msgspec.structs.replace(scenario, name=name, **facts)


GOALS = (
    Row(ONE, (1.3, 1.3, 8.6), above=0.2),
    Row(TEN, (1.4, 1.9, 10.3), above=0.2),
    Row(ACCOUNT, (1.5, 1.8, 9.6), above=0.2),
    Row(_like(ONE, "1 extension, every hint lost", lost=1.0)),
    Row(_like(TEN, "10 extensions, every hint lost", lost=1.0, presence=False)),
    Row(_like(ACCOUNT, "account, every hint lost", lost=1.0)),
    Row(_like(TEN, "one of ten rings 30 times a minute", storm=0), longest_gap_s=450),
    Row(_like(TEN, "hints that never come true, 20 an hour", phantoms=20.0), longest_gap_s=450),
    Row(_like(TEN, "a ring group of ten, 12 calls an hour", groups=12.0), longest_gap_s=450),
    Row(_like(TEN, "one of ten is mute", mute=(0,)), longest_gap_s=450),
    Row(_like(TEN, "one of ten is mute, push alone", mute=(0,), presence=False), longest_gap_s=450),
    Row(_like(TEN, "another program takes 5 of 10 places", neighbour=5.0), longest_gap_s=450),
    Row(_like(ONE, "1 extension, 5 % lost", lost=0.05)),
    Row(_like(ONE, "1 extension, 12 % lost", lost=0.12)),
    Row(_like(ONE, "1 extension, 30 % lost", lost=0.3)),
    Row(_like(TEN, "10 extensions, 30 % lost", lost=0.3)),
    Row(_like(ACCOUNT, "account, 30 % lost", lost=0.3)),
    Row(_like(TEN, "10 extensions, half doubled, 20 % late", doubled=0.5, late=0.2)),
    Row(_like(ONE, "1 extension, 1 in 6 s not announced", more=((1, 6.0),)), above=None, refused=1),
    Row(_like(TEN, "10 extensions, 3 in 18 s not announced", more=((3, 18.0),)), above=None, refused=1),
)


def print_table(hours: float, only: str = "", rows: Sequence[Row] = GOALS) -> int:
    """Print a line for each row. Returns how many goals were missed."""
    print("| | without hints | with hints | 95 % | unseen | goal | longest gap | polls a minute | 429 | |")
    print("|---|---|---|---|---|---|---|---|---|---|")
    missed = 0
    polling: dict[Scenario, Figures] = {}
    for row in rows:
        if only not in row.scenario.name:
            continue
        alike = _like(row.scenario, "", lost=0.0, doubled=0.0, late=0.0, phantoms=0.0, presence=False)
        if alike not in polling:
            polling[alike] = figures(alike, hours, SEEDS, hinted=False)
        before, after = polling[alike], figures(row.scenario, hours, SEEDS, hinted=True)
        faults = list(_faults(row, before, after))
        missed += len(faults)
        goal = "without hints" if row.goals is None else _three(row.goals)
        goal = "429s only" if row.above is None else f"{goal} + {row.above:.0%}"
        print(
            f"| {row.scenario.name} | {_three(before.means)} ({before.unseen:.0%}) | {_three(after.means)} | "
            f"{_three(after.within)} | {after.unseen:.0%} | {goal} | {after.longest_gap_s:.0f} s | "
            f"{after.per_minute:.1f} | {after.refused} | {', '.join(faults) or 'met'} |",
            flush=True,
        )
    return missed


def _faults(row: Row, before: Figures, after: Figures) -> Iterator[str]:
    for name, mean, goal in zip(STEPS, after.means, row.goals or before.means, strict=True):
        if row.above is not None and mean > goal * (1 + row.above):
            yield f"{name} {mean / goal - 1:+.0%}"
    if row.longest_gap_s is not None and after.longest_gap_s > row.longest_gap_s:
        yield f"longest gap {after.longest_gap_s:.0f} s"
    if after.refused > row.refused * len(SEEDS):
        yield f"{after.refused} refused"
    if not (after.offsets[0] >= 0.2 and after.offsets[1] <= 10):
        yield f"offsets {after.offsets[0]:.2f}-{after.offsets[1]:.2f}"


def _three(seconds: Sequence[float]) -> str:
    return " / ".join(f"{one:.1f}" for one in seconds)
