"""The client against answers that are written down: what it asks, what it makes of the answers."""

import asyncio
import json
import re
from base64 import b64encode
from datetime import timedelta
from typing import Any

import pytest
from aiohttp import ClientSession
from aioresponses import CallbackResult, aioresponses
from yarl import URL

from callcast import __version__
from callcast.calls.model import State, Target
from callcast.ports.upstream import Identity, Places, PollFailed
from callcast.ringcentral import client as client_module
from callcast.ringcentral import token as token_module
from callcast.ringcentral.client import Client
from callcast.ringcentral.settings import SourceSettings
from callcast.ringcentral.sign_in import SignIns
from callcast.settings.secret import Secret
from tests import TESTS
from tests.clock import TurnedClock
from tests.unit.ringcentral.recording import CLIENT_SECRET, JWT, SERVER, RecordedTelemetry, make_client

SAMPLES = TESTS / "samples"
TARGET = Target(source="acme", extension_id="62264425016")
ACCOUNT = Target(source="acme")
TOKEN_URL = f"{SERVER}/restapi/oauth/token"
LIST_URL = re.compile(rf"^{SERVER}/restapi/v1.0/account/~/extension/62264425016/active-calls\?")
ACCOUNT_URL = re.compile(rf"^{SERVER}/restapi/v1.0/account/~/active-calls\?")
TOKEN = {"access_token": "token-1", "expires_in": 3600, "owner_id": "62264425016", "token_type": "bearer"}
RINGING = (SAMPLES / "active-calls" / "seed-direct-1-ringing.json").read_text()
ANSWERED = (SAMPLES / "active-calls" / "seed-direct-2-answered.json").read_text()


def sample_error(name: str) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((SAMPLES / "errors" / f"{name}.json").read_text())
    return loaded


def record(number: int, **fields: Any) -> dict[str, Any]:
    """A ringing call of another session each."""
    given: dict[str, Any] = json.loads(RINGING)["records"][0]
    names = {"id": f"id-{number}", "sessionId": str(1000 + number), "telephonySessionId": f"s-{number}"}
    return {**given, **names, **fields}


def page(*records: dict[str, Any], next_page: str | None = None) -> dict[str, Any]:
    navigation = {"nextPage": {"uri": next_page}} if next_page else {}
    return {"records": list(records), "navigation": navigation, "paging": {"page": 1, "perPage": 1000}}


def next_url(number: int) -> str:
    """As the platform writes it: with the account's number where the request had `~`."""
    return f"{SERVER}/restapi/v1.0/account/809646016/active-calls?page={number}&perPage=1000&view=Detailed"


@pytest.fixture
def client(session: ClientSession, clock: TurnedClock, telemetry: RecordedTelemetry) -> Client:
    return make_client(session, clock, telemetry)


def requests_of(answers: aioresponses, method: str, path: str) -> list[tuple[URL, dict[str, Any]]]:
    return [
        (url, call.kwargs) for (m, url), calls in answers.requests.items() for call in calls
        if m == method and url.path.endswith(path)
    ]  # fmt: skip


async def test_a_poll_asks_for_what_is_needed(client: Client, answers: aioresponses, clock: TurnedClock) -> None:
    """One request, with view, type and page size, the token, and our name; the sample becomes a snapshot."""
    answers.post(TOKEN_URL, payload=TOKEN)
    answers.get(LIST_URL, body=RINGING)
    snapshot = await client.poll(TARGET)
    assert snapshot.target == TARGET
    assert [s.state for s in snapshot.observations] == [State.RINGING]
    assert snapshot.taken_at == clock.now()
    [(url, sent)] = requests_of(answers, "GET", "/active-calls")
    assert dict(url.query) == {"view": "Detailed", "type": "Voice", "perPage": "1000"}
    assert sent["headers"]["Authorization"] == "Bearer token-1"
    assert sent["headers"]["User-Agent"] == f"callcast/{__version__}"
    assert sent["allow_redirects"] is False
    assert sent["timeout"].total == 10


