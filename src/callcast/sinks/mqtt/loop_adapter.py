"""Runs paho's client on the event loop, with paho's hooks for external loops.

A thread is used only while connecting, because paho's name lookup, connect and TLS handshake block. After that
everything runs on the event loop, callbacks included.
"""

import asyncio
import ssl
import threading
from collections.abc import Callable
from typing import Any

from paho.mqtt import client as paho

_CHECK_EVERY_S = 1.0  # how often paho checks its keepalive pings


class LoopAdapter:
    """Drives one connection from beginning to end.

    connect: connects and blocks until done; raises an error. over: called at the end, with the error or None.
    """

    def __init__(
        self, client: paho.Client, connect: Callable[[], object], over: Callable[[Exception | None], None]
    ) -> None:
        self._client = client
        self._over = over
        self._loop = asyncio.get_running_loop()
        self._leaving = self._ended = False
        self._poll: asyncio.TimerHandle | None = None
        # A daemon thread: a slow name server must not delay the end of the process.
        threading.Thread(target=self._connect, args=(connect,), name="mqtt-connect", daemon=True).start()

    def leave(self) -> None:
        """Disconnect; while still connecting, as soon as that has finished."""
        self._leaving = True
        if self._poll is not None:
            self._disconnect()

    def _connect(self, connect: Callable[[], object]) -> None:
        """In the thread."""
        error: Exception | None = None
        try:
            connect()
        except Exception as failure:  # noqa: BLE001 (reported to the event loop, where callers wait)
            error = failure
        try:
            self._loop.call_soon_threadsafe(self._start, error)
        except RuntimeError:  # the event loop is closed
            self._drop_socket()

    def _start(self, error: Exception | None) -> None:
        sock: Any = self._client.socket()
        if error is not None or sock is None:
            self._end(error)
            return
        self._client.on_socket_close = self._forget
        self._client.on_socket_register_write = self._write_soon
        self._loop.add_reader(sock, self._step, self._read)
        self._read_interest()
        if self._leaving:
            self._disconnect()

    def _step(self, work: Callable[[], object]) -> None:
        error: Exception | None = None
        try:
            work()
        except Exception as failure:  # noqa: BLE001 (paho raises various errors for data that is not MQTT)
            error = failure
        if error is not None or self._client.socket() is None:
            self._end(error)

    def _read(self) -> None:
        self._client.loop_read()
        while isinstance(sock := self._client.socket(), ssl.SSLSocket) and sock.pending():
            self._client.loop_read()  # the selector does not report data that is already decrypted

    def _write_soon(self, *_: object) -> None:
        """Once for everything that is published in this turn of the loop."""
        self._loop.call_soon(self._step, self._write)

    def _write(self) -> None:
        self._client.loop_write()
        sock: Any = self._client.socket()
        if sock is None:
            return
        if self._client.want_write():
            self._loop.add_writer(sock, self._step, self._write)
        else:
            self._loop.remove_writer(sock)

    def _read_interest(self) -> None:
        self._poll = self._loop.call_later(_CHECK_EVERY_S, self._read_interest)
        self._step(self._client.loop_misc)

    def _disconnect(self) -> None:
        self._client.disconnect()
        self._step(self._client.loop_write)
        self._end(None)  # also when there was no room for the goodbye

    def _forget(self, _client: paho.Client, _data: Any, sock: Any) -> None:
        self._loop.remove_reader(sock)
        self._loop.remove_writer(sock)

    def _end(self, error: Exception | None) -> None:
        if self._ended:
            return
        self._ended = True
        if self._poll is not None:
            self._poll.cancel()
        self._drop_socket()
        self._over(error)

    def _drop_socket(self) -> None:
        sock: Any = self._client.socket()
        if sock is None:
            return
        if self._poll is not None:
            self._forget(self._client, None, sock)
        self._client.on_socket_close = None
        sock.close()
