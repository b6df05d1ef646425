"""`callcast check --online`: check all sources and sinks concurrently, and print one line for each result."""

import asyncio
import os
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial

from callcast import __version__
from callcast.app import SystemClock
from callcast.cli.platform import platform_access
from callcast.config import Settings
from callcast.exit_codes import ExitCode
from callcast.ports.connectivity import ConnectivityRequest, ConnectivityResult
from callcast.sinks import SinkSettings

TIMEOUT_S = 7.0  # with start-up and closing the connections, the command takes less than ten seconds
# The words that are printed for each outcome.
OUTCOMES = {"good": "ok", "warning": "warning", "failed": "failed", "unasked": "skipped"}

Report = Callable[[ConnectivityResult], None]


def check_online(settings: Settings, *, send: bool) -> ExitCode:
    """Print the results and return the exit code."""
    results: dict[str, list[ConnectivityResult]] = {}
    with asyncio.Runner() as runner:
        timed_out = runner.run(_run_checks(settings, send, results))
        failed = sum(one.status == "failed" for found in results.values() for one in found)
        print(_report(results))
        if failed:
            print(f"\n{failed} failed")
        code = ExitCode.UNAVAILABLE if failed else ExitCode.DONE
        if timed_out:
            sys.stdout.flush()
            os._exit(code)  # a name look-up in a thread cannot be cancelled and would delay the exit
    return code


async def _run_checks(settings: Settings, send: bool, results: dict[str, list[ConnectivityResult]]) -> bool:
    """Fill in the results of each source and sink. Returns whether one of them did not answer in time."""
    async with platform_access(settings.service.data_dir) as provider, asyncio.TaskGroup() as tasks:

        def start(subject: str, check: Callable[[Report], Awaitable[None]]) -> asyncio.Task[bool]:
            results[subject] = []
            return tasks.create_task(_check(check, results[subject].append))

        started = [
            start(f"source {name}", partial(provider.check, name, source)) for name, source in settings.sources.items()
        ]
        started += [
            start(f"sink {name}", partial(_check_sink, sink, _request(name, send)))
            for name, sink in settings.sinks.items()
        ]
    return any(task.result() for task in started)


async def _check(check: Callable[[Report], Awaitable[None]], report: Report) -> bool:
    """Run one check. Results that arrived before the timeout are kept."""
    try:
        async with asyncio.timeout(TIMEOUT_S):
            await check(report)
    except TimeoutError:
        fix = "check the address, and whether a firewall drops the packets"
        report(ConnectivityResult("failed", f"no answer within {TIMEOUT_S:g} s", fix))
        return True
    return False


def _request(name: str, send: bool) -> ConnectivityRequest:
    return ConnectivityRequest(name=name, version=__version__, clock=SystemClock(), send=send)


async def _check_sink(sink: SinkSettings, request: ConnectivityRequest, report: Report) -> None:
    report(await sink.check_connectivity(request))


def _report(results: Mapping[str, Sequence[ConnectivityResult]]) -> str:
    """Return one line for each result, followed by its fix if it has one."""
    rows = [(f"{subject}: {one.about}".removesuffix(": "), one) for subject, found in results.items() for one in found]
    width = max((len(subject) for subject, _ in rows), default=0)
    return "\n".join(
        f"{OUTCOMES[one.status]:<7}  {subject.ljust(width)}  {one.detail}"
        + (f"\n    fix: {one.fix}" if one.fix else "")
        for subject, one in rows
    )
