"""A call's direction may change, and a sink that follows the call must not lose it."""

from callcast.calls.model import Direction
from callcast.ports.sink import Filter
from tests.unit.calls.snapshots import Watch, ended, observation

OUT, IN = Filter(directions=("outbound",)), Filter(directions=("inbound",))


def test_a_call_knows_every_direction_that_its_events_had() -> None:
    """An outbound call that turns inbound: each event says it, in the order in which they came."""
    watch = Watch()
    watch.poll(1, observation("dialing", direction=Direction.OUTBOUND))
    assert watch.call().emitted_directions == (Direction.OUTBOUND,)
    watch.poll(2, observation("ringing"))
    watch.poll(3, ended("answered"))
    assert watch.last.call.direction is Direction.INBOUND
    assert watch.last.call.emitted_directions == (Direction.OUTBOUND, Direction.INBOUND)
    assert OUT.shows(watch.last.call)
    assert IN.shows(watch.last.call)


def test_an_event_passes_by_its_direction_until_the_call_is_followed() -> None:
    """Without an earlier event for the sink the direction at the recording decides; the globs always do."""
    watch = Watch()
    watch.poll(1, observation("dialing", direction=Direction.OUTBOUND))
    watch.poll(2, ended("answered"))
    end = watch.last
    assert (IN.wants(end), OUT.wants(end), OUT.wants(end, followed=True)) == (True, False, True)
    assert not Filter(events=("call.ringing",)).wants(end, followed=True)
    assert not Filter(extensions=("999",)).wants(end, followed=True)
