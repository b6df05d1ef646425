"""Connectivity checks: whether a remote side is reachable, as `callcast check --online` asks it."""

from typing import Literal

from msgspec import Struct

from callcast.ports.clock import Clock

# `unasked`: there is nothing to check, or the sink has no connectivity check.
Status = Literal["good", "warning", "failed", "unasked"]


class ConnectivityRequest(Struct, frozen=True, kw_only=True):
    """A connectivity check of one sink's remote side.

    name: of the sink. send: whether the check may send a test message (`--send`); otherwise it must not send anything.
    """

    name: str
    version: str
    clock: Clock
    send: bool = False


class ConnectivityResult(Struct, frozen=True):
    """The result of a connectivity check.

    detail: what was found, as a sentence. fix: what to do about a failure. Neither may hold a secret.
    about: what was checked, in a word, where one remote side has several checks.
    """

    status: Status
    detail: str
    fix: str = ""
    about: str = ""
