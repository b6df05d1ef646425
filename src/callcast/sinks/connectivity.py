"""Connect, speak TLS, leave: whether a remote side is there, without saying anything to it."""

import asyncio
import os
import socket
import ssl
from contextlib import suppress

from callcast.sinks.addresses import connect
from callcast.sinks.tls import tls_fault

ALERT_S = 0.3  # a remote side that refuses our certificate says so only after the handshake (TLS 1.3)
GOODBYE_S = 0.5


# Reasons of the way to the other side, and not of its own.
ON_THE_WAY = ("dns", "connect", "tls", "timeout", "disconnected", "proxy", "bad_answer")


class NotReached(Exception):
    """`reason` is a word, `said` a few words for people, without addresses."""

    def __init__(self, reason: str, said: str) -> None:
        super().__init__(f"{reason}: {said}")
        self.reason = reason
        self.said = said


async def try_connecting(host: str, port: int, tls: ssl.SSLContext | None, *, timeout_s: float) -> None:
    """Raises NotReached."""
    try:
        async with asyncio.timeout(timeout_s):
            await _try_connecting(host, port, tls)
    except OSError as error:
        raise _why(error) from None


async def _try_connecting(host: str, port: int, tls: ssl.SSLContext | None) -> None:
    name = host if tls is not None else None
    sock = await connect(host, port)
    reader, writer = await asyncio.open_connection(sock=sock, ssl=tls, server_hostname=name)
    try:
        if tls is not None and await _hangs_up(reader):
            raise NotReached("disconnected", "hung up right after the TLS handshake")
    finally:
        writer.close()
        with suppress(OSError):
            async with asyncio.timeout(GOODBYE_S):
                await writer.wait_closed()


async def _hangs_up(reader: asyncio.StreamReader) -> bool:
    try:
        async with asyncio.timeout(ALERT_S):
            return not await reader.read(1)
    except TimeoutError:
        return False
    except ConnectionError:
        return True


def _why(error: OSError) -> NotReached:
    match error:
        case socket.gaierror():
            return NotReached("dns", "the name cannot be resolved")
        case ssl.SSLError():
            return NotReached("tls", tls_fault(error))
        case TimeoutError():
            return NotReached("timeout", "no connection in time")
    return NotReached("connect", os.strerror(error.errno).lower() if error.errno else "no connection")


def remedy(reason: str, said: str) -> str:
    """What to do about a remote side that was not reached, in words of the configuration's keys."""
    if reason == "tls":
        return _tls_remedy(said.lower())
    remedies = {
        "dns": "check the host in url, and this machine's name service",
        "connect": "check host and port in url, and whether anything listens there",
        "timeout": "check host and port in url, and whether a firewall swallows what is sent there",
        "disconnected": "perhaps it wants a certificate of ours (tls_cert, tls_key); its own log knows more",
        "proxy": "check the proxy that the environment names, or set trust_env = false",
    }
    return remedies.get(reason, "check host and port in url: what answers there speaks another language")


def _tls_remedy(said: str) -> str:
    if "expired" in said or "not yet valid" in said:
        return "let the far side renew its certificate, if this machine's clock is right"
    if "mismatch" in said:
        return "put the name that the certificate is for into url"
    if "alert" in said:
        return "the far side wants a certificate of ours: set tls_cert and tls_key to one that it accepts"
    if "version" in said or "record layer" in said:
        return "what listens there speaks no TLS, or only an old one: check scheme and port in url"
    return "name the authority of the far side's certificate with tls_ca, or let this machine trust it"
