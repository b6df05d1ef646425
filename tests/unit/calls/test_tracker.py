"""The lifecycle: the events of a call seen in each state, and what causes none."""

from typing import Any

import msgspec
import pytest

from callcast.calls.lifecycle import EVENTS, is_unchanged, state_after
from callcast.calls.model import (
    CallObservation,
    ChangeSet,
    Direction,
    Disposition,
    Evidence,
    Party,
    Provider,
    Queue,
    Snapshot,
    State,
    Target,
)
from callcast.calls.tracker import (
    Rules,
    compare,
    correct_missed,
    due_lookups,
    fill_gap,
    give_up,
    refuse,
    resolve,
    unwatch,
)
from callcast.ringcentral.settings import SourceSettings
from tests.unit.calls.snapshots import ACCOUNT, CALLED, CALLER, EXTENSION, Watch, at, ended, leg, observation, stopped

SEEN = {
    "ringing": observation("ringing"),
    "dialing": observation("dialing"),
    "connected": observation("connected"),
    "ended": ended("answered"),
}
# The events, and the state then, of a call known as the first and seen as the second.
EVENTS_OF_STATES = [
    (None, "ringing", "ringing", ["call.ringing"]),
    (None, "dialing", "dialing", ["call.dialing"]),
    (None, "connected", "connected", ["call.answered"]),
    (None, "ended", "ended", ["call.ended"]),
    ("ringing", "ringing", "ringing", []),
    ("ringing", "dialing", "ringing", []),
    ("ringing", "connected", "connected", ["call.answered"]),
    ("ringing", "ended", "ended", ["call.ended"]),
    ("dialing", "ringing", "ringing", ["call.updated"]),
    ("dialing", "dialing", "dialing", []),
    ("dialing", "connected", "connected", ["call.answered"]),
    ("dialing", "ended", "ended", ["call.ended"]),
    ("connected", "ringing", "connected", []),
    ("connected", "dialing", "connected", []),
    ("connected", "connected", "connected", []),
    ("connected", "ended", "ended", ["call.ended"]),
    ("ended", "ringing", "ended", []),
    ("ended", "dialing", "ended", []),
    ("ended", "connected", "ended", []),
    ("ended", "ended", "ended", []),
]


def test_every_pair_of_states_has_a_row() -> None:
    """No known state and no seen state is without a rule, here and in the code, and the code has no dead row."""
    assert len({(known, seen) for known, seen, _, _ in EVENTS_OF_STATES}) == 5 * 4
    reached = {(known, state_after(known, seen)) for known in (None, *State) for seen in State}
    assert reached == set(EVENTS)


@pytest.mark.parametrize(("known", "seen", "then", "emitted"), EVENTS_OF_STATES)
def test_a_state_seen_after_another(known: str | None, seen: str, then: str, emitted: list[str]) -> None:
    """Each pair of states gives exactly its event, and a state never goes back."""
    watch = Watch()
    if known:
        watch.poll(1, SEEN[known])
    assert watch.poll(2, SEEN[seen]) == emitted
    assert watch.call().state == then
    assert watch.call().sequence == len(watch.events)
    if emitted:
        assert watch.last.previous_state == known
        assert watch.last.call == watch.call()
        assert (watch.call().previous_state, watch.call().observation) == (known, watch.last.observation)


@pytest.mark.parametrize("state", ["ringing", "dialing", "connected"])
@pytest.mark.parametrize(
    "change",
    [
        {"from_party": Party(number="+15550100777")},
        {"to_party": Party(number="+15550100777")},
        {"queue": Queue(name="Sales")},
        {"direction": Direction.INBOUND},
    ],
)
def test_a_fact_that_changes_while_the_call_lives_is_an_update(change: dict[str, object], state: str) -> None:
    """From, to, queue and direction are reported when they change, once."""
    watch = Watch()
    before = observation(state, direction=Direction.OUTBOUND)
    watch.poll(1, before)
    changed = msgspec.structs.replace(before, **change)
    assert watch.poll(2, changed) == ["call.updated"]
    assert watch.last.time == at(2)
    assert not watch.last.observation.exact
    assert watch.poll(3, changed) == []


def test_a_fact_that_goes_missing_is_no_update() -> None:
    """A party, a queue or a name that the platform no longer says is still known."""
    watch = Watch()
    watch.poll(1, observation("connected", queue=Queue(name="Sales")))
    assert watch.poll(2, observation("connected", from_party=None, to_party=Party(number=CALLED.number))) == []
    call = watch.call()
    assert (call.from_party, call.to_party, call.queue) == (CALLER, CALLED, Queue(name="Sales"))


def test_a_fact_that_consumers_do_not_see_is_no_event_and_in_no_id() -> None:
    """That a side is an extension, or that a queue is confirmed, is remembered, without an event."""
    named = msgspec.structs.replace(CALLED, name="Reception")
    ids = []
    for extension_id, confirmed in ((None, False), ("101", True)):
        watch = Watch()
        watch.poll(1, observation(queue=Queue(name="Sales")))
        to_party = msgspec.structs.replace(CALLED, extension_id=extension_id)
        queue = Queue(name="Sales", confirmed=confirmed)
        assert watch.poll(2, observation(to_party=to_party, queue=queue)) == []
        assert (watch.call().to_party, watch.call().queue) == (to_party, queue)
        assert watch.poll(3, observation(to_party=named, queue=Queue(name="Sales"))) == ["call.updated"]
        assert watch.call().to_party == msgspec.structs.replace(named, extension_id=extension_id)
        assert watch.call().queue == queue
        ids.append(watch.last.id)
    assert ids[0] == ids[1]


def test_words_of_the_platform_alone_are_no_event() -> None:
    """Another result or reason changes what is remembered, and causes no event."""
    watch = Watch()
    watch.poll(1, observation("ringing", result="In Progress"))
    assert watch.poll(2, observation("ringing", result="Ringing Elsewhere")) == []
    assert watch.call().provider.result == "Ringing Elsewhere"


