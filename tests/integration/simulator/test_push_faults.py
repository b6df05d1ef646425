"""What can go wrong with a WebSocket, each as a client sees it."""

import json
from typing import Any

import aiohttp
import pytest

from callcast.simulator import Fault, Platform, SimulatedClock
from callcast.simulator.faults import Faults
from callcast.simulator.scenarios import load, played
from callcast.simulator.script import read
from tests.integration.simulator.caller import OWN, Caller, calling
from tests.integration.simulator.conftest import START
from tests.integration.simulator.sockets import TELEPHONY, Socket, codes, connected, opened, ws_token
from tests.integration.simulator.test_push import drop, place, platform

ALL = ["Setup", "Setup", "Answered", "Proceeding"]  # of the test's call, in its first second


class Client:
    """Stands for a connection."""


async def ring(caller: Caller, clock: SimulatedClock) -> None:
    place(caller)
    clock.turn(1)


async def sequences(socket: Socket, number: int) -> list[int]:
    return [(await socket.notification())["body"]["sequence"] for _ in range(number)]


def test_what_happens_once_happens_to_each_connection() -> None:
    """Also to one that has the memory of an earlier one."""
    faults = Faults()
    faults.add(Fault(kind="ws_drop", for_s=60), START)
    assert [len(list(faults.once(Client(), START, START))) for _ in range(100)] == [1] * 100
    kept = Client()
    assert [len(list(faults.once(kept, START, START))) for _ in range(3)] == [1, 0, 0]


async def test_drop_is_a_reset(clock: SimulatedClock) -> None:
    """Each open connection ends at once without a close frame; later ones stay."""
    async with calling(platform(clock)) as caller:
        async with connected(caller, TELEPHONY) as one, connected(caller) as two:
            caller.platform.strike(Fault(kind="ws_drop"))
            assert [await one.closed(), await two.closed()] == [1006, 1006]
        clock.turn(1)
        async with connected(caller, TELEPHONY) as socket:
            await ring(caller, clock)
            assert await codes(socket, 4) == ALL


async def test_drop_can_wait_and_last(clock: SimulatedClock) -> None:
    """`from_s` says when; with `for_s` connections that are opened meanwhile are hit too."""
    async with calling(platform(clock)) as caller:
        caller.platform.strike(Fault(kind="ws_drop", from_s=10, for_s=60))
        async with connected(caller) as socket:
            await socket.quiet()
            clock.turn(10)
            assert await socket.closed() == 1006
        clock.turn(30)
        async with opened(caller) as socket:
            assert await socket.closed() == 1006
        clock.turn(30)
        async with connected(caller) as socket:
            await socket.quiet()


async def test_silence(clock: SimulatedClock) -> None:
    """Open, and nothing comes: no events, no answers, no pongs. What was missed can be recovered."""
    async with calling(platform(clock)) as caller:
        token = (await ws_token(caller))["ws_access_token"]
        url = f"{caller.url}/ws?access_token={token}"
        async with caller.http.ws_connect(url, autoping=False) as ws:
            socket = Socket(ws)
            wsc = (await socket.frame())[0]["wsc"]["token"]
            await socket.subscribe()
            number = caller.platform.strike(Fault(kind="ws_silence"))
            await ring(caller, clock)
            await ws.ping()
            await ws.send_str('[{"type":"Heartbeat","messageId":"unanswered"}]')
            with pytest.raises(TimeoutError):
                await ws.receive(0.1)
        caller.platform.faults.remove(number)
        async with opened(caller, wsc=wsc) as socket:
            assert (await socket.frame())[1]["recoveryState"] == "Successful"
            assert await codes(socket, 4) == ALL


async def test_silence_from_the_first_frame_on(clock: SimulatedClock) -> None:
    """A connection that is opened during a silence is not even greeted."""
    async with calling(platform(clock)) as caller:
        caller.platform.strike(Fault(kind="ws_silence"))
        async with opened(caller) as socket:
            with pytest.raises(TimeoutError):
                await socket.ws.receive(0.1)


async def test_deaf(clock: SimulatedClock) -> None:
    """Heartbeats are answered, events do not come, and are lost; afterwards they come again."""
    async with calling(platform(clock)) as caller, connected(caller, TELEPHONY) as socket:
        caller.platform.strike(Fault(kind="ws_deaf", for_s=3))
        await ring(caller, clock)
        await socket.quiet()
        clock.turn(5)
        assert await codes(socket, 1) == ["Answered"]


