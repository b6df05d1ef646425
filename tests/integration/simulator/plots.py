"""Calls as hypothesis makes them up: every kind, with every oddity that the platform is known for."""

from datetime import datetime, timedelta

from hypothesis import strategies as st

from callcast.simulator.calls import ENDINGS
from callcast.simulator.scenarios import crowd, played
from callcast.simulator.script import Call, Handover, Script
from callcast.simulator.story import Listing, Story

ACCOUNT = crowd(6)
DESKS = [extension.number for extension in ACCOUNT.extensions]
SECONDS = st.integers(1, 60_000).map(lambda ms: ms / 1000)
MAYBE_SECONDS = st.none() | SECONDS
ENDS = st.sampled_from(sorted(ENDINGS))


@st.composite
def calls(draw: st.DrawFn) -> Call:
    kind = draw(st.sampled_from(["inbound", "queue", "outbound", "internal", "ringout", "conference"]))
    phones = draw(st.permutations(DESKS))
    last = tuple(phones[: draw(st.integers(1, 4))])
    earlier = draw(st.lists(st.sampled_from([(phone,) for phone in phones]), max_size=2))
    return Call(
        at_s=draw(st.floats(0, 30)),
        kind=kind,
        extension=phones[0],
        to=phones[1] if kind == "internal" else None,
        number=draw(st.none() | st.just("+15550101234")),
        name=draw(st.none() | st.just("A. MILLER") | st.just("NORTH - SOUTH")),
        queue="Support" if kind == "queue" else None,
        offers=(*earlier, last) if kind == "queue" else (),
        waits_s=draw(SECONDS),
        rings_s=draw(SECONDS),
        answers_after_s=draw(SECONDS),
        talks_s=draw(MAYBE_SECONDS),
        records_s=draw(st.just(0) | SECONDS),
        ends=draw(st.none() | ENDS),
        transfer=draw(st.none() | st.builds(Handover, to=st.just(phones[2]), rings_s=SECONDS, talks_s=MAYBE_SECONDS)),
        id_changes=draw(st.booleans()),
        marks_answer=draw(st.booleans()),
        provisional=draw(st.booleans()),
        in_browser=draw(st.booleans()),
        rewritten=draw(st.none() | st.tuples(SECONDS, ENDS)),
    )


def story_of(start: datetime, *plot: Call, listing: Listing | None = None) -> Story:
    return played(Script(account=ACCOUNT, calls=plot), start, listing=listing)


def moments(story: Story, start: datetime) -> list[datetime]:
    """Just before and just after everything that truly happens."""
    truths = story.truth(start + timedelta(hours=1))
    turns = {turn for one in truths for turn in (one.started_at, one.answered_at, one.ended_at) if turn}
    step = timedelta(milliseconds=1)
    return sorted({moment for turn in turns for moment in (turn - step, turn, turn + step)})
