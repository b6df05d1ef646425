"""Connects to remote sides, says why one is unreachable and how to fix it, and checks without application data."""

import asyncio
import os
import socket
import ssl
import threading
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import aiohttp
from aiohappyeyeballs import AddrInfoType, start_connection
from aiohttp.abc import AbstractResolver, ResolveResult

from callcast.sinks.tls import tls_fault

NEXT_ADDRESS_S = 0.25  # RFC 8305: the delay before the next address is tried in parallel
ALERT_S = 0.3  # with TLS 1.3 a rejected client certificate is reported after the handshake
GOODBYE_S = 0.5


# Failures of the connection, as opposed to errors that the remote side reports.
CONNECTION_FAILURES = ("dns", "connect", "tls", "timeout", "disconnected", "proxy", "bad_answer")


class Unreachable(Exception):
    """The remote side cannot be reached. `reason` is a label for metrics; `detail` describes it, without addresses."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail


async def connect(host: str, port: int) -> socket.socket:
    """Connect to the first address of `host` that responds, like the HTTP client of the webhook sink.

    Raises OSError. The caller sets the time limit.
    """
    return await start_connection(await _look_up(host, port), happy_eyeballs_delay=NEXT_ADDRESS_S, interleave=1)


class Resolver(AbstractResolver):
    """Looks up names for aiohttp. Its own resolver has few threads, and the end of the process waits for them."""

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        numeric = socket.AI_NUMERICHOST | socket.AI_NUMERICSERV
        return [
            ResolveResult(hostname=host, host=_numeric(at), port=int(at[1]), family=kind, proto=proto, flags=numeric)
            for kind, _, proto, _, at in await _look_up(host, port, family, socket.AI_ADDRCONFIG)
        ]

    async def close(self) -> None: ...


def _numeric(address: tuple[Any, ...]) -> str:
    scope = address[3] if len(address) > 3 else 0  # of a link-local address
    return f"{address[0]}%{scope}" if scope else str(address[0])


async def _look_up(host: str, port: int, family: int = 0, flags: int = 0) -> Sequence[AddrInfoType]:
    """In a daemon thread: a slow name server must not delay other look-ups, or the end of the process."""
    loop = asyncio.get_running_loop()
    found: asyncio.Future[Sequence[AddrInfoType] | OSError] = loop.create_future()

    def finish(addresses: Sequence[AddrInfoType] | OSError) -> None:
        if not found.done():
            found.set_result(addresses)

    def look_up() -> None:
        addresses: Sequence[AddrInfoType] | OSError
        try:
            addresses = socket.getaddrinfo(host, port, family, socket.SOCK_STREAM, flags=flags)
        except OSError as error:
            addresses = error
        with suppress(RuntimeError):  # the event loop is closed
            loop.call_soon_threadsafe(finish, addresses)

    threading.Thread(target=look_up, name="name-lookup", daemon=True).start()
    addresses = await found
    if isinstance(addresses, OSError):
        raise addresses
    return addresses


async def try_connecting(host: str, port: int, tls: ssl.SSLContext | None, *, timeout_s: float) -> None:
    """Connect, perform the TLS handshake, and disconnect. Raises Unreachable."""
    try:
        async with asyncio.timeout(timeout_s):
            sock = await connect(host, port)
            reader, writer = await asyncio.open_connection(sock=sock, ssl=tls, server_hostname=host if tls else None)
            try:
                if tls is not None and await _closes_at_once(reader):
                    raise Unreachable("disconnected", "the connection was closed right after the TLS handshake")
            finally:
                writer.close()
                with suppress(OSError):
                    async with asyncio.timeout(GOODBYE_S):
                        await writer.wait_closed()
    except OSError as error:
        raise unreachable(error) from None


async def _closes_at_once(reader: asyncio.StreamReader) -> bool:
    try:
        async with asyncio.timeout(ALERT_S):
            return not await reader.read(1)
    except TimeoutError:
        return False
    except ConnectionError:
        return True


def unreachable(error: OSError) -> Unreachable:
    """Why a connection or its TLS handshake failed."""
    match error:
        case socket.gaierror() | aiohttp.ClientConnectorDNSError():
            return Unreachable("dns", "the name cannot be resolved")
        case aiohttp.ClientConnectorCertificateError():
            cause = error.certificate_error
            return Unreachable("tls", tls_fault(cause) if isinstance(cause, OSError) else "certificate verify failed")
        case aiohttp.ClientConnectorError():
            return unreachable(error.os_error)
        case ssl.SSLError():
            return Unreachable("tls", tls_fault(error))
        case TimeoutError():
            return Unreachable("timeout", "no connection in time")
    return Unreachable("connect", os.strerror(error.errno).lower() if error.errno else "no connection")


def fix_of(reason: str, detail: str) -> str:
    """How to reach an unreachable remote side, in terms of the configuration keys."""
    if reason == "tls":
        return _tls_fix(detail.lower())
    fixes = {
        "dns": "check the host in url, and the DNS configuration of this machine",
        "connect": "check host and port in url, and that the service there is running",
        "timeout": "check host and port in url, and whether a firewall drops the packets",
        "disconnected": "check the log of the remote side; it may require a client certificate (tls_cert, tls_key)",
        "proxy": "check the proxy that the environment variables name, or set trust_env = false",
    }
    return fixes.get(reason, "check host and port in url: the service there uses another protocol")


def _tls_fix(detail: str) -> str:
    if "expired" in detail or "not yet valid" in detail:
        return "renew the certificate of the remote side; check this machine's clock too"
    if "mismatch" in detail:
        return "use a host name in url that the certificate is valid for"
    if "alert" in detail:
        return "the remote side requires a client certificate: set tls_cert and tls_key to one that it accepts"
    if "version" in detail or "record layer" in detail:
        return "the service there does not use TLS, or only an old version: check scheme and port in url"
    return "set tls_ca to the certificate authority of the remote side, or add it to this machine's trust store"
