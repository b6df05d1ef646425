"""The RingCentral implementation of the upstream port: one credential with its token, rate limit, lists and clock."""

from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import UTC, datetime

import msgspec
from aiohttp import ClientSession
from msgspec import Struct
from yarl import URL

from callcast.calls.model import UNASSIGNED, Call, CallObservation, Snapshot, Target
from callcast.ports.clock import Clock
from callcast.ports.hints import Hints, Via
from callcast.ports.telemetry import Telemetry
from callcast.ports.upstream import Identity, Places, PollFailed
from callcast.ringcentral.api import Access, Reader, listed
from callcast.ringcentral.call_log import CallLog
from callcast.ringcentral.hints import PlatformHints
from callcast.ringcentral.http import RESPONSE_BYTES_MAX, Answer
from callcast.ringcentral.interpret import ListPage, Rows, snapshot
from callcast.ringcentral.platform_clock import SKEW_FIX, SKEW_MAX_S, skew_detail
from callcast.ringcentral.presence import PresenceReader
from callcast.ringcentral.push import Push
from callcast.ringcentral.push_connection import Connector, push_session
from callcast.ringcentral.rate_limiter import Group, RateLimiter
from callcast.ringcentral.settings import LIGHT_PER_MINUTE, PRESENCE_SHARE, SourceSettings
from callcast.ringcentral.sign_in import SignIns, digest_of

API = "/restapi/v1.0"
LIVE_LIST = {"view": "Detailed", "type": "Voice", "perPage": "1000"}
POLL_TIMEOUT_S = 10.0
PAGES_MAX = 20
PER_MINUTE: Mapping[Group, float] = {"light": LIGHT_PER_MINUTE, "medium": 40}  # documented
OWN_NOTE = "own_extension"
EPOCH = datetime.fromtimestamp(0, UTC)


class _Own(Struct, frozen=True):
    """The credential's own extension. `credential` is a digest that shows whether the credential has changed."""

    credential: str
    extension_id: str


class _LastPoll(Struct, frozen=True):
    """What the next poll of a target uses: the number of its pages, and their rows by their bytes.

    Comparing a page's rows with those of the last poll costs less than a digest of the page.
    """

    pages: int = 0
    rows: Rows = {}


