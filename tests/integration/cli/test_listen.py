"""`callcast listen`, with the real webhook sink as the sender where that matters."""

import base64
import json
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, get_args

import aiohttp
import pytest
from hypothesis import given
from hypothesis import strategies as st
from standardwebhooks import Webhook

from callcast.cli.parser import PRODUCTS
from callcast.cli.stand_ins import STAND_INS
from callcast.formats.cloudevents import Wire
from callcast.formats.standard_webhooks import SignatureChecker
from callcast.sinks.webhook.presets import FORMATS, FormatName
from callcast.testing import event
from tests import TESTS
from tests.integration.cli.programs import Program, program
from tests.integration.cli.test_completion import needed

SECRET = "whsec_" + base64.b64encode(bytes(range(32))).decode()
OTHER = "whsec_" + base64.b64encode(bytes(range(32, 64))).decode()
EVENTS = json.loads((TESTS / "golden" / "seed-events.json").read_bytes())
BODY = json.dumps(EVENTS[1], separators=(",", ":"), ensure_ascii=False).encode()


def signed(body: bytes = BODY, *, secret: str = SECRET, at: float | None = None, id_: str = "") -> dict[str, str]:
    from datetime import UTC, datetime

    stamp = int(time.time() if at is None else at)
    event_id = id_ or json.loads(body)["id"]
    signature = Webhook(secret).sign(event_id, datetime.fromtimestamp(stamp, UTC), body.decode())
    return {"webhook-id": event_id, "webhook-timestamp": str(stamp), "webhook-signature": signature}


def word(headers: dict[str, str], body: bytes = BODY, *secrets: str) -> str:
    return SignatureChecker(secrets or [SECRET]).check(headers, body, time.time()).word


def test_why_a_signature_is_wrong() -> None:
    """Each cause that can be distinguished has its own word."""
    good = signed()
    assert word(good) == "ok"
    assert word(good, BODY, OTHER, SECRET) == "ok"
    assert word(signed(secret=OTHER)) == "secret"
    assert word({k: v for k, v in good.items() if k != "webhook-signature"}) == "no_header"
    assert word({k: v for k, v in good.items() if k != "webhook-id"}) == "no_header"
    assert word(good | {"webhook-timestamp": "now"}) == "bad_header"
    assert word(good | {"webhook-timestamp": "9" * 5000}) == "bad_header"
    assert word(good | {"webhook-signature": "v2,abc"}) == "bad_header"
    assert word(signed(at=time.time() - 3600)) == "clock"
    assert word(signed(at=time.time() + 3600)) == "clock"
    assert word(good, json.dumps(json.loads(BODY), indent=2).encode()) == "body"
    assert word(good, BODY + b"\n") == "body"
    assert word(good | {"webhook-id": "evt_other"}) == "body"
    assert SignatureChecker([]).check(good, BODY, time.time()).word == "unchecked"
    unsigned = {name: value for name, value in good.items() if name != "webhook-signature"}
    assert SignatureChecker([]).check(unsigned, BODY, time.time()).word == "unsigned"


def test_the_clock_is_told_in_seconds() -> None:
    """How far it is off, and in which direction."""
    verdict = SignatureChecker([SECRET]).check(signed(at=1_000_000), BODY, 1_000_900)
    assert "900 s ago" in verdict.why
    assert "in the future" in SignatureChecker([SECRET]).check(signed(at=1_000_900), BODY, 1_000_000).why


def test_secrets_that_fitted_before_speak_for_a_changed_body() -> None:
    """A wrong signature after a right one is not caused by the secret."""
    judge = SignatureChecker([SECRET])
    assert judge.check(signed(), BODY, time.time()).good
    changed = BODY.replace(b"answered", b"answeres")
    assert judge.check(signed(), changed, time.time()).word == "body"


def test_a_secret_used_as_text_is_recognised() -> None:
    """The most common mistake of an own sender: the base64 was not decoded."""
    import hashlib
    import hmac

    headers = signed()
    message = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + BODY
    wrong = base64.b64encode(hmac.digest(SECRET.encode(), message, hashlib.sha256)).decode()
    assert word(headers | {"webhook-signature": f"v1,{wrong}"}) == "secret_as_text"


