"""The HTTP server: the response of each path, access control, and slow readers."""

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from typing import Any

import aiohttp
import pytest

from callcast.calls.model import Disposition
from callcast.formats.cloudevents import Wire
from callcast.ports.outbox import OutboxUnavailable, Stored
from callcast.web import sse
from callcast.web.auth import HEADERS
from callcast.web.serializers import CallSerializer
from callcast.web.server import READERS_MAX
from tests.integration.web.http_side import Harness, harness, until

JSON = {"content-type": "application/json"}
TOKEN = "s3cret-and-long"


async def get(client: aiohttp.ClientSession, url: str, **kwargs: Any) -> tuple[int, Any]:
    async with client.get(url, **kwargs) as answer:
        text = await answer.text()
        is_json = answer.content_type == "application/json"
        return answer.status, json.loads(text) if is_json else text


class Stream:
    """A reader of `/api/events`, as a browser reads it."""

    def __init__(self, answer: aiohttp.ClientResponse) -> None:
        self.answer = answer

    async def frames(self) -> AsyncIterator[dict[str, Any]]:
        frame: dict[str, Any] = {}
        async for line in self.answer.content:
            field, _, value = line.decode().rstrip("\n").partition(": ")
            if field == "data":
                frame["data"] = json.loads(value)
            elif field in ("id", "event"):
                frame[field] = value
            elif not field and frame:
                yield frame
                frame = {}

    async def next(self, event: str | None = None) -> dict[str, Any]:
        """The next frame, of this event type if one is named."""
        async for frame in self.frames():
            if event in (None, frame.get("event")):
                return frame
        raise AssertionError("the stream ended")


async def test_healthz_says_that_the_loop_runs(here: Harness, client: aiohttp.ClientSession) -> None:
    """Health is about the process only; it names the version."""
    assert await get(client, here.url + "/healthz") == (200, {"status": "ok", "version": "1.2.3"})


async def test_readyz_gives_its_reasons(here: Harness, client: aiohttp.ClientSession) -> None:
    """Ready is 200 without reasons; unready is 503 with each of them in words."""
    assert await get(client, here.url + "/readyz") == (200, {"ready": True, "reasons": [], "warnings": []})
    here.reasons.append("source acme: no successful poll yet")
    unready = {"ready": False, "reasons": ["source acme: no successful poll yet"], "warnings": []}
    assert await get(client, here.url + "/readyz") == (503, unready)


async def test_readyz_lists_warnings_without_being_unready(here: Harness, client: aiohttp.ClientSession) -> None:
    """A file that was set aside is still listed, but does not make the service unready."""
    here.warnings.append("the outbox was unreadable and is kept")
    ready = {"ready": True, "reasons": [], "warnings": ["the outbox was unreadable and is kept"]}
    assert await get(client, here.url + "/readyz") == (200, ready)


async def test_metrics(here: Harness, client: aiohttp.ClientSession) -> None:
    """Prometheus finds its text format under /metrics."""
    async with client.get(here.url + "/metrics") as answer:
        assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
        assert "callcast_calls_active{" in await answer.text()


async def test_calls_are_the_live_calls_under_the_numbers_policy(here: Harness, client: aiohttp.ClientSession) -> None:
    """/api/calls gives each live call as its event's data, with its source and name, and no whole number."""
    here.ring("101")
    status, body = await get(client, here.url + "/api/calls")
    assert status == 200
    (call,) = body["calls"]
    expected = {"call_id": "101/s-1", "source": "acme", "extension_name": "Reception", "state": "ringing"}
    assert expected.items() <= call.items()
    assert call["from"] == {"number": "***6662", "name": None, "extension_number": None, "location": None}
    assert "6504306662" not in json.dumps(body)


