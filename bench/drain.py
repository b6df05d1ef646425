"""How fast events leave: a steady rate, a burst, a backlog, to webhook, MQTT and standard output at once.

    python -m bench.drain [--what sustained,burst,backlog] [--extensions N] [--rate N] [--seconds S] [--events N]
                          [--stored N] [WHO ...]

sustained: --rate changes a second, spread over all extensions, for --seconds; nothing may be pending at the end.
burst:     --events changes in one moment, three times over (each call rings, is answered, ends).
backlog:   callcast only: started with --events that are pending for all three sinks.
--stored: callcast's outbox holds so many delivered events before it starts. WHO as for `bench.polls`.
"""

import argparse
import math
import statistics
import sys
import time
from typing import Any

from msgspec import Struct

from bench import checker, stored, usage
from bench.child import BenchFailed
from bench.participants import participant
from bench.polls import way_line
from bench.world import WAYS, World, gently, world

EXTENSIONS = 100  # few, so that events are weighed and not the polls beside them
EVERY_S = 2.0  # a call's next step: twice as long as until the next poll
BURSTS = 3
DRAINED_S = 45.0


class Sustained(Struct, frozen=True):
    """`pending`: for all three, when the rate ended. `cpu_us`: of the participant for each event, polls included."""

    who: str
    offered_per_s: float
    taken_per_s: float
    pending: int
    cpu_us: float
    cores: float
    rss_mib: float
    peak_mib: float
    late: int
    checked: dict[str, checker.Checked]


class Burst(Struct, frozen=True):
    """Medians of three bursts, or of as many as were over in time.

    seconds: from the change until all had come; per_s: from the first answer that shows one; both of the slowest way.
    """

    who: str
    events: int
    seconds: float
    per_s: float
    per_s_by_way: dict[str, float]
    cpu_us: float
    peak_mib: float
    lost: int
    disordered: int


class Backlog(Struct, frozen=True):
    """`start_s`: until the first receipt; `seconds`: from there until all had come by all ways."""

    events: int
    start_s: float
    seconds: float
    per_s: float
    cpu_us: float
    peak_mib: float
    lost: int


def sustained(who: str, rate: float, seconds: float, *, held: int = 0, extensions: int = EXTENSIONS) -> Sustained:
    with world(who, targets=extensions) as there:
        _prepare(there, held)
        there.start()
        there.platform.ask("calls", count=int(rate * EVERY_S), every_s=EVERY_S)
        there.wait(2 * EVERY_S)
        began, before, cpu_s = there.mark(), there.counts(), there.cpu_s()
        there.wait(seconds)
        counted, now, cpu_s = there.mark(), there.counts(), there.cpu_s() - cpu_s
        shown = there.platform.ask("shown")["shown"]
        taken = min(now[way] - before[way] for way in WAYS)
        rss_mib, peak_mib = usage.resident_mib(there.pid), usage.resident_mib(there.pid, peak=True)
        there.platform.ask("calls", count=0, every_s=0)
        there.settled(within_s=DRAINED_S)
        checked = there.check(since=began["at"])
    return Sustained(
        who=who,
        offered_per_s=rate,
        taken_per_s=taken / counted["seconds"],
        pending=max(0, shown - min(now[way] for way in WAYS)),
        cpu_us=1e6 * cpu_s / max(1, taken),
        cores=cpu_s / counted["seconds"],
        rss_mib=rss_mib,
        peak_mib=peak_mib,
        late=int(counted["late"]),
        checked=checked,
    )


def burst(who: str, events: int, *, held: int = 0, extensions: int = EXTENSIONS) -> Burst:
    with world(who, targets=extensions) as there:
        _prepare(there, held)
        there.start()
        there.wait(2)
        cpu_s, begun = there.cpu_s(), []
        for _ in range(BURSTS):
            begun.append(float(there.platform.ask("burst", count=events)))
            if not there.settled(within_s=DRAINED_S):
                break
        cpu_s, peak_mib = there.cpu_s() - cpu_s, usage.resident_mib(there.pid, peak=True)
        runs = [there.check(*bounds) for bounds in zip(begun, [*begun[1:], math.inf], strict=True)]
    every = [one for run in runs for one in run.values()]
    return Burst(
        who=who,
        events=events,
        seconds=statistics.median(_all_there_s(run) for run in runs),
        per_s=statistics.median(min(one.per_s for one in run.values()) for run in runs),
        per_s_by_way={way: statistics.median(run[way].per_s for run in runs) for way in WAYS},
        cpu_us=1e6 * cpu_s / (len(runs) * events),
        peak_mib=peak_mib,
        lost=sum(one.lost for one in every),
        disordered=sum(one.disordered for one in every),
    )


