"""Everything that RESULTS.md shows, in one go: the short suite, and the whole one."""

import os
import platform
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

from msgspec import Struct, field

from bench import endurance, micro, start
from bench.child import BenchFailed
from bench.drain import Backlog, Burst, Sustained, backlog, backlog_line, burst, burst_line, sustained, sustained_line
from bench.endurance import Hang, Inside, Memory
from bench.micro import Micro
from bench.polls import PollRun, Scale, turn_about
from bench.start import Start

_T = TypeVar("_T")
Runs = dict[str, list[PollRun]]
LEAST_STORED = 2000
CROWD = 500
STORED_AT = 50  # extensions
ACCOUNT_EVERY_S = 10.0  # an account's calls change less often than single ones


class Suite(Struct, frozen=True):
    """How much of everything. `peers`: beside callcast; `tuned`: beside it where only the yardstick is wanted."""

    name: str
    peers: tuple[str, ...]
    tuned: tuple[str, ...] = ("c",)
    repeats: int = 1
    seconds: float = 3.0
    scales: tuple[int, ...] = (1, 2000)
    accounts: tuple[int, ...] = ()
    sustained_s: float = 8.0
    sustained_by: tuple[str, ...] = ("callcast",)
    crowded_s: float = 0.0
    burst_by: tuple[str, ...] = ("callcast", "c")
    backlog: int = 10_000
    stored: int = 0
    hang_s: float = 0.0
    memory_s: float = 0.0
    starts: int = 1


QUICK = Suite("make bench", peers=("a", "c", "d"), tuned=(), seconds=2.0, scales=(2000,), sustained_s=5.0)
FULL = Suite(
    "make bench-full",
    peers=("a", "b", "c", "d"),
    repeats=3,
    seconds=6.0,
    scales=(1, 50, 2000),
    accounts=(100, 1000),
    sustained_s=60.0,
    sustained_by=("callcast", "b", "c"),
    crowded_s=20.0,
    burst_by=("callcast", "a", "b", "c"),
    stored=1_000_000,
    hang_s=22.0,
    memory_s=600.0,
    starts=3,
)


class Found(Struct):
    """What was measured; what failed is missing here and named in `failures`."""

    suite: str
    began: str
    machine: str
    took_s: float = 0.0
    failures: list[str] = field(default_factory=list)
    start: Start | None = None
    micro: Micro | None = None
    idle: Runs = field(default_factory=dict)
    changing: Runs = field(default_factory=dict)
    full: Runs = field(default_factory=dict)
    scales: dict[int, Runs] = field(default_factory=dict)
    accounts: dict[int, Runs] = field(default_factory=dict)
    bursts: dict[str, Burst] = field(default_factory=dict)
    sustained: dict[str, Sustained] = field(default_factory=dict)
    crowded: Sustained | None = None  # the same at CROWD extensions
    backlog: Backlog | None = None
    stored: dict[int, Sustained] = field(default_factory=dict)
    hang: list[Hang] = field(default_factory=list)
    held: Inside | None = None
    shares: Inside | None = None
    memory: Memory | None = None


def run(suite: Suite) -> Found:
    found, began = Found(suite.name, datetime.now(UTC).isoformat(timespec="seconds"), machine()), time.monotonic()
    _alone(suite, found)
    _polls(suite, found)
    _drains(suite, found)
    _endures(suite, found)
    found.took_s = time.monotonic() - began
    return found


def _try(found: Found, what: str, work: Callable[[], _T]) -> _T | None:
    """A measurement that fails does not end the others."""
    print(f"-- {what}", flush=True)
    try:
        return work()
    except Exception as failed:  # noqa: BLE001 (any failure: the other figures took half an hour)
        found.failures.append(f"{what}: {failed if isinstance(failed, BenchFailed) else repr(failed)}")
        print(f"   failed: {failed}", flush=True)
        return None


def _printed(measured: _T, line: Callable[[_T], str]) -> _T:
    print(line(measured), flush=True)
    return measured


