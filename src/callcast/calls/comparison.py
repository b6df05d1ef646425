"""Collects what one comparison changes: each call in its old and new state, and then the events."""

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta

import msgspec

from callcast.calls.events import ObservationWindow, event_for
from callcast.calls.index import CallIndex, is_listed_live, is_open, older_names
from callcast.calls.lifecycle import (
    LISTED,
    apply_observation,
    as_known,
    begin,
    correct,
    end,
    is_unchanged,
    known_state,
    settle,
    wait,
    with_facts,
)
from callcast.calls.matching import Part, is_final, match_parts
from callcast.calls.model import (
    UNASSIGNED,
    Call,
    CallEvent,
    CallObservation,
    ChangeSet,
    Disposition,
)
from callcast.calls.shared_answers import was_answered, was_missed


class Comparison:
    """Collects drafts (the old and new state of a call), relates the parts of each session, and makes the events.

    whole: the comparison covers the whole account, and each extension has its own last poll before it.
    """

    def __init__(self, index: CallIndex, window: ObservationWindow, *, whole: bool = False) -> None:
        self._index = index
        self._window = window
        self._whole = whole
        self._drafts: dict[str, tuple[Call | None, Call]] = {}
        self._drafted: dict[str, dict[str, Call]] = {}  # by session
        self._silent: set[str] = set()
        self._unsettled: dict[str, set[str]] = {}

    def observe(self, observations: Sequence[CallObservation], *, settle_s: float, listed: bool = True) -> set[str]:
        """Apply observations to the calls they belong to. Returns the ids of these calls.

        listed: the observations come from the platform's list of live calls; otherwise from the call log.
        """
        for observation in observations:
            if not is_final(observation):
                self._unsettled.setdefault(observation.session_id, set()).add(observation.record_id)
        observations, over = self.with_unnamed(observations)
        for call in over if listed else ():
            self.update(call, with_facts(call, LISTED))
        shown = {call.call_id for call in over}
        for calls, seen in self._grouped(observations):
            if len(seen) == len(calls) == 1 and is_unchanged(calls[0], as_known(calls[0], seen[0]), self._window.at):
                shown.add(calls[0].call_id)
                continue
            for part in match_parts(calls, seen):
                if part.records and (part.call or not self._belongs_to_extension(part.observation())):
                    shown.add(self._observe_part(part, settle_s=settle_s, listed=listed))
        return shown

    def with_unnamed(self, observations: Sequence[CallObservation]) -> tuple[Sequence[CallObservation], Sequence[Call]]:
        """Return the observations, with those of parts that a record named before and does not name now; and the parts
        of such records that are over.

        A record that names no extension any more still belongs to its only part: all of its facts are that part's.
        """
        records = {one.record_id: one for one in observations if one.unnamed is not None}
        if not records:
            return observations, ()
        seen: dict[str, list[CallObservation]] = {}  # by session
        for one in observations:
            seen.setdefault(one.session_id, []).append(one)
        added: list[CallObservation] = []
        over: list[Call] = []
        taken: set[str] = set()
        for record_id, one in records.items():
            known = self._known_parts(one)
            parts = [call for call in known if record_id in call.record_ids]
            hidden = [call for call in parts if not _is_shown(call, known, seen[one.session_id])]
            candidates = [call for call in parts if is_open(call) or was_answered(call)]
            is_unassigned = one.extension_id == UNASSIGNED
            shown = one if is_unassigned and len(candidates) == 1 else one.unnamed
            assert shown is not None  # noqa: S101 - only such records are in `records`
            if hidden and is_unassigned:
                taken.add(record_id)
            for call in hidden:
                if is_open(call):
                    facts = {"extension_id": call.extension_id, "started_at": call.started_at, "unnamed": None}
                    added.append(msgspec.structs.replace(shown, **facts))
                else:
                    over.append(call)
        return [*(one for one in observations if one.record_id not in taken), *added], over

    def _known_parts(self, seen: CallObservation) -> Sequence[Call]:
        """The extensions' parts of its session, also under an older name."""
        names = (seen.session_id, *older_names(seen))
        return [call for name in names for call in self._index.session(name) if call.extension_id != UNASSIGNED]

    def _grouped(
        self, observations: Sequence[CallObservation]
    ) -> Iterable[tuple[Sequence[Call], list[CallObservation]]]:
        """Group observations by extension and session, each group with its known parts.

        Unassigned observations come last, because they depend on the new state of the others.
        """
        by_name: dict[tuple[str, str], list[CallObservation]] = {}
        for observation in observations:
            by_name.setdefault((observation.extension_id, observation.session_id), []).append(observation)
        groups: dict[tuple[str, str], tuple[Sequence[Call], list[CallObservation]]] = {}
        for key, seen in by_name.items():
            calls, known_as = self._index.parts(*key), key
            if not calls and (calls := self._parts_under_older_name(seen)):
                known_as = key[0], calls[0].session_id
            if known_as in groups:
                groups[known_as][1].extend(seen)
            else:
                groups[known_as] = calls, seen
        return [groups[key] for key in sorted(groups, key=lambda key: key[0] == UNASSIGNED)]

    def _parts_under_older_name(self, seen: Sequence[CallObservation]) -> Sequence[Call]:
        """The known parts of these records under an older session id: the platform may add the session id late."""
        for observation in seen:
            for name in older_names(observation):
                calls = self._index.parts(observation.extension_id, name)
                if any(observation.record_id in call.record_ids for call in calls):
                    return calls
        return ()

    def close(self, call: Call, record: CallObservation) -> None:
        """End an open call with this record of the call log. A record that is not final is only remembered."""
        if not is_final(record):
            self.update(call, wait(call, record))
            return
        ended = apply_observation(call, known_state(call), record, call.vanished_at or self._window.at)
        record_ids = tuple(dict.fromkeys((*call.record_ids, record.record_id)))
        self.update(call, with_facts(ended, {"record_ids": record_ids}))

    def mark_missing(self, call: Call) -> None:
        """Handle a call of the target that this poll does not show. A provisional record becomes final by vanishing."""
        missing = settle(call, self._window.at) if call.provisional_since is not None else call
        if call.vanished_at is None:
            last_seen_at = self._window_of(call).after
            missing = with_facts(missing, {"vanished_at": self._window.at, "last_seen_at": last_seen_at})
        self.update(call, missing)

    def recheck(self, session_id: str) -> None:
        """Relate the parts of this session again, although none of them was observed."""
        self._drafted.setdefault(session_id, {})

    def update(self, old: Call | None, new: Call, *, silent: bool = False) -> None:
        """Replace the call with `new`. `silent`: without an event."""
        if new is not old:
            self._drafts[new.call_id] = (old, new)
            self._drafted.setdefault(new.session_id, {})[new.call_id] = new
            if silent:
                self._silent.add(new.call_id)

    def change_set(self) -> ChangeSet:
        """Return the changed calls and their events."""
        for session_id in self._drafted:
            self._relate_parts(self._parts_of(session_id))
        calls: list[Call] = []
        events: list[CallEvent] = []
        for old, new in self._drafts.values():
            recorded, event = (new, None) if self._is_silent(old, new) else event_for(old, new, self._window_of(new))
            calls.append(recorded)
            if event is not None:
                events.append(event)
        return ChangeSet(calls=tuple(calls), events=tuple(events))

    def _observe_part(self, part: Part, *, settle_s: float, listed: bool) -> str:
        old = part.call
        if old is not None and not is_open(old):
            return self._observe_ended(part, old, listed=listed)
        if old is not None and not listed and self._is_listed_since_gap(old):
            return old.call_id
        seen = part.observation()
        call = old or begin(self._index.source, part.number, seen, first_poll=False)
        if old is None and self._window_of(call).first_poll:
            call = with_facts(call, {"first_poll": True})
        if seen.provisional:
            new = with_facts(wait(call, seen), {"provisional_since": call.provisional_since or self._window.at})
            if self._has_settled(new, seen, settle_s):
                new = settle(new, self._window.at)
        else:
            new = apply_observation(call, known_state(old), seen, self._window.at)
        listing = LISTED if listed else {"vanished_at": self._window.at}
        self.update(old, with_facts(new, {"record_ids": part.record_ids(), **listing}))
        return call.call_id

    def _observe_ended(self, part: Part, call: Call, *, listed: bool) -> str:
        """Apply records of an ended call: a final record may correct it, a live one is ignored."""
        facts = {"record_ids": part.record_ids(), **(LISTED if listed else {})}
        new = with_facts(call, facts)
        final = _correcting_record(call, part.records)
        if final is not None and call.disposition is not Disposition.TRANSFERRED:
            new = correct(new, final)
        self.update(call, new)
        return call.call_id

    def _has_settled(self, call: Call, seen: CallObservation, settle_s: float) -> bool:
        """True when the record has been provisional long enough and nothing else of the session may still be live."""
        since = call.provisional_since or self._window.at
        if not seen.rings_alone or self._window.at - since < timedelta(seconds=settle_s):
            return False
        others = self._index.session(seen.session_id)
        return self._unsettled[seen.session_id] == {seen.record_id} and not any(
            is_open(other) for other in others if other.call_id != call.call_id
        )

    def _window_of(self, call: Call) -> ObservationWindow:
        """The polls around the change of this call."""
        if not self._whole:
            return self._window
        after = self._index.last_poll_at(call.extension_id)
        return msgspec.structs.replace(self._window, after=after, first_poll=after is None)

    def _is_listed_since_gap(self, call: Call) -> bool:
        """True when the list has shown the call live since the gap began: then the list outranks the call log."""
        last_poll = self._index.last_poll_at(call.extension_id)
        since = self._window.after
        return is_listed_live(call) and last_poll is not None and (since is None or last_poll > since)

    def _belongs_to_extension(self, seen: CallObservation) -> bool:
        """True for an unassigned record in a session that an extension has, or had when the record began."""
        if seen.extension_id != UNASSIGNED:
            return False
        return any(_held_call(call, seen.started_at) for call in self._parts_of(seen.session_id))

    def _parts_of(self, session_id: str) -> Sequence[Call]:
        known = {call.call_id: call for call in self._index.session(session_id)}
        return list((known | self._drafted.get(session_id, {})).values())

    def _relate_parts(self, parts: Sequence[Call]) -> None:
        """Apply what the parts of a session imply for one another: transfers, and answers elsewhere."""
        answered_by = {call.extension_id for call in parts if was_answered(call)}
        for account_id, session_id in {(call.account_id, call.session_id) for call in parts}:
            answered_by |= self._index.answers.of(account_id, session_id)
        owners = [call for call in parts if is_open(call) or self._drafts.get(call.call_id, (call,))[0] is None]
        for call in sorted(parts, key=lambda call: call.call_id):
            old = self._drafts.get(call.call_id, (call,))[0]
            if call.extension_id == UNASSIGNED and old is not None and is_open(old):
                if any(_held_call(owner, call.started_at) for owner in owners):
                    self._end_unassigned(old, call)
            elif was_missed(call) and answered_by - {call.extension_id} and not _ended_unreported(old):
                self.update(old, with_facts(call, {"disposition": Disposition.ANSWERED_ELSEWHERE}))

    def _end_unassigned(self, old: Call, call: Call) -> None:
        """End the unassigned part: an extension has taken over the session."""
        if is_open(call):
            transferred = end(call, Disposition.TRANSFERRED, call.vanished_at or self._window.at)
        else:
            transferred = with_facts(call, {"disposition": Disposition.TRANSFERRED})
        self.update(old, transferred, silent=old.sequence == 0)

    def _is_silent(self, old: Call | None, new: Call) -> bool:
        """True for a call that ended before the first poll; for a provisional record its end time decides."""
        if new.call_id in self._silent:
            return True
        if new.sequence > 0 or is_open(new):
            return False
        if old is None or old.provisional_since is None:
            return self._window_of(new).first_poll
        ended_later = new.ended_exact and new.ended_at is not None and new.ended_at > old.provisional_since
        return old.first_poll and not ended_later


