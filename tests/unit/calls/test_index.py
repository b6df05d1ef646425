"""The memory of what is known: bounded, indexed, rebuilt after a restart."""

import msgspec
import pytest

from callcast.calls.index import part_number
from callcast.calls.model import Call, Change, Known, Look, Snapshot, Target
from callcast.calls.tracker import Picture, Rules, diff, lookups
from tests.unit.calls.snapshots import ACCOUNT, EXTENSION, Watch, at, ended, sighting, stopped


def known(watch: Watch, *calls: Call) -> Picture:
    return Picture("acme", Known(calls={c.call_id: c for c in calls}, looks=watch.picture.looks, notes={}))


def test_after_a_restart_open_calls_go_on() -> None:
    """Live and unsettled calls are loaded, the ended are left to recall; sequences go on."""
    watch = Watch()
    watch.look(1, sighting(), stopped(session_id="s-2", record_id="L2"), ended(session_id="s-3", record_id="L3"))
    calls = [watch.call(), watch.call("101/s-2"), watch.call("101/s-3")]
    watch.picture = known(watch, *calls)
    assert {call.call_id for call in watch.picture.live_calls()} == {"101/s-1", "101/s-2"}
    assert watch.picture.call("101/s-3") is None
    seen = [ended(session_id="s-3", record_id="L3")]
    assert watch.picture.unknown_sessions(seen) == {"s-1", "s-2", "s-3", "L3"}
    shot = Snapshot(target=EXTENSION, taken_at=at(2), sightings=tuple(seen))
    assert watch.picture.unknown_sessions(shot) == {"s-1", "s-2", "s-3", "L3"}
    watch.picture.learn(calls)
    assert watch.picture.unknown_sessions(seen) == set()
    assert watch.look(2, sighting("connected"), *seen, stopped(session_id="s-2", record_id="L2")) == ["call.answered"]
    assert watch.last.sequence == 2
    assert watch.last.observation.after == at(1)


def test_a_session_loaded_at_the_start_is_recalled_before_it_is_forgotten() -> None:
    """Its ended parts lie on the disk; until they are here, the session stays."""
    watch = Watch()
    watch.look(1, sighting())
    watch.picture = known(watch, watch.call())
    watch.look(2, ended())
    watch.look(3)
    assert watch.picture.unknown_sessions() == {"s-1"}
    watch.picture.learn([watch.call()])
    watch.look(4)
    assert watch.picture.call("101/s-1") is None


def test_what_is_known_here_is_newer_than_what_is_recalled() -> None:
    """Recalling takes nothing back."""
    watch = Watch()
    watch.look(1, sighting())
    old = watch.call()
    watch.look(2, sighting("connected"))
    watch.picture.learn([old])
    assert watch.call().sequence == 2


def test_a_session_is_kept_whole_while_any_of_it_is_open_or_listed() -> None:
    """The ended part of a session that goes on elsewhere is still needed."""
    watch = Watch(ACCOUNT)
    other = sighting("ringing", extension_id="102", record_id="L2")
    watch.look(1, ended(), other)
    watch.look(2, other)
    assert watch.picture.call("101/s-1") is not None
    watch.look(3, ended("answered", extension_id="102", record_id="L2"))
    watch.look(4)
    assert watch.picture.session("s-1") == []
    assert watch.picture.of(ACCOUNT) == ()
    assert watch.picture.of(EXTENSION) == []


def test_memory_is_flat() -> None:
    """A thousand calls later nothing is left of them."""
    watch = Watch()
    for n in range(1000):
        fields = {"session_id": f"s-{n}", "record_id": f"L{n}"}
        watch.look(n, ended(**fields))
    watch.look(1001)
    same = {"looks": watch.picture.looks, "answers": watch.picture.answers}
    assert vars(watch.picture) == vars(known(watch)) | same


def test_a_look_at_one_extension_reads_only_its_own_calls() -> None:
    """Two thousand extensions are looked at each second: nothing is scanned as a whole."""
    watch = Watch()
    for n in range(200):
        target = Target(source="acme", extension_id=f"9{n}")
        watch.look(-5, target=target)
        watch.look(1, sighting(extension_id=f"9{n}", session_id=f"s-{n}", record_id=f"L{n}"), target=target)
    reads: list[str] = []

    class Counting(dict[str, Call]):
        def __getitem__(self, key: str) -> Call:
            reads.append(key)
            return super().__getitem__(key)

    watch.picture._calls = Counting(watch.picture._calls)
    watch.look(
        2,
        sighting("connected", extension_id="97", session_id="s-7", record_id="L7"),
        target=Target(source="acme", extension_id="97"),
    )
    lookups(watch.picture, at(3), Rules())
    assert set(reads) == {"97/s-7"}


def test_pending_calls_are_those_to_be_looked_up() -> None:
    """A call leaves the list of the pending when it is back, or over."""
    watch = Watch()
    watch.look(1, sighting(), stopped(session_id="s-2", record_id="L2"))
    watch.look(2)
    assert [call.call_id for call in watch.picture.pending()] == ["101/s-1"]
    watch.look(3, sighting())
    assert watch.picture.pending() == []
    watch.look(4, ended(), target=ACCOUNT)
    watch.look(5, sighting(extension_id="102", record_id="L3"), target=ACCOUNT)
    assert watch.call().vanished_at == at(5)
    assert watch.picture.pending() == []


def test_a_picture_believes_only_what_was_applied() -> None:
    """Comparing changes nothing: a change that could not be recorded is found again."""
    watch = Watch()
    snapshot = Snapshot(target=EXTENSION, taken_at=at(1), sightings=(sighting(),))
    first = diff(watch.picture, snapshot, Rules())
    assert diff(watch.picture, snapshot, Rules()) == first
    watch.picture.apply(Look(target=EXTENSION, taken_at=at(1)), first)
    assert not diff(watch.picture, snapshot, Rules())


def test_a_change_without_a_look_leaves_the_looks_alone() -> None:
    """What the call log says is no look."""
    watch = Watch()
    watch.picture.apply(None, Change())
    assert watch.picture.looks == {EXTENSION: at(-10)}


@pytest.mark.parametrize(("suffix", "number"), [("", 1), ("~2", 2), ("~13", 13)])
def test_the_number_of_a_part_is_in_its_id(suffix: str, number: int) -> None:
    """Also when the session's name holds a tilde itself."""
    watch = Watch()
    watch.look(1, sighting(session_id="s~9"))
    call = msgspec.structs.replace(watch.call("101/s~9"), call_id=f"101/s~9{suffix}")
    assert part_number(call) == number


def test_parts_come_in_the_order_of_their_numbers() -> None:
    """~10 after ~9, whatever order they were recalled in."""
    watch = Watch()
    watch.look(1, sighting())
    one = watch.call()
    rest = [msgspec.structs.replace(one, call_id=f"101/s-1~{n}") for n in (10, 2, 9)]
    watch.picture.learn(rest)
    assert [part_number(call) for call in watch.picture.parts("101", "s-1")] == [1, 2, 9, 10]
    two = known(watch, rest[0], rest[2])
    assert [part_number(call) for call in two.parts("101", "s-1")] == [9, 10]


def test_the_last_look_of_an_extension_may_be_the_accounts() -> None:
    """After `watch` has changed, both lists can have shown it."""
    watch = Watch()
    assert watch.picture.looked_at("101") == at(-10)
    assert watch.picture.looked_at("102") is None
    watch.look(5, target=ACCOUNT)
    assert watch.picture.looked_at("101") == watch.picture.looked_at("102") == at(5)
