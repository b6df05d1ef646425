"""Shared by the commands that work on the outbox: opening it, parsing times, printing tables and JSON."""

import argparse
import json
import os
import re
import sys
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from callcast.exit_codes import ExitCode

if TYPE_CHECKING:
    from callcast.ports.outbox_admin import OutboxAdmin

_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}


def age(text: str) -> timedelta:
    """Parse an age such as `90s`, `15m`, `2h` or `7d`."""
    match = re.fullmatch(r"(\d{1,9}(?:\.\d{1,6})?)([smhd])", text, re.ASCII)
    if match is None or float(match[1]) * {"s": 1, "m": 60, "h": 3600, "d": 86400}[match[2]] > 1e9:
        raise argparse.ArgumentTypeError(f"{text!r} is not an age: write it as 90s, 15m, 2h or 7d")
    return timedelta(**{_UNITS[match[2]]: float(match[1])})


def moment(text: str) -> datetime:
    """Parse a time: an age counted back from now, or RFC 3339 with an offset."""
    if re.fullmatch(r"[0-9.]+[smhd]", text):
        return datetime.now(UTC) - age(text)
    try:
        at = datetime.fromisoformat(text)
        if at.tzinfo is not None:
            return at.astimezone(UTC)
    except (ValueError, OverflowError):
        pass
    raise argparse.ArgumentTypeError(
        f"{text!r} is not a time: write an age such as 2h, or RFC 3339 such as 2026-03-02T09:00:00Z"
    )


def with_admin(args: argparse.Namespace, work: "Callable[[OutboxAdmin], int]") -> int:
    """Open the outbox of a running or stopped service, run `work` with it, and return the exit code."""
    from callcast.config.diagnostics import ConfigError
    from callcast.config.partial import data_dir
    from callcast.outbox.opening import open_admin
    from callcast.ports.outbox import OutboxRefused, OutboxUnavailable

    try:
        with open_admin(data_dir(args.config, os.environ)) as admin:
            return work(admin)
    except ConfigError as faults:
        return refuse(str(faults), ExitCode.CONFIG)
    except (OutboxRefused, OutboxUnavailable) as error:
        return refuse(f"callcast: {error}", ExitCode.UNAVAILABLE)


def refuse(message: str, code: int = ExitCode.USAGE) -> int:
    """Print an error and return the exit code."""
    print(message, file=sys.stderr)
    return code


def for_people() -> bool:
    """Whether standard output is a terminal. Otherwise commands print JSON."""
    return sys.stdout.isatty()


def print_json(value: Mapping[str, Any]) -> None:
    """Print one JSON object on one line."""
    print(json.dumps(value, ensure_ascii=False, separators=(",", ":")))


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
