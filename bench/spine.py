"""What the service costs where nothing is going on, and how fast a change comes out.

    python -m bench.spine [--calls N]

One extension, polled every 100 ms against the fake platform. Prints the time from the start to /healthz, resident
memory when idle, and the delay from the response that first shows a change to its line on standard output.
"""

import argparse
import asyncio
import statistics
import tempfile
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from callcast.simulator import Credential, Platform
from callcast.simulator.scenarios.seed import EXTENSION_ID, Recording, answers
from tests.ports import free_port
from tests.system.world import Service, until

CONFIG = """\
[service]
data_dir = "{data}"
http_listen = "127.0.0.1:{port}"
log_level = "warning"
[sources.acme]
server = "{server}"
client_id = "{credential.client_id}"
client_secret = "{credential.client_secret}"
jwt = "{credential.jwt}"
extensions = ["{extension}"]
poll_interval_s = 0.1
heavy_per_minute = 10000
[sinks.lines]
type = "stdout"
"""


class Calls:
    """The recorded direct call over and over, each time with ids and times of its own."""

    def __init__(self) -> None:
        self.number = 0
        self.step = -1
        self.served_at = 0.0
        self.scenario = Recording(lambda *_: 0, lambda _: None)
        self.scenario.active = self._active  # type: ignore[method-assign]

    def _active(self, _extension: str | None, _now: datetime) -> list[dict[str, Any]]:
        if self.step < 0:
            return []
        if not self.served_at:
            self.served_at = time.perf_counter()
        return [_renamed(answers()[self.step][0], self.number)]

    def show(self, number: int, step: int) -> None:
        self.number, self.step, self.served_at = number, step, 0.0


def _renamed(record: dict[str, Any], number: int) -> dict[str, Any]:
    start = datetime(2021, 1, 19, tzinfo=UTC) + timedelta(seconds=30 * number)
    times = {"startTime": start.isoformat(timespec="milliseconds").replace("+00:00", "Z")}
    ids = {"id": f"r{number}", "telephonySessionId": f"s-{number}"}
    legs = [leg | times | {"telephonySessionId": f"s-{number}"} for leg in record["legs"]]
    return record | times | ids | {"legs": legs}


async def measure(folder: Path, calls_wanted: int) -> None:
    calls, credential, port = Calls(), Credential(), free_port()
    async with Platform(calls.scenario).serve() as server:
        config = folder / "callcast.toml"
        config.write_text(
            CONFIG.format(data=folder / "data", port=port, server=server, credential=credential, extension=EXTENSION_ID)
        )
        service = Service(config, f"http://127.0.0.1:{port}")
        begun = time.perf_counter()
        await service.start()
        await service.ready()
        print(f"start to /healthz      {time.perf_counter() - begun:6.2f} s")
        try:
            await asyncio.sleep(3)
            print(f"resident memory, idle  {_resident_mib(service.pid):6.1f} MiB")
            delays = [await _delay_ms(service, calls, n, step) for n in range(calls_wanted) for step in range(3)]
        finally:
            await service.stop()
    delays.sort()
    print(
        f"response to stdout     {statistics.median(delays):6.1f} ms median, {delays[int(len(delays) * 0.95)]:.1f} p95"
    )
    print(f"                       over {len(delays)} changes")


async def _delay_ms(service: Service, calls: Calls, number: int, step: int) -> float:
    expected = len(service.lines) + 1
    calls.show(number, step)
    await until(lambda: len(service.lines) >= expected, "the event")
    return 1000 * (service.arrived_at - calls.served_at)


def _resident_mib(pid: int) -> float:
    status = Path(f"/proc/{pid}/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS")) / 1024


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=50)
    with tempfile.TemporaryDirectory() as temporary:
        asyncio.run(measure(Path(temporary), parser.parse_args().calls))
