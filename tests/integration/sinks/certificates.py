"""A temporary certificate authority with a server and a client certificate."""

import os
import shutil
import ssl
import subprocess
from pathlib import Path

import pytest
from msgspec import Struct


class Certificates(Struct, frozen=True):
    ca: str
    server: str
    server_key: str
    client: str
    client_key: str

    def of_another(self) -> "Certificates":
        """A certificate of the same authority for another host name."""
        return Certificates(self.ca, self.client, self.client_key, self.client, self.client_key)

    def server_context(self, *, ask_for_client: bool = False, newest: ssl.TLSVersion | None = None) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.server, self.server_key)
        if ask_for_client:
            context.load_verify_locations(self.ca)
            context.verify_mode = ssl.CERT_REQUIRED
        if newest is not None:
            context.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
            context.maximum_version = newest
            context.set_ciphers("ALL:@SECLEVEL=0")
        return context


def make_certificates(folder: Path) -> Certificates:
    if shutil.which("openssl") is None:
        reason = "openssl is not installed"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    folder.mkdir(parents=True, exist_ok=True)
    _openssl(folder, "req", "-x509", *_NEW, "-keyout", "ca.key", "-out", "ca.pem", "-subj", "/CN=Test CA", "-days", "1")
    _signed(folder, "server", "subjectAltName=DNS:localhost,IP:127.0.0.1")
    _signed(folder, "client", "subjectAltName=DNS:callcast")
    names = ("ca.pem", "server.pem", "server.key", "client.pem", "client.key")
    return Certificates(*(str(folder / name) for name in names))


_NEW = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")


def _signed(folder: Path, name: str, extension: str) -> None:
    (folder / "extension").write_text(extension)
    _openssl(folder, "req", *_NEW, "-keyout", f"{name}.key", "-out", f"{name}.csr", "-subj", f"/CN={name}")
    _openssl(
        folder, "x509", "-req", "-in", f"{name}.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial",
        "-out", f"{name}.pem", "-days", "1", "-extfile", "extension",
    )  # fmt: skip


def _openssl(folder: Path, *arguments: str) -> None:
    subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)
