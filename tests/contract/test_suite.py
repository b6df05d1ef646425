"""The public suite finds each broken promise of a sink, and passes a sink that keeps them."""

import asyncio
import threading
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Literal

import pytest

from callcast import testing
from callcast.ports.sink import Delivered, Delivery, Filter, Outcome, Rejected, Retry, Sink, SinkContext
from callcast.settings.secret import Secret
from callcast.sinks import SinkSettings
from callcast.testing import Mode, RemoteSide, SinkContract

KEY = "the-key-to-the-sink"


class Settings(SinkSettings):
    type: Literal["leaky"] = "leaky"
    key: Secret = Secret(KEY)

    def open(self, context: SinkContext, /) -> AbstractAsyncContextManager[Sink]:
        raise NotImplementedError  # the remote side knows which sink is meant


class Unfiltered(Settings):
    def filter(self) -> Filter:
        return Filter(events=self.events)


class InProcessRemoteSide(RemoteSide):
    """Receives events in the same process."""

    secrets = (KEY,)

    def __init__(self, kind: type["Honest"]) -> None:
        self.settings = kind.settings(timeout_s=0.5)
        self.taken: list[str] = []
        self._kind = kind
        self._mode: Mode = "accepting"
        self._released = asyncio.Event()
        self._reached = asyncio.Event()

    @asynccontextmanager
    async def opened(self, context: SinkContext) -> AsyncIterator[Sink]:
        sink = self._kind(self, context)
        yield sink
        await sink.close()

    def open(self, context: SinkContext, /) -> AbstractAsyncContextManager[Sink]:
        return self.opened(context)

    async def become(self, mode: Mode, /) -> None:
        self._mode = mode
        self._reached.clear()
        self._released.clear() if mode == "holding" else self._released.set()

    def received(self) -> Sequence[str]:
        return self.taken

    async def reached(self) -> None:
        await self._reached.wait()

    async def take(self, event_id: str) -> None:
        if self._mode == "down":
            raise ConnectionRefusedError
        self._reached.set()
        await self._released.wait()
        if self._mode == "refusing":
            raise PermissionError
        self.taken.append(event_id)


class Honest:
    settings: type[Settings] = Settings

    def __init__(self, remote_side: InProcessRemoteSide, context: SinkContext) -> None:
        self.remote_side = remote_side
        self.context = context

    async def send(self, delivery: Delivery, /) -> Outcome:
        try:
            async with asyncio.timeout(self.remote_side.settings.timeout_s):
                await self.remote_side.take(delivery.event.id)
        except TimeoutError:
            return Retry("timeout")
        except ConnectionRefusedError:
            return Retry("connect")
        except PermissionError:
            return Rejected("refused")
        return Delivered()

    async def close(self) -> None:
        pass


class Hasty(Honest):
    """Answers before the remote side has."""

    async def send(self, delivery: Delivery, /) -> Outcome:
        self.sending = asyncio.create_task(super().send(delivery))
        return Delivered()


class Stumbling(Honest):
    """Raises what goes wrong outside."""

    async def send(self, delivery: Delivery, /) -> Outcome:
        await self.remote_side.take(delivery.event.id)
        return Delivered()


class Harsh(Honest):
    """Rejects during an outage."""

    async def send(self, delivery: Delivery, /) -> Outcome:
        outcome = await super().send(delivery)
        return Rejected(outcome.reason) if isinstance(outcome, Retry) else outcome


class Stubborn(Honest):
    """Retries a permanent rejection."""

    async def send(self, delivery: Delivery, /) -> Outcome:
        outcome = await super().send(delivery)
        return Retry(outcome.reason) if isinstance(outcome, Rejected) else outcome


class Patient(Honest):
    """Waits for ever."""

    async def send(self, delivery: Delivery, /) -> Outcome:
        await self.remote_side.take(delivery.event.id)
        return Delivered()


class Uncancellable(Honest):
    """Cannot be cancelled."""

    async def send(self, delivery: Delivery, /) -> Outcome:
        try:
            return await super().send(delivery)
        except asyncio.CancelledError:
            return Retry("cancelled")


class Mumbling(Honest):
    """The id is not on the wire."""

    async def send(self, delivery: Delivery, /) -> Outcome:
        await self.remote_side.take(delivery.event.key)
        return Delivered()


