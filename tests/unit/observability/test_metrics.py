"""The metrics: names and labels, series from the start, a bounded number of them, values at the scrape."""

import re
import runpy
from datetime import timedelta
from typing import Any

import msgspec
import pytest
from prometheus_client.parser import text_string_to_metric_families

from callcast.calls.model import (
    EVENT_TYPES,
    REASONS,
    UNASSIGNED,
    Call,
    CallEvent,
    ChangeSet,
    Direction,
    Disposition,
    Evidence,
    Observation,
    State,
    Target,
)
from callcast.live.live_calls import InMemoryLiveCalls
from callcast.observability.metrics import LABEL_VALUES_MAX, Metrics
from callcast.ports.outbox import SinkStats, Stats
from tests import ROOT
from tests.builders import NINE, call, event, source_event
from tests.clock import TurnedClock

# Promised to users: name and labels.
CONTRACT = {
    "build_info": {"version", "python"},
    "poll_duration_seconds": {"source", "outcome"},
    "polls_total": {"source"},
    "polls_failed_total": {"source", "reason"},
    "poll_last_success_timestamp_seconds": {"source"},
    "poll_interval_seconds": {"source"},
    "poll_staleness_seconds": {"source"},
    "rate_limit_limit": {"source", "group"},
    "rate_limit_remaining": {"source", "group"},
    "rate_limit_penalty_until_timestamp_seconds": {"source", "group"},
    "calls_active": {"source", "extension", "state", "direction"},
    "calls_started_total": {"source", "direction"},
    "calls_ended_total": {"source", "direction", "disposition"},
    "call_ring_seconds": {"source", "direction"},
    "call_talk_seconds": {"source", "direction"},
    "events_total": {"type"},
    "detection_seconds": {"source"},
    "delivery_attempts_total": {"sink"},
    "delivery_failures_total": {"sink", "reason"},
    "delivery_seconds": {"sink"},
    "event_latency_seconds": {"sink"},
    "outbox_events": {"sink"},
    "outbox_oldest_event_age_seconds": {"sink"},
    "outbox_bytes": set(),
    "dead_letters": {"sink"},
    "dead_lettered_total": {"sink"},
    "expired_total": {"sink"},
    "dropped_total": {"sink"},
    "replayed_total": {"sink"},
    "sink_up": {"sink"},
    "config_last_reload_successful": set(),
    "config_last_reload_success_timestamp_seconds": set(),
    "log_lines_dropped_total": set(),
    "ready": set(),
    "outbox_writable": set(),
    "outbox_resets_total": set(),
    "clock_skew_seconds": {"source"},
    "unknown_values_total": {"field"},
    "bad_records_total": {"source"},
    "hints_total": {"source", "via"},
    "hints_up": {"source", "via"},
    "hints_ignored_total": {"source", "reason"},
    "hints_missed_total": {"source"},
    "push_connects_total": {"source", "outcome"},
    "hint_to_seen_seconds": {"source"},
    "polls_by_cause_total": {"source", "cause"},
}


def key(name: str, **labels: str) -> tuple[str, frozenset[tuple[str, str]]]:
    return f"callcast_{name}", frozenset(labels.items())


class Setup:
    def __init__(self) -> None:
        self.clock = TurnedClock(NINE)
        self.live_calls = InMemoryLiveCalls(self.clock)
        self.metrics = Metrics(self.live_calls, self.clock, "1.2.3")

    def samples(self) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
        text = self.metrics.exposition().decode()
        return {
            (sample.name, frozenset(sample.labels.items())): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }

    def value(self, name: str, **labels: str) -> float | None:
        return self.samples().get(key(name, **labels))


@pytest.fixture
def setup() -> Setup:
    made = Setup()
    made.live_calls.watch("acme", ["101", "102"], 6.0)
    made.metrics.watch_source("acme")
    made.metrics.watch_sink("crm")
    return made


def test_every_metric_exists_from_the_start(setup: Setup) -> None:
    """Each has series with exactly these labels before anything happens."""
    found: dict[str, set[str]] = {}
    for name, labels in setup.samples():
        base = re.sub(r"_(bucket|sum|count)$", "", name)
        if base.startswith("callcast_"):
            found.setdefault(base.removeprefix("callcast_"), set()).update(dict(labels).keys() - {"le"})
    assert found == CONTRACT


