"""Bytes to typed records: forgiving where it may be, strict where it must be, and only one kind of error."""

import json
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from callcast.calls.model import Target
from callcast.ringcentral.decode import account_in
from callcast.ringcentral.interpret import BadPage, ListPage, Rows, read_page
from tests import TESTS
from tests.effort import tries
from tests.unit.calls.snapshots import at
from tests.unit.ringcentral import fuzz_bytes
from tests.unit.ringcentral.decoded import decode_page, observations_of, snapshot
from tests.unit.ringcentral.test_vocabulary import record

ACCOUNT = Target(source="acme")
SAMPLES = TESTS / "samples"
SEED = (SAMPLES / "active-calls" / "seed-direct-3-ended.json").read_bytes()


def page_of(*records: Any, **envelope: Any) -> bytes:
    return json.dumps({"records": list(records), **envelope}).encode()


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"<html>502 Bad Gateway</html>",
        b"[]",
        b"null",
        b'"text"',
        b"{}",
        b'{"records": null}',
        b'{"records": {}}',
        b'{"records": [',
        b'{"records": [], "navigation": "x"}',
        b'{"records": [], "navigation": {"nextPage": "x"}}',
        b'{"records": [], "navigation": {"nextPage": {}}}',
        b'{"records": [], "x": NaN}',
        b'{"records":' + b"[" * 100_000,
        b"\xff\xfe",
    ],
)
def test_what_is_no_page_is_a_failed_poll(raw: bytes) -> None:
    """Never an empty list: no JSON, no object, no records, or a torn way to the next page."""
    with pytest.raises(BadPage, match=r"^not (JSON$|a page of records: )") as failed:
        decode_page(raw)
    assert "@" not in str(failed.value)
    assert len(str(failed.value)) < 200


def test_the_way_to_the_next_page() -> None:
    """`navigation.nextPage` decides; a page without it is the last."""
    assert decode_page(page_of(navigation={"nextPage": {"uri": "https://x/2"}})).next_page == "https://x/2"
    assert decode_page(page_of(navigation={"firstPage": {"uri": "https://x/1"}})).next_page is None
    assert decode_page(page_of(navigation={"nextPage": None})).next_page is None
    assert decode_page(page_of(navigation=None)).next_page is None
    nothing = decode_page(page_of())
    assert (nothing.records, nothing.bad, nothing.next_page) == ((), (), None)


@pytest.mark.parametrize("field", ["id", "sessionId", "startTime", "type", "direction", "action"])
@pytest.mark.parametrize("value", [..., None, 7, "", [], {}, True])
def test_a_record_without_a_required_field_is_bad(field: str, value: object) -> None:
    """It is left out and reported by the field's name; its neighbours stay."""
    bad = record()
    if value is ...:
        del bad[field]
    else:
        bad[field] = value
    page = decode_page(page_of(record(id="A"), bad, record(id="B")))
    assert [r.id for r in page.records] == ["A", "B"]
    assert page.bad == (field,)


