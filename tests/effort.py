"""How much the tests that try at random try: little each time, much in `make fuzz`, which sets THOROUGH=1."""

import os

THOROUGH = os.environ.get("THOROUGH") == "1"


def tries(quick: int, thorough: int) -> int:
    return thorough if THOROUGH else quick
