"""The running service: its sources and sinks by name, its background tasks, and the reload of the configuration."""

import asyncio
import secrets
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from random import SystemRandom
from typing import Any
from zoneinfo import ZoneInfo

import aiohttp
from msgspec import structs

from callcast import __version__
from callcast.config import Settings
from callcast.config.diagnostics import ConfigError
from callcast.config.hash_key import hash_key
from callcast.delivery.reminders import Reminders
from callcast.delivery.worker import DeliveryWorker, SinkTrouble
from callcast.formats.cloudevents import Numbers, Wire
from callcast.live.live_calls import InMemoryLiveCalls
from callcast.live.stored_counts import SERVICE, restore, store_counts
from callcast.observability import logs
from callcast.observability.metrics import Metrics
from callcast.observability.outbox_health import OutboxFailure, OutboxHealth
from callcast.polling.sources import Sources
from callcast.ports.clock import Clock
from callcast.ports.outbox import Outbox, OutboxUnavailable
from callcast.ports.retry import RetryPolicy
from callcast.ports.sink import Sink, SinkContext
from callcast.provider import Provider, SourceSettings, plan
from callcast.sinks import SinkSettings
from callcast.supervisor import TaskSupervisor
from callcast.web.serializers import CallSerializer
from callcast.web.server import WebServer, serve
from callcast.web.sse import Broadcaster

HOUSEKEEPING_S = 10.0
# How long a reload waits for a stopped source or sink to finish: a remote side that hangs must not block it.
STOP_PATIENCE_S = 0.5

ReadConfig = Callable[[], Settings]
SinkPart = tuple[SinkSettings, bytes]  # with the key of numbers = "hash", where it is used


