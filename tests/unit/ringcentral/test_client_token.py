"""The token: as few requests as possible, whatever the platform does."""

import asyncio
import json
import re
from typing import Any

import pytest
from aiohttp import ClientSession
from aioresponses import aioresponses

from callcast.ports.upstream import PollFailed
from callcast.ringcentral.client import Client
from callcast.ringcentral.rate_limiter import PENALTY_MAX_S
from callcast.ringcentral.sign_in import SignIns
from tests.clock import TurnedClock
from tests.unit.ringcentral.recording import CLIENT_SECRET, JWT, RecordedTelemetry, make_client
from tests.unit.ringcentral.test_client import LIST_URL, RINGING, TARGET, TOKEN, TOKEN_URL, requests_of, sample_error

JWT_GRANT = "urn:ietf:params:oauth:grant-type:jwt-bearer"


@pytest.fixture
def client(session: ClientSession, clock: TurnedClock, telemetry: RecordedTelemetry) -> Client:
    return make_client(session, clock, telemetry)


def grants(answers: aioresponses) -> list[str]:
    return [sent["data"]["grant_type"] for _, sent in requests_of(answers, "POST", "/token")]


def refused(code: str) -> dict[str, Any]:
    return {"errors": [{"errorCode": code, "message": "no"}]}


async def failure_of(client: Client) -> PollFailed:
    with pytest.raises(PollFailed) as failed:
        await client.poll(TARGET)
    return failed.value


async def test_all_who_need_a_token_share_one_request(
    session: ClientSession, telemetry: RecordedTelemetry, answers: aioresponses
) -> None:
    """Single flight: ten at once send one request."""
    client = make_client(session, TurnedClock(), telemetry)
    answers.post(TOKEN_URL, payload=TOKEN)
    identities = await asyncio.gather(*[client.identify() for _ in range(10)])
    assert len(set(identities)) == 1
    assert len(grants(answers)) == 1


async def test_the_token_is_renewed_with_time_to_spare(
    client: Client, answers: aioresponses, clock: TurnedClock
) -> None:
    """Not in the first 60 % of its life, and at 90 % at the latest; the poll itself does not wait for it."""
    answers.post(TOKEN_URL, payload=TOKEN, repeat=True)
    answers.get(LIST_URL, body=RINGING, repeat=True)
    await client.poll(TARGET)
    await clock.turn(3600 * 0.6 - 1)
    await client.poll(TARGET)
    await clock.settle()
    assert grants(answers) == [JWT_GRANT]
    await clock.turn(3600 * 0.3 + 1)
    await client.poll(TARGET)
    await clock.settle()
    assert grants(answers) == [JWT_GRANT] * 2


async def test_renewals_are_spread_over_the_lifetime(
    session: ClientSession, clock: TurnedClock, telemetry: RecordedTelemetry, answers: aioresponses
) -> None:
    """Each credential renews at a share of the life that is its own."""
    answers.post(TOKEN_URL, payload=TOKEN, repeat=True)
    sign_ins = SignIns(clock)
    shares = []
    for number in range(40):
        held = sign_ins.keep(f"{number * 0x6666666:08x}", "t", None, 1000)
        shares.append((held.renew_at - clock.monotonic()) / 1000)
    assert all(0.6 <= share <= 0.9 for share in shares)
    assert max(shares) - min(shares) > 0.25


@pytest.mark.parametrize("status", [503, 500, 400])
async def test_a_good_token_stays_in_use_while_it_cannot_be_renewed(
    client: Client, answers: aioresponses, clock: TurnedClock, status: int
) -> None:
    """Until it expires every poll is good, whatever the token endpoint answers; the trouble is reported."""
    answers.post(TOKEN_URL, payload=TOKEN)
    answers.post(TOKEN_URL, status=status, payload={}, repeat=True)
    answers.get(LIST_URL, body=RINGING, repeat=True)
    await client.poll(TARGET)
    while clock.monotonic() < 3600 - 40:
        await client.poll(TARGET)
        await clock.turn(40)
    assert len(grants(answers)) > 2, "it is tried again"
    trouble = client.renewal_trouble()
    assert trouble is not None
    assert str(status) in trouble[0].cause
    assert 0 < trouble[1] < 60
    await clock.turn(60)
    assert (await failure_of(client)).reason == ("auth" if status == 400 else "server")
    assert client.renewal_trouble() is None


