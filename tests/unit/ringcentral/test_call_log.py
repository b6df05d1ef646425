"""The requests to the call log, and what is made of the answers."""

import json
import re
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from aiohttp import ClientSession, web
from aioresponses import aioresponses

from callcast.calls.model import Call, Direction, Disposition, Provider, State, Target
from callcast.ports.upstream import PollFailed
from callcast.ringcentral.client import Client
from tests import TESTS
from tests.clock import TurnedClock
from tests.integration.ringcentral.serving import serving
from tests.unit.ringcentral.recording import SERVER, RecordedTelemetry, make_client
from tests.unit.ringcentral.test_client import TOKEN, TOKEN_URL, page, record, requests_of

SAMPLES = TESTS / "samples"
ENDED = json.loads((SAMPLES / "active-calls" / "seed-direct-3-ended.json").read_text())["records"][0]
RINGING = json.loads((SAMPLES / "active-calls" / "seed-direct-1-ringing.json").read_text())["records"][0]
EXTENSION = "62264425016"
EXTENSION_LOG = re.compile(rf"^{SERVER}/restapi/v1.0/account/~/extension/{EXTENSION}/call-log\?")
ACCOUNT_LOG = re.compile(rf"^{SERVER}/restapi/v1.0/account/~/call-log\?")
STARTED = datetime(2021, 1, 19, 23, 58, 57, tzinfo=UTC)
EMPTY = page()


@pytest.fixture
def client(session: ClientSession, clock: TurnedClock, telemetry: RecordedTelemetry) -> Client:
    return make_client(session, clock, telemetry)


def vanished(**fields: Any) -> Call:
    provider = Provider(name="ringcentral", record_id="LIef/14l+8", session_id="538332041016")
    given: dict[str, Any] = {
        "source": "acme",
        "call_id": f"{EXTENSION}/s-8f8125f1aeb944f486531c351a2f520e",
        "session_id": "s-8f8125f1aeb944f486531c351a2f520e",
        "extension_id": EXTENSION,
        "account_id": "809646016",
        "direction": Direction.INBOUND,
        "state": State.RINGING,
        "started_at": STARTED,
        "provider": provider,
    }
    return Call(**{**given, **fields})


def queries(answers: aioresponses) -> list[dict[str, str]]:
    return [dict(url.query) for url, _ in requests_of(answers, "GET", "/call-log")]


async def test_a_call_is_found_by_its_session(client: Client, answers: aioresponses) -> None:
    """One request, by telephonySessionId, reaching back beyond the default day to before the call's start."""
    answers.post(TOKEN_URL, payload=TOKEN)
    answers.get(EXTENSION_LOG, payload=page(ENDED))
    [observation] = await client.find(vanished())
    assert (observation.state, observation.disposition) == (State.ENDED, Disposition.ANSWERED)
    [query] = queries(answers)
    assert query == {
        "view": "Detailed",
        "telephonySessionId": "s-8f8125f1aeb944f486531c351a2f520e",
        "dateFrom": "2021-01-19T22:58:57.000Z",
    }


async def test_then_by_the_old_session_then_by_the_record(client: Client, answers: aioresponses) -> None:
    """Nothing under the first key: the second stands alone (CLG-110), the third asks for the record itself."""
    answers.post(TOKEN_URL, payload=TOKEN)
    answers.get(EXTENSION_LOG, payload=EMPTY)
    answers.get(EXTENSION_LOG, payload=EMPTY)
    answers.get(re.compile(rf"^{SERVER}/restapi/v1.0/account/~/extension/{EXTENSION}/call-log/"), payload=ENDED)
    [observation] = await client.find(vanished())
    assert observation.state is State.ENDED
    assert set(queries(answers)[1]) == {"view", "sessionId"}
    [(url, _)] = [(url, c) for (_, url), c in answers.requests.items() if "/call-log/" in url.raw_path]
    assert url.raw_path.endswith("/call-log/LIef%2F14l%2B8")


