"""What the figures shall reach, and whether they do."""

import math
import statistics
from collections.abc import Callable, Iterator

from msgspec import Struct

from bench.drain import Sustained
from bench.polls import PollRun, median
from bench.suite import Found, Runs

NOISE = 1.25  # two figures of one run that differ by less are the same


class Goal(Struct, frozen=True):
    """`reached` None: this suite does not measure it."""

    figure: str
    goal: str
    measured: str
    reached: bool | None


def ratio(runs: Runs, mine: str, his: str, value: Callable[[PollRun], float]) -> float | None:
    """Median of the pairs that ran next to one another."""
    pairs = list(zip(runs.get(mine, []), runs.get(his, []), strict=False))
    return statistics.median(value(one) / value(other) for one, other in pairs) if pairs else None


def goals(found: Found) -> list[Goal]:
    parts = (_cpu, _delay, _polls, _many, _events, _memory, _flat, _trouble, _start)
    return [goal for part in parts for goal in part(found)]


def _cpu(found: Found) -> Iterator[Goal]:
    for runs, name, most in (
        (found.idle, "nothing changing", (("c", 1.2), ("a", 1 / 8), ("b", 1 / 6))),
        (found.changing, "calls changing", (("c", 1.5), ("a", 1 / 5), ("b", 1 / 4))),
    ):
        for his, times in most:
            yield _at_most(
                f"CPU per poll, {name}, 500 extensions, against ({his})",
                times,
                ratio(runs, "callcast", his, lambda run: run.cpu_us),
                "x",
            )


def _delay(found: Found) -> Iterator[Goal]:
    runs = [run.checked["webhook"].from_shown for run in found.changing.get("callcast", []) if run.checked]
    for name, most, values in (
        ("p50", 5.0, [one.p50 for one in runs]),
        ("p99", 20.0, [one.p99 for one in runs]),
    ):
        value = statistics.median(values) if values else None
        yield _at_most(f"response that shows a change -> webhook received, {name}", most, value, "ms")


def _polls(found: Found) -> Iterator[Goal]:
    for his, times in (("a", 5.0), ("b", 3.0), ("c", 0.7)):
        value = ratio(found.full, "callcast", his, lambda run: run.per_s)
        yield _at_least(f"polls a second, against ({his})", times, value, "x")


def _many(found: Found) -> Iterator[Goal]:
    runs = found.scales.get(2000, {}).get("callcast", [])
    late = max((run.late for run in runs), default=None)
    lost = max((sum(way.lost for way in run.checked.values()) for run in runs), default=None)
    yield _at_most("2,000 extensions, one poll a second each: late polls", 0, late, "")
    yield _at_most("2,000 extensions: lost events", 0, lost, "")
    yield _at_most("2,000 extensions: cores", 0.5, median(runs, "cores") if runs else None, "")


def _events(found: Found) -> Iterator[Goal]:
    mine, theirs = found.sustained.get("callcast"), found.bursts.get("b")
    per_s = mine.taken_per_s if mine else None
    yield _at_least("events/s to all three, sustained", 0.99 * 1000, per_s, "")
    yield _at_most("of those lost", 0, mine and _lost(mine), "")
    yield _at_most("of those pending at the end, in seconds of the rate", 1, mine and mine.pending / 1000, "s")
    yield _at_most("resident meanwhile", 150, mine and mine.peak_mib, "MiB")
    drained = found.bursts["callcast"].per_s if "callcast" in found.bursts else None
    against = drained / theirs.per_s if drained is not None and theirs and theirs.per_s else None
    yield _at_least("events/s drained, against (b)", 2.0, against, "x")
    seconds = found.bursts["callcast"].seconds if "callcast" in found.bursts else None
    yield _at_most("burst of 5,000 changes -> acknowledged by all three", 5.0, seconds, "s")


def _lost(run: Sustained) -> int:
    return sum(way.lost for way in run.checked.values())


def _memory(found: Found) -> Iterator[Goal]:
    runs, long = found.changing.get("callcast", []), found.memory
    yield _at_most("resident, idle", 60, found.start and found.start.idle_mib, "MiB")
    yield _at_most("resident, 500 extensions", 80, median(runs, "peak_mib") if runs else None, "MiB")
    yield _at_most("resident, 2,000 extensions, 100 events/s, ten minutes", 120, long and long.peak_mib, "MiB")
    yield _at_most("its growth, last quarter against the second", 0.03, long and long.growth, "")


def _flat(found: Found) -> Iterator[Goal]:
    scales = {one: median(runs["callcast"], "cpu_us") for one, runs in found.scales.items() if runs.get("callcast")}
    grown = scales[max(scales)] / scales[min(scales)] if len(scales) > 1 else None
    yield _at_most("cost per poll, 2,000 extensions against one", NOISE, grown, "x")
    stored = {count: math.inf if _lost(run) else run.cpu_us for count, run in found.stored.items()}
    held = stored[max(stored)] / stored[min(stored)] if len(stored) > 1 else None
    yield _at_most("cost per event, a million stored against two thousand", NOISE, held, "x")


def _trouble(found: Found) -> Iterator[Goal]:
    p99 = {run.hung: run.delays.p99 for run in found.hang}
    pair = p99[True] / p99[False] if len(p99) == 2 and p99[False] else None
    yield _at_most("one request hangs: the others' p99 against none hanging", NOISE, pair, "x")
    yield _at_most("event loop held", 20, found.held and found.held.longest_ms, "ms")


def _start(found: Found) -> Iterator[Goal]:
    yield _at_most("import", 1, found.start and found.start.import_s, "s")
    yield _at_most("start to ready", 1, found.start and found.start.ready_s, "s")


def _at_most(figure: str, most: float, value: float | None, unit: str) -> Goal:
    return Goal(
        figure,
        f"≤ {format_figure(most, unit)}" if most else "0",
        format_figure(value, unit),
        None if value is None else value <= most,
    )


def _at_least(figure: str, least: float, value: float | None, unit: str) -> Goal:
    return Goal(
        figure, f"≥ {format_figure(least, unit)}", format_figure(value, unit), None if value is None else value >= least
    )


def format_figure(value: float | None, unit: str = "") -> str:
    if value is None:
        return "not measured"
    if not math.isfinite(value):
        return "never"
    number = f"{value:,.0f}" if abs(value) >= 100 or value == int(value) else f"{value:.3g}"
    return number + (f"{unit}" if unit == "x" else f" {unit}".rstrip())
