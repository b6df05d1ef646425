"""Facts of a call that are not taken back: its direction, its parties, that it was answered."""

from datetime import timedelta
from typing import Any

import msgspec
import pytest

from callcast.calls.model import AS_INBOUND, CallObservation, Direction, Disposition, Party
from callcast.calls.tracker import fill_gap, give_up, resolve, unwatch
from callcast.formats.cloudevents import ring_seconds, talk_seconds
from tests.unit.calls.snapshots import ACCOUNT, CALLED, CALLER, Watch, at, ended, leg, observation, stopped

FLIPPED: dict[str, Any] = {"direction": Direction.OUTBOUND, "from_party": CALLED, "to_party": CALLER}
UNANSWERED = [kind for kind in Disposition if kind not in (Disposition.ANSWERED, Disposition.TRANSFERRED)]


# Which way


@pytest.mark.parametrize(("word", "inbound"), AS_INBOUND.items())
def test_a_record_that_turns_outbound_is_read_with_the_calls_own_direction(
    word: Disposition, inbound: Disposition
) -> None:
    """No Answer is missed, Hang Up is abandoned; the parties stay on their sides."""
    watch = Watch()
    watch.poll(1, observation())
    assert watch.poll(9, ended(word, end=8, **FLIPPED)) == ["call.ended"]
    call = watch.last.call
    assert (call.direction, call.disposition) == (Direction.INBOUND, inbound)
    assert (call.from_party, call.to_party) == (CALLER, CALLED)
    assert watch.poll(17, ended(word, end=8, **FLIPPED)) == []


@pytest.mark.parametrize("known", [observation(), observation("connected")])
def test_a_live_record_that_turns_outbound_changes_nothing(known: CallObservation) -> None:
    """Not the state, and there is no event."""
    watch = Watch()
    watch.poll(1, known)
    assert watch.poll(2, observation("dialing", **FLIPPED)) == []
    assert (watch.call().state, watch.call().direction) == (known.state, Direction.INBOUND)
    assert watch.poll(3, observation("connected", **FLIPPED)) == (["call.answered"] if known == observation() else [])


def test_a_record_that_turns_outbound_after_the_end_corrects_no_direction() -> None:
    """Its times still count; from the call log too."""
    watch = Watch()
    watch.poll(1, observation())
    watch.poll(9, ended("answered", end=8))
    assert watch.poll(10, ended("answered", end=8, **FLIPPED)) == []
    assert watch.poll(11, ended("answered", end=9, **FLIPPED)) == ["call.corrected"]
    assert (watch.call().direction, watch.call().from_party, watch.call().ended_at) == (
        Direction.INBOUND,
        CALLER,
        at(9),
    )
    again = ended("no_answer", end=9, **FLIPPED)
    assert watch.apply(None, fill_gap(watch.index, watch.target, [again], at(60), watch.rules, after=at(11))) == []


def test_the_call_log_may_turn_outbound_too() -> None:
    """A call that vanished was inbound, whatever the log calls it; also where that word is not final."""
    for last in ((), (stopped(**FLIPPED),)):
        watch = Watch()
        watch.poll(1, observation())
        watch.poll(2)
        word = ended("no_answer", end=9, **FLIPPED)
        for record in last:
            watch.apply(None, resolve(watch.index, "101/s-1", [record], at(33), watch.rules))
        watch.apply(None, resolve(watch.index, "101/s-1", [word], at(60), watch.rules))
        assert (watch.last.call.direction, watch.last.call.disposition) == (Direction.INBOUND, Disposition.MISSED)


def test_a_caller_who_was_not_known_is_whom_the_flipped_record_calls() -> None:
    """A queue call's caller is known at the end; the extension itself is no caller."""
    watch = Watch()
    own = Party(extension_number="101")
    watch.poll(1, observation(from_party=None, to_party=own))
    assert watch.poll(2, observation("dialing", direction=Direction.OUTBOUND, from_party=own, to_party=own)) == []
    assert watch.poll(3, observation("dialing", direction=Direction.OUTBOUND, from_party=own, to_party=None)) == []
    assert watch.poll(9, ended("no_answer", end=8, **FLIPPED)) == ["call.ended"]
    assert (watch.last.call.from_party, watch.last.call.to_party) == (CALLER, own)