@pytest.mark.parametrize("value", [None, 7, "text", [], True])
def test_what_is_no_record_is_bad(value: object) -> None:
    """Anything but an object in the list costs only itself."""
    page = decode_page(page_of(value, record()))
    assert page.bad == ("record",)
    assert len(page.records) == 1


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("uri", 5),
        ("telephonySessionId", 5),
        ("duration", "ten"),
        ("duration", -1),
        ("duration", 366 * 86400 + 1),
        ("duration", 1.5),
        ("durationMs", []),
        ("durationMs", -1),
        ("durationMs", 366 * 86400_000 + 1),
        ("result", 1),
        ("reason", {}),
        ("delegationType", 1),
        ("finished", "yes"),
        ("extension", 5),
        ("from", "+1"),
        ("to", []),
        ("legs", {}),
    ],
)
def test_an_optional_field_of_the_wrong_type_is_absent(field: str, value: object) -> None:
    """It is reported, and never loses the call."""
    page = decode_page(page_of(record(**{field: value})))
    assert page.bad == ()
    assert page.bad_fields == (field,)
    (one,) = page.records
    expected = decode_page(page_of({k: v for k, v in record().items() if k != field})).records[0]
    assert one == expected


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("startTime", "soon"),
        ("startTime", "0001-01-01T00:00:00Z"),
        ("duration", -5),
        ("extension", []),
        ("from", 5),
        ("legType", 5),
    ],
)
def test_a_bad_field_of_a_leg_costs_the_field_alone(field: str, value: object) -> None:
    """Legs are read as forgivingly, one by one; what is no leg is left out."""
    good = {"legType": "Accept", "direction": "Inbound", "reason": "Accepted"}
    page = decode_page(page_of(record(legs=[{**good, field: value}, "junk", good])))
    assert page.bad_fields == (field,)
    legs = page.records[0].legs
    assert legs is not None
    assert len(legs) == 2
    assert legs[0].reason == legs[1].reason == "Accepted"


def test_fields_of_a_party_are_forgiven_one_by_one() -> None:
    """A number that is no text does not cost the name."""
    sides = {"from": {"phoneNumber": 5, "name": "JANE"}, "to": {"location": 5, "name": "DESK"}}
    page = decode_page(page_of(record(**sides, extension={"id": []})))
    assert sorted(page.bad_fields) == ["id", "location", "phoneNumber"]
    (one,) = page.records
    assert one.from_ is not None
    assert one.to is not None
    assert (one.from_.phone_number, one.from_.name, one.to.name) == (None, "JANE", "DESK")


