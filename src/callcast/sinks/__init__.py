"""What every sink's settings have in common. A sink itself is one module beside this, or somebody else's package.

A sink's settings class is registered under the entry-point group `callcast.sinks`; its name there is the `type`
in the configuration. Keys of a sink's own are fields of its class; pydantic checks them.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from fnmatch import fnmatchcase
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, Strict, field_validator

from callcast.core.model import EVENT_TYPES
from callcast.core.sink import Filter, Place, Sink
from callcast.core.wire import Numbers

Direction = Literal["inbound", "outbound"]
ExtensionId = Annotated[str, Field(pattern=r"^(\d{1,20}|unassigned)$")]
Lax = Strict(strict=False)  # TOML and JSON have lists only; a tuple cannot be changed behind our back


class SinkSettings(BaseModel, ABC):
    """The keys that every sink has.

    events: globs over event types. directions, extensions (empty: all): of calls; source events pass by type alone.
    numbers: how phone numbers leave. timeout_s: one attempt. live_ttl_s, give_up_after_h: shelf lives, counted
    from when the event was recorded. concurrency: attempts at the same time, each for another call.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, hide_input_in_errors=True)

    type: str
    events: Annotated[tuple[str, ...], Lax] = ("*",)
    directions: Annotated[tuple[Direction, ...], Lax, Field(min_length=1)] = ("inbound", "outbound")
    extensions: Annotated[tuple[ExtensionId, ...], Lax] = ()
    numbers: Numbers = "full"
    timeout_s: float = Field(default=15.0, gt=0, le=600)
    give_up_after_h: float = Field(default=75.0, gt=0, le=24 * 365)
    live_ttl_s: float = Field(default=60.0, gt=0, le=24 * 3600)
    concurrency: int = Field(default=8, ge=1, le=256)
    allow_plaintext: bool = False

    @field_validator("events")
    @classmethod
    def _each_glob_matches(cls, globs: tuple[str, ...]) -> tuple[str, ...]:
        for glob in globs:
            if not any(fnmatchcase(event_type, glob) for event_type in EVENT_TYPES):
                raise ValueError(f"{glob!r} matches no event type; there are {', '.join(EVENT_TYPES)}")
        if not globs:
            raise ValueError("expected at least one glob; remove the key to get all events")
        return globs

    def filter(self) -> Filter:
        return Filter(events=self.events, directions=self.directions, extensions=self.extensions)

    def warnings(self) -> Sequence[tuple[str, str, str]]:
        """What works and should not stay so: key, problem and remedy, shown by `callcast check`."""
        if not self.allow_plaintext:
            return []
        return [("allow_plaintext", "events may travel unencrypted", "encrypt, and remove it")]

    @abstractmethod
    def open(self, place: Place, /) -> AbstractAsyncContextManager[Sink]:
        """A sink for as long as the context is open. It may be disconnected: then it says `Retry`."""