def test_a_caller_who_becomes_known_by_a_flipped_record_is_news() -> None:
    """While it lives as an update, after the end as a correction."""
    for known, kind in ((observation(from_party=None), "call.updated"), (ended(from_party=None), "call.corrected")):
        watch = Watch()
        watch.poll(1, known)
        flipped = msgspec.structs.replace(known, **FLIPPED)
        assert watch.poll(2, flipped) == [kind]
        assert watch.call().from_party == CALLER
        assert watch.poll(3, flipped) == []


def test_an_outbound_call_may_still_turn_inbound() -> None:
    """A queue call that was taken for one that the extension places; then it stays so."""
    watch = Watch()
    watch.poll(1, observation("dialing"))
    assert watch.poll(2, observation()) == ["call.updated"]
    assert watch.poll(3, observation("dialing")) == []
    assert watch.poll(4, ended("no_answer", direction=Direction.OUTBOUND)) == ["call.ended"]
    assert (watch.last.call.direction, watch.last.call.disposition) == (Direction.INBOUND, Disposition.MISSED)


def test_an_unreported_call_may_turn_outbound() -> None:
    """A record that waited to settle, or was over before the first poll."""
    watch = Watch()
    watch.poll(1, stopped())
    assert watch.poll(2, observation("dialing", **FLIPPED)) == ["call.dialing"]
    assert watch.last.call.direction is Direction.OUTBOUND


def test_a_call_that_no_record_calls_inbound_is_outbound() -> None:
    """No answer is no miss there, and another's answer is not its."""
    watch = Watch(ACCOUNT)
    watch.poll(1, observation("dialing"), observation("connected", extension_id="102", record_id="L2"))
    watch.poll(9, ended("no_answer", direction=Direction.OUTBOUND))
    assert (watch.last.call.disposition, ring_seconds(watch.last.call)) == (Disposition.NO_ANSWER, 10)


# That it was answered


@pytest.mark.parametrize("word", UNANSWERED)
def test_an_answer_that_was_seen_outranks_the_word_of_the_end(word: Disposition) -> None:
    """In the list, in the call log, after it vanished; the raw word stays."""
    watch = Watch()
    watch.poll(1, observation(legs=(leg("Accept", 0),)))
    watch.poll(5, observation("connected", legs=(leg("Accept", 0), leg("PstnToSip", 4, accepted=True))))
    over = ended(word, end=10, result="raw")
    assert watch.poll(12, over) == ["call.ended"]
    call = watch.last.call
    assert (call.disposition, ring_seconds(call), talk_seconds(call)) == (Disposition.ANSWERED, 4, 6)
    assert call.provider.result == "raw"
    assert watch.poll(13, over) == []

    watch = Watch()
    watch.poll(5, observation("connected"))
    watch.poll(9)
    watch.apply(None, resolve(watch.index, "101/s-1", [over], at(60), watch.rules))
    assert (watch.last.call.disposition, watch.last.call.answered_at) == (Disposition.ANSWERED, at(5))


@pytest.mark.parametrize("word", UNANSWERED)
def test_no_correction_takes_an_answer_back(word: Disposition) -> None:
    """Neither of one that was seen live, nor of one that was first seen when it was over."""
    for first in (observation("connected"), ended("answered")):
        watch = Watch()
        watch.poll(5, first)
        watch.poll(12, ended("answered"))
        assert watch.poll(13, ended(word)) == []
        assert watch.call().disposition is Disposition.ANSWERED


@pytest.mark.parametrize("word", UNANSWERED)
def test_a_provisional_word_takes_no_answer_back(word: Disposition) -> None:
    """It settles as answered."""
    watch = Watch()
    watch.poll(5, observation("connected"))
    watch.poll(9, ended(word, provisional=True))
    assert watch.poll(10) == ["call.ended"]
    assert watch.last.call.disposition is Disposition.ANSWERED


