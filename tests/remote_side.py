"""An upstream with scripted responses: implements `callcast.ports.upstream.Upstream` on the clock of the test."""

from collections.abc import Callable, Collection, Sequence
from datetime import datetime

from callcast.calls.model import Call, CallObservation, Snapshot, Target
from callcast.ports.upstream import Identity, Places, PollFailed
from tests.clock import TurnedClock

Answer = Sequence[CallObservation] | PollFailed


class ScriptedUpstream:
    """`list_of` returns or raises the result of a poll; `log` is the call log."""

    def __init__(self, clock: TurnedClock, *, spacing_s: float = 1.0) -> None:
        self.clock = clock
        self.spacing = spacing_s
        self.hold = 0.0
        self.ahead: int | None = None
        self.sign_in_hangs_since: float | None = None
        self.took_s: Callable[[Target], float] = lambda _: 0.0
        self.list_of: Callable[[Target], Answer] = lambda _: ()
        self.log: list[CallObservation] = []
        self.polls: list[tuple[float, str | None]] = []
        self.log_reads: list[tuple[str, float]] = []
        self.own: str | PollFailed = "101"
        self.own_took_s = 0.0
        self.log_answers: PollFailed | None = None
        self.log_took_s = 0.0
        self.watched: list[Target] = []

    def now(self) -> datetime:
        return self.clock.now()

    def spacing_s(self) -> float:
        return self.spacing

    def places(self) -> Places:
        return Places(used=0, limit=1, spacing_s=self.spacing)

    def hold_s(self) -> float:
        return self.hold

    def waits_to_sign_in_until(self) -> float | None:
        if self.ahead is None:
            return None
        return self.clock.monotonic() if self.sign_in_hangs_since is None else self.sign_in_hangs_since

    async def identify(self) -> Identity:
        await self.clock.sleep(self.own_took_s)
        if isinstance(self.own, PollFailed):
            raise self.own
        return Identity(extension_id=self.own)

    def watch(self, targets: Collection[Target], /) -> None:
        self.watched = list(targets)

    async def poll(self, target: Target, /, *, paced: bool = True) -> Snapshot:
        self.polls.append((self.clock.monotonic(), target.extension_id))
        if took_s := self.took_s(target):
            await self.clock.sleep(took_s)
        answer = self.list_of(target)
        if isinstance(answer, PollFailed):
            raise answer
        return Snapshot(target=target, taken_at=self.now(), observations=tuple(answer))

    async def find(self, call: Call, /) -> Sequence[CallObservation]:
        self.log_reads.append((call.call_id, self.clock.monotonic()))
        await self.clock.sleep(self.log_took_s)
        if self.log_answers is not None:
            raise self.log_answers
        return [s for s in self.log if s.session_id == call.session_id]

    async def ended_since(self, target: Target, /, *, after: datetime) -> Sequence[CallObservation]:
        self.log_reads.append((f"since {target.extension_id}", self.clock.monotonic()))
        await self.clock.sleep(self.log_took_s)
        if self.log_answers is not None:
            raise self.log_answers
        return [s for s in self.log if s.started_at >= after and target.extension_id in (None, s.extension_id)]