def _all_there_s(run: dict[str, checker.Checked]) -> float:
    """From the change on; infinite when something never came."""
    if any(one.lost for one in run.values()):
        return math.inf
    return max(one.from_change.longest for one in run.values()) / 1000


def backlog(events: int) -> Backlog:
    """What an outage of all three left, from the start of the service on."""
    with world("callcast", targets=1) as there:
        stored.owe(there.context.folder / "data", events)
        began = time.monotonic()
        there.start()
        there.until(lambda: min(there.counts()[way] for way in WAYS) >= events, DRAINED_S, "the backlog", pause_s=0.2)
        cpu_s, peak_mib = there.cpu_s(), usage.resident_mib(there.pid, peak=True)
        arrivals = there.arrivals()
    wanted = set(stored.keys(events))
    times = [at for way in WAYS for at, key in arrivals[way] if key in wanted]
    return Backlog(
        events=events,
        start_s=min(times) - began,
        seconds=max(times) - min(times),
        per_s=events / (max(times) - min(times)),
        cpu_us=1e6 * cpu_s / events,
        peak_mib=peak_mib,
        lost=sum(len(wanted - {key for _, key in arrivals[way]}) for way in WAYS),
    )


def _prepare(there: World, held: int) -> None:
    if held and there.name == "callcast":
        there.have_room()
        stored.hold(there.context.folder / "data", held)


# In words


def sustained_line(run: Sustained) -> str:
    text = (
        f"{run.who:9} sustained {run.taken_per_s:7.1f} of {run.offered_per_s:.0f} events/s, pending {run.pending}, "
        f"{run.cpu_us:6.0f} us an event, {run.cores:.2f} cores, RSS {run.rss_mib:.1f} MiB (peak {run.peak_mib:.1f}), "
        f"late polls {run.late}"
    )
    return text + "".join(f"\n          {way:8} {way_line(one)}" for way, one in run.checked.items())


def burst_line(run: Burst) -> str:
    ways = ", ".join(f"{way} {per_s:.0f}" for way, per_s in run.per_s_by_way.items())
    return (
        f"{run.who:9} burst of {run.events}: all there after {run.seconds:.2f} s; {run.per_s:.0f} events/s ({ways}), "
        f"{run.cpu_us:.0f} us an event, peak {run.peak_mib:.1f} MiB, lost {run.lost}, out of order {run.disordered}"
    )


def backlog_line(run: Backlog) -> str:
    return (
        f"callcast  backlog of {run.events}: first after {run.start_s:.2f} s, all {run.seconds:.2f} s later, "
        f"{run.per_s:.0f} events/s, {run.cpu_us:.0f} us an event, peak {run.peak_mib:.1f} MiB, lost {run.lost}"
    )


def main(arguments: Any) -> None:
    for what in arguments.what.split(","):
        for _ in range(arguments.repeats):
            for who in arguments.who if what != "backlog" else ["callcast"]:
                print(_run(what, who, arguments), flush=True)


def _run(what: str, who: str, arguments: Any) -> str:
    how = {"held": arguments.stored, "extensions": arguments.extensions}
    if what == "sustained":
        return sustained_line(sustained(who, arguments.rate, arguments.seconds, **how))
    if what == "burst":
        return burst_line(burst(who, arguments.events, **how))
    if what == "backlog":
        return backlog_line(backlog(arguments.events))
    raise BenchFailed(f"no measurement is called {what}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("who", nargs="*", type=participant, default=["callcast"], metavar="WHO")
    parser.add_argument("--what", default="sustained,burst,backlog")
    parser.add_argument("--extensions", type=int, default=EXTENSIONS)
    parser.add_argument("--rate", type=float, default=1000)
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--events", type=int, default=5000)
    parser.add_argument("--stored", type=int, default=0)
    parser.add_argument("--repeats", type=int, default=1)
    gently()
    try:
        main(parser.parse_args())
    except (BenchFailed, KeyboardInterrupt) as failed:
        sys.exit(f"bench: {str(failed) or 'stopped'}")
