"""What the platform shows of a session at a moment, in the shapes that were recorded.

Direct and queue calls: github.com/tylerlong/active-calls-demo (2021). Outbound, missed, voicemail, internal and
Stopped: call log records of a production account (2026). RingOut: the Slate guide (2015). The order of the keys
is the recordings' too.
"""

from datetime import datetime, timedelta
from math import ceil

from msgspec import Struct

from callcast.simulator.calls import (
    ENDINGS,
    CallQueue,
    Ending,
    Extension,
    Outside,
    Part,
    Record,
    Session,
    Shape,
    filled,
)
from callcast.simulator.clock import iso

SERVER = "https://platform.ringcentral.com/restapi/v1.0/account/"
LIVE = Ending(result="In Progress", reason=None, disposition="")
ANSWERED = Ending(result="In Progress", reason="Accepted", disposition="")
STOPPED = Ending(result="Stopped", reason="Stopped", disposition="")
LEG_TYPES: dict[Shape, str] = {
    "outbound": "SipToPstnUnmetered",
    "internal_out": "SipToSip",
    "conference": "ConferenceCall",
}
DESCRIPTIONS = {
    "Accepted": "The call connected to and was accepted by this number.",
    "Connected": "The call was answered, but there was no response on how to handle the call.",
    "No Answer": "You did not answer the call.",
    "Not Answered": "The phone number you dialed was not answered.",
    "Hang Up": "The caller hung up before the call was answered.",
    "Line Busy": "The phone number you dialed was busy.",
    "Stopped": "This attempt was stopped because the call was answered by another phone.",
}


class Known(Struct, frozen=True, kw_only=True):
    """What a list shows: calls and answers up to one moment, ends up to another."""

    starts: datetime
    ends: datetime


class Moment:
    """One part of a session at a time."""

    def __init__(self, account_id: str, session: Session, part: Part, at: Known) -> None:
        self.account = SERVER + account_id
        self.session = session
        self.part = part
        self.at = at
        self.ended = at.ends >= part.ended_at
        self.answered = part.answered_at is not None and (self.ended or at.starts >= part.answered_at)
        self.session_over = at.ends >= session.ended_at

    @property
    def start(self) -> datetime:
        """The start as the record shows it: an ended one may begin later, but never after its end."""
        part = self.part
        shift = timedelta(seconds=part.final_shift_s if self.ended else 0)
        return part.began_at + shift if part.ended_at - part.began_at > shift else part.began_at

    @property
    def end(self) -> datetime | None:
        return self.part.ended_at if self.ended else None

    def word(self, answered: Ending) -> Ending:
        """The result and reason at this time; `answered` is that of a live, answered part."""
        if self.ended:
            return self.part.ending_at(self.at.ends)
        return answered if self.answered else LIVE

    def body(
        self,
        direction: str,
        action: str,
        word: Ending,
        to: Record,
        from_: Record,
        times: tuple[datetime, datetime | None] | None = None,
    ) -> Record:
        """The fields that records and legs share. Ended ones have a duration in whole seconds, rounded up."""
        own = self.part.extension
        start, end = times or (self.start, self.end)
        return filled(
            startTime=iso(start),
            duration=None if end is None else ceil((end - start).total_seconds()),
            type="Voice",
            direction=direction,
            action=action,
            result=word.result,
            to=to,
            **{"from": from_},
            extension={"uri": f"{self.account}/extension/{own.id}", "id": int(own.id)},
            reason=word.reason,
            reasonDescription=DESCRIPTIONS.get(word.reason or ""),
            telephonySessionId=self.session.telephony_session_id,
        )

    def device(self) -> Record:
        """The phone that answered; empty before the answer."""
        if not self.answered:
            return {}
        number = self.part.extension.device_id
        return {"device": {"uri": f"{self.account}/device/{number}", "id": number}}


