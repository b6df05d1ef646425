"""What a scenario tells the platform: which records there are at a moment, and what is true."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Protocol

from msgspec import Struct

Record = dict[str, Any]


class Truth(Struct, frozen=True, kw_only=True):
    """What really happened in one extension's part of one session, for verification.

    `disposition` is one of callcast's words. Times that have not come yet are given as planned.
    `session_id` is the telephony session id, or where the records have none the plain session id.
    """

    extension_id: str
    session_id: str
    direction: str
    started_at: datetime
    answered_at: datetime | None
    ended_at: datetime
    disposition: str


class Scenario(Protocol):
    """The world behind the platform. Records are Detailed ones, newest first; `extension_id` None: the account's.

    `look` is called once for each list that is asked for from its first page on.
    """

    account_id: str

    def extension_ids(self) -> Sequence[str]:
        """The first one is the default credential's own."""
        ...

    def poll(self, extension_id: str | None, /) -> None: ...

    def active(self, extension_id: str | None, now: datetime, /) -> list[Record]: ...

    def log(
        self,
        extension_id: str | None,
        now: datetime,
        /,
        *,
        session_id: str | None = None,
        since: datetime | None = None,
    ) -> list[Record]:
        """`session_id` and `since` (of the end) say what is enough; more may be given."""
        ...

    def session(self, session_id: str, now: datetime, /) -> Record | None: ...

    def truth(self, now: datetime, /) -> Sequence[Truth]: ...
