"""What `callcast check --online` asks the platform for one source: token, clock, permission, rate limit.

It takes few places of the rate limit, since a service may be running on the same credential: one request, and more
only out of what is left. It signs in only where the service keeps no token; such a token goes back, since the platform
ends a user's oldest session when there are more than five.
"""

import asyncio
import math
from collections.abc import Callable, Sequence
from contextlib import suppress

from aiohttp import ClientSession

from callcast.ports.clock import Clock
from callcast.ports.connectivity import ConnectivityResult, Status
from callcast.ports.upstream import PollFailed
from callcast.ringcentral import skew
from callcast.ringcentral.api import Reader
from callcast.ringcentral.client import API, LIVE_LIST
from callcast.ringcentral.http import Exchange
from callcast.ringcentral.platform_clock import PlatformClock
from callcast.ringcentral.rate_limiter import RateLimiter
from callcast.ringcentral.rate_window import assumed, polls
from callcast.ringcentral.settings import CYCLE_MAX_S, SourceSettings, plan, remedy
from callcast.ringcentral.sign_in import OURS_PER_MINUTE, SignIns
from callcast.ringcentral.telemetry import Resource
from callcast.ringcentral.token import Tokens

ASK_TIMEOUT_S = 8.0
SIGN_IN_TIMEOUT_S = 5.0  # with the wait for its place
REVOKE_TIMEOUT_S = 1.0
ASKED_MAX = 20
ONE_RECORD = {**LIVE_LIST, "perPage": "1"}  # not the very request of a running service, which would be refused

Tell = Callable[[ConnectivityResult], None]


async def check_source(
    name: str,
    settings: SourceSettings,
    tell: Tell,
    *,
    session: ClientSession,
    sign_ins: SignIns,
    clock: Clock,
    version: str,
) -> None:
    """Ask, and tell each answer as soon as it is there. Never raises for trouble outside this program."""
    platform = _Platform(settings, session, sign_ins, clock, version)
    try:
        if not await platform.sign_in(tell):
            return
        await platform.poll(tell)
    except PollFailed as failure:
        tell(_failed("rate limit", failure))
    else:
        if platform.kept:
            tell(platform.skew())  # no answer said before what time it is
        tell(platform.limit(name))
    finally:
        await platform.leave()


class _Clock(PlatformClock):
    dated = False

    def heard(self, date: str | None, *, asked_at: float, answered_at: float) -> None:
        self.dated = self.dated or date is not None
        super().heard(date, asked_at=asked_at, answered_at=answered_at)


class Unheard:
    """Counts and logs nothing: a command is not the service."""

    def answered(self, resource: Resource, outcome: str, took_s: float, request_id: str | None, /) -> None: ...
    def rate_limit(self, group: str, limit: int, remaining: int, silent_s: float, /) -> None: ...
    def unknown_word(self, field: str, word: str, /) -> None: ...
    def bad_record(self, field: str, record: str, /) -> None: ...


