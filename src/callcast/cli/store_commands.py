"""What the commands beside the service share: they find its outbox, work on it, and say what came of it."""

import argparse
import json
import os
import re
import sys
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from callcast.outbox.sqlite.admin import OutboxAdmin

EXIT_DONE, EXIT_USAGE, EXIT_UNAVAILABLE, EXIT_CONFIG = 0, 2, 69, 78
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}


def age(text: str) -> timedelta:
    """`90s`, `15m`, `2h`, `7d`."""
    match = re.fullmatch(r"(\d{1,9}(?:\.\d{1,6})?)([smhd])", text, re.ASCII)
    if match is None or float(match[1]) * {"s": 1, "m": 60, "h": 3600, "d": 86400}[match[2]] > 1e9:
        raise argparse.ArgumentTypeError(f"{text!r} is no age: write 90s, 15m, 2h or 7d")
    return timedelta(**{_UNITS[match[2]]: float(match[1])})


def moment(text: str) -> datetime:
    """An age, counted back from now, or RFC 3339 with its offset."""
    if re.fullmatch(r"[0-9.]+[smhd]", text):
        return datetime.now(UTC) - age(text)
    try:
        at = datetime.fromisoformat(text)
        if at.tzinfo is not None:
            return at.astimezone(UTC)
    except (ValueError, OverflowError):
        pass
    raise argparse.ArgumentTypeError(
        f"{text!r} is no time: write an age such as 2h, or RFC 3339 such as 2026-03-02T09:00:00Z"
    )


def with_admin(args: argparse.Namespace, work: "Callable[[OutboxAdmin], int]") -> int:
    """Do something with the outbox of a running or stopped service; the exit code."""
    from callcast.config.diagnostics import ConfigFaults
    from callcast.config.partial import data_dir
    from callcast.outbox.sqlite.admin import open_admin
    from callcast.ports.outbox import OutboxRefused, OutboxUnavailable

    try:
        with open_admin(data_dir(args.config, os.environ)) as admin:
            return work(admin)
    except ConfigFaults as faults:
        return refuse(str(faults), EXIT_CONFIG)
    except (OutboxRefused, OutboxUnavailable) as error:
        return refuse(f"callcast: {error}", EXIT_UNAVAILABLE)


def refuse(why: str, code: int = EXIT_USAGE) -> int:
    print(why, file=sys.stderr)
    return code


def for_people() -> bool:
    """Whether a person reads standard output; JSON goes to everybody else."""
    return sys.stdout.isatty()


def say(told: Mapping[str, Any]) -> None:
    """One JSON object on a line of its own."""
    print(json.dumps(told, ensure_ascii=False, separators=(",", ":")))


def number_of(party: Mapping[str, Any] | None) -> str | None:
    """Who a party is, as far as the numbers policy lets it be shown."""
    return None if party is None else party["number"] or party["extension_number"]


def table(rows: Iterable[tuple[str, ...]]) -> str:
    """Columns as wide as what stands in them."""
    lines = list(rows)
    widths = [max(len(cell) for cell in column) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines
    )