def test_the_start_may_move_while_the_call_lives() -> None:
    """A new start time is taken over silently, and stands in the next event."""
    watch = Watch()
    watch.poll(1, observation("ringing", started=0))
    assert watch.poll(2, observation("ringing", started=1)) == []
    watch.poll(3, ended(started=1))
    assert watch.last.call.started_at == at(1)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"disposition": Disposition.VOICEMAIL}, "disposition"),
        ({"ended_at": at(11)}, "ended_at"),
        ({"started_at": at(-1)}, "started_at"),
        ({"from_party": Party(number="+15550100777")}, "from_party"),
        ({"to_party": Party(number="+15550100777")}, "to_party"),
        ({"queue": Queue(name="Sales")}, "queue"),
        ({"direction": Direction.INBOUND}, "direction"),
        ({"legs": (leg("PstnToSip", 4, accepted=True),)}, "answered_at"),
    ],
)
def test_a_fact_that_changes_after_the_end_is_a_correction(change: dict[str, object], named: str) -> None:
    """A rewritten record is reported once, names the event it corrects, and is never a second end."""
    watch = Watch()
    over = ended("busy", direction=Direction.OUTBOUND)
    watch.poll(1, over)
    before = watch.last
    rewritten = msgspec.structs.replace(over, **change)
    assert watch.poll(2, rewritten) == ["call.corrected"]
    assert watch.last.corrects == before.id
    assert watch.last.sequence == 2
    assert watch.last.previous_state is State.ENDED
    assert (watch.last.time, watch.last.observation.exact) == (at(2), False)
    assert watch.call().answered_exact is (named == "answered_at")
    assert getattr(watch.call(), named) != getattr(before.call, named)
    assert watch.poll(3, rewritten) == []


def test_a_word_alone_is_no_correction() -> None:
    """Another reason on an ended record says nothing about the call."""
    watch = Watch()
    watch.poll(1, ended(result="Missed"))
    assert watch.poll(2, ended(result="No Answer")) == []
    assert watch.call().provider.result == "Missed"


def test_less_is_no_correction() -> None:
    """A disposition, an end or a party that is missing on an ended record takes nothing back."""
    watch = Watch()
    watch.poll(1, ended("voicemail"))
    assert watch.poll(2, ended("unknown", end=None, from_party=None)) == []
    assert watch.call().disposition is Disposition.VOICEMAIL
    assert watch.call().ended_at == at(10)


def test_the_platforms_end_corrects_the_time_of_the_poll() -> None:
    """An end without a duration is the poll's time, inexact; the platform's own, once there, corrects it."""
    watch = Watch()
    watch.poll(12, ended(end=None))
    assert (watch.last.time, watch.last.observation.exact) == (at(12), False)
    assert watch.poll(13, ended(end=10)) == ["call.corrected"]
    assert (watch.call().ended_at, watch.call().ended_exact) == (at(10), True)


def test_a_lingering_record_is_silent_and_so_is_one_that_comes_back() -> None:
    """Ended records stay in the list, leave it, return: one end."""
    watch = Watch()
    watch.poll(1, ended())
    assert [watch.poll(t, ended()) for t in range(2, 6)] == [[]] * 4
    watch.poll(6)
    assert watch.index.call("101/s-1") is None, "what is over and listed no more is not kept in memory"
    assert watch.index.sessions_to_recall([ended()]) == {"s-1", "L1"}, "also by the names that it may have had"
    watch.index.learn([msgspec.structs.replace(watch.last.call, vanished_at=at(6), last_seen_at=at(5))])
    assert watch.poll(8, ended()) == []
    assert watch.call().vanished_at is None, "listed again, it is kept again"
    assert watch.poll(9, observation("connected")) == []


def test_a_poll_that_shows_nothing_new_changes_nothing() -> None:
    """An unchanged list is an empty change, whatever stands in it."""
    watch = Watch()
    everything = (
        observation(),
        observation("connected", session_id="s-2", record_id="L2"),
        ended(session_id="s-3"),
        stopped(session_id="s-4"),
    )
    watch.poll(1, *everything)
    again = Snapshot(target=watch.target, taken_at=at(2), observations=everything)
    assert compare(watch.index, again, Rules()) == ChangeSet()


# First polls


def test_a_first_poll_reports_live_calls_and_not_ended_ones() -> None:
    """What is over at the first poll of a target is history, and stays so."""
    watch = Watch(fresh=True)
    assert watch.poll(1, observation("connected"), ended(session_id="s-2", record_id="L2")) == ["call.answered"]
    assert watch.last.observation.first_poll
    assert watch.last.observation.after is None
    assert watch.call("101/s-2").sequence == 0
    rewritten = ended("voicemail", session_id="s-2", record_id="L2")
    assert watch.poll(2, observation("connected"), rewritten) == []
    assert watch.call("101/s-2").disposition is Disposition.MISSED
    assert watch.poll(3, ended("answered"), rewritten) == ["call.ended"]
    assert not watch.last.observation.first_poll
    assert watch.last.observation.after == at(2)
    assert watch.poll(4) == []


def test_each_target_has_its_own_first_poll() -> None:
    """A poll of one extension is not a poll of another."""
    watch = Watch()
    other = msgspec.structs.replace(watch.target, extension_id="102")
    assert watch.poll(1, ended(extension_id="102"), target=other) == []
    assert watch.poll(2, ended(extension_id="102", session_id="s-2"), target=other) == ["call.ended"]


# Vanishing


def test_a_call_that_vanishes_causes_no_event_and_may_come_back() -> None:
    """A glitch of the list is not an end; the call log is read only if it lasts."""
    watch = Watch()
    watch.poll(1, observation("connected"))
    assert watch.poll(2) == []
    assert (watch.call().vanished_at, watch.call().last_seen_at) == (at(2), at(1))
    assert watch.poll(3) == []
    assert watch.call().vanished_at == at(2)
    assert due_lookups(watch.index, at(31.9), watch.rules) == []
    assert [call.call_id for call in due_lookups(watch.index, at(32), watch.rules)] == ["101/s-1"]
    assert watch.poll(4, observation("connected")) == []
    assert (watch.call().vanished_at, watch.call().last_seen_at) == (None, None)
    assert due_lookups(watch.index, at(99), watch.rules) == []


def test_a_poll_at_another_target_makes_nothing_vanish() -> None:
    """Only the list that should hold a call can miss it."""
    watch = Watch()
    watch.poll(1, observation())
    watch.poll(2, target=msgspec.structs.replace(watch.target, extension_id="102"))
    assert watch.call().vanished_at is None
    watch.poll(3, target=ACCOUNT)
    assert watch.call().vanished_at == at(3)