async def test_one_mute_extension(clock: SimulatedClock) -> None:
    """`path` chooses events: here those of one extension's party."""
    async with calling(platform(clock)) as caller, connected(caller, TELEPHONY) as socket:
        caller.platform.strike(Fault(kind="ws_deaf", path="*/extension/400200001/*"))
        await ring(caller, clock)
        assert await sequences(socket, 2) == [2, 4]


async def test_some_are_lost(clock: SimulatedClock) -> None:
    """About as many as `p` says, and the same ones each time."""
    runs: list[list[str]] = []
    for _ in range(2):
        clock = SimulatedClock(START, speed=0)
        async with calling(platform(clock)) as caller, connected(caller, TELEPHONY) as socket:
            caller.platform.strike(Fault(kind="ws_lose", p=0.3))
            for _ in range(25):
                place(caller)
            clock.turn(60)
            await socket.ws.send_str('[{"type":"Heartbeat","messageId":"last"}]')
            runs.append([])
            while len(frame := await socket.frame()) == 2:
                runs[-1].append(frame[1]["uuid"])
    assert runs[0] == runs[1]
    assert 0.5 < len(runs[0]) / (25 * 7) < 0.9


async def test_some_come_twice(clock: SimulatedClock) -> None:
    """With the same uuid."""
    async with calling(platform(clock)) as caller, connected(caller, TELEPHONY) as socket:
        caller.platform.strike(Fault(kind="ws_duplicate"))
        await ring(caller, clock)
        first, second = await socket.notification(), await socket.notification()
        assert first == second
        assert await sequences(socket, 6) == [3, 3, 4, 4, 5, 5]


async def test_some_come_behind_the_next(clock: SimulatedClock) -> None:
    """Sequences come in another order, and none is missing."""
    async with calling(platform(clock)) as caller, connected(caller, TELEPHONY) as socket:
        caller.platform.strike(Fault(kind="ws_reorder"))
        await ring(caller, clock)
        assert await sequences(socket, 4) == [3, 2, 5, 4]


async def test_the_last_one_is_not_held_for_ever(clock: SimulatedClock) -> None:
    """Where no next one comes, a held notification is sent after a second."""
    async with calling(platform(clock)) as caller, connected(caller, TELEPHONY) as socket:
        caller.platform.strike(Fault(kind="ws_reorder", count=1))
        place(caller)
        clock.turn(0.12)
        assert await sequences(socket, 1) == [2]


async def test_some_come_late(clock: SimulatedClock) -> None:
    """By so many seconds of this machine; the later ones need not wait for them."""
    async with calling(platform(clock)) as caller, connected(caller, TELEPHONY) as socket:
        caller.platform.strike(Fault(kind="ws_delay", delay_s=0.05, delay_most_s=0.1, count=1))
        await ring(caller, clock)
        assert await sequences(socket, 4) == [3, 4, 5, 2]


@pytest.mark.parametrize("status", [401, 403, 503])
async def test_refused_with_a_status(clock: SimulatedClock, status: int) -> None:
    """The handshake ends with it; the token is not used up."""
    async with calling(platform(clock)) as caller:
        caller.platform.strike(Fault(kind="ws_refuse", status=status, count=1))
        token = (await ws_token(caller))["ws_access_token"]
        with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
            async with opened(caller, token=token):
                pass
        assert refused.value.status == status
        async with opened(caller, token=token) as socket:
            assert (await socket.frame())[0]["type"] == "ConnectionDetails"


async def test_refused_with_a_close_code(clock: SimulatedClock) -> None:
    """4400 comes after a handshake that succeeds."""
    async with calling(platform(clock)) as caller:
        caller.platform.strike(Fault(kind="ws_refuse", status=4400))
        async with opened(caller) as socket:
            assert await socket.closed() == 4400


async def test_a_handshake_that_is_not_answered(clock: SimulatedClock) -> None:
    """Status 0: nothing comes at all, and the platform still stops."""
    async with calling(platform(clock)) as caller:
        caller.platform.strike(Fault(kind="ws_refuse", status=0))
        token = (await ws_token(caller))["ws_access_token"]
        timeout = aiohttp.ClientTimeout(total=0.1)
        async with aiohttp.ClientSession(timeout=timeout) as http:
            with pytest.raises(TimeoutError):
                await http.ws_connect(f"{caller.url}/ws?access_token={token}")


