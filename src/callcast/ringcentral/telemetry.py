"""What is told to those who count and log what happens between us and the platform."""

from typing import Literal, Protocol

Resource = Literal["active_calls", "call_log", "extensions", "token"]


class Observer(Protocol):
    """Who is told what happens between us and the platform; nothing here may block."""

    def answered(self, resource: Resource, outcome: str, took_s: float, request_id: str | None, /) -> None:
        """A request is over. `outcome`: the status of the answer, or the reason why there is none."""
        ...

    def rate_limit(self, group: str, limit: int, remaining: int, silent_s: float, /) -> None:
        """What the platform last said of a group's limit; `silent_s` above 0: a penalty, so long from now."""
        ...

    def unknown_word(self, field: str, word: str, /) -> None:
        """A value that the tables do not have; harmless."""
        ...

    def bad_record(self, field: str, record: str, /) -> None:
        """A record was left out for want of this field; it may be told again for as long as it stays in the list."""
        ...
