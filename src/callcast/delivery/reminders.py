"""Logs once an hour which sinks are still failing, and their backlog."""

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

from callcast.delivery.worker import SinkTrouble
from callcast.formats.durations import span
from callcast.ports.clock import Clock
from callcast.ports.outbox import Stats

EVERY = timedelta(hours=1)


class Reminders:
    def __init__(self, clock: Clock, log: Any) -> None:
        self._clock = clock
        self._log = log
        self._logged_at: dict[str, datetime] = {}

    def remind(self, failing: Mapping[str, SinkTrouble], stats: Stats) -> None:
        """Log the sinks that have failed for an hour since their last log line. `failing`: the sinks failing now."""
        now = self._clock.now()
        backlog = {one.sink: one for one in stats.sinks}
        self._logged_at = {name: at for name, at in self._logged_at.items() if name in failing}
        for name, trouble in failing.items():
            if now - max(trouble.since, self._logged_at.get(name, trouble.since)) < EVERY:
                continue
            self._logged_at[name] = now
            one = backlog.get(name)
            oldest = one and one.oldest_recorded_at
            self._log.warning(
                "sink_still_failing",
                sink=name,
                reason=trouble.reason,
                detail=trouble.detail,
                lasted=span((now - trouble.since).total_seconds()),
                pending=one.pending if one else 0,
                oldest=span((now - oldest).total_seconds()) if oldest else None,
                fix=trouble.fix,
            )
