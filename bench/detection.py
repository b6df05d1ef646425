"""How long a change stays unseen, for one credential and so many targets, at the pace that the rate limit allows.

    python -m bench.detection [--hours N] [--hints]

A clock that is turned, the budget of the service, and a model that counts as the platform does. Changes come at
random times at random targets; the delay is counted to the answer of the first poll that was sent after the
change. The platform's own lateness (3-10 s documented for the end of a call) is not in it.

With --hints: the table of `bench.hinted`, mean seconds after something happened, with that lateness.
"""

import argparse
import asyncio
import statistics
import sys
from bisect import bisect_left
from random import Random

from bench import hinted
from callcast.ringcentral.rate_limiter import RateLimiter
from tests.clock import TurnedClock
from tests.unit.ringcentral.platform_model import PlatformModel

ANSWER_S = 0.2
CHANGES_PER_HOUR = 400
TARGETS = (1, 5, 10, 13, 18)


async def measure(targets: int, hours: float) -> tuple[list[float], int]:
    """Delays in seconds, and how many requests were refused."""
    clock = TurnedClock()
    model = PlatformModel(clock)
    limiter = RateLimiter("heavy", per_minute=10, headroom=0.8, clock=clock, now=clock.now)
    polls: list[list[tuple[float, float]]] = [[] for _ in range(targets)]

    async def poll(target: int) -> None:
        while True:
            async with limiter.acquire("poll", str(target)) as turn:
                asked_at = clock.monotonic()
                await clock.sleep(ANSWER_S)
                turn.answered(*model.ask())
                polls[target].append((asked_at, clock.monotonic()))

    tasks = [asyncio.create_task(poll(target)) for target in range(targets)]
    await clock.turn(hours * 3600)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    return list(delays(polls, Random(1), hours)), len(model.refused)


def delays(polls: list[list[tuple[float, float]]], random: Random, hours: float) -> list[float]:
    found = []
    for _ in range(int(CHANGES_PER_HOUR * hours)):
        of_target = random.choice(polls)
        changed_at = random.uniform(of_target[0][0], of_target[-1][0])
        found.append(of_target[bisect_left(of_target, (changed_at, 0.0))][1] - changed_at)
    return found


async def main(hours: float) -> None:
    print("| targets | cycle | mean | 95 % within | longest | refused |")
    print("|---|---|---|---|---|---|")
    for targets in TARGETS:
        seconds, refused = await measure(targets, hours)
        mean, within = statistics.fmean(seconds), statistics.quantiles(seconds, n=20)[-1]
        cycle = targets * 60 / (10 * 0.8)
        print(f"| {targets} | {cycle:.1f} s | {mean:.1f} s | {within:.1f} s | {max(seconds):.1f} s | {refused} |")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hours", type=float, default=24, help="of simulated time (24)")
    parser.add_argument("--hints", action="store_true", help="with push and presence")
    parser.add_argument("--row", default="", help="only rows whose name contains this")
    arguments = parser.parse_args()
    if arguments.hints:
        sys.exit(hinted.print_table(arguments.hours, arguments.row))
    asyncio.run(main(arguments.hours))
