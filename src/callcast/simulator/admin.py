"""The control interface of the simulator: faults, requests, truth, clock, limits. Not part of RingCentral."""

from typing import TYPE_CHECKING, Any

import msgspec
from aiohttp import web
from msgspec import Struct

from callcast.simulator.answers import json_answer
from callcast.simulator.clock import SimulatedClock, Turned
from callcast.simulator.faults import Fault
from callcast.simulator.limits import Limits
from callcast.simulator.script import Call, ScenarioError

if TYPE_CHECKING:
    from callcast.simulator.platform import Platform


class Turn(Struct, frozen=True, forbid_unknown_fields=True):
    turn_s: Turned


class Admin:
    def __init__(self, platform: "Platform") -> None:
        self._platform = platform

    def routes(self) -> list[web.RouteDef]:
        return [
            web.get("/simulator/faults", self._list_faults),
            web.post("/simulator/faults", self._add_faults),
            web.delete("/simulator/faults", self._remove_faults),
            web.delete("/simulator/faults/{number:[0-9]+}", self._remove_faults),
            web.get("/simulator/requests", self._list_requests),
            web.delete("/simulator/requests", self._clear_requests),
            web.get("/simulator/truth", self._truth),
            web.post("/simulator/calls", self._place_call),
            web.get("/simulator/clock", self._read_clock),
            web.post("/simulator/clock", self._turn_clock),
            web.put("/simulator/limits", self._set_limits),
            web.delete("/simulator/tokens", self._revoke_tokens),
        ]

    async def _list_faults(self, _request: web.Request) -> web.Response:
        return json_answer(list(self._platform.faults))

    async def _add_faults(self, request: web.Request) -> web.Response:
        """Add one fault, or a list of them."""
        given = await _body(request, Fault | list[Fault])
        faults = given if isinstance(given, list) else [given]
        return json_answer({"ids": [self._platform.strike(fault) for fault in faults]}, status=201)

    async def _remove_faults(self, request: web.Request) -> web.Response:
        number = request.match_info.get("number")
        if number is None:
            self._platform.faults.clear()
        elif not self._platform.faults.remove(int(number)):
            raise web.HTTPNotFound(text="no such fault")
        return web.Response(status=204)

    async def _list_requests(self, request: web.Request) -> web.Response:
        """`?path=` keeps the requests whose path contains it."""
        part, log = request.query.get("path", ""), self._platform.requests
        return json_answer({"count": log.count, "requests": [one for one in log if part in one.path]})

    async def _clear_requests(self, _request: web.Request) -> web.Response:
        self._platform.requests.clear()
        return web.Response(status=204)

    async def _truth(self, _request: web.Request) -> web.Response:
        return json_answer(list(self._platform.truth()))

    async def _place_call(self, request: web.Request) -> web.Response:
        """Start a call, written as in a scenario file; the answer is what will be true."""
        story = self._platform.story
        if story is None:
            raise web.HTTPConflict(text="a recording takes no calls")
        call = await _body(request, Call)
        try:
            sessions = story.place(call, self._platform.clock.now())
        except ScenarioError as fault:
            raise web.HTTPBadRequest(text=str(fault)) from None
        return json_answer([truth for session in sessions for truth in session.truths()], status=201)

    async def _read_clock(self, _request: web.Request) -> web.Response:
        return json_answer({"now": self._platform.clock.now()})

    async def _turn_clock(self, request: web.Request) -> web.Response:
        clock = self._platform.clock
        if not isinstance(clock, SimulatedClock):
            raise web.HTTPConflict(text="this platform runs on a clock of its own")
        clock.turn((await _body(request, Turn)).turn_s)
        return await self._read_clock(request)

    async def _set_limits(self, request: web.Request) -> web.Response:
        """Set the limits; null removes them."""
        self._platform.limits.limits = await _body(request, Limits | None)
        return web.Response(status=204)

    async def _revoke_tokens(self, _request: web.Request) -> web.Response:
        """Revoke every token, as a changed password does."""
        self._platform.tokens.revoke_all()
        return web.Response(status=204)


async def _body(request: web.Request, type_: Any) -> Any:
    try:
        return msgspec.json.decode(await request.read(), type=type_)
    except msgspec.MsgspecError as error:
        raise web.HTTPBadRequest(text=str(error)) from None
