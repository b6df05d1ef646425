"""The upstream protocol: what the poller expects of the platform. There is one upstream per source."""

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import Protocol

from msgspec import Struct

from callcast.calls.model import Call, CallObservation, Reason, Snapshot, Target

# The next step for each reason, used when the response does not suggest a better one. Polling retries on its own.
FIXES: Mapping[Reason, str] = {
    "network": "check server, and that this machine can reach it: DNS, firewall, certificate",
    "timeout": "check server, and whether a firewall drops the connection",
    "auth": "check client_id, client_secret and jwt",
    "permission": "check the permissions of the app and of its user",
    "rate_limited": "callcast retries automatically; check whether another program uses the same credential",
    "server": "the platform reports an error; callcast retries automatically",
    "parse": "check server: the response does not come from the platform",
}


class PollFailed(Exception):
    """A poll failed or returned only some of its pages. It never yields an empty snapshot.

    reason: one word for metrics.
    cause, fix: what happened and what to do about it, without secrets. `fix` defaults to `FIXES[reason]`.
    detail: both as one sentence for the log.
    retry_after_s: the delay in seconds that the platform asked for.
    request_id: the id that the platform's support asks for.
    """

    def __init__(
        self,
        reason: Reason,
        cause: str,
        *,
        fix: str = "",
        retry_after_s: float | None = None,
        request_id: str | None = None,
    ) -> None:
        self.reason: Reason = reason
        self.cause = cause
        self.fix = fix or FIXES[reason]
        self.detail = f"{cause}: {self.fix}"
        super().__init__(f"{reason}: {self.detail}")
        self.retry_after_s = retry_after_s
        self.request_id = request_id


class Identity(Struct, frozen=True, kw_only=True):
    """The extension that the credential belongs to."""

    extension_id: str


class Places(Struct, frozen=True, kw_only=True):
    """The places in the rate limit's window that polls may use: a scheduler paces itself by them.

    used: by requests in flight, by answered ones that the platform still counts, and by other programs. May exceed
        `limit`, because it includes what the call log uses beyond its reserve.
    limit: at least 1. spacing_s: seconds between two polls on average, as `Upstream.spacing_s`.
    """

    used: int
    limit: int
    spacing_s: float


class Upstream(Protocol):
    def now(self) -> datetime:
        """The platform's time: this machine's time corrected by the measured skew. Never goes back."""
        ...

    def spacing_s(self) -> float:
        """Seconds between two polls of this source that the rate limit allows on average."""
        ...

    def places(self) -> Places:
        """The places for polls in the window that is the fullest."""
        ...

    def hold_s(self) -> float:
        """Seconds until the next request may be sent; above 0 during a penalty."""
        ...

    def waits_to_sign_in_until(self) -> float | None:
        """Until when this source only waits for its place to sign in; None: it does not, or the endpoint has trouble.

        Of the clock that only grows: now, or when the sign-in under way before it began, which may hang.
        """
        ...

    async def identify(self) -> Identity:
        """Return the credential's own extension; requests a token if needed. Raises PollFailed."""
        ...

    def watch(self, targets: Collection[Target], /) -> None:
        """Set the targets that will be polled; cached data of others is dropped."""
        ...

    async def poll(self, target: Target, /, *, paced: bool = True) -> Snapshot:
        """Poll a target: returns all its pages, or raises PollFailed.

        paced: wait for the even grid of polls; otherwise only for a free place.
        """
        ...

    async def find(self, call: Call, /) -> Sequence[CallObservation]:
        """Return the call log's records of this call's session; empty if there are none yet. Raises PollFailed."""
        ...

    async def ended_since(self, target: Target, /, *, after: datetime) -> Sequence[CallObservation]:
        """Return a target's finished calls that began at or after `after`, from the call log. Raises PollFailed."""
        ...
