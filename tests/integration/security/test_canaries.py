"""Secrets and whole phone numbers everywhere they can be, every failure that there is, and none of them comes out."""

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import aiohttp
import pytest

from tests.integration.security.canaries import CREDENTIAL, HTTP_TOKEN, SECRETS, SIGNING, STATUSES, House, Output, house
from tests.integration.sinks.brokers import mosquitto
from tests.ports import free_port
from tests.system.world import until

PATHS = ("/", "/metrics", "/readyz", "/healthz", "/api/calls", "/api/summary", "/nothing")
BEARER = {"Authorization": f"Bearer {HTTP_TOKEN}"}


@pytest.fixture
async def home(tmp_path: Path) -> AsyncIterator[House]:
    """With a broker that refuses the password."""
    with mosquitto(tmp_path, anonymous=False) as broker:
        async with house(tmp_path, broker_port=broker.port) as made:
            yield made


async def run(home: House, *arguments: str, exits: tuple[int, ...] = (0,)) -> None:
    """A command beside the service: what it prints is kept."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "callcast", *arguments),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        env={**os.environ, **home.environ},
    )
    out, _ = await process.communicate()
    assert process.returncode in exits, out.decode()
    home.output.add(f"callcast {' '.join(arguments[:2])}", out.decode())


async def look_at(home: House) -> None:
    """Every page, with the token and without, and what any user of the machine sees of the process."""
    async with aiohttp.ClientSession() as session:
        for path in PATHS:
            for headers in (BEARER, {}, {"Authorization": f"Bearer {HTTP_TOKEN}x", "Accept": "text/html"}):
                async with session.get(home.service.url + path, headers=headers) as answer:
                    home.output.add(path, f"{dict(answer.headers)}\n{await answer.text()}")
        url = home.service.url + "/api/events?after=0&board=1"
        async with session.get(url, headers=BEARER) as answer, asyncio.timeout(10):
            home.output.add("/api/events", (await answer.content.readuntil(b"event: board")).decode())
        async with session.get(f"{home.service.url}/?token={HTTP_TOKEN}", allow_redirects=False) as answer:
            home.output.add("the log-in", str(dict(answer.headers)))
    for name in ("cmdline", "comm"):
        home.output.add(f"/proc/{name}", Path(f"/proc/{home.service.pid}/{name}").read_text())  # noqa: ASYNC240


def seen(home: House, *words: str) -> Callable[[], bool]:
    return lambda: any(all(word in line for word in words) for line in home.service.log)


async def logged(home: House, *words: str) -> None:
    await until(seen(home, *words), f"a line with {words} in\n{''.join(home.service.log)}")


async def upstream_troubles(home: House) -> None:
    """One after another, with a good poll in between, so that no pause grows."""
    elsewhere = f"http://127.0.0.1:1/?key={SECRETS['url token']}"
    for kind, facts in (
        ("status", {"status": 401}),
        ("status", {"status": 500}),
        ("html", {}),
        ("not_json", {}),
        ("truncated", {}),
        ("reset", {}),
        ("redirect", {"location": elsewhere}),
        ("bad_records", {}),
        ("status", {"status": 429, "retry_after": 1, "headers": False}),
    ):
        number = home.strike(kind, **{"count": 1, **facts})
        await until(lambda n=number: met(home, n) > 0, f"{kind} was met")  # type: ignore[misc]
        home.platform.faults.remove(number)
        await home.stage.seen(1)
    for word in ("poll_failed", "bad_record", "rate_limited"):
        await logged(home, word)


def met(home: House, number: int) -> int:
    return next(int(one["met"]) for one in home.platform.faults if one["id"] == number)


async def test_nothing_comes_out_of_a_service_in_every_kind_of_trouble(home: House) -> None:
    """Not in the log at debug, on no page, in no command, not in the process's arguments, not in a sink's trace."""
    await home.service.start(home.environ)
    await home.service.ready()
    await home.stage.seen()
    for number in range(2):
        home.stage.show(number)
        await home.stage.seen()
    await until(lambda: home.echo.answered == set(STATUSES), "each answer")
    await look_at(home)
    await run(home, "explain", "6662", "--config", str(home.service.config))
    await upstream_troubles(home)
    await reload(home)
    await logged(home, "mqtt_connection_lost")
    home.stage.show(2)  # the end of the call: the raising sink's turn, and a fault of the program
    code = await asyncio.wait_for(home.service._process.wait(), 30)  # type: ignore[union-attr]
    assert code == 1
    await home.service.stop()
    assert any("Traceback" in line for line in home.service.log)
    assert "RuntimeError" in "".join(home.service.log)
    await commands(home)
    home.output.add("the log", "".join(home.service.log))
    assert len(home.output.texts) > 15
    assert home.output.leaks(home.platform) == []


async def reload(home: House) -> None:
    """Sinks that were changed, and then a file that is refused."""
    good, url = home.service.config.read_text(), home.service.url + "/-/reload"
    for text, status in ((good.replace("X-Key", "X-Other"), 200), (good.replace("jwt =", "jwtt ="), 409)):
        home.service.config.write_text(text)
        async with aiohttp.ClientSession(headers=BEARER) as session, session.post(url, json={}) as answer:
            home.output.add("/-/reload", await answer.text())
            assert answer.status == status
    home.service.config.write_text(good)


async def commands(home: House) -> None:
    config = ("--config", str(home.service.config))
    await run(home, "check", *config)
    await run(home, "check", "--online", *config, exits=(69,))
    await run(home, "check", "--send", *config, exits=(69,))
    for searched in ("6662", "s-8f8125f1aeb944f486531c351a2f520e"):
        await run(home, "explain", searched, *config)
    await run(home, "dead", "list", *config)
    dead = json.loads(home.output.texts["callcast dead list"].splitlines()[0])
    await run(home, "dead", "show", dead["event_id"], *config)
    await run(home, "replay", "--sink", "crm500", "--since", "2h", *config)


BROKEN: list[tuple[str, Callable[[str], str]]] = [
    ("an unknown key beside secrets", lambda text: text.replace("jwt =", "jwtt =")),
    ("a list for a secret", lambda text: text.replace(f'jwt = "{CREDENTIAL.jwt}"', f'jwt = ["{CREDENTIAL.jwt}"]')),
    ("a table for a secret", lambda text: text.replace(f'"{CREDENTIAL.jwt}"', f'{{ evn = "{CREDENTIAL.jwt}" }}')),
    ("a signing secret without its form", lambda text: text.replace(SIGNING, "canary-signing-canary-signing")),
    ("a url that is none", lambda text: text.replace("http://canary-url-user", "ftp://canary-url-user")),
    ("a url without a host", lambda text: text.replace("http://canary-url-user:", "http:/canary-url-user:")),
    ("a header with a line break", lambda text: text.replace("Bearer canary-header-token", "canary-header-token\\n")),
    ("two of a kind", lambda text: text.replace("X-Key", "Authorization")),
    ("a quote that is missing", lambda text: text.replace(f'jwt = "{CREDENTIAL.jwt}"', f'jwt = "{CREDENTIAL.jwt}')),
    ("a secret twice", lambda text: text.replace("jwt =", 'jwt = "canary.jwt.assertion"\njwt =')),
    ("a number where a secret stands", lambda text: text.replace('password = "canary', 'password = 12\n#"canary')),
    ("a mqtt url with a password", lambda text: text.replace("mqtt://", "mqtt://u:canary-url-password@")),
]


@pytest.mark.parametrize(("what", "broken"), BROKEN, ids=[what for what, _ in BROKEN])
async def test_a_fault_in_the_configuration_shows_no_secret(
    tmp_path: Path, what: str, broken: Callable[[str], str]
) -> None:
    """`check` and `run` name the key and never the value."""
    async with house(tmp_path, broker_port=free_port()) as home:
        text = home.service.config.read_text()
        home.service.config.write_text(broken(text))
        assert home.service.config.read_text() != text
        home.environ["CALLCAST_SINKS__DEAD__TIMEOUT_S"] = SECRETS["header token"]
        for command in ("check", "run"):
            await run(home, command, "--config", str(home.service.config), exits=(78,))
        assert home.output.leaks(home.platform) == []


async def test_the_token_endpoint_may_say_what_it_likes(tmp_path: Path) -> None:
    """Unknown client, HTML, an answer cut off; then 403: the log for people shows nothing either."""
    async with house(tmp_path, broker_port=free_port(), style="console") as home:
        home.platform.tokens.credentials.clear()
        await home.service.start(home.environ)
        await home.service.ready()
        await logged(home, "auth")
        await look_at(home)
        await run(home, "check", "--online", "--config", str(home.service.config), exits=(69,))
        home.platform.tokens.credentials.append(CREDENTIAL)
        troubles = (("html", "*/oauth/token"), ("not_json", "*/oauth/token"), ("reset", "*/oauth/token"))
        for kind, path in (*troubles, ("status", "*active-calls*")):
            number = home.strike(kind, path, status=403)
            await run(home, "check", "--online", "--config", str(home.service.config), exits=(69,))
            home.platform.faults.remove(number)
        assert await home.service.stop() == 0
        home.output.add("the log", "".join(home.service.log))
        assert home.output.leaks(home.platform) == []


def test_the_canaries_would_be_seen(tmp_path: Path) -> None:
    """The search finds a secret as it is and as Basic, and a number in each of its usual forms."""
    from callcast.simulator import Platform

    for text in (SECRETS["jwt"], "c2ltdWxhdGVkLWNsaWVudDpjYW5hcnktY2xpZW50LXNlY3JldA==", "+16504306662", "6504306662"):
        output = Output()
        output.add("somewhere", f"x {text} y")
        assert len(output.leaks(Platform())) == 1, text