async def test_a_call_that_the_log_does_not_have_yet(client: Client, answers: aioresponses) -> None:
    """404 for the record is an answer: nothing yet."""
    answers.post(TOKEN_URL, payload=TOKEN)
    answers.get(EXTENSION_LOG, payload=EMPTY, repeat=True)
    answers.get(re.compile(".*/call-log/.*"), status=404, payload={"errors": [{"errorCode": "CMN-102"}]})
    assert list(await client.find(vanished())) == []


async def test_the_session_that_all_conferences_share_is_no_key(client: Client, answers: aioresponses) -> None:
    """sessionId "0" would find other people's conferences."""
    answers.post(TOKEN_URL, payload=TOKEN)
    answers.get(EXTENSION_LOG, payload=EMPTY, repeat=True)
    answers.get(re.compile(".*/call-log/.*"), status=404, payload={})
    await client.find(vanished(provider=Provider(name="ringcentral", record_id="r", session_id="0")))
    assert ["sessionId" in query for query in queries(answers)] == [False]


async def test_a_call_known_by_its_record_is_asked_for_by_it(client: Client, answers: aioresponses) -> None:
    """A call without a session id of its own has only its record."""
    answers.post(TOKEN_URL, payload=TOKEN)
    answers.get(re.compile(".*/call-log/.*"), payload={**ENDED, "sessionId": "0"})
    provider = Provider(name="ringcentral", record_id="r", session_id="0")
    [observation] = await client.find(vanished(session_id="r", provider=provider))
    assert queries(answers) == []
    assert observation.session_id == "r"


async def test_what_another_key_found_keeps_the_calls_name(client: Client, answers: aioresponses) -> None:
    """A call known by sessionId whose record got a telephonySessionId at its end is still that call."""
    answers.post(TOKEN_URL, payload=TOKEN)
    answers.get(EXTENSION_LOG, payload=page(ENDED))
    [observation] = await client.find(vanished(session_id="538332041016"))
    assert observation.session_id == "538332041016"
    assert [set(query) for query in queries(answers)] == [{"view", "sessionId"}]


async def test_the_other_end_of_calling_oneself_is_another_call(client: Client, answers: aioresponses) -> None:
    """Both have one sessionId; with a telephonySessionId of its own that record is not ours, and we ask on."""
    answers.post(TOKEN_URL, payload=TOKEN)
    answers.get(EXTENSION_LOG, payload=EMPTY)
    answers.get(EXTENSION_LOG, payload=page({**ENDED, "id": "other", "telephonySessionId": "s-other"}))
    answers.get(re.compile(".*/call-log/.*"), payload=ENDED)
    [observation] = await client.find(vanished())
    assert (observation.session_id, observation.record_id) == (ENDED["telephonySessionId"], ENDED["id"])
    assert len(queries(answers)) == 2


async def test_what_is_found_without_a_name_of_its_own_is_the_calls(client: Client, answers: aioresponses) -> None:
    """A record that has lost its telephonySessionId, or one with the id that the call had in the list."""
    nameless = {key: value for key, value in ENDED.items() if key != "telephonySessionId"}
    for found in (nameless, {**ENDED, "id": "LIef/14l+8", "telephonySessionId": "s-new"}):
        answers.post(TOKEN_URL, payload=TOKEN)
        answers.get(EXTENSION_LOG, payload=EMPTY)
        answers.get(EXTENSION_LOG, payload=page(found))
        [observation] = await client.find(vanished())
        assert observation.session_id == ENDED["telephonySessionId"]


async def test_account_watch_asks_the_account(
    session: ClientSession, clock: TurnedClock, telemetry: RecordedTelemetry, answers: aioresponses
) -> None:
    """A credential that watches the account may not see a colleague's own list."""
    client = make_client(session, clock, telemetry, watch="account", account="809646016")
    answers.post(TOKEN_URL, payload=TOKEN)
    answers.get(re.compile(rf"^{SERVER}/restapi/v1.0/account/809646016/call-log\?"), payload=page(ENDED))
    assert len(await client.find(vanished())) == 1


