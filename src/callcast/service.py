"""The running service: start and stop, the reload of the configuration, readiness, and housekeeping."""

import asyncio
import secrets
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

from callcast import __version__
from callcast.config import Settings
from callcast.config.diagnostics import ConfigError
from callcast.config.hash_key import hash_key
from callcast.delivery.reminders import Reminders
from callcast.delivery.worker import HOLD_NOTE
from callcast.delivery.workers import DeliveryWorkers, Subscriber
from callcast.formats.cloudevents import Wire
from callcast.live.live_calls import InMemoryLiveCalls
from callcast.live.stored_counts import restore, store_counts
from callcast.observability import logs
from callcast.observability.metrics import Metrics
from callcast.observability.outbox_health import OutboxHealth
from callcast.polling.sources import Sources
from callcast.ports.clock import Clock
from callcast.ports.outbox import SERVICE, Outbox, OutboxUnavailable
from callcast.provider import SourceSettings, plan
from callcast.settings.secret import Stamp, stamp_of
from callcast.supervisor import TaskSupervisor
from callcast.web.serializers import CallSerializer
from callcast.web.server import WebServer
from callcast.web.sse import Broadcaster

HOUSEKEEPING_S = 10.0
FILES_S = 10.0  # how often to check whether secret and certificate files have changed
# How long a reload waits for a stopped source or sink to finish: a remote side that hangs must not block it.
STOP_PATIENCE_S = 0.5

ReadConfig = Callable[[], Settings]


