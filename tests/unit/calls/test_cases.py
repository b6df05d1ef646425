"""Lists as they were seen in the field, each played whole: decoded, interpreted, compared."""

import json
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

import pytest

from callcast.calls.model import CallEvent, ChangeSet, PollRecord, Target
from callcast.calls.tracker import CallIndex, Rules, compare, due_lookups, give_up, resolve
from callcast.formats.cloudevents import Wire
from tests import TESTS
from tests.unit.ringcentral.decoded import Decoded, decode_page, observations_of, snapshot

Json = dict[str, Any]
Row = tuple[Any, ...]

# Of each file: seconds from the first record's start to the first poll that shows it, and between polls, so that what
# is shown can be so by then; and every event: type, extension, direction, from and to, time, how sure, how it
# ended, ring and talk seconds. Of a phone that rang before it was accepted, the answer's time is the poll's.
SAME = "2001 > 9000"
EXPECTED: dict[tuple[str, float, float], list[Row]] = {
    ("C1-1", 1, 4): [
        ("call.ringing", "101", "inbound", SAME, 0, "exact", "None", None, None),
        ("call.answered", "101", "inbound", SAME, 2, "exact", "None", 2, None),
        ("call.ended", "101", "inbound", SAME, 8, "exact", "answered", 2, 6),
    ],
    ("C3-1", 1, 8): [
        ("call.ringing", "101", "inbound", SAME, 0, "exact", "None", None, None),
        ("call.ended", "101", "inbound", SAME, 8, "exact", "missed", 8, None),
    ],
    ("C5-1", 1, 8): [
        ("call.ringing", "101", "inbound", SAME, 0, "exact", "None", None, None),
        ("call.ended", "101", "inbound", SAME, 8, "exact", "answered", 2, 6),
    ],
    ("A1-1", 5, 10): [
        ("call.ringing", "101", "inbound", SAME, 0, "exact", "None", None, None),
        ("call.ended", "101", "inbound", SAME, 34, "exact", "voicemail", 34, None),
    ],
    ("A2-1", 5, 16): [
        ("call.ringing", "101", "inbound", SAME, 0, "exact", "None", None, None),
        ("call.ended", "101", "inbound", SAME, 20, "exact", "missed", 20, None),
    ],
    ("A3-1", 21, 20): [("call.ended", "101", "inbound", SAME, 20, "exact", "missed", 20, None)],
    ("B1-1", 1, 16): [
        ("call.dialing", "101", "outbound", "9000 > 2777", 0, "exact", "None", None, None),
        ("call.ended", "101", "outbound", "9000 > 2777", 30, "exact", "no_answer", 30, None),
    ],
    ("R1-1", 1, 8): [
        ("call.ringing", "101", "inbound", SAME, 0, "exact", "None", None, None),
        ("call.ended", "101", "inbound", SAME, 6, "exact", "answered_elsewhere", 6, None),
    ],
    ("R2-1", 4, 46): [
        ("call.answered", "101", "inbound", SAME, 2, "exact", "None", 2, None),
        ("call.ended", "101", "inbound", SAME, 6, "exact", "answered", 2, 4),
    ],
    ("G2-1", 3, 41): [
        ("call.ringing", "101", "inbound", SAME, 0, "exact", "None", None, None),
        ("call.answered", "101", "inbound", SAME, 44, "poll", "None", None, None),
        ("call.ended", "101", "inbound", SAME, 123, "exact", "answered", None, 79),
    ],
    ("G2-2", 3, 41): [
        ("call.ringing", "101", "inbound", SAME, 0, "exact", "None", None, None),
        ("call.answered", "101", "inbound", SAME, 44, "poll", "None", None, None),
        ("call.ended", "101", "inbound", SAME, 123, "exact", "answered", None, 79),
    ],
    ("X1-1", 4, 20): [
        ("call.ringing", "900", "inbound", "2001 > 9900", 0, "exact", "None", None, None),
        ("call.ringing", "102", "inbound", "2001 > 9900", 3, "exact", "None", None, None),
        ("call.ringing", "103", "inbound", "2001 > 9900", 3, "exact", "None", None, None),
        ("call.answered", "102", "inbound", "2001 > 9900", 24, "poll", "None", None, None),
        ("call.ended", "103", "inbound", "2001 > 9900", 6, "exact", "answered_elsewhere", 3, None),
        ("call.ended", "900", "inbound", "2001 > 9900", 40, "exact", "answered_elsewhere", 40, None),
        ("call.ended", "102", "inbound", "2001 > 9900", 40, "exact", "answered", None, 16),
    ],
    ("AA1-1", 1, 5): [
        ("call.ringing", "101", "inbound", "2777 > 9000", 0, "exact", "None", None, None),
        ("call.dialing", "102", "outbound", "9000 > 2777", 0, "exact", "None", None, None),
        ("call.ended", "101", "inbound", "2777 > 9000", 6, "poll", "unknown", None, None),
        ("call.ended", "102", "outbound", "9000 > 2777", 6, "poll", "unknown", None, None),
    ],
}
# The same, when all that shows the end is the call log, or the end is all that is ever shown.
IN_THE_LOG = {
    name: [row[1:] for row in rows if row[0] == "call.ended"]
    for (name, _, _), rows in EXPECTED.items()
    if name != "AA1-1"
}
ALONE = {
    "A1-1": [("101", "inbound", "voicemail", 34, None)],
    "A2-1": [("101", "inbound", "missed", 20, None)],
    "B1-1": [("101", "outbound", "no_answer", 30, None)],
    "R1-1": [("101", "inbound", "answered_elsewhere", 6, None)],
    "R2-1": [("101", "inbound", "answered", 2, 4)],
    "G2-1": [("101", "inbound", "answered", 2, 121)],
    "G2-2": [("101", "inbound", "answered", 2, 121)],
    "X1-1": [
        ("900", "inbound", "answered_elsewhere", 40, None),
        ("102", "inbound", "answered", None, None),
        ("103", "inbound", "answered_elsewhere", 3, None),
    ],
}
CASES = TESTS / "cases"


