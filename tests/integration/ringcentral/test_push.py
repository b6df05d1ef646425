"""Push against a real WebSocket server on this machine whose every answer the test sets."""

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest

from callcast.calls.model import Target
from callcast.ringcentral import push, push_connection
from tests.integration.ringcentral.push_server import CANARY, TARGETS, World, world
from tests.unit.ringcentral.test_frames import call, party_event, presence_event


@pytest.fixture
async def stage() -> AsyncIterator[World]:
    async with world() as made:
        yield made


TELEPHONY = [f"/restapi/v1.0/account/~/extension/{one}/telephony/sessions" for one in ("7", "8")]
PRESENCE = [f"/restapi/v1.0/account/~/extension/{one}/presence?detailedTelephonyState=true" for one in ("7", "8")]


async def test_a_call_is_hinted_step_by_step(stage: World) -> None:
    async with stage.running():
        await stage.up()
        assert all(map(stage.hints.covers, TARGETS))
        for sequence, code in enumerate(["Setup", "Proceeding", "Answered", "Hold", "Disconnected"], 1):
            await stage.server.push(party_event(code, sequence))
        await stage.until(lambda: len(stage.noted.hints) == 3)
    assert stage.server.subscribed == [TELEPHONY]
    assert stage.noted.steps() == [("7", "started"), ("7", "answered"), ("7", "ended")]
    first = stage.noted.hints[0]
    assert (first.target, first.session_id, first.party_id, first.via) == (TARGETS[0], "s-1", "p-1", "push")
    assert stage.noted.ignored == {"no_change": 2}
    assert stage.noted.connected == ["subscribed"]
    assert stage.noted.changes == ["push up"]
    assert stage.server.sockets == []
    assert ("medium", 40, 39, 0.0) in stage.noted.limits


async def test_account(stage: World) -> None:
    stage.targets = [Target(source="acme")]
    async with stage.running():
        await stage.up()
        await stage.server.push(party_event("Setup", 1, extension=None, path="", party="p-1"))
        await stage.server.push(party_event("Setup", 2, extension="99", party="p-2"))
        await stage.until(lambda: stage.noted.hints)
        assert stage.hints.covers(stage.targets[0])
    assert stage.server.subscribed == [["/restapi/v1.0/account/~/telephony/sessions"]]
    assert [(hint.target, hint.extension_id) for hint in stage.noted.hints] == [(Target(source="acme"), "99")]
    assert stage.noted.ignored == {"unwatched": 1}


async def test_what_is_not_watched_or_not_ours_is_ignored(stage: World) -> None:
    async with stage.running():
        await stage.up()
        await stage.server.push(party_event("Setup", 1, extension="9"))
        await stage.server.push(party_event("Setup", 2, party="p-2"), subscription="of another program")
        await stage.server.push(party_event("Setup", 3, party="p-3"))
        await stage.until(lambda: stage.noted.hints)
    assert [hint.party_id for hint in stage.noted.hints] == ["p-3"]
    assert stage.noted.ignored == {"unwatched": 1}


async def test_the_first_event_can_follow_the_subscription_at_once(stage: World) -> None:
    """They may be one read of the socket."""

    def accept(filters: Sequence[str]) -> tuple[int, Any]:
        asyncio.get_running_loop().call_soon(lambda: asyncio.ensure_future(stage.server.push(party_event("Setup", 1))))
        return stage.server.accept(filters)

    stage.server.subscription = accept
    async with stage.running():
        await stage.until(lambda: stage.noted.hints)


# What is permitted


def refusing(*ids: str, kind: str, status: int = 400, code: str = "SUB-508") -> Any:
    def subscription(filters: Sequence[str]) -> tuple[int, Any]:
        bad = [one for one in filters if kind in one and any(f"/extension/{i}/" in one for i in ids)]
        if bad:
            return status, {"errors": [{"errorCode": code, "message": f"not permitted: {', '.join(bad)}"}]}
        return 200, {"id": "sub-ok", "eventFilters": list(filters)}

    return subscription


