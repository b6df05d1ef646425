"""Lists: pages, filters, views, and who may see them."""

from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from multidict import MultiDict

from callcast.simulator import Credential, Limits, Platform, SimulatedClock
from callcast.simulator.clock import iso
from callcast.simulator.lists import page
from callcast.simulator.scenarios import busy, office
from tests.integration.simulator.caller import COMPANY, OWN, Caller, calling
from tests.integration.simulator.conftest import START
from tests.integration.simulator.openapi import faults

DESK = "/restapi/v1.0/account/400100200/extension/400100105"


@given(count=st.integers(0, 40), size=st.integers(1, 12))
def test_following_next_page_gives_every_record_once(count: int, size: int) -> None:
    """Whatever the size of the pages, `nextPage` leads through all of the list and stops at its end."""
    records = [{"id": str(number)} for number in range(count)]
    query = {"view": "Simple", "perPage": str(size)}
    seen, number = [], 1
    while True:
        body = page("http://here/list", MultiDict(query, page=str(number)), records)
        seen += body["records"]
        assert "totalPages" not in body["paging"]
        if number > 1:
            assert body["navigation"]["previousPage"]["uri"].endswith(f"&page={number - 1}&perPage={size}")
        if "nextPage" not in body["navigation"]:
            break
        number += 1
        assert body["navigation"]["nextPage"]["uri"] == f"http://here/list?view=Simple&page={number}&perPage={size}"
    assert seen == records
    assert number == max(-(-count // size), 1)


def test_an_empty_list_is_as_bare_as_the_recorded_one() -> None:
    """No page ends and no last page where there is nothing (csharp-empty-extension)."""
    body = page("http://here", MultiDict(), [])
    assert body["paging"] == {"page": 1, "perPage": 100}
    assert list(body["navigation"]) == ["firstPage"]


@pytest.mark.parametrize(
    ("query", "size"), [({}, 100), ({"perPage": "7"}, 7), ({"perPage": "MAX"}, 1000), ({"perPage": "5000"}, 1000)]
)
async def test_per_page(clock: SimulatedClock, query: dict[str, str], size: int) -> None:
    """100 by default, at most 1,000, which `max` means in any case."""
    async with calling(Platform(office(START), clock=clock)) as caller:
        assert (await caller.get(COMPANY + "/active-calls", **query)).body["paging"]["perPage"] == size


@pytest.mark.parametrize(
    "query", [{"page": "0"}, {"perPage": "-1"}, {"perPage": "many"}, {"view": "Full"}, {"direction": "Up"}]
)
async def test_a_wrong_parameter_is_named(clock: SimulatedClock, query: dict[str, str]) -> None:
    """A value that the API does not know is a 400 that names the parameter."""
    async with calling(Platform(office(START), clock=clock)) as caller:
        answer = await caller.get(COMPANY + "/active-calls", **query)
        assert (answer.status, answer.code) == (400, "CMN-101")
        assert answer.body["parameterName"] == next(iter(query))


async def test_newest_first_over_pages(clock: SimulatedClock) -> None:
    """A long account list over many pages is in order, whole, and each page fits the API's schema."""
    async with calling(Platform(busy(START, 60, 600), clock=clock)) as caller:
        clock.turn(60)
        starts, url, query = [], COMPANY + "/active-calls", {"view": "Detailed", "perPage": "7"}
        while url:
            answer = await caller.get(url, **query)
            assert faults("active-calls", "CallLogResponse", answer.body) == []
            starts += [record["startTime"] for record in answer.body["records"]]
            url, query = answer.body["navigation"].get("nextPage", {}).get("uri", ""), {}
        assert len(starts) == len(caller.platform.scenario.active(None, clock.now())) > 20
        assert starts == sorted(starts, reverse=True)


async def test_filters_choose(clock: SimulatedClock) -> None:
    """Direction and type choose records; two values of one parameter are either of them."""
    async with calling(Platform(office(START), clock=clock)) as caller:
        clock.turn(30)
        every = await caller.records(COMPANY + "/active-calls")
        inbound = await caller.records(COMPANY + "/active-calls", direction="Inbound")
        outbound = await caller.records(COMPANY + "/active-calls", direction="Outbound")
        assert inbound
        assert outbound
        assert len(inbound) + len(outbound) == len(every)
        async with caller.http.get(
            f"{caller.url}{COMPANY}/active-calls?direction=Inbound&direction=Outbound",
            headers={"Authorization": f"Bearer {caller.token}"},
        ) as response:
            assert (await response.json())["records"] == every
        assert await caller.records(COMPANY + "/active-calls", type="Fax") == []


async def test_the_simple_view_has_no_legs(clock: SimulatedClock) -> None:
    """Simple is the default; legs come with Detailed, and a record's address says which it is."""
    async with calling(Platform(office(START), clock=clock)) as caller:
        clock.turn(5)
        for view, query in (("Simple", {}), ("Detailed", {"view": "Detailed"})):
            for record in await caller.records(COMPANY + "/active-calls", **query):
                assert ("legs" in record) is (view == "Detailed")
                assert record["uri"].endswith(f"?view={view}")


async def test_what_a_credential_may_not_see(clock: SimulatedClock) -> None:
    """A missing scope, a missing permission, another's extension and an unknown one each have their own answer."""
    own = "400100101"
    credentials = [
        Credential(client_id="no-scope", extension_id=own, permissions=frozenset()),
        Credential(client_id="no-company", extension_id=own, permissions=frozenset({"ReadCallLog"}), admin=False),
    ]
    async with calling(Platform(office(START), clock=clock, credentials=credentials)) as caller:
        answer = await caller.get(OWN + "/active-calls")
        assert (answer.status, answer.code, answer.body["permissionName"]) == (403, "CMN-401", "ReadCallLog")
        await caller.log_in(credentials[1])
        assert (await caller.get(OWN + "/active-calls")).status == 200
        assert (await caller.get(COMPANY + "/active-calls")).code == "CMN-408"
        assert (await caller.get(DESK + "/active-calls")).code == "CMN-404"
        assert (await caller.get(COMPANY + "/telephony/sessions/s-1")).code == "CMN-401"


async def test_what_does_not_exist(clock: SimulatedClock) -> None:
    """An unknown extension, account, record or path is a 404 in the platform's words."""
    async with calling(Platform(office(START), clock=clock)) as caller:
        for path in (COMPANY + "/extension/999/active-calls", "/restapi/v1.0/account/7/active-calls"):
            assert (await caller.get(path)).status == 404
        assert (await caller.get(OWN + "/call-log/nothing")).code == "CMN-102"
        assert (await caller.get("/restapi/v1.0/nowhere")).code == "CMN-102"


async def test_headers_of_every_answer(clock: SimulatedClock) -> None:
    """Each answer carries the platform's time and a request id, the refused ones too."""
    async with calling(Platform(office(START), clock=clock)) as caller:
        clock.turn(3600)
        for path in (OWN + "/active-calls", "/restapi/v1.0/nowhere"):
            answer = await caller.get(path)
            assert answer.headers["Date"] == "Mon, 02 Nov 2026 10:00:00 GMT"
            assert answer.headers["RCRequestId"]


async def logged(caller: Caller, **query: Any) -> list[str]:
    return [record["id"] for record in await caller.records(COMPANY + "/call-log", **query)]


async def test_the_call_log_filters_by_start_time(clock: SimulatedClock) -> None:
    """A call that is over belongs to the window in which it began, not to the one in which it ended."""
    async with calling(Platform(office(START), clock=clock)) as caller:
        clock.turn(50)
        every = await logged(caller)
        began = START + timedelta(seconds=1)
        assert len(every) >= 3
        early = await logged(caller, dateTo=iso(began))
        assert sorted(early + await logged(caller, dateFrom=iso(began))) == sorted(every)
        assert len(early) == 1
        first = START + timedelta(seconds=0.2)
        assert await logged(caller, dateTo=iso(first)) == []
        assert await logged(caller, dateFrom=iso(first), dateTo=iso(first + timedelta(milliseconds=1))) == early
        clock.turn(86_400)
        await caller.log_in()
        assert set(every).isdisjoint(await logged(caller, perPage="max"))
        minute = {"dateFrom": iso(START), "dateTo": iso(START + timedelta(seconds=60))}
        assert set(every) < set(await logged(caller, **minute))


async def test_the_call_log_by_session_and_by_id(clock: SimulatedClock) -> None:
    """A session is found by either of its ids, the plain one only alone; a record is found by its own."""
    async with calling(Platform(office(START), clock=clock)) as caller:
        clock.turn(50)
        record = (await caller.records(COMPANY + "/call-log", view="Detailed"))[-1]
        assert await logged(caller, telephonySessionId=record["telephonySessionId"]) == [record["id"]]
        assert await logged(caller, sessionId=record["sessionId"], view="Detailed", perPage=1000) == [record["id"]]
        both = await caller.get(COMPANY + "/call-log", sessionId=record["sessionId"], dateFrom=iso(START))
        assert (both.status, both.code) == (400, "CLG-110")
        assert (await caller.get(f"{COMPANY}/call-log/{record['id']}")).body == record


async def test_a_telephony_session_tells_its_parties(clock: SimulatedClock) -> None:
    """The session of a transferred call shows the first phone disconnected and the second one answered."""
    async with calling(Platform(office(START), clock=clock)) as caller:
        clock.turn(30)
        record = next(
            one for one in await caller.records(COMPANY + "/active-calls") if "101" in one["to"]["phoneNumber"]
        )
        answer = await caller.get(f"{COMPANY}/telephony/sessions/{record['telephonySessionId']}")
        assert faults("telephony-sessions", "CallSessionObject", answer.body) == []
        codes = {party.get("extensionId"): party["status"]["code"] for party in answer.body["parties"]}
        assert codes == {None: "Answered", "400100101": "Disconnected", "400100102": "Answered"}


async def test_the_list_of_extensions_comes_in_pages() -> None:
    """As the API describes it: id, number, name and type, by pages; without ReadAccounts it is refused by name."""
    story = busy(START, extensions=5, calls_per_minute=1)
    async with calling(Platform(story, limits=Limits())) as caller:
        answer = await caller.get(COMPANY + "/extension", perPage="2")
        assert faults("extension-list", "GetExtensionListResponse", answer.body) == []
        assert answer.headers["X-Rate-Limit-Group"] == "medium"
        found = list(answer.body["records"])
        while following := answer.body["navigation"].get("nextPage"):
            answer = await caller.get(following["uri"])
            found += answer.body["records"]
        assert [str(one["id"]) for one in found] == list(story.extension_ids())
        assert (found[0]["extensionNumber"], found[0]["type"]) == (story.account.extensions[0].number, "User")
    async with calling(Platform(credentials=[Credential(permissions=frozenset({"ReadCallLog"}))])) as caller:
        answer = await caller.get(COMPANY + "/extension")
        assert (answer.status, answer.code, answer.body["permissionName"]) == (403, "CMN-401", "ReadAccounts")
