"""Rate limits: windows, penalties and what the headers say."""

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from callcast.simulator import Credential, Fault, Limits, Platform, SimulatedClock
from callcast.simulator.answers import Refusal
from callcast.simulator.limits import RateLimits
from callcast.simulator.scenarios import office
from tests.integration.simulator.caller import COMPANY, OWN, Answer, Caller, calling
from tests.integration.simulator.conftest import START

LIST = OWN + "/active-calls"


def rate_headers(answer: Answer) -> list[str | None]:
    return [answer.headers.get(f"X-Rate-Limit-{name}") for name in ("Group", "Limit", "Remaining", "Window")]


async def spend(caller: Caller, requests: int) -> Answer:
    for _ in range(requests):
        answer = await caller.get(LIST)
    return answer


async def test_the_eleventh_heavy_request_in_a_minute_is_refused(clock: SimulatedClock) -> None:
    """Ten pass and count down; the eleventh is a 429 with the documented body and headers."""
    async with calling(Platform(office(START), clock=clock, limits=Limits())) as caller:
        assert rate_headers(await caller.get(LIST)) == ["heavy", "10", "9", "60"]
        assert rate_headers(await spend(caller, 9)) == ["heavy", "10", "0", "60"]
        refused = await caller.get(LIST)
        assert (refused.status, refused.code, refused.headers["Retry-After"]) == (429, "CMN-301", "60")
        assert rate_headers(refused) == ["heavy", "10", "0", "60"]


async def test_the_window_slides(clock: SimulatedClock) -> None:
    """Requests leave the window one by one, sixty seconds after they were made."""
    async with calling(Platform(office(START), clock=clock, limits=Limits())) as caller:
        await spend(caller, 5)
        clock.turn(30)
        await spend(caller, 5)
        clock.turn(30)
        assert rate_headers(await caller.get(LIST))[2] == "4"


async def test_every_request_in_a_penalty_restarts_it(clock: SimulatedClock) -> None:
    """Asking again after 59 s costs another 60 s; left alone it ends, and the window is fresh."""
    async with calling(Platform(office(START), clock=clock, limits=Limits())) as caller:
        await spend(caller, 11)
        for _ in range(3):
            clock.turn(59)
            assert (await caller.get(LIST)).status == 429
        clock.turn(60)
        assert rate_headers(await caller.get(LIST))[2] == "9"


async def test_lists_and_call_log_share_one_group_and_sessions_do_not(clock: SimulatedClock) -> None:
    """Active calls and call log of both levels eat the same ten; a telephony session is light."""
    async with calling(Platform(office(START), clock=clock, limits=Limits())) as caller:
        for path in (LIST, OWN + "/call-log", COMPANY + "/active-calls", COMPANY + "/call-log"):
            answer = await caller.get(path)
        assert rate_headers(answer) == ["heavy", "10", "6", "60"]
        assert rate_headers(await caller.get(COMPANY + "/telephony/sessions/s-1"))[:3] == ["light", "50", "49"]


async def test_token_requests_are_limited_too(clock: SimulatedClock) -> None:
    """The sixth token request within a minute is refused."""
    async with calling(Platform(office(START), clock=clock, limits=Limits())) as caller:
        for _ in range(4):
            await caller.log_in()
        answer = await caller.post_token(Credential(), grant_type="password")
        assert (answer.status, rate_headers(answer)[0]) == (429, "auth")


async def test_each_credential_has_its_own_budget(clock: SimulatedClock) -> None:
    """One user's penalty does not touch another's."""
    two = [Credential(), Credential(client_id="other")]
    async with calling(Platform(office(START), clock=clock, limits=Limits(), credentials=two)) as caller:
        assert (await spend(caller, 11)).status == 429
        await caller.log_in(two[1])
        assert (await caller.get(LIST)).status == 200


async def test_another_program_can_use_the_same_budget(clock: SimulatedClock) -> None:
    """Requests of other programs are missing from Remaining."""
    platform = Platform(office(START), clock=clock, limits=Limits())
    async with calling(platform) as caller:
        platform.limits.use(Credential().client_id, "heavy", clock.now(), 6)
        assert rate_headers(await caller.get(LIST))[2] == "3"


async def test_twins_are_refused(clock: SimulatedClock) -> None:
    """A request whose twin is still under way is CMN-304; another one is fine, and so is the same one later."""
    platform = Platform(office(START), clock=clock, limits=Limits())
    async with calling(platform) as caller:
        platform.limits.enter(Credential().client_id, COMPANY + "/active-calls")
        assert (await caller.get(LIST)).status == 200
        twin = await caller.get(COMPANY + "/active-calls")
        assert (twin.status, twin.code) == (429, "CMN-304")
        platform.limits.leave(Credential().client_id, COMPANY + "/active-calls")
        assert (await caller.get(COMPANY + "/active-calls")).status == 200


async def test_switched_off_nothing_is_said(clock: SimulatedClock) -> None:
    """Without limits any number passes, and no header speaks of them; they can be switched on at any time."""
    platform = Platform(office(START), clock=clock)
    async with calling(platform) as caller:
        assert rate_headers(await spend(caller, 30)) == [None] * 4
        platform.limits.limits = Limits(heavy=2, headers=False)
        assert rate_headers(await spend(caller, 2)) == [None] * 4
        refused = await caller.get(LIST)
        assert (refused.status, rate_headers(refused), refused.headers["Retry-After"]) == (429, [None] * 4, "60")


@given(gaps=st.lists(st.floats(0, 40), max_size=60), limit=st.integers(1, 5))
def test_no_window_ever_holds_more_than_the_limit(gaps: list[float], limit: int) -> None:
    """However requests come, any sixty seconds hold at most the limit, and a penalty is sixty quiet seconds."""
    limits = RateLimits(Limits(heavy=limit))
    now, passed, last_asked, refused_last = START, [], None, False
    for gap in gaps:
        now += timedelta(seconds=gap)
        try:
            limits.count("me", "heavy", now)
        except Refusal:
            refused_last = True
        else:
            assert not refused_last or last_asked is None or now - last_asked >= timedelta(seconds=60)
            passed.append(now)
            refused_last = False
        last_asked = now
    for moment in passed:
        assert sum(moment <= one < moment + timedelta(seconds=60) for one in passed) <= limit


@pytest.mark.parametrize("headers", [True, False])
async def test_an_ordered_429(clock: SimulatedClock, headers: bool) -> None:
    """A 429 on order comes with the rate limit headers, or bare as global limits send it."""
    platform = Platform(office(START), clock=clock)
    async with calling(platform) as caller:
        platform.strike(Fault(kind="status", status=429, headers=headers, count=1))
        refused = await caller.get(LIST)
        assert ("Retry-After" in refused.headers) is headers
        assert rate_headers(refused) == (["heavy", "10", "0", "60"] if headers else [None] * 4)
