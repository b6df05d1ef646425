"""The wallboard page in a real browser, with live calls that the test controls."""

import asyncio
import itertools
import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import datetime, timedelta

import pytest
import pytest_asyncio
from playwright.async_api import Browser, BrowserContext, Page, expect
from playwright.async_api import Error as PlaywrightError

from callcast.calls.model import Direction, Disposition, Party, Queue, State, Target
from callcast.calls.summary import HintsState
from callcast.observability.outbox_health import OutboxFailure
from tests.browser import chromium
from tests.integration.web.http_side import Harness, harness

pytestmark = pytest.mark.asyncio(loop_scope="module")  # all tests share one browser
PATIENCE_MS = 60_000  # drawing a large screen takes long on a busy machine


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def browser() -> AsyncIterator[Browser]:
    async with chromium() as started:
        yield started


@pytest_asyncio.fixture(loop_scope="module")
async def here() -> AsyncIterator[Harness]:
    async with harness(names={"101": "Reception"}) as made:
        made.watch("acme", ["101", "102", "103"])
        yield made


@asynccontextmanager
async def page(browser: Browser, url: str, **how: object) -> AsyncIterator[Page]:
    """Open the page. A console message or a request to another host fails the test."""
    trouble: list[str] = []
    context: BrowserContext = await browser.new_context(**how)  # type: ignore[arg-type]
    opened = await context.new_page()
    opened.set_default_timeout(PATIENCE_MS)
    opened.on("pageerror", lambda error: trouble.append(str(error)))
    opened.on("console", lambda message: trouble.append(message.text) if "Content Security" in message.text else None)
    opened.on("request", lambda sent: None if "//127.0.0.1:" in sent.url else trouble.append(sent.url))
    await opened.goto(url)
    try:
        yield opened
    finally:
        await context.close()
    assert trouble == []


async def becomes(page: Page, holds: str, arg: object = None, within_s: float = PATIENCE_MS / 1000) -> None:
    """Wait until a JavaScript function returns true. Polls from outside, because the page's CSP forbids eval."""
    async with asyncio.timeout(within_s):
        for _ in itertools.count():
            with suppress(PlaywrightError):  # the page is reloading
                if await page.evaluate(holds, arg):
                    return
            await asyncio.sleep(0.05)


async def test_a_call_appears_changes_and_goes(here: Harness, browser: Browser) -> None:
    """Without a reload: its state, the extension's name, the caller's last digits, and a running clock."""
    async with page(browser, here.url) as wall:
        await expect(wall.locator("#connection")).to_contain_text("Live")
        await expect(wall.locator("#empty-what")).to_have_text("No calls")
        rings = here.ring("101", started_at=here.clock.now() - timedelta(seconds=65))
        one = wall.locator(".call")
        await expect(one.locator(".state")).to_have_text("Ringing")
        await expect(one.locator(".who")).to_have_text("Reception")
        await expect(one.locator(".other")).to_have_text("from … 6662")
        await expect(one.locator(".clock")).to_have_text(re.compile(r"1:0[5-9]"))
        await expect(wall.locator("#waiting")).to_have_text("1")
        await expect(wall.locator("#longest")).to_have_text(re.compile(r"1:0[5-9]"))
        await expect(wall.locator("#empty")).to_be_hidden()
        before = await one.locator(".clock").inner_text()
        await expect(one.locator(".clock")).not_to_have_text(before)
        talks = here.answer(rings)
        await expect(one.locator(".state")).to_have_text("Connected")
        await expect(one.locator(".clock")).to_have_text(re.compile(r"0:0\d"))
        await expect(wall.locator("#waiting")).to_have_text("0")
        await expect(wall.locator("#answered")).to_have_text("1")
        await expect(wall.locator("#longest")).to_have_text("–")
        await expect(wall.locator("#speed")).to_have_text(re.compile(r"1:[01]\d"))
        here.end(here.ring("102", "s-2"), Disposition.MISSED)
        await expect(wall.locator("#missed")).to_have_text("1")
        here.end(talks)
        await expect(one).to_have_count(0)
        await expect(wall.locator("#last li").first).to_contain_text("Reception: ended")


