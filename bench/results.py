"""RESULTS.md and its pictures, from what a suite has found. No number in them is written by hand."""

import statistics
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from bench import svg
from bench.child import BenchFailed
from bench.drain import EXTENSIONS, Sustained
from bench.goals import format_figure, goals, ratio
from bench.participants import NAMES
from bench.polls import PollRun, median
from bench.suite import CROWD, STORED_AT, Found, Runs
from bench.world import WAYS

HERE = Path(__file__).parent
SIZED, SIZED_END = "<!-- written by make bench-full -->", "<!-- until here -->"


def write(found: Found, folder: Path = HERE) -> None:
    for name, index in _pictures(found).items():
        (folder / f"{name}.svg").write_text(index)
    parts = (_head, _goals, _polls, _delays, _scales, _drains, _memory, _limits, _beside, _shares, _failures)
    text = "\n\n".join("\n".join(part(found)) for part in parts if any(part(found)))
    (folder / "RESULTS.md").write_text(text + "\n")


def size(found: Found, page: Path = HERE.parent / "docs" / "operating.md") -> None:
    """Put the sizing table where the page has its marks."""
    before, _, rest = page.read_text().partition(SIZED)
    _, _, after = rest.partition(SIZED_END)
    if not after:
        raise BenchFailed(f"{page.name} has no place for the sizing table")
    head = ("watched", "events a second", "of a core", "memory at most")
    table = "\n".join(_table(head, _sizes(found)))
    page.write_text(f"{before}{SIZED}\n{table}\n{SIZED_END}{after}")


def _sizes(found: Found) -> Iterator[tuple[str, ...]]:
    every = {_extensions(count): runs for count, runs in found.scales.items()}
    every |= {"500 extensions": found.changing}
    every |= {f"the account, {count:,} calls at once": runs for count, runs in found.accounts.items()}
    for name, runs in sorted(every.items(), key=lambda one: (not one[0][0].isdigit(), _number(one[0]))):
        for run in runs.get("callcast", [])[:1]:
            per_s = run.checked["webhook"].changes / run.seconds
            yield name, f"{per_s:.1f}", f"{run.cores:.0%}", f"{run.peak_mib:.0f} MiB"


def _extensions(count: int) -> str:
    return f"{count:,} extension{'s' if count > 1 else ''}"


def _number(text: str) -> int:
    return int("".join(one for one in text if one.isdigit()))


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    lines = [head, ["---"] * len(head), *rows]
    return [f"| {' | '.join(line)} |" for line in lines]


def _prose(text: str) -> list[str]:
    return textwrap.wrap(text, 118)


def _head(found: Found) -> Iterator[str]:
    fsync = f"{found.micro.fsync_ms:.2f} ms" if found.micro else "not measured"
    yield "# Results"
    yield ""
    yield f"Written by `{found.suite}` on {found.began[:10]}, in {found.took_s / 60:.0f} minutes; do not edit."
    yield f"{found.machine}; fsync of the disk: {fsync}."
    yield ""
    yield from _prose(
        "Each figure is the median of the runs, which went turn about; a ratio is the median of pairs of one round. "
        "Only ratios travel to another machine. "
        "What was measured, how, and what each peer lacks: [README.md](README.md)."
    )


def _goals(found: Found) -> Iterator[str]:
    words = {True: "reached", False: "**not reached**", None: "–"}
    yield "## Goals"
    yield ""
    rows = [(one.figure, one.goal, one.measured, words[one.reached]) for one in goals(found)]
    yield from _table(("figure", "goal", "measured", ""), rows)


def _polls(found: Found) -> Iterator[str]:
    yield "## A poll"
    yield ""
    for name, runs in (
        ("500 extensions, one poll a second each, nothing changing", found.idle),
        ("the same with a call at every fifth extension that changes every three seconds", found.changing),
        ("500 extensions as often as it can", found.full),
    ):
        if runs:
            yield f"### {name[0].upper()}{name[1:]}"
            yield ""
            yield from _of_polls(runs)
            yield ""
    yield "![CPU of a poll](polls.svg)"


def _of_polls(runs: Runs) -> list[str]:
    head = ("", "CPU of a poll", "callcast takes", "polls/s", "cores", "late polls", "resident")
    return _table(head, [_poll_row(who, runs) for who in runs if runs[who]])


def _poll_row(who: str, runs: Runs) -> tuple[str, ...]:
    mine = ratio(runs, "callcast", who, lambda run: run.cpu_us)
    return (
        NAMES[who],
        f"{median(runs[who], 'cpu_us'):.0f} us",
        format_figure(mine, "x") if who != "callcast" else "",
        f"{median(runs[who], 'per_s'):,.0f}",
        f"{median(runs[who], 'cores'):.2f}",
        f"{max(run.late for run in runs[who])}",
        f"{median(runs[who], 'rss_mib'):.0f} MiB",
    )


