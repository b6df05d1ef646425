"""From the settings to a connection: for the sink, and for a probe that only looks whether it would be let in."""

import asyncio
from contextlib import suppress

from msgspec import structs

from callcast.ports.connectivity import ConnectivityRequest, ConnectivityResult, Status
from callcast.sinks.connectivity import ON_THE_WAY, remedy
from callcast.sinks.mqtt import Settings
from callcast.sinks.mqtt.connection import LOST, RETAIN_NOT_SUPPORTED, Access, Link, Message, Trouble

GOODBYE_S = 0.5
_RETAIN = "retain_not_supported"
_NO_RETAINED = "takes no retained messages, so it gets events without state and without a will"
_REMEDIES = {
    "bad_user_name_or_password": "check username and password",
    "unsupported_protocol_version": 'set protocol = "3.1.1"',
    "disconnected": 'check scheme and port in url: a listener with TLS wants mqtts; an old broker protocol = "3.1.1"',
    "qos_not_supported": "callcast needs QoS 1: allow it in the broker (mosquitto: max_qos), or use another broker",
    "retain_not_supported": "set retain = false, or allow retained messages (mosquitto: retain_available true)",
    "topic_name_invalid": "set topic to one that the broker takes",
    "packet_too_large": "raise the limit of a message's size in the broker",
}
_BY_BROKER = "the broker refuses for a reason of its own: its log knows more"


def connect_options(settings: Settings, client_id: str, will: Message | None, *, in_flight_max: int) -> Access:
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


async def check_connectivity(settings: Settings, request: ConnectivityRequest) -> ConnectivityResult:
    """Try what the sink does, with a client id and topics of the probe's own, and leave nothing behind.

    Without `send` that is the login with the will; the broker never publishes it, since the probe says goodbye.
    """
    trouble = await _try(settings, request, retain=settings.retain)
    no_retained = trouble is not None and trouble.reason in (_RETAIN, LOST.reason)
    if settings.retain and no_retained:  # with 3.1.1 a broker that refuses retained messages just hangs up
        without = await _try(settings, request, retain=False)
        if without is None:
            return ConnectivityResult("warning", f"{_where(settings)} {_NO_RETAINED}", _REMEDIES[_RETAIN])
        trouble = without
    if trouble is not None:
        verdict: Status = "warning" if _state_topic(settings) in trouble.detail else "failed"  # events pass, then
        return ConnectivityResult(
            verdict, f"{_where(settings)}: {trouble.detail}", remedy_of(trouble, _client_id(settings, request))
        )
    if request.send:
        return ConnectivityResult("good", f"{_where(settings)} took a message to {_check_topic(settings)}")
    return ConnectivityResult("good", f"{_where(settings)} let us in by MQTT {settings.protocol}")


async def _try(settings: Settings, request: ConnectivityRequest, *, retain: bool) -> Trouble | None:
    will = Message(f"{settings.topic}/check/status", b'{"state":"offline"}', retain=True) if retain else None
    link = Link(connect_options(settings, _client_id(settings, request), will, in_flight_max=1))
    try:
        async with asyncio.timeout(settings.timeout_s):
            await link.opened.wait()
            if link.over.is_set():
                return link.trouble
            if retain and not link.takes_retained:
                return Trouble(_RETAIN, "no retained messages", RETAIN_NOT_SUPPORTED)
            return await _publish(link, settings, retain=retain) if request.send else None
    except TimeoutError:
        return Trouble("timeout", "the broker did not answer in time")
    finally:
        await _leave(link)


async def _publish(link: Link, settings: Settings, *, retain: bool) -> Trouble | None:
    """An event's like to where events go; and a state's like to where states go, which is then removed again."""
    messages = [Message(_check_topic(settings), b'{"type":"callcast.check"}')]
    if retain:
        topic = _state_topic(settings)
        messages += [Message(topic, b'{"state":"idle","calls":0,"since":null}', retain=True), Message(topic, b"", True)]
    for message in messages:
        trouble = await link.publish(message)
        if trouble is not None:
            return structs.replace(trouble, detail=f"{trouble.detail} (to {message.topic})")
    return None


async def _leave(link: Link) -> None:
    link.give_up(LOST)
    with suppress(TimeoutError):
        async with asyncio.timeout(GOODBYE_S):
            await link.gone.wait()


def remedy_of(trouble: Trouble, client_id: str) -> str:
    """What to do about a broker that does not let us in, or does not take a message."""
    if trouble.reason in ("not_authorized", "topic_name_invalid") and "(to " in trouble.detail:
        return (
            "let callcast publish to all topics below topic, in the broker's access rules, or set topic to one it may"
        )
    if trouble.reason in ("not_authorized", "client_identifier_not_valid"):
        return f"check username and password, and whether the broker takes a client called {client_id}"
    if trouble.reason in _REMEDIES:
        return _REMEDIES[trouble.reason]
    by_broker = trouble.code or trouble.reason not in ON_THE_WAY
    return _BY_BROKER if by_broker else remedy(trouble.reason, trouble.detail)


def _client_id(settings: Settings, request: ConnectivityRequest) -> str:
    return f"{settings.client_id or f'callcast-{request.name}'}-check"


def _check_topic(settings: Settings) -> str:
    return f"{settings.topic}/check/events/callcast.check"


def _state_topic(settings: Settings) -> str:
    return f"{settings.topic}/check/check/state"


def _where(settings: Settings) -> str:
    host, _, encrypted = settings.address()
    return f"{'mqtts' if encrypted else 'mqtt'}://{host}"