async def test_the_token_is_asked_for_as_documented(client: Client, answers: aioresponses) -> None:
    """A form with the JWT bearer grant, the app's id and secret as basic auth; its owner is who we are."""
    answers.post(TOKEN_URL, payload=TOKEN)
    assert await client.identify() == Identity(extension_id="62264425016")
    [(_, sent)] = requests_of(answers, "POST", "/token")
    assert sent["data"] == {"grant_type": "urn:ietf:params:oauth:grant-type:jwt-bearer", "assertion": JWT}
    assert sent["headers"]["Authorization"] == "Basic " + b64encode(f"client-id:{CLIENT_SECRET}".encode()).decode()


async def test_whose_credential_it_is_is_kept_until_the_credential_changes(
    session: ClientSession, clock: TurnedClock, telemetry: RecordedTelemetry, answers: aioresponses
) -> None:
    """A restart asks nothing; another JWT, app or server asks anew; what is kept holds no secret."""
    answers.post(TOKEN_URL, payload=TOKEN, repeat=True)
    assert (await make_client(session, clock, telemetry).identify()).extension_id == "62264425016"
    kept = {"own_extension": telemetry.notes["own_extension"]}
    assert (await make_client(session, clock, telemetry, notes=kept).identify()).extension_id == "62264425016"
    assert len(requests_of(answers, "POST", "/token")) == 1
    other_url = "https://other.example.com"
    answers.post(f"{other_url}/restapi/oauth/token", payload={**TOKEN, "owner_id": "78"}, repeat=True)
    for change in ({"jwt": Secret("another")}, {"client_id": "another"}, {"server": other_url}):
        await clock.turn(60)
        await make_client(session, clock, telemetry, notes=kept, **change).identify()
    assert len(requests_of(answers, "POST", "/token")) == 4
    assert (await make_client(session, clock, telemetry, notes=kept, server=other_url).identify()).extension_id == "78"
    assert JWT.encode() not in telemetry.notes["own_extension"]
    assert CLIENT_SECRET.encode() not in telemetry.notes["own_extension"]


async def test_a_kept_owner_that_cannot_be_read_is_asked_for_again(
    session: ClientSession, clock: TurnedClock, telemetry: RecordedTelemetry, answers: aioresponses
) -> None:
    """Of another version, or damaged: the token endpoint says it again."""
    answers.post(TOKEN_URL, payload=TOKEN, repeat=True)
    client = make_client(session, clock, telemetry, notes={"own_extension": b"62264425016"})
    assert (await client.identify()).extension_id == "62264425016"
    assert len(requests_of(answers, "POST", "/token")) == 1


async def test_a_token_without_owner_is_a_failure(client: Client, answers: aioresponses) -> None:
    """No extension is invented where the platform does not name it."""
    answers.post(TOKEN_URL, payload={k: v for k, v in TOKEN.items() if k != "owner_id"})
    with pytest.raises(PollFailed, match="owner_id"):
        await client.identify()


async def test_an_unchanged_record_is_not_decoded_again(
    client: Client, answers: aioresponses, clock: TurnedClock
) -> None:
    """A record with the same bytes gives the very same observation, in a snapshot with a new time."""
    answers.post(TOKEN_URL, payload=TOKEN)
    for body in (RINGING, RINGING, ANSWERED):
        answers.get(LIST_URL, body=body)
    first, second, third = [await client.poll(TARGET) for _ in range(3)]
    assert second.observations[0] is first.observations[0]
    assert second.taken_at > first.taken_at
    assert [s.state for s in third.observations] == [State.CONNECTED]


