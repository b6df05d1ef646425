"""`callcast check --online`: check all sources and sinks concurrently, and print one line for each result."""

import asyncio
import os
import sys
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

import aiohttp
from msgspec import Struct

from callcast import __version__
from callcast.app import SystemClock
from callcast.exit_codes import ExitCode
from callcast.ports.connectivity import ConnectivityRequest, ConnectivityResult
from callcast.ringcentral.check import check_source
from callcast.ringcentral.settings import SourceSettings
from callcast.ringcentral.sign_in import FILE, SignIns
from callcast.sinks import SinkSettings

if TYPE_CHECKING:
    from callcast.config import Settings

TIMEOUT_S = 7.0  # with start-up and closing the connections, the command takes less than ten seconds


Report = Callable[[ConnectivityResult], None]
# The words that are printed for each outcome.
OUTCOMES = {"good": "ok", "warning": "warning", "failed": "failed", "unasked": "skipped"}


class Checked(Struct, frozen=True):
    """One result. `subject` is `source acme` or `sink crm`."""

    subject: str
    result: ConnectivityResult


def run(settings: "Settings", *, send: bool) -> int:
    """Print the results and return the exit code."""
    with asyncio.Runner() as runner:
        checks = runner.run(_run_checks(settings, send))
        results = [result for check in checks for result in check.results]
        failed = sum(one.result.status == "failed" for one in results)
        print(table(results))
        if failed:
            print(f"\n{failed} failed")
        code = ExitCode.UNAVAILABLE if failed else ExitCode.DONE
        if any(check.timed_out for check in checks):
            sys.stdout.flush()
            os._exit(code)  # a name look-up in a thread cannot be cancelled and would delay the exit
    return code


class _Check:
    """The check of one source or sink. Results that arrived before the timeout are kept."""

    def __init__(self, subject: str, check: Callable[[Report], Awaitable[None]]) -> None:
        self.results: list[Checked] = []
        self.timed_out = False
        self._subject = subject
        self._check = check

    async def run(self) -> None:
        try:
            async with asyncio.timeout(TIMEOUT_S):
                await self._check(self._add)
        except TimeoutError:
            self.timed_out = True
            problem = f"no answer within {TIMEOUT_S:g} s"
            fix = "check the address, and whether a firewall drops the packets"
            self._add(ConnectivityResult("failed", problem, fix))

    def _add(self, result: ConnectivityResult) -> None:
        self.results.append(Checked(self._subject, result))


async def _run_checks(settings: "Settings", send: bool) -> list[_Check]:
    clock = SystemClock()
    sign_ins = SignIns(clock, path=settings.service.data_dir / FILE, writes=False)
    await sign_ins.load()
    async with aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar()) as session, asyncio.TaskGroup() as tasks:
        checks = [_source_check(name, one, session, sign_ins, clock) for name, one in settings.sources.items()]
        checks += [_sink_check(name, one, clock, send) for name, one in settings.sinks.items()]
        for check in checks:
            tasks.create_task(check.run())
    return checks


def _source_check(
    name: str, settings: SourceSettings, session: aiohttp.ClientSession, sign_ins: SignIns, clock: SystemClock
) -> _Check:
    async def check(report: Report) -> None:
        await check_source(name, settings, report, session=session, sign_ins=sign_ins, clock=clock, version=__version__)

    return _Check(f"source {name}", check)


def _sink_check(name: str, settings: SinkSettings, clock: SystemClock, send: bool) -> _Check:
    request = ConnectivityRequest(name=name, version=__version__, clock=clock, send=send)

    async def check(report: Report) -> None:
        report(await settings.check_connectivity(request))

    return _Check(f"sink {name}", check)


def table(results: list[Checked]) -> str:
    """Return one line for each result, followed by its fix if it has one."""
    subjects = [f"{one.subject}: {one.result.about}".removesuffix(": ") for one in results]
    width = max(map(len, subjects), default=0)
    return "\n".join(_line(subject.ljust(width), one.result) for subject, one in zip(subjects, results, strict=True))


def _line(subject: str, result: ConnectivityResult) -> str:
    fix = f"\n    fix: {result.fix}" if result.fix else ""
    return f"{OUTCOMES[result.status]:<7}  {subject}  {result.detail}{fix}"
