"""Damaged pages by the million: each is a good page or a bad page, never anything else.

`python -m tests.unit.ringcentral.fuzz_bytes N [SEED]`; the tests do a few thousand.
"""

import json
import sys
from random import Random

from callcast.calls.model import Target
from callcast.ringcentral.interpret import BadPage, read_page, snapshot
from tests.unit.calls.snapshots import at
from tests.unit.ringcentral.test_vocabulary import record

ACCOUNT = Target(source="acme")
EXTENSION = Target(source="acme", extension_id="8")
BODY = json.dumps(
    {
        "uri": "https://x/account/7/active-calls",
        "records": [
            record(
                result="Accepted",
                durationMs=9000,
                telephonySessionId="s-1",
                extension={"id": 7},
                legs=[{"legType": "PstnToSip", "startTime": "2026-03-02T09:00:00Z", "extension": {"id": 8}}, {}],
                **{"from": {"phoneNumber": "+1", "name": "A - B"}, "to": {"extensionNumber": "7"}},
            )
        ],
        "navigation": {"nextPage": {"uri": "y"}},
    }
).encode()
PIECES = [
    b"",
    b"\x00",
    b"\xff",
    b'"',
    b"\\ud800",
    b"\\",
    b"[",
    b"{",
    b"}",
    b"]",
    b",",
    b":",
    b"null",
    b"-1",
    b"1e999",
    b"0",
]
PIECES += [
    b"9" * 30,
    b"true",
    b'"In Progress"',
    b'"3001-01-01T00:00:00Z"',
    b"\xed\xa0\x80",
    b"NaN",
    b"[[[[",
    b'{"id":1}',
]


def damaged(random: Random) -> bytes:
    body = BODY
    for _ in range(random.randrange(1, 4)):
        position = random.randrange(len(body) + 1)
        body = body[:position] + random.choice(PIECES) + body[position + random.choice((0, 0, 1, 1, 2, 9, 40)) :]
    return body


def play(count: int, seed: int) -> int:
    """How many of the damaged pages were still good."""
    random = Random(seed)
    good = 0
    for _ in range(count):
        body = damaged(random)
        try:
            page = read_page(body, ACCOUNT)
        except BadPage:
            continue
        except Exception as error:
            error.add_note(repr(body))
            raise
        good += 1
        snapshot(ACCOUNT, [page], at(0))
        snapshot(EXTENSION, [read_page(body, EXTENSION)], at(0))
    return good


if __name__ == "__main__":
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000
    print(f"{play(rounds, int(sys.argv[2]) if len(sys.argv) > 2 else 0)} of {rounds} damaged pages were still good")
