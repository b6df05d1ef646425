"""What the sources of a process share for signing in: places for token requests, and tokens that outlive a restart."""

import asyncio
import json
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientSession
from aioresponses import CallbackResult, aioresponses

from callcast.ports.upstream import PollFailed
from callcast.ringcentral.client import Client
from callcast.ringcentral.settings import SourceSettings
from callcast.ringcentral.sign_in import FILE, SignIns, digest_of
from callcast.ringcentral.token import ASK_TIMEOUT_S, TROUBLE_WAIT_S
from callcast.settings.secret import Secret
from tests.clock import TurnedClock
from tests.unit.ringcentral.recording import CLIENT_SECRET, JWT, SERVER, RecordedTelemetry, make_client
from tests.unit.ringcentral.test_client import LIST_URL, RINGING, TARGET, TOKEN, TOKEN_URL, requests_of, sample_error


@pytest.fixture
def clock() -> TurnedClock:
    return TurnedClock()


class Office:
    """Sources of one application, each with a JWT of its own."""

    def __init__(self, session: ClientSession, clock: TurnedClock, **kept: Any) -> None:
        self.clock = clock
        self.sign_ins = SignIns(clock, **kept)
        self.telemetry = RecordedTelemetry()
        self._make: Callable[..., Client] = lambda **given: make_client(
            session, clock, self.telemetry, sign_ins=self.sign_ins, **given
        )

    def client(self, number: int = 0, **given: Any) -> Client:
        return self._make(**{"jwt": Secret(f"jwt-{number}"), "notes": {}, **given})


@pytest.fixture
def office(session: ClientSession, clock: TurnedClock) -> Office:
    return Office(session, clock)


def signed_in(answers: aioresponses) -> list[str]:
    """Whose JWT was presented, in order."""
    return [sent["data"]["assertion"] for _, sent in requests_of(answers, "POST", "/token")]


async def over(tasks: list[asyncio.Task[Any]]) -> int:
    return sum(task.done() for task in tasks)


# One budget for each application


async def test_twelve_sources_sign_in_four_a_minute(office: Office, answers: aioresponses, clock: TurnedClock) -> None:
    """In the order in which they came; each says how many are ahead of it, and none has to be refused for that."""
    answers.post(TOKEN_URL, payload=TOKEN, repeat=True)
    clients = [office.client(number) for number in range(12)]
    tasks = [asyncio.create_task(client.identify()) for client in clients]
    await clock.settle()
    assert await over(tasks) == 4
    assert [client.sign_ins_ahead() for client in clients] == [None] * 4 + list(range(8))
    await clock.turn(59)
    assert await over(tasks) == 4
    await clock.turn(3)
    assert await over(tasks) == 8
    assert [client.sign_ins_ahead() for client in clients] == [None] * 8 + list(range(4))
    await clock.turn(62)
    await asyncio.gather(*tasks)
    assert signed_in(answers) == [f"jwt-{number}" for number in range(12)]
    assert {client.sign_ins_ahead() for client in clients} == {None}


async def test_another_application_or_server_has_its_own_places(
    office: Office, answers: aioresponses, clock: TurnedClock
) -> None:
    """What is counted together is the client id on one server."""
    answers.post(TOKEN_URL, payload=TOKEN, repeat=True)
    other = "https://other.example.com"
    answers.post(f"{other}/restapi/oauth/token", payload=TOKEN, repeat=True)
    clients = [office.client(number) for number in range(4)]
    clients += [office.client(number, client_id="another") for number in range(4)]
    clients += [office.client(number, server=other) for number in range(4)]
    tasks = [asyncio.create_task(client.identify()) for client in clients]
    await clock.settle()
    assert await over(tasks) == 12


async def test_who_has_no_token_comes_before_who_renews(
    office: Office, answers: aioresponses, clock: TurnedClock
) -> None:
    """And of those who renew, the one whose token ends first."""
    answers.get(LIST_URL, body=RINGING, repeat=True)
    for lifetime in (3000, 4000, 2000):
        answers.post(TOKEN_URL, payload={**TOKEN, "expires_in": lifetime})
    answers.post(TOKEN_URL, payload=TOKEN, repeat=True)
    old = [office.client(number) for number in range(3)]
    for client in old:
        await client.poll(TARGET)
    await clock.turn(1900)
    fillers = [asyncio.create_task(office.client(10 + number).identify()) for number in range(5)]
    await clock.settle()  # four have taken the places of this minute
    for client in old:  # the renewals are due for two of them; the third's is not
        await client.poll(TARGET)
    await clock.turn(900)
    before = len(signed_in(answers))
    crowd = [asyncio.create_task(office.client(20 + number).identify()) for number in range(5)]
    await clock.settle()
    for client in old:
        await client.poll(TARGET)
    new = asyncio.create_task(office.client(30).identify())
    await clock.turn(130)
    order = signed_in(answers)[before:]
    assert order.index("jwt-30") < order.index("jwt-0")
    await asyncio.gather(*fillers, *crowd, new)


