"""What truly happens: people, sessions, and each extension's part in them with all its times.

A session is planned as a whole, with its end; `records` and `events` render what the platform shows of it.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Literal, Protocol

from msgspec import Struct

Record = dict[str, Any]


def filled(**facts: Any) -> Record:
    """The facts that are known."""
    return {name: value for name, value in facts.items() if value is not None}


Shape = Literal["direct", "queue", "outbound", "internal_out", "internal_in", "ringout_in", "ringout_out", "conference"]
INBOUND: frozenset[Shape] = frozenset({"direct", "queue", "internal_in", "ringout_in"})


class Truth(Struct, frozen=True, kw_only=True):
    """What really happens in one extension's part of one session, for verification.

    `disposition` is one of callcast's words. Times in the future are given as planned. `session_id` is the telephony
    session id, or where the records have none the plain session id.
    """

    extension_id: str
    session_id: str
    direction: str
    started_at: datetime
    answered_at: datetime | None
    ended_at: datetime
    disposition: str


class Scenario(Protocol):
    """What the platform serves. Records are Detailed, newest first; `extension_id` None is the account's list.

    `poll` is called for each request of a list's first page. The first extension is the default credential's own.
    `log` may return more than `session_id` and `since` (a session's end) ask for.
    """

    account_id: str

    def extension_ids(self) -> Sequence[str]: ...

    def poll(self, extension_id: str | None, /) -> None: ...

    def active(self, extension_id: str | None, now: datetime, /) -> list[Record]: ...

    def log(
        self,
        extension_id: str | None,
        now: datetime,
        /,
        *,
        session_id: str | None = None,
        since: datetime | None = None,
    ) -> list[Record]: ...

    def session(self, session_id: str, now: datetime, /) -> Record | None: ...

    def truth(self, now: datetime, /) -> Sequence[Truth]: ...


class Extension(Struct, frozen=True, kw_only=True):
    """A phone. `presence_hidden`: others do not see its presence."""

    id: str
    number: str
    name: str
    direct: str
    location: str | None = None
    presence_hidden: bool = False

    @property
    def device_id(self) -> str:
        return str(803_000_000_000 + int(self.id) % 1_000_000_000)


class Outside(Struct, frozen=True, kw_only=True):
    """A person outside the account; an anonymous caller has no number."""

    number: str | None = None
    name: str | None = None
    location: str | None = None


class CallQueue(Struct, frozen=True, kw_only=True):
    """A queue; telephony events name it by its extension id, where it has one."""

    name: str
    number: str
    location: str | None = None
    id: str | None = None


class Ending(Struct, frozen=True, kw_only=True):
    """How a part ends: the platform's words, and the true disposition."""

    result: str
    reason: str | None
    disposition: str


ENDINGS: Mapping[str, Ending] = {
    "accepted": Ending(result="Accepted", reason="Accepted", disposition="answered"),
    "connected": Ending(result="Call connected", reason="Accepted", disposition="answered"),
    "missed": Ending(result="Missed", reason="No Answer", disposition="missed"),
    "voicemail": Ending(result="Voicemail", reason="No Answer", disposition="voicemail"),
    "hung_up": Ending(result="Hang Up", reason="Hang Up", disposition="abandoned"),
    "abandoned": Ending(result="Abandoned", reason="Hang Up", disposition="abandoned"),
    "declined": Ending(result="Declined", reason="Calls Not Accepted", disposition="declined"),
    "elsewhere": Ending(result="Missed", reason="No Answer", disposition="answered_elsewhere"),
    "no_answer": Ending(result="No Answer", reason="Not Answered", disposition="no_answer"),
    "busy": Ending(result="Busy", reason="Line Busy", disposition="busy"),
    "cancelled": Ending(result="Hang Up", reason="Hang Up", disposition="cancelled"),
    "wrong_number": Ending(result="Wrong Number", reason="Wrong Number", disposition="failed"),
    "failed": Ending(result="Call Failed", reason="Internal Call Error", disposition="failed"),
    "blocked": Ending(result="Blocked", reason="Number Blocked", disposition="blocked"),
}


class Rewrite(Struct, frozen=True, kw_only=True):
    """From `at` on the ended record has another ending."""

    at: datetime
    ending: Ending


class Part(Struct, frozen=True, kw_only=True):
    """One extension's part of a session. The last fields are oddities of its record.

    final_record_id, final_shift_s: the ended record has another id, and starts so much later (recorded in 2014).
    hidden: times in which the list of active calls lacks the record.
    marks_answer: false: an outbound record does not show the answer before its end.
    in_browser: the ended record reads Outbound towards the caller, and has no legs.
    holds: when it was on hold. voicemail_at: when a voicemail began.
    """

    extension: Extension
    shape: Shape
    other: Outside | Extension
    record_id: str
    began_at: datetime
    answered_at: datetime | None
    ended_at: datetime
    ending: Ending
    final_record_id: str | None = None
    final_shift_s: float = 0
    hidden: tuple[tuple[datetime, datetime], ...] = ()
    marks_answer: bool = True
    rewrite: Rewrite | None = None
    in_browser: bool = False
    holds: tuple[tuple[datetime, datetime], ...] = ()
    voicemail_at: datetime | None = None

    def ending_at(self, moment: datetime) -> Ending:
        return self.rewrite.ending if self.rewrite and moment >= self.rewrite.at else self.ending


class Session(Struct, frozen=True, kw_only=True):
    """One conversation. `record_id` and `ending` are those of the account's list, where it has one record for all.

    provisional: the platform lists a queue call as Stopped while it goes on (seen in production, 2026).
    """

    session_id: str
    telephony_session_id: str | None
    began_at: datetime
    ended_at: datetime
    parts: tuple[Part, ...]
    record_id: str
    ending: Ending
    queue: CallQueue | None = None
    caller: Outside | None = None
    provisional: bool = False

    def truths(self) -> list[Truth]:
        return [
            Truth(
                extension_id=part.extension.id,
                session_id=self.telephony_session_id or self.session_id,
                direction="inbound" if part.shape in INBOUND else "outbound",
                started_at=part.began_at,
                answered_at=part.answered_at,
                ended_at=part.ended_at,
                disposition=part.ending.disposition,
            )
            for part in self.parts
        ]