def record_of(account_id: str, session: Session, part: Part, at: Known) -> Record:
    """The Detailed record of one extension's part, as that extension's own list shows it."""
    moment = Moment(account_id, session, part, at)
    match part.shape:
        case "direct" | "internal_in" | "ringout_in":
            body, legs = _direct(moment)
        case "queue":
            body, legs = _queue(moment)
        case "ringout_out":
            body, legs = _ringout_out(moment)
        case shape:
            body, legs = _placed(moment, "VoIP Call", LEG_TYPES[shape], ANSWERED if part.marks_answer else LIVE)
    record_id = part.final_record_id if moment.ended and part.final_record_id else part.record_id
    return _record(f"{moment.account}/extension/{part.extension.id}", record_id, session, body, legs)


# One function for each shape: (what the record and its leading leg say, all legs).


def _direct(moment: Moment) -> tuple[Record, list[Record]]:
    """The caller's leg, and after the answer one to the phone, which alone shows the answer of a live call."""
    part = moment.part
    caller, own = party(part.other), party(part.extension, direct=True)
    if moment.ended and part.in_browser:
        word = moment.word(LIVE)
        word = ENDINGS["no_answer"] if word.result == "Missed" else word
        return moment.body("Outbound", "VoIP Call", word, caller, own), []
    top = moment.body("Inbound", "Phone Call", moment.word(LIVE), own, caller)
    legs = [leg(top, "Accept", master=True)]
    if part.answered_at is not None and moment.answered:
        word = moment.word(ANSWERED)
        phone = moment.body("Outbound", "VoIP Call", word, *_phone(moment), (part.answered_at, moment.end))
        internal = isinstance(part.other, Extension)
        legs.append(leg(phone, "SipToSip" if internal else "PstnToSip", master=False))
    return top, [*legs, *_transferred(moment, caller)]


def _transferred(moment: Moment, caller: Record) -> list[Record]:
    """The onward leg of a blind transfer, which appears at the session's end and lasts longer than the record."""
    session, part = moment.session, moment.part
    handed_on = session.queue is None and session.parts[0] is part and len(session.parts) > 1
    if not handed_on or not moment.session_over:
        return []
    target = party(session.parts[1].extension)
    word = Ending(result="Call connected", reason=None, disposition="")
    onward = moment.body("Outbound", "VoIP Call", word, target, caller, (part.ended_at, session.ended_at))
    return [leg(onward, "TransferCall", master=False)]


def _queue(moment: Moment) -> tuple[Record, list[Record]]:
    """Reads as an outbound call of the agent until it ends; then as an inbound call with the caller's number."""
    part, session = moment.part, moment.session
    ring = moment.body("Outbound", "VoIP Call", moment.word(ANSWERED), *_phone(moment))
    if not moment.ended:
        return ring, [leg(ring, "PstnToSip", master=True)]
    if part.answered_at is None:
        ring |= filled(result=STOPPED.result, reason=STOPPED.reason, reasonDescription=DESCRIPTIONS["Stopped"])
        if session.provisional and not moment.session_over:
            return ring, [leg(ring, "PstnToSip", master=True)]
    word = part.ending_at(moment.at.ends)
    own = party(session.queue, name=part.extension.name)
    names = [one.name for one in (session.queue, session.caller) if one and one.name]
    caller = party(session.caller or Outside(), name=" - ".join(names))
    top = moment.body("Inbound", "Phone Call", word, own, caller)
    return top, [leg(top, "Accept", master=True), leg(ring, "PstnToSip", master=False)]


def _ringout_out(moment: Moment) -> tuple[Record, list[Record]]:
    """A live, answered one has the result Call connected and the duration 0; the own phone was answered before."""
    talking = Ending(result="Call connected", reason=None, disposition="")
    top, legs = _placed(moment, "RingOut Web", "RingOutWebToSubscriber", talking)
    own, other = party(moment.part.extension, direct=True), party(moment.part.other)
    phone = moment.body("Outbound", "RingOut Web", ANSWERED, own, other)
    if moment.answered and not moment.ended:
        for each in (top, *legs):
            each["duration"] = 0
    return top, [leg(phone, "RingOutWebToCaller", master=True), *({**each, "master": False} for each in legs)]


