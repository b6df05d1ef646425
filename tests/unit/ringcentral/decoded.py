"""A page as the tests look into it: its records, what is odd about them, and what they show of a target."""

from collections.abc import Iterable
from datetime import UTC, datetime

from callcast.calls.model import CallObservation, Snapshot, Target
from callcast.ringcentral import decode as page
from callcast.ringcentral import interpret as records
from callcast.ringcentral.decode import Record


class Decoded:
    def __init__(self, raw: bytes) -> None:
        found = page.decode_page(raw, lambda record, _: record)
        self.raw = raw
        self.records: tuple[Record, ...] = tuple(row.shown for row in found.rows if row.shown is not None)
        self.bad = tuple(row.bad for row in found.rows if row.shown is None)
        self.bad_fields = tuple(field for row in found.rows for field in row.bad_fields)
        self.unknown = tuple(dict.fromkeys(word for row in found.rows for word in row.unknown))
        self.next_page = found.next_page


def decode_page(raw: bytes) -> Decoded:
    return Decoded(raw)


def snapshot(target: Target, pages: Iterable[Decoded], taken_at: datetime) -> Snapshot:
    """As the client makes it: each page read for the target."""
    return records.snapshot(target, [records.read_page(one.raw, target) for one in pages], taken_at)


def observations_of(one: Decoded, target: Target) -> tuple[CallObservation, ...]:
    return snapshot(target, [one], datetime(2021, 1, 1, tzinfo=UTC)).observations
