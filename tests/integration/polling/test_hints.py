"""A source with hints on a turned clock and a real outbox: what they bring forward, and what their loss means."""

import asyncio
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from callcast.calls.model import State, Target
from callcast.ports.hints import Hint, HintsChange, Report
from callcast.ports.telemetry import Cause
from tests.integration.polling.test_poller import Notes, Setup, failing, observation, over

SPACING_S = 7.5


class Ways:
    """Implements Hints as the test says."""

    def __init__(self, setup: "Hinted") -> None:
        self.setup = setup
        self.up = False
        self.witnessed_from: float | None = None
        self.targets: Sequence[Target] = ()
        self.report: Report = lambda _: None

    async def run(self, targets: Sequence[Target], report: Report, /) -> None:
        self.targets, self.report = targets, report
        await asyncio.Event().wait()

    def covers(self, target: Target, /) -> bool:
        return self.up

    def witnessed_since(self, target: Target, /) -> float | None:
        return self.witnessed_from

    def change(self, state: Any) -> None:
        self.up = state != "lost"
        self.report(HintsChange(via="push", state=state, at=self.setup.clock.monotonic()))

    def hint(self, step: Any, extension_id: str = "101") -> None:
        target = Target(source="acme", extension_id=extension_id)
        facts = {"session_id": "s-1", "party_id": "p-1", "extension_id": extension_id}
        self.report(Hint(target=target, step=step, via="push", at=self.setup.clock.monotonic(), **facts))


class HintNotes(Notes):
    def __init__(self) -> None:
        super().__init__()
        self.causes: list[Cause] = []
        self.promised_s = 0.0
        self.after_s: list[float] = []
        self.waiting: Any = None

    def poll_sent(self, cause: Cause) -> None:
        self.causes.append(cause)

    def paced(self, interval_s: float, promised_s: float) -> None:
        super().paced(interval_s, promised_s)
        self.promised_s = promised_s

    def stepped(self, waiting: Any = None) -> None:
        super().stepped()
        self.waiting = waiting

    def hint_seen(self, after_s: float) -> None:
        self.after_s.append(after_s)


class Hinted(Setup):
    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.upstream.spacing = SPACING_S
        self.notes: HintNotes = HintNotes()
        self.events = self.notes.events
        self.ways = Ways(self)

    def polling(self, extensions: Sequence[str] | None = ("101",), **options: Any) -> Any:
        return super().polling(extensions, hints=self.ways, **options)


@pytest.fixture
def setup(tmp_path: Path) -> Hinted:
    return Hinted(tmp_path)


async def test_until_hints_come_targets_are_polled_evenly(setup: Hinted) -> None:
    async with setup.polling(["101", "102"]):
        await setup.clock.turn(31)
    assert [at for at, _ in setup.upstream.polls] == [0, 7.5, 15, 22.5, 30]
    assert set(setup.notes.causes) == {"poll"}
    assert setup.notes.promised_s == 15
    assert list(setup.ways.targets) == [Target(source="acme", extension_id=e) for e in ("101", "102")]


async def test_a_hint_wakes_the_schedule(setup: Hinted) -> None:
    """The call is reported a second after the hint, although the target was quiet."""
    async with setup.polling():
        setup.ways.change("up")
        await setup.clock.turn(45.3)
        start = setup.clock.now()
        setup.upstream.list_of = lambda _: [observation(start)]
        setup.ways.hint("started")
        await setup.clock.turn(1)
        assert setup.types == ["call.ringing"]
    assert setup.upstream.polls[-1][0] == pytest.approx(46.1, abs=0.05)
    assert setup.notes.after_s == pytest.approx([0.8], abs=0.05)
    assert setup.notes.causes[-1] == "hint"
    assert setup.notes.promised_s == 95


async def test_a_quiet_target_is_neither_stale_nor_a_gap(setup: Hinted) -> None:
    async with setup.polling([str(100 + n) for n in range(10)]):
        setup.ways.witnessed_from = 0.0
        setup.ways.change("up")
        await setup.clock.turn(1800)
        assert setup.notes.waiting == {}
    assert setup.health() == []
    assert setup.upstream.log_reads == []
    assert set(setup.notes.causes) == {"poll", "keep_alive"}


async def test_a_source_that_fails_is_degraded_from_when_a_poll_was_due(setup: Hinted) -> None:
    """Three intervals of the plan without hints, at least 30 s, after the first poll that was due and failed."""
    async with setup.polling():
        setup.ways.change("up")
        await setup.clock.turn(45)
        setup.upstream.list_of = failing("server")
        setup.ways.hint("started")
        await setup.clock.turn(30)
        assert setup.health() == []
        await setup.clock.turn(3)
        assert [event.type for event in setup.health()] == ["source.degraded"]
        setup.upstream.list_of = lambda _: ()
        await setup.clock.turn(10)
        assert [event.type for event in setup.health()] == ["source.degraded", "source.recovered"]


async def test_failed_polls_are_repeated_at_the_pace_without_hints(setup: Hinted) -> None:
    async with setup.polling():
        setup.ways.change("up")
        await setup.clock.turn(45)
        setup.upstream.list_of = failing("network")
        setup.ways.hint("started")
        first = len(setup.upstream.polls)
        await setup.clock.turn(60)
    assert len(setup.upstream.polls) - first in (7, 8)


async def test_a_lost_connection_makes_every_target_due_and_polls_evenly(setup: Hinted) -> None:
    async with setup.polling(["101", "102", "103"]):
        setup.ways.change("up")
        await setup.clock.turn(200)
        before = len(setup.upstream.polls)
        setup.ways.change("lost")
        await setup.clock.turn(0.1)
        assert {e for _, e in setup.upstream.polls[before:]} == {"101", "102", "103"}
        await setup.clock.turn(100)
    assert setup.notes.promised_s == 3 * SPACING_S
    assert setup.health() == []


@pytest.mark.parametrize(("witnessed_from", "log_reads"), [(None, True), (0.0, False), (250.0, True)])
async def test_what_neither_polls_nor_presence_saw_is_asked_of_the_call_log(
    setup: Hinted, witnessed_from: float | None, log_reads: bool
) -> None:
    """The platform held back every poll for five minutes, a call came and went: the log shows it."""
    async with setup.polling():
        setup.ways.change("up")
        await setup.clock.turn(10)
        setup.upstream.hold = 1.0
        await setup.clock.turn(200)
        setup.upstream.log = [over(setup.clock.now() - timedelta(seconds=150))]
        await setup.clock.turn(100)
        setup.ways.witnessed_from = witnessed_from
        setup.upstream.hold = 0.0
        await setup.clock.turn(60)
    assert bool(setup.upstream.log_reads) is log_reads
    assert setup.types.count("call.ended") == log_reads


async def test_answers_and_ends_are_seen_with_few_polls(setup: Hinted) -> None:
    async with setup.polling():
        setup.ways.change("up")
        await setup.clock.turn(45)
        start = setup.clock.now()
        setup.upstream.list_of = lambda _: [observation(start)]
        setup.ways.hint("started")
        await setup.clock.turn(10)
        setup.upstream.list_of = lambda _: [observation(start, State.CONNECTED)]
        setup.ways.hint("answered")
        await setup.clock.turn(60)
        setup.upstream.list_of = lambda _: [over(start, 70)]
        setup.ways.hint("ended")
        await setup.clock.turn(10)
        assert setup.types == ["call.ringing", "call.answered", "call.ended"]
    assert len(setup.notes.after_s) == 3
    assert max(setup.notes.after_s) < 7