async def test_states_differ_in_style_and_word(here: Harness, browser: Browser) -> None:
    """Each state has its own word and style; only a waiting call has a color."""
    out = {"direction": Direction.OUTBOUND, "state": State.DIALING, "to_party": Party(number="+16502220000")}
    here.ring("101", "s-1")
    here.answer(here.ring("102", "s-2"))
    here.ring("103", "s-3", from_party=Party(extension_number="103"), **out)
    async with page(browser, here.url) as wall:
        await expect(wall.locator(".call")).to_have_count(3)
        words = await wall.locator(".call .state").all_inner_texts()
        assert sorted(words) == ["Connected", "Dialing", "Ringing"]
        polls = await wall.eval_on_selector_all(".call", _STYLES)
        assert len({poll["edge"] for poll in polls}) == 3
        assert [_is_gray(poll["ground"]) for poll in polls] == [False, True, True]
        assert await wall.locator(".call").first.get_attribute("data-state") == "ringing"


_STYLES = """all => all.map(getComputedStyle).map(style => ({
  edge: `${style.borderLeftStyle} ${style.borderLeftColor}`, ground: style.backgroundColor,
}))"""


def _is_gray(color: str) -> bool:
    channels = [int(channel) for channel in re.findall(r"\d+", color)[:3]]
    return max(channels) - min(channels) < 8


async def test_the_longest_waiting_call_comes_first(here: Harness, browser: Browser) -> None:
    """Waiting calls first, longest wait first; then the others, newest first. An answered call moves."""

    def ago(seconds: float) -> datetime:
        return here.clock.now() - timedelta(seconds=seconds)

    here.answer(here.ring("102", "s-1", started_at=ago(50)))
    here.answer(here.ring("103", "s-2", started_at=ago(40)))
    waits = here.ring("101", "s-3", started_at=ago(30))
    async with page(browser, here.url) as wall:
        who = wall.locator(".who")
        await expect(who).to_have_text(["Reception", "Ext. 103", "Ext. 102"])
        here.ring("104", "s-4", started_at=ago(20))
        await expect(who).to_have_text(["Reception", "Ext. 104", "Ext. 103", "Ext. 102"])
        here.ring("105", "s-5", started_at=ago(35))
        await expect(who).to_have_text(["Ext. 105", "Reception", "Ext. 104", "Ext. 103", "Ext. 102"])
        here.answer(waits)
        await expect(who).to_have_text(["Ext. 105", "Ext. 104", "Reception", "Ext. 103", "Ext. 102"])


async def test_unknown_parties_are_shown_as_unknown(here: Harness, browser: Browser) -> None:
    """A queue call's caller and a call's extension may be unknown; a number is never guessed."""
    here.ring("102", "s-1", from_party=None, queue=Queue(name="Sales queue", confirmed=True))
    async with page(browser, here.url) as wall:
        await expect(wall.locator(".other")).to_have_text("caller not known yet")
        await expect(wall.locator(".queue")).to_have_text("Sales queue")


async def test_a_call_without_an_extension_is_shown(here: Harness, browser: Browser) -> None:
    """Under its queue, if it has one. Its transfer to an extension is not listed, since the extension's call is."""
    waits = here.ring("unassigned", "s-1", queue=Queue(name="Sales queue", confirmed=True))
    here.ring("unassigned", "s-2", started_at=here.clock.now() + timedelta(seconds=1))
    async with page(browser, here.url) as wall:
        await expect(wall.locator(".who")).to_have_text(["Sales queue", "Not assigned yet"])
        await expect(wall.locator(".queue").first).to_be_empty()
        here.end(waits, Disposition.TRANSFERRED)
        here.ring("101", "s-1", queue=Queue(name="Sales queue", confirmed=True))
        await expect(wall.locator("#last li").first).to_contain_text("Reception: ringing")
        await expect(wall.locator("#last")).not_to_contain_text("transferred")


async def test_a_source_that_waits_to_sign_in_says_so(here: Harness, browser: Browser) -> None:
    """The page shows how many sources are ahead instead of an error."""
    here.live_calls.signs_in("acme", 2)
    async with page(browser, here.url) as wall:
        here.clock.ahead_s = 60
        await expect(wall.locator("#connection")).to_have_text("acme waiting to sign in, 2 ahead")


