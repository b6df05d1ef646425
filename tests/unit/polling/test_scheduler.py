"""Which target is polled when, without hints and with them, on a time that the test sets."""

import itertools
import math
from collections import defaultdict, deque
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from callcast.calls.model import CallObservation, Snapshot, Target
from callcast.polling.hints import EXPECTED_MAX
from callcast.polling.scheduler import Poll, Scheduler
from callcast.ports.hints import Hint, HintsChange, Report, Step, Via
from callcast.ports.telemetry import Telemetry
from callcast.ports.upstream import Places
from tests.builders import NINE
from tests.effort import tries
from tests.unit.polling.test_hints import listed

SPACING_S = 7.5
LIMIT = 8
ANSWER_S = 0.2


class Reports(Telemetry):
    def __init__(self) -> None:
        self.trusted: list[tuple[bool, bool]] = []
        self.missed = 0
        self.ignored: list[str] = []
        self.seen: list[float] = []

    def hints_trusted(self, *, trusted: bool, deaf: bool) -> None:
        self.trusted.append((trusted, deaf))

    def hint_missed(self) -> None:
        self.missed += 1

    def hints_ignored(self, reason: str, count: int = 1) -> None:
        self.ignored += [reason] * count

    def hint_seen(self, after_s: float) -> None:
        self.seen.append(after_s)


class Coverage:
    """Implements Hints: what is covered and witnessed is set by the test."""

    def __init__(self) -> None:
        self.uncovered: set[Target] = set()
        self.witnessed: set[Target] = set()
        self.up = False

    async def run(self, targets: Sequence[Target], report: Report, /) -> None: ...

    def covers(self, target: Target, /) -> bool:
        return self.up and target not in self.uncovered

    def witnessed_since(self, target: Target, /) -> float | None:
        return 0.0 if target in self.witnessed else None


class Source:
    """A source's scheduler, with a window that takes 8 requests in 61 s. Answers come after 0.2 s."""

    def __init__(self, targets: int = 1, *, hinted: bool = True, interval_s: float | None = None) -> None:
        self.now = 0.0
        self.targets = [Target(source="acme", extension_id=str(101 + n)) for n in range(targets)]
        self.coverage = Coverage()
        self.reports = Reports()
        self.scheduler = Scheduler(
            self.targets, interval_s=interval_s, hints=self.coverage if hinted else None, telemetry=self.reports
        )
        self.freed: deque[float] = deque()
        self.flying: list[tuple[float, Poll]] = []
        self.lists: defaultdict[Target, list[CallObservation]] = defaultdict(list)
        self.polls: list[Poll] = []
        self.sent: list[float] = []
        self.fails: set[Target] = set()
        self.hold_until = 0.0
        self.granted = -math.inf  # the last request: paced ones are sent evenly
        self.reviewed = 0.0
        self.scheduler.start(0.0, SPACING_S)

    def places(self) -> Places:
        while self.freed and self.freed[0] <= self.now:
            self.freed.popleft()
        return Places(used=len(self.freed) + len(self.flying), limit=LIMIT, spacing_s=SPACING_S)

    def connect(self, via: Via = "push", state: Any = "up") -> None:
        self.coverage.up = state != "lost"
        self.scheduler.change(HintsChange(via=via, state=state, at=self.now), self.places())

    def hint(self, step: Step, target: int = 0, session: str = "s-1", **facts: Any) -> None:
        one = self.targets[target]
        facts = {"extension_id": one.extension_id, "party_id": f"{session}-p", "via": "push"} | facts
        self.scheduler.hint(Hint(target=one, session_id=session, step=step, at=self.now, **facts))

    def run(self, seconds: float) -> list[Poll]:
        """Advance the time. Returns the polls that were sent in it."""
        first, end = len(self.polls), self.now + seconds
        while True:
            wait_s = self._send_due()
            following = min(
                self.now + max(wait_s, 0.01), self.reviewed + 1.0, *(at for at, _ in self.flying), end + 0.001
            )
            if following > end:
                break
            self.now = max(self.now, following)
            self._answer_due()
            if self.now >= self.reviewed + 1.0:
                self.reviewed = self.now
                self.scheduler.review(self.now, self.places())
        self.now = end
        self._answer_due()
        return self.polls[first:]

    def _send_due(self) -> float:
        while isinstance(
            found := self.scheduler.next(self.now, self.places(), max(0.0, self.hold_until - self.now)), Poll
        ):
            self.granted = max(self.now, self._free_at()) if found.paced else self.now
            self.sent.append(self.granted)
            self.polls.append(found)
            self.flying.append((self.granted + ANSWER_S, found))
        return found

    def _free_at(self) -> float:
        """When the rate limiter sends the next paced request."""
        ninth_last = sorted(self.sent)[-LIMIT - 1] if len(self.sent) > LIMIT else -math.inf
        return max(self.granted + SPACING_S, ninth_last + 61)

    def _answer_due(self) -> None:
        for at, poll in [one for one in self.flying if one[0] <= self.now]:
            self.flying.remove((at, poll))
            self.freed.append(self.now + 61)
            if poll.target in self.fails:
                self.scheduler.failed(poll, self.now)
            else:
                shown = tuple(self.lists[poll.target])
                self.scheduler.succeeded(
                    poll, Snapshot(target=poll.target, taken_at=NINE, observations=shown), self.now
                )
            self.scheduler.reschedule(poll, self.now, self.places())

    def show(self, step: Step, target: int = 0, session: str = "s-1") -> None:
        one = listed(step, session, f"r-{session}", extension_id=str(101 + target))
        kept = [seen for seen in self.lists[self.targets[target]] if seen.session_id != session]
        self.lists[self.targets[target]] = [*kept, one]


