"""The fields of a record that a script uses, typed, and the query that asks for them."""

from msgspec import Struct

QUERY = "?view=Detailed&type=Voice&perPage=1000"


class Side(Struct, rename="camel", gc=False):
    phone_number: str | None = None
    name: str | None = None
    extension_number: str | None = None


class Leg(Struct, gc=False):
    reason: str | None = None


class Owner(Struct, gc=False):
    id: int


class Record(Struct, rename="camel", gc=False):
    telephony_session_id: str
    start_time: str
    direction: str
    result: str
    extension: Owner
    from_: Side | None = None
    to: Side | None = None
    duration: int | None = None
    legs: list[Leg] = []


class Page(Struct, gc=False):
    records: list[Record]