async def test_a_renewal_that_hangs_holds_up_no_poll(
    session: ClientSession, telemetry: RecordedTelemetry, answers: aioresponses
) -> None:
    """The token endpoint does not answer; the old token serves meanwhile."""
    clock = TurnedClock()
    client = make_client(session, clock, telemetry)
    answers.post(TOKEN_URL, payload=TOKEN)
    answers.get(LIST_URL, body=RINGING, repeat=True)
    await client.poll(TARGET)
    await clock.turn(3600 * 0.9)
    hangs = asyncio.Event()

    async def never(*_: Any, **__: Any) -> Any:
        await hangs.wait()

    answers.post(TOKEN_URL, callback=never)
    for _ in range(3):
        async with asyncio.timeout(10):
            await client.poll(TARGET)
        await clock.turn(8)
    await client.close()


@pytest.mark.parametrize("lifetime", [30, 1])
async def test_a_short_lived_token_is_used_too(client: Client, answers: aioresponses, lifetime: int) -> None:
    """A token that lives for less than a minute still serves the poll that it was requested for."""
    answers.post(TOKEN_URL, payload={**TOKEN, "expires_in": lifetime}, repeat=True)
    answers.get(LIST_URL, body=RINGING, repeat=True)
    await client.poll(TARGET)
    assert len(grants(answers)) == 1


DEAD_TOKEN = {
    **{code: json.dumps(refused(code)) for code in ("OAU-128", "OAU-129", "OAU-149", "OAU-213", "OAU-134", "AGW-401")},
    "AGW-402": json.dumps(refused("AGW-402")),
    "invalid_token": '{"error": "invalid_token"}',
    "empty": "",
    "html": "<!DOCTYPE html><html><body>401</body></html>",
}


@pytest.mark.parametrize("body", DEAD_TOKEN.values(), ids=DEAD_TOKEN)
async def test_any_401_renews_the_token_once(client: Client, answers: aioresponses, body: str) -> None:
    """Whatever a 401 says, the poll is repeated with a new token."""
    answers.post(TOKEN_URL, payload=TOKEN)
    answers.get(LIST_URL, status=401, body=body)
    answers.post(TOKEN_URL, payload={**TOKEN, "access_token": "token-2"})
    answers.get(LIST_URL, body=RINGING)
    await client.poll(TARGET)
    sent = [kwargs["headers"]["Authorization"] for _, kwargs in requests_of(answers, "GET", "/active-calls")]
    assert sent == ["Bearer token-1", "Bearer token-2"]


async def test_a_token_that_is_refused_again_is_not_renewed_in_a_loop(client: Client, answers: aioresponses) -> None:
    """The platform says 401 whatever we send: two requests, then the poll has failed."""
    answers.post(TOKEN_URL, payload=TOKEN, repeat=True)
    answers.get(LIST_URL, status=401, payload=sample_error("401-token-invalid-OAU-213"), repeat=True)
    assert (await failure_of(client)).reason == "auth"
    assert len(grants(answers)) == 2
    assert len(requests_of(answers, "GET", "/active-calls")) == 2


async def test_a_platform_that_refuses_every_new_token_gets_ever_fewer_requests(
    client: Client, answers: aioresponses, clock: TurnedClock
) -> None:
    """Other credentials of the application need the places: once in five minutes in the end, for an hour."""
    answers.post(TOKEN_URL, payload=TOKEN, repeat=True)
    answers.get(LIST_URL, status=401, payload=refused("OAU-136"), repeat=True)
    times: list[float] = []
    while clock.monotonic() < 3600:
        before = len(grants(answers))
        assert (await failure_of(client)).reason == "auth"
        times += [clock.monotonic()] * (len(grants(answers)) - before)
        await clock.turn(20)
    assert 10 <= len(times) <= 16
    assert all(times[i + 4] - times[i] > 60 for i in range(len(times) - 4))


async def test_a_glitch_that_refuses_every_token_heals_with_the_first_good_answer(
    client: Client, answers: aioresponses, clock: TurnedClock
) -> None:
    """A refused new token is tried on at each poll; when the platform is well again no sign-in is needed."""
    answers.post(TOKEN_URL, payload=TOKEN, repeat=True)
    for _ in range(4):
        answers.get(LIST_URL, status=401, payload={})
    assert (await failure_of(client)).reason == "auth"
    await clock.turn(8)
    assert (await failure_of(client)).reason == "auth"
    await clock.turn(8)
    assert (await failure_of(client)).reason == "auth"
    answers.get(LIST_URL, body=RINGING)
    await clock.turn(8)
    await client.poll(TARGET)
    assert len(grants(answers)) == 2


