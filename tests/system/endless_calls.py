"""An endless supply of calls: the recorded direct call again and again, each with new ids and times."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from callcast.calls.ids import event_id
from callcast.simulator.calls import Record, Truth
from callcast.simulator.scenarios.seed import ACCOUNT_ID, EXTENSION_ID, answers

TYPES = ("call.ringing", "call.answered", "call.ended")
LOG_KEPT = 100  # records; the latest
_START = datetime(2021, 1, 19, 23, 58, 57, tzinfo=UTC)


class EndlessCalls:
    """A scenario for `Platform`: so many calls at once, each one step further as soon as the last was surely recorded.

    Surely: the program that saw it has polled again, and it polls again only after it has recorded. Call `restarted`
    when another program polls from now on.
    """

    account_id = ACCOUNT_ID

    def __init__(self, at_once: int) -> None:
        self.begun = 0  # calls
        self.polls = 0  # of all programs
        self.more = True  # false: no new calls
        self._at_once = at_once
        self._steps: dict[int, int] = {}
        self._polls_of_this_one = 0
        self._log: dict[str, Record] = {}

    def restarted(self) -> None:
        self._polls_of_this_one = 0

    @property
    def over(self) -> bool:
        return not self.more and not self._steps

    def ids(self) -> dict[str, list[str]]:
        """The expected events of each call, in order."""
        return {
            call: [event_id(ACCOUNT_ID, call, type_) for type_ in TYPES]
            for call in (f"{EXTENSION_ID}/s-{number}" for number in range(self.begun))
        }

    # Scenario

    def extension_ids(self) -> Sequence[str]:
        return (EXTENSION_ID,)

    def poll(self, _extension: str | None, /) -> None:
        self.polls += 1
        self._polls_of_this_one += 1
        if self._polls_of_this_one > 1:
            self._steps = {number: step + 1 for number, step in self._steps.items() if step < len(TYPES) - 1}
        if self.polls > 2 and self._polls_of_this_one > 1:
            self._begin()

    def _begin(self) -> None:
        while self.more and len(self._steps) < self._at_once:
            self._steps[self.begun] = 0
            self.begun += 1

    def active(self, _extension: str | None, _now: datetime, /) -> list[Record]:
        records = [record_of(number, step) for number, step in self._steps.items()]
        for record in records:
            if "duration" in record:
                self._log[record["telephonySessionId"]] = record
        while len(self._log) > LOG_KEPT:
            del self._log[next(iter(self._log))]
        return records

    def log(
        self,
        _extension: str | None,
        _now: datetime,
        /,
        *,
        session_id: str | None = None,
        since: datetime | None = None,  # more may be given
    ) -> list[Record]:
        return [record for session, record in self._log.items() if session_id in (None, session)]

    def session(self, _session_id: str, _now: datetime, /) -> Record | None:
        return None

    def truth(self, _now: datetime, /) -> Sequence[Truth]:
        return ()


def record_of(number: int, step: int) -> Record:
    record = answers()[step][0]
    start = _START + timedelta(seconds=30 * number)
    times = {"startTime": start.isoformat(timespec="milliseconds").replace("+00:00", "Z")}
    session = {"telephonySessionId": f"s-{number}"}
    legs = [leg | times | session for leg in record["legs"]]
    return record | times | session | {"id": f"r{number}", "legs": legs}
