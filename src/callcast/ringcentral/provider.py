"""What the rest of callcast uses of this package, through `callcast.provider`."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from aiohttp import ClientSession

from callcast.ports.clock import Clock
from callcast.ports.telemetry import Telemetry
from callcast.ringcentral.check import Report, check_source
from callcast.ringcentral.client import Client
from callcast.ringcentral.directory import Extension, extensions
from callcast.ringcentral.settings import SourceSettings
from callcast.ringcentral.sign_in import FILE, SignIns


class RingCentral:
    """Access to the platform. One per process, because sources share tokens and the rate limit of sign-ins.

    session: should not keep cookies (`DummyCookieJar`), so that sources share only connections.
    data_dir: where tokens are stored; None stores nothing. writes: whether this process may change the file.
    failed: called with a sentence if the file cannot be read or written, once until it works again.
    """

    def __init__(
        self,
        session: ClientSession,
        clock: Clock,
        *,
        data_dir: Path | None = None,
        writes: bool = True,
        failed: Callable[[str], None] = lambda _: None,
    ) -> None:
        path = None if data_dir is None else data_dir / FILE
        self._sign_ins = SignIns(clock, path=path, writes=writes, failed=failed)
        self._shared: dict[str, Any] = {"session": session, "sign_ins": self._sign_ins, "clock": clock}

    async def load(self) -> None:
        """Load the tokens of an earlier run. Without them, every source signs in."""
        await self._sign_ins.load()

    def retain(self, sources: Iterable[SourceSettings]) -> None:
        """Forget the tokens of all other sources."""
        self._sign_ins.retain(sources)

    async def close(self) -> None:
        """Store the tokens."""
        await self._sign_ins.close()

    def client(
        self,
        settings: SourceSettings,
        *,
        telemetry: Telemetry,
        note: Callable[[str, bytes], None],
        notes: Mapping[str, bytes],
    ) -> Client:
        """Return the client of one source. note, notes: as in `Client`."""
        return Client(settings, telemetry=telemetry, note=note, notes=notes, **self._shared)

    async def check(self, name: str, settings: SourceSettings, report: Report) -> None:
        """Check a source's credential, clock, permissions and rate limit; report each result as soon as it is known."""
        await check_source(name, settings, report, **self._shared)

    async def extensions(self, settings: SourceSettings) -> Sequence[Extension]:
        """Return all extensions that a source's credential can see. Raises PollFailed."""
        return await extensions(settings, **self._shared)