def test_the_call_log_ends_what_vanished() -> None:
    """A final record ends the call, with the polls around its vanishing."""
    watch = Watch()
    watch.poll(1, observation("connected"))
    watch.poll(20)
    for not_final in (
        [],
        [observation("connected", result="Other")],
        [ended(session_id="s-9", record_id="L9")],
        [ended(extension_id="102")],
    ):
        assert not resolve(watch.index, "101/s-1", not_final, at(60), watch.rules)
    emitted = watch.apply(None, resolve(watch.index, "101/s-1", [ended("answered")], at(60), watch.rules))
    assert emitted == ["call.ended"]
    seen = watch.last.observation
    assert (seen.after, seen.before, seen.exact, seen.evidence) == (at(1), at(20), True, Evidence.CALL_LOG)
    assert watch.last.call.disposition is Disposition.ANSWERED
    assert not resolve(watch.index, "101/s-1", [ended("missed")], at(61), watch.rules)
    assert watch.index.call("101/s-1") is None


def test_the_call_log_and_giving_up_are_for_open_calls() -> None:
    """A call that is over, still listed or not, is not ended again."""
    watch = Watch()
    watch.poll(1, ended(), observation(extension_id="102", record_id="L2"))
    watch.poll(2)
    assert watch.call().vanished_at == at(2)
    assert resolve(watch.index, "101/s-1", [ended("answered", end=20)], at(60), watch.rules) == ChangeSet()
    assert give_up(watch.index, "101/s-1", at(1000)) == ChangeSet()
    assert resolve(watch.index, "101/s-9", [ended()], at(60), watch.rules) == ChangeSet()


def test_without_a_duration_a_vanished_call_ended_when_it_vanished() -> None:
    """The best that is known is the first poll that missed it."""
    watch = Watch()
    watch.poll(1, observation())
    watch.poll(20)
    watch.apply(None, resolve(watch.index, "101/s-1", [ended(end=None)], at(60), watch.rules))
    assert (watch.last.time, watch.last.observation.exact) == (at(20), False)


def test_a_call_without_a_final_record_ends_as_unknown() -> None:
    """Given up, a vanished call ends; one that has not vanished cannot be given up."""
    watch = Watch()
    watch.poll(1, observation("connected"))
    assert not give_up(watch.index, "101/s-1", at(5))
    assert not give_up(watch.index, "101/s-2", at(5))
    watch.poll(20)
    assert watch.apply(None, give_up(watch.index, "101/s-1", at(1000))) == ["call.ended"]
    assert watch.last.call.disposition is Disposition.UNKNOWN
    assert watch.last.observation.evidence is Evidence.VANISHED
    assert (watch.last.time, watch.last.observation.exact) == (at(20), False)
    assert not give_up(watch.index, "101/s-1", at(1001))


def test_given_up_with_a_provisional_word_of_the_call_log() -> None:
    """What the log only ever called Stopped ends as that, not as unknown."""
    watch = Watch()
    watch.poll(1, observation())
    watch.poll(20)
    assert watch.apply(None, resolve(watch.index, "101/s-1", iter([stopped()]), at(60), watch.rules)) == []
    assert watch.apply(None, give_up(watch.index, "101/s-1", at(1000))) == ["call.ended"]
    assert watch.last.call.disposition is Disposition.ANSWERED_ELSEWHERE
    assert (watch.last.call.ended_at, watch.last.observation.evidence) == (at(10), Evidence.CALL_LOG)


def test_a_final_record_of_the_call_log_counts_before_a_provisional_one() -> None:
    """Also when the provisional one has the very id, and the final one a new id."""
    watch = Watch()
    watch.poll(1, observation())
    watch.poll(20)
    observed = [stopped(), ended("voicemail", record_id="L9", started=1)]
    assert watch.apply(None, resolve(watch.index, "101/s-1", observed, at(60), watch.rules)) == ["call.ended"]
    assert watch.last.call.disposition is Disposition.VOICEMAIL


def test_given_up_with_a_word_that_reads_as_if_it_went_on() -> None:
    """Accepted and no duration: hung up at once, it reads so for ever. It was answered, for an unknown time."""
    watch = Watch()
    watch.poll(1, observation())
    watch.poll(20)
    observed = observation("connected", disposition="answered")
    assert (
        watch.apply(None, resolve(watch.index, "101/s-1", [observation("connected"), observed], at(60), watch.rules))
        == []
    )
    assert watch.call().vanished_at == at(20)
    assert watch.apply(None, give_up(watch.index, "101/s-1", at(1000))) == ["call.ended"]
    assert watch.last.call.disposition is Disposition.ANSWERED
    assert (watch.last.time, watch.last.observation.evidence) == (at(20), Evidence.CALL_LOG)


def test_a_ring_out_that_reads_connected_is_reported_once() -> None:
    """What it would end with is no news while it lives, nor when it ends otherwise."""
    watch = Watch()
    observed = observation("connected", disposition="answered")
    assert watch.poll(1, observed) == ["call.answered"]
    assert is_unchanged(watch.call(), observed, at(2))
    assert watch.poll(2, observed) == []
    assert watch.poll(3, ended("answered")) == ["call.ended"]
    assert watch.last.call.disposition is Disposition.ANSWERED


def test_the_call_log_is_read_by_record_id_then_by_time() -> None:
    """Of several records of the session the call's own counts, else the nearest that is no other part's."""
    watch = Watch()
    watch.poll(1, ended(end=5))
    watch.poll(8, ended(end=5), observation(record_id="L2", started=8))
    watch.poll(20, ended(end=5))
    log = [
        ended("busy", end=None, record_id="L1"),
        ended("voicemail", end=30, record_id="L3", started=20),
        ended("declined", end=60, record_id="L4", started=50),
    ]
    watch.apply(None, resolve(watch.index, "101/s-1~2", log, at(60), watch.rules))
    assert watch.last.call.disposition is Disposition.VOICEMAIL
    assert watch.last.call.record_ids == ("L2", "L3")


# Provisional


def test_a_provisional_record_waits() -> None:
    """Stopped is no end yet: a call that rings goes on ringing until it settles."""
    watch = Watch()
    watch.poll(1, observation())
    assert watch.poll(2, stopped()) == []
    assert watch.call().state is State.RINGING
    assert watch.call().provisional_since == at(2)
    assert watch.poll(3, stopped()) == []
    assert watch.call().provisional_since == at(2)


def test_a_provisional_record_settles_by_changing() -> None:
    """Rewritten as final, it ends as it reads then; live again, it was nothing."""
    watch = Watch()
    watch.poll(1, observation())
    watch.poll(2, stopped())
    assert watch.poll(3, observation("connected")) == ["call.answered"]
    assert watch.last.previous_state is State.RINGING
    assert watch.call().provisional_since is None
    watch.poll(4, stopped())
    assert watch.poll(5, ended("answered")) == ["call.ended"]
    assert watch.last.call.disposition is Disposition.ANSWERED
    assert watch.last.call.provisional_disposition is None


