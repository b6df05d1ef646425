"""Read access to the live calls and the statistics since midnight."""

from collections.abc import Mapping, Sequence
from typing import Protocol

from msgspec import Struct

from callcast.calls.model import Call
from callcast.calls.summary import Counts, Summary


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

    def summaries(self) -> Sequence[Summary]: ...

    async def changed(self, since: int, /) -> LiveChange:
        """Wait until `version` is above `since`; return at once if it is. The caller sets the time limit."""
        ...


class Statistics(LiveCalls, Protocol):
    """What the web server reads in addition."""

    def total(self) -> Counts:
        """Counts over all sources. A conversation that several sources of one account see counts once."""
        ...

    def extension_counts(self, source: str, /) -> Mapping[str, Counts]:
        """By extension id, for each extension of `extensions` and each that had a call today."""
        ...
