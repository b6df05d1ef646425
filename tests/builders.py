"""Builders for complete calls and events with few arguments."""

from datetime import UTC, datetime

from callcast.calls.ids import event_id
from callcast.calls.model import (
    Call,
    CallEvent,
    ChangeSet,
    Direction,
    Evidence,
    Observation,
    Party,
    Provider,
    SourceEvent,
    State,
)

NINE = datetime(2026, 3, 2, 9, 0, tzinfo=UTC)

_STATES = {
    "call.ringing": State.RINGING,
    "call.dialing": State.DIALING,
    "call.answered": State.CONNECTED,
    "call.updated": State.CONNECTED,
}


def call(name: str = "s-1", *, state: State = State.RINGING, sequence: int = 1, source: str = "acme") -> Call:
    """An inbound call of extension 101 in the session `name`."""
    return Call(
        source=source,
        call_id=f"101/{name}",
        session_id=name,
        extension_id="101",
        account_id="809646016",
        sequence=sequence,
        direction=Direction.INBOUND,
        state=state,
        from_party=Party(number="+16505550100", name="WIRELESS CALLER"),
        started_at=NINE,
        ended_at=NINE if state is State.ENDED else None,
        provider=Provider(name="ringcentral", record_id=f"r-{name}"),
    )


def event(name: str = "s-1", type_: str = "call.ringing", sequence: int = 1, *, source: str = "acme") -> CallEvent:
    state = _STATES.get(type_, State.ENDED)
    return CallEvent(
        id=event_id(source, name, type_, str(sequence)),
        type=type_,
        time=NINE,
        call=call(name, state=state, sequence=sequence, source=source),
        previous_state=None,
        sequence=sequence,
        observation=Observation(after=None, before=NINE, exact=True, evidence=Evidence.ACTIVE_CALLS, first_poll=False),
    )


def source_event(number: int = 1, type_: str = "source.degraded", *, source: str = "acme") -> SourceEvent:
    return SourceEvent(
        id=event_id(source, type_, str(number)),
        type=type_,
        time=NINE,
        source=source,
        extension_id=None,
        reason="timeout",
        since=NINE,
    )


def change(*events: CallEvent | SourceEvent) -> ChangeSet:
    calls = tuple(one.call for one in events if isinstance(one, CallEvent))
    return ChangeSet(calls=calls, events=tuple(events))
