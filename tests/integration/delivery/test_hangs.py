"""A receiver that hangs and then works again, in turned time: how soon it has what waited, without a new call."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from callcast.ports.sink import Delivered, Delivery, Outcome, Retry
from tests.clock import TurnedClock
from tests.integration.polling.test_outages import Acked, House, house_in

CALLS = 54
TIMEOUT_S = 15.0


class Hanging:
    """Answers nothing until `well_at`; then at once, and `late` also the requests from while it hung."""

    def __init__(self, clock: TurnedClock, well_at: float, *, late: bool) -> None:
        self._clock = clock
        self._well_at = well_at
        self._late = late

    async def __call__(self, _: Delivery) -> Outcome:
        left_s = self._well_at - self._clock.monotonic()
        if left_s > 0:
            answers = self._late and left_s < TIMEOUT_S
            await self._clock.sleep(left_s if answers else TIMEOUT_S)
            return Delivered() if answers else Retry("timeout")
        return Delivered()


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    async with house_in(tmp_path, TurnedClock()) as house:
        yield house


@pytest.mark.parametrize(("late", "within_s"), [(True, 10), (False, TIMEOUT_S + 1)])
@pytest.mark.parametrize("meanwhile", [False, True])
@pytest.mark.parametrize("hang_s", [5, 20, 60])
async def test_after_a_hang_the_backlog_is_gone_soon(
    house: House, hang_s: float, meanwhile: bool, late: bool, within_s: float
) -> None:
    """Ten seconds after its return it has all; what it will never answer is waited for as long as always.

    The calls are there when the hang begins, or they come one after another while it lasts.
    """
    sink = Acked(house.clock, Hanging(house.clock, hang_s, late=late))
    await house.start({"crm": sink})
    for number in range(CALLS):
        await house.call(number, ["call.ended"])
        if meanwhile:
            await house.clock.turn(hang_s / CALLS)
    await house.clock.turn(hang_s - house.clock.monotonic() + within_s)
    assert len(sink.taken) == CALLS
    assert await house.pending() == {"crm": (0, 0)}
