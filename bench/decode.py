"""What a poll of a whole company costs, in processor time: 1,000 calls like the recorded one, two legs each, 2.2 MB.

`python -m bench.decode [ROUNDS]` prints the best and the median time of reading and comparing, for a list that is what
it was, for one in which every tenth call has changed, and for one with bad records in it: when nothing is known of the
list, as at the start, and after a poll, when only what has changed is read. Then the memory that a poll takes and
keeps, for lists of several lengths. How long the loop is held: `bench.held`.
"""

import json
import statistics
import sys
import time
import tracemalloc
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from callcast.calls.model import ChangeSet, PollRecord, Target
from callcast.calls.tracker import CallIndex, Rules, compare
from callcast.ringcentral.interpret import Rows, read_page, snapshot

SAMPLES = Path(__file__).parents[1] / "tests" / "samples" / "active-calls"
CALLS = 1000
GOAL_MS = 15.0
TARGET = Target(source="acme")
AT = datetime(2021, 1, 20, tzinfo=UTC)


def page(
    change: Callable[[int, dict[str, Any]], dict[str, Any]] = lambda _, record: record,
    *,
    sample: str = "seed-direct-2-answered",
    calls: int = CALLS,
) -> bytes:
    recorded = json.loads((SAMPLES / f"{sample}.json").read_text())
    text = json.dumps(recorded["records"][0])
    records = []
    for n in range(calls):
        one = json.loads(text.replace("62264425016", str(62264425000 + n)))
        one |= {"id": f"LIef14l8N{n:06}", "telephonySessionId": f"s-{n:032x}"}
        records.append(change(n, one))
    return json.dumps({**recorded, "records": records}, indent=1).encode()


def ended(n: int, record: dict[str, Any]) -> dict[str, Any]:
    return record | {"result": "Accepted", "duration": 10} if n % 10 == 0 else record


def spoiled(n: int, record: dict[str, Any]) -> dict[str, Any]:
    return record | {"startTime": None} if n % 10 == 0 else record


def times_ms(work: Callable[[], object], rounds: int) -> tuple[float, float]:
    taken = []
    for _ in range(rounds):
        start = time.thread_time()
        work()
        taken.append((time.thread_time() - start) * 1000)
    return min(taken), statistics.median(taken)


def whole(index: CallIndex, body: bytes, known: Rows | None) -> ChangeSet:
    return compare(index, snapshot(TARGET, [read_page(body, TARGET, known)], AT), Rules())


def memory_kib(calls: int) -> tuple[float, float]:
    """At most while a list is read, and kept until the next poll."""
    raw = page(calls=calls)
    tracemalloc.start()
    kept = read_page(raw, TARGET)
    now, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(kept.rows) == calls
    return most / 1024, now / 1024


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 50
    raw = page()
    last = read_page(raw, TARGET)
    index = CallIndex("acme")
    first = snapshot(TARGET, [last], AT)
    index.apply(PollRecord(target=TARGET, taken_at=AT), ChangeSet())
    index.apply(PollRecord(target=TARGET, taken_at=AT), compare(index, first, Rules()))
    known = {row.raw: row for row in last.rows}
    print(f"{CALLS} calls, {len(raw) / 1e6:.1f} MB, goal {GOAL_MS:.0f} ms for decoding and comparing")
    bodies = {
        "as it was": raw,
        "every tenth ended": page(ended),
        "every tenth bad": page(spoiled),
        "the last bad": page(lambda n, record: spoiled(0, record) if n == CALLS - 1 else record),
    }
    for name, body in bodies.items():
        pages = [read_page(body, TARGET)]
        shown = snapshot(TARGET, pages, AT)
        steps: dict[str, Callable[[], object]] = {
            "read": lambda body=body: read_page(body, TARGET),
            "compare": lambda shown=shown: compare(index, shown, Rules()),
            "whole": lambda body=body: whole(index, body, None),
            "whole, after a poll": lambda body=body: whole(index, body, known),
        }
        for step, work in steps.items():
            best, median = times_ms(work, rounds)
            print(f"{name:18} {step:20} best {best:5.1f} ms   median {median:5.1f} ms")
    for calls in (250, 500, 1000, 2000):
        most, kept_kib = memory_kib(calls)
        print(f"{calls:5} calls: at most {most / calls:.1f} KiB a call, {kept_kib / calls:.1f} KiB kept")


if __name__ == "__main__":
    main()