class Stuttering(Honest):
    """Sends everything twice."""

    async def send(self, delivery: Delivery, /) -> Outcome:
        await super().send(delivery)
        return await super().send(delivery)


class Flustered(Honest):
    """Cannot do two things at once."""

    busy = False

    async def send(self, delivery: Delivery, /) -> Outcome:
        assert not self.busy
        self.busy = True
        await asyncio.sleep(0)
        self.busy = False
        return await super().send(delivery)


class Littering(Honest):
    """Leaves a task behind."""

    async def close(self) -> None:
        self.left = asyncio.create_task(asyncio.sleep(60))


class Haunting(Honest):
    """Leaves a thread behind."""

    async def close(self) -> None:
        threading.Thread(target=threading.Event().wait, args=(5,), daemon=True).start()


class LeakingInDetail(Honest):
    """Shows the key in the detail of an outage."""

    async def send(self, delivery: Delivery, /) -> Outcome:
        outcome = await super().send(delivery)
        return Retry(outcome.reason, self.remote_side.settings.key.reveal()) if isinstance(outcome, Retry) else outcome  # type: ignore[attr-defined]


class LeakingInLog(Honest):
    """Logs the key."""

    async def send(self, delivery: Delivery, /) -> Outcome:
        self.context.log("sent", key=self.remote_side.settings.key.reveal())  # type: ignore[attr-defined]
        return await super().send(delivery)


class Greedy(Honest):
    """Leaves a filter out."""

    settings = Unfiltered


class LeakingInRepr(Honest):
    """Shows the key in its representation."""

    def __repr__(self) -> str:
        return f"<sink with {KEY}>"


TESTS = [name for name in dir(SinkContract) if name.startswith("test_")]
BROKEN_PROMISES: Sequence[tuple[type[Honest], str, type[Exception]]] = [
    (Hasty, "test_returns_only_after_the_response", AssertionError),
    (Stumbling, "test_returns_retry_during_an_outage_and_delivers_afterwards", ConnectionRefusedError),
    (Stumbling, "test_can_be_opened_while_the_remote_side_is_down", ConnectionRefusedError),
    (Harsh, "test_returns_retry_during_an_outage_and_delivers_afterwards", AssertionError),
    (Harsh, "test_returns_retry_when_no_response_comes_in_time", AssertionError),
    (Stubborn, "test_returns_rejected_on_a_permanent_rejection", TimeoutError),
    (Patient, "test_returns_retry_when_no_response_comes_in_time", TimeoutError),
    (Uncancellable, "test_can_be_cancelled", AssertionError),
    (Mumbling, "test_delivers_every_kind_of_event", AssertionError),
    (Stuttering, "test_delivers_every_kind_of_event", AssertionError),
    (Flustered, "test_delivers_at_the_same_time", AssertionError),
    (Littering, "test_can_be_closed_while_the_remote_side_is_silent", TimeoutError),
    (Haunting, "test_can_be_closed_while_the_remote_side_is_silent", AssertionError),
    (Greedy, "test_takes_only_the_events_of_its_sources", AssertionError),
    (LeakingInDetail, "test_shows_no_secret", AssertionError),
    (LeakingInLog, "test_shows_no_secret", AssertionError),
    (LeakingInRepr, "test_shows_no_secret", AssertionError),
]
HANGING = (Stubborn, Patient, Littering, Haunting)  # found out when patience ends


def ask(kind: type[Honest], question: str) -> None:
    class Suite(SinkContract):
        @asynccontextmanager
        async def remote_side(self) -> AsyncIterator[RemoteSide]:
            yield InProcessRemoteSide(kind)

    getattr(Suite(), question)()


@pytest.mark.parametrize("question", TESTS)
def test_a_correct_sink_passes(question: str) -> None:
    """The sink that all the others here are made from."""
    ask(Honest, question)


@pytest.mark.parametrize(("kind", "question", "by"), BROKEN_PROMISES)
def test_a_broken_promise_is_found(
    kind: type[Honest], question: str, by: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the test of that promise, and for no other reason."""
    if kind in HANGING:
        monkeypatch.setattr(testing, "PATIENCE_S", 2.0)
    with pytest.raises(by):
        ask(kind, question)


def test_every_test_of_the_suite_can_fail() -> None:
    """A test that every sink passes tests nothing."""
    assert {question for _, question, _ in BROKEN_PROMISES} == set(TESTS)
