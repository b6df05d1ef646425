"""Builds, runs and removes the delivery worker of each sink."""

from collections.abc import Mapping, Sequence
from random import SystemRandom
from typing import Any

from msgspec import Struct, structs

from callcast import __version__
from callcast.delivery.worker import DeliveryWorker, SinkTrouble
from callcast.formats.cloudevents import Numbers, Wire
from callcast.observability.metrics import Metrics
from callcast.observability.outbox_health import OutboxHealth
from callcast.ports.clock import Clock
from callcast.ports.live_calls import LiveCalls
from callcast.ports.outbox import Outbox
from callcast.ports.retry import RetryPolicy
from callcast.ports.sink import SinkContext
from callcast.sinks import SinkSettings


class Subscriber(Struct, frozen=True):
    """A sink's settings, with the key of `numbers = "hash"` where it is used."""

    settings: SinkSettings
    hash_key: bytes


class DeliveryWorkers:
    """The workers of all sinks. `run` and `end` are for a `TaskSupervisor`.

    installation: the id of this installation. holds: the notes of pauses that remote sides asked for, by sink, for the
    first worker of each; both are set before the first `run`.
    """

    def __init__(
        self,
        outbox: Outbox,
        outbox_health: OutboxHealth,
        live_calls: LiveCalls,
        metrics: Metrics,
        clock: Clock,
        log: Any,
    ) -> None:
        self.installation = ""
        self.holds: dict[str, bytes] = {}
        self._outbox = outbox
        self._outbox_health = outbox_health
        self._live_calls = live_calls
        self._metrics = metrics
        self._clock = clock
        self._log = log
        self._names: dict[str, str] = {}
        self._wanted: Mapping[str, Subscriber] = {}
        self._last: dict[str, Subscriber] = {}  # as run last
        self._wires: dict[Numbers, Wire] = {}
        self._workers: dict[str, DeliveryWorker] = {}

    def configure(self, wanted: Mapping[str, Subscriber], names: Mapping[str, str]) -> None:
        """Set the sinks that the configuration has and the names of extensions, before `run` and `end` follow it."""
        self._wanted = wanted
        self._names.clear()
        self._names.update(names)

    async def run(self, name: str, subscriber: Subscriber) -> None:
        """Deliver to one sink until cancelled."""
        await self._remove_traces(name)
        settings, context = subscriber.settings, self._context(name, subscriber)
        self._last[name] = subscriber
        self._metrics.watch_sink(name)
        async with settings.open(context) as sink:
            filters = {key: list(value) for key, value in structs.asdict(settings.filter()).items() if value}
            self._log.info("delivery_started", sink=name, type=settings.type, numbers=settings.numbers, **filters)
            self._workers[name] = DeliveryWorker(
                name,
                sink,
                self._outbox,
                self._clock,
                RetryPolicy(live_ttl_s=settings.live_ttl_s, give_up_after_h=settings.give_up_after_h),
                self._metrics,
                outbox_user=self._outbox_health.user(sink=name),
                concurrency=settings.concurrency,
                timeout_s=settings.timeout_s,
                random=SystemRandom().random,
                log=self._log,
                hold=self.holds.pop(name, None),
            )
            await self._workers[name].run()

    async def end(self, name: str) -> None:
        self._workers.pop(name, None)
        self._metrics.forget_sink(name)
        self._log.info("delivery_stopped", sink=name)
        await self._remove_traces(name)

    async def _remove_traces(self, name: str) -> None:
        """Let a sink that was removed or changed remove what it left at the remote side."""
        if last := self._last.pop(name, None):
            configured = [each.settings for each in self._wanted.values()]
            await last.settings.removed(self._context(name, last), configured)

    def _context(self, name: str, subscriber: Subscriber) -> SinkContext:
        return SinkContext(
            name=name,
            installation=self.installation,
            version=__version__,
            live_calls=self._live_calls,
            wire=self._wire(name, subscriber.settings.numbers, subscriber.hash_key),
            clock=self._clock,
            log=self._log.bind(sink=name).warning,
            names=self._names,
        )

    def failing(self) -> Mapping[str, SinkTrouble]:
        return {name: trouble for name, worker in self._workers.items() if (trouble := worker.trouble)}

    def warnings(self) -> Sequence[str]:
        """A sentence for each failing sink."""
        return [
            f"sink {name} is failing since {one.since:%Y-%m-%d %H:%M:%S} UTC, its events are kept: "
            f"{one.reason}: {one.detail}: {one.fix}"
            for name, one in self.failing().items()
        ]

    def _wire(self, sink: str, numbers: Numbers, hash_key: bytes) -> Wire:
        """One `Wire` for sinks with the same policy, so that each event is encoded once; hashes differ by sink."""
        if numbers == "hash":
            return Wire(numbers, hash_key, sink)
        return self._wires.setdefault(numbers, Wire(numbers))
