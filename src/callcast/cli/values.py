"""Parses the values of options: durations, times, ports and numbers. Each error says what to write instead."""

import re
from argparse import ArgumentTypeError
from datetime import UTC, datetime, timedelta

_UNITS_S = {"": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_DURATION = re.compile(r"(\d{1,9}(?:\.\d{1,6})?)([smhd]?)", re.ASCII)
LONGEST_S = 1e9


def duration(text: str) -> float:
    """Parse `90s`, `15m`, `2h` or `7d`; a bare number means seconds. Returns seconds."""
    match = _DURATION.fullmatch(text)
    seconds = float(match[1]) * _UNITS_S[match[2]] if match else LONGEST_S
    if seconds >= LONGEST_S:
        raise ArgumentTypeError(f"{text!r} is not a duration: write it as 90s, 15m, 2h or 7d")
    return seconds


def positive_duration(text: str) -> float:
    if (seconds := duration(text)) > 0:
        return seconds
    raise ArgumentTypeError(f"{text!r} is not a duration above 0: write it as 90s, 15m, 2h or 7d")


def offset(text: str) -> float:
    """Parse a duration that may be negative. Returns seconds."""
    return -duration(text[1:]) if text.startswith("-") else duration(text)


def duration_range(text: str) -> tuple[float, float]:
    """Parse a range such as `3s-10s`, or a single duration. Returns seconds."""
    least, dash, most = text.partition("-")
    first = duration(least)
    last = duration(most) if dash else first
    if first > last:
        raise ArgumentTypeError(f"{text!r} is not a range: write the shorter duration first, such as 3s-10s")
    return first, last


def age(text: str) -> timedelta:
    return timedelta(seconds=duration(text))


def moment(text: str) -> datetime:
    """Parse a time: an age counted back from now, or RFC 3339 with an offset."""
    if text[-1:] in ("s", "m", "h", "d"):
        return datetime.now(UTC) - age(text)
    try:
        at = datetime.fromisoformat(text)
        if at.tzinfo is not None:
            return at.astimezone(UTC)
    except (ValueError, OverflowError):
        pass
    raise ArgumentTypeError(
        f"{text!r} is not a time: write an age such as 2h, or RFC 3339 such as 2026-03-02T09:00:00Z"
    )


def port(text: str) -> int:
    if re.fullmatch(r"\d{1,5}", text, re.ASCII) and int(text) <= 65_535:
        return int(text)
    raise ArgumentTypeError(f"{text!r} is not a port: write a number from 0 to 65535; 0 means any free port")


def whole(text: str) -> int:
    """Parse a whole number of at least 0."""
    if re.fullmatch(r"\d{1,9}", text, re.ASCII):
        return int(text)
    raise ArgumentTypeError(f"{text!r} is not a whole number: write one of at least 0")


def count(text: str) -> int:
    if re.fullmatch(r"\d{1,9}", text, re.ASCII) and int(text):
        return int(text)
    raise ArgumentTypeError(f"{text!r} is not a count: write a whole number of at least 1")


def factor(text: str) -> float:
    """Parse a number above 0."""
    if re.fullmatch(r"\d{1,6}(\.\d{1,6})?", text, re.ASCII) and float(text):
        return float(text)
    raise ArgumentTypeError(f"{text!r} is not a number above 0: write it as 2 or 0.5")


def answers(text: str) -> tuple[tuple[str, int | None], ...]:
    """Parse `429:3,slow:1,204`: what to answer, and how often; None means from then on."""
    parsed = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*([2-5]\d\d|slow|never|reset)(?::([1-9]\d{0,8}))?\s*", part, re.ASCII)
        if match is None:
            raise ArgumentTypeError(f"{part!r} is not an answer: write 204, 429:3, slow, never or reset")
        parsed.append((match[1], int(match[2]) if match[2] else None))
    return tuple(parsed)
