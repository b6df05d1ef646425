"""Structured logs on standard error: event names in past tense, and the same keys everywhere.

A buffer and a thread write them (`log_writer`), so a blocked reader of standard error does not block callcast.

Keys: source, extension, call, sink, event_id, event_type, reason (a label), detail (a sentence). Repeated warnings and
errors are limited: the first is logged at once, the next after a minute with the number held back.
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
ALIKE_MAX = 5  # lines per minute that differ only in the extension
KINDS_MAX = 1000
FLUSH_S = 2.0  # how long the end of the process waits for buffered lines
STANDARD_ERROR = 2
PRINTED_MAX = 8192  # characters without a line break
LIBRARY = "library_message"  # messages of libraries; limited by text, not by event name
NEVER_HELD_BACK = frozenset(
    {"reload_refused", "configuration_warning", "configuration_invalid"}
)  # results of a command or reload, so never held back
LEVELS = {"debug": 10, "info": 20, "warning": 30, "error": 40, "critical": 50}

Line = MutableMapping[str, Any]


def configure(level: str, style: Literal["auto", "console", "json"]) -> None:
    """Send all log lines of the process to standard error, with `service.log_level` and `log_format`.

    May be called again; existing loggers follow.
    """
    console = style == "console" or (style == "auto" and sys.stderr.isatty())
    renderer = structlog.dev.ConsoleRenderer() if console else structlog.processors.JSONRenderer()
    _Logger.min_level = LEVELS[level]
    _steps[:] = [
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _flood,
        structlog.processors.format_exc_info,
        mask_numbers,
        order_keys,
        renderer,
    ]
    structlog.configure(
        processors=_steps,  # loggers keep a reference to this list, so it is changed in place
        wrapper_class=_Logger,
        logger_factory=_Lines,
    )
    logging.basicConfig(handlers=[_FromLibraries()], level=logging.WARNING)
    sys.excepthook = show_trace


def flush(timeout_s: float = FLUSH_S) -> bool:
    """Wait until every line is written, at most `timeout_s`, so that a blocked reader cannot delay the exit."""
    return _writer.flush(timeout_s)


def lines_dropped() -> int:
    """The number of lines dropped since the process started."""
    return _writer.dropped


def show_trace(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Log the traceback of an error that ends the process. Phone numbers in its text are masked."""
    bound().critical("program_failed", detail=f"{kind.__name__}: {error}", exc_info=(kind, error, trace))


@contextmanager
def stderr_redirected() -> Iterator[None]:
    """Turn what libraries print to `sys.stderr` into log lines, so that printing cannot block or fail."""
    before, sys.stderr = sys.stderr, _Printed()
    try:
        yield
    finally:
        sys.stderr = before


def mask_numbers(_logger: Any, _method: str, line: Line) -> Line:
    """Mask phone numbers anywhere in a log line to their last four digits."""
    for key, value in line.items():
        line[key] = _masked(value)
    return line


class _Lines:
    """The structlog logger that writes rendered lines."""

    def __init__(self, *_: object) -> None:
        self.debug = self.info = self.warning = self.error = _writer.write

    def critical(self, line: str) -> None:
        _writer.write(line, always=True)


class _FromLibraries(logging.Handler):
    """Passes log records of libraries on, with tracebacks."""

    def emit(self, record: logging.LogRecord) -> None:
        log = getattr(bound(), record.levelname.lower(), bound().error)
        log(LIBRARY, reason=record.name, detail=record.getMessage(), exc_info=record.exc_info or None)


class _Printed(io.TextIOBase):
    """Replaces `sys.stderr`: each printed line becomes a log line."""

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


def _masked(value: Any) -> Any:
    match value:
        case str():
            return masked(value)
        case dict():
            return {_masked(key): _masked(one) for key, one in value.items()}
        case list() | tuple():
            return [_masked(one) for one in value]
    return value


def order_keys(_logger: Any, _method: str, line: Line) -> Line:
    """Put timestamp, level and event first."""
    first = ("timestamp", "level", "event")
    return {key: line[key] for key in first if key in line} | {k: v for k, v in line.items() if k not in first}


class _Logger(structlog.make_filtering_bound_logger(LEVELS["debug"])):  # type: ignore[misc]
    """Skips lines below `min_level` of all loggers, also of those that exist already when a reload changes it."""

    min_level = LEVELS["debug"]

    def _proxy_to_logger(self, method: str, event: str | None = None, *args: Any, **facts: Any) -> Any:
        if LEVELS.get(method, LEVELS["error"]) >= _Logger.min_level:
            return super()._proxy_to_logger(method, event, *args, **facts)
        return None


class _LineKind:
    """When one kind of line was last logged for each extension, and how many were held back."""

    def __init__(self) -> None:
        self.logged: dict[object, float] = {}
        self.held_back = 0

    def may_log(self, extension: object, now: float) -> bool:
        self.logged = {one: at for one, at in self.logged.items() if now - at < FLOOD_S}
        if extension in self.logged or len(self.logged) >= ALIKE_MAX:
            self.held_back += 1
            return False
        self.logged[extension] = now
        return True


class Flood:
    """Holds back warnings and errors that were logged less than a minute ago, and counts them."""

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._kinds: dict[tuple[object, ...], _LineKind] = {}

    def __call__(self, _logger: Any, method: str, line: Line) -> Line:
        if method not in ("warning", "error") or line.get("event") in NEVER_HELD_BACK:
            return line
        keys = ("event", "source", "sink", "reason", *(["detail"] if line.get("event") == LIBRARY else []))
        kind = self._kind(tuple(line.get(key) for key in keys))
        if not kind.may_log(line.get("extension"), self._monotonic()):
            raise structlog.DropEvent
        if kind.held_back:
            line["held_back"], kind.held_back = kind.held_back, 0
        return line

    def _kind(self, key: tuple[object, ...]) -> _LineKind:
        kind = self._kinds.pop(key) if key in self._kinds else _LineKind()
        self._kinds[key] = kind  # least recently logged first
        if len(self._kinds) > KINDS_MAX:
            del self._kinds[next(iter(self._kinds))]
        return kind


def _dropped(count: int) -> str:
    """The line that reports dropped lines; made without the logger, because it runs in the writer's thread."""
    line: Line = {"event": "log_lines_dropped", "count": count, "detail": "standard error could not be written"}
    for step in _steps[:2]:  # level and time
        line = step(None, "warning", line)
    return str(_steps[-1](None, "warning", order_keys(None, "warning", line)))


_flood = Flood()
_steps: list[Any] = []
_writer = LogWriter(STANDARD_ERROR, _dropped)
atexit.register(flush)


def bound(**facts: Any) -> Any:
    """A logger that adds these keys to every line."""
    log: Mapping[str, Any] = structlog.get_logger(**facts)
    return log
