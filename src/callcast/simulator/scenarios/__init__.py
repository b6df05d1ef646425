"""What happens on the simulated platform.

seed, seed-timed   the recorded answers, one further with each poll, or as time goes by
office             six phones, two queues, one call of each kind within a minute, then calls by chance
busy               many phones, calls by chance at a given rate
quiet              two extensions without calls
PATH.toml          your own, written as `script` says (see office.toml)
"""

from collections.abc import Iterator
from datetime import datetime
from heapq import merge
from importlib.resources import files
from pathlib import Path

from callcast.simulator.calls import CallQueue, Extension, Scenario
from callcast.simulator.chance import random_calls
from callcast.simulator.planner import plan
from callcast.simulator.scenarios import seed as recorded
from callcast.simulator.script import Account, Call, Chance, ScenarioError, Script, read
from callcast.simulator.story import Listing, Story

NAMES = ("seed", "seed-timed", "office", "busy", "quiet")
LOG_KEPT_BUSY_S = 3_600  # a soak's call log must not grow for a day


def load(
    name: str,
    start: datetime,
    *,
    seed: int = 0,
    speed: float = 1.0,
    listing: Listing | None = None,
    extensions: int = 50,
    calls_per_minute: float = 60,
) -> Scenario:
    """A scenario by name or path, beginning at `start`. Raises ScenarioError, and OSError for a path.

    speed divides every pause and duration; the clock stays true. extensions, calls_per_minute: of `busy`.
    """
    if name == "seed":
        return recorded.by_poll()
    if name == "seed-timed":
        return recorded.timed(start, speed=speed)
    if name == "busy":
        return busy(start, extensions, calls_per_minute, seed=seed, speed=speed, listing=listing)
    return played(read(_text(name)), start, seed=seed, speed=speed, listing=listing)


def office(start: datetime, *, seed: int = 0, speed: float = 1.0, listing: Listing | None = None) -> Story:
    return played(read(_text("office")), start, seed=seed, speed=speed, listing=listing)


def busy(
    start: datetime,
    extensions: int,
    calls_per_minute: float,
    *,
    talks_s: float = 40,
    seed: int = 0,
    speed: float = 1.0,
    listing: Listing | None = None,
) -> Story:
    """Random calls of many phones, for soaks and benches. A call changes three times: start, answer, end."""
    chance = Chance(calls_per_minute=calls_per_minute, talks_s=talks_s)
    script = Script(account=crowd(extensions), random=chance)
    return played(script, start, seed=seed, speed=speed, listing=listing or Listing(log_kept_s=LOG_KEPT_BUSY_S))


def played(
    script: Script, start: datetime, *, seed: int = 0, speed: float = 1.0, listing: Listing | None = None
) -> Story:
    """A scenario file from `start` on. Raises ScenarioError if a phone, queue or ending does not exist."""
    for call in script.calls:
        plan(script.account, call, 0, start)
    story = Story(script.account, _in_order(script, seed), start, seed=seed, speed=speed, listing=listing)
    story.faults = script.faults
    return story


def crowd(extensions: int) -> Account:
    """An account with a number of phones."""
    phones = tuple(
        Extension(
            id=str(400_200_000 + number),
            number=str(1000 + number),
            name=f"Desk {number}",
            direct=f"+1555011{number % 10_000:04d}",
        )
        for number in range(1, extensions + 1)
    )
    queue = CallQueue(name="Support", number="+15550100180", id="400300001")
    return Account(id="400100300", extensions=phones, queues=(queue,))


def _in_order(script: Script, seed: int) -> Iterator[Call]:
    scripted = sorted(script.calls, key=lambda call: call.at_s)
    chance = random_calls(script.account, script.random, seed, scripted) if script.random else iter(())
    return merge(scripted, chance, key=lambda call: call.at_s)


def _text(name: str) -> bytes:
    if name in NAMES:
        return files(__package__).joinpath(f"{name}.toml").read_bytes()
    if not name.endswith(".toml"):
        raise ScenarioError(f"there is no scenario {name!r}; there are {', '.join(NAMES)}, or a path to a .toml file")
    return Path(name).read_bytes()
