"""What a receiver may answer: a 2xx status line is success, whatever comes after it; written byte by byte."""

import asyncio
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager, suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from callcast.ports.sink import Delivered, Outcome, Retry
from callcast.sinks.webhook.posting import Response, _Exchange
from callcast.testing import delivery
from tests.integration.sinks.test_webhook import opened
from tests.ports import free_port

Script = Callable[[asyncio.StreamWriter], Awaitable[None]]
FOREVER_S = 3  # as a time limit: longer than any test may take


class RawReceiver:
    """Reads requests and answers each as the next script says; the last script is for all that follow."""

    def __init__(self, *scripts: Script) -> None:
        self.ids: list[str] = []
        self.connections = 0
        self.port = 0
        self.url = ""
        self._scripts = list(scripts)
        self._server: asyncio.Server | None = None

    @asynccontextmanager
    async def serve(self, *, host: str = "127.0.0.1", port: int = 0) -> AsyncIterator["RawReceiver"]:
        self.port = port or free_port()
        self._server = await asyncio.start_server(self._connection, host, self.port)
        self.url = f"http://{host}:{self.port}/"
        async with self._server:
            yield self

    def stop(self) -> None:
        if self._server is not None:
            self._server.close()

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        with suppress(OSError, asyncio.IncompleteReadError):
            while not writer.is_closing():
                head = (await reader.readuntil(b"\r\n\r\n")).lower()
                await reader.readexactly(int(head.split(b"content-length:")[1].split(b"\r\n")[0]))
                self.ids.append(head.split(b"webhook-id: ")[1].split(b"\r\n")[0].decode())
                script = self._scripts.pop(0) if len(self._scripts) > 1 else self._scripts[0]
                await script(writer)
        writer.close()


def answers_with(answer: bytes, *, closes: bool = False) -> Script:
    async def script(writer: asyncio.StreamWriter) -> None:
        writer.write(answer)
        await writer.drain()
        if closes:
            writer.close()

    return script


def goes_on(answer: bytes, pieces: Iterable[bytes]) -> Script:
    async def script(writer: asyncio.StreamWriter) -> None:
        writer.write(answer)
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(0)

    return script


def resets(answer: bytes) -> Script:
    async def script(writer: asyncio.StreamWriter) -> None:
        writer.write(answer)
        await writer.drain()
        writer.transport.abort()

    return script


