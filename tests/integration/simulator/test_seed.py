"""The recorded seed, record for record."""

import json
from datetime import datetime, timedelta
from typing import Any

import pytest

from callcast.simulator import Platform, SimulatedClock
from callcast.simulator.scenarios import seed
from tests import TESTS
from tests.integration.simulator.caller import COMPANY, OWN, calling
from tests.integration.simulator.conftest import START

SAMPLES = TESTS / "samples" / "active-calls"
NAMES = ("direct-1-ringing", "direct-2-answered", "direct-3-ended", "queue-1-ringing", "queue-2-answered")
RECORDED: list[dict[str, Any]] = [
    json.loads((SAMPLES / f"seed-{name}.json").read_text()) for name in (*NAMES, "queue-3-ended")
]


@pytest.mark.parametrize("level", [OWN, COMPANY])
async def test_one_answer_further_with_every_poll(level: str) -> None:
    """Both lists give the six recorded answers in order, key for key, and stay with the last one."""
    async with calling(Platform(seed.by_poll())) as caller:
        for recorded in [*RECORDED, RECORDED[-1]]:
            answer = await caller.get(level + "/active-calls", view="Detailed")
            assert json.dumps(answer.body["records"]) == json.dumps(recorded["records"])
            assert answer.body["paging"] == recorded["paging"]


async def test_the_page_around_the_records_is_the_recorded_one() -> None:
    """Address, paging and navigation of an answer differ from the recording in the host alone."""
    async with calling(Platform(seed.by_poll())) as caller:
        answer = await caller.get(OWN + "/active-calls", view="Detailed")
        here = json.dumps(answer.body).replace(caller.url, "https://platform.ringcentral.com")
        assert here == json.dumps(RECORDED[0])


async def test_each_list_has_its_own_turn_and_may_be_empty_first() -> None:
    """A poll of the account's list does not advance the extension's; empty lists come before the first answer."""
    async with calling(Platform(seed.by_poll(empty_polls=1))) as caller:
        assert await caller.records(COMPANY + "/active-calls") == []
        assert len(await caller.records(COMPANY + "/active-calls")) == 1
        assert await caller.records(OWN + "/active-calls") == []


async def test_a_test_can_follow_the_recordings_moments() -> None:
    """`on_turn` gets the time of each answer, which lies after everything that the answer shows."""
    moments: list[datetime] = []
    async with calling(Platform(seed.by_poll(on_turn=moments.append))) as caller:
        for _ in RECORDED:
            await caller.records(OWN + "/active-calls")
    assert tuple(moments) == seed.MOMENTS
    assert sorted(moments) == moments


async def test_timed_turns_by_the_clock(clock: SimulatedClock) -> None:
    """The timed seed shows an answer from its second on, twice as early at twice the speed, and at last nothing."""
    recording = seed.timed(START, speed=2)
    shown = [recording.active(None, START + timedelta(seconds=at_s / 2)) for at_s in seed.SCHEDULE_S]
    assert shown == [*(recorded["records"] for recorded in RECORDED), []]
    assert recording.active(None, START + timedelta(seconds=0.4)) == []


async def test_the_call_log_has_what_ended() -> None:
    """After the third answer the call log has the first call, and after the sixth both, newest first."""
    async with calling(Platform(seed.by_poll())) as caller:
        for turns, ended in ((2, []), (1, [2]), (3, [5, 2])):
            for _ in range(turns):
                await caller.get(OWN + "/active-calls")
            logged = await caller.records(OWN + "/call-log", view="Detailed", dateFrom="2021-01-01T00:00:00Z")
            assert logged == [RECORDED[number]["records"][0] for number in ended]