def _delays(found: Found) -> Iterator[str]:
    runs = {who: [run for run in each if run.checked] for who, each in found.changing.items()}
    if not any(runs.values()):
        return
    yield "## From the answer that shows a change to its receipt"
    yield ""
    yield "500 extensions, calls changing; milliseconds. callcast has the event on the disk before it sends it. The"
    yield "delay from the change itself holds the wait for the next poll, half a second on average."
    yield ""
    head = ("", "by", "p50", "p95", "p99", "from the change: p50", "p99", "changes", "lost", "doubled", "out of order")
    yield from _table(head, [_delay_row(who, way, each) for who, each in runs.items() for way in WAYS if each])


def _delay_row(who: str, way: str, runs: list[PollRun]) -> tuple[str, ...]:
    each = [run.checked[way] for run in runs]

    def middle(part: str, share: str) -> str:
        return format_figure(statistics.median(getattr(getattr(one, part), share) for one in each))

    shown = [middle("from_shown", share) for share in ("p50", "p95", "p99")]
    change = [middle("from_change", share) for share in ("p50", "p99")]
    sums = [str(sum(getattr(one, fault) for one in each)) for fault in ("changes", "lost", "doubled", "disordered")]
    return (NAMES[who], way, *shown, *change, *sums)


def _scales(found: Found) -> Iterator[str]:
    rows = [
        row
        for name, each in (
            *((_extensions(count), runs) for count, runs in found.scales.items()),
            *((f"account, {count:,} records", runs) for count, runs in found.accounts.items()),
        )
        for row in _scale_rows(name, each)
    ]
    if rows:
        yield "## Scales"
        yield ""
        yield "One poll a second of each target, calls changing."
        yield ""
        head = ("", "", "CPU of a poll", "cores", "late polls", "webhook p50", "p99", "lost", "resident, peak")
        yield from _table(head, rows)


def _scale_rows(name: str, runs: Runs) -> Iterator[tuple[str, ...]]:
    for who, each in runs.items():
        for run in each[:1]:
            shown = run.checked["webhook"].from_shown
            lost = sum(way.lost for way in run.checked.values())
            figures = (f"{run.cpu_us:,.0f} us", f"{run.cores:.2f}", str(run.late))
            seen = run.checked["webhook"].changes > 0
            delays = (*(format_figure(one, "ms") if seen else "–" for one in (shown.p50, shown.p99)), str(lost))
            yield (name, NAMES[who], *figures, *delays, f"{run.peak_mib:.0f} MiB")


def _drains(found: Found) -> Iterator[str]:
    yield "## Events"
    yield ""
    if found.bursts:
        yield f"5,000 changes in one moment, at {EXTENSIONS} extensions, to webhook, MQTT and standard output:"
        yield ""
        head = ("", "all there after", "events/s", *(f"by {way}" for way in WAYS), "CPU of an event", "peak", "lost")
        yield from _table(head, [_burst_row(found, who) for who in found.bursts])
        yield ""
        yield "![events a second](events.svg)"
        yield ""
    yield from _steady(found)
    if found.backlog:
        one = found.backlog
        yield from _prose(
            f"A backlog of {one.events:,} that were pending for all three sinks when callcast started: the first after "
            f"{one.start_s:.1f} s, all {one.seconds:.1f} s later, {one.per_s:,.0f} events/s, lost {one.lost}."
        )


def _burst_row(found: Found, who: str) -> tuple[str, ...]:
    one = found.bursts[who]
    ways = [f"{one.per_s_by_way[way]:,.0f}" for way in WAYS]
    return (
        NAMES[who],
        format_figure(one.seconds, "s"),
        f"{one.per_s:,.0f}",
        *ways,
        f"{one.cpu_us:,.0f} us",
        f"{one.peak_mib:.0f} MiB",
        str(one.lost),
    )


def _steady(found: Found) -> Iterator[str]:
    named = [(NAMES[who], f"{EXTENSIONS} extensions", run) for who, run in found.sustained.items()]
    named += [(NAMES["callcast"], f"{CROWD} extensions", run) for run in (found.crowded,) if run]
    stored = found.stored.items()
    named += [(NAMES["callcast"], f"{STORED_AT} extensions, {count:,} stored", run) for count, run in stored]
    if named:
        yield "A steady rate, each extension polled once a second:"
        yield ""
        head = ("", "", "offered", "taken by all three", "pending at the end", "CPU of an event", "cores")
        yield from _table((*head, "webhook p50", "p99", "lost"), [_steady_row(*one) for one in named])
        yield ""


def _steady_row(name: str, beside: str, run: Sustained) -> tuple[str, ...]:
    shown, lost = run.checked["webhook"].from_shown, sum(way.lost for way in run.checked.values())
    rates = (f"{run.offered_per_s:,.0f}/s", f"{run.taken_per_s:,.0f}/s", f"{run.pending:,}")
    return (
        name,
        beside,
        *rates,
        f"{run.cpu_us:,.0f} us",
        f"{run.cores:.2f}",
        format_figure(shown.p50, "ms"),
        format_figure(shown.p99, "ms"),
        f"{lost:,}",
    )


