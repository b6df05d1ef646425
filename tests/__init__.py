"""What the tests share: where they lie, and where the project lies."""

from pathlib import Path

TESTS = Path(__file__).parent
ROOT = TESTS.parent