async def test_pages_are_followed_and_shifted_rows_count_once(
    client: Client, answers: aioresponses, telemetry: RecordedTelemetry
) -> None:
    """A call that comes between two pages pushes a row to the next page: neither doubled nor missed."""
    answers.post(TOKEN_URL, payload=TOKEN)
    answers.get(ACCOUNT_URL, payload=page(record(3), record(2), next_page=next_url(2)))
    answers.get(ACCOUNT_URL, payload=page(record(2), record(1), next_page=next_url(3)))
    answers.get(ACCOUNT_URL, payload=page(record(0)))
    snapshot = await client.poll(ACCOUNT)
    assert sorted(s.session_id for s in snapshot.observations) == ["s-0", "s-1", "s-2", "s-3"]
    pages = [url.query.get("page") for url, _ in requests_of(answers, "GET", "/active-calls")]
    assert pages == [None, "2", "3"]
    assert telemetry.outcomes("active_calls") == ["200"] * 3


async def test_unchanged_pages_are_followed(client: Client, answers: aioresponses) -> None:
    """The second page after an unchanged first one is read, and a change on it is detected."""
    answers.post(TOKEN_URL, payload=TOKEN)
    first = page(record(2), next_page=next_url(2))
    for second in (page(record(1)), page(record(1)), page(record(1), record(0))):
        answers.get(ACCOUNT_URL, payload=first)
        answers.get(ACCOUNT_URL, payload=second)
    one, two, three = [await client.poll(ACCOUNT) for _ in range(3)]
    assert all(b is a for a, b in zip(one.observations, two.observations, strict=True))
    assert len(three.observations) == 3


async def test_a_list_that_grows_beyond_a_page_is_followed(client: Client, answers: aioresponses) -> None:
    """The second look's first page leads on where the first poll's did not."""
    answers.post(TOKEN_URL, payload=TOKEN)
    answers.get(ACCOUNT_URL, payload=page(record(1)))
    answers.get(ACCOUNT_URL, payload=page(record(2), next_page=next_url(2)))
    answers.get(ACCOUNT_URL, payload=page(record(1)))
    assert len((await client.poll(ACCOUNT)).observations) == 1
    assert len((await client.poll(ACCOUNT)).observations) == 2


async def test_all_pages_together_have_one_time_limit(
    client: Client, answers: aioresponses, clock: TurnedClock
) -> None:
    """Three pages of 8 s each are not a poll of 24 s."""

    async def slow(*_: Any, **__: Any) -> CallbackResult:
        await clock.turn(8)
        number = len(requests_of(answers, "GET", "/active-calls"))
        return CallbackResult(payload=page(record(number), next_page=next_url(number + 1)))

    answers.post(TOKEN_URL, payload=TOKEN)
    answers.get(ACCOUNT_URL, callback=slow, repeat=True)
    with pytest.raises(PollFailed) as failed:
        await client.poll(ACCOUNT)
    assert failed.value.reason == "timeout"
    assert len(requests_of(answers, "GET", "/active-calls")) == 2


async def test_a_poll_of_several_pages_is_paced_as_several_requests(
    client: Client, answers: aioresponses, clock: TurnedClock
) -> None:
    """Pages follow at once, but the next poll waits for all of them, and the pace says so."""
    answers.post(TOKEN_URL, payload=TOKEN)
    assert client.spacing_s() == 7.5
    for _ in range(2):
        answers.get(ACCOUNT_URL, payload=page(record(2), next_page=next_url(2)))
        answers.get(ACCOUNT_URL, payload=page(record(1)))
    began = clock.monotonic()
    await client.poll(ACCOUNT)
    assert clock.monotonic() == began
    assert client.spacing_s() == 15
    await client.poll(ACCOUNT)
    assert clock.monotonic() == pytest.approx(began + 15)


async def test_an_unpaced_poll_does_not_wait_for_the_grid(
    client: Client, answers: aioresponses, clock: TurnedClock
) -> None:
    """It is sent at once while a place is free, and shows in the places of the source with each of its pages."""
    answers.post(TOKEN_URL, payload=TOKEN)
    for _ in range(2):
        answers.get(ACCOUNT_URL, payload=page(record(2), next_page=next_url(2)))
        answers.get(ACCOUNT_URL, payload=page(record(1)))
    began = clock.monotonic()
    await client.poll(ACCOUNT)
    await client.poll(ACCOUNT, paced=False)
    assert clock.monotonic() == began
    assert client.places() == Places(used=4, limit=8, spacing_s=15)