class Case:
    """A file of tests/cases: what one target's list shows, poll by poll. `first_s`: the first poll that shows a record,
    in seconds after that record's start.
    """

    def __init__(self, name: str, first_s: float, interval_s: float) -> None:
        ((target, self.steps),) = json.loads((CASES / f"{name}.json").read_text()).items()
        self.target = Target(source="acme", extension_id=None if target == "account" else target)
        shown = [record["startTime"] for step in self.steps for record in step["records"]]
        self.start = datetime.fromisoformat(min(shown))
        self.interval_s = interval_s
        self.t = first_s - interval_s
        self.index = CallIndex("acme")
        self.log: list[Json] = []
        self.events: list[CallEvent] = []

    def play(self, steps: int | None = None) -> None:
        """All of it (or its first steps), and then polls that show nothing until the last doubt is gone."""
        for step in self.steps[:steps]:
            self.log = step["call_log_from_here"]
            for _ in range(step["polls"]):
                self.poll(step["records"])
        self.wait_for_the_call_log()

    def poll(self, records: Sequence[Json]) -> None:
        at = self.at(self.t)
        shot = snapshot(self.target, [self.page(records)], at)
        self.apply(PollRecord(target=self.target, taken_at=at), compare(self.index, shot, Rules()))
        assert not compare(self.index, shot, Rules()), "the same list again changes nothing"
        self.look_up(at)
        self.t += self.interval_s

    def wait_for_the_call_log(self) -> None:
        for _ in range(3):
            self.poll([])
            self.t += 31
        for call in list(self.index.live_calls()):
            self.apply(None, give_up(self.index, call.call_id, self.at(self.t + 1000)))

    def look_up(self, at: datetime) -> None:
        for call in due_lookups(self.index, at, Rules()):
            found = observations_of(self.page(self.log), self.target)
            self.apply(None, resolve(self.index, call.call_id, found, at, Rules()))

    def page(self, records: Sequence[Json]) -> Decoded:
        page = decode_page(json.dumps({"records": records}).encode())
        assert (page.bad, page.bad_fields, page.unknown) == ((), (), ())
        return page

    def apply(self, poll: PollRecord | None, change: ChangeSet) -> None:
        self.events += [event for event in change.events if isinstance(event, CallEvent)]
        self.index.apply(poll, change)

    def at(self, t: float) -> datetime:
        return self.start + timedelta(seconds=t)

    def seconds(self, at: datetime | None) -> float | None:
        return None if at is None else round((at - self.start).total_seconds(), 3)

    def row(self, event: CallEvent) -> Row:
        data = Wire().event_dict(event)["data"]
        parties = tuple(data[side] and (data[side]["number"] or data[side]["name"]) for side in ("from", "to"))
        return (
            event.type,
            event.call.extension_id,
            str(data["direction"]),
            " > ".join(str(party and party[-4:]) for party in parties),
            self.seconds(event.time),
            "exact" if event.observation.exact else "poll",
            str(data["disposition"]),
            data["ring_seconds"],
            data["talk_seconds"],
        )


@pytest.mark.parametrize(("case", "expected"), EXPECTED.items(), ids=lambda value: value[0] if len(value) == 3 else "")
def test_a_list_from_the_field_gives_these_events(case: tuple[str, float, float], expected: list[Row]) -> None:
    """Each event, and no other."""
    played = Case(*case)
    played.play()
    assert list(map(played.row, played.events)) == expected


def test_every_file_is_played() -> None:
    """None lies unused."""
    assert {name for name, _, _ in EXPECTED} == {path.stem for path in CASES.glob("*.json")}


@pytest.mark.parametrize("case", EXPECTED, ids=lambda case: case[0])
def test_the_call_log_gives_the_same_end(case: tuple[str, float, float]) -> None:
    """The list drops the call before it shows the end; the log has the record that the list did not have."""
    played = Case(*case)
    last = played.steps[-1]["records"]
    played.steps = [step | {"call_log_from_here": last} for step in played.steps[:-1]]
    played.play()
    ended = [played.row(event)[1:] for event in played.events if event.type == "call.ended"]
    if case[0] == "A3-1":
        assert ended == [], "no poll showed it"
    elif case[0] == "AA1-1":
        assert ended == []
    else:
        assert sorted(ended) == sorted(IN_THE_LOG[case[0]])


@pytest.mark.parametrize("name", ALONE)
def test_a_call_first_seen_after_its_end_has_the_same_facts(name: str) -> None:
    """One event; an accepted leg outranks the word of the record there too."""
    played = Case(name, 200, 200)
    played.steps = [played.steps[0], played.steps[-1]]
    played.play()
    assert {event.type for event in played.events} == {"call.ended"}
    assert [(row[1], row[2], *row[6:]) for row in map(played.row, played.events)] == ALONE[name]