def times(polls: Sequence[Poll]) -> list[float]:
    return [round(poll.sent_at, 2) for poll in polls]


def pauses(polls: Sequence[Poll]) -> list[float]:
    return [round(after - before, 2) for before, after in itertools.pairwise(times(polls))]


@pytest.mark.parametrize("hinted", [False, True])
def test_without_a_connection_polls_lie_evenly_in_the_interval(hinted: bool) -> None:
    source = Source(3, hinted=hinted)
    polls = source.run(60)
    assert times(polls) == [SPACING_S * n for n in range(9)]
    assert [poll.target for poll in polls] == 3 * source.targets
    assert {(poll.cause, poll.paced) for poll in polls} == {("poll", True)}


def test_a_hint_is_polled_for_when_the_list_has_caught_up() -> None:
    source = Source()
    source.connect()
    source.run(50)
    source.show("started")
    source.hint("started")
    (poll,) = source.run(2)
    assert (poll.cause, round(poll.sent_at, 2)) == ("hint", 50.8)
    assert source.reports.seen == pytest.approx([1.0])


def test_a_poll_names_the_hint_that_caused_it() -> None:
    source = Source()
    source.connect()
    source.run(50)
    source.hint("started")
    source.hint("answered", via="presence")
    polls = source.run(70)
    assert [poll.cause for poll in polls] == ["hint", "follow_up", "follow_up", "keep_alive"]
    hints = [poll.hint for poll in polls if poll.hint is not None]
    assert [(hint.via, round(hint.seconds_before, 1)) for hint in hints] == [
        ("presence", 0.8),
        ("presence", 2.3),
        ("presence", 4.5),
    ]
    assert polls[-1].hint is None


def test_a_step_that_the_list_does_not_show_yet_is_polled_for_again() -> None:
    source = Source()
    source.connect()
    source.run(50)
    source.hint("started")
    polls = source.run(10)
    assert [poll.cause for poll in polls] == ["hint", "follow_up", "follow_up"]
    assert times(polls) == pytest.approx([50.8, 52.28, 54.53], abs=0.02)


def test_a_quiet_target_is_polled_every_half_minute_while_places_are_free_and_a_live_one_oftener() -> None:
    source = Source()
    source.connect()
    source.run(1)
    assert times(source.run(80)) == pytest.approx([30, 60], abs=0.1)
    source.show("answered")
    source.run(20)
    assert len(source.run(61)) == 3, "keep-alives leave five places of eight to hints"


@pytest.mark.parametrize(("witnessed", "cap_s"), [(False, 95.0), (True, 300.0)])
def test_a_keep_alive_is_due_when_nothing_is_hinted(witnessed: bool, cap_s: float) -> None:
    source = Source(10)
    if witnessed:
        source.coverage.witnessed = set(source.targets)
    source.connect()
    source.run(3600)
    assert source.scheduler.promised_s == cap_s
    assert longest_gap(source) < 1.5 * cap_s + SPACING_S * 10
    assert len(source.polls) < 3600 / SPACING_S


def longest_gap(source: Source) -> float:
    last = dict.fromkeys(source.targets, 0.0)
    longest = 0.0
    for poll in source.polls:
        longest = max(longest, poll.sent_at - last[poll.target])
        last[poll.target] = poll.sent_at
    return max(longest, *(source.now - at for at in last.values()))