@given(
    st.dictionaries(st.sampled_from(["webhook-id", "webhook-timestamp", "webhook-signature"]), st.text(max_size=50)),
    st.binary(max_size=200),
)
def test_nothing_that_comes_breaks_the_judge(headers: dict[str, str], body: bytes) -> None:
    """Any headers and any body have a verdict, and a good one only by the secret."""
    assert not SignatureChecker([SECRET]).check(headers, body, 0).good


@asynccontextmanager
async def listening(*arguments: str, terminal: bool = False) -> AsyncIterator[tuple[Program, str]]:
    async with program("listen", "--port", "0", *arguments, terminal=terminal) as listen:
        await listen.wrote("# Stop", to="err")
        url = next(line.split('"')[1] for line in listen.err.splitlines() if line.startswith("url"))
        yield listen, url


async def post(url: str, headers: dict[str, str] | None = None, body: bytes = BODY) -> int:
    async with aiohttp.ClientSession() as session, session.post(url, data=body, headers=headers or signed()) as answer:
        return answer.status


async def test_it_prints_what_comes_and_answers() -> None:
    """A good one 204, a wrong one 401 with the reason, and a duplicate is reported; Ctrl-C ends with 0."""
    async with listening("--secret", SECRET) as (listen, url):
        assert await post(url) == 204
        await listen.wrote("signature ok")
        assert '"number": "+16504306662"' in listen.out
        assert await post(url, signed(secret=OTHER)) == 401
        await listen.wrote("body: the secrets matched other requests")
        await listen.wrote("duplicate: received 2 times")
        assert await listen.stop() == 0
        assert "Traceback" not in listen.err


async def test_without_a_secret_it_makes_one_and_shows_the_sink() -> None:
    """What it prints can be put into the configuration as it stands."""
    import tomllib

    async with listening("--json") as (listen, url):
        sink = tomllib.loads(listen.err)["sinks"]["listen"]
        assert sink["url"] == url
        assert await post(url, signed(secret=sink["secrets"][0])) == 204
        await listen.wrote("\n")
        output = json.loads(listen.out)
        assert (output["signature"], output["id"], output["duplicate"]) == ("ok", EVENTS[1]["id"], False)
        assert output["event"] == EVENTS[1]


async def test_it_misbehaves_as_told() -> None:
    """So many of each, in turn, the last one forever; with Retry-After; a cut connection and one that hangs."""
    wish = ("--secret", SECRET, "--answer", "429:2,reset:1,never:1,500", "--retry-after", "7")
    async with listening(*wish) as (_, url), aiohttp.ClientSession() as session:
        for _ in range(2):
            async with session.post(url, data=BODY, headers=signed()) as answer:
                assert (answer.status, answer.headers["retry-after"]) == (429, "7")
        with pytest.raises(aiohttp.ClientError):
            await session.post(url, data=BODY, headers=signed())
        with pytest.raises(TimeoutError):
            await session.post(url, data=BODY, headers=signed(), timeout=aiohttp.ClientTimeout(total=0.3))
        for _ in range(3):
            assert await post(url) == 500


async def test_what_is_no_event_is_shown_too() -> None:
    """Any bytes, without a control character on the terminal."""
    async with listening("--secret", SECRET, terminal=True) as (listen, url):
        assert await post(url, {"webhook-id": "evt_none"}, b"\x1b[2J not JSON") == 401
        await listen.wrote("not a callcast event")
        await listen.wrote("not JSON")
        assert "\x1b[2J" not in listen.out


async def test_wrong_usage_says_what_is_right() -> None:
    """An unknown answer, and a secret that is none."""
    for wrong in (("--answer", "maybe"), ("--answer", "429:0"), ("--secret", "whsec_short")):
        async with program("listen", *wrong) as listen:
            assert await listen.ended() == 2
            assert "Traceback" not in listen.err


def code(language: str) -> str:
    command = [sys.executable, "-m", "callcast", "listen", "--code", language]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