def _memory(found: Found) -> Iterator[str]:
    one = found.memory
    if one is not None:
        yield "## Memory"
        yield ""
        yield from _prose(
            f"{one.extensions:,} extensions, {one.rate_per_s:.0f} events/s, {one.seconds / 60:.0f} minutes: from "
            f"{one.mib[0]:.0f} to {one.mib[-1]:.0f} MiB, peak {one.peak_mib:.0f}; {one.cores:.2f} cores, late polls "
            f"{one.late}, lost {sum(way.lost for way in one.checked.values())}."
        )
        yield ""
        yield "![resident memory](memory.svg)"


def _limits(found: Found) -> Iterator[str]:
    one = found.micro
    if one is None:
        return
    yield "## Limits"
    yield ""
    yield "Each step alone, as fast as it goes: processor time of decoding and comparing, events a second of the rest."
    yield ""
    rows = [(name, format_figure(value, "us")) for name, value in (one.decode_us | one.compare_us).items()]
    rows += [(name, f"{value:,.0f}/s") for name, value in (one.commit_per_s | one.send_per_s).items()]
    yield from _table(("step", ""), rows)


def _beside(found: Found) -> Iterator[str]:
    """The pipe's own figures next to the limits of what it is made of."""
    one, full, burst = found.micro, found.full, found.bursts.get("callcast")
    if one is None or burst is None or not all(full.get(who) for who in ("callcast", "c", "d")):
        return
    limits = one.commit_per_s | one.send_per_s
    yield "## The pipe beside its limits"
    yield ""
    yield "What one process does in a second. A burst goes to all three sinks at once; a limit has the machine alone."
    yield ""
    polls = {who: f"{median(full[who], 'per_s'):,.0f}" for who in ("callcast", "c", "d")}
    ways = {way: f"{burst.per_s_by_way[way]:,.0f}" for way in WAYS}
    rows = [
        ("polls", polls["d"], "raw sockets that parse", polls["c"], "uvloop and aiohttp", polls["callcast"]),
        ("commits", *_limit(limits, "sqlite, commits of 100"), *_limit(limits, "callcast outbox, 100 at once"), ""),
        (
            "webhook",
            *_limit(limits, "POST, raw socket, one after the other"),
            *_limit(limits, "POST, aiohttp, 8 at once"),
            ways["webhook"],
        ),
        (
            "MQTT",
            *_limit(limits, "publish, paho, 20 in flight"),
            *_limit(limits, "publish, paho, 1000 in flight"),
            ways["mqtt"],
        ),
    ]
    yield from _table(("", "limit", "of", "another", "of", "callcast, the whole pipe"), rows)


def _limit(limits: dict[str, float], name: str) -> tuple[str, str]:
    return format_figure(limits.get(name)), name


def _shares(found: Found) -> Iterator[str]:
    if found.shares is None and found.held is None:
        return
    yield "## Where the time goes"
    yield ""
    yield from _apart(found)
    if found.shares is not None:
        whole = sum(found.shares.shares.values()) or 1
        yield "Processor time of callcast with 500 extensions and calls changing, by the innermost room or library:"
        yield ""
        rows = [(room, f"{count / whole:.0%}") for room, count in found.shares.shares.items() if count / whole > 0.01]
        yield from _table(("room", "share"), rows)
        yield ""
    if found.held is not None:
        held = found.held
        yield from _prose(
            f"The longest of {held.callbacks:,} callbacks held the loop for {held.longest_ms:.1f} ms "
            f"in `{held.worst}`; {held.over_20_ms} were over 20 ms. The most processor time that one took: "
            f"{held.longest_cpu_ms:.1f} ms."
        )


def _apart(found: Found) -> Iterator[str]:
    """A poll taken apart by the participants that do ever more with it."""
    for name, runs in (("nothing changing", found.idle), ("calls changing", found.changing)):
        floor = found.idle.get("d")
        if not floor or not runs.get("callcast") or not runs.get("c"):
            continue
        poll, tuned, mine = median(floor, "cpu_us"), median(runs["c"], "cpu_us"), median(runs["callcast"], "cpu_us")
        yield from _prose(
            f"Of the {mine:.0f} us that callcast takes for a poll with {name}, {poll:.0f} are the system's calls and "
            f"the parsing (d), {tuned - poll:.0f} what an HTTP client and an event loop add at their best (c), and "
            f"{mine - tuned:.0f} callcast's own."
        )
        yield ""


def _failures(found: Found) -> Iterator[str]:
    if found.failures:
        yield "## What could not be measured"
        yield ""
        yield from (f"- {one}" for one in found.failures)


def _pictures(found: Found) -> dict[str, str]:
    polls = {
        f"{NAMES[who]} {name}": median(runs[who], "cpu_us")
        for name, runs in (("idle", found.idle), ("changing", found.changing))
        for who in runs
        if runs[who]
    }
    drawn = {}
    if polls:
        drawn["polls"] = svg.bars("CPU of a poll at 500 extensions", polls, "us")
    if found.bursts:
        per_s = {NAMES[who]: run.per_s for who, run in found.bursts.items()}
        drawn["events"] = svg.bars("Events a second to webhook, MQTT and stdout, burst of 5,000", per_s, "/s")
    if found.memory:
        title = "Resident memory, 2,000 extensions, 100 events a second"
        drawn["memory"] = svg.line(title, found.memory.mib, found.memory.seconds, "MiB")
    return drawn