def test_a_provisional_record_settles_by_vanishing() -> None:
    """Gone from the list, it ends as it read last."""
    watch = Watch()
    watch.poll(1, observation())
    watch.poll(2, stopped())
    assert watch.poll(3) == ["call.ended"]
    assert watch.last.call.disposition is Disposition.ANSWERED_ELSEWHERE
    assert (watch.last.time, watch.last.observation.exact) == (at(10), True)


@pytest.mark.parametrize("word", [Disposition.ANSWERED_ELSEWHERE, Disposition.FAILED])
def test_a_provisional_record_of_a_call_that_was_seen_answered(word: Disposition) -> None:
    """It talked: neither another phone's answer nor a phone that was offline is the end of that."""
    watch = Watch()
    watch.poll(1, observation("connected"))
    watch.poll(2, ended(word, provisional=True))
    assert watch.poll(3) == ["call.ended"]
    assert watch.last.call.disposition is Disposition.ANSWERED


def test_given_up_an_answered_call_of_which_the_log_said_stopped() -> None:
    """The same by way of the call log; with no word at all it stays unknown."""
    for observed, ends_as in (([stopped()], Disposition.ANSWERED), ([], Disposition.UNKNOWN)):
        watch = Watch()
        watch.poll(1, observation("connected"))
        watch.poll(2)
        watch.apply(None, resolve(watch.index, "101/s-1", observed, at(60), watch.rules))
        watch.apply(None, give_up(watch.index, "101/s-1", at(1000)))
        assert watch.last.call.disposition is ends_as


def test_calls_that_end_by_vanishing_are_reported_in_the_order_of_their_ids() -> None:
    """The same order whichever came first, so that a restart in between gives the same events."""
    watch = Watch()
    watch.poll(1, stopped(session_id="s-2", record_id="L2"), stopped())
    watch.poll(2)
    assert [event.call.call_id for event in watch.events] == ["101/s-1", "101/s-2"]


def test_a_provisional_record_settles_after_settle_s() -> None:
    """One that rings one extension while nothing else of the session goes on counts after 30 s."""
    watch = Watch()
    watch.poll(1, observation())
    watch.poll(2, stopped())
    assert watch.poll(31.9, stopped()) == []
    assert watch.poll(32, stopped()) == ["call.ended"]
    assert watch.poll(33, stopped()) == []
    assert watch.poll(34, ended("answered", end=40)) == ["call.corrected"]


@pytest.mark.parametrize(
    ("record", "beside"),
    [
        (stopped(rings_alone=False), []),
        (stopped(), [observation(extension_id="102", record_id="L2")]),
        (stopped(), [stopped(extension_id="102", record_id="L2")]),
        (stopped(), [stopped(record_id="L2")]),
    ],
)
def test_a_provisional_record_does_not_settle_while_the_session_may_go_on(
    record: CallObservation, beside: list[CallObservation]
) -> None:
    """Several extensions ring, or another record of the session is live or provisional: time alone says nothing."""
    watch = Watch(ACCOUNT)
    watch.poll(1, observation())
    for t in (2, 40, 80):
        emitted = watch.poll(t, record, *beside)
        assert "call.ended" not in emitted


def test_a_provisional_record_waits_for_a_call_that_only_another_list_shows() -> None:
    """The rest of the session may stand in another extension's list."""
    watch = Watch()
    watch.poll(1, observation())
    watch.poll(
        1,
        observation(extension_id="102", record_id="L2"),
        target=msgspec.structs.replace(watch.target, extension_id="102"),
    )
    watch.poll(2, stopped())
    assert watch.poll(40, stopped()) == []


def test_an_ended_record_of_the_session_does_not_keep_a_provisional_one_waiting() -> None:
    """Only what may still go on holds it."""
    watch = Watch(ACCOUNT)
    beside = ended(extension_id="102", record_id="L2")
    watch.poll(1, observation(), beside)
    watch.poll(2, stopped(), beside)
    assert watch.poll(32, stopped(), beside) == ["call.ended"]


def test_a_provisional_record_first_seen_is_remembered_and_not_reported() -> None:
    """It has no event until it settles; then of its end, or of the call that it was."""
    watch = Watch()
    assert watch.poll(1, stopped(), stopped(session_id="s-2", record_id="L2")) == []
    assert watch.call().sequence == 0
    assert not watch.call().live
    assert watch.poll(2, observation("connected"), stopped(session_id="s-2", record_id="L2")) == ["call.answered"]
    assert watch.last.sequence == 1
    assert watch.last.previous_state is None
    assert watch.poll(31, observation("connected"), stopped(session_id="s-2", record_id="L2")) == ["call.ended"]


def test_a_provisional_record_of_a_first_poll_is_history_unless_it_ends_later() -> None:
    """The platform's own time decides whether the call was over before the first poll."""
    watch = Watch(fresh=True)
    watch.poll(20, stopped(end=10), stopped(end=10, session_id="s-2", record_id="L2"))
    rewritten = ended("answered", end=25, session_id="s-2", record_id="L2")
    assert watch.poll(30, rewritten) == ["call.ended"]
    assert watch.last.call.call_id == "101/s-2"
    assert watch.index.call("101/s-1") is None, "settled, unreported, and in no list any more"


def test_a_reported_call_of_a_first_poll_ends_whenever_it_ended() -> None:
    """A live call is no history, although it may have ended before its record turned provisional."""
    watch = Watch(fresh=True)
    watch.poll(1, observation())
    watch.poll(20, stopped(end=10))
    assert watch.poll(21, ended(end=10)) == ["call.ended"]


def test_a_reported_call_ends_also_on_another_targets_first_poll() -> None:
    """The account's first poll shows the end of a call that its extension's polls have reported."""
    watch = Watch()
    watch.poll(1, observation())
    assert watch.poll(12, ended(), target=ACCOUNT) == ["call.ended"]


@pytest.mark.parametrize("later", [[], [ended("answered", end=None)], [ended("answered", end=20)]])
def test_a_provisional_record_of_a_first_poll_without_a_later_end_is_history(later: list[CallObservation]) -> None:
    """The time of a poll is no proof that the call still lived, nor is the very moment of the first."""
    watch = Watch(fresh=True)
    watch.poll(20, stopped(end=None))
    assert watch.poll(30, *later) == []


def test_a_provisional_record_without_a_word_ends_as_unknown() -> None:
    """There is nothing that it reads as."""
    watch = Watch()
    watch.poll(1, msgspec.structs.replace(stopped(), disposition=None))
    assert watch.poll(2) == ["call.ended"]
    assert watch.last.call.disposition is Disposition.UNKNOWN


