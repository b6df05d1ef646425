"""Telephony session events, session reads and presence, in the shapes and the order that were recorded.

Order and fields: github.com/dibyenduroy/csn-data (2020); queue calls: github.com/tylerlong (2023); blind transfer: a
production account (2026). Party 1 is the side that called; sequences begin with 2.
"""

import hashlib
from collections.abc import Iterable
from datetime import datetime, timedelta
from itertools import pairwise

from msgspec import Struct

from callcast.simulator.calls import INBOUND, CallQueue, Extension, Part, Record, Session, filled
from callcast.simulator.clock import iso

SENT_AFTER_MS = (14, 113)  # from the event to its notification; all recorded ones lie in between
ACTIVE_CALLS_MAX = 7
SHOWN_AS = {"Setup": "Ringing", "Proceeding": "Ringing", "Answered": "CallConnected", "Hold": "OnHold"}
MISSED = ("missed", "voicemail", "abandoned")


class Step(Struct, kw_only=True):
    """A state of a party. `pickup`: other devices of the phone can take the call."""

    at: datetime
    code: str
    reason: str | None = None
    missed: bool = False
    pickup: bool = False


class Party(Struct, kw_only=True):
    """One side of a session. `extension_id` is None outside the account."""

    number: int
    extension_id: str | None
    direction: str
    to: Record
    from_: Record
    steps: list[Step]
    queue_call: Record = {}

    def step(self, at: datetime) -> Step | None:
        """The state at a moment; None before the first."""
        return next((step for step in reversed(self.steps) if step.at <= at), None)


class Event(Struct, frozen=True, kw_only=True):
    """A notification that is sent at `at`, without the fields of its subscription."""

    at: datetime
    happened_at: datetime
    uuid: str
    extension_id: str | None
    body: Record


def events_of(account_id: str, session: Session) -> list[Event]:
    """All events of a session in their order."""
    steps = sorted(
        ((step, party) for party in parties_of(session) for step in party.steps), key=lambda taken: taken[0].at
    )
    events: list[Event] = []
    for sequence, (step, party) in enumerate(steps, 2):
        least, most = SENT_AFTER_MS
        delay = timedelta(milliseconds=least + _number(f"{session.record_id} sent {sequence}") % (most - least + 1))
        body = {
            "sequence": sequence,
            "sessionId": session.session_id,
            "telephonySessionId": session.telephony_session_id,
            "serverId": "10.0.0.1.TAM",
            "eventTime": iso(step.at),
            "parties": [_event_party(account_id, session, party, step)],
            "origin": {"type": _origin(session)},
        }
        events.append(
            Event(
                at=max([step.at + delay, *(event.at for event in events[-1:])]),
                happened_at=step.at,
                uuid=str(_number(f"{session.telephony_session_id or session.session_id} event {sequence}")),
                extension_id=party.extension_id,
                body=body,
            )
        )
    return events


def telephony_session(account_id: str, session: Session, now: datetime) -> Record:
    """The answer of `telephony/sessions/{id}`: each party with its state."""
    shown = []
    for party in parties_of(session):
        if (step := party.step(now)) is not None:
            event = _event_party(account_id, session, party, step)
            keys = ("accountId", "extensionId", "id", "direction", "to", "from", "status", "standAlone", "muted")
            shown.append({key: event[key] for key in keys if key in event})
    return {
        "id": session.telephony_session_id,
        "creationTime": iso(session.began_at)[:19] + "Z",
        "origin": {"type": _origin(session)},
        "parties": shown,
    }


def presence(extension_id: str | None, sessions: Iterable[Session], now: datetime, *, ended_since: datetime) -> Record:
    """An extension's telephony state. Calls that ended after `ended_since` are among them as NoCall."""
    calls = []
    for session in sessions:
        for party in parties_of(session):
            step = party.step(now) if party.extension_id == extension_id else None
            if step is not None and (step.code in SHOWN_AS or step.at > ended_since):
                calls.append(_active_call(session, party, SHOWN_AS.get(step.code, "NoCall")))
    calls.sort(key=lambda call: str(call["startTime"]), reverse=True)
    states = {call["telephonyStatus"] for call in calls}
    status = next((state for state in ("CallConnected", "OnHold", "Ringing") if state in states), "NoCall")
    return {
        "telephonyStatus": status,
        **({"activeCalls": calls[:ACTIVE_CALLS_MAX]} if calls else {}),
        "presenceStatus": "Available" if status == "NoCall" else "Busy",
        "userStatus": "Available",
        "meetingStatus": "Disconnected",
        "dndStatus": "TakeAllCalls",
        "allowSeeMyPresence": True,
        "ringOnMonitoredCall": False,
        "pickUpCallsOnHold": False,
        "totalActiveCalls": sum(call["telephonyStatus"] != "NoCall" for call in calls),
    }


