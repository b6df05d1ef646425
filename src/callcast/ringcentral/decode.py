"""Bytes of an active-calls or call-log page -> typed records. Pure.

Only the fields that are used are decoded. A record without a valid required field is skipped and reported. An optional
field of the wrong type is treated as absent and reported; the call is not lost.
"""

import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Annotated, Any, Generic, TypeVar

import msgspec
from msgspec import Meta, Raw, Struct

from callcast.ringcentral.vocabulary import KNOWN, SPELLED

_ACCOUNT = re.compile(r"/account/(\d+)(?:/|$)")
T = TypeVar("T")
_S = TypeVar("_S", bound=Struct)

# No call lasts longer, and none was made at another time; beyond, sums would exceed the range of datetime.
_DAYS_MAX = 366
_EARLIEST = datetime(1970, 1, 1, tzinfo=UTC)
_LATEST = datetime(3000, 1, 1, tzinfo=UTC)

_Text = Annotated[str, Meta(min_length=1)]
_DurationS = Annotated[int, Meta(ge=0, le=_DAYS_MAX * 24 * 3600)]
_DurationMs = Annotated[int, Meta(ge=0, le=_DAYS_MAX * 24 * 3600 * 1000)]

_MALFORMED = (ValueError, RecursionError, OverflowError)


class BadPage(Exception):
    """The answer is not a page of records: not JSON, not an object, without `records`, or with a damaged navigation.

    The message says what is wrong, but quotes nothing from the page.
    """


class Side(Struct, rename="camel", frozen=True, gc=False):
    phone_number: str | None = None
    extension_id: int | str | None = None
    extension_number: str | None = None
    name: str | None = None
    location: str | None = None


class Owner(Struct, rename="camel", frozen=True, gc=False):
    id: int | str | None = None


class RecordLeg(Struct, rename="camel", frozen=True, gc=False):
    start_time: datetime | None = None
    duration: _DurationS | None = None
    duration_ms: _DurationMs | None = None
    direction: str | None = None
    action: str | None = None
    result: str | None = None
    reason: str | None = None
    leg_type: str | None = None
    master: bool | None = None
    extension: Owner | None = None
    from_: Side | None = None
    to: Side | None = None


class Record(Struct, rename="camel", frozen=True, gc=False):
    """The fields of a call-log record that are used."""

    id: _Text
    session_id: _Text
    start_time: datetime
    type: _Text
    direction: _Text
    action: _Text
    uri: str | None = None
    telephony_session_id: str | None = None
    duration: _DurationS | None = None
    duration_ms: _DurationMs | None = None
    result: str | None = None
    reason: str | None = None
    delegation_type: str | None = None
    finished: bool | None = None
    extension: Owner | None = None
    from_: Side | None = None
    to: Side | None = None
    legs: list[RecordLeg] | None = None


class Row(Struct, Generic[T], frozen=True, kw_only=True, gc=False):
    """One record of a page, and what was read of it.

    account_id: of the page, for a record that does not contain its own.
    shown: None for a bad record; then `bad` is the invalid field, and `bad_id` a digest that identifies the record in
        later polls.
    bad_fields: names of optional fields that had the wrong type and were treated as absent.
    unknown: words that are not in the vocabulary, as (field, word).
    """

    raw: bytes
    account_id: str | None
    record_id: str = ""
    shown: T | None = None
    bad: str = ""
    bad_id: str = ""
    bad_fields: tuple[str, ...] = ()
    unknown: tuple[tuple[str, str], ...] = ()


class Page(Struct, Generic[T], frozen=True, kw_only=True):
    """A decoded page.

    next_page: the URL of the next page; None on the last.
    fresh: the rows that were not known before.
    """

    rows: Sequence[Row[T]]
    fresh: Sequence[Row[T]]
    next_page: str | None


class _Link(Struct):
    uri: str


class _Navigation(Struct, rename="camel"):
    next_page: _Link | None = None


class _Envelope(Struct):
    records: list[Raw]
    uri: Any = None
    navigation: _Navigation | None = None


class _Bad(Exception):
    """A record that cannot be used. The argument is the name of the invalid field."""


_envelope = msgspec.json.Decoder(_Envelope)
_record = msgspec.json.Decoder(Record)
_anything = msgspec.json.Decoder()


def decode_page(
    raw: bytes, show: Callable[[Record, str | None], T], known: Mapping[bytes, Row[T]] | None = None
) -> Page[T]:
    """Decode one page. Raises BadPage, and nothing else, whatever the bytes are.

    show: returns what to keep of a record, given with the page's account id. Called for each record as it is decoded,
        so that not all records are in memory at once.
    known: rows of an earlier page by their bytes. A list changes little from poll to poll: a record whose bytes are the
        same is not decoded again.
    """
    envelope = _decode_envelope(raw)
    account_id = account_in(envelope.uri)
    rows: list[Row[T]] = []
    fresh: list[Row[T]] = []
    for text in map(bytes, envelope.records):
        row = known.get(text) if known else None
        if row is None or row.account_id != account_id:
            row = _read(text, account_id, show)
            fresh.append(row)
        rows.append(row)
    return Page(rows=rows, fresh=fresh, next_page=_next_page(envelope))


def _next_page(envelope: _Envelope) -> str | None:
    link = envelope.navigation.next_page if envelope.navigation else None
    return link.uri if link else None


def account_in(uri: object) -> str | None:
    """Return the numeric account id in a URL of the platform."""
    found = _ACCOUNT.search(uri) if isinstance(uri, str) else None
    return found[1] if found else None


def _decode_envelope(raw: bytes) -> _Envelope:
    try:
        return _envelope.decode(raw)
    except msgspec.ValidationError as error:
        raise BadPage(f"not a page of records: {error}") from None
    except _MALFORMED:
        return _decode_mended(raw)


