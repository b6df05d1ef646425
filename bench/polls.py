"""What a poll costs: callcast beside its peers, turn about, in processor time and memory.

    python -m bench.polls [--extensions N] [--seconds S] [--changing 0|1] [--repeats N] [WHO ...]

WHO: callcast, a (everyday script), b (Node-RED), c (tuned asyncio), d (raw sockets); default: callcast c d.
Every extension is polled once a second, or with --full as often as the participant can; --extensions 0 polls
the account as a whole (--calls in its list). With --changing 1 every fifth extension has a call that changes every
three seconds. Prints a line for each run, then the medians.
"""

import argparse
import statistics
import sys
from collections.abc import Iterator
from typing import Any

from msgspec import Struct

from bench import checker, usage
from bench.child import BenchFailed
from bench.participants import participant
from bench.world import World, gently, world

EVERY_S = 3.0  # a call's next step
WARM_S = 2.0


class Scale(Struct, frozen=True):
    """`extensions` 0: the account, with `calls` in its list. `interval_s` 0: as often as it can."""

    extensions: int = 500
    changing: bool = False
    calls: int = 0
    interval_s: float = 1.0
    seconds: float = 20.0
    every_s: float = EVERY_S

    @property
    def live(self) -> int:
        return self.calls or max(1, self.extensions // 5)


class PollRun(Struct, frozen=True):
    """One run. `cpu_us`: of the participant, for each poll; `cores`: how much of a core it used."""

    who: str
    polls: int
    seconds: float
    cpu_us: float
    user_share: float
    cores: float
    platform_cores: float
    rss_mib: float
    peak_mib: float
    ready_s: float
    late: int
    gap_p99_s: float
    checked: dict[str, checker.Checked]

    @property
    def per_s(self) -> float:
        return self.polls / self.seconds


def measure(who: str, scale: Scale) -> PollRun:
    with world(who, targets=scale.extensions, interval_s=scale.interval_s) as there:
        return _measure(there, scale)


def _measure(there: World, scale: Scale) -> PollRun:
    if not scale.changing and scale.calls:
        there.platform.ask("calls", count=scale.calls, every_s=0)
    ready_s = there.start()
    if scale.changing:
        there.platform.ask("calls", count=scale.live, every_s=scale.every_s)
    there.wait(WARM_S + (scale.every_s if scale.changing else 0))
    began, cpu_s, split = there.mark(), there.cpu_s(), usage.user_and_system_s(there.pid)
    there.wait(scale.seconds)
    counted, cpu_s = there.mark(), there.cpu_s() - cpu_s
    user_s, system_s = (now - then for now, then in zip(usage.user_and_system_s(there.pid), split, strict=True))
    rss_mib, peak_mib = usage.resident_mib(there.pid), usage.resident_mib(there.pid, peak=True)
    there.platform.ask("calls", count=0, every_s=0)
    if scale.changing and there.name != "d":
        there.settled()
    return PollRun(
        who=there.name,
        polls=int(counted["polls"]),
        seconds=counted["seconds"],
        cpu_us=1e6 * cpu_s / max(1, counted["polls"]),
        user_share=user_s / max(0.01, user_s + system_s),
        cores=cpu_s / counted["seconds"],
        platform_cores=counted["cpu_s"] / counted["seconds"],
        rss_mib=rss_mib,
        peak_mib=peak_mib,
        ready_s=ready_s,
        late=int(counted["late"]),
        gap_p99_s=counted["gap_p99_s"],
        checked=there.check(since=began["at"]) if scale.changing else {},
    )


def turn_about(
    who: list[str], scale: Scale, repeats: int, *, failed: list[str] | None = None
) -> dict[str, list[PollRun]]:
    """Each repeat in another order, so that a machine that grows slower favours none of them.

    A run that fails ends all, or with `failed` is named there and left out with the rest of its round.
    """
    found: dict[str, list[PollRun]] = {one: [] for one in who}
    for repeat in range(repeats):
        try:
            for one, run in _round(who[repeat % len(who) :] + who[: repeat % len(who)], scale):
                found[one].append(run)
        except BenchFailed as trouble:
            if failed is None:
                raise
            failed.append(str(trouble))
            print(f"   failed: {trouble}", flush=True)
    return found


def _round(who: list[str], scale: Scale) -> Iterator[tuple[str, PollRun]]:
    for one in who:
        run = measure(one, scale)
        print(line(run), flush=True)
        yield one, run


def line(run: PollRun) -> str:
    text = (
        f"{run.who:9} {run.cpu_us:7.1f} us a poll ({run.user_share:3.0%} user), {run.per_s:7.1f} polls/s, "
        f"{run.cores:5.3f} cores, RSS {run.rss_mib:5.1f} MiB (peak {run.peak_mib:.1f}), late {run.late}, "
        f"platform {run.platform_cores:.2f} cores"
    )
    return text + "".join(f"\n          {way:8} {way_line(one)}" for way, one in run.checked.items() if run.who != "d")


def way_line(one: checker.Checked) -> str:
    shown, faults = one.from_shown, (one.lost, one.doubled, one.disordered, one.invented)
    return (
        f"{one.changes} changes, response to receipt p50 {shown.p50:.1f} p95 {shown.p95:.1f} p99 {shown.p99:.1f} ms; "
        "lost {}, doubled {}, out of order {}, invented {}".format(*faults)
    )


def median(runs: list[PollRun], value: str) -> float:
    return statistics.median(getattr(run, value) for run in runs)


def summary(found: dict[str, list[PollRun]]) -> str:
    first = {one: median(runs, "cpu_us") for one, runs in found.items()}
    parts = [f"{one} {us:.1f} us, {median(found[one], 'rss_mib'):.1f} MiB" for one, us in first.items()]
    if "c" in first and "callcast" in first:
        pairs = [mine.cpu_us / his.cpu_us for mine, his in zip(found["callcast"], found["c"], strict=True)]
        parts.append(f"callcast / c = {statistics.median(pairs):.2f}")
    return "median: " + "; ".join(parts)


def main(arguments: Any) -> None:
    scale = Scale(
        extensions=arguments.extensions,
        changing=bool(arguments.changing),
        calls=arguments.calls,
        interval_s=0.0 if arguments.full else 1.0,
        seconds=arguments.seconds,
    )
    print(summary(turn_about(arguments.who, scale, arguments.repeats)))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("who", nargs="*", type=participant, default=["callcast", "c", "d"], metavar="WHO")
    parser.add_argument("--extensions", type=int, default=500)
    parser.add_argument("--calls", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--changing", type=int, choices=(0, 1), default=0)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--full", action="store_true", help="no pause between polls")
    gently()
    try:
        main(parser.parse_args())
    except (BenchFailed, KeyboardInterrupt) as failed:
        sys.exit(f"bench: {str(failed) or 'stopped'}")
