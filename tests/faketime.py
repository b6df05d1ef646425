"""The wall clock of a process, set by the test with libfaketime."""

import os
from collections.abc import Mapping
from pathlib import Path

import pytest

_PLACES = ("lib/*/faketime/libfaketimeMT.so.1", "lib*/faketime/libfaketimeMT.so.1")


def library() -> Path | None:
    return next((found for place in _PLACES for found in Path("/usr").glob(place)), None)


class WallClock:
    """Changes the time of day of a process, but not the speed of its clocks."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / "faketime"
        self.set(0)

    def set(self, ahead_s: float) -> None:
        """Set how far the clock is ahead; a negative value is behind."""
        new = self._file.with_suffix(".new")
        new.write_text(f"{ahead_s:+g}\n")
        new.rename(self._file)

    def environ(self, *, every_s: int = 0) -> Mapping[str, str]:
        """The environment of the process. every_s: how often it reads the setting; 0: at each call."""
        found = library()
        if found is None:
            say = pytest.fail if os.environ.get("CI") == "true" else pytest.skip
            say("no libfaketime on this machine: install faketime")
        return {
            "LD_PRELOAD": str(found),
            "FAKETIME_TIMESTAMP_FILE": str(self._file),
            **({"FAKETIME_CACHE_DURATION": str(every_s)} if every_s else {"FAKETIME_NO_CACHE": "1"}),
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        }