@pytest.fixture
def far_west() -> Iterator[None]:
    """The machine stands in another zone, and nothing of that stays."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("TZ", "America/New_York")
        time.tzset()
        yield
    time.tzset()


@pytest.mark.parametrize(
    "text",
    [
        "2026-03-02T09:00:00.000Z",
        "2026-03-02T09:00:00Z",
        "2026-03-02T09:00:00.000+0000",
        "2026-03-02T09:00:00+00:00",
        "2026-03-02T11:00:00+02:00",
        "2026-03-02T09:00:00",
    ],
)
@pytest.mark.usefixtures("far_west")
def test_start_times_in_every_spelling(text: str) -> None:
    """Z, +0000, no milliseconds, another zone, none: always UTC, wherever the machine stands."""
    page = decode_page(page_of(record(startTime=text, legs=[{"startTime": text}])))
    start = datetime(2026, 3, 2, 9, tzinfo=UTC)
    (one,) = page.records
    assert (one.start_time, one.start_time.tzinfo) == (start, UTC)
    assert one.legs is not None
    assert one.legs[0].start_time == start
    assert (page.bad, page.bad_fields) == ((), ())
    (alone,) = decode_page(page_of(record(startTime=text, legs=[{"startTime": "2026-03-02T09:00:00Z"}]))).records
    assert (alone.start_time, alone.start_time.tzinfo) == (start, UTC)
    (leg_alone,) = decode_page(page_of(record(legs=[{"startTime": text}]))).records[0].legs or ()
    assert leg_alone.start_time is not None
    assert (leg_alone.start_time, leg_alone.start_time.tzinfo) == (start, UTC)


@pytest.mark.parametrize(
    "text", ["1969-12-31T23:59:59Z", "3000-01-01T00:00:00Z", "0001-01-01T00:00:00+10:00", "1767.5"]
)
def test_a_start_of_another_age_is_bad(text: str) -> None:
    """What would leave the calendar is no start, of a record or of a leg; its neighbours stay."""
    page = decode_page(page_of(record(startTime=text), record(id="B")))
    assert (page.bad, [r.id for r in page.records]) == (("startTime",), ["B"])
    legs = [{"startTime": "2026-03-02T09:00:00Z"}, {"startTime": text}]
    assert decode_page(page_of(record(legs=legs), record(id="B"))).bad_fields == ("startTime",)


def test_the_edges_of_times_and_durations_are_good() -> None:
    """The first and the last moment, the longest call."""
    page = decode_page(
        page_of(
            record(startTime="1970-01-01T00:00:00Z", duration=0, durationMs=0),
            record(startTime="2999-12-31T23:59:59Z", duration=366 * 86400, durationMs=366 * 86400_000),
        )
    )
    assert (len(page.records), page.bad, page.bad_fields) == (2, (), ())
    assert observations_of(page, Target(source="acme"))


def test_half_an_emoji_does_not_spoil_the_page() -> None:
    """A name that was cut in the middle of a surrogate pair, or bytes that are no UTF-8."""
    escaped = page_of(record(**{"from": {"name": "J\ud83d"}}), record(id="B"))
    assert b"\\ud83d" in escaped
    assert len(decode_page(escaped).records) == 2
    torn = page_of(record(**{"from": {"name": "JANE"}}), record(id="B")).replace(b"JANE", b"J\xffNE")
    assert [r.id for r in decode_page(torn).records] == ["L1", "B"]
    outside = page_of(record(), uri="JANE").replace(b"JANE", b"J\xffNE")
    assert [r.id for r in decode_page(outside).records] == ["L1"]


def test_the_account_is_in_the_address() -> None:
    """Digits after /account/; `~` is not a number."""
    assert account_in("https://x/restapi/v1.0/account/809646016/extension/1/call-log/L") == "809646016"
    assert account_in("https://x/restapi/v1.0/account/809646016") == "809646016"
    assert account_in("https://x/restapi/v1.0/account/~/call-log/L") is None
    assert account_in("https://x/account/80a/x") is None
    assert account_in(None) is None
    page = decode_page(page_of(record(), uri="https://x/account/7/active-calls"))
    assert snapshot(Target(source="a"), [page], at(0)).observations[0].account_id == "7"
    own = decode_page(page_of(record(uri="https://x/account/8/call-log/L"), uri="https://x/account/7/active-calls"))
    assert snapshot(Target(source="a"), [own], at(0)).observations[0].account_id == "8"
    assert account_in(5) is None


def test_the_seed_reads_without_complaint() -> None:
    """A recorded page has no bad record, no bad field and no unknown word."""
    page = decode_page(SEED)
    assert (len(page.records), page.bad, page.bad_fields, page.unknown) == (1, (), (), ())


def known_of(page: ListPage) -> Rows:
    return {row.raw: row for row in page.rows}


def test_only_what_has_changed_is_read_again() -> None:
    """A record that stands in the list byte by byte as it did shows the very same; another beside it is read."""
    last = read_page(page_of(record(id="A"), record(id="B"), 7), ACCOUNT)
    page = read_page(
        page_of(7, record(id="B"), record(id="A", result="Missed"), record(id="C")), ACCOUNT, known_of(last)
    )
    assert [row.record_id for row in page.rows] == ["", "B", "A", "C"]
    assert [row.record_id for row in page.fresh] == ["A", "C"]
    assert page.rows[1] is last.rows[1]
    assert page.rows[0] is last.rows[2]
    assert [s.disposition for s in page.rows[2].shown or ()] == ["missed"]


def test_bad_records_are_told_apart() -> None:
    """By their ids, whatever else of them changes; without ids by all that they are."""
    named = [{name: word} for name in ("id", "sessionId", "telephonySessionId") for word in "AB"]
    nameless = [{"name": 1}, {"name": 2}, [], 7, None]
    bad = [*named, *(one | {"duration": 5} for one in named), *nameless]
    ids = [row.bad_id for row in read_page(page_of(*bad), ACCOUNT).rows]
    assert ids[: len(named)] == ids[len(named) : 2 * len(named)]
    assert len(set(ids)) == len(named) + len(nameless)


def test_what_is_known_is_the_same_as_what_would_be_read() -> None:
    """Through any number of polls: the rows of a page do not depend on what was known."""
    known: Rows | None = None
    for bodies in (["A"], ["B", "A"], ["A", "C"], [], ["C", "B"]):
        raw = page_of(*(record(id=one, legs=[{"legType": "Odd"}]) for one in bodies), uri="https://x/account/7/a")
        page = read_page(raw, ACCOUNT, known)
        alone = read_page(raw, ACCOUNT)
        assert page.rows == alone.rows == alone.fresh
        known = known_of(page)


def test_a_record_is_read_again_where_the_page_is_another_accounts() -> None:
    """It names no account, so the page's applies."""
    first = read_page(page_of(record(), uri="https://x/account/7/active-calls"), ACCOUNT)
    second = read_page(page_of(record(), uri="https://x/account/8/active-calls"), ACCOUNT, known_of(first))
    assert [s.account_id for page in (first, second) for row in page.rows for s in row.shown or ()] == ["7", "8"]