class Service:
    """The running service: starts, reloads and stops sources and sinks."""

    def __init__(
        self,
        settings: Settings,
        outbox: Outbox,
        live_calls: InMemoryLiveCalls,
        metrics: Metrics,
        session: aiohttp.ClientSession,
        clock: Clock,
        log: Any,
        read_config: ReadConfig,
    ) -> None:
        self._settings = settings
        self._outbox = outbox
        self._live_calls = live_calls
        self._metrics = metrics
        self._session = session
        self._clock = clock
        self._log = log
        self._read_config = read_config
        self._random = SystemRandom()
        self._hash_key = b""
        self._installation = ""
        self._wires: dict[Numbers, Wire] = {}
        self._outbox_health = OutboxHealth(clock, log)
        self._warnings_logged: Sequence[str] = ()  # those of the outbox
        self._reminders = Reminders(clock, log)
        self._pending = 0  # the backlog of all sinks together
        self._reloading = asyncio.Lock()
        self._started = asyncio.Event()
        self._stopping = False
        self._background: list[asyncio.Task[None]] = []
        self._broadcaster = Broadcaster(live_calls, outbox, clock, self._serializer(settings), self.trouble)
        self.admin: WebServer
        self._tasks: asyncio.TaskGroup
        provider = Provider(session, clock, data_dir=settings.service.data_dir, failed=self._tokens_failed)
        self._pollers = Sources(
            outbox, live_calls, metrics, clock, log, self._outbox_health, self._broadcaster.wake, provider
        )
        metrics.watch_service(
            ready=lambda: not self.reasons(),
            outbox_writable=lambda: self._started.is_set() and self.trouble() is None,
            outbox_resets=lambda: outbox.resets,
            clock_skews=self._pollers.skews,
        )
        self._sources: TaskSupervisor[SourceSettings]
        self._sinks: TaskSupervisor[SinkPart]
        self._delivery_workers: dict[str, DeliveryWorker] = {}

    def serve(self) -> AbstractAsyncContextManager[WebServer]:
        """Open the web server. Until `start` has finished it reports that the service is not ready."""
        service = self._settings.service
        host, port = service.listen
        return serve(
            host,
            port,
            live_calls=self._live_calls,
            metrics=self._metrics,
            broadcaster=self._broadcaster,
            health=self,
            reload=self.reload,
            clock=self._clock,
            serializer=self._serializer(self._settings),
            version=__version__,
            token=service.http_token.reveal(),
            hosts=service.http_hosts,
        )

    async def start(self, tasks: asyncio.TaskGroup) -> None:
        self._tasks = tasks
        self._sources = TaskSupervisor(tasks, self._run_source, self._pollers.end)
        self._sinks = TaskSupervisor(tasks, self._run_sink, self._end_sink, cancel_twice=True)
        await self._pollers.load()
        await self._outbox_health.service.until_available(lambda: self._restore(self._settings))
        await self._apply(self._settings)
        self._metrics.config_reloaded(True)
        for work in (
            self._broadcaster.run(),
            store_counts(self._live_calls, self._outbox, self._outbox_health.service, self._clock),
            self._housekeeping(),
        ):
            self._background.append(tasks.create_task(work))
        self._started.set()

    async def _restore(self, settings: Settings) -> None:
        """Restore the state of an earlier run. Raises OutboxUnavailable; may be repeated."""
        self._hash_key = await asyncio.to_thread(hash_key, settings)
        self._update_web(settings)  # with the hash key, before the first call is shown
        notes = (await self._outbox.known(SERVICE)).notes
        self._installation = await self._installation_id(notes)
        await restore(self._live_calls, self._outbox, notes, settings.sources)
        await self._subscribe(settings)
        for source in {*await self._outbox.sources()} - settings.sources.keys() - {SERVICE}:
            await self._pollers.end(source)

    async def stop(self) -> None:
        """Stop polling, let deliveries in flight finish, then stop the rest. Waits for a reload in progress."""
        self._stopping = True
        async with self._reloading:
            await self._sources.stop(patience_s=STOP_PATIENCE_S)
            await self._pollers.close_all()
            await self._sinks.stop(patience_s=self._settings.service.shutdown_s)
        for task in self._background:
            task.cancel()

    # For the systemd heartbeat.

    def stepped_at(self) -> float:
        return min(
            (telemetry.stepped_at for telemetry in self._pollers.telemetry.values()), default=self._clock.monotonic()
        )

    def status(self) -> str:
        polls = sum(telemetry.polls for telemetry in self._pollers.telemetry.values())
        sources, calls = len(self._settings.sources), len(self._live_calls.calls())
        facts = f"sources {sources}, polls {polls}, calls {calls}, backlog {self._pending}"
        return "; ".join([facts, *self.reasons(), *self.warnings()])

    # For the web server: readiness and reload.

    def reasons(self) -> Sequence[str]:
        if not self._started.is_set():
            return ["the service is starting"]
        sources = [why for telemetry in self._pollers.telemetry.values() if (why := telemetry.unready())]
        trouble = self.trouble()
        return [*sources, *([trouble.detail] if trouble else [])]

    def trouble(self) -> OutboxFailure | None:
        """Since when the outbox cannot be used, and why."""
        return self._outbox_health.failure

    def warnings(self) -> Sequence[str]:
        """Problems that need attention but do not make the service unready."""
        sinks = [_warning(name, trouble) for name, trouble in self._failing().items()]
        refused = [line for telemetry in self._pollers.telemetry.values() for line in telemetry.refusals()]
        sources = [*self._pollers.ownership.conflicts(), *self._pollers.skewed(), *self._pollers.unrenewed(), *refused]
        return [*self._outbox.warnings(), *sources, *sinks]

    def _failing(self) -> Mapping[str, SinkTrouble]:
        return {name: trouble for name, one in self._delivery_workers.items() if (trouble := one.trouble)}

    async def reload(self) -> Sequence[str]:
        """Read the configuration again and apply it. Returns its faults; if there are any, nothing has changed.

        Continues if the caller is cancelled. An unexpected exception ends the process.
        """
        await self._started.wait()
        if self._stopping:
            return ["the service is stopping"]
        return await asyncio.shield(self._tasks.create_task(self._reload()))

    async def _reload(self) -> Sequence[str]:
        async with self._reloading:
            if self._stopping:
                return ["the service is stopping"]
            try:
                wanted = await asyncio.to_thread(self._read_config)
                if fixed := _needs_restart(self._settings, wanted):
                    return self._refused("configuration", fixed)
                key = await asyncio.to_thread(hash_key, wanted, self._hash_key)
                await self._subscribe(wanted)
            except ConfigError as error:
                return self._refused("configuration", [str(finding) for finding in error.findings])
            except OutboxUnavailable as error:
                return self._refused("outbox", [str(error)])
            self._hash_key = key
            self._log_unchanged_credentials(self._settings, wanted)
            await self._apply(wanted)
            self._metrics.config_reloaded(True)
            self._log.info("configuration_reloaded")
            return []

    def _log_unchanged_credentials(self, before: Settings, now: Settings) -> None:
        """Log credentials that a reload cannot change, because systemd passes them only when it starts the service."""
        same = [name for name, secret in now.credentials.items() if before.credentials.get(name) == secret]
        if same:
            self._log.info(
                "credentials_unchanged",
                credentials=sorted(same),
                detail="systemd passes credentials only when it starts the service",
                fix="after replacing a credential, run systemctl restart callcast",
            )

    def _refused(self, reason: str, faults: Sequence[str]) -> Sequence[str]:
        self._metrics.config_reloaded(False)
        self._log.error("reload_refused", reason=reason, detail="; ".join(faults))
        return faults

    async def _subscribe(self, wanted: Settings) -> None:
        """Subscribe these sinks to events. The only step of a reload that can fail, so it comes first."""
        await self._outbox.subscribe({name: sink.filter() for name, sink in wanted.sinks.items()})

    async def _apply(self, wanted: Settings) -> None:
        """Apply a configuration. Unchanged sources and sinks keep running."""
        self._settings = wanted
        service = wanted.service
        logs.configure(service.log_level, service.log_format)
        self._live_calls.statistics.configure(zone(service.timezone), service.sla_seconds)
        self._outbox.keep(
            retention_h=service.retention_h,
            outbox_max_mb=service.outbox_max_mb,
            dead_letter_days=service.dead_letter_days,
        )
        self._update_web(wanted)
        denied = self._to_restart(wanted)
        self._pollers.set_ownership(wanted.sources)
        await asyncio.gather(
            self._sinks.apply(
                {name: self._part(sink) for name, sink in wanted.sinks.items()}, patience_s=STOP_PATIENCE_S
            ),
            self._sources.apply(wanted.sources, patience_s=STOP_PATIENCE_S, restart=denied),
        )

    def _to_restart(self, wanted: Settings) -> frozenset[str]:
        """If any source changes: the sources that may now acquire an extension that another one owned."""
        if not self._sources.outdated(wanted.sources):
            return frozenset()
        listed = {name for name, source in wanted.sources.items() if source.watch == "extensions"}
        return self._pollers.ownership.denied() & listed

    def _part(self, sink: SinkSettings) -> SinkPart:
        return sink, self._hash_key if sink.numbers == "hash" else b""

    def _update_web(self, settings: Settings) -> None:
        serializer, service = self._serializer(settings), settings.service
        self.admin.change(
            token=service.http_token.reveal(), hosts=service.http_hosts, wire=serializer.wire, names=serializer.names
        )

    def _serializer(self, settings: Settings) -> CallSerializer:
        numbers = settings.service.numbers
        shown = "drop" if numbers == "hash" and not self._hash_key else numbers  # hashing needs the key
        return CallSerializer(Wire(shown, self._hash_key, "http"), settings.names)

    # One source or sink each; runs until cancelled.

    async def _run_source(self, name: str, settings: SourceSettings) -> None:
        """Run one source. At start the sources begin one after another within one interval."""
        names = list(self._settings.sources)
        stagger_s = min(plan(name, settings).cycle_s, 10.0) * names.index(name) / len(names)
        await self._pollers.run(name, settings, start_after_s=0.0 if self._started.is_set() else stagger_s)

    async def _run_sink(self, name: str, part: SinkPart) -> None:
        settings, hash_key = part
        context = SinkContext(
            name=name,
            installation=self._installation,
            version=__version__,
            live_calls=self._live_calls,
            wire=self._wire(name, settings.numbers, hash_key),
            clock=self._clock,
            log=self._log.bind(sink=name).warning,
        )
        self._metrics.watch_sink(name)
        async with settings.open(context) as sink:
            self._log.info("delivery_started", sink=name, **_log_facts(settings))
            self._delivery_workers[name] = self._delivery_worker(name, sink, settings)
            await self._delivery_workers[name].run()

    def _wire(self, sink: str, numbers: Numbers, hash_key: bytes) -> Wire:
        """One `Wire` for sinks with the same policy, so that each event is encoded once; hashes differ by sink."""
        if numbers == "hash":
            return Wire(numbers, hash_key, sink)
        return self._wires.setdefault(numbers, Wire(numbers))

    async def _end_sink(self, name: str) -> None:
        self._delivery_workers.pop(name, None)
        self._metrics.forget_sink(name)
        self._log.info("delivery_stopped", sink=name)

    def _delivery_worker(self, name: str, sink: Sink, settings: SinkSettings) -> DeliveryWorker:
        return DeliveryWorker(
            name,
            sink,
            self._outbox,
            self._clock,
            RetryPolicy(live_ttl_s=settings.live_ttl_s, give_up_after_h=settings.give_up_after_h),
            self._metrics,
            outbox_user=self._outbox_health.user(sink=name),
            concurrency=settings.concurrency,
            timeout_s=settings.timeout_s,
            random=self._random.random,
            log=self._log,
        )

    def _tokens_failed(self, detail: str) -> None:
        self._log.error("tokens_not_kept", reason="disk", detail=detail)

    # Background tasks.

    async def _housekeeping(self) -> None:
        """Update the outbox metrics and prune the outbox, every few seconds."""
        while True:
            with self._outbox_health.service.reporting():
                await self._outbox.check()
                stats = await self._outbox.stats()
                self._metrics.outbox_stats(stats)
                self._pending = sum(sink.pending for sink in stats.sinks)
                self._reminders.remind(self._failing(), stats)
                pruned = await self._outbox.prune(self._clock.now())
                self._dropped("outbox_max_mb", pruned.dropped)
                self._dropped("sink_removed", pruned.orphaned)
                self._log_outbox_warnings()
                self._outbox_health.service.works()
            await self._clock.sleep(HOUSEKEEPING_S)

    def _dropped(self, reason: str, counts: Mapping[str, int]) -> None:
        for sink, count in counts.items():
            self._metrics.events_dropped(sink, count)
            self._log.error("events_dropped", sink=sink, reason=reason, count=count)

    def _log_outbox_warnings(self) -> None:
        """Log each warning of the outbox once; /readyz shows it until the next start."""
        warnings = self._outbox.warnings()
        for warning in warnings:
            if warning not in self._warnings_logged:
                self._log.error("outbox_doubted", reason="outbox", detail=warning)
        self._warnings_logged = warnings

    async def _installation_id(self, notes: Mapping[str, bytes]) -> str:
        """The id of this installation, generated once. MQTT client ids contain it."""
        name = notes.get("installation") or secrets.token_hex(6).encode()
        await self._outbox.note(SERVICE, "installation", name)
        return name.decode()


def _warning(name: str, trouble: SinkTrouble) -> str:
    since = f"{trouble.since:%Y-%m-%d %H:%M:%S} UTC"
    return (
        f"sink {name} is failing since {since}, its events are kept: {trouble.reason}: {trouble.detail}: {trouble.fix}"
    )


def _needs_restart(running: Settings, wanted: Settings) -> list[str]:
    return [
        f"service.{key}: a change of {key} takes effect only with a restart; restart callcast or change it back"
        for key in ("data_dir", "http_listen")
        if getattr(running.service, key) != getattr(wanted.service, key)
    ]


def zone(name: str) -> ZoneInfo | None:
    """The timezone of a name; None for `local`, this machine's timezone."""
    return None if name == "local" else ZoneInfo(name)


def _log_facts(sink: SinkSettings) -> dict[str, object]:
    """What a sink does, for the log."""
    shown = {key: list(value) for key, value in structs.asdict(sink.filter()).items() if value}
    return {"type": sink.type, "numbers": sink.numbers, **shown}
