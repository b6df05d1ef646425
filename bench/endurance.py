"""callcast alone: minutes under load, one request that hangs, how long the loop is held, where its time goes.

python -m bench.endurance [--what memory,hang,held,shares] [--seconds S] [--extensions N]
"""

import argparse
import json
import statistics
import sys
from typing import Any

from msgspec import Struct

from bench import checker, usage
from bench.child import BenchFailed
from bench.polls import EVERY_S, way_line
from bench.world import World, gently, world

SAMPLES = 60
HUNG = 1  # an extension that has no call
HUNG_S = 20.0


class Memory(Struct, frozen=True):
    """`mib`: resident, evenly over the run. `growth`: last quarter against the second, as a share."""

    extensions: int
    seconds: float
    rate_per_s: float
    mib: tuple[float, ...]
    peak_mib: float
    growth: float
    cores: float
    late: int
    checked: dict[str, checker.Checked]


class Hang(Struct, frozen=True):
    """Of the others: delays by the webhook and late polls, with one extension's requests answered after 20 s."""

    hung: bool
    delays: checker.Delays
    late: int
    gap_p99_s: float
    lost: int


class Inside(Struct, frozen=True):
    """What `inside.py` wrote."""

    callbacks: int
    longest_ms: float
    longest_cpu_ms: float
    over_20_ms: int
    worst: str
    shares: dict[str, int]


def memory(extensions: int, rate: float, seconds: float) -> Memory:
    with world("callcast", targets=extensions) as there:
        there.start()
        there.platform.ask("calls", count=int(rate * EVERY_S), every_s=EVERY_S)
        there.wait(2 * EVERY_S)
        began, cpu_s, mib = there.mark(), there.cpu_s(), []
        for _ in range(SAMPLES):
            there.wait(seconds / SAMPLES)
            mib.append(usage.resident_mib(there.pid))
        counted, cpu_s = there.mark(), there.cpu_s() - cpu_s
        peak_mib = usage.resident_mib(there.pid, peak=True)
        there.platform.ask("calls", count=0, every_s=0)
        there.settled()
        checked = there.check(since=began["at"])
    quarter = len(mib) // 4
    return Memory(
        extensions=extensions,
        seconds=seconds,
        rate_per_s=checked["webhook"].changes / seconds,
        mib=tuple(mib),
        peak_mib=peak_mib,
        growth=statistics.mean(mib[-quarter:]) / statistics.mean(mib[quarter : 2 * quarter]) - 1,
        cores=cpu_s / counted["seconds"],
        late=int(counted["late"]),
        checked=checked,
    )


def hang(extensions: int, seconds: float, *, hung: bool) -> Hang:
    with world("callcast", targets=extensions) as there:
        there.start()
        there.platform.ask("calls", count=max(1, extensions // 5), every_s=EVERY_S)
        there.platform.ask("hang", target=HUNG, seconds=HUNG_S if hung else 0)
        there.wait(2 * EVERY_S)
        began = there.mark()
        there.wait(seconds)
        counted = there.mark()
        there.platform.ask("calls", count=0, every_s=0)
        there.settled()
        found = there.check(since=began["at"])["webhook"]
    own = 1 if hung and counted["late"] else 0  # the hung one's only
    return Hang(hung, found.from_shown, int(counted["late"]) - own, counted["gap_p99_s"], found.lost)


def inside(what: str, extensions: int, seconds: float) -> Inside:
    """`what`: held or shares; with calls changing, and for the loop a burst of two for each extension as well."""
    with world(what, targets=extensions) as there:
        there.start()
        there.platform.ask("calls", count=max(1, extensions // 5), every_s=EVERY_S)
        there.wait(seconds)
        if what == "held":
            _burst(there, 2 * extensions)
        there.stop()
        measured = json.loads((there.folder / "inside.json").read_text())
    return Inside(**measured)


def _burst(there: World, count: int) -> None:
    there.platform.ask("calls", count=0, every_s=0)
    there.settled()
    there.platform.ask("burst", count=count)
    there.settled()


# In words


def memory_line(run: Memory) -> str:
    return (
        f"memory: {run.extensions} extensions, {run.rate_per_s:.0f} events/s, {run.seconds:.0f} s: "
        f"{run.mib[0]:.1f} -> {run.mib[-1]:.1f} MiB (peak {run.peak_mib:.1f}, growth {run.growth:+.1%}), "
        f"{run.cores:.2f} cores, late polls {run.late}\n          webhook  {way_line(run.checked['webhook'])}"
    )


def hang_line(run: Hang) -> str:
    word = "one hangs" if run.hung else "none hangs"
    return (
        f"{word:10}: the others' response to receipt p50 {run.delays.p50:.1f} p99 {run.delays.p99:.1f} ms, "
        f"late polls {run.late}, lost {run.lost}"
    )


def inside_line(run: Inside) -> str:
    if run.shares:
        whole = sum(run.shares.values())
        return "shares: " + ", ".join(f"{room} {count / whole:.0%}" for room, count in run.shares.items())
    return (
        f"held: longest {run.longest_ms:.1f} ms ({run.longest_cpu_ms:.1f} ms of processor), {run.over_20_ms} of "
        f"{run.callbacks} callbacks over 20 ms; longest in {run.worst}"
    )


def main(arguments: Any) -> None:
    for what in arguments.what.split(","):
        if what == "memory":
            print(memory_line(memory(arguments.extensions, 100, arguments.seconds)), flush=True)
        elif what == "hang":
            for hung in (False, True):
                print(hang_line(hang(arguments.extensions, arguments.seconds, hung=hung)), flush=True)
        else:
            print(inside_line(inside(what, arguments.extensions, arguments.seconds)), flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--what", default="memory,hang,held,shares")
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--extensions", type=int, default=500)
    gently()
    try:
        main(parser.parse_args())
    except (BenchFailed, KeyboardInterrupt) as failed:
        sys.exit(f"bench: {str(failed) or 'stopped'}")