async def test_a_refused_filter_falls_back_to_presence(stage: World) -> None:
    stage.server.subscription = refusing("8", kind="telephony")
    async with stage.running():
        await stage.up()
        await stage.server.push(presence_event(1, call("Ringing")), subscription="sub-ok")
        await stage.until(lambda: stage.noted.hints)
    assert stage.server.subscribed == [TELEPHONY, [TELEPHONY[0], PRESENCE[1]]]
    assert stage.noted.subscribed == [(2, {})]


async def test_a_filter_that_is_left_out_falls_back_as_well(stage: World) -> None:
    def subscription(filters: Sequence[str]) -> tuple[int, Any]:
        disabled = [{"filter": one, "reason": "Forbidden"} for one in filters if "extension/8/" in one]
        good = [one.replace("~", "123") for one in filters if "extension/8/" not in one]
        return 200, {"id": "sub-ok", "eventFilters": good, "disabledFilters": disabled}

    stage.server.subscription = subscription
    async with stage.running():
        await stage.up()
        assert [stage.hints.covers(one) for one in TARGETS] == [True, False]
    assert len(stage.server.subscribed) == 2
    count, refused = stage.noted.subscribed[0]
    assert count == 1
    assert "CallControl" in refused["8"]
    assert "ReadPresence" in refused["8"]


@pytest.mark.parametrize("named", [True, False])
async def test_without_any_permission_push_is_refused_and_asked_again_after_an_hour(stage: World, named: bool) -> None:
    def subscription(filters: Sequence[str]) -> tuple[int, Any]:
        message = ", ".join(filters) if named else "no access"
        return 403, {"errors": [{"errorCode": "CMN-401", "message": message, "permissionName": "CallControl"}]}

    stage.server.subscription = subscription
    async with stage.running():
        await stage.until(lambda: stage.noted.refused)
        assert not any(map(stage.hints.covers, TARGETS))
        assert "CallControl" in stage.noted.refused[0]
        assert "add it to the app" in stage.noted.refused[0]
        await stage.clock.turn(push.REFUSED_EVERY_S - 1)
        assert stage.server.wstokens == 1
        stage.server.subscription = stage.server.accept
        await stage.up()
    assert stage.server.subscribed[:2] == [TELEPHONY, PRESENCE]
    assert stage.noted.changes == ["push up"]


async def test_refused_filters_named_one_by_one_cost_few_requests(stage: World) -> None:
    stage.targets = [Target(source="acme", extension_id=str(n)) for n in range(100, 140)]

    def subscription(filters: Sequence[str]) -> tuple[int, Any]:
        bad = [one for one in filters if "telephony" in one]
        return (400, {"message": f"SUB-508 {bad[0]}"}) if bad else (200, {"id": "s", "eventFilters": list(filters)})

    stage.server.subscription = subscription
    async with stage.running():
        await stage.up()
    assert len(stage.server.subscribed) <= push_connection.ASKS_MAX
    assert stage.noted.subscribed == [(40, {})]


async def test_without_the_permission_for_wstoken_nothing_is_connected(stage: World) -> None:
    stage.server.wstoken_status, stage.server.wstoken_body = 403, {"errorCode": "CMN-999", "message": "denied"}
    async with stage.running():
        await stage.until(lambda: stage.noted.refused)
        await stage.clock.turn(push.REFUSED_EVERY_S - 1)
    assert stage.server.wstokens == 1
    assert stage.noted.connected == ["refused"]
    assert push_connection.PUSH_PERMISSION in stage.noted.refused[0]


async def test_many_extensions_use_the_filter_of_the_account(stage: World) -> None:
    stage.targets = [Target(source="acme", extension_id=str(n)) for n in range(1, 602)]
    async with stage.running():
        await stage.up()
        assert all(map(stage.hints.covers, stage.targets))
        await stage.server.push(party_event("Setup", 1, extension="600"))
        await stage.until(lambda: stage.noted.hints)
    assert stage.server.subscribed == [["/restapi/v1.0/account/~/telephony/sessions"]]
    assert stage.noted.hints[0].target == Target(source="acme", extension_id="600")


