"""The public plugin API: all that a sink imports. Every other module of callcast is private, except `callcast.testing`.

A sink is one module beside this one, or a package of its own.

A sink's settings class is registered under the entry-point group `callcast.sinks`; its name there is the `type`
in the configuration. Keys of a sink's own are fields of its class; pydantic checks them.
"""

import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from fnmatch import fnmatchcase
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, Strict, field_validator

from callcast.calls.model import EVENT_TYPES
from callcast.formats.cloudevents import Numbers
from callcast.ports.connectivity import ConnectivityRequest, ConnectivityResult
from callcast.ports.sink import (
    Advising,
    Delivered,
    Delivery,
    Filter,
    Outcome,
    Reconnecting,
    Rejected,
    Retry,
    Sink,
    SinkContext,
)
from callcast.settings.secret import Secret

__all__ = [
    "Advising",
    "ConnectivityRequest",
    "ConnectivityResult",
    "Delivered",
    "Delivery",
    "Outcome",
    "Reconnecting",
    "Rejected",
    "Retry",
    "Secret",
    "Sink",
    "SinkContext",
    "SinkSettings",
]

Direction = Literal["inbound", "outbound"]


def _extension_id(text: str) -> str:
    if not re.fullmatch(EXTENSION_ID, text):
        raise ValueError("expected digits, or unassigned")
    return text


EXTENSION_ID = r"[0-9]{1,20}|unassigned"
ExtensionId = Annotated[str, AfterValidator(_extension_id), Field(json_schema_extra={"pattern": f"^({EXTENSION_ID})$"})]
Lax = Strict(strict=False)  # TOML and JSON have lists only; a tuple cannot be changed behind our back


class SinkSettings(BaseModel, ABC):
    """The keys that every sink has. Source events pass by `events` alone. Shelf lives count from the recording."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, hide_input_in_errors=True)

    type: str = Field(description="the type of the sink")
    events: Annotated[tuple[str, ...], Lax] = Field(
        default=("*",), description="globs over event types; an event must match one of them"
    )
    directions: Annotated[tuple[Direction, ...], Lax, Field(min_length=1)] = Field(
        default=("inbound", "outbound"), description="directions of the calls whose events the sink gets"
    )
    extensions: Annotated[tuple[ExtensionId, ...], Lax] = Field(
        default=(), description="ids of the extensions whose events the sink gets; empty: all"
    )
    numbers: Numbers = Field(default="full", description="how phone numbers are sent: full, last4, hash, drop")
    timeout_s: float = Field(default=15.0, gt=0, le=600, description="time limit of one attempt")
    give_up_after_h: float = Field(
        default=75.0,
        gt=0,
        le=24 * 365,
        description="an event that cannot be delivered becomes a dead letter after this long",
    )
    live_ttl_s: float = Field(
        default=60.0,
        gt=0,
        le=24 * 3600,
        description="ringing, dialing, answered and updated events expire after this long",
    )
    concurrency: int = Field(default=8, ge=1, le=256, description="attempts at the same time, each for another call")
    allow_plaintext: bool = Field(default=False, description="true: allow unencrypted connections to other machines")

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

    def exclusive_resources(self) -> Sequence[tuple[str, str]]:
        """What no other sink may use too: the key that says so, and the thing in words, the same for the same thing."""
        return ()

    async def check_connectivity(self, request: ConnectivityRequest, /) -> ConnectivityResult:  # noqa: ARG002 (for those who can)
        """Whether the remote side is reachable, asked by `callcast check --online`; cancelled after some seconds.

        Deliver nothing, and leave nothing behind. Trouble outside this program is a result, never an exception.
        """
        return ConnectivityResult("unasked", f"nobody knows how to ask a sink of type {self.type}")

    @abstractmethod
    def open(self, context: SinkContext, /) -> AbstractAsyncContextManager[Sink]:
        """A sink for as long as the context is open. It may be disconnected: then it says `Retry`."""