def test_the_call_log_is_asked_about_what_stays_provisional() -> None:
    """After call_log_after_s, and a final answer settles it."""
    watch = Watch()
    watch.poll(1, stopped(rings_alone=False))
    assert due_lookups(watch.index, at(30.9), watch.rules) == []
    assert len(due_lookups(watch.index, at(31), watch.rules)) == 1
    assert watch.apply(None, resolve(watch.index, "101/s-1", [ended("missed")], at(40), watch.rules)) == ["call.ended"]
    seen = watch.last.observation
    assert (seen.after, seen.before, seen.evidence) == (at(1), at(40), Evidence.CALL_LOG)
    assert watch.poll(41, stopped(rings_alone=False)) == []


def test_without_a_duration_a_provisional_call_ended_when_the_call_log_said_so() -> None:
    """It never vanished, so there is no better time."""
    watch = Watch()
    watch.poll(1, stopped(rings_alone=False))
    watch.apply(None, resolve(watch.index, "101/s-1", [ended(end=None)], at(40), watch.rules))
    assert (watch.last.time, watch.last.observation.exact) == (at(40), False)
    assert watch.last.call.ended_at == at(40)


def test_the_rules_of_a_source_that_sets_nothing() -> None:
    """The defaults here are those of the configuration."""
    fields = SourceSettings.model_fields
    assert msgspec.structs.asdict(Rules()) == {name: fields[name].default for name in Rules.__struct_fields__}


# Records and parts


def test_a_record_may_change_its_id_and_start_at_the_end() -> None:
    """jshelpers-lifecycle-2014: another id, one second later, the same call."""
    watch = Watch()
    watch.poll(1, observation("connected"))
    assert watch.poll(2, ended("answered", record_id="L2", started=1)) == ["call.ended"]
    assert watch.last.call.call_id == "101/s-1"
    assert watch.last.call.record_ids == ("L1", "L2")
    assert watch.poll(3, ended("answered", record_id="L2", started=1)) == []


def test_the_same_id_going_back_to_in_progress_is_ignored() -> None:
    """Also with a later start: an ended part stays ended."""
    watch = Watch()
    watch.poll(1, ended())
    assert watch.poll(2, observation("ringing", started=20)) == []
    assert watch.call().state is State.ENDED


def test_a_live_record_with_another_id_and_a_later_start_is_the_next_part() -> None:
    """The extension is offered the call again."""
    watch = Watch()
    watch.poll(1, observation())
    watch.poll(12, ended())
    assert watch.poll(20, ended(), observation(record_id="L2", started=15)) == ["call.ringing"]
    assert watch.last.call.call_id == "101/s-1~2"
    assert watch.last.sequence == 1
    assert watch.poll(30, ended(), ended("answered", end=29, record_id="L2", started=15)) == ["call.ended"]
    assert watch.poll(
        40, ended(), ended("answered", end=29, record_id="L2", started=15), observation(record_id="L3", started=35)
    ) == ["call.ringing"]
    assert watch.last.call.call_id == "101/s-1~3"


def test_the_next_part_may_show_in_the_poll_that_shows_the_end() -> None:
    """End and new offer in one poll: two events, two calls."""
    watch = Watch()
    watch.poll(1, observation())
    assert watch.poll(12, ended(), observation(record_id="L2", started=11)) == ["call.ended", "call.ringing"]


def test_an_offer_that_came_and_went_between_two_polls_is_a_part_too() -> None:
    """A record that starts after the end of the one before is another offer, as if a poll had been in between."""
    watch = Watch()
    watch.poll(1, observation())
    emitted = watch.poll(60, ended(), ended("answered", end=40, record_id="L2", started=10))
    assert emitted == ["call.ended", "call.ended"]
    assert watch.last.call.call_id == "101/s-1~2"


@pytest.mark.parametrize(
    "second",
    [observation(record_id="L2", started=0), ended(record_id="L2", started=9), stopped(record_id="L2", started=20)],
)
def test_other_records_of_an_ended_part_open_nothing(second: CallObservation) -> None:
    """A live record that does not start later, a final one that overlaps, a provisional one: no new call."""
    watch = Watch()
    watch.poll(1, observation())
    watch.poll(12, ended())
    emitted = watch.poll(13, ended(), second)
    assert "call.ringing" not in emitted
    assert "call.ended" not in emitted
    assert watch.index.call("101/s-1~2") is None
    assert watch.call().record_ids == ("L1", "L2")


def late_named(record_id: str = "L1", **fields: Any) -> CallObservation:
    """A record of session 5001 that has the name s-9 by now."""
    made = observation(**fields) if "disposition" not in fields else ended(**fields)
    provider = Provider(name="ringcentral", record_id=record_id, session_id="5001")
    return msgspec.structs.replace(made, session_id="s-9", record_id=record_id, provider=provider)


def test_a_record_that_gets_the_name_of_its_session_late_is_the_same_call() -> None:
    """It is known by its id: no second call, and none that vanishes."""
    watch = Watch()
    watch.poll(1, observation(session_id="5001"))
    assert watch.poll(2, late_named(state="connected")) == ["call.answered"]
    assert watch.poll(3, late_named(disposition="answered")) == ["call.ended"]
    assert watch.last.call.call_id == "101/5001"
    assert len(watch.index) == 1
    assert watch.poll(4) == []
    assert watch.index.sessions_to_recall([late_named()]) == {"s-9", "5001", "L1"}


def test_a_conference_may_be_named_late_too() -> None:
    """Until then its record's id was all there was."""
    watch = Watch()
    watch.poll(1, observation(session_id="L1"))
    assert watch.poll(2, late_named(disposition="answered")) == ["call.ended"]
    assert watch.last.call.call_id == "101/L1"


@pytest.mark.parametrize("order", [1, -1])
def test_another_record_beside_one_that_was_named_late(order: int) -> None:
    """Of the same session: the same call, whichever is listed first."""
    watch = Watch()
    watch.poll(1, observation(session_id="5001"))
    assert watch.poll(2, *[late_named(), late_named("L2", started=1)][::order]) == []
    assert list(watch.call("101/5001").record_ids) == ["L1", "L2"]


@pytest.mark.parametrize("order", [1, -1])
def test_of_two_records_of_a_session_one_may_be_named_before_the_other(order: int) -> None:
    """They are one call still, and what each shows counts."""
    watch = Watch()
    other = observation(session_id="5001", record_id="L2", started=1)
    watch.poll(1, observation(session_id="5001"), other)
    talking = msgspec.structs.replace(other, state=State.CONNECTED)
    assert watch.poll(2, *[late_named(), talking][::order]) == ["call.answered"]
    assert len(watch.index) == 1
    assert watch.poll(3, *[late_named(state="connected"), talking][::order]) == []


