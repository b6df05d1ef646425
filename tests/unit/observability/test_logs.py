"""Log lines: levels, repeated lines, phone numbers, and what libraries print."""

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
    logs._flood._kinds.clear()
    yield
    structlog.reset_defaults()


def logged(capfd: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    assert logs.flush(10)
    return [json.loads(line) for line in capfd.readouterr().err.splitlines()]


class Clock:
    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


class Log:
    """Collects the lines that pass a `Flood`."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.flood = logs.Flood(self.clock)
        self.lines: list[dict[str, Any]] = []

    def log(self, event: str, method: str = "warning", **facts: Any) -> bool:
        try:
            self.lines.append(dict(self.flood(None, method, {"event": event, **facts})))
        except structlog.DropEvent:
            return False
        return True


def test_repeated_lines_are_counted_for_a_minute() -> None:
    """The first line is logged at once, the next one a minute later, with the number held back."""
    log = Log()
    for second in range(70):
        log.clock.now_s = second
        log.log("poll_failed", source="acme", reason="timeout")
    assert [line.get("held_back") for line in log.lines] == [None, 59]


def test_different_facts_do_not_hold_each_other_back() -> None:
    """Another sink, another reason, another event: each is logged at once."""
    log = Log()
    assert log.log("poll_failed", source="acme", reason="timeout")
    assert log.log("poll_failed", source="acme", reason="server")
    assert log.log("poll_failed", source="branch", reason="timeout")
    assert log.log("sink_failed", sink="crm", reason="timeout")
    assert not log.log("sink_failed", sink="crm", reason="timeout", detail="other words")


def test_a_thousand_extensions_that_fail_alike_give_a_few_lines() -> None:
    """An outage of the platform affects every target; the first five are logged."""
    log = Log()
    for extension in range(1000):
        log.log("poll_failed", source="acme", reason="network", extension=str(extension))
    assert [line["extension"] for line in log.lines] == ["0", "1", "2", "3", "4"]
    log.clock.now_s = 60
    log.log("poll_failed", source="acme", reason="network", extension="7")
    assert log.lines[-1]["held_back"] == 995


def test_results_of_reloads_and_info_lines_are_never_held_back() -> None:
    """Each reload has its result in the log, however quickly they follow one another."""
    log = Log()
    assert all(log.log("reload_refused", "error", reason="configuration") for _ in range(3))
    assert all(log.log("configuration_reloaded", "info") for _ in range(3))


def test_the_number_of_remembered_lines_is_bounded() -> None:
    """A text that differs in every line does not fill the memory."""
    log = Log()
    for number in range(3 * logs.KINDS_MAX):
        log.log(f"event_{number}")
    assert len(log.flood._kinds) == logs.KINDS_MAX


def test_phone_numbers_are_masked_everywhere_in_a_line() -> None:
    """In texts, lists and dicts; other digits are not changed."""
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


def test_a_phone_number_in_a_traceback_is_masked(capfd: pytest.CaptureFixture[str]) -> None:
    """The text of the exception is masked too."""
    logs.configure("info", "json")
    try:
        raise ValueError("no such number: +16504306662")
    except ValueError:
        logs.bound().error("broken", exc_info=True)
    (line,) = logged(capfd)
    assert "no such number: ***6662" in line["exception"]


def test_existing_loggers_follow_a_changed_level(capfd: pytest.CaptureFixture[str]) -> None:
    """A reload changes `service.log_level` for loggers that were bound before, too."""
    logs.configure("warning", "json")
    log = logs.bound().bind(source="acme")
    log.info("skipped")
    logs.configure("debug", "json")
    log.debug("logged")
    assert [(line["event"], line["source"], line["level"]) for line in logged(capfd)] == [("logged", "acme", "debug")]


def telemetry_of(clock: TurnedClock) -> SourceTelemetry:
    live_calls = InMemoryLiveCalls(clock)
    return SourceTelemetry(
        "acme", live_calls, Metrics(live_calls, clock, "0"), clock, logs.bound(), OutboxHealth(clock, logs.bound())
    )


def test_an_unknown_word_is_logged_once(capfd: pytest.CaptureFixture[str]) -> None:
    """Not again later; another word has its own line."""
    logs.configure("info", "json")
    telemetry = telemetry_of(TurnedClock())
    for word in ("Teleported", "Teleported", "Beamed"):
        telemetry.unknown_word("result", word)
        logs._flood._kinds.clear()  # as if a minute had passed
    assert [line["detail"] for line in logged(capfd)] == ["Teleported", "Beamed"]


def test_a_bad_record_is_counted_once_while_it_is_listed(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Although every changed page shows it again; each record counts, and the memory is bounded."""
    monkeypatch.setattr("callcast.polling.telemetry.BAD_RECORDS_MAX", 3)
    logs.configure("info", "json")
    telemetry = telemetry_of(TurnedClock())
    for record in ("a", "b", "a", "b", "c", "a", "d", "e", "b"):  # b is forgotten when d comes
        telemetry.bad_record("startTime", record)
    assert b'callcast_bad_records_total{source="acme"} 6.0' in telemetry._metrics.exposition()
    assert len(telemetry._bad_records) == 3


def test_a_failed_poll_is_logged_with_target_and_reason(capfd: pytest.CaptureFixture[str]) -> None:
    """With the usual keys, and the request's id for the platform's support."""
    logs.configure("info", "json")
    failed = PollFailed("server", "answered 503", request_id="r-1")
    telemetry_of(TurnedClock()).poll_failed(Target(source="acme", extension_id="101"), failed, 0.1)
    (line,) = logged(capfd)
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


def test_events_are_logged_at_debug_only(capfd: pytest.CaptureFixture[str]) -> None:
    """At info there is no line per call; at debug each event has one, with its call and its ids."""
    logs.configure("info", "json")
    telemetry = telemetry_of(TurnedClock())
    for level in ("info", "debug"):
        logs.configure(level, "json")
        telemetry.change_recorded(ChangeSet(events=(event(),)))
    (line,) = logged(capfd)
    assert (line["event"], line["source"], line["call"], line["event_type"]) == (
        "event_recorded",
        "acme",
        event().key,
        "call.ringing",
    )


LIBRARIES = """
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


def test_what_libraries_write_is_json_too() -> None:
    """Log lines of a library, printed text, a warning and a traceback: one JSON object per line each."""
    done = subprocess.run([sys.executable, "-c", LIBRARIES], capture_output=True, text=True, check=False)
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


def test_repeated_messages_of_a_library_are_held_back() -> None:
    """Other messages of it are not."""
    log = Log()
    assert log.log(logs.LIBRARY, reason="some.library", detail="broken")
    assert log.log(logs.LIBRARY, reason="some.library", detail="broken otherwise")
    assert not log.log(logs.LIBRARY, reason="some.library", detail="broken")
