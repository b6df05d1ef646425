"""Which source reports which extension. Event ids do not contain the source, so the events of two sources that report
the same call would collide. The first source to acquire an extension owns it; the others leave it out.
"""

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import datetime

import msgspec

from callcast.calls.model import UNASSIGNED, Call, CallObservation, Snapshot, Target
from callcast.ports.upstream import Identity, Places, Upstream


class ExtensionOwnership:
    """The owner of each extension, across all sources."""

    def __init__(self) -> None:
        self._holders: dict[str, str] = {}  # extension id -> source
        self._denied: dict[tuple[str, str], str] = {}  # source and extension id -> the owner

    def acquire(self, source: str, extension_id: str, on_conflict: Callable[[str], None] = lambda _: None) -> bool:
        """Acquire an extension for a source. False if another source owns it; then `on_conflict` is called, once."""
        holder = self._holders.setdefault(extension_id, source)
        if holder == source:
            return True
        if self._denied.get((source, extension_id)) != holder:
            self._denied[source, extension_id] = holder
            on_conflict(extension_id)
        return False

    def retain(self, wanted: Mapping[str, Collection[str] | None]) -> None:
        """Set the sources and the extensions that each may own (None: any), and release all others."""
        self._holders = {one: source for one, source in self._holders.items() if _wants(wanted, source, one)}
        self._denied = {
            (source, one): holder
            for (source, one), holder in self._denied.items()
            if self._holders.get(one) == holder and _wants(wanted, source, one)
        }

    def denied(self) -> frozenset[str]:
        """The sources configured to watch an extension that another source owns."""
        return frozenset(source for source, _ in self._denied)

    def conflicts(self) -> Sequence[str]:
        """A sentence for each pair of sources that watch the same extensions."""
        pairs = Counter((source, holder) for (source, _), holder in self._denied.items())
        return [
            f"source {source} is switched off for {count} extension{'s'[: count - 1]} that source {holder} watches"
            for (source, holder), count in sorted(pairs.items())
        ]


class OwnedUpstream:
    """An `Upstream` that leaves out the calls of extensions that another source owns.

    For a source that watches an account: it learns its extensions only from the poll.
    """

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

    def places(self) -> Places:
        return self._upstream.places()

    def hold_s(self) -> float:
        return self._upstream.hold_s()

    def waits_to_sign_in_until(self) -> float | None:
        return self._upstream.waits_to_sign_in_until()

    async def identify(self) -> Identity:
        return await self._upstream.identify()

    def watch(self, targets: Collection[Target], /) -> None:
        self._upstream.watch(targets)

    async def poll(self, target: Target, /, *, paced: bool = True) -> Snapshot:
        snapshot = await self._upstream.poll(target, paced=paced)
        mine = self._mine(snapshot.observations)
        return (
            snapshot
            if len(mine) == len(snapshot.observations)
            else msgspec.structs.replace(snapshot, observations=mine)
        )

    async def find(self, call: Call, /) -> Sequence[CallObservation]:
        """Includes the records of the call's own extension, even if another source owns it by now."""
        found = await self._upstream.find(call)
        mine = self._mine(found)
        return [one for one in found if one.extension_id == call.extension_id or one in mine]

    async def ended_since(self, target: Target, /, *, after: datetime) -> Sequence[CallObservation]:
        return self._mine(await self._upstream.ended_since(target, after=after))

    def _mine(self, observations: Sequence[CallObservation]) -> tuple[CallObservation, ...]:
        return tuple(
            one for one in observations if self._ownership.acquire(self._source, _ownership_key(one), self._on_conflict)
        )


def _wants(wanted: Mapping[str, Collection[str] | None], source: str, extension_id: str) -> bool:
    return source in wanted and ((ids := wanted[source]) is None or extension_id in ids)


def _ownership_key(observation: CallObservation) -> str:
    """The key to own: the extension id, or for unassigned calls one key per account."""
    is_unassigned = observation.extension_id == UNASSIGNED
    return f"{UNASSIGNED}/{observation.account_id}" if is_unassigned else observation.extension_id