def test_a_hint_without_an_expectation_is_checked_while_the_list_must_show_its_call() -> None:
    """Of a ring group only the first is polled at once; the others soon enough to see how their calls ended."""
    source = Source(4)
    source.coverage.witnessed = set(source.targets)
    source.connect()
    source.run(300)
    for n in range(4):
        source.hint("started", target=n)
    polls = source.run(120)
    assert all(any(one.sent_at >= 310 for one in polls if one.target == target) for target in source.targets)


def test_a_wished_interval_is_the_longest_gap() -> None:
    source = Source(2, interval_s=20.0)
    source.connect()
    source.run(300)
    assert source.scheduler.promised_s == 20
    assert longest_gap(source) < 30


def test_the_fuller_the_window_the_further_apart_the_polls() -> None:
    source = Source(20)
    source.connect()
    source.run(1000)
    source.polls.clear()
    source.run(400)  # nothing is due but what is wished: places are free again
    for n in range(20):
        source.hint("started", target=n, session=f"s-{n}")
        source.show("started", target=n, session=f"s-{n}")
    gaps = pauses(source.run(60))
    assert gaps[:3] == sorted(gaps[:3])
    assert gaps[-1] == pytest.approx(SPACING_S, abs=0.1)


def test_under_saturation_the_polls_are_even() -> None:
    """Every target has a new call every few seconds: no more polls than without hints, and as even."""
    source = Source(10)
    source.connect()
    for n in range(600):
        source.hint("started", target=n % 10, session=f"s-{n}")
        source.run(2)
    gaps = pauses(source.polls)[100:]
    assert min(gaps) > 0.9 * SPACING_S
    assert max(gaps) < 1.2 * SPACING_S


def test_lines_that_ring_all_the_time_starve_no_other() -> None:
    """Of ten, six have a new call every few seconds, which fills the window."""
    source = Source(10)
    source.coverage.witnessed = set(source.targets)
    source.connect()
    for n in range(2400):
        del source.lists[source.targets[n % 6]][:-60]
        source.hint("started", n % 6, session=f"s-{n}")
        source.show("started", n % 6, session=f"s-{n}")
        source.run(1)
    assert longest_gap(source) <= 450


def test_of_targets_that_ring_together_the_first_is_polled() -> None:
    source = Source(10)
    source.coverage.witnessed = set(source.targets)
    source.connect()
    source.run(200)
    for n in range(10):
        source.hint("started", target=n)
        source.show("started", target=n)
    polls = [poll for poll in source.run(3) if poll.cause == "hint"]
    assert [poll.target for poll in polls] == source.targets[:1]
    source.run(8)
    source.hint("answered", target=4)
    assert source.targets[4] in [poll.target for poll in source.run(3) if poll.cause == "hint"]


def test_a_session_that_rings_one_target_after_the_other_is_polled_for_at_each() -> None:
    source = Source(2)
    source.connect()
    source.run(100)
    source.hint("started")
    source.run(20)
    source.hint("started", target=1)
    assert source.targets[1] in [poll.target for poll in source.run(3) if poll.cause == "hint"]


def test_a_deaf_connection_is_noticed_after_four_changes() -> None:
    """The polls show calls that no hint announced: the source is polled evenly until hints announce them again."""
    source = Source()
    source.connect()
    source.run(40)
    for n in range(2):
        source.show("ended", session=f"s-{n}")
        source.run(40)
    assert source.reports.trusted == [(True, False), (False, True)]
    assert source.reports.missed == 6
    polls = source.run(60)
    assert {poll.cause for poll in polls} == {"poll"}
    assert 8 <= len(polls) <= 9
    for n in range(100, 110):
        for step in ("started", "answered", "ended"):
            source.hint(step, session=f"s-{n}")
        source.show("ended", session=f"s-{n}")
        source.run(20)
    assert source.reports.trusted[-1] == (True, False)


def test_a_hint_that_comes_within_three_seconds_of_the_poll_is_no_miss() -> None:
    source = Source()
    source.connect()
    source.run(29)
    source.show("started")
    source.run(2)
    assert len(source.polls) == 2
    source.hint("started")
    source.run(10)
    assert source.reports.missed == 0
    assert source.reports.ignored == ["no_change"]


def test_what_the_list_shows_late_of_before_the_connection_is_no_miss() -> None:
    """It shows an end up to ten seconds late, so a later poll than the first can show what no hint could announce."""
    source = Source()
    source.run(10)
    source.show("answered")
    source.connect()
    source.run(1)
    source.hint("started", session="s-2")
    source.run(0.5)
    source.show("ended")
    source.run(10)
    assert len(source.polls) > 3
    assert source.reports.missed == 0


