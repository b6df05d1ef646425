"""What the online check says of the ways of hints, against the simulated platform."""

from collections.abc import Sequence
from itertools import product
from typing import Any

import pytest
from aiohttp import ClientSession

from callcast.ports.connectivity import ConnectivityResult
from callcast.ringcentral.check import check_source
from callcast.ringcentral.settings import SourceSettings
from callcast.ringcentral.sign_in import SignIns
from callcast.settings.secret import Secret
from callcast.simulator import Credential, Fault, Limits, Platform, SimulatedClock
from callcast.simulator.scenarios import busy
from callcast.testing import RealClock

WAYS = ("push", "presence")


async def results(
    *, hints: str = "auto", credential: Credential | None = None, phones: int = 3, **more: Any
) -> dict[str, list[ConnectivityResult]]:
    """The results about hints, by way."""
    credential = credential or Credential()
    clock = SimulatedClock()
    faults: Sequence[Fault] = more.pop("faults", ())
    platform = Platform(
        busy(clock.now(), phones, 1), clock=clock, credentials=[credential], limits=Limits(), faults=faults
    )
    found: list[ConnectivityResult] = []
    async with platform.serve() as url, ClientSession() as session:
        settings = SourceSettings(
            server=url,
            client_id=credential.client_id,
            client_secret=Secret(credential.client_secret),
            jwt=Secret(credential.jwt),
            hints=hints,  # type: ignore[arg-type]
            **{"extensions": tuple(platform.scenario.extension_ids()), **more},
        )
        real = RealClock()
        await check_source("acme", settings, found.append, session=session, sign_ins=SignIns(real), clock=real)
    assert all(one.fix for one in found if one.status == "warning")
    groups = [one.group for one in platform.requests]
    assert groups.count("medium") <= 2
    assert groups.count("light") <= 1
    return {way: [one for one in found if one.about == way] for way in WAYS}


async def test_both_ways_work() -> None:
    found = await results()
    (push,), (presence,) = found["push"], found["presence"]
    assert (push.status, push.detail) == ("good", "telephony events of 3 of 3 extensions are subscribed to")
    assert (presence.status, presence.detail) == ("good", "presence of 3 of 3 extensions can be read")


async def test_of_an_account_only_push_is_tried() -> None:
    found = await results(watch="account", extensions=("~",))
    assert [one.detail for one in found["push"]] == ["telephony events of the account are subscribed to"]
    assert found["presence"] == []


@pytest.mark.parametrize(("hints", "tried"), [("off", ()), ("push", ("push",)), ("presence", ("presence",))])
async def test_only_what_is_chosen_is_tried(hints: str, tried: tuple[str, ...]) -> None:
    found = await results(hints=hints)
    assert tuple(way for way in WAYS if found[way]) == tried


@pytest.mark.parametrize("has", list(product([True, False], repeat=3)))
async def test_a_missing_permission_is_named(has: tuple[bool, bool, bool]) -> None:
    names = ("WebSocket", "CallControl", "ReadPresence")
    permissions = {"ReadCallLog", *(name for name, it in zip(names, has, strict=True) if it)}
    found = await results(credential=Credential(permissions=frozenset(permissions)))
    websocket, call_control, read_presence = has
    (push,), (presence,) = found["push"], found["presence"]
    assert push.status == ("good" if websocket and (call_control or read_presence) else "unasked")
    assert ("WebSocket" in push.fix) == (not websocket)
    assert ("CallControl" in push.fix) == (websocket and not call_control and not read_presence)
    assert presence.status == ("good" if read_presence else "unasked")
    assert ("ReadPresence" in presence.fix) == (not read_presence)


@pytest.mark.parametrize("way", WAYS)
async def test_a_way_that_was_chosen_and_is_refused_is_a_warning(way: str) -> None:
    found = await results(hints=way, credential=Credential(permissions=frozenset({"ReadCallLog"})))
    assert [one.status for one in found[way]] == ["warning"]


async def test_a_refused_extension_is_named() -> None:
    found = await results(hints="push", credential=Credential(admin=False))
    good, *bad = found["push"]
    assert good.detail == "telephony events of 1 of 3 extensions are subscribed to"
    assert [one.status for one in bad] == ["warning"] * 2
    assert all("extension " in one.detail and "CallControl" in one.fix for one in bad)


async def test_too_many_extensions_for_presence() -> None:
    found = await results(hints="presence", phones=3, extensions=tuple(str(n) for n in range(400)))
    assert [(one.status, one.detail) for one in found["presence"]] == [
        ("unasked", "not read, because 400 extensions are too many")
    ]


@pytest.mark.parametrize("status", [401, 503])
async def test_a_blocked_connection_is_a_warning(status: int) -> None:
    (push,) = (await results(faults=[Fault(kind="ws_refuse", status=status)]))["push"]
    assert push.status == "warning"
    assert str(status) in push.detail
