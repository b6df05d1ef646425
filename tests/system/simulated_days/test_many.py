"""Fifty credentials in one process, tokens, and pages: over real connections to the fake platform, in turned time."""

import asyncio
import json
from collections.abc import Sequence
from datetime import datetime, timedelta
from itertools import pairwise
from typing import Any

import pytest

from callcast.calls.model import CallEvent
from callcast.observability import logs
from callcast.ringcentral import client
from callcast.simulator import Credential, Fault, Limits
from callcast.simulator.calls import Record
from callcast.simulator.platform import Request
from callcast.simulator.script import Call
from callcast.supervisor import TaskSupervisor
from tests.system.simulated_days.connections import Stage
from tests.system.simulated_days.simulated_time_loop import run

TOKEN = "/oauth/token"
LISTS = "/active-calls"
INTERVAL_S = 7.5
FIRST = 400_200_001  # the id of the first extension


def ours(number: int) -> Credential:
    """The user of one extension, with an app of its own."""
    return Credential(client_id=f"app-{number}", jwt=f"jwt-{number}", extension_id=str(FIRST + number), admin=False)


def oldest(polls: Sequence[Request]) -> timedelta:
    return max(b.at - a.at for a, b in pairwise(polls))


async def fifty() -> None:
    credentials = [ours(number) for number in range(51)]
    async with Stage(51, credentials=credentials).open() as stage, asyncio.TaskGroup() as tasks:
        every = {f"phone_{n}": stage.source("~", credential=one) for n, one in enumerate(credentials)}
        first = {name: settings for name, settings in every.items() if name != "phone_50"}
        sources = stage.house.sources
        supervisor = TaskSupervisor(tasks, sources.run, sources.end)
        stage.platform.strike(Fault(kind="hang", path=f"*/{FIRST + 1}/*"))
        stage.platform.strike(Fault(kind="status", status=429, retry_after=90, path=f"*/{FIRST + 2}/*", count=1))
        stage.platform.strike(Fault(kind="status", status=403, path=f"*/{FIRST + 3}/*"))
        await supervisor.apply(first, patience_s=0.5)
        await stage.clock.sleep(60)
        shown(stage)
        changed = {"phone_7": stage.source("~", credential=credentials[7], poll_interval_s=30)}
        wanted = {name: settings for name, settings in every.items() if name != "phone_8"} | changed
        await supervisor.apply(wanted, patience_s=0.5)
        await stage.clock.sleep(120)
        judge_fifty(stage)
        await supervisor.stop(patience_s=0.5)
        await sources.close_all()
    kept = {name: notes.keys() for name, notes in stage.house.outbox.notes.items()}
    assert kept.keys() == every.keys()
    assert all({"budget.heavy", "own_extension"} <= names for names in kept.values())


def shown(stage: Stage) -> None:
    """What the metrics say of each source, a minute after the start."""
    for number in (0, 20, 49):
        name = f"phone_{number}"
        assert stage.value("poll_interval_seconds", source=name) == INTERVAL_S
        assert stage.value("rate_limit_limit", source=name, group="heavy") == 10
        assert stage.value("rate_limit_remaining", source=name, group="heavy") in (2, 1)
        assert stage.value("rate_limit_penalty_until_timestamp_seconds", source=name, group="heavy") == 0
        assert (stage.value("poll_staleness_seconds", source=name) or 0) <= INTERVAL_S + 1
        assert stage.value("polls_failed_total", source=name, reason="timeout") == 0
    for number, reason in ((1, "timeout"), (2, "rate_limited"), (3, "permission")):
        assert (stage.value("polls_failed_total", source=f"phone_{number}", reason=reason) or 0) >= 1
        assert (stage.value("poll_staleness_seconds", source=f"phone_{number}") or 0) >= 50
    penalty = stage.value("rate_limit_penalty_until_timestamp_seconds", source="phone_2", group="heavy") or 0
    assert 25 <= penalty - stage.clock.wall().timestamp() <= 90 + 1


