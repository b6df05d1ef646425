"""Sign-in state that all sources of a process share: the tokens, and one rate limiter per application.

RingCentral counts token requests per application (server and client id), across all users, and suspends an application
that requests tokens too often. Both are therefore stored in a private file and survive a restart.
"""

import asyncio
import hashlib
import itertools
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Annotated, Protocol

import msgspec
from msgspec import Struct

from callcast.observability.fatal import observed
from callcast.ports.clock import Clock
from callcast.ports.upstream import PollFailed
from callcast.ringcentral.rate_limiter import RateLimiter, Slot
from callcast.ringcentral.settings import SourceSettings
from callcast.settings.private_file import write_private
from callcast.settings.secret import Secret

FILE = "tokens.json"
FILE_BYTES_MAX = 16 * 1024 * 1024
PER_MINUTE = 5  # documented
OURS_PER_MINUTE = 4  # leaves one for other programs that use the same application
LIFETIME_MIN_S, LIFETIME_MAX_S = 1.0, 86_400.0
# When a token is renewed, as a fraction of its lifetime. Differs by credential, so that renewals are spread.
RENEWED_FROM, RENEWED_UNTIL = 0.6, 0.9


Digest = Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{32}$")]


class _StoredToken(Struct, frozen=True):
    token: str
    owner_id: str | None
    granted_at: float  # wall clock, seconds since 1970
    lifetime_s: float


class _StoredState(Struct, frozen=True):
    """The content of the file. Applications and credentials are keyed by digests."""

    applications: dict[Digest, msgspec.Raw] = {}
    tokens: dict[Digest, _StoredToken] = {}


class Held:
    """A token in use. Times are of the monotonic clock. session: the number of its OAuth session, in this run."""

    __slots__ = ("expires_at", "kept", "owner_id", "refused", "renew_again_at", "renew_at", "session", "token")

    def __init__(self, kept: _StoredToken, granted_at: float, share: float, session: int) -> None:
        self.kept = kept
        self.token = Secret(kept.token)
        self.owner_id = kept.owner_id
        self.session = session
        self.expires_at = granted_at + kept.lifetime_s
        self.renew_at = granted_at + kept.lifetime_s * (RENEWED_FROM + (RENEWED_UNTIL - RENEWED_FROM) * share)
        self.refused = False  # rejected with 401 although new: still used, but not stored over a restart
        self.renew_again_at = 0.0


class SignsIn(Protocol):
    """The tokens of one source. show: called when the platform announced the limit of token requests."""

    credential: str
    show: Callable[[RateLimiter], None]

    def now(self) -> datetime:
        """The platform's time."""
        ...

    def give_up(self) -> None:
        """Stop waiting: the token endpoint fails."""
        ...


class Standing(Struct):
    """A failure, and the monotonic time before which retrying is futile."""

    failure: PollFailed
    until: float


class Application:
    """The token requests of one app on one server: one at a time, the most urgent first.

    trouble: a failure of the token endpoint itself. It applies to all credentials of the application.
    """

    def __init__(self, *, clock: Clock, kept: bytes | None, keep: Callable[[], None]) -> None:
        self._members: list[SignsIn] = []
        self._clock = clock
        self.trouble: Standing | None = None
        self.grants = 0  # tokens that its credentials were given in this run
        self.limiter = RateLimiter(
            "auth",
            per_minute=PER_MINUTE,
            headroom=0.4,  # leaves two requests a minute for push connections, at most
            ceiling=OURS_PER_MINUTE,
            clock=clock,
            now=self._now,
            kept=kept,
            keep=lambda _: keep(),
            show=self._show,
        )

    def join(self, member: SignsIn) -> None:
        self._members.append(member)
        if self.limiter.hold_s() > 0:
            member.show(self.limiter)

    def leave(self, member: SignsIn) -> None:
        if member in self._members:
            self._members.remove(member)

    def uses(self, credential: str) -> bool:
        return any(member.credential == credential for member in self._members)

    @property
    def is_shared(self) -> bool:
        return len(self._members) > 1

    def troubled(self, trouble: Standing) -> None:
        self.trouble = trouble
        for member in tuple(self._members):
            member.give_up()

    def acquire(self, path: str, urgency: float) -> Slot:
        return self.limiter.acquire("token", path, urgency=urgency)

    def _now(self) -> datetime:
        return self._members[0].now() if self._members else self._clock.now()

    def _show(self, limiter: RateLimiter) -> None:
        for member in tuple(self._members):
            member.show(limiter)


