"""What was counted since midnight: answered and missed calls of each source, and how fast they were answered.

Counting is by call, not by event: the same call told twice counts once, and a corrected call moves from one
count to the other. So a restart may replay the last events over the counts that were kept, without a seam.
"""

import hashlib
from collections.abc import Collection
from datetime import date, datetime, tzinfo

import msgspec
from msgspec import Struct

from callcast.core.clock import Clock
from callcast.core.model import Call, Direction, Disposition, State

OUTCOMES_MAX = 20_000  # per source, in memory: a later change of an older call than these counts as new
OUTCOMES_KEPT = 1_000  # over a restart, beside those of the live calls


# How one call counts, in as few bytes as can be: the seconds from ring to answer, or one of these.
MISSED, UNTIMED = -2.0, -1.0  # UNTIMED: answered, and one of the two times is not exact


class Counts(Struct, frozen=True):
    """One source, since midnight."""

    answered: int = 0
    missed: int = 0
    timed: int = 0
    speed_sum_s: float = 0.0

    def plus(self, outcome: float, sign: int) -> "Counts":
        missed, timed = outcome == MISSED, outcome >= 0
        return Counts(
            answered=self.answered + sign * (not missed),
            missed=self.missed + sign * missed,
            timed=self.timed + sign * timed,
            speed_sum_s=self.speed_sum_s + sign * (outcome if timed else 0.0),
        )

    @property
    def average_speed_s(self) -> float | None:
        return max(0.0, self.speed_sum_s / self.timed) if self.timed else None


class _Kept(Struct, array_like=True):
    """How the counts lie on disk; `seq` is the newest event that is surely in them."""

    seq: int
    day: date
    counts: Counts
    outcomes: list[tuple[int, float]]


class Today:
    """The counts of one source. `timezone` None is this machine's own."""

    def __init__(self, clock: Clock, timezone: tzinfo | None) -> None:
        self._clock = clock
        self._timezone = timezone
        self._day = self._date(clock.wall())
        self._counts = Counts()
        self._outcomes: dict[int, float] = {}

    def turn_to(self, timezone: tzinfo | None) -> None:
        """Where it is another day already, or still, nothing was counted yet."""
        self._timezone = timezone

    def counts(self) -> Counts:
        self._turn_the_page()
        return self._counts

    def count(self, call: Call) -> None:
        self._turn_the_page()
        key = _key(call.call_id)
        before, after = self._outcomes.get(key), self._outcome(call)
        if before == after:
            return
        if before is not None:
            del self._outcomes[key]
            self._counts = self._counts.plus(before, -1)
        if after is not None:
            self._outcomes[key] = after
            self._counts = self._counts.plus(after, +1)
        if len(self._outcomes) > OUTCOMES_MAX:
            del self._outcomes[next(iter(self._outcomes))]

    def dump(self, seq: int, live: Collection[str]) -> bytes:
        """The counts, for `restore`. `live`: ids of the live calls, which may yet change."""
        self._turn_the_page()
        keys = {*list(self._outcomes)[-OUTCOMES_KEPT:], *map(_key, live)}
        outcomes = [(key, outcome) for key, outcome in self._outcomes.items() if key in keys]
        return msgspec.msgpack.encode(_Kept(seq, self._day, self._counts, outcomes))

    def restore(self, raw: bytes) -> int:
        """Take up counts that were kept, and return their `seq`; 0 when they cannot be read."""
        try:
            kept = msgspec.msgpack.decode(raw, type=_Kept)
        except msgspec.MsgspecError:
            return 0
        self._turn_the_page()
        if kept.day == self._day:
            self._counts = kept.counts
            self._outcomes = dict(kept.outcomes)
        return kept.seq

    def _outcome(self, call: Call) -> float | None:
        if call.direction is not Direction.INBOUND:
            return None
        answered = (
            call.answered_at is not None or call.state is State.CONNECTED or call.disposition is Disposition.ANSWERED
        )
        if not answered and call.disposition is not Disposition.MISSED:
            return None
        at = (call.answered_at if answered else call.ended_at) or call.started_at
        if self._date(at) != self._day:
            return None
        return _speed_s(call) if answered else MISSED

    def _turn_the_page(self) -> None:
        today = self._date(self._clock.wall())
        if today != self._day:
            self._day, self._counts, self._outcomes = today, Counts(), {}

    def _date(self, at: datetime) -> date:
        return at.astimezone(self._timezone).date()


def _speed_s(call: Call) -> float:
    if call.answered_at is None or not call.answered_exact:
        return UNTIMED
    return max(0.0, (call.answered_at - call.started_at).total_seconds())


def _key(call_id: str) -> int:
    """Eight bytes for a call id: thousands of them are kept."""
    return int.from_bytes(hashlib.blake2b(call_id.encode(), digest_size=8).digest(), "big")
