"""Reads the platform's lists with a token and within the rate limit: all pages, or PollFailed."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from typing import Protocol, TypeVar
from urllib.parse import parse_qsl, urlsplit

from aiohttp import ClientSession
from yarl import URL

from callcast.calls.model import Target
from callcast.ports.clock import Clock
from callcast.ports.telemetry import Telemetry
from callcast.ports.upstream import PollFailed
from callcast.ringcentral.errors import poll_failure
from callcast.ringcentral.http import Answer, Exchange, Resource
from callcast.ringcentral.interpret import BadPage, ListPage, Rows, read_page
from callcast.ringcentral.platform_clock import PlatformClock
from callcast.ringcentral.rate_limiter import Purpose, RateLimiter
from callcast.ringcentral.settings import SourceSettings
from callcast.ringcentral.sign_in import SignIns
from callcast.ringcentral.token import Tokens
from callcast.settings.secret import Secret


class _Page(Protocol):
    @property
    def next_page(self) -> str | None: ...


P = TypeVar("P", bound=_Page)

# Larger pages are decoded in a thread. Decoding half a mebibyte takes about 4 ms; the loop must not block for 20 ms.
DECODED_ON_LOOP_MAX = 512 * 1024
PERMISSIONS: Mapping[Resource, str] = {"extensions": "ReadAccounts", "presence": "ReadPresence"}
REVOKE_TIMEOUT_S = 1.0
WRONG_TYPE = "(of a wrong type)"


class Access:
    """A credential's connection, clock and tokens. show: called when the platform announced a limit of sign-ins."""

    def __init__(
        self,
        settings: SourceSettings,
        *,
        session: ClientSession,
        sign_ins: SignIns,
        clock: Clock,
        telemetry: Telemetry,
        show: Callable[[RateLimiter], None] = lambda _: None,
    ) -> None:
        self.clock = platform_clock = PlatformClock(clock)
        self.exchange = Exchange(
            settings, session=session, clock=clock, platform_clock=platform_clock, telemetry=telemetry
        )
        self.tokens = Tokens(self.exchange, sign_ins, settings, clock=clock, now=platform_clock.now, show=show)

    async def leave(self, *, keep: bool) -> None:
        """End a command's use. The token is revoked, unless it is the service's (`keep`) or revoking would have to
        wait; it then expires on its own.
        """
        await self.tokens.close()
        if not keep and self.tokens.may_ask:
            with suppress(TimeoutError):
                async with asyncio.timeout(REVOKE_TIMEOUT_S):
                    await self.tokens.revoke()


class Reader:
    """Sends API requests with a token, within the rate limit."""

    def __init__(self, exchange: Exchange, tokens: Tokens, limiter: RateLimiter) -> None:
        self._exchange = exchange
        self._tokens = tokens
        self._limiter = limiter

    async def get(
        self,
        resource: Resource,
        url: URL,
        *,
        purpose: Purpose,
        timeout_s: float,
        accept: str | None = None,
        absent_is_fine: bool = False,
    ) -> Answer:
        """Return a good answer, or a 404 if `absent_is_fine`. Raises PollFailed. Renews the token once after a 401.

        accept: the media type of the answer, if not plain JSON.
        """
        answer, token, wait_s = await self._ask(resource, url, purpose, timeout_s, accept)
        if answer.status == 401 and await self._tokens.renewed(token):
            answer, token, wait_s = await self._ask(resource, url, "page", timeout_s, accept)
        self._tokens.answered(token, refused=answer.status == 401)
        if answer.status in (200, 207) or (absent_is_fine and answer.status == 404):
            return answer
        permission = PERMISSIONS.get(resource, "ReadCallLog")
        extension = "/extension/" in url.path
        raise poll_failure(answer, extension=extension, permission=permission, retry_after_s=wait_s)

    async def pages(
        self,
        resource: Resource,
        url: URL,
        decode: Callable[[Answer], Awaitable[P]],
        *,
        purpose: Purpose,
        timeout_s: float,
        page_timeout_s: float,
        pages_max: int,
    ) -> Sequence[P]:
        """Return all pages of a list. Raises PollFailed, also for links to other lists, loops and too many pages.

        timeout_s: for all pages together, not counting the wait for slots.
        """
        read: dict[URL, P] = {}
        while url not in read and len(read) < pages_max:
            if timeout_s <= 0:
                raise PollFailed("timeout", f"page {len(read) + 1} did not arrive in time")
            answer = await self.get(resource, url, purpose=purpose, timeout_s=min(timeout_s, page_timeout_s))
            timeout_s -= answer.took_s
            read[url] = page = await decode(answer)
            if page.next_page is None:
                return list(read.values())
            url = _next_url(url, page.next_page)
            purpose = purpose if purpose == "call_log" else "page"
        if url in read:
            raise PollFailed("parse", "the URL of the next page leads to an earlier page")
        raise PollFailed("parse", f"more than {pages_max} pages")

    async def _ask(
        self, resource: Resource, url: URL, purpose: Purpose, timeout_s: float, accept: str | None
    ) -> tuple[Answer, Secret, float | None]:
        await self._tokens.current()  # without a token, fail before waiting for a slot
        async with self._limiter.acquire(purpose, str(url)) as slot:
            try:
                token = await self._tokens.current()
            except PollFailed:
                slot.unused()
                raise
            authorization = f"Bearer {token.reveal()}"
            answer = await self._exchange.ask(
                resource, url, authorization=authorization, timeout_s=timeout_s, accept=accept
            )
            return answer, token, slot.answered(answer.status, answer.headers)


def _next_url(url: URL, next_page: str) -> URL:
    """Return the URL of the next page. Only the query of the given one is used, on the path of the first page."""
    try:
        parts = urlsplit(next_page)
        following = url.update_query(dict(parse_qsl(parts.query)))
    except ValueError:
        raise PollFailed("parse", "the URL of the next page is invalid") from None
    if parts.path.rpartition("/")[2] != url.name:
        raise PollFailed("parse", "the URL of the next page leads to another list")
    return following


async def listed(answer: Answer, target: Target, telemetry: Telemetry, known: Rows | None = None) -> ListPage:
    """Decode a page, and report unknown words and bad records in new rows. Raises PollFailed if it is not a page."""
    try:
        if len(answer.body) > DECODED_ON_LOOP_MAX:
            page = await asyncio.to_thread(read_page, answer.body, target, known)
        else:
            page = read_page(answer.body, target, known)
    except BadPage as error:
        raise PollFailed("parse", str(error), request_id=answer.request_id) from None
    for row in page.fresh:
        for field, word in row.unknown:
            telemetry.unknown_word(field, word)
        for field in row.bad_fields:
            telemetry.unknown_word(field, WRONG_TYPE)
        if row.shown is None:
            telemetry.bad_record(row.bad, row.bad_id)
    return page
