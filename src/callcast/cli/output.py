"""Prints what a command found: tables and sentences on a terminal, JSON lines otherwise."""

import json
import os
import select
import sys
from collections.abc import Iterable, Mapping
from typing import Any


def for_people() -> bool:
    """Whether standard output is a terminal. Otherwise commands print JSON."""
    return sys.stdout.isatty()


def in_colour() -> bool:
    return for_people() and not os.environ.get("NO_COLOR")


def has_reader() -> bool:
    """Whether standard output is still being read. While nothing is written, no write fails."""
    poll = select.poll()
    poll.register(sys.stdout.fileno(), 0)
    return not any(what & (select.POLLERR | select.POLLHUP) for _, what in poll.poll(0))


def print_json(value: Mapping[str, Any]) -> None:
    """Print one JSON object on one line."""
    print(json.dumps(value, ensure_ascii=False, separators=(",", ":")))


def counted(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def number_of(party: Mapping[str, Any] | None) -> str | None:
    """Return a party's phone or extension number, as the numbers policy shows it."""
    return None if party is None else party["number"] or party["extension_number"]


def table(rows: Iterable[tuple[str, ...]]) -> str:
    """Format rows as a table, with each column as wide as its widest cell."""
    lines = list(rows)
    widths = [max(len(cell) for cell in column) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines
    )
