"""Builds, runs and removes sources. What a source can reuse after a reload (client, telemetry) is kept here."""

import asyncio
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from random import SystemRandom
from typing import Any

from callcast.calls.freshness import Freshness
from callcast.calls.index import CallIndex
from callcast.calls.model import Known
from callcast.calls.shared_answers import SharedAnswers
from callcast.calls.tracker import Rules, unwatch
from callcast.live.live_calls import InMemoryLiveCalls
from callcast.observability.fatal import observed
from callcast.observability.metrics import Metrics
from callcast.observability.outbox_health import OutboxHealth
from callcast.polling.backfill import Backfill
from callcast.polling.ownership import ExtensionOwnership
from callcast.polling.poller import Poller
from callcast.polling.recorder import ChangeRecorder
from callcast.polling.telemetry import SourceTelemetry
from callcast.ports.clock import Clock
from callcast.ports.outbox import Outbox
from callcast.ports.telemetry import Telemetry
from callcast.provider import Client, Provider, SourceSettings, plan

ANSWERS_MAX = 20_000  # ended calls
ANSWERS_AT_ONCE = 500  # learning all of them at once would block the loop for 65 ms
LOGGED_EXTENSIONS_MAX = 20  # extensions in a log line


class Sources:
    """All sources. `run` and `end` are for a `TaskSupervisor`. committed: called after each commit.

    A source's telemetry is kept while its name is configured, and its client until one of the client's keys changes.
    So any other change needs no new token, and resets neither the rate limit nor readiness.
    """

    def __init__(
        self,
        outbox: Outbox,
        live_calls: InMemoryLiveCalls,
        metrics: Metrics,
        clock: Clock,
        log: Any,
        outbox_health: OutboxHealth,
        provider: Provider,
    ) -> None:
        self.telemetry: dict[str, SourceTelemetry] = {}
        self.ownership = ExtensionOwnership()
        self._outbox = outbox
        self._live_calls = live_calls
        self._metrics = metrics
        self._clock = clock
        self._log = log
        self._outbox_health = outbox_health
        self.committed: Callable[[], None] = lambda: None
        self._provider = provider
        self._wanted: Collection[SourceSettings] = ()
        self._clients: dict[str, tuple[SourceSettings, Client]] = {}
        self._answers = SharedAnswers()
        self._learning = asyncio.Lock()
        self._notes: defaultdict[str, set[asyncio.Task[None]]] = defaultdict(set)  # being stored

    async def load(self) -> None:
        """Load the tokens of an earlier run."""
        await self._provider.load()

    def set_ownership(self, wanted: Mapping[str, SourceSettings]) -> None:
        """Assign extensions to the sources that list them, before any source polls.

        A source that watches an account gets the remaining ones.
        """
        self._wanted = wanted.values()
        self._retain_tokens()
        listed = {name: one.extensions if one.watch == "extensions" else ("~",) for name, one in wanted.items()}
        self.ownership.retain({name: None if "~" in ids else frozenset(ids) for name, ids in listed.items()})
        for name, ids in listed.items():
            self._telemetry_of(name)  # from now on the service is ready only after a successful poll of it
            for extension_id in filter(str.isdigit, ids):
                self.ownership.acquire(name, extension_id)

    def skews(self) -> Mapping[str, float]:
        """By source, how many seconds this machine's clock is ahead of the platform's."""
        return {name: client.skew_s() for name, (_, client) in self._clients.items()}

    def warnings(self) -> Sequence[str]:
        """A sentence for each problem that needs attention but does not make a source unready."""
        clients = [(name, client) for name, (_, client) in self._clients.items()]
        skewed = [f"source {name}: {trouble}" for name, client in clients if (trouble := client.clock_trouble())]
        unrenewed = [
            f"source {name}: the access token ends in {failed[1] / 60:.0f} min and could not be renewed yet: "
            f"{failed[0].detail}"
            for name, client in clients
            if (failed := client.renewal_trouble()) is not None
        ]
        refused = [line for telemetry in self.telemetry.values() for line in telemetry.refusals()]
        return [*self.ownership.conflicts(), *skewed, *unrenewed, *refused]

    async def run(self, name: str, settings: SourceSettings, *, start_after_s: float = 0.0) -> None:
        """Run one source until cancelled."""
        telemetry = self._telemetry_of(name)
        telemetry.hints_wanted(settings.ways, chosen=settings.hints != "auto")  # before any wait: none is up now
        if name in self._clients and self._clients[name][0].access() != settings.access():
            await self.close(name)
        if len(self.telemetry) > 1:
            async with self._learning:
                await telemetry.outbox_user.until_available(lambda: share_answers(self._answers, self._outbox))
        known = await telemetry.outbox_user.until_available(lambda: self._outbox.known(name))
        upstream = self._client(name, settings, known)
        rules = Rules(
            settle_s=settings.settle_s,
            call_log_after_s=settings.call_log_after_s,
            vanished_give_up_s=settings.vanished_give_up_s,
        )
        recorder = self._recorder(name, known, rules)
        if settings.watch == "account":  # which learns its extensions only from the polls
            recorder.is_own = lambda seen: self.ownership.acquire_part(name, seen, telemetry.watched_twice)
        poller = Poller(
            name,
            settings.extensions if settings.watch == "extensions" else None,
            interval_s=None if settings.poll_interval_s == "auto" else settings.poll_interval_s,
            upstream=upstream,
            recorder=recorder,
            backfill=Backfill(
                *(recorder, upstream, self._clock, telemetry),
                gaps=known.notes.get("gaps"),
                refused=known.notes.get("refused"),
            ),
            freshness=Freshness(name, known.notes.get("freshness")),
            clock=self._clock,
            telemetry=telemetry,
            acquire=lambda extension_id: self.ownership.acquire(name, extension_id),
            start_after_s=start_after_s,
            hints=upstream.hints(name, settings.ways, SystemRandom().random) if settings.ways else None,
        )
        self._log.info("polling_started", source=name, **_log_facts(name, settings))
        await poller.run()

    async def end(self, name: str) -> None:
        """Remove a source: its calls end as unwatched. If the outbox is unavailable, the next start does this."""
        with self._outbox_health.service.reporting():
            known = await self._outbox.known(name)
            recorder = self._recorder(name, known, Rules())
            live = {call.extension_id for call in recorder.index.live_calls()}
            await recorder.record_change(unwatch, live, self._clock.now())
        self._live_calls.unwatch(name)
        self._answers.forget(name)
        if telemetry := self.telemetry.pop(name, None):
            telemetry.outbox_user.ended()
            self._log.info("polling_stopped", source=name)
        await self.close(name)  # last: closing may still report a response
        self._metrics.forget_source(name)

    async def close(self, name: str) -> None:
        """Close a source's client, and wait until its notes are stored."""
        if client := self._clients.get(name):
            try:
                await client[1].close()
            finally:
                self._clients.pop(name, None)
                self._retain_tokens()
        if notes := self._notes.pop(name, None):
            await asyncio.wait(notes)

    async def close_all(self) -> None:
        await asyncio.gather(*map(self.close, tuple(self._clients)))
        await self._provider.close()

    def _retain_tokens(self) -> None:
        """Forget the tokens that no source uses. A client that is still open may want to revoke its own."""
        self._provider.retain([*self._wanted, *(settings for settings, _ in self._clients.values())])

    def _telemetry_of(self, name: str) -> SourceTelemetry:
        if name not in self.telemetry:
            self.telemetry[name] = SourceTelemetry(
                name, self._live_calls, self._metrics, self._clock, self._log, self._outbox_health
            )
        return self.telemetry[name]

    def _client(self, name: str, settings: SourceSettings, known: Known) -> Client:
        if name not in self._clients:
            client = self._provider.client(
                settings,
                telemetry=self._telemetry_of(name),
                note=lambda key, value: self._note_later(name, key, value),
                notes=known.notes,
            )
            self._clients[name] = (settings, client)
            self._telemetry_of(name).sign_ins_ahead = client.sign_ins_ahead
        return self._clients[name][1]

    def _recorder(self, name: str, known: Known, rules: Rules) -> ChangeRecorder:
        telemetry = self.telemetry.get(name, Telemetry())  # none if the source was removed while the service was down
        index = CallIndex(name, known, self._answers)
        return ChangeRecorder(index, self._outbox, rules, telemetry, self.committed)

    def _note_later(self, source: str, name: str, value: bytes) -> None:
        task = observed(asyncio.create_task(self._note(source, name, value)))
        self._notes[source].add(task)
        task.add_done_callback(self._notes[source].discard)

    async def _note(self, source: str, name: str, value: bytes) -> None:
        with self._outbox_health.service.reporting():
            await self._outbox.note(source, name, value)


async def share_answers(answers: SharedAnswers, outbox: Outbox) -> None:
    """Share answers between sources from now on, including stored ones. Raises OutboxUnavailable."""
    if answers.shared:
        return
    answers.shared = True  # set first: a call recorded meanwhile may be added twice, which has no effect
    try:
        calls = await outbox.latest(ANSWERS_MAX)
    except BaseException:
        answers.shared = False
        raise
    for first in range(0, len(calls), ANSWERS_AT_ONCE):
        answers.learn(calls[first : first + ANSWERS_AT_ONCE])
        await asyncio.sleep(0)


def _log_facts(name: str, settings: SourceSettings) -> dict[str, object]:
    """What a source does, for the log."""
    whom = "account" if settings.watch == "account" else list(settings.extensions[:LOGGED_EXTENSIONS_MAX])
    more = {"and_more": n} if (n := len(settings.extensions) - LOGGED_EXTENSIONS_MAX) > 0 and whom != "account" else {}
    return {"server": settings.server, "extensions": whom, **more, "interval_s": round(plan(name, settings).cycle_s, 1)}
