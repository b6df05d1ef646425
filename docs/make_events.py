"""Writes docs/events.md from docs/events.in.md: the examples and the table of words come from the code.

Run it after a change of either: python docs/make_events.py
"""

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

from callcast.calls.ids import event_id
from callcast.calls.model import Blind, CallEvent, Event, PollRecord, SourceEvent, Target
from callcast.calls.tracker import CallIndex, Rules, compare
from callcast.formats.cloudevents import Wire
from callcast.ringcentral.interpret import read_page, snapshot
from callcast.ringcentral.vocabulary import ACTIONS_WITHOUT_CALL, RESULTS, RESULTS_OFF_LIST

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "events.md"
TEMPLATE = ROOT / "docs" / "events.in.md"
START = datetime(2026, 3, 2, 9, 0, tzinfo=UTC)
TARGET = Target(source="acme")

WHEN = {
    "call.ringing": "An inbound call is offered to the extension.",
    "call.dialing": "The extension is placing a call.",
    "call.answered": "The two sides are connected.",
    "call.updated": "The state is unchanged, but from, to, queue or direction became known or changed.",
    "call.ended": "The call is over. Emitted exactly once per call, with a disposition.",
    "call.corrected": "After the end, the disposition, a time, a party, the queue or the direction changed.",
    "source.degraded": "A source, or one of its extensions, has had no successful poll for three intervals "
    "(at least 30 s). `extension_id` is null when no target of the source has one.",
    "source.recovered": "Polls succeed again; `blind` is the time in which nothing was seen.",
}


def page() -> str:
    text = TEMPLATE.read_text()
    text = text.replace("<!-- examples -->", "\n".join(_examples()).rstrip())
    text = text.replace("<!-- words -->", "\n".join(_words()))
    return text.replace("<!-- without call -->", ", ".join(f"`{word}`" for word in ACTIONS_WITHOUT_CALL))


def _words() -> Iterator[str]:
    yield "| disposition | documented results | undocumented results |"
    yield "|---|---|---|"
    for disposition, words in RESULTS.items():
        off_list = RESULTS_OFF_LIST.get(disposition, ())
        yield f"| `{disposition}` | {', '.join(words)} | {', '.join(off_list)} |"


def _examples() -> Iterator[str]:
    events = {event.type: event for event in (*_outbound(), *_inbound(), *_source())}
    for kind, when in WHEN.items():
        yield f"### `{kind}`\n\n{when}\n\n```json"
        yield json.dumps(Wire().event_dict(events[kind]), indent=1)
        yield "```\n"


def _inbound() -> list[CallEvent]:
    """Two extensions ring, one answers; the other learns of it a poll later."""
    caller = {"phoneNumber": "+15550100351", "name": "JANE DOE", "location": "Springfield, US"}
    base = {"direction": "Inbound", "action": "Phone Call", "from": caller, "to": {"phoneNumber": "+15550100900"}}
    here = base | {"id": "L1", "extension": {"id": 101}}
    there = base | {"id": "L2", "extension": {"id": 102}}
    leg = {"legType": "PstnToSip", "startTime": _stamp(9), "reason": "Accepted"}
    talking = there | {"result": "In Progress", "legs": [leg]}
    missed = here | {"result": "Missed", "duration": 9}
    polls = [
        (2, [here | {"result": "In Progress"}]),
        (10, [missed]),
        (18, [missed, talking]),
        (26, [missed, talking | {"to": {"phoneNumber": "+15550100900", "name": "Support"}}]),
    ]
    return _told("s-2", polls)


def _outbound() -> list[CallEvent]:
    out = {
        "id": "L3",
        "direction": "Outbound",
        "action": "VoIP Call",
        "extension": {"id": 101},
        "result": "In Progress",
    }
    out |= {"from": {"phoneNumber": "+15550100900", "name": "Rep One"}, "to": {"phoneNumber": "+15550100360"}}
    return _told("s-1", [(3, [out])])


def _told(session: str, polls: list[tuple[int, list[dict[str, object]]]]) -> list[CallEvent]:
    index = CallIndex("acme")
    told: list[Event] = []
    for t, shown in [(-6, []), *polls]:
        common = {"type": "Voice", "sessionId": "5", "telephonySessionId": session, "startTime": _stamp(0)}
        common["uri"] = "https://platform.ringcentral.com/restapi/v1.0/account/400000000001/call-log/L"
        page = read_page(json.dumps({"records": [common | record for record in shown]}).encode(), TARGET)
        seen = snapshot(TARGET, [page], START + timedelta(seconds=t))
        change = compare(index, seen, Rules())
        index.apply(PollRecord(target=TARGET, taken_at=seen.taken_at), change)
        told += change.events
    return [event for event in told if isinstance(event, CallEvent)]


def _source() -> list[SourceEvent]:
    since, until = START + timedelta(seconds=60), START + timedelta(seconds=150)
    common = {"source": "acme", "extension_id": None, "reason": "server", "since": since}
    degraded = event_id("acme", "source.degraded", "1")
    recovered = event_id("acme", "source.recovered", "2")
    blind = Blind(after=since, before=until)
    return [
        SourceEvent(id=degraded, type="source.degraded", time=since + timedelta(seconds=30), **common),
        SourceEvent(id=recovered, type="source.recovered", time=until, blind=blind, **common),
    ]


def _stamp(seconds: float) -> str:
    return (START + timedelta(seconds=seconds)).isoformat()


if __name__ == "__main__":
    PAGE.write_text(page())