def sample_files() -> list[Path]:
    return sorted(SAMPLES.rglob("*.json"))


def test_there_are_all_samples() -> None:
    """Every file that the manifest names is here."""
    assert len(sample_files()) == 81


@pytest.mark.parametrize("path", sample_files(), ids=lambda path: path.stem)
def test_every_sample_goes_through_the_decoder(path: Path) -> None:
    """As it is, and each of its parts as a record: a good snapshot, or the error of a failed poll."""
    raw = path.read_bytes()
    whole = json.loads(raw)
    parts = whole if isinstance(whole, list) else [whole, *(whole.values() if isinstance(whole, dict) else ())]
    for body in (raw, page_of(*parts)):
        through(body)


def through(raw: bytes) -> None:
    try:
        page = decode_page(raw)
    except BadPage:
        return
    for target in (Target(source="acme"), Target(source="acme", extension_id="101")):
        shown = snapshot(target, [page], at(0))
        assert all(one.session_id and one.extension_id and one.started_at for one in shown.observations)


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=5)
    | st.sampled_from(["Voice", "Inbound", "In Progress", "2026-03-02T09:00:00Z"]),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(["id", "legs", "from", "extension", "startTime", "name"]), inner, max_size=4)
    ),
    max_leaves=8,
)


@given(st.binary(max_size=200))
@example(b'{"records":[{"id":"\\ud800"}]}')
@settings(max_examples=tries(100, 5000))
def test_any_bytes(raw: bytes) -> None:
    """Whatever comes, it is a page or a bad page."""
    through(raw)


@given(st.integers(0, len(SEED) - 1), st.binary(max_size=6), st.integers(0, 40))
@settings(max_examples=tries(100, 5000))
def test_a_damaged_recording(position: int, put: bytes, cut: int) -> None:
    """A recorded page with a piece cut out and another put in."""
    through(SEED[:position] + put + SEED[position + cut :])


@given(
    st.dictionaries(
        st.sampled_from(
            [
                *record(),
                "uri",
                "result",
                "reason",
                "legs",
                "from",
                "to",
                "extension",
                "finished",
                "durationMs",
                "telephonySessionId",
            ]
        ),
        json_values,
        max_size=6,
    )
)
@settings(suppress_health_check=[HealthCheck.too_slow])  # on a busy machine
def test_a_record_with_anything_in_its_fields(fields: dict[str, Any]) -> None:
    """Each field may hold anything: a observation, or a bad record with a name."""
    page = decode_page(json.dumps({"records": [{**record(), **fields}]}).encode())
    assert len(page.records) + len(page.bad) == 1
    observations_of(page, Target(source="acme"))


def test_damaged_pages_by_the_thousand() -> None:
    """Pieces that hurt, anywhere in a page: good or bad, never another error; some of both."""
    assert 0 < fuzz_bytes.play(1000, 1) < 1000
