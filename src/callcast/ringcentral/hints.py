"""The hints of one source: implements `ports.hints.Hints` with push, presence, or both."""

import asyncio
from collections.abc import Sequence

from callcast.calls.model import Target
from callcast.ports.hints import Report
from callcast.ringcentral.presence import PresenceReader
from callcast.ringcentral.push import Push


class PlatformHints:
    def __init__(self, push: Push | None, presence: PresenceReader | None) -> None:
        self._push = push
        self._presence = presence

    async def run(self, targets: Sequence[Target], report: Report, /) -> None:
        async with asyncio.TaskGroup() as tasks:
            for way in (self._push, self._presence):
                if way is not None:
                    tasks.create_task(way.run(targets, report))

    def covers(self, target: Target, /) -> bool:
        return any(way.covers(target) for way in (self._push, self._presence) if way is not None)

    def witnessed_since(self, target: Target, /) -> float | None:
        return self._presence.witnessed_since(target) if self._presence is not None else None
