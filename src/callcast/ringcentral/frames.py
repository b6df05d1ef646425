"""Decodes the frames of RingCentral's WebSocket, and turns its call and presence events into steps of parties. Pure.

A frame is a JSON array: `[meta]` or `[meta, body]`. Nothing here raises, whatever bytes the network brings: a function
returns None for what it cannot decode, and what is not needed is left out. Sources: developers.ringcentral.com/guide/
notifications/websockets, and its event filters telephony-session and extension-presence.
"""

import re
from collections import Counter, OrderedDict
from collections.abc import Collection, Mapping, Sequence
from typing import Literal, TypeVar

import msgspec
from msgspec import Raw, Struct

from callcast.ports.hints import STEPS, Step

RANK: Mapping[Step, int] = {step: rank for rank, step in enumerate(STEPS, 1)}
# The list of calls shows no change when a party is held, parked or recorded, so these codes are not steps.
STEP_OF_PARTY: Mapping[str, Step] = {
    "setup": "started",
    "proceeding": "started",
    "answered": "answered",
    "disconnected": "ended",
    "gone": "ended",
    "voicemail": "ended",
}
# Presence shows a state: a call on hold was answered.
STEP_OF_CALL: Mapping[str, Step] = {
    "ringing": "started",
    "callconnected": "answered",
    "onhold": "answered",
    "parkedcall": "answered",
}
EVENTS_MAX = 1000  # event ids that are remembered, to recognize an event that is sent twice
PARTIES_MAX = 5000  # parties whose last step is remembered; the least recently changed one is forgotten first
CODE = re.compile(r"[A-Z]{2,8}-[0-9]{1,6}")
Ignored = Literal["duplicate", "old", "unwatched", "no_change"]
Text = str | int | None  # of ids: the platform writes the same id as a string and as a number
T = TypeVar("T")


class Frame(Struct, frozen=True):
    """A frame of any type. `type` is empty if the frame has no use."""

    type: str = ""
    message_id: str = ""
    status: int = 0
    headers: Mapping[str, str] = {}
    recovery: tuple[int, str] | None = None  # sequence and token: with these a new connection continues this one
    body: bytes = b""


class _Meta(Struct, frozen=True):
    type: object = None
    messageId: object = None  # noqa: N815 - the platform's word
    status: object = None
    headers: object = None
    wsc: object = None


def read_frame(data: bytes) -> Frame | None:
    """Decode a frame. Returns None if it is not one. A frame with a multipart body has no use."""
    parts = _decoded(data, list[Raw])
    meta = _decoded(bytes(parts[0]), _Meta) if parts else None
    if not parts or meta is None:
        return Frame() if re.match(rb"\s*\[\s*\{", data) and b",--" in data else None
    headers = meta.headers if isinstance(meta.headers, dict) else {}
    return Frame(
        type=meta.type if isinstance(meta.type, str) else "",
        message_id=meta.messageId if isinstance(meta.messageId, str) else "",
        status=meta.status if isinstance(meta.status, int) else 0,
        headers={name: str(value) for name, value in headers.items() if isinstance(value, str | int)},
        recovery=_recovery(meta.wsc),
        body=bytes(parts[1]) if len(parts) > 1 else b"",
    )


def _recovery(wsc: object) -> tuple[int, str] | None:
    token, sequence = (wsc.get("token"), wsc.get("sequence")) if isinstance(wsc, dict) else (None, None)
    return (sequence, token) if isinstance(token, str) and token and isinstance(sequence, int) else None


# The bodies of the frames


class Connection(Struct, frozen=True):
    """The body of ConnectionDetails."""

    recoveryState: object = None  # noqa: N815 - the platform's word
    recoveryTimeout: object = None  # noqa: N815 - the platform's word

    @property
    def recovered(self) -> bool:
        return isinstance(self.recoveryState, str) and self.recoveryState.lower() == "successful"

    @property
    def recovery_s(self) -> float:
        """Seconds after a loss in which the connection can be continued."""
        return min(max(float(self.recoveryTimeout), 0.0), 3600.0) if isinstance(self.recoveryTimeout, int) else 180.0