def _placed(moment: Moment, action: str, leg_type: str, answered: Ending) -> tuple[Record, list[Record]]:
    part = moment.part
    own = party(part.extension, direct=True) | {"extensionId": part.extension.id} | moment.device()
    word = moment.word(answered)
    top = moment.body("Outbound", action, word, party(part.other), own)
    return top, [leg(top, leg_type, master=True)]


def account_records(account_id: str, session: Session, at: Known) -> list[Record]:
    """A session in the account's list: extensions are named in the legs only, and a queue call is one record."""
    if session.queue is not None:
        return [_account_queue(account_id, session, at)]
    shown = [record_of(account_id, session, part, at) for part in session.parts if at.starts >= part.began_at]
    return [_without_extension(record) for record in shown]


def _account_queue(account_id: str, session: Session, at: Known) -> Record:
    rings = [Moment(account_id, session, part, at) for part in session.parts if at.starts >= part.began_at]
    over, answered = at.ends >= session.ended_at, any(ring.answered for ring in rings)
    whole = rings[0] if rings else Moment(account_id, session, session.parts[0], at)
    stopped = [ring for ring in rings if ring.ended and not ring.answered]
    if session.provisional and stopped and not over:
        top, legs = _account_ring(stopped[-1]), [_account_ring(ring) for ring in stopped]
    else:
        word = session.ending if over else (ANSWERED if answered else LIVE)
        ended_at = session.ended_at if over else None
        caller, own = party(session.caller), party(session.queue)
        top = whole.body("Inbound", "Phone Call", word, own, caller, (session.began_at, ended_at))
        legs = [_without_extension(leg(top, "Accept", master=True)), *(_account_ring(ring) for ring in rings)]
    head = {key: value for key, value in _without_extension(top).items() if key not in ("legType", "master")}
    return _record(whole.account, session.record_id, session, head, legs)


def _account_ring(ring: Moment) -> Record:
    part = ring.part
    word = STOPPED if ring.ended and not ring.answered else ring.word(ANSWERED)
    to, own = _phone(ring)
    caller = party(ring.session.caller)
    from_ = {**caller, "extensionId": part.extension.id} | {k: v for k, v in own.items() if k == "device"}
    return leg(
        ring.body("Outbound", "VoIP Call", word, to, from_, (part.began_at, ring.end)), "PstnToSip", master=False
    )


# The pieces


def leg(body: Record, leg_type: str, *, master: bool) -> Record:
    return {**body, "legType": leg_type, "master": master}


def party(who: Extension | Outside | CallQueue | None, *, direct: bool = False, name: str | None = None) -> Record:
    """One side of a call. A colleague is shown by the extension number, or with `direct` by the direct number."""
    if who is None:
        return {}
    if isinstance(who, Extension):
        if direct:
            return filled(name=who.name, phoneNumber=who.direct, location=who.location)
        return {"extensionId": who.id, "extensionNumber": who.number, "name": who.name}
    return filled(name=name or who.name, phoneNumber=who.number, location=who.location)


def _without_extension(record: Record) -> Record:
    return {key: value for key, value in record.items() if key != "extension"}


def _phone(moment: Moment) -> tuple[Record, Record]:
    """`to` and `from` of the leg to a phone: the extension on both sides."""
    own = moment.part.extension
    to = filled(phoneNumber=own.direct, extensionNumber=own.number, location=own.location)
    return to, {"name": own.name, "extensionNumber": own.number, **moment.device()}


def _record(home: str, record_id: str, session: Session, body: Record, legs: list[Record]) -> Record:
    """A whole record; `home` is the address of the extension or the account."""
    number = str(int.from_bytes(record_id.encode()[:5], "big"))
    message = {"uri": f"{home}/message-store/{number}", "id": number, "type": "VoiceMail"}
    return {
        "uri": f"{home}/call-log/{record_id}?view=Detailed",
        "id": record_id,
        "sessionId": session.session_id,
        **body,
        **({"message": message} if body["result"] == "Voicemail" else {}),
        "legs": legs,
    }
