"""Turns successful and failed polls into `source.degraded` and `source.recovered` events.

A target is degraded after three of its intervals (at least 30 s) without a successful poll, or at once when the
platform denies access to it. When every target of a source is degraded, one event reports the whole source. Durations
use a monotonic clock (`steady_s`, in seconds), because the platform's time may be corrected by any response.

The state survives a restart (`dump`), so each outage is reported once and event ids stay the same.
"""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta

import msgspec
from msgspec import Struct

from callcast.calls.ids import event_id
from callcast.calls.model import Blind, SourceEvent

WHOLE = ""  # stands for the source as a whole, or for its only target


class Outage(Struct, frozen=True):
    """Since when there was no successful poll, and why."""

    since: datetime
    reason: str


class FreshnessState(Struct, rename={"outages": "spells"}):
    """What survives a restart: the number of the last event, the outages, and events that may be unrecorded."""

    number: int = 0
    outages: dict[str, Outage] = {}
    unrecorded: tuple[SourceEvent, ...] = ()


def stale_after_s(interval_s: float) -> float:
    """Seconds without a successful poll after which a target is stale: three intervals, at least 30 s."""
    return max(3 * interval_s, 30.0)


class Freshness:
    """Whether one source is seen. Not thread-safe; the poller owns it."""

    def __init__(self, source: str, state: bytes | None = None) -> None:
        self.source = source
        self._state = msgspec.json.decode(state, type=FreshnessState) if state else FreshnessState()
        self._last_polls: dict[str, datetime | None] = {}  # last successful poll of each watched target
        self._since: dict[str, float] = {}  # from when staleness counts, on the steady clock
        self._reasons: dict[str, str] = {}
        self._refused: set[str] = set()

    def dump(self, unrecorded: Iterable[SourceEvent] = ()) -> bytes:
        """Return the state to store. `unrecorded`: events that are recorded right after it, or at the next start if the
        process ends in between.
        """
        self._state.unrecorded = tuple(unrecorded)
        return msgspec.json.encode(self._state)

    @property
    def unrecorded(self) -> Sequence[SourceEvent]:
        """Events that an earlier run may not have recorded. Recording one twice has no effect: its id is the same."""
        return self._state.unrecorded

    @property
    def degraded(self) -> dict[str, Outage]:
        """The current outages, by extension id; `WHOLE` for the source as a whole."""
        return dict(self._state.outages)

    def watch_whole(self, last: datetime | None, steady_s: float) -> None:
        """Watch the source as a whole, while its targets are not known yet. `last`: its last successful poll."""
        self._last_polls = {WHOLE: last}
        self._since = {WHOLE: steady_s}

    def watch(self, targets: Iterable[str], polls: dict[str, datetime], steady_s: float) -> None:
        """Watch these targets and no others. Time before this run is not counted as an outage.

        polls: the last successful poll of each target, from an earlier run.
        """
        before, begun_s = self._last_polls, self._since.get(WHOLE, steady_s)
        self._last_polls = {target: before.get(target) or polls.get(target) for target in targets}
        self._since = {target: self._since.get(target, begun_s) for target in self._last_polls}
        self._reasons = {target: reason for target, reason in self._reasons.items() if target in self._last_polls}
        self._refused &= self._last_polls.keys()
        for gone in self._state.outages.keys() - self._last_polls.keys() - {WHOLE}:
            del self._state.outages[gone]

    def poll_succeeded(self, target: str, at: datetime, steady_s: float) -> list[SourceEvent]:
        """Note a successful poll. Returns the events of what has recovered."""
        events = self._recoveries(target, at, steady_s) if self._state.outages else []
        self._last_polls[target], self._since[target] = at, steady_s
        self._refused.discard(target)
        self._reasons.pop(target, None)
        return events

    def _recoveries(self, target: str, at: datetime, steady_s: float) -> list[SourceEvent]:
        """The outages that end with a successful poll of this target."""
        events = []
        if WHOLE in self._state.outages:
            last = max((poll for poll in self._last_polls.values() if poll), default=None)
            events.append(self._recovered(WHOLE, Blind(after=last, before=at)))
            for other in self._since:  # after an outage of the whole source each target gets three new intervals
                self._since[other] = steady_s
        if target in self._state.outages:
            events.append(self._recovered(target, Blind(after=self._last_polls.get(target), before=at)))
        return events

    def poll_failed(self, target: str, reason: str, *, refused: bool = False) -> None:
        """Note a failed poll. `refused`: the platform denies access; the target is degraded at the next check."""
        self._reasons[target] = reason
        if refused:
            self._refused.add(target)

    def restart_timers(self, steady_s: float) -> None:
        """Start all intervals anew at `steady_s`: until then the source was queued to sign in, which is no outage."""
        self._since = {target: max(since, steady_s) for target, since in self._since.items()}

    def check(
        self, at: datetime, steady_s: float, interval_s: float, waiting: Mapping[str, float] | None = None
    ) -> list[SourceEvent]:
        """Return the events of what has become degraded by now.

        interval_s: between two polls of a target without hints.
        waiting: with hints: the targets of which a good poll is missing, and since when; the others are quiet by plan.
        """
        limit_s = stale_after_s(interval_s)
        silent_s = {target: steady_s - since for target, since in self._since.items()}
        if waiting is not None:
            silent_s = {t: min(s, steady_s - waiting.get(t, steady_s)) for t, s in silent_s.items()}
        stale = {t: at - timedelta(seconds=s) for t, s in silent_s.items() if t in self._refused or s > limit_s}
        if WHOLE in self._state.outages or not stale:
            return []
        if len(stale) == len(self._last_polls):
            return [self._degraded(WHOLE, stale, at)]
        outages = self._state.outages
        return [self._degraded(target, {target: since}, at) for target, since in stale.items() if target not in outages]

    def _degraded(self, target: str, stale: Mapping[str, datetime], at: datetime) -> SourceEvent:
        """stale: the targets without a successful poll, and since when in this run."""
        since = max(self._last_polls[t] or begun for t, begun in stale.items())
        reason = next((self._reasons[t] for t in stale if t in self._reasons), "timeout")
        outage = Outage(since, reason)
        self._state.outages[target] = outage
        return self._event("source.degraded", target, outage, at, None)

    def _recovered(self, target: str, blind: Blind) -> SourceEvent:
        return self._event("source.recovered", target, self._state.outages.pop(target), blind.before, blind)

    def _event(self, kind: str, target: str, outage: Outage, at: datetime, blind: Blind | None) -> SourceEvent:
        self._state.number += 1
        return SourceEvent(
            id=event_id(self.source, kind, str(self._state.number)),
            type=kind,
            time=at,
            source=self.source,
            extension_id=target or None,
            reason=outage.reason,
            since=outage.since,
            blind=blind,
        )
