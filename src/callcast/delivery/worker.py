"""Delivers the events of one sink: claim, send, and store the outcome. The only place that retries.

The rule: an outcome is kept until the outbox has stored it, so that a full disk causes no duplicate delivery.
"""

import asyncio
from collections.abc import Callable, Coroutine, Iterable, Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from typing import Any, assert_never

from msgspec import Struct
from msgspec.structs import replace

from callcast.delivery.circuit_breaker import CircuitBreaker
from callcast.formats.durations import span
from callcast.observability.fatal import observed
from callcast.observability.metrics import Metrics
from callcast.observability.outbox_health import OutboxUser
from callcast.ports.clock import Clock
from callcast.ports.outbox import SERVICE, Acked, Outbox, OutboxUnavailable, Overdue
from callcast.ports.retry import RETRY_AFTER_MAX_S, RetryPolicy, granted_s
from callcast.ports.sink import Delivered, Delivery, Outcome, Reconnecting, Rejected, Retry, Sink, SuggestsFix

RECOVERY_PROBE_AFTER_S = (1.0, 2.0, 5.0, 10.0, 20.0)  # the first recovery probes of a failing sink; then
RECOVERY_PROBE_EVERY_S = 30.0
RECOVERY_PROBES_MAX = 2  # the second finds that the receiver has recovered while the first waits for a lost response
RECOVERY_PROBE_GONE_EVERY_S = 3600.0
EXPIRE_EVERY_S = 5.0  # how often overdue deliveries expire while nothing is claimed
GRACE_S = 1.0  # beyond the sink's own timeout, so that the sink reports its timeout first, with more detail
IDLE_S = 60.0
HOLD_NOTE = "held_until."  # with the sink's name: the service's note of until when the remote side asked for a pause
# For a cause for which the sink suggests no fix.
DEFAULT_FIX = "run callcast check --send: it tests the connection and says what to do"
UNSTORED_MAX = 512  # acknowledgments that are not stored yet; at more, nothing else is sent


class SinkTrouble(Struct, frozen=True):
    """Why a sink is failing. `fix`: the next step for this cause."""

    since: datetime
    reason: str
    detail: str
    fix: str