async def test_the_page_says_whether_a_source_is_live_or_polled(here: Harness, browser: Browser) -> None:
    """While hints come, a target that is polled seldom is up to date; without them it is as fresh as its last poll."""
    state = HintsState(via=("push",), up=True, since=here.clock.now())
    async with page(browser, here.url) as wall:
        await expect(wall.locator("#connection")).to_have_text(re.compile(r"^Live by polling, updated within "))
        here.live_calls.hints("acme", state)
        await expect(wall.locator("#connection")).to_have_text("Live")
        here.live_calls.hints("acme", None)
        await expect(wall.locator("#connection")).to_contain_text("by polling")


async def test_a_stale_source_greys_its_cards_and_says_since_when(here: Harness, browser: Browser) -> None:
    """Its clocks stop, its states get a question mark, and its cards lose their color."""
    here.ring("101")
    async with page(browser, here.url) as wall:
        await expect(wall.locator(".call .state")).to_have_text("Ringing")
        here.clock.ahead_s = 60
        await expect(wall.locator("#connection")).to_have_text(re.compile(r"acme not updated since \d\d:\d\d"))
        await expect(wall.locator(".call .state")).to_have_text("Ringing?")
        await expect(wall.locator(".call .other")).to_have_text(re.compile(r"not updated since \d\d:\d\d"))
        await expect(wall.locator(".clock")).to_have_text(re.compile(r"0:0\d"))  # a running one would say 1:00
        here.poll("acme", ["101", "102", "103"])
        await expect(wall.locator("#connection")).to_contain_text("Live")
        await expect(wall.locator(".call .state")).to_have_text("Ringing")


async def test_clocks_run_by_the_platforms_time(here: Harness, browser: Browser) -> None:
    """Durations are right although this machine's clock is ten minutes slow."""
    there = here.clock.now() + timedelta(minutes=10)
    here.live_calls.polled(Target(source="acme", extension_id="101"), there)
    here.ring("101", started_at=there - timedelta(seconds=60))
    async with page(browser, here.url) as wall:
        await expect(wall.locator(".clock")).to_have_text(re.compile(r"1:0\d"))
        await expect(wall.locator("#longest")).to_have_text(re.compile(r"1:0\d"))


async def test_one_stale_extension_does_not_affect_the_others(here: Harness, browser: Browser) -> None:
    """Only the cards of the extension that cannot be polled are marked as uncertain."""
    here.ring("101", "s-1")
    here.ring("102", "s-2")
    async with page(browser, here.url) as wall:
        await expect(wall.locator(".call")).to_have_count(2)
        here.clock.ahead_s = 60
        here.poll("acme", ["102", "103"])
        await expect(wall.locator(".call[data-uncertain] .who")).to_have_text(["Reception"])
        await expect(wall.locator("#connection")).to_contain_text("acme (1 extension) not updated since")
        await expect(wall.locator("#totals")).not_to_have_attribute("data-stale", "")


async def test_the_page_says_when_polls_cannot_be_stored(here: Harness, browser: Browser) -> None:
    """A banner says since when and why, and clocks stop, until polls can be stored again."""
    here.ring("101")
    async with page(browser, here.url) as wall:
        await expect(wall.locator("#connection")).to_contain_text("Live")
        here.trouble = OutboxFailure(here.clock.now(), "the outbox in /data cannot be used: disk full")
        here.poll("acme", ["101", "102"])
        await expect(wall.locator("#banner")).to_contain_text("changes cannot be stored")
        await expect(wall.locator("#banner")).to_contain_text("disk full")
        await expect(wall.locator("#connection")).to_contain_text("Not stored since")
        await expect(wall.locator("#totals")).to_have_attribute("data-stale", "")
        await expect(wall.locator(".call .state")).to_have_text("Ringing?")
        here.trouble = None
        here.poll("acme", ["101", "102"])
        await expect(wall.locator("#banner")).to_be_hidden()
        await expect(wall.locator("#connection")).to_contain_text("Live")


