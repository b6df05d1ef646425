"""Formats durations for people."""

_UNITS = ((86_400, "d"), (3600, "h"), (60, "min"))


def span(seconds: float) -> str:
    """`40 s`, `12 min`, `6 h`, `3 d`: the largest unit of which there are at least two, rounded down."""
    return next((f"{seconds // size:.0f} {unit}" for size, unit in _UNITS if seconds >= 2 * size), f"{seconds:.0f} s")