async def test_a_failing_call_log_is_no_answer(client: Client, answers: aioresponses) -> None:
    """Empty means that the log says nothing; trouble is PollFailed."""
    answers.post(TOKEN_URL, payload=TOKEN)
    answers.get(EXTENSION_LOG, status=503)
    with pytest.raises(PollFailed):
        await client.find(vanished())


async def test_ended_calls_of_a_time_are_paged(
    session: ClientSession, clock: TurnedClock, telemetry: RecordedTelemetry
) -> None:
    """From `after` until now, all pages of 700 calls, rows that shifted once, and only what has ended."""
    live = {**RINGING, "id": "live", "telephonySessionId": "s-live"}
    ended = [{**ENDED, "id": f"id-{i}", "telephonySessionId": f"s-{i}"} for i in range(700)]
    rows = [[live, *ended[:300]], ended[298:600], ended[599:]]
    queries: list[dict[str, str]] = []

    async def call_log(request: web.Request) -> web.Response:
        queries.append(dict(request.query))
        number = int(request.query.get("page", "1"))
        address = f"{SERVER}/restapi/v1.0/account/809646016/call-log?page={number + 1}"
        return web.json_response(page(*rows[number - 1], next_page=address if number < 3 else None))

    async with serving({"/restapi/v1.0/account/~/call-log": call_log}) as url:
        client = make_client(session, clock, telemetry, server=url)
        until = client.now()
        found = await client.ended_since(Target(source="acme"), after=STARTED)
    assert sorted(s.session_id for s in found) == sorted(f"s-{i}" for i in range(700))
    assert queries[0] == {
        "view": "Detailed",
        "type": "Voice",
        "dateFrom": "2021-01-19T23:58:57.000Z",
        "dateTo": until.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "perPage": "1000",
    }
    assert queries[1:] == [{**queries[0], "page": "2"}, {**queries[0], "page": "3"}]


async def test_a_provisional_record_has_not_ended(client: Client, answers: aioresponses) -> None:
    """A queue call reads Stopped in the log while it goes on: it is not among the finished ones."""
    sample = json.loads((SAMPLES / "call-log" / "derived-queue-snapshot-ip-phone-offline.json").read_text())
    answers.post(TOKEN_URL, payload=TOKEN)
    answers.get(ACCOUNT_LOG, payload=page(sample))
    assert await client.ended_since(Target(source="acme"), after=STARTED) == []


async def test_pages_of_the_log_keep_to_its_share(client: Client, answers: aioresponses, clock: TurnedClock) -> None:
    """Ten pages take minutes: the log's share of the budget, not the polls'."""
    answers.post(TOKEN_URL, payload=TOKEN)
    address = f"{SERVER}/restapi/v1.0/account/809646016/call-log?page="
    for number in range(10):
        answers.get(ACCOUNT_LOG, payload=page(record(number), next_page=f"{address}{number + 2}"))
    answers.get(ACCOUNT_LOG, payload=page(ENDED))
    began = clock.monotonic()
    await client.ended_since(Target(source="acme"), after=STARTED)
    assert clock.monotonic() - began > 60
    sent = [call.kwargs["timeout"].total for (_, url), calls in answers.requests.items() for call in calls if url.query]
    assert sent == [20] * 11, "a page that hangs holds up neither the others nor the end of a penalty"


async def test_a_log_without_end_is_given_up(
    session: ClientSession, clock: TurnedClock, telemetry: RecordedTelemetry, answers: aioresponses
) -> None:
    """A page that leads back to itself is not read for ever."""
    client = make_client(session, clock, telemetry, heavy_per_minute=10_000)
    answers.post(TOKEN_URL, payload=TOKEN)
    address = f"{SERVER}/restapi/v1.0/account/809646016/call-log?page=2"
    answers.get(ACCOUNT_LOG, payload=page(ENDED, next_page=address), repeat=True)
    with pytest.raises(PollFailed, match="leads to an earlier page"):
        await client.ended_since(Target(source="acme"), after=STARTED - timedelta(days=1))
    assert len(queries(answers)) == 2