def judge_fifty(stage: Stage) -> None:
    """Each on time, whatever became of another; what was not touched did not notice."""
    for number in (*range(4, 7), *range(9, 50)):
        polls = stage.requests(LISTS, f"app-{number}")
        assert oldest(polls) <= timedelta(seconds=INTERVAL_S + 1)
        assert len(stage.requests(TOKEN, f"app-{number}")) == 1
        assert {poll.status for poll in polls} == {200}
    removed, added = stage.requests(LISTS, "app-8"), stage.requests(LISTS, "app-50")
    assert removed[-1].at <= added[0].at
    assert oldest(added) <= timedelta(seconds=INTERVAL_S + 1)
    slowed = stage.requests(LISTS, "app-7")
    assert slowed[-1].at - slowed[-2].at == timedelta(seconds=30)
    assert len(stage.requests(TOKEN, "app-7")) == 1, "the token outlives a change of the interval"


def test_fifty_credentials_touch_only_themselves() -> None:
    """One hangs, one is in a penalty, one is refused; one is added, one changed, one removed while they run."""
    run(fifty())


# Tokens


def watch(seconds: float, **platform: Any) -> Stage:
    """One source for so long; `platform` is how the fake one is."""

    async def watching() -> Stage:
        async with Stage(**platform).open() as stage, stage.house.watching({"acme": stage.source()}):
            await stage.clock.sleep(seconds)
        return stage

    return run(watching())


def test_a_token_is_renewed_before_it_expires() -> None:
    """Twenty minutes with tokens that live for two: not one 401."""
    stage = watch(1200, token_ttl_s=120)
    assert {request.status for request in stage.platform.requests} == {200}
    assert 11 <= len(stage.requests(TOKEN)) <= 17, "renewed at 60 to 90 % of their life"


@pytest.mark.parametrize("every_s", [None, 10])
def test_a_displaced_session_is_recovered_without_a_storm(every_s: float | None) -> None:
    """Five more log-ins of the same user and app end our session, once or all the time: we log in again, once for
    each time, four times a minute at most, and go on looking.
    """

    async def displaced() -> Stage:
        async with Stage(limits=Limits(auth=1000)).open() as stage:
            tokens, credential = stage.platform.tokens, stage.platform.tokens.credentials[0]

            async def others() -> None:
                while True:
                    for _ in range(5):
                        tokens._open(credential, stage.platform.clock.now())
                    await stage.clock.sleep(every_s or 3600)

            async with stage.house.watching({"acme": stage.source()}):
                await stage.clock.sleep(20)
                storm = asyncio.create_task(others())
                await stage.clock.sleep(200)
                storm.cancel()
                await stage.clock.sleep(100)
        return stage

    stage = run(displaced())
    log_ins = [request.at for request in stage.requests(TOKEN)]
    if every_s is None:
        assert len(log_ins) == 2
        assert [poll.status for poll in stage.requests(LISTS)].count(401) == 1
        assert stage.value("polls_failed_total", source="acme", reason="auth") == 0
    assert all(c - a >= timedelta(seconds=60) for a, c in zip(log_ins, log_ins[4:], strict=False))
    polls = stage.requests(LISTS)
    assert all(poll.status == 200 for poll in polls if polls[-1].at - poll.at < timedelta(seconds=30)), (
        "all is well again"
    )


def test_a_wrong_credential_is_loud_and_tried_every_five_minutes(capfd: pytest.CaptureFixture[str]) -> None:
    """In the log as an error that says what to check, in the metric, in what /readyz says; no poll asks anything."""

    async def refused() -> Stage:
        async with Stage().open() as stage:
            logs.configure("error", "json")
            async with stage.house.watching({"acme": stage.source("101", jwt="of another account")}):
                await stage.clock.sleep(1000)
                why = stage.house.sources.telemetry["acme"].unready()
                assert why is not None
                assert "OAU-251" in why
                assert "check" in why
        return stage

    stage = run(refused())
    assert stage.requests(LISTS) == []
    requested_at = [request.at for request in stage.requests(TOKEN)]
    assert all(timedelta(seconds=300) <= b - a <= timedelta(seconds=340) for a, b in pairwise(requested_at))
    assert len(requested_at) >= 3
    assert (stage.value("polls_failed_total", source="acme", reason="auth") or 0) >= len(requested_at)
    assert logs.flush(10)
    lines = [json.loads(line) for line in capfd.readouterr().err.splitlines()]
    assert {(line["event"], line["level"], line["reason"]) for line in lines} == {("poll_failed", "error", "auth")}
    assert "of another account" not in str(lines)


