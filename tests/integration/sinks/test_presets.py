"""The presets of the webhook sink, against stand-ins that check what each product documents."""

import json
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import parse_qsl

import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from msgspec import structs
from pydantic import ValidationError

from callcast.calls.model import (
    Call,
    CallEvent,
    Direction,
    Disposition,
    Event,
    Party,
    Queue,
    State,
)
from callcast.cli.stand_ins import STAND_INS, Answer
from callcast.formats.cloudevents import NUMBERS, Numbers, Wire
from callcast.ports.connectivity import ConnectivityRequest
from callcast.ports.sink import Delivered, Outcome, Rejected, Retry, Sink
from callcast.sinks.webhook import Settings
from callcast.sinks.webhook.presets import FORMATS
from callcast.testing import RealClock, StaticLiveCalls, context, deliveries, delivery
from tests import TESTS
from tests.builders import event, source_event
from tests.clock import TurnedClock
from tests.integration.sinks.test_webhook import Server, serving

PRODUCTS = list(STAND_INS)
CHATS = ["slack", "teams", "discord"]
GOLDEN = TESTS / "golden" / "presets"
CALLER = Party(number="+16504306662", name="ACME <Corp> & *Sons*")
HOSTILE = "<!channel> @everyone *bold* `x` [a](http://b) _u_ {{DATE(1)}} \n\x00 & | ~~"


def made(type_: str = "call.ended", *, session: str = "s-1", part: str = "101", **facts: Any) -> CallEvent:
    """An inbound call of the extension Reception, which ended as missed unless `facts` say otherwise."""
    one = event(session, type_, 2)
    call = structs.replace(
        one.call,
        extension_id=part,
        call_id=f"{part}/{session}",
        from_party=CALLER,
        to_party=Party(number="+12092271475", name="Reception", extension_number="11115", extension_id=part),
        queue=Queue(name="Support", confirmed=True),
    )
    if type_ in ("call.ended", "call.corrected"):
        ended_at = call.started_at + timedelta(seconds=12)
        call = structs.replace(call, disposition=Disposition.MISSED, ended_at=ended_at)
    return structs.replace(one, id=f"{one.id}{part}", call=structs.replace(call, **facts))


ANSWERED = {
    "disposition": Disposition.ANSWERED,
    "answered_at": datetime(2026, 3, 2, 9, 0, 4, tzinfo=UTC),
    "answered_exact": True,
    "ended_at": datetime(2026, 3, 2, 9, 3, 24, tzinfo=UTC),
}
OUTBOUND = {"direction": Direction.OUTBOUND, "from_party": Party(number="+12092271475", name="Reception")}
CASES: Mapping[str, tuple[Event, Wire]] = {
    "missed": (made(), Wire()),
    "missed-last4": (made(), Wire("last4")),
    "voicemail-withheld": (made(from_party=Party(), disposition=Disposition.VOICEMAIL, queue=None), Wire()),
    "answered": (made(**ANSWERED), Wire()),
    "outbound-busy": (made(**OUTBOUND, to_party=CALLER, disposition=Disposition.BUSY), Wire()),
    "corrected": (made("call.corrected", disposition=Disposition.ABANDONED), Wire()),
    "ringing": (made("call.ringing"), Wire()),
    "answer": (made("call.answered", state=State.CONNECTED), Wire()),
    "degraded": (source_event(), Wire()),
}


@dataclass
class Place:
    """A stand-in at a real port."""

    product: str
    url: str
    server: Server
    answers: list[Answer] = field(default_factory=list)


@asynccontextmanager
async def standing_in(product: str) -> AsyncIterator[Place]:
    judge = STAND_INS[product]()
    async with serving() as server:
        place = Place(product, server.url, server)

        def answer(request: web.Request) -> web.Response:
            headers = {name.lower(): value for name, value in request.headers.items()}
            place.answers.append(found := judge(headers, server.bodies[-1]))
            return web.Response(status=found.status, text=found.body)

        server.handler = answer
        yield place


@pytest.fixture(params=PRODUCTS)
async def place(request: pytest.FixtureRequest) -> AsyncIterator[Place]:
    async with standing_in(request.param) as one:
        yield one