def test_label_sets_exist_from_the_start(setup: Setup) -> None:
    """Each known value of a label has a series with 0: an absent series cannot raise an alert."""
    samples = setup.samples()
    for reason in REASONS:
        assert samples[key("polls_failed_total", source="acme", reason=reason)] == 0
    for direction in Direction:
        for disposition in Disposition:
            labels = {"direction": direction.value, "disposition": disposition.value}
            assert samples[key("calls_ended_total", source="acme", **labels)] == 0
    for event_type in EVENT_TYPES:
        assert samples[key("events_total", type=event_type)] == 0
    for outcome in ("ok", "failed"):
        assert samples[key("poll_duration_seconds_count", source="acme", outcome=outcome)] == 0
    assert samples[key("sink_up", sink="crm")] == 1
    assert samples[key("outbox_events", sink="crm")] == 0


def test_there_are_process_metrics_and_no_creation_times(setup: Setup) -> None:
    """Creation times would double the number of counters."""
    names = {name for name, _ in setup.samples()}
    assert not [name for name in names if name.endswith("_created")]
    assert "process_resident_memory_bytes" in names


def test_two_services_are_independent(setup: Setup) -> None:
    """Nothing is global: a second instance counts from zero."""
    setup.metrics.event_recorded(source_event())
    assert Setup().value("events_total", type="source.degraded") == 0
    assert setup.value("events_total", type="source.degraded") == 1


def test_calls_active_counts_the_live_calls(setup: Setup) -> None:
    """There are four groups for each extension, with the current number of live calls."""
    rings = call()
    setup.live_calls.apply(ChangeSet(calls=(rings,)))
    labels = {"source": "acme", "extension": "101"}
    assert setup.value("calls_active", **labels, state="ringing", direction="inbound") == 1
    assert setup.value("calls_active", **labels, state="connected", direction="outbound") == 0
    setup.live_calls.apply(ChangeSet(calls=(msgspec.structs.replace(rings, state=State.ENDED),)))
    assert setup.value("calls_active", **labels, state="ringing", direction="inbound") == 0
    pairs = {labels for name, labels in setup.samples() if name == "callcast_calls_active"}
    assert len(pairs) == 2 * 4


def test_an_unassigned_call_is_counted_too(setup: Setup) -> None:
    """A part whose extension is unknown counts as `unassigned`; that series exists only while there is one."""
    labels = {"source": "acme", "extension": UNASSIGNED, "state": "ringing", "direction": "inbound"}
    assert setup.value("calls_active", **labels) is None
    part = msgspec.structs.replace(call(), extension_id=UNASSIGNED, call_id="unassigned/s-1")
    setup.live_calls.apply(ChangeSet(calls=(part,)))
    assert setup.value("calls_active", **labels) == 1


def test_above_500_extensions_become_one_series(setup: Setup) -> None:
    """500 extensions have their own series, under 5,000 in all; with one more, in any source, all become `*`."""
    setup.live_calls.watch("acme", [str(n) for n in range(1, 500)], 6.0)
    setup.live_calls.watch("other", ["9001"], 6.0)
    setup.metrics.watch_source("other")
    setup.live_calls.apply(ChangeSet(calls=(call(),)))
    samples = setup.samples()
    assert len(samples) < 5000
    group = {"source": "acme", "state": "ringing", "direction": "inbound"}
    assert samples[key("calls_active", **group, extension="101")] == 1
    setup.live_calls.watch("other", ["9001", "9002"], 6.0)
    samples = setup.samples()
    assert key("calls_active", **group, extension="101") not in samples
    assert samples[key("calls_active", **group, extension="*")] == 1


async def test_staleness_is_of_the_oldest_poll(setup: Setup) -> None:
    """The age is computed at each scrape, without a poll."""
    for extension_id in ("101", "102"):
        setup.live_calls.polled(Target(source="acme", extension_id=extension_id), NINE)
    await setup.clock.turn(20)
    setup.live_calls.polled(Target(source="acme", extension_id="101"), setup.clock.now())
    await setup.clock.turn(5)
    assert setup.value("poll_staleness_seconds", source="acme") == 25


def test_a_poll_is_counted_by_its_outcome(setup: Setup) -> None:
    """Each poll counts once, a failed one with its reason; only a successful one sets the time of the last success."""
    setup.metrics.poll_finished("acme", "timeout", 15.0)
    assert setup.value("poll_last_success_timestamp_seconds", source="acme") == 0
    setup.metrics.poll_finished("acme", None, 0.2)
    assert setup.value("polls_total", source="acme") == 2
    assert setup.value("polls_failed_total", source="acme", reason="timeout") == 1
    assert setup.value("poll_duration_seconds_sum", source="acme", outcome="failed") == 15.0
    assert setup.value("poll_duration_seconds_count", source="acme", outcome="ok") == 1
    assert setup.value("poll_last_success_timestamp_seconds", source="acme") == NINE.timestamp()


