"""The retained topics derived from live calls, without a broker."""

import json
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from callcast.calls.model import Call, Direction, Party, State
from callcast.calls.summary import Summary
from callcast.formats.cloudevents import Wire
from callcast.ports.live_calls import LiveChange
from callcast.ports.sink import Filter
from callcast.sinks.mqtt.retained_topics import RetainedTopics
from callcast.sinks.mqtt.wire import Topics, encoded
from callcast.testing import call, event

NOW = datetime(2026, 3, 2, 9, 0, tzinfo=UTC)
TOPICS = Topics("callcast")
IDLE = {"state": "idle", "calls": 0, "since": None, "caller": None}


class GivenLiveCalls:
    """Live calls that the test sets."""

    version = 1

    def __init__(self, extensions: Sequence[str] = ("101",)) -> None:
        self.live: list[Call] = []
        self.ids = extensions
        self.certain = True
        self.sources = ["acme"]
        self.ringing = 0
        self.as_of = NOW

    def calls(self) -> Sequence[Call]:
        return self.live

    def extensions(self, _source: str, /) -> Sequence[str]:
        return self.ids

    def watches(self, source: str, extension_id: str, /) -> bool:
        return source in self.sources and (extension_id in self.ids or not self.certain)

    def summaries(self) -> Sequence[Summary]:
        return [
            Summary(
                source=source,
                ringing=self.ringing,
                dialing=0,
                connected=0,
                answered_today=7,
                missed_today=2,
                as_of=self.as_of,
                complete=True,
            )
            for source in self.sources
        ]

    async def changed(self, since: int, /) -> LiveChange:
        raise AssertionError("not used in this test")


def made(
    extension: str = "101",
    session: str = "s-1",
    state: State = State.RINGING,
    direction: Direction = Direction.INBOUND,
    ended_at: datetime | None = None,
) -> Call:
    return structs.replace(
        call(state=state),
        call_id=f"{extension}/{session}",
        session_id=session,
        extension_id=extension,
        direction=direction,
        started_at=NOW,
        answered_at=NOW + timedelta(seconds=4) if state is State.CONNECTED else None,
        ended_at=ended_at,
    )


def mirror(show: Filter | None = None, numbers: str = "full", tombstone_s: float = 60) -> RetainedTopics:
    return RetainedTopics(TOPICS, Wire(numbers), show or Filter(), tombstone_s)  # type: ignore[arg-type]


def taken(retained: RetainedTopics) -> dict[str, object]:
    """What would be published now, decoded; None removes the topic."""
    return {topic: json.loads(text) if text else None for topic, text in retained.take_dirty().items()}


def test_without_live_calls_there_are_states_and_a_summary() -> None:
    """Every watched extension is idle, since an unknown time, and the source has its totals."""
    retained = mirror()
    retained.mirror(GivenLiveCalls(), 0)
    assert taken(retained) == {
        "callcast/acme/101/state": IDLE,
        "callcast/acme/summary": {
            "source": "acme",
            "ringing": 0,
            "dialing": 0,
            "connected": 0,
            "waiting": 0,
            "longest_waiting_since": None,
            "longest_wait_seconds": None,
            "answered_today": 7,
            "missed_today": 2,
            "abandoned_today": 0,
            "average_speed_of_answer_seconds": None,
            "service_level": None,
            "as_of": "2026-03-02T09:00:00.000Z",
            "complete": True,
            "overdue": [],
            "sign_ins_ahead": None,
            "hints": None,
            "now": None,
        },
    }


def test_a_summary_whose_times_alone_change_is_not_published_with_every_change() -> None:
    """With changes of calls it is published when a count changes, and for its times every few seconds."""
    live_calls, retained = GivenLiveCalls(), mirror()
    retained.mirror(live_calls, 0)
    retained.take_dirty()
    live_calls.as_of = NOW + timedelta(seconds=6)
    retained.mirror(live_calls, 1, [])
    assert "callcast/acme/summary" not in taken(retained)
    retained.count(live_calls.summaries())
    assert taken(retained).keys() == {"callcast/acme/summary"}
    live_calls.ringing, live_calls.as_of = 1, NOW + timedelta(seconds=9)
    retained.mirror(live_calls, 2, [])
    assert taken(retained).keys() == {"callcast/acme/summary"}


