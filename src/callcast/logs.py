"""Logs: one event name per fact, past tense, the same keys everywhere. Standard error only.

Keys: source, extension, call, sink, event, reason, detail. A flood of the same fact is summarised: the first line
comes at once, the next after a minute with the count of those that were held back.
"""

import logging
import re
import sys
import time
from collections.abc import Mapping, MutableMapping
from typing import Any, Literal

import structlog

FLOOD_S = 60.0
FLOOD_KEYS_MAX = 1000

_NUMBER = re.compile(r"\+\d[\d ()-]{5,}(\d{4})\b")


def configure(level: str, style: Literal["auto", "console", "json"]) -> None:
    """Send every log line of the process to standard error, as `service.log_level` and `log_format` say."""
    console = style == "console" or (style == "auto" and sys.stderr.isatty())
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            Flood(),
            hide_numbers,
            structlog.processors.format_exc_info,
            structlog.dev.ConsoleRenderer() if console else structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(getattr(logging, level.upper())),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")


def hide_numbers(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """The last barrier: a phone number shows its last four digits, wherever in a line it turns up."""
    for key, value in event.items():
        if isinstance(value, str) and "+" in value:
            event[key] = _NUMBER.sub(r"***\1", value)
    return event


class Flood:
    """Holds back what was said less than a minute ago, and says how often."""

    def __init__(self) -> None:
        self._said: dict[tuple[Any, ...], tuple[float, int]] = {}

    def __call__(self, _logger: Any, method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        if method not in ("warning", "error"):
            return event
        key = tuple(event.get(k) for k in ("event", "source", "extension", "sink", "reason"))
        now = time.monotonic()
        said_at, held_back = self._said.pop(key, (None, 0))
        if said_at is not None and now - said_at < FLOOD_S:
            self._said[key] = (said_at, held_back + 1)
            raise structlog.DropEvent
        self._said[key] = (now, 0)
        while len(self._said) > FLOOD_KEYS_MAX:
            del self._said[next(iter(self._said))]
        if held_back:
            event["held_back"] = held_back
        return event


def bound(**facts: Any) -> Any:
    """A logger that says these facts with every line."""
    log: Mapping[str, Any] = structlog.get_logger(**facts)
    return log