@pytest.mark.parametrize("code", [None, "WSG-902", "WSG-903"])
async def test_expired(clock: SimulatedClock, code: str | None) -> None:
    """The Error frame of a timeout, then the close; it can be recovered."""
    async with calling(platform(clock)) as caller:
        async with opened(caller) as socket:
            wsc = (await socket.frame())[0]["wsc"]["token"]
            await socket.subscribe()
            caller.platform.strike(Fault(kind="ws_expire", code=code))
            meta, body = await socket.frame()
            assert (meta["type"], body["errorCode"]) == ("Error", code or "WSG-903")
            assert await socket.closed() == 1000
        await ring(caller, clock)
        async with opened(caller, wsc=wsc) as socket:
            assert (await socket.frame())[1]["recoveryState"] == "Successful"
            assert await codes(socket, 4) == ALL


async def test_unrecoverable(clock: SimulatedClock) -> None:
    """A recovery that would succeed fails."""
    async with calling(platform(clock)) as caller:
        wsc = await drop(caller)
        caller.platform.strike(Fault(kind="ws_unrecoverable", count=1))
        async with opened(caller, wsc=wsc) as socket:
            assert (await socket.frame())[1]["recoveryErrorCode"] == "WSG-1003"


async def test_garbage_and_too_much(clock: SimulatedClock) -> None:
    """A frame that is not JSON, and one that is larger than a client takes."""
    async with calling(platform(clock)) as caller, connected(caller) as socket:
        caller.platform.strike(Fault(kind="ws_garbage"))
        message = await socket.ws.receive(10)
        with pytest.raises(json.JSONDecodeError):
            json.loads(message.data)
        await socket.quiet()
        caller.platform.strike(Fault(kind="ws_huge", size_mb=2))
        assert await socket.closed() == 1009


async def test_faults_of_a_scenario_file(clock: SimulatedClock) -> None:
    """They begin with the platform; what a call is, is not theirs."""
    text = b'[account]\nid = "1"\nextensions = [{id = "2", number = "3", name = "A", direct = "4"}]\n'
    script = read(text + b'[[faults]]\nkind = "ws_refuse"\nstatus = 4400\n')
    async with calling(Platform(played(script, START), clock=clock)) as caller, opened(caller) as socket:
        assert await socket.closed() == 4400


async def test_faults_by_the_admin_call(clock: SimulatedClock) -> None:
    """As any other fault: added, listed with how often it was met, removed."""
    async with calling(platform(clock)) as caller, connected(caller, TELEPHONY) as socket:
        async with caller.http.post(
            caller.url + "/simulator/faults", json={"kind": "ws_lose", "p": 1, "path": "*/telephony/*"}
        ) as response:
            assert response.status == 201
        await ring(caller, clock)
        await socket.quiet()
        async with caller.http.get(caller.url + "/simulator/faults") as response:
            (fault,) = await response.json()
        assert (fault["kind"], fault["met"]) == ("ws_lose", 4)


@pytest.mark.parametrize("name", ["office", "quiet", "busy", "seed"])
async def test_scenarios_grant_a_subscription(clock: SimulatedClock, name: str) -> None:
    """By default, as the real platform does for an app with the permissions."""
    async with calling(Platform(load(name, START), clock=clock)) as caller, connected(caller) as socket:
        assert (await socket.subscribe())[0]["status"] == 200


async def test_a_recording_knows_no_presence(clock: SimulatedClock) -> None:
    """Only lists were recorded: a presence that claimed to know would contradict them."""
    async with calling(Platform(load("seed", START), clock=clock)) as caller:
        answer = await caller.get(OWN + "/presence", detailedTelephonyState="true")
        assert (answer.status, "telephonyStatus" in answer.body) == (200, False)


@pytest.mark.parametrize("kind", ["truncated", "charset", "half", "empty", "bad_records", "slow"])
async def test_faults_of_answers_leave_a_connection_alone(clock: SimulatedClock, kind: Any) -> None:
    """One without a path concerns each answer, and a connection has none."""
    async with calling(platform(clock)) as caller:
        token = (await ws_token(caller))["ws_access_token"]
        caller.platform.strike(Fault(kind=kind, delay_s=0))
        async with opened(caller, token=token) as socket:
            assert (await socket.frame())[0]["type"] == "ConnectionDetails"
            await socket.quiet()
        caller.platform.faults.clear()
        async with connected(caller) as socket:
            await socket.quiet()