async def test_summary(here: Harness, client: aiohttp.ClientSession) -> None:
    """/api/summary gives each source's totals, freshness and counts since midnight."""
    here.end(here.answer(here.ring("101", "s-1")))
    here.end(here.ring("101", "s-2"), Disposition.MISSED)
    here.ring("102", "s-3")
    _, body = await get(client, here.url + "/api/summary")
    (acme,) = body["sources"]
    expected = {"source": "acme", "ringing": 1, "connected": 0, "answered_today": 1, "missed_today": 1, "waiting": 1}
    assert expected.items() <= acme.items()
    assert acme["complete"] is True
    assert acme["overdue"] == []
    assert body["now"].endswith("Z")


async def test_events_come_as_they_are_recorded(here: Harness, client: aiohttp.ClientSession) -> None:
    """A client gets each new event as CloudEvents JSON with type and number, and no earlier ones."""
    here.ring("101", "old")
    async with client.get(here.url + "/api/events") as answer:
        assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
        stream = Stream(answer)
        await _joined(here)
        recorded = here.record(here.ring("102", "new"), "call.updated")
        first, second = await stream.next(), await stream.next()
    assert (first["id"], first["event"]) == ("2", "call.ringing")
    assert (second["id"], second["event"], second["data"]["id"]) == ("3", "call.updated", recorded.id)
    assert second["data"]["data"]["from"]["number"] == "***6662"


async def test_a_stream_resumes_where_it_broke_off(here: Harness, client: aiohttp.ClientSession) -> None:
    """Last-Event-ID gives every event recorded since, exactly once, and then new ones."""
    for number in range(sse.PAGE + 20):
        here.ring("101", f"s-{number}")
    async with client.get(here.url + "/api/events", headers={"Last-Event-ID": "10"}) as answer:
        stream = Stream(answer)
        ids = [int((await stream.next())["id"]) for _ in range(sse.PAGE + 10)]
        await _joined(here)
        here.ring("101", "late")
        ids.append(int((await stream.next())["id"]))
    assert ids == list(range(11, sse.PAGE + 22))


@pytest.mark.parametrize("given", ["999999", "evt_abc", "-1", "9" * 40])
async def test_an_unknown_id_starts_with_new_events(here: Harness, client: aiohttp.ClientSession, given: str) -> None:
    """An id that this outbox never issued is ignored: the stream starts with new events."""
    here.ring("101", "old")
    async with client.get(here.url + "/api/events", headers={"Last-Event-ID": given}) as answer:
        await _joined(here)
        here.ring("101", "new")
        assert (await Stream(answer).next())["id"] == "2"


async def test_a_new_client_may_request_past_events(here: Harness, client: aiohttp.ClientSession) -> None:
    """`?last=2` starts two events back."""
    for number in range(5):
        here.ring("101", f"s-{number}")
    async with client.get(here.url + "/api/events?last=2") as answer:
        stream = Stream(answer)
        assert [(await stream.next())["id"] for _ in range(2)] == ["4", "5"]


async def test_many_clients_get_the_same_events(here: Harness, client: aiohttp.ClientSession) -> None:
    """Clients that joined at different times each get every event after their position, once."""
    streams = []
    for number in range(5):
        streams.append(Stream(await client.get(here.url + "/api/events?after=0")))
        here.ring("101", f"s-{number}")
    for stream in streams:
        assert [(await stream.next())["id"] for _ in range(5)] == ["1", "2", "3", "4", "5"]
        stream.answer.close()


async def test_the_page_gets_all_live_calls_and_then_changes(here: Harness, client: aiohttp.ClientSession) -> None:
    """`?board=1` starts with the version and all live calls; later messages hold changed calls, ended ones too."""
    first = here.ring("101", "s-1")
    here.ring("102", "s-2")
    async with client.get(here.url + "/api/events?board=1") as answer:
        stream = Stream(answer)
        hello = await stream.next()
        assert (hello["event"], hello["data"]) == ("hello", {"version": "1.2.3"})
        whole = (await stream.next("board"))["data"]
        assert whole["names"] == {"101": "Reception"}
        assert (whole["whole"], [call["call_id"] for call in whole["calls"]]) == (True, ["102/s-2", "101/s-1"])
        assert whole["sources"][0]["ringing"] == 2
        here.end(first, Disposition.MISSED)
        turn = (await stream.next("board"))["data"]
        assert (turn["whole"], [call["state"] for call in turn["calls"]]) == (False, ["ended"])
        assert "6504306662" not in json.dumps([whole, turn])


