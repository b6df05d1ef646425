"""What the live calls and the counts since midnight add up to: of everything, of a source, of an extension."""

from datetime import datetime

from msgspec import Struct


class Counts(Struct, frozen=True, kw_only=True):
    """Of conversations; of one extension, of its parts (contract 9).

    ringing, dialing, connected: live ones by state.
    waiting: callers from outside who ring somewhere and were not answered yet.
    longest_waiting_since, longest_wait_s: of them; None when no caller waits.
    answered_today, missed_today, abandoned_today: inbound ones with a caller from outside, since midnight in the
    service's timezone: at the answer, or else at the end.
    average_speed_of_answer_s: from the start to the answer, or to the poll that showed it.
    service_level: the share of them that was answered in time, without those abandoned earlier; None while there is
    none.
    """

    ringing: int = 0
    dialing: int = 0
    connected: int = 0
    waiting: int = 0
    longest_waiting_since: datetime | None = None
    longest_wait_s: float | None = None
    answered_today: int = 0
    missed_today: int = 0
    abandoned_today: int = 0
    average_speed_of_answer_s: float | None = None
    service_level: float | None = None


class Summary(Counts, frozen=True, kw_only=True):
    """Totals of one source.

    as_of: the oldest of the targets' last polls that are stored; None while one has none.
    complete: false when a poll of one of the targets is overdue.
    overdue: the extensions whose poll is overdue while others are seen; empty when it is the source as a whole.
    sign_ins_ahead: how many sources sign in before this one; None: it does not wait for its place.
    now: what time it is where the calls' times come from, as the newest poll said; None before the first one.
    """

    source: str
    as_of: datetime | None
    complete: bool
    overdue: tuple[str, ...] = ()
    sign_ins_ahead: int | None = None
    now: datetime | None = None
