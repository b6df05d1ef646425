"""Recorded responses of the platform, and the events that follow from them, in tests/golden.

`python -m tests.unit.formats.test_golden` writes the files again; review the difference.
"""

import json
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import pytest

from callcast.calls.model import ChangeSet, Event, PollRecord, Target
from callcast.calls.tracker import CallIndex, Rules, compare, resolve
from callcast.formats.cloudevents import Wire
from tests import TESTS
from tests.unit.ringcentral.decoded import decode_page, observations_of, snapshot

SAMPLES = TESTS / "samples"
GOLDEN = TESTS / "golden"
Scenario = Callable[[], list[Event]]


def sample(name: str) -> Any:
    return json.loads((SAMPLES / f"{name}.json").read_text())


class Recording:
    """Polls a target, starting with an empty list five seconds before the first response, and collects the events."""

    def __init__(self, extension_id: str | None, first: str) -> None:
        self.target = Target(source="acme", extension_id=extension_id)
        self.index = CallIndex("acme")
        self.start = datetime.fromisoformat(first)
        self.events: list[Event] = []
        self.poll(-5, [])
        self.events.clear()

    def poll(self, t: float, records: list[Any]) -> None:
        taken_at = self.start + timedelta(seconds=t)
        page = decode_page(json.dumps({"records": records}).encode())
        assert not page.bad
        change = compare(self.index, snapshot(self.target, [page], taken_at), Rules())
        self.apply(PollRecord(target=self.target, taken_at=taken_at), change)

    def ask_log(self, t: float, call_id: str, records: list[Any]) -> None:
        found = observations_of(decode_page(json.dumps({"records": records}).encode()), self.target)
        self.apply(None, resolve(self.index, call_id, found, self.start + timedelta(seconds=t), Rules()))

    def apply(self, poll: PollRecord | None, change: ChangeSet) -> None:
        self.events += change.events
        self.index.apply(poll, change)


def seed(kind: str, first: str, polls: tuple[float, ...]) -> list[Event]:
    recording = Recording("62264425016", first)
    for t, step in zip(polls, ("1-ringing", "2-answered", "3-ended"), strict=True):
        recording.poll(t, sample(f"active-calls/seed-{kind}-{step}")["records"])
    return recording.events


def seed_direct() -> list[Event]:
    return seed("direct", "2021-01-19T23:58:57Z", (1.9, 8.2, 14.5))


def seed_queue() -> list[Event]:
    return seed("queue", "2021-01-20T00:15:02Z", (1.9, 8.2, 20.5))


def lifecycle_2014() -> list[Event]:
    """The record's id and start change at the end, after the list has dropped it; only the call log has it."""
    recorded = sample("active-calls/jshelpers-lifecycle-2014")
    recording = Recording("321", "2014-12-11T00:51:23Z")
    for t, step in ((2, "ringing"), (8, "pickup"), (50, "hangup")):
        recording.poll(t, recorded[step]["active-calls"])
    recording.ask_log(80, "321/88052513020", recorded["hangup"]["call-log"])
    return recording.events


def ringout_account() -> list[Event]:
    """Both legs of one RingOut, ended at the first poll: two calls."""
    recording = Recording(None, "2015-07-16T22:04:32Z")
    recording.poll(60, sample("active-calls/slate-account-ringout-2legs")["records"])
    return recording.events


def ringout_web_live() -> list[Event]:
    """Call connected with duration 0 is a live call; for a RingOut it means that the own phone was answered."""
    recording = Recording("400618687004", "2014-08-15T15:16:12Z")
    recording.poll(9, sample("active-calls/jswidgets-activeCalls")["records"])
    return recording.events


def queue_midcall() -> list[Event]:
    """Seventeen phones stopped ringing while the call went on: no event until the record is rewritten."""
    both = sample("call-log/derived-queue-midcall-snapshot-then-final")
    snapshot_, final = both.values()
    recording = Recording(None, "2026-09-24T15:00:00Z")
    recording.poll(30, [snapshot_])
    recording.poll(90, [snapshot_])
    assert recording.events == []
    recording.poll(170, [final])
    return recording.events


