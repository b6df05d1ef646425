"""Describes the difference between this machine's clock and the platform's."""

WARNED_S = 5.0
MAX_S = 60.0  # webhook receivers tolerate five minutes, but a clock that is this far off keeps drifting
FIX = "synchronize this machine's clock, preferably by NTP: receivers reject webhooks with an old timestamp"


def said(skew_s: float) -> str:
    """Return a sentence. A positive `skew_s` means that this machine is ahead."""
    return f"this machine is {_span(abs(skew_s))} {'ahead of' if skew_s > 0 else 'behind'} the platform"


def _span(seconds: float) -> str:
    for unit_s, unit in ((86_400, "days"), (3600, "hours"), (60, "minutes")):
        if seconds >= 2 * unit_s:
            return f"{seconds / unit_s:.0f} {unit}"
    return f"{seconds:.0f} s"
