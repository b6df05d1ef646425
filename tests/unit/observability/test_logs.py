"""What gets into the log: enough, once, and no phone number."""

import json
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import structlog

from callcast.calls.model import ChangeSet, Target
from callcast.live.live_calls import InMemoryLiveCalls
from callcast.observability import logs
from callcast.observability.metrics import Metrics
from callcast.observability.outbox_health import OutboxHealth
from callcast.polling.telemetry import SourceTelemetry
from callcast.ports.upstream import PollFailed
from tests.builders import event
from tests.clock import TurnedClock

HOUR_S = 3600


@pytest.fixture(autouse=True)
def fresh_logs() -> Iterator[None]:
    logs._flood._facts.clear()
    yield
    structlog.reset_defaults()


def log_lines(capfd: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    assert logs.flush(10)
    return [json.loads(line) for line in capfd.readouterr().err.splitlines()]


class Clock:
    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


class Log:
    """A flood's remote side: what passes."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.flood = logs.Flood(self.clock)
        self.lines: list[dict[str, Any]] = []

    def say(self, event: str, method: str = "warning", **facts: Any) -> bool:
        try:
            self.lines.append(dict(self.flood(None, method, {"event": event, **facts})))
        except structlog.DropEvent:
            return False
        return True


def test_a_flood_is_summarised_after_a_minute() -> None:
    """The first line comes at once, the next one a minute later, with the count of those between."""
    log = Log()
    for second in range(70):
        log.clock.now_s = second
        log.say("poll_failed", source="acme", reason="timeout")
    assert [line.get("held_back") for line in log.lines] == [None, 59]


def test_different_facts_do_not_hold_each_other_back() -> None:
    """Another sink, another reason, another event: each is logged at once."""
    log = Log()
    assert log.say("poll_failed", source="acme", reason="timeout")
    assert log.say("poll_failed", source="acme", reason="server")
    assert log.say("poll_failed", source="branch", reason="timeout")
    assert log.say("sink_failed", sink="crm", reason="timeout")
    assert not log.say("sink_failed", sink="crm", reason="timeout", detail="other words")


def test_a_thousand_extensions_that_fail_alike_are_a_few_lines() -> None:
    """An outage of the platform concerns every target, and the log shows the first five of them."""
    log = Log()
    for extension in range(1000):
        log.say("poll_failed", source="acme", reason="network", extension=str(extension))
    assert [line["extension"] for line in log.lines] == ["0", "1", "2", "3", "4"]
    log.clock.now_s = 60
    log.say("poll_failed", source="acme", reason="network", extension="7")
    assert log.lines[-1]["held_back"] == 995


def test_what_somebody_asked_for_and_what_is_no_trouble_is_always_said() -> None:
    """Each refused reload has its answer in the log, however quickly they follow one another; info is never held."""
    log = Log()
    assert all(log.say("reload_refused", "error", reason="configuration") for _ in range(3))
    assert all(log.say("configuration_reloaded", "info") for _ in range(3))


def test_the_memory_of_what_was_said_is_bounded() -> None:
    """A fact that changes with every line does not fill the memory."""
    log = Log()
    for number in range(3 * logs.FACTS_MAX):
        log.say(f"event_{number}")
    assert len(log.flood._facts) == logs.FACTS_MAX


def test_a_number_shows_its_last_four_digits_wherever_it_is() -> None:
    """In a text, in a list, in a table; other digits stay as they are."""
    line = {
        "event": "x",
        "detail": "calling +16504306662 and +1 (650) 288-6382 at 12:30+0100",
        "many": ["+16504306662", 5],
        "table": {"+16504306662": "+442071234567"},
        "extension": "62264425016",
    }
    assert logs.mask_numbers(None, "info", line) == {
        "event": "x",
        "detail": "calling ***6662 and ***6382 at 12:30+0100",
        "many": ["***6662", 5],
        "table": {"***6662": "***4567"},
        "extension": "62264425016",
    }


def test_a_number_in_a_trace_is_hidden_too(capfd: pytest.CaptureFixture[str]) -> None:
    """The text of an exception is a line's text like any other."""
    logs.configure("info", "json")
    try:
        raise ValueError("no such number: +16504306662")
    except ValueError:
        logs.bound().error("broken", exc_info=True)
    (line,) = log_lines(capfd)
    assert "no such number: ***6662" in line["exception"]


def test_a_logger_in_use_follows_a_changed_level(capfd: pytest.CaptureFixture[str]) -> None:
    """`service.log_level` takes hold on a reload, for loggers too that were bound before."""
    logs.configure("warning", "json")
    log = logs.bound().bind(source="acme")
    log.info("unheard")
    logs.configure("debug", "json")
    log.debug("hint_received")
    assert [(line["event"], line["source"], line["level"]) for line in log_lines(capfd)] == [
        ("hint_received", "acme", "debug")
    ]


def telemetry_of(clock: TurnedClock) -> SourceTelemetry:
    live_calls = InMemoryLiveCalls(clock)
    return SourceTelemetry(
        "acme", live_calls, Metrics(live_calls, clock, "0"), clock, logs.bound(), OutboxHealth(clock, logs.bound())
    )


def test_an_unknown_word_is_said_once(capfd: pytest.CaptureFixture[str]) -> None:
    """Not again an hour later; another word has its own line."""
    logs.configure("info", "json")
    telemetry = telemetry_of(TurnedClock())
    for word in ("Teleported", "Teleported", "Beamed"):
        telemetry.unknown_word("result", word)
        logs._flood._facts.clear()  # as if a minute had passed
    assert [line["detail"] for line in log_lines(capfd)] == ["Teleported", "Beamed"]


def test_a_bad_record_is_counted_and_said_once_while_it_lingers(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though every changed page shows it again; another one counts for itself, and the memory is bounded."""
    monkeypatch.setattr("callcast.polling.telemetry.BAD_RECORDS_MAX", 3)
    logs.configure("info", "json")
    telemetry = telemetry_of(TurnedClock())
    for record in ("a", "b", "a", "b", "c", "a", "d", "e", "b"):  # b is forgotten when d comes
        telemetry.bad_record("startTime", record)
    assert b'callcast_bad_records_total{source="acme"} 6.0' in telemetry._metrics.exposition()
    assert len(telemetry._bad_records) == 3


def test_a_failed_poll_says_where_and_why(capfd: pytest.CaptureFixture[str]) -> None:
    """With the keys that every line has, and the request's id for the platform's support."""
    logs.configure("info", "json")
    failed = PollFailed("server", "answered 503", request_id="r-1")
    telemetry_of(TurnedClock()).poll_failed(Target(source="acme", extension_id="101"), failed, 0.1)
    (line,) = log_lines(capfd)
    del line["timestamp"]
    assert line == {
        "event": "poll_failed",
        "level": "warning",
        "source": "acme",
        "extension": "101",
        "reason": "server",
        "detail": f"answered 503: {failed.fix}",
        "request_id": "r-1",
    }


def test_events_are_lines_at_debug_only(capfd: pytest.CaptureFixture[str]) -> None:
    """At info a busy service writes no line per call; at debug each event has one, with its call and its ids."""
    logs.configure("info", "json")
    telemetry = telemetry_of(TurnedClock())
    for level in ("info", "debug"):
        logs.configure(level, "json")
        telemetry.change_recorded(ChangeSet(events=(event(),)))
    (line,) = log_lines(capfd)
    assert (line["event"], line["source"], line["call"], line["event_type"]) == (
        "event_recorded",
        "acme",
        event().key,
        "call.ringing",
    )


OTHERS = """
import logging, sys, warnings
from callcast.observability import logs
logs.configure("info", "json")
with logs.stderr_redirected():
    logging.getLogger("some.library").error("broken: %s", "+16504306662")
    print("printed by", "some code\\nin two lines", file=sys.stderr)
    print("half", end="", file=sys.stderr)
    print(" a line", file=sys.stderr)
    warnings.warn("this will go")
raise ValueError("a fault")
"""


def test_what_others_write_is_json_too() -> None:
    """A library's log line, what it prints on standard error, a warning, a fault's trace: one object a line each."""
    done = subprocess.run([sys.executable, "-c", OTHERS], capture_output=True, text=True, check=False)
    lines = [json.loads(line) for line in done.stderr.splitlines()]
    assert done.returncode == 1
    assert [(line["event"], line.get("reason"), line["detail"]) for line in lines[:4]] == [
        ("library_message", "some.library", "broken: ***6662"),
        ("library_message", "printed", "printed by some code"),
        ("library_message", "printed", "in two lines"),
        ("library_message", "printed", "half a line"),
    ]
    assert any("this will go" in line["detail"] for line in lines[4:-1])
    assert lines[-1]["event"] == "program_failed"
    assert "ValueError: a fault" in lines[-1]["exception"]


def test_a_library_that_says_the_same_again_and_again_is_held_back() -> None:
    """But not what it says of something else."""
    log = Log()
    assert log.say(logs.LIBRARY, reason="some.library", detail="broken")
    assert log.say(logs.LIBRARY, reason="some.library", detail="broken otherwise")
    assert not log.say(logs.LIBRARY, reason="some.library", detail="broken")
