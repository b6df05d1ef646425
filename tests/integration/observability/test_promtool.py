"""The metrics as Prometheus' own linter reads them."""

import os
import shutil
import subprocess

import pytest

from callcast.calls.model import ChangeSet
from tests.builders import call
from tests.unit.observability.test_metrics import Comparison, comparison

__all__ = ["comparison"]  # a fixture


def test_promtool_finds_nothing(comparison: Comparison) -> None:
    """Prometheus' own linter has nothing to say about names, types and help texts."""
    promtool = shutil.which("promtool")
    if promtool is None:
        if os.environ.get("CI") == "true":
            pytest.fail("no promtool on this machine: install prometheus")
        pytest.skip("no promtool on this machine: install prometheus")
    comparison.live_calls.apply(ChangeSet(calls=(call(),)))
    checked = subprocess.run(
        [promtool, "check", "metrics"], input=comparison.metrics.exposition(), capture_output=True, check=False
    )
    assert (checked.returncode, checked.stdout, checked.stderr) == (0, b"", b"")