class Client:
    """Implements `ports.upstream.Upstream` for one source.

    session: should not keep cookies (`DummyCookieJar`), so that sources share only connections.
    sign_ins: shared by all sources of a process.
    note: called with a name and a few hundred bytes when state changed that must survive a restart: at most
        once a second, and at once in a penalty.
    notes: the last values that `note` was called with in an earlier run, by name.
    limiters: one for each group of requests, for the push connection and presence.
    Raises ValueError for a server that is neither https nor on this machine.
    """

    def __init__(
        self,
        settings: SourceSettings,
        *,
        session: ClientSession,
        sign_ins: SignIns,
        clock: Clock,
        telemetry: Telemetry,
        note: Callable[[str, bytes], None],
        notes: Mapping[str, bytes],
    ) -> None:
        self._settings = settings
        self._session = session
        self._push_session: ClientSession | None = None
        self._clock = clock
        self._telemetry = telemetry
        self._note = note
        self._credential = digest_of(settings.server, settings.client_id, settings.jwt.reveal())
        self._own = _kept_own(notes.get(OWN_NOTE), self._credential)
        access = Access(settings, session=session, sign_ins=sign_ins, clock=clock, telemetry=telemetry, show=self._show)
        self._exchange, self._tokens, self._platform_clock = access.exchange, access.tokens, access.clock
        self.limiters: dict[str, RateLimiter] = {}
        per_minute: Mapping[Group, float] = {"heavy": settings.heavy_per_minute, **PER_MINUTE}
        for group in per_minute:
            self.limiters[group] = RateLimiter(
                group,
                per_minute=per_minute[group],
                headroom=settings.headroom if group == "heavy" else PRESENCE_SHARE,
                clock=clock,
                now=self.now,
                groups=self.limiters,
                kept=notes.get(f"budget.{group}"),
                keep=self._keep_limiter,
                show=self._show,
            )
        self._heavy = self.limiters["heavy"]
        self._reader = Reader(access.exchange, access.tokens, self._heavy)
        self._call_log = CallLog(self._reader, access.exchange.url, telemetry)
        self._lists: dict[Target, URL] = {}
        self._last: dict[Target, _LastPoll] = {}
        self._pages = 0  # in `_last`, all targets together

    def now(self) -> datetime:
        return self._platform_clock.now()

    def skew_s(self) -> float:
        """Return how far this machine's clock is ahead of the platform's, in seconds."""
        return self._platform_clock.skew_s

    def clock_trouble(self) -> str | None:
        """Return a sentence if this machine's clock is far from the platform's."""
        skew_s = self.skew_s()
        return f"{skew_detail(skew_s)}: {SKEW_FIX}" if abs(skew_s) > SKEW_MAX_S else None

    def spacing_s(self) -> float:
        """Return the seconds between two polls, taking into account that each page of a poll is a request."""
        return self._heavy.spacing_s() * (self._pages / len(self._last) if self._last else 1.0)

    def places(self) -> Places:
        return msgspec.structs.replace(self._heavy.places(), spacing_s=self.spacing_s())

    def hold_s(self) -> float:
        return self._heavy.hold_s()

    async def identify(self) -> Identity:
        """Return the credential's own extension, stored by an earlier run or from the token endpoint."""
        if self._own is None:
            await self._tokens.current()
            if self._tokens.owner_id is None:
                raise PollFailed("parse", "the token endpoint's answer has no owner_id")
            self._own = _Own(self._credential, self._tokens.owner_id)
            self._note(OWN_NOTE, msgspec.json.encode(self._own))
        return Identity(extension_id=self._own.extension_id)

    def watch(self, targets: Collection[Target], /) -> None:
        for target in self._lists.keys() - set(targets):
            self._forget(target)

    def _forget(self, target: Target) -> None:
        """Forget a target, so that its pages no longer count in `spacing_s`."""
        self._lists.pop(target, None)
        self._pages -= self._last.pop(target, _LastPoll()).pages

    async def poll(self, target: Target, /, *, paced: bool = True) -> Snapshot:
        """Read all pages of a target. Raises PollFailed. An unchanged record is not decoded again."""
        last = self._last.get(target, _LastPoll())
        size, arrived_at = 0, EPOCH

        async def decode(answer: Answer) -> ListPage:
            nonlocal size, arrived_at
            arrived_at = self.now()
            size += len(answer.body)
            if size > RESPONSE_BYTES_MAX:
                raise PollFailed("parse", "the pages together are too large", request_id=answer.request_id)
            return await listed(answer, target, self._telemetry, last.rows)

        if target not in self._lists:
            self._lists[target] = self._exchange.url(f"{self._root(target.extension_id)}/active-calls", LIVE_LIST)
        try:
            pages = await self._reader.pages(
                "active_calls",
                self._lists[target],
                decode,
                purpose="poll" if paced else "hint",
                timeout_s=POLL_TIMEOUT_S,
                page_timeout_s=POLL_TIMEOUT_S,
                pages_max=PAGES_MAX,
            )
        except PollFailed as failure:
            if failure.reason == "permission":
                self._forget(target)
            raise
        self._pages += len(pages) - self._last.get(target, _LastPoll()).pages
        self._last[target] = _LastPoll(len(pages), {row.raw: row for page in pages for row in page.rows})
        return snapshot(target, pages, arrived_at)

    async def find(self, call: Call, /) -> Sequence[CallObservation]:
        by_extension = self._settings.watch == "extensions" and call.extension_id != UNASSIGNED
        extension_id = call.extension_id if by_extension else None
        target = Target(source=call.source, extension_id=extension_id)
        return await self._call_log.find(call, target, self._root(extension_id))

    async def ended_since(self, target: Target, /, *, after: datetime) -> Sequence[CallObservation]:
        root = self._root(target.extension_id)
        return await self._call_log.ended_since(target, root, after=after, until=self.now())

    def hints(self, source: str, ways: Collection[Via], random: Callable[[], float]) -> Hints:
        """Return the hints of this source by these ways. random: returns a number from 0 to 1."""
        if self._push_session is None:
            self._push_session = push_session(self._session)
        connector = Connector(
            self._exchange,
            self._tokens,
            self.limiters["medium"],
            self._push_session,
            self._clock,
            account=self._settings.account,
            allow_plaintext=self._settings.allow_plaintext,
        )
        light = self.limiters["light"]
        reader = Reader(self._exchange, self._tokens, light)
        return PlatformHints(
            Push(source, connector, self._clock, self._telemetry, random) if "push" in ways else None,
            PresenceReader(
                reader, light, self._exchange.url, self._clock, self._telemetry, account=self._settings.account
            )
            if "presence" in ways
            else None,
        )

    def sign_ins_ahead(self) -> int | None:
        """Return how many sign-ins are ahead of this source; None if it is not waiting."""
        return self._tokens.ahead()

    def waits_to_sign_in_until(self) -> float | None:
        return self._tokens.waits_until()

    def renewal_trouble(self) -> tuple[PollFailed, float] | None:
        """Return why the token could not be renewed, and for how many seconds it remains valid."""
        return self._tokens.failing()

    async def close(self) -> None:
        """Store the rate limit windows, and revoke the token if `revoke_on_exit` is set."""
        for limiter in self.limiters.values():
            if limiter is self._heavy or limiter.announced:
                self._keep_limiter(limiter)
        if self._push_session is not None:
            await self._push_session.close()
        await self._tokens.close()
        if self._settings.revoke_on_exit:
            await self._tokens.revoke()

    def _root(self, extension_id: str | None) -> str:
        account = f"{API}/account/{self._settings.account}"
        return account if extension_id is None else f"{account}/extension/{extension_id}"

    def _keep_limiter(self, limiter: RateLimiter) -> None:
        self._note(f"budget.{limiter.group}", limiter.dump())

    def _show(self, limiter: RateLimiter) -> None:
        self._telemetry.rate_limit(limiter.group, limiter.limit, limiter.remaining, limiter.hold_s())


def _kept_own(kept: bytes | None, credential: str) -> _Own | None:
    try:
        own = msgspec.json.decode(kept or b"", type=_Own)
    except msgspec.MsgspecError:
        return None  # missing or from another version; the token endpoint will provide it again
    return own if own.credential == credential else None
