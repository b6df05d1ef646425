"""How long the service takes until it can be used, and what it holds then.

python -m bench.start [--repeats N]
"""

import argparse
import os
import statistics
import subprocess
import sys
import time
import urllib.error
import urllib.request
from typing import Any

from msgspec import Struct

from bench import usage
from bench.child import BenchFailed
from bench.world import gently, world

IMPORTS = "import callcast.app, callcast.cli.run, callcast.config"
IDLE_AFTER_S = 5.0


class Start(Struct, frozen=True):
    """Seconds of the clock, medians; `import_cpu_s` of the processor. `idle_mib`: some seconds after the start."""

    import_s: float
    import_cpu_s: float
    healthy_s: float
    ready_s: float
    idle_mib: float


def importing() -> tuple[float, float]:
    began = time.monotonic()
    process = subprocess.Popen([sys.executable, "-c", IMPORTS])
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise BenchFailed("callcast cannot be imported")
    return time.monotonic() - began, used.ru_utime + used.ru_stime


def starting() -> tuple[float, float, float]:
    with world("callcast", targets=1) as there:
        began = time.monotonic()
        there.spawn()
        took = []
        for path in ("healthz", "readyz"):
            there.until(lambda path=path: _answers(there.context.http, path), 30, f"/{path}", pause_s=0.005)
            took.append(time.monotonic() - began)
        there.wait(IDLE_AFTER_S)
        return took[0], took[1], usage.resident_mib(there.pid)


def _answers(port: int, path: str) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/{path}", timeout=5) as answer:
            return bool(answer.status == 200)
    except OSError:  # not yet listening, or not yet ready
        return False


def measure(repeats: int) -> Start:
    imports = [importing() for _ in range(repeats)]
    starts = [starting() for _ in range(repeats)]
    import_s, import_cpu_s = (statistics.median(column) for column in zip(*imports, strict=True))
    healthy_s, ready_s, idle_mib = (statistics.median(column) for column in zip(*starts, strict=True))
    return Start(import_s, import_cpu_s, healthy_s, ready_s, idle_mib)


def main(arguments: Any) -> None:
    found = measure(arguments.repeats)
    print(
        f"import {found.import_s:.2f} s ({found.import_cpu_s:.2f} s of processor), start to /healthz "
        f"{found.healthy_s:.2f} s, to /readyz {found.ready_s:.2f} s, idle {found.idle_mib:.1f} MiB"
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    gently()
    try:
        main(parser.parse_args())
    except (BenchFailed, KeyboardInterrupt) as failed:
        sys.exit(f"bench: {str(failed) or 'stopped'}")
