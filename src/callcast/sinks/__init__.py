"""The public plugin API: everything that a sink imports. All other modules except `callcast.testing` are private.

A built-in sink is one module in this package; a plugin is a package of its own.

A sink's settings class is registered under the entry-point group `callcast.sinks`; its name there is the `type`
in the configuration. Keys of a sink's own are fields of its class; pydantic checks them.
"""

import re
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from fnmatch import fnmatchcase
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, Strict, field_validator, model_validator

from callcast.calls.model import EVENT_TYPES
from callcast.formats.cloudevents import Numbers
from callcast.ports.connectivity import ConnectivityRequest, ConnectivityResult
from callcast.ports.sink import (
    Delivered,
    Delivery,
    Filter,
    Outcome,
    Reconnecting,
    Rejected,
    Retry,
    Sink,
    SinkContext,
    SuggestsFix,
)
from callcast.settings.secret import Secret

__all__ = [
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
    "SuggestsFix",
]

Direction = Literal["inbound", "outbound"]
Disposition = Literal[
    "answered",
    "missed",
    "no_answer",
    "abandoned",
    "voicemail",
    "busy",
    "declined",
    "blocked",
    "failed",
    "answered_elsewhere",
    "cancelled",
    "transferred",
    "fax",
    "unknown",
]


def _extension_id(text: str) -> str:
    if not re.fullmatch(EXTENSION_ID, text):
        raise ValueError("expected digits, or unassigned")
    return text


EXTENSION_ID = r"[0-9]{1,20}|unassigned"
ExtensionId = Annotated[str, AfterValidator(_extension_id), Field(json_schema_extra={"pattern": f"^({EXTENSION_ID})$"})]
Lax = Strict(strict=False)  # TOML and JSON have lists only; a tuple is immutable


class SinkSettings(BaseModel, ABC):
    """The keys that every sink has. Of the filters, only `events` and `sources` apply to source events.

    Times to live count from when an event was recorded.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, hide_input_in_errors=True)

    example_name: ClassVar[str] = "my_sink"  # of its table in config.example.toml

    type: str = Field(description="the type of the sink")
    events: Annotated[tuple[str, ...], Lax] = Field(
        default=("*",), description="globs over event types; an event must match one of them"
    )
    directions: Annotated[tuple[Direction, ...], Lax, Field(min_length=1)] = Field(
        default=("inbound", "outbound"), description="directions of the calls whose events the sink gets"
    )
    dispositions: Annotated[tuple[Disposition, ...], Lax] = Field(
        default=(), description="dispositions of the calls whose end and corrections the sink gets; empty: all"
    )
    extensions: Annotated[tuple[ExtensionId, ...], Lax] = Field(
        default=(), description="ids of the extensions whose events the sink gets; empty: all"
    )
    sources: Annotated[tuple[str, ...], Lax] = Field(
        default=(), description="names of the sources whose events the sink gets; empty: all"
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
    concurrency: int = Field(default=8, ge=1, le=256, description="concurrent attempts, each for a different call")
    allow_plaintext: bool = Field(default=False, description="true: allow unencrypted connections to other machines")

    defaults_depend_on: ClassVar[tuple[str, ...]] = ()  # the keys that `defaults` reads

    @classmethod
    def defaults(cls, table: Mapping[str, Any], /) -> Mapping[str, Any]:  # noqa: ARG003 (for subclasses)
        """Defaults that depend on the keys of `defaults_depend_on`, given these; they precede the fields' own."""
        return {}

    @model_validator(mode="after")
    def _with_defaults(self) -> Self:
        defaults = self.defaults({key: getattr(self, key) for key in self.defaults_depend_on})
        self.__dict__.update({key: value for key, value in defaults.items() if key not in self.model_fields_set})
        return self

    @field_validator("events")
    @classmethod
    def _each_glob_matches(cls, globs: tuple[str, ...]) -> tuple[str, ...]:
        for glob in globs:
            if not any(fnmatchcase(event_type, glob) for event_type in EVENT_TYPES):
                raise ValueError(f"{glob!r} matches no event type; the event types are {', '.join(EVENT_TYPES)}")
        if not globs:
            raise ValueError("expected at least one glob; remove the key to get all events")
        return globs

    def filter(self) -> Filter:
        return Filter(**{key: getattr(self, key) for key in Filter.__struct_fields__})

    def warnings(self) -> Sequence[tuple[str, str, str]]:
        """Settings that work but should be changed: key, problem and fix, shown by `callcast check`."""
        fix = "use an encrypted connection, and remove allow_plaintext"
        return [("allow_plaintext", "events may be sent unencrypted", fix)] if self.allow_plaintext else []

    def exclusive_resources(self) -> Sequence[tuple[str, str]]:
        """Resources that only one sink may use: the configuration key, and a description that identifies each."""
        return ()

    async def check_connectivity(self, request: ConnectivityRequest, /) -> ConnectivityResult:  # noqa: ARG002 (for subclasses)
        """Check whether the remote side is reachable, for `callcast check --online`; cancelled after some seconds.

        Deliver no event and leave nothing behind. Return external failures as a result; do not raise them.
        """
        return ConnectivityResult("unasked", f"sinks of type {self.type} have no connectivity check")

    async def removed(self, context: SinkContext, configured: "Sequence[SinkSettings]", /) -> None:
        """Remove what the sink has left at the remote side, such as retained messages, unless a sink continues it.

        Called once the sink is closed, after a reload that removed it or changed its settings. configured: the
        settings of all sinks after the reload. Log external failures; do not raise them.
        """

    @abstractmethod
    def open(self, context: SinkContext, /) -> AbstractAsyncContextManager[Sink]:
        """The sink, usable while the context is open. While it is disconnected, `send` returns `Retry`."""
