"""What a message in a chat says of an event, the same for each product, before it is written in its markup."""

import re
from datetime import datetime

from msgspec import Struct

from callcast.calls.model import Call, CallEvent, Direction, Event, State
from callcast.formats.cloudevents import Wire
from callcast.formats.payloads import CallData, Party

TEXT_MAX = 100  # characters of a name: enough for every real one, and ten of them fit into every product's limit

_ENDED = {
    "answered": "Answered call",
    "missed": "Missed call",
    "no_answer": "Unanswered call",
    "abandoned": "Abandoned call",
    "voicemail": "Voicemail",
    "busy": "Call while busy",
    "declined": "Declined call",
    "blocked": "Blocked call",
    "failed": "Failed call",
    "answered_elsewhere": "Call answered elsewhere",
    "cancelled": "Cancelled call",
    "transferred": "Transferred call",
    "fax": "Fax",
}
_CONNECTED = ("answered", "answered_elsewhere", "transferred")
_DIALABLE = re.compile(r"\+?[0-9]{3,15}")  # a number that the policy for numbers has not changed


class Message(Struct, frozen=True, kw_only=True):
    """One message. No text holds markup or a line break.

    facts: label and value. at: label and time. call_back: the number of a caller who was not spoken to.
    """

    title: str
    facts: tuple[tuple[str, str], ...]
    at: tuple[str, datetime]
    call_back: str | None = None


def message(wire: Wire, event: Event) -> Message:
    if isinstance(event, CallEvent):
        return _of_call(event, wire.call_data(event.call, event))
    works = event.type == "source.recovered"
    title = f"Source {event.source} is read again" if works else f"Source {event.source} cannot be read"
    facts = {"Extension": event.extension_id, "Reason": event.reason}
    return Message(title=title, facts=_present(facts), at=("Since", event.since))


def check_message(sink: str, at: datetime) -> Message:
    """The message of `callcast check --send`."""
    return Message(title="callcast: this is a test message", facts=(("Sink", sink),), at=("Time", at))


def dialable(number: str | None) -> str | None:
    return number if number and _DIALABLE.fullmatch(number) else None


def sides(call: Call, data: CallData) -> tuple[Party | None, Party | None]:
    """The external party, and the extension's own side."""
    inbound = call.direction == Direction.INBOUND
    return (data.from_party, data.to_party) if inbound else (data.to_party, data.from_party)


def _of_call(event: CallEvent, data: CallData) -> Message:
    call, inbound = event.call, event.call.direction == Direction.INBOUND
    external, own = sides(call, data)
    what = "Call" if call.state != State.ENDED else _ENDED.get(call.disposition or "", "Ended call")
    title = f"{what} {'from' if inbound else 'to'} {_label(external) or 'an unknown number'}"
    title += {"call.answered": " was answered", "call.updated": " has changed"}.get(event.type, "")
    facts = {
        "For" if inbound else "By": _label(own) or f"extension {call.extension_id}",
        "Queue": _clean(data.queue.name) if data.queue else None,
        "Rang": _span(data.ring_seconds),
        "Talked": _span(data.talk_seconds),
    }
    missed = inbound and call.state == State.ENDED and call.disposition not in _CONNECTED
    return Message(
        title=f"Correction: {title}" if event.type == "call.corrected" else title,
        facts=_present(facts),
        at=("Time", call.started_at),
        call_back=dialable(external.number) if external and missed else None,
    )


def _present(facts: dict[str, str | None]) -> tuple[tuple[str, str], ...]:
    return tuple((label, value) for label, value in facts.items() if value)


def _label(party: Party | None) -> str:
    if party is None:
        return ""
    name, number = _clean(party.name or ""), _clean(party.extension_number or party.number or "")
    return f"{name} ({number})" if name and number else name or number


def _clean(text: str) -> str:
    """One line of limited length, without control characters."""
    text = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return text if len(text) <= TEXT_MAX else f"{text[: TEXT_MAX - 1]}…"


def _span(seconds: float | None) -> str | None:
    if seconds is None:
        return None
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
