"""A whole busy hour on the page: what it shows at every minute is what goes on, through a kill of the service."""

import asyncio
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from playwright.async_api import Page, expect

from callcast.simulator import Credential, Platform, SimulatedClock, Truth
from callcast.simulator.scenarios import busy
from tests.browser import chromium
from tests.ports import free_port
from tests.system.world import Service, until

DESKS = 24
STEP_S = 20
MISSED = {"missed", "voicemail", "declined", "busy"}
CONFIG = """\
[service]
data_dir = "{data}"
http_listen = "127.0.0.1:{port}"
timezone = "{noon}"
log_level = "warning"

[sources.acme]
server = "{server}"
client_id = "{credential.client_id}"
client_secret = "{credential.client_secret}"
jwt = "{credential.jwt}"
watch = "account"
poll_interval_s = 0.02
heavy_per_minute = 10000
settle_s = 0.1

[sinks.lines]
type = "stdout"
"""
SHOWN = """() => ({
  calls: [...document.querySelectorAll(".call")].map((card) => ({
    id: card.dataset.call, state: card.querySelector(".state").textContent,
    clock: card.querySelector(".clock").textContent,
  })),
  totals: Object.fromEntries(
    ["waiting", "connected", "dialing", "answered", "missed", "abandoned"].map(
      (id) => [id, document.getElementById(id).textContent]
    )
  ),
})"""


class Hour:
    """The platform, whose time is turned by hand, the service before it, and the page."""

    def __init__(self, platform: Platform, clock: SimulatedClock, service: Service, wall: Page) -> None:
        self.service = service
        self.wall = wall
        self._platform = platform
        self._clock = clock
        self._turned_at = 0.0  # monotonic

    async def minute(self) -> None:
        """Turn one by, in steps that are seen each; then the page comes to show what goes on."""
        for _ in range(60 // STEP_S):
            self._clock.turn(STEP_S)
            self._turned_at = time.monotonic()
            before = self._polls()  # of two that begin from now on the first is surely over
            await until(lambda before=before: self._polls() >= before + 2, "two more polls")  # type: ignore[misc]
        for _ in range(300):
            fault = self._fault(await self.wall.evaluate(SHOWN))
            if not fault:
                return
            await asyncio.sleep(0.1)
        raise AssertionError(fault)

    def _polls(self) -> int:
        return sum(1 for one in self._platform.requests if one.path.endswith("/active-calls"))

    def _fault(self, shown: Any) -> Any:
        """What the page shows wrong at this moment; falsy when it is all true."""
        now, truth, states = self._clock.now(), self._platform.truth(), states_of(shown)
        assigned = {call: state for call, state in states.items() if not call.startswith("unassigned/")}
        true = {call_id(one): state(one, now) for one in truth if now < one.ended_at}
        if assigned != true:
            return assigned.items() ^ true.items()
        clocks = {call["id"]: seconds(call["clock"]) for call in shown["calls"]}
        late_s = (
            2 + time.monotonic() - self._turned_at
        )  # while the platform's clock stands still, all other clocks run on
        live = [one for one in truth if now < one.ended_at]
        wrong = {one: clocks[call_id(one)] for one in live if not fits(clocks[call_id(one)], one, now, late_s)}
        totals = {name: int(value) for name, value in shown["totals"].items()}
        return wrong or totals.items() ^ true_totals(states, truth, now).items()


def states_of(shown: Any) -> dict[str, str]:
    return {call["id"]: call["state"] for call in shown["calls"]}


def call_id(one: Truth) -> str:
    return f"{one.extension_id}/{one.session_id}"


def state(one: Truth, now: datetime) -> str:
    if one.answered_at and one.answered_at <= now:
        return "Connected"
    return "Ringing" if one.direction == "inbound" else "Dialing"


def fits(clock_s: int, one: Truth, now: datetime, late_s: float) -> bool:
    """As old as the call is; what was answered between two polls counts from the poll that saw it."""
    answered_at = one.answered_at if one.answered_at and one.answered_at <= now else None
    age_s = (now - (answered_at or one.started_at)).total_seconds()
    return age_s - (STEP_S if answered_at else 0) - 2 <= clock_s <= age_s + late_s


def seconds(clock: str) -> int:
    minutes, rest = clock.rsplit(":", 1)
    return int(minutes) * 60 + int(rest)


def true_totals(states: Mapping[str, str], truth: Sequence[Truth], now: datetime) -> Mapping[str, int]:
    """Of conversations: what goes on from the cards themselves, what was counted from the truth."""
    parts: dict[str, list[Truth]] = {}
    for one in truth:
        parts.setdefault(one.session_id, []).append(one)
    # A colleague's call has the part of the extension that makes it, an outside caller's has none. While such a caller
    # waits in a queue and no extension rings, no extension has a part of it either.
    own = {one.session_id for one in truth if one.direction == "outbound"}
    answered = {one.session_id for one in truth if one.answered_at and one.answered_at <= now}
    over = {session for session, theirs in parts.items() if all(one.ended_at <= now for one in theirs)}
    lost = [{one.disposition for one in parts[session]} for session in over - own - answered]
    connected, ringing, dialing = (sessions(states, state) for state in ("Connected", "Ringing", "Dialing"))
    return {
        "waiting": len(ringing - own - answered),
        "connected": len(connected),
        "dialing": len(dialing - ringing - connected),
        "answered": len(answered - own),
        "missed": sum(1 for dispositions in lost if dispositions & MISSED),
        "abandoned": sum(1 for dispositions in lost if dispositions == {"abandoned"}),
    }


def sessions(states: Mapping[str, str], wanted: str) -> set[str]:
    return {call.partition("/")[2].partition("~")[0] for call, state in states.items() if state == wanted}


def noon() -> str:
    """A timezone in which the hour that begins now is far from midnight."""
    return f"Etc/GMT{datetime.now(UTC).hour - 12:+d}"


async def test_a_busy_hour_through_a_kill(tmp_path: Path) -> None:
    """At every minute states, clocks and totals are true; a kill is shown at once, and costs no count."""
    clock, credential, port = SimulatedClock(speed=0), Credential(), free_port()
    platform = Platform(busy(clock.now(), DESKS, 9, talks_s=60, seed=4), clock=clock)
    async with platform.serve() as server, chromium() as browser:
        config = tmp_path / "callcast.toml"
        places = {"data": tmp_path / "data", "port": port, "server": server, "noon": noon()}
        config.write_text(CONFIG.format(**places, credential=credential))
        service = Service(config, f"http://127.0.0.1:{port}")
        await service.start()
        try:
            await service.ready()
            wall = await browser.new_page()
            await wall.goto(service.url)
            hour = Hour(platform, clock, service, wall)
            for number in range(1, 61):
                await hour.minute()
                if number == 30:
                    await service.kill()
                    await expect(wall.locator("#connection")).to_have_text("Not live")
                    await service.start()
                    await expect(wall.locator("#connection")).to_contain_text("Live", timeout=30_000)
            assert int(await wall.locator("#answered").inner_text()) > 100
            assert len(service.lines) > 1000
        finally:
            await service.stop()
