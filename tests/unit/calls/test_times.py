"""Honest times: when a call was answered, what is exact, and that times never run backwards."""

from datetime import datetime

import msgspec
import pytest

from callcast.calls.lifecycle import in_order, joined_party
from callcast.calls.model import Call, Direction, Leg, Party, Provider, State
from tests.unit.calls.snapshots import ACCOUNT, Watch, at, ended, leg, observation


def test_the_answer_is_the_start_of_a_leg_that_was_not_there_while_ringing() -> None:
    """seed-direct: the second leg's start, exactly; ringing lasts until then, talking from then."""
    watch = Watch()
    rung = leg("Accept", 0)
    watch.poll(1, observation(legs=(rung,)))
    watch.poll(8, observation("connected", legs=(rung, leg("PstnToSip", 4, accepted=True))))
    assert (watch.last.time, watch.last.observation.exact) == (at(4), True)
    watch.poll(12, ended("answered", legs=(leg("Accept", 0, accepted=True), leg("PstnToSip", 4, accepted=True))))
    assert (watch.last.call.answered_at, watch.last.call.answered_exact) == (at(4), True)


def test_a_leg_seen_while_ringing_gives_no_answer_time() -> None:
    """seed-queue: the ringing leg is accepted, so the answer is the time of the poll; the end adds a leg with the
    call's own start, which is no answer either."""
    watch = Watch()
    watch.poll(1, observation(legs=(leg("PstnToSip", 0),)))
    watch.poll(8, observation("connected", legs=(leg("PstnToSip", 0, accepted=True),)))
    assert (watch.last.time, watch.last.observation.exact) == (at(8), False)
    watch.poll(9, observation("connected", legs=(leg("PstnToSip", 0, accepted=True),)))
    assert watch.call().answered_at == at(8)
    final = (leg("Accept", 0, accepted=True), leg("PstnToSip", 0, accepted=True))
    watch.poll(12, ended("answered", legs=final))
    assert (watch.last.call.answered_at, watch.last.call.answered_exact) == (at(8), False)


def test_a_leg_seen_while_dialing_gives_no_answer_time() -> None:
    """The same for a call that the extension places; nothing is answered while it dials."""
    watch = Watch()
    watch.poll(1, observation("dialing", legs=(leg("A", 0.5),)))
    assert watch.call().answered_at is None
    watch.poll(8, observation("connected", direction=Direction.OUTBOUND, legs=(leg("A", 0.5, accepted=True),)))
    assert (watch.last.time, watch.last.observation.exact) == (at(8), False)


def test_a_leg_that_first_showed_while_talking_may_be_the_answer() -> None:
    """It was not there while the call rang, although it is accepted only later."""
    watch = Watch()
    watch.poll(1, observation(legs=(leg("A", 0),)))
    watch.poll(8, observation("connected", legs=(leg("A", 0, accepted=True), leg("B", 4))))
    watch.poll(12, ended("answered", legs=(leg("A", 0, accepted=True), leg("B", 4, accepted=True))))
    assert (watch.last.call.answered_at, watch.last.call.answered_exact) == (at(4), True)


def test_of_several_legs_that_show_after_the_answer_the_first_counts() -> None:
    """As for those that show with it: the call was seen ringing, so all of them came after that."""
    watch = Watch()
    watch.poll(1, observation(legs=(leg("A", 0),)))
    watch.poll(8, observation("connected", legs=(leg("A", 0, accepted=True),)))
    watch.poll(9, observation("connected", legs=(leg("B", 6, accepted=True), leg("C", 3, accepted=True))))
    assert (watch.call().answered_at, watch.call().answered_exact) == (at(3), True)


def test_of_several_new_legs_the_first_answered() -> None:
    """A call that was moved on within one poll was answered at the first of the new legs."""
    watch = Watch()
    watch.poll(1, observation(legs=(leg("Accept", 0),)))
    watch.poll(8, observation("connected", legs=(leg("PstnToSip", 6, accepted=True), leg("FindMe", 3, accepted=True))))
    assert watch.last.time == at(3)