def test_another_session_of_the_same_old_name_is_a_call_of_its_own() -> None:
    """Calling oneself: both ends have one sessionId."""
    watch = Watch()
    watch.poll(1, observation(session_id="5001"))
    assert watch.poll(2, observation(session_id="5001"), late_named("L2")) == ["call.ringing"]
    assert watch.last.call.call_id == "101/s-9"


def test_two_records_in_one_poll_are_one_call() -> None:
    """Led by the id seen first; a live one leads before an ended one; connected when either is."""
    watch = Watch()
    second = observation(record_id="L2", started=2, from_party=Party(number="+15550100777"))
    assert watch.poll(3, second, observation()) == ["call.ringing"]
    assert watch.last.call.record_ids == ("L1", "L2")
    assert watch.last.call.from_party == CALLER
    assert watch.poll(4, observation(), msgspec.structs.replace(second, state=State.CONNECTED)) == ["call.answered"]
    assert watch.last.call.from_party == CALLER
    assert watch.poll(5, ended(), second) == ["call.updated"]
    assert (
        watch.poll(6, ended(end=6), ended("answered", end=6, record_id="L2", started=2))
        == ["call.updated", "call.ended"][1:]
    )
    assert watch.last.call.provider.record_id == "L1"


def test_a_live_record_leads_before_a_provisional_before_a_final_one() -> None:
    """Whatever order they were first seen in, and whatever order they are listed in."""
    watch = Watch()
    first, second = observation(record_id="L1"), observation(record_id="L2", started=1, from_party=Party(name="B"))
    watch.poll(1, first, second)
    assert watch.poll(2, second, first) == []
    assert watch.poll(3, stopped(record_id="L1"), second) == ["call.updated"]
    assert watch.call().provisional_since is None
    assert watch.poll(4, ended(record_id="L1"), stopped(record_id="L2", started=1)) == []
    assert watch.call().provisional_since == at(4)


def test_a_later_record_of_a_part_with_an_unknown_end_is_no_next_part() -> None:
    """Without the platform's end it cannot be distinguished from a rewrite."""
    watch = Watch()
    watch.poll(1, observation())
    emitted = watch.poll(12, ended(end=None), ended("answered", end=30, record_id="L2", started=20))
    assert emitted == ["call.ended"]


def test_a_record_with_a_new_id_corrects_too() -> None:
    """The platform rewrites a record under another id."""
    watch = Watch()
    watch.poll(12, ended())
    assert watch.poll(13, ended("voicemail", record_id="L2")) == ["call.corrected"]
    assert watch.call().disposition is Disposition.VOICEMAIL
    assert watch.call().provider.record_id == "L2"


def test_a_record_that_stood_beside_the_leading_one_corrects_nothing() -> None:
    """When the leading record leaves the list first, the other one is not its rewrite."""
    watch = Watch()
    beside = ended("voicemail", end=9, record_id="L2", started=2)
    watch.poll(12, ended(), beside)
    assert watch.poll(13, beside) == []


def test_sessions_of_the_same_extension_are_calls_of_their_own() -> None:
    """Two records of one RingOut have two sessions: two calls."""
    watch = Watch()
    emitted = watch.poll(1, observation("dialing"), observation(session_id="s-2", record_id="L2"))
    assert emitted == ["call.dialing", "call.ringing"]


# Sessions of several extensions


@pytest.mark.parametrize("answered_first", [True, False])
def test_a_call_that_another_answered_was_not_missed(answered_first: bool) -> None:
    """The others it rang end as answered_elsewhere; learnt later, a correction says so."""
    watch = Watch(ACCOUNT)
    mine, other = ended(), observation("connected", extension_id="102", record_id="L2")
    watch.poll(1, observation(), *([other] if answered_first else []))
    emitted = watch.poll(12, mine, *([other] if answered_first else []))
    assert emitted == ["call.ended"]
    if not answered_first:
        assert watch.last.call.disposition is Disposition.MISSED
        assert sorted(watch.poll(13, mine, other)) == ["call.answered", "call.corrected"]
    assert watch.call().disposition is Disposition.ANSWERED_ELSEWHERE
    assert watch.poll(14, mine, other) == []


def test_answered_elsewhere_is_learnt_from_another_extensions_list_after_a_restart() -> None:
    """What is over and forgotten in memory is recalled with its session."""
    watch = Watch()
    watch.poll(1, ended())
    forgotten = watch.call()
    watch.poll(2)
    other = observation("connected", extension_id="102", record_id="L2")
    assert watch.index.sessions_to_recall([other]) == {"s-1", "L2"}
    watch.index.learn([forgotten])
    target = msgspec.structs.replace(watch.target, extension_id="102")
    watch.poll(-10, target=target)
    watch.index.learn([forgotten])
    assert sorted(watch.poll(3, other, target=target)) == ["call.answered", "call.corrected"]


@pytest.mark.parametrize(
    ("mine", "other"),
    [
        (ended("voicemail"), observation("connected", extension_id="102", record_id="L2")),
        (ended(), observation("connected", extension_id="102", record_id="L2", direction=Direction.OUTBOUND)),
        (ended(direction=Direction.OUTBOUND), observation("connected", extension_id="102", record_id="L2")),
        (ended(), observation("ringing", extension_id="102", record_id="L2")),
        (ended(), ended("missed", extension_id="102", record_id="L2")),
        (ended(), observation("connected", extension_id="102", session_id="s-2", record_id="L2")),
    ],
)
def test_only_a_missed_inbound_call_was_answered_elsewhere(mine: CallObservation, other: CallObservation) -> None:
    """Not voicemail, not an outbound one on either side, not while it only rings, not in another session."""
    watch = Watch(ACCOUNT)
    watch.poll(1, mine, other)
    assert watch.call().disposition is mine.disposition


def test_one_who_answers_the_second_offer_missed_the_first() -> None:
    """Another extension must have answered."""
    watch = Watch()
    watch.poll(1, ended(end=5))
    watch.poll(10, ended(end=5), observation("connected", record_id="L2", started=8))
    assert watch.call().disposition is Disposition.MISSED


def test_one_known_only_by_its_final_record_answered_too() -> None:
    """First seen ended as answered is as good as seen connected."""
    watch = Watch(ACCOUNT)
    watch.poll(1, ended("answered", extension_id="102", record_id="L2"), ended())
    assert watch.call().disposition is Disposition.ANSWERED_ELSEWHERE


