"""The types that everything speaks: what a poll shows, what is known of a call, what is told about it.

    CallObservation   one extension's part in a session, as one poll shows it
    Snapshot   every observation of one target, as of one complete, successful poll
    Call       one extension's part in a session, as far as is known
    Event      a change of a call that was seen, or of a source's health

All are frozen, and none is ever part of a cycle (gc=False). All times are aware datetimes in UTC. A phone number is
the text the platform gave.
"""

from collections.abc import Mapping
from datetime import datetime
from enum import StrEnum
from typing import Literal

from msgspec import Struct

# Why a poll failed, in one word: `polls_failed_total` and `source.degraded`.
Reason = Literal["timeout", "auth", "permission", "rate_limited", "server", "parse", "network"]
REASONS: tuple[Reason, ...] = ("timeout", "auth", "permission", "rate_limited", "server", "parse", "network")

UNASSIGNED = "unassigned"  # extension id of a part whose extension nobody told us


class State(StrEnum):
    RINGING = "ringing"
    DIALING = "dialing"
    CONNECTED = "connected"
    ENDED = "ended"


class Direction(StrEnum):
    INBOUND = "inbound"
    OUTBOUND = "outbound"


class Disposition(StrEnum):
    ANSWERED = "answered"
    MISSED = "missed"
    NO_ANSWER = "no_answer"
    ABANDONED = "abandoned"
    VOICEMAIL = "voicemail"
    BUSY = "busy"
    DECLINED = "declined"
    BLOCKED = "blocked"
    FAILED = "failed"
    ANSWERED_ELSEWHERE = "answered_elsewhere"
    CANCELLED = "cancelled"
    TRANSFERRED = "transferred"
    FAX = "fax"
    UNKNOWN = "unknown"


# What ends an outbound call, and what the same end is on an inbound one.
AS_INBOUND: Mapping[Disposition, Disposition] = {
    Disposition.NO_ANSWER: Disposition.MISSED,
    Disposition.CANCELLED: Disposition.ABANDONED,
}


class Evidence(StrEnum):
    """Where a fact was seen."""

    ACTIVE_CALLS = "active_calls"
    CALL_LOG = "call_log"
    VANISHED = "vanished"
    UNWATCHED = "unwatched"
    REFUSED = "refused"


class Party(Struct, frozen=True, kw_only=True, gc=False):
    """One side of a call. `extension_id`: the extension that it is, where the platform says so; no consumer sees it."""

    number: str | None = None
    name: str | None = None
    extension_number: str | None = None
    location: str | None = None
    extension_id: str | None = None


class Queue(Struct, frozen=True, kw_only=True, gc=False):
    """`confirmed`: the platform says that this is a queue; otherwise the name may be part of the caller's."""

    name: str
    confirmed: bool = False


class Provider(Struct, frozen=True, kw_only=True, gc=False):
    """The platform's own words, for whoever must ask its support."""

    name: str
    record_id: str
    session_id: str | None = None
    action: str | None = None
    result: str | None = None
    reason: str | None = None


class Target(Struct, frozen=True, kw_only=True, gc=False):
    """What one poll reads: an extension, or the account (`extension_id` None)."""

    source: str
    extension_id: str | None = None


class Leg(Struct, frozen=True, kw_only=True, gc=False):
    """One branch of a record; `kind` is the platform's word for it.

    accepted: the answer to this call, and not a transfer that came later.
    own: the record names the extension as the one whose phone this is.
    """

    kind: str | None
    started_at: datetime
    accepted: bool
    own: bool = False

    @property
    def key(self) -> str:
        """Tells legs of a record apart from look to look."""
        return f"{self.kind}@{self.started_at.timestamp()}"


class CallObservation(Struct, frozen=True, kw_only=True, gc=False):
    """One extension's part in a session, as one poll (or the call log) shows it.

    `disposition`: how it ended; of one that lives, how it did if it turns out to be over.
    `provisional`: the record reads ended, but the platform writes this also while the call goes on.
    `rings_alone`: its legs ring no extension but this one.
    `taken_by_another`: it was accepted on a leg of another extension, and on none of this one.
    `times` hold only what the platform gave; nothing is filled in from the poll. Where `ended_exact` is false, the part
    ended at `ended_at` or before.
    """

    extension_id: str
    session_id: str
    account_id: str | None
    record_id: str
    direction: Direction
    state: State
    provisional: bool = False
    rings_alone: bool = True
    taken_by_another: bool = False
    disposition: Disposition | None = None
    from_party: Party | None = None
    to_party: Party | None = None
    queue: Queue | None = None
    started_at: datetime
    ended_at: datetime | None = None
    ended_exact: bool = True
    legs: tuple[Leg, ...] = ()
    provider: Provider


