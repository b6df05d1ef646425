"""From a call as it is written to sessions with all ids and times worked out."""

import base64
import hashlib
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta

from callcast.simulator.calls import (
    ENDINGS,
    CallQueue,
    Ending,
    Extension,
    Outside,
    Part,
    Rewrite,
    Session,
    Shape,
)
from callcast.simulator.script import Account, Call, Handover, Kind, ScriptFault

UNANSWERED: Mapping[Kind, str] = {
    "inbound": "missed",
    "queue": "missed",
    "outbound": "no_answer",
    "internal": "missed",
    "ringout": "no_answer",
    "conference": "cancelled",
}


class Director:
    """Turns calls into sessions. The same seed and number give the same ids."""

    def __init__(self, account: Account, start: datetime, *, seed: int = 0, speed: float = 1.0) -> None:
        self.account = account
        self.phones = {extension.number: extension for extension in account.extensions}
        self.start = start
        self.seed = seed
        self.speed = speed

    def starting(self, moment: datetime) -> "Director":
        """The same one, counting `at_s` from another moment."""
        return Director(self.account, moment, seed=self.seed, speed=self.speed)

    def sessions(self, call: Call, number: int) -> Sequence[Session]:
        """The sessions of one call (two for a RingOut). Raises ScriptFault."""
        staged = _Staged(self, call, number)
        match call.kind:
            case "inbound":
                return [staged.inbound()]
            case "queue":
                return [staged.queue()]
            case "outbound" | "conference":
                return [staged.outbound()]
            case "internal":
                return [staged.internal()]
            case "ringout":
                return staged.ringout()