async def test_a_vanished_call_is_marked_as_uncertain(here: Harness, browser: Browser) -> None:
    """A call that is no longer listed and not yet in the call log says so."""
    here.ring("101", vanished_at=here.clock.now())
    async with page(browser, here.url) as wall:
        await expect(wall.locator(".other")).to_have_text(
            re.compile(r"missing from the list since .* checking the call log")
        )


async def test_a_lost_service_is_reported_and_reconnected(browser: Browser) -> None:
    """The loss is reported at once. After a restart the page shows its calls and the events in between."""
    async with harness() as first:
        first.watch("acme")
        first.ring("101", "s-1")
        port = int(first.url.rpartition(":")[2])
        opened = page(browser, first.url)
        wall = await opened.__aenter__()
        await expect(wall.locator(".call")).to_have_count(1)
    try:
        await expect(wall.locator("#banner")).to_contain_text("No connection to callcast since")
        await expect(wall.locator("#connection")).to_have_text("Not live")
        await expect(wall.locator(".call .state")).to_have_text("Ringing?")
        async with harness(port=port) as second:
            second.memory.stored = list(first.memory.stored)
            second.watch("acme")
            second.ring("102", "s-2")
            await expect(wall.locator("#connection")).to_contain_text("Live")
            await expect(wall.locator("#banner")).to_be_hidden()
            await expect(wall.locator(".call .who")).to_have_text(["Ext. 102"])
            await expect(wall.locator("#last li")).to_have_count(2)
    finally:
        await opened.__aexit__(None, None, None)


async def test_a_silent_connection_is_not_live(here: Harness, browser: Browser) -> None:
    """An open connection without data is reported after seconds; afterwards all missed events are there."""
    relay = Relay(here.url)
    async with relay.listening() as url, page(browser, url) as wall:
        here.ring("101", "s-1")
        await expect(wall.locator("#last li")).to_have_count(1)
        relay.dead = True
        here.ring("102", "s-2")
        await expect(wall.locator("#banner")).to_contain_text("No connection to callcast since", timeout=20_000)
        await expect(wall.locator(".call .state")).to_have_text("Ringing?")
        relay.dead = False
        here.ring("103", "s-3")
        await expect(wall.locator("#connection")).to_contain_text("Live", timeout=20_000)
        await expect(wall.locator(".call .who")).to_have_text(["Reception", "Ext. 102", "Ext. 103"])
        await expect(wall.locator("#last li")).to_contain_text(["Ext. 103", "Ext. 102", "Reception"])


