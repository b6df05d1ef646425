"""All Prometheus metrics: the tables below define them, and `Metrics` has a method for each thing that is reported.

Series exist from the start: `watch_source` and `watch_sink` create each one with 0. Values that must be correct at the
moment of the scrape (live calls, ages) are computed then, from the live calls and the last outbox statistics.
"""

import platform
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from itertools import product
from typing import Any, Literal, NamedTuple, Protocol

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.core import Metric
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from prometheus_client.registry import Collector
from prometheus_client.samples import Sample

from callcast.calls.model import (
    EVENT_TYPES,
    REASONS,
    CallEvent,
    Direction,
    Disposition,
    Event,
    Evidence,
    Observation,
    Reason,
    State,
)
from callcast.formats.cloudevents import ring_seconds, talk_seconds
from callcast.ports.clock import Clock
from callcast.ports.outbox import Stats

CONTENT_TYPE = CONTENT_TYPE_PLAIN_0_0_4
NAMESPACE = "callcast"
EXTENSIONS_MAX = 500  # above it, calls_active has one series per source instead of per extension
LABEL_VALUES_MAX = 50  # of a label with values from outside; further values become "other"

_KINDS = {"counter": Counter, "gauge": Gauge, "histogram": Histogram}
_GROUPS: tuple[tuple[State, Direction], ...] = (
    (State.RINGING, Direction.INBOUND),
    (State.DIALING, Direction.OUTBOUND),
    (State.CONNECTED, Direction.INBOUND),
    (State.CONNECTED, Direction.OUTBOUND),
)


class Definition(NamedTuple):
    """labels: each with the values for which series exist from the start; `EACH`: one for each source, sink, ..."""

    kind: Literal["counter", "gauge", "histogram"]
    help: str
    labels: dict[str, Iterable[str]]
    buckets: Sequence[float] = ()


def _counter(text: str, **labels: Iterable[str]) -> Definition:
    return Definition("counter", text, labels)


def _gauge(text: str, **labels: Iterable[str]) -> Definition:
    return Definition("gauge", text, labels)


def _histogram(text: str, buckets: Sequence[float], **labels: Iterable[str]) -> Definition:
    return Definition("histogram", text, labels, buckets)


EACH = ()
_GROUP = ("heavy", "auth", "medium", "light")
_VIA = ("push", "presence")
_FIELD = ("type", "direction", "action", "result", "reason", "legType", "delegationType")
_DETECTION_S = (0.1, 0.5, 1, 2, 5, 7.5, 10, 15, 30, 60, 120)

