"""Totals of the live calls and of the counts since midnight: for all sources, one source, or one extension."""

from datetime import datetime

from msgspec import Struct


class Counts(Struct, frozen=True, kw_only=True):
    """Counts of conversations; for one extension, of its parts.

    ringing, dialing, connected: live conversations by state.
    waiting: external callers that ring and have not been answered yet.
    longest_waiting_since, longest_wait_s: of the caller that has waited longest; None when no caller waits.
    answered_today, missed_today, abandoned_today: inbound conversations with an external caller since midnight in
    the service's timezone, counted at the answer, or at the end if there was none.
    average_speed_of_answer_s: mean seconds from the start to the answer, or to the poll that showed the answer.
    service_level: the share answered in time, from 0 to 1; conversations abandoned before that time do not count.
    None while there are none.
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


class HintsState(Struct, frozen=True, kw_only=True):
    """The state of a source's hints.

    via: the ways by which hints come now. up: whether there is one. since: when `up` last changed.
    missed: changes since the start that a poll showed and no hint announced.
    """

    via: tuple[str, ...] = ()
    up: bool = False
    since: datetime
    missed: int = 0


class Summary(Counts, frozen=True, kw_only=True):
    """Totals of one source.

    as_of: the time of the oldest stored poll among the targets' last ones; None while a target has none.
    complete: false when a poll of any target is overdue.
    overdue: the extensions whose poll is overdue while others are current; empty when the whole source is overdue.
    sign_ins_ahead: how many sources sign in before this one; None when it is not queued to sign in.
    hints: None when the source is polled without hints.
    now: the platform's present time, derived from the newest poll; None before the first one.
    """

    source: str
    as_of: datetime | None
    complete: bool
    overdue: tuple[str, ...] = ()
    sign_ins_ahead: int | None = None
    hints: HintsState | None = None
    now: datetime | None = None
