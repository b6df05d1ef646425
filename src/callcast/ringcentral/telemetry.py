"""The interface through which this package reports requests, rate limits and unknown data."""

from typing import Literal, Protocol

Resource = Literal["active_calls", "call_log", "extensions", "token"]


class Observer(Protocol):
    """Receives reports for metrics and logs. No method may block."""

    def answered(self, resource: Resource, outcome: str, took_s: float, request_id: str | None, /) -> None:
        """A request is finished. `outcome`: the status of the answer, or the reason why there is none."""
        ...

    def rate_limit(self, group: str, limit: int, remaining: int, silent_s: float, /) -> None:
        """The platform announced a group's limit. `silent_s` above 0: requests are paused for that many seconds."""
        ...

    def unknown_word(self, field: str, word: str, /) -> None:
        """A field has a value that `vocabulary` does not list. Calls are unaffected."""
        ...

    def bad_record(self, field: str, record: str, /) -> None:
        """A record was skipped because this field is invalid. Reported again while the record stays in the list."""
        ...
