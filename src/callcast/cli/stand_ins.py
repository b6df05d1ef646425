"""Stand-ins of the products that webhook presets post to, for `callcast listen --as` and for tests.

Each checks a request by the rules that its product documents (see `callcast.sinks.webhook.presets`), and answers as the
product does.
"""

import json
import re
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import parse_qsl

from msgspec import Struct

SLACK_TEXT_MAX = 40_000
DISCORD_CONTENT_MAX = 2000
TEAMS_BYTES_MAX = 28 * 1024
CALL_ID_MAX = 250
CAUSES = ("normalClearing", "busy", "cancel", "noAnswer", "congestion", "notFound", "forwarded")


class Answer(Struct, frozen=True):
    """status and body: of the response. problem: what is wrong, empty if nothing is. shown: what a person would see."""

    status: int
    body: str = ""
    problem: str = ""
    shown: str = ""


StandIn = Callable[[Mapping[str, str], bytes], Answer]  # of the headers, with lower-case names, and the body


def slack(headers: Mapping[str, str], body: bytes) -> Answer:
    message, problem = _json_object(headers, body)
    text = message.get("text")
    if problem:
        return Answer(400, "invalid_payload", problem)
    if not isinstance(text, str) or not text:
        return Answer(400, "no_text", "text is missing or empty")
    if len(text) > SLACK_TEXT_MAX:
        return Answer(400, "msg_too_long", f"text is longer than {SLACK_TEXT_MAX} characters")
    rest = re.sub(r"<(!date\^[0-9]+\^[^<>|]+|tel:\+?[0-9]+)\|[^<>|]+>|&(amp|lt|gt);", "", text)
    if found := re.search(r"[&<>]", rest):
        return Answer(200, "ok", f"text has an unescaped {found[0]}", text)
    return Answer(200, "ok", shown=text)


def teams(headers: Mapping[str, str], body: bytes) -> Answer:
    message, problem = _json_object(headers, body)
    if len(body) > TEAMS_BYTES_MAX:
        return Answer(413, "", f"the message is longer than {TEAMS_BYTES_MAX} bytes")
    try:
        _require(message["type"] == "message", 'type is not "message"')
        (attachment,) = message["attachments"]
        kind, card = attachment["contentType"], attachment["content"]
        _require(kind == "application/vnd.microsoft.card.adaptive", "the attachment is no Adaptive Card")
        _require(card["type"] == "AdaptiveCard", 'content.type is not "AdaptiveCard"')
        _require(card["version"] in ("1.0", "1.1", "1.2", "1.3", "1.4", "1.5"), "Teams has no such version of cards")
        lines = [_card_line(element) for element in card["body"]]
        _require(bool(lines), "the card is empty")
    except (KeyError, TypeError, ValueError) as error:
        what = str(error) if isinstance(error, _Wrong) else f"missing or of a wrong type: {error}"
        return Answer(400, "Bad payload received by generic incoming webhook.", problem or what)
    return Answer(202, shown="\n".join(lines))


class _Wrong(ValueError):
    pass


def _require(holds: bool, problem: str) -> None:
    if not holds:
        raise _Wrong(problem)


def _card_line(element: Mapping[str, Any]) -> str:
    if element["type"] == "TextBlock":
        return str(element["text"])
    _require(element["type"] == "RichTextBlock", f"{element['type']} is not expected here")
    for inline in element["inlines"]:
        _require(inline["type"] == "TextRun", "an inline element is no TextRun")
    return "".join(inline["text"] for inline in element["inlines"])


def discord(headers: Mapping[str, str], body: bytes) -> Answer:
    message, problem = _json_object(headers, body)
    content = message.get("content")
    if problem:
        return Answer(400, '{"message": "The request body contains invalid JSON.", "code": 50109}', problem)
    if not isinstance(content, str) or not content:
        return Answer(400, '{"message": "Cannot send an empty message", "code": 50006}', "content is missing or empty")
    if len(content) > DISCORD_CONTENT_MAX:
        problem = f"content is longer than {DISCORD_CONTENT_MAX} characters"
        return Answer(400, '{"message": "Invalid Form Body", "code": 50035}', problem)
    if message.get("allowed_mentions") != {"parse": []}:
        return Answer(204, "", "allowed_mentions does not exclude all mentions", content)
    return Answer(204, shown=content)


class Zammad:
    """Keeps the state of each entry, because Zammad refuses requests that do not follow it."""

    def __init__(self) -> None:
        self.entries: dict[str, str] = {}

    def __call__(self, headers: Mapping[str, str], body: bytes) -> Answer:
        if not headers.get("content-type", "").startswith("application/x-www-form-urlencoded"):
            return Answer(422, "{}", "content-type is not application/x-www-form-urlencoded")
        pairs = parse_qsl(body.decode("utf-8", "replace"), keep_blank_values=True)
        fields, shown = dict(pairs), "\n".join(f"{name} = {value}" for name, value in pairs)
        if problem := self._problem(fields):
            return Answer(422, json.dumps({"error": problem}), problem, shown)
        entry, event = fields["callId"], fields["event"]
        if (event == "newCall") == (entry in self.entries):
            problem = "callId exists already" if event == "newCall" else "there is no entry of this callId"
            return Answer(500, json.dumps({"error": problem}), problem, shown)
        self.entries[entry] = event
        return Answer(200, "{}", shown=shown)

    @staticmethod
    def _problem(fields: Mapping[str, str]) -> str:
        if missing := [name for name in ("event", "from", "to", "direction", "callId") if not fields.get(name)]:
            return f"missing: {', '.join(missing)}"
        if fields["event"] not in ("newCall", "answer", "hangup"):
            return "event is not newCall, answer or hangup"
        if fields["direction"] not in ("in", "out"):
            return "direction is not in or out"
        if len(fields["callId"]) > CALL_ID_MAX:
            return f"callId is longer than {CALL_ID_MAX} characters"
        if (fields["event"] == "hangup") != ("cause" in fields) or fields.get("cause", CAUSES[0]) not in CAUSES:
            return "cause is missing, unknown, or not of a hangup"
        if numbers := [name for name in ("from", "to") if not re.fullmatch(r"[0-9]+|anonymous", fields[name])]:
            return f"not digits or anonymous: {', '.join(numbers)}"
        return ""


STAND_INS: Mapping[str, Callable[[], StandIn]] = {
    "slack": lambda: slack,
    "teams": lambda: teams,
    "discord": lambda: discord,
    "zammad": Zammad,
}


def _json_object(headers: Mapping[str, str], body: bytes) -> tuple[dict[str, Any], str]:
    if not headers.get("content-type", "").startswith("application/json"):
        return {}, "content-type is not application/json"
    try:
        document = json.loads(body)
    except ValueError:
        return {}, "the body is not JSON"
    return (document, "") if isinstance(document, dict) else ({}, "the body is not a JSON object")