def call_event(live: Call, event_type: str, *, sequence: int, exact: bool = True, **observed: Any) -> CallEvent:
    """An event of 9:00:05, between polls at 9:00:02 and 9:00:08."""
    usual: dict[str, Any] = {
        "after": NINE + timedelta(seconds=2),
        "before": NINE + timedelta(seconds=8),
        "exact": exact,
        "evidence": Evidence.ACTIVE_CALLS,
        "first_poll": False,
    }
    return CallEvent(
        id=f"evt_{event_type}",
        type=event_type,
        time=NINE + timedelta(seconds=5),
        call=live,
        previous_state=None,
        sequence=sequence,
        observation=Observation(**(usual | observed)),
    )


def test_a_call_counts_at_its_first_and_at_its_last_event(setup: Setup) -> None:
    """It starts once and ends once with its disposition; ring and talk times are observed at the end."""
    live = msgspec.structs.replace(
        call(state=State.CONNECTED), answered_at=NINE + timedelta(seconds=4), answered_exact=True
    )
    over = msgspec.structs.replace(
        live, state=State.ENDED, disposition=Disposition.ANSWERED, ended_at=NINE + timedelta(seconds=10)
    )
    for one in (
        call_event(call(), "call.ringing", sequence=1),
        call_event(live, "call.answered", sequence=2),
        call_event(over, "call.ended", sequence=3),
    ):
        setup.metrics.event_recorded(one)
    labels = {"source": "acme", "direction": "inbound"}
    assert setup.value("calls_started_total", **labels) == 1
    assert setup.value("calls_ended_total", **labels, disposition="answered") == 1
    assert setup.value("call_ring_seconds_sum", **labels) == 4.0
    assert setup.value("call_talk_seconds_sum", **labels) == 6.0
    assert setup.value("events_total", type="call.answered") == 1


@pytest.mark.parametrize(
    ("one", "expected_s"),
    [
        (call_event(call(), "call.ringing", sequence=1), 3.0),
        (call_event(call(), "call.ringing", sequence=1, exact=False), 6.0),
        (call_event(call(), "call.ringing", sequence=1, exact=False, after=None), None),
        (call_event(call(), "call.ringing", sequence=1, first_poll=True), None),
        (call_event(call(), "call.ended", sequence=2, evidence=Evidence.CALL_LOG), None),
        (call_event(call(), "call.corrected", sequence=3), None),
    ],
    ids=["exact", "between-polls", "no-poll-before", "first-poll", "call-log", "correction"],
)
def test_detection_is_an_upper_bound(setup: Setup, one: CallEvent, expected_s: float | None) -> None:
    """From the change, or from the poll before it, to the poll that showed it; a first poll detects nothing."""
    setup.metrics.event_recorded(one)
    detected = (
        setup.value("detection_seconds_count", source="acme"),
        setup.value("detection_seconds_sum", source="acme"),
    )
    assert detected == ((0, 0) if expected_s is None else (1, expected_s))


def test_deliveries(setup: Setup) -> None:
    """Attempts, failures by reason, latency, and each way in which an event leaves the outbox."""
    setup.metrics.delivery_attempted("crm", "timeout", 15.0)
    setup.metrics.delivery_attempted("crm", None, 0.02)
    setup.metrics.event_delivered("crm", 1.5)
    setup.metrics.event_dead_lettered("crm")
    setup.metrics.event_expired("crm")
    setup.metrics.events_dropped("crm", 7)
    setup.metrics.event_replayed("crm")
    setup.metrics.sink_up("crm", up=False)
    assert setup.value("delivery_attempts_total", sink="crm") == 2
    assert setup.value("delivery_failures_total", sink="crm", reason="timeout") == 1
    assert setup.value("delivery_seconds_count", sink="crm") == 2
    assert setup.value("event_latency_seconds_sum", sink="crm") == 1.5
    assert [
        setup.value(f"{name}_total", sink="crm") for name in ("dead_lettered", "expired", "dropped", "replayed")
    ] == [1, 1, 7, 1]
    assert setup.value("sink_up", sink="crm") == 0


async def test_the_age_of_deliveries_is_computed_at_the_scrape(setup: Setup) -> None:
    """The pending deliveries of each sink, removed ones too, and the current age of the oldest one."""
    pending = SinkStats(sink="crm", pending=3, oldest_recorded_at=NINE, dead=2)
    gone = SinkStats(sink="gone", pending=1, oldest_recorded_at=NINE, dead=0)
    setup.metrics.outbox_stats(Stats(sinks=(pending, gone), bytes_used=4096))
    await setup.clock.turn(90)
    assert setup.value("outbox_events", sink="crm") == 3
    assert setup.value("dead_letters", sink="crm") == 2
    assert setup.value("outbox_oldest_event_age_seconds", sink="crm") == 90
    assert setup.value("outbox_events", sink="gone") == 1
    assert setup.value("outbox_bytes") == 4096