async def test_many_extensions_without_the_filter_of_the_account_use_several_connections(stage: World) -> None:
    stage.targets = [Target(source="acme", extension_id=str(n)) for n in range(1, 602)]

    def subscription(filters: Sequence[str]) -> tuple[int, Any]:
        if len(filters) == 1:
            return 403, {"message": "no administrator"}
        return 200, {"id": f"sub-{len(filters)}", "eventFilters": list(filters)}

    stage.server.subscription = subscription
    async with stage.running():
        await stage.until(lambda: all(map(stage.hints.covers, stage.targets)), turn_s=5)
        assert len(stage.server.sockets) == 2
    assert sorted(map(len, stage.server.subscribed)) == [1, 101, 500]


# Connections that are lost


async def test_a_lost_connection_is_continued(stage: World) -> None:
    async with stage.running():
        await stage.up()
        await stage.server.drop()
        await stage.until(lambda: stage.noted.changes[-1] == "push lost")
        assert not stage.hints.covers(TARGETS[0])
        stage.server.details = lambda request: {"recoveryState": "Successful" if "wsc" in request.query else None}
        await stage.until(lambda: len(stage.noted.changes) == 3, turn_s=1)
        assert stage.hints.covers(TARGETS[0])
        await stage.server.push(party_event("Setup", 1))
        await stage.until(lambda: stage.noted.hints)
    assert stage.noted.changes == ["push up", "push lost", "push recovered"]
    assert len(stage.server.subscribed) == 1  # the subscription goes on
    assert stage.server.queries[1]["wsc"] == f"{CANARY}-wsc-1"
    assert stage.noted.lost[0][0] == "network"


async def test_a_failed_continuation_subscribes_again_on_the_same_connection(stage: World) -> None:
    async with stage.running():
        await stage.up()
        await stage.server.drop()
        stage.server.details = lambda _: {"recoveryState": "Failed", "recoveryErrorCode": "WSG-1003"}
        await stage.until(lambda: stage.noted.changes == ["push up", "push lost", "push up"], turn_s=1)
    assert len(stage.server.queries) == 2
    assert stage.server.subscribed == [TELEPHONY, TELEPHONY]


async def test_after_the_time_for_it_a_connection_is_not_continued(stage: World) -> None:
    stage.server.details = lambda _: {"recoveryTimeout": 120}
    async with stage.running():
        await stage.up()
        stage.server.handshake_status = 503
        await stage.server.drop()
        await stage.until(lambda: stage.noted.lost)
        await stage.clock.turn(70)
        await stage.until(lambda: len(stage.noted.lost) == 2)
        await stage.clock.turn(60)
        stage.server.handshake_status = 101
        await stage.until(lambda: stage.noted.changes[-1] == "push up", turn_s=1)
    assert "wsc" in stage.server.queries[1]
    assert "wsc" not in stage.server.queries[-1]


async def test_pauses_between_attempts_grow(stage: World) -> None:
    stage.server.handshake_status = 503
    async with stage.running():
        await stage.until(lambda: len(stage.noted.lost) == 10, turn_s=10)
    assert [wait_s for *_, wait_s in stage.noted.lost] == [1, 2, 5, 10, 30, 60, 120, 300, 300, 300]
    assert {reason for reason, *_ in stage.noted.lost} == {"handshake"}


async def test_at_most_two_wstokens_a_minute(stage: World) -> None:
    stage.server.handshake_status = 503
    requested_at: list[float] = []
    async with stage.running():
        while stage.clock.monotonic() < 300:
            before = stage.server.wstokens
            await stage.clock.turn(0.5)
            await asyncio.sleep(0.002)
            requested_at += [stage.clock.monotonic()] * (stage.server.wstokens - before)
    assert len(requested_at) >= 6
    assert all(later - first >= 60 for first, later in zip(requested_at, requested_at[2:], strict=False))


async def test_the_server_says_why_it_closes(stage: World) -> None:
    async with stage.running():
        await stage.up()
        error = json.dumps([{"type": "Error", "status": 400}, {"errorCode": "WSG-902", "message": "idle"}])
        await stage.server.sockets[0].send_str(error)
        await stage.server.sockets[0].close(code=4400)
        await stage.until(lambda: stage.noted.lost)
    assert stage.noted.lost[0][:2] == ("closed", "the push server closed the connection (4400, code WSG-902)")