@pytest.mark.parametrize("rung", [(), (leg("Accept", 0),)])
@pytest.mark.parametrize("start", [0, 3])
def test_a_new_leg_may_start_with_the_call(start: float, rung: tuple[Leg, ...]) -> None:
    """While ringing it was not there, so it is the answer, even within the same second."""
    watch = Watch()
    watch.poll(1, observation(legs=rung))
    watch.poll(8, observation("connected", legs=(leg("PstnToSip", start, accepted=True),)))
    assert (watch.last.time, watch.last.observation.exact) == (at(start), True)


def test_first_seen_connected_the_latest_accepted_leg_after_the_start_counts() -> None:
    """Of a call that no poll showed ringing, only a leg that starts after the call can be the answer."""
    watch = Watch()
    legs = (leg("Accept", 0, accepted=True), leg("A", 3, accepted=True), leg("B", 5, accepted=True), leg("C", 7))
    watch.poll(9, observation("connected", legs=legs))
    assert (watch.last.time, watch.last.observation.exact) == (at(5), True)
    watch.poll(10, observation("connected", session_id="s-2", record_id="L2", legs=legs[:1]))
    assert (watch.last.time, watch.last.observation.exact) == (at(10), False)


def test_first_seen_ended_an_answer_is_known_only_from_a_leg() -> None:
    """Without one the time is null, not guessed."""
    watch = Watch()
    watch.poll(20, ended("answered", legs=(leg("Accept", 0, accepted=True),)))
    assert watch.last.call.answered_at is None
    watch.poll(21, ended("answered", session_id="s-2", record_id="L2", legs=(leg("PstnToSip", 4, accepted=True),)))
    assert (watch.last.call.answered_at, watch.last.call.answered_exact) == (at(4), True)


def test_seen_ringing_then_ended_the_answer_is_found_in_the_final_legs() -> None:
    """A short call answered between two polls."""
    watch = Watch()
    watch.poll(1, observation(legs=(leg("Accept", 0),)))
    watch.poll(20, ended("answered", legs=(leg("Accept", 0, accepted=True), leg("PstnToSip", 4, accepted=True))))
    assert (watch.last.call.answered_at, watch.last.call.answered_exact) == (at(4), True)


def test_the_platforms_answer_replaces_the_polls_but_only_an_earlier_one() -> None:
    """An exact time that comes with the end counts; a leg of a later transfer does not."""
    for start, exact in ((4, True), (8, True), (9, False)):
        watch = Watch()
        watch.poll(1, observation(legs=(leg("PstnToSip", 0),)))
        watch.poll(8, observation("connected", legs=(leg("PstnToSip", 0, accepted=True),)))
        watch.poll(12, ended("answered", legs=(leg("FindMe", start, accepted=True),)))
        assert watch.last.call.answered_at == at(min(start, 8))
        assert watch.last.call.answered_exact is exact


def test_an_exact_answer_stays() -> None:
    """Later legs (a transfer) do not move it."""
    watch = Watch()
    watch.poll(1, observation("connected", legs=(leg("A", 0.5, accepted=True),)))
    watch.poll(8, observation("connected", legs=(leg("A", 0.5, accepted=True), leg("B", 6, accepted=True))))
    watch.poll(9, ended("answered", legs=(leg("B", 6, accepted=True),)))
    assert (watch.last.call.answered_at, watch.last.call.answered_exact) == (at(0.5), True)


def test_legs_of_every_ringing_poll_count_as_there_while_ringing() -> None:
    """A leg that was there, went and came back accepted is no news."""
    watch = Watch()
    watch.poll(1, observation(legs=(leg("A", 0),)))
    watch.poll(2, observation(legs=(leg("B", 1),)))
    assert watch.call().ringing_legs == tuple(f"{kind}@{at(t).timestamp()}" for kind, t in (("A", 0), ("B", 1)))
    watch.poll(3, observation("connected", legs=(leg("A", 0, accepted=True), leg("B", 1, accepted=True))))
    assert (watch.last.time, watch.last.observation.exact) == (at(3), False)


def test_ringing_and_dialing_happened_when_the_platform_says() -> None:
    """Their time is the record's start, exactly; the polls around it are reported."""
    watch = Watch()
    watch.poll(3, observation("dialing", started=2))
    seen = watch.last.observation
    assert (watch.last.time, seen.exact, seen.after, seen.before) == (at(2), True, at(-10), at(3))


