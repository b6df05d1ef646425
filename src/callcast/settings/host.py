"""Recognizes names that can be looked up."""


def is_host(host: str) -> bool:
    """Whether a host can be looked up: an address, or a name whose parts have 1 to 63 characters."""
    try:
        return bool(host.encode("idna"))  # as a lookup does
    except UnicodeError:
        return False