class _Platform:
    def __init__(
        self, settings: SourceSettings, session: ClientSession, sign_ins: SignIns, clock: Clock, version: str
    ) -> None:
        self._settings = settings
        self._clock = clock
        self._platform_clock = _Clock(clock)
        self._exchange = Exchange(
            settings.server,
            session=session,
            clock=clock,
            platform_clock=self._platform_clock,
            version=version,
            observer=Unheard(),
            allow_plaintext=settings.allow_plaintext,
            trust_env=settings.trust_env,
        )
        now = self._platform_clock.now
        self._heavy = RateLimiter("heavy", per_minute=settings.heavy_per_minute, clock=clock, now=now)
        self._tokens = Tokens(
            self._exchange,
            sign_ins,
            server=settings.server,
            client_id=settings.client_id,
            client_secret=settings.client_secret,
            jwt=settings.jwt,
            clock=clock,
            now=now,
        )
        self.kept = self._tokens.signed_in
        self._reader = Reader(self._exchange, self._tokens, self._heavy)

    async def sign_in(self, tell: Tell) -> bool:
        """Whether there is a token now."""
        try:
            async with asyncio.timeout(SIGN_IN_TIMEOUT_S):
                await self._tokens.current()
        except PollFailed as failure:
            tell(_failed("token", failure))
            return False
        except TimeoutError:
            if (ahead := self._tokens.ahead()) is None:
                raise
            said = f"waiting to sign in, {ahead} ahead: {OURS_PER_MINUTE} sign-ins a minute for all sources of an app"
            tell(ConnectivityResult("unasked", said, "run it again in a minute", about="token"))
            return False
        if self.kept:
            tell(
                ConnectivityResult("good", f"of extension {self._tokens.owner_id}, kept by the service", about="token")
            )
        else:
            tell(ConnectivityResult("good", f"given to extension {self._tokens.owner_id}", about="token"))
            tell(self.skew())
        return True

    async def leave(self) -> None:
        """Give the token back, unless it is the service's, or that would have to wait: then it ends by itself."""
        await self._tokens.close()
        if not self.kept and self._tokens.may_ask:
            with suppress(TimeoutError):
                async with asyncio.timeout(REVOKE_TIMEOUT_S):
                    await self._tokens.revoke()

    def skew(self) -> ConnectivityResult:
        if not self._platform_clock.dated:
            return ConnectivityResult("unasked", "the platform does not say what time it is", about="clock")
        skew_s = self._platform_clock.skew_s
        if abs(skew_s) <= skew.WARNED_S:
            return ConnectivityResult("good", "this machine agrees with the platform", about="clock")
        verdict: Status = "failed" if abs(skew_s) > skew.MAX_S else "warning"
        return ConnectivityResult(verdict, skew.said(skew_s), skew.FIX, "clock")

    async def poll(self, tell: Tell) -> None:
        """Look at the targets as far as the rate limit has room. Raises PollFailed when it has none at all."""
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
                tell(_failed("permission", failure, whose=_named(target)))
                if failure.reason != "permission":
                    break  # trouble of the platform, which the next request would only meet again
        if not refused:
            tell(ConnectivityResult("good", self._granted(targets[:asked], len(targets)), about="permission"))

    def _targets(self) -> Sequence[str | None]:
        """Others' extensions first: they want more permission than the own one."""
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
        """Half of the limit stays free for a service that may be running; untold, what polling leaves must do."""
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
        """The announced limit, and what it makes of the polling plan."""
        if not self._heavy.announced:
            said = f"the platform announces none; heavy_per_minute = {self._settings.heavy_per_minute:g} counts"
            return ConnectivityResult("good", said, about="rate limit")
        real = self._settings.model_copy(update={"heavy_per_minute": self._heavy.per_minute})
        planned, now = plan(name, self._settings), plan(name, real)
        allows = f"the platform allows {now.polls_per_minute:g} requests a minute"
        if now.cycle_s <= planned.cycle_s * 1.01:
            left = f"{self._heavy.remaining} are left in this minute"
            return ConnectivityResult(
                "good", f"{allows}, {left}: each target every {now.cycle_s:.3g} s", about="rate limit"
            )
        said = f"{allows}, not {planned.polls_per_minute:g}: each target is looked at every {now.cycle_s:.3g} s"
        if now.blind and not self._settings.accept_blind_spots:
            said += f"; above {CYCLE_MAX_S} s calls can be missed"
            return ConnectivityResult("failed", said, remedy(real)[1], "rate limit")
        fix = f"set heavy_per_minute = {now.polls_per_minute:g}, so that the plan says what will be"
        return ConnectivityResult("warning", f"{said}, not every {planned.cycle_s:.3g} s", fix, "rate limit")


def _failed(about: str, failure: PollFailed, *, whose: str = "") -> ConnectivityResult:
    said = f"{whose}: {failure.said}" if whose else failure.said
    return ConnectivityResult("failed", said, failure.remedy, about)


def _named(target: str | None) -> str:
    return "the account" if target is None else "the own extension" if target == "~" else f"extension {target}"


def _of(asked: int, count: int) -> str:
    return f" ({count - asked} more were not asked for, to spare the rate limit)" if asked < count else ""
