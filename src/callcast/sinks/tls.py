"""TLS for all sinks: certificates are always verified, TLS 1.2 or later; optional own CA and client certificate."""

import ssl
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, Field, PrivateAttr, ValidationInfo, field_validator

from callcast.settings.rejection import rejected
from callcast.settings.secret import Keyring, Stamp, located, stamp_of, unreadable
from callcast.sinks import SinkSettings


def _beside_the_configuration(path: str, info: ValidationInfo) -> str:
    if not path:
        return ""
    found = located(Path(path), info)
    if isinstance(info.context, Keyring):
        info.context.files[found] = stamp_of(found)
    try:
        found.open("rb").close()
    except (OSError, ValueError) as error:
        raise unreadable(found, error) from None
    return str(found)


PemPath = Annotated[str, AfterValidator(_beside_the_configuration)]


class TlsSettings(SinkSettings):
    """The keys of a sink that may use TLS.

    The files are read with the configuration, to report errors early, and again when the sink is opened. Two settings
    are equal only if their files have not been written or replaced, so that a renewed certificate is taken up.
    """

    _files: tuple[Stamp, ...] = PrivateAttr(default=())

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
        if key and not cert and "tls_cert" in info.data:  # a missing file has an error of its own
            raise ValueError("has no effect without tls_cert")
        if cert:
            _try("", cert, key)
        return key

    def model_post_init(self, _context: Any) -> None:
        self._files = tuple(stamp_of(Path(path)) for path in (self.tls_ca, self.tls_cert, self.tls_key) if path)

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
        problem = f"{files}: not PEM, or key and certificate do not match ({error.reason})"
        raise rejected(problem, "use PEM files, and the key that belongs to the certificate") from None


def tls_fault(error: OSError) -> str:
    """The cause of a failed handshake, as the TLS library puts it, without addresses."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return error.verify_message or "certificate verify failed"
    return str(getattr(error, "reason", None) or type(error).__name__).replace("_", " ").lower()
