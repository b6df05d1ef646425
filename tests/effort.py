"""The number of random examples: few in a normal run, many in `make fuzz`, which sets THOROUGH=1."""

import os

THOROUGH = os.environ.get("THOROUGH") == "1"


def tries(quick: int, thorough: int) -> int:
    return thorough if THOROUGH else quick