class Snapshot(Struct, frozen=True, kw_only=True, gc=False):
    """Every observation of one target as of one complete, successful poll."""

    target: Target
    taken_at: datetime
    observations: tuple[CallObservation, ...]


class Observation(Struct, frozen=True, kw_only=True, gc=False):
    """The two polls around the event, and how sure its time is."""

    after: datetime | None
    before: datetime
    exact: bool
    evidence: Evidence
    first_poll: bool


class Call(Struct, frozen=True, kw_only=True, gc=False):
    """One extension's part in a session: all that is known of it, and what was told of it.

    `sequence` is the number of the last event; 0 means nothing was ever told (history of a first poll,
    or a provisional record that has not settled).
    """

    source: str
    call_id: str
    session_id: str
    extension_id: str
    account_id: str | None
    sequence: int = 0
    direction: Direction
    state: State
    from_party: Party | None = None
    to_party: Party | None = None
    queue: Queue | None = None
    started_at: datetime
    answered_at: datetime | None = None
    answered_exact: bool = False
    answered_on_own_leg: bool = False  # then no later record makes it the answer of another extension
    ended_at: datetime | None = None
    ended_exact: bool = False
    disposition: Disposition | None = None
    provider: Provider
    # Of the last event, so that a call tells all of itself:
    previous_state: State | None = None
    observation: Observation | None = None
    # What no consumer sees: what the filters and the next poll need to know.
    emitted_directions: tuple[Direction, ...] = ()  # every direction that an event of the call had
    record_ids: tuple[str, ...] = ()  # the records that belong to this part; the first leads
    ringing_legs: tuple[str, ...] = ()  # keys of the legs that were there before the answer
    first_poll: bool = False  # it was there when its target was looked at for the first time
    provisional_since: datetime | None = None
    provisional_disposition: Disposition | None = None  # what it ends with if it settles as it reads now
    provisional_ended_at: datetime | None = None
    vanished_at: datetime | None = None  # the first poll whose list did not hold it (ended calls too)
    last_seen_at: datetime | None = None  # the poll before that

    @property
    def live(self) -> bool:
        return self.state is not State.ENDED


class CallEvent(Struct, frozen=True, kw_only=True, gc=False, tag_field="kind", tag="call"):
    """A change of a call. `id` is a pure function of the fact; `call` is the state after the change."""

    id: str
    type: str
    time: datetime
    call: Call
    previous_state: State | None
    sequence: int
    observation: Observation
    corrects: str | None = None

    @property
    def source(self) -> str:
        return self.call.source

    @property
    def key(self) -> str:
        """What order is kept for: the call."""
        return self.call.call_id

    @property
    def live(self) -> bool:
        """True when the event is worthless once the moment has passed."""
        return self.type not in ("call.ended", "call.corrected")


class Blind(Struct, frozen=True, kw_only=True, gc=False):
    """The time in which a source could not be seen."""

    after: datetime | None
    before: datetime


class SourceEvent(Struct, frozen=True, kw_only=True, gc=False, tag_field="kind", tag="source"):
    """A source, or one of its extensions, is degraded or has recovered."""

    id: str
    type: str
    time: datetime
    source: str
    extension_id: str | None
    reason: str
    since: datetime
    blind: Blind | None = None

    @property
    def key(self) -> str:
        return self.source

    @property
    def live(self) -> bool:
        return False


Event = CallEvent | SourceEvent

LIVE_EVENTS = ("call.ringing", "call.dialing", "call.answered", "call.updated")
EVENT_TYPES = (*LIVE_EVENTS, "call.ended", "call.corrected", "source.degraded", "source.recovered")


class ChangeSet(Struct, frozen=True, kw_only=True, gc=False):
    """What a poll did to what is known: calls in their new state, and the events to tell."""

    calls: tuple[Call, ...] = ()
    events: tuple[Event, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.calls or self.events)


class PollRecord(Struct, frozen=True, kw_only=True, gc=False):
    """One good poll, as the outbox keeps it: when a target was last seen whole."""

    target: Target
    taken_at: datetime


class Known(Struct, frozen=True, kw_only=True):
    """What the outbox holds of one source at start.

    calls: those that are live or not yet told, by call id. The ended ones stay on disk (`Outbox.recall`).
    looks: the last good poll of each target.
    notes: small facts that must survive a restart (penalty, account id, ...), by name.
    """

    calls: Mapping[str, Call]
    polls: Mapping[Target, datetime]
    notes: Mapping[str, bytes]