def _active_call(session: Session, party: Party, status: str) -> Record:
    call = {
        "id": hashlib.blake2b(_party_id(session, party).encode(), digest_size=16).hexdigest(),
        "direction": party.direction,
        "queueCall": bool(party.queue_call),
        "fromName": party.from_.get("name"),
        "from": party.from_.get("phoneNumber"),
        "toName": party.to.get("name"),
        "to": party.to.get("phoneNumber"),
        "telephonyStatus": status,
        "sessionId": session.session_id,
        "startTime": iso(party.steps[0].at),
        "partyId": _party_id(session, party),
        "telephonySessionId": session.telephony_session_id,
        "terminationType": "final" if status == "NoCall" else None,
    }
    return filled(**call)


def parties_of(session: Session) -> list[Party]:
    """The parties of a session, with both sides as in their last events."""
    first = session.parts[0]
    if session.queue is not None:
        return _queue(session, session.queue)
    if first.shape in ("outbound", "ringout_out"):
        return _outbound(first)
    if first.shape == "internal_out":
        return _internal(*session.parts)
    if first.shape == "conference":
        steps = _steps(first, (0, "Setup"))
        conference = {"phoneNumber": "conference", "name": "Conference"}
        return [_party(1, first.extension, "Outbound", conference, _device(first.extension), steps)]
    return _inbound(session)


def _inbound(session: Session) -> list[Party]:
    """A caller outside and a phone; with a blind transfer each further part is a phone of its own."""
    parties = [_caller(session, _known(session.parts[0].extension, session.parts[0].extension.direct))]
    for number, part in enumerate(session.parts, 2):
        steps = _steps(part, (20, "Setup"), (80, "Proceeding"), pickup=True)
        if any(onward.began_at == part.ended_at for onward in session.parts):
            steps[-1].reason = "BlindTransfer"
        to = _known(part.extension, part.extension.direct)
        parties.append(_party(number, part.extension, "Inbound", to, _outside(session), steps))
    return parties


def _queue(session: Session, queue: CallQueue) -> list[Party]:
    """Party 2 is the queue, and ends when an agent answers."""
    to = filled(phoneNumber=queue.number, name=queue.name, extensionId=queue.id)
    answered_at = min((part.answered_at for part in session.parts if part.answered_at), default=None)
    ends = Step(at=session.ended_at, code="Disconnected")
    if answered_at is not None:
        ends = Step(at=answered_at, code="Disconnected", reason="AgentAnswered")
    steps = _in_order([_after(session.began_at, 20, "Setup"), _after(session.began_at, 60, "Answered"), ends])
    waiting = Party(number=2, extension_id=queue.id, direction="Inbound", to=to, from_=_outside(session), steps=steps)
    caller = _outside(session)
    name = caller.get("name")
    behind = caller | {"name": " - ".join(filter(None, (queue.name, name)))}
    shown = {"primary": {"type": "QueueName", "value": queue.name}}
    if name:
        shown["additional"] = {"type": "CallerIdName", "value": name}
    agents = []
    for number, part in enumerate(session.parts, 3):
        steps = _steps(part, (20, "Setup"), (80, "Proceeding"))
        agent = _party(number, part.extension, "Inbound", to, behind, steps)
        agent.queue_call = shown
        agents.append(agent)
    return [_caller(session, to), waiting, *agents]


def _internal(placing: Part, called: Part) -> list[Party]:
    caller, phone = placing.extension, called.extension
    to = _known(phone, phone.number)
    from_ = _known(caller, caller.number) | {"deviceId": caller.device_id}
    steps = _steps(called, (20, "Setup"), (80, "Proceeding"), pickup=True, end_ms=10)
    return [
        _party(
            1,
            caller,
            "Outbound",
            to,
            from_ | {"phoneNumber": caller.direct},
            _steps(placing, (0, "Setup"), (58, "Answered")),
        ),
        _party(2, phone, "Inbound", to, from_, steps),
    ]


def _outbound(part: Part) -> list[Party]:
    """The called side answers and ends first or last by a few milliseconds, as recorded."""
    own = part.extension
    to = filled(phoneNumber=part.other.number)
    away = _steps(part, (36, "Proceeding"), end_ms=14, holds=False)
    return [
        _party(1, own, "Outbound", to, _device(own), _steps(part, (0, "Setup"), (60, "Proceeding"), answer_ms=28)),
        Party(number=2, extension_id=None, direction="Inbound", to=to, from_=_known(own, own.direct), steps=away),
    ]