# Metrics that are counted or set when something happens. Counters are exposed as `NAME_total`.
REPORTED: dict[str, Definition] = {
    "build_info": _gauge("Always 1; the labels give the versions of callcast and Python.", version=EACH, python=EACH),
    "poll_duration_seconds": _histogram(
        "Duration of one poll with all its pages.",
        (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30),
        source=EACH,
        outcome=("ok", "failed"),
    ),
    "polls": _counter("Polls, successful and failed.", source=EACH),
    "polls_failed": _counter("Failed polls.", source=EACH, reason=REASONS),
    "poll_last_success_timestamp_seconds": _gauge(
        "Time of the last successful poll; 0 before the first one.", source=EACH
    ),
    "poll_interval_seconds": _gauge(
        "Longest time until a target is polled again, as now planned; longer while hints say when to poll.", source=EACH
    ),
    "polls_by_cause": _counter(
        "Polls by cause: a hint, a repeat because the list did not show it yet, a keep-alive, or the even plan.",
        source=EACH,
        cause=("hint", "follow_up", "keep_alive", "poll"),
    ),
    "hints": _counter("Hints that something happens, by way.", source=EACH, via=_VIA),
    "hints_up": _gauge("1 while hints come this way.", source=EACH, via=_VIA),
    "push_connects": _counter(
        "Attempts to connect for push, by outcome; failed includes connections that were lost.",
        source=EACH,
        outcome=("subscribed", "recovered", "refused", "failed"),
    ),
    "hints_ignored": _counter(
        "Hints that caused no poll.", source=EACH, reason=("duplicate", "old", "unwatched", "no_change")
    ),
    "hints_missed": _counter("Steps of calls that a poll showed and no hint announced.", source=EACH),
    "hint_to_seen_seconds": _histogram("Time from a hint to the poll that showed it.", _DETECTION_S, source=EACH),
    "rate_limit_limit": _gauge("Requests per window that the API allows.", source=EACH, group=_GROUP),
    "rate_limit_remaining": _gauge("Requests left in the current window.", source=EACH, group=_GROUP),
    "rate_limit_penalty_until_timestamp_seconds": _gauge(
        "Time until which no request of the group is sent; 0 if there was no penalty.", source=EACH, group=_GROUP
    ),
    "bad_records": _counter("Records skipped because a required field is missing or invalid.", source=EACH),
    "unknown_values": _counter("Values in API responses that this version does not know.", field=_FIELD),
    "calls_started": _counter("Calls with a first event.", source=EACH, direction=Direction),
    "calls_ended": _counter("Calls that ended.", source=EACH, direction=Direction, disposition=Disposition),
    "call_ring_seconds": _histogram(
        "Time from the start of ringing to answer or end.",
        (2, 5, 10, 15, 20, 30, 45, 60, 120),
        source=EACH,
        direction=Direction,
    ),
    "call_talk_seconds": _histogram(
        "Time from answer to end.",
        (10, 30, 60, 120, 300, 600, 1200, 1800, 3600),
        source=EACH,
        direction=Direction,
    ),
    "events": _counter("Events recorded.", type=EVENT_TYPES),
    "detection_seconds": _histogram(
        "Time from a change of a call to the poll that detected it; an upper bound.", _DETECTION_S, source=EACH
    ),
    "delivery_attempts": _counter("Delivery attempts.", sink=EACH),
    "delivery_failures": _counter("Failed delivery attempts.", sink=EACH, reason=("timeout", "network", "dns", "tls")),
    "delivery_seconds": _histogram(
        "Duration of one delivery attempt.", (0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 5, 15, 30), sink=EACH
    ),
    "event_latency_seconds": _histogram(
        "Time from recording an event to its acknowledgement.",
        (0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 5, 30, 60, 300, 3600),
        sink=EACH,
    ),
    "dead_lettered": _counter("Events that became dead letters.", sink=EACH),
    "expired": _counter("Live events that expired before delivery.", sink=EACH),
    "dropped": _counter(
        "Undelivered events dropped because of outbox_max_mb, or because their sink was removed.", sink=EACH
    ),
    "replayed": _counter("Events replayed by a command.", sink=EACH),
    "sink_up": _gauge("0 while the sink is failing.", sink=EACH),
    "config_last_reload_successful": _gauge("1 if the last configuration was accepted, 0 if it was rejected."),
    "config_last_reload_success_timestamp_seconds": _gauge("Time at which a configuration was last accepted."),
}

# Metrics that are computed at each scrape.
COMPUTED: dict[str, Definition] = {
    "calls_active": _gauge("Live calls.", source=EACH, extension=EACH, state=EACH, direction=EACH),
    "poll_staleness_seconds": _gauge("Age of the oldest last poll among the targets.", source=EACH),
    "outbox_events": _gauge("Pending deliveries of the sink.", sink=EACH),
    "outbox_oldest_event_age_seconds": _gauge(
        "Age of the oldest pending delivery of the sink; 0 if there is none.", sink=EACH
    ),
    "dead_letters": _gauge("Dead letters of the sink.", sink=EACH),
    "outbox_bytes": _gauge("Size of the outbox on disk."),
    "ready": _gauge("1 while /readyz responds with 200."),
    "outbox_writable": _gauge("0 while events or polls cannot be stored."),
    "outbox_resets": _counter("Times that the outbox was unreadable, deleted or replaced, and a new file was written."),
    "clock_skew_seconds": _gauge("How far this machine's clock is ahead of the platform's clock.", source=EACH),
    "log_lines_dropped": _counter("Log lines that could not be written to standard error."),
}

