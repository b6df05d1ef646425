"""The queue of a sink: in any history it hands out what a read of the store would, in the same order."""

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from callcast.outbox import claims
from callcast.outbox.claims import Due, Front, SinkQueue
from callcast.ports.sink import Delivery
from tests.builders import NINE, event
from tests.effort import tries

STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("record"), st.booleans()),
        st.tuples(st.just("claim"), st.integers(1, 4)),
        st.tuples(st.just("ack"), st.integers(0, 9)),
        st.tuples(st.just("release"), st.integers(0, 9)),
        st.tuples(st.just("written elsewhere"), st.booleans()),
    ),
    max_size=60,
)


def due(seq: int, replayed: bool = False) -> Due:
    delivery = Delivery(sink="crm", seq=seq, event=event(), attempt=1, recorded_at=NINE, replayed=replayed)
    return Due(seq, delivery)


async def claimed(queue: SinkQueue, store: dict[int, Due], limit: int) -> list[int]:
    """Claim as a store does."""
    if queue.must_read(limit, 0):
        first = sorted(store.values(), key=lambda one: one.order)[: limit + len(queue.claimed)]
        queue.refresh(Front(first, len(first) < limit + len(queue.claimed), ()))
    return [delivery.seq for delivery in queue.take(limit)]


@settings(deadline=None, max_examples=tries(100, 5_000))
@given(steps=STEPS)
async def test_every_claim_is_what_the_store_would_give(steps: list[tuple[str, Any]]) -> None:
    """Reads are small and memory is short, so that the queue often holds only the front of what is due."""
    queue, store, taken, most = SinkQueue(), dict[int, Due](), list[int](), claims._READY_MAX
    claims._READY_MAX = 6
    try:
        for seq, (step, argument) in enumerate(steps, 1):
            if step in ("record", "written elsewhere"):
                store[seq] = due(seq, replayed=argument)
            if step == "record":
                queue.offer(store[seq])
            elif step == "written elsewhere":
                queue.invalidate()
            elif step == "claim":
                free = sorted((one for key, one in store.items() if key not in taken), key=lambda one: one.order)
                found = await claimed(queue, store, argument)
                assert found == [one.delivery.seq for one in free[:argument]]
                taken += found
            elif taken:
                one = store[taken.pop(argument % len(taken))]
                queue.settled(one.delivery)
                if step == "release":
                    queue.invalidate()
                else:
                    del store[one.delivery.seq]
    finally:
        claims._READY_MAX = most


async def test_a_due_time_makes_the_next_claim_read() -> None:
    """A retry is not in memory: the store is read when its time has come, and not before."""
    queue = SinkQueue()
    queue.refresh(Front([due(1)], True, [(7, 500)]))
    assert not queue.must_read(1, 499)
    assert queue.must_read(1, 500)
    queue.retry_at(300)
    assert queue.must_read(1, 300)
    (first,) = queue.take(9)
    queue.settled(first)
    assert queue.due_in_s(0) == 300e-6


async def test_the_waiting_of_a_claimed_call_is_not_awaited() -> None:
    """A delivery that was claimed as a recovery probe is still waiting in the store; its time does not count."""
    queue = SinkQueue()
    probe = due(1)
    queue.take_probe(probe)
    queue.refresh(Front([], True, [(probe.ordering_key, 0), (2, 900)]))
    assert queue.due_in_s(0) == 900e-6


async def test_only_a_fresh_delivery_wakes_who_waits_for_one() -> None:
    """The sink is failing: a later event of a call, or a settled delivery, is no reason for a recovery probe."""
    queue = SinkQueue()
    waiter = queue.waiter(fresh_only=True)
    queue.offer(due(1))
    queue.settled(due(1).delivery)
    assert not waiter.done()
    queue.offer(Due(2, due(2).delivery, fresh=True))
    assert waiter.done()


async def test_a_delivery_behind_one_that_the_store_lost_is_not_forgotten() -> None:
    """Settling a delivery that is not in the store any more makes no other one due there: it is already."""
    queue = SinkQueue()
    queue.refresh(Front([due(1)], True, ()))
    (first,) = queue.take(1)
    behind = Due(due(1).ordering_key, due(2).delivery)
    queue.refresh(Front([behind], True, ()))
    assert queue.take(1) == []
    queue.settled(first)
    assert queue.must_read(1, 0)
    queue.refresh(Front([behind], True, ()))
    assert queue.take(1) == [behind.delivery]
