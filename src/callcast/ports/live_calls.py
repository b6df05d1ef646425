"""Read access to the live calls, as sinks have it."""

from collections.abc import Sequence
from typing import Protocol

from msgspec import Struct

from callcast.calls.model import Call
from callcast.calls.summary import Summary


class LiveChange(Struct, frozen=True, kw_only=True):
    """What changed since a version: the calls in their new state, including ended ones.

    calls: None when too much has changed to list; read `LiveCalls.calls()` again.
    """

    version: int
    calls: tuple[Call, ...] | None


class LiveCalls(Protocol):
    @property
    def version(self) -> int:
        """Grows with every change."""
        ...

    def calls(self) -> Sequence[Call]:
        """The live calls, newest first."""
        ...

    def extensions(self, source: str, /) -> Sequence[str]:
        """Numeric ids of the source's extensions that are watched or have had a call."""
        ...

    def watches(self, source: str, extension_id: str, /) -> bool:
        """False if the source does not exist or does not watch the extension; true while that is not known yet."""
        ...

    def summaries(self) -> Sequence[Summary]: ...

    async def changed(self, since: int, /) -> LiveChange:
        """Wait until `version` is above `since`; return at once if it is. The caller sets the time limit."""
        ...