async def test_no_first_frame(stage: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(push_connection, "ANSWER_TIMEOUT_S", 0.1)
    stage.server.first_frame = json.dumps([{"type": "Other"}])
    async with stage.running():
        await stage.until(lambda: stage.noted.lost)
        await stage.until(lambda: not stage.server.sockets)
    assert stage.noted.lost[0][0] == "timeout"


async def test_an_error_instead_of_the_first_frame(stage: World) -> None:
    stage.server.first_frame = json.dumps([{"type": "Error"}, {"errorCode": "WSG-400"}])
    async with stage.running():
        await stage.until(lambda: stage.server.sockets)
        await stage.server.sockets[0].close()
        await stage.until(lambda: stage.noted.lost)
    assert "WSG-400" in stage.noted.lost[0][1]


async def test_garbage_ends_a_connection_when_it_repeats(stage: World) -> None:
    async with stage.running():
        await stage.up()
        for text in ("<html>", "{", "[]"):
            assert not stage.noted.lost
            await stage.server.sockets[0].send_str(text)
        await stage.until(lambda: stage.noted.lost)
    assert stage.noted.lost[0][0] == "garbage"


async def test_frames_of_other_kinds_are_no_garbage(stage: World) -> None:
    async with stage.running():
        await stage.up()
        for text in ('[{"type":"New"}]', '[{"type":"ClientRequest"},--B\r\n{}\r\n--B--]', "[{}, 1]") * 3:
            await stage.server.sockets[0].send_str(text)
        await stage.server.push(party_event("Setup", 1))
        await stage.until(lambda: stage.noted.hints)
    assert not stage.noted.lost


async def test_a_huge_frame_ends_the_connection(stage: World) -> None:
    async with stage.running():
        await stage.up()
        await stage.server.sockets[0].send_str("x" * (push_connection.FRAME_BYTES_MAX + 1))
        await stage.until(lambda: stage.noted.lost)
    assert stage.noted.lost[0][:2] == ("garbage", "a frame is too large")


async def test_a_silent_server_is_lost(stage: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(push_connection, "PING_S", 0.1)
    async with stage.running():
        await stage.up()
        request = stage.server.sockets[0]._req
        assert request is not None
        assert request.transport is not None
        request.transport.pause_reading()  # type: ignore[attr-defined]
        await stage.until(lambda: stage.noted.lost)
    assert stage.noted.lost[0][0] == "network"


async def test_a_quiet_connection_gets_heartbeats(stage: World) -> None:
    async with stage.running():
        await stage.up()
        await stage.until(lambda: stage.server.heartbeats == 2, turn_s=5)
        assert stage.clock.monotonic() >= 2 * push_connection.HEARTBEAT_S
    assert not stage.noted.lost


# A new OAuth session


async def renew(stage: World) -> None:
    stage.client._tokens._sign_ins.forget(stage.client._tokens.credential)
    await stage.client._tokens.current()


async def test_with_a_new_oauth_session_the_next_connection_opens_before_the_old_one_closes(stage: World) -> None:
    async with stage.running():
        await stage.up()
        await renew(stage)
        await stage.until(lambda: len(stage.server.subscribed) == 2, turn_s=1)
        assert len(stage.server.sockets) == 2
        await stage.server.push(party_event("Setup", 1), socket=0, subscription="sub-1")
        await stage.server.push(party_event("Setup", 1), socket=1)  # both announce it
        await stage.until(lambda: stage.noted.ignored.get("duplicate"))
        await stage.until(lambda: len(stage.server.sockets) == 1, turn_s=1)
        await stage.server.push(party_event("Answered", 2))
        await stage.until(lambda: len(stage.noted.hints) == 2)
    assert stage.noted.changes == ["push up"]  # no gap
    assert "wsc" not in stage.server.queries[1]


async def test_a_refreshed_token_keeps_the_connection(stage: World) -> None:
    stage.server.refresh_tokens = True
    async with stage.running():
        await stage.up()
        await stage.clock.turn(3300)  # the token is renewed when it is used
        await stage.client._tokens.current()
        await stage.until(lambda: stage.server.tokens == 2)
        await stage.clock.turn(60)
    assert len(stage.server.queries) == 1


async def test_a_connection_is_replaced_before_the_platform_closes_it(
    stage: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(push, "LIFETIME_S", 100.0)
    async with stage.running():
        await stage.up()
        await stage.until(lambda: len(stage.server.subscribed) == 2, turn_s=5)
        assert 100 <= stage.clock.monotonic() < 120
    assert stage.noted.changes == ["push up"]


async def test_a_failed_replacement_keeps_the_old_connection(stage: World) -> None:
    async with stage.running():
        await stage.up()
        await renew(stage)
        stage.server.handshake_status = 503
        await stage.until(lambda: stage.noted.lost, turn_s=1)
        await stage.server.push(party_event("Setup", 1))
        await stage.until(lambda: stage.noted.hints)
        assert stage.hints.covers(TARGETS[0])
        stage.server.handshake_status = 101
        await stage.until(lambda: len(stage.server.subscribed) == 2, turn_s=1)
    assert stage.noted.changes == ["push up"]


async def test_a_token_that_is_rejected_is_renewed_once(stage: World) -> None:
    await stage.client._tokens.current()
    await stage.clock.turn(60)  # a token that was just issued is not renewed
    stage.server.wstoken_statuses = [401]
    async with stage.running():
        await stage.up()
    assert (stage.server.tokens, stage.server.wstokens) == (2, 2)


# What must not happen


@pytest.mark.parametrize("status", [301, 302, 307, 401, 403, 404, 429, 500, 503])
async def test_no_token_in_what_is_reported(
    stage: World, status: int, caplog: pytest.LogCaptureFixture, recwarn: pytest.WarningsRecorder
) -> None:
    stage.server.handshake_status = status
    async with stage.running():
        await stage.until(lambda: len(stage.noted.lost) == 2, turn_s=5)
    shown = repr(stage.noted.lost) + caplog.text + "".join(str(one.message) for one in recwarn)
    assert CANARY not in shown
    assert "access_token" not in shown
    assert len(stage.server.queries) == 2  # redirects are not followed


async def failure_of(stage: World) -> BaseException:
    connector = stage.hints._push._connector  # type: ignore[attr-defined]
    connecting = asyncio.ensure_future(connector.connect(lambda _: None))
    await stage.until(connecting.done, turn_s=5)
    error: BaseException = connecting.exception()
    return error


async def test_no_token_in_any_exception(stage: World) -> None:
    """Neither in its text nor in those of the exceptions that it replaced."""
    failures = []
    for status in (302, 401, 503):
        stage.server.handshake_status = status
        failures.append(await failure_of(stage))
    unreachable = {"uri": "ws://127.0.0.1:1/ws", "ws_access_token": CANARY}
    for body in (
        unreachable,
        {"uri": f"http://{CANARY}.example.com", "ws_access_token": CANARY},
        [CANARY],
        {"uri": CANARY},
    ):
        stage.server.wstoken_body = body
        failures.append(await failure_of(stage))
    assert [type(one).__name__ for one in failures] == ["Lost"] * 5 + ["PollFailed"] * 2
    for error in failures:
        assert error.__context__ is None
        assert error.__cause__ is None
        assert CANARY not in str(error) + repr(error)


@pytest.mark.parametrize("uri", ["ws://push.example.com/ws", "https://push.example.com/ws", "wss://", "", "::"])
async def test_only_wss_is_connected(stage: World, uri: str) -> None:
    stage.server.wstoken_body = {"uri": uri, "ws_access_token": CANARY}
    assert "not wss://" in str(await failure_of(stage))


async def test_a_burst_does_not_hold_the_loop(stage: World) -> None:
    async with stage.running():
        await stage.up()
        turns = 0

        async def count() -> None:
            nonlocal turns
            while len(stage.noted.hints) < 1000:
                await asyncio.sleep(0)
                turns += 1

        counting = asyncio.create_task(count())
        for n in range(1000):
            await stage.server.push(party_event("Setup", 1, party=f"p-{n}"))
        await stage.until(counting.done)
    assert turns >= 1000 / push_connection.YIELD_EVERY
