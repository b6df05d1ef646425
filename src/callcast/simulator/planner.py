"""Turns a call of a scenario file into sessions with all ids and times."""

import base64
import hashlib
from collections.abc import Sequence
from datetime import datetime, timedelta

from callcast.simulator.calls import ENDINGS, CallQueue, Ending, Extension, Outside, Part, Rewrite, Session, Shape
from callcast.simulator.script import Account, Call, Kind, ScenarioError

UNANSWERED: dict[Kind, str] = {
    "inbound": "missed",
    "queue": "missed",
    "outbound": "no_answer",
    "internal": "missed",
    "ringout": "no_answer",
    "conference": "cancelled",
}
PLACED: tuple[Shape, ...] = ("outbound", "internal_out", "ringout_out", "conference")


def plan(
    account: Account, call: Call, number: int, start: datetime, *, seed: int = 0, speed: float = 1.0
) -> Sequence[Session]:
    """The sessions of a call (two of a RingOut). The same seed and number give the same ids. Raises ScenarioError."""
    planned = _Plan(account, call, number, start, seed, speed)
    match call.kind:
        case "inbound":
            return [planned.inbound()]
        case "queue":
            return [planned.queue()]
        case "outbound" | "conference":
            return [planned.outbound()]
        case "internal":
            return [planned.internal()]
        case "ringout":
            return planned.ringout()


class _Plan:
    def __init__(self, account: Account, call: Call, number: int, start: datetime, seed: int, speed: float) -> None:
        self._account = account
        self._call = call
        self._number = number
        self._seed = seed
        self._speed = speed
        self._outside = Outside(number=call.number, name=call.name, location=call.location)
        self._at = self._after(start, call.at_s)

    def inbound(self) -> Session:
        call, other = self._call, self._outside
        first = self._part("0", "direct", call.extension, other, self._at, call.rings_s, call.talks_s, call.ends)
        parts = [first]
        if (onward := call.transfer) is not None:
            begins = first.ended_at
            parts.append(
                self._part("1", "direct", onward.to, other, begins, onward.rings_s, onward.talks_s, onward.ends)
            )
        return self._session(parts, max(part.ended_at for part in parts), first.ending)

    def outbound(self) -> Session:
        call, other = self._call, self._outside
        shape: Shape = "outbound"
        if call.kind == "conference":
            shape, other = "conference", Outside(number="conference", name="Conference")
        part = self._part("0", shape, call.extension, other, self._at, call.rings_s, call.talks_s, call.ends)
        return self._session([part], part.ended_at, part.ending)

    def internal(self) -> Session:
        """One session with a part for each side."""
        call = self._call
        caller, called = self._phone(call.extension), self._phone(call.to or "")
        ends = call.ends or UNANSWERED["internal"]
        caller_ends = {"missed": "no_answer", "hung_up": "cancelled", "declined": "busy"}.get(ends, "no_answer")
        times = (self._at, call.rings_s, call.talks_s)
        out = self._part("0", "internal_out", caller.number, called, *times, caller_ends)
        into = self._part("1", "internal_in", called.number, caller, *times, ends)
        return self._session([out, into], out.ended_at, out.ending)

    def ringout(self) -> list[Session]:
        """The own phone rings first, then the other side is called: two sessions, their ids 1,000 apart."""
        call = self._call
        begins = self._after(self._at, call.rings_s)
        own, other = call.extension, self._outside
        away = self._part("0", "ringout_out", own, other, begins, call.rings_s, call.talks_s, call.ends)
        talks_s = (away.ended_at - begins).total_seconds() * self._speed
        phone = self._part("1", "ringout_in", own, other, self._at, call.rings_s, talks_s, None)
        return [
            self._session([phone], phone.ended_at, phone.ending, shift=1),
            self._session([away], away.ended_at, away.ending),
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
            raise ScenarioError(f"extension {call.extension!r} answers, but is not among the last of `offers`")
        ended_at = max(part.ended_at for part in parts)
        if not answered:
            ended_at = self._after(ended_at, call.records_s)
        ends = "accepted" if answered else call.ends or UNANSWERED["queue"]
        return self._session(parts, ended_at, ending(ends), queue=self._account.queue(call.queue))

    def _offer(self, key: str, phone: str, begins: datetime, last: bool) -> Part:
        """One phone's ring. In the last round all stop ringing when one answers."""
        call, other = self._call, self._outside
        if last:
            talks_s = call.talks_s if phone == call.extension else None
            return self._part(key, "queue", phone, other, begins, call.answers_after_s, talks_s, "elsewhere")
        ends = "elsewhere" if call.talks_s is not None else call.ends
        ends = "missed" if ends == "voicemail" else ends
        return self._part(key, "queue", phone, other, begins, call.rings_s, None, ends)

    def _part(
        self,
        key: str,
        shape: Shape,
        number: str,
        other: Outside | Extension,
        begins: datetime,
        rings_s: float,
        talks_s: float | None,
        ends: str | None,
    ) -> Part:
        """`ends` is the ending of a part that is not answered."""
        call = self._call
        rung = self._after(begins, rings_s)
        answered = talks_s is not None
        records_s = call.records_s if call.kind != "queue" else 0
        if answered:
            ends = "connected" if shape in PLACED else "accepted"
        ended_at = self._after(rung, talks_s if talks_s is not None else records_s)
        rewrite = None
        if call.rewritten is not None:
            after_s, word = call.rewritten
            rewrite = Rewrite(at=self._after(ended_at, after_s), ending=ending(word))
        holds = [(self._after(rung, first_s), self._after(rung, last_s)) for first_s, last_s in call.holds_s]
        return Part(
            extension=self._phone(number),
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
            rewrite=rewrite,
            in_browser=call.in_browser and shape == "direct",
            holds=tuple(held for held in holds if answered and shape != "internal_in" and held[1] < ended_at),
            voicemail_at=rung if records_s and not answered else None,
        )

    def _session(
        self, parts: Sequence[Part], ended_at: datetime, word: Ending, *, queue: CallQueue | None = None, shift: int = 0
    ) -> Session:
        call = self._call
        plain = "0" if call.kind == "conference" else str(538_000_000_000 + self._number * 10_000 + shift * 1_000)
        return Session(
            session_id=plain,
            telephony_session_id="s-" + self._digest(f"session {shift}").hex(),
            began_at=self._at,
            ended_at=ended_at,
            parts=tuple(parts),
            record_id=self._record_id("whole"),
            ending=word,
            queue=queue,
            caller=self._outside,
            provisional=call.provisional,
        )

    def _phone(self, number: str) -> Extension:
        for extension in self._account.extensions:
            if extension.number == number:
                return extension
        raise ScenarioError(f"there is no extension {number!r}")

    def _after(self, moment: datetime, seconds: float) -> datetime:
        """A later time in whole milliseconds, as all times of the platform are."""
        at = moment + timedelta(seconds=seconds / self._speed)
        return at.replace(microsecond=at.microsecond // 1000 * 1000)

    def _record_id(self, key: str) -> str:
        return "LI" + base64.urlsafe_b64encode(self._digest(key))[:13].decode()

    def _digest(self, key: str) -> bytes:
        return hashlib.blake2b(f"{self._seed}/{self._number}/{key}".encode(), digest_size=16).digest()


def ending(name: str) -> Ending:
    if name not in ENDINGS:
        raise ScenarioError(f"there is no ending {name!r}; there are {', '.join(ENDINGS)}")
    return ENDINGS[name]
