"""The memory of what is known: bounded, indexed, rebuilt after a restart."""

import msgspec
import pytest

from callcast.calls.index import part_number
from callcast.calls.model import Call, ChangeSet, Known, PollRecord, Snapshot, Target
from callcast.calls.tracker import CallIndex, Rules, compare, due_lookups
from tests.unit.calls.snapshots import ACCOUNT, EXTENSION, Watch, at, ended, observation, stopped


def known(watch: Watch, *calls: Call) -> CallIndex:
    return CallIndex("acme", Known(calls={c.call_id: c for c in calls}, polls=watch.index.polls, notes={}))


def test_after_a_restart_open_calls_go_on() -> None:
    """Live and unsettled calls are loaded, the ended are left to recall; sequences go on."""
    watch = Watch()
    watch.poll(1, observation(), stopped(session_id="s-2", record_id="L2"), ended(session_id="s-3", record_id="L3"))
    calls = [watch.call(), watch.call("101/s-2"), watch.call("101/s-3")]
    watch.index = known(watch, *calls)
    assert {call.call_id for call in watch.index.live_calls()} == {"101/s-1", "101/s-2"}
    assert watch.index.call("101/s-3") is None
    seen = [ended(session_id="s-3", record_id="L3")]
    assert watch.index.sessions_to_recall(seen) == {"s-1", "s-2", "s-3", "L3"}
    watch.index.learn(calls)
    assert watch.index.sessions_to_recall(seen) == set()
    assert watch.poll(2, observation("connected"), *seen, stopped(session_id="s-2", record_id="L2")) == [
        "call.answered"
    ]
    assert watch.last.sequence == 2
    assert watch.last.observation.after == at(1)


def test_a_session_loaded_at_the_start_is_recalled_before_it_is_forgotten() -> None:
    """Its ended parts lie on the disk; until they are here, the session stays."""
    watch = Watch()
    watch.poll(1, observation())
    watch.index = known(watch, watch.call())
    watch.poll(2, ended())
    watch.poll(3)
    assert watch.index.sessions_to_recall() == {"s-1"}
    watch.index.learn([watch.call()])
    watch.poll(4)
    assert watch.index.call("101/s-1") is None


def test_a_call_in_the_index_is_newer_than_a_recalled_one() -> None:
    """Recalling takes nothing back."""
    watch = Watch()
    watch.poll(1, observation())
    old = watch.call()
    watch.poll(2, observation("connected"))
    watch.index.learn([old])
    assert watch.call().sequence == 2


def test_a_session_is_kept_whole_while_any_of_it_is_open_or_listed() -> None:
    """The ended part of a session that goes on elsewhere is still needed."""
    watch = Watch(ACCOUNT)
    other = observation("ringing", extension_id="102", record_id="L2")
    watch.poll(1, ended(), other)
    watch.poll(2, other)
    assert watch.index.call("101/s-1") is not None
    watch.poll(3, ended("answered", extension_id="102", record_id="L2"))
    watch.poll(4)
    assert watch.index.session("s-1") == []
    assert watch.index.of(ACCOUNT) == ()
    assert watch.index.of(EXTENSION) == []


def test_memory_is_flat() -> None:
    """A thousand calls later nothing is left of them."""
    watch = Watch()
    for n in range(1000):
        fields = {"session_id": f"s-{n}", "record_id": f"L{n}"}
        watch.poll(n, ended(**fields))
    watch.poll(1001)
    same = {"polls": watch.index.polls, "answers": watch.index.answers}
    assert vars(watch.index) == vars(known(watch)) | same


def test_a_poll_at_one_extension_reads_only_its_own_calls() -> None:
    """Two thousand extensions are polled each second: nothing is scanned as a whole."""
    watch = Watch()
    for n in range(200):
        target = Target(source="acme", extension_id=f"9{n}")
        watch.poll(-5, target=target)
        watch.poll(1, observation(extension_id=f"9{n}", session_id=f"s-{n}", record_id=f"L{n}"), target=target)
    reads: list[str] = []

    class Counting(dict[str, Call]):
        def __getitem__(self, key: str) -> Call:
            reads.append(key)
            return super().__getitem__(key)

    watch.index._calls = Counting(watch.index._calls)
    watch.poll(
        2,
        observation("connected", extension_id="97", session_id="s-7", record_id="L7"),
        target=Target(source="acme", extension_id="97"),
    )
    due_lookups(watch.index, at(3), Rules())
    assert set(reads) == {"97/s-7"}


def test_pending_calls_are_those_to_be_looked_up() -> None:
    """A call leaves the list of the pending when it is back, or over."""
    watch = Watch()
    watch.poll(1, observation(), stopped(session_id="s-2", record_id="L2"))
    watch.poll(2)
    assert [call.call_id for call in watch.index.pending()] == ["101/s-1"]
    watch.poll(3, observation())
    assert watch.index.pending() == []
    watch.poll(4, ended(), target=ACCOUNT)
    watch.poll(5, observation(extension_id="102", record_id="L3"), target=ACCOUNT)
    assert watch.call().vanished_at == at(5)
    assert watch.index.pending() == []


def test_a_index_believes_only_what_was_applied() -> None:
    """Comparing changes nothing: a change that could not be recorded is found again."""
    watch = Watch()
    snapshot = Snapshot(target=EXTENSION, taken_at=at(1), observations=(observation(),))
    first = compare(watch.index, snapshot, Rules())
    assert compare(watch.index, snapshot, Rules()) == first
    watch.index.apply(PollRecord(target=EXTENSION, taken_at=at(1)), first)
    assert not compare(watch.index, snapshot, Rules())


def test_a_change_without_a_poll_leaves_the_polls_alone() -> None:
    """What the call log says is no poll."""
    watch = Watch()
    watch.index.apply(None, ChangeSet())
    assert watch.index.polls == {EXTENSION: at(-10)}


@pytest.mark.parametrize(("suffix", "number"), [("", 1), ("~2", 2), ("~13", 13)])
def test_the_number_of_a_part_is_in_its_id(suffix: str, number: int) -> None:
    """Also when the session's name holds a tilde itself."""
    watch = Watch()
    watch.poll(1, observation(session_id="s~9"))
    call = msgspec.structs.replace(watch.call("101/s~9"), call_id=f"101/s~9{suffix}")
    assert part_number(call) == number


def test_parts_come_in_the_order_of_their_numbers() -> None:
    """~10 after ~9, whatever order they were recalled in."""
    watch = Watch()
    watch.poll(1, observation())
    one = watch.call()
    rest = [msgspec.structs.replace(one, call_id=f"101/s-1~{n}") for n in (10, 2, 9)]
    watch.index.learn(rest)
    assert [part_number(call) for call in watch.index.parts("101", "s-1")] == [1, 2, 9, 10]
    two = known(watch, rest[0], rest[2])
    assert [part_number(call) for call in two.parts("101", "s-1")] == [9, 10]


def test_the_last_poll_of_an_extension_may_be_the_accounts() -> None:
    """After `watch` has changed, both lists can have shown it."""
    watch = Watch()
    assert watch.index.last_poll_at("101") == at(-10)
    assert watch.index.last_poll_at("102") is None
    watch.poll(5, target=ACCOUNT)
    assert watch.index.last_poll_at("101") == watch.index.last_poll_at("102") == at(5)
