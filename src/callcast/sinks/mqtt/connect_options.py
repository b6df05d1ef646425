"""Connection options from the settings, and the connectivity check."""

import asyncio
from contextlib import suppress

from msgspec import structs

from callcast.ports.connectivity import ConnectivityRequest, ConnectivityResult, Status
from callcast.sinks.connectivity import CONNECTION_FAILURES, remedy
from callcast.sinks.mqtt import Settings
from callcast.sinks.mqtt.connection import LOST, RETAIN_NOT_SUPPORTED, Connection, ConnectOptions, Failure, Message

GOODBYE_S = 0.5
_RETAIN = "retain_not_supported"
_NO_RETAINED = "does not support retained messages: events are sent without retained state and without a will"
_REMEDIES = {
    "bad_user_name_or_password": "check username and password",
    "unsupported_protocol_version": 'set protocol = "3.1.1"',
    "disconnected": 'check scheme and port in url: a TLS listener needs mqtts, an old broker needs protocol = "3.1.1"',
    "qos_not_supported": "callcast needs QoS 1: allow it in the broker (mosquitto: max_qos), or use another broker",
    "retain_not_supported": "set retain = false, or allow retained messages (mosquitto: retain_available true)",
    "topic_name_invalid": "set topic to one that the broker accepts",
    "packet_too_large": "raise the message size limit of the broker",
}
_BY_BROKER = "the broker rejected the request: check its log"


def connect_options(settings: Settings, client_id: str, will: Message | None, *, in_flight_max: int) -> ConnectOptions:
    host, port, encrypted = settings.address()
    return ConnectOptions(
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
    """Do what the sink does, with a separate client id and separate topics, and leave nothing behind.

    Without `send`, only connect with a will. The broker never publishes the will, because the check disconnects
    properly.
    """
    failure = await _try(settings, request, retain=settings.retain)
    no_retained = failure is not None and failure.reason in (_RETAIN, LOST.reason)
    if settings.retain and no_retained:  # with MQTT 3.1.1 a broker without retained messages just closes the connection
        without = await _try(settings, request, retain=False)
        if without is None:
            return ConnectivityResult("warning", f"{_where(settings)} {_NO_RETAINED}", _REMEDIES[_RETAIN])
        failure = without
    if failure is not None:
        verdict: Status = (
            "warning" if _state_topic(settings) in failure.detail else "failed"
        )  # events can still be published
        return ConnectivityResult(
            verdict, f"{_where(settings)}: {failure.detail}", remedy_of(failure, _client_id(settings, request))
        )
    if request.send:
        return ConnectivityResult("good", f"{_where(settings)} accepted a message to {_check_topic(settings)}")
    return ConnectivityResult("good", f"{_where(settings)} authenticated (MQTT {settings.protocol})")


async def _try(settings: Settings, request: ConnectivityRequest, *, retain: bool) -> Failure | None:
    will = Message(f"{settings.topic}/check/status", b'{"state":"offline"}', retain=True) if retain else None
    connection = Connection(connect_options(settings, _client_id(settings, request), will, in_flight_max=1))
    try:
        async with asyncio.timeout(settings.timeout_s):
            await connection.opened.wait()
            if connection.over.is_set():
                return connection.failure
            if retain and not connection.takes_retained:
                return Failure(_RETAIN, "the broker does not support retained messages", RETAIN_NOT_SUPPORTED)
            return await _publish(connection, settings, retain=retain) if request.send else None
    except TimeoutError:
        return Failure("timeout", "the broker did not respond in time")
    finally:
        await _leave(connection)


async def _publish(connection: Connection, settings: Settings, *, retain: bool) -> Failure | None:
    """Publish one message like an event, and one like a retained state, which is then removed."""
    messages = [Message(_check_topic(settings), b'{"type":"callcast.check"}')]
    if retain:
        topic = _state_topic(settings)
        messages += [Message(topic, b'{"state":"idle","calls":0,"since":null}', retain=True), Message(topic, b"", True)]
    for message in messages:
        failure = await connection.publish(message)
        if failure is not None:
            return structs.replace(failure, detail=f"{failure.detail} (to {message.topic})")
    return None


async def _leave(connection: Connection) -> None:
    connection.give_up(LOST)
    with suppress(TimeoutError):
        async with asyncio.timeout(GOODBYE_S):
            await connection.gone.wait()


def remedy_of(failure: Failure, client_id: str) -> str:
    """How to fix a failed connection or a rejected message."""
    if failure.reason in ("not_authorized", "topic_name_invalid") and "(to " in failure.detail:
        return "allow callcast to publish to all topics below topic in the broker's access rules, or change topic"
    if failure.reason in ("not_authorized", "client_identifier_not_valid"):
        return f"check username and password, and that the broker allows the client id {client_id}"
    if failure.reason in _REMEDIES:
        return _REMEDIES[failure.reason]
    by_broker = failure.code or failure.reason not in CONNECTION_FAILURES
    return _BY_BROKER if by_broker else remedy(failure.reason, failure.detail)


def _client_id(settings: Settings, request: ConnectivityRequest) -> str:
    return f"{settings.client_id or f'callcast-{request.name}'}-check"


def _check_topic(settings: Settings) -> str:
    return f"{settings.topic}/check/events/callcast.check"


def _state_topic(settings: Settings) -> str:
    return f"{settings.topic}/check/check/state"


def _where(settings: Settings) -> str:
    host, _, encrypted = settings.address()
    return f"{'mqtts' if encrypted else 'mqtt'}://{host}"