async def test_a_renewal_that_waits_moves_up_when_its_token_is_refused(
    office: Office, answers: aioresponses, clock: TurnedClock
) -> None:
    """It was behind all who have no token; now it has none either, and is before those who come later."""
    answers.post(TOKEN_URL, payload=TOKEN, repeat=True)
    answers.get(LIST_URL, body=RINGING)
    client = office.client(0)
    await client.poll(TARGET)
    await clock.turn(3500)
    crowd = [asyncio.create_task(office.client(10 + number).identify()) for number in range(5)]
    await clock.settle()
    answers.get(LIST_URL, body=RINGING)
    await client.poll(TARGET)
    await clock.settle()  # the renewal waits now
    answers.get(LIST_URL, status=401, payload={})
    answers.get(LIST_URL, body=RINGING)
    refused = asyncio.create_task(client.poll(TARGET))
    await clock.turn(10)
    later = [asyncio.create_task(office.client(20 + number).identify()) for number in range(4)]
    await clock.settle()
    assert client.sign_ins_ahead() == 1
    await clock.turn(62)
    await refused
    assert signed_in(answers)[5:7] == ["jwt-14", "jwt-0"]
    await clock.turn(62)
    await asyncio.gather(*crowd, *later)


@pytest.mark.parametrize("status", [503, 500, 429])
async def test_trouble_of_the_token_endpoint_concerns_all_who_wait(
    office: Office, answers: aioresponses, clock: TurnedClock, status: int
) -> None:
    """None of them asks the same endpoint at once, and each fails with the true reason instead of waiting on."""
    answers.post(TOKEN_URL, payload=TOKEN, repeat=False)
    answers.post(TOKEN_URL, payload=TOKEN)
    answers.post(TOKEN_URL, payload=TOKEN)
    answers.post(TOKEN_URL, status=status, payload={}, headers={"Retry-After": "20"} if status == 429 else {})
    clients = [office.client(number) for number in range(8)]
    results = await asyncio.gather(*[client.identify() for client in clients], return_exceptions=True)
    failures = [one for one in results if isinstance(one, PollFailed)]
    assert len(signed_in(answers)) == 4
    assert [one.reason for one in failures] == ["rate_limited" if status == 429 else "server"] * 5
    assert {client.sign_ins_ahead() for client in clients} == {None}
    answers.post(TOKEN_URL, payload=TOKEN, repeat=True)
    await clock.turn(62)
    tasks = [asyncio.create_task(client.identify()) for client in clients[3:]]
    await clock.turn(62)
    await asyncio.gather(*tasks)


async def test_a_wait_behind_a_request_that_hangs_does_not_count_as_waiting(
    office: Office, answers: aioresponses, clock: TurnedClock
) -> None:
    """Three sources, an endpoint that never answers: the others wait no longer than since that request began."""

    async def hang(*_: Any, **__: Any) -> CallbackResult:
        await clock.sleep(ASK_TIMEOUT_S)
        raise TimeoutError

    answers.post(TOKEN_URL, callback=hang, repeat=True)
    clients = [office.client(number) for number in range(3)]
    began = clock.monotonic()
    for _ in range(4):
        tasks = [asyncio.create_task(client.identify()) for client in clients]
        for _ in range(int(ASK_TIMEOUT_S + TROUBLE_WAIT_S) + 1):
            await clock.turn(1)
            assert {client.waits_to_sign_in_until() for client in clients} <= {None, began}
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert [one.reason for one in results if isinstance(one, PollFailed)] == ["timeout"] * 3


