"""What the parts of one source (client, poller, backfill, recorder) report, for metrics, logs and live calls."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Literal

from callcast.calls.model import ChangeSet, PollRecord, Snapshot, Target
from callcast.ports.hints import Hint, Via
from callcast.ports.outbox import OutboxUnavailable
from callcast.ports.upstream import PollFailed

Cause = Literal["hint", "follow_up", "keep_alive", "poll"]  # why a target is polled


class Telemetry:
    """Ignores every report, as commands need it; the service overrides the methods. None may block."""

    # From the client.

    def answered(self, resource: str, outcome: str, took_s: float, request_id: str | None) -> None:
        """A request is finished. `outcome`: the status of the response, or the reason why there is none."""

    def rate_limit(self, group: str, limit: int, remaining: int, silent_s: float) -> None:
        """The platform announced a group's limit. `silent_s` above 0: requests are paused for that many seconds."""

    def unknown_word(self, field: str, word: str) -> None:
        """A field has a value that is not listed in the vocabulary. Calls are unaffected."""

    def bad_record(self, field: str, record: str) -> None:
        """A record was skipped because this field is invalid. Reported again while the record stays in the list."""

    # From the poller.

    def watching(self, extension_ids: Sequence[str] | None, interval_s: float) -> None:
        """The watched extensions. None: the whole account; empty: other sources own all of them."""

    def watched_twice(self, extension_id: str) -> None:
        """Another source owns this extension."""

    def paced(self, interval_s: float, promised_s: float) -> None:
        """Seconds between two polls of a target, as the rate limit currently allows, and as now promised: with hints
        a target is polled less often while nothing happens.
        """

    def stepped(self, waiting: Mapping[Target, float] | None = None) -> None:
        """The scheduler is running; called every second, also during a penalty.

        waiting: the targets that are not quiet by plan, each with the time from when on a good poll is missing
        (monotonic). None: the source has no hints, and the time since the last successful poll counts.
        """

    def poll_sent(self, cause: Cause) -> None: ...

    def poll_succeeded(self, snapshot: Snapshot, took_s: float) -> None: ...

    def poll_failed(self, target: Target, error: PollFailed, took_s: float) -> None: ...

    def polls_missed(self, counts: Mapping[Target, int]) -> None:
        """The number of skipped polls by target, in the last second."""

    def store_failed(self, error: OutboxUnavailable) -> None: ...

    def store_recovered(self) -> None:
        """What failed was done again, with success. A recorded poll or change says the same."""

    # From the scheduler, where the source has hints.

    def hint_reported(self, hint: Hint) -> None: ...

    def hint_seen(self, after_s: float) -> None:
        """A poll shows what a hint announced."""

    def hint_missed(self) -> None:
        """A poll shows a step that no hint announced."""

    def hints_trusted(self, *, trusted: bool, deaf: bool) -> None:
        """From now on the source is polled by its hints, or evenly as without. `deaf`: they are lost too often."""

    # From the backfill.

    def lookup_failed(self, error: PollFailed) -> None: ...

    def gap_filled(self, target: Target, after: datetime, calls: int) -> None: ...

    # From the ways of hints.

    def hints_up(self, via: Via, *, up: bool) -> None:
        """Whether hints come this way now."""

    def hints_ignored(self, reason: str, count: int = 1) -> None:
        """Hints that cause no poll: they say nothing new, or what the list shows already."""

    def push_connected(self, outcome: Literal["subscribed", "recovered", "refused", "failed"]) -> None:
        """An attempt to connect is finished, or a connection is lost (`failed`)."""

    def push_subscribed(self, count: int, refused: Mapping[str, str]) -> None:
        """There is a new subscription with so many filters. refused: what to allow, by extension id."""

    def push_refused(self, detail: str) -> None:
        """The platform does not permit push at all. Reported after each attempt, every hour."""

    def push_lost(self, reason: str, detail: str, wait_s: float) -> None:
        """There is no connection; the next attempt is made after `wait_s` seconds."""

    def presence_refused(self, detail: str) -> None:
        """Presence cannot be read. Reported after each attempt, every hour."""

    # From the recorder, after each commit.

    def poll_stored(self, poll: PollRecord) -> None: ...

    def change_recorded(self, change: ChangeSet) -> None:
        """A large change is reported in several parts."""