def test_a_call_rings_is_answered_ends_and_is_removed() -> None:
    """The life of one call: its own topic and its extension's state follow, and after the end it goes."""
    live_calls, retained = GivenLiveCalls(), mirror()
    retained.mirror(live_calls, 0)
    retained.take_dirty()
    for state, word, since in (
        (State.RINGING, "ringing", "2026-03-02T09:00:00.000Z"),
        (State.CONNECTED, "connected", "2026-03-02T09:00:04.000Z"),
    ):
        one = made(state=state)
        live_calls.live = [one]
        retained.mirror(live_calls, 1, [one])
        changed = taken(retained)
        assert changed.keys() == {"callcast/acme/101/calls/s-1", "callcast/acme/101/state"}
        assert changed["callcast/acme/101/calls/s-1"] == json.loads(Wire().call(one))
        caller = json.loads(Wire().call(one))["from"]
        assert changed["callcast/acme/101/state"] == {"state": word, "calls": 1, "since": since, "caller": caller}
    live_calls.live = []
    retained.mirror(live_calls, 10, [made(state=State.ENDED, ended_at=NOW + timedelta(seconds=9))])
    changed = taken(retained)
    assert changed["callcast/acme/101/state"] == IDLE | {"since": "2026-03-02T09:00:09.000Z"}
    assert changed["callcast/acme/101/calls/s-1"]["state"] == "ended"  # type: ignore[index]
    assert retained.next_removal_s() == 70
    retained.remove_ended(69)
    assert taken(retained) == {}
    retained.remove_ended(70)
    assert taken(retained) == {"callcast/acme/101/calls/s-1": None}
    assert retained.next_removal_s() is None


def test_a_correction_after_its_removal_brings_nothing_back() -> None:
    """What has been removed stays removed; a correction before that is shown and does not delay the burial."""
    live_calls, retained = GivenLiveCalls(), mirror()
    live_calls.live = [made()]
    retained.mirror(live_calls, 0)
    ended = made(state=State.ENDED, ended_at=NOW)
    live_calls.live = []
    retained.mirror(live_calls, 10, [ended])
    retained.take_dirty()
    retained.mirror(live_calls, 30, [structs.replace(ended, from_party=None)])
    assert taken(retained)["callcast/acme/101/calls/s-1"]["from"] is None  # type: ignore[index]
    retained.remove_ended(70)
    retained.take_dirty()
    retained.mirror(live_calls, 80, [ended])
    assert taken(retained) == {}


def test_a_call_seen_only_after_its_end_is_not_shown() -> None:
    """The retained topics show what is; an ended call that never was there has no topic."""
    retained = mirror()
    retained.mirror(GivenLiveCalls(), 0)
    retained.take_dirty()
    retained.mirror(GivenLiveCalls(), 1, [made(state=State.ENDED, ended_at=NOW)])
    assert "callcast/acme/101/calls/s-1" not in taken(retained)


def test_reading_all_calls_removes_those_that_ended() -> None:
    """After a gap all live calls are read, and a call that ended meanwhile disappears with its state."""
    live_calls, retained = GivenLiveCalls(), mirror()
    live_calls.live = [made(), made(session="s-2")]
    retained.mirror(live_calls, 0)
    retained.take_dirty()
    live_calls.live = [made(session="s-2")]
    retained.mirror(live_calls, 5, None)
    changed = taken(retained)
    assert changed["callcast/acme/101/calls/s-1"] is None
    assert changed["callcast/acme/101/state"]["calls"] == 1  # type: ignore[index]


