"""The composition root: builds outbox, live calls, metrics, web server, sources and sinks, and closes them at the end.

Lifetimes are nested: what was opened last is closed first. The clock is made here and passed in.
"""

import asyncio
import errno
import os
import signal
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from typing import Any

import aiohttp

from callcast import __version__
from callcast.config import Settings
from callcast.delivery.workers import DeliveryWorkers
from callcast.exit_codes import ExitCode
from callcast.live.live_calls import InMemoryLiveCalls
from callcast.observability import fatal, logs
from callcast.observability import standard_streams as stdio
from callcast.observability.metrics import Metrics
from callcast.observability.outbox_health import OutboxHealth
from callcast.observability.systemd import SystemdNotifier
from callcast.outbox.opening import open_outbox
from callcast.polling.sources import Sources
from callcast.ports.outbox import OutboxRefused
from callcast.provider import Provider
from callcast.service import ReadConfig, Service, zone
from callcast.sinks.connectivity import Resolver

NAP_S = 5.0  # timers of the event loop stop during suspend, so a sleep may end this much late after it


def _elapsing() -> int:
    """The clock that includes suspended time, where the system has one."""
    try:
        time.clock_gettime(time.CLOCK_BOOTTIME)
    except (AttributeError, OSError):
        return time.CLOCK_MONOTONIC
    return time.CLOCK_BOOTTIME


class SystemClock:
    """The machine's clock. `now` is the wall clock at start plus the time since, so it never jumps."""

    def __init__(self) -> None:
        self._elapsing = _elapsing()
        self._start = datetime.now(UTC)
        self._started = self.monotonic()

    def now(self) -> datetime:
        return self._start + timedelta(seconds=self.monotonic() - self._started)

    def wall(self) -> datetime:
        return datetime.now(UTC)

    def monotonic(self) -> float:
        return time.clock_gettime(self._elapsing)

    async def sleep(self, seconds: float, /) -> None:
        until = self.monotonic() + seconds
        while seconds > NAP_S:
            await asyncio.sleep(NAP_S)
            seconds = until - self.monotonic()
        await asyncio.sleep(max(0.0, seconds))


async def run(
    settings: Settings,
    *,
    read_config: ReadConfig,
    stop: asyncio.Event | None = None,
    started: Callable[[str], None] | None = None,
) -> int:
    """Run the service until SIGTERM, SIGINT or `stop`. Returns the exit code.

    read_config: reads the configuration for a reload; raises ConfigError.
    started: called with the wallboard's URL once the service has started.
    """
    logs.configure(settings.service.log_level, settings.service.log_format)
    fatal.watch(asyncio.get_running_loop())
    with logs.stderr_redirected():
        return await _run(settings, read_config, Signals(stop or asyncio.Event()), started)


async def _run(
    settings: Settings, read_config: ReadConfig, signals: "Signals", started: Callable[[str], None] | None
) -> int:
    service, clock, log = settings.service, SystemClock(), logs.bound()
    _say_what_is_closed(log)
    async with AsyncExitStack() as stack:
        try:
            outbox = await stack.enter_async_context(
                open_outbox(
                    service.data_dir,
                    clock,
                    retention_h=service.retention_h,
                    outbox_max_mb=service.outbox_max_mb,
                    dead_letter_days=service.dead_letter_days,
                )
            )
        except OutboxRefused as error:
            return _cannot_start(log, "outbox", str(error))
        outbox_health = OutboxHealth(clock, log)
        live_calls = InMemoryLiveCalls(clock, zone(service.timezone), service.sla_seconds)
        metrics = Metrics(live_calls, clock, __version__)
        connector = aiohttp.TCPConnector(limit=0, resolver=Resolver())
        session = await stack.enter_async_context(
            aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar(), connector=connector)
        )
        provider = Provider(
            session,
            clock,
            data_dir=service.data_dir,
            failed=lambda detail: log.error("tokens_not_kept", reason="disk", detail=detail),
        )
        running = Service(
            settings,
            outbox=outbox,
            outbox_health=outbox_health,
            live_calls=live_calls,
            metrics=metrics,
            sources=Sources(outbox, live_calls, metrics, clock, log, outbox_health, provider),
            workers=DeliveryWorkers(outbox, outbox_health, live_calls, metrics, clock, log),
            clock=clock,
            log=log,
            read_config=read_config,
        )
        try:
            await stack.enter_async_context(running.web_server.listening(service.listen[1]))
        except OSError as error:
            return _cannot_start(log, "http", f"service.http_listen = {service.http_listen!r}: {_cause(error)}")
        tasks = await stack.enter_async_context(fatal.Tasks())
        if await _started(running, tasks, signals.stop):
            systemd = SystemdNotifier(os.environ, running, clock)
            beating = tasks.create_task(systemd.run())

            async def reload() -> None:
                with systemd.reloading():
                    await running.reload()

            signals.reload_by(lambda: tasks.create_task(reload()))
            log.info("service_started", version=__version__, url=running.web_server.url, data_dir=str(service.data_dir))
            if started is not None:
                started(running.web_server.url)
            await signals.stop.wait()
            beating.cancel()
            systemd.stopping()
        log.info("stop_requested")
        await running.stop()
    log.info("service_stopped")
    return ExitCode.DONE


def _say_what_is_closed(log: Any) -> None:
    for number in stdio.closed_at_start:
        log.warning(
            "standard_stream_closed",
            reason=stdio.NAMES[number],
            detail=f"{stdio.NAMES[number]} was closed at the start, and /dev/null stands in for it",
            fix="start callcast with all three standard streams open",
        )


async def _started(running: Service, tasks: asyncio.TaskGroup, stop: asyncio.Event) -> bool:
    """Start, which may have to wait for the disk. Returns false if `stop` was set before."""
    starting, stopped = tasks.create_task(running.start(tasks)), tasks.create_task(stop.wait())
    await asyncio.wait((starting, stopped), return_when=asyncio.FIRST_COMPLETED)
    if starting.done():
        stopped.cancel()
        starting.result()
        return True
    starting.cancel()
    await asyncio.wait((starting,))
    return False


def _cannot_start(log: Any, reason: str, why: str) -> int:
    log.error("start_refused", reason=reason, detail=f"cannot start: {why}")
    return ExitCode.UNAVAILABLE


def _cause(error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return "the address is in use by another program; stop it, or use another port"
    return (error.strerror or str(error)).lower()


class Signals:
    """Signal handlers. SIGTERM and SIGINT set `stop`; SIGHUP reloads, as soon as the service has started."""

    def __init__(self, stop: asyncio.Event) -> None:
        self.stop = stop
        self._wanted = False
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        loop.add_signal_handler(signal.SIGHUP, self._want)

    def reload_by(self, reload: Callable[[], object]) -> None:
        asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, reload)
        if self._wanted:
            reload()

    def _want(self) -> None:
        self._wanted = True
