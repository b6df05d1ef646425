"""`callcast tail`: follow the events of a running service."""

import argparse
import http.client
import json
import select
import signal
import ssl
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, TextIO
from urllib.parse import urlsplit

from callcast.cli import running_service as running
from callcast.cli.event_line import Painter
from callcast.exit_codes import ExitCode

SILENCE_S = 30.0  # read timeout; the service sends a keep-alive every 10 s
LINE_BYTES_MAX = 1024 * 1024
PAUSES_S = (0.5, 1.0, 2.0, 5.0)
PATH = "/api/events"
EPILOG = """\
examples
  callcast tail
  callcast tail --type 'call.e*' --extension 62264425016 --last 20
  callcast tail --url https://wallboard.example.com | jq -r .data.disposition

If the service requires a token, it is taken from $CALLCAST_HTTP_TOKEN or service.http_token in the configuration.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.description = (
        "Follow the events of a running service. Prints coloured lines on a terminal, and one JSON object per line\n"
        "otherwise. Reconnects automatically and continues where it stopped. Phone numbers are shown as set by\n"
        "service.numbers."
    )
    parser.epilog = EPILOG
    parser.add_argument("--url", help="base URL of the service (default: from the configuration)")
    parser.add_argument("--type", metavar="GLOB", default="*", help="only events of these types, such as call.ended")
    parser.add_argument(
        "--extension", metavar="ID", action="append", default=[], help="only this extension; may be repeated"
    )
    parser.add_argument("--last", metavar="N", type=int, default=0, help="start with the last N events, at most 100")


def run(args: argparse.Namespace) -> int:
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        tail = Tail(_service(args), args.last)
    except ValueError as error:
        print(f"callcast tail: {error}", file=sys.stderr)
        return ExitCode.USAGE
    show = _shower(sys.stdout)
    try:
        for raw in tail.events(lambda: _is_read(sys.stdout)):
            event = json.loads(raw)
            if _is_wanted(event, args):
                show(raw, event)
    except Unavailable as error:
        print(f"callcast tail: {error}", file=sys.stderr)
        return ExitCode.UNAVAILABLE
    return ExitCode.DONE


class Unavailable(Exception):
    """The service is unreachable. The message names the place, the cause and the next step."""


@dataclass(frozen=True)
class Service:
    encrypted: bool
    host: str
    port: int
    path: str
    token: str

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'https' if self.encrypted else 'http'}://{host}:{self.port}"


def _service(args: argparse.Namespace) -> Service:
    """Raises ValueError."""
    token = running.token(args.config)
    if args.url is None:
        host, port = running.address(args.config)
        return Service(False, host, port, "", token)
    parts = urlsplit(args.url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("--url must be a URL such as http://127.0.0.1:9469")
    encrypted = parts.scheme == "https"
    return Service(encrypted, parts.hostname, parts.port or (443 if encrypted else 80), parts.path.rstrip("/"), token)


class Tail:
    """The stream of events, reconnecting as needed."""

    def __init__(self, service: Service, last: int) -> None:
        self._service = service
        self._last = last
        self._last_id = ""
        self._was_there = False

    def events(self, goes_on: Callable[[], bool]) -> Iterator[bytes]:
        """Yield each event as JSON while `goes_on` returns true. Raises Unavailable if the first connection fails."""
        failures = 0
        while goes_on():
            try:
                with closing(self._connect()) as answer:
                    if failures:
                        print("callcast tail: reconnected", file=sys.stderr)
                    failures = 0
                    yield from self._frames(answer, goes_on)
                    trouble = "the service closed the connection"
            except (OSError, http.client.HTTPException, Later) as error:
                if not self._was_there:
                    raise Unavailable(self._advice(error)) from None
                trouble = _cause(error)
            if failures == 0 and goes_on():
                print(f"callcast tail: {self._service}: {trouble}; reconnecting", file=sys.stderr)
            time.sleep(PAUSES_S[min(failures, len(PAUSES_S) - 1)])
            failures += 1

    def _connect(self) -> http.client.HTTPResponse:
        service = self._service
        connection: http.client.HTTPConnection = (
            http.client.HTTPSConnection(service.host, service.port, timeout=SILENCE_S)
            if service.encrypted
            else http.client.HTTPConnection(service.host, service.port, timeout=SILENCE_S)
        )
        headers = {"Accept": "text/event-stream"}
        headers |= {"Authorization": f"Bearer {service.token}"} if service.token else {}
        headers |= {"Last-Event-ID": self._last_id} if self._last_id else {}
        connection.request("GET", f"{service.path}{PATH}?last={max(0, self._last)}", headers=headers)
        answer = connection.getresponse()
        if answer.status != http.client.OK:
            answer.close()
            self._refused(answer.status)
        self._was_there = True
        return answer

    def _refused(self, status: int) -> None:
        if status == http.client.UNAUTHORIZED:
            problem = "rejected the token" if self._service.token else "requires a token"
            raise Unavailable(f"{self._service} {problem}: set ${running.TOKEN_VARIABLE} to service.http_token")
        if status >= 500:
            raise Later(f"answered {status}")
        place = f"{self._service}{self._service.path}"
        raise Unavailable(f"{place} answered {status}, which callcast does not: check --url")

    def _frames(self, answer: http.client.HTTPResponse, goes_on: Callable[[], bool]) -> Iterator[bytes]:
        data = b""
        while line := answer.readline(LINE_BYTES_MAX):
            name, _, value = line.rstrip(b"\r\n").partition(b": ")
            if name == b"id":
                self._last_id = value.decode("ascii", "replace")
            elif name == b"data":
                data = value
            elif not name and data:
                yield data
                data = b""
            if not goes_on():
                return

    def _advice(self, error: Exception) -> str:
        return (
            f"{self._service}: {_cause(error)}: check that the service is running (callcast run), "
            "or give its address with --url"
        )


class Later(Exception):
    """The service is temporarily unavailable."""


def _cause(error: Exception) -> str:
    match error:
        case ssl.SSLCertVerificationError():
            return error.verify_message
        case TimeoutError():
            return "no answer in time"
        case OSError():
            return (error.strerror or type(error).__name__).lower()
        case Later():
            return str(error)
    return "the answer is not HTTP"


def _is_wanted(event: dict[str, Any], args: argparse.Namespace) -> bool:
    extension = (event.get("data") or {}).get("extension_id")
    return fnmatchcase(str(event.get("type")), args.type) and (not args.extension or extension in args.extension)


def _shower(out: TextIO) -> Callable[[bytes, dict[str, Any]], None]:
    painter = Painter(colour=True)

    def show(raw: bytes, event: dict[str, Any]) -> None:
        print(painter.line(event) if out.isatty() else raw.decode(), file=out, flush=True)

    return show


def _is_read(out: TextIO) -> bool:
    """Whether our output is still being read. Without events nothing is written, so no write would fail."""
    poll = select.poll()
    poll.register(out.fileno(), 0)
    return not any(what & (select.POLLERR | select.POLLHUP) for _, what in poll.poll(0))
