"""The request log: what was asked, by whom, and what was answered. Holds no secret."""

from collections import deque
from collections.abc import Iterator
from datetime import datetime

from msgspec import Struct

KEPT = 10_000


class Request(Struct, kw_only=True):
    """One request. `status` is 0 where no answer was sent (reset, hang); `fault` names the fault it met."""

    number: int
    at: datetime
    method: str
    path: str
    query: str
    client_id: str | None = None
    user_agent: str = ""
    group: str | None = None
    status: int = 0
    fault: str | None = None
    request_id: str = ""


class RequestLog:
    """The last 10,000 requests, and how many there were in all."""

    def __init__(self) -> None:
        self._requests: deque[Request] = deque(maxlen=KEPT)
        self.count = 0

    def __iter__(self) -> Iterator[Request]:
        return iter(self._requests)

    def __len__(self) -> int:
        return len(self._requests)

    def begin(self, at: datetime, method: str, path: str, query: str, user_agent: str) -> Request:
        self.count += 1
        request = Request(
            number=self.count,
            at=at,
            method=method,
            path=path,
            query=query,
            user_agent=user_agent,
            request_id=f"simulated-{self.count:08d}",
        )
        self._requests.append(request)
        return request

    def clear(self) -> None:
        self._requests.clear()
        self.count = 0