def ended_when_first_seen(name: str) -> Scenario:
    def scenario() -> list[Event]:
        records = sample(f"call-log/{name}")
        records = records if isinstance(records, list) else [records]
        recording = Recording(None, min(record["startTime"] for record in records))
        recording.poll(600, records)
        return recording.events

    return scenario


SCENARIOS: dict[str, Scenario] = {
    "seed-direct": seed_direct,
    "seed-queue": seed_queue,
    "jshelpers-lifecycle-2014": lifecycle_2014,
    "slate-account-ringout-2legs": ringout_account,
    "jswidgets-activeCalls": ringout_web_live,
    "derived-queue-midcall-snapshot-then-final": queue_midcall,
} | {
    name: ended_when_first_seen(name)
    for name in (
        "derived-ext-to-ext",
        "derived-monitoring",
        "derived-outbound-results",
        "derived-queue-caller-hangup-ringing",
        "derived-queue-missed",
        "derived-queue-snapshot-accepted-short",
        "derived-queue-voicemail",
        "unifiedcrm-detailed-inbound",
        "csharp-missed-2015",
        "csharp-ringout-2015",
    )
}


@pytest.mark.parametrize("name", SCENARIOS)
def test_recorded_responses_give_the_golden_events(name: str) -> None:
    """All fields, ids included."""
    events = [Wire().event_dict(event) for event in SCENARIOS[name]()]
    assert json.loads(json.dumps(events)) == json.loads((GOLDEN / f"{name}.json").read_text())


def test_the_direct_call_of_the_seed() -> None:
    """The main fields, written out."""
    ringing, answered, ended = [Wire().event_dict(event) for event in seed_direct()]
    assert [e["type"] for e in (ringing, answered, ended)] == ["call.ringing", "call.answered", "call.ended"]
    assert [e["data"]["direction"] for e in (ringing, answered, ended)] == ["inbound"] * 3
    assert (ringing["time"], answered["time"], ended["time"]) == (
        "2021-01-19T23:58:57.000Z",
        "2021-01-19T23:59:01.000Z",
        "2021-01-19T23:59:07.000Z",
    )
    assert answered["data"]["observation"]["exact"]
    assert (ended["data"]["disposition"], ended["data"]["ring_seconds"], ended["data"]["talk_seconds"]) == (
        "answered",
        4,
        6,
    )


def test_the_queue_call_of_the_seed() -> None:
    """One call, inbound all along; the caller and the queue are known at the end."""
    events = [Wire().event_dict(event) for event in seed_queue()]
    assert [e["type"] for e in events] == ["call.ringing", "call.answered", "call.ended"]
    assert len({e["subject"] for e in events}) == 1
    assert {e["data"]["direction"] for e in events} == {"inbound"}
    assert [e["data"]["from"] for e in events[:2]] == [None, None]
    last = events[2]["data"]
    assert (last["from"]["number"], last["from"]["name"]) == ("+16504306662", "WIRELESS CALLER")
    assert last["queue"] == {"name": "Tyler's call queue"}
    assert last["disposition"] == "answered"


def test_a_queue_call_ends_once_for_each_phone() -> None:
    """One extension answered; the others did not miss the call."""
    dispositions = [event.call.disposition for event in queue_midcall()]  # type: ignore[union-attr]
    assert "missed" not in dispositions
    assert len(dispositions) == 18, "seventeen that rang, and one that took it"
    assert dispositions.count("answered") == 1


def write() -> None:
    for name, scenario in SCENARIOS.items():
        events = [Wire().event_dict(event) for event in scenario()]
        (GOLDEN / f"{name}.json").write_text(json.dumps(events, indent=1) + "\n")


if __name__ == "__main__":
    write()
