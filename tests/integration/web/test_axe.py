"""The page has no axe-core violations, in every theme and state."""

import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from datetime import timedelta
from typing import Any

import pytest
import pytest_asyncio
from playwright.async_api import Browser, Page, expect

from callcast.calls.model import Disposition, Party, Queue
from tests import TESTS
from tests.browser import chromium
from tests.integration.web.http_side import Harness, harness
from tests.integration.web.test_page import page

pytestmark = pytest.mark.asyncio(loop_scope="module")
AXE = TESTS / "node/node_modules/axe-core/axe.min.js"
DRESSES: dict[str, dict[str, Any]] = {
    "light": {"color_scheme": "light"},
    "dark": {"color_scheme": "dark"},
    "phone": {"viewport": {"width": 360, "height": 740}, "has_touch": True},
    "dark phone": {"color_scheme": "dark", "viewport": {"width": 360, "height": 740}},
    "wall": {"viewport": {"width": 1920, "height": 1080}},
    "high contrast": {"forced_colors": "active"},
}
RUN = """async () => (await axe.run(document, {resultTypes: ["violations"]})).violations.map(
    (found) => `${found.id}: ${found.help}: ${found.nodes.map((node) => node.html + " " + node.failureSummary)}`
)"""


def axe() -> str:
    """The source of axe-core. If it is not installed, the test is skipped, or fails under CI=true."""
    if AXE.exists():
        return AXE.read_text()
    reason = "axe-core is not installed: npm ci --prefix tests/node"
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def browser() -> AsyncIterator[Browser]:
    async with chromium() as started:
        yield started


@pytest_asyncio.fixture(loop_scope="module")
async def here() -> AsyncIterator[Harness]:
    """Calls of each kind: waiting for long, connected, dialing, without a known caller, and two ended ones."""
    async with harness(names={"101": "Reception", "102": "Front office"}) as made:
        made.watch("acme", [str(number) for number in range(101, 111)])
        made.watch("other", ["201"])
        made.ring("101", "s-1", started_at=made.clock.now() - timedelta(seconds=95))
        made.answer(made.ring("102", "s-2", queue=Queue(name="Support", confirmed=True)))
        made.ring("103", "s-3", from_party=Party(name="A caller with a very long name that goes on and on"))
        made.ring("104", "s-4", from_party=None)
        made.end(made.answer(made.ring("105", "s-5")))
        made.end(made.ring("106", "s-6"), Disposition.MISSED)
        yield made


async def violations(wall: Page) -> list[str]:
    await wall.evaluate(axe())
    found: list[str] = await wall.evaluate(RUN)
    return found


@pytest.mark.parametrize("dress", DRESSES)
async def test_a_page_with_calls_has_no_violation(here: Harness, browser: Browser, dress: str) -> None:
    """Light, dark, phone, wall display, high contrast; with calls of each kind and the latest events."""
    axe()
    url = f"{here.url}/?wall=1" if dress == "wall" else here.url
    async with page(browser, url, **DRESSES[dress]) as wall:
        await expect(wall.locator(".call")).to_have_count(4)
        assert await violations(wall) == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_a_stale_page_has_no_violation(here: Harness, browser: Browser, scheme: str) -> None:
    """Gray cards and the banner have enough contrast."""
    axe()
    async with page(browser, here.url, color_scheme=scheme) as wall:
        await expect(wall.locator(".call")).to_have_count(4)
        here.clock.ahead_s = 60
        here.poll("other", ["201"])
        here.ring("201", "s-9")
        await expect(wall.locator("#connection")).to_contain_text("not updated since")
        await expect(wall.locator(".call")).to_have_count(5)
        assert await violations(wall) == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_an_empty_page_and_a_lost_service_have_no_violation(browser: Browser, scheme: str) -> None:
    """The texts of an empty list and of a lost connection have enough contrast."""
    axe()
    async with AsyncExitStack() as service, AsyncExitStack() as visit:
        made = await service.enter_async_context(harness())
        made.watch("acme", ["101"])
        wall = await visit.enter_async_context(page(browser, made.url, color_scheme=scheme))
        await expect(wall.locator("#empty")).to_be_visible()
        assert await violations(wall) == []
        await service.aclose()
        await expect(wall.locator("#banner")).to_be_visible()
        assert await violations(wall) == []


async def test_the_token_page_has_no_violation(browser: Browser) -> None:
    """The page that is shown without a token."""
    axe()
    async with harness(token="s3cret") as made, page(browser, made.url) as wall:
        await expect(wall.locator("h1")).to_contain_text("token")
        assert await violations(wall) == []
