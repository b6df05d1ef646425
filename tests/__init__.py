"""The tests of callcast, and the paths that they share."""

from pathlib import Path

TESTS = Path(__file__).parent
ROOT = TESTS.parent
