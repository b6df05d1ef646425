"""The WebSocket gateway as a client sees it, by the frames that were recorded."""

import json
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import aiohttp
import msgspec
import pytest

from callcast.simulator import Credential, Limits, Platform, SimulatedClock
from callcast.simulator.push import Push
from callcast.simulator.scenarios import played
from callcast.simulator.script import Call, Script
from callcast.simulator.story import Story
from tests import TESTS
from tests.integration.simulator.caller import COMPANY, Caller, calling
from tests.integration.simulator.conftest import START
from tests.integration.simulator.openapi import faults
from tests.integration.simulator.plots import ACCOUNT
from tests.integration.simulator.sockets import TELEPHONY, codes, connected, opened, ws_token

SAMPLES = TESTS / "samples" / "ws"
OWN_ID, OTHER_ID = "400200001", "400200002"
RINGING = Call(kind="inbound", extension="1001", number="+15550101234", rings_s=5, talks_s=20)


def recorded(name: str) -> Any:
    return json.loads((SAMPLES / f"{name}.json").read_text())


def platform(clock: SimulatedClock, **settings: Any) -> Platform:
    """Six phones, and no calls but those that a test places."""
    return Platform(played(Script(account=ACCOUNT), START), clock=clock, **settings)


def place(caller: Caller, call: Call = RINGING) -> None:
    story = caller.platform.scenario
    assert isinstance(story, Story)
    story.place(call, caller.platform.clock.now())


def extension(extension_id: str, what: str = "telephony/sessions") -> str:
    return f"/restapi/v1.0/account/~/extension/{extension_id}/{what}"


async def test_a_token_has_the_recorded_shape_and_counts_as_a_sign_in(clock: SimulatedClock) -> None:
    """The recorded keys in their order, the gateway beside the API, and the Auth group's headers."""
    async with calling(platform(clock, limits=Limits())) as caller:
        answer = await ws_token(caller)
        assert list(answer) == list(recorded("jswidgets-wstoken"))
        assert answer["uri"] == caller.url.replace("http", "ws") + "/ws"
        assert answer["expires_in"] == 60
        assert faults("oauth", "WsTokenResponse", answer) == []
        headers = {"Authorization": f"Bearer {caller.token}"}
        statuses = []
        for _ in range(4):
            async with caller.http.post(caller.url + "/restapi/oauth/wstoken", headers=headers) as response:
                statuses.append((response.status, response.headers["X-Rate-Limit-Group"]))
        assert statuses == [(200, "auth")] * 3 + [(429, "auth")]


async def test_without_the_permission_there_is_no_token(clock: SimulatedClock) -> None:
    """403 names the permission; an unknown access token is 401."""
    credential = Credential(permissions=frozenset({"ReadCallLog"}))
    async with calling(platform(clock, credentials=[credential])) as caller:
        url = caller.url + "/restapi/oauth/wstoken"
        async with caller.http.post(url, headers={"Authorization": f"Bearer {caller.token}"}) as response:
            assert response.status == 403
            assert (await response.json())["permissionName"] == "WebSocket"
        async with caller.http.post(url, headers={"Authorization": "Bearer unknown"}) as response:
            assert response.status == 401


@pytest.mark.parametrize("why", ["unknown", "used", "expired"])
async def test_a_token_opens_one_connection_in_its_time(clock: SimulatedClock, why: str) -> None:
    """A token that is unknown, used or too old: the connection is closed with 4400."""
    async with calling(platform(clock)) as caller:
        token = "unknown" if why == "unknown" else (await ws_token(caller))["ws_access_token"]
        if why == "used":
            async with opened(caller, token=token):
                pass
        if why == "expired":
            clock.turn(60)
        async with opened(caller, token=token) as socket:
            assert await socket.closed() == 4400
        assert token not in str([request.query for request in caller.platform.requests])