async def test_a_target_that_is_not_polled_any_more_costs_the_others_nothing(
    client: Client, answers: aioresponses
) -> None:
    """One extension with nine pages beside one with one: removed or refused, it does not slow the other."""
    other = Target(source="acme", extension_id="102")
    other_url = re.compile(rf"^{SERVER}/restapi/v1.0/account/~/extension/102/active-calls")
    base = f"{SERVER}/restapi/v1.0/account/~/extension/102/active-calls?page="

    async def nine_pages() -> None:
        for number in range(1, 10):
            more = f"{base}{number + 1}" if number < 9 else None
            answers.get(other_url, payload=page(record(number), next_page=more))
        await client.poll(other)
        assert client.spacing_s() == 7.5 * 5

    answers.post(TOKEN_URL, payload=TOKEN, repeat=True)
    answers.get(LIST_URL, body=RINGING, repeat=True)
    client.watch([TARGET, other])
    await client.poll(TARGET)
    await nine_pages()
    answers.get(other_url, status=403)
    with pytest.raises(PollFailed):
        await client.poll(other)
    assert client.spacing_s() == 7.5
    await nine_pages()
    client.watch([TARGET])
    assert client.spacing_s() == 7.5


@pytest.mark.parametrize(
    "elsewhere",
    [
        "https://evil.example.net/restapi/v1.0/account/~/tokens?page=2",
        f"{SERVER}/restapi/v1.0/account/~/call-log?page=2",
        f"{SERVER}/restapi/v1.0/account/~/active-calls?view=Detailed",
        "https://[x/restapi/v1.0/account/~/active-calls?page=2",
        "\x00",
    ],
)
async def test_a_next_page_that_leads_elsewhere_is_not_followed(
    client: Client, answers: aioresponses, elsewhere: str
) -> None:
    """Another list, or the page that was just read: the poll has failed, and no other request was sent."""
    answers.post(TOKEN_URL, payload=TOKEN)
    answers.get(ACCOUNT_URL, payload=page(record(1), next_page=elsewhere))
    with pytest.raises(PollFailed) as failed:
        await client.poll(ACCOUNT)
    assert failed.value.reason == "parse"
    assert len(requests_of(answers, "GET", "")) == 1


async def test_another_host_is_never_asked(client: Client, answers: aioresponses) -> None:
    """Of a next page's address only the query is used: the token goes nowhere but to the configured server."""
    answers.post(TOKEN_URL, payload=TOKEN)
    foreign = "https://evil.example.net/restapi/v1.0/account/1/active-calls?page=2"
    answers.get(ACCOUNT_URL, payload=page(record(1), next_page=foreign))
    answers.get(ACCOUNT_URL, payload=page(record(0)))
    assert len((await client.poll(ACCOUNT)).observations) == 2
    assert {url.host for _, url in answers.requests} == {"platform.example.com"}


async def test_pages_without_end_are_a_failure(
    session: ClientSession, clock: TurnedClock, telemetry: RecordedTelemetry, answers: aioresponses
) -> None:
    """A list that always has another page is given up after a bounded number of them."""
    client = make_client(session, clock, telemetry, heavy_per_minute=10_000)
    numbers = iter(range(2, 1000))
    answers.post(TOKEN_URL, payload=TOKEN)
    answers.get(
        ACCOUNT_URL,
        callback=lambda *_, **__: CallbackResult(payload=page(record(1), next_page=next_url(next(numbers)))),
        repeat=True,
    )
    with pytest.raises(PollFailed, match="pages"):
        await client.poll(ACCOUNT)
    assert len(requests_of(answers, "GET", "/active-calls")) == client_module.PAGES_MAX


