"""`callcast listen`: a local webhook receiver that verifies and prints requests, and fails on demand."""

import argparse
import asyncio
import json
import math
import secrets as chance
import sys
import time
from base64 import b64encode
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
from importlib.resources import files
from itertools import repeat
from typing import Any

from aiohttp import web

from callcast.cli.event_line import Painter, plain
from callcast.cli.failure import CommandFailed
from callcast.cli.output import has_reader, in_colour
from callcast.cli.server import listening_on, set_on_signal
from callcast.cli.stand_ins import STAND_INS, Answer
from callcast.formats.standard_webhooks import SignatureCheck, SignatureChecker

BODY_BYTES_MAX = 1024 * 1024
IDS_MAX = 10_000  # event ids remembered to detect duplicates
SNIPPETS = {"python": "verify.py", "javascript": "verify.mjs", "php": "verify.php"}


async def run(args: argparse.Namespace) -> int:
    if args.code:
        print(files("callcast.cli.snippets").joinpath(SNIPPETS[args.code]).read_text(encoding="utf-8"), end="")
        return 0
    secrets = args.secret or (
        [] if args.unsigned or args.product else [f"whsec_{b64encode(chance.token_bytes(32)).decode()}"]
    )
    if args.product and args.secret:
        raise CommandFailed(f"--secret: {args.product} cannot verify signatures; leave --secret or --as out")
    try:
        receiver = Receiver(args, SignatureChecker(secrets))
    except ValueError as error:
        raise CommandFailed(f"--secret: {error}") from error
    app = web.Application(client_max_size=BODY_BYTES_MAX)
    app.router.add_route("*", "/{path:.*}", receiver.receive)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    try:
        with listening_on(args.host, args.port):
            await web.TCPSite(runner, args.host, args.port).start()
        host, port = runner.addresses[0][:2]
        url = f"http://[{host}]:{port}/" if ":" in host else f"http://{host}:{port}/"
        print(_hint(url, secrets, args.product), file=sys.stderr, flush=True)
        return await receiver.stopped()
    finally:
        await runner.cleanup()


def _hint(url: str, secrets: Sequence[str], product: str | None) -> str:
    lines = ["# Add this sink to the configuration:", "[sinks.listen]", 'type = "webhook"', f'url = "{url}"']
    key = f'format = "{product}"' if product else f"secrets = {json.dumps(list(secrets))}"
    return "\n".join([*lines, key, "# Stop with Ctrl-C.", ""])


class Receiver:
    """Receives requests, prints them, and sends the configured answers."""

    def __init__(self, args: argparse.Namespace, checker: SignatureChecker) -> None:
        self._args = args
        self._checker = checker
        self._answers = self._in_order(args.answer) if args.answer else None
        self._product = STAND_INS[args.product]() if args.product else None
        self._seen: OrderedDict[str, list[bytes]] = OrderedDict()
        self._painter = Painter(colour=in_colour())
        self._stopped = asyncio.Event()
        self._code = 0

    async def stopped(self) -> int:
        """Wait for Ctrl-C, SIGTERM or a closed standard output, and return the exit code."""
        set_on_signal(self._stopped)
        while has_reader() and not self._stopped.is_set():
            with suppress(TimeoutError):
                await asyncio.wait_for(self._stopped.wait(), 0.5)
        self._stopped.set()
        return self._code

    async def receive(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        if request.method != "POST":
            return web.Response(status=405, text="callcast listen: POST your events here\n")
        headers = {name.lower(): value for name, value in request.headers.items()}
        check = self._checker.check(headers, body, time.time())
        answers = self._product(headers, body) if self._product else Answer(204 if check.good else 401)
        what = next(self._answers) if self._answers else str(answers.status)
        duplicate = self._times_seen(headers.get("webhook-id"), body)
        try:
            self._show(ReceivedRequest(headers, body, check, duplicate, what, answers))
        except SystemExit as end:  # standard output is closed
            self._code = end.code if isinstance(end.code, int) else 0
            self._stopped.set()
        return await self._answer(request, what, "" if self._answers else answers.body)

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

    async def _answer(self, request: web.Request, what: str, text: str) -> web.StreamResponse:
        if what == "never":
            await self._stopped.wait()
        if what == "slow":
            await asyncio.sleep(self._args.slow)
        if what in ("reset", "never") and request.transport is not None:
            request.transport.abort()
        status = int(what) if what.isdigit() else 204
        wait_s = self._args.retry_after
        headers = {"Retry-After": str(math.ceil(wait_s))} if wait_s is not None and status >= 300 else {}
        return web.Response(status=status, headers=headers, text=text or None)

    @staticmethod
    def _in_order(answers: Sequence[tuple[str, int | None]]) -> Iterator[str]:
        for what, count in answers:
            yield from repeat(what) if count is None else repeat(what, count)
        yield from repeat("204")

    def _show(self, request: "ReceivedRequest") -> None:
        print(json.dumps(request.facts()) if self._args.json else self._as_text(request), flush=True)

    def _as_text(self, request: "ReceivedRequest") -> str:
        paint = self._painter.paint
        if self._product:
            problem = request.product.problem
            mark = paint(problem, "31") if problem else paint("as documented", "32")
            lines = [f"{self._args.product}: {mark} · answered {request.answer}"]
            shown = [f"    {plain(line)}" for line in request.product.shown.splitlines()]
            return "\n".join([*lines, *([] if self._args.brief else shown)])
        event = request.event()
        check = request.check
        colour = "33" if check.good else "31"
        mark = paint("signature ok", "32") if check.word == "ok" else paint(f"{check.word}: {check.why}", colour)
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
    """One request, with its signature check, the answer, and what the product's stand-in says of it."""

    headers: dict[str, str]
    body: bytes
    check: SignatureCheck
    duplicate: str
    answer: str
    product: Answer

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
            "signature": self.check.word,
            "why": self.check.why,
            "id": self.headers.get("webhook-id"),
            "attempt": self.headers.get("x-callcast-attempt"),
            "duplicate": bool(self.duplicate),
            "answered": self.answer,
            "event": self.document(),
            "problem": self.product.problem,
        }


def _indented(body: bytes) -> str:
    try:
        text = json.dumps(json.loads(body), indent=2, ensure_ascii=False)
    except ValueError:
        text = body.decode("utf-8", "backslashreplace")
    return "\n".join("    " + plain(line) for line in text.splitlines())