# Pages


class Restless:
    """While a poll turns the page, the list changes: a call comes in, or the newest record is gone."""

    def __init__(self, stage: Stage, *, loses: bool) -> None:
        self.stage = stage
        self.loses = loses
        self.pages = 0
        self.arrived = 0
        self._poll, self._active = stage.story.poll, stage.story.active
        stage.story.poll, stage.story.active = self.poll, self.active  # type: ignore[method-assign]

    def poll(self, extension: str | None, /) -> None:
        self.pages = 0

    def active(self, extension: str | None, now: datetime, /) -> list[Record]:
        self.pages += 1
        if self.pages == 2 and not self.loses and self.arrived < 12:
            self.arrived += 1
            admin = str(1001 + self.arrived % 6)
            self.stage.story.place(Call(kind="inbound", extension=admin, number="+15550100298", talks_s=100), now)
        records = self._active(extension, now)
        return records[1:] if self.pages > 1 and self.loses else records


@pytest.mark.parametrize("loses", [False, True])
def test_a_list_that_changes_while_its_pages_are_turned(monkeypatch: pytest.MonkeyPatch, loses: bool) -> None:
    """Rows move to the next page, or to the one before that was read already: no call twice, none missed, none ended
    for it, and never more requests than allowed.
    """
    monkeypatch.setitem(client.LIVE_LIST, "perPage", "3")
    calls = [
        Call(at_s=5 * n, kind="inbound", extension=str(1001 + n % 6), number="+15550100299", talks_s=150)
        for n in range(8)
    ]

    async def turning() -> Stage:
        async with Stage(6, calls).open() as stage:
            Restless(stage, loses=loses)
            async with stage.house.watching({"acme": stage.source()}):
                await stage.clock.sleep(900)
        return stage

    stage = run(turning())
    assert 429 not in {request.status for request in stage.platform.requests}
    assert max(int(dict(p.split("=") for p in r.query.split("&")).get("page", 1)) for r in stage.requests(LISTS)) >= 3
    events = [event for event in stage.house.outbox.events if isinstance(event, CallEvent)]
    expected = sorted((f"{truth.extension_id}/{truth.session_id}", "answered") for truth in stage.truths)
    ends = [event for event in events if event.type == "call.ended"]
    assert sorted((event.call.call_id, str(event.call.disposition)) for event in ends) == expected
    assert len({(event.call.call_id, event.type) for event in events}) == len(events)
    assert len(stage.truths) == (8 if loses else 20)


async def colleagues() -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """Six extensions with a credential each; every minute a queue rings three of them, and one answers."""
    credentials = [ours(number) for number in range(6)]
    offers = [tuple(f"{1001 + (first + n) % 6}" for n in range(3)) for first in range(6)]
    calls = [
        Call(
            at_s=20 + 60 * n, kind="queue", extension=rung[n % 3], offers=(rung,), number=f"+1555010020{n}", talks_s=20
        )
        for n, rung in enumerate(offers)
    ]
    async with Stage(6, calls, credentials=credentials).open() as stage:
        wanted = {f"phone_{n}": stage.source("~", credential=one) for n, one in enumerate(credentials)}
        stage.house.sources.set_ownership(wanted)
        async with stage.house.watching(wanted):
            await stage.clock.sleep(480)
    known = [call for calls in stage.house.outbox.calls.values() for call in calls.values()]
    got = sorted((call.call_id, str(call.disposition)) for call in known)
    return got, sorted((f"{truth.extension_id}/{truth.session_id}", str(truth.disposition)) for truth in stage.truths)


def test_colleagues_with_a_credential_each_miss_no_call_that_one_of_them_answered() -> None:
    got, truths = run(colleagues())
    assert [disposition for _, disposition in truths].count("answered_elsewhere") == 12
    assert got == truths
