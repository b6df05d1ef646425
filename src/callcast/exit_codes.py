"""The exit codes of all commands."""

from enum import IntEnum


class ExitCode(IntEnum):
    """What a command's exit code means. 69 and 78 are those of sysexits.h."""

    DONE = 0
    BUG = 1
    USAGE = 2
    UNAVAILABLE = 69  # a remote side, the outbox or an address to listen on
    CONFIG = 78
