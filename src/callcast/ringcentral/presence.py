"""Presence: reads every few seconds who is on a call, as hints beside push and as a witness of what push leaves out.

Up to 30 extensions are read with one request of the light group, of which presence uses at most half. Whether the
platform charges one place per request or one per extension is not documented: its headers show it.
"""

from collections import deque
from collections.abc import Callable, Mapping, Sequence

from yarl import URL

from callcast.calls.model import Target
from callcast.ports.clock import Clock
from callcast.ports.hints import Hint, HintsChange, Report
from callcast.ports.telemetry import Telemetry
from callcast.ports.upstream import PollFailed
from callcast.ringcentral.api import Reader
from callcast.ringcentral.frames import Steps, read_presences
from callcast.ringcentral.http import Answer
from callcast.ringcentral.rate_limiter import RateLimiter
from callcast.ringcentral.settings import (
    PRESENCE_MAX_S,
    PRESENCE_S,
    PRESENCE_SHARE,
    PRESENCE_TOGETHER,
    presence_interval_s,
)

WITNESS_GAP_S = 15.0
READ_TIMEOUT_S = 10.0
REFUSED_EVERY_S = 3600.0
FAILURES_MAX = 2  # failed readings in a row after which hints may be missing
# Makes the answer about several extensions one JSON document; otherwise it is multipart.
BULK = "application/vnd.ringcentral.multipart+json"
DETAILED = {"detailedTelephonyState": "true"}


class _Charge:
    """What a reading costs, by the headers of the answers."""

    def __init__(self, clock: Clock) -> None:
        self.per_extension = False
        self._clock = clock
        self._answers: deque[tuple[float, int]] = deque()  # in the last minute: when, and how many extensions

    def answered(self, answer: Answer, extensions: int) -> None:
        now = self._clock.monotonic()
        self._answers.append((now, extensions))
        while self._answers[0][0] <= now - 60:
            self._answers.popleft()
        try:
            used = int(answer.headers["X-Rate-Limit-Limit"]) - int(answer.headers["X-Rate-Limit-Remaining"])
        except (KeyError, ValueError):
            return
        requests, items = len(self._answers), sum(count for _, count in self._answers)
        if items > requests:
            self.per_extension = used > (requests + items) / 2  # nearer to one per extension


class PresenceReader:
    """The hints of one source that its extensions' presence yields.

    reader: sends requests in the light group, which `light` limits. url: returns the URL of a path and a query.
    account: in the path. telemetry: receives what the operator should know.
    """

    def __init__(
        self,
        reader: Reader,
        light: RateLimiter,
        url: Callable[[str, Mapping[str, str]], URL],
        clock: Clock,
        telemetry: Telemetry,
        *,
        account: str,
    ) -> None:
        self._reader = reader
        self._light = light
        self._url = url
        self._clock = clock
        self._telemetry = telemetry
        self._account = account
        self._interval_s = PRESENCE_S
        self._read: dict[str, tuple[float, float]] = {}  # by extension: since when without a gap, and the last time
        self._failures = 0  # in a row
        self._up = False

    def covers(self, target: Target) -> bool:
        last = self._read.get(target.extension_id or "")
        return last is not None and self._clock.monotonic() - last[1] <= max(WITNESS_GAP_S, 2 * self._interval_s)

    def witnessed_since(self, target: Target) -> float | None:
        last = self._read.get(target.extension_id or "")
        if last is None or max(self._interval_s, self._clock.monotonic() - last[1]) > WITNESS_GAP_S:
            return None
        return last[0]

    async def run(self, targets: Sequence[Target], report: Report) -> None:
        """Read until cancelled, whatever the platform and the network do. A whole account has no presence of calls."""
        watched = {target.extension_id: target for target in targets if target.extension_id}
        while watched:
            self._failures, self._up = 0, False
            try:
                await self._keep_reading(watched, report)
            except PollFailed as failure:
                self._telemetry.presence_refused(failure.detail)
                self._note(False, report)
            finally:
                self._read = {}
            await self._clock.sleep(REFUSED_EVERY_S)

    async def _keep_reading(self, watched: Mapping[str, Target], report: Report) -> None:
        """Read on a grid of equal intervals. Raises PollFailed if that is not permitted, or not worth its requests."""
        ids = list(watched)
        batches = [ids[first : first + PRESENCE_TOGETHER] for first in range(0, len(ids), PRESENCE_TOGETHER)]
        steps, charge = Steps(), _Charge(self._clock)
        due = self._clock.monotonic()
        while True:
            read = True
            for batch in batches:
                self._interval_s = self._next_interval_s(len(ids), charge)
                read = await self._read_batch(batch, watched, steps, charge, report) and read
            self._interval_s = self._next_interval_s(len(ids), charge)
            self._failures = 0 if read else self._failures + 1
            if read or self._failures >= FAILURES_MAX:
                self._note(read, report)
            passed = int(max(0.0, self._clock.monotonic() - due) // self._interval_s)
            due += (1 + passed) * self._interval_s
            await self._clock.sleep(due - self._clock.monotonic())

    def _next_interval_s(self, extensions: int, charge: _Charge) -> float:
        seconds = presence_interval_s(extensions, self._light.spacing_s())
        if charge.per_extension:
            seconds = max(seconds, 60 * extensions / (PRESENCE_SHARE * self._light.per_minute))
        if seconds > PRESENCE_MAX_S:
            detail = f"presence of {extensions} extensions could be read only every {seconds:.0f} s"
            raise PollFailed("rate_limited", detail, fix="watch the account, or fewer extensions with this credential")
        return seconds

    async def _read_batch(
        self, batch: Sequence[str], watched: Mapping[str, Target], steps: Steps, charge: _Charge, report: Report
    ) -> bool:
        """Read the presence of some extensions. Returns whether that succeeded; raises PollFailed if it is refused."""
        url = self._url(f"/restapi/v1.0/account/{self._account}/extension/{','.join(batch)}/presence", DETAILED)
        try:
            answer = await self._reader.get(
                "presence", url, purpose="poll", timeout_s=READ_TIMEOUT_S, accept=BULK if len(batch) > 1 else None
            )
        except PollFailed as failure:
            if failure.reason == "permission":
                raise
            return False
        charge.answered(answer, len(batch))
        presences = read_presences(answer.body, batch)
        if presences is None:
            return False
        now = self._clock.monotonic()
        for extension_id in batch:
            presence = presences.get(extension_id)
            if presence is None or not presence.telephonyStatus:  # hidden, or not a user
                self._read.pop(extension_id, None)
                continue
            since, last = self._read.get(extension_id, (now, now))
            self._read[extension_id] = (since if now - last <= WITNESS_GAP_S else now), now
            for one in steps.of_presence(extension_id, presence):
                report(
                    Hint(
                        target=watched[extension_id],
                        session_id=one.session,
                        party_id=one.party or None,
                        extension_id=extension_id,
                        step=one.step,
                        via="presence",
                        at=now,
                    )
                )
        steps.ignored.clear()  # that nothing changed is the normal case
        return True

    def _note(self, up: bool, report: Report) -> None:
        if up != self._up:
            self._up = up
            self._telemetry.hints_up("presence", up=up)
            report(HintsChange(via="presence", state="up" if up else "lost", at=self._clock.monotonic()))