@pytest.mark.parametrize("places_left", [1, 4])
async def test_who_waits_when_the_trouble_comes_waits_no_longer(
    office: Office, answers: aioresponses, clock: TurnedClock, places_left: int
) -> None:
    """A token endpoint that is slow and then fails: the others do not ask it too, one after the other."""
    arrives = asyncio.Event()

    async def late(*_: Any, **__: Any) -> CallbackResult:
        await arrives.wait()
        return CallbackResult(status=503, payload={})

    for number in range(4 - places_left):
        answers.post(TOKEN_URL, payload=TOKEN)
        await office.client(10 + number).identify()
    answers.post(TOKEN_URL, callback=late, repeat=True)
    tasks = [asyncio.create_task(office.client(number).identify()) for number in range(3)]
    await clock.settle()
    arrives.set()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert [one.reason for one in results if isinstance(one, PollFailed)] == ["server"] * 3
    assert len(signed_in(answers)) == 5 - places_left


async def test_a_wrong_credential_is_no_trouble_of_the_others(
    office: Office, answers: aioresponses, clock: TurnedClock
) -> None:
    """A refused JWT does not keep other credentials from signing in."""
    answers.post(TOKEN_URL, status=400, payload=sample_error("400-token-expired-OAU-210"))
    answers.post(TOKEN_URL, payload=TOKEN, repeat=True)
    results = await asyncio.gather(*[office.client(n).identify() for n in range(3)], return_exceptions=True)
    assert [isinstance(one, PollFailed) for one in results] == [True, False, False]


@pytest.mark.parametrize("bad", [0, 2])
async def test_a_credential_that_always_gets_500_takes_few_places_from_the_others(
    office: Office, answers: aioresponses, clock: TurnedClock, bad: int
) -> None:
    """The first 500 may be the endpoint's own; after it the others go first, and then it gets ever fewer requests."""
    signed_in_at: dict[int, float] = {}

    async def answer(_: object, **sent: Any) -> CallbackResult:
        broken = sent["data"]["assertion"] == f"jwt-{bad}"
        return CallbackResult(status=500, payload={}) if broken else CallbackResult(payload=TOKEN)

    async def sign_in(number: int) -> None:
        client = office.client(number)
        while number not in signed_in_at:
            try:
                await client.identify()
                signed_in_at[number] = clock.monotonic()
            except PollFailed as failure:
                await clock.sleep(max(1.0, failure.retry_after_s or 0.0))

    answers.post(TOKEN_URL, callback=answer, repeat=True)
    began = clock.monotonic()
    tasks = [asyncio.create_task(sign_in(number)) for number in range(4)]
    await clock.turn(600)
    assert len(signed_in_at) == 3
    assert max(signed_in_at.values()) - began <= 2 * TROUBLE_WAIT_S
    assert signed_in(answers).count(f"jwt-{bad}") <= 7
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)


async def test_two_sources_with_one_credential_sign_in_once(
    office: Office, answers: aioresponses, clock: TurnedClock
) -> None:
    """The second takes what the first was given."""
    answers.post(TOKEN_URL, payload=TOKEN, repeat=True)
    await asyncio.gather(office.client(0).identify(), office.client(0).identify())
    assert len(signed_in(answers)) == 1


async def test_a_closed_source_waits_no_longer(office: Office, answers: aioresponses, clock: TurnedClock) -> None:
    """Its place is free for the next one."""
    answers.post(TOKEN_URL, payload=TOKEN, repeat=True)
    first = [asyncio.create_task(office.client(number).identify()) for number in range(4)]
    leaving, staying = office.client(8), office.client(9)
    tasks = [asyncio.create_task(client.identify()) for client in (leaving, staying)]
    await clock.settle()
    tasks[0].cancel()
    await leaving.close()
    assert staying.sign_ins_ahead() == 0
    await clock.turn(62)
    await asyncio.gather(*first, tasks[1])
    assert signed_in(answers)[4:] == ["jwt-9"]


# Over a restart


