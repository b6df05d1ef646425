"""Reads the platform's lists: with a token, within the budget, all pages or PollFailed."""

import asyncio
from collections.abc import Callable
from typing import TypeVar
from urllib.parse import parse_qsl, urlsplit

from yarl import URL

from callcast.calls.model import Target
from callcast.ports.upstream import PollFailed
from callcast.ringcentral.errors import poll_failure
from callcast.ringcentral.http import Answer, Exchange
from callcast.ringcentral.interpret import BadPage, ListPage, Rows, read_page
from callcast.ringcentral.rate_limiter import RateLimiter
from callcast.ringcentral.rate_window import Purpose
from callcast.ringcentral.telemetry import Observer, Resource
from callcast.ringcentral.token import Tokens
from callcast.settings.secret import Secret

T = TypeVar("T")

# Above this, a page is decoded in a thread: half a mebibyte takes some 4 ms, and nothing may hold the loop for 20.
DECODED_ON_LOOP_MAX = 512 * 1024
WRONG_TYPE = "(of a wrong type)"


class Reader:
    """Asks with a token, within the budget."""

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
        absent_is_fine: bool = False,
    ) -> Answer:
        """A 200 (or a 404, where that is an answer too), or PollFailed. After a 401 the token is renewed once."""
        answer, token, wait_s = await self._ask(resource, url, purpose, timeout_s)
        if answer.status == 401 and await self._tokens.renewed(token):
            answer, token, wait_s = await self._ask(resource, url, "page", timeout_s)
        self._tokens.heard(token, refused=answer.status == 401)
        if answer.status == 200 or (absent_is_fine and answer.status == 404):
            return answer
        permission = "ReadAccounts" if resource == "extensions" else "ReadCallLog"
        extension = "/extension/" in url.path
        raise poll_failure(answer, extension=extension, permission=permission, retry_after_s=wait_s)

    async def _ask(
        self, resource: Resource, url: URL, purpose: Purpose, timeout_s: float
    ) -> tuple[Answer, Secret, float | None]:
        await self._tokens.current()  # who has none fails before waiting for a turn
        async with self._limiter.turn(purpose, str(url)) as turn:
            try:
                token = await self._tokens.current()
            except PollFailed:
                turn.unused()
                raise
            authorization = f"Bearer {token.reveal()}"
            answer = await self._exchange.get(resource, url, authorization=authorization, timeout_s=timeout_s)
            return answer, token, turn.answered(answer.status, answer.headers)


class Walk:
    """One list, page by page: never beyond its own address, never in a circle, never without end.

    while walk.more:
        answer = await walk.page()
        walk.follow(page.next_page)
    """

    def __init__(
        self,
        reader: Reader,
        resource: Resource,
        url: URL,
        *,
        purpose: Purpose,
        next_purpose: Purpose,
        timeout_s: float,
        page_timeout_s: float,
        pages_max: int,
    ) -> None:
        self.more = True
        self._reader = reader
        self._resource: Resource = resource
        self._url = url
        self._purpose: Purpose = purpose
        self._next_purpose: Purpose = next_purpose
        self._left_s = timeout_s
        self._page_timeout_s = page_timeout_s
        self._pages_max = pages_max
        self._seen: list[URL] = []

    async def page(self) -> Answer:
        """The next page. Raises PollFailed; the time for all pages together is bounded, waiting for turns aside."""
        if self._left_s <= 0:
            raise PollFailed("timeout", f"page {len(self._seen) + 1} did not come in time")
        purpose = self._next_purpose if self._seen else self._purpose
        timeout_s = min(self._left_s, self._page_timeout_s)
        answer = await self._reader.get(self._resource, self._url, purpose=purpose, timeout_s=timeout_s)
        self._left_s -= answer.took_s
        self._seen.append(self._url)
        self.more = False
        return answer

    def follow(self, next_page: str | None) -> None:
        """Go on where the platform says; of its address only the query is used, on the path that was asked for."""
        if next_page is None:
            return
        try:
            parts = urlsplit(next_page)
            self._url = self._url.update_query(dict(parse_qsl(parts.query)))
        except ValueError:
            raise PollFailed("parse", "the address of the next page is none") from None
        if parts.path.rpartition("/")[2] != self._url.name or self._url in self._seen:
            raise PollFailed("parse", "the address of the next page leads elsewhere, or back")
        if len(self._seen) >= self._pages_max:
            raise PollFailed("parse", f"more than {self._pages_max} pages")
        self.more = True


async def listed(answer: Answer, target: Target, observer: Observer, known: Rows | None = None) -> ListPage:
    """What a page shows of a target; what is odd about fresh records is told. Raises PollFailed for what is no page."""
    try:
        page = await off_loop(len(answer.body), lambda: read_page(answer.body, target, known))
    except BadPage as error:
        raise PollFailed("parse", str(error), request_id=answer.request_id) from None
    for row in page.fresh:
        for field, word in row.unknown:
            observer.unknown_word(field, word)
        for field in row.bad_fields:
            observer.unknown_word(field, WRONG_TYPE)
        if row.shown is None:
            observer.bad_record(row.bad, row.bad_id)
    return page


async def off_loop(size: int, work: Callable[[], T]) -> T:
    """Do the work here, or in a thread where it is so large that it would hold the loop."""
    return work() if size <= DECODED_ON_LOOP_MAX else await asyncio.to_thread(work)
