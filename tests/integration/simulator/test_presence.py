"""Presence reads: one extension's, and those of up to 30 in one request."""

import json

import msgspec
import pytest

from callcast.simulator import Credential, Limits, Platform, SimulatedClock
from callcast.simulator.platform import MULTIPART_JSON
from callcast.simulator.scenarios import crowd, office, played
from callcast.simulator.script import Call, Script
from tests import TESTS
from tests.integration.simulator.caller import COMPANY, Caller, calling
from tests.integration.simulator.conftest import START
from tests.integration.simulator.openapi import faults

RINGING = Call(kind="inbound", extension="1001", number="+15550101234", name="A. MILLER", rings_s=5, talks_s=20)


def presence(*extension_ids: str) -> str:
    return f"{COMPANY}/extension/{','.join(extension_ids)}/presence"


async def bulk(caller: Caller, *extension_ids: str, accept: str = MULTIPART_JSON) -> tuple[int, str, bytes]:
    headers = {"Authorization": f"Bearer {caller.token}", "Accept": accept}
    url = f"{caller.url}{presence(*extension_ids)}?detailedTelephonyState=true"
    async with caller.http.get(url, headers=headers) as response:
        return response.status, response.headers["Content-Type"], await response.read()


async def test_without_a_call_it_reads_as_recorded(clock: SimulatedClock) -> None:
    """The recorded keys and values of a phone without a call, and the Light group's headers."""
    async with calling(Platform(office(START), clock=clock, limits=Limits())) as caller:
        answer = await caller.get(presence("~"), detailedTelephonyState="true")
        recorded = json.loads((TESTS / "samples" / "presence" / "jswidgets-presence-nocall.json").read_text())
        same = set(recorded) - {"uri", "extension"}
        assert {key: answer.body[key] for key in same} == {key: recorded[key] for key in same}
        assert answer.body["extension"]["extensionNumber"] == "101"
        assert answer.headers["X-Rate-Limit-Group"] == "light"


async def test_it_follows_the_call(clock: SimulatedClock) -> None:
    """Ringing, connected, on hold, no call; each state fits the API's schema."""
    call = msgspec.structs.replace(RINGING, holds_s=((5, 10),))
    story = played(Script(account=crowd(3), calls=(call,)), START)
    async with calling(Platform(story, clock=clock)) as caller:
        seen = []
        for seconds in (1, 5, 6, 14):
            clock.turn(seconds)
            body = (await caller.get(presence("~"), detailedTelephonyState="true")).body
            assert faults("presence", "PresenceInfoResponse", body) == []
            seen.append((body["telephonyStatus"], body["totalActiveCalls"], len(body.get("activeCalls", ()))))
        assert seen == [("Ringing", 1, 1), ("CallConnected", 1, 1), ("OnHold", 1, 1), ("NoCall", 0, 0)]


async def test_without_detail_there_are_no_calls(clock: SimulatedClock) -> None:
    """The state alone, unless the request has `detailedTelephonyState`."""
    async with calling(Platform(played(Script(account=crowd(3), calls=(RINGING,)), START), clock=clock)) as caller:
        clock.turn(1)
        body = (await caller.get(presence("~"))).body
        assert (body["telephonyStatus"], "activeCalls" in body) == ("Ringing", False)


async def test_the_latest_seven_calls(clock: SimulatedClock) -> None:
    """More than seven calls at once: the newest are there, and the total is true."""
    calls = tuple(msgspec.structs.replace(RINGING, at_s=number) for number in range(9))
    story = played(Script(account=crowd(3), calls=calls), START)
    async with calling(Platform(story, clock=clock)) as caller:
        clock.turn(10)
        body = (await caller.get(presence("~"), detailedTelephonyState="true")).body
        assert (len(body["activeCalls"]), body["totalActiveCalls"]) == (7, 9)
        starts = [call["startTime"] for call in body["activeCalls"]]
        assert starts == sorted(starts, reverse=True)


async def test_several_in_one_request(clock: SimulatedClock) -> None:
    """207, a part for each id in order; unknown ones have a status of their own. Counts as one request."""
    story = played(Script(account=crowd(3), calls=(RINGING,)), START)
    async with calling(Platform(story, clock=clock, limits=Limits(light=1))) as caller:
        clock.turn(1)
        status, content_type, body = await bulk(caller, "400200002", "400200001", "999")
        assert (status, content_type) == (207, MULTIPART_JSON)
        parts = json.loads(body)
        assert [list(part) for part in parts] == [["resourceId", "status", "body"]] * 3
        assert [(part["resourceId"], part["status"]) for part in parts] == [
            ("400200002", 200),
            ("400200001", 200),
            ("999", 404),
        ]
        assert [part["body"].get("telephonyStatus") for part in parts] == ["NoCall", "Ringing", None]
        assert parts[2]["body"]["errorCode"] == "CMN-102"


async def test_several_as_multipart(clock: SimulatedClock) -> None:
    """A client that accepts plain JSON gets the parts as multipart/mixed."""
    async with calling(Platform(office(START), clock=clock)) as caller:
        status, content_type, body = await bulk(caller, "400100101", "400100102", accept="application/json")
        assert (status, content_type.split(";")[0]) == (207, "multipart/mixed")
        assert body.count(b"telephonyStatus") == 2


async def test_thirty_is_the_most(clock: SimulatedClock) -> None:
    """More ids are a 400 that says so."""
    story = played(Script(account=crowd(31)), START)
    async with calling(Platform(story, clock=clock)) as caller:
        assert (await bulk(caller, *story.extension_ids()[:30]))[0] == 207
        status, _, body = await bulk(caller, *story.extension_ids())
        assert (status, json.loads(body)["errorCode"]) == (400, "InvalidMultipartRequest")


async def test_hidden_presence_and_extensions_without_a_user(clock: SimulatedClock) -> None:
    """Neither has a telephony state, but the owner sees the own one; without the permission there is nothing."""
    account = crowd(3)
    hidden = [msgspec.structs.replace(one, presence_hidden=True) for one in account.extensions]
    story = played(Script(account=msgspec.structs.replace(account, extensions=tuple(hidden))), START)
    credentials = [Credential(), Credential(client_id="other", permissions=frozenset({"ReadCallLog"}))]
    async with calling(Platform(story, clock=clock, credentials=credentials)) as caller:
        for extension_id in ("400200002", "400300001"):
            body = (await caller.get(presence(extension_id))).body
            assert (body["presenceStatus"], "telephonyStatus" in body) == ("Offline", False)
        assert (await caller.get(presence("~"))).body["telephonyStatus"] == "NoCall"
        await caller.log_in(credentials[1])
        refused = await caller.get(presence("~"))
        assert (refused.status, refused.body["permissionName"]) == (403, "ReadPresence")


@pytest.mark.parametrize("path", ["/restapi/v1.0/account/7/extension/~/presence", presence("999"), presence("x")])
async def test_what_does_not_exist(clock: SimulatedClock, path: str) -> None:
    """Another account and an unknown extension are 404."""
    async with calling(Platform(office(START), clock=clock)) as caller:
        assert (await caller.get(path)).status == 404