def _correcting_record(call: Call, seen: Iterable[CallObservation]) -> CallObservation | None:
    """The record that may correct an ended call: the one that ended it, or one with a new id.

    Other records that were known before the end do not correct it.
    """
    if call.sequence == 0:
        return None
    final = [observation for observation in seen if is_final(observation)]
    own = [observation for observation in final if observation.record_id == call.provider.record_id]
    new = [observation for observation in final if observation.record_id not in call.record_ids]
    return next(iter(own or new), None)


def _is_shown(call: Call, known: Sequence[Call], seen: Iterable[CallObservation]) -> bool:
    """A record of its session names its extension, and is not known as that of another part."""
    own = [one.record_id for one in seen if one.extension_id == call.extension_id]
    others = {
        id_
        for other in known
        if other is not call and other.extension_id == call.extension_id
        for id_ in other.record_ids
    }
    return any(id_ in call.record_ids or id_ not in others for id_ in own)


def _held_call(call: Call, since: datetime) -> bool:
    """True when the call belongs to an extension and had not ended by `since`."""
    return call.extension_id != UNASSIGNED and (call.ended_at is None or call.ended_at > since)


def _ended_unreported(old: Call | None) -> bool:
    """True for a call that had ended before the first poll, so that there was no event."""
    return old is not None and old.sequence == 0 and not is_open(old)