async def test_an_http_1_0_client_is_served(here: Harness) -> None:
    """Some proxies use HTTP/1.0, which has no chunked encoding: the frames are sent as they are."""
    reader, writer = await asyncio.open_connection("127.0.0.1", int(here.url.rpartition(":")[2]))
    writer.write(b"GET /api/events HTTP/1.0\r\nHost: localhost\r\n\r\n")
    head = await reader.readuntil(b"\r\n\r\n")
    assert b"chunked" not in head.lower()
    assert await reader.readuntil(b"\n\n") == b"retry: 1000\n\n"
    await _joined(here)
    here.ring("101")
    assert (await reader.readuntil(b"\n\n")).startswith(b"id: 1\nevent: call.ringing\ndata: {")
    writer.close()


async def test_a_silent_stream_is_kept_alive(here: Harness, client: aiohttp.ClientSession) -> None:
    """Without events a comment is sent regularly, because proxies close silent connections."""
    async with client.get(here.url + "/api/events") as answer:
        await _joined(here)
        here.clock.ahead_s = 11
        assert (await answer.content.readuntil(b"\n\n"), await answer.content.readuntil(b"\n\n")) == (
            b"retry: 1000\n\n",
            b":\n\n",
        )


async def test_live_calls_continue_while_the_outbox_is_unavailable(
    here: Harness, client: aiohttp.ClientSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Clients get changes of live calls meanwhile, and the events once they can be read again."""
    async with client.get(here.url + "/api/events?board=1") as answer:
        stream = Stream(answer)
        await stream.next("board")
        with monkeypatch.context() as broken:
            broken.setattr(here.memory, "history", _no_disk)
            here.ring("101")
            assert [call["state"] for call in (await stream.next("board"))["data"]["calls"]] == ["ringing"]
        assert (await stream.next("call.ringing"))["id"] == "1"


async def _no_disk(**_: int) -> Sequence[Stored]:
    raise OutboxUnavailable("the disk is full")


async def test_a_client_that_does_not_read_is_disconnected(
    here: Harness, client: aiohttp.ClientSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stalled client is disconnected once a write takes too long; other clients miss nothing."""
    monkeypatch.setattr("callcast.web.server._WRITE_S", 0.5)
    stalled = await client.get(here.url + "/api/events")
    quick = Stream(await client.get(here.url + "/api/events"))
    await _joined(here, 2)
    stalled.connection.transport.pause_reading()  # type: ignore[union-attr]
    seen = 0
    for burst in range(40):
        for number in range(500):
            here.ring("101", f"s-{burst}-{number}")
        while seen < len(here.memory.stored):
            seen = int((await quick.next())["id"])
        if here.broadcaster.clients == 1:
            break
    assert here.broadcaster.clients == 1
    quick.answer.close()
    stalled.close()


async def test_the_number_of_clients_is_limited(
    here: Harness, client: aiohttp.ClientSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client above the limit gets 503 with Retry-After."""
    monkeypatch.setattr("callcast.web.server.READERS_MAX", 1)
    assert READERS_MAX >= 200
    async with client.get(here.url + "/api/events"):
        await _joined(here)
        async with client.get(here.url + "/api/events") as answer:
            assert (answer.status, answer.headers["Retry-After"]) == (503, "10")


async def test_a_disconnected_client_is_removed(here: Harness, client: aiohttp.ClientSession) -> None:
    """A closed connection is noticed at the next write, and nothing is kept for it."""
    async with client.get(here.url + "/api/events?board=1"):
        await _joined(here)

    def gone() -> bool:
        here.ring("101")
        return not here.broadcaster.clients

    await until(gone)


async def test_streams_end_with_the_service(client: aiohttp.ClientSession) -> None:
    """Stopping the service ends its streams at once instead of waiting for the clients."""
    async with harness() as made:
        stream = Stream(await client.get(made.url + "/api/events"))
        await _joined(made)
    assert [frame async for frame in stream.frames()] == []


async def test_reload(here: Harness, client: aiohttp.ClientSession) -> None:
    """POST /-/reload reloads; an invalid configuration is 409 with its problems."""
    async with client.post(here.url + "/-/reload", json={}) as answer:
        assert (answer.status, await answer.json()) == (200, {"reloaded": True, "faults": []})
    here.faults.append("callcast.toml:3: unknown key")
    async with client.post(here.url + "/-/reload", json={}) as answer:
        assert answer.status == 409
        assert await answer.json() == {"reloaded": False, "faults": ["callcast.toml:3: unknown key"]}
    assert here.reloads == 2


@pytest.mark.parametrize("content_type", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data"])
async def test_a_form_cannot_post(here: Harness, client: aiohttp.ClientSession, content_type: str) -> None:
    """Content types that another site can send without a preflight request get 415 and have no effect."""
    async with client.post(here.url + "/-/reload", data=b"{}", headers={"content-type": content_type}) as answer:
        assert answer.status == 415
    assert here.reloads == 0


async def test_a_large_body_is_refused(here: Harness, client: aiohttp.ClientSession) -> None:
    """A request's body is bounded."""
    async with client.post(here.url + "/-/reload", data=b" " * 200_000, headers=JSON) as answer:
        assert answer.status == 413
    assert here.reloads == 0


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost", 200),
        ("localhost:9469", 200),
        ("127.0.0.1:1", 200),
        ("[::1]:9469", 200),
        ("LOCALHOST", 200),
        ("evil.example.com", 421),
        ("localhost.evil.example.com", 421),
        ("10.0.0.1", 421),
        ("", 421),
    ],
)
async def test_a_foreign_host_header_is_misdirected(
    here: Harness, client: aiohttp.ClientSession, host: str, status: int
) -> None:
    """An unknown host name gets 421 on every path except the health checks."""
    for path in ("/", "/metrics", "/api/calls", "/nothing", "/healthz/", "/healthz/../api/calls"):
        found, _ = await get(client, here.url + path, headers={"Host": host})
        assert found == (404 if path in ("/nothing", "/healthz/") and status == 200 else status)
    for path in ("/healthz", "/readyz"):
        assert (await get(client, here.url + path, headers={"Host": host}))[0] == 200


