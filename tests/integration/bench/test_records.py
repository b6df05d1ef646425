"""What the load platform serves is what callcast reads as one ringing, one answered, one ended."""

from datetime import UTC, datetime, timedelta

from bench.records import EVENTS, STEPS, Call, extension_id, key_of, page
from callcast.calls.model import CallEvent, ChangeSet, PollRecord, Target
from callcast.calls.tracker import CallIndex, Rules, compare
from callcast.formats.cloudevents import Wire
from callcast.ringcentral.interpret import read_page, snapshot

TARGET = Target(source="acme", extension_id=extension_id(7))
NINE = datetime(2026, 3, 2, 9, 0, tzinfo=UTC)


def shown(index: CallIndex, call: Call, at: datetime) -> ChangeSet:
    poll = snapshot(TARGET, [read_page(page("/restapi/v1.0/account/809646016", [call.body()]), TARGET)], at)
    change = compare(index, poll, Rules())
    index.apply(PollRecord(target=TARGET, taken_at=at), change)
    return change


def test_each_step_of_a_call_is_one_event_with_the_key_of_the_truth() -> None:
    """So a lost event is a lost event, and never a record that says nothing new."""
    index, call, at = CallIndex("acme"), Call(12, extension_id(7), NINE), NINE
    index.apply(PollRecord(target=TARGET, taken_at=at), ChangeSet())
    for step in range(STEPS):
        at += timedelta(seconds=3)
        if step:
            call.turn(at)
        (event,) = shown(index, call, at).events
        assert isinstance(event, CallEvent)
        assert event.type.encode() == EVENTS[step]
        assert key_of(Wire().event(event)) == 12 * STEPS + step


def test_events_of_another_kind_have_no_key() -> None:
    """They are counted apart, and never as a change."""
    assert key_of(b'{"type":"call.updated","session_id":"s-%032x"}' % 1) is None
    assert key_of(b'{"type":"call.ended"}') is None
