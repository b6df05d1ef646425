"""Which source reports which extension. Event ids do not contain the source, so the events of two sources that report
the same call would collide. The first source to acquire an extension owns it; the others leave it out.
"""

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence

from callcast.calls.model import UNASSIGNED, CallObservation


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

    def acquire_part(self, source: str, seen: CallObservation, on_conflict: Callable[[str], None]) -> bool:
        """As `acquire`, for the extension of an observation. Of unassigned calls a source owns all of an account."""
        is_unassigned = seen.extension_id == UNASSIGNED
        return self.acquire(
            source, f"{UNASSIGNED}/{seen.account_id}" if is_unassigned else seen.extension_id, on_conflict
        )

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


def _wants(wanted: Mapping[str, Collection[str] | None], source: str, extension_id: str) -> bool:
    return source in wanted and ((ids := wanted[source]) is None or extension_id in ids)
