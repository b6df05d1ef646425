"""What the remote side that we look at promises the poller. One per source."""

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import Protocol

from msgspec import Struct

from callcast.calls.model import Call, CallObservation, Reason, Snapshot, Target

# What to do, where the answer itself says nothing better. All are asked again by themselves.
REMEDIES: Mapping[Reason, str] = {
    "network": "check server, and whether this machine reaches it: name service, firewall, certificate",
    "timeout": "check server, and whether a firewall swallows what is sent there",
    "auth": "check client_id, client_secret and jwt",
    "permission": "check the permissions of the app and of its user",
    "rate_limited": "wait a minute, as callcast does by itself; does another program use the same credential?",
    "server": "the platform has trouble: try again later, as callcast does by itself",
    "parse": "check server: what answers there is not the platform",
}


class PollFailed(Exception):
    """A look that failed, or had only some of its pages, is no poll. Never an empty snapshot.

    `reason` is one word for metrics; `said` what happened and `remedy` what to do about it, both without secrets
    (not given: what `REMEDIES` says of the reason); `detail` is the two as one sentence for the log; `request_id` is
    what the platform's support asks for; `retry_after_s` is the platform's own wish.
    """

    def __init__(
        self,
        reason: Reason,
        said: str,
        *,
        remedy: str = "",
        retry_after_s: float | None = None,
        request_id: str | None = None,
    ) -> None:
        self.reason: Reason = reason
        self.said = said
        self.remedy = remedy or REMEDIES[reason]
        self.detail = f"{said}: {self.remedy}"
        super().__init__(f"{reason}: {self.detail}")
        self.retry_after_s = retry_after_s
        self.request_id = request_id


class Identity(Struct, frozen=True, kw_only=True):
    """Who the credential is: its own extension, as the platform counts it."""

    extension_id: str


class Upstream(Protocol):
    def now(self) -> datetime:
        """The platform's time: this machine's, with the skew taken out, never jumping back."""
        ...

    def spacing_s(self) -> float:
        """Seconds between two polls of this source that the rate limit allows in the long run."""
        ...

    def hold_s(self) -> float:
        """Seconds until anything may be sent at all; above 0 in a penalty."""
        ...

    def sign_ins_ahead(self) -> int | None:
        """How many sign in before this source, which waits only for its place; None: it does not."""
        ...

    async def identify(self) -> Identity:
        """Who we are (asks for a token). Raises PollFailed."""
        ...

    def watch(self, targets: Collection[Target], /) -> None:
        """These targets are polled from now on: what is remembered of any other is dropped."""
        ...

    async def poll(self, target: Target, /) -> Snapshot:
        """One complete poll: all pages, or PollFailed."""
        ...

    async def find(self, call: Call, /) -> Sequence[CallObservation]:
        """What the call log says of this call's session; empty when it says nothing yet. Raises PollFailed."""
        ...

    async def ended_since(self, target: Target, /, *, after: datetime) -> Sequence[CallObservation]:
        """The finished calls of a target that began at or after a time, from the call log. Raises PollFailed."""
        ...
