"""Short ways to say in a test what a poll shows and which events it gives."""

from datetime import UTC, datetime, timedelta
from typing import Any

from callcast.calls.model import (
    Call,
    CallEvent,
    CallObservation,
    ChangeSet,
    Direction,
    Disposition,
    Leg,
    Party,
    PollRecord,
    Provider,
    Snapshot,
    State,
    Target,
)
from callcast.calls.tracker import CallIndex, Rules, compare

START = datetime(2026, 3, 2, 9, 0, tzinfo=UTC)
EXTENSION = Target(source="acme", extension_id="101")
ACCOUNT = Target(source="acme")
CALLER = Party(number="+15550100351", name="JANE DOE")
CALLED = Party(number="+15550100901")


def at(seconds: float) -> datetime:
    return START + timedelta(seconds=seconds)


def leg(kind: str, start: float, *, accepted: bool = False, own: bool = False) -> Leg:
    return Leg(kind=kind, started_at=at(start), accepted=accepted, own=own)


def observation(state: str = "ringing", **fields: Any) -> CallObservation:
    """Extension 101, session s-1, record L1, started at 0; `ended` takes seconds, `result` the raw word."""
    ended = fields.pop("ended", None)
    record_id = fields.pop("record_id", "L1")
    if "disposition" in fields:
        fields["disposition"] = Disposition(fields["disposition"])
    facts: dict[str, Any] = {
        "extension_id": "101",
        "session_id": "s-1",
        "account_id": "400",
        "direction": Direction.OUTBOUND if state == "dialing" else Direction.INBOUND,
        "from_party": CALLER,
        "to_party": CALLED,
        "started_at": at(fields.pop("started", 0)),
        "ended_at": None if ended is None else at(ended),
        "provider": Provider(name="ringcentral", record_id=record_id, result=fields.pop("result", None)),
    }
    return CallObservation(record_id=record_id, state=State(state), **{**facts, **fields})


def ended(disposition: str = "missed", end: float | None = 10, **fields: Any) -> CallObservation:
    return observation("ended", disposition=disposition, ended=end, **fields)


def stopped(end: float | None = 10, **fields: Any) -> CallObservation:
    return observation("ended", provisional=True, disposition="answered_elsewhere", ended=end, **fields)


class Watch:
    """An index, and polls that change it; a poll of -10 that showed nothing comes first unless `fresh`."""

    def __init__(self, target: Target = EXTENSION, *, fresh: bool = False) -> None:
        self.target = target
        self.index = CallIndex("acme")
        self.rules = Rules()
        self.events: list[CallEvent] = []
        if not fresh:
            self.poll(-10)

    def poll(self, t: float, *seen: CallObservation, target: Target | None = None) -> list[str]:
        """The types of the events of this poll."""
        snapshot = Snapshot(target=target or self.target, taken_at=at(t), observations=seen)
        return self.apply(PollRecord(target=snapshot.target, taken_at=at(t)), compare(self.index, snapshot, self.rules))

    def apply(self, poll: PollRecord | None, change: ChangeSet) -> list[str]:
        self.index.apply(poll, change)
        emitted = [event for event in change.events if isinstance(event, CallEvent)]
        assert len(emitted) == len(change.events)
        self.events += emitted
        return [event.type for event in emitted]

    @property
    def last(self) -> CallEvent:
        return self.events[-1]

    def call(self, call_id: str = "101/s-1") -> Call:
        found = self.index.call(call_id)
        assert found is not None
        return found