def _alone(suite: Suite, found: Found) -> None:
    found.micro = _try(found, "micro-limits", micro.measure)
    found.start = _try(found, "start", lambda: start.measure(suite.starts))


def _polls(suite: Suite, found: Found) -> None:
    def about(what: str, who: tuple[str, ...], repeats: int, **scale: Any) -> Runs:
        chosen = Scale(seconds=suite.seconds, **scale)
        return _try(found, what, lambda: turn_about(["callcast", *who], chosen, repeats, failed=found.failures)) or {}

    others = tuple(one for one in suite.peers if one != "d")
    found.idle = about("500 extensions, nothing changing", suite.peers, suite.repeats)
    found.changing = about("500 extensions, calls changing", others, suite.repeats, changing=True)
    found.full = about("500 extensions, no pause", suite.peers, min(2, suite.repeats), interval_s=0.0)
    for extensions in suite.scales:
        found.scales[extensions] = about(
            f"{extensions} extensions, calls changing", suite.tuned, 1, extensions=extensions, changing=True
        )
    for calls in suite.accounts:
        scale = {"extensions": 0, "calls": calls, "changing": True, "every_s": ACCOUNT_EVERY_S}
        found.accounts[calls] = about(f"the account, {calls} records", suite.tuned, 1, **scale)


def _drains(suite: Suite, found: Found) -> None:
    for who in suite.burst_by:
        measured = _try(found, f"burst of 5,000, {who}", lambda who=who: _printed(burst(who, 5000), burst_line))
        if measured is not None:
            found.bursts[who] = measured
    for who in suite.sustained_by:
        seconds = suite.sustained_s if who == "callcast" else min(suite.sustained_s, 20.0)
        steady = _try(
            found, f"1,000 events/s, {who}", lambda w=who, s=seconds: _printed(sustained(w, 1000, s), sustained_line)
        )
        if steady is not None:
            found.sustained[who] = steady
    if suite.crowded_s:
        found.crowded = _try(
            found,
            f"1,000 events/s at {CROWD} extensions",
            lambda: _printed(sustained("callcast", 1000, suite.crowded_s, extensions=CROWD), sustained_line),
        )
    found.backlog = _try(found, "backlog", lambda: _printed(backlog(suite.backlog), backlog_line))
    for held in (LEAST_STORED, suite.stored) if suite.stored else ():
        beside = _try(
            found,
            f"beside {held} stored",
            lambda h=held: _printed(sustained("callcast", 200, 15, held=h, extensions=STORED_AT), sustained_line),
        )
        if beside is not None:
            found.stored[held] = beside


def _endures(suite: Suite, found: Found) -> None:
    found.held = _try(
        found, "how long the loop is held", lambda: _printed(endurance.inside("held", 500, 6), endurance.inside_line)
    )
    found.shares = _try(
        found, "where the time goes", lambda: _printed(endurance.inside("shares", 500, 6), endurance.inside_line)
    )
    for hung in (False, True) if suite.hang_s else ():
        measured = _try(
            found,
            f"{'one hangs' if hung else 'none hangs'}",
            lambda h=hung: _printed(endurance.hang(500, suite.hang_s, hung=h), endurance.hang_line),
        )
        if measured is not None:
            found.hang.append(measured)
    if suite.memory_s:
        found.memory = _try(
            found,
            "2,000 extensions, 100 events/s",
            lambda: _printed(endurance.memory(2000, 100, suite.memory_s), endurance.memory_line),
        )


def machine() -> str:
    """A description that does not identify the machine."""
    cores = len(os.sched_getaffinity(0))
    cpu = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        platform.machine(),
    )
    memory_gib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    kernel = platform.release().partition("-")[0]
    python = ".".join(map(str, sys.version_info[:3]))
    return f"{cores} cores ({cpu}), {memory_gib:.0f} GiB, Linux {kernel}, Python {python}"
