"""Every fault alone and in pairs, in the middle of live calls: the real client and the fake platform over real
connections, in turned time, with the documented rate limits.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta
from itertools import pairwise
from typing import Any

import msgspec
import pytest

from callcast.calls.model import CallEvent, SourceEvent
from callcast.ringcentral import http as exchange
from callcast.simulator import Fault, Platform, Truth
from callcast.simulator.platform import Request
from callcast.simulator.script import Call
from tests.system.simulated_days.connections import Stage
from tests.system.simulated_days.simulated_time_loop import run
from tests.system.simulated_days.sources import House

BEGIN_S, OVER_S = 60, 120  # the faults
END_S = 420
INTERVAL_S = 7.5
POLL_TIMEOUT_S = 10
ANSWER_WAIT_S = (
    POLL_TIMEOUT_S  # lookups, and requests that hung (each counts until it was given up), can hold a poll so long
)

FAULTS = {
    "500": Fault(kind="status", status=500),
    "502": Fault(kind="status", status=502),
    "503": Fault(kind="status", status=503),
    "503 with a wish": Fault(kind="status", status=503, retry_after=25),
    "503 limited mode": Fault(kind="status", status=503, code="CMN-211"),
    "504": Fault(kind="status", status=504),
    "429": Fault(kind="status", status=429, retry_after=40),
    "429 bare": Fault(kind="status", status=429, headers=False),
    "429 with a date": Fault(kind="status", status=429, retry_after="date"),
    "reset": Fault(kind="reset"),
    "truncated": Fault(kind="truncated"),
    "huge": Fault(kind="huge", size_mb=2),
    "html": Fault(kind="html"),
    "not json": Fault(kind="not_json"),
    "charset": Fault(kind="charset"),
    "redirect": Fault(kind="redirect"),
    "half": Fault(kind="half"),
    "slow": Fault(kind="slow", delay_s=30),
    "hang": Fault(kind="hang"),
}
NAMES = list(FAULTS)

# Live throughout; one that ends, one that begins, one that does both in the middle of the faults; one that vanishes
# from the list before them, so that the call log is read during them; and one after them.
CALLS = (
    Call(at_s=20, kind="inbound", extension="1001", number="+15550100201", talks_s=200),
    Call(at_s=25, kind="inbound", extension="1002", number="+15550100202", talks_s=60),
    Call(at_s=80, kind="outbound", extension="1003", number="+15550100203", talks_s=90),
    Call(at_s=70, kind="inbound", extension="1004", number="+15550100204", ends="voicemail", records_s=20),
    Call(at_s=15, kind="inbound", extension="1005", number="+15550100205", talks_s=60, hidden_s=((20, 400),)),
    Call(at_s=200, kind="inbound", extension="1006", number="+15550100206", ends="missed"),
)


class EventHistory:
    """What came out, and when on the platform's clock."""

    def __init__(self, house: House, platform: Platform) -> None:
        self.house = house
        self.platform = platform
        self.ends: list[tuple[str, datetime]] = []
        self.truths: Sequence[Truth] = ()
        record = house.outbox.record

        async def noting(source: str, poll: Any, change: Any) -> None:
            now = platform.clock.now()
            self.ends += [(event.call.call_id, now) for event in change.events if event.type == "call.ended"]
            await record(source, poll, change)

        house.outbox.record = noting  # type: ignore[method-assign]

    def dispositions(self) -> list[tuple[str, str]]:
        ended = [e for e in self.house.outbox.events if isinstance(e, CallEvent) and e.type == "call.ended"]
        return sorted((event.call.call_id, str(event.call.disposition)) for event in ended)

    def health(self) -> list[str]:
        return [event.type for event in self.house.outbox.events if isinstance(event, SourceEvent)]


async def simulate(faults: Sequence[Fault], linger_s: float) -> tuple[EventHistory, list[Request]]:
    """Seven minutes of calls; in the second one, each request meets the next of the faults, in turn."""
    async with Stage(6, CALLS, linger_s=linger_s).open() as stage:
        history = EventHistory(stage.house, stage.platform)
        async with stage.house.watching({"acme": stage.source()}):
            await stage.clock.sleep(BEGIN_S)
            for fault in [*faults] * 30:
                stage.platform.strike(msgspec.structs.replace(fault, count=2 if fault.kind == "half" else 1))
            await stage.clock.sleep(OVER_S - BEGIN_S)
            stage.platform.faults.clear()
            await stage.clock.sleep(END_S - OVER_S)
        history.truths = stage.platform.truth()
    return history, list(stage.platform.requests)


def judge(history: EventHistory, requests: list[Request]) -> None:
    truths = history.truths
    expected = sorted((f"{truth.extension_id}/{truth.session_id}", str(truth.disposition)) for truth in truths)
    assert history.dispositions() == expected, "each end once, and right"
    ended_at = {f"{truth.extension_id}/{truth.session_id}": truth.ended_at for truth in truths}
    assert all(at >= ended_at[call_id] for call_id, at in history.ends), "no end before its time"
    assert history.health() in ([], ["source.degraded", "source.recovered"])
    heavy = [request for request in requests if request.path.endswith(("/active-calls", "/call-log"))]
    assert all(request.fault for request in heavy if request.status == 429), "refused of our own doing"
    silent(heavy)
    on_plan(history.platform.requests, requests[0].at)


def silent(heavy: list[Request]) -> None:
    """Nothing was sent while the platform wanted silence."""
    for struck, after in pairwise(heavy):
        if struck.fault == "status" and struck.status == 429:
            assert after.at - struck.at >= timedelta(seconds=30 - 1)


def on_plan(requests: Any, start: datetime) -> None:
    """One good poll, and everything is as if nothing had been; and it comes soon."""
    over = start + timedelta(seconds=OVER_S)
    polls = [request for request in requests if request.path.endswith("/active-calls") and request.at >= over]
    wanted_silence = any(request.status in (429, 503) for request in requests)
    if not wanted_silence:
        assert polls[0].at <= over + timedelta(seconds=INTERVAL_S + POLL_TIMEOUT_S)
    assert all(poll.status == 200 for poll in polls)
    assert all(b.at - a.at <= timedelta(seconds=INTERVAL_S + ANSWER_WAIT_S) for a, b in pairwise(polls))


@pytest.fixture(autouse=True)
def small_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is huge can be smaller then."""
    monkeypatch.setattr(exchange, "RESPONSE_BYTES_MAX", 1024 * 1024)


@pytest.mark.parametrize("linger_s", [120, 8])
@pytest.mark.parametrize("name", NAMES)
def test_each_fault_alone(name: str, linger_s: float) -> None:
    """A minute of it, whether the platform's list still shows what ended meanwhile or only the call log does."""
    judge(*run(simulate([FAULTS[name]], linger_s)))


@pytest.mark.parametrize("name", NAMES[1:])
def test_each_pair_of_faults(name: str) -> None:
    """The two in turn, with every earlier one of the list."""
    for earlier in NAMES[: NAMES.index(name)]:
        judge(*run(simulate([FAULTS[name], FAULTS[earlier]], 8)))
