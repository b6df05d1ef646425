"""`callcast` on a machine that can be suspended.

    python -m tests.system.suspended run --config CONFIG

`CALLCAST_TEST_SUSPENDED` names a file that says for how many seconds the machine has been suspended so far. A real
suspend shows in nothing but the clock that counts it.
"""

import os
import time
from pathlib import Path

from callcast.__main__ import main

_file = Path(os.environ["CALLCAST_TEST_SUSPENDED"])
_real = time.clock_gettime


def _clock_gettime(clock: int) -> float:
    return _real(clock) + (float(_file.read_text() or 0) if clock == time.CLOCK_BOOTTIME else 0.0)


time.clock_gettime = _clock_gettime

if __name__ == "__main__":
    main()
