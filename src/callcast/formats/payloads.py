"""What is sent to consumers, as types: `cloudevents` fills and encodes them, `event_schema` and `asyncapi` describe
them. The docstring of a type, and what its fields are annotated with, is part of the published schema.

Every field is always present, except those that may be UNSET. Times are text, because their form is part of the format.
"""

from collections.abc import Iterable
from typing import Annotated, Any, Literal

from msgspec import UNSET, Meta, Struct, UnsetType

from callcast.calls.model import REASONS, Direction, Disposition, Evidence, State

DATASCHEMA = "urn:callcast:event:1"


def _text(description: str) -> Meta:
    return Meta(description=description)


def _open(words: Iterable[str], description: str = "") -> Meta:
    """An open list of words: more may be added without a new version."""
    known = [str(word) for word in words]
    return Meta(description=f"{description}{', '.join(known)}; accept others too", examples=known)


def _one_of(words: Iterable[str], description: str | None = None) -> Meta:
    return Meta(description=description, extra_json_schema={"enum": list(words)})


def _const(value: str) -> Meta:
    return Meta(extra_json_schema={"const": value})


Time = Annotated[
    str,
    Meta(
        pattern=r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$",
        description="RFC 3339 in UTC with milliseconds",
        extra_json_schema={"format": "date-time"},
    ),
]
Count = Annotated[int, Meta(ge=0)]
Seconds = Annotated[float, Meta(ge=0)]
AnyState = Annotated[str, _open((*State, "held", "parked"))]  # the last two are reserved


class Party(Struct, frozen=True, gc=False):
    """one side of a call; null while it is unknown"""

    number: Annotated[str | None, _text("as the sink's `numbers` says: in full, ***last4, h:hash or null")]
    name: str | None
    extension_number: str | None
    location: str | None


class Queue(Struct, frozen=True, gc=False):
    """the queue through which the call came"""

    name: str


class Observation(Struct, frozen=True, gc=False):
    """the two polls around the event"""

    after: Annotated[Time | None, _text("null at a first poll")]
    before: Time
    exact: Annotated[bool, _text("true if the platform gave the time; false if it is the time of the poll")]
    evidence: Annotated[str, _open(Evidence, "what showed the event: ")]
    first_poll: Annotated[bool, _text("the call was shown by the first poll of its target")]


class Provider(Struct, frozen=True, gc=False):
    """the platform's own ids and words, for questions to its support"""

    name: str
    record_id: str
    session_id: str | None
    action: str | None
    result: str | None
    reason: str | None


class CallData(Struct, frozen=True, gc=False, kw_only=True, rename={"from_party": "from", "to_party": "to"}):
    """the whole state of the call after the change"""

    call_id: Annotated[str, _text("<extension>/<session>, a second part of both with ~2, and so on")]
    session_id: str
    account_id: str | None
    extension_id: Annotated[str, _text("digits, or unassigned")]
    sequence: Annotated[int, Meta(ge=1, description="1, 2, 3 ... per call")]
    direction: Direction
    state: AnyState
    previous_state: AnyState | None
    from_party: Party | None
    to_party: Party | None
    queue: Queue | None
    started_at: Time
    answered_at: Time | None
    ended_at: Time | None
    ring_seconds: Seconds | None
    talk_seconds: Seconds | None
    disposition: Annotated[str, _open(Disposition, "how it ended: ")] | None
    observation: Observation | None
    provider: Provider
    corrects: Annotated[str | UnsetType, _text("the id of the event that was wrong; only in a correction")] = UNSET


class Blind(Struct, frozen=True, gc=False):
    """the time without a successful poll"""

    after: Time | None
    before: Time


class SourceData(Struct, frozen=True, gc=False):
    """a source, or one of its extensions, had no successful poll for too long, or has recovered"""

    source: str
    extension_id: Annotated[str | None, _text("null when the whole source is affected")]
    reason: Annotated[str, _one_of(REASONS, "why polls failed")]
    since: Time
    blind: Blind | UnsetType = UNSET


class CloudEvent(Struct, frozen=True, gc=False):
    """A CloudEvents 1.0 structured event. Without `data` it is the attributes, none of which holds a phone number."""

    specversion: Annotated[str, _const("1.0")]
    id: Annotated[str, Meta(pattern="^evt_[a-z0-9]+$", description="the same for the same fact, always")]
    source: Annotated[str, Meta(pattern="^/callcast/[a-z0-9_]+$")]
    type: str
    subject: Annotated[str, Meta(min_length=1, description="the call's id, or the source's name")]
    time: Time
    datacontenttype: Annotated[str, _const("application/json")]
    dataschema: Annotated[str, _const(DATASCHEMA)]
    partitionkey: Annotated[str, Meta(min_length=1, description="like `subject`; events with the same one are ordered")]
    data: Any  # CallData or SourceData


class StandardEvent(Struct, frozen=True, gc=False):
    """The body with `format = "standard"`; the id is in the header webhook-id."""

    type: str
    timestamp: Time
    data: Any  # CallData or SourceData


class Counts(Struct, frozen=True, gc=False, kw_only=True):
    """Live conversations, and those since midnight."""

    ringing: Count
    dialing: Count
    connected: Count
    waiting: Count
    longest_waiting_since: Time | None
    longest_wait_seconds: Seconds | None
    answered_today: Count
    missed_today: Count
    abandoned_today: Count
    average_speed_of_answer_seconds: Seconds | None
    service_level: Annotated[float, Meta(ge=0, le=1)] | None


class Hints(Struct, frozen=True, gc=False):
    via: tuple[Annotated[str, _one_of(("push", "presence"))], ...]
    up: bool
    since: Time
    missed: Count


class Summary(Counts, frozen=True, gc=False, kw_only=True):
    source: str
    as_of: Time | None
    complete: bool
    overdue: tuple[str, ...]
    sign_ins_ahead: Count | None
    hints: Hints | None
    now: Time | None


class ExtensionState(Struct, frozen=True, gc=False):
    state: Annotated[str, _one_of(("ringing", "dialing", "connected", "idle"))]
    calls: Count
    since: Time | None
    caller: Annotated[Party | None, _text("of the earliest inbound call in this state")]


class Status(Struct, frozen=True, gc=False):
    state: Literal["online", "offline"]
    since: Time | UnsetType = UNSET
    version: str | UnsetType = UNSET
    client_id: str | UnsetType = UNSET
