"""How smoothly the page moves: 500 extensions, 100 changes a second, in headless Chromium.

    python -m bench.page [--seconds N] [--extensions N] [--changes N]

Prints for a computer's screen, a phone and a television the times between frames (60 a second are 16.7 ms apart), the
longest piece of work that held the page, and how much of a processor its scripts and its layout took. The browser
draws without a graphics card here, which a real screen need not.
"""

import argparse
import asyncio
import itertools
import statistics
from collections.abc import Mapping
from typing import Any

from playwright.async_api import Browser, CDPSession

from callcast.calls.model import Call
from tests.browser import chromium
from tests.integration.web.http_side import Harness, harness

SCREENS: Mapping[str, tuple[str, int, int]] = {
    "computer": ("/", 1440, 900),
    "phone": ("/", 390, 844),
    "television": ("/?wall=1", 1920, 1080),
}
BURST_S = 0.05
COUNT_FRAMES = """() => {
  window.frames_ms = [];
  window.held_ms = [];
  let before = performance.now();
  const frame = (now) => { window.frames_ms.push(now - before); before = now; requestAnimationFrame(frame); };
  requestAnimationFrame(frame);
  new PerformanceObserver((list) => window.held_ms.push(...list.getEntries().map((one) => one.duration)))
    .observe({ entryTypes: ["longtask"] });
}"""


async def change(here: Harness, calls: list[Call], each_s: int, seconds: float) -> None:
    """Rings are answered, talks end and ring anew: so many changes a second, in bursts as polls bring them."""
    turn = itertools.count()
    burst = max(1, round(each_s * BURST_S))
    for _ in range(round(seconds / BURST_S)):
        for _ in range(burst):
            number = next(turn)
            context = number % len(calls)
            one = calls[context]
            if one.answered_at is None:
                calls[context] = here.answer(one)
            else:
                here.end(one)
                calls[context] = here.ring(one.extension_id, f"s-{number}-again")
        await asyncio.sleep(BURST_S)


async def measure(browser: Browser, screen: str, extensions: int, each_s: int, seconds: float) -> None:
    path, width, height = SCREENS[screen]
    async with harness() as here:
        here.watch("acme", [str(1000 + number) for number in range(extensions)])
        calls = [here.ring(str(1000 + number), f"s-{number}") for number in range(extensions)]
        context = await browser.new_context(viewport={"width": width, "height": height})
        page = await context.new_page()
        await page.goto(here.url + path)
        await page.locator(".call").nth(8).wait_for()
        await change(here, calls, each_s, 2)
        session = await context.new_cdp_session(page)
        await session.send("Performance.enable")
        await page.evaluate(COUNT_FRAMES)
        before = await used_s(session)
        await change(here, calls, each_s, seconds)
        after = await used_s(session)
        frames, held = await page.evaluate("[window.frames_ms, window.held_ms]")
        await context.close()
    cuts = statistics.quantiles(frames, n=100)
    share = {name: 100 * (after[name] - before[name]) / seconds for name in after}
    print(
        f"{screen:11} {len(frames):5} frames; ms apart: {cuts[49]:5.1f} median, {cuts[94]:5.1f} within 95 %, "
        f"{cuts[98]:5.1f} within 99 %, {max(frames):6.1f} longest; held {max(held, default=0):4.0f} ms at most; "
        f"script {share['script']:4.1f} %, layout and style {share['layout']:4.1f} %",
        flush=True,
    )


async def used_s(session: CDPSession) -> dict[str, float]:
    """The page's time, by kind."""
    measured: Any = await session.send("Performance.getMetrics")
    found = {one["name"]: one["value"] for one in measured["metrics"]}
    return {"script": found["ScriptDuration"], "layout": found["LayoutDuration"] + found["RecalcStyleDuration"]}


async def main(extensions: int, each_s: int, seconds: float) -> None:
    async with chromium() as browser:
        for screen in SCREENS:
            await measure(browser, screen, extensions, each_s, seconds)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--extensions", type=int, default=500)
    parser.add_argument("--changes", type=int, default=100, help="a second (100)")
    options = parser.parse_args()
    asyncio.run(main(options.extensions, options.changes, options.seconds))
