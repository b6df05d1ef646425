"""What came against what was: lost, doubled, out of order, invented, and how long each change took."""

import math
from array import array
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from msgspec import Struct

from bench.records import STEPS


class Delays(Struct, frozen=True):
    """Milliseconds; infinite when nothing came."""

    p50: float
    p95: float
    p99: float
    longest: float


class Checked(Struct, frozen=True):
    """One way. `changes` are those that the platform has shown; a delay is to the first receipt.

    from_change: since the change was made. from_shown: since the platform sent the answer that first shows it.
    """

    changes: int
    lost: int
    doubled: int
    disordered: int
    invented: int
    from_change: Delays
    from_shown: Delays
    first_at: float  # when the first of them was shown
    last_at: float  # when the last of them came

    @property
    def per_s(self) -> float:
        return (self.changes - self.lost) / max(1e-3, self.last_at - self.first_at)


Truth = dict[int, tuple[float, float]]  # by key: when it changed, and when it was first shown (0: never)


def read_truth(path: Path) -> Truth:
    flat = _read(path)
    return {int(flat[at]): (flat[at + 1], flat[at + 2]) for at in range(0, len(flat), 3)}


def read_arrivals(path: Path) -> list[tuple[float, int]]:
    with path.open("rb") as file:
        count, times, keys = array("q"), array("d"), array("q")
        count.fromfile(file, 1)
        times.fromfile(file, count[0])
        keys.fromfile(file, count[0])
    return list(zip(times, keys, strict=True))


def check(truth: Truth, arrivals: list[tuple[float, int]], *, since: float = 0.0, until: float = math.inf) -> Checked:
    """Of the changes made in that time."""
    shown = {key: when for key, when in truth.items() if since <= when[0] < until and when[1]}
    first: dict[int, float] = {}
    for at, key in arrivals:
        first.setdefault(key, at)
    times = Counter(key for _, key in arrivals)
    came = [(key, at) for key, at in first.items() if key in shown]
    return Checked(
        changes=len(shown),
        lost=len(shown) - len(came),
        doubled=sum(times[key] - 1 for key in shown if times[key] > 1),
        disordered=_disordered(key for key, _ in came),
        invented=sum(key not in truth or not truth[key][1] for key in times),
        from_change=delays([at - shown[key][0] for key, at in came]),
        from_shown=delays([at - shown[key][1] for key, at in came]),
        first_at=min((shown_at for _, shown_at in shown.values()), default=0.0),
        last_at=max((at for _, at in came), default=0.0),
    )


def delays(seconds: list[float]) -> Delays:
    seconds = sorted(seconds) or [math.inf]
    share = [seconds[min(len(seconds) - 1, int(len(seconds) * part))] for part in (0.5, 0.95, 0.99, 1.0)]
    return Delays(*(1000 * one for one in share))


def _disordered(keys: Iterable[int]) -> int:
    """Events that came after a later one of the same call."""
    latest: dict[int, int] = {}
    count = 0
    for key in keys:
        call, step = divmod(key, STEPS)
        count += step < latest.get(call, -1)
        latest[call] = max(step, latest.get(call, -1))
    return count


def _read(path: Path) -> "array[float]":
    flat = array("d")
    with path.open("rb") as file:
        flat.fromfile(file, path.stat().st_size // flat.itemsize)
    return flat
