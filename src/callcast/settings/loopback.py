"""Which hosts never leave this machine: there, and only there, nothing need be encrypted or guarded."""

import ipaddress


def is_loopback(host: str) -> bool:
    """`localhost`, or an address of the loopback network."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host.lower() == "localhost"