def test_an_answered_call_that_vanished_is_unknown_until_there_is_a_word() -> None:
    """Vanished or unwatched; whatever the platform says later, it was answered."""
    watch = Watch()
    watch.poll(5, observation("connected"))
    watch.poll(9)
    watch.apply(None, give_up(watch.index, "101/s-1", at(1000)))
    gone = watch.last.call
    assert gone.disposition is Disposition.UNKNOWN
    watch.index.learn([gone])
    assert watch.poll(1001, ended("missed", end=10)) == ["call.corrected"]
    assert watch.last.call.disposition is Disposition.ANSWERED
    watch = Watch()
    watch.poll(5, observation("connected"))
    watch.apply(None, unwatch(watch.index, ["101"], at(9)))
    assert watch.last.call.disposition is Disposition.UNKNOWN


TAKEN = {"disposition": "answered_elsewhere", "taken_by_another": True}


def test_an_answer_that_turns_out_to_be_anothers() -> None:
    """The accepted leg is another extension's: no answer of its own, and no talk."""
    for provisional in (False, True):
        watch = Watch()
        watch.poll(1, observation())
        watch.poll(5, observation("connected"))
        watch.poll(12, ended(**TAKEN, provisional=provisional))
        watch.poll(13)
        call = watch.last.call
        assert (call.disposition, call.answered_at) == (Disposition.ANSWERED_ELSEWHERE, None)
        assert (ring_seconds(call), talk_seconds(call)) == (10, None)
    watch = Watch()
    watch.poll(1, ended("answered"))
    assert watch.poll(2, ended(**TAKEN)) == ["call.corrected"]
    assert watch.poll(3, ended(**TAKEN)) == []
    assert watch.call().disposition is Disposition.ANSWERED_ELSEWHERE


def test_an_answer_on_its_own_leg_stays_when_another_took_the_call_over() -> None:
    """The last record shows the other's leg alone."""
    watch = Watch()
    watch.poll(1, observation(legs=(leg("Accept", 0),)))
    watch.poll(5, observation("connected", legs=(leg("Accept", 0), leg("PstnToSip", 4, accepted=True))))
    watch.poll(12, ended(**TAKEN))
    assert (watch.last.call.disposition, talk_seconds(watch.last.call)) == (Disposition.ANSWERED, 6)


def test_an_answer_on_its_own_leg_stays_although_that_leg_had_rung_before() -> None:
    """Its start gives no time of answer, but whose answer it was."""
    for provisional in (False, True):
        watch = Watch()
        rings, talks = leg("PstnToSip", 0), leg("PstnToSip", 0, accepted=True, own=True)
        watch.poll(1, observation(legs=(rings,)))
        watch.poll(3, observation("connected", legs=(rings,)))  # the record's word first, then the leg's
        watch.poll(5, observation("connected", legs=(talks,)))
        watch.poll(12, ended(**TAKEN, provisional=provisional))
        watch.poll(13)
        call = watch.last.call
        assert (call.disposition, call.answered_at, call.answered_exact) == (Disposition.ANSWERED, at(3), False)
        assert talk_seconds(call) == 7


def test_no_correction_takes_an_answer_on_its_own_leg_back() -> None:
    """The first final record shows it, a later one the other's leg alone."""
    watch = Watch()
    watch.poll(5, observation())
    watch.poll(12, ended("answered", legs=(leg("PstnToSip", 0, accepted=True, own=True),)))
    assert watch.poll(13, ended(**TAKEN)) == []
    assert watch.call().disposition is Disposition.ANSWERED


def test_an_accepted_leg_that_comes_late_makes_an_answer() -> None:
    """Once, with its time, whatever the word beside it."""
    watch = Watch()
    watch.poll(12, ended())
    rewritten = ended(legs=(leg("PstnToSip", 4, accepted=True),))
    assert watch.poll(13, rewritten) == ["call.corrected"]
    assert (watch.call().disposition, watch.call().answered_at) == (Disposition.ANSWERED, at(0) + timedelta(seconds=4))
    assert watch.poll(14, rewritten) == []