async def test_the_first_frame_has_the_recorded_shape(clock: SimulatedClock) -> None:
    """ConnectionDetails: keys, order and numbers of the documented frame."""
    async with calling(platform(clock)) as caller, opened(caller) as socket:
        meta, body = await socket.frame()
        wanted_meta, wanted_body = recorded("apidocs-connection-details")
        assert list(meta) == list(wanted_meta)
        assert list(meta["wsc"]) == list(wanted_meta["wsc"])
        assert body == wanted_body | {"creationTime": "2026-11-02T09:00:00.000+0000"}


async def test_a_subscription_has_the_recorded_shape(clock: SimulatedClock) -> None:
    """The answer's keys in their order, Medium headers among them, and the filters with the ids that ~ stands for."""
    async with calling(platform(clock, limits=Limits())) as caller, connected(caller) as socket:
        meta, body = await socket.subscribe(extension("~", "presence?detailedTelephonyState=true&sipData=true"))
        wanted_meta, wanted_body = recorded("jswidgets-subscriptionResponse")
        assert list(meta) == list(wanted_meta)
        assert set(meta["headers"]) == set(wanted_meta["headers"])
        assert meta["headers"]["X-Rate-Limit-Group"] == "medium"
        assert list(body) == list(wanted_body)
        own = f"/restapi/v1.0/account/{ACCOUNT.id}/extension/{OWN_ID}"
        assert body["eventFilters"] == [own + "/presence?detailedTelephonyState=true&sipData=true"]
        assert faults("subscription", "SubscriptionInfo", body) == []
        meta, *rest = await socket.request({}, "DELETE", body["uri"])
        assert (meta["status"], rest) == (204, [])
        assert set(meta["headers"]) == set(recorded("rcmock-clientRequest-204")[0]["headers"])


async def test_a_heartbeat_is_answered(clock: SimulatedClock) -> None:
    """With its own message id, as recorded."""
    async with calling(platform(clock)) as caller, connected(caller) as socket:
        await socket.ws.send_str('[{"type":"Heartbeat","messageId":"mine"}]')
        assert await socket.frame() == [{"type": "Heartbeat", "messageId": "mine"}]
        assert list(recorded("jswidgets-heartbeatResponse")[0]) == ["type", "messageId"]


async def test_a_call_is_notified_when_it_happens(clock: SimulatedClock) -> None:
    """Each event when its time has come, with the documented frame's keys; never before."""
    async with calling(platform(clock)) as caller, connected(caller, TELEPHONY) as socket:
        place(caller)
        clock.turn(1)
        assert await codes(socket, 4) == ["Setup", "Setup", "Answered", "Proceeding"]
        await socket.quiet()
        clock.turn(5)
        meta, body = await socket.frame()
        wanted_meta, wanted_body = recorded("apidocs-websocket-notification")
        assert list(meta) == list(wanted_meta)
        assert list(body) == list(wanted_body)
        assert body["event"] == f"/restapi/v1.0/account/{ACCOUNT.id}/extension/{OWN_ID}/telephony/sessions"
        assert body["ownerId"] == OWN_ID
        assert faults("telephony-sessions", "ExtensionTelephonySessionsEvent", body) == []
        clock.turn(21)
        assert await codes(socket, 2) == ["Disconnected", "Disconnected"]


async def test_an_extensions_filter_takes_its_own_parties(clock: SimulatedClock) -> None:
    """Neither the caller's party nor another phone's; the account's filter takes all."""
    async with (
        calling(platform(clock)) as caller,
        connected(caller, extension(OTHER_ID)) as other,
        connected(caller, extension("~")) as own,
    ):
        place(caller)
        clock.turn(6)
        assert await codes(own, 3) == ["Setup", "Proceeding", "Answered"]
        await other.quiet()
        place(caller, Call(kind="inbound", extension="1002", number="+15550101234", rings_s=5))
        clock.turn(1)
        assert await codes(other, 2) == ["Setup", "Proceeding"]


