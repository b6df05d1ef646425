"""Plays random calls twice, polled evenly and polled by hints that are mangled, and compares how the calls end.

`python -m tests.unit.polling.hinted N [SEED]` plays N histories (`make fuzz`); the tests play some hundred.

Calls happen at some extensions, and the list shows them late. Hints of them are lost, doubled, delayed by up to a
minute, out of order, for other targets, or of calls that never were; connections come and go. A poll may fail. The
source is the real scheduler, comparison and index; the call log is read after a gap, as the poller does.
"""

import math
import sys
from collections.abc import Iterator
from datetime import timedelta
from random import Random
from typing import Any

from msgspec import Struct

from callcast.calls.index import CallIndex
from callcast.calls.model import (
    CallEvent,
    CallObservation,
    ChangeSet,
    Direction,
    Disposition,
    PollRecord,
    Provider,
    Snapshot,
    State,
    Target,
)
from callcast.calls.tracker import Rules, compare, due_lookups, fill_gap, resolve
from callcast.polling.scheduler import Poll, Scheduler
from callcast.ports.hints import STEPS, Hint, HintsChange, Report
from callcast.ports.telemetry import Telemetry
from callcast.ports.upstream import Places
from tests.builders import NINE
from tests.unit.calls.fuzz import check_lifecycle

SPACING_S = 7.5
BEFORE_S = 100.0  # polled before the first call
LISTED_S = 121.0
PRESENCE_S = 5.0
RULES = Rules()


class Part(Struct, frozen=True):
    """One extension's part. `times`: when it rings, is answered (or not) and ends; `listed`: when the list shows it."""

    extension_id: str
    session_id: str
    record_id: str
    disposition: Disposition
    times: tuple[float, float | None, float]
    listed: tuple[float, float | None, float]

    def at(self, t: float) -> CallObservation | None:
        """What the list shows of it."""
        rings, answered, ended = self.listed
        if not rings <= t < ended + LISTED_S:
            return None
        if t >= ended:
            return self.observation(State.ENDED)
        return self.observation(State.CONNECTED if answered is not None and answered <= t else State.RINGING)

    def observation(self, state: State) -> CallObservation:
        ended = state is State.ENDED
        return CallObservation(
            extension_id=self.extension_id,
            session_id=self.session_id,
            account_id="9",
            record_id=self.record_id,
            direction=Direction.INBOUND,
            state=state,
            disposition=self.disposition if ended else None,
            started_at=NINE + timedelta(seconds=self.times[0]),
            ended_at=NINE + timedelta(seconds=self.times[2]) if ended else None,
            provider=Provider(name="ringcentral", record_id=self.record_id),
        )


