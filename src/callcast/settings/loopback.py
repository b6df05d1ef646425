"""Recognizes loopback hosts. Only connections to those may be unencrypted and unauthenticated by default."""

import ipaddress


def is_loopback(host: str) -> bool:
    """Whether a host is `localhost` or a loopback address."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host.lower() == "localhost"