RUNNERS = {
    "python": (
        "verify.py",
        [sys.executable, "-c"],
        "import json,sys,verify; c=json.load(sys.stdin);"
        "print(json.dumps(verify.verify(c['h'],c['b'].encode(),c['s'])))",
    ),
    "javascript": (
        "verify.mjs",
        ["node", "--input-type=module", "-e"],
        "import {verify} from './verify.mjs'; import {readFileSync} from 'node:fs';"
        "const c=JSON.parse(readFileSync(0)); console.log(JSON.stringify(verify(c.h,Buffer.from(c.b),c.s)))",
    ),
    "php": (
        "verify.php",
        ["php", "-r"],
        "require 'verify.php'; $c=json_decode(file_get_contents('php://stdin'),true);"
        "echo json_encode(verify($c['h'],$c['b'],$c['s']));",
    ),
}


class Snippet:
    def __init__(self, folder: Path, language: str) -> None:
        name, self._command, self._script = RUNNERS[language]
        if language != "python":
            needed(self._command[0])
        (folder / name).write_text(code(language))
        self._folder = folder

    def takes(self, headers: dict[str, str], *secrets: str, body: bytes = BODY) -> bool:
        case = json.dumps({"h": headers, "b": body.decode(), "s": secrets or [SECRET]})
        command = [*self._command, self._script]
        done = subprocess.run(command, input=case, capture_output=True, text=True, cwd=self._folder, check=False)
        if done.returncode == 0:
            got: Any = json.loads(done.stdout)
            assert got["id"] == json.loads(body)["id"]
        return done.returncode == 0


@pytest.mark.parametrize("language", RUNNERS)
def test_the_printed_code_verifies(tmp_path: Path, language: str) -> None:
    """It takes what the official package signed, also while secrets rotate, and refuses everything that is off."""
    snippet = Snippet(tmp_path, language)
    good = signed()
    assert snippet.takes(good)
    assert snippet.takes(good, OTHER, SECRET)
    assert snippet.takes(good | {"webhook-signature": "v1,AAAA " + good["webhook-signature"]})
    assert not snippet.takes(good, OTHER)
    assert not snippet.takes(good, body=BODY.replace(b"answered", b"answeres"))
    assert not snippet.takes(good | {"webhook-id": "evt_other"})
    assert not snippet.takes(signed(at=time.time() - 400))
    assert not snippet.takes(signed(at=time.time() + 400))
    assert not snippet.takes(good | {"webhook-timestamp": "soon"})
    assert not snippet.takes({name: value for name, value in good.items() if name != "webhook-signature"})


@pytest.mark.parametrize("product", PRODUCTS)
async def test_it_stands_in_for_a_product(product: str) -> None:
    """It checks a request by the product's rules, shows what a person would see, and answers as the product does."""
    form = FORMATS[product]  # type: ignore[index]
    body, headers = form.encode(Wire(), event()), {"content-type": form.content_type}
    async with listening("--as", product) as (listen, url):
        assert f'format = "{product}"' in listen.err
        assert await post(url, headers, body) in (200, 202, 204)
        await listen.wrote(f"{product}: as documented")
        assert "650555" in listen.out or "+16504306662" in listen.out or "16504306662" in listen.out
        assert await post(url, headers, b"{}") in (400, 422)
        await listen.wrote("missing")
    async with listening("--as", product, "--answer", "429", "--retry-after", "7s", "--json") as (listen, url):
        assert await post(url, headers, body) == 429
        await listen.wrote('"problem": ""')


async def test_a_product_verifies_no_signature() -> None:
    async with program("listen", "--port", "0", "--as", "slack", "--secret", SECRET) as listen:
        await listen.wrote("slack cannot verify signatures", to="err")
        assert await listen.ended() == 2


def test_a_stand_in_exists_for_every_preset() -> None:
    """A new preset has a stand-in, and an option of `listen`."""
    presets = [name for name, form in FORMATS.items() if not form.signed]
    assert list(PRODUCTS) == list(STAND_INS) == presets
    assert list(get_args(FormatName)) == list(FORMATS)
