"""From the settings to a connection: for the sink, and for a probe that only looks whether it would be let in."""

import asyncio
from contextlib import suppress

from callcast.core.probe import ProbeRequest, ProbeResult
from callcast.sinks.handshake import remedy
from callcast.sinks.mqtt import Settings
from callcast.sinks.mqtt.link import LOST, Access, Link, Message, Trouble

GOODBYE_S = 0.5
_REMEDIES = {
    "bad_user_name_or_password": "check username and password",
    "unsupported_protocol_version": 'set protocol = "3.1.1"',
    "disconnected": 'check scheme and port in url: a listener with TLS wants mqtts; an old broker protocol = "3.1.1"',
    "server_unavailable": "the broker has trouble, or too many clients: its own log knows more",
    "server_busy": "the broker has trouble, or too many clients: its own log knows more",
    "quota_exceeded": "the broker has trouble, or too many clients: its own log knows more",
}


def way_in(settings: Settings, client_id: str, will: Message | None, *, in_flight_max: int) -> Access:
    host, port, encrypted = settings.address()
    return Access(
        host=host,
        port=port,
        version_5=settings.protocol == "5",
        client_id=client_id,
        username=settings.username,
        password=settings.password.reveal() if settings.password is not None else "",
        tls=settings.tls_context() if encrypted else None,
        timeout_s=settings.timeout_s,
        in_flight_max=in_flight_max,
        will=will,
    )


async def probe(settings: Settings, request: ProbeRequest) -> ProbeResult:
    """Log in with a client id of the probe's own, which pushes nobody out, and without a will; then leave.

    With `send` a message goes where a source's events would.
    """
    host, _, encrypted = settings.address()
    where = f"{'mqtts' if encrypted else 'mqtt'}://{host}"
    client_id = f"{settings.client_id or f'callcast-{request.name}'}-check"
    link = Link(way_in(settings, client_id, None, in_flight_max=1))
    try:
        async with asyncio.timeout(settings.timeout_s):
            await link.opened.wait()
            trouble = link.trouble if link.over.is_set() else None
            if trouble is None and request.send:
                return await _publish(link, f"{settings.topic}/check/events/callcast.check", where)
    except TimeoutError:
        trouble = Trouble("timeout", "the broker did not answer in time")
    finally:
        await _leave(link)
    if trouble is None:
        return ProbeResult("good", f"{where} let us in by MQTT {settings.protocol}")
    return ProbeResult("failed", f"{where}: {trouble.detail}", _remedy(trouble, client_id))


async def _publish(link: Link, topic: str, where: str) -> ProbeResult:
    trouble = await link.publish(Message(topic, b'{"type":"callcast.check"}'))
    if trouble is None:
        return ProbeResult("good", f"{where} took a message to {topic}")
    if trouble.reason in ("not_authorized", "topic_name_invalid"):
        fix = "let callcast publish to all topics below topic, in the broker's access rules, or set topic to one it may"
    else:
        fix = _REMEDIES.get(trouble.reason) or remedy(trouble.reason, trouble.detail)
    return ProbeResult("failed", f"{where}: {trouble.detail} (to {topic})", fix)


async def _leave(link: Link) -> None:
    link.give_up(LOST)
    with suppress(TimeoutError):
        async with asyncio.timeout(GOODBYE_S):
            await link.gone.wait()


def _remedy(trouble: Trouble, client_id: str) -> str:
    if trouble.reason in ("not_authorized", "client_identifier_not_valid"):
        return f"check username and password, and whether the broker takes a client called {client_id}"
    return _REMEDIES.get(trouble.reason) or remedy(trouble.reason, trouble.detail)
