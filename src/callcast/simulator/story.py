"""A scenario of planned sessions: what the platform shows is computed from them and the time."""

import hashlib
from bisect import bisect_right
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import datetime, timedelta

from msgspec import Struct

from callcast.simulator.calls import Part, Record, Session, Truth
from callcast.simulator.events import telephony_session
from callcast.simulator.faults import Fault
from callcast.simulator.planner import plan
from callcast.simulator.records import Known, account_records, record_of
from callcast.simulator.script import Account, Call

BACKWARDS = timedelta(minutes=10)  # how far a clock may be turned back and still find the lists as they were
TIDIED_EVERY = timedelta(minutes=1)


class Listing(Struct, frozen=True, kw_only=True):
    """How the lists lag behind what is true. Each pair is the least and the most; each call has its own value.

    start_lateness_s: until a call, or its answer, shows in active-calls (assumed: 0.5 to 1). end_lateness_s: until an
    end does (documented: 3 to 10). linger_s: how long an ended record stays there (documented: 120; measured: 302).
    log_delay_s: until the call log has it (documented: 15 to 30). log_kept_s: how long it keeps it.
    """

    start_lateness_s: tuple[float, float] = (0, 0)
    end_lateness_s: tuple[float, float] = (0, 0)
    linger_s: float = 120
    log_delay_s: tuple[float, float] = (15, 30)
    log_kept_s: float = 86_400


class BegunSession:
    """A session that has begun. Its records change only at certain times, and are rendered once for each."""

    def __init__(self, account_id: str, session: Session) -> None:
        self.session = session
        self._account_id = account_id
        self._turns = sorted(_turns(session))
        self._rendered: dict[str | None, tuple[tuple[int, int], list[Record]]] = {}

    def part(self, part: Part, at: Known) -> Record:
        return self._at(part.record_id, at, lambda: [record_of(self._account_id, self.session, part, at)])[0]

    def account(self, at: Known) -> list[Record]:
        return self._at(None, at, lambda: account_records(self._account_id, self.session, at))

    def _at(self, key: str | None, at: Known, render: Callable[[], list[Record]]) -> list[Record]:
        turns = bisect_right(self._turns, at.starts), bisect_right(self._turns, at.ends)
        known = self._rendered.get(key)
        if known is None or known[0] != turns:
            known = self._rendered[key] = turns, render()
        return known[1]


def _turns(session: Session) -> Iterator[datetime]:
    yield session.ended_at
    for part in session.parts:
        yield from (part.began_at, part.ended_at)
        yield from (moment for moment in (part.answered_at, part.rewrite and part.rewrite.at) if moment)