def test_history_is_not_corrected() -> None:
    """What was over at the first poll has no event, no matter who answered."""
    watch = Watch(ACCOUNT, fresh=True)
    watch.poll(1, ended())
    assert watch.poll(2, ended(), observation("connected", extension_id="102", record_id="L2")) == ["call.answered"]
    assert watch.call().disposition is Disposition.MISSED


def test_a_missed_call_that_was_provisional_and_unreported_was_answered_elsewhere_too() -> None:
    """It had no event yet, but it did not end before the first poll."""
    watch = Watch(ACCOUNT)
    watch.poll(1, stopped(rings_alone=False))
    emitted = watch.poll(2, ended(), observation("connected", extension_id="102", record_id="L2"))
    assert sorted(emitted) == ["call.answered", "call.ended"]
    assert watch.call().disposition is Disposition.ANSWERED_ELSEWHERE


def test_corrections_of_one_session_come_in_the_order_of_the_calls_ids() -> None:
    """Whichever extension was seen first, so that a restart in between gives the same events."""
    watch = Watch(ACCOUNT)
    missed = ended(extension_id="103", record_id="L3"), ended(extension_id="102", record_id="L2")
    watch.poll(1, *missed)
    assert watch.poll(2, *missed, observation("connected"))[1:] == ["call.corrected"] * 2
    assert [event.call.call_id for event in watch.events[-2:]] == ["102/s-1", "103/s-1"]


# Unassigned calls


def test_an_unassigned_call_is_taken_over() -> None:
    """It ends as transferred when an extension has the session, whether or not its record stays."""
    for stays in (True, False):
        watch = Watch(ACCOUNT)
        unassigned = observation("connected", extension_id="unassigned")
        watch.poll(1, unassigned)
        mine = observation("ringing", record_id="L2", started=5)
        emitted = watch.poll(6, mine, *([unassigned] if stays else []))
        assert sorted(emitted) == ["call.ended", "call.ringing"]
        over = next(event for event in watch.events if event.type == "call.ended")
        assert (over.call.call_id, over.call.ended_at) == ("unassigned/s-1", at(6))
        assert over.call.disposition is Disposition.TRANSFERRED
        assert watch.poll(7, mine, *([unassigned] if stays else [])) == []
        assert watch.poll(8, mine, ended("answered", extension_id="unassigned")) == []


def test_an_unassigned_call_that_vanished_ended_then() -> None:
    """An extension that appears later takes over what was over for us before."""
    watch = Watch(ACCOUNT)
    watch.poll(1, observation("connected", extension_id="unassigned"))
    watch.poll(6)
    watch.poll(9, observation(record_id="L2", started=5))
    over = next(event for event in watch.events if event.type == "call.ended")
    assert (over.time, over.call.disposition) == (at(6), Disposition.TRANSFERRED)


def test_an_unassigned_call_without_an_event_is_taken_over_silently() -> None:
    """What was provisional all along was never reported, so neither is its end."""
    watch = Watch(ACCOUNT)
    unassigned = stopped(extension_id="unassigned")
    watch.poll(1, unassigned)
    assert watch.poll(2, unassigned, observation(record_id="L2", started=1)) == ["call.ringing"]
    assert watch.call("unassigned/s-1").disposition is Disposition.TRANSFERRED


def test_an_unassigned_call_that_is_over_is_not_taken_over() -> None:
    """It ended as itself, and an extension that has the session later is no correction."""
    watch = Watch(ACCOUNT)
    over = ended("abandoned", extension_id="unassigned")
    watch.poll(1, over)
    assert watch.poll(2, over, observation(record_id="L2", started=12)) == ["call.ringing"]
    assert watch.call("unassigned/s-1").disposition is Disposition.ABANDONED


def test_an_unassigned_next_part_beside_an_extension_is_not_reported() -> None:
    """Nor later: a session that an extension has does not become unassigned again."""
    watch = Watch(ACCOUNT)
    over = ended("abandoned", extension_id="unassigned")
    watch.poll(1, over)
    again = observation(extension_id="unassigned", record_id="L2", started=15)
    mine = observation(record_id="L3", started=15)
    assert watch.poll(20, over, again, mine) == ["call.ringing"]
    assert watch.last.call.extension_id == "101"
    assert watch.poll(22, over, again, mine) == []


def test_an_unassigned_connected_part_is_no_answer_of_an_extension() -> None:
    """A menu that talked to the caller does not make a missed call answered elsewhere."""
    watch = Watch(ACCOUNT)
    watch.poll(1, observation("connected", extension_id="unassigned"))
    watch.poll(20, ended(record_id="L2", started=5, end=15))
    assert watch.call().disposition is Disposition.MISSED


def test_an_unassigned_call_that_ends_when_an_extension_appears_is_transferred() -> None:
    """The record's own end gives the time, the takeover the disposition."""
    watch = Watch(ACCOUNT)
    watch.poll(1, observation("connected", extension_id="unassigned"))
    watch.poll(12, ended("answered", extension_id="unassigned"), observation(record_id="L2", started=10))
    over = next(event for event in watch.events if event.type == "call.ended")
    assert over.call.disposition is Disposition.TRANSFERRED
    assert over.time == at(10)


def test_an_unassigned_call_beside_an_extensions_is_not_reported() -> None:
    """A session that an extension has is not unassigned."""
    watch = Watch(ACCOUNT)
    assert watch.poll(1, observation(extension_id="unassigned", record_id="L2"), observation()) == ["call.ringing"]
    assert watch.poll(2, ended(), observation(extension_id="unassigned", record_id="L3")) == ["call.ended"]
    watch.poll(3, observation(session_id="s-2", record_id="L4"))
    assert watch.poll(4, observation(extension_id="unassigned", session_id="s-2", record_id="L5")) == []


def test_an_unassigned_next_part_is_not_a_takeover() -> None:
    """Only an extension takes over."""
    watch = Watch(ACCOUNT)
    watch.poll(1, ended("abandoned", extension_id="unassigned"))
    again = observation("connected", extension_id="unassigned", record_id="L2", started=15)
    assert watch.poll(20, ended("abandoned", extension_id="unassigned"), again) == ["call.answered"]
    over = ended("answered", end=25, extension_id="unassigned", record_id="L2", started=15)
    assert watch.poll(30, ended("abandoned", extension_id="unassigned"), over) == ["call.ended"]
    assert watch.last.call.disposition is Disposition.ANSWERED


