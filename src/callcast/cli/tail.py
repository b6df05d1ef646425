"""`callcast tail`: follow the events of a running service."""

import argparse
import http.client
import json
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from fnmatch import fnmatchcase
from typing import Any

from callcast.cli.event_line import Painter
from callcast.cli.failure import CommandFailed
from callcast.cli.output import for_people, has_reader, in_colour
from callcast.cli.running_service import TOKEN_VARIABLE, RunningService, cause_of, service_of
from callcast.exit_codes import ExitCode

SILENCE_S = 30.0  # read timeout; the service sends a keep-alive every 10 s
LINE_BYTES_MAX = 1024 * 1024
PAUSES_S = (0.5, 1.0, 2.0, 5.0)


def run(args: argparse.Namespace) -> None:
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    tail, painter, lines = Tail(service_of(args, with_token=True), args.last), Painter(colour=in_colour()), for_people()
    for raw in tail.events(has_reader):
        event = json.loads(raw)
        if _is_wanted(event, args):
            print(painter.line(event) if lines else raw.decode(), flush=True)


class Tail:
    """The stream of events, reconnecting as needed."""

    def __init__(self, service: RunningService, last: int) -> None:
        self._service = service
        self._last = last
        self._last_id = ""
        self._connected = False

    def events(self, goes_on: Callable[[], bool]) -> Iterator[bytes]:
        """Yield each event as JSON while `goes_on` returns true. Raises CommandFailed if the first connection fails."""
        failures = 0
        while goes_on():
            try:
                with closing(self._connect()) as answer:
                    if failures:
                        print("callcast tail: reconnected", file=sys.stderr)
                    failures = 0
                    yield from self._frames(answer, goes_on)
                    trouble = "the service closed the connection"
            except (OSError, http.client.HTTPException) as error:
                if not self._connected:
                    fix = "check that the service is running (callcast run), or give its address with --url"
                    problem = f"{self._service}: {cause_of(error)}: {fix}"
                    raise CommandFailed(problem, ExitCode.UNAVAILABLE) from None
                trouble = cause_of(error)
            if failures == 0 and goes_on():
                print(f"callcast tail: {self._service}: {trouble}; reconnecting", file=sys.stderr)
            time.sleep(PAUSES_S[min(failures, len(PAUSES_S) - 1)])
            failures += 1

    def _connect(self) -> http.client.HTTPResponse:
        headers = {"Accept": "text/event-stream"} | ({"Last-Event-ID": self._last_id} if self._last_id else {})
        answer = self._service.get(f"/api/events?last={self._last}", headers, SILENCE_S)
        if answer.status != http.client.OK:
            answer.close()
            raise self._refused(answer.status)
        self._connected = True
        return answer

    def _refused(self, status: int) -> Exception:
        if status == http.client.UNAUTHORIZED:
            problem = "rejected the token" if self._service.token else "requires a token"
            fix = f"set ${TOKEN_VARIABLE} to service.http_token"
            return CommandFailed(f"{self._service} {problem}: {fix}", ExitCode.UNAVAILABLE)
        if status >= 500:
            return OSError(0, f"answered {status}")
        problem = f"{self._service} answered {status}, which callcast does not: check --url"
        return CommandFailed(problem, ExitCode.UNAVAILABLE)

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


def _is_wanted(event: dict[str, Any], args: argparse.Namespace) -> bool:
    extension = (event.get("data") or {}).get("extension_id")
    return fnmatchcase(str(event.get("type")), args.type) and (not args.extension or extension in args.extension)
