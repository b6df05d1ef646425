"""One run: platform, remote sides, broker and one participant, each a process of its own, ended when the run is
over.
"""

import math
import os
import resource
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from bench import checker, usage
from bench.broker import Broker
from bench.child import BenchFailed, Child, die_with_parent, end
from bench.participants import SinkContext, command
from bench.records import extension_id
from tests.ports import free_port

FILES = 20_000
READY_S = 60.0
SETTLED_S = 60.0
WAYS = ("webhook", "mqtt", "stdout")


class World:
    """`targets` 0: the account as a whole. `interval_s` 0: no pause between polls."""

    def __init__(self, name: str, stack: ExitStack, folder: Path, targets: int, interval_s: float) -> None:
        self.name = name
        self.folder = folder
        self.platform = Child("bench.platform", "--targets", str(targets))
        stack.callback(self.platform.close)
        broker = Broker(folder)
        stack.callback(broker.close)
        out, self._into = os.pipe()
        stack.callback(os.close, self._into)
        self.receivers = Child("bench.receivers", "--mqtt", str(broker.port), "--pipe", str(out), pass_fds=(out,))
        os.close(out)
        stack.callback(self.receivers.close)
        self.context = SinkContext(
            folder=folder,
            platform=self.platform.hello["port"],
            hook=self.receivers.hello["port"],
            mqtt=broker.port,
            http=free_port(),
            extensions=tuple(extension_id(number) for number in range(targets)),
            interval_s=interval_s,
        )
        self._late_s = 1.5 * interval_s or 3600.0

    # The participant

    def spawn(self) -> None:
        run = command(self.name, self.context)
        self._log = (self.folder / "log").open("ab")
        self._process = subprocess.Popen(
            run.arguments,
            env=run.environment,
            stdin=subprocess.DEVNULL,
            stdout=self._into,
            stderr=self._log,
            start_new_session=True,
            preexec_fn=die_with_parent,
        )

    def start(self) -> float:
        """Until it has polled every target once; returns the seconds until its first poll."""
        began = time.monotonic()
        self.spawn()
        self.until(lambda: self.mark()["polls"] > 0, READY_S, "a first poll")
        took_s = time.monotonic() - began
        self.until(lambda: self.platform.ask("least") > 0, READY_S, "a poll of every target")
        return took_s

    def more_sinks(self, tables: str) -> None:
        """Beside callcast's own three, from its start on."""
        self.context = replace(self.context, more_sinks=tables)

    def have_room(self) -> None:
        """An outbox above its cap drops the oldest events, which is not what is measured."""
        self.context = replace(self.context, outbox_max_mb=100_000)

    @property
    def pid(self) -> int:
        return self._process.pid

    def cpu_s(self) -> float:
        return usage.cpu_s(self.pid)

    def stop(self) -> None:
        if getattr(self, "_process", None) is not None:
            end(self._process, gently_s=15.0)
            self._log.close()

    def alive(self) -> None:
        if self._process.poll() is not None:
            lines = (self.folder / "log").read_text(errors="replace").strip().splitlines()
            raise BenchFailed(f"{self.name} has ended: {lines[-1] if lines else f'code {self._process.returncode}'}")

    def until(self, reached: Callable[[], bool], within_s: float, what: str, *, pause_s: float = 0.05) -> None:
        deadline = time.monotonic() + within_s
        while not reached():
            self.alive()
            if time.monotonic() > deadline:
                raise BenchFailed(f"{self.name}: {what} did not come within {within_s:.0f} s")
            time.sleep(pause_s)

    def wait(self, seconds: float) -> None:
        time.sleep(seconds)
        self.alive()

    # The remote sides

    def mark(self) -> dict[str, float]:
        return dict(self.platform.ask("mark", late_s=self._late_s))

    def counts(self) -> dict[str, int]:
        return dict(self.receivers.ask("count"))

    def settled(self, *, within_s: float = SETTLED_S, ways: tuple[str, ...] = WAYS) -> bool:
        """Wait until as many changes came by each way as were shown, or nothing has come for some seconds."""
        deadline, before, quiet_since = time.monotonic() + within_s, -1, time.monotonic()
        while time.monotonic() < deadline:
            self.alive()
            counts, shown = self.counts(), self.platform.ask("shown")
            if shown["unshown"] == 0 and all(counts[way] >= shown["shown"] for way in ways):
                return True
            if (now := sum(counts.values()) + shown["shown"]) != before:
                before, quiet_since = now, time.monotonic()
            if time.monotonic() - quiet_since > 8:
                return False
            time.sleep(0.1)
        return False

    def check(self, since: float = 0.0, until: float = math.inf) -> dict[str, checker.Checked]:
        """By way; of the changes made in that time."""
        self.platform.ask("save", path=str(self.folder / "truth"))
        truth = checker.read_truth(self.folder / "truth")
        arrivals = self.arrivals()
        return {way: checker.check(truth, arrivals[way], since=since, until=until) for way in WAYS}

    def arrivals(self) -> dict[str, list[tuple[float, int]]]:
        self.receivers.ask("save", path=str(self.folder))
        return {way: checker.read_arrivals(self.folder / way) for way in WAYS}


@contextmanager
def world(name: str, *, targets: int, interval_s: float = 1.0) -> Iterator[World]:
    with ExitStack() as stack:
        context = stack.enter_context(tempfile.TemporaryDirectory(prefix="callcast-bench-"))
        there = World(name, stack, Path(context), targets, interval_s)
        stack.callback(there.stop)
        yield there


def gently() -> None:
    """SIGTERM ends the bench as ^C does, with every process that it started; and files enough for a burst."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(most, FILES), most))

    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    for one in (signal.SIGTERM, signal.SIGINT):
        signal.signal(one, stop)
