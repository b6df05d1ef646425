"""Words about another part of the session, or another time: they end nothing that lives."""

from datetime import datetime

import msgspec
import pytest

from callcast.calls.model import CallObservation, Disposition, Evidence, Target
from callcast.calls.tracker import ChangeSet, Rules, fill_gap, resolve
from tests.unit.calls.snapshots import ACCOUNT, EXTENSION, Watch, at, ended, observation, stopped

RULES = Rules()
LIVE = observation("connected", record_id="L2", started=50)  # the part that a poll shows
EARLIER = ended(record_id="L1", started=10, end=30)  # was missed before, while it was not polled


def filled(watch: Watch, *log: CallObservation, t: float = 90, after: datetime | None = None) -> list[str]:
    return watch.apply(None, fill_gap(watch.index, watch.target, log, at(t), RULES, after=after or at(-10)))


# An earlier part that no poll showed


def test_an_earlier_offer_found_in_the_call_log_is_a_call_of_its_own() -> None:
    """Down while it was missed, back while the next one is talked on: two calls, and the live one lives."""
    watch = Watch()
    watch.poll(60, LIVE)
    assert filled(watch, EARLIER) == ["call.ended"]
    assert (watch.last.call.call_id, watch.last.sequence) == ("101/s-1~2", 1)
    assert (watch.last.call.disposition, watch.last.time) == (Disposition.MISSED, at(30))
    assert watch.last.observation.evidence is Evidence.CALL_LOG
    assert watch.call().live
    assert filled(watch, EARLIER) == []
    assert watch.poll(100, EARLIER, ended("answered", record_id="L2", started=50, end=99)) == ["call.ended"]
    assert watch.last.call.call_id == "101/s-1"


def test_an_earlier_offer_that_comes_late_into_the_list_is_a_call_of_its_own() -> None:
    """Also in the poll in which the live one is missing for a moment."""
    watch = Watch()
    watch.poll(60, LIVE)
    assert watch.poll(61, EARLIER) == ["call.ended"]
    assert watch.last.call.call_id == "101/s-1~2"
    assert watch.call().vanished_at == at(61)
    assert watch.poll(62, EARLIER, LIVE) == []
    assert watch.call().vanished_at is None
    late = observation(record_id="L3", started=120)
    assert watch.poll(130, ended("answered", record_id="L2", started=50, end=99), late) == [
        "call.ended",
        "call.ringing",
    ]
    assert watch.last.call.call_id == "101/s-1~3"


def test_several_earlier_offers_are_reported_one_by_one() -> None:
    """Each is the next after the one before, as if a poll had been in between; one between two known ones too."""
    watch = Watch()
    watch.poll(60, LIVE)
    earliest = ended(record_id="L0", started=0, end=5)
    assert filled(watch, EARLIER, earliest) == ["call.ended"] * 2
    assert [(e.call.call_id, e.call.ended_at) for e in watch.events[1:]] == [
        ("101/s-1~2", at(5)),
        ("101/s-1~3", at(30)),
    ]
    between = ended(record_id="L4", started=35, end=40)
    assert filled(watch, between) == ["call.ended"]
    assert watch.last.call.call_id == "101/s-1~4"


def test_another_record_of_an_earlier_part_is_still_that_parts() -> None:
    """Its id changed late, while the next part lives already: a correction there, and nothing here."""
    watch = Watch()
    watch.poll(20, observation(started=10))
    watch.poll(60, EARLIER, LIVE)
    emitted = watch.poll(61, ended("voicemail", record_id="L9", started=11, end=30), LIVE)
    assert emitted == ["call.corrected"]
    assert watch.last.call.call_id == "101/s-1"
    assert watch.call("101/s-1~2").live


