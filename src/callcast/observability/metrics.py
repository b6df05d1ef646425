"""All Prometheus metrics, with one method for each thing that is counted or measured.

Series exist from the start: `watch_source` and `watch_sink` create each one with 0. Values that must be correct at the
moment of the scrape (live calls, ages) are computed then, from the live calls and the last outbox statistics.
"""

import platform
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import NamedTuple, Protocol

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from prometheus_client.registry import Collector
from prometheus_client.samples import Sample

from callcast.calls.model import (
    EVENT_TYPES,
    REASONS,
    Call,
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
EXTENSIONS_MAX = 500  # above it, calls_active has one series per source instead of per extension

GROUPS: tuple[tuple[State, Direction], ...] = (
    (State.RINGING, Direction.INBOUND),
    (State.DIALING, Direction.OUTBOUND),
    (State.CONNECTED, Direction.INBOUND),
    (State.CONNECTED, Direction.OUTBOUND),
)
RATE_GROUPS = ("heavy", "auth", "medium", "light")
DELIVERY_REASONS = ("timeout", "network", "dns", "tls")
HINT_WAYS = ("push", "presence")
HINTS_IGNORED = ("duplicate", "old", "unwatched", "no_change")
PUSH_OUTCOMES = ("subscribed", "recovered", "refused", "failed")
POLL_CAUSES = ("hint", "follow_up", "keep_alive", "poll")
FIELDS = ("type", "direction", "action", "result", "reason", "legType", "delegationType")
LABEL_VALUES_MAX = 50  # of a label with values from outside; further values become "other"

_POLL_S = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_DETECTION_S = (0.1, 0.5, 1, 2, 5, 7.5, 10, 15, 30, 60, 120)
_RING_S = (2, 5, 10, 15, 20, 30, 45, 60, 120)
_TALK_S = (10, 30, 60, 120, 300, 600, 1200, 1800, 3600)
_DELIVERY_S = (0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 5, 15, 30)
_LATENCY_S = (0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 5, 30, 60, 300, 3600)


class LiveCalls(Protocol):
    """The live calls that a scrape reads."""

    def sources(self) -> Sequence[str]: ...

    def extensions(self, source: str, /) -> Sequence[str]: ...

    def active(self, source: str, /) -> Mapping[tuple[str, State, Direction], int]: ...

    def staleness_s(self, source: str, /) -> float: ...


class Metrics:
    """The metrics of one service.

    lines_dropped: returns the number of log lines that could not be written.
    """

    def __init__(
        self, live_calls: LiveCalls, clock: Clock, version: str, *, lines_dropped: Callable[[], int] = lambda: 0
    ) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = CollectorRegistry()
        self._clock = clock
        self._label_values: dict[str, set[str]] = {}
        self._stats: Stats | None = None
        self._sinks: dict[str, _Deliveries] = {}
        self._poll_metrics: dict[str, _PollMetrics] = {}
        self._service: _Service | None = None
        ProcessCollector(registry=self.registry)
        build = self._gauge(
            "build_info", "Always 1; the labels give the versions of callcast and Python.", "version", "python"
        )
        build.labels(version, platform.python_version()).set(1)
        self._make_source_metrics()
        self._make_call_metrics()
        self._make_sink_metrics()
        self._make_service_metrics()
        self.registry.register(_AtScrape(lambda: _live_call_families(live_calls)))
        self.registry.register(_AtScrape(self._outbox_families))
        self.registry.register(_AtScrape(lambda: _service_families(self._service, live_calls.sources())))
        self.registry.register(_AtScrape(lambda: _log_families(lines_dropped())))

    def exposition(self) -> bytes:
        """The text that Prometheus scrapes, in `CONTENT_TYPE`."""
        return generate_latest(self.registry)

    # Series that exist from the start.

    def watch_source(self, source: str) -> None:
        self._polls.labels(source)
        for outcome in ("ok", "failed"):
            self._poll_duration.labels(source, outcome)
        for reason in REASONS:
            self._polls_failed.labels(source, reason)
        one: Counter | Gauge | Histogram
        for one in (self._last_success, self._interval, self._bad_records, self._detection):
            one.labels(source)
        for one in (self._hints_missed, self._hint_to_seen):
            one.labels(source)
        for via in HINT_WAYS:
            self._hints.labels(source, via)
            self._hints_up.labels(source, via)
        for outcome in PUSH_OUTCOMES:
            self._push_connects.labels(source, outcome)
        for ignored in HINTS_IGNORED:
            self._hints_ignored.labels(source, ignored)
        for cause in POLL_CAUSES:
            self._polls_by_cause.labels(source, cause)
        for group in RATE_GROUPS:
            for rate in (self._rate_limit, self._rate_remaining, self._penalty_until):
                rate.labels(source, self._label_value("group", group))
        for direction in Direction:
            for calls in (self._calls_started, self._ring, self._talk):
                calls.labels(source, direction)
            for disposition in Disposition:
                self._calls_ended.labels(source, direction, disposition)
        self._poll_metrics[source] = _PollMetrics(
            self._polls.labels(source), self._poll_duration.labels(source, "ok"), self._last_success.labels(source)
        )

    def forget_source(self, source: str) -> None:
        self._poll_metrics.pop(source, None)
        for metric in self._of_source:
            metric.remove_by_labels({"source": source})

    def watch_sink(self, sink: str) -> None:
        for metric in self._of_sink:
            if metric is not self._delivery_failures:
                metric.labels(sink)
        for reason in DELIVERY_REASONS:
            self._delivery_failures.labels(sink, self._label_value("reason", reason))
        self._sink_up.labels(sink).set(1)
        self._sinks[sink] = _Deliveries(
            self._delivery_attempts.labels(sink), self._delivery.labels(sink), self._event_latency.labels(sink)
        )

    def forget_sink(self, sink: str) -> None:
        """Remove the series of a sink. Its pending deliveries stay visible through `outbox_stats`."""
        self._sinks.pop(sink, None)
        for metric in self._of_sink:
            metric.remove_by_labels({"sink": sink})

    # Sources.

    def poll_finished(self, source: str, failed: Reason | None, took_s: float) -> None:
        """Count one poll. `failed`: why it failed, None if it was successful."""
        polls = self._poll_metrics[source]
        polls.polls.inc()
        if failed:
            self._poll_duration.labels(source, "failed").observe(took_s)
            self._polls_failed.labels(source, failed).inc()
        else:
            polls.duration.observe(took_s)
            polls.last_success.set(self._clock.wall().timestamp())

    def poll_sent(self, source: str, cause: str) -> None:
        self._polls_by_cause.labels(source, cause).inc()

    def hint_reported(self, source: str, via: str) -> None:
        self._hints.labels(source, via).inc()

    def hints_up(self, source: str, via: str, *, up: bool) -> None:
        self._hints_up.labels(source, via).set(up)

    def push_connected(self, source: str, outcome: str) -> None:
        self._push_connects.labels(source, outcome).inc()

    def hints_ignored(self, source: str, reason: str, count: int) -> None:
        self._hints_ignored.labels(source, self._label_value("reason", reason)).inc(count)

    def hint_missed(self, source: str) -> None:
        self._hints_missed.labels(source).inc()

    def hint_seen(self, source: str, after_s: float) -> None:
        self._hint_to_seen.labels(source).observe(after_s)

    def poll_interval(self, source: str, interval_s: float) -> None:
        self._interval.labels(source).set(interval_s)

    def rate_limit(self, source: str, group: str, *, limit: float, remaining: float) -> None:
        rates, word = self._poll_metrics[source].rates, self._label_value("group", group)
        if word not in rates:
            rates[word] = self._rate_limit.labels(source, word), self._rate_remaining.labels(source, word)
        rates[word][0].set(limit)
        rates[word][1].set(remaining)

    def penalty(self, source: str, group: str, until: datetime) -> None:
        self._penalty_until.labels(source, self._label_value("group", group)).set(until.timestamp())

    def unknown_value(self, field: str) -> None:
        self._unknown_values.labels(self._label_value("field", field)).inc()

    def bad_record(self, source: str) -> None:
        self._bad_records.labels(source).inc()

    # Calls.

    def event_recorded(self, event: Event) -> None:
        self._events.labels(event.type).inc()
        if not isinstance(event, CallEvent):
            return
        call = event.call
        if event.sequence == 1:
            self._calls_started.labels(call.source, call.direction).inc()
        if event.type == "call.ended":
            self._call_ended(call)
        if (detection_s := _detection_s(event)) is not None:
            self._detection.labels(call.source).observe(detection_s)

    def _call_ended(self, call: Call) -> None:
        disposition = call.disposition or Disposition.UNKNOWN
        self._calls_ended.labels(call.source, call.direction, disposition).inc()
        if (ring_s := ring_seconds(call)) is not None:
            self._ring.labels(call.source, call.direction).observe(ring_s)
        if (talk_s := talk_seconds(call)) is not None:
            self._talk.labels(call.source, call.direction).observe(talk_s)

    # Deliveries.

    def delivery_attempted(self, sink: str, failed: str | None, took_s: float) -> None:
        """Count one attempt. `failed`: the reason label, None if the event was delivered."""
        deliveries = self._sinks[sink]
        deliveries.attempts.inc()
        deliveries.duration.observe(took_s)
        if failed:
            self._delivery_failures.labels(sink, self._label_value("reason", failed)).inc()

    def event_delivered(self, sink: str, latency_s: float) -> None:
        """The remote side has acknowledged an event `latency_s` after it was recorded."""
        self._sinks[sink].latency.observe(latency_s)

    def event_dead_lettered(self, sink: str) -> None:
        self._dead_lettered.labels(sink).inc()

    def event_expired(self, sink: str) -> None:
        self._expired.labels(sink).inc()

    def events_dropped(self, sink: str, count: int) -> None:
        self._dropped.labels(sink).inc(count)

    def event_replayed(self, sink: str) -> None:
        self._replayed.labels(sink).inc()

    def sink_up(self, sink: str, up: bool) -> None:
        self._sink_up.labels(sink).set(up)

    def outbox_stats(self, stats: Stats) -> None:
        self._stats = stats

    # The service.

    def watch_service(
        self,
        *,
        ready: Callable[[], bool],
        outbox_writable: Callable[[], bool],
        outbox_resets: Callable[[], int],
        clock_skews: Callable[[], Mapping[str, float]],
    ) -> None:
        """Set the functions that each scrape calls; before that, `callcast_ready` is 0."""
        self._service = _Service(ready, outbox_writable, outbox_resets, clock_skews)

    def config_reloaded(self, successful: bool) -> None:
        self._reload_ok.set(successful)
        if successful:
            self._reload_at.set(self._clock.wall().timestamp())

    # Definitions.

    def _make_source_metrics(self) -> None:
        self._poll_duration = self._histogram(
            "poll_duration_seconds", "Duration of one poll with all its pages.", _POLL_S, "source", "outcome"
        )
        self._polls = self._counter("polls", "Polls, successful and failed.", "source")
        self._polls_failed = self._counter("polls_failed", "Failed polls.", "source", "reason")
        self._last_success = self._gauge(
            "poll_last_success_timestamp_seconds", "Time of the last successful poll; 0 before the first one.", "source"
        )
        self._interval = self._gauge(
            "poll_interval_seconds",
            "Longest time until a target is polled again, as now planned; longer while hints say when to poll.",
            "source",
        )
        self._polls_by_cause = self._counter(
            "polls_by_cause",
            "Polls by cause: a hint, a repeat because the list did not show it yet, a keep-alive, or the even plan.",
            *("source", "cause"),
        )
        self._hints = self._counter("hints", "Hints that something happens, by way.", "source", "via")
        self._hints_up = self._gauge("hints_up", "1 while hints come this way.", "source", "via")
        self._push_connects = self._counter(
            "push_connects",
            "Attempts to connect for push, by outcome; failed includes connections that were lost.",
            *("source", "outcome"),
        )
        self._hints_ignored = self._counter("hints_ignored", "Hints that caused no poll.", "source", "reason")
        self._hints_missed = self._counter(
            "hints_missed", "Steps of calls that a poll showed and no hint announced.", "source"
        )
        self._hint_to_seen = self._histogram(
            "hint_to_seen_seconds", "Time from a hint to the poll that showed it.", _DETECTION_S, "source"
        )
        self._rate_limit = self._gauge(
            "rate_limit_limit", "Requests per window that the API allows.", "source", "group"
        )
        self._rate_remaining = self._gauge(
            "rate_limit_remaining", "Requests left in the current window.", "source", "group"
        )
        self._penalty_until = self._gauge(
            "rate_limit_penalty_until_timestamp_seconds",
            "Time until which no request of the group is sent; 0 if there was no penalty.",
            "source",
            "group",
        )
        self._bad_records = self._counter(
            "bad_records", "Records skipped because a required field is missing or invalid.", "source"
        )
        self._unknown_values = self._counter(
            "unknown_values", "Values in API responses that this version does not know.", "field"
        )
        for field in FIELDS:
            self._unknown_values.labels(self._label_value("field", field))

    def _make_call_metrics(self) -> None:
        self._calls_started = self._counter("calls_started", "Calls with a first event.", "source", "direction")
        self._calls_ended = self._counter("calls_ended", "Calls that ended.", "source", "direction", "disposition")
        self._ring = self._histogram(
            "call_ring_seconds", "Time from the start of ringing to answer or end.", _RING_S, "source", "direction"
        )
        self._talk = self._histogram("call_talk_seconds", "Time from answer to end.", _TALK_S, "source", "direction")
        self._events = self._counter("events", "Events recorded.", "type")
        for event_type in EVENT_TYPES:
            self._events.labels(event_type)
        self._detection = self._histogram(
            "detection_seconds",
            "Time from a change of a call to the poll that detected it; an upper bound.",
            _DETECTION_S,
            "source",
        )

    def _make_sink_metrics(self) -> None:
        self._delivery_attempts = self._counter("delivery_attempts", "Delivery attempts.", "sink")
        self._delivery_failures = self._counter("delivery_failures", "Failed delivery attempts.", "sink", "reason")
        self._delivery = self._histogram("delivery_seconds", "Duration of one delivery attempt.", _DELIVERY_S, "sink")
        self._event_latency = self._histogram(
            "event_latency_seconds", "Time from recording an event to its acknowledgement.", _LATENCY_S, "sink"
        )
        self._dead_lettered = self._counter("dead_lettered", "Events that became dead letters.", "sink")
        self._expired = self._counter("expired", "Live events that expired before delivery.", "sink")
        self._dropped = self._counter(
            "dropped", "Undelivered events dropped because of outbox_max_mb, or because their sink was removed.", "sink"
        )
        self._replayed = self._counter("replayed", "Events replayed by a command.", "sink")
        self._sink_up = self._gauge("sink_up", "0 while the sink is failing.", "sink")

    def _make_service_metrics(self) -> None:
        self._reload_ok = self._gauge(
            "config_last_reload_successful", "1 if the last configuration was accepted, 0 if it was rejected."
        )
        self._reload_at = self._gauge(
            "config_last_reload_success_timestamp_seconds", "Time at which a configuration was last accepted."
        )

    @property
    def _of_source(self) -> Sequence[Counter | Gauge | Histogram]:
        return (
            *(self._poll_duration, self._polls, self._polls_failed, self._last_success, self._interval),
            *(self._rate_limit, self._rate_remaining, self._penalty_until, self._bad_records),
            *(self._calls_started, self._calls_ended, self._ring, self._talk, self._detection),
            *(self._polls_by_cause, self._hints, self._hints_up, self._hints_ignored, self._hints_missed),
            self._push_connects,
            self._hint_to_seen,
        )

    @property
    def _of_sink(self) -> Sequence[Counter | Gauge | Histogram]:
        return (
            *(self._delivery_attempts, self._delivery_failures, self._delivery, self._event_latency),
            *(self._dead_lettered, self._expired, self._dropped, self._replayed, self._sink_up),
        )

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(name, text, labels, namespace="callcast", registry=self.registry)

    def _gauge(self, name: str, text: str, *labels: str) -> Gauge:
        return Gauge(name, text, labels, namespace="callcast", registry=self.registry)

    def _histogram(self, name: str, text: str, buckets: Sequence[float], *labels: str) -> Histogram:
        return Histogram(name, text, labels, namespace="callcast", registry=self.registry, buckets=tuple(buckets))

    def _label_value(self, label: str, word: str) -> str:
        """A label value from outside; after `LABEL_VALUES_MAX` different ones, `other`."""
        words = self._label_values.setdefault(label, set())
        if word not in words and len(words) >= LABEL_VALUES_MAX:
            return "other"
        words.add(word)
        return word

    def _outbox_families(self) -> Iterator[Metric]:
        pending = GaugeMetricFamily("callcast_outbox_events", "Pending deliveries of the sink.", labels=["sink"])
        age = GaugeMetricFamily(
            "callcast_outbox_oldest_event_age_seconds",
            "Age of the oldest pending delivery of the sink; 0 if there is none.",
            labels=["sink"],
        )
        dead = GaugeMetricFamily("callcast_dead_letters", "Dead letters of the sink.", labels=["sink"])
        stats = {one.sink: one for one in self._stats.sinks} if self._stats else {}
        now = self._clock.now()
        for sink in dict.fromkeys((*self._sinks, *stats)):
            one = stats.get(sink)
            oldest = one and one.oldest_recorded_at
            pending.add_metric([sink], one.pending if one else 0)
            age.add_metric([sink], max(0.0, (now - oldest).total_seconds()) if oldest else 0)
            dead.add_metric([sink], one.dead if one else 0)
        bytes_used = GaugeMetricFamily("callcast_outbox_bytes", "Size of the outbox on disk.")
        bytes_used.add_metric([], self._stats.bytes_used if self._stats else 0)
        yield from (pending, age, dead, bytes_used)


class _PollMetrics:
    """The series of a source that every poll updates; cached, because finding a series by its labels is slow."""

    def __init__(self, polls: Counter, duration: Histogram, last_success: Gauge) -> None:
        self.polls = polls
        self.duration = duration  # of successful polls
        self.last_success = last_success
        self.rates: dict[str, tuple[Gauge, Gauge]] = {}  # by group: limit and remaining


class _Deliveries(NamedTuple):
    """The series of a sink that every delivery updates."""

    attempts: Counter
    duration: Histogram
    latency: Histogram


class _AtScrape(Collector):
    """Families that are computed at each scrape."""

    def __init__(self, families: Callable[[], Iterator[Metric]]) -> None:
        self._families = families

    def collect(self) -> Iterator[Metric]:
        return self._families()


class _Service(NamedTuple):
    """Functions of the service that each scrape calls."""

    ready: Callable[[], bool]
    outbox_writable: Callable[[], bool]
    outbox_resets: Callable[[], int]
    clock_skews: Callable[[], Mapping[str, float]]


def _service_families(service: _Service | None, sources: Sequence[str]) -> Iterator[Metric]:
    ready = GaugeMetricFamily("callcast_ready", "1 while /readyz responds with 200.")
    ready.add_metric([], bool(service and service.ready()))
    writable = GaugeMetricFamily("callcast_outbox_writable", "0 while events or polls cannot be stored.")
    writable.add_metric([], bool(service and service.outbox_writable()))
    skew = GaugeMetricFamily(
        "callcast_clock_skew_seconds",
        "How far this machine's clock is ahead of the platform's clock.",
        labels=["source"],
    )
    skews = service.clock_skews() if service else {}
    for source in sources:
        skew.add_metric([source], skews.get(source, 0.0))
    resets = CounterMetricFamily(
        "callcast_outbox_resets",
        "Times that the outbox was unreadable, deleted or replaced, and a new file was written.",
        value=service.outbox_resets() if service else 0,
    )
    yield from (ready, writable, resets, skew)


def _log_families(lines_dropped: int) -> Iterator[Metric]:
    yield CounterMetricFamily(
        "callcast_log_lines_dropped",
        "Log lines that could not be written to standard error.",
        value=lines_dropped,
    )


def _live_call_families(live_calls: LiveCalls) -> Iterator[Metric]:
    active = Metric("callcast_calls_active", "Live calls.", "gauge")
    stale = GaugeMetricFamily(
        "callcast_poll_staleness_seconds", "Age of the oldest last poll among the targets.", labels=["source"]
    )
    sources = live_calls.sources()
    by_extension = sum(len(live_calls.extensions(source)) for source in sources) <= EXTENSIONS_MAX
    for source in sources:
        stale.add_metric([source], live_calls.staleness_s(source))
        for (extension, state, direction), count in _groups(live_calls, source, by_extension).items():
            labels = {"source": source, "extension": extension, "state": state, "direction": direction}
            active.samples.append(Sample("callcast_calls_active", labels, count))
    yield from (active, stale)


def _groups(live_calls: LiveCalls, source: str, by_extension: bool) -> dict[tuple[str, State, Direction], int]:
    """The number of calls in each group, zeros included; for the whole source (`*`) unless `by_extension`."""
    active = live_calls.active(source)
    extensions = (
        dict.fromkeys((*live_calls.extensions(source), *(key[0] for key in active))) if by_extension else ("*",)
    )
    groups = {(extension, *group): 0 for extension in extensions for group in GROUPS}
    for (extension, *group), count in active.items():
        key = (extension if by_extension else "*", *group)
        if key in groups:
            groups[key] += count
    return groups


def _detection_s(event: CallEvent) -> float | None:
    """Time from a change to the poll that detected it; without an exact time, since the poll before."""
    observation: Observation = event.observation
    if observation.evidence is not Evidence.ACTIVE_CALLS or observation.first_poll or event.type == "call.corrected":
        return None
    since = event.time if observation.exact else observation.after
    return max(0.0, (observation.before - since).total_seconds()) if since else None