def test_polls_never_run_backwards() -> None:
    """A clock that jumps back makes no poll earlier than the one before."""
    watch = Watch()
    watch.poll(100, observation())
    watch.poll(5, observation("connected"))
    assert watch.index.polls[watch.target] == at(100)
    assert watch.last.observation.before == at(100)
    assert watch.last.call.answered_at == at(100)


def test_polls_never_run_backwards_whichever_list_was_read_last() -> None:
    """The later poll of the account or at the extension counts for both."""
    watch = Watch()
    watch.poll(10)
    watch.poll(20, target=ACCOUNT)
    watch.poll(5, observation())
    assert watch.index.polls[watch.target] == at(20)
    watch.poll(30)
    watch.poll(5, target=ACCOUNT)
    assert watch.index.polls[ACCOUNT] == at(30)


def call(answered: float | None, ended_: float | None, *, answered_exact: bool, ended_exact: bool) -> Call:
    return Call(
        source="acme",
        call_id="101/s-1",
        session_id="s-1",
        extension_id="101",
        account_id=None,
        direction=Direction.INBOUND,
        state=State.ENDED,
        started_at=at(10),
        answered_at=None if answered is None else at(answered),
        answered_exact=answered_exact,
        ended_at=None if ended_ is None else at(ended_),
        ended_exact=ended_exact,
        provider=Provider(name="x", record_id="L1"),
    )


@pytest.mark.parametrize(
    ("answered", "answered_exact", "ended_", "ended_exact", "expected"),
    [
        (12, True, 15, True, (12, 15)),
        (8, True, 15, True, (10, 15)),
        (12, True, 8, True, (12, 12)),
        (20, True, 15, True, (20, 20)),  # of two of a kind the later is raised
        (20, False, 15, False, (20, 20)),
        (20, False, 15, True, (15, 15)),  # the poll's gives way
        (20, True, 15, False, (20, 20)),
        (20, False, 5, True, (10, 10)),
        (None, False, 5, True, (None, 10)),
        (5, False, None, False, (10, None)),
    ],
)
def test_started_answered_ended(
    answered: float | None,
    answered_exact: bool,
    ended_: float | None,
    ended_exact: bool,
    expected: tuple[float | None, float | None],
) -> None:
    """Always in this order: of two times of a kind the later is raised, one taken from a poll gives way."""
    ordered = in_order(call(answered, ended_, answered_exact=answered_exact, ended_exact=ended_exact))
    times: tuple[datetime | None, ...] = (ordered.answered_at, ordered.ended_at)
    assert times == tuple(None if t is None else at(t) for t in expected)


def test_a_party_keeps_what_is_not_said_again_unless_it_is_another() -> None:
    """The same number or extension number: completed; another: replaced."""
    known = Party(number="+1", name="A", extension_number="7", location="X")
    assert joined_party(known, None) == known
    assert joined_party(None, known) == known
    assert joined_party(None, None) is None
    assert joined_party(known, Party(name="B")) == Party(number="+1", name="B", extension_number="7", location="X")
    assert joined_party(known, Party(number="+1", location="Y")) == Party(
        number="+1", name="A", extension_number="7", location="Y"
    )
    assert joined_party(Party(name="A"), Party(number="+1", extension_number="7")) == Party(
        number="+1", name="A", extension_number="7"
    )
    assert joined_party(known, Party(number="+2")) == Party(number="+2")
    assert joined_party(known, Party(extension_number="8")) == Party(extension_number="8")


def test_an_end_that_is_only_known_not_to_be_later_moves_no_end() -> None:
    """The phone stopped ringing after 5 s, and its record lasted until another had talked: rung for 5 s."""
    late = ended("answered_elsewhere", end=55, ended_exact=False)
    watch = Watch()
    watch.poll(1, observation())
    assert watch.poll(5, ended("answered_elsewhere", end=None)) == ["call.ended"]
    assert watch.poll(60, late) == []
    assert (watch.call().ended_at, watch.call().ended_exact) == (at(5), False)
    for poll, end in ((40, 40), (60, 55)):
        watch = Watch()
        watch.poll(poll, late)
        assert (watch.last.time, watch.last.observation.exact) == (at(end), False)
    watch = Watch()
    watch.poll(1, observation())
    watch.poll(5, msgspec.structs.replace(late, provisional=True))
    watch.poll(9)
    assert (watch.last.type, watch.last.time, watch.last.observation.exact) == ("call.ended", at(9), False)
