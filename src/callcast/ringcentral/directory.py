"""Lists the extensions of the account that a credential can see, for `callcast extensions`."""

import asyncio
from collections.abc import Sequence

import msgspec
from aiohttp import ClientSession
from msgspec import Struct

from callcast.ports.clock import Clock
from callcast.ports.telemetry import Telemetry
from callcast.ports.upstream import PollFailed
from callcast.ringcentral.api import Access, Reader
from callcast.ringcentral.client import API
from callcast.ringcentral.http import Answer
from callcast.ringcentral.rate_limiter import RateLimiter
from callcast.ringcentral.settings import SourceSettings
from callcast.ringcentral.sign_in import SignIns

MEDIUM_PER_MINUTE = 40  # documented
PER_PAGE = "1000"
PAGES_MAX = 100
TIMEOUT_S = 60.0
PAGE_TIMEOUT_S = 20.0


class Extension(Struct, frozen=True):
    """One extension. Fields that the platform does not provide are empty strings."""

    id: str
    number: str
    name: str
    type: str
    status: str


class _Record(Struct, frozen=True, rename="camel"):
    id: int | str
    extension_number: str = ""
    name: str = ""
    type: str = ""
    status: str = ""


class _Link(Struct, frozen=True):
    uri: str


class _Navigation(Struct, frozen=True, rename="camel"):
    next_page: _Link | None = None


class _Page(Struct, frozen=True):
    records: list[_Record]
    navigation: _Navigation | None = None

    @property
    def next_page(self) -> str | None:
        return self.navigation.next_page.uri if self.navigation and self.navigation.next_page else None


async def extensions(
    settings: SourceSettings, *, session: ClientSession, sign_ins: SignIns, clock: Clock
) -> Sequence[Extension]:
    """Return all extensions. Raises PollFailed.

    Uses the service's token if there is one. Otherwise signs in, and revokes the token afterwards.
    """
    access = Access(settings, session=session, sign_ins=sign_ins, clock=clock, telemetry=Telemetry())
    is_services = access.tokens.signed_in
    limiter = RateLimiter("medium", per_minute=MEDIUM_PER_MINUTE, clock=clock, now=access.clock.now)
    reader = Reader(access.exchange, access.tokens, limiter)
    try:
        pages = await reader.pages(
            "extensions",
            access.exchange.url(f"{API}/account/{settings.account}/extension", {"perPage": PER_PAGE}),
            _decoded,
            purpose="page",
            timeout_s=TIMEOUT_S,
            page_timeout_s=PAGE_TIMEOUT_S,
            pages_max=PAGES_MAX,
        )
    finally:
        await access.leave(keep=is_services)
    found = {str(one.id): one for page in pages for one in page.records}
    return [Extension(one_id, one.extension_number, one.name, one.type, one.status) for one_id, one in found.items()]


async def _decoded(answer: Answer) -> _Page:
    try:
        return await asyncio.to_thread(msgspec.json.decode, answer.body, type=_Page)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        cause = "the list of extensions cannot be read"
        raise PollFailed("parse", cause, request_id=answer.request_id) from None