def _decode_mended(raw: bytes) -> _Envelope:
    """Decode a page with half a surrogate pair (a name cut in the middle of an emoji), which is bad text only."""
    try:
        mended = json.dumps(json.loads(raw.decode("utf-8", "replace")), ensure_ascii=False)
        return _envelope.decode(mended.encode("utf-8", "replace"))
    except msgspec.ValidationError as error:
        raise BadPage(f"not a page of records: {error}") from None
    except _MALFORMED:
        raise BadPage("not JSON") from None


def _read(raw: bytes, account_id: str | None, show: Callable[[Record, str | None], T]) -> Row[T]:
    bad_fields: list[str] = []
    try:
        record = _decode(raw) or _decode_leniently(raw, bad_fields)
    except _Bad as reason:
        return Row(raw=raw, account_id=account_id, bad=str(reason), bad_id=_id_of_bad(raw))
    return Row(
        raw=raw,
        account_id=account_id,
        record_id=record.id,
        shown=show(record, account_id),
        bad_fields=tuple(bad_fields),
        unknown=() if _has_known_words(record) else tuple(_unknown_words(record)),
    )


def _decode(raw: bytes) -> Record | None:
    try:
        record = _record.decode(raw)
    except _MALFORMED:
        return None
    return record if _has_usual_times(record) else None


def _has_usual_times(record: Record) -> bool:
    """Whether every time is in UTC and plausible, as in almost every record."""
    if not _in_utc(record.start_time):
        return False
    for leg in record.legs or ():  # noqa: SIM110 - a generator would take as long again as all of this
        if leg.start_time is not None and not _in_utc(leg.start_time):
            return False
    return True


def _in_utc(at: datetime) -> bool:
    return at.tzinfo is UTC and _EARLIEST <= at < _LATEST


def _decode_leniently(raw: bytes, bad_fields: list[str]) -> Record:
    """Decode field by field. Raises _Bad for an invalid required field; any other is left out."""
    try:
        fields = _anything.decode(raw.decode("utf-8", "replace").encode())
    except _MALFORMED:
        raise _Bad("record") from None
    if not isinstance(fields, dict):
        raise _Bad("record")
    return _build(Record, fields, bad_fields)


def _id_of_bad(raw: bytes) -> str:
    """Return a digest of its ids, if it has any, because the rest of it may change from poll to poll."""
    try:
        fields = _anything.decode(raw)
        ids = [fields.get(name) for name in ("id", "sessionId", "telephonySessionId")]
        raw = repr(ids).encode() if any(ids) else raw
    except (*_MALFORMED, AttributeError):
        pass
    return hashlib.blake2b(raw, digest_size=12).hexdigest()


def _build(struct: type[_S], fields: dict[str, Any], bad_fields: list[str]) -> _S:
    values: dict[str, Any] = {}
    for info in _FIELDS[struct]:
        name = info.encode_name
        if fields.get(name) is None:
            if info.required:
                raise _Bad(name)
            continue
        try:
            values[info.name] = _value(info, fields[name], bad_fields)
        except _MALFORMED:
            if info.required:
                raise _Bad(name) from None
            bad_fields.append(name)
    return struct(**values)


def _value(info: msgspec.structs.FieldInfo, given: Any, bad_fields: list[str]) -> Any:
    if info.name == "legs" and isinstance(given, list):
        return [_build(RecordLeg, leg, bad_fields) for leg in given if isinstance(leg, dict)]
    for nested, names in _NESTED.items():
        if info.name in names and isinstance(given, dict):
            return _build(nested, given, bad_fields)
    value = msgspec.convert(given, info.type)
    if isinstance(value, datetime):
        value = value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)
        if not _in_utc(value):
            raise ValueError(info.name)
    return value


_FIELDS: dict[type[Struct], tuple[msgspec.structs.FieldInfo, ...]] = {
    struct: msgspec.structs.fields(struct) for struct in (Record, RecordLeg, Side, Owner)
}

_NESTED: dict[type[Struct], tuple[str, ...]] = {Side: ("from_", "to"), Owner: ("extension",)}


def _has_known_words(record: Record) -> bool:
    """Whether every word is spelled as in the vocabulary, as in almost every record."""
    if record.type not in _TYPES or record.delegation_type not in _DELEGATIONS or not _has_known_result(record):
        return False
    for leg in record.legs or ():  # noqa: SIM110
        if leg.leg_type not in _LEG_TYPES or not _has_known_result(leg):
            return False
    return True


def _has_known_result(one: Record | RecordLeg) -> bool:
    return one.direction in _DIRECTIONS and one.action in _ACTIONS and one.result in _RESULTS and one.reason in _REASONS


def _unknown_words(record: Record) -> Iterator[tuple[str, str]]:
    legs = record.legs or ()
    both: tuple[Record | RecordLeg, ...] = (record, *legs)
    used: dict[str, set[str | None]] = {
        "type": {record.type},
        "direction": {one.direction for one in both},
        "action": {one.action for one in both},
        "result": {one.result for one in both},
        "reason": {one.reason for one in both},
        "legType": {leg.leg_type for leg in legs},
        "delegationType": {record.delegation_type},
    }
    for name, words in used.items():
        yield from ((name, word) for word in sorted(filter(None, words)) if word.lower() not in KNOWN[name])


def _spelled(name: str) -> frozenset[str | None]:
    return frozenset((None, *SPELLED[name]))


_TYPES, _DIRECTIONS, _ACTIONS = _spelled("type"), _spelled("direction"), _spelled("action")
_RESULTS, _REASONS = _spelled("result"), _spelled("reason")
_LEG_TYPES, _DELEGATIONS = _spelled("legType"), _spelled("delegationType")
