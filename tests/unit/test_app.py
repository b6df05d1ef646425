"""The machine's time as the service uses it."""

import asyncio
import time

import pytest

from callcast import app
from callcast.app import SystemClock

EIGHT_HOURS_S = 8 * 3600


class Suspended:
    """In place of `time.clock_gettime`: a machine that is suspended when the test says so."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.for_s = 0.0
        self._real = time.clock_gettime
        monkeypatch.setattr(time, "clock_gettime", self)

    def __call__(self, clock: int) -> float:
        return self._real(clock) + (self.for_s if clock == time.CLOCK_BOOTTIME else 0.0)


def test_time_passes_while_the_machine_is_suspended(monkeypatch: pytest.MonkeyPatch) -> None:
    """After eight hours of suspend it is eight hours later on both clocks that never jump."""
    machine = Suspended(monkeypatch)
    clock = SystemClock()
    now, monotonic = clock.now(), clock.monotonic()
    machine.for_s = EIGHT_HOURS_S
    assert EIGHT_HOURS_S <= (clock.now() - now).total_seconds() < EIGHT_HOURS_S + 60
    assert EIGHT_HOURS_S <= clock.monotonic() - monotonic < EIGHT_HOURS_S + 60


async def test_a_sleeper_wakes_soon_after_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was to happen in an hour happens after eight hours of suspend, and not an hour later."""
    machine = Suspended(monkeypatch)
    monkeypatch.setattr(app, "NAP_S", 0.001)
    sleeper = asyncio.create_task(SystemClock().sleep(3600))
    for _ in range(10):
        await asyncio.sleep(0.001)
    assert not sleeper.done()
    machine.for_s = EIGHT_HOURS_S
    await asyncio.wait_for(sleeper, 30)


async def test_a_sleep_is_not_shorter_than_requested() -> None:
    """Not a moment less, however short the pieces are."""
    clock = SystemClock()
    for seconds in (0.0, 0.01, 0.05):
        began_s = clock.monotonic()
        await clock.sleep(seconds)
        assert clock.monotonic() - began_s >= seconds * 0.99


@pytest.mark.parametrize("missing", ["name", "clock"])
def test_without_a_clock_that_counts_suspend_another_one_serves(monkeypatch: pytest.MonkeyPatch, missing: str) -> None:
    """macOS has no such name, and some sandboxes refuse it."""
    real = time.clock_gettime

    def refuses(clock: int) -> float:
        if clock == 7:
            raise OSError(22, "Invalid argument")
        return real(clock)

    if missing == "name":
        monkeypatch.delattr(time, "CLOCK_BOOTTIME")
    else:
        monkeypatch.setattr(time, "clock_gettime", refuses)
    clock = SystemClock()
    before = time.monotonic()
    assert before <= clock.monotonic() <= time.monotonic()