@pytest.mark.parametrize("path", ["/healthz", "/readyz"])
@pytest.mark.parametrize("token", ["", TOKEN])
async def test_health_checks_need_no_host(path: str, token: str) -> None:
    """Load balancers use HTTP/1.0 without a Host header, others an address or an empty one."""
    async with harness(token=token) as made:
        for rest in ("HTTP/1.0\r\n", "HTTP/1.0\r\nHost: \r\n", "HTTP/1.1\r\nHost: \r\n"):
            reader, writer = await asyncio.open_connection("127.0.0.1", int(made.url.rpartition(":")[2]))
            writer.write(f"GET {path} {rest}Connection: close\r\n\r\n".encode())
            answer = await asyncio.wait_for(reader.read(), 30)
            writer.close()
            assert answer.split(b" ")[1] == b"200", (rest, answer)


async def test_configured_hosts_are_accepted(client: aiohttp.ClientSession) -> None:
    """Behind a reverse proxy that keeps the name, without a token; a reload changes them."""
    async with harness(hosts=["Board.example.com", "2001:db8::7"]) as made:
        url = made.url + "/api/calls"
        for host in ("board.example.com", "BOARD.example.com:8443", "[2001:db8::7]:80", "localhost"):
            assert (await get(client, url, headers={"Host": host}))[0] == 200
        assert (await get(client, url, headers={"Host": "evil.board.example.com"}))[0] == 421
        made.server.change(token="", hosts=["other.example.com"], serializer=CallSerializer(Wire("last4"), {}))
        assert (await get(client, url, headers={"Host": "other.example.com"}))[0] == 200
        assert (await get(client, url, headers={"Host": "board.example.com"}))[0] == 421


