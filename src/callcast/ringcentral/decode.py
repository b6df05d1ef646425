"""Bytes of an active-calls or call-log page -> typed records. Pure.

Only the fields that are used are decoded. A record without a required field is bad: left out and reported.
An optional field of the wrong type is treated as absent and reported; it never costs the call.
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

# No call lasts longer, and none was made in another age; beyond, sums would leave the calendar.
_DAYS_MAX = 366
_EARLIEST = datetime(1970, 1, 1, tzinfo=UTC)
_LATEST = datetime(3000, 1, 1, tzinfo=UTC)

_Text = Annotated[str, Meta(min_length=1)]
_DurationS = Annotated[int, Meta(ge=0, le=_DAYS_MAX * 24 * 3600)]
_DurationMs = Annotated[int, Meta(ge=0, le=_DAYS_MAX * 24 * 3600 * 1000)]

_MALFORMED = (ValueError, RecursionError, OverflowError)


class BadPage(Exception):
    """The answer is no page of records: not JSON, not an object, without `records`, or with a torn navigation.

    A look that meets one has failed. The message says what is wrong, never what the page holds.
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
    """The fields of a call-log record that are used, as the platform names and spells them."""

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
    """One record as it stands in a page, and what was read of it.

    account_id: of the page, for a record that does not tell its own.
    shown: None where the record is bad; then bad is the field that spoiled it, and bad_id tells it from other bad
        ones, also when it comes again: a digest.
    bad_fields: names of optional fields that had the wrong type and were treated as absent.
    unknown: words that no table of ours holds, as (field, word).
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
    """One page, decoded.

    next_page: the address of the page after this one, None on the last.
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
    """A record that cannot be used; the argument is the name of the field."""


_envelope = msgspec.json.Decoder(_Envelope)
_record = msgspec.json.Decoder(Record)
_anything = msgspec.json.Decoder()


def decode_page(
    raw: bytes, show: Callable[[Record, str | None], T], known: Mapping[bytes, Row[T]] | None = None
) -> Page[T]:
    """Decode one page. Raises BadPage, and nothing else, whatever the bytes are.

    show: what to keep of a record, given with the page's account id. Called at once, while the record lies in the
        processor's cache, and so that not all records are held at a time.
    known: rows of an earlier page by their bytes. A list hardly changes from look to look: what stands in it as it
        did is not read again.
    """
    envelope = _open(raw)
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
    """The numeric account id in an address of the platform."""
    found = _ACCOUNT.search(uri) if isinstance(uri, str) else None
    return found[1] if found else None


def _open(raw: bytes) -> _Envelope:
    try:
        return _envelope.decode(raw)
    except msgspec.ValidationError as error:
        raise BadPage(f"not a page of records: {error}") from None
    except _MALFORMED:
        return _open_mended(raw)


def _open_mended(raw: bytes) -> _Envelope:
    """Half a surrogate pair (a name cut in the middle of an emoji) is bad text, not a bad page."""
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
        record = _decoded(raw) or _read_forgiving(raw, bad_fields)
    except _Bad as reason:
        return Row(raw=raw, account_id=account_id, bad=str(reason), bad_id=_id_of_bad(raw))
    return Row(
        raw=raw,
        account_id=account_id,
        record_id=record.id,
        shown=show(record, account_id),
        bad_fields=tuple(bad_fields),
        unknown=() if _is_familiar(record) else tuple(_unknown_words(record)),
    )


def _decoded(raw: bytes) -> Record | None:
    try:
        record = _record.decode(raw)
    except _MALFORMED:
        return None
    return record if _sound(record) else None


def _sound(record: Record) -> bool:
    """True when every time is UTC and of this age, as almost always: then the record needs no second look."""
    if not _in_utc(record.start_time):
        return False
    for leg in record.legs or ():  # noqa: SIM110 - a generator would take as long again as all of this
        if leg.start_time is not None and not _in_utc(leg.start_time):
            return False
    return True


def _in_utc(at: datetime) -> bool:
    return at.tzinfo is UTC and _EARLIEST <= at < _LATEST


def _read_forgiving(raw: bytes, bad_fields: list[str]) -> Record:
    """Field by field: a required one that does not fit spoils the record, another is left out."""
    try:
        fields = _anything.decode(raw.decode("utf-8", "replace").encode())
    except _MALFORMED:
        raise _Bad("record") from None
    if not isinstance(fields, dict):
        raise _Bad("record")
    return _build(Record, fields, bad_fields)


def _id_of_bad(raw: bytes) -> str:
    """Its ids, as far as it has any: the rest of it may change from look to look."""
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


def _is_familiar(record: Record) -> bool:
    """True when every word is spelled as in the tables, as almost always."""
    if record.type not in _TYPES or record.delegation_type not in _DELEGATIONS or not _speaks_plainly(record):
        return False
    for leg in record.legs or ():  # noqa: SIM110
        if leg.leg_type not in _LEG_TYPES or not _speaks_plainly(leg):
            return False
    return True


def _speaks_plainly(one: Record | RecordLeg) -> bool:
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