def test_the_first_state_that_applies() -> None:
    """Ringing comes before dialing, dialing before connected; all calls count."""
    live_calls, retained = GivenLiveCalls(), mirror()
    live_calls.live = [
        made(session="s-1", state=State.CONNECTED),
        made(session="s-2", state=State.DIALING, direction=Direction.OUTBOUND),
        made(session="s-3", state=State.RINGING),
    ]
    words = []
    while True:
        retained.mirror(live_calls, 0)
        state = json.loads(retained.wanted["callcast/acme/101/state"])
        words.append((state["state"], state["calls"]))
        if not live_calls.live:
            break
        live_calls.live.pop()
    assert words == [("ringing", 3), ("dialing", 2), ("connected", 1), ("idle", 0)]


def test_filters_of_extension_and_direction_apply_and_those_of_events_do_not() -> None:
    """RetainedTopics topics follow `extensions`, `directions` and `numbers`."""
    show = Filter(events=("call.ended",), directions=("inbound",), extensions=("101",))
    live_calls, retained = GivenLiveCalls(("101", "102")), mirror(show, "last4")
    live_calls.live = [made(), made("102"), made(session="s-9", direction=Direction.OUTBOUND)]
    retained.mirror(live_calls, 0)
    assert retained.wanted.keys() == {
        "callcast/acme/101/calls/s-1",
        "callcast/acme/101/state",
        "callcast/acme/summary",
    }
    assert b"6504306662" not in b"".join(retained.wanted.values())
    assert json.loads(retained.wanted["callcast/acme/101/state"])["calls"] == 1


def test_only_the_sources_of_the_filter_have_topics() -> None:
    """Calls, states and summary of other sources are left out, also when the summaries are counted again."""
    live_calls, retained = GivenLiveCalls(), mirror(Filter(sources=("globex",)))
    live_calls.sources = ["acme", "globex"]
    live_calls.live = [made(), structs.replace(made(session="s-2"), source="globex")]
    retained.mirror(live_calls, 0)
    retained.count(live_calls.summaries())
    assert retained.wanted.keys() == {
        "callcast/globex/101/calls/s-2",
        "callcast/globex/101/state",
        "callcast/globex/summary",
    }


def test_a_call_that_was_shown_is_shown_to_its_end() -> None:
    """Whatever its direction becomes, and after a restart too: the call itself says how its events read."""
    outbound_only = Filter(directions=("outbound",))
    first = made(state=State.DIALING, direction=Direction.OUTBOUND)
    live_calls, retained = GivenLiveCalls(), mirror(outbound_only)
    live_calls.live = [first]
    retained.mirror(live_calls, 0)
    turned = structs.replace(made(), emitted_directions=(Direction.OUTBOUND, Direction.INBOUND))
    live_calls.live = [turned]
    retained.mirror(live_calls, 1, [turned])
    reborn = mirror(outbound_only)
    reborn.mirror(live_calls, 0)
    topic = "callcast/acme/101/calls/s-1"
    assert json.loads(retained.wanted[topic]) == json.loads(reborn.wanted[topic]) == json.loads(Wire().call(turned))
    live_calls.live = []
    over = structs.replace(turned, state=State.ENDED, ended_at=NOW)
    retained.mirror(live_calls, 2, [over])
    assert json.loads(retained.wanted[topic])["state"] == "ended"
    assert retained.next_removal_s() == 62
    never = mirror(outbound_only)
    live_calls.live = [made()]
    never.mirror(live_calls, 0)
    assert topic not in never.wanted


def test_an_extension_that_is_no_longer_watched_goes() -> None:
    """Its state is removed, and a new one gets a state."""
    live_calls, retained = GivenLiveCalls(("101",)), mirror()
    retained.mirror(live_calls, 0)
    retained.take_dirty()
    live_calls.ids = ("102",)
    retained.mirror(live_calls, 1, [])
    assert taken(retained) == {
        "callcast/acme/101/state": None,
        "callcast/acme/102/state": IDLE,
    }


def test_a_source_that_is_removed_takes_its_summary_with_it() -> None:
    """Nothing of a source that is no longer configured stays on the broker."""
    live_calls, retained = GivenLiveCalls(), mirror()
    retained.mirror(live_calls, 0)
    retained.take_dirty()
    live_calls.sources = []
    retained.mirror(live_calls, 1)
    assert taken(retained) == {"callcast/acme/101/state": None, "callcast/acme/summary": None}


