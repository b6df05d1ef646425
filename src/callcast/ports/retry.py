"""When to retry a delivery, and when to stop. Pure: the random number is passed in."""

from datetime import datetime, timedelta

from msgspec import Struct

_HOUR_S = 3600.0
FINAL_S = (1.0, 5.0, 30.0, 120.0, 300.0, 1800.0, 2 * _HOUR_S, 5 * _HOUR_S, 10 * _HOUR_S, 12 * _HOUR_S)
LIVE_S = (1.0, 2.0, 5.0, 10.0, 20.0)
SPREAD = 0.2  # jitter: each delay varies by up to this share, so that deliveries that failed together spread out
RETRY_AFTER_MAX_S = _HOUR_S  # the longest Retry-After of a remote side that is honored


class RetryPolicy(Struct, frozen=True, kw_only=True):
    """How long one sink's events are retried. Both limits count from when the event was recorded.

    live_ttl_s: for live events, in seconds. give_up_after_h: for all others, in hours.
    """

    live_ttl_s: float = 60.0
    give_up_after_h: float = 75.0

    def time_to_live(self, *, live: bool) -> timedelta:
        return timedelta(seconds=self.live_ttl_s) if live else timedelta(hours=self.give_up_after_h)

    def expires_at(self, pending_since: datetime, *, live: bool) -> datetime:
        return pending_since + self.time_to_live(live=live)

    def delay_s(self, attempt: int, *, live: bool, chance: float) -> float:
        """Seconds from the end of attempt 1, 2, ... to the next one. `chance`: a random number in [0, 1)."""
        table = LIVE_S if live else FINAL_S
        delay_s = table[min(attempt, len(table)) - 1]
        return delay_s * (1 - SPREAD + 2 * SPREAD * chance)


def longest_wait_s(attempts: int, *, live: bool, held: bool) -> float:
    """The longest possible delay after this many attempts, in seconds. `held`: the remote side asked for the delay."""
    if held:
        return RETRY_AFTER_MAX_S
    table = LIVE_S if live else FINAL_S
    return table[min(max(attempts, 1), len(table)) - 1] * (1 + SPREAD)


def granted_s(after_s: float) -> float:
    """The delay that the remote side asked for, limited to 0 to `RETRY_AFTER_MAX_S` seconds."""
    return min(max(after_s, 0.0), RETRY_AFTER_MAX_S)
