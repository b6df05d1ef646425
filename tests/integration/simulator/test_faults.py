"""Faults: each kind as a client feels it, and when it strikes."""

import aiohttp
import pytest

from callcast.simulator import Fault, Platform, SimulatedClock
from callcast.simulator.scenarios import office
from tests.integration.simulator.caller import COMPANY, Caller, calling
from tests.integration.simulator.conftest import START

LIST = COMPANY + "/active-calls"


async def raw(caller: Caller, timeout_s: float = 5) -> tuple[int, aiohttp.typedefs.LooseHeaders, bytes]:
    headers = {"Authorization": f"Bearer {caller.token}"}
    timeout = aiohttp.ClientTimeout(total=timeout_s)
    async with caller.http.get(caller.url + LIST, headers=headers, timeout=timeout, allow_redirects=False) as response:
        return response.status, response.headers, await response.read()


def struck(clock: SimulatedClock, **fault: object) -> Platform:
    clock.turn(30)
    return Platform(office(START), clock=clock, faults=[Fault(path="*/active-calls", **fault)])


@pytest.mark.parametrize("status", [500, 502, 503, 504, 403, 404])
async def test_a_status_has_the_platforms_body(clock: SimulatedClock, status: int) -> None:
    """Any status on order comes with an error body, a request id and the platform's time."""
    async with calling(struck(clock, kind="status", status=status)) as caller:
        answer = await caller.get(LIST)
        assert (answer.status, bool(answer.code)) == (status, True)
        assert answer.headers["RCRequestId"]
        assert "Retry-After" not in answer.headers


@pytest.mark.parametrize(("configured", "sent"), [(7, "7"), ("date", "Mon, 02 Nov 2026 09:01:00 GMT")])
async def test_retry_after_in_both_forms(clock: SimulatedClock, configured: int | str, sent: str) -> None:
    """A 503 may carry Retry-After as seconds or as a date, and the limited mode's code."""
    async with calling(struck(clock, kind="status", status=503, code="CMN-211", retry_after=configured)) as caller:
        answer = await caller.get(LIST)
        assert (answer.code, answer.headers["Retry-After"]) == ("CMN-211", sent)


@pytest.mark.parametrize("kind", ["reset", "truncated"])
async def test_a_broken_connection(clock: SimulatedClock, kind: str) -> None:
    """A reset and a body that stops half-way are errors of the connection.

    aiohttp's client asks a second time by itself after a reset, so two are needed for one error.
    """
    async with calling(struck(clock, kind=kind, count=2 if kind == "reset" else 1)) as caller:
        with pytest.raises((aiohttp.ClientError, ConnectionResetError)):
            await raw(caller)
        assert (await raw(caller))[0] == 200
        statuses = [one.status for one in caller.platform.requests if one.path == LIST]
        assert statuses == ([0, 0, 200] if kind == "reset" else [200, 200])


@pytest.mark.parametrize("kind", ["slow", "hang"])
async def test_an_answer_that_does_not_come(clock: SimulatedClock, kind: str) -> None:
    """A slow answer and none at all run into the client's own time limit, and the platform still stops at once."""
    async with calling(struck(clock, kind=kind, delay_s=60)) as caller:
        with pytest.raises(TimeoutError):
            await raw(caller, timeout_s=0.05)


async def test_a_slow_answer_is_a_good_one(clock: SimulatedClock) -> None:
    """A client that waits gets the whole list."""
    async with calling(struck(clock, kind="slow", delay_s=0.01)) as caller:
        assert await caller.records(LIST)


async def test_bodies_that_are_no_list(clock: SimulatedClock) -> None:
    """HTML, half a JSON, UTF-16 that says UTF-8, and too much of it: each says 200 and cannot be read."""
    platform = struck(clock, kind="html", count=1)
    async with calling(platform) as caller:
        assert (await raw(caller))[2].startswith(b"<!DOCTYPE html>")
        platform.strike(Fault(kind="not_json", count=1))
        assert (await raw(caller))[2] == b'{"records": ['
        platform.strike(Fault(kind="charset", count=1))
        _, headers, body = await raw(caller)
        assert "utf-8" in headers["Content-Type"]
        with pytest.raises(UnicodeDecodeError):
            body.decode()
        platform.strike(Fault(kind="huge", size_mb=2, count=1))
        assert len((await raw(caller))[2]) > 2_000_000


async def test_a_redirect_leads_elsewhere(clock: SimulatedClock) -> None:
    """A 302 with a place to go."""
    async with calling(struck(clock, kind="redirect", location="http://127.0.0.1:9/away")) as caller:
        status, headers, _ = await raw(caller)
        assert (status, headers["Location"]) == (302, "http://127.0.0.1:9/away")


