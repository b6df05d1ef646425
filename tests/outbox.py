"""Whether the outbox's thread has work, for a clock that is turned only when all is quiet."""

from collections.abc import Callable
from typing import Any

from callcast.ports.outbox import Outbox


def busy(outbox: Outbox) -> Callable[[], bool]:
    """Count the operations of an SQLite outbox from now on; the result says whether any is under way."""
    writer: Any = outbox._writer  # type: ignore[attr-defined]
    submit, finish, count = writer.submit, writer._finish, 0

    def submitted(*given: Any, **named: Any) -> Any:
        nonlocal count
        count += 1
        return submit(*given, **named)

    def finished(jobs: Any) -> None:
        nonlocal count
        count -= len(jobs)
        finish(jobs)

    writer.submit, writer._finish = submitted, finished
    return lambda: count > 0