def test_an_unassigned_call_may_end_as_its_own() -> None:
    """The caller hung up in the menu."""
    watch = Watch(ACCOUNT)
    watch.poll(1, observation(extension_id="unassigned"))
    assert watch.poll(12, ended("abandoned", extension_id="unassigned")) == ["call.ended"]
    assert watch.last.call.disposition is Disposition.ABANDONED


def test_the_call_log_may_show_which_extension_took_a_vanished_call() -> None:
    """An extension's final record of the session ends the unassigned call as transferred, and is reported itself."""
    watch = Watch(ACCOUNT)
    watch.poll(1, observation("connected", extension_id="unassigned"))
    watch.poll(20)
    found = [ended("answered", record_id="L2", started=5), ended(session_id="s-9", record_id="L9")]
    emitted = watch.apply(None, resolve(watch.index, "unassigned/s-1", found, at(60), watch.rules))
    assert emitted == ["call.ended", "call.ended"]
    assert {e.call.call_id: e.call.disposition for e in watch.events[1:]} == {
        "101/s-1": Disposition.ANSWERED,
        "unassigned/s-1": Disposition.TRANSFERRED,
    }
    assert watch.index.session("s-1") == [], "not kept in memory: no list holds either"


# After downtime, and at the end of watching


def test_after_downtime_finished_calls_are_reported_once() -> None:
    """Only their end, with the call log as evidence; what lives is left to the polls."""
    watch = Watch()
    watch.poll(1, observation("connected"))
    log = [
        ended("answered", end=100),
        ended("missed", session_id="s-2", record_id="L2", end=90),
        observation("connected", session_id="s-3", record_id="L3"),
        stopped(session_id="s-4", record_id="L4"),
        ended(extension_id="102", session_id="s-5", record_id="L5"),
    ]
    change = fill_gap(watch.index, watch.target, log, at(200), watch.rules, after=at(1))
    assert watch.apply(None, change) == ["call.ended", "call.ended"]
    seen = watch.last.observation
    assert (seen.evidence, seen.after, seen.before, seen.exact) == (Evidence.CALL_LOG, at(1), at(200), True)
    assert watch.index.call("101/s-2") is None, "not kept in memory: no list holds it"
    watch.index.learn([event.call for event in watch.events[-2:]])
    assert watch.apply(None, fill_gap(watch.index, watch.target, log, at(201), watch.rules)) == []
    assert watch.call("101/s-2").vanished_at == at(200)
    assert watch.poll(202, ended("missed", session_id="s-2", record_id="L2", end=90)) == []


def test_an_accounts_downtime_is_every_extensions() -> None:
    """At account level all finished calls are ours."""
    watch = Watch(ACCOUNT)
    change = fill_gap(watch.index, ACCOUNT, [ended(), ended(extension_id="102", record_id="L2")], at(9), watch.rules)
    assert len(change.events) == 2


def test_calls_of_an_extension_that_is_no_longer_watched_end_as_unknown() -> None:
    """Once, as unwatched; others go on."""
    watch = Watch(ACCOUNT)
    watch.poll(
        1,
        observation(),
        observation("connected", extension_id="102", record_id="L2"),
        stopped(session_id="s-2", record_id="L3"),
    )
    assert watch.apply(None, unwatch(watch.index, {"101"}, at(5))) == ["call.ended"]
    assert watch.last.call.call_id == "101/s-1", "a provisional call without an event gets none now"
    assert watch.last.call.disposition is Disposition.UNKNOWN
    assert watch.last.observation.evidence is Evidence.UNWATCHED
    assert (watch.last.time, watch.last.observation.exact) == (at(5), False)
    assert watch.call().vanished_at == at(5), "no list will hold it any more"
    assert not unwatch(watch.index, {"101"}, at(6))
    assert watch.call("102/s-1").live
    watch.poll(8)
    watch.apply(None, unwatch(watch.index, {"102"}, at(9)))
    assert watch.last.call.vanished_at == at(8), "it had left the list before"


@pytest.mark.parametrize("target", [EXTENSION, ACCOUNT])
@pytest.mark.parametrize(("refused", "ended_at"), [(7, 7), (-100, 5)])
def test_calls_of_a_refused_target_end_as_unknown_once(target: Target, refused: float, ended_at: float) -> None:
    """At the first refusal; a clock that was put back meanwhile turns no time around."""
    watch = Watch(target)
    watch.poll(5, observation("connected"))
    assert watch.apply(None, refuse(watch.index, target, at(refused), at(1000))) == ["call.ended"]
    seen, call = watch.last.observation, watch.last.call
    assert (call.disposition, seen.evidence) == (Disposition.UNKNOWN, Evidence.REFUSED)
    assert call.ended_at == seen.before == at(ended_at)
    assert (seen.after, seen.exact) == (at(5), False)
    assert not refuse(watch.index, target, at(refused), at(1001))


def test_a_refused_call_that_had_vanished_or_not_settled_ends_by_what_is_known_of_it() -> None:
    """When it left the list, or as its record read; a call without an event gets none."""
    watch = Watch()
    watch.poll(5, observation("connected"))
    watch.poll(8)
    assert watch.apply(None, refuse(watch.index, EXTENSION, at(20), at(1000))) == ["call.ended"]
    assert watch.last.call.ended_at == at(8)
    watch = Watch()
    watch.poll(5, observation("ringing"))
    watch.poll(12, stopped(rings_alone=False))
    assert watch.apply(None, refuse(watch.index, EXTENSION, at(20), at(1000))) == ["call.ended"]
    assert (watch.last.call.disposition, watch.last.call.ended_at) == (Disposition.ANSWERED_ELSEWHERE, at(10))
    watch = Watch(fresh=True)
    watch.poll(12, stopped(rings_alone=False))
    assert watch.apply(None, refuse(watch.index, EXTENSION, at(20), at(1000))) == []
    assert watch.index.live_calls() == []


def test_a_colleagues_answer_learnt_by_an_earlier_clock_turns_no_time_around() -> None:
    """The two polls around the correction stay in order."""
    watch = Watch()
    watch.index.answers.shared = True
    watch.poll(5, observation("ringing"))
    watch.poll(12, ended("missed"))
    other = msgspec.structs.replace(
        watch.call(), extension_id="102", call_id="102/s-1", source="two", answered_at=at(9)
    )
    watch.index.answers.learn([other])
    assert watch.apply(None, correct_missed(watch.index, "s-1", at(-50))) == ["call.corrected"]
    assert watch.last.call.disposition == Disposition.ANSWERED_ELSEWHERE
    assert watch.last.observation.after == watch.last.observation.before == at(12)
    assert not correct_missed(watch.index, "s-1", at(50))
