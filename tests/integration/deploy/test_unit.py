"""The systemd unit: understood wholly, hardened, and with nothing that the service cannot bear."""

import ctypes
import re
import subprocess
import sys

import pytest

from tests.integration.deploy.tools import DEPLOY, need, run_tool

UNIT = DEPLOY / "callcast.service"
PR_SET_MDWE, REFUSE_EXEC_GAIN = 65, 1
EXPOSURE_MAX = 1.2


def settings() -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for key, value in re.findall(r"^(\w+)=(.*)$", UNIT.read_text(), re.MULTILINE):
        found.setdefault(key, []).append(value)
    return found


def test_the_units_exposure_is_at_most_1_2() -> None:
    """As systemd itself reckons it, without the unit being installed."""
    output = run_tool(need("systemd-analyze", "systemd"), "security", "--offline=true", UNIT)
    exposure = re.search(r"Overall exposure level for callcast\.service: ([0-9.]+)", output)
    assert exposure is not None, output
    assert float(exposure[1]) <= EXPOSURE_MAX, output


def test_systemd_understands_every_line() -> None:
    """Nothing is reported but that the program is not installed here."""
    command = [need("systemd-analyze", "systemd"), "verify", "--man=no", str(UNIT)]
    output = subprocess.run(command, capture_output=True, text=True).stderr
    complaints = [line for line in output.splitlines() if "callcast.service" in line and "not executable" not in line]
    assert complaints == []


def test_systemd_watches_the_service_and_brings_it_back() -> None:
    """Type=notify with a watchdog, restarted whatever ended it, except for a wrong configuration."""
    unit = settings()
    assert unit["Type"] == ["notify"]
    assert int(unit["WatchdogSec"][0]) >= 30
    assert unit["Restart"] == ["always"]
    assert "78" in unit["RestartPreventExitStatus"][0].split()
    assert unit["DynamicUser"] == ["yes"]
    assert unit["StateDirectory"] == ["callcast"]
    assert [one.partition(":")[0] for one in unit["LoadCredential"]] == ["client_secret", "jwt"]


def test_the_process_metrics_stay_readable() -> None:
    """ProcSubset=pid would hide /proc/stat, without which the process collector gives nothing."""
    assert "ProcSubset" not in settings()


def test_the_service_bears_memory_that_is_never_writable_and_executable() -> None:
    """MemoryDenyWriteExecute, here by the kernel's own switch for it; the whole service with the page and a sink."""

    def deny() -> None:
        if ctypes.CDLL(None).prctl(PR_SET_MDWE, REFUSE_EXEC_GAIN, 0, 0, 0) != 0:
            raise OSError("this kernel has no PR_SET_MDWE")

    command = [sys.executable, "-m", "callcast", "demo", "--for", "2"]
    try:
        done = subprocess.run(command, preexec_fn=deny, capture_output=True, text=True, timeout=60)
    except subprocess.SubprocessError:
        pytest.skip("this kernel has no PR_SET_MDWE")
    assert done.returncode == 0, done.stderr