@asynccontextmanager
async def opened(
    place: Place, *, wire: Wire | None = None, clock: Any = None, live: Sequence[Call] = (), **keys: Any
) -> AsyncIterator[Sink]:
    here = structs.replace(
        context(),
        wire=wire or Wire(),
        clock=clock or TurnedClock(by_itself=True),
        live_calls=StaticLiveCalls(live),
    )
    table = {"type": "webhook", "url": place.url, "timeout_s": 5, "format": place.product, **keys}
    async with Settings.model_validate(table).open(here) as sink:
        yield sink


async def sent(place: Place, *events: Event, **keys: Any) -> list[Outcome]:
    async with opened(place, **keys) as sink:
        return [await sink.send(delivery(of=one)) for one in events]


# What arrives


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("product", PRODUCTS)
def test_bodies_are_those_of_the_golden_files(product: str, case: str) -> None:
    """Names are escaped, numbers are as the policy says, times are shown in the reader's zone."""
    of, wire = CASES[case]
    body = FORMATS[product].encode(wire, of).decode()  # type: ignore[index]
    if product == "zammad":
        text = "\n".join(f"{name} = {value}" for name, value in parse_qsl(body))
    else:
        text = json.dumps(json.loads(body), indent=2, ensure_ascii=False)
    assert text + "\n" == (GOLDEN / f"{product}-{case}.txt").read_text()


@pytest.mark.parametrize("numbers", NUMBERS)
async def test_every_event_is_accepted_as_documented(place: Place, numbers: Numbers) -> None:
    """No event of any kind, with any policy for numbers, is one that the product refuses."""
    given = [each.event for each in deliveries()]
    assert await sent(place, *given, wire=Wire(numbers, b"key", "s")) == [Delivered()] * len(given)
    assert [answer.problem for answer in place.answers] == [""] * (4 if place.product == "zammad" else len(given))


@given(name=st.text(max_size=300), queue=st.text(max_size=300), number=st.text(max_size=50))
@hypothesis_settings(deadline=None, max_examples=150)
def test_any_name_is_accepted_as_documented(name: str, queue: str, number: str) -> None:
    """Whatever a caller's name holds, the message stays within the rules of each product."""
    for text in (name, HOSTILE * 20):
        of = made(from_party=Party(name=text, number=number), queue=Queue(name=queue or text, confirmed=True))
        for product in CHATS:
            form = FORMATS[product]  # type: ignore[index]
            answer = STAND_INS[product]()({"content-type": form.content_type}, form.encode(Wire(), of))
            assert answer.problem == ""


def test_a_name_cannot_mention_link_or_format() -> None:
    """The markup of each product loses its meaning, and a name cannot begin another line."""
    of = made(from_party=Party(name=HOSTILE))
    shown = {
        each: STAND_INS[each]()({"content-type": "application/json"}, FORMATS[each].encode(Wire(), of)).shown
        for each in CHATS
    }  # type: ignore[index]
    assert "&lt;!channel&gt;" in shown["slack"]
    assert "*bold*" not in shown["slack"]
    assert "\\@everyone \\*bold\\* \\`x\\` \\[a\\]\\(http\\://b\\) \\_u\\_" in shown["discord"]
    assert {len(text.splitlines()) for text in shown.values()} == {5}


@pytest.mark.parametrize("numbers", ["last4", "hash", "drop"])
@pytest.mark.parametrize("product", PRODUCTS)
def test_a_redacted_number_is_no_link_and_nowhere(product: str, numbers: Any) -> None:
    """Neither the caller's number nor name is sent, and there is nothing to call back."""
    body = FORMATS[product].encode(Wire(numbers, b"key", "s"), made()).decode()  # type: ignore[index]
    assert "6504306662" not in body
    assert "ACME" not in body
    assert "Call back" not in body
    assert "tel:" not in body


# Settings


