"""The online check of one source for `callcast check --online`: token, clock, permission and rate limit.

It uses little of the rate limit, because a service may be running with the same credential: one request of each group,
and more only from what is left. It uses the service's token if there is one. Otherwise it signs in, and revokes the
token afterwards, because the platform ends a user's oldest session if there are more than five.
"""

import asyncio
import math
from collections.abc import Callable, Sequence

from aiohttp import ClientSession

from callcast.ports.clock import Clock
from callcast.ports.connectivity import ConnectivityResult, Status
from callcast.ports.telemetry import Telemetry
from callcast.ports.upstream import PollFailed
from callcast.ringcentral.api import Access, Reader
from callcast.ringcentral.check_hints import check_presence, check_push
from callcast.ringcentral.client import API, LIVE_LIST, PER_MINUTE
from callcast.ringcentral.platform_clock import SKEW_FIX, SKEW_MAX_S, SKEW_WARNED_S, skew_detail
from callcast.ringcentral.push_connection import Connector, push_session
from callcast.ringcentral.rate_limiter import RateLimiter, assumed, polls
from callcast.ringcentral.settings import CYCLE_MAX_S, SourceSettings, plan, plan_fix
from callcast.ringcentral.sign_in import OURS_PER_MINUTE, SignIns

ASK_TIMEOUT_S = 8.0
SIGN_IN_TIMEOUT_S = 5.0  # includes waiting for a slot
ASKED_MAX = 20
ONE_RECORD = {
    **LIVE_LIST,
    "perPage": "1",
}  # differs from a running service's request: the platform rejects two identical ones at once

Report = Callable[[ConnectivityResult], None]


async def check_source(
    name: str,
    settings: SourceSettings,
    report: Report,
    *,
    session: ClientSession,
    sign_ins: SignIns,
    clock: Clock,
) -> None:
    """Run the check and report each result as soon as it is known. Network and platform errors are results, too."""
    platform = _Platform(settings, session, sign_ins, clock)
    try:
        if await platform.sign_in(report):
            async with asyncio.TaskGroup() as tasks:
                hints = tasks.create_task(platform.hints(session))
                await _check_polls(name, platform, report)
            for result in hints.result():
                report(result)
    finally:
        await platform.leave()


async def _check_polls(name: str, platform: "_Platform", report: Report) -> None:
    try:
        await platform.poll(report)
    except PollFailed as failure:
        report(_failed("rate limit", failure))
    else:
        if platform.kept:
            report(platform.skew())  # without a sign-in, only now has an answer carried the platform's time
        report(platform.limit(name))