class DisabledFilter(Struct, frozen=True):
    filter: str
    reason: str = ""


class Subscription(Struct, frozen=True):
    """The answer to a subscription: the filters in force, and those that the platform left out."""

    id: str
    eventFilters: list[str] = []  # noqa: N815 - the platform's word
    disabledFilters: list[DisabledFilter] = []  # noqa: N815 - the platform's word


class _Error(Struct, frozen=True):
    errorCode: str = ""  # noqa: N815 - the platform's word


class Event(Struct, frozen=True):
    """The body of a ServerNotification."""

    event: str
    uuid: str = ""
    subscriptionId: str = ""  # noqa: N815 - the platform's word
    body: Raw = Raw(b"null")


def connection(body: bytes) -> Connection:
    return _decoded(body, Connection) or Connection()


def subscription(body: bytes) -> Subscription | None:
    return _decoded(body, Subscription)


def event(body: bytes) -> Event | None:
    return _decoded(body, Event)


def error_code(body: bytes) -> str:
    """Return the code of an Error frame, such as WSG-902; empty if there is none."""
    error = _decoded(body, _Error)
    return error.errorCode if error and CODE.fullmatch(error.errorCode) else ""


def _decoded(data: bytes, kind: type[T]) -> T | None:
    try:
        return msgspec.json.decode(data, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None


# Events


class _Status(Struct, frozen=True):
    code: str = ""


class _Party(Struct, frozen=True):
    id: Text = None
    extensionId: Text = None  # noqa: N815 - the platform's word
    status: _Status = _Status()


class _Session(Struct, frozen=True):
    """The body of a telephony session event: usually the one party that changed."""

    telephonySessionId: Text = None  # noqa: N815 - the platform's word
    sequence: int = 0
    parties: list[_Party] = []


class _ActiveCall(Struct, frozen=True):
    telephonySessionId: Text = None  # noqa: N815 - the platform's word
    partyId: Text = None  # noqa: N815 - the platform's word
    telephonyStatus: str = ""  # noqa: N815 - the platform's word
    terminationType: str = ""  # noqa: N815 - the platform's word


class Presence(Struct, frozen=True):
    """The presence of one extension. `telephonyStatus` is missing if it is hidden, or if the extension is no user."""

    telephonyStatus: str = ""  # noqa: N815 - the platform's word
    sequence: int = 0
    activeCalls: list[_ActiveCall] = []  # noqa: N815 - the platform's word
    totalActiveCalls: int | None = None  # noqa: N815 - the platform's word


class _Item(Struct, frozen=True):
    resourceId: Text = None  # noqa: N815 - the platform's word
    status: int = 0
    body: Raw = Raw(b"null")


class PartyStep(Struct, frozen=True):
    """A step of one party of a session.

    extension_id: None if the party is outside the account. party: empty if the platform does not name it.
    """

    extension_id: str | None
    session: str
    party: str
    step: Step


class Steps:
    """Lets through each event once, and of each party only steps that lead further than the last one.

    ignored: what was left out since the caller last cleared it, by reason.
    """

    def __init__(self) -> None:
        self.ignored: Counter[Ignored] = Counter()
        self._events: OrderedDict[str, None] = OrderedDict()
        self._parties: OrderedDict[tuple[str, str], tuple[int, int]] = OrderedDict()  # last sequence, highest rank
        self._shown: dict[str, tuple[int, Collection[tuple[str, str]]]] = {}  # by extension: sequence, live parties

    def resubscribed(self) -> None:
        """Accept any sequence number of a presence next: a new subscription may count from 1 again."""
        self._shown = {extension_id: (0, live) for extension_id, (_, live) in self._shown.items()}

    def of_event(self, event: Event) -> list[PartyStep]:
        """Return the new steps of an event of either kind."""
        if event.uuid in self._events:
            self.ignored["duplicate"] += 1
            return []
        if event.uuid:
            self._events[event.uuid] = None
            if len(self._events) > EVENTS_MAX:
                self._events.popitem(last=False)
        kind = event.event.partition("?")[0].rpartition("/")[2]
        if kind == "sessions":
            return self._of_session(event)
        if kind == "presence" and (presence := _decoded(event.body, Presence)):
            extension_id = extension_of(event.event)
            return self.of_presence(extension_id, presence) if extension_id else []
        return []

    def _of_session(self, event: Event) -> list[PartyStep]:
        session = _decoded(event.body, _Session)
        if session is None or not session.telephonySessionId:
            return []
        path_id, session_id = extension_of(event.event), str(session.telephonySessionId)
        found = []
        for party in session.parties:
            step, party_id = STEP_OF_PARTY.get(party.status.code.lower()), str(party.id or "")
            if self._leads_further(session_id, party_id, step, session.sequence) and step:
                extension_id = str(party.extensionId) if party.extensionId else path_id
                found.append(PartyStep(extension_id, session_id, party_id, step))
        return found

    def of_presence(self, extension_id: str, presence: Presence) -> list[PartyStep]:
        """Return the new steps that a presence shows, pushed or read. A call that it no longer lists has ended."""
        sequence, before = self._shown.get(extension_id, (0, ()))
        if presence.sequence and presence.sequence <= sequence:
            self.ignored["old"] += 1
            return []
        steps: dict[tuple[str, str], Step] = {}
        for call in presence.activeCalls:
            ended = call.telephonyStatus == "NoCall" and call.terminationType == "final"
            step = "ended" if ended else STEP_OF_CALL.get(call.telephonyStatus.lower())
            key = str(call.telephonySessionId), str(call.partyId or "")
            if call.telephonySessionId and step:
                steps[key] = step
            elif key in before:
                steps[key] = "started"  # between two of its devices: it goes on
        listed_all = presence.totalActiveCalls is None or presence.totalActiveCalls <= len(presence.activeCalls)
        for key in before:
            steps.setdefault(key, "ended" if listed_all else "started")  # one presence lists at most seven calls
        live = tuple(key for key, step in steps.items() if step != "ended")
        self._shown[extension_id] = presence.sequence or sequence, live
        return [
            PartyStep(extension_id, session_id, party_id, step)
            for (session_id, party_id), step in steps.items()
            if self._leads_further(session_id, party_id, step, None)
        ]

    def _leads_further(self, session_id: str, party_id: str, step: Step | None, sequence: int | None) -> bool:
        """Note a party's step, none for a change that is not one. `sequence`: None if there is none."""
        key = session_id, party_id
        last, rank = self._parties.pop(key, (-1, 0))
        old = sequence is not None and sequence <= last
        new_rank = max(rank, RANK[step]) if step and not old else rank
        self._parties[key] = last if old or sequence is None else sequence, new_rank
        if len(self._parties) > PARTIES_MAX:
            self._parties.popitem(last=False)
        if new_rank == rank:
            self.ignored["old" if old else "no_change"] += 1
        return new_rank > rank


def read_presences(body: bytes, asked: Sequence[str]) -> dict[str, Presence] | None:
    """Decode an answer about these extensions: each one's presence. Returns None if it is no such answer.

    A bulk answer has a status for each extension; one whose status is not 200 is left out.
    """
    if len(asked) == 1 and not body.lstrip().startswith(b"["):
        single = _decoded(body, Presence)
        return None if single is None else {asked[0]: single}
    items = _decoded(body, list[_Item])
    if items is None:
        return None
    read = ((str(item.resourceId), _decoded(item.body, Presence)) for item in items if item.status == 200)
    return {extension_id: presence for extension_id, presence in read if presence and extension_id in asked}


def extension_of(path: str) -> str | None:
    """Return the extension id in an event filter or an event's path, none if it is about the account."""
    found = re.search(r"/extension/([0-9]{1,20})/", path)
    return found.group(1) if found else None
