"""Turns reports of the poller, backfill, recorder and client into metrics, log lines and live calls.

Nothing here blocks or decides.
"""

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from itertools import islice
from math import isclose
from typing import Any

import msgspec

from callcast.calls.freshness import stale_after_s
from callcast.calls.model import CallEvent, ChangeSet, Event, PollRecord, Reason, Snapshot, SourceEvent, Target
from callcast.calls.summary import HintsState
from callcast.formats.durations import span
from callcast.live.live_calls import InMemoryLiveCalls
from callcast.observability.metrics import Metrics
from callcast.observability.outbox_health import OutboxHealth
from callcast.ports.clock import Clock
from callcast.ports.hints import Hint, Via
from callcast.ports.outbox import OutboxUnavailable
from callcast.ports.telemetry import Cause, Telemetry
from callcast.ports.upstream import PollFailed

FAILURE_LOGGED_EVERY_S = 30.0
REFUSED_SHOWN_MAX = 20  # extensions of one source that /readyz names
BAD_RECORDS_MAX = 5000  # of one source; the least recently seen is dropped
RATE_LIMIT_FIX = "if this repeats, check whether another program uses the same credential"
UNKNOWN_WORDS_MAX = 200  # unknown words of one source that are logged; all are counted


class SourceTelemetry(Telemetry):
    """Telemetry of one source, for its poller, backfill, recorder and client."""

    def __init__(
        self,
        source: str,
        live_calls: InMemoryLiveCalls,
        metrics: Metrics,
        clock: Clock,
        log: Any,
        outbox_health: OutboxHealth,
    ) -> None:
        self.source = source
        self._live_calls = live_calls
        self._metrics = metrics
        self._clock = clock
        self._log = log.bind(source=source)
        self._interval_s = 0.0
        self._extensions: Sequence[str] | None = None
        self._started = clock.monotonic()
        self._last_poll_s: float | None = None
        self._waiting: Mapping[Target, float] | None = None  # for a good poll, since when; None: there are no hints
        self._last_failure = ""
        self._refused: dict[str | None, str] = {}  # targets that the platform denies access to, and its message
        self._failing: dict[str | None, tuple[Reason, float]] = {}  # targets: why, and when it was logged
        self._unknown_words: set[tuple[str, str]] = set()  # already logged: each is logged once
        self._bad_records: dict[tuple[str, str], bool] = {}
        self.sign_ins_ahead: Callable[[], int | None] = lambda: None  # set with the client
        self.stepped_at = clock.monotonic()
        self.polls = 0  # successful ones
        self._ways_up: set[Via] = set()  # the ways by which hints come now
        self._hints: HintsState | None = None  # None: there are none
        self._hints_chosen = False  # not only permitted ("auto")
        self._hint_refusals: set[str] = set()  # already logged: each is logged once
        self.outbox_user = outbox_health.user(source=source)
        metrics.watch_source(source)

    # For the poller.

    def watching(self, extension_ids: Sequence[str] | None, interval_s: float) -> None:
        self._extensions = extension_ids
        self._failing = {}
        self._refused = {}
        self._set_interval(interval_s)
        self._metrics.poll_interval(self.source, interval_s)
        shown = "account" if extension_ids is None else list(extension_ids)
        self._log.debug("targets_found", extensions=shown, interval_s=round(interval_s, 1))
        if shown == []:
            self._log.error("source_switched_off", detail="other sources already watch every extension of this one")

    def paced(self, interval_s: float, promised_s: float) -> None:
        self._metrics.poll_interval(self.source, promised_s)
        if isclose(interval_s, self._interval_s, rel_tol=0.05):
            return
        log = self._log.warning if interval_s > self._interval_s else self._log.info
        log(
            "pace_changed",
            detail=f"each target is polled every {interval_s:.3g} s; every {self._interval_s:.3g} s before",
            fix="callcast check --online shows what the rate limit leaves",
        )
        self._set_interval(interval_s)

    def _set_interval(self, interval_s: float) -> None:
        self._interval_s = interval_s
        self._live_calls.watch(self.source, self._extensions, interval_s)

    def poll_sent(self, cause: Cause) -> None:
        self._metrics.poll_sent(self.source, cause)

    def poll_succeeded(self, snapshot: Snapshot, took_s: float) -> None:
        self._last_poll_s = self._clock.monotonic()
        self.polls += 1
        self._failing.pop(snapshot.target.extension_id, None)
        self._refused.pop(snapshot.target.extension_id, None)
        self._live_calls.polled(snapshot.target, snapshot.taken_at)
        self._metrics.poll_finished(self.source, None, took_s)

    def poll_stored(self, poll: PollRecord) -> None:
        self.outbox_user.works()
        self._live_calls.stored(poll.target, poll.taken_at)

    def poll_failed(self, target: Target, error: PollFailed, took_s: float) -> None:
        self._last_failure = error.detail
        if error.reason == "permission":
            self._refused[target.extension_id] = error.detail
        self._metrics.poll_finished(self.source, error.reason, took_s)
        if not self._must_be_logged(target.extension_id, error.reason):
            return
        log = (
            self._log.error if error.reason == "auth" else self._log.warning
        )  # a credential does not recover by itself
        log(
            "poll_failed",
            extension=target.extension_id,
            reason=error.reason,
            detail=error.detail,
            request_id=error.request_id,
        )

    def _must_be_logged(self, extension_id: str | None, reason: Reason) -> bool:
        """True for the first failure, and every 30 s while polls fail for the same reason."""
        now = self._clock.monotonic()
        logged, logged_at = self._failing.get(extension_id, (None, now))
        if logged == reason and now - logged_at < FAILURE_LOGGED_EVERY_S:
            return False
        self._failing[extension_id] = (reason, now)
        return True

    def watched_twice(self, extension_id: str) -> None:
        self._log.warning("extension_watched_twice", extension=extension_id, detail="another source watches it already")

    def polls_missed(self, counts: Mapping[Target, int]) -> None:
        """Log one line for all targets: an overloaded machine must not be loaded further by logging."""
        worst = max(counts, key=lambda target: counts[target])
        self._log.warning(
            "polls_missed",
            extension=worst.extension_id,
            count=counts[worst],
            others=len(counts) - 1,
            reason="polls are slow",
        )

    def stepped(self, waiting: Mapping[Target, float] | None = None) -> None:
        self.stepped_at = self._clock.monotonic()
        self._waiting = waiting
        self._live_calls.waiting(
            self.source, None if waiting is None else {target.extension_id: at for target, at in waiting.items()}
        )
        self._live_calls.signs_in(self.source, self.sign_ins_ahead())

    def store_failed(self, error: OutboxUnavailable) -> None:
        self.outbox_user.failed(error)

    def store_recovered(self) -> None:
        self.outbox_user.works()

    # For the scheduler.

    def hint_reported(self, hint: Hint) -> None:
        self._metrics.hint_reported(self.source, hint.via)
        # The only place where a single hint is kept: nothing of it is stored.
        self._log.debug(
            "hint_received", extension=hint.extension_id, via=hint.via, step=hint.step, call=hint.session_id
        )

    def hints_ignored(self, reason: str, count: int = 1) -> None:
        self._metrics.hints_ignored(self.source, reason, count)

    def hint_seen(self, after_s: float) -> None:
        self._metrics.hint_seen(self.source, after_s)

    def hint_missed(self) -> None:
        self._metrics.hint_missed(self.source)
        if self._hints is not None:
            self._show_hints(msgspec.structs.replace(self._hints, missed=self._hints.missed + 1))

    def hints_trusted(self, *, trusted: bool, deaf: bool) -> None:
        if trusted:
            self._log.info("hints_trusted", detail="targets are polled when hints say that something happens")
        elif deaf:
            self._log.warning("push_deaf", detail="polls show calls that no hint announced: polling as before")

    # For the ways of hints.

    def hints_wanted(self, ways: Sequence[Via], *, chosen: bool) -> None:
        """The source starts with these ways of hints, none of which is up yet. chosen: they are not only permitted."""
        self._hints_chosen = chosen
        self._hint_refusals.clear()
        for via in tuple(self._ways_up):
            self.hints_up(via, up=False)
        missed = self._hints.missed if self._hints else 0
        self._show_hints(HintsState(since=self._clock.wall(), missed=missed) if ways else None)

    def hints_up(self, via: Via, *, up: bool) -> None:
        self._metrics.hints_up(self.source, via, up=up)
        before = bool(self._ways_up)
        (self._ways_up.add if up else self._ways_up.discard)(via)
        if self._hints is not None:
            since = self._hints.since if before == bool(self._ways_up) else self._clock.wall()
            via_now = tuple(sorted(self._ways_up, reverse=True))  # push first
            state = HintsState(via=via_now, up=bool(via_now), since=since, missed=self._hints.missed)
            self._show_hints(state)

    def _show_hints(self, state: HintsState | None) -> None:
        self._hints = state
        self._live_calls.hints(self.source, state)

    def push_connected(self, outcome: str) -> None:
        self._metrics.push_connected(self.source, outcome)
        if outcome == "recovered":
            self._log.info("push_up", detail="the lost connection is continued: no hint was lost")

    def push_subscribed(self, count: int, refused: Mapping[str, str]) -> None:
        self._log.info("push_up", count=count, others=len(refused))
        for extension_id, detail in islice(refused.items(), REFUSED_SHOWN_MAX):
            self._log_refusal("push_refused", detail, extension=extension_id)
        if not refused:
            self._hint_refusals.clear()

    def push_refused(self, detail: str) -> None:
        self._log_refusal("push_refused", detail)

    def presence_refused(self, detail: str) -> None:
        self._log_refusal("presence_refused", detail)

    def _log_refusal(self, name: str, detail: str, *, extension: str | None = None) -> None:
        """Log a refusal once. What is only permitted ("auto") may be missing: that is no reason for a warning."""
        if (known := f"{name} {extension} {detail}") in self._hint_refusals:
            return
        self._hint_refusals.add(known)
        log = self._log.warning if self._hints_chosen else self._log.info
        unwanted = 'if they are not wanted, set hints to "off" or to the other way'
        fix = f"until then calls are seen without these hints; {unwanted}"
        log(name, extension=extension, detail=detail, fix=fix)

    def push_lost(self, reason: str, detail: str, wait_s: float) -> None:
        # At the earliest, because a connection needs a token, and few tokens may be requested.
        fix = f"callcast connects again automatically, in {wait_s:.0f} s at the earliest"
        self._log.info("push_lost", reason=reason, detail=detail, fix=fix)

    # For the backfill.

    def lookup_failed(self, error: PollFailed) -> None:
        self._log.warning("lookup_failed", reason=error.reason, detail=error.detail, request_id=error.request_id)

    def gap_filled(self, target: Target, after: datetime, calls: int) -> None:
        self._log.info("gap_filled", extension=target.extension_id, after=after.isoformat(), calls=calls)

    # For the client.

    def answered(self, resource: str, outcome: str, took_s: float, request_id: str | None) -> None:
        self._log.debug("request_answered", resource=resource, outcome=outcome, took_s=took_s, request_id=request_id)

    def rate_limit(self, group: str, limit: int, remaining: int, silent_s: float) -> None:
        self._metrics.rate_limit(self.source, group, limit=limit, remaining=remaining)
        if silent_s > 0:
            until = datetime.fromtimestamp(self._clock.wall().timestamp() + silent_s, self._clock.wall().tzinfo)
            self._metrics.penalty(self.source, group, until)
            self._log.warning(
                "rate_limited", reason=group, detail=f"requests are paused for {silent_s:.0f} s", fix=RATE_LIMIT_FIX
            )

    def unknown_word(self, field: str, word: str) -> None:
        self._metrics.unknown_value(field)
        if (field, word) not in self._unknown_words and len(self._unknown_words) < UNKNOWN_WORDS_MAX:
            self._unknown_words.add((field, word))
            self._log.warning("unknown_word_seen", reason=field, detail=word)

    def bad_record(self, field: str, record: str) -> None:
        """Count and log a bad record once, although every poll shows it. Remembers a limited number of records."""
        known = self._bad_records.pop((field, record), False)
        self._bad_records[field, record] = True
        if known:
            return
        if len(self._bad_records) > BAD_RECORDS_MAX:
            del self._bad_records[next(iter(self._bad_records))]
        self._metrics.bad_record(self.source)
        self._log.warning("bad_record_left_out", reason=field, detail=f"the field {field!r} is missing or wrong")

    # For the recorder, after each commit.

    def change_recorded(self, change: ChangeSet) -> None:
        self.outbox_user.works()
        self._live_calls.apply(change)
        for event in change.events:
            self._metrics.event_recorded(event)
            self._log_event(event)

    def _log_event(self, event: Event) -> None:
        match event:
            case SourceEvent(type="source.degraded"):
                self._log.warning(
                    "source_degraded", extension=event.extension_id, reason=event.reason, since=event.since.isoformat()
                )
            case SourceEvent():
                lasted = span((event.time - event.since).total_seconds())
                self._log.info("source_recovered", extension=event.extension_id, reason=event.reason, lasted=lasted)
            case CallEvent():
                self._log.debug("event_recorded", event_type=event.type, event_id=event.id, call=event.key)

    # For readiness.

    def refusals(self) -> Sequence[str]:
        """A sentence for each target that the platform denies access to; a limited number in full."""
        named = [
            f"source {self.source}: {'the account' if one is None else f'extension {one}'} is refused: {detail}"
            for one, detail in islice(self._refused.items(), REFUSED_SHOWN_MAX)
        ]
        more = len(self._refused) - len(named)
        return [*named, *([f"source {self.source}: {more} more extensions are refused"] if more > 0 else [])]

    def unready(self) -> str | None:
        """Why this source is not ready, or None. A source without extensions of its own is ready."""
        if self._extensions is not None and not self._extensions:
            return None
        now = self._clock.monotonic()
        since = self._started if self._last_poll_s is None else self._last_poll_s
        if self._waiting is not None:
            since = max(since, min(self._waiting.values(), default=now))
        silent_s = now - since
        if self._last_poll_s is not None and silent_s <= stale_after_s(self._interval_s):
            return None
        if (ahead := self.sign_ins_ahead()) is not None:
            return f"source {self.source}: waiting to sign in, {ahead} ahead"
        why = f": {self._last_failure}" if self._last_failure else ""
        if self._last_poll_s is None:
            return f"source {self.source}: no successful poll yet{why}"
        return f"source {self.source}: no successful poll for {silent_s:.0f} s{why}"