@pytest.mark.parametrize("end", [50, 31])
def test_a_record_that_ended_by_the_start_is_not_the_calls_own(end: float) -> None:
    """A call that vanished waits for its own record, however near the earlier one is."""
    watch = Watch()
    watch.poll(60, LIVE)
    watch.poll(70)
    earlier = ended(record_id="L1", started=30, end=end)
    for word in (earlier, msgspec.structs.replace(earlier, provisional=True)):
        assert resolve(watch.index, "101/s-1", [word], at(100), RULES) == ChangeSet()
    own = ended("answered", record_id="L3", started=51, end=65)
    assert watch.apply(None, resolve(watch.index, "101/s-1", [earlier, own], at(130), RULES)) == ["call.ended"]
    assert watch.last.call.disposition is Disposition.ANSWERED


@pytest.mark.parametrize("word", [ended(record_id="L1", started=50, end=50), ended(record_id="L1", started=49, end=51)])
def test_a_record_that_overlaps_the_open_part_is_its_end(word: CallObservation) -> None:
    """Also one that lasted no whole second: ids and starts change at the end."""
    watch = Watch()
    watch.poll(60, LIVE)
    assert watch.poll(61, word) == ["call.ended"]
    assert watch.last.call.call_id == "101/s-1"


def test_a_provisional_record_of_an_earlier_time_waits_unseen() -> None:
    """It is not over for certain, so no call is made of it, and it says nothing of the open part."""
    watch = Watch()
    watch.poll(60, LIVE)
    assert watch.poll(61, stopped(record_id="L1", started=10, end=30)) == []
    assert watch.call().provisional_since is None
    assert watch.call().record_ids == ("L2",)
    assert watch.index.call("101/s-1~2") is None


def test_parts_keep_their_order_when_a_start_is_rewritten() -> None:
    """A queue call's start moves to before the offer that the extension missed: it is still the last part."""
    watch = Watch()
    watch.poll(20, observation(started=10))
    watch.poll(60, EARLIER, LIVE)
    over = ended("answered", record_id="L2", started=5, end=99)
    assert watch.poll(100, EARLIER, over) == ["call.ended"]
    assert watch.poll(101, EARLIER, over, ended("answered", record_id="L3", started=51, end=99)) == []
    assert watch.call("101/s-1~2").record_ids == ("L2", "L3")


# The list knows better


def test_the_call_log_does_not_end_what_the_list_shows_live() -> None:
    """A queue call's record can read finished in the log while people talk; a poll after the gap takes precedence."""
    watch = Watch()
    watch.poll(0, observation("connected"))
    watch.poll(60, observation("connected"))
    midway = ended("answered", end=20)
    assert filled(watch, midway, after=at(0)) == []
    assert watch.call().live
    assert filled(watch, midway, after=at(60)) == ["call.ended"], "not seen since"


def test_the_call_log_ends_what_the_list_shows_no_more() -> None:
    """Vanished after the gap, or provisional: its word counts."""
    watch = Watch()
    watch.poll(0, observation(), observation(session_id="s-2", record_id="L2"))
    watch.poll(60, stopped(session_id="s-2", record_id="L2"))
    log = ended(end=20), ended(session_id="s-2", record_id="L2", end=20)
    assert filled(watch, *log, after=at(0)) == ["call.ended"] * 2


@pytest.mark.parametrize("waiting", [None, stopped(rings_alone=False)])
def test_an_answer_that_comes_too_late_is_dropped(waiting: CallObservation | None) -> None:
    """Looked up because it was gone or provisional, and live again when the answer comes."""
    watch = Watch()
    watch.poll(1, observation())
    watch.poll(2, *([waiting] if waiting else []))
    assert watch.poll(40, observation("connected")) == ["call.answered"]
    assert resolve(watch.index, "101/s-1", [ended(end=5)], at(50), RULES) == ChangeSet()


# Unassigned calls


def test_an_unassigned_call_after_an_extensions_ends_as_itself() -> None:
    """Voicemail, when the extension was over before: no extension took it over."""
    watch = Watch(ACCOUNT)
    watch.poll(1, observation("connected", extension_id="unassigned"))
    watch.poll(10, observation("connected", record_id="L2", started=5))
    over = ended("answered", record_id="L2", started=5, end=15)
    again = observation(extension_id="unassigned", record_id="L3", started=15)
    assert watch.poll(20, over, again) == ["call.ended", "call.ringing"]
    assert watch.poll(30, over, again) == []
    assert watch.poll(40, over, ended("voicemail", extension_id="unassigned", record_id="L3", started=15, end=39)) == [
        "call.ended"
    ]
    assert (watch.last.call.call_id, watch.last.call.disposition) == ("unassigned/s-1~2", Disposition.VOICEMAIL)