class Relay:
    """A TCP relay to the service that silently drops all data while it is `dead`."""

    def __init__(self, url: str) -> None:
        self.dead = False
        self._port = int(url.rpartition(":")[2])

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[str]:
        server = await asyncio.start_server(self._carry, "127.0.0.1", 0)
        try:
            yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        finally:
            server.close()

    async def _carry(self, near: asyncio.StreamReader, back: asyncio.StreamWriter) -> None:
        far, on = await asyncio.open_connection("127.0.0.1", self._port)
        ways = [asyncio.create_task(self._one_way(near, on)), asyncio.create_task(self._one_way(far, back))]
        await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        for writer in (on, back):
            writer.close()

    async def _one_way(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        lost = False
        with suppress(ConnectionError):
            while piece := await reader.read(65536):
                lost = lost or self.dead  # whose packets were lost once is lost for good
                if not lost:
                    writer.write(piece)


async def test_the_page_reloads_after_an_upgrade(browser: Browser) -> None:
    """A wallboard that is left running loads the new version of the page."""
    async with harness(version="1.0.0") as first:
        port = int(first.url.rpartition(":")[2])
        opened = page(browser, first.url)
        wall = await opened.__aenter__()
        await wall.evaluate("window.old = true")
        await expect(wall.locator("#connection")).not_to_have_text("Not live")
    try:
        async with harness(port=port, version="1.0.1"):
            await becomes(wall, "() => window.old === undefined")
    finally:
        await opened.__aexit__(None, None, None)


async def test_a_token_is_needed_only_once(browser: Browser) -> None:
    """The address with the token leads to the page without it; a reload works from the cookie."""
    async with harness(token="s3cret") as made:
        made.watch("acme")
        async with page(browser, made.url + "/?token=s3cret&wall=1") as wall:
            await expect(wall.locator("#connection")).to_contain_text("Live")
            assert wall.url == made.url + "/?wall=1"
            await wall.reload()
            await expect(wall.locator("#connection")).to_contain_text("Live")


async def test_past_events_have_names_too(here: Harness, browser: Browser) -> None:
    """A page that was just opened shows past events with the names of extensions."""
    here.end(here.ring("101"), Disposition.MISSED)
    async with page(browser, here.url) as wall:
        await expect(wall.locator("#last li")).to_contain_text(["Reception: missed", "Reception: ringing"])


async def test_search_by_extension(here: Harness, browser: Browser) -> None:
    """The slash key focuses the search; it finds names and numbers of extensions; Escape clears it."""
    here.ring("101", "s-1")
    here.ring("102", "s-2")
    async with page(browser, here.url) as wall:
        await expect(wall.locator(".call")).to_have_count(2)
        await wall.keyboard.press("/")
        await wall.keyboard.type("recep")
        await expect(wall.locator(".who")).to_have_text(["Reception"])
        here.ring("102", "s-3")
        here.ring("101", "s-4")
        await expect(wall.locator(".who")).to_have_text(["Reception", "Reception"])
        await wall.keyboard.press("Control+a")
        await wall.keyboard.type("102")
        await expect(wall.locator(".who")).to_have_text(["Ext. 102", "Ext. 102"])
        await wall.keyboard.press("Control+a")
        await wall.keyboard.type("no-match")
        await expect(wall.locator("#empty-what")).to_have_text("No live calls match the search")
        await wall.keyboard.press("Escape")
        await expect(wall.locator(".call")).to_have_count(4)


async def test_a_full_wall_display_alternates_pages(here: Harness, browser: Browser) -> None:
    """Cards are as large as possible and never cut off; if they do not fit, the display alternates pages."""
    screen = {"width": 1920, "height": 1080}
    here.watch("acme", ["101"], interval_s=600)
    async with page(browser, here.url + "/?wall=1", viewport=screen) as wall:
        for number in range(4):
            here.ring("101", f"s-{number}")
        await expect(wall.locator("#last li")).to_have_count(4)  # the line takes room: only now the layout stays
        await expect(wall.locator('.calls[data-columns="3"] .call')).to_have_count(4)
        for number in range(4, 60):
            at = here.clock.now() - timedelta(seconds=number)
            here.answer(here.ring("101", f"s-{number}", started_at=at), answered_at=at)
        await expect(wall.locator("#pager")).to_have_text(re.compile(r"\d of \d"))
        await becomes(wall, f"() => document.querySelectorAll('.call').length >= 8 && ({_CUT})() === 0")
        shown = await _ids(wall)
        assert 8 <= len(shown) < 60
        await _assert_inside(wall)
        here.clock.ahead_s = 12
        await becomes(wall, "old => document.querySelectorAll('.call')[4].dataset.call !== old", shown[4])
        assert set(await _ids(wall)) & set(shown) == {f"101/s-{number}" for number in range(4)}  # who waits stays
        assert {shown[context] for context in range(4)} == {f"101/s-{number}" for number in range(4)}


@pytest.mark.parametrize(("width", "height", "columns"), [(3840, 2160, "3"), (1080, 1920, "2"), (390, 844, "1")])
async def test_a_wall_display_of_any_shape(
    here: Harness, browser: Browser, width: int, height: int, columns: str
) -> None:
    """Few calls get large cards on any screen, and the line of latest events cuts none off.

    That line takes room: the layout is final only after it has come.
    """
    here.watch("acme", ["101"], interval_s=600)  # the banner of a stale source takes a line of the screen
    async with page(browser, here.url + "/?wall=1", viewport={"width": width, "height": height}) as wall:
        for number in range(3):
            here.ring("101", f"s-{number}")
        await expect(wall.locator("#last li")).to_have_count(3)
        await expect(wall.locator(f'.calls[data-columns="{columns}"] .call')).to_have_count(3)
        await becomes(wall, f"() => ({_CUT})() === 0")


async def test_nothing_is_wider_than_a_phone_screen(here: Harness, browser: Browser) -> None:
    """On a phone everything fits the width, also a long name and a long call."""
    long_ago = here.clock.now() - timedelta(hours=11)
    here.answer(here.ring("101", "s-1", started_at=long_ago, queue=Queue(name="Q" * 80)), answered_at=long_ago)
    async with page(browser, here.url, viewport={"width": 360, "height": 740}) as phone:
        await expect(phone.locator(".clock")).to_contain_text("11:00:0")
        assert await phone.evaluate("document.documentElement.scrollWidth") <= 360


async def test_markup_in_names_is_text(browser: Browser) -> None:
    """Text from a caller or the configuration is never interpreted as HTML."""
    evil = "<img src=x onerror=alert(1)>"
    async with harness(numbers="full", names={"101": evil}) as made:
        made.watch("acme")
        made.ring("101", from_party=Party(name=evil, number="+16504306662"), queue=Queue(name=evil))
        async with page(browser, made.url) as wall:
            await expect(wall.locator(".who")).to_have_text(evil)
            await expect(wall.locator(".other")).to_contain_text(evil)
            assert await wall.locator("img").count() == 0


async def test_a_screen_reader_announces_ringing_calls(here: Harness, browser: Browser) -> None:
    """New ringing calls and stale sources are announced, clocks are not; lists and the banner have roles."""
    async with page(browser, here.url) as wall:
        await expect(wall.locator("#connection")).to_contain_text("Live")
        here.ring("101")
        await expect(wall.locator("#spoken")).to_have_text("Reception is ringing")
        here.clock.ahead_s = 60
        await expect(wall.locator("#spoken")).to_contain_text("acme not updated since")
        await expect(wall.get_by_role("list").first).to_be_visible()
        await expect(wall.get_by_role("heading", name="Reception")).to_be_visible()
        await expect(wall.get_by_role("searchbox", name="Search by extension")).to_be_visible()


async def test_a_busy_wallboard_stays_smooth(browser: Browser) -> None:
    """With 500 extensions and hundreds of changes a second, every change arrives and frames keep coming."""
    async with harness() as made:
        made.watch("acme", [str(n) for n in range(1000, 1500)])
        calls = [made.ring(str(1000 + n), f"s-{n}") for n in range(500)]
        async with page(browser, made.url) as wall:
            await expect(wall.locator(".call")).to_have_count(500)
            await wall.evaluate(_COUNT_FRAMES)
            for n, one in enumerate(calls):
                calls[n] = made.answer(one)
                if n % 5 == 0:
                    made.end(calls[n], Disposition.ANSWERED)
                if n % 10 == 0:
                    await asyncio.sleep(0.02)
            await expect(wall.locator(".call")).to_have_count(400)
            await expect(wall.locator('.call[data-state="ringing"]')).to_have_count(0)
            frames = await wall.evaluate("window.frames_ms")
            print("frames", json.dumps({"count": len(frames), "longest_ms": max(frames)}))
            assert len(frames) > 10


_COUNT_FRAMES = """() => {
  window.frames_ms = [];
  let before = performance.now();
  const frame = (now) => { window.frames_ms.push(now - before); before = now; requestAnimationFrame(frame); };
  requestAnimationFrame(frame);
}"""


async def _ids(wall: Page) -> list[str]:
    found: list[str] = await wall.eval_on_selector_all(".call", "all => all.map(c => c.dataset.call)")
    return found


_CUT = """() => {
  const edge = document.querySelector(".last").getBoundingClientRect().top;
  return [...document.querySelectorAll(".call")].filter(c => c.getBoundingClientRect().bottom > edge).length;
}"""


async def _assert_inside(wall: Page) -> None:
    """No card is cut off by the edge of the list."""
    cut = await wall.evaluate(_CUT)
    assert cut == 0


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_light_and_dark_differ(here: Harness, browser: Browser, scheme: str) -> None:
    """The page follows the color scheme of the system, or the `theme` parameter of its address."""
    other = "dark" if scheme == "light" else "light"
    async with page(browser, here.url, color_scheme=scheme) as wall:
        own = await wall.evaluate("getComputedStyle(document.body).backgroundColor")
        await wall.goto(here.url + f"/?theme={other}")
        assert await wall.evaluate("getComputedStyle(document.body).backgroundColor") != own