def kept(path: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads(path.read_text())
    return loaded


class Restarts:
    """The same folder, one process after another."""

    def __init__(self, session: ClientSession, clock: TurnedClock, folder: Path) -> None:
        self.session = session
        self.clock = clock
        self.path = folder / FILE
        self.failures: list[str] = []

    async def start(self) -> Office:
        office = Office(self.session, self.clock, path=self.path, failed=self.failures.append)
        await office.sign_ins.load()
        return office


@pytest.fixture
def restarts(session: ClientSession, clock: TurnedClock, tmp_path: Path) -> Restarts:
    return Restarts(session, clock, tmp_path)


async def test_a_token_outlives_a_restart(restarts: Restarts, answers: aioresponses, clock: TurnedClock) -> None:
    """No sign-in is needed, nor after the wall clock says that it has aged; once expired, it is forgotten."""
    answers.post(TOKEN_URL, payload=TOKEN, repeat=True)
    answers.get(LIST_URL, body=RINGING, repeat=True)
    office = await restarts.start()
    await office.client().poll(TARGET)
    await office.sign_ins.close()
    await clock.turn(2000)
    office = await restarts.start()
    await office.client().poll(TARGET)
    await office.client().identify()
    assert len(signed_in(answers)) == 1
    await clock.turn(1600)
    office = await restarts.start()
    await office.client().poll(TARGET)
    assert len(signed_in(answers)) == 2


async def test_the_file_is_private_and_names_nothing(restarts: Restarts, answers: aioresponses) -> None:
    """0600, also where a wider one stood; under digests, without client id, server, secret or JWT."""
    answers.post(TOKEN_URL, payload=TOKEN, repeat=True)
    restarts.path.write_text("{}")
    restarts.path.chmod(0o644)
    restarts.path.with_name(f"{FILE}.new").write_text("left by a crash")
    office = await restarts.start()
    await office.client(jwt=Secret(JWT)).identify()
    await office.sign_ins.close()
    assert stat.S_IMODE(restarts.path.stat().st_mode) == 0o600
    text = restarts.path.read_text()
    for secret in (JWT, CLIENT_SECRET, "client-id", SERVER):
        assert secret not in text
    assert "token-1" in text
    assert [path.name for path in restarts.path.parent.iterdir()] == [FILE]


@pytest.mark.parametrize(
    "change",
    [
        {"client_secret": Secret("another")},
        {"jwt": Secret("another")},
        {"client_id": "another"},
        {"server": "https://other.example.com"},
    ],
)
async def test_a_changed_credential_never_uses_an_old_token(
    restarts: Restarts, answers: aioresponses, change: dict[str, Any]
) -> None:
    """Each part of it counts."""
    answers.post(TOKEN_URL, payload=TOKEN)
    office = await restarts.start()
    await office.client().identify()
    await office.sign_ins.close()
    office = await restarts.start()
    url = f"{change.get('server', SERVER)}/restapi/oauth/token"
    answers.post(url, payload={**TOKEN, "access_token": "token-2"})
    await office.client(**change).identify()
    assert len(signed_in(answers)) == 2


async def test_a_refused_token_is_deleted(restarts: Restarts, answers: aioresponses) -> None:
    """By a 401, before the next sign-in is over; a new one that is refused too is not kept either."""
    answers.post(TOKEN_URL, payload=TOKEN)
    office = await restarts.start()
    client = office.client()
    await client.identify()
    answers.get(LIST_URL, status=401, payload={}, repeat=True)
    during: list[Any] = []

    async def looks_at_the_file(*_: Any, **__: Any) -> CallbackResult:
        await office.sign_ins.close()
        during.append(kept(restarts.path)["tokens"])
        return CallbackResult(payload={**TOKEN, "access_token": "token-2"})

    answers.post(TOKEN_URL, callback=looks_at_the_file)
    with pytest.raises(PollFailed):
        await client.poll(TARGET)
    await office.sign_ins.close()
    assert during == [{}]
    assert kept(restarts.path)["tokens"] == {}


async def test_revoke_on_exit_deletes_the_token(restarts: Restarts, answers: aioresponses) -> None:
    """Also where the platform does not answer."""
    answers.post(TOKEN_URL, payload=TOKEN)
    answers.post(f"{SERVER}/restapi/oauth/revoke", status=503)
    office = await restarts.start()
    client = office.client(revoke_on_exit=True)
    await client.identify()
    await client.close()
    await office.sign_ins.close()
    assert kept(restarts.path)["tokens"] == {}


async def test_a_removed_source_leaves_no_token(restarts: Restarts, answers: aioresponses) -> None:
    """Only what the configuration names is kept."""
    answers.post(TOKEN_URL, payload=TOKEN, repeat=True)
    office = await restarts.start()
    await asyncio.gather(*[office.client(number).identify() for number in range(2)])
    source = SourceSettings(
        server=SERVER, client_id="client-id", client_secret=Secret(CLIENT_SECRET), jwt=Secret("jwt-1")
    )
    office.sign_ins.retain([source])
    await office.sign_ins.close()
    assert len(kept(restarts.path)["tokens"]) == 1
    office = await restarts.start()
    await office.client(1).identify()
    assert len(signed_in(answers)) == 2


async def test_a_crash_loop_asks_four_times_a_minute_at_most(
    restarts: Restarts, answers: aioresponses, clock: TurnedClock
) -> None:
    """Token requests are remembered; the fifth process of a minute waits, though each lost its token."""
    answers.post(TOKEN_URL, payload=TOKEN, repeat=True)
    for number in range(4):
        office = await restarts.start()
        await office.client(number).identify()
        await office.sign_ins.close()
        await clock.turn(2)
    office = await restarts.start()
    fifth = asyncio.create_task(office.client(4).identify())
    await clock.turn(50)
    assert not fifth.done()
    await clock.turn(12)
    await fifth


async def test_a_penalty_of_the_token_endpoint_outlives_a_restart(
    restarts: Restarts, answers: aioresponses, clock: TurnedClock
) -> None:
    """No request until it is over."""
    answers.post(TOKEN_URL, status=429, payload={}, headers={"Retry-After": "60"})
    office = await restarts.start()
    with pytest.raises(PollFailed):
        await office.client().identify()
    await office.sign_ins.close()
    office = await restarts.start()
    with pytest.raises(PollFailed) as failed:
        await office.client().identify()
    assert failed.value.reason == "rate_limited"
    assert len(signed_in(answers)) == 1


def kept_under(key: str) -> bytes:
    token = {"token": "t", "owner_id": None, "granted_at": 1e12, "lifetime_s": 60}
    return json.dumps({"tokens": {key: token}}).encode()


@pytest.mark.parametrize(
    "content",
    [
        *(b"", b"{", b"[]", b'{"tokens": 7}', b"\xff\xfe"),
        *(kept_under("zz"), kept_under(""), kept_under("0" * 31 + "g"), kept_under("0" * 33)),
        *(b'{"applications": {"": {}}}', b'{"applications": {"zz": 7}}'),
        b'{"applications": {"%(application)s": 7}}',
        b'{"applications": {"%(application)s": {"at": 1e12, "windows": [], "silent_s": 0, "strikes": 0, '
        b'"spent": [[-4000000, 1, 0], [0, 1000000000000000, 0], [0, -7, 0]]}}}',
    ],
)
async def test_a_spoiled_file_is_made_anew(restarts: Restarts, answers: aioresponses, content: bytes) -> None:
    """All sources sign in; a file without any content that can be used is reported as unreadable."""
    answers.post(TOKEN_URL, payload=TOKEN, repeat=True)
    application = digest_of(SERVER, "client-id").encode()
    restarts.path.write_bytes(content.replace(b"%(application)s", application))
    office = await restarts.start()
    await office.client().identify()
    await office.sign_ins.close()
    assert len(kept(restarts.path)["tokens"]) == 1
    assert bool(restarts.failures) == (b"%(application)s" not in content)


async def test_a_disk_that_refuses_is_told_once_and_stops_nothing(
    restarts: Restarts, answers: aioresponses, clock: TurnedClock
) -> None:
    """The file cannot be written: place, cause and next step are reported; once it can be, it is."""
    answers.post(TOKEN_URL, payload=TOKEN, repeat=True)
    blocked = restarts.path.with_name(f"{FILE}.new")
    blocked.mkdir()
    (blocked / "in the way").touch()
    office = await restarts.start()
    for number in range(3):
        await office.client(number).identify()
        await office.sign_ins.close()
    assert len(restarts.failures) == 1
    assert str(restarts.path) in restarts.failures[0]
    assert "check free space" in restarts.failures[0]
    (blocked / "in the way").unlink()
    blocked.rmdir()
    await office.sign_ins.close()
    assert len(kept(restarts.path)["tokens"]) == 3


async def test_a_command_reads_the_file_and_leaves_it_as_it_is(
    restarts: Restarts, answers: aioresponses, session: ClientSession, clock: TurnedClock
) -> None:
    """It may run as another user."""
    answers.post(TOKEN_URL, payload=TOKEN, repeat=True)
    office = await restarts.start()
    await office.client(0).identify()
    await office.sign_ins.close()
    before = restarts.path.read_bytes()
    command = Office(session, clock, path=restarts.path, writes=False)
    await command.sign_ins.load()
    await asyncio.gather(command.client(0).identify(), command.client(1).identify())
    await command.sign_ins.close()
    assert signed_in(answers) == ["jwt-0", "jwt-1"]
    assert restarts.path.read_bytes() == before
