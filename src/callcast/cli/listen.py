"""`callcast listen`: a local webhook receiver that verifies and prints requests, and fails on demand."""

import argparse
import asyncio
import json
import re
import secrets as chance
import signal
import sys
import time
from base64 import b64encode
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING, Any

from callcast.cli.event_line import Painter, plain
from callcast.exit_codes import ExitCode
from callcast.formats.standard_webhooks import SignatureCheck, SignatureChecker

if TYPE_CHECKING:
    from aiohttp import web

BODY_BYTES_MAX = 1024 * 1024
IDS_MAX = 10_000  # event ids remembered to detect duplicates
SLOW_S = 20.0  # longer than the default timeout_s of a sink
SNIPPETS = {"python": "verify.py", "javascript": "verify.mjs", "php": "verify.php"}
WORDS = ("slow", "never", "reset")
DESCRIPTION = """\
Run a local webhook receiver. It verifies each signature and explains why one is invalid, prints every event as it was
sent, detects duplicates, and answers as you choose. Without --secret it generates one. It prints the sink to configure.
"""
EPILOG = """\
answers
  204, 429, 500 ...   that status             slow    204 after 20 s (--slow-s)
  reset               reset the connection    never   no answer at all
  Add a count to repeat an answer; an answer without a count is used from then on: --answer 429:3,slow:1,204
  Without --answer, requests with an invalid signature are answered 401, and all others 204.

examples
  callcast listen --secret whsec_... --answer 500:2,204
  callcast listen --json | jq -r .event.type
  callcast listen --code python > verify.py
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.description = DESCRIPTION
    parser.epilog = EPILOG
    add = parser.add_argument
    add("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    add("--port", type=int, default=8088, help="port to listen on; 0 for any free port (default: %(default)s)")
    add(
        "--secret",
        metavar="WHSEC",
        action="append",
        default=[],
        help="the sink's secret, whsec_...; repeat it for rotation",
    )
    add("--unsigned", action="store_true", help="do not generate a secret: the sink has none")
    add("--answer", metavar="WHAT[:N],...", type=_answers, help="what to answer and how often; see below")
    add("--retry-after", metavar="S", type=int, help="Retry-After header for answers other than 2xx, in seconds")
    add("--slow-s", metavar="S", type=float, default=SLOW_S, help="delay of slow answers (default: %(default)s)")
    add("--json", action="store_true", help="print one JSON object per request")
    add("--brief", action="store_true", help="do not print request bodies")
    add("--code", choices=tuple(SNIPPETS), help="print sample code that verifies signatures, and exit")


@dataclass(frozen=True)
class Answer:
    """An answer. `what` is a status or a word; `count` None means from now on."""

    what: str
    count: int | None


def _answers(text: str) -> tuple[Answer, ...]:
    answers = []
    for part in text.split(","):
        what, _, count = part.strip().partition(":")
        known = what in WORDS or (re.fullmatch(r"[2-5]\d\d", what) is not None)
        if not known or (count and not re.fullmatch(r"[1-9]\d{0,8}", count)):
            raise argparse.ArgumentTypeError(f"{part!r} is not an answer such as 204, 429:3, slow, never or reset")
        answers.append(Answer(what, int(count) if count else None))
    return tuple(answers)


async def run(args: argparse.Namespace) -> int:
    if args.code:
        print(_snippet(args.code), end="")
        return ExitCode.DONE
    secrets = args.secret or ([] if args.unsigned else [_new_secret()])
    try:
        receiver = Receiver(args, SignatureChecker(secrets))
    except ValueError as error:
        print(f"callcast listen: --secret: {error}", file=sys.stderr)
        return ExitCode.USAGE
    try:
        return await _listen(receiver, args, secrets)
    except OSError as error:
        where = f"{args.host} port {args.port}"
        why = (error.strerror or str(error)).lower()
        print(f"callcast listen: cannot listen on {where}: {why}; choose another --port", file=sys.stderr)
        return ExitCode.UNAVAILABLE


def _snippet(language: str) -> str:
    from importlib.resources import files

    return files("callcast.cli.snippets").joinpath(SNIPPETS[language]).read_text(encoding="utf-8")


def _new_secret() -> str:
    return "whsec_" + b64encode(chance.token_bytes(32)).decode()


async def _listen(receiver: "Receiver", args: argparse.Namespace, secrets: Sequence[str]) -> int:
    from aiohttp import web

    app = web.Application(client_max_size=BODY_BYTES_MAX)
    app.router.add_route("*", "/{path:.*}", receiver.receive)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.TCPSite(runner, args.host, args.port).start()
        host, port = runner.addresses[0][:2]
        url = f"http://[{host}]:{port}/" if ":" in host else f"http://{host}:{port}/"
        print(_hint(url, secrets), file=sys.stderr, flush=True)
        return await receiver.stopped()
    finally:
        await runner.cleanup()


def _hint(url: str, secrets: Sequence[str]) -> str:
    lines = ["# Add this sink to the configuration:", "[sinks.listen]", 'type = "webhook"', f'url = "{url}"']
    return "\n".join([*lines, f"secrets = {json.dumps(list(secrets))}", "# Stop with Ctrl-C.", ""])


class Receiver:
    """Receives requests, prints them, and sends the configured answers."""

    def __init__(self, args: argparse.Namespace, judge: SignatureChecker) -> None:
        self._args = args
        self._judge = judge
        self._answers = self._in_order(args.answer) if args.answer else None
        self._seen: OrderedDict[str, list[bytes]] = OrderedDict()
        self._painter = Painter(colour=sys.stdout.isatty())
        self._stopped = asyncio.Event()
        self._code = 0

    async def stopped(self) -> int:
        """Wait for Ctrl-C, SIGTERM or a closed standard output, and return the exit code."""
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, self._stopped.set)
        await self._stopped.wait()
        return self._code

    async def receive(self, request: "web.Request") -> "web.StreamResponse":
        from aiohttp import web

        body = await request.read()
        if request.method != "POST":
            return web.Response(status=405, text="callcast listen: POST your events here\n")
        headers = {name.lower(): value for name, value in request.headers.items()}
        verdict = self._judge.check(headers, body, time.time())
        what = next(self._answers) if self._answers else "204" if verdict.good else "401"
        try:
            self._show(ReceivedRequest(headers, body, verdict, self._times_seen(headers.get("webhook-id"), body), what))
        except SystemExit as end:  # standard output is closed
            self._code = end.code if isinstance(end.code, int) else 0
            self._stopped.set()
        return await self._answer(request, what)

    def _times_seen(self, event_id: str | None, body: bytes) -> str:
        """Describe a duplicate; empty for a new event."""
        if not event_id:
            return ""
        digest = sha256(body).digest()
        bodies = self._seen.setdefault(event_id, [])
        self._seen.move_to_end(event_id)
        while len(self._seen) > IDS_MAX:
            self._seen.popitem(last=False)
        bodies.append(digest)
        del bodies[:-100]
        if len(bodies) == 1:
            return ""
        same = "" if len(set(bodies)) == 1 else ", with different bodies"
        return f"duplicate: received {len(bodies)} times{same}"

    async def _answer(self, request: "web.Request", what: str) -> "web.StreamResponse":
        from aiohttp import web

        if what == "never":
            await self._stopped.wait()
        if what == "slow":
            await asyncio.sleep(self._args.slow_s)
        if what in ("reset", "never") and request.transport is not None:
            request.transport.abort()
        status = int(what) if what.isdigit() else 204
        wait_s = self._args.retry_after
        headers = {"Retry-After": str(wait_s)} if wait_s is not None and status >= 300 else {}
        return web.Response(status=status, headers=headers)

    @staticmethod
    def _in_order(answers: Sequence[Answer]) -> Iterator[str]:
        for answer in answers:
            if answer.count is None:
                while True:
                    yield answer.what
            for _ in range(answer.count):
                yield answer.what
        while True:
            yield "204"

    def _show(self, request: "ReceivedRequest") -> None:
        print(json.dumps(request.facts()) if self._args.json else self._as_text(request), flush=True)

    def _as_text(self, request: "ReceivedRequest") -> str:
        paint = self._painter.paint
        event = request.event()
        verdict = request.verdict
        colour = "33" if verdict.good else "31"
        mark = paint("signature ok", "32") if verdict.word == "ok" else paint(f"{verdict.word}: {verdict.why}", colour)
        facts = [request.header("webhook-id"), f"attempt {request.header('x-callcast-attempt') or '?'}"]
        lines = [
            self._painter.line(event) if event else paint("not a callcast event", "31"),
            "  " + " · ".join([mark, *filter(None, facts), f"answered {request.answer}"]),
        ]
        if request.duplicate:
            lines.append("  " + paint(request.duplicate, "33"))
        if not self._args.brief:
            lines.append(_indented(request.body))
        return "\n".join(lines)


@dataclass(frozen=True)
class ReceivedRequest:
    """One request, with its signature check and the answer."""

    headers: dict[str, str]
    body: bytes
    verdict: SignatureCheck
    duplicate: str
    answer: str

    def header(self, name: str) -> str:
        return plain(self.headers.get(name, ""))

    def event(self) -> dict[str, Any] | None:
        """Return the event in CloudEvents form, whichever format the sink uses."""
        document = self.document()
        if not isinstance(document, dict) or not isinstance(document.get("data"), dict):
            return None
        return {"time": document.get("timestamp")} | document

    def document(self) -> Any:
        try:
            return json.loads(self.body)
        except ValueError:
            return None

    def facts(self) -> dict[str, Any]:
        return {
            "signature": self.verdict.word,
            "why": self.verdict.why,
            "id": self.headers.get("webhook-id"),
            "attempt": self.headers.get("x-callcast-attempt"),
            "duplicate": bool(self.duplicate),
            "answered": self.answer,
            "event": self.document(),
        }


def _indented(body: bytes) -> str:
    try:
        text = json.dumps(json.loads(body), indent=2, ensure_ascii=False)
    except ValueError:
        text = body.decode("utf-8", "backslashreplace")
    return "\n".join("    " + plain(line) for line in text.splitlines())
