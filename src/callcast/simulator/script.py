"""The scenario file.

[[calls]]
at_s = 0.5                     # after the start
kind = "inbound"               # inbound, queue, outbound, internal, ringout, conference
extension = "101"              # short number of the phone (queue: see below)
number = "+15550100201"        # the other side; or `to = "102"` for an internal call
name = "WIRELESS CALLER"
rings_s = 4
talks_s = 30                   # without it: not answered
ends = "missed"                # of an unanswered one; the words of `calls.ENDINGS`
"""

from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Struct

from callcast.simulator.calls import CallQueue, Extension
from callcast.simulator.clock import Seconds
from callcast.simulator.faults import Fault

Kind = Literal["inbound", "queue", "outbound", "internal", "ringout", "conference"]


class ScenarioError(ValueError):
    """A scenario file cannot be played."""


class Handover(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A blind transfer: the session goes on at another phone."""

    to: str
    rings_s: Seconds = 4
    talks_s: Seconds | None = None
    ends: str | None = None


class Call(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One call of a scenario. All `_s` are seconds; a speed divides them.

    queue: waits_s before the first ring; `offers` are the phones that ring together, round by round, rings_s each
    (the same phone twice is a second offer); `extension` answers in the last round after answers_after_s.
    records_s: how long a voicemail takes. id_changes: the ended record has another id and starts 1 s later.
    hidden_s: from-to pairs after the beginning in which the list lacks the record. marks_answer false: an outbound
    record does not show the answer. provisional: a queue call reads Stopped while it goes on. rewritten: after so
    many seconds the ended record reads as another ending. in_browser: an inbound call is taken, or not, in a browser;
    its ended record reads Outbound towards the caller. holds_s: from-to pairs after the answer in which it is on hold.
    """

    at_s: Seconds = 0
    kind: Kind
    extension: str = ""
    to: str | None = None
    number: str | None = None
    name: str | None = None
    location: str | None = None
    queue: str | None = None
    offers: tuple[Annotated[tuple[str, ...], Meta(min_length=1)], ...] = ()
    waits_s: Seconds = 2
    rings_s: Seconds = 5
    answers_after_s: Seconds = 3
    talks_s: Seconds | None = None
    records_s: Seconds = 0
    ends: str | None = None
    transfer: Handover | None = None
    id_changes: bool = False
    hidden_s: tuple[tuple[Seconds, Seconds], ...] = ()
    marks_answer: bool = True
    provisional: bool = False
    rewritten: tuple[Seconds, str] | None = None
    in_browser: bool = False
    holds_s: tuple[tuple[Seconds, Seconds], ...] = ()


class Account(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An account with its phones and queues."""

    id: str
    extensions: tuple[Extension, ...]
    queues: tuple[CallQueue, ...] = ()

    def queue(self, name: str | None) -> CallQueue:
        for queue in self.queues:
            if name in (queue.name, None):
                return queue
        raise ScenarioError(f"there is no queue {name!r}")


class Chance(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Random calls: from `from_s` on, `calls_per_minute` over the whole account; talks_s is a mean."""

    calls_per_minute: Annotated[float, Meta(gt=0)]
    from_s: Seconds = 0
    talks_s: Seconds = 40
    rings_s: Seconds = 6


class Script(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A scenario file."""

    account: Account
    calls: tuple[Call, ...] = ()
    random: Chance | None = None
    faults: tuple[Fault, ...] = ()


def read(text: bytes) -> Script:
    """A scenario file. Raises ScenarioError with what is wrong and where."""
    try:
        return msgspec.toml.decode(text, type=Script)
    except msgspec.MsgspecError as fault:
        raise ScenarioError(str(fault)) from None
