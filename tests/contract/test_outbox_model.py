"""The outbox against a model that a reader can check in one look, through any history of claims and endings."""

import asyncio
import shutil
import tempfile
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, multiple, rule

from callcast.ports.outbox import Taken
from callcast.ports.sink import Delivery, Filter
from tests.builders import change, event
from tests.contract.test_outbox import SqlitePlace

FILTERS = {"all": Filter(), "ends": Filter(events=("call.ended", "call.corrected"))}
TYPES = ("call.ringing", "call.answered", "call.updated", "call.ended", "call.corrected")
CALLS = ("a", "b", "c", "d")
SINKS = st.sampled_from(sorted(FILTERS))


@dataclass
class Debt:
    """One event that one sink is owed, as the model sees it."""

    number: int
    call: str
    event_id: str
    live: bool
    owed_at: datetime
    due_at: datetime
    attempts: int = 0
    held: bool = False
    in_flight: bool = False


class OutboxMachine(RuleBasedStateMachine):
    """Debts are lists in the order of recording; of each call only the first may be claimed, unless in flight."""

    taken: Bundle[tuple[str, Delivery]] = Bundle("taken")

    @initialize()
    def begin(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.path = Path(tempfile.mkdtemp(prefix="callcast-model-"))
        self.place = SqlitePlace(self.path)
        self.debts: dict[str, list[Debt]] = {sink: [] for sink in FILTERS}
        self.letters = dict.fromkeys(FILTERS, 0)
        self.sequences = dict.fromkeys(CALLS, 0)
        self.recorded: list[Any] = []
        self.epoch = 0
        self._open()

    def _open(self) -> None:
        self.stack = AsyncExitStack()
        self.outbox = self.run(self.stack.enter_async_context(self.place.open()))
        self.run(self.outbox.subscribe(FILTERS))

    def run(self, awaitable: Any) -> Any:
        return self.loop.run_until_complete(awaitable)

    @property
    def now(self) -> datetime:
        return self.place.clock.now()

    @rule(call=st.sampled_from(CALLS), types=st.lists(st.sampled_from(TYPES), min_size=1, max_size=3))
    def record(self, call: str, types: list[str]) -> None:
        events = []
        for type_ in types:
            self.sequences[call] += 1
            events.append(event(call, type_, self.sequences[call]))
        self.run(self.outbox.record(None, change(*events)))
        for one in events:
            self.recorded.append(one)
            for sink, wish in FILTERS.items():
                if wish.wants(one):
                    number = len(self.recorded)
                    self.debts[sink].append(Debt(number, call, one.id, one.live, self.now, self.now))

    @rule(data=st.data())
    def record_again(self, data: st.DataObject) -> None:
        if self.recorded:
            self.run(self.outbox.record(None, change(data.draw(st.sampled_from(self.recorded)))))

    @rule(seconds=st.sampled_from([0.5, 1, 30, 61]))
    def time_passes(self, seconds: float) -> None:
        self.run(self.place.clock.turn(seconds))

    @rule(target=taken, sink=SINKS, limit=st.integers(1, 3))
    def claim(self, sink: str, limit: int) -> Any:
        expected = [debt for debt in self._fronts(sink) if debt.due_at <= self.now][:limit]
        return self._take(sink, expected, self.run(self.outbox.claim(sink, limit=limit)))

    @rule(target=taken, sink=SINKS)
    def probe(self, sink: str) -> Any:
        expected = [debt for debt in self._fronts(sink) if not debt.held][:1]
        found = self.run(self.outbox.probe(sink, after_seq=0))
        return self._take(sink, expected, [found] if found else [])

    def _fronts(self, sink: str) -> list[Debt]:
        """The oldest unsettled event of each call that is not in flight."""
        fronts: dict[str, Debt] = {}
        for debt in self.debts[sink]:
            fronts.setdefault(debt.call, debt)
        busy = {debt.call for debt in self.debts[sink] if debt.in_flight}
        for debt in fronts.values():
            debt.held = debt.held and debt.due_at > self.now
        return [debt for debt in fronts.values() if debt.call not in busy]

    def _take(self, sink: str, expected: list[Debt], found: list[Delivery]) -> Any:
        assert [one.event.id for one in found] == [debt.event_id for debt in expected]
        assert [one.attempt for one in found] == [debt.attempts + 1 for debt in expected]
        for debt in expected:
            debt.in_flight = True
        return multiple(*((self.epoch, sink, one) for one in found))

    def _debt(self, sink: str, delivery: Delivery) -> Debt:
        return next(debt for debt in self.debts[sink] if debt.event_id == delivery.event.id)

    @rule(taken=consumes(taken))
    def done(self, taken: tuple[int, str, Delivery]) -> None:
        epoch, sink, delivery = taken
        if epoch == self.epoch:
            self.run(self.outbox.done([Taken(delivery, 0.1)]))
            self.debts[sink].remove(self._debt(sink, delivery))

    @rule(taken=consumes(taken), seconds=st.sampled_from([0, 1, 30]), held=st.booleans())
    def again(self, taken: tuple[int, str, Delivery], seconds: float, held: bool) -> None:
        epoch, sink, delivery = taken
        if epoch == self.epoch:
            at = self.now + timedelta(seconds=seconds)
            self.run(self.outbox.again(delivery, at=at, reason="x", detail="", took_s=0, held=held))
            debt = self._debt(sink, delivery)
            debt.in_flight, debt.attempts, debt.due_at = False, debt.attempts + 1, at
            debt.held = held

    @rule(taken=consumes(taken))
    def dead(self, taken: tuple[int, str, Delivery]) -> None:
        epoch, sink, delivery = taken
        if epoch == self.epoch:
            self.run(self.outbox.dead(delivery, reason="x", detail="", took_s=0.1))
            self.debts[sink].remove(self._debt(sink, delivery))
            self.letters[sink] += 1

    @rule(taken=consumes(taken))
    def expire(self, taken: tuple[int, str, Delivery]) -> None:
        epoch, sink, delivery = taken
        if epoch == self.epoch:
            self.run(self.outbox.expire(delivery))
            self.debts[sink].remove(self._debt(sink, delivery))
            self.letters[sink] += not delivery.live

    @rule(taken=consumes(taken))
    def release(self, taken: tuple[int, str, Delivery]) -> None:
        epoch, sink, delivery = taken
        if epoch == self.epoch:
            self.run(self.outbox.release(delivery))
            self._debt(sink, delivery).in_flight = False

    @rule(sink=SINKS)
    def make_due(self, sink: str) -> None:
        self.run(self.outbox.make_due(sink))
        for debt in self._fronts(sink) + [debt for debt in self.debts[sink] if debt.in_flight]:
            debt.due_at, debt.held = min(debt.due_at, self.now), False

    @rule()
    def restart(self) -> None:
        self.run(self.stack.aclose())
        self.epoch += 1
        self._open()
        for debts in self.debts.values():
            for debt in debts:
                debt.in_flight = False

    @invariant()
    def nothing_is_lost(self) -> None:
        if not hasattr(self, "outbox"):
            return
        found = {one.sink: (one.owed, one.dead) for one in self.run(self.outbox.stats()).sinks}
        assert found == {sink: (len(self.debts[sink]), self.letters[sink]) for sink in FILTERS}

    def teardown(self) -> None:
        if hasattr(self, "outbox"):
            self.run(self.stack.aclose())
            self.loop.close()
            shutil.rmtree(self.path)


TestOutboxModel = OutboxMachine.TestCase
TestOutboxModel.settings = settings(
    max_examples=60,
    stateful_step_count=40,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
