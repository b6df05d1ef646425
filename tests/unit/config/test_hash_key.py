"""The key of hashed numbers: generated once, stored whole, only if numbers are hashed, and never empty."""

import resource
import stat
from pathlib import Path

import pytest
import structlog

from callcast.config import Settings, load
from callcast.config.hash_key import hash_key
from callcast.ports.outbox import OutboxUnavailable

CONFIG = """
[service]
data_dir = "{data}"
{service}
[sources.acme]
client_id = "x"
client_secret = "y"
jwt = "z"
[sinks.lines]
type = "stdout"
{sink}
"""


def settings(folder: Path, *, service: str = "", sink: str = "") -> Settings:
    path = folder / "callcast.toml"
    path.write_text(CONFIG.format(data=folder, service=service, sink=sink))
    return load(path, {})


@pytest.mark.parametrize("where", ["service", "sink"])
def test_made_once_for_this_user_alone(tmp_path: Path, where: str) -> None:
    """The same key after a restart, in a file that only its owner can read."""
    hashing = settings(tmp_path, **{where: 'numbers = "hash"'})
    key = hash_key(hashing)
    assert len(key) == 64
    assert hash_key(hashing) == key
    assert stat.S_IMODE((tmp_path / "hash.key").stat().st_mode) == 0o600
    assert not (tmp_path / "hash.key.new").exists()


def test_no_one_hashes(tmp_path: Path) -> None:
    """Then there is no key, and no file."""
    assert hash_key(settings(tmp_path)) == b""
    assert not (tmp_path / "hash.key").exists()


def test_a_configured_one_needs_no_file(tmp_path: Path) -> None:
    """`hash_key` takes precedence."""
    assert hash_key(settings(tmp_path, service='numbers = "hash"\nhash_key = "geheim"')) == b"geheim"
    assert not (tmp_path / "hash.key").exists()


def test_a_full_disk_leaves_no_half_key(tmp_path: Path) -> None:
    """It is reported, and as soon as there is room a whole key is stored."""
    hashing = settings(tmp_path, sink='numbers = "hash"')
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, before[1]))
    try:
        with pytest.raises(OutboxUnavailable, match=r"hash\.key cannot be created .*free space"):
            hash_key(hashing)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not (tmp_path / "hash.key").exists()
    assert len(hash_key(hashing)) == 64


def test_an_empty_key_is_refused(tmp_path: Path) -> None:
    """Numbers hashed with it could be guessed; it is not replaced silently either, since all hashes would change."""
    (tmp_path / "hash.key").write_bytes(b"\n")
    with pytest.raises(OutboxUnavailable, match="is empty"):
        hash_key(settings(tmp_path, sink='numbers = "hash"'))


def test_a_deleted_key_is_written_again(tmp_path: Path) -> None:
    """At a reload of a running service the key stays the same, and a log line reports it."""
    hashing = settings(tmp_path, sink='numbers = "hash"')
    key = hash_key(hashing)
    (tmp_path / "hash.key").unlink()
    with structlog.testing.capture_logs() as logged:
        assert hash_key(hashing, key) == key
        assert hash_key(hashing, key) == key
    assert (tmp_path / "hash.key").read_bytes() == key
    assert [line["event"] for line in logged] == ["hash_key_restored"]


def test_a_changed_key_is_logged(tmp_path: Path) -> None:
    """Then the hashes of all numbers change, which may not be intended."""
    hashing = settings(tmp_path, sink='numbers = "hash"')
    key = hash_key(hashing)
    (tmp_path / "hash.key").write_bytes(b"another")
    with structlog.testing.capture_logs() as logged:
        assert hash_key(hashing, key) == b"another"
    assert [line["event"] for line in logged] == ["hash_key_changed"]