class Maker:
    """Makes the calls of one history, and the hints of them, from a seed."""

    def __init__(self, seed: int) -> None:
        self.random = Random(seed)
        self.extensions = [str(101 + n) for n in range(self.random.randint(1, 5))]
        self.account = self.random.random() < 0.3
        self.witnessed = not self.account and self.random.random() < 0.4
        self.serial = 0

    def parts(self) -> Iterator[Part]:
        for _ in range(self.random.randint(1, 8)):
            self.serial += 1
            kind = self.random.choice((self.direct, self.direct, self.group, self.again, self.transfer))
            yield from kind(self.random.uniform(0, 400), f"s-{self.serial}")

    def direct(self, start: float, session: str) -> list[Part]:
        return [self.part(start, session, self.random.choice(self.extensions), self.random.random() < 0.6)]

    def group(self, start: float, session: str) -> list[Part]:
        """Several ring, at most one answers; the others end as it does not know better."""
        answers = self.random.choice([*self.extensions, None])
        return [self.part(start, session, one, one == answers) for one in self.extensions]

    def again(self, start: float, session: str) -> list[Part]:
        """The same extension rings a second time in the session."""
        extension_id = self.random.choice(self.extensions)
        first = self.part(start, session, extension_id, answered=False)
        again = first.times[2] + self.random.uniform(5, 30)
        return [first, self.part(max(again, first.listed[2]), session, extension_id, self.random.random() < 0.6)]

    def transfer(self, start: float, session: str) -> list[Part]:
        first = self.part(start, session, self.extensions[0], answered=True)
        return [first, self.part(first.times[2], session, self.extensions[-1], answered=True)][: len(self.extensions)]

    def part(self, start: float, session: str, extension_id: str, answered: bool) -> Part:
        r = self.random
        self.serial += 1
        rings = r.uniform(PRESENCE_S + 0.5 if self.witnessed else 1, 25)
        answered_at = start + rings if answered else None
        ended_at = start + rings + (r.uniform(PRESENCE_S + 0.5, 200) if answered else 0)
        listed_start = start + r.uniform(0.1, 2)
        listed_answer = None if answered_at is None else max(answered_at + r.uniform(0.1, 2), listed_start)
        listed_end = max(ended_at + r.uniform(1, 10), listed_answer or listed_start)
        disposition = r.choice((Disposition.MISSED, Disposition.VOICEMAIL, Disposition.DECLINED))
        return Part(
            extension_id,
            session,
            f"r-{self.serial}",
            Disposition.ANSWERED if answered else disposition,
            (start, answered_at, ended_at),
            (listed_start, listed_answer, listed_end),
        )

    def reports(self, parts: list[Part]) -> Iterator[tuple[float, dict[str, Any] | HintsChange]]:
        """What the ways of hints report, each with its time: of the calls, mangled, and of the connections."""
        r = self.random
        if self.witnessed:
            yield from self.readings(parts)
        lost, doubled, late = r.choice((0.0, 0.3, 1.0)), r.choice((0.0, 0.5)), r.choice((0.0, 0.3))
        for part in parts:
            for step, happened in zip(STEPS, part.times, strict=True):
                if happened is None:
                    continue
                for _ in range(1 + (r.random() < doubled)):
                    if r.random() < lost:
                        continue
                    at = happened + (r.uniform(1, 60) if r.random() < late else r.uniform(0.1, 0.2))
                    facts = {"session_id": part.session_id, "party_id": part.record_id, "step": step}
                    facts |= {"extension_id": part.extension_id, "of": part.extension_id}
                    yield at, self.mangled(facts)
        for _ in range(r.choice((0, 0, 5, 40))):
            facts = {"session_id": f"never-{r.random()}", "party_id": "p", "step": r.choice(STEPS)}
            facts |= {"extension_id": None, "of": r.choice(self.extensions)}
            yield r.uniform(0, 600), facts
        for _ in range(0 if self.witnessed else r.choice((0, 0, 0, 3, 10))):
            yield r.uniform(-50, 600), self.change(r.choice(("up", "recovered", "lost")))
        yield -BEFORE_S + 1, self.change("up")

    def readings(self, parts: list[Part]) -> Iterator[tuple[float, dict[str, Any]]]:
        """Presence is read every five seconds, and misses nothing that lasts longer."""
        for part in parts:
            for step, happened in zip(STEPS, part.times, strict=True):
                if happened is not None:
                    facts = {"session_id": part.session_id, "party_id": part.record_id, "step": step}
                    facts |= {"extension_id": part.extension_id, "of": part.extension_id, "via": "presence"}
                    yield PRESENCE_S * math.ceil(happened / PRESENCE_S), facts

    def mangled(self, facts: dict[str, Any]) -> dict[str, Any]:
        r = self.random
        if r.random() < 0.05:
            facts["of"] = r.choice(self.extensions)
        if r.random() < 0.05 and not self.witnessed:
            facts["step"] = r.choice(STEPS)
        if r.random() < 0.1:
            facts["party_id"] = None
        if r.random() < 0.1:
            facts["extension_id"] = None
        return facts | {"via": r.choice(("push", "presence"))}

    def change(self, state: Any) -> HintsChange:
        return HintsChange(via=self.random.choice(("push", "presence")), state=state, at=0.0)


class Ways:
    """Implements Hints. Presence is taken for a witness of every target, or of none."""

    def __init__(self, *, witnesses: bool) -> None:
        self.witnesses = witnesses
        self.up_since: float | None = None

    async def run(self, targets: Any, report: Report, /) -> None: ...

    def covers(self, target: Target, /) -> bool:
        return self.up_since is not None

    def witnessed_since(self, target: Target, /) -> float | None:
        return self.up_since if self.witnesses else None


