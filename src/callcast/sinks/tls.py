"""TLS as every sink speaks it: always verified, 1.2 or later, own authorities and client certificates if wanted."""

import hashlib
import ssl
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, Field, PrivateAttr, ValidationInfo, field_validator

from callcast.settings.secret import located
from callcast.sinks import SinkSettings


def _beside_the_configuration(path: str, info: ValidationInfo) -> str:
    return str(located(Path(path), info)) if path else ""


PemPath = Annotated[str, AfterValidator(_beside_the_configuration)]


class TlsSettings(SinkSettings):
    """The keys of a sink that may speak TLS.

    The files are read when the configuration is, so that a fault shows then, and again when the sink is opened.
    Two settings are equal only if their files are, so that a reload takes a renewed certificate up.
    """

    _files: bytes = PrivateAttr(default=b"")

    tls_ca: PemPath = Field(default="", description="PEM file of the certificate authorities that replace the system's")
    tls_cert: PemPath = Field(default="", description="PEM file of a client certificate")
    tls_key: PemPath = Field(
        default="", validate_default=True, description="PEM file of its key, if tls_cert does not contain it"
    )

    @field_validator("tls_ca")
    @classmethod
    def _authorities_can_be_read(cls, path: str) -> str:
        if path:
            _try(path, "", "")
        return path

    @field_validator("tls_key")
    @classmethod
    def _certificate_and_key_fit(cls, key: str, info: ValidationInfo) -> str:
        cert = info.data.get("tls_cert", "")
        if key and not cert:
            raise ValueError("is of no use without tls_cert")
        if cert:
            _try("", cert, key)
        return key

    def model_post_init(self, _context: Any) -> None:
        digest = hashlib.sha256()
        for path in filter(None, (self.tls_ca, self.tls_cert, self.tls_key)):
            with suppress(OSError):
                digest.update(hashlib.sha256(Path(path).read_bytes()).digest())
        self._files = digest.digest()

    def tls_context(self) -> ssl.SSLContext:
        return _context(self.tls_ca, self.tls_cert, self.tls_key)


def _context(ca: str, cert: str, key: str) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=ca or None)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if cert:
        context.load_cert_chain(cert, key or None, password="")
    return context


def _try(ca: str, cert: str, key: str) -> None:
    files = " and ".join(filter(None, (ca, cert, key)))
    try:
        _context(ca, cert, key)
    except ssl.SSLError as error:
        raise ValueError(f"{files}: not PEM, or key and certificate do not fit ({error.reason})") from None
    except OSError as error:
        raise ValueError(f"{files}: {error.strerror}") from None


def tls_fault(error: OSError) -> str:
    """What went wrong in a handshake, in the words of the library, without addresses."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return error.verify_message or "certificate verify failed"
    return str(getattr(error, "reason", None) or type(error).__name__).replace("_", " ").lower()