def test_what_happened_before_the_connection_is_no_miss() -> None:
    source = Source()
    source.run(10)
    source.show("ended")
    source.connect()
    source.run(10)
    assert source.reports.missed == 0


def test_one_mute_target_is_polled_evenly_and_costs_the_others_nothing() -> None:
    source = Source(10)
    source.coverage.witnessed = set(source.targets)
    source.connect()
    source.run(10)
    for n in range(4):
        source.show("ended", session=f"mute-{n}")
        source.run(400)
    before = len(source.polls)
    source.run(750)
    recent = [poll for poll in source.polls[before:] if poll.target == source.targets[0]]
    assert len(recent) >= 9
    assert {poll.cause for poll in recent} == {"poll"}
    assert source.reports.trusted == [(True, False)]


def test_a_target_whose_filter_is_refused_is_polled_evenly_from_the_start() -> None:
    source = Source(2)
    source.coverage.uncovered = {source.targets[0]}
    source.connect()
    polls = source.run(300)
    assert sum(poll.target == source.targets[0] for poll in polls) >= 19


def test_after_a_lost_connection_every_target_is_polled_at_once() -> None:
    """And evenly from then on. So it is after a new one; a connection that missed nothing changes nothing."""
    source = Source(4)
    source.coverage.witnessed = set(source.targets)
    source.connect()
    source.run(200)
    source.connect(state="lost")
    polls = source.run(4 * SPACING_S)
    assert {poll.target for poll in polls} == set(source.targets)
    assert {poll.cause for poll in polls} == {"poll"}
    source.run(60)
    before = source.now
    source.connect()
    polls = [poll for poll in source.run(80) if poll.sent_at >= before]
    assert {poll.target for poll in polls} == set(source.targets)
    source.run(100)
    quiet = source.run(1)
    source.connect(state="recovered")
    assert len(source.run(1)) <= 1
    assert len(quiet) <= 1


def test_one_way_that_is_left_is_enough() -> None:
    source = Source(4)
    source.coverage.witnessed = set(source.targets)
    source.connect("presence")
    source.connect("push")
    source.run(200)
    source.coverage.up = True
    source.scheduler.change(HintsChange(via="push", state="lost", at=source.now), source.places())
    polls = source.run(20)
    assert {poll.target for poll in polls} == set(source.targets), "hints may be lost: every target is due"
    assert {poll.cause for poll in polls} == {"keep_alive"}


def test_a_failed_poll_is_repeated_no_faster_than_evenly() -> None:
    """It teaches nothing, and what was hinted is still expected."""
    source = Source()
    source.connect()
    source.run(50)
    source.fails = set(source.targets)
    source.hint("started")
    polls = source.run(40)
    assert min(pauses(polls)) >= SPACING_S
    source.fails = set()
    source.show("started")
    source.run(10)
    assert len(source.reports.seen) == 1
    assert source.scheduler.offsets[1] == 0.8


def test_what_failed_is_repeated_whatever_is_learned_of_the_hints_meanwhile() -> None:
    """Its filter is accepted, presence is read: that makes a target quiet only after a good poll."""
    source = Source()
    source.coverage.uncovered = set(source.targets)
    source.connect()
    source.fails = set(source.targets)
    source.run(20)
    source.coverage.uncovered = set()
    source.coverage.witnessed = set(source.targets)
    source.fails = set()
    assert len(source.run(10)) >= 1


def test_in_a_penalty_expectations_wait() -> None:
    source = Source()
    source.connect()
    source.run(50)
    source.hint("started")
    source.hold_until = source.now + 300
    assert source.run(299) == []
    source.show("started")
    assert len(source.run(2)) == 1
    assert len(source.reports.seen) == 1


def test_a_good_poll_is_missing_only_once_it_is_due() -> None:
    """A target that is quiet by plan waits for nothing; one whose polls fail, since the first of them was due."""
    source = Source(2)
    assert Source(hinted=False).scheduler.waiting_since(0.0) is None
    source.connect()
    source.run(20)
    assert source.scheduler.waiting_since(source.now) == {}
    source.fails = {source.targets[0]}
    source.hint("started")
    source.run(40)
    assert source.scheduler.waiting_since(source.now) == {source.targets[0]: pytest.approx(20.8, abs=0.1)}
    source.fails = set()
    source.run(20)
    assert source.scheduler.waiting_since(source.now) == {}


