"""Counts of live conversations, and of those since midnight: in total, by source and by extension.

The total and the sources count conversations: a session of an account counts once, however many parts it has. An
extension counts its parts. When a part changes, its conversation is evaluated again from all parts and the difference
is counted. So neither the order of updates nor a repeated update changes the result.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from datetime import UTC, date, datetime, timedelta, tzinfo
from typing import Literal

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from callcast.calls.model import UNASSIGNED, Call, Direction, Disposition, State
from callcast.calls.sessions import Session, session_of
from callcast.ports.clock import Clock

CONVERSATIONS_MAX = 5_000  # ended ones in memory; a change of an older one is counted as a new conversation
RECENT_MAX = 500  # recently ended conversations that are counted again after a restart, because they may still change
RECENT = timedelta(minutes=30)

Scope = tuple[str, str]  # source and extension; "" means all of them
EVERYTHING: Scope = ("", "")
MISSED = (Disposition.MISSED, Disposition.VOICEMAIL, Disposition.DECLINED, Disposition.BUSY)

_Key = tuple[str, str]  # account (or source, where it is not known) and session
_Detail = tuple[str, str, str]  # a scope, and in an extension's scope the part


class Outcome(Struct, frozen=True, gc=False):
    """What a conversation counts as. wait_s: seconds from its start to the answer or the end; None: not known."""

    kind: Literal["answered", "missed", "abandoned"]
    wait_s: float | None


class Counts(Struct, frozen=True, array_like=True):
    """Counts since midnight.

    timed: answers with a known wait; speed_sum_s: the sum of these waits, in seconds.
    within: answered within the service level's limit. late: abandoned after it.
    """

    answered: int = 0
    missed: int = 0
    abandoned: int = 0
    timed: int = 0
    speed_sum_s: float = 0.0
    within: int = 0
    late: int = 0

    def plus(self, outcome: Outcome, sign: int, sla_s: float) -> "Counts":
        kind, wait_s = outcome.kind, outcome.wait_s
        timed = kind == "answered" and wait_s is not None
        in_time = wait_s is not None and wait_s <= sla_s
        return Counts(
            answered=self.answered + sign * (kind == "answered"),
            missed=self.missed + sign * (kind == "missed"),
            abandoned=self.abandoned + sign * (kind == "abandoned"),
            timed=self.timed + sign * timed,
            speed_sum_s=self.speed_sum_s + sign * ((wait_s or 0.0) if timed else 0.0),
            within=self.within + sign * (timed and in_time),
            late=self.late + sign * (kind == "abandoned" and not in_time),
        )

    def __bool__(self) -> bool:
        return bool(self.answered or self.missed or self.abandoned)

    @property
    def average_speed_s(self) -> float | None:
        return max(0.0, self.speed_sum_s / self.timed) if self.timed else None

    @property
    def service_level(self) -> float | None:
        of = self.answered + self.missed + self.late
        return self.within / of if of else None


class Now(Struct, frozen=True, kw_only=True):
    """The live conversations of one scope, by state, and the callers that wait for an answer."""

    ringing: int = 0
    dialing: int = 0
    connected: int = 0
    waiting: int = 0
    longest_waiting_since: datetime | None = None


class _Share(Struct, frozen=True, gc=False):
    """What a conversation, or a part of it, adds to a scope."""

    state: State
    waiting_since: datetime | None
    outcome: Outcome | None


class _Tally:
    """The sums of one scope."""

    def __init__(self) -> None:
        self.counts = Counts()
        self.states: Counter[State] = Counter()
        self.waiting: dict[tuple[_Key, str], datetime] = {}

    def add(self, key: tuple[_Key, str], share: _Share, sign: int, sla_s: float) -> None:
        self.states[share.state] += sign
        if share.waiting_since is not None:
            if sign > 0:
                self.waiting[key] = share.waiting_since
            else:
                del self.waiting[key]
        if share.outcome is not None:
            self.counts = self.counts.plus(share.outcome, sign, sla_s)

    def now(self) -> Now:
        return Now(
            ringing=self.states[State.RINGING],
            dialing=self.states[State.DIALING],
            connected=self.states[State.CONNECTED],
            waiting=len(self.waiting),
            longest_waiting_since=min(self.waiting.values(), default=None),
        )


class _Conversation:
    def __init__(self) -> None:
        self.parts: dict[tuple[str, str], Call] = {}  # by source and call id
        self.shares: dict[_Detail, _Share] = {}
        self.live = False
        self.changed_at = datetime.min.replace(tzinfo=UTC)


class _StoredCounts(Struct, array_like=True):
    """The stored form of the counts, without the conversations that are counted again at start.

    seq: the newest event that is certainly included.
    recent: source and session of the ended conversations to count again, and of live ones that several sources see
    (other live sessions are known from their live calls).
    """

    seq: int
    day: date
    counts: list[tuple[str, str, Counts]]
    recent: list[tuple[str, str]]


class DailyStatistics:
    """The counts of all scopes.

    timezone: decides when midnight is; None: this machine's timezone.
    sla_s: the service level's limit, in seconds.
    """

    def __init__(self, clock: Clock, timezone: tzinfo | None, sla_s: float) -> None:
        self._clock = clock
        self._timezone = timezone
        self._sla_s = sla_s
        self._day = self._date(clock.wall())
        self._tallies: dict[Scope, _Tally] = {}
        self._conversations: dict[_Key, _Conversation] = {}  # the last changed at the end
        self._over = 0

    # Updates.

    def count(self, calls: Iterable[Call]) -> None:
        """Count calls in their newest state."""
        self._reset_at_midnight()
        touched: dict[_Key, set[tuple[str, str]]] = {}
        for call in calls:
            if not call.sequence:  # without an event: it ended before the first poll, or its record is provisional
                continue
            key = (call.account_id or call.source, call.session_id)
            parts = self._conversations.setdefault(key, _Conversation()).parts
            part = (call.source, call.call_id)
            known = parts.get(part)
            if known is None or known.sequence <= call.sequence:
                parts[part] = call
                touched.setdefault(key, set()).add(part)
        for key, changed in touched.items():
            self._recount(key, changed)
        self._forget_oldest()

    def forget_source(self, source: str) -> None:
        """Remove a source from the live counts."""
        for key, conversation in list(self._conversations.items()):
            gone = {part for part in conversation.parts if part[0] == source}
            for part in gone:
                del conversation.parts[part]
            if gone:
                self._recount(key, gone)
        self._tallies = {scope: tally for scope, tally in self._tallies.items() if scope[0] != source}

    def configure(self, timezone: tzinfo | None, sla_s: float) -> None:
        """Set timezone and service level. If this changes the day, only conversations in memory are counted."""
        self._timezone = timezone
        self._reset_at_midnight()
        if sla_s == self._sla_s:
            return
        for conversation in self._conversations.values():
            for (source, extension_id, _), share in conversation.shares.items():
                if share.outcome is not None:
                    tally = self._tallies[source, extension_id]
                    tally.counts = tally.counts.plus(share.outcome, -1, self._sla_s).plus(share.outcome, +1, sla_s)
        self._sla_s = sla_s

    # Reading.

    def counts(self, source: str = "", extension_id: str = "") -> Counts:
        self._reset_at_midnight()
        tally = self._tallies.get((source, extension_id))
        return tally.counts if tally else Counts()

    def now(self, source: str = "", extension_id: str = "") -> Now:
        tally = self._tallies.get((source, extension_id))
        return tally.now() if tally else Now()

    def extensions(self, source: str) -> list[str]:
        """The extensions of a source with counts since midnight."""
        return [scope[1] for scope, tally in self._tallies.items() if scope[0] == source and scope[1] and tally.counts]

    # Across a restart.

    def dump(self, seq: int) -> bytes:
        """Encode the counts for `restore`. `seq`: the newest event that is certainly included."""
        self._reset_at_midnight()
        recent = self._recent()
        rest = {scope: tally.counts for scope, tally in self._tallies.items()}
        for key, conversation in self._conversations.items():
            if conversation.live or key in recent:
                for (source, extension_id, _), share in conversation.shares.items():
                    if share.outcome is not None:
                        scope = source, extension_id
                        rest[scope] = rest[scope].plus(share.outcome, -1, self._sla_s)
        counts = [(*scope, counts) for scope, counts in rest.items() if counts]
        sessions = {
            (source, key[1])
            for key, conversation in self._conversations.items()
            if key in recent or (conversation.live and len({source for source, _ in conversation.parts}) > 1)
            for source, _ in conversation.parts
        }
        return msgspec.msgpack.encode(_StoredCounts(seq, self._day, counts, sorted(sessions)))

    def restore(self, raw: bytes) -> tuple[int, Collection[tuple[str, str]]]:
        """Load stored counts. Returns their `seq`, and the sessions whose calls must be counted again."""
        try:
            stored = msgspec.msgpack.decode(raw, type=_StoredCounts)
        except msgspec.MsgspecError:
            return 0, ()
        self._reset_at_midnight()
        self._conversations.clear()
        self._tallies.clear()
        self._over = 0
        if stored.day == self._day:
            for source, extension_id, counts in stored.counts:
                self._tally((source, extension_id)).counts = counts
        return stored.seq, stored.recent

    # One conversation.

    def _recount(self, key: _Key, changed: Collection[tuple[str, str]]) -> None:
        """Evaluate a conversation again. `changed`: its parts that have changed."""
        conversation = self._conversations.pop(key)
        self._over -= bool(conversation.shares) and not conversation.live
        shares = {detail: share for detail, share in conversation.shares.items() if self._is_unchanged(detail, changed)}
        if conversation.parts:
            shares |= self._shares(conversation.parts, changed)
            self._conversations[key] = conversation  # at the end
        for detail, share in conversation.shares.items():
            if shares.get(detail) != share:
                self._tally(detail[:2]).add((key, detail[2]), share, -1, self._sla_s)
        for detail, share in shares.items():
            if conversation.shares.get(detail) != share:
                self._tally(detail[:2]).add((key, detail[2]), share, +1, self._sla_s)
        conversation.shares = shares
        conversation.live = any(call.live for call in conversation.parts.values())
        conversation.changed_at = self._clock.wall()
        self._over += bool(conversation.parts) and not conversation.live

    @staticmethod
    def _is_unchanged(detail: _Detail, changed: Collection[tuple[str, str]]) -> bool:
        """True for the share of an unchanged part; shares of sources and of the total are always made again."""
        source, extension_id, call_id = detail
        return bool(extension_id) and (source, call_id) not in changed

    def _shares(
        self, parts: Mapping[tuple[str, str], Call], changed: Collection[tuple[str, str]]
    ) -> dict[_Detail, _Share]:
        by_source: dict[str, list[Call]] = {}
        for (source, _), call in parts.items():
            by_source.setdefault(source, []).append(call)
        shares = {(source, "", ""): self._share(session_of(calls)) for source, calls in by_source.items()}
        first, *others = by_source
        shares["", "", ""] = self._share(session_of(parts.values())) if others else shares[first, "", ""]
        for source, call_id in changed:
            part = parts.get((source, call_id))
            if part is not None and part.extension_id != UNASSIGNED:
                shares[source, part.extension_id, call_id] = self._share(session_of([part]))
        return shares

    def _share(self, session: Session) -> _Share:
        counts = session.direction is Direction.INBOUND and not session.internal
        waits = counts and session.state is State.RINGING and not session.answered
        return _Share(
            state=session.state,
            waiting_since=session.started_at if waits else None,
            outcome=self._outcome(session) if counts else None,
        )

    def _outcome(self, session: Session) -> Outcome | None:
        """What a conversation counts as; None: not counted, not today, or not yet."""
        if session.answered:
            at = session.answered_at or session.started_at
            wait_s = _seconds(session.started_at, at) if session.answer_known else None
            outcome = Outcome("answered", wait_s)
        elif session.ended_at is None:
            return None
        elif session.disposition is Disposition.ABANDONED or session.disposition in MISSED:
            at = session.ended_at
            abandoned = session.disposition is Disposition.ABANDONED
            outcome = Outcome("abandoned" if abandoned else "missed", _seconds(session.started_at, at))
        else:
            return None
        return outcome if self._date(at) == self._day else None

    # All conversations.

    def _tally(self, scope: Scope) -> _Tally:
        tally = self._tallies.get(scope)
        if tally is None:
            tally = self._tallies[scope] = _Tally()
        return tally

    def _forget_oldest(self) -> None:
        """Drop the oldest ended conversations; their counts stay."""
        if self._over <= CONVERSATIONS_MAX:
            return
        for key in [key for key, one in self._conversations.items() if not one.live][: CONVERSATIONS_MAX // 10]:
            for detail, share in self._conversations.pop(key).shares.items():
                self._tally(detail[:2]).add((key, detail[2]), replace(share, outcome=None), -1, self._sla_s)
            self._over -= 1

    def _recent(self) -> set[_Key]:
        since = self._clock.wall() - RECENT
        recent: set[_Key] = set()
        for key, conversation in reversed(self._conversations.items()):
            if len(recent) == RECENT_MAX:
                break
            if not conversation.live and conversation.changed_at >= since:
                recent.add(key)
        return recent

    def _reset_at_midnight(self) -> None:
        """Reset the counts at midnight, except for conversations that the platform's clock puts into the new day."""
        today = self._date(self._clock.wall())
        if today == self._day:
            return
        self._day = today
        for tally in self._tallies.values():
            tally.counts = Counts()
        for key, conversation in list(self._conversations.items()):
            conversation.shares = {
                detail: replace(share, outcome=None) for detail, share in conversation.shares.items()
            }
            if any(self._date(_latest(call)) == today for call in conversation.parts.values()):
                changed_at = conversation.changed_at
                self._recount(key, list(conversation.parts))
                conversation.changed_at = changed_at

    def _date(self, at: datetime) -> date:
        return at.astimezone(self._timezone).date()


def _latest(call: Call) -> datetime:
    return call.ended_at or call.answered_at or call.started_at


def _seconds(start: datetime, end: datetime) -> float:
    return max(0.0, (end - start).total_seconds())
