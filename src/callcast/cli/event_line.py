"""Formats an event as one line of text, optionally coloured."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

COLOURS = {
    "call.ringing": "33",
    "call.dialing": "33",
    "call.answered": "32",
    "call.updated": "36",
    "call.ended": "34",
    "call.corrected": "35",
    "source.degraded": "31",
    "source.recovered": "32",
}
LOST = ("missed", "no_answer", "abandoned", "failed", "busy", "unknown")
_RED, _DIM, _BOLD = "31", "2", "1"


class Painter:
    """Formats events. Control characters in event data are replaced, so they cannot affect the terminal."""

    def __init__(self, *, colour: bool) -> None:
        self._colour = colour

    def paint(self, text: str, style: str) -> str:
        return f"\x1b[{style}m{text}\x1b[0m" if self._colour and text else text

    def line(self, event: Mapping[str, Any]) -> str:
        """Return the line for an event in CloudEvents form."""
        data = event.get("data") or {}
        type_ = plain(event.get("type"))
        parts = [
            self.paint(_clock(event.get("time")), _DIM),
            self.paint(f"{type_:<16}", COLOURS.get(type_, _BOLD)),
            *(self._call(data) if "call_id" in data else self._source(data)),
        ]
        return "  ".join(part for part in parts if part)

    def _call(self, data: Mapping[str, Any]) -> list[str]:
        parties = f"{_party(data.get('from'))} → {_party(data.get('to'))}"
        queue = data.get("queue")
        disposition = plain(data.get("disposition"))
        return [
            self.paint(f"{plain(data.get('extension_id')):>11}", _BOLD),
            f"{plain(data.get('direction')):<8}",
            parties + (f" via {plain(queue.get('name'))}" if queue else ""),
            self.paint(disposition, _RED if disposition in LOST else _BOLD),
            _seconds(data),
            self.paint(plain(data.get("session_id")), _DIM),
        ]

    def _source(self, data: Mapping[str, Any]) -> list[str]:
        scope = plain(data.get("extension_id")) or "all extensions"
        return [self.paint(plain(data.get("source")), _BOLD), scope, plain(data.get("reason"))]


def plain(value: object) -> str:
    """Return text with control characters replaced."""
    text = "" if value is None else str(value)
    return text if text.isprintable() else "".join(c if c.isprintable() else "�" for c in text)


def _party(party: Mapping[str, Any] | None) -> str:
    if not party:
        return "?"
    number = party.get("number") or party.get("extension_number")
    return " ".join(plain(part) for part in (party.get("name"), number) if part) or "?"


def _seconds(data: Mapping[str, Any]) -> str:
    spans = (("rang", data.get("ring_seconds")), ("talked", data.get("talk_seconds")))
    if data.get("state") != "ended":
        return ""
    return ", ".join(f"{word} {span:g} s" for word, span in spans if isinstance(span, int | float))


def _clock(time: object) -> str:
    """Return the local time of day."""
    try:
        return f"{datetime.fromisoformat(str(time)).astimezone():%H:%M:%S}"
    except ValueError:
        return "??:??:??"
