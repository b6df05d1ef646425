"""Days in turned time: the real sources (client, budget, poller, recorder), a remote side that counts as the real
one.
"""

from collections.abc import Mapping
from itertools import pairwise
from random import Random

import pytest

from callcast.ringcentral.settings import SourceSettings, plan
from tests.system.simulated_days.platform import HANGS, ModelSession, PollRecord
from tests.system.simulated_days.simulated_time_loop import LoopClock, run
from tests.system.simulated_days.sources import House, source

HOUR_S = 3600.0
QUARTER = 0.25  # of an hour
MANY = 50
ANSWER_WAIT_S = 1.0  # a poll may be so much later than planned: its answer takes time


def many(**keys: object) -> dict[str, SourceSettings]:
    """Fifty credentials with ten extensions each."""
    return {
        f"source_{n}": source(f"source_{n}", *(str(1000 + 10 * n + i) for i in range(10)), **keys) for n in range(MANY)
    }


async def watched(
    wanted: Mapping[str, SourceSettings], hours: float, session: ModelSession | None = None
) -> tuple[House, ModelSession]:
    clock = LoopClock()
    session = session or ModelSession(clock, Random(11))
    house = House(clock, session)
    async with house.watching(wanted):
        await clock.sleep(hours * HOUR_S)
    return house, session


def oldest_s(polls: list[PollRecord], until: float) -> float:
    """The greatest age that a good poll of a target reached."""
    good = [poll.answered_at for poll in polls if poll.status == 200]
    return max((b - a for a, b in pairwise([*good, until])), default=until)


def judge(session: ModelSession, wanted: Mapping[str, SourceSettings], hours: float) -> None:
    """No request was refused, the share was used, and no poll was older than planned."""
    assert session.refused() == []
    for name, settings in wanted.items():
        planned = plan(name, settings)
        mine = {target: polls for (client_id, target), polls in session.polls.items() if client_id == name}
        assert len(mine) == (planned.extensions or 1)
        assert sum(map(len, mine.values())) >= 0.95 * planned.requests_per_minute * 60 * hours
        assert max(oldest_s(polls, hours * HOUR_S) for polls in mine.values()) <= planned.cycle_s + ANSWER_WAIT_S


@pytest.mark.parametrize("extensions", [1, 12, None])
def test_a_day_of_one_credential(extensions: int | None) -> None:
    """One extension, twelve, and a whole account of any size: 24 hours without a 429, at the pace of the plan."""
    ids = [str(101 + n) for n in range(extensions or 0)]
    wanted = {"acme": source("acme", *ids)}
    house, session = run(watched(wanted, 24))
    judge(session, wanted, 24)
    assert house.outbox.events == []
    assert 26 <= len(session.auth["acme"].arrived) <= 41, "a token an hour, renewed at 60 to 90 % of its life"


def test_five_hundred_extensions_over_fifty_credentials() -> None:
    """Each credential at its own pace, none refused (the whole day: `python -m bench.days`)."""
    wanted = many()
    _, session = run(watched(wanted, QUARTER))
    judge(session, wanted, QUARTER)
    starts = sorted(polls[0].asked_at for polls in session.polls.values())
    assert max(b - a for a, b in pairwise(starts)) < 1, "they are spread, not sent in bursts"


@pytest.mark.parametrize("limit", [5, 20, 40])
def test_auto_follows_the_limit_that_the_platform_announces(limit: int) -> None:
    """Configured for ten a minute: slower without a 429 where five are allowed, faster where more are."""
    wanted = {"acme": source("acme")}
    _, session = run(watched(wanted, 2, ModelSession(LoopClock(), Random(5), limit=limit)))
    assert session.refused() == []
    (polls,) = session.polls.values()
    assert len(polls) >= 0.95 * 0.8 * limit * 120
    settled = [poll for poll in polls if poll.asked_at > 120]
    assert oldest_s(settled, 2 * HOUR_S) <= 60 / (0.8 * limit) + ANSWER_WAIT_S


def test_none_of_many_delays_another() -> None:
    """One hangs, one fails, one is refused its token, one is in a penalty for ever: all others are on time, and a
    one credential's 429 does not pause the others.
    """
    wanted = many()
    troubles = {"source_0": HANGS, "source_7": 503, "source_20": 403}
    session = ModelSession(LoopClock(), Random(2))
    session.trouble = {name: lambda status=status: status for name, status in troubles.items()}  # type: ignore[misc]
    session.heavy["source_30"].limit = 0
    session.auth["source_40"].limit = 0
    run(watched(wanted, QUARTER, session))
    troubled = {*troubles, "source_30", "source_40"}
    assert {name for name, _ in session.refused()} == {"source_30", "source_40"}
    for model in (session.heavy["source_30"], session.auth["source_40"]):
        assert min(b - a for a, b in pairwise(model.refused)) >= 60
        model.refused.clear()
    judge(session, {name: settings for name, settings in wanted.items() if name not in troubled}, QUARTER)
