"""What a healthy sink feels of its neighbours' trouble: paired runs, turn about with four troubled sinks and without.

    python -m bench.neighbours [--pairs N] [--rate N] [--seconds S]

One neighbour never answers, one refuses, one takes one event a minute, one is there five seconds of ten. Prints for
each run the healthy ones' delays from the answer that shows a change to its receipt, then the pairs' ratios.
"""

import argparse
import asyncio
import statistics
import sys
import time

from bench.checker import Delays
from bench.child import BenchFailed, Child, answer, run
from bench.drain import EVERY_S
from bench.receivers import TAKEN, Posts
from bench.world import WAYS, World, gently, world

EXTENSIONS = 500
TROUBLED = ("hangs", "refuses", "minute", "flaps")
FLAP_S = 5.0
SINK = '[sinks.{name}]\ntype = "webhook"\nurl = "http://127.0.0.1:{port}/{name}"\ntimeout_s = 5\n'
_BROKEN = b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\n\r\n"
_LATER = b"HTTP/1.1 429 Too Many Requests\r\nRetry-After: 60\r\nContent-Length: 0\r\n\r\n"


class Troubled(Posts):
    taken_at = -60.0  # by the one that takes one a minute

    def answer_to(self, path: bytes, body: bytes) -> bytes | None:  # noqa: ARG002
        now = time.monotonic()
        match path:
            case b"/hangs":
                return None
            case b"/refuses":
                return _BROKEN
            case b"/flaps":
                return TAKEN if now % (2 * FLAP_S) < FLAP_S else _BROKEN
        if now - Troubled.taken_at < 60:
            return _LATER
        Troubled.taken_at = now
        return TAKEN


async def _neighbours() -> None:
    server = await asyncio.get_running_loop().create_server(Troubled, "127.0.0.1", 0, backlog=1024)
    await answer({"port": server.sockets[0].getsockname()[1]}, lambda _: None)


def healthy(rate: float, seconds: float, *, troubled: bool) -> dict[str, Delays]:
    with world("callcast", targets=EXTENSIONS) as there:
        neighbours = Child("bench.neighbours", "--serve") if troubled else None
        try:
            if neighbours is not None:
                port = neighbours.hello["port"]
                there.more_sinks("".join(SINK.format(name=name, port=port) for name in TROUBLED))
            return _measured(there, rate, seconds)
        finally:
            if neighbours is not None:
                neighbours.close()


def _measured(there: World, rate: float, seconds: float) -> dict[str, Delays]:
    there.start()
    there.platform.ask("calls", count=int(rate * EVERY_S), every_s=EVERY_S)
    there.wait(2 * EVERY_S)
    began = there.mark()
    there.wait(seconds)
    ended = there.mark()
    there.platform.ask("calls", count=0, every_s=0)
    there.wait(EVERY_S)
    return {way: one.from_shown for way, one in there.check(since=began["at"], until=ended["at"]).items()}


def main(pairs: int, rate: float, seconds: float) -> None:
    ratios: dict[tuple[str, str], list[float]] = {}
    for number in range(pairs):
        order = (False, True) if number % 2 else (True, False)
        found = {troubled: healthy(rate, seconds, troubled=troubled) for troubled in order}
        for way in WAYS:
            alone, beside = found[False][way], found[True][way]
            print(
                f"pair {number + 1} {way:8} alone p50 {alone.p50:6.1f} p99 {alone.p99:7.1f} ms,"
                f" beside the four p50 {beside.p50:6.1f} p99 {beside.p99:7.1f} ms",
                flush=True,
            )
            ratios.setdefault((way, "p50"), []).append(beside.p50 / alone.p50)
            ratios.setdefault((way, "p99"), []).append(beside.p99 / alone.p99)
    for (way, which), some in ratios.items():
        print(f"{way:8} {which}: beside / alone, median of {pairs} pairs: {statistics.median(some):.2f}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--rate", type=float, default=50, help="changes a second, over 500 extensions")
    parser.add_argument("--seconds", type=float, default=15)
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        run(_neighbours())
    else:
        gently()
        try:
            main(options.pairs, options.rate, options.seconds)
        except BenchFailed as error:
            sys.exit(f"bench.neighbours: {error}")
