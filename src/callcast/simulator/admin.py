"""The control interface of the simulator: faults, the request log, the truth, the clock. Not part of RingCentral."""

from collections.abc import Sequence
from typing import Any, Protocol

import msgspec
from aiohttp import web

from callcast.simulator.answers import json_answer
from callcast.simulator.clock import SimulatedClock, Time
from callcast.simulator.faults import Fault, Faults
from callcast.simulator.limits import Limits, RateLimits
from callcast.simulator.requests import RequestLog
from callcast.simulator.scenario import Scenario, Truth
from callcast.simulator.script import Call, ScriptFault
from callcast.simulator.story import Story
from callcast.simulator.tokens import Tokens


class Administered(Protocol):
    clock: Time
    faults: Faults
    limits: RateLimits
    requests: RequestLog
    scenario: Scenario
    tokens: Tokens

    def truth(self) -> Sequence[Truth]: ...

    def strike(self, fault: Fault, /) -> int: ...


class Turn(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    turn_s: float


def add_routes(router: web.UrlDispatcher, platform: Administered) -> None:
    door = _Door(platform)
    router.add_get("/simulator/faults", door.faults)
    router.add_post("/simulator/faults", door.arm)
    router.add_delete("/simulator/faults", door.disarm)
    router.add_delete("/simulator/faults/{number:[0-9]+}", door.disarm)
    router.add_get("/simulator/requests", door.requests)
    router.add_delete("/simulator/requests", door.forget_requests)
    router.add_get("/simulator/truth", door.truth)
    router.add_post("/simulator/calls", door.place)
    router.add_get("/simulator/clock", door.clock)
    router.add_post("/simulator/clock", door.turn)
    router.add_put("/simulator/limits", door.limit)
    router.add_delete("/simulator/tokens", door.revoke)


class _Door:
    def __init__(self, platform: Administered) -> None:
        self._platform = platform

    async def faults(self, _request: web.Request) -> web.Response:
        return json_answer(list(self._platform.faults))

    async def arm(self, request: web.Request) -> web.Response:
        """One fault, or a list of them."""
        given = _given(await request.read(), Fault | list[Fault])
        faults = given if isinstance(given, list) else [given]
        return json_answer({"ids": [self._platform.strike(fault) for fault in faults]}, status=201)

    async def disarm(self, request: web.Request) -> web.Response:
        number = request.match_info.get("number")
        if number is None:
            self._platform.faults.clear()
        elif not self._platform.faults.remove(int(number)):
            raise web.HTTPNotFound(text="no such fault")
        return web.Response(status=204)

    async def requests(self, request: web.Request) -> web.Response:
        """`?path=` keeps the requests whose path contains it."""
        part = request.query.get("path", "")
        log = self._platform.requests
        return json_answer({"count": log.count, "requests": [one for one in log if part in one.path]})

    async def forget_requests(self, _request: web.Request) -> web.Response:
        self._platform.requests.clear()
        return web.Response(status=204)

    async def truth(self, _request: web.Request) -> web.Response:
        return json_answer(list(self._platform.truth()))

    async def place(self, request: web.Request) -> web.Response:
        """A call of one's own, written as in a scenario file; answers with what will be true."""
        scenario = self._platform.scenario
        if not isinstance(scenario, Story):
            raise web.HTTPConflict(text="a recording takes no calls")
        call = _given(await request.read(), Call)
        try:
            sessions = scenario.place(call, self._platform.clock.now())
        except ScriptFault as fault:
            raise web.HTTPBadRequest(text=str(fault)) from None
        return json_answer([truth for session in sessions for truth in session.truths()], status=201)

    async def clock(self, _request: web.Request) -> web.Response:
        return json_answer({"now": self._platform.clock.now()})

    async def turn(self, request: web.Request) -> web.Response:
        clock = self._platform.clock
        if not isinstance(clock, SimulatedClock):
            raise web.HTTPConflict(text="this platform runs on a clock of its own")
        clock.turn(_given(await request.read(), Turn).turn_s)
        return await self.clock(request)

    async def revoke(self, _request: web.Request) -> web.Response:
        """Every token is gone, as after a changed password."""
        self._platform.tokens.revoke_all()
        return web.Response(status=204)

    async def limit(self, request: web.Request) -> web.Response:
        """Other limits from now on; null switches them off."""
        self._platform.limits.limits = _given(await request.read(), Limits | None)
        return web.Response(status=204)


def _given(body: bytes, wanted: Any) -> Any:
    try:
        return msgspec.json.decode(body, type=wanted)
    except msgspec.MsgspecError as fault:
        raise web.HTTPBadRequest(text=str(fault)) from None