async def test_all_pages_together_are_bounded(
    client: Client, answers: aioresponses, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pages that are each small enough must not fill the memory together."""
    monkeypatch.setattr(client_module, "RESPONSE_BYTES_MAX", 7000)
    answers.post(TOKEN_URL, payload=TOKEN)
    answers.get(ACCOUNT_URL, payload=page(*[record(i) for i in range(3)], next_page=next_url(2)))
    answers.get(ACCOUNT_URL, payload=page(*[record(i) for i in range(3, 9)]))
    with pytest.raises(PollFailed, match="together") as failed:
        await client.poll(ACCOUNT)
    assert failed.value.reason == "parse"


async def test_half_of_the_pages_is_no_poll(client: Client, answers: aioresponses) -> None:
    """When a later page fails the whole poll has failed; the next whole one counts."""
    answers.post(TOKEN_URL, payload=TOKEN)
    answers.get(ACCOUNT_URL, payload=page(record(2), next_page=next_url(2)))
    answers.get(ACCOUNT_URL, status=502)
    with pytest.raises(PollFailed) as failed:
        await client.poll(ACCOUNT)
    assert failed.value.reason == "server"
    answers.get(ACCOUNT_URL, payload=page(record(2)))
    assert len((await client.poll(ACCOUNT)).observations) == 1


async def test_odd_records_are_told_and_the_good_ones_count(
    client: Client, answers: aioresponses, telemetry: RecordedTelemetry
) -> None:
    """A record without a required field is left out and reported; an unknown word is only reported."""
    answers.post(TOKEN_URL, payload=TOKEN)
    lacking = record(1)
    del lacking["startTime"]
    answers.get(LIST_URL, payload=page(lacking, record(2, result="Teleported"), record(3, duration="long")))
    assert len((await client.poll(TARGET)).observations) == 2
    assert telemetry.bad == ["startTime"]
    answers.get(LIST_URL, payload=page({**lacking, "duration": 99}, record(2, id=17), record(3)))
    await client.poll(TARGET)
    assert telemetry.bad == ["startTime", "startTime", "id"]
    assert telemetry.bad_records[0] == telemetry.bad_records[1] != telemetry.bad_records[2]
    assert ("result", "Teleported") in telemetry.words
    assert "duration" in [field for field, _ in telemetry.words]
    words = list(telemetry.words)
    answers.get(LIST_URL, payload=page({**lacking, "duration": 99}, record(2, id=17), record(4)))
    await client.poll(TARGET)
    assert (len(telemetry.bad), telemetry.words) == (3, words), "an unchanged list is reported once"


REFUSALS = [
    (401, {"errors": [{"errorCode": "OAU-136", "message": "Account is disabled"}]}, "auth", "OAU-136"),
    (403, "403-app-permission-CMN-401", "permission", "ReadCallLog: add it to the app"),
    (403, {"errors": [{"errorCode": "CMN-404", "message": "no"}]}, "permission", "administrator's credential"),
    (
        403,
        {"errors": [{"errorCode": "CMN-408", "message": "user needs to have [ReadCompanyCallLog] permission"}]},
        "permission",
        "ReadCompanyCallLog: an administrator",
    ),
    (404, {"errors": [{"errorCode": "CMN-102", "message": "Resource not found"}]}, "permission", "callcast extensions"),
    (408, {}, "timeout", "408"),
    (500, {}, "server", "500"),
    (502, {}, "server", "502"),
    (503, "503-CMN-211-ha-mode", "server", "limited mode"),
    (504, {}, "server", "504"),
    (302, {}, "server", "redirects are not followed"),
    (400, {"errors": [{"errorCode": "CMN-101", "message": "Parameter [view] is wrong"}]}, "server", "CMN-101"),
    (204, {}, "parse", "204"),
]


@pytest.mark.parametrize(("status", "body", "reason", "words"), REFUSALS)
async def test_each_refusal_has_its_reason_and_its_remedy(
    client: Client, answers: aioresponses, status: int, body: Any, reason: str, words: str
) -> None:
    """The word for the metric, a sentence that says what to do, and the id that support asks for."""
    payload = sample_error(body) if isinstance(body, str) else body
    answers.post(TOKEN_URL, payload=TOKEN, repeat=True)
    headers = {"RCRequestId": "req-1", "Location": "/x"}
    answers.get(LIST_URL, status=status, payload=payload, headers=headers, repeat=True)
    with pytest.raises(PollFailed) as failed:
        await client.poll(TARGET)
    assert failed.value.reason == reason
    assert words in failed.value.detail
    assert failed.value.request_id == "req-1"


@pytest.mark.parametrize("body", ["<html>soon</html>", "{", "[]", '{"records": 1}', "", '"x"', "null", "\xff\xfe"])
async def test_what_is_no_page_is_a_failed_poll(client: Client, answers: aioresponses, body: str) -> None:
    """HTML, half of JSON, another shape, another encoding: parse, never an empty list."""
    answers.post(TOKEN_URL, payload=TOKEN)
    answers.get(LIST_URL, body=body.encode("latin-1"))
    with pytest.raises(PollFailed) as failed:
        await client.poll(TARGET)
    assert failed.value.reason == "parse"


async def test_the_platforms_words_lose_secrets_and_numbers(client: Client, answers: aioresponses) -> None:
    """What the platform repeats of a token or a phone number does not reach the log."""
    message = "Token corrupted: eyJhbGciOiJSUzI1NiIsInR5cCI6IkpXVCJ9 from +16504306662"
    answers.post(TOKEN_URL, payload=TOKEN)
    answers.get(LIST_URL, status=400, payload={"errors": [{"errorCode": "CMN-101", "message": message}]})
    with pytest.raises(PollFailed) as failed:
        await client.poll(TARGET)
    assert "eyJ" not in str(failed.value)
    assert "6504306662" not in str(failed.value)
    assert "Token corrupted" in str(failed.value)


async def test_the_platforms_clock_is_followed(client: Client, answers: aioresponses, clock: TurnedClock) -> None:
    """A Date that is minutes ahead moves our time forward to it; one that agrees within its second does not."""
    ours = clock.now()
    answers.post(TOKEN_URL, payload=TOKEN, headers={"Date": http_date(ours + timedelta(minutes=4))})
    answers.get(LIST_URL, body=RINGING, headers={"Date": http_date(ours + timedelta(minutes=4))})
    snapshot = await client.poll(TARGET)
    assert abs(snapshot.taken_at - clock.now() - timedelta(minutes=4)) <= timedelta(seconds=1)


async def test_the_clock_of_somebody_in_between_is_not_followed(
    client: Client, answers: aioresponses, clock: TurnedClock
) -> None:
    """An error page of a proxy, whose clock is months off, moves nothing."""
    answers.post(TOKEN_URL, payload=TOKEN)
    elsewhere = {"Date": http_date(clock.now() + timedelta(days=200))}
    answers.get(LIST_URL, status=502, body="<html>", content_type="text/html", headers=elsewhere)
    with pytest.raises(PollFailed):
        await client.poll(TARGET)
    assert abs(client.now() - clock.now()) <= timedelta(seconds=1)


def http_date(at: Any) -> str:
    return str(at.strftime("%a, %d %b %Y %H:%M:%S GMT"))


@pytest.mark.parametrize("server", ["http://platform.example.com", "ftp://127.0.0.1", "platform.example.com"])
async def test_plain_text_is_refused_beyond_this_machine(
    session: ClientSession, clock: TurnedClock, telemetry: RecordedTelemetry, server: str
) -> None:
    """A token is never sent in the clear over a network, unless the configuration permits it."""
    with pytest.raises(ValueError, match="https"):
        make_client(session, clock, telemetry, server=server)
    make_client(session, clock, telemetry, server="http://127.0.0.1:8080")
    make_client(session, clock, telemetry, server="http://platform.example.com", allow_plaintext=True)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.2", "127.8.8.8", "localhost", "LOCALHOST", "[::1]"])
async def test_what_the_configuration_takes_for_this_machine_the_client_takes_too(
    session: ClientSession, clock: TurnedClock, telemetry: RecordedTelemetry, host: str
) -> None:
    """A server that `check` passes never ends `run`."""
    given = {"client_id": "a", "client_secret": "b", "jwt": "c", "server": f"http://{host}:8078"}
    make_client(session, clock, telemetry, server=SourceSettings.model_validate(given).server)


async def test_closing_revokes_only_where_that_is_wanted(
    session: ClientSession, clock: TurnedClock, telemetry: RecordedTelemetry, answers: aioresponses
) -> None:
    """Revoking ends a session that other processes may share, so it needs `revoke_on_exit`."""
    answers.post(TOKEN_URL, payload=TOKEN, repeat=True)
    answers.post(f"{SERVER}/restapi/oauth/revoke", status=200, repeat=True)
    for revoke in (False, True):
        client = make_client(session, clock, telemetry, revoke_on_exit=revoke)
        await client.identify()
        await client.close()
        revoked = requests_of(answers, "POST", "/revoke")
        assert [sent["data"] for _, sent in revoked] == ([{"token": "token-1"}] if revoke else [])
    assert set(telemetry.notes) == {"budget.heavy", "own_extension"}


async def test_closing_waits_for_no_turn(
    session: ClientSession, telemetry: RecordedTelemetry, answers: aioresponses, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the token requests of the minute used up, the token is left to end by itself; what matters is kept."""
    monkeypatch.setattr(token_module, "REVOKE_TIMEOUT_S", 0.01)
    answers.post(TOKEN_URL, payload=TOKEN, repeat=True)
    clock = TurnedClock()
    sign_ins = SignIns(clock)
    clients = [
        make_client(session, clock, telemetry, jwt=Secret(f"jwt-{n}"), sign_ins=sign_ins, revoke_on_exit=True)
        for n in range(4)
    ]
    for client in clients:
        await client.identify()
    telemetry.notes.clear()
    await clients[0].close()
    assert requests_of(answers, "POST", "/revoke") == []
    assert set(telemetry.notes) == {"budget.heavy"}


async def test_the_last_source_of_a_credential_revokes_its_token(
    session: ClientSession, clock: TurnedClock, telemetry: RecordedTelemetry, answers: aioresponses
) -> None:
    """Sources with the same credential share a token: one that is removed does not end it for the others."""
    answers.post(TOKEN_URL, payload=TOKEN)
    answers.post(re.compile(".*/revoke"), repeat=True)
    answers.get(LIST_URL, body=RINGING, repeat=True)
    sign_ins = SignIns(clock)
    first, last = (make_client(session, clock, telemetry, sign_ins=sign_ins, revoke_on_exit=True) for _ in range(2))
    await first.poll(TARGET)
    await first.close()
    assert requests_of(answers, "POST", "/revoke") == []
    await last.poll(TARGET)
    await last.close()
    assert len(requests_of(answers, "POST", "/revoke")) == 1
    assert len(requests_of(answers, "POST", "/oauth/token")) == 1


async def test_sources_that_are_closed_together_revoke_their_token_once(
    session: ClientSession, clock: TurnedClock, telemetry: RecordedTelemetry, answers: aioresponses
) -> None:
    """As at the end of the service."""
    answers.post(TOKEN_URL, payload=TOKEN)
    answers.post(re.compile(".*/revoke"), repeat=True)
    sign_ins = SignIns(clock)
    clients = [make_client(session, clock, telemetry, sign_ins=sign_ins, revoke_on_exit=True) for _ in range(3)]
    await clients[0].identify()
    await asyncio.gather(*(client.close() for client in clients))
    assert len(requests_of(answers, "POST", "/revoke")) == 1