def _caller(session: Session, to: Record) -> Party:
    """The party outside that called: connected to the platform at once, and the last to end."""
    began_at = session.began_at
    ended_at = max(session.ended_at, *(part.ended_at for part in session.parts))
    steps = [_after(began_at, 0, "Setup"), _after(began_at, 40, "Answered"), _after(ended_at, 4, "Disconnected")]
    return Party(
        number=1, extension_id=None, direction="Outbound", to=to, from_=_outside(session), steps=_in_order(steps)
    )


def _party(number: int, extension: Extension, direction: str, to: Record, from_: Record, steps: list[Step]) -> Party:
    return Party(number=number, extension_id=extension.id, direction=direction, to=to, from_=from_, steps=steps)


def _steps(
    part: Part,
    *opening: tuple[int, str],
    answer_ms: int = 0,
    end_ms: int = 0,
    pickup: bool = False,
    holds: bool = True,
) -> list[Step]:
    """A part's states: the opening ones so many ms after it began, then answer, holds, voicemail and end."""
    steps = [_after(part.began_at, ms, code) for ms, code in opening]
    if part.answered_at is not None and opening[-1][1] != "Answered":
        steps.append(_after(part.answered_at, answer_ms, "Answered"))
    for step in steps:
        step.pickup = pickup and step.code in ("Proceeding", "Answered")
    for begins, ends in part.holds if holds else ():
        steps += [Step(at=begins, code="Hold"), Step(at=ends, code="Answered")]
    if part.voicemail_at is not None:
        steps.append(Step(at=part.voicemail_at, code="VoiceMail"))
    ended = _after(part.ended_at, end_ms, "Disconnected")
    ended.missed = part.shape in INBOUND and part.ending.disposition in MISSED
    return _in_order([*steps, ended])


def _in_order(steps: list[Step]) -> list[Step]:
    """Move a state that is not later than the one before it by a millisecond."""
    for earlier, later in pairwise(steps):
        later.at = max(later.at, earlier.at + timedelta(milliseconds=1))
    return steps


def _after(moment: datetime, ms: int, code: str) -> Step:
    return Step(at=moment + timedelta(milliseconds=ms), code=code)


def _event_party(account_id: str, session: Session, party: Party, step: Step) -> Record:
    to, from_ = party.to, party.from_
    if party.number == 1:  # what the platform learns about the two sides comes with later events
        if step.code == "Setup":
            to = {key: value for key, value in to.items() if key not in ("name", "extensionId")}
        if step.code == "Setup" or (party.extension_id is None and step.code != "Disconnected"):
            from_ = {key: value for key, value in from_.items() if key != "name"}
    status: Record = {"code": step.code}
    if step.reason:
        status["reason"] = step.reason
    if step.pickup:
        status["mobilePickupData"] = {
            "ccMailboxes": [party.extension_id],
            "to": f"#{party.extension_id}@sip.example.com:5060",
            "sid": str(_number(_party_id(session, party)) % 10**14),
            "srvLvl": "-149699523",
            "srvLvlExt": "406",
        }
    queue_call = party.queue_call
    return {
        "accountId": account_id,
        **({"extensionId": party.extension_id} if party.extension_id else {}),
        "id": _party_id(session, party),
        "direction": party.direction,
        "to": to,
        "from": from_,
        "status": status | {"rcc": False},
        **({"queueCall": True} if queue_call else {}),
        "park": {},
        "missedCall": step.missed,
        "standAlone": False,
        "muted": False,
        **({"uiCallInfo": queue_call} if queue_call else {}),
    }


def _origin(session: Session) -> str:
    shape = session.parts[0].shape
    return "Conference" if shape == "conference" else "RingOut" if shape.startswith("ringout") else "Call"


def _party_id(session: Session, party: Party) -> str:
    return f"p-{(session.telephony_session_id or session.session_id)[2:]}-{party.number}"


def _device(extension: Extension) -> Record:
    return {"phoneNumber": extension.direct, "extensionId": extension.id, "deviceId": extension.device_id}


def _known(extension: Extension, number: str) -> Record:
    return {"phoneNumber": number, "name": extension.name, "extensionId": extension.id}


def _outside(session: Session) -> Record:
    caller = session.caller
    return filled(phoneNumber=caller.number, name=caller.name) if caller else {}


def _number(text: str) -> int:
    """A number of 19 digits, always the same for a text."""
    return 10**18 + int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") % (8 * 10**18)