def test_reload(setup: Setup) -> None:
    """A rejected reload sets the gauge, and not the time of the last accepted one."""
    setup.metrics.config_reloaded(successful=True)
    setup.metrics.config_reloaded(successful=False)
    assert setup.value("config_last_reload_successful") == 0
    assert setup.value("config_last_reload_success_timestamp_seconds") == NINE.timestamp()


def test_label_values_from_outside_are_bounded(setup: Setup) -> None:
    """Further values are counted as `other`."""
    for number in range(3 * LABEL_VALUES_MAX):
        setup.metrics.unknown_value(f"field{number}")
        setup.metrics.delivery_attempted("crm", f"reason{number}", 0.1)
    fields = [labels for name, labels in setup.samples() if name == "callcast_unknown_values_total"]
    assert len(fields) == LABEL_VALUES_MAX + 1
    assert (setup.value("unknown_values_total", field="other") or 0) > LABEL_VALUES_MAX


def test_sources_and_sinks_keep_their_names_however_many_there_are(setup: Setup) -> None:
    """The configuration names them, so there is no bound."""
    for number in range(LABEL_VALUES_MAX + 1):
        setup.metrics.watch_source(f"s{number}")
        setup.metrics.watch_sink(f"k{number}")
        setup.metrics.poll_finished(f"s{number}", None, 0.1)
        setup.metrics.event_delivered(f"k{number}", 0.1)
    samples = setup.samples()
    assert samples[key("polls_total", source=f"s{LABEL_VALUES_MAX}")] == 1
    assert samples[key("event_latency_seconds_count", sink=f"k{LABEL_VALUES_MAX}")] == 1


def test_a_name_that_is_used_again_starts_at_zero(setup: Setup) -> None:
    """A source or sink that is removed and later added again counts from zero, in the exposed series."""
    for _ in range(2):
        setup.metrics.poll_finished("acme", None, 0.1)
        setup.metrics.delivery_attempted("crm", "timeout", 0.1)
        assert setup.value("polls_total", source="acme") == 1
        assert setup.value("delivery_failures_total", sink="crm", reason="timeout") == 1
        setup.metrics.forget_source("acme")
        setup.metrics.forget_sink("crm")
        setup.metrics.watch_source("acme")
        setup.metrics.watch_sink("crm")


def test_a_removed_source_or_sink_leaves_no_series(setup: Setup) -> None:
    """Also those that were created on demand."""
    setup.metrics.rate_limit("acme", "heavy", limit=10, remaining=3)
    setup.metrics.penalty("acme", "heavy", NINE)
    assert setup.value("rate_limit_penalty_until_timestamp_seconds", source="acme", group="heavy") == NINE.timestamp()
    setup.live_calls.unwatch("acme")
    setup.metrics.forget_source("acme")
    setup.metrics.forget_sink("crm")
    labels = [dict(labels) for _, labels in setup.samples()]
    assert not [one for one in labels if one.get("source") == "acme" or one.get("sink") == "crm"]


def test_no_phone_number_and_no_session_in_a_label(setup: Setup) -> None:
    """The numbers, names and session of a call are not in the metrics."""
    setup.live_calls.apply(ChangeSet(calls=(call(),)))
    setup.metrics.event_recorded(event())
    text = setup.metrics.exposition().decode()
    assert not [word for word in ("6505550100", "WIRELESS", "s-1") if word in text]


def test_the_state_of_the_service_is_read_at_each_scrape(setup: Setup) -> None:
    """Whether it is ready and can store, how often a new outbox was written, and how far the clocks differ."""
    names = ("ready", "outbox_writable", "outbox_resets_total")
    assert [setup.value(name) for name in names] == [0, 0, 0]
    state = {"ready": True, "writable": True, "resets": 2}
    setup.metrics.ready = lambda: bool(state["ready"])
    setup.metrics.outbox_writable = lambda: bool(state["writable"])
    setup.metrics.outbox_resets = lambda: state["resets"]
    setup.metrics.clock_skews = lambda: {"acme": -61.5}
    assert [setup.value(name) for name in names] == [1, 1, 2]
    assert setup.value("clock_skew_seconds", source="acme") == -61.5
    state |= {"ready": False, "writable": False, "resets": 3}
    assert [setup.value(name) for name in names] == [0, 0, 3]


def test_the_page_of_metrics_is_up_to_date() -> None:
    """`python docs/make_metrics.py` would write what is there."""
    maker = runpy.run_path(str(ROOT / "docs" / "make_metrics.py"))
    assert maker["page"]() == (ROOT / "docs" / "metrics.md").read_text()
