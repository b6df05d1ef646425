"""How far this machine's clock is from the platform's, for people."""

WARNED_S = 5.0
MAX_S = 60.0  # webhook receivers accept five minutes, and a clock that is off this far goes on drifting
FIX = "set this machine's clock, best by NTP: receivers refuse webhooks whose signature is minutes off"


def said(skew_s: float) -> str:
    """`skew_s` above 0: this machine is ahead."""
    return f"this machine is {_span(abs(skew_s))} {'ahead of' if skew_s > 0 else 'behind'} the platform"


def _span(seconds: float) -> str:
    for unit_s, unit in ((86_400, "days"), (3600, "hours"), (60, "minutes")):
        if seconds >= 2 * unit_s:
            return f"{seconds / unit_s:.0f} {unit}"
    return f"{seconds:.0f} s"
