"""The keys of every sink that may speak TLS."""

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from callcast.settings.secret import Keyring, stamp_of
from callcast.sinks.webhook import Settings
from tests.integration.sinks.certificates import Certificates


def settings(folder: Path, **keys: Any) -> Settings:
    return Settings.model_validate({"type": "webhook", "url": "https://h/"} | keys, context=Keyring({}, folder))


def test_a_relative_path_starts_from_the_configurations_folder(certificates: Certificates) -> None:
    """As for secrets: the folder of the file, wherever the program was started."""
    folder = Path(certificates.ca).parent
    read = settings(folder, tls_ca="ca.pem", tls_cert="client.pem", tls_key="client.key")
    assert (read.tls_ca, read.tls_cert, read.tls_key) == (certificates.ca, certificates.client, certificates.client_key)
    assert read.tls_context().get_ca_certs()[0]["subject"] == ((("commonName", "Test CA"),),)


def test_a_key_that_does_not_match_is_found_at_once(certificates: Certificates) -> None:
    """Key and certificate are tried together when the configuration is read; a missing key too."""
    folder = Path(certificates.ca).parent
    for keys in ({"tls_key": "server.key"}, {}):
        with pytest.raises(ValidationError, match="key and certificate do not match"):
            settings(folder, tls_cert="client.pem", **keys)


def test_a_file_without_a_certificate_is_found_at_once(tmp_path: Path) -> None:
    """A file that holds something else, and a folder."""
    (tmp_path / "ca.pem").write_text("hello")
    with pytest.raises(ValidationError, match="not PEM"):
        settings(tmp_path, tls_ca="ca.pem")
    with pytest.raises(ValidationError):
        settings(tmp_path, tls_ca=".")


def test_the_service_follows_the_files(certificates: Certificates, tmp_path: Path) -> None:
    """Each file is listed with a stamp that differs once the file was replaced."""
    ca = tmp_path / "ca.pem"
    ca.write_bytes(Path(certificates.ca).read_bytes())
    keyring = Keyring({}, tmp_path)
    keys = {"tls_ca": "ca.pem", "tls_cert": certificates.client, "tls_key": certificates.client_key}
    Settings.model_validate({"type": "webhook", "url": "https://h/"} | keys, context=keyring)
    assert keyring.files.keys() == {ca, Path(certificates.client), Path(certificates.client_key)}
    before = keyring.files[ca]
    (tmp_path / "new.pem").write_bytes(ca.read_bytes())
    (tmp_path / "new.pem").replace(ca)
    assert stamp_of(ca) not in (before, ())
