"""Telemetry that keeps every report, and a client that reports to it."""

from typing import Any

from aiohttp import ClientSession

from callcast.ports.telemetry import Telemetry
from callcast.ringcentral.client import Client
from callcast.ringcentral.settings import SourceSettings
from callcast.ringcentral.sign_in import SignIns
from callcast.settings.secret import Secret
from tests.clock import TurnedClock

SERVER = "https://platform.example.com"
CLIENT_SECRET = "client-secret-9f3a"
JWT = "jwt-assertion-b71c"


class RecordedTelemetry(Telemetry):
    def __init__(self) -> None:
        self.requests: list[tuple[str, str, str | None]] = []
        self.limits: list[tuple[str, int, int, float]] = []
        self.words: list[tuple[str, str]] = []
        self.bad: list[str] = []
        self.bad_records: list[str] = []
        self.notes: dict[str, bytes] = {}

    def answered(self, resource: str, outcome: str, took_s: float, request_id: str | None) -> None:
        assert took_s >= 0
        self.requests.append((resource, outcome, request_id))

    def rate_limit(self, group: str, limit: int, remaining: int, silent_s: float) -> None:
        self.limits.append((group, limit, remaining, silent_s))

    def unknown_word(self, field: str, word: str) -> None:
        self.words.append((field, word))

    def bad_record(self, field: str, record: str) -> None:
        self.bad.append(field)
        self.bad_records.append(record)

    def note(self, name: str, value: bytes) -> None:
        self.notes[name] = value

    def outcomes(self, resource: str) -> list[str]:
        return [outcome for requested, outcome, _ in self.requests if requested == resource]


def make_client(session: ClientSession, clock: TurnedClock, telemetry: RecordedTelemetry, **settings: Any) -> Client:
    given: dict[str, Any] = {
        "server": SERVER,
        "client_id": "client-id",
        "client_secret": Secret(CLIENT_SECRET),
        "jwt": Secret(JWT),
    }
    kept: dict[str, Any] = {
        "session": session,
        "sign_ins": SignIns(clock),
        "clock": clock,
        "telemetry": telemetry,
        "note": telemetry.note,
        "notes": {},
    }
    kept |= {key: settings.pop(key) for key in tuple(settings) if key in kept}
    return Client(SourceSettings.model_construct(**{**given, **settings}), **kept)
