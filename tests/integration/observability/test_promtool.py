"""The metrics, checked by the linter of Prometheus."""

import os
import shutil
import subprocess

import pytest

from callcast.calls.model import ChangeSet
from tests.builders import call
from tests.unit.observability.test_metrics import Setup, setup

__all__ = ["setup"]  # a fixture


def test_promtool_finds_nothing(setup: Setup) -> None:
    """Neither in names nor in types nor in help texts."""
    promtool = shutil.which("promtool")
    if promtool is None:
        if os.environ.get("CI") == "true":
            pytest.fail("no promtool on this machine: install prometheus")
        pytest.skip("no promtool on this machine: install prometheus")
    setup.live_calls.apply(ChangeSet(calls=(call(),)))
    checked = subprocess.run(
        [promtool, "check", "metrics"], input=setup.metrics.exposition(), capture_output=True, check=False
    )
    assert (checked.returncode, checked.stdout, checked.stderr) == (0, b"", b"")
