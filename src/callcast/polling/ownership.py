"""Which source tells of which extension. An event's id carries no source: two that tell of one call would swallow
each other's events, so the first to ask for an extension has it, and the later one leaves it out.
"""

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import datetime

import msgspec

from callcast.calls.model import UNASSIGNED, Call, CallObservation, Snapshot, Target
from callcast.ports.upstream import Identity, Upstream


class ExtensionOwnership:
    """Of all sources. Bounded by the extensions that there are."""

    def __init__(self) -> None:
        self._holders: dict[str, str] = {}  # extension id -> source
        self._denied: dict[tuple[str, str], str] = {}  # source and extension id -> the source that has it

    def acquire(self, source: str, extension_id: str, on_conflict: Callable[[str], None] = lambda _: None) -> bool:
        """Whether the source may tell of this extension; `told`: called the first time that it may not."""
        holder = self._holders.setdefault(extension_id, source)
        if holder == source:
            return True
        if self._denied.get((source, extension_id)) != holder:
            self._denied[source, extension_id] = holder
            on_conflict(extension_id)
        return False

    def retain(self, wanted: Mapping[str, Collection[str] | None]) -> None:
        """From now on there are these sources, and each watches these extensions at most; None: any."""
        self._holders = {one: source for one, source in self._holders.items() if _wants(wanted, source, one)}
        self._denied = {
            (source, one): holder
            for (source, one), holder in self._denied.items()
            if self._holders.get(one) == holder and _wants(wanted, source, one)
        }

    def denied(self) -> frozenset[str]:
        """The sources that were to watch an extension which another one has."""
        return frozenset(source for source, _ in self._denied)

    def conflicts(self) -> Sequence[str]:
        """Who leaves what to whom, for people."""
        pairs = Counter((source, holder) for (source, _), holder in self._denied.items())
        return [
            f"source {source} is switched off for {count} extension{'s'[: count - 1]} that source {holder} watches"
            for (source, holder), count in sorted(pairs.items())
        ]


class OwnedUpstream:
    """Implements `core.upstream.Upstream`: an account's watcher sees whose calls there are only by looking."""

    def __init__(
        self, source: str, upstream: Upstream, ownership: ExtensionOwnership, on_conflict: Callable[[str], None]
    ) -> None:
        self._source = source
        self._upstream = upstream
        self._ownership = ownership
        self._on_conflict = on_conflict

    def now(self) -> datetime:
        return self._upstream.now()

    def spacing_s(self) -> float:
        return self._upstream.spacing_s()

    def hold_s(self) -> float:
        return self._upstream.hold_s()

    def waits_to_sign_in_until(self) -> float | None:
        return self._upstream.waits_to_sign_in_until()

    async def identify(self) -> Identity:
        return await self._upstream.identify()

    def watch(self, targets: Collection[Target], /) -> None:
        self._upstream.watch(targets)

    async def poll(self, target: Target, /) -> Snapshot:
        snapshot = await self._upstream.poll(target)
        mine = self._mine(snapshot.observations)
        return (
            snapshot
            if len(mine) == len(snapshot.observations)
            else msgspec.structs.replace(snapshot, observations=mine)
        )

    async def find(self, call: Call, /) -> Sequence[CallObservation]:
        """A call that was told before is settled, whoever watches its extension now."""
        found = await self._upstream.find(call)
        mine = self._mine(found)
        return [one for one in found if one.extension_id == call.extension_id or one in mine]

    async def ended_since(self, target: Target, /, *, after: datetime) -> Sequence[CallObservation]:
        return self._mine(await self._upstream.ended_since(target, after=after))

    def _mine(self, observations: Sequence[CallObservation]) -> tuple[CallObservation, ...]:
        return tuple(
            one for one in observations if self._ownership.acquire(self._source, _whose(one), self._on_conflict)
        )


def _wants(wanted: Mapping[str, Collection[str] | None], source: str, extension_id: str) -> bool:
    return source in wanted and ((ids := wanted[source]) is None or extension_id in ids)


def _whose(observation: CallObservation) -> str:
    """Without an extension it is the account's own."""
    nobody = observation.extension_id == UNASSIGNED
    return f"{UNASSIGNED}/{observation.account_id}" if nobody else observation.extension_id
