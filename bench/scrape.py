"""What a scrape of /metrics costs with 500 extensions, each of them with a call.

    python -m bench.scrape [--extensions N] [--scrapes N]

Prints how many series there are, how large the page is, and the processor time that it takes to write it.
"""

import argparse
import statistics
import time

from callcast.calls.model import ChangeSet
from callcast.live.live_calls import InMemoryLiveCalls
from callcast.observability.metrics import Metrics
from tests.integration.web.http_side import RealClock, ringing


def lively(extensions: int) -> Metrics:
    clock = RealClock()
    live_calls = InMemoryLiveCalls(clock)
    metrics = Metrics(live_calls, clock, "0")
    metrics.watch_source("acme")
    for sink in ("crm", "lines", "wallboard"):
        metrics.watch_sink(sink)
    ids = [str(1000 + number) for number in range(extensions)]
    live_calls.watch("acme", ids, 6.0)
    live_calls.apply(ChangeSet(calls=tuple(ringing(one, f"s-{one}") for one in ids), events=()))
    return metrics


def main(extensions: int, scrapes: int) -> None:
    metrics, took_ms = lively(extensions), []
    for _ in range(scrapes):
        begun = time.process_time()
        page = metrics.exposition()
        took_ms.append(1000 * (time.process_time() - begun))
    series = sum(1 for line in page.splitlines() if not line.startswith(b"#"))
    print(
        f"{extensions} extensions: {series} series, {len(page) / 1024:.0f} KiB; "
        f"{statistics.median(took_ms):.1f} ms of processor a scrape, {max(took_ms):.1f} at most"
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--extensions", type=int, default=500)
    parser.add_argument("--scrapes", type=int, default=100)
    options = parser.parse_args()
    main(options.extensions, options.scrapes)
