"""Typed records -> the observations of a poll. Pure; the platform's words are not used outside this package."""

import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from itertools import chain
from typing import Final

from msgspec.structs import replace

from callcast.calls.model import (
    UNASSIGNED,
    CallObservation,
    Direction,
    Party,
    Provider,
    Queue,
    Snapshot,
    Target,
)
from callcast.ringcentral.decode import BadPage, Page, Record, Row, Side, account_in, decode_page
from callcast.ringcentral.record_facts import RecordFacts, View
from callcast.ringcentral.vocabulary import ACTIONS_WITHOUT_CALL, folded

__all__ = ["BadPage", "ListPage", "Rows", "read_page", "snapshot"]

# Digits, some of them replaced: "+3351234XXXX", "***1234", "555010****". A star before digits is a code ("*67").
_MASKED: Final = re.compile(r"(?=.*(?:[Xx]|\d\*|\*{3}))[\dXx*\s()+.-]+")
_WITHOUT_CALL: Final = folded(ACTIONS_WITHOUT_CALL)
_QUEUE_MARK: Final = " - "


ListPage = Page[tuple[CallObservation, ...]]
Rows = Mapping[bytes, Row[tuple[CallObservation, ...]]]


def read_page(raw: bytes, target: Target, known: Rows | None = None) -> ListPage:
    """Read one page of a list, and what each of its records shows of the target. Raises BadPage."""
    return decode_page(raw, lambda record, account_id: tuple(_observations(record, target, account_id)), known)


def snapshot(target: Target, pages: Iterable[ListPage], taken_at: datetime) -> Snapshot:
    """Return all pages of one poll as a snapshot.

    A record that is on two pages (a call that arrived between the requests shifted the rows) counts once, as
    the later page has it.
    """
    shown = {row.record_id: row.shown for page in pages for row in page.rows if row.shown is not None}
    return Snapshot(target=target, taken_at=taken_at, observations=tuple(chain.from_iterable(shown.values())))


def _observations(record: Record, target: Target, account_id: str | None) -> Iterable[CallObservation]:
    if record.type.lower() != "voice" or record.action.lower() in _WITHOUT_CALL:
        return ()
    facts = RecordFacts(record)
    account_id = account_in(record.uri) or account_id
    provider = Provider(
        name="ringcentral",
        record_id=record.id,
        session_id=record.session_id,
        action=record.action,
        result=record.result,
        reason=record.reason,
    )
    if target.extension_id is not None:
        view = facts.view(target.extension_id, listed=True)
        return (_observation(facts, target.extension_id, view, account_id, provider),)
    unnamed = _observation(facts, UNASSIGNED, facts.view_of_unnamed(), account_id, provider)
    return [
        _observation(facts, one, facts.view(one, listed=False), account_id, provider, unnamed)
        for one in _extensions(facts)
    ]


def _extensions(facts: RecordFacts) -> Sequence[str]:
    """The record's extension and those of its legs, else that of our own side."""
    named = [facts.extension, *[leg.owner for leg in facts.legs]]
    return list(dict.fromkeys(filter(None, named))) or [_side_extension(facts) or UNASSIGNED]


def _side_extension(facts: RecordFacts) -> str | None:
    is_placed = facts.is_outbound and not facts.is_offer
    side = facts.record.from_ if is_placed else facts.record.to
    return str(side.extension_id) if side is not None and side.extension_id else None


def _session(record: Record) -> str:
    """`sessionId` is "0" in every conference (embeddable-319), so it does not identify a session."""
    if record.telephony_session_id:
        return record.telephony_session_id
    return record.id if record.session_id == "0" else record.session_id


def _observation(
    facts: RecordFacts,
    extension_id: str,
    view: View,
    account_id: str | None,
    provider: Provider,
    unnamed: CallObservation | None = None,
) -> CallObservation:
    from_party, to_party, queue = _parties(facts, view)
    return CallObservation(
        extension_id=extension_id,
        session_id=_session(facts.record),
        account_id=account_id,
        record_id=facts.record.id,
        direction=view.direction,
        state=view.state,
        provisional=view.provisional,
        rings_alone=view.rings_alone,
        taken_by_another=view.taken_by_another,
        disposition=view.disposition,
        from_party=from_party,
        to_party=to_party,
        queue=queue,
        started_at=view.started_at,
        ended_at=view.ended_at,
        ended_exact=view.ended_exact,
        legs=view.legs,
        provider=provider,
        unnamed=unnamed,
    )


def _parties(facts: RecordFacts, view: View) -> tuple[Party | None, Party | None, Queue | None]:
    if view.offered:
        return _caller_of_offer(view), _called_of_offer(view), None
    from_party, to_party = _party(view.from_), _party(view.to)
    name = from_party.name if from_party else None
    if from_party and name and _QUEUE_MARK in name and _came_through_queue(facts, view):
        queue, _, caller = name.rpartition(_QUEUE_MARK)
        named = replace(from_party, name=caller or None)
        return named, to_party, Queue(name=queue, confirmed=_is_delegated_by_queue(facts.record)) if queue else None
    return from_party, to_party, None


def _came_through_queue(facts: RecordFacts, view: View) -> bool:
    """A queue's record starts with the ringing of the agent's phone, a direct call's before it (seed-*-3)."""
    if view.direction is not Direction.INBOUND:
        return False
    if _is_delegated_by_queue(facts.record):
        return True
    return any(leg.rings and leg.leg.start_time == view.started_at for leg in facts.legs)


def _is_delegated_by_queue(record: Record) -> bool:
    return (record.delegation_type or "").lower() == "queueforwarding"


def _caller_of_offer(view: View) -> Party | None:
    """None where both sides are the extension itself (seed-queue-1)."""
    if view.from_ is None or view.from_.phone_number is None or _same_side(view.from_, view.to):
        return None
    return _party(view.from_)


def _called_of_offer(view: View) -> Party | None:
    """The extension itself; its name is on the other side (seed-queue-1)."""
    party = _party(view.to)
    if party is None or party.name or view.from_ is None or not _same_side(view.from_, view.to):
        return party
    return replace(party, name=view.from_.name or None)


def _same_side(one: Side, other: Side | None) -> bool:
    return other is not None and bool(one.extension_number) and one.extension_number == other.extension_number


def _number(text: str | None) -> str | None:
    """Return the number; None if it is masked, or a text without any digit ("Anonymous Caller")."""
    if not text:
        return None
    if text[1:].isdigit() and text[0] in "+0123456789":  # as almost always
        return text
    return None if not any(map(str.isdigit, text)) or _MASKED.fullmatch(text) else text


def _party(side: Side | None) -> Party | None:
    if side is None:
        return None
    number, name = _number(side.phone_number), side.name or None
    extension_number, location = side.extension_number or None, side.location or None
    if not (number or name or extension_number or location):
        return None
    return Party(
        number=number,
        name=name,
        extension_number=extension_number,
        location=location,
        extension_id=str(side.extension_id) if side.extension_id else None,
    )
