"""The platform's rate limits: a sliding window for each user, app and group, and a penalty that restarts.

Sign-ins (`auth`) are counted per app, all its users together; the platform says who is counted.

Numbers and headers as documented (developers.ringcentral.com/guide/basics/rate-limits); real ones vary by app.
"""

from collections import deque
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Literal

from msgspec import Struct

from callcast.simulator.answers import rate_exceeded

Group = Literal["light", "medium", "heavy", "auth"]

DOCUMENTED: Mapping[Group, int] = {"light": 50, "medium": 40, "heavy": 10, "auth": 5}


class Limits(Struct, frozen=True, kw_only=True):
    """Requests per window of each group; `headers` false: the answers do not tell."""

    light: int = DOCUMENTED["light"]
    medium: int = DOCUMENTED["medium"]
    heavy: int = DOCUMENTED["heavy"]
    auth: int = DOCUMENTED["auth"]
    window_s: float = 60
    penalty_s: float = 60
    headers: bool = True
    forbid_twins: bool = True  # the same request twice at once: CMN-304

    def of(self, group: Group) -> int:
        limits: dict[Group, int] = {
            "light": self.light,
            "medium": self.medium,
            "heavy": self.heavy,
            "auth": self.auth,
        }
        return limits[group]


class _Bucket:
    def __init__(self) -> None:
        self.taken: deque[datetime] = deque()
        self.penalty_until: datetime | None = None


class RateLimits:
    """Counts every request; `limits` None lets all pass and sends no headers. May be exchanged at any time."""

    def __init__(self, limits: Limits | None) -> None:
        self.limits = limits
        self._buckets: dict[tuple[str, Group], _Bucket] = {}
        self._twins: set[tuple[str, str]] = set()

    def count(self, who: str, group: Group, now: datetime) -> None:
        """Take one of the window, or raise the 429. A request in a penalty restarts it."""
        if self.limits is None:
            return
        bucket = self._bucket(who, group, now)
        penalised = bucket.penalty_until is not None
        if penalised or len(bucket.taken) >= self.limits.of(group):
            bucket.penalty_until = now + timedelta(seconds=self.limits.penalty_s)
            raise rate_exceeded({"Retry-After": _whole(self.limits.penalty_s), **self.headers(who, group, now)})
        bucket.taken.append(now)

    def headers(self, who: str, group: Group, now: datetime) -> dict[str, str]:
        """What every answer says of the group's window."""
        if self.limits is None or not self.limits.headers:
            return {}
        bucket = self._bucket(who, group, now)
        left = 0 if bucket.penalty_until else self.limits.of(group) - len(bucket.taken)
        return {
            "X-Rate-Limit-Group": group,
            "X-Rate-Limit-Limit": str(self.limits.of(group)),
            "X-Rate-Limit-Remaining": str(max(left, 0)),
            "X-Rate-Limit-Window": _whole(self.limits.window_s),
        }

    def use(self, who: str, group: Group, now: datetime, requests: int) -> None:
        """Somebody else uses up requests of the same budget."""
        if self.limits is not None:
            self._bucket(who, group, now).taken.extend([now] * requests)

    def enter(self, who: str, request: str) -> None:
        """A request begins; raise the 429 if its twin is still under way."""
        if self.limits is None or not self.limits.forbid_twins:
            return
        if (who, request) in self._twins:
            raise rate_exceeded({}, "CMN-304")
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


def _whole(seconds: float) -> str:
    return str(round(seconds))
