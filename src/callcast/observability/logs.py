"""Logs: one event name per fact, past tense, the same keys everywhere. Standard error only, and never in its way:
a buffer and a thread stand between, so that a reader that stops stops nothing here.

Keys: source, extension, call, sink, event_id, event_type, reason (a word), detail (a sentence). A flood of the same
fact is summarised: the first line comes at once, the next after a minute with the count of those held back.
"""

import atexit
import io
import logging
import sys
import time
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Literal

import structlog

from callcast.calls.masking import masked
from callcast.observability.log_writer import LogWriter

FLOOD_S = 60.0
ALIKE_MAX = 5  # lines a minute that differ in their extension only
FACTS_MAX = 1000
FLUSH_S = 2.0  # for lines that wait when the process ends
STANDARD_ERROR = 2
PRINTED_MAX = 8192  # characters without a line break
LIBRARY = "library_message"  # what a library logs, prints or warns of: an event of its own for each different text
ASKED_FOR = frozenset(
    {"reload_refused", "configuration_doubted", "configuration_refused"}
)  # whoever has just asked always gets the answer
LEVELS = {"debug": 10, "info": 20, "warning": 30, "error": 40, "critical": 50}

Line = MutableMapping[str, Any]


def configure(level: str, style: Literal["auto", "console", "json"]) -> None:
    """Send every log line of the process to standard error, as `service.log_level` and `log_format` say.

    May be done again: loggers that are in use follow.
    """
    console = style == "console" or (style == "auto" and sys.stderr.isatty())
    renderer = structlog.dev.ConsoleRenderer() if console else structlog.processors.JSONRenderer()
    _steps[:] = [
        Threshold(level),
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _flood,
        structlog.processors.format_exc_info,
        hide_numbers,
        in_order,
        renderer,
    ]
    structlog.configure(
        processors=_steps,  # loggers keep this very list, so it is changed and not replaced
        wrapper_class=_Logger,
        logger_factory=_Lines,
    )
    logging.basicConfig(handlers=[_FromLibraries()], level=logging.WARNING)
    sys.excepthook = show_trace


def flush(timeout_s: float = FLUSH_S) -> bool:
    """Whether every line is written, after at most so long: a reader that has stopped must not keep the process."""
    return _writer.flush(timeout_s)


def lines_dropped() -> int:
    """How many lines could not be written since the process started."""
    return _writer.dropped


def show_trace(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """A fault of the program, a sink's too, ends it with a trace: its text may hold the very call that did it."""
    bound().critical("program_failed", detail=f"{kind.__name__}: {error}", exc_info=(kind, error, trace))


@contextmanager
def standard_error_taken() -> Iterator[None]:
    """What anything prints on `sys.stderr` meanwhile becomes log lines: a library must not block or break either."""
    before, sys.stderr = sys.stderr, _Printed()
    try:
        yield
    finally:
        sys.stderr = before


def hide_numbers(_logger: Any, _method: str, line: Line) -> Line:
    """The last barrier: a phone number shows its last four digits, wherever in a line it turns up."""
    for key, value in line.items():
        line[key] = _hidden(value)
    return line


class _Lines:
    """Where structlog puts finished lines."""

    def __init__(self, *_: object) -> None:
        self.debug = self.info = self.warning = self.error = _writer.write

    def critical(self, line: str) -> None:
        _writer.write(line, always=True)


class _FromLibraries(logging.Handler):
    """What libraries log, with their traces."""

    def emit(self, record: logging.LogRecord) -> None:
        say = getattr(bound(), record.levelname.lower(), bound().error)
        say(LIBRARY, reason=record.name, detail=record.getMessage(), exc_info=record.exc_info or None)


class _Printed(io.TextIOBase):
    """A text file for what is printed instead of logged."""

    encoding = "utf-8"

    def __init__(self) -> None:
        self._rest = ""

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return STANDARD_ERROR

    def write(self, text: str, /) -> int:
        *lines, self._rest = (self._rest + text).split("\n")
        if len(self._rest) > PRINTED_MAX:
            lines, self._rest = [*lines, self._rest], ""
        for line in filter(str.strip, lines):
            bound().warning(LIBRARY, reason="printed", detail=line)
        return len(text)


def _hidden(value: Any) -> Any:
    match value:
        case str():
            return masked(value)
        case dict():
            return {_hidden(key): _hidden(one) for key, one in value.items()}
        case list() | tuple():
            return [_hidden(one) for one in value]
    return value


def in_order(_logger: Any, _method: str, line: Line) -> Line:
    """When, how grave and what first: so a line reads, and sorts."""
    first = ("timestamp", "level", "event")
    return {key: line[key] for key in first if key in line} | {k: v for k, v in line.items() if k not in first}


class Threshold:
    """Drops what is less grave than `level`."""

    def __init__(self, level: str) -> None:
        self._least = LEVELS[level]

    def __call__(self, _logger: Any, method: str, line: Line) -> Line:
        if not self.lets(method):
            raise structlog.DropEvent
        return line

    def lets(self, method: str) -> bool:
        return LEVELS.get(method, LEVELS["error"]) >= self._least


class _Logger(structlog.make_filtering_bound_logger(LEVELS["debug"])):  # type: ignore[misc]
    """Has nothing to do for a line that the first step would drop anyway: some are said at every poll."""

    def debug(self, event: str, *args: Any, **facts: Any) -> Any:
        first = _steps[0]  # something else while a test captures the lines
        skip = isinstance(first, Threshold) and not first.lets("debug")
        return None if skip else super().debug(event, *args, **facts)


class _Fact:
    """What was said of one fact within the last minute, by extension, and how often it was held back."""

    def __init__(self) -> None:
        self.said: dict[object, float] = {}
        self.held_back = 0

    def may_say(self, extension: object, now: float) -> bool:
        self.said = {one: at for one, at in self.said.items() if now - at < FLOOD_S}
        if extension in self.said or len(self.said) >= ALIKE_MAX:
            self.held_back += 1
            return False
        self.said[extension] = now
        return True


class Flood:
    """Holds back warnings and errors that were said less than a minute ago, and says how often."""

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._facts: dict[tuple[object, ...], _Fact] = {}

    def __call__(self, _logger: Any, method: str, line: Line) -> Line:
        if method not in ("warning", "error") or line.get("event") in ASKED_FOR:
            return line
        keys = ("event", "source", "sink", "reason", *(["detail"] if line.get("event") == LIBRARY else []))
        fact = self._fact(tuple(line.get(key) for key in keys))
        if not fact.may_say(line.get("extension"), self._monotonic()):
            raise structlog.DropEvent
        if fact.held_back:
            line["held_back"], fact.held_back = fact.held_back, 0
        return line

    def _fact(self, key: tuple[object, ...]) -> _Fact:
        fact = self._facts.pop(key) if key in self._facts else _Fact()
        self._facts[key] = fact  # the longest unsaid one comes first
        while len(self._facts) > FACTS_MAX:
            del self._facts[next(iter(self._facts))]
        return fact


def _dropped(count: int) -> str:
    """The line that says so, made without the logger: it is made in the writer's thread."""
    line: Line = {"event": "log_lines_dropped", "count": count, "detail": "standard error could not take them"}
    for step in _steps[1:3]:
        line = step(None, "warning", line)
    return str(_steps[-1](None, "warning", in_order(None, "warning", line)))


_flood = Flood()
_steps: list[Any] = []
_writer = LogWriter(STANDARD_ERROR, _dropped)
atexit.register(flush)


def bound(**facts: Any) -> Any:
    """A logger that says these facts with every line."""
    log: Mapping[str, Any] = structlog.get_logger(**facts)
    return log