async def test_what_happened_before_is_not_notified(clock: SimulatedClock) -> None:
    """Of a call that rang before the subscription only what comes later is notified."""
    async with calling(platform(clock)) as caller:
        place(caller)
        clock.turn(2)
        async with connected(caller, extension("~")) as socket:
            await socket.quiet()
            clock.turn(5)
            assert await codes(socket, 1) == ["Answered"]


async def test_a_second_subscription_replaces_the_first(clock: SimulatedClock) -> None:
    """One a connection: events of the first one's filters no longer come, and the id is another."""
    async with calling(platform(clock)) as caller, connected(caller) as socket:
        first = await socket.subscribe(extension("~"))
        second = await socket.subscribe(extension(OTHER_ID))
        assert first[1]["id"] != second[1]["id"]
        place(caller)
        clock.turn(2)
        await socket.quiet()


async def test_two_connections_get_the_same_event_with_one_uuid(clock: SimulatedClock) -> None:
    """Each in its own subscription, so that a client that changes connections can drop the double."""
    async with (
        calling(platform(clock)) as caller,
        connected(caller, extension("~")) as one,
        connected(caller, extension("~")) as two,
    ):
        place(caller)
        clock.turn(2)
        first, second = await one.notification(), await two.notification()
        assert first["uuid"] == second["uuid"]
        assert first["subscriptionId"] != second["subscriptionId"]


async def test_presence_events(clock: SimulatedClock) -> None:
    """Ringing, connected, no call: one event each, with the call, in the documented shape."""
    wanted = extension("~", "presence?detailedTelephonyState=true")
    async with calling(platform(clock)) as caller, connected(caller, wanted) as socket:
        place(caller)
        seen = []
        for seconds in (1, 5, 21):
            clock.turn(seconds)
            event = await socket.notification()
            assert faults("presence", "DetailedExtensionPresenceEvent", event) == []
            assert event["event"].endswith(f"/extension/{OWN_ID}/presence?detailedTelephonyState=true")
            (call,) = event["body"]["activeCalls"]
            seen.append((event["body"]["telephonyStatus"], call["telephonyStatus"], call.get("terminationType")))
        assert seen == [
            ("Ringing", "Ringing", None),
            ("CallConnected", "CallConnected", None),
            ("NoCall", "NoCall", "final"),
        ]


@dataclass
class Refused:
    filters: tuple[str, ...]
    status: int
    code: str
    permissions: frozenset[str] | None = None
    admin: bool = True


@pytest.mark.parametrize(
    "case",
    [
        Refused(("/restapi/v1.0/account/~/nowhere",), 400, "SUB-508"),
        Refused((extension("999"),), 400, "SUB-508"),
        Refused((extension("400300001", "presence?detailedTelephonyState=true"),), 403, "SUB-402"),
        Refused((extension("400200006", "presence?detailedTelephonyState=true"),), 403, "SUB-403"),
        Refused(("/restapi/v1.0/account/7/telephony/sessions",), 403, "SUB-406"),
        Refused((TELEPHONY,), 403, "CMN-401", permissions=frozenset({"WebSocket", "ReadPresence"})),
        Refused((extension("~", "presence"),), 403, "CMN-401", permissions=frozenset({"WebSocket", "CallControl"})),
        Refused((TELEPHONY, extension(OTHER_ID)), 403, "CMN-404", admin=False),
        Refused((), 400, "CMN-101"),
    ],
)
async def test_refused_filters(clock: SimulatedClock, case: Refused) -> None:
    """Each reason has its status and code, and the connection stays."""
    phones = [msgspec.structs.replace(one, presence_hidden=one.id == "400200006") for one in ACCOUNT.extensions]
    account = msgspec.structs.replace(ACCOUNT, extensions=tuple(phones))
    permissions = {} if case.permissions is None else {"permissions": case.permissions}
    credential = Credential(admin=case.admin, **permissions)
    story = played(Script(account=account), START)
    platform = Platform(story, clock=clock, credentials=[credential])
    async with calling(platform) as caller, connected(caller) as socket:
        wanted = {"eventFilters": list(case.filters), "deliveryMode": {"transportType": "WebSocket"}}
        meta, body = await socket.request(wanted)
        assert (meta["status"], body["errors"][0]["errorCode"]) == (case.status, case.code)
        await socket.quiet()


