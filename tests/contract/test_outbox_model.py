"""The outbox against a model that a reader can check in one poll, through any history of claims and endings."""

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

from callcast.ports.outbox import Acked
from callcast.ports.sink import Delivery, Filter
from tests.builders import change, event
from tests.contract.test_outbox import SqlitePlace

FILTERS = {"all": Filter(), "ends": Filter(events=("call.ended", "call.corrected"))}
TYPES = ("call.ringing", "call.answered", "call.updated", "call.ended", "call.corrected")
CALLS = ("a", "b", "c", "d")
SINKS = st.sampled_from(sorted(FILTERS))


@dataclass
class Pending:
    """One pending delivery of one sink, as the model sees it."""

    number: int
    call: str
    event_id: str
    live: bool
    pending_at: datetime
    due_at: datetime
    attempts: int = 0
    held: bool = False
    in_flight: bool = False


class OutboxMachine(RuleBasedStateMachine):
    """Deliveries are lists in the order of recording; of each call only the first may be claimed, unless in flight."""

    taken: Bundle[tuple[str, Delivery]] = Bundle("taken")

    @initialize()
    def begin(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.path = Path(tempfile.mkdtemp(prefix="callcast-model-"))
        self.context = SqlitePlace(self.path)
        self.deliveries: dict[str, list[Pending]] = {sink: [] for sink in FILTERS}
        self.dead_letters = dict.fromkeys(FILTERS, 0)
        self.sequences = dict.fromkeys(CALLS, 0)
        self.recorded: list[Any] = []
        self.epoch = 0
        self._open()

    def _open(self) -> None:
        self.stack = AsyncExitStack()
        self.outbox = self.run(self.stack.enter_async_context(self.context.open()))
        self.run(self.outbox.subscribe(FILTERS))

    def run(self, awaitable: Any) -> Any:
        return self.loop.run_until_complete(awaitable)

    @property
    def now(self) -> datetime:
        return self.context.clock.now()

    @rule(call=st.sampled_from(CALLS), types=st.lists(st.sampled_from(TYPES), min_size=1, max_size=3))
    def record(self, call: str, types: list[str]) -> None:
        events = []
        for type_ in types:
            self.sequences[call] += 1
            events.append(event(call, type_, self.sequences[call]))
        self.run(self.outbox.record("acme", None, change(*events)))
        for one in events:
            self.recorded.append(one)
            for sink, filter_ in FILTERS.items():
                if filter_.wants(one):
                    number = len(self.recorded)
                    self.deliveries[sink].append(Pending(number, call, one.id, one.live, self.now, self.now))

    @rule(data=st.data())
    def record_again(self, data: st.DataObject) -> None:
        if self.recorded:
            self.run(self.outbox.record("acme", None, change(data.draw(st.sampled_from(self.recorded)))))

    @rule(seconds=st.sampled_from([0.5, 1, 30, 61]))
    def time_passes(self, seconds: float) -> None:
        self.run(self.context.clock.turn(seconds))

    @rule(target=taken, sink=SINKS, limit=st.integers(1, 3))
    def claim(self, sink: str, limit: int) -> Any:
        expected = [delivery for delivery in self._fronts(sink) if delivery.due_at <= self.now][:limit]
        return self._take(sink, expected, self.run(self.outbox.claim(sink, limit=limit)))

    @rule(target=taken, sink=SINKS)
    def claim_probe(self, sink: str) -> Any:
        expected = [delivery for delivery in self._fronts(sink) if not delivery.held][:1]
        found = self.run(self.outbox.claim_probe(sink, after_seq=0))
        return self._take(sink, expected, [found] if found else [])

    def _fronts(self, sink: str) -> list[Pending]:
        """The oldest unsettled event of each call that is not in flight."""
        fronts: dict[str, Pending] = {}
        for delivery in self.deliveries[sink]:
            fronts.setdefault(delivery.call, delivery)
        busy = {delivery.call for delivery in self.deliveries[sink] if delivery.in_flight}
        for delivery in fronts.values():
            delivery.held = delivery.held and delivery.due_at > self.now
        return [delivery for delivery in fronts.values() if delivery.call not in busy]

    def _take(self, sink: str, expected: list[Pending], found: list[Delivery]) -> Any:
        assert [one.event.id for one in found] == [delivery.event_id for delivery in expected]
        assert [one.attempt for one in found] == [delivery.attempts + 1 for delivery in expected]
        for delivery in expected:
            delivery.in_flight = True
        return multiple(*((self.epoch, sink, one) for one in found))

    def _delivery(self, sink: str, delivery: Delivery) -> Pending:
        return next(one for one in self.deliveries[sink] if one.event_id == delivery.event.id)

    @rule(taken=consumes(taken))
    def ack(self, taken: tuple[int, str, Delivery]) -> None:
        epoch, sink, delivery = taken
        if epoch == self.epoch:
            self.run(self.outbox.ack([Acked(delivery, 0.1)]))
            self.deliveries[sink].remove(self._delivery(sink, delivery))

    @rule(taken=consumes(taken), seconds=st.sampled_from([0, 1, 30]), held=st.booleans())
    def retry(self, taken: tuple[int, str, Delivery], seconds: float, held: bool) -> None:
        epoch, sink, delivery = taken
        if epoch == self.epoch:
            at = self.now + timedelta(seconds=seconds)
            self.run(self.outbox.retry(delivery, at=at, reason="x", detail="", took_s=0, held=held))
            delivery = self._delivery(sink, delivery)
            delivery.in_flight, delivery.attempts, delivery.due_at = False, delivery.attempts + 1, at
            delivery.held = held

    @rule(taken=consumes(taken))
    def dead_letter(self, taken: tuple[int, str, Delivery]) -> None:
        epoch, sink, delivery = taken
        if epoch == self.epoch:
            self.run(self.outbox.dead_letter(delivery, reason="x", detail="", took_s=0.1))
            self.deliveries[sink].remove(self._delivery(sink, delivery))
            self.dead_letters[sink] += 1

    @rule(taken=consumes(taken))
    def expire(self, taken: tuple[int, str, Delivery]) -> None:
        epoch, sink, delivery = taken
        if epoch == self.epoch:
            self.run(self.outbox.expire(delivery))
            self.deliveries[sink].remove(self._delivery(sink, delivery))
            self.dead_letters[sink] += not delivery.live

    @rule(taken=consumes(taken))
    def release(self, taken: tuple[int, str, Delivery]) -> None:
        epoch, sink, delivery = taken
        if epoch == self.epoch:
            self.run(self.outbox.release(delivery))
            self._delivery(sink, delivery).in_flight = False

    @rule(sink=SINKS)
    def make_due(self, sink: str) -> None:
        self.run(self.outbox.make_due(sink))
        for delivery in self._fronts(sink) + [delivery for delivery in self.deliveries[sink] if delivery.in_flight]:
            delivery.due_at, delivery.held = min(delivery.due_at, self.now), False

    @rule()
    def restart(self) -> None:
        self.run(self.stack.aclose())
        self.epoch += 1
        self._open()
        for deliveries in self.deliveries.values():
            for delivery in deliveries:
                delivery.in_flight = False

    @invariant()
    def nothing_is_lost(self) -> None:
        if not hasattr(self, "outbox"):
            return
        found = {one.sink: (one.pending, one.dead) for one in self.run(self.outbox.stats()).sinks}
        assert found == {sink: (len(self.deliveries[sink]), self.dead_letters[sink]) for sink in FILTERS}

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