def test_an_unassigned_call_ends_as_itself_though_its_start_is_rewritten() -> None:
    """Whose the session was before is no matter at the end."""
    watch = Watch(ACCOUNT)
    over = ended("answered", record_id="L2", started=5, end=15)
    watch.poll(20, over, observation(extension_id="unassigned", record_id="L3", started=15))
    assert watch.poll(40, over, ended("voicemail", extension_id="unassigned", record_id="L3", started=0, end=39)) == [
        "call.ended"
    ]
    assert watch.last.call.disposition is Disposition.VOICEMAIL


def test_an_unassigned_call_is_not_taken_over_by_what_was_over_before_it_began() -> None:
    """An extension's part learnt from the call log, and the caller is back in the menu."""
    watch = Watch(ACCOUNT)
    watch.poll(60, observation("connected", extension_id="unassigned", record_id="L2", started=50))
    assert filled(watch, EARLIER) == ["call.ended"]
    assert watch.call("unassigned/s-1").live


# After a change of what is watched


def test_an_extension_seen_with_the_account_was_looked_at() -> None:
    """From the account to an extension: no first poll, and the account's is the one before."""
    watch = Watch(ACCOUNT)
    watch.poll(1, observation())
    emitted = watch.poll(5, observation("connected"), ended(session_id="s-2", started=2, end=4), target=EXTENSION)
    assert emitted == ["call.answered", "call.ended"]
    assert [(e.observation.first_poll, e.observation.after) for e in watch.events[1:]] == [(False, at(1))] * 2


def test_an_account_seen_by_its_extensions_was_looked_at_where_they_were() -> None:
    """From extensions to the account: each extension has its own last poll, or none."""
    watch = Watch(EXTENSION)
    watch.poll(1, observation())
    other = observation(extension_id="102", session_id="s-2")
    unseen = ended(extension_id="102", session_id="s-3")
    watch.poll(5, observation("connected"), other, unseen, target=ACCOUNT)
    assert [(e.call.call_id, e.observation.first_poll, e.observation.after) for e in watch.events[1:]] == [
        ("101/s-1", False, at(1)),
        ("102/s-2", True, None),
    ]
    watch.poll(6, other, target=ACCOUNT)
    assert (watch.call().vanished_at, watch.call().last_seen_at) == (at(6), at(5))


def test_another_extension_in_the_list_was_seen_between_its_own_polls() -> None:
    """Ring-all, watched one by one: who answered stands in another list, which has its own poll before."""
    watch, other = Watch(), Target(source="acme", extension_id="102")
    watch.poll(0, target=other)
    watch.poll(20, ended())
    assert sorted(watch.poll(19, observation("connected", extension_id="102", record_id="L2"), target=other)) == [
        "call.answered",
        "call.corrected",
    ]
    assert {(e.observation.after, e.observation.before) for e in watch.events[-2:]} == {(at(0), at(19))}


def test_a_call_that_vanished_with_the_change_was_last_seen_before_it() -> None:
    """The polls around its vanishing are the extension's last and the account's first."""
    watch = Watch(EXTENSION)
    watch.poll(1, observation())
    watch.poll(6, target=ACCOUNT)
    assert (watch.call().vanished_at, watch.call().last_seen_at) == (at(6), at(1))


@pytest.mark.parametrize(("before", "now"), [(EXTENSION, ACCOUNT), (ACCOUNT, EXTENSION)])
def test_time_does_not_run_backwards_over_a_change(before: Target, now: Target) -> None:
    """A clock set back in between: the new poll counts as of the old one."""
    watch = Watch(before)
    watch.poll(10, observation())
    watch.poll(5, observation("connected"), target=now)
    seen = watch.last.observation
    assert (seen.after, seen.before) == (at(10), at(10))
    assert watch.index.polls[now] == at(10)
