"""What the log says of a sink that goes on failing."""

from datetime import timedelta
from typing import Any

import pytest

from callcast.delivery.reminders import Reminders
from callcast.delivery.worker import SinkTrouble
from callcast.formats.durations import span
from callcast.ports.outbox import SinkStats, Stats
from tests.clock import TurnedClock


class Log:
    def __init__(self) -> None:
        self.lines: list[tuple[str, dict[str, Any]]] = []

    def warning(self, event: str, /, **facts: Any) -> None:
        self.lines.append((event, facts))

    info = error = warning


async def test_a_failing_sink_is_remembered_once_an_hour() -> None:
    """With its cause and the fix of it, how many events wait and for how long; another outage begins anew."""
    clock, log = TurnedClock(), Log()
    reminders = Reminders(clock, log)
    began = clock.now()
    oldest = began - timedelta(hours=2)
    stats = Stats(sinks=(SinkStats(sink="crm", pending=7, oldest_recorded_at=oldest, dead=0),), bytes_used=0)

    async def pass_by(minutes: int, since: Any) -> int:
        """How many lines there were in this time."""
        before = len(log.lines)
        trouble = SinkTrouble(since, "http_401", "answered 401", "check secrets")
        for _ in range(minutes * 6):
            await clock.turn(10)
            reminders.remind({"crm": trouble}, stats)
        return len(log.lines) - before

    assert await pass_by(59, began) == 0
    assert await pass_by(2, began) == 1
    assert log.lines[-1] == (
        "sink_still_failing",
        {
            "sink": "crm",
            "reason": "http_401",
            "detail": "answered 401",
            "lasted": "60 min",
            "pending": 7,
            "oldest": "3 h",
            "fix": "check secrets",
        },
    )
    assert await pass_by(60, began) == 1
    reminders.remind({}, stats)
    assert await pass_by(59, clock.now()) == 0
    assert await pass_by(2, clock.now() - timedelta(minutes=59)) == 1


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 s"), (119.4, "119 s"), (120, "2 min"), (7199, "119 min"), (7200, "2 h"), (6 * 3600, "6 h"), (3e5, "3 d")],
)
def test_a_span_in_words(seconds: float, text: str) -> None:
    """In the largest unit of which there are at least two."""
    assert span(seconds) == text
