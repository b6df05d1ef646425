"""The hints protocol: what says that something happens at a target, so that the scheduler polls it now.

Hints never make events: the platform's list does. So hints may be lost, doubled, late or in any order, and none of it
changes what is recorded; only when the targets are polled.
"""

from collections.abc import Callable, Sequence
from typing import Literal, Protocol

from msgspec import Struct

from callcast.calls.model import Target

Step = Literal["started", "answered", "ended"]  # in the order in which a party goes through them
STEPS: tuple[Step, ...] = ("started", "answered", "ended")
Via = Literal["push", "presence"]
# With hints, a target at which nothing happens is polled after this many seconds.
KEEP_ALIVE_S = 95.0  # below the 120 s for which the list shows a call that ended
WITNESSED_S = 300.0  # where presence is read


class Hint(Struct, frozen=True, kw_only=True, gc=False):
    """One step of one party of a call.

    target: the watched target whose list will show it; the account where the source watches the account.
    session_id: as in `CallObservation.session_id`.
    party_id: tells a second call of the same extension in the same session from the first. None: not known.
    extension_id: the party's extension. None: not known, or the party is none (then the platform's list may never show
    it, so a producer that knows this sends no hint).
    at: when it came, in seconds of `Clock.monotonic`.
    """

    target: Target
    session_id: str
    party_id: str | None = None
    extension_id: str | None = None
    step: Step
    via: Via
    at: float


class HintsChange(Struct, frozen=True, kw_only=True, gc=False):
    """A change of what can be expected of one way.

    up: hints come from now on (a new subscription, the first reading). What happened before is not known, so every
        target is due at once.
    recovered: hints come again, and none was lost meanwhile.
    lost: hints may be lost from now on (no connection, two failed readings in a row); every target is due at once.
    """

    via: Via
    state: Literal["up", "recovered", "lost"]
    at: float


Report = Callable[[Hint | HintsChange], None]


class Hints(Protocol):
    """Where the hints of one source come from. All methods are called on the event loop."""

    async def run(self, targets: Sequence[Target], report: Report, /) -> None:
        """Report the hints of these targets until cancelled; may be called again after that, with other targets.

        `report` returns at once and does not raise. Trouble of the platform or the network never ends `run`. Hints of
        other targets, and of the same step of a party by the same way, are left out.
        """
        ...

    def covers(self, target: Target, /) -> bool:
        """Whether a step at this target would be hinted now, by either way: connected, and not refused for it."""
        ...

    def witnessed_since(self, target: Target, /) -> float | None:
        """Since when presence has been read for this target without a gap of more than 15 s; monotonic seconds.

        None: it is not read, its user hides it, or the last good reading is more than 15 s old.
        """
        ...