class SignIns:
    """The tokens and rate limiters of all applications. One instance per process.

    path: the file; None stores nothing. writes: whether this process may change the file.
    failed: called with a sentence if the file cannot be read or written, once until it works again.
    """

    def __init__(
        self,
        clock: Clock,
        *,
        path: Path | None = None,
        writes: bool = True,
        failed: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._clock = clock
        self._path = path
        self._writes = writes and path is not None
        self._failed = failed
        self._fault = False
        self._kept: dict[str, bytes] = {}  # of applications that are not in use yet
        self._applications: dict[str, Application] = {}
        self._held: dict[str, Held] = {}
        self._sessions = itertools.count(1)
        self._changed = False
        self._writing: asyncio.Task[None] | None = None

    async def load(self) -> None:
        """Load the state of an earlier run. Without it, every credential signs in."""
        if self._path is None:
            return
        try:
            content = await asyncio.to_thread(_read, self._path)
            kept = msgspec.json.decode(content, type=_StoredState)
        except FileNotFoundError:
            return
        except OSError as error:
            self._fails("read", error)
            return
        except (msgspec.MsgspecError, UnicodeDecodeError):
            self._failed(f"{self._path} is not what callcast wrote there: it is made anew, and all sources sign in")
            return
        self._kept = {digest: bytes(raw) for digest, raw in kept.applications.items()}
        for credential, token in kept.tokens.items():
            passed_s = max(0.0, self._clock.wall().timestamp() - token.granted_at)
            if passed_s < token.lifetime_s <= LIFETIME_MAX_S:
                self._held[credential] = Held(
                    token, self._clock.monotonic() - passed_s, _share(credential), next(self._sessions)
                )

    def application(self, settings: SourceSettings) -> Application:
        digest = digest_of(settings.server, settings.client_id)
        if digest not in self._applications:
            kept = self._kept.pop(digest, None)
            self._applications[digest] = Application(clock=self._clock, kept=kept, keep=self.save)
        return self._applications[digest]

    def held(self, credential: str) -> Held | None:
        """Return the token if it has not expired."""
        held = self._held.get(credential)
        return held if held is not None and self._clock.monotonic() < held.expires_at else None

    def keep(
        self, credential: str, token: str, owner_id: str | None, lifetime_s: float, *, refreshed: Held | None = None
    ) -> Held:
        """Keep a new token. refreshed: the one that it continues, in the same OAuth session."""
        lifetime_s = min(max(lifetime_s, LIFETIME_MIN_S), LIFETIME_MAX_S)
        kept = _StoredToken(token, owner_id, self._clock.wall().timestamp(), lifetime_s)
        session = refreshed.session if refreshed else next(self._sessions)
        self._held[credential] = held = Held(kept, self._clock.monotonic(), _share(credential), session)
        self.save()
        return held

    def forget(self, credential: str) -> None:
        if self._held.pop(credential, None):
            self.save()

    def refuse(self, held: Held) -> None:
        """Mark a token as rejected: it is used until it expires, but not stored over a restart."""
        if not held.refused:
            held.refused = True
            self.save()

    def retain(self, sources: Iterable[SourceSettings]) -> None:
        """Forget the tokens of all credentials that are not in the configuration."""
        sources = tuple(sources)
        applications = {digest_of(one.server, one.client_id) for one in sources}
        self._kept = {digest: raw for digest, raw in self._kept.items() if digest in applications}
        credentials = {credential_digest(one) for one in sources}
        for credential in self._held.keys() - credentials:
            self.forget(credential)

    def save(self) -> None:
        """Write the file soon, in a thread. Changes made meanwhile are written as well."""
        if not self._writes:
            return
        self._changed = True
        if self._writing is not None and self._writing.done():
            self._writing.result()  # raises an unexpected exception
            self._writing = None
        if self._writing is None:
            self._writing = observed(asyncio.create_task(self._write()))

    async def close(self) -> None:
        """Write everything that is not written yet."""
        if self._applications:
            self.save()
        if self._writing is not None:
            await self._writing

    async def _write(self) -> None:
        while self._changed and self._path is not None:
            self._changed = False
            content = self._content()
            try:
                await asyncio.to_thread(write_private, self._path, content)
            except OSError as error:
                self._fails("written", error)
            else:
                self._fault = False

    def _content(self) -> bytes:
        now = self._clock.monotonic()
        budgets: Mapping[str, bytes] = {digest: one.limiter.dump() for digest, one in self._applications.items()}
        return msgspec.json.encode(
            _StoredState(
                {digest: msgspec.Raw(raw) for digest, raw in {**self._kept, **budgets}.items()},
                {
                    credential: held.kept
                    for credential, held in self._held.items()
                    if now < held.expires_at and not held.refused
                },
            )
        )

    def _fails(self, what: str, error: OSError) -> None:
        cause = (error.strerror or str(error)).lower()
        if not self._fault:
            self._failed(
                f"{self._path} cannot be {what}: {cause}: check free space, permissions and the disk's health; until "
                "then, every start signs in again"
            )
        self._fault = True


def credential_digest(settings: SourceSettings) -> str:
    """Return the key of a credential's token. A changed credential never uses an old token."""
    return digest_of(settings.server, settings.client_id, settings.client_secret.reveal(), settings.jwt.reveal())


def digest_of(*parts: str) -> str:
    return hashlib.blake2b(msgspec.json.encode(parts), digest_size=16).hexdigest()


def _share(credential: str) -> float:
    """Return a number between 0 and 1 that depends only on the credential."""
    return int(credential[:8], 16) / 0xFFFFFFFF


def _read(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(FILE_BYTES_MAX)
