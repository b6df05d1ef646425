"""What a probe is asked and what it answers: whether a remote side is reachable, before anybody relies on it."""

from typing import Literal

from msgspec import Struct

from callcast.ports.clock import Clock

# `unasked`: there is nothing to ask, or nobody knows how.
Status = Literal["good", "warning", "failed", "unasked"]


class ConnectivityRequest(Struct, frozen=True, kw_only=True):
    """One question to a sink's remote side, asked by `callcast check --online`.

    name: of the sink. send: a person allowed that something is sent which is no event; else nothing may be.
    """

    name: str
    version: str
    clock: Clock
    send: bool = False


class ConnectivityResult(Struct, frozen=True):
    """What came of it. `said` is a sentence for people, `remedy` what to do about trouble; neither holds a secret.

    about: what was asked, in a word, where one remote side is asked several things.
    """

    status: Status
    said: str
    remedy: str = ""
    about: str = ""