class Service:
    """Starts, reloads and stops sources and sinks. What it works with is built in `app`."""

    def __init__(
        self,
        settings: Settings,
        *,
        outbox: Outbox,
        outbox_health: OutboxHealth,
        live_calls: InMemoryLiveCalls,
        metrics: Metrics,
        sources: Sources,
        workers: DeliveryWorkers,
        clock: Clock,
        log: Any,
        read_config: ReadConfig,
    ) -> None:
        self._settings = settings
        self._outbox = outbox
        self._outbox_health = outbox_health
        self._live_calls = live_calls
        self._metrics = metrics
        self._sources = sources
        self._workers = workers
        self._clock = clock
        self._log = log
        self._read_config = read_config
        self._hash_key = b""
        self._warnings_logged: Sequence[str] = ()  # those of the outbox
        self._reminders = Reminders(clock, log)
        self._pending = 0  # the backlog of all sinks together
        self._reloading = asyncio.Lock()
        self._started = asyncio.Event()
        self._stopping = False
        self._background: list[asyncio.Task[None]] = []
        self._broadcaster = Broadcaster(
            live_calls, outbox, clock, self._serializer(settings), lambda: outbox_health.failure
        )
        sources.committed = self._broadcaster.wake
        self.web_server = WebServer(  # reports that the service is not ready until `start` has finished
            settings.service.listen[0],
            live_calls=live_calls,
            metrics=metrics,
            broadcaster=self._broadcaster,
            health=self,
            reload=self.reload,
            clock=clock,
            serializer=self._serializer(settings),
            version=__version__,
            token=settings.service.http_token.reveal(),
            hosts=settings.service.http_hosts,
        )
        self._tasks: asyncio.TaskGroup
        self._source_tasks: TaskSupervisor[SourceSettings]
        self._sink_tasks: TaskSupervisor[Subscriber]
        metrics.ready = lambda: not self.reasons()
        metrics.outbox_writable = lambda: self._started.is_set() and outbox_health.failure is None
        metrics.outbox_resets = lambda: outbox.resets
        metrics.clock_skews = sources.skews
        metrics.lines_dropped = logs.lines_dropped

    async def start(self, tasks: asyncio.TaskGroup) -> None:
        self._tasks = tasks
        self._source_tasks = TaskSupervisor(tasks, self._run_source, self._sources.end)
        self._sink_tasks = TaskSupervisor(tasks, self._workers.run, self._workers.end, cancel_twice=True)
        await self._sources.load()
        await self._outbox_health.service.until_available(lambda: self._restore(self._settings))
        await self._apply(self._settings)
        self._metrics.config_reloaded(True)
        counting = store_counts(self._live_calls, self._outbox, self._outbox_health.service, self._clock)
        for work in (self._broadcaster.run(), counting, self._housekeeping(), self._follow_files()):
            self._background.append(tasks.create_task(work))
        self._started.set()

    async def _restore(self, settings: Settings) -> None:
        """Restore the state of an earlier run. Raises OutboxUnavailable; may be repeated."""
        self._hash_key = await asyncio.to_thread(hash_key, settings)
        self._update_web(settings)  # with the hash key, before the first call is shown
        notes = (await self._outbox.known(SERVICE)).notes
        installation = notes.get("installation") or secrets.token_hex(6).encode()
        await self._outbox.note(SERVICE, "installation", installation)
        self._workers.installation = installation.decode()
        self._workers.holds = {one: notes[note] for one in settings.sinks if (note := f"{HOLD_NOTE}{one}") in notes}
        await restore(self._live_calls, self._outbox, notes, settings.sources)
        await self._subscribe(settings)
        for source in {*await self._outbox.sources()} - settings.sources.keys() - {SERVICE}:
            await self._sources.end(source)

    async def stop(self) -> None:
        """Stop polling, let deliveries in flight finish, then stop the rest. Waits for a reload in progress."""
        self._stopping = True
        async with self._reloading:
            await self._source_tasks.stop(patience_s=STOP_PATIENCE_S)
            await self._sources.close_all()
            await self._sink_tasks.stop(patience_s=self._settings.service.shutdown_s)
        for task in self._background:
            task.cancel()

    # For the systemd heartbeat.

    def stepped_at(self) -> float:
        return min((one.stepped_at for one in self._sources.telemetry.values()), default=self._clock.monotonic())

    def status(self) -> str:
        polls = sum(telemetry.polls for telemetry in self._sources.telemetry.values())
        sources, calls = len(self._settings.sources), len(self._live_calls.calls())
        facts = f"sources {sources}, polls {polls}, calls {calls}, backlog {self._pending}"
        return "; ".join([facts, *self.reasons(), *self.warnings()])

    # For the web server: readiness and reload.

    def reasons(self) -> Sequence[str]:
        if not self._started.is_set():
            return ["the service is starting"]
        sources = [why for telemetry in self._sources.telemetry.values() if (why := telemetry.unready())]
        failure = self._outbox_health.failure
        return [*sources, *([failure.detail] if failure else [])]

    def warnings(self) -> Sequence[str]:
        """Problems that need attention but do not make the service unready."""
        return [*self._outbox.warnings(), *self._sources.warnings(), *self._workers.warnings()]

    async def reload(self) -> Sequence[str]:
        """Read the configuration again and apply it. Returns its faults; if there are any, nothing has changed.

        Continues if the caller is cancelled. An unexpected exception ends the process.
        """
        await self._started.wait()
        if self._stopping:
            return ["the service is stopping"]
        return await asyncio.shield(self._tasks.create_task(self._reload(self._read_config)))

    async def _follow_files(self) -> None:
        """Take up secret and certificate files that have changed, but no change of the configuration's own file."""
        refused: dict[Path, Stamp] = {}  # reported already
        while True:
            await self._clock.sleep(FILES_S)
            read = self._settings.files
            now = await asyncio.to_thread(lambda files: {path: stamp_of(path) for path in files}, read)
            changed = sorted(str(path) for path in read if now[path] != read[path])
            if changed and now != refused:
                self._log.info("files_changed", files=changed)
                refused = now if await self._reload(self._settings.read_again) else {}

    async def _reload(self, read: Callable[[], Settings]) -> Sequence[str]:
        async with self._reloading:
            if self._stopping:
                return ["the service is stopping"]
            before = self._settings
            try:
                wanted = await asyncio.to_thread(read)
                if fixed := _needs_restart(before, wanted):
                    return self._refused("configuration", fixed)
                key = await asyncio.to_thread(hash_key, wanted, self._hash_key)
                await self._subscribe(wanted)  # the only step that can fail from here on, so it comes first
            except ConfigError as error:
                return self._refused("configuration", [str(finding) for finding in error.findings])
            except OutboxUnavailable as error:
                return self._refused("outbox", [str(error)])
            self._hash_key = key
            same = [name for name, secret in wanted.credentials.items() if before.credentials.get(name) == secret]
            if same and read is self._read_config:
                self._log.info(
                    "credentials_unchanged",
                    credentials=sorted(same),
                    detail="systemd passes credentials only when it starts the service",
                    fix="after replacing a credential, run systemctl restart callcast",
                )
            await self._apply(wanted)
            self._metrics.config_reloaded(True)
            self._log.info("configuration_reloaded")
            return []

    def _refused(self, reason: str, faults: Sequence[str]) -> Sequence[str]:
        self._metrics.config_reloaded(False)
        self._log.error("reload_refused", reason=reason, detail="; ".join(faults))
        return faults

    async def _subscribe(self, wanted: Settings) -> None:
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
        restart: frozenset[str] = frozenset()
        if self._source_tasks.outdated(wanted.sources):  # then others may acquire an extension that one owned
            listed = {name for name, source in wanted.sources.items() if source.watch == "extensions"}
            restart = self._sources.ownership.denied() & listed
        self._sources.set_ownership(wanted.sources)
        subscribers = {
            name: Subscriber(sink, self._hash_key if sink.numbers == "hash" else b"")
            for name, sink in wanted.sinks.items()
        }
        self._workers.configure(subscribers, wanted.names)
        await asyncio.gather(
            self._sink_tasks.apply(subscribers, patience_s=STOP_PATIENCE_S),
            self._source_tasks.apply(wanted.sources, patience_s=STOP_PATIENCE_S, restart=restart),
        )

    def _update_web(self, settings: Settings) -> None:
        service = settings.service
        self.web_server.change(
            token=service.http_token.reveal(), hosts=service.http_hosts, serializer=self._serializer(settings)
        )

    def _serializer(self, settings: Settings) -> CallSerializer:
        numbers = settings.service.numbers
        shown = "drop" if numbers == "hash" and not self._hash_key else numbers  # hashing needs the key
        return CallSerializer(Wire(shown, self._hash_key, "http"), settings.names)

    async def _run_source(self, name: str, settings: SourceSettings) -> None:
        """Run one source until cancelled. At start the sources begin one after another within one interval."""
        names = list(self._settings.sources)
        stagger_s = min(plan(name, settings).cycle_s, 10.0) * names.index(name) / len(names)
        await self._sources.run(name, settings, start_after_s=0.0 if self._started.is_set() else stagger_s)

    async def _housekeeping(self) -> None:
        """Update the outbox metrics and prune the outbox, every few seconds."""
        while True:
            with self._outbox_health.service.reporting():
                await self._outbox.check()
                stats = await self._outbox.stats()
                self._metrics.outbox_stats(stats)
                self._pending = sum(sink.pending for sink in stats.sinks)
                self._reminders.remind(self._workers.failing(), stats)
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


def _needs_restart(running: Settings, wanted: Settings) -> list[str]:
    return [
        f"service.{key}: a change of {key} takes effect only with a restart; restart callcast or change it back"
        for key in ("data_dir", "http_listen")
        if getattr(running.service, key) != getattr(wanted.service, key)
    ]


def zone(name: str) -> ZoneInfo | None:
    """The timezone of a name; None for `local`, this machine's timezone."""
    return None if name == "local" else ZoneInfo(name)
