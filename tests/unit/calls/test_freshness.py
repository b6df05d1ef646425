"""When a source is degraded and recovered; each outage is reported once."""

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from callcast.calls.freshness import WHOLE, Freshness, stale_after_s

T0 = datetime(2026, 1, 1, tzinfo=UTC)


def at(seconds: float) -> datetime:
    return T0 + timedelta(seconds=seconds)


def watching(*targets: str, kept: bytes | None = None) -> Freshness:
    fresh = Freshness("acme", kept)
    fresh.watch(targets, {}, 0)
    return fresh


def test_a_source_is_stale_after_three_intervals_but_never_before_thirty_seconds() -> None:
    """The limit, on both sides."""
    assert stale_after_s(1) == 30
    assert stale_after_s(60) == 180
    fresh = watching("1")
    assert fresh.check(at(30), 30, 1) == []
    assert [e.type for e in fresh.check(at(30.1), 30.1, 1)] == ["source.degraded"]
    slow = watching("1")
    assert slow.check(at(180), 180, 60) == []


def test_one_stale_extension_among_others_degrades_alone() -> None:
    """The event names the extension; the source is not degraded."""
    fresh = watching("1", "2")
    fresh.poll_succeeded("1", at(20), 20)
    fresh.poll_failed("2", "server")
    (event,) = fresh.check(at(31), 31, 1)
    assert (event.extension_id, event.reason, event.since) == ("2", "server", T0)
    (event,) = fresh.poll_succeeded("2", at(40), 40)
    assert (event.type, event.extension_id) == ("source.recovered", "2")


def test_when_every_target_is_stale_one_event_reports_the_whole_source() -> None:
    """No event per extension, and the blind interval runs from the last good poll of any."""
    fresh = watching("1", "2", "3")
    fresh.poll_succeeded("2", at(10), 10)
    fresh.poll_failed("1", "network")
    (event,) = fresh.check(at(45), 45, 1)
    assert (event.extension_id, event.since, event.reason) == (None, at(10), "network")
    assert fresh.check(at(60), 60, 1) == []
    (back,) = fresh.poll_succeeded("1", at(61), 61)
    assert back.blind is not None
    assert (back.type, back.extension_id, back.blind.after, back.blind.before) == (
        "source.recovered",
        None,
        at(10),
        at(61),
    )
    assert fresh.check(at(90), 90, 1) == [], "the other targets get their three intervals afresh"
    fresh.poll_succeeded("1", at(91), 91)
    assert {e.extension_id for e in fresh.check(at(92), 92, 1)} == {"2", "3"}


def test_a_refused_extension_is_degraded_at_once() -> None:
    """403 and 404 need no time to pass."""
    fresh = watching("1", "2")
    fresh.poll_succeeded("1", at(1), 1)
    fresh.poll_failed("2", "permission", refused=True)
    (event,) = fresh.check(at(1), 1, 1)
    assert (event.extension_id, event.reason) == ("2", "permission")


def test_when_every_target_is_refused_the_source_is_degraded_as_a_whole() -> None:
    """The event then names no extension."""
    fresh = watching("1", "2")
    fresh.poll_failed("1", "permission", refused=True)
    fresh.poll_failed("2", "permission", refused=True)
    (event,) = fresh.check(at(1), 1, 1)
    assert event.extension_id is None


def test_a_restart_neither_repeats_nor_forgets_an_outage() -> None:
    """What was reported before the restart is known after it, and the numbers go on."""
    fresh = watching("1")
    (degraded,) = fresh.check(at(31), 31, 1)
    again = watching("1", kept=fresh.dump())
    assert again.check(at(62), 62, 1) == []
    assert list(again.degraded) == [WHOLE]
    (back,) = again.poll_succeeded("1", at(63), 63)
    assert back.since == degraded.since
    assert back.id != degraded.id


def test_a_crash_before_the_state_was_stored_yields_the_same_event_again() -> None:
    """The id is made of source, type and number, so recording it twice has no effect."""
    kept = watching("1").dump()
    first = watching("1", kept=kept).check(at(31), 31, 1)[0].id
    second = watching("1", kept=kept).check(at(35), 35, 1)[0].id
    assert first == second


def test_time_in_which_the_service_did_not_run_degrades_no_source() -> None:
    """An old last poll alone is no outage."""
    fresh = Freshness("acme")
    fresh.watch(["1"], {"1": at(-86400)}, 0)
    assert fresh.check(at(29), 29, 1) == []


def test_a_corrected_clock_is_no_outage() -> None:
    """The first answer shows that this machine's clock was an hour slow, or fast: no source had an outage of an hour,
    and a later one is still reported after 30 s.
    """
    for skew_s in (-3600, 3600):
        fresh = watching("1", "2")
        assert fresh.check(at(1), 1, 1) == []
        fresh.poll_succeeded("1", at(skew_s + 2), 2)
        assert fresh.check(at(skew_s + 3), 3, 1) == []
        (event,) = fresh.check(at(skew_s + 31), 31, 1)
        assert (event.extension_id, event.since) == ("2", at(skew_s))


def test_a_target_that_is_quiet_by_plan_is_not_stale() -> None:
    """With hints the time counts from when a poll was due that did not succeed."""
    fresh = watching("1", "2")
    assert fresh.check(at(300), 300, 5, {}) == []
    assert fresh.check(at(300), 300, 5, {"1": 280.0}) == []
    (event,) = fresh.check(at(311), 311, 5, {"1": 280.0})
    assert event.extension_id == "1"
    (event,) = fresh.check(at(320), 320, 5, {"1": 280.0, "2": 285.0})
    assert event.extension_id is None


def test_the_outage_of_a_target_that_is_no_longer_watched_ends_without_an_event() -> None:
    """An event would name something that is not configured."""
    fresh = watching("1", "2")
    fresh.poll_succeeded("1", at(20), 20)
    fresh.check(at(31), 31, 1)
    fresh.watch(["1"], {}, 32)
    assert fresh.degraded == {}


STEPS = st.lists(st.tuples(st.sampled_from("123"), st.booleans(), st.floats(0.1, 60)), max_size=60)


@given(STEPS)
def test_events_alternate_per_target_and_ids_never_repeat(steps: list[tuple[str, bool, float]]) -> None:
    """Whatever happens: degraded, recovered, degraded ... for the source and for each extension."""
    fresh = watching("1", "2", "3")
    now, events = 0.0, []
    for target, good, pause in steps:
        now += pause
        if good:
            events += fresh.poll_succeeded(target, at(now), now)
        else:
            fresh.poll_failed(target, "server")
        events += fresh.check(at(now), now, 5)
    for subject in {e.extension_id for e in events}:
        kinds = [e.type for e in events if e.extension_id == subject]
        assert all(kind == ("source.degraded", "source.recovered")[i % 2] for i, kind in enumerate(kinds))
    assert len({e.id for e in events}) == len(events)