class DeliveryWorker:
    """Delivers the backlog of one sink until cancelled; then lets attempts in flight finish, until cancelled again.

    timeout_s: the sink's own limit for one attempt; an attempt that exceeds it by a second is cancelled.
    hold: the note of a pause that the remote side asked for before the restart.
    random: returns a number in [0, 1) for the jitter of each delay.
    `run` ends by itself only with an exception: a bug in the worker or in the sink.
    """

    def __init__(
        self,
        name: str,
        sink: Sink,
        outbox: Outbox,
        clock: Clock,
        policy: RetryPolicy,
        metrics: Metrics,
        *,
        outbox_user: OutboxUser,
        concurrency: int,
        timeout_s: float,
        random: Callable[[], float],
        log: Any,
        hold: bytes | None = None,
    ) -> None:
        self.name = name
        self._sink = sink
        self._outbox = outbox
        self._outbox_user = outbox_user
        self._clock = clock
        self._policy = policy
        self._metrics = metrics
        self._concurrency = concurrency
        self._timeout_s = timeout_s
        self._random = random
        self._log = log
        self._breaker = CircuitBreaker()
        if hold:
            longest = clock.now() + timedelta(seconds=RETRY_AFTER_MAX_S)
            self._breaker.hold(min(datetime.fromisoformat(hold.decode()), longest))
        self._senders: set[asyncio.Task[None]] = set()
        self._probes: set[int] = set()  # the numbers of the deliveries that are sent as recovery probes
        self._acked: list[Acked] = []  # acknowledged, and not yet being stored
        self._acks_in_flight: list[Acked] = []  # being stored
        self._ack_added = asyncio.Event()
        self._freed = asyncio.Event()
        self._stopping = False
        self._fault: asyncio.Future[None] | None = None
        self._probe_at = clock.now()
        self._probes_sent = 0  # since the sink began to fail
        self._probed_seq = 0
        self._recoveries = 0
        self._troubled_since_s = 0.0
        self._fresh_after: int | None = None  # while failing: the newest event that does not belong to a new call
        self._trouble: SinkTrouble | None = None

    @property
    def trouble(self) -> SinkTrouble | None:
        """Why the sink is failing; None while it is not."""
        return self._trouble if self._breaker.failing else None

    async def run(self) -> None:
        self._fault = asyncio.get_running_loop().create_future()
        self._metrics.sink_up(self.name, True)
        loops = [self._start(self._claim_and_send())]
        if isinstance(self._sink, Reconnecting):
            loops.append(self._start(self._watch_reconnects(self._sink)))
        acking = self._start(self._store_acks())
        try:
            await self._fault
        except asyncio.CancelledError:
            self._stopping = True
            await _cancel(loops)
            while self._is_busy():  # until all attempts have ended and their outcomes are stored
                await self._wait_for_room()
            raise
        finally:
            self._stopping = True
            await _cancel(loops)
            await _cancel((*self._senders, acking))
            await self._store_remaining_acks()
            self._outbox_user.ended()

    def _is_busy(self) -> bool:
        return bool(self._senders or self._acked or self._acks_in_flight)

    def _start(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = observed(asyncio.create_task(work))
        task.add_done_callback(self._task_ended)
        return task

    def _task_ended(self, task: asyncio.Task[None]) -> None:
        self._senders.discard(task)
        self._freed.set()
        if not task.cancelled() and (error := task.exception()) and self._fault and not self._fault.done():
            self._fault.set_exception(error)

    # Claiming

    async def _claim_and_send(self) -> None:
        while True:
            await self._outbox_user.until_available(self._step)

    async def _step(self) -> None:
        held_s = self._breaker.held_for_s(self._clock.now())
        if held_s > 0:
            await self._expire_overdue()
            await self._clock.sleep(min(held_s, EXPIRE_EVERY_S))
        elif self._breaker.failing:
            await self._expire_overdue()
            await self._recovery_probe()
        else:
            await self._deliver()

    async def _deliver(self) -> None:
        room = self._concurrency - len(self._senders)
        if room <= 0 or not self._may_send():
            await self._wait_for_room()
            return
        claimed = await self._claim(room)
        for delivery in claimed:
            self._begin(self._send_on(delivery))
        if len(claimed) < room and not self._is_paused():
            await self._wait_for_due()

    async def _wait_for_due(self) -> None:
        """Wait for a due delivery; while the sink is in doubt, send recovery probes although nothing is due.

        After several failures of the whole backlog, nothing might be due until half an hour after the recovery.
        """
        left_s = IDLE_S
        if self._breaker.in_doubt and self._may_probe():
            now = self._clock.now()
            if now >= self._probe_at and (delivery := await self._next_probe(now)):
                await self._begin_probe(delivery)
                return
            left_s = min(left_s, (self._probe_at - now).total_seconds())
        await self._outbox.wait(self.name, timeout_s=left_s)

    async def _claim(self, limit: int) -> Sequence[Delivery]:
        claimed = await self._outbox.claim(self.name, limit=limit)
        if self._may_send():
            return claimed
        for delivery in claimed:  # the sink has begun to fail meanwhile
            await self._outbox.release(delivery)
        return ()

    async def _send_on(self, delivery: Delivery) -> None:
        """Send a delivery, and others while any is due: a task for each would cost more than the send of some sinks."""
        claimed: Sequence[Delivery] = (delivery,)
        while claimed:
            await self._attempt(claimed[0])
            claimed = ()
            if self._may_send():
                with suppress(OutboxUnavailable):  # the next claim reports it
                    claimed = await self._claim(1)

    def _may_send(self) -> bool:
        unstored = len(self._acked) + len(self._acks_in_flight)
        return not (self._stopping or self._is_paused()) and unstored < UNSTORED_MAX

    async def _recovery_probe(self) -> None:
        """Send recovery probes on schedule, each for another call, and at once for a new call."""
        if not self._may_probe():
            await self._wait_for_room()
            return
        if self._fresh_after is None:
            self._fresh_after = await self._outbox.last_seq()
        now = self._clock.now()
        if delivery := await (self._next_probe(now) if now >= self._probe_at else self._new_call(self._fresh_after)):
            await self._begin_probe(delivery)
            return
        if not self._breaker.failing:  # a probe succeeded meanwhile, before this task waited for it
            return
        left_s = min(EXPIRE_EVERY_S, (self._probe_at - now).total_seconds())
        if self._breaker.gone:
            await self._clock.sleep(left_s)
        else:
            await self._outbox.wait(self.name, timeout_s=left_s, fresh_after=self._fresh_after)

    async def _begin_probe(self, delivery: Delivery) -> None:
        if self._breaker.held_for_s(self._clock.now()) > 0:  # since it was claimed
            await self._outbox.release(delivery)
        else:
            self._probes.add(delivery.seq)
            self._begin(self._attempt(delivery))

    def _may_probe(self) -> bool:
        most = 1 if self._breaker.gone else RECOVERY_PROBES_MAX
        return len(self._probes) < most and len(self._senders) < self._concurrency

    async def _next_probe(self, now: datetime) -> Delivery | None:
        delivery = await self._outbox.claim_probe(self.name, after_seq=self._probed_seq)
        if delivery is None and self._probed_seq:
            delivery = await self._outbox.claim_probe(self.name, after_seq=0)
        self._probed_seq = delivery.seq if delivery else 0
        self._probes_sent += delivery is not None
        self._probe_at = now + self._probe_pause()
        return delivery

    async def _new_call(self, fresh_after: int) -> Delivery | None:
        if self._breaker.gone:
            return None
        delivery = await self._outbox.claim_probe(self.name, after_seq=fresh_after, fresh=True)
        if delivery is not None:
            self._fresh_after = delivery.seq
        return delivery

    async def _expire_overdue(self) -> None:
        """Expire deliveries past their time to live, although they are not claimed."""
        now = self._clock.now()
        live_before, final_before = (now - self._policy.time_to_live(live=live) for live in (True, False))
        overdue = None
        while overdue != Overdue():
            overdue = await self._outbox.expire_overdue(self.name, live_before=live_before, final_before=final_before)
            for _ in range(overdue.expired):
                self._metrics.event_expired(self.name)
            for _ in range(overdue.dead):
                self._metrics.event_dead_lettered(self.name)

    async def _wait_for_room(self) -> None:
        self._freed.clear()
        await self._freed.wait()

    def _is_paused(self) -> bool:
        breaker = self._breaker
        return breaker.failing or (breaker.held_until is not None and breaker.held_for_s(self._clock.now()) > 0)

    def _probe_pause(self) -> timedelta:
        if self._breaker.gone:
            return timedelta(seconds=RECOVERY_PROBE_GONE_EVERY_S)
        soon = self._probes_sent < len(RECOVERY_PROBE_AFTER_S)
        return timedelta(seconds=RECOVERY_PROBE_AFTER_S[self._probes_sent] if soon else RECOVERY_PROBE_EVERY_S)

    # One attempt

    def _begin(self, work: Coroutine[Any, Any, None]) -> None:
        self._senders.add(self._start(work))

    async def _attempt(self, delivery: Delivery) -> None:
        """Attempt a delivery. It is released if anything ends the attempt before its outcome is stored."""
        try:
            await self._try(delivery)
        except BaseException:
            await self._outbox.release(delivery)
            raise
        finally:
            self._probes.discard(delivery.seq)

    async def _try(self, delivery: Delivery) -> None:
        expires_at = self._policy.expires_at(delivery.pending_since, live=delivery.live)
        began_s, counted_before, recoveries_before = self._clock.monotonic(), self._breaker.counted, self._recoveries
        if self._breaker.in_doubt and not self._breaker.failing:  # every attempt serves as a recovery probe
            self._probe_at = max(self._probe_at, self._clock.now() + self._probe_pause())
        delivery = replace(delivery, expires_at=expires_at)
        # The age may come from a wall clock that was wrong, so a delivery that is not live is attempted at least once.
        overdue = self._clock.now() >= expires_at and (delivery.live or delivery.first_tried_at is not None)
        outcome = None if overdue else self._retry_unless_alone(delivery, await self._send(delivery))
        self._probes.discard(delivery.seq)  # before its outcome is stored, which lets the next step begin
        took_s = self._clock.monotonic() - began_s
        if outcome is None:
            await self._expire(delivery)
            return
        failed = None if isinstance(outcome, Delivered) else outcome.reason
        self._metrics.delivery_attempted(self.name, failed, took_s)
        match outcome:
            case Delivered():
                await self._delivered(delivery, outcome, took_s)
            case Retry():
                self._failed(delivery, outcome, counted_before)
                recovered = self._recoveries > recoveries_before
                await self._retry(delivery, outcome, expires_at, took_s, recovered=recovered)
            case Rejected():
                self._failed(delivery, outcome, counted_before)
                await self._dead_letter(delivery, outcome, took_s)
            case _:
                assert_never(outcome)

    async def _send(self, delivery: Delivery) -> Outcome:
        try:
            async with asyncio.timeout(self._timeout_s + GRACE_S) as limit:
                return await self._sink.send(delivery)
        except TimeoutError:
            if not limit.expired():
                raise
            return Retry("timeout", f"no answer within {self._timeout_s:g} s")

    def _retry_unless_alone(self, delivery: Delivery, outcome: Outcome) -> Outcome:
        """Turn a rejection `unless_alone` into a retry until another call's event has been accepted."""
        alone = isinstance(outcome, Rejected) and outcome.unless_alone
        if alone and isinstance(outcome, Rejected) and not self._breaker.accepted_another_since(delivery):
            return Retry(outcome.reason, outcome.detail)
        return outcome

    # Storing outcomes

    async def _delivered(self, delivery: Delivery, outcome: Delivered, took_s: float) -> None:
        now, trouble, was_in_doubt = self._clock.now(), self.trouble, self._breaker.in_doubt
        self._breaker.succeeded(delivery, now)
        if delivery.replayed:
            self._metrics.event_replayed(self.name)
        else:
            self._metrics.event_delivered(self.name, (now - delivery.recorded_at).total_seconds())
        self._acked.append(Acked(delivery, took_s, outcome.detail))
        self._ack_added.set()
        if trouble is not None:
            await self._recovered("delivered", trouble)
        elif was_in_doubt and self._clock.monotonic() - self._troubled_since_s >= RECOVERY_PROBE_AFTER_S[0]:
            await self._make_due(held=False)

    async def _store_acks(self) -> None:
        """Store acknowledgments while the next deliveries are sent, all that have arrived meanwhile in one commit."""
        while True:
            await self._ack_added.wait()
            self._ack_added.clear()
            self._acks_in_flight, self._acked = self._acked, []
            await self._outbox_user.until_available(lambda: self._outbox.ack(self._acks_in_flight))
            self._acks_in_flight = []
            self._freed.set()

    async def _store_remaining_acks(self) -> None:
        """Try once to store the remaining acknowledgments. What cannot be stored stays pending and is sent again."""
        left = [*self._acks_in_flight, *self._acked]
        if not left:
            return
        try:
            await self._outbox.ack(left)
        except BaseException as error:
            for one in left:
                await self._outbox.release(one.delivery)
            if not isinstance(error, OutboxUnavailable):
                raise

    async def _retry(
        self, delivery: Delivery, retry: Retry, expires_at: datetime, took_s: float, *, recovered: bool
    ) -> None:
        """Schedule the next attempt. `recovered`: the sink has recovered since the attempt began: retry at once."""
        now = self._clock.now()
        own_s = self._policy.delay_s(delivery.attempt, live=delivery.live, chance=self._random())
        delay_s = 0.0 if recovered else own_s
        if retry.holds_sink:
            delay_s = own_s if retry.after_s is None else granted_s(retry.after_s)
            until = now + timedelta(seconds=granted_s(delay_s))
            self._breaker.hold(until)
            await self._outbox_user.until_available(
                lambda: self._outbox.note(SERVICE, f"{HOLD_NOTE}{self.name}", until.isoformat().encode())
            )
        elif retry.after_s is not None:
            delay_s = max(delay_s, granted_s(retry.after_s))
        at = min(now + timedelta(seconds=delay_s), expires_at)
        held = retry.after_s is not None and not retry.holds_sink
        await self._outbox_user.until_available(
            lambda: self._outbox.retry(
                delivery, at=at, reason=retry.reason, detail=retry.detail, took_s=took_s, held=held
            )
        )

    async def _dead_letter(self, delivery: Delivery, rejected: Rejected, took_s: float) -> None:
        await self._outbox_user.until_available(
            lambda: self._outbox.dead_letter(delivery, reason=rejected.reason, detail=rejected.detail, took_s=took_s)
        )
        self._log_dead_letter(delivery, rejected.reason)

    async def _expire(self, delivery: Delivery) -> None:
        await self._outbox_user.until_available(lambda: self._outbox.expire(delivery))
        if delivery.live:
            self._metrics.event_expired(self.name)
        else:
            self._log_dead_letter(delivery, "given_up")

    def _log_dead_letter(self, delivery: Delivery, reason: str) -> None:
        self._metrics.event_dead_lettered(self.name)
        event = delivery.event
        self._log.warning("event_dead_lettered", sink=self.name, call=event.key, event_id=event.id, reason=reason)

    # Failing and recovering

    def _failed(self, delivery: Delivery, outcome: Retry | Rejected, counted_before: int) -> None:
        before, was_in_doubt = (self._breaker.failing, self._breaker.gone), self._breaker.in_doubt
        since = self._trouble.since if self._trouble and before[0] else self._clock.now()
        self._trouble = SinkTrouble(since, outcome.reason, outcome.detail, self._fix(outcome))
        gone = isinstance(outcome, Retry) and outcome.gone
        self._breaker.failed(delivery, counted_before=counted_before, gone=gone)
        changed = (self._breaker.failing, self._breaker.gone) != before
        if changed or (self._breaker.in_doubt and not was_in_doubt):
            self._probes_sent, self._troubled_since_s = 0, self._clock.monotonic()
            self._probe_at = self._clock.now() + self._probe_pause()
        if not changed:
            return
        if not before[0]:
            self._fresh_after = None
        facts = {"reason": outcome.reason, "detail": outcome.detail, "fix": self._trouble.fix}
        if gone:
            self._log.error("sink_gone", sink=self.name, **facts)
        elif not before[0]:
            self._log.warning("sink_failed", sink=self.name, **facts)
        self._metrics.sink_up(self.name, False)

    def _fix(self, outcome: Retry | Rejected) -> str:
        return (self._sink.fix(outcome) if isinstance(self._sink, SuggestsFix) else "") or DEFAULT_FIX

    async def _recovered(self, how: str, trouble: SinkTrouble | None) -> None:
        self._metrics.sink_up(self.name, True)
        lasted = {} if trouble is None else {"lasted": span((self._clock.now() - trouble.since).total_seconds())}
        self._log.info("sink_recovered", sink=self.name, how=how, **lasted)
        self._freed.set()  # wakes the task that waits for a probe
        await self._make_due(held=True)

    async def _make_due(self, *, held: bool) -> None:
        """Make the whole backlog due, including deliveries in flight that fail later."""
        self._recoveries += 1
        await self._outbox_user.until_available(lambda: self._outbox.make_due(self.name, held=held))

    async def _watch_reconnects(self, sink: Reconnecting) -> None:
        while True:
            await sink.reconnected()
            trouble = self.trouble
            self._breaker.reset()
            await self._recovered("reconnected", trouble)


async def _cancel(tasks: Iterable[asyncio.Task[None]]) -> None:
    tasks = list(tasks)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
