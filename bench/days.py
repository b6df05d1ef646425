"""Whole days of polling in turned time: was anything refused, how much of the budget was used, how old polls became.

    python -m bench.days [--hours N] [--only WORDS]

The real sources (client, budget, poller, recorder) against a remote side that counts as RingCentral does. The last row
takes some minutes.
"""

import argparse
import time
from collections.abc import Mapping
from random import Random

from callcast.ringcentral.settings import SourceSettings, plan
from tests.system.simulated_days.platform import ModelSession
from tests.system.simulated_days.simulated_time_loop import LoopClock, run
from tests.system.simulated_days.sources import source
from tests.system.simulated_days.test_days import HOUR_S, many, oldest_s, watched

CASES: Mapping[str, Mapping[str, SourceSettings]] = {
    "1 extension": {"acme": source("acme", "101")},
    "12 extensions": {"acme": source("acme", *(str(101 + n) for n in range(12)))},
    "500 by account": {"acme": source("acme")},
    "500 over 50 credentials": many(),
}


def measure(wanted: Mapping[str, SourceSettings], hours: float) -> str:
    begun = time.perf_counter()
    _, session = run(watched(wanted, hours, ModelSession(LoopClock(), Random(11))))
    plans = [plan(name, settings) for name, settings in wanted.items()]
    allowed = sum(one.requests_per_minute for one in plans) * 60 * hours
    used = sum(map(len, session.polls.values())) / allowed
    oldest = max(oldest_s(polls, hours * HOUR_S) for polls in session.polls.values())
    took_s = time.perf_counter() - begun
    return f"{len(session.refused())} | {used:.1%} | {plans[0].cycle_s:.1f} s | {oldest:.1f} s | {took_s:.0f} s"


def main(hours: float, only: str) -> None:
    print("| watched | refused | share used | cycle planned | oldest poll | ran for |")
    print("|---|---|---|---|---|---|")
    for name, wanted in CASES.items():
        if only in name:
            print(f"| {name} | {measure(wanted, hours)} |", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hours", type=float, default=24, help="of turned time (24)")
    parser.add_argument("--only", default="", metavar="WORDS", help="the rows whose name holds them")
    options = parser.parse_args()
    main(options.hours, options.only)