async def test_without_admin_rights_other_extensions_are_disabled(clock: SimulatedClock) -> None:
    """The own filter is granted, the others stand among `disabledFilters` as they were requested."""
    async with calling(platform(clock, credentials=[Credential(admin=False)])) as caller, connected(caller) as socket:
        _, body = await socket.subscribe(extension("~"), extension(OTHER_ID))
        assert [one["filter"] for one in body["disabledFilters"]] == [extension(OTHER_ID)]
        assert len(body["eventFilters"]) == 1
        assert faults("subscription", "SubscriptionInfo", body) == []


async def test_the_thirty_first_subscription_is_refused(clock: SimulatedClock) -> None:
    """SUB-505 for a user's too many subscriptions; replacing one is no further one."""
    async with (
        calling(platform(clock, push=Push(subscriptions_max=1))) as caller,
        connected(caller, TELEPHONY) as first,
        connected(caller) as second,
    ):
        meta, body = await second.subscribe()
        assert (meta["status"], body["errors"][0]["errorCode"]) == (403, "SUB-505")
        assert (await first.subscribe())[0]["status"] == 200


async def test_requests_over_the_socket_count_as_medium(clock: SimulatedClock) -> None:
    """Above the limit the answer is a 429 with its headers; the request log has each of them."""
    async with calling(platform(clock, limits=Limits(medium=1))) as caller, connected(caller, TELEPHONY) as socket:
        meta, body = await socket.subscribe()
        assert (meta["status"], body["errorCode"], meta["headers"]["Retry-After"]) == (429, "CMN-301", "60")
        logged = [one.status for one in caller.platform.requests if one.path == "/restapi/v1.0/subscription"]
        assert logged == [200, 429]


async def drop(caller: Caller) -> str:
    """A subscribed connection that is lost; gives its recovery token."""
    async with opened(caller) as socket:
        meta, _ = await socket.frame()
        await socket.subscribe()
        return str(meta["wsc"]["token"])


async def test_recovery_brings_what_was_missed(clock: SimulatedClock) -> None:
    """Within the same sign-in and in time: the subscription goes on, after the latest events since the loss."""
    async with calling(platform(clock, push=Push(recovery_buffer=3))) as caller:
        wsc = await drop(caller)
        place(caller)
        clock.turn(6)
        await caller.get(COMPANY + "/active-calls")
        async with opened(caller, wsc=wsc) as socket:
            _, body = await socket.frame()
            assert body["recoveryState"] == "Successful"
            assert await codes(socket, 3) == ["Answered", "Proceeding", "Answered"]
            clock.turn(21)
            assert await codes(socket, 2) == ["Disconnected", "Disconnected"]
        async with opened(caller, wsc=wsc) as socket:
            assert (await socket.frame())[1]["errorCode"] == "WSG-400"


@pytest.mark.parametrize(("why", "code"), [("sign-in", "WSG-1003"), ("never", "WSG-1005"), ("late", "WSG-1005")])
async def test_recovery_fails(clock: SimulatedClock, why: str, code: str) -> None:
    """Another sign-in, no subscription, or too late: the connection stays, and can subscribe again."""
    async with calling(platform(clock)) as caller:
        if why == "never":
            async with opened(caller) as socket:
                wsc = (await socket.frame())[0]["wsc"]["token"]
        else:
            wsc = await drop(caller)
        if why == "sign-in":
            await caller.log_in()
        if why == "late":
            await ws_token(caller)
            clock.turn(180)
        async with opened(caller, wsc=wsc) as socket:
            _, body = await socket.frame()
            assert list(body) == list(recorded("jswidgets-connectionDetails-recovery-failed")[1])
            assert (body["recoveryState"], body["recoveryErrorCode"]) == ("Failed", code)
            assert (await socket.subscribe())[0]["status"] == 200