@pytest.mark.parametrize(
    ("name", "remedy"),
    [("400-invalid-client-OAU-153", "check client_id and client_secret"), ("400-token-expired-OAU-210", "check jwt")],
)
async def test_a_wrong_credential_is_tried_every_five_minutes(
    client: Client, answers: aioresponses, clock: TurnedClock, name: str, remedy: str
) -> None:
    """400 at the token endpoint: each poll fails as `auth` without any request, until five minutes have passed.

    Each failure names the part of the credential that is to be checked.
    """
    answers.post(TOKEN_URL, status=400, payload=sample_error(name))
    for _ in range(29):
        failure = await failure_of(client)
        assert failure.reason == "auth"
        assert remedy in failure.fix
        assert failure.fix in failure.detail
        assert failure.retry_after_s is None or failure.retry_after_s <= 300
        await clock.turn(10)
    assert len(grants(answers)) == 1
    assert requests_of(answers, "GET", "/active-calls") == []
    answers.post(TOKEN_URL, payload=TOKEN)
    answers.get(LIST_URL, body=RINGING)
    await clock.turn(10)
    await client.poll(TARGET)
    assert len(grants(answers)) == 2


@pytest.mark.parametrize(("status", "reason"), [(500, "server"), (503, "server"), (408, "timeout"), (401, "auth")])
async def test_trouble_of_the_token_endpoint_has_its_reason(
    client: Client, answers: aioresponses, status: int, reason: str
) -> None:
    """4xx is the credential, the rest is trouble of the platform."""
    answers.post(TOKEN_URL, status=status, payload={}, headers={"RCRequestId": "req-7"})
    failure = await failure_of(client)
    assert (failure.reason, failure.request_id) == (reason, "req-7")
    assert (await failure_of(client)).reason == reason
    assert len(grants(answers)) == 1


async def test_trouble_is_tried_again_after_ten_seconds(
    client: Client, answers: aioresponses, clock: TurnedClock
) -> None:
    """Documented for 500 and no answer; before that the last failure stands, and no request is made."""
    answers.post(TOKEN_URL, exception=ConnectionResetError())
    assert (await failure_of(client)).reason == "network"
    await clock.turn(9)
    assert (await failure_of(client)).reason == "network"
    await clock.turn(1.5)
    answers.post(TOKEN_URL, payload=TOKEN)
    answers.get(LIST_URL, body=RINGING)
    await client.poll(TARGET)
    assert len(grants(answers)) == 2


async def test_the_token_endpoints_own_penalty_is_kept(
    client: Client, answers: aioresponses, clock: TurnedClock
) -> None:
    """A 429 there silences the token requests for as long as it says; the polls' own group is not held."""
    answers.post(TOKEN_URL, status=429, payload=sample_error("429-CMN-301"), headers={"Retry-After": "60"})
    failure = await failure_of(client)
    assert failure.reason == "rate_limited"
    assert failure.retry_after_s is not None
    assert failure.retry_after_s >= 60
    assert client.hold_s() == 0
    await clock.turn(59)
    assert (await failure_of(client)).reason == "rate_limited"
    assert len(grants(answers)) == 1
    await clock.turn(3)
    answers.post(TOKEN_URL, payload=TOKEN)
    answers.get(LIST_URL, body=RINGING)
    await client.poll(TARGET)


async def test_a_token_endpoint_in_maintenance_is_left_alone(
    client: Client, answers: aioresponses, clock: TurnedClock
) -> None:
    """503 with Retry-After: no request until then, and the reason stays what it is."""
    answers.post(TOKEN_URL, status=503, payload={}, headers={"Retry-After": "60"})
    assert (await failure_of(client)).reason == "server"
    await clock.turn(30)
    assert (await failure_of(client)).reason == "server"
    assert len(grants(answers)) == 1


async def test_an_absurd_retry_after_of_the_token_endpoint_ends_with_the_hour(
    client: Client, answers: aioresponses, clock: TurnedClock
) -> None:
    """500 with a Retry-After of years: after an hour the source signs in again by itself."""
    answers.post(TOKEN_URL, status=500, payload={}, headers={"Retry-After": "99999999"})
    failure = await failure_of(client)
    assert failure.retry_after_s is not None
    assert failure.retry_after_s <= PENALTY_MAX_S
    await clock.turn(PENALTY_MAX_S + 1)
    answers.post(TOKEN_URL, payload=TOKEN)
    answers.get(LIST_URL, body=RINGING)
    await client.poll(TARGET)