OK = b"HTTP/1.1 200 OK\r\n"
EMPTY = b"content-length: 0\r\n\r\n"
FINE = OK + EMPTY
SCRIPTS: dict[str, Script] = {
    "plain": answers_with(FINE),
    "no reason": answers_with(b"HTTP/1.1 200\r\n" + EMPTY),
    "a space and no reason": answers_with(b"HTTP/1.1 200 \r\n" + EMPTY),
    "HTTP 1.0": answers_with(b"HTTP/1.0 200 OK\r\n\r\n", closes=True),
    "HTTP 2 in letters": answers_with(b"HTTP/2 200 OK\r\n" + EMPTY),
    "HTTP 1.2": answers_with(b"HTTP/1.2 200 OK\r\n" + EMPTY),
    "two spaces": answers_with(b"HTTP/1.1  200 OK\r\n" + EMPTY),
    "bare line feeds": answers_with(FINE.replace(b"\r\n", b"\n")),
    "an empty line first": answers_with(b"\r\n" + FINE),
    "a reason that is not ASCII": answers_with(b"HTTP/1.1 200 \xc3\x9cbernommen \xff\r\n" + EMPTY),
    "a reason of 9 kB": answers_with(b"HTTP/1.1 200 " + b"O" * 9_000 + b"\r\n" + EMPTY),
    "a reason of 100 kB": answers_with(b"HTTP/1.1 200 " + b"O" * 100_000 + b"\r\n" + EMPTY),
    "status 299": answers_with(b"HTTP/1.1 299 Why Not\r\n" + EMPTY),
    "a header of 9 kB": answers_with(OK + b"x-a: " + b"a" * 9_000 + b"\r\n" + EMPTY),
    "a header of 100 kB": answers_with(OK + b"x-a: " + b"a" * 100_000 + b"\r\n" + EMPTY),
    "a header's name of 9 kB": answers_with(OK + b"x" * 9_000 + b": a\r\n" + EMPTY),
    "200 headers": answers_with(OK + b"".join(b"x-%d: a\r\n" % n for n in range(200)) + EMPTY),
    "2,000 headers": answers_with(OK + b"".join(b"x-%d: a\r\n" % n for n in range(2_000)) + EMPTY),
    "a header without a colon": answers_with(OK + b"no colon here\r\n" + EMPTY),
    "a header without a name": answers_with(OK + b": a\r\n" + EMPTY),
    "a space before the colon": answers_with(OK + b"x-a : a\r\n" + EMPTY),
    "a folded header": answers_with(OK + b"x-a: a\r\n  b\r\n" + EMPTY),
    "NUL in a header": answers_with(OK + b"x-a: a\0b\r\n" + EMPTY),
    "a bare CR in a header": answers_with(OK + b"x-a: a\rb\r\n" + EMPTY),
    "a header that is not UTF-8": answers_with(OK + b"x-a: \xff\xfe\r\n" + EMPTY),
    "a body after 204": answers_with(b"HTTP/1.1 204 No Content\r\n\r\nno, a body", closes=True),
    "a content-length after 204": answers_with(b"HTTP/1.1 204 No Content\r\ncontent-length: 5\r\n\r\nhello"),
    "two content-lengths": answers_with(OK + b"content-length: 5\r\ncontent-length: 6\r\n\r\nhello!"),
    "a content-length in words": answers_with(OK + b"content-length: five\r\n\r\nhello"),
    "a negative content-length": answers_with(OK + b"content-length: -1\r\n\r\nhello"),
    "a huge content-length": answers_with(OK + b"content-length: 99999999999999999999999\r\n\r\nhello"),
    "chunked and a content-length": answers_with(OK + b"transfer-encoding: chunked\r\n" + EMPTY + b"0\r\n\r\n"),
    "an unknown transfer-encoding": answers_with(OK + b"transfer-encoding: rot13\r\n\r\nuryyb", closes=True),
    "a bad chunk": answers_with(OK + b"transfer-encoding: chunked\r\n\r\nxyz\r\nhello\r\n0\r\n\r\n"),
    "a chunk that is cut off": answers_with(OK + b"transfer-encoding: chunked\r\n\r\nff\r\nhello", closes=True),
    "no last chunk": answers_with(OK + b"transfer-encoding: chunked\r\n\r\n5\r\nhello\r\n", closes=True),
    "a body that is cut off": answers_with(OK + b"content-length: 9\r\n\r\nhello", closes=True),
    "a body until the end": answers_with(OK + b"\r\nhello", closes=True),
    "no gzip in gzip": answers_with(OK + b"content-encoding: gzip\r\ncontent-length: 5\r\n\r\nhello"),
    "an unknown content-encoding": answers_with(OK + b"content-encoding: rot13\r\ncontent-length: 5\r\n\r\nuryyb"),
    "bytes after the end": answers_with(FINE + b"and one more thing\r\n\r\n"),
    "a second answer": answers_with(FINE + b"HTTP/1.1 500 Oops\r\n" + EMPTY),
    "early hints first": answers_with(b"HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n" + FINE),
    "an odd early hint first": answers_with(b"HTTP/1.1 103 Early Hints\r\nno colon\r\n\r\n" + FINE),
    "an upgrade that was not requested": answers_with(OK + b"connection: upgrade\r\nupgrade: websocket\r\n" + EMPTY),
    "cookies that are none": answers_with(OK + b"set-cookie: \xff=;;;=\r\nset-cookie: a\r\n" + EMPTY),
    "a location": answers_with(OK + b"location: http://[::1\r\n" + EMPTY),
    "the end after the status line": answers_with(OK, closes=True),
    "the end within the headers": answers_with(OK + b"x-a: ", closes=True),
    "a reset after the status line": resets(OK),
    "a reset within the body": resets(OK + b"content-length: 9\r\n\r\nhello"),
    "silence after the status line": answers_with(OK),
    "silence within the headers": answers_with(OK + b"x-a: a\r\n"),
    "silence instead of the body": answers_with(OK + b"content-length: 9\r\n\r\n"),
    "silence instead of a chunk": answers_with(OK + b"transfer-encoding: chunked\r\n\r\n"),
    "an endless reason": goes_on(b"HTTP/1.1 200 ", itertools.repeat(b"O" * 1000)),
    "an endless header": goes_on(OK + b"x-a: ", itertools.repeat(b"a" * 1000)),
    "endless headers": goes_on(OK, (b"x-%d: a\r\n" % n for n in itertools.count())),
    "an endless body": goes_on(OK + b"\r\n", itertools.repeat(b"a" * 1000)),
    "an endless chunked body": goes_on(OK + b"transfer-encoding: chunked\r\n\r\n", itertools.repeat(b"1\r\na\r\n")),
}


