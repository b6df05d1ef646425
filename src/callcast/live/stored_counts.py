"""Keeps the daily statistics across a restart: as a note in the outbox, with the events since then counted again."""

from collections.abc import Collection, Mapping

from callcast.calls.model import Call, CallEvent
from callcast.live.live_calls import InMemoryLiveCalls
from callcast.observability.outbox_health import OutboxUser
from callcast.ports.clock import Clock
from callcast.ports.outbox import SERVICE, Outbox

COUNTS_NOTE = "counts"  # the note in the outbox that holds the counts

_STORE_EVERY_S = 10.0  # also the longest time between recording an event and applying it
_STORE_AGAIN_S = 900.0  # the calls that were recent in the last note stay in the outbox for an hour
_REPLAY_EVENTS_MAX = 100_000
_REPLAY_PAGE = 500


async def restore(
    live_calls: InMemoryLiveCalls, outbox: Outbox, notes: Mapping[str, bytes], sources: Collection[str]
) -> None:
    """Load what the outbox holds of these sources, and count what may have changed since the counts were stored.

    Each session is counted as a whole, with all its stored calls. notes: of the service. Raises OutboxUnavailable.
    """
    counted_seq, recent = live_calls.statistics.restore(notes.get(COUNTS_NOTE, b""))
    for source in sources:
        live_calls.load(source, await outbox.known(source))
    if not sources:
        return
    live = {(call.source, call.session_id) for call in live_calls.calls()}
    await _count_again(live_calls, outbox, sources, {*recent, *live})
    after = max(counted_seq, await outbox.last_seq() - _REPLAY_EVENTS_MAX)
    while page := await outbox.history(after_seq=after, limit=_REPLAY_PAGE):
        newest: dict[tuple[str, str], Call] = {}
        for stored in page:
            if isinstance(stored.event, CallEvent) and stored.event.source in sources:
                newest[stored.event.source, stored.event.key] = stored.event.call
        sessions = {(call.source, call.session_id) for call in newest.values()}
        await _count_again(live_calls, outbox, sources, sessions)
        live_calls.statistics.count(newest.values())  # includes calls that have been pruned
        after = page[-1].seq


async def _count_again(
    live_calls: InMemoryLiveCalls, outbox: Outbox, sources: Collection[str], sessions: Collection[tuple[str, str]]
) -> None:
    for source in sources:
        names = sorted(session_id for of, session_id in sessions if of == source)
        for first in range(0, len(names), _REPLAY_PAGE):
            live_calls.statistics.count(await outbox.recall(source, names[first : first + _REPLAY_PAGE]))


async def store_counts(live_calls: InMemoryLiveCalls, outbox: Outbox, outbox_user: OutboxUser, clock: Clock) -> None:
    """Store the counts every few seconds if they have changed, until cancelled.

    Events are recorded before they are counted, so each note claims only the events recorded one round earlier.
    `restore` counts the rest again; counting a call twice has no effect.
    """
    seq = noted = -1
    noted_at_s = clock.monotonic()
    while True:
        with outbox_user.reporting():  # the next round stores these counts too
            newest = await outbox.last_seq()
            is_old = clock.monotonic() - noted_at_s >= _STORE_AGAIN_S
            if seq >= 0 and (noted != newest or is_old):
                await outbox.note(SERVICE, COUNTS_NOTE, live_calls.statistics.dump(seq))
                noted, noted_at_s = seq, clock.monotonic()
            seq = newest
        await clock.sleep(_STORE_EVERY_S)
