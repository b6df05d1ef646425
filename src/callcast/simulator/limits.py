"""Rate limits: a sliding window for each user, app and group, and a penalty that each further request restarts.

Tokens (group `auth`) are counted per app. Numbers and headers are the documented ones
(developers.ringcentral.com/guide/basics/rate-limits); real ones vary by app.
"""

from collections import deque
from datetime import datetime, timedelta
from typing import Annotated, Literal

from msgspec import Meta, Struct, field

from callcast.simulator.answers import api_refusal
from callcast.simulator.clock import Seconds

Count = Annotated[int, Meta(ge=0)]
Group = Literal["light", "medium", "heavy", "auth"]


class Limits(Struct, frozen=True, kw_only=True):
    """Requests per window of each group. `forbid_twins`: the same request twice at once is CMN-304."""

    light: Count = 50
    medium: Count = 40
    heavy: Count = 10
    auth: Count = 5
    window_s: Seconds = 60
    penalty_s: Seconds = 60
    headers: bool = True
    forbid_twins: bool = True

    def of(self, group: Group) -> int:
        return int(getattr(self, group))


class _Bucket(Struct):
    taken: deque[datetime] = field(default_factory=deque)
    penalty_until: datetime | None = None


class RateLimits:
    """Counts requests. `limits` may be replaced at any time; None lets all pass and sends no headers."""

    def __init__(self, limits: Limits | None) -> None:
        self.limits = limits
        self._buckets: dict[tuple[str, Group], _Bucket] = {}
        self._twins: set[tuple[str, str]] = set()

    def count(self, who: str, group: Group, now: datetime) -> None:
        """Count a request, or raise the 429."""
        if self.limits is None:
            return
        bucket = self._bucket(who, group, now)
        penalised = bucket.penalty_until is not None
        if penalised or len(bucket.taken) >= self.limits.of(group):
            bucket.penalty_until = now + timedelta(seconds=self.limits.penalty_s)
            headers = {"Retry-After": str(round(self.limits.penalty_s)), **self.headers(who, group, now)}
            raise api_refusal(429, "CMN-301", "Request rate exceeded", headers=headers)
        bucket.taken.append(now)

    def headers(self, who: str, group: Group, now: datetime) -> dict[str, str]:
        """The headers of each answer."""
        if self.limits is None or not self.limits.headers:
            return {}
        bucket = self._bucket(who, group, now)
        left = 0 if bucket.penalty_until else self.limits.of(group) - len(bucket.taken)
        return {
            "X-Rate-Limit-Group": group,
            "X-Rate-Limit-Limit": str(self.limits.of(group)),
            "X-Rate-Limit-Remaining": str(max(left, 0)),
            "X-Rate-Limit-Window": str(round(self.limits.window_s)),
        }

    def use(self, who: str, group: Group, now: datetime, requests: int) -> None:
        """Count requests of another program with the same credential."""
        if self.limits is not None:
            self._bucket(who, group, now).taken.extend([now] * requests)

    def enter(self, who: str, request: str) -> None:
        """A request begins. Raises the 429 while the same one is under way."""
        if self.limits is None or not self.limits.forbid_twins:
            return
        if (who, request) in self._twins:
            raise api_refusal(429, "CMN-304", "Duplicate concurrent request")
        self._twins.add((who, request))

    def leave(self, who: str, request: str) -> None:
        self._twins.discard((who, request))

    def _bucket(self, who: str, group: Group, now: datetime) -> _Bucket:
        bucket = self._buckets.setdefault((who, group), _Bucket())
        window = timedelta(seconds=self.limits.window_s if self.limits else 0)
        while bucket.taken and bucket.taken[0] <= now - window:
            bucket.taken.popleft()
        if bucket.penalty_until and bucket.penalty_until <= now:
            bucket.penalty_until = None
        return bucket
