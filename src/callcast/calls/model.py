"""The central types: what a poll shows, what is known of a call, and the events that report its changes.

    CallObservation   one extension's part in a session, as one poll shows it
    Snapshot          every observation of one target, from one complete, successful poll
    Call              one extension's part in a session, as far as is known
    Event             a change of a call, or of a source's health

All types are frozen and never part of a reference cycle (gc=False). All times are aware datetimes in UTC. Phone
numbers are stored as the platform gave them.
"""

from collections.abc import Mapping
from datetime import datetime
from enum import StrEnum
from typing import Literal

from msgspec import Struct

# Why a poll failed, in one word: used in `polls_failed_total` and `source.degraded`.
Reason = Literal["timeout", "auth", "permission", "rate_limited", "server", "parse", "network"]
REASONS: tuple[Reason, ...] = ("timeout", "auth", "permission", "rate_limited", "server", "parse", "network")

UNASSIGNED = "unassigned"  # extension id of a part whose extension is not known


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


# Dispositions of outbound calls, and what each means for an inbound call.
AS_INBOUND: Mapping[Disposition, Disposition] = {
    Disposition.NO_ANSWER: Disposition.MISSED,
    Disposition.CANCELLED: Disposition.ABANDONED,
}


class Evidence(StrEnum):
    """What showed a change."""

    ACTIVE_CALLS = "active_calls"
    CALL_LOG = "call_log"
    VANISHED = "vanished"
    UNWATCHED = "unwatched"
    REFUSED = "refused"


class Party(Struct, frozen=True, kw_only=True, gc=False):
    """One side of a call. `extension_id`: its extension, where the platform names it; consumers do not see it."""

    number: str | None = None
    name: str | None = None
    extension_number: str | None = None
    location: str | None = None
    extension_id: str | None = None


class Queue(Struct, frozen=True, kw_only=True, gc=False):
    """A call queue. `confirmed`: the platform names it as a queue; otherwise the name may be part of the caller's."""

    name: str
    confirmed: bool = False


class Provider(Struct, frozen=True, kw_only=True, gc=False):
    """The platform's own ids and words, for questions to its support."""

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
    """One leg of a record; `kind` is the platform's word for it.

    accepted: this leg answered the call (and is not a later transfer).
    own: the record names the leg's phone as the extension's own.
    """

    kind: str | None
    started_at: datetime
    accepted: bool
    own: bool = False

    @property
    def key(self) -> str:
        """Identifies a leg of a record across polls."""
        return f"{self.kind}@{self.started_at.timestamp()}"


class CallObservation(Struct, frozen=True, kw_only=True, gc=False):
    """One extension's part in a session, as one poll (or the call log) shows it.

    disposition: how the call ended; for a provisional record, how it ended if it has ended.
    provisional: the record says ended, but the platform also writes this while a call goes on.
    rings_alone: its legs ring only this extension.
    taken_by_another: a leg of another extension accepted the call, and no leg of this one did.
    started_at, ended_at: only times that the platform gave; none is taken from the poll. Where `ended_exact` is false,
    the part ended at `ended_at` or before.
    unnamed: what the record shows of an extension that it named before, and does not name now; None in the list of one
    extension, where every record is that extension's.
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
    unnamed: "CallObservation | None" = None


class Snapshot(Struct, frozen=True, kw_only=True, gc=False):
    """Every observation of one target, from one complete, successful poll."""

    target: Target
    taken_at: datetime
    observations: tuple[CallObservation, ...]


class Observation(Struct, frozen=True, kw_only=True, gc=False):
    """How an event was detected: the polls around it, and whether its time is exact."""

    after: datetime | None
    before: datetime
    exact: bool
    evidence: Evidence
    first_poll: bool


class Call(Struct, frozen=True, kw_only=True, gc=False):
    """One extension's part in a session: everything that is known of it.

    sequence: the number of the last event; 0 if there was none (the call ended before the first poll, or its record is
    provisional).
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
    # From the last event, so that a call can be shown without it.
    previous_state: State | None = None
    observation: Observation | None = None
    # For filters and the next comparison; consumers do not see these.
    emitted_directions: tuple[Direction, ...] = ()  # the directions of all events of the call
    record_ids: tuple[str, ...] = ()  # the records of this part, oldest first
    ringing_legs: tuple[str, ...] = ()  # keys of the legs seen before the answer
    first_poll: bool = False  # it was shown by the first poll of its target
    provisional_since: datetime | None = None
    provisional_disposition: Disposition | None = None  # the disposition if the provisional record is final
    provisional_ended_at: datetime | None = None
    vanished_at: datetime | None = None  # the first poll that did not show it (ended calls too)
    last_seen_at: datetime | None = None  # the poll before that

    @property
    def live(self) -> bool:
        return self.state is not State.ENDED


class PollHint(Struct, frozen=True, kw_only=True, gc=False):
    """The hint that caused a poll: by which way it came, and how many seconds before the poll was sent."""

    via: str
    seconds_before: float


class CallEvent(Struct, frozen=True, kw_only=True, gc=False, tag_field="kind", tag="call"):
    """A change of a call. `id` is a pure function of the change; `call` is the state after it.

    hint: what caused the poll that showed the change, if a hint did. For the operator; consumers do not see it.
    """

    id: str
    type: str
    time: datetime
    call: Call
    previous_state: State | None
    sequence: int
    observation: Observation
    corrects: str | None = None
    hint: PollHint | None = None

    @property
    def source(self) -> str:
        return self.call.source

    @property
    def key(self) -> str:
        """The ordering key: events of one call are delivered in order."""
        return self.call.call_id

    @property
    def live(self) -> bool:
        """True when the event is only useful for a short time, so that it may expire."""
        return self.type not in ("call.ended", "call.corrected")


class Blind(Struct, frozen=True, kw_only=True, gc=False):
    """The time in which no poll of a source or extension succeeded."""

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
    """The result of a comparison: calls in their new state, and the events to record."""

    calls: tuple[Call, ...] = ()
    events: tuple[Event, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.calls or self.events)


class PollRecord(Struct, frozen=True, kw_only=True, gc=False):
    """A successful poll as the outbox stores it: when all calls of a target were last seen."""

    target: Target
    taken_at: datetime


class Known(Struct, frozen=True, kw_only=True):
    """What the outbox holds of one source at start.

    calls: the calls that are live or provisional, by call id. Ended calls stay on disk (`Outbox.recall`).
    polls: the last successful poll of each target.
    notes: small facts that must survive a restart (penalty, account id, ...), by name.
    """

    calls: Mapping[str, Call]
    polls: Mapping[Target, datetime]
    notes: Mapping[str, bytes]
