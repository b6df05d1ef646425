"""The load platform as a process: what it answers, and that its ground truth says when."""

import json
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.checker import read_truth
from bench.child import BenchFailed, Child
from bench.records import STEPS, extension_id


@pytest.fixture
def platform() -> Iterator[Child]:
    child = Child("bench.platform", "--targets", "2")
    yield child
    child.close()


def poll(platform: Child, number: int) -> list[str]:
    """The results of the records that the list of this extension holds."""
    path = f"/restapi/v1.0/account/~/extension/{extension_id(number)}/active-calls?view=Detailed"
    with socket.create_connection(("127.0.0.1", platform.hello["port"]), timeout=10) as connection:
        connection.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        head, _, body = connection.recv(65536).partition(b"\r\n\r\n")
        while len(body) < int(head.partition(b"Content-Length: ")[2]):
            body += connection.recv(65536)
    return [record["result"] for record in json.loads(body)["records"]]


def test_a_change_is_shown_by_the_next_poll_and_the_truth_knows_both_moments(platform: Child, tmp_path: Path) -> None:
    """One call at each extension; only one of them is polled."""
    at = platform.ask("burst", count=2)
    assert poll(platform, 0) == ["In Progress"]
    assert platform.ask("shown") == {"shown": 1, "unshown": 1}
    assert platform.ask("save", path=str(tmp_path / "truth")) == 2
    (changed_at, shown_at), (_, never) = read_truth(tmp_path / "truth").values()
    assert at == changed_at <= shown_at
    assert never == 0


def test_bursts_take_the_same_calls_through_all_steps(platform: Child, tmp_path: Path) -> None:
    """Ringing, answered, ended, and then new calls: every step has a key of its own."""
    results = []
    for _ in range(STEPS + 1):
        platform.ask("burst", count=1)
        results += poll(platform, 0)
    platform.ask("save", path=str(tmp_path / "truth"))
    assert results == ["In Progress", "In Progress", "Accepted", "In Progress"]
    assert sorted(read_truth(tmp_path / "truth")) == [0, 1, 2, STEPS]


def test_polls_are_counted_since_the_last_mark(platform: Child) -> None:
    """And those that came too long after the one before."""
    poll(platform, 0)
    poll(platform, 0)
    counted = platform.ask("mark", late_s=0.0)
    assert (counted["polls"], counted["late"]) == (2, 1)
    assert platform.ask("mark", late_s=0.0)["polls"] == 0
    assert platform.ask("least") == 0


def test_anyone_who_is_not_answered_is_told_in_one_line(platform: Child) -> None:
    """The bench ends with a sentence, not with a wait."""
    with pytest.raises(BenchFailed, match=r"bench\.platform did not answer within 0 s"):
        platform.ask("mark", late_s=0.0, timeout_s=0.0)