class _Staged:
    """One call on the way to its sessions."""

    def __init__(self, director: Director, call: Call, number: int) -> None:
        self._director = director
        self._call = call
        self._number = number
        self._at = self._after(director.start, call.at_s)

    def inbound(self) -> Session:
        call = self._call
        own = self._phone(call.extension)
        first = self._part("0", "direct", own, self._outside(), self._at, call.rings_s, call.talks_s, call.ends)
        if call.transfer is None:
            return self._session((first,), first.ended_at, first.ending)
        second = self._handed_on(call.transfer, first)
        return self._session((first, second), max(first.ended_at, second.ended_at), first.ending)

    def outbound(self) -> Session:
        call = self._call
        own = self._phone(call.extension)
        other = self._outside()
        shape: Shape = "outbound"
        if call.kind == "conference":
            shape, other = "conference", Outside(number="conference", name="Conference")
        part = self._part("0", shape, own, other, self._at, call.rings_s, call.talks_s, call.ends)
        return self._session((part,), part.ended_at, part.ending)

    def internal(self) -> Session:
        """Two parts of one session: the one who calls, and the one who is called."""
        call = self._call
        own, other = self._phone(call.extension), self._phone(call.to or "")
        ends = call.ends or UNANSWERED["internal"]
        caller_ends = {"missed": "no_answer", "hung_up": "cancelled", "declined": "busy"}.get(ends, "no_answer")
        out = self._part("0", "internal_out", own, other, self._at, call.rings_s, call.talks_s, caller_ends)
        into = self._part("1", "internal_in", other, own, self._at, call.rings_s, call.talks_s, ends)
        return self._session((out, into), out.ended_at, out.ending)

    def ringout(self) -> list[Session]:
        """The phone rings first; when it is picked up, the other side is called. Two records, 1,000 apart."""
        call = self._call
        own, other = self._phone(call.extension), self._outside()
        begun = self._after(self._at, call.rings_s)
        away = self._part("0", "ringout_out", own, other, begun, call.rings_s, call.talks_s, call.ends)
        talks_s = (away.ended_at - begun).total_seconds() * self._director.speed
        phone = self._part("1", "ringout_in", own, other, self._at, call.rings_s, talks_s, None)
        return [
            self._session((phone,), phone.ended_at, phone.ending, shift=1),
            self._session((away,), away.ended_at, away.ending),
        ]

    def queue(self) -> Session:
        call = self._call
        rounds = call.offers or ((call.extension,),)
        parts: list[Part] = []
        begins = self._after(self._at, call.waits_s)
        answered = call.talks_s is not None
        for turn, phones in enumerate(rounds):
            last = answered and turn == len(rounds) - 1
            parts += [self._offer(f"{turn}.{phone}", phone, begins, last) for phone in phones]
            begins = self._after(begins, call.rings_s)
        if answered and not any(part.answered_at for part in parts):
            raise ScriptFault(f"extension {call.extension!r} answers, but is not among the last of `offers`")
        ended_at = max(part.ended_at for part in parts)
        if not answered:
            ended_at = self._after(ended_at, call.records_s)
        ends = "accepted" if answered else call.ends or UNANSWERED["queue"]
        return self._session(tuple(parts), ended_at, ending(ends), queue=self._director.account.queue(call.queue))

    def _offer(self, key: str, phone: str, begins: datetime, last: bool) -> Part:
        """One phone's ring: the one that answers talks, the others stop ringing then."""
        call = self._call
        own = self._phone(phone)
        if not last:
            late = "elsewhere" if call.talks_s is not None else call.ends
            unanswered = "missed" if late == "voicemail" else late
            return self._part(key, "queue", own, self._outside(), begins, call.rings_s, None, unanswered)
        talks_s = call.talks_s if phone == call.extension else None
        return self._part(key, "queue", own, self._outside(), begins, call.answers_after_s, talks_s, "elsewhere")

    def _handed_on(self, transfer: Handover, first: Part) -> Part:
        own = self._phone(transfer.to)
        begins = first.ended_at
        return self._part("1", "direct", own, first.other, begins, transfer.rings_s, transfer.talks_s, transfer.ends)

    def _part(
        self,
        key: str,
        shape: Shape,
        own: Extension,
        other: Outside | Extension,
        begins: datetime,
        rings_s: float,
        talks_s: float | None,
        ends: str | None,
    ) -> Part:
        """`ends` applies to a part that is not answered."""
        call = self._call
        rung = self._after(begins, rings_s)
        answered = talks_s is not None
        records_s = call.records_s if call.kind != "queue" else 0
        if answered:
            ends = "connected" if shape in ("outbound", "internal_out", "ringout_out", "conference") else "accepted"
        ended_at = self._after(rung, talks_s if talks_s is not None else records_s)
        return Part(
            extension=own,
            shape=shape,
            other=other,
            record_id=self._record_id(key),
            began_at=begins,
            answered_at=rung if answered else None,
            ended_at=ended_at,
            ending=ending(ends or UNANSWERED[call.kind]),
            final_record_id=self._record_id(key + " ended") if call.id_changes else None,
            final_shift_s=1 if call.id_changes else 0,
            hidden=tuple((self._after(begins, a), self._after(begins, b)) for a, b in call.hidden_s),
            marks_answer=call.marks_answer,
            rewrite=self._rewrite(ended_at),
            in_browser=call.in_browser and shape == "direct",
            holds=self._holds(rung, ended_at) if answered and shape != "internal_in" else (),
            voicemail_at=rung if records_s and not answered else None,
        )

    def _holds(self, answered_at: datetime, ended_at: datetime) -> tuple[tuple[datetime, datetime], ...]:
        pairs = ((self._after(answered_at, a), self._after(answered_at, b)) for a, b in self._call.holds_s)
        return tuple((begins, ends) for begins, ends in pairs if answered_at < begins < ends < ended_at)

    def _rewrite(self, ended_at: datetime) -> Rewrite | None:
        if self._call.rewritten is None:
            return None
        after_s, ends = self._call.rewritten
        return Rewrite(at=self._after(ended_at, after_s), ending=ending(ends))

    def _session(
        self,
        parts: tuple[Part, ...],
        ended_at: datetime,
        word: Ending,
        *,
        queue: CallQueue | None = None,
        shift: int = 0,
    ) -> Session:
        call = self._call
        plain = "0" if call.kind == "conference" else str(538_000_000_000 + self._number * 10_000 + shift * 1_000)
        return Session(
            session_id=plain,
            telephony_session_id="s-" + self._digest(f"session {shift}").hex(),
            began_at=self._at,
            ended_at=ended_at,
            parts=parts,
            record_id=self._record_id("whole"),
            ending=word,
            queue=queue,
            caller=self._outside(),
            provisional=call.provisional,
        )

    def _phone(self, number: str) -> Extension:
        extension = self._director.phones.get(number)
        if extension is None:
            raise ScriptFault(f"there is no extension {number!r}")
        return extension

    def _outside(self) -> Outside:
        call = self._call
        return Outside(number=call.number, name=call.name, location=call.location)

    def _after(self, moment: datetime, seconds: float) -> datetime:
        return whole_ms(moment + timedelta(seconds=seconds / self._director.speed))

    def _record_id(self, key: str) -> str:
        return "LI" + base64.urlsafe_b64encode(self._digest(key))[:13].decode()

    def _digest(self, key: str) -> bytes:
        return hashlib.blake2b(f"{self._director.seed}/{self._number}/{key}".encode(), digest_size=16).digest()


def ending(name: str) -> Ending:
    if name not in ENDINGS:
        raise ScriptFault(f"there is no ending {name!r}; there are {', '.join(ENDINGS)}")
    return ENDINGS[name]


def whole_ms(moment: datetime) -> datetime:
    """The platform's times have milliseconds, so ours have no more."""
    return moment.replace(microsecond=moment.microsecond // 1000 * 1000)
