"""The six recorded answers: a direct call and a queue call, each ringing, answered, ended.

Recorded by github.com/tylerlong/active-calls-demo on 2021-01-19 and -20, and served record for record.
"""

import json
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from functools import cache
from importlib.resources import files

from callcast.simulator.calls import Record, Truth

ACCOUNT_ID = "809646016"
EXTENSION_ID = "62264425016"
# When each answer may have been given: after what it shows, and before what it does not show yet.
MOMENTS = (
    datetime(2021, 1, 19, 23, 58, 59, tzinfo=UTC),
    datetime(2021, 1, 19, 23, 59, 5, tzinfo=UTC),
    datetime(2021, 1, 19, 23, 59, 10, tzinfo=UTC),
    datetime(2021, 1, 20, 0, 15, 4, tzinfo=UTC),
    datetime(2021, 1, 20, 0, 15, 10, tzinfo=UTC),
    datetime(2021, 1, 20, 0, 15, 23, tzinfo=UTC),
)
# Seconds after the start at which `timed` turns to each answer, and at last to the empty list.
SCHEDULE_S = (1.0, 5.0, 11.0, 20.0, 26.0, 38.0, 158.0)
TRUTH = (
    Truth(
        extension_id=EXTENSION_ID,
        session_id="s-8f8125f1aeb944f486531c351a2f520e",
        direction="inbound",
        started_at=datetime(2021, 1, 19, 23, 58, 57, tzinfo=UTC),
        answered_at=datetime(2021, 1, 19, 23, 59, 1, tzinfo=UTC),
        ended_at=datetime(2021, 1, 19, 23, 59, 7, tzinfo=UTC),
        disposition="answered",
    ),
    Truth(
        extension_id=EXTENSION_ID,
        session_id="s-31f9c0cf910a41f98c4c5cb29b72377d",
        direction="inbound",
        started_at=datetime(2021, 1, 20, 0, 15, 2, tzinfo=UTC),
        answered_at=None,  # answered; the recording does not say when
        ended_at=datetime(2021, 1, 20, 0, 15, 20, tzinfo=UTC),
        disposition="answered",
    ),
)


@cache
def answers() -> Sequence[list[Record]]:
    """The records of the six answers, in order."""
    recorded: list[list[Record]] = json.loads(files(__package__).joinpath("seed.json").read_bytes())
    return recorded


class Recording:
    """Plays the recorded answers. `turn` returns which one, from 0; outside their range the list is empty."""

    account_id = ACCOUNT_ID

    def __init__(self, turn: Callable[[str | None, datetime], int], on_poll: Callable[[str | None], None]) -> None:
        self._turn = turn
        self._on_poll = on_poll

    def extension_ids(self) -> Sequence[str]:
        return (EXTENSION_ID,)

    def poll(self, extension_id: str | None, /) -> None:
        self._on_poll(extension_id)

    def active(self, extension_id: str | None, now: datetime, /) -> list[Record]:
        turn = self._turn(extension_id, now)
        return answers()[turn] if 0 <= turn < len(answers()) else []

    def log(self, extension_id: str | None, now: datetime, /, **_enough: object) -> list[Record]:
        """The ended records that have been shown, newest first."""
        shown = answers()[: max(self._turn(extension_id, now) + 1, 0)]
        return [answer[0] for answer in reversed(shown) if "duration" in answer[0]]

    def session(self, _session_id: str, _now: datetime, /) -> Record | None:
        return None  # nothing of the kind was recorded

    def truth(self, _now: datetime, /) -> Sequence[Truth]:
        return TRUTH


def by_poll(*, empty_polls: int = 0, on_turn: Callable[[datetime], None] | None = None) -> Recording:
    """The next answer with each poll of a list, up to the last one. Each list counts for itself.

    empty_polls: so many polls find nothing first. on_turn: called with the moment of the answer that a poll
    will get, so that a test's clock can follow the recording.
    """
    turns: dict[str | None, int] = {}

    def poll(extension_id: str | None) -> None:
        turns[extension_id] = min(turns.get(extension_id, -1 - empty_polls) + 1, len(MOMENTS) - 1)
        if on_turn is not None and turns[extension_id] >= 0:
            on_turn(MOMENTS[turns[extension_id]])

    return Recording(lambda extension_id, _: turns.get(extension_id, -1), poll)


def timed(start: datetime, *, speed: float = 1.0) -> Recording:
    """The next answer as time passes. The recording's pauses are shorter; its records are unchanged."""

    def turn(_: str | None, now: datetime) -> int:
        passed = (now - start) * speed
        return sum(passed >= timedelta(seconds=at_s) for at_s in SCHEDULE_S) - 1

    return Recording(turn, lambda _: None)