async def test_an_unknown_recovery_token_ends_the_connection(clock: SimulatedClock) -> None:
    """Error WSG-400, then the close."""
    async with calling(platform(clock)) as caller, opened(caller, wsc="unknown") as socket:
        meta, body = await socket.frame()
        assert (meta["type"], body["errorCode"]) == ("Error", "WSG-400")
        assert await socket.closed() == 1000


@pytest.mark.parametrize(("rules", "code"), [(Push(idle_s=100), "WSG-902"), (Push(absolute_s=100), "WSG-903")])
async def test_a_connection_ends_in_time(clock: SimulatedClock, rules: Push, code: str) -> None:
    """Idle, or too old: an Error frame says which, then the close. A heartbeat keeps an idle one."""
    async with calling(platform(clock, push=rules)) as caller, connected(caller) as socket:
        clock.turn(60)
        await socket.quiet()
        clock.turn(60)
        if code == "WSG-902":
            clock.turn(60)
        meta, body = await socket.frame()
        assert (meta["type"], body["errorCode"]) == ("Error", code)
        assert await socket.closed() == 1000


async def test_a_subscription_stops_without_a_word_when_its_sign_in_ends(clock: SimulatedClock) -> None:
    """The connection stays and answers; events come no more. So it is with a sixth sign-in."""
    async with calling(platform(clock)) as caller, connected(caller, TELEPHONY) as socket:
        for _ in range(5):
            await caller.log_in()
        place(caller)
        clock.turn(2)
        await socket.quiet()


async def test_a_renewed_sign_in_keeps_its_subscription(clock: SimulatedClock) -> None:
    """A refresh is the same sign-in, so that events go on after the first access token's end."""
    async with calling(platform(clock, refresh_tokens=True, token_ttl_s=100)) as caller:
        credential = Credential()
        form = {"grant_type": "urn:ietf:params:oauth:grant-type:jwt-bearer", "assertion": credential.jwt}
        answer = await caller.post_token(credential, **form)
        caller.token = answer.body["access_token"]
        async with connected(caller, TELEPHONY) as socket:
            refresh = {"grant_type": "refresh_token", "refresh_token": answer.body["refresh_token"]}
            await caller.post_token(credential, **refresh)
            clock.turn(150)
            place(caller)
            clock.turn(1)
            assert await codes(socket, 1) == ["Setup"]


async def test_a_client_that_does_not_answer_pings_is_dropped() -> None:
    """The gateway pings, and ends a connection whose pong does not come within half of the interval."""
    story = played(Script(account=ACCOUNT), START)
    async with calling(Platform(story, push=Push(ping_s=0.1))) as caller:
        token = (await ws_token(caller))["ws_access_token"]
        url = f"{caller.url}/ws?access_token={token}"
        async with caller.http.ws_connect(url, autoping=False) as ws:
            kinds = [(await ws.receive(10)).type for _ in range(3)]
        assert kinds[:2] == [aiohttp.WSMsgType.TEXT, aiohttp.WSMsgType.PING]
        assert kinds[2] in (aiohttp.WSMsgType.CLOSE, aiohttp.WSMsgType.CLOSED, aiohttp.WSMsgType.ERROR)


async def test_in_real_time_nothing_has_to_be_turned() -> None:
    """A call that begins in a moment is notified then, by a clock that runs."""
    clock = SimulatedClock(START, speed=20)
    async with calling(platform(clock)) as caller, connected(caller, TELEPHONY) as socket:
        place(caller, Call(kind="inbound", extension="1001", at_s=2, rings_s=5))
        event = await socket.notification()
        assert clock.now() >= START + timedelta(seconds=2)
        assert event["body"]["sequence"] == 2
