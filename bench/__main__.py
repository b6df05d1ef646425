"""The whole bench, and RESULTS.md from it.

    python -m bench [--full] [--again] [--sizing]

--full: all peers with Node-RED, all scales, half an hour; else three minutes. --again: write RESULTS.md once more
from what the last run found (`bench/.cache/found.msgpack`). --sizing: renew the table in docs/operating.md as well.
"""

import argparse
import sys
from pathlib import Path

import msgspec

from bench import results
from bench.child import BenchFailed
from bench.suite import FULL, QUICK, Found, run
from bench.world import gently

KEPT = Path(__file__).parent / ".cache" / "found.msgpack"


def main(*, full: bool, again: bool, sizing: bool) -> None:
    if not again:
        found = run(FULL if full else QUICK)
        KEPT.parent.mkdir(exist_ok=True)
        KEPT.write_bytes(msgspec.msgpack.encode(found))
    elif not KEPT.exists():
        raise BenchFailed("nothing was measured yet")
    found = msgspec.msgpack.decode(KEPT.read_bytes(), type=Found)
    results.write(found)
    if sizing:
        results.size(found)
    print("written: bench/RESULTS.md")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", action="store_true")
    parser.add_argument("--again", action="store_true")
    parser.add_argument("--sizing", action="store_true")
    options = parser.parse_args()
    gently()
    try:
        main(full=options.full, again=options.again, sizing=options.sizing)
    except (BenchFailed, KeyboardInterrupt) as failed:
        sys.exit(f"bench: {str(failed) or 'stopped'}")