def test_the_caller_of_a_state_is_that_of_the_earliest_inbound_call_in_it() -> None:
    """A call on hold behind a ringing one, and an outbound call, are not announced as callers."""
    live_calls, retained = GivenLiveCalls(), mirror()
    early, late = (
        structs.replace(made(session=session), from_party=Party(number=number), started_at=NOW + timedelta(seconds=s))
        for session, number, s in (("s-1", "+15550100", 1), ("s-2", "+15550111", 2))
    )
    live_calls.live = [late, early, made(session="s-3", state=State.CONNECTED)]
    retained.mirror(live_calls, 0)
    state = json.loads(retained.wanted["callcast/acme/101/state"])
    assert (state["state"], state["calls"], state["caller"]["number"]) == ("ringing", 3, "+15550100")
    retained.mirror(live_calls, 1, [made(session="s-4", state=State.DIALING, direction=Direction.OUTBOUND)])
    live_calls.live = [made(session="s-4", state=State.DIALING, direction=Direction.OUTBOUND)]
    retained.mirror(live_calls, 2)
    state = json.loads(retained.wanted["callcast/acme/101/state"])
    assert (state["state"], state["caller"]) == ("dialing", None)


def test_unchanged_live_calls_publish_nothing() -> None:
    """Only changes are published; after a reconnect everything is."""
    live_calls, retained = GivenLiveCalls(), mirror()
    live_calls.live = [made()]
    retained.mirror(live_calls, 0)
    first = retained.take_dirty()
    retained.mirror(live_calls, 1, [made()])
    retained.mirror(live_calls, 2)
    assert retained.take_dirty() == {}
    retained.publish_all()
    assert retained.take_dirty() == first


def test_what_a_topic_gives_a_meaning_to_is_encoded() -> None:
    """No part of a topic can be mistaken for another level, a wildcard or an escape."""
    odd = structs.replace(made(), call_id="101/a/b+c#d%e\x00~2", session_id="a/b+c#d%e\x00")
    assert TOPICS.call(odd) == "callcast/acme/101/calls/a%2Fb%2Bc%23d%25e%00~2"
    assert [encoded(part) for part in ("s-1", "a\0", "é", "電話 1", "%", "~2")] == [
        "s-1",
        "a%00",
        "é",
        "電話 1",
        "%25",
        "~2",
    ]
    assert TOPICS.event(event()) == "callcast/acme/62264425016/events/call.ringing"


@given(st.text(min_size=1), st.text(min_size=1))
def test_different_parts_have_different_topics(one: str, other: str) -> None:
    """Encoding is reversible, and what it gives is one level of a topic without wildcards."""
    assert (encoded(one) == encoded(other)) == (one == other)
    assert not set(encoded(one)) & set("/+#\x00")


@given(st.lists(st.tuples(st.integers(1, 3), st.sampled_from(list(State)), st.booleans()), max_size=30))
def test_the_mirror_is_the_same_whether_it_saw_changes_or_the_whole(steps: list[tuple[int, State, bool]]) -> None:
    """Applying single changes gives the same result as reading all live calls, ended calls aside."""
    live_calls, following = GivenLiveCalls(), mirror(tombstone_s=0)
    broker: dict[str, bytes] = {}
    for now_s, (number, state, afresh) in enumerate(steps):
        one = made(session=f"s-{number}", state=state, ended_at=NOW if state is State.ENDED else None)
        live_calls.live = [each for each in live_calls.live if each.call_id != one.call_id] + (
            [one] if one.live else []
        )
        following.mirror(live_calls, now_s, None if afresh else [one])
        following.remove_ended(now_s)
        broker |= following.take_dirty()
    fresh = mirror()
    following.mirror(live_calls, 99)
    fresh.mirror(live_calls, 99)
    following.remove_ended(99)
    broker |= following.take_dirty()
    without_since = {topic: text for topic, text in fresh.wanted.items() if b'"idle"' not in text}
    assert without_since.items() <= following.wanted.items()
    assert following.wanted.keys() == fresh.wanted.keys()
    assert {topic: text for topic, text in broker.items() if text} == following.wanted