async def test_a_turn_without_a_token_takes_nothing_from_the_budget(
    client: Client, answers: aioresponses, clock: TurnedClock, telemetry: RecordedTelemetry
) -> None:
    """The token ends while a poll waits for its turn, and cannot be renewed: nothing was sent, nothing counts."""
    answers.post(TOKEN_URL, payload={**TOKEN, "expires_in": 5})
    answers.get(LIST_URL, body=RINGING)
    await client.poll(TARGET)
    await clock.turn(6)
    answers.post(TOKEN_URL, status=400, payload={})
    assert (await failure_of(client)).reason == "auth"
    await client.close()
    kept = json.loads(telemetry.notes["budget.heavy"])
    assert sum(polls for _, polls, _ in kept["spent"]) == 1


@pytest.mark.parametrize("body", ["<html>", "[]", '{"access_token": 1}', '{"access_token": "x"}', "\xff"])
async def test_a_token_answer_that_cannot_be_read_is_a_failure(
    client: Client, answers: aioresponses, body: str
) -> None:
    """A 200 that holds no token is `parse`, and no poll is tried with nothing."""
    answers.post(TOKEN_URL, body=body.encode("latin-1"))
    assert (await failure_of(client)).reason == "parse"


async def test_a_refresh_token_is_used_once_and_the_jwt_after_it(
    client: Client, answers: aioresponses, clock: TurnedClock
) -> None:
    """Where the app issues refresh tokens they are used, each once; a refused one falls back to the JWT at once."""
    answers.get(LIST_URL, body=RINGING, repeat=True)
    answers.post(TOKEN_URL, payload={**TOKEN, "refresh_token": "refresh-1", "refresh_token_expires_in": 604800})
    await client.poll(TARGET)
    await clock.turn(3600)
    answers.post(TOKEN_URL, payload={**TOKEN, "refresh_token": "refresh-2", "refresh_token_expires_in": 604800})
    await client.poll(TARGET)
    await clock.turn(3600)
    answers.post(TOKEN_URL, status=400, payload=sample_error("400-token-expired-OAU-210"))
    answers.post(TOKEN_URL, payload=TOKEN)
    await client.poll(TARGET)
    await clock.turn(3600)
    answers.post(TOKEN_URL, payload=TOKEN)
    await client.poll(TARGET)
    assert grants(answers) == [JWT_GRANT, "refresh_token", "refresh_token", JWT_GRANT, JWT_GRANT]
    used = [sent["data"].get("refresh_token") for _, sent in requests_of(answers, "POST", "/token")]
    assert used == [None, "refresh-1", "refresh-2", None, None]


async def test_an_expired_refresh_token_is_not_tried(client: Client, answers: aioresponses, clock: TurnedClock) -> None:
    """Past its own end it is worth nothing: the JWT is presented."""
    answers.get(LIST_URL, body=RINGING, repeat=True)
    answers.post(TOKEN_URL, payload={**TOKEN, "refresh_token": "r", "refresh_token_expires_in": 100}, repeat=True)
    await client.poll(TARGET)
    await clock.turn(3600)
    await client.poll(TARGET)
    assert grants(answers) == [JWT_GRANT] * 2


async def test_a_platform_in_trouble_while_refreshing_is_not_asked_twice(
    client: Client, answers: aioresponses, clock: TurnedClock
) -> None:
    """Only a refused refresh token leads to the JWT at once; a 500 would answer that no better."""
    answers.get(LIST_URL, body=RINGING, repeat=True)
    answers.post(TOKEN_URL, payload={**TOKEN, "refresh_token": "r", "refresh_token_expires_in": 9000})
    await client.poll(TARGET)
    await clock.turn(3600)
    answers.post(TOKEN_URL, status=500)
    assert (await failure_of(client)).reason == "server"
    assert len(grants(answers)) == 2


async def test_no_secret_is_in_any_failure(client: Client, answers: aioresponses) -> None:
    """Whatever goes wrong, neither the secrets nor the token are in the error, its causes, or their repr."""
    answers.post(TOKEN_URL, payload=TOKEN, repeat=True)
    for fault in (ValueError("Bearer token-1"), ConnectionResetError("Bearer token-1"), TimeoutError(JWT)):
        answers.get(re.compile(".*active-calls.*"), exception=fault)
        failure: BaseException | None = await failure_of(client)
        while failure is not None:
            shown = f"{failure!r} {failure} {vars(failure)}"
            for secret in ("token-1", JWT, CLIENT_SECRET):
                assert secret not in shown
            failure = failure.__cause__ or failure.__context__
