"""Bytes of an active-calls or call-log page -> typed records. Pure.

Only the fields that are used are decoded. A record without a required field is bad: left out and reported.
An optional field of the wrong type is treated as absent and reported; it never costs the call.
"""

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from typing import Annotated, Any, TypeVar

import msgspec
from msgspec import Meta, Raw, Struct

from callcast.ringcentral.words import KNOWN

_ACCOUNT = re.compile(r"/account/(\d+)(?:/|$)")
_T = TypeVar("_T", bound=Struct)

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


class Page(Struct, frozen=True, kw_only=True):
    """One page, decoded.

    next_page: the address of the page after this one, None on the last.
    bad: for each record that was left out, the name of the field that spoiled it.
    bad_ids: for each of those, what tells it from others, also when it comes again: a digest.
    bad_fields: names of optional fields that had the wrong type and were treated as absent.
    unknown: words that no table of ours holds, as (field, word).
    """

    records: tuple[Record, ...]
    account_id: str | None = None
    next_page: str | None = None
    bad: tuple[str, ...] = ()
    bad_ids: tuple[str, ...] = ()
    bad_fields: tuple[str, ...] = ()
    unknown: tuple[tuple[str, str], ...] = ()


class _Link(Struct):
    uri: str


class _Navigation(Struct, rename="camel"):
    next_page: _Link | None = None


class _Envelope(Struct):
    records: list[Raw]
    uri: Any = None
    navigation: _Navigation | None = None


class _GoodEnvelope(Struct):
    records: list[Record]
    uri: Any = None
    navigation: _Navigation | None = None


class _Bad(Exception):
    """A record that cannot be used; the argument is the name of the field."""


_good_envelope = msgspec.json.Decoder(_GoodEnvelope)
_envelope = msgspec.json.Decoder(_Envelope)
_record = msgspec.json.Decoder(Record)
_anything = msgspec.json.Decoder()


def decode_page(raw: bytes) -> Page:
    """Decode one page. Raises BadPage, and nothing else, whatever the bytes are."""
    good = _at_once(raw)
    if good is not None:
        return _page(good, good.records)
    envelope = _open(raw)
    records: list[Record] = []
    bad: list[tuple[str, str]] = []
    bad_fields: list[str] = []
    for raw_record in envelope.records:
        try:
            records.append(_read(raw_record, bad_fields))
        except _Bad as reason:
            bad.append((str(reason), _id_of_bad(raw_record)))
    return _page(envelope, records, bad, bad_fields)


def _page(
    envelope: _Envelope | _GoodEnvelope,
    records: Sequence[Record],
    bad: Sequence[tuple[str, str]] = (),
    fields: Iterable[str] = (),
) -> Page:
    return Page(
        records=tuple(records),
        account_id=account_in(envelope.uri),
        next_page=_next_page(envelope),
        bad=tuple(field for field, _ in bad),
        bad_ids=tuple(one for _, one in bad),
        bad_fields=tuple(fields),
        unknown=tuple(_unknown_words(records)),
    )


def _at_once(raw: bytes) -> _GoodEnvelope | None:
    """The page in which nothing is bad, as almost always: read whole, in less time than record by record."""
    try:
        envelope = _good_envelope.decode(raw)
    except _MALFORMED:
        return None
    return envelope if all(map(_sound, envelope.records)) else None


def _next_page(envelope: _Envelope | _GoodEnvelope) -> str | None:
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


def _read(raw: Raw, bad_fields: list[str]) -> Record:
    try:
        record = _record.decode(raw)
        if _sound(record):
            return record
    except _MALFORMED:
        pass
    return _read_forgiving(raw, bad_fields)


def _sound(record: Record) -> bool:
    """True when every time is UTC and of this age, as almost always: then the record needs no second look."""
    return _in_utc(record.start_time) and all(
        leg.start_time is None or _in_utc(leg.start_time) for leg in record.legs or ()
    )


def _in_utc(at: datetime) -> bool:
    return at.tzinfo is UTC and _EARLIEST <= at < _LATEST


def _read_forgiving(raw: Raw, bad_fields: list[str]) -> Record:
    """Field by field: a required one that does not fit spoils the record, another is left out."""
    try:
        fields = _anything.decode(bytes(raw).decode("utf-8", "replace").encode())
    except _MALFORMED:
        raise _Bad("record") from None
    if not isinstance(fields, dict):
        raise _Bad("record")
    return _build(Record, fields, bad_fields)


def _id_of_bad(raw: Raw) -> str:
    """Its ids, as far as it has any: the rest of it may change from look to look."""
    text = bytes(raw)
    try:
        fields = _anything.decode(text)
        ids = [fields.get(name) for name in ("id", "sessionId", "telephonySessionId")]
        text = repr(ids).encode("utf-8", "replace") if any(ids) else text
    except (*_MALFORMED, AttributeError):
        pass
    return hashlib.blake2b(text, digest_size=12).hexdigest()


def _build(struct: type[_T], fields: dict[str, Any], bad_fields: list[str]) -> _T:
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


def _unknown_words(records: Sequence[Record]) -> Iterator[tuple[str, str]]:
    legs = [leg for record in records if record.legs for leg in record.legs]
    both: tuple[Record | RecordLeg, ...] = (*records, *legs)
    used: dict[str, set[str | None]] = {
        "type": {record.type for record in records},
        "direction": {one.direction for one in both},
        "action": {one.action for one in both},
        "result": {one.result for one in both},
        "reason": {one.reason for one in both},
        "legType": {leg.leg_type for leg in legs},
        "delegationType": {record.delegation_type for record in records},
    }
    for name, words in used.items():
        yield from ((name, word) for word in sorted(filter(None, words)) if word.lower() not in KNOWN[name])