async def test_half_of_the_pages(clock: SimulatedClock) -> None:
    """The first page has half of the records and promises a second one, which fails."""
    platform = struck(clock, kind="half")
    async with calling(platform) as caller:
        whole = platform.scenario.active(None, clock.now())
        first = (await caller.get(LIST)).body
        assert len(first["records"]) == len(whole) // 2 > 0
        assert (await caller.get(first["navigation"]["nextPage"]["uri"])).status == 502


async def test_records_that_lie(clock: SimulatedClock) -> None:
    """An empty list that is wrong, and bad records beside all the good ones."""
    platform = struck(clock, kind="empty", count=1)
    async with calling(platform) as caller:
        assert await caller.records(LIST) == []
        good = await caller.records(LIST)
        platform.strike(Fault(kind="bad_records", count=1))
        spoilt = await caller.records(LIST)
        assert [record for record in spoilt if record in good] == good
        assert len(spoilt) == len(good) + 3


async def test_a_fault_strikes_when_it_should(clock: SimulatedClock) -> None:
    """It skips, strikes so many times, only its paths; by time it begins and ends on the platform's clock."""
    platform = struck(clock, kind="status", skip=1, count=2)
    async with calling(platform) as caller:
        assert [(await caller.get(LIST)).status for _ in range(5)] == [200, 500, 500, 200, 200]
        assert (await caller.get(COMPANY + "/call-log")).status == 200
        platform.strike(Fault(kind="status", status=503, from_s=10, for_s=20))
        seen = []
        for _ in range(5):
            seen.append((await caller.get(LIST)).status)
            clock.turn(9)
        assert seen == [200, 200, 503, 503, 200]


@pytest.mark.parametrize(
    ("door", "given"),
    [
        ("faults", {"kind": "status", "from_s": 1e99}),
        ("faults", {"kind": "status", "for_s": -1}),
        ("faults", {"kind": "status", "status": 4400}),
        ("clock", {"turn_s": 1e99}),
        ("calls", {"kind": "inbound", "extension": "101", "talks_s": 1e99}),
        ("calls", {"kind": "queue", "offers": [[]]}),
    ],
)
async def test_what_cannot_be_simulated_is_refused(clock: SimulatedClock, door: str, given: dict[str, object]) -> None:
    """And the platform goes on."""
    async with calling(Platform(office(START), clock=clock)) as caller:
        url = f"{caller.url}/simulator/{door}"
        async with caller.http.post(url, json=given) as response:
            assert response.status == 400
        assert (await caller.get(LIST)).status == 200
        answer = await caller.get("/restapi/v1.0/account/~/call-log", dateTo="0001-01-01")
        assert (answer.status, answer.code) == (400, "CMN-101")


async def test_the_door_for_faults_requests_truth_and_clock(clock: SimulatedClock) -> None:
    """A program in another language orders faults, places calls, reads the log and the truth, and turns the clock."""
    async with calling(Platform(office(START), clock=clock)) as caller:
        door = caller.url + "/simulator/"
        async with caller.http.post(door + "faults", json=[{"kind": "status"}, {"kind": "html"}]) as response:
            assert (response.status, await response.json()) == (201, {"ids": [1, 2]})
        assert (await caller.get(LIST)).status == 500
        async with caller.http.delete(door + "faults/1") as response:
            assert response.status == 204
        assert [fault["kind"] for fault in (await caller.get("/simulator/faults")).body] == ["html"]
        async with caller.http.delete(door + "faults") as response:
            assert response.status == 204
        async with caller.http.post(door + "clock", json={"turn_s": 60}) as response:
            assert (await response.json())["now"] == "2026-11-02T09:01:00Z"
        call = {"kind": "inbound", "extension": "101", "rings_s": 4}
        async with caller.http.post(door + "calls", json=call) as response:
            assert [truth["disposition"] for truth in await response.json()] == ["missed"]
        truth = (await caller.get("/simulator/truth")).body
        assert truth[0]["disposition"] == "answered"
        logged = (await caller.get("/simulator/requests?path=active-calls")).body
        assert [(one["status"], one["fault"]) for one in logged["requests"]] == [(500, "status")]
        assert caller.token not in str((await caller.get("/simulator/requests")).body)
        async with caller.http.put(door + "limits", json={"heavy": 0}) as response:
            assert response.status == 204
        assert (await caller.get(LIST)).status == 429
        async with caller.http.delete(door + "tokens") as response:
            assert response.status == 204
        assert (await caller.get(LIST)).code == "OAU-213"


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("faults", {"kind": "eaten"}),
        ("faults", {"kind": "html", "often": True}),
        ("calls", {"kind": "inbound", "extension": "999"}),
        ("clock", {}),
    ],
)
async def test_a_wrong_order_is_refused(clock: SimulatedClock, path: str, body: dict[str, object]) -> None:
    """An order that makes no sense is a 400 that says why."""
    async with (
        calling(Platform(office(START), clock=clock)) as caller,
        caller.http.post(f"{caller.url}/simulator/{path}", json=body) as response,
    ):
        assert response.status == 400
        assert await response.text()