@pytest.mark.parametrize("script", SCRIPTS.values(), ids=SCRIPTS.keys())
async def test_a_2xx_status_line_is_success(script: Script) -> None:
    """The attempt ends long before the time limit; the next event gets its own response."""
    receiver = RawReceiver(script, answers_with(b"HTTP/1.1 500 Oops\r\n" + EMPTY))
    async with receiver.serve(), opened(receiver.url, timeout_s=FOREVER_S) as sink:
        assert await sink.send(delivery()) == Delivered()
        assert await sink.send(delivery(1)) == Retry("http_500", "answered 500")
    assert receiver.ids == [delivery().event.id, delivery(1).event.id]


async def drips(writer: asyncio.StreamWriter) -> None:
    for byte in FINE:
        writer.write(bytes([byte]))
        await writer.drain()
        await asyncio.sleep(0.001)


async def test_an_answer_that_comes_byte_by_byte() -> None:
    """It is read as any other, and its connection is used again."""
    async with RawReceiver(drips).serve() as receiver, opened(receiver.url) as sink:
        for number in range(2):
            assert await sink.send(delivery(number)) == Delivered()
    assert receiver.connections == 1


NO_ANSWERS: dict[str, Script] = {
    "another protocol": answers_with(b"220 mail.example.com ESMTP\r\n\r\n", closes=True),
    "a status of four digits": answers_with(b"HTTP/1.1 2000 OK\r\n" + EMPTY, closes=True),
    "a status of two digits": answers_with(b"HTTP/1.1 20 OK\r\n" + EMPTY, closes=True),
    "half a status": answers_with(b"HTTP/1.1 20", closes=True),
    "nothing but early hints": answers_with(b"HTTP/1.1 103 Early Hints\r\n\r\n", closes=True),
    "2xx in an early hint": answers_with(b"HTTP/1.1 103 Early Hints\r\nx-a: HTTP/1.1 200 OK\r\n\r\n", closes=True),
    "2xx behind other bytes": answers_with(b"hello HTTP/1.1 200 OK\r\n" + EMPTY, closes=True),
    "nothing": answers_with(b"", closes=True),
    "endless early hints": goes_on(b"", itertools.repeat(b"HTTP/1.1 103 Early Hints\r\n\r\n")),
    "an endless early hint": goes_on(b"HTTP/1.1 103 Early Hints\r\n", (b"x-%d: a\r\n" % n for n in itertools.count())),
    "endless bytes": goes_on(b"", itertools.repeat(b"HTTP/1.1 2")),
}


@pytest.mark.parametrize("script", NO_ANSWERS.values(), ids=NO_ANSWERS.keys())
async def test_what_says_no_2xx_is_none(script: Script) -> None:
    """Only a status line says that the event was taken."""
    async with RawReceiver(script).serve() as receiver, opened(receiver.url, timeout_s=FOREVER_S) as sink:
        assert isinstance(await sink.send(delivery()), Retry)
    assert receiver.ids == [delivery().event.id]


OTHERS: list[tuple[bytes, Outcome]] = [
    (b"HTTP/1.1 410 Gone\r\nno colon\r\n\r\n", Retry("gone", "answered 410", gone=True)),
    (b"HTTP/1.1 500 Oops\r\ncontent-length: five\r\n\r\n", Retry("http_500", "answered 500")),
    (
        b"HTTP/1.1 429 Slow Down\r\nx-a: " + b"a" * 9_000 + b"\r\nretry-after: 30\r\n\r\n",
        Retry("http_429", "answered 429", after_s=30.0, holds_sink=True),
    ),
    (
        b"HTTP/1.1 503 Busy\r\nretry-after: 30\r\ncontent-length: 9\r\n\r\nno more",
        Retry("http_503", "answered 503", after_s=30.0, holds_sink=True),
    ),
]


@pytest.mark.parametrize(("answer", "outcome"), OTHERS)
async def test_any_status_counts_whatever_comes_after_it(answer: bytes, outcome: Outcome) -> None:
    """Not only success: the status line of an answer, and the headers that can be read, take effect."""
    async with RawReceiver(answers_with(answer)).serve() as receiver, opened(receiver.url, timeout_s=FOREVER_S) as sink:
        assert await sink.send(delivery()) == outcome


