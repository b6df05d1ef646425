"""Recognizes loopback hosts. Only connections to those may be unencrypted and unauthenticated by default."""

import ipaddress

from pydantic import ValidationInfo

from callcast.settings.rejection import rejected


def is_loopback(host: str) -> bool:
    """Whether a host is `localhost` or a loopback address."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def check_encryption(scheme: str, host: str, info: ValidationInfo, *, encrypted: str) -> None:
    """Reject an unencrypted scheme, except towards loopback or with `allow_plaintext`, which must be declared before.

    encrypted: the scheme to use instead.
    """
    if scheme != encrypted and not is_loopback(host) and not info.data.get("allow_plaintext", True):
        raise rejected(f"{scheme} to {host} is not encrypted", f"use {encrypted}, or set allow_plaintext = true")