def test_a_preset_has_its_own_defaults() -> None:
    """Missed calls for people, what Zammad has a request for; a key that is set precedes the default."""
    slack = Settings.model_validate_json('{"url": "https://a.example", "format": "slack"}')
    assert (slack.events, slack.directions, slack.concurrency) == (("call.ended",), ("inbound",), 1)
    assert slack.dispositions == ("missed", "abandoned", "voicemail", "busy", "declined")
    zammad = Settings.model_validate_json('{"url": "https://a.example", "format": "zammad"}')
    assert zammad.events == ("call.ringing", "call.dialing", "call.answered", "call.ended")
    assert zammad.dispositions == ()
    own = Settings.model_validate_json('{"url": "https://a.example", "format": "discord", "dispositions": []}')
    assert own.dispositions == ()
    assert Settings.model_validate_json('{"url": "https://a.example"}').events == ("*",)


@pytest.mark.parametrize("product", PRODUCTS)
def test_a_preset_is_unsigned(product: str) -> None:
    """Secrets would have no effect, so they are an error, and none of them is no warning."""
    table = {"url": "https://a.example", "format": product}
    assert Settings.model_validate(table).warnings() == []
    with pytest.raises(ValidationError, match="cannot verify signatures: remove secrets"):
        Settings.model_validate({**table, "secrets": ["whsec_" + "c2VjcmV0" * 6]})


def test_zammad_needs_numbers() -> None:
    settings = Settings.model_validate({"url": "https://a.example", "format": "zammad", "numbers": "last4"})
    assert [key for key, _, _ in settings.warnings()] == ["numbers"]


async def test_a_check_posts_a_message(place: Place) -> None:
    """A message that says that it is a test; Zammad has no request that would leave no entry behind."""
    table = {"type": "webhook", "url": place.url, "format": place.product}
    request = ConnectivityRequest(name="team", version="1", clock=RealClock(), send=True)
    result = await Settings.model_validate(table).check_connectivity(request)
    assert result.status == "good"
    assert [answer.problem for answer in place.answers] == ([] if place.product == "zammad" else [""])
    assert all("test message" in answer.shown for answer in place.answers)


# Failures


@pytest.mark.parametrize("product", CHATS)
async def test_a_deleted_address_is_gone(product: str) -> None:
    """404 and 410: an error in the log and hourly probes, as the event waits for a new address."""
    async with standing_in(product) as place:
        for status in (404, 410):
            place.server.answers(status)
            assert await sent(place, made()) == [Retry("gone", f"answered {status}", gone=True)]


async def test_a_missing_path_of_zammad_is_tried_again() -> None:
    """While Zammad is being updated it may answer 404."""
    async with standing_in("zammad") as place:
        place.server.answers(404)
        assert await sent(place, made()) == [Retry("http_404", "answered 404")]


async def test_a_refused_body_is_a_dead_letter_if_others_are_accepted(place: Place) -> None:
    place.server.answers(400)
    assert await sent(place, made()) == [Rejected("http_400", "answered 400", unless_alone=True)]


async def test_a_rate_limit_holds_the_sink(place: Place) -> None:
    place.server.answers(429, retry_after="30")
    assert await sent(place, made()) == [Retry("http_429", "answered 429", after_s=30.0, holds_sink=True)]


async def test_fixes_speak_of_the_product(place: Place) -> None:
    """A sink without secrets is not advised to check them."""
    async with opened(place) as sink:
        for reason in ("http_401", "http_403", "http_400", "http_422"):
            advice = sink.fix(Retry(reason))  # type: ignore[attr-defined]
            assert advice
            assert "secrets" not in advice


# Rate limits


@pytest.mark.parametrize(("product", "spacing_s"), [("slack", 1.0), ("teams", 0.25), ("discord", 0.4)])
async def test_requests_keep_a_distance(product: str, spacing_s: float) -> None:
    """Also when they are sent at the same time, and after a failure."""
    clock, at = TurnedClock(by_itself=True), []
    async with standing_in(product) as place:
        place.server.handler = lambda _request: at.append(clock.monotonic()) or web.Response(status=500)
        await sent(place, *[made()] * 4, clock=clock)
    assert at == pytest.approx([number * spacing_s for number in range(4)])