Values = Iterable[tuple[dict[str, str], float]]  # labels and value


class LiveCalls(Protocol):
    """The live calls that a scrape reads."""

    def sources(self) -> Sequence[str]: ...

    def extensions(self, source: str, /) -> Sequence[str]: ...

    def active(self, source: str, /) -> Mapping[tuple[str, State, Direction], int]: ...

    def staleness_s(self, source: str, /) -> float: ...


class _Series(dict[str | tuple[str, ...], Any]):
    """The series of `REPORTED`, by name or by (name, label value, ...). A missing one is created when it is used.

    They are kept here because the library is slow at finding a series by its labels.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self._metrics = {
            name: _KINDS[one.kind](
                name,
                one.help,
                tuple(one.labels),
                namespace=NAMESPACE,
                registry=registry,
                **({"buckets": one.buckets} if one.buckets else {}),
            )
            for name, one in REPORTED.items()
        }
        self._label_values: defaultdict[tuple[str, str], set[str]] = defaultdict(set)  # by metric and label
        super().__init__({name: metric for name, metric in self._metrics.items() if not REPORTED[name].labels})

    def __missing__(self, key: Any) -> Any:
        name, *values = key
        bounded = [self._bounded(name, *pair) for pair in zip(REPORTED[name].labels, values, strict=True)]
        series = self._metrics[name].labels(*bounded)
        if bounded == values:
            self[key] = series
        return series

    def create(self, **known: str) -> None:
        """Create the series of all metrics that have these labels, for each value that is listed for the others."""
        for name, definition in REPORTED.items():
            if definition.labels and known.keys() <= definition.labels.keys():
                listed = definition.labels | {label: (value,) for label, value in known.items()}
                for values in product(*listed.values()):
                    self[name, *values]

    def forget(self, label: str, value: str) -> None:
        """Remove the series in which this label, the first of its metrics, has this value."""
        names = {name for name, definition in REPORTED.items() if label in definition.labels}
        for name in names:
            self._metrics[name].remove_by_labels({label: value})
        for key in [key for key in self if key[0] in names and key[1] == value]:
            del self[key]

    def _bounded(self, name: str, label: str, value: str) -> str:
        """The value; after `LABEL_VALUES_MAX` different ones, `other`. Only sources and sinks may be any number."""
        known = self._label_values[name, label]
        if label not in ("source", "sink") and value not in known:
            if len(known) >= LABEL_VALUES_MAX:
                return "other"
            known.add(value)
        return value


class Metrics(Collector):
    """The metrics of one service. As a collector it computes those of `COMPUTED`.

    Each scrape calls the functions `ready`, `outbox_writable`, `outbox_resets`, `clock_skews` (by source) and
    `lines_dropped` (log lines that could not be written), which the service sets.
    """

    def __init__(self, live_calls: LiveCalls, clock: Clock, version: str) -> None:
        self.ready: Callable[[], bool] = lambda: False
        self.outbox_writable: Callable[[], bool] = lambda: False
        self.outbox_resets: Callable[[], int] = lambda: 0
        self.clock_skews: Callable[[], Mapping[str, float]] = dict
        self.lines_dropped: Callable[[], int] = lambda: 0
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self._live_calls = live_calls
        self._clock = clock
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        self._series = _Series(self._registry)
        self._sinks: dict[str, None] = {}
        self._stats: Stats | None = None
        self._registry.register(self)
        self._series.create()
        self._series["build_info", version, platform.python_version()].set(1)

    def exposition(self) -> bytes:
        """The text that Prometheus scrapes, in `CONTENT_TYPE`."""
        return generate_latest(self._registry)

    # Series that exist from the start

    def watch_source(self, source: str) -> None:
        self._series.create(source=source)

    def forget_source(self, source: str) -> None:
        self._series.forget("source", source)

    def watch_sink(self, sink: str) -> None:
        self._sinks[sink] = None
        self._series.create(sink=sink)
        self._series["sink_up", sink].set(1)

    def forget_sink(self, sink: str) -> None:
        """Remove the series of a sink. Its pending deliveries stay visible through `outbox_stats`."""
        self._sinks.pop(sink, None)
        self._series.forget("sink", sink)

    # Sources

    def poll_finished(self, source: str, failed: Reason | None, took_s: float) -> None:
        """Count one poll. `failed`: why it failed, None if it was successful."""
        self._series["polls", source].inc()
        self._series["poll_duration_seconds", source, "failed" if failed else "ok"].observe(took_s)
        if failed:
            self._series["polls_failed", source, failed].inc()
        else:
            self._series["poll_last_success_timestamp_seconds", source].set(self._clock.wall().timestamp())

    def poll_sent(self, source: str, cause: str) -> None:
        self._series["polls_by_cause", source, cause].inc()

    def hint_reported(self, source: str, via: str) -> None:
        self._series["hints", source, via].inc()

    def hints_up(self, source: str, via: str, *, up: bool) -> None:
        self._series["hints_up", source, via].set(up)

    def push_connected(self, source: str, outcome: str) -> None:
        self._series["push_connects", source, outcome].inc()

    def hints_ignored(self, source: str, reason: str, count: int) -> None:
        self._series["hints_ignored", source, reason].inc(count)

    def hint_missed(self, source: str) -> None:
        self._series["hints_missed", source].inc()

    def hint_seen(self, source: str, after_s: float) -> None:
        self._series["hint_to_seen_seconds", source].observe(after_s)

    def poll_interval(self, source: str, interval_s: float) -> None:
        self._series["poll_interval_seconds", source].set(interval_s)

    def rate_limit(self, source: str, group: str, *, limit: float, remaining: float) -> None:
        self._series["rate_limit_limit", source, group].set(limit)
        self._series["rate_limit_remaining", source, group].set(remaining)

    def penalty(self, source: str, group: str, until: datetime) -> None:
        self._series["rate_limit_penalty_until_timestamp_seconds", source, group].set(until.timestamp())

    def unknown_value(self, field: str) -> None:
        self._series["unknown_values", field].inc()

    def bad_record(self, source: str) -> None:
        self._series["bad_records", source].inc()

    # Calls

    def event_recorded(self, event: Event) -> None:
        self._series["events", event.type].inc()
        if not isinstance(event, CallEvent):
            return
        call = event.call
        if event.sequence == 1:
            self._series["calls_started", call.source, call.direction].inc()
        if event.type == "call.ended":
            self._series["calls_ended", call.source, call.direction, call.disposition or Disposition.UNKNOWN].inc()
            if (ring_s := ring_seconds(call)) is not None:
                self._series["call_ring_seconds", call.source, call.direction].observe(ring_s)
            if (talk_s := talk_seconds(call)) is not None:
                self._series["call_talk_seconds", call.source, call.direction].observe(talk_s)
        if (detection_s := _detection_s(event)) is not None:
            self._series["detection_seconds", call.source].observe(detection_s)

    # Deliveries

    def delivery_attempted(self, sink: str, failed: str | None, took_s: float) -> None:
        """Count one attempt. `failed`: the reason label, None if the event was delivered."""
        self._series["delivery_attempts", sink].inc()
        self._series["delivery_seconds", sink].observe(took_s)
        if failed:
            self._series["delivery_failures", sink, failed].inc()

    def event_delivered(self, sink: str, latency_s: float) -> None:
        """The remote side has acknowledged an event `latency_s` after it was recorded."""
        self._series["event_latency_seconds", sink].observe(latency_s)

    def event_dead_lettered(self, sink: str) -> None:
        self._series["dead_lettered", sink].inc()

    def event_expired(self, sink: str) -> None:
        self._series["expired", sink].inc()

    def events_dropped(self, sink: str, count: int) -> None:
        self._series["dropped", sink].inc(count)

    def event_replayed(self, sink: str) -> None:
        self._series["replayed", sink].inc()

    def sink_up(self, sink: str, up: bool) -> None:
        self._series["sink_up", sink].set(up)

    def outbox_stats(self, stats: Stats) -> None:
        self._stats = stats

    # The service

    def config_reloaded(self, successful: bool) -> None:
        self._series["config_last_reload_successful"].set(successful)
        if successful:
            self._series["config_last_reload_success_timestamp_seconds"].set(self._clock.wall().timestamp())

    # Computed at each scrape

    def collect(self) -> Iterator[Metric]:
        values = self._computed()
        for name, definition in COMPUTED.items():
            family = Metric(f"{NAMESPACE}_{name}", definition.help, definition.kind)
            sample = f"{family.name}_total" if definition.kind == "counter" else family.name
            family.samples = [Sample(sample, labels, value) for labels, value in values[name]]
            yield family

    def _computed(self) -> dict[str, Values]:
        sources = self._live_calls.sources()
        stats = {one.sink: one for one in self._stats.sinks} if self._stats else {}
        sinks = dict.fromkeys((*self._sinks, *stats))
        now = self._clock.now()
        ages = {
            sink: max(0.0, (now - one.oldest_recorded_at).total_seconds())
            for sink, one in stats.items()
            if one.oldest_recorded_at
        }
        skews = self.clock_skews()
        return {
            "calls_active": self._calls_active(sources),
            "poll_staleness_seconds": [({"source": one}, self._live_calls.staleness_s(one)) for one in sources],
            "outbox_events": [({"sink": sink}, stats[sink].pending if sink in stats else 0) for sink in sinks],
            "outbox_oldest_event_age_seconds": [({"sink": sink}, ages.get(sink, 0)) for sink in sinks],
            "dead_letters": [({"sink": sink}, stats[sink].dead if sink in stats else 0) for sink in sinks],
            "outbox_bytes": [({}, self._stats.bytes_used if self._stats else 0)],
            "ready": [({}, self.ready())],
            "outbox_writable": [({}, self.outbox_writable())],
            "outbox_resets": [({}, self.outbox_resets())],
            "clock_skew_seconds": [({"source": source}, skews.get(source, 0.0)) for source in sources],
            "log_lines_dropped": [({}, self.lines_dropped())],
        }

    def _calls_active(self, sources: Sequence[str]) -> Values:
        """The calls in each group, zeros included: of each extension, or of whole sources (`*`) if there are many."""
        by_extension = sum(len(self._live_calls.extensions(source)) for source in sources) <= EXTENSIONS_MAX
        for source in sources:
            active = self._live_calls.active(source)
            extensions = (*self._live_calls.extensions(source), *(key[0] for key in active)) if by_extension else ("*",)
            groups = {(extension, *group): 0 for extension in extensions for group in _GROUPS}
            for (extension, *group), count in active.items():
                key = (extension if by_extension else "*", *group)
                if key in groups:
                    groups[key] += count
            for (extension, state, direction), count in groups.items():
                yield {"source": source, "extension": extension, "state": state, "direction": direction}, count


def _detection_s(event: CallEvent) -> float | None:
    """Time from a change to the poll that detected it; without an exact time, since the poll before."""
    observation: Observation = event.observation
    if observation.evidence is not Evidence.ACTIVE_CALLS or observation.first_poll or event.type == "call.corrected":
        return None
    since = event.time if observation.exact else observation.after
    return max(0.0, (observation.before - since).total_seconds()) if since else None