class Play:
    """One history, polled in one way."""

    def __init__(self, seed: int, *, hinted: bool) -> None:
        maker = Maker(seed)
        self.parts = list(maker.parts())
        self.account = maker.account
        self.fails = maker.random.choice((0.0, 0.0, 0.1))
        self.ways = Ways(witnesses=maker.witnessed)
        ids = [None] if self.account else maker.extensions
        self.targets = [Target(source="acme", extension_id=one) for one in ids]
        self.reports = sorted(maker.reports(self.parts), key=lambda one: one[0]) if hinted else []
        self.random = Random(seed + 1)
        self.index = CallIndex("acme")
        self.events: list[CallEvent] = []
        self.calls: dict[str, Any] = {}
        self.scheduler = Scheduler(
            self.targets, interval_s=None, hints=self.ways if hinted else None, telemetry=Telemetry()
        )
        self.freed: list[float] = []
        self.now = -BEFORE_S

    def places(self) -> Places:
        self.freed = [at for at in self.freed if at > self.now]
        return Places(used=len(self.freed), limit=8, spacing_s=SPACING_S)

    def run(self) -> "Play":
        self.scheduler.start(self.now, SPACING_S)
        end = max(part.listed[2] for part in self.parts) + 600
        reviewed = self.now
        while self.now < end:
            found = self.scheduler.next(self.now, self.places())
            if isinstance(found, Poll):
                self.poll(found)
                continue
            report_at = self.reports[0][0] if self.reports else end
            self.now = min(self.now + max(found, 0.01), max(report_at, self.now), reviewed + 1.0, end)
            while self.reports and self.reports[0][0] <= self.now:
                self.report(self.reports.pop(0)[1])
            if self.now >= reviewed + 1.0:
                reviewed = self.now
                self.scheduler.review(self.now, self.places())
        return self

    def report(self, report: dict[str, Any] | HintsChange) -> None:
        if isinstance(report, HintsChange):
            if report.state == "lost":
                self.ways.up_since = None
            elif self.ways.up_since is None:
                self.ways.up_since = self.now
            self.scheduler.change(HintsChange(via=report.via, state=report.state, at=self.now), self.places())
            return
        of = report.pop("of")
        target = self.targets[0] if self.account else Target(source="acme", extension_id=of)
        self.scheduler.hint(Hint(target=target, at=self.now, **({"via": "push"} | report)))

    def poll(self, poll: Poll) -> None:
        self.now += self.random.uniform(0.05, 0.3)
        self.freed.append(self.now + 61)
        if self.random.random() < self.fails:
            self.scheduler.failed(poll, self.now)
        else:
            target = poll.target
            shown = [one for part in self.of(target) if (one := part.at(self.now)) is not None]
            snapshot = Snapshot(target=target, taken_at=NINE + timedelta(seconds=self.now), observations=tuple(shown))
            self.scheduler.succeeded(poll, snapshot, self.now)
            self.fill_gap(target, snapshot)
            self.record(snapshot)
            self.look_up(snapshot)
        self.scheduler.reschedule(poll, self.now, self.places())

    def of(self, target: Target) -> list[Part]:
        return [part for part in self.parts if target.extension_id in (None, part.extension_id)]

    def fill_gap(self, target: Target, snapshot: Snapshot) -> None:
        last = self.index.last_poll_at(target.extension_id)
        if last is None:
            return
        passed_s = (snapshot.taken_at - last).total_seconds()
        if self.scheduler.is_gap(target, passed_s, self.now, SPACING_S):
            over = [part.observation(State.ENDED) for part in self.of(target) if part.listed[2] <= self.now - 15]
            self.recall(over)
            self.record(None, fill_gap(self.index, target, over, snapshot.taken_at, RULES, after=last))

    def look_up(self, snapshot: Snapshot) -> None:
        """Read the call log for calls that left the list before a poll showed their end."""
        for call in due_lookups(self.index, snapshot.taken_at, RULES):
            own = [part for part in self.parts if part.record_id in call.record_ids]
            records = [part.observation(State.ENDED) for part in own]
            self.record(None, resolve(self.index, call.call_id, records, snapshot.taken_at, RULES))

    def recall(self, shown: list[CallObservation]) -> None:
        sessions = self.index.sessions_to_recall(shown)
        self.index.learn([call for call in self.calls.values() if call.session_id in sessions])

    def record(self, snapshot: Snapshot | None, change: ChangeSet | None = None) -> None:
        if snapshot is not None:
            self.recall(list(snapshot.observations))
        change = change or (ChangeSet() if snapshot is None else compare(self.index, snapshot, RULES))
        self.events += [event for event in change.events if isinstance(event, CallEvent)]
        self.calls.update({call.call_id: call for call in change.calls})
        poll = None if snapshot is None else PollRecord(target=snapshot.target, taken_at=snapshot.taken_at)
        self.index.apply(poll, change)

    def ends(self) -> dict[str, Disposition | None]:
        """How each call ended, by the id of the event; corrections included."""
        last = {event.call.call_id: event.call.disposition for event in self.events}
        return {event.id: last[event.call.call_id] for event in self.events if event.type == "call.ended"}

    def check(self) -> None:
        by_call: dict[str, list[CallEvent]] = {}
        for event in self.events:
            by_call.setdefault(event.call.call_id, []).append(event)
        for events in by_call.values():
            check_lifecycle(events)
        assert len({event.id for event in self.events}) == len(self.events)


def play(seed: int) -> None:
    evenly, hinted = Play(seed, hinted=False).run(), Play(seed, hinted=True).run()
    evenly.check()
    hinted.check()
    assert hinted.ends() == evenly.ends(), f"seed {seed}"
    assert len(evenly.ends()) == len(evenly.parts), f"seed {seed}"


if __name__ == "__main__":
    count, first = int(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 0
    for seed in range(first, first + count):
        try:
            play(seed)
        except AssertionError as failed:
            sys.exit(f"seed {seed}: {failed}")
    print(f"{count} histories: the same ends with hints as without")