def test_a_trusted_source_that_is_lost_is_not_stale_at_once() -> None:
    source = Source(1)
    source.coverage.witnessed = set(source.targets)
    source.connect()
    source.run(29)
    source.fails = set(source.targets)
    source.connect(state="lost")
    (since,) = (source.scheduler.waiting_since(source.now + 0.1) or {}).values()
    assert since == pytest.approx(source.now - SPACING_S)


class Anything(RuleBasedStateMachine):
    """Whatever hints, failures and connections do."""

    @initialize(count=st.integers(1, 6), interval_s=st.sampled_from([None, None, 20.0, 60.0]))
    def begin(self, count: int, interval_s: float | None) -> None:
        self.source = Source(count, interval_s=interval_s)

    def target(self, n: int) -> int:
        return n % len(self.source.targets)

    @rule(seconds=st.sampled_from([0.1, 1.0, 5.0, 30.0, 100.0]))
    def wait(self, seconds: float) -> None:
        self.source.run(seconds)

    @rule(
        n=st.integers(0, 5),
        step=st.sampled_from(["started", "answered", "ended"]),
        session=st.integers(0, 9),
        party=st.sampled_from([None, "p-1", "p-2"]),
        via=st.sampled_from(["push", "presence"]),
        named=st.booleans(),
    )
    def hint(self, n: int, step: Step, session: int, party: str | None, via: Via, named: bool) -> None:
        facts = {} if named else {"extension_id": None}
        self.source.hint(step, self.target(n), f"s-{session}", party_id=party, via=via, **facts)

    @rule(n=st.integers(0, 5), count=st.integers(1, EXPECTED_MAX + 6))
    def hint_many(self, n: int, count: int) -> None:
        for one in range(count):
            self.source.hint("started", self.target(n), f"many-{self.source.now}-{one}")

    @rule(n=st.integers(0, 5), step=st.sampled_from(["started", "answered", "ended"]), session=st.integers(0, 9))
    def show(self, n: int, step: Step, session: int) -> None:
        self.source.show(step, self.target(n), f"s-{session}")

    @rule(n=st.integers(0, 5))
    def empty(self, n: int) -> None:
        self.source.lists[self.source.targets[self.target(n)]].clear()

    @rule(via=st.sampled_from(["push", "presence"]), state=st.sampled_from(["up", "recovered", "lost"]))
    def connect(self, via: Via, state: str) -> None:
        self.source.connect(via, state)

    @rule(n=st.integers(0, 5), fails=st.booleans(), covered=st.booleans(), witnessed=st.booleans())
    def trouble(self, n: int, fails: bool, covered: bool, witnessed: bool) -> None:
        one = self.source.targets[self.target(n)]
        for is_in, group in (
            (fails, self.source.fails),
            (not covered, self.source.coverage.uncovered),
            (witnessed, self.source.coverage.witnessed),
        ):
            (group.add if is_in else group.discard)(one)

    @rule(seconds=st.sampled_from([1.0, 60.0, 600.0]))
    def penalty(self, seconds: float) -> None:
        self.source.hold_until = self.source.now + seconds

    @invariant()
    def never_two_polls_of_a_target_at_once(self) -> None:
        flying = [poll.target for _, poll in self.source.flying]
        assert len(flying) == len(set(flying))

    @invariant()
    def never_above_the_window(self) -> None:
        """9 in 61 s: evenly it takes a place every 7.5 s, of which each counts for 61.2 s."""
        sent = sorted(self.source.sent[-40:])
        for first, ninth in zip(sent, sent[9:], strict=False):
            assert ninth - first > 58

    @invariant()
    def no_target_starves(self) -> None:
        """Past its interval by half at most, and a round of all; a penalty and failures excepted."""
        source = self.source
        if source.fails or source.hold_until > source.now - 600:
            return
        last = dict.fromkeys(source.targets, 0.0)
        for poll in source.polls:
            last[poll.target] = poll.sent_at
        assert all(source.now - at < 450 + 15 * len(last) for at in last.values())

    @invariant()
    def expectations_and_offsets_are_bounded(self) -> None:
        for state in self.source.scheduler._states.values():
            assert len(state.expected.open) <= EXPECTED_MAX
        offsets = self.source.scheduler.offsets
        assert all(0.2 <= offsets[level] <= 10.3 for level in (1, 2, 3))


TestAnything = Anything.TestCase
TestAnything.settings = settings(
    max_examples=tries(30, 1000),
    stateful_step_count=25,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    phases=(Phase.explicit, Phase.generate, Phase.shrink),
)
