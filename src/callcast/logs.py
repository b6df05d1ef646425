"""Logs: one event name per fact, past tense, the same keys everywhere. Standard error only.

Keys: source, extension, call, sink, event_id, event_type, reason (a word), detail (a sentence). A flood of the same
fact is summarised: the first line comes at once, the next after a minute with the count of those held back.
"""

import logging
import sys
import time
import traceback
from collections.abc import Callable, Mapping, MutableMapping
from types import TracebackType
from typing import Any, Literal

import structlog

from callcast.core.masking import masked

FLOOD_S = 60.0
ALIKE_MAX = 5  # lines a minute that differ in their extension only
FACTS_MAX = 1000
ASKED_FOR = frozenset({"reload_refused", "configuration_doubted"})  # whoever has just asked always gets the answer
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
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_WithoutNumbers("%(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(handlers=[handler], level=logging.WARNING)
    sys.excepthook = _show_trace


def hide_numbers(_logger: Any, _method: str, line: Line) -> Line:
    """The last barrier: a phone number shows its last four digits, wherever in a line it turns up."""
    for key, value in line.items():
        line[key] = _hidden(value)
    return line


class _WithoutNumbers(logging.Formatter):
    """What libraries have to say, and their traces."""

    def format(self, record: logging.LogRecord) -> str:
        return masked(super().format(record))


def _show_trace(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """A fault of the program, a sink's too, ends it with a trace: its text may hold the very call that did it."""
    sys.stderr.write(masked("".join(traceback.format_exception(kind, error, trace))))


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
    """Has nothing to do for a line that the first step would drop anyway: some are said at every look."""

    def debug(self, event: str, *args: Any, **facts: Any) -> Any:
        return super().debug(event, *args, **facts) if _steps[0].lets("debug") else None


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
        fact = self._fact(tuple(line.get(key) for key in ("event", "source", "sink", "reason")))
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


_flood = Flood()
_steps: list[Any] = []


def bound(**facts: Any) -> Any:
    """A logger that says these facts with every line."""
    log: Mapping[str, Any] = structlog.get_logger(**facts)
    return log
