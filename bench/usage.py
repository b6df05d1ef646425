"""What a process uses, by the operating system's own accounting, and how fast the disk is."""

import os
import statistics
import time
from pathlib import Path


def cpu_s(pid: int) -> float:
    """User and system time of all its threads, also of those that have ended, to the nanosecond.

    The number of a process's own clock is made as `clock_getcpuclockid(3)` makes it on Linux.
    """
    return time.clock_gettime((~pid << 3) | 2)


def user_and_system_s(pid: int) -> tuple[float, float]:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    ticks_per_s = os.sysconf("SC_CLK_TCK")
    return int(fields[11]) / ticks_per_s, int(fields[12]) / ticks_per_s


def resident_mib(pid: int, *, peak: bool = False) -> float:
    word = "VmHWM:" if peak else "VmRSS:"
    status = Path(f"/proc/{pid}/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith(word)) / 1024


def fsync_ms(directory: Path) -> float:
    """Median of one appended page made durable: the floor of every commit."""
    taken = []
    file = os.open(directory / "fsync", os.O_CREAT | os.O_WRONLY)
    for _ in range(200):
        began = time.perf_counter()
        os.write(file, b"x" * 4096)
        os.fdatasync(file)
        taken.append(time.perf_counter() - began)
    os.close(file)
    return statistics.median(taken) * 1e3
