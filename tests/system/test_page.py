"""The wallboard page of the real service in a real browser: the recorded call appears, changes and goes."""

from pathlib import Path

from playwright.async_api import expect

from tests.browser import chromium
from tests.system.world import seed_world


async def test_the_page_shows_the_seed_call_appear_change_and_go(tmp_path: Path) -> None:
    """Without a reload: ringing, connected with a running clock, gone; and no request goes to another host."""
    async with seed_world(tmp_path) as world, chromium() as browser:
        await world.service.start()
        await world.service.ready()
        await world.stage.seen()
        page = await browser.new_page()
        requested: list[str] = []
        page.on("request", lambda request: requested.append(request.url))
        await page.goto(world.service.url)
        calls = page.locator("#calls li")
        await expect(calls).to_have_count(0)
        world.stage.show(0)
        await expect(calls).to_have_count(1)
        await expect(calls.first).to_contain_text("Ringing")
        await expect(calls.first).to_contain_text("+16504306662")
        world.stage.show(1)
        await expect(calls.first).to_contain_text("Connected")
        world.stage.show(2)
        await expect(calls).to_have_count(0)
        assert requested
        assert all(url.startswith(world.service.url) for url in requested)
