"""`callcast check --online`: asks every remote side at once, and tells what came of it."""

import asyncio
import os
import sys
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

import aiohttp
from msgspec import Struct

from callcast import __version__
from callcast.app import SystemClock
from callcast.ports.connectivity import ConnectivityRequest, ConnectivityResult
from callcast.ringcentral.check import probe
from callcast.ringcentral.settings import SourceSettings
from callcast.ringcentral.sign_in import FILE, SignIns
from callcast.sinks import SinkSettings

if TYPE_CHECKING:
    from callcast.config import Settings

PATIENCE_S = 7.0  # with the start of the program and every goodbye, it takes less than ten seconds
EXIT_UNAVAILABLE = 69


class Asked(Struct, frozen=True):
    """One answer of one remote side: `source acme` or `sink crm`."""

    whom: str
    result: ConnectivityResult


def run(settings: "Settings", *, send: bool) -> int:
    """Print what came of it; the exit code."""
    with asyncio.Runner() as runner:
        questions = runner.run(_ask(settings, send))
        asked = [one for question in questions for one in question.asked]
        failed = sum(one.result.status == "failed" for one in asked)
        print(table(asked))
        if failed:
            print(f"\n{failed} failed")
        code = EXIT_UNAVAILABLE if failed else 0
        if any(question.overdue for question in questions):
            sys.stdout.flush()
            os._exit(code)  # a name that is looked up in a thread cannot be broken off, and would hold up the end
    return code


class _Question:
    """What one remote side is asked; it may answer in several parts, and those that came in time count."""

    def __init__(self, whom: str, ask: Callable[[Callable[[ConnectivityResult], None]], Awaitable[None]]) -> None:
        self.asked: list[Asked] = []
        self.overdue = False
        self._whom = whom
        self._ask = ask

    async def put(self) -> None:
        try:
            async with asyncio.timeout(PATIENCE_S):
                await self._ask(self._tell)
        except TimeoutError:
            self.overdue = True
            said = f"no answer within {PATIENCE_S:g} s"
            self._tell(
                ConnectivityResult("failed", said, "check its address, and whether a firewall swallows what is sent")
            )

    def _tell(self, result: ConnectivityResult) -> None:
        self.asked.append(Asked(self._whom, result))


async def _ask(settings: "Settings", send: bool) -> list[_Question]:
    clock = SystemClock()
    sign_ins = SignIns(clock, path=settings.service.data_dir / FILE, writes=False)
    await sign_ins.load()
    async with aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar()) as session, asyncio.TaskGroup() as tasks:
        questions = [_of_source(name, one, session, sign_ins, clock) for name, one in settings.sources.items()]
        questions += [_of_sink(name, one, clock, send) for name, one in settings.sinks.items()]
        for question in questions:
            tasks.create_task(question.put())
    return questions


def _of_source(
    name: str, settings: SourceSettings, session: aiohttp.ClientSession, sign_ins: SignIns, clock: SystemClock
) -> _Question:
    async def ask(tell: Callable[[ConnectivityResult], None]) -> None:
        await probe(name, settings, tell, session=session, sign_ins=sign_ins, clock=clock, version=__version__)

    return _Question(f"source {name}", ask)


def _of_sink(name: str, settings: SinkSettings, clock: SystemClock, send: bool) -> _Question:
    request = ConnectivityRequest(name=name, version=__version__, clock=clock, send=send)

    async def ask(tell: Callable[[ConnectivityResult], None]) -> None:
        tell(await settings.check_connectivity(request))

    return _Question(f"sink {name}", ask)


def table(asked: list[Asked]) -> str:
    """A line for each answer, a remedy below each that is not good."""
    subjects = [f"{one.whom}: {one.result.about}".removesuffix(": ") for one in asked]
    width = max(map(len, subjects), default=0)
    return "\n".join(_line(subject.ljust(width), one.result) for subject, one in zip(subjects, asked, strict=True))


def _line(subject: str, result: ConnectivityResult) -> str:
    word = "not asked" if result.status == "unasked" else result.status
    remedy = f"\n    fix: {result.remedy}" if result.remedy else ""
    return f"{word:<9}  {subject}  {result.said}{remedy}"
