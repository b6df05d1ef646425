"""The formats of the webhook sink: CloudEvents and Standard Webhooks, and presets for what products document.

A preset is a function that writes the body, and an entry in `FORMATS`. What the products document:
  slack    https://docs.slack.dev/messaging/sending-messages-using-incoming-webhooks, .../formatting-message-text
  teams    https://learn.microsoft.com/microsoftteams/platform/webhooks-and-connectors/how-to/add-incoming-webhook
  discord  https://discord.com/developers/docs/resources/webhook#execute-webhook, .../topics/rate-limits
  zammad   https://docs.zammad.org/en/latest/api/generic-cti/index.html
"""

import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any, Literal

from msgspec import Struct, json

from callcast.calls.model import Event
from callcast.formats.cloudevents import Wire, rfc3339
from callcast.sinks.webhook import zammad
from callcast.sinks.webhook.messages import Message, check_message, message

FormatName = Literal["cloudevents", "standard", "slack", "teams", "discord", "zammad"]

CHECK_TYPE = "callcast.check"


class Format(Struct, frozen=True, kw_only=True):
    """What is posted to one kind of receiver, and how.

    encode: the body for an event. check: the body of `callcast check --send`, given an id, the sink and the time;
    None: the product has no request that would leave nothing behind.
    signed: the receiver can verify signatures.
    defaults: of the sink's keys, where they differ for this format.
    spacing_s: the shortest time between two requests, for the product's rate limit.
    deleted: the statuses that mean that the address was deleted.
    one_entry_per_session: `zammad.Entries` decides what is posted for an event.
    """

    content_type: str
    encode: Callable[[Wire, Event], bytes]
    check: Callable[[str, str, datetime], bytes] | None
    signed: bool = False
    defaults: Mapping[str, Any] = MappingProxyType({})
    spacing_s: float = 0.0
    deleted: tuple[int, ...] = (410,)
    one_entry_per_session: bool = False


def _check_event(event_id: str, sink: str, at: datetime) -> bytes:
    """The body of a `callcast.check`: the shape of an event, without a call."""
    attributes = {
        "specversion": "1.0",
        "id": event_id,
        "source": "/callcast",
        "type": CHECK_TYPE,
        "subject": sink,
        "time": rfc3339(at),
        "datacontenttype": "application/json",
    }
    return json.encode({**attributes, "data": {"sink": sink}})


def _check_standard(_event_id: str, sink: str, at: datetime) -> bytes:
    return json.encode({"type": CHECK_TYPE, "timestamp": rfc3339(at), "data": {"sink": sink}})


def _lines(
    message: Message, escape: Callable[[str], str], *, bold: str, at: str, link: Callable[[str], str]
) -> list[str]:
    """A message in a product's markup, line by line."""
    lines = [f"{bold}{escape(message.title)}{bold}", f"{message.at[0]}: {at}"]
    lines += [f"{label}: {escape(value)}" for label, value in message.facts]
    if message.call_back:
        lines.append(f"Call back: {link(message.call_back)}")
    return lines


_SLACK = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;", "*": "\u2217", "`": "'", "~": "\u223c"})


def _slack(message: Message) -> bytes:
    """`&`, `<` and `>` have escapes. Slack has none for `*`, `` ` `` and `~`, so similar characters replace them."""
    at = message.at[1]
    local = f"<!date^{at.timestamp():.0f}^{{date_short_pretty}} {{time}}|{_utc(at)}>"
    link = "<tel:{0}|{0}>".format
    lines = _lines(message, lambda text: text.translate(_SLACK), bold="*", at=local, link=link)
    return json.encode({"text": "\n".join(lines), "unfurl_links": False, "unfurl_media": False})


def _teams(message: Message) -> bytes:
    """A TextRun has no markup, so names need no escape. Teams does not open `tel:` links of cards reliably."""
    label, at = message.at
    iso = at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    facts = (*message.facts, *([("Call back", message.call_back)] if message.call_back else []))
    title = {"type": "TextRun", "text": message.title, "weight": "Bolder", "size": "Medium"}
    card = {
        "$schema": "http://adaptivecards.io/schemas/adaptive-card.json",
        "type": "AdaptiveCard",
        "version": "1.4",
        "body": [
            {"type": "RichTextBlock", "inlines": [title]},
            {"type": "TextBlock", "text": f"{label}: {{{{DATE({iso}, SHORT)}}}} {{{{TIME({iso})}}}}", "wrap": True},
            *(
                {"type": "RichTextBlock", "inlines": [{"type": "TextRun", "text": f"{name}: {value}"}]}
                for name, value in facts
            ),
        ],
    }
    attachment = {"contentType": "application/vnd.microsoft.card.adaptive", "contentUrl": None, "content": card}
    return json.encode({"type": "message", "attachments": [attachment]})


_DISCORD = re.compile(r"([\\*_~`|<>@#\[\]():-])")


def _discord(message: Message) -> bytes:
    """Nothing in it mentions anyone or shows a preview (flag 4). Discord has no `tel:` links."""
    local = f"<t:{message.at[1].timestamp():.0f}:f>"
    lines = _lines(message, lambda text: _DISCORD.sub(r"\\\1", text), bold="**", at=local, link=str)
    return json.encode({"content": "\n".join(lines), "allowed_mentions": {"parse": []}, "flags": 4})


def _utc(at: datetime) -> str:
    return at.astimezone(UTC).strftime("%Y-%m-%d %H:%M UTC")


# One message for each call that ended and was not answered, one at a time.
_MISSED = {
    "events": ("call.ended",),
    "directions": ("inbound",),
    "dispositions": ("missed", "abandoned", "voicemail", "busy", "declined"),
    "concurrency": 1,
}


def _chat(write: Callable[[Message], bytes], *, spacing_s: float) -> Format:
    return Format(
        content_type="application/json",
        encode=lambda wire, event: write(message(wire, event)),
        check=lambda _event_id, sink, at: write(check_message(sink, at)),
        defaults=_MISSED,
        spacing_s=spacing_s,
        deleted=(404, 410),
    )


FORMATS: Mapping[FormatName, Format] = {
    "cloudevents": Format(
        content_type="application/cloudevents+json; charset=utf-8",
        encode=Wire.event,
        check=_check_event,
        signed=True,
    ),
    "standard": Format(content_type="application/json", encode=Wire.standard, check=_check_standard, signed=True),
    "slack": _chat(_slack, spacing_s=1.0),  # one message a second
    "teams": _chat(_teams, spacing_s=0.25),  # four requests a second
    "discord": _chat(_discord, spacing_s=0.4),  # five requests in two seconds; its headers say when it is less
    "zammad": Format(
        content_type="application/x-www-form-urlencoded",
        encode=zammad.form,
        check=None,
        defaults={"events": tuple(zammad.ACTIONS), "concurrency": 1},
        one_entry_per_session=True,
    ),
}