class Story:
    """A scenario of calls in the order of their starts, possibly without an end."""

    def __init__(
        self,
        account: Account,
        planned: Iterable[Call],
        start: datetime,
        *,
        seed: int = 0,
        speed: float = 1.0,
        listing: Listing | None = None,
    ) -> None:
        self.account_id = account.id
        self.account = account
        self._extension_ids = tuple(extension.id for extension in account.extensions)
        self._seed = seed
        self._speed = speed
        self._planned: Iterator[Sequence[Session]] = (
            plan(account, call, number, start, seed=seed, speed=speed) for number, call in enumerate(planned, 1)
        )
        self._next = next(self._planned, None)
        self._placed = 0
        self.listing = listing or Listing()
        self._kept = timedelta(seconds=self.listing.log_kept_s)
        self._linger = timedelta(seconds=self.listing.linger_s)
        self._begun: deque[BegunSession] = deque()  # nearly in order: a RingOut's second session begins later
        # What active-calls may still show, as a whole and by extension.
        self._recent: list[BegunSession] = []
        self._recent_of: dict[str, list[tuple[BegunSession, Part]]] = defaultdict(list)
        self._tidied_at = start
        self.faults: Sequence[Fault] = ()  # of the scenario file
        self.on_begin: Callable[[Session], None] | None = None  # called when one begins, or is placed

    def extension_ids(self) -> Sequence[str]:
        return self._extension_ids

    def poll(self, extension_id: str | None, /) -> None:
        """Polls change nothing."""

    def place(self, call: Call, now: datetime) -> Sequence[Session]:
        """Add a call to the scenario: it starts `at_s` from now. Raises ScenarioError."""
        self._placed += 1
        sessions = plan(self.account, call, 5_000_000 + self._placed, now, seed=self._seed, speed=self._speed)
        for session in sessions:
            self._begin(session)
        return sessions

    def active(self, extension_id: str | None, now: datetime, /) -> list[Record]:
        self.advance(now)
        if extension_id is None:
            return _newest_first(self._account_active(now))
        shown = []
        for begun, part in self._recent_of[extension_id]:
            at = self._listed(begun.session, now)
            if at.starts >= part.began_at and now < part.ended_at + self._linger and not _hidden(part, now):
                shown.append(begun.part(part, at))
        return _newest_first(shown)

    def log(
        self,
        extension_id: str | None,
        now: datetime,
        /,
        *,
        session_id: str | None = None,
        since: datetime | None = None,
    ) -> list[Record]:
        """The ended calls, and live queue calls that read Stopped."""
        self.advance(now)
        shown: list[Record] = []
        for begun in self._begun:
            session = begun.session
            if session_id not in (None, session.telephony_session_id, session.session_id):
                continue
            if since is None or session.ended_at >= since:
                at = now - _between(self.listing.log_delay_s, session, "log")
                shown += self._logged(begun, extension_id, Known(starts=at, ends=at))
        return _newest_first(shown)

    def _logged(self, begun: BegunSession, extension_id: str | None, at: Known) -> list[Record]:
        session = begun.session
        if extension_id is not None:
            parts = [part for part in session.parts if part.extension.id == extension_id and at.ends >= part.ended_at]
            return [begun.part(part, at) for part in parts]
        live = session.queue is not None and at.ends < session.ended_at
        stopped = [part for part in session.parts if at.ends >= part.ended_at and part.answered_at is None]
        if live and not (session.provisional and stopped):
            return []
        return [record for record in begun.account(at) if "duration" in record and record["result"] != "In Progress"]

    def session(self, session_id: str, now: datetime, /) -> Record | None:
        self.advance(now)
        for session in (begun.session for begun in reversed(self._begun)):
            if session.telephony_session_id == session_id and session.began_at <= now:
                return telephony_session(self.account_id, session, now)
        return None

    def truth(self, now: datetime, /) -> Sequence[Truth]:
        self.advance(now)
        begun = [truth for begun in self._begun for truth in begun.session.truths() if truth.started_at <= now]
        return sorted(begun, key=lambda truth: truth.started_at)

    def _account_active(self, now: datetime) -> list[Record]:
        shown: dict[str, Record] = {}
        for begun in self._recent:
            session = begun.session
            at = self._listed(session, now)
            if session.queue is not None:
                if session.began_at <= at.starts and now < session.ended_at + self._linger:
                    shown |= {record["id"]: record for record in begun.account(at)}
                continue
            gone = {
                record_id
                for part in session.parts
                if now >= part.ended_at + self._linger or _hidden(part, now)
                for record_id in (part.record_id, part.final_record_id)
            }
            shown |= {record["id"]: record for record in begun.account(at) if record["id"] not in gone}
        return list(shown.values())

    def advance(self, now: datetime) -> None:
        """Begin the sessions that start until now."""
        while self._next is not None and self._next[0].began_at <= now:
            for session in self._next:
                self._begin(session)
            self._next = next(self._planned, None)
        if abs(now - self._tidied_at) >= TIDIED_EVERY:
            self._tidy(now)

    def _tidy(self, now: datetime) -> None:
        """Forget sessions that no list shows any more, so that a long run needs no more memory."""
        self._tidied_at = now
        while self._begun and self._begun[0].session.ended_at + self._kept + BACKWARDS < now:
            self._begun.popleft()
        limit = now - self._linger - BACKWARDS
        self._recent = [begun for begun in self._recent if begun.session.ended_at >= limit]
        for extension_id, recent in self._recent_of.items():
            kept = [(begun, part) for begun, part in recent if begun.session.ended_at >= limit]
            self._recent_of[extension_id] = kept

    def next_begins_at(self) -> datetime | None:
        return self._next[0].began_at if self._next else None

    def begun(self, now: datetime) -> list[Session]:
        """The sessions that have begun, or were placed, and have not ended."""
        self.advance(now)
        return [begun.session for begun in self._recent if begun.session.ended_at > now]

    def sessions_of(self, extension_id: str | None, now: datetime) -> list[Session]:
        """The sessions in which an extension has, or just had, a part."""
        self.advance(now)
        since = now - timedelta(seconds=5)
        known = {
            id(one.session): one.session for one, part in self._recent_of[str(extension_id)] if part.ended_at > since
        }
        return [session for session in known.values() if session.began_at <= now]

    def _begin(self, session: Session) -> None:
        begun = BegunSession(self.account_id, session)
        self._begun.append(begun)
        self._recent.append(begun)
        for part in session.parts:
            self._recent_of[part.extension.id].append((begun, part))
        if self.on_begin is not None:
            self.on_begin(session)

    def _listed(self, session: Session, now: datetime) -> Known:
        """Up to which times active-calls knows a session."""
        starts = now - _between(self.listing.start_lateness_s, session, "late")
        return Known(starts=starts, ends=now - _between(self.listing.end_lateness_s, session, "late"))


def _between(bounds: tuple[float, float], session: Session, salt: str) -> timedelta:
    """A duration between the two, the same for a session each time."""
    least, most = bounds
    if least == most:
        return timedelta(seconds=least)
    digest = hashlib.blake2b(f"{salt}/{session.record_id}".encode(), digest_size=4).digest()
    return timedelta(seconds=least + (most - least) * int.from_bytes(digest, "big") / 0xFFFF_FFFF)


def _hidden(part: Part, now: datetime) -> bool:
    return any(begins <= now < ends for begins, ends in part.hidden)


def _newest_first(records: Iterable[Record]) -> list[Record]:
    return sorted(records, key=lambda record: str(record["startTime"]), reverse=True)
