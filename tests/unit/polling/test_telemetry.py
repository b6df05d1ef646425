"""What the log says of a source's pace, and of what cannot keep it."""

from datetime import timedelta
from typing import Any

import msgspec
import pytest
from structlog.testing import capture_logs

from callcast.calls.model import ChangeSet, PollRecord, Reason, Snapshot, Target
from callcast.calls.summary import HintsState
from callcast.live.live_calls import InMemoryLiveCalls
from callcast.observability.logs import bound
from callcast.observability.metrics import Metrics
from callcast.observability.outbox_health import OutboxFailure, OutboxHealth
from callcast.polling.telemetry import SourceTelemetry
from callcast.ports.outbox import OutboxUnavailable
from callcast.ports.upstream import PollFailed
from tests.builders import NINE, source_event
from tests.clock import TurnedClock


def watching(interval_s: float, clock: TurnedClock | None = None) -> SourceTelemetry:
    clock = clock or TurnedClock()
    live_calls = InMemoryLiveCalls(clock)
    telemetry = SourceTelemetry(
        "acme", live_calls, Metrics(live_calls, clock, "1"), clock, bound(), OutboxHealth(clock, bound())
    )
    telemetry.watching(None, interval_s)
    return telemetry


@pytest.mark.parametrize(("now_s", "level"), [(15.0, "warning"), (4.0, "info")])
def test_another_pace_is_logged_once(now_s: float, level: str) -> None:
    """A lowered limit slows a running plan: the log says to what, and from what; a slower one is a warning."""
    telemetry = watching(7.5)
    with capture_logs() as lines:
        telemetry.paced(7.6, 7.6)  # what wavers a little is the same pace
        telemetry.paced(now_s, now_s)
        telemetry.paced(now_s, now_s)
    (line,) = lines
    logged: dict[str, Any] = {key: line[key] for key in ("event", "log_level", "source", "detail")}
    assert logged == {
        "event": "pace_changed",
        "log_level": level,
        "source": "acme",
        "detail": f"each target is polled every {now_s:g} s; every 7.5 s before",
    }
    assert "callcast check --online" in line["fix"]


def test_missed_turns_are_one_line_that_names_the_worst() -> None:
    counts = {Target(source="acme", extension_id=extension): count for extension, count in (("1", 2), ("2", 7))}
    telemetry = watching(1.0)
    with capture_logs() as lines:
        telemetry.polls_missed(counts)
    line = lines[-1]
    assert (line["event"], line["extension"], line["count"], line["others"]) == ("polls_missed", "2", 7, 1)


def test_what_the_platform_refuses_is_named_until_it_is_shown() -> None:
    """With the fix; however many there are, the list stays short."""
    telemetry = watching(1.0)
    refused = PollFailed("permission", "403", fix="check the permissions")
    for number in range(100, 122):
        telemetry.poll_failed(Target(source="acme", extension_id=str(number)), refused, 0.1)
    telemetry.poll_failed(Target(source="acme", extension_id="99"), PollFailed("server", "500"), 0.1)
    warnings = telemetry.refusals()
    assert warnings[0] == "source acme: extension 100 is refused: 403: check the permissions"
    assert warnings[20:] == ["source acme: 2 more extensions are refused"]
    for number in range(100, 122):
        target = Target(source="acme", extension_id=str(number))
        telemetry.poll_succeeded(Snapshot(target=target, taken_at=NINE, observations=()), 0.1)
    assert telemetry.refusals() == []


async def test_a_failure_that_goes_on_is_logged_every_half_minute() -> None:
    """Polled every second, an outage fills no log; another reason, another target, a new outage are logged at once."""
    clock = TurnedClock()
    telemetry = watching(1.0, clock)
    one, two = (Target(source="acme", extension_id=extension) for extension in ("1", "2"))

    def is_logged(target: Target, reason: Reason) -> bool:
        with capture_logs() as lines:
            telemetry.poll_failed(target, PollFailed(reason, "as the test says"), 0.1)
        return bool(lines)

    assert is_logged(one, "network")
    assert not is_logged(one, "network")
    assert is_logged(two, "network")
    assert is_logged(one, "server")
    await clock.turn(30)
    assert is_logged(one, "server")
    telemetry.poll_succeeded(Snapshot(target=one, taken_at=clock.now(), observations=()), 0.1)
    assert is_logged(one, "server")


def test_a_source_that_recovered_says_how_long_it_was_degraded() -> None:
    """At info: nothing is wrong any more."""
    since = NINE - timedelta(minutes=42)
    event = msgspec.structs.replace(source_event(type_="source.recovered"), since=since, time=NINE)
    with capture_logs() as lines:
        watching(1.0).change_recorded(ChangeSet(events=(event,)))
    line = lines[-1]
    assert (line["event"], line["log_level"], line["lasted"]) == ("source_recovered", "info", "42 min")


def test_a_source_that_waits_to_sign_in_says_how_many_are_ahead() -> None:
    """In `/readyz` and on the page; a source that is seen is ready, whatever it waits for."""
    clock = TurnedClock()
    live_calls = InMemoryLiveCalls(clock)
    telemetry = SourceTelemetry(
        "acme", live_calls, Metrics(live_calls, clock, "1"), clock, bound(), OutboxHealth(clock, bound())
    )
    telemetry.sign_ins_ahead = lambda: 3
    assert telemetry.unready() == "source acme: waiting to sign in, 3 ahead"
    telemetry.stepped()
    assert live_calls.summaries()[0].sign_ins_ahead == 3
    version = live_calls.version
    telemetry.stepped()
    assert live_calls.version == version
    telemetry.watching(None, 7.5)
    target = Target(source="acme")
    telemetry.poll_succeeded(Snapshot(target=target, taken_at=clock.now(), observations=()), 0.1)
    assert telemetry.unready() is None
    telemetry.sign_ins_ahead = lambda: None
    telemetry.stepped()
    assert live_calls.summaries()[0].sign_ins_ahead is None