async def test_discord_says_when_its_limit_is_used_up() -> None:
    """A short pause is waited for; for a long one the sink is held, without a request."""
    clock = TurnedClock(by_itself=True)
    headers = {"x-ratelimit-remaining": "0", "x-ratelimit-reset-after": "1.5"}
    async with standing_in("discord") as place, opened(place, clock=clock) as sink:
        place.server.handler = lambda _request: web.Response(status=204, headers=headers)
        assert await sink.send(delivery(of=made())) == Delivered()
        headers["x-ratelimit-reset-after"] = "70"
        assert await sink.send(delivery(of=made())) == Delivered()
        assert clock.monotonic() == 1.5
        held = await sink.send(delivery(of=made()))
        assert isinstance(held, Retry)
        assert (held.reason, held.after_s, held.holds_sink) == ("rate_limited", 70.0, True)
        assert len(place.server.requests) == 2
        headers["x-ratelimit-remaining"] = "4"
        await clock.sleep(70)
        assert await sink.send(delivery(of=made())) == Delivered()


# Zammad's order


def posted(place: Place) -> list[tuple[str, str, str]]:
    forms = [dict(parse_qsl(body.decode())) for body in place.server.bodies]
    return [(form["event"], form["callId"], form.get("cause", "")) for form in forms]


async def test_the_parts_of_a_session_are_one_entry() -> None:
    """Two extensions ring, one answers: one call in Zammad, which ends when the last part ends."""
    async with standing_in("zammad") as place:
        elsewhere = made(part="102", disposition=Disposition.ANSWERED_ELSEWHERE)
        outcomes = await sent(
            place,
            made("call.ringing"),
            made("call.ringing", part="102"),
            elsewhere,
            made("call.answered"),
            made(**ANSWERED),
        )
        assert outcomes == [Delivered()] * 5
        assert posted(place) == [("newCall", "s-1", ""), ("answer", "s-1", ""), ("hangup", "s-1", "normalClearing")]
        assert [answer.problem for answer in place.answers] == [""] * 3


async def test_all_parts_missed_is_one_hangup() -> None:
    async with standing_in("zammad") as place:
        rings = [made("call.ringing", part=part) for part in ("101", "102", "103")]
        await sent(place, *rings, *(made(part=part) for part in ("101", "102", "103")))
        assert posted(place) == [("newCall", "s-1", ""), ("hangup", "s-1", "noAnswer")]


async def test_a_call_first_seen_later_begins_first() -> None:
    """Zammad refuses to answer or to end what has not begun."""
    async with standing_in("zammad") as place:
        await sent(place, made("call.answered"), made(session="s-2"))
        assert [(what, which) for what, which, _ in posted(place)] == [
            ("newCall", "s-1"),
            ("answer", "s-1"),
            ("newCall", "s-2"),
            ("hangup", "s-2"),
        ]
        assert {answer.problem for answer in place.answers} == {""}


async def test_after_a_restart_an_entry_goes_on() -> None:
    """Zammad refuses a second beginning; the second attempt goes on, and waits for a part that is still live."""
    async with standing_in("zammad") as place:
        await sent(place, made("call.ringing"), made("call.ringing", part="102"))
        live = [made("call.answered").call]
        async with opened(place, live=live) as sink:
            elsewhere = made(part="102", disposition=Disposition.ANSWERED_ELSEWHERE)
            assert await sink.send(delivery(of=elsewhere)) == Retry("http_500", "answered 500")
            assert await sink.send(delivery(of=elsewhere, attempt=2)) == Delivered()
            assert [what for what, _, _ in posted(place)] == ["newCall"] * 3
            assert await sink.send(delivery(of=made("call.answered"))) == Delivered()
        assert [what for what, _, _ in posted(place)][3:] == ["answer"]


async def test_an_entry_that_zammad_lost_begins_again() -> None:
    async with standing_in("zammad") as place, opened(place) as sink:
        assert await sink.send(delivery(of=made("call.ringing"))) == Delivered()
        stand_in = STAND_INS["zammad"]()
        place.server.handler = lambda request: web.Response(
            status=stand_in({k.lower(): v for k, v in request.headers.items()}, place.server.bodies[-1]).status
        )
        assert await sink.send(delivery(of=made("call.answered"))) == Retry("http_500", "answered 500")
        assert await sink.send(delivery(of=made("call.answered"), attempt=2)) == Delivered()
        assert [what for what, _, _ in posted(place)] == ["newCall", "answer", "newCall", "answer"]