async def test_a_wildcard_address_accepts_every_ip_address(client: aiohttp.ClientSession) -> None:
    """On the wildcard address every IP address is accepted as a host; an unknown name is not."""
    async with harness(host="0.0.0.0") as made:
        url = f"http://127.0.0.1:{made.url.rpartition(':')[2]}/metrics"
        assert (await get(client, url, headers={"Host": "192.0.2.7:9469"}))[0] == 200
        assert (await get(client, url, headers={"Host": "evil.example.com"}))[0] == 421


async def test_every_response_has_the_security_headers(here: Harness, client: aiohttp.ClientSession) -> None:
    """Pages, errors and the stream alike; nothing inline, nothing from elsewhere, no framing."""
    assert "unsafe" not in HEADERS["Content-Security-Policy"]
    paths = ("/", "/static/app.js", "/nothing", "/api/calls", "/api/events", "/healthz")
    for path in paths:
        async with client.get(here.url + path) as answer:
            assert {name: answer.headers.get(name) for name in HEADERS} == HEADERS
            assert answer.headers["Server"] == "callcast"
    async with client.get(here.url + "/api/calls", headers={"Host": "evil.example.com"}) as answer:
        assert HEADERS.items() <= answer.headers.items()


class TestToken:
    """With a token configured, every path except the health checks requires it."""

    @pytest.fixture
    async def guarded(self) -> AsyncIterator[Harness]:
        async with harness(token=TOKEN) as made:
            yield made

    async def test_without_it_nothing_is_shown(self, guarded: Harness, client: aiohttp.ClientSession) -> None:
        """401 on every path, also on unknown ones; health checks respond."""
        for path in ("/", "/metrics", "/api/calls", "/api/events", "/static/app.js", "/nothing"):
            status, text = await get(client, guarded.url + path)
            assert status == 401
            assert TOKEN not in text
        async with client.post(guarded.url + "/-/reload", json={}) as answer:
            assert (answer.status, guarded.reloads) == (401, 0)
        for path in ("/healthz", "/readyz"):
            assert (await get(client, guarded.url + path))[0] == 200

    @pytest.mark.parametrize("given", ["", "Bearer", "Bearer wrong", f"Basic {TOKEN}", f"Bearer {TOKEN}x", "Bearer ü"])
    async def test_a_wrong_one_is_refused(self, guarded: Harness, client: aiohttp.ClientSession, given: str) -> None:
        """Only the token itself, as Bearer."""
        assert (await get(client, guarded.url + "/api/calls", headers={"Authorization": given}))[0] == 401

    async def test_bearer(self, guarded: Harness, client: aiohttp.ClientSession) -> None:
        """Programs send it in the header, with any Host."""
        headers = {"Authorization": f"Bearer {TOKEN}", "Host": "callcast.internal"}
        assert (await get(client, guarded.url + "/api/calls", headers=headers))[0] == 200

    async def test_it_is_compared_in_constant_time(
        self, guarded: Harness, client: aiohttp.ClientSession, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Tokens are compared in constant time, wherever they are given."""
        compared = []

        def digest(given: bytes, wanted: bytes) -> bool:
            compared.append(given)
            return False

        monkeypatch.setattr("callcast.web.auth.hmac.compare_digest", digest)
        headers = {"Authorization": f"Bearer {TOKEN}", "Cookie": "callcast=right"}
        assert (await get(client, guarded.url + "/api/calls", headers=headers))[0] == 401
        assert (await get(client, guarded.url + f"/?token={TOKEN}"))[0] == 401
        assert {TOKEN.encode(), b"right"} <= set(compared)

    async def test_in_the_address_it_becomes_a_cookie(self, guarded: Harness, client: aiohttp.ClientSession) -> None:
        """`?token=` is removed from the address at once; scripts and other sites cannot read the cookie."""
        url = f"{guarded.url}/?wall=1&token={TOKEN}"
        async with client.get(url, allow_redirects=False) as answer:
            assert (answer.status, answer.headers["Location"]) == (303, "/?wall=1")
            cookie = answer.headers["Set-Cookie"]
        assert "HttpOnly" in cookie
        assert "SameSite=Strict" in cookie
        assert TOKEN not in cookie
        assert cookie.startswith("callcast=")
        value = cookie.split(";")[0]
        async with aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar()) as other:
            assert (await get(other, guarded.url + "/", headers={"Cookie": value}))[0] == 200
            assert (await get(other, guarded.url + "/", headers={"Cookie": value[:-1]}))[0] == 401
            assert (await get(other, guarded.url + "/", headers={"Cookie": f"callcast={TOKEN}"}))[0] == 401

    async def test_a_wrong_one_in_the_address(self, guarded: Harness, client: aiohttp.ClientSession) -> None:
        """A wrong token sets no cookie and does not redirect; nor does a token on an unknown path."""
        for url in ("/?token=wrong", "/?token=", f"//evil.example.com/?token={TOKEN}"):
            async with client.get(guarded.url + url, allow_redirects=False) as answer:
                assert answer.status == 401
                assert "Set-Cookie" not in answer.headers

    async def test_a_browser_gets_a_page_with_instructions(
        self, guarded: Harness, client: aiohttp.ClientSession
    ) -> None:
        """A browser without a token gets a page that says what to do."""
        status, text = await get(client, guarded.url + "/", headers={"Accept": "text/html"})
        assert status == 401
        assert "?token=" in text

    async def test_a_reload_may_change_it(self, guarded: Harness, client: aiohttp.ClientSession) -> None:
        """After a reload with another token, neither the old token nor its cookie is accepted."""
        await get(client, f"{guarded.url}/?token={TOKEN}")
        guarded.server.change(token="another", hosts=(), serializer=CallSerializer(Wire(), {}))
        assert (await get(client, guarded.url + "/api/calls"))[0] == 401
        headers = {"Authorization": "Bearer another"}
        assert (await get(client, guarded.url + "/api/calls", headers=headers))[0] == 200


async def test_a_reload_changes_numbers_and_names(here: Harness, client: aiohttp.ClientSession) -> None:
    """A new numbers policy and new names take effect at once, also for connected clients."""
    here.ring("101")
    async with client.get(here.url + "/api/events?board=1") as answer:
        stream = Stream(answer)
        assert (await stream.next("board"))["data"]["calls"][0]["from"]["number"] == "***6662"
        here.server.change(token="", hosts=(), serializer=CallSerializer(Wire("drop"), {"101": "Front office"}))
        changed = (await stream.next("board"))["data"]
        assert (changed["whole"], changed["calls"][0]["from"]["number"]) == (True, None)
        assert changed["calls"][0]["extension_name"] == "Front office"


async def test_static_files_are_complete(here: Harness, client: aiohttp.ClientSession) -> None:
    """Every file that the page loads is served with its type, and none comes from another host."""
    types = {"app.js": "text/javascript", "app.css": "text/css", "icon.svg": "image/svg+xml"}
    for name, content_type in types.items():
        async with client.get(f"{here.url}/static/{name}") as answer:
            assert (answer.status, answer.content_type) == (200, content_type)
            text = await answer.text()
            assert "https://" not in text
    _, page = await get(client, here.url + "/")
    assert "<style" not in page
    assert "style=" not in page
    assert "onclick" not in page


async def _joined(harness: Harness, readers: int = 1) -> None:
    """Wait until so many clients have caught up."""
    await until(lambda: harness.broadcaster.clients >= readers)