async def test_a_source_that_is_quiet_by_plan_is_ready() -> None:
    """With hints, no good poll is missing until one is due; then the plan's intervals without hints count."""
    clock = TurnedClock()
    telemetry, target = watching(10.0, clock), Target(source="acme")
    telemetry.poll_succeeded(Snapshot(target=target, taken_at=clock.now(), observations=()), 0.1)
    await clock.turn(290)
    telemetry.stepped({})
    assert telemetry.unready() is None
    telemetry.stepped({target: clock.monotonic()})
    await clock.turn(30)
    assert telemetry.unready() is None
    await clock.turn(1)
    assert telemetry.unready() == "source acme: no successful poll for 31 s"


def test_the_log_says_when_hints_are_relied_on_and_when_not() -> None:
    """A source that loses them all with its connection says so itself; one that is deaf needs attention."""
    telemetry = watching(7.5)
    with capture_logs() as lines:
        telemetry.hints_trusted(trusted=True, deaf=False)
        telemetry.hints_trusted(trusted=False, deaf=False)
        telemetry.hints_trusted(trusted=False, deaf=True)
    assert [(line["event"], line["log_level"]) for line in lines] == [
        ("hints_trusted", "info"),
        ("push_deaf", "warning"),
    ]


async def test_polls_that_cannot_be_stored_are_known_until_one_is() -> None:
    """Since the first of them, with the newest cause; what is shown stays as of the last one that was stored."""
    clock = TurnedClock(NINE)
    telemetry, target = watching(6.0, clock), Target(source="acme")
    health = telemetry.outbox_user._health
    telemetry.store_failed(OutboxUnavailable("disk full"))
    await clock.turn(6)
    telemetry.store_failed(OutboxUnavailable("still full"))
    assert health.failure == OutboxFailure(NINE, "still full")
    telemetry.poll_succeeded(Snapshot(target=target, taken_at=clock.now(), observations=()), 0.1)
    health.service.works()  # a small write of another part
    assert health.failure is not None
    telemetry.poll_stored(PollRecord(target=target, taken_at=clock.now()))
    assert health.failure is None


def test_the_ways_of_hints_are_shown() -> None:
    """Which of them is up, since when, and how many changes no hint announced; none where they are off."""
    clock = TurnedClock()
    telemetry = watching(7.5, clock)
    live_calls = telemetry._live_calls
    assert live_calls.summaries()[0].hints is None
    telemetry.hints_wanted(("push", "presence"), chosen=False)
    assert live_calls.summaries()[0].hints == HintsState(since=NINE)
    clock._passed_s += 5
    telemetry.hints_up("presence", up=True)
    clock._passed_s += 5
    telemetry.hints_up("push", up=True)
    telemetry.hint_missed()
    five = NINE + timedelta(seconds=5)
    assert live_calls.summaries()[0].hints == HintsState(via=("push", "presence"), up=True, since=five, missed=1)
    telemetry.hints_up("push", up=False)
    assert live_calls.summaries()[0].hints == HintsState(via=("presence",), up=True, since=five, missed=1)
    telemetry.hints_wanted((), chosen=False)
    assert live_calls.summaries()[0].hints is None


@pytest.mark.parametrize(("chosen", "level"), [(True, "warning"), (False, "info")])
def test_a_refusal_is_logged_once_until_a_reload(chosen: bool, level: str) -> None:
    """The attempts of every hour say nothing new. What is only permitted may be missing without a warning."""
    telemetry = watching(7.5)
    with capture_logs() as lines:
        for _ in range(2):
            telemetry.hints_wanted(("push", "presence"), chosen=chosen)
            for _ in range(3):
                telemetry.push_refused("403: add the permission CallControl")
                telemetry.presence_refused("403: add the permission ReadPresence")
    assert [line["event"] for line in lines] == ["push_refused", "presence_refused"] * 2
    assert {line["log_level"] for line in lines} == {level}
    assert {line["fix"] for line in lines} == {
        'until then calls are seen without these hints; if they are not wanted, set hints to "off" or to the other way'
    }


def test_a_lost_connection_says_when_the_next_attempt_is_made() -> None:
    telemetry = watching(7.5)
    with capture_logs() as lines:
        telemetry.push_subscribed(2, {"8": "403: add the permission CallControl"})
        telemetry.push_lost("network", "the push connection broke", 12.4)
    up, refused, lost = lines
    assert (up["event"], up["count"], up["others"]) == ("push_up", 2, 1)
    assert (refused["event"], refused["extension"]) == ("push_refused", "8")
    assert (lost["event"], lost["log_level"], lost["reason"]) == ("push_lost", "info", "network")
    assert lost["fix"] == "callcast connects again automatically, in 12 s at the earliest"


def test_a_connection_that_is_continued_is_logged() -> None:
    """After `push_lost` the log does not leave open whether hints come again."""
    telemetry = watching(7.5)
    with capture_logs() as lines:
        telemetry.push_connected("subscribed")
        telemetry.push_connected("recovered")
    (line,) = lines
    assert (line["event"], line["log_level"]) == ("push_up", "info")
    assert line["detail"] == "the lost connection is continued: no hint was lost"