@pytest.mark.parametrize("unasked_for", [FINE, b"HTTP/1.1 2"], ids=["whole", "half"])
async def test_an_answer_that_nothing_was_sent_for_is_no_answer(unasked_for: bytes) -> None:
    """A connection on which something comes unasked is closed: the next event is not taken for delivered by it."""
    went_on, unasked = asyncio.Event(), asyncio.Event()

    async def talks_on(writer: asyncio.StreamWriter) -> None:
        writer.write(FINE)
        await went_on.wait()
        writer.write(unasked_for)
        await writer.drain()
        unasked.set()

    refuses = answers_with(b"HTTP/1.1 500 Oops\r\n" + EMPTY)
    async with RawReceiver(talks_on, refuses).serve() as receiver, opened(receiver.url) as sink:
        assert await sink.send(delivery()) == Delivered()
        went_on.set()
        await unasked.wait()
        for _ in range(10):  # turns of the loop, in which it arrives
            await asyncio.sleep(0)
        assert await sink.send(delivery(1)) == Retry("http_500", "answered 500")
    assert receiver.connections == 2


async def test_what_comes_while_an_answer_is_put_away_is_no_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the end of an answer and of its exchange, when the connection may be taken for the next already."""
    works = _Exchange.end

    def end(exchange: _Exchange) -> None:
        if exchange.protocol is not None:
            exchange.protocol.data_received(FINE)
        works(exchange)

    refuses = answers_with(b"HTTP/1.1 500 Oops\r\n" + EMPTY)
    async with RawReceiver(answers_with(FINE), refuses).serve() as receiver, opened(receiver.url) as sink:
        monkeypatch.setattr(_Exchange, "end", end)
        assert await sink.send(delivery()) == Delivered()
        monkeypatch.undo()
        assert await sink.send(delivery(1)) == Retry("http_500", "answered 500")
    assert receiver.connections == 2


# Kept connections


async def test_kept_connections_that_die_cost_nothing() -> None:
    """As many as there are: each event goes out again at once on a new one, in the same attempt."""
    many = 8
    arrived, let_go = asyncio.Semaphore(0), asyncio.Event()
    restarted = False

    async def answers(writer: asyncio.StreamWriter) -> None:
        if not restarted:
            arrived.release()
            await let_go.wait()
            writer.write(FINE)
        elif writer in old:
            writer.transport.abort()  # what it was sent is lost, as in a restart
        else:
            writer.write(FINE)
        old.add(writer) if not restarted else None

    old: set[asyncio.StreamWriter] = set()
    async with RawReceiver(answers).serve() as receiver, opened(receiver.url) as sink:
        first = [asyncio.create_task(sink.send(delivery(number))) for number in range(many)]
        for _ in first:
            await arrived.acquire()
        let_go.set()
        assert await asyncio.gather(*first) == [Delivered()] * many
        restarted = True
        again = await asyncio.gather(*(sink.send(delivery(many + number)) for number in range(many)))
    assert again == [Delivered()] * many


async def test_a_kept_connection_that_dies_within_an_answer_is_a_failure() -> None:
    """The receiver was there, and has begun to say something: that is another cause."""
    half = answers_with(b"HTTP/1.1 5", closes=True)
    async with (
        RawReceiver(answers_with(FINE), half, answers_with(FINE)).serve() as receiver,
        opened(receiver.url) as sink,
    ):
        assert await sink.send(delivery()) == Delivered()
        assert isinstance(await sink.send(delivery(1)), Retry)
    assert len(receiver.ids) == 2


async def test_a_new_connection_that_dies_is_a_failure() -> None:
    """Only a kept connection is replaced: there is no endless round."""
    async with (
        RawReceiver(answers_with(FINE), answers_with(b"", closes=True)).serve() as receiver,
        opened(receiver.url) as sink,
    ):
        assert await sink.send(delivery()) == Delivered()
        outcome = await sink.send(delivery(1))
    assert outcome == Retry("disconnected", "http://127.0.0.1: the connection was lost before the response")
    assert len(receiver.ids) == 3


HEADS = st.sampled_from(
    [b"", b"\r\n", b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 103 Hints\nlink: a\n\nHTTP/1.1 102\r\n\r\n"]
)


@given(HEADS, st.integers(100, 999), st.binary(max_size=300), st.lists(st.integers(0, 400), max_size=8))
@settings(deadline=None)
async def test_a_status_is_read_however_the_bytes_are_cut(
    head: bytes, status: int, rest: bytes, cuts: list[int]
) -> None:
    """The first final status line decides, whatever comes before it as interim answers and after it as bytes."""
    answer = head + b"HTTP/1.1 %d " % status + rest
    exchange = _Exchange()
    for begin, end in itertools.pairwise([0, *sorted(cuts), len(answer)]):
        exchange.receive(answer[begin:end])
    if status >= 200 or status == 101:
        assert exchange.response == Response(status)