class _Platform:
    def __init__(self, settings: SourceSettings, session: ClientSession, sign_ins: SignIns, clock: Clock) -> None:
        self._settings = settings
        self._clock = clock
        self._access = access = Access(settings, session=session, sign_ins=sign_ins, clock=clock, telemetry=Telemetry())
        self._exchange, self._tokens, self._platform_clock = access.exchange, access.tokens, access.clock
        self._now = now = self._platform_clock.now
        self._heavy = RateLimiter("heavy", per_minute=settings.heavy_per_minute, clock=clock, now=now)
        self.kept = self._tokens.signed_in
        self._reader = Reader(self._exchange, self._tokens, self._heavy)

    async def sign_in(self, report: Report) -> bool:
        """Get a token and report it. Returns whether there is one."""
        try:
            async with asyncio.timeout(SIGN_IN_TIMEOUT_S):
                await self._tokens.current()
        except PollFailed as failure:
            report(_failed("token", failure))
            return False
        except TimeoutError:
            if (ahead := self._tokens.ahead()) is None:
                raise
            detail = (
                f"waiting to sign in, {ahead} ahead: {OURS_PER_MINUTE} sign-ins per minute for all sources of an app"
            )
            report(ConnectivityResult("unasked", detail, "run the check again in a minute", about="token"))
            return False
        if self.kept:
            report(ConnectivityResult("good", f"the service's token, extension {self._tokens.owner_id}", about="token"))
        else:
            report(ConnectivityResult("good", f"issued to extension {self._tokens.owner_id}", about="token"))
            report(self.skew())
        return True

    async def hints(self, session: ClientSession) -> Sequence[ConnectivityResult]:
        """Check the ways of hints, all at once."""
        settings, own_id = self._settings, self._tokens.owner_id or ""
        limiters = {
            group: RateLimiter(group, per_minute=per_minute, clock=self._clock, now=self._now)
            for group, per_minute in PER_MINUTE.items()
        }
        checks = []
        async with push_session(session) as sockets:
            connector = Connector(
                self._exchange,
                self._tokens,
                limiters["medium"],
                sockets,
                self._clock,
                account=settings.account,
                allow_plaintext=settings.allow_plaintext,
            )
            if "push" in settings.ways:
                checks.append(check_push(connector, settings, own_id))
            if "presence" in settings.ways:
                reader = Reader(self._exchange, self._tokens, limiters["light"])
                checks.append(check_presence(reader, self._exchange.url, settings, own_id))
            return [result for results in await asyncio.gather(*checks) for result in results]

    async def leave(self) -> None:
        await self._access.leave(keep=self.kept)

    def skew(self) -> ConnectivityResult:
        if not self._platform_clock.dated:
            return ConnectivityResult("unasked", "the platform sent no time", about="clock")
        skew_s = self._platform_clock.skew_s
        if abs(skew_s) <= SKEW_WARNED_S:
            return ConnectivityResult("good", "in sync with the platform", about="clock")
        verdict: Status = "failed" if abs(skew_s) > SKEW_MAX_S else "warning"
        return ConnectivityResult(verdict, skew_detail(skew_s), SKEW_FIX, "clock")

    async def poll(self, report: Report) -> None:
        """Poll as many targets as the rate limit allows. Raises PollFailed if it allows none."""
        targets = self._targets()
        refused, asked = 0, 0
        for target in targets[:ASKED_MAX]:
            if asked and not self._has_room(asked):
                break
            asked += 1
            try:
                await self._ask(target)
            except PollFailed as failure:
                if failure.reason == "rate_limited":
                    raise
                refused += 1
                report(_failed("permission", failure, whose=_named(target)))
                if failure.reason != "permission":
                    break  # a problem of the platform, which the next request would meet too
        if not refused:
            report(ConnectivityResult("good", self._granted(targets[:asked], len(targets)), about="permission"))

    def _targets(self) -> Sequence[str | None]:
        """Return the targets, other extensions first: they need more permission than the credential's own."""
        if self._settings.watch == "account":
            return [None]
        own = ("~", self._tokens.owner_id)
        return sorted(self._settings.extensions, key=lambda extension: extension in own)

    async def _ask(self, target: str | None) -> None:
        path = f"{API}/account/{self._settings.account}"
        path += "" if target is None else f"/extension/{target}"
        url = self._exchange.url(f"{path}/active-calls", ONE_RECORD)
        await self._reader.get("active_calls", url, purpose="page", timeout_s=ASK_TIMEOUT_S)

    def _has_room(self, asked: int) -> bool:
        """Whether another request leaves half of the limit free for a running service.

        If the platform has not announced its limit, only the share that polling leaves free is used.
        """
        if self._heavy.announced:
            return self._heavy.remaining > self._heavy.limit / 2
        limit, _ = assumed(self._settings.heavy_per_minute)
        return asked < math.floor(limit - polls(limit, self._settings.headroom) + 1e-9)

    @staticmethod
    def _granted(asked: Sequence[str | None], count: int) -> str:
        if len(asked) == 1:
            return f"the active calls of {_named(asked[0])} can be read" + _of(1, count)
        return f"the active calls of {len(asked)} extensions can be read" + _of(len(asked), count)

    def limit(self, name: str) -> ConnectivityResult:
        """Compare the announced limit with the configured one, and report its effect on the polling plan."""
        if not self._heavy.announced:
            detail = f"not announced by the platform; heavy_per_minute = {self._settings.heavy_per_minute:g} applies"
            return ConnectivityResult("good", detail, about="rate limit")
        real = self._settings.model_copy(update={"heavy_per_minute": self._heavy.per_minute})
        planned, now = plan(name, self._settings), plan(name, real)
        allows = f"the platform allows {now.polls_per_minute:g} requests per minute"
        if now.cycle_s <= planned.cycle_s * 1.01:
            left = f"{self._heavy.remaining} left in this minute"
            return ConnectivityResult(
                "good", f"{allows}, {left}: each target every {now.cycle_s:.3g} s", about="rate limit"
            )
        detail = f"{allows}, not {planned.polls_per_minute:g}: each target is polled every {now.cycle_s:.3g} s"
        if now.blind and not self._settings.accept_blind_spots:
            detail += f"; above {CYCLE_MAX_S} s calls can be missed"
            return ConnectivityResult("failed", detail, plan_fix(real)[1], "rate limit")
        fix = f"set heavy_per_minute = {now.polls_per_minute:g}, so that the polling plan is correct"
        return ConnectivityResult("warning", f"{detail}, not every {planned.cycle_s:.3g} s", fix, "rate limit")


def _failed(about: str, failure: PollFailed, *, whose: str = "") -> ConnectivityResult:
    detail = f"{whose}: {failure.cause}" if whose else failure.cause
    return ConnectivityResult("failed", detail, failure.fix, about)


def _named(target: str | None) -> str:
    return "the account" if target is None else "the credential's extension" if target == "~" else f"extension {target}"


def _of(asked: int, count: int) -> str:
    return f" ({count - asked} more not checked, to save the rate limit)" if asked < count else ""
