"""(d) The floor: raw sockets that poll and parse, and do nothing with it. No script can be cheaper than this."""

import socket
import time

import msgspec

from bench.peers import job
from bench.peers.used import QUERY, Page

AT_ONCE = 8  # requests under way where there is no interval to keep


def _request(todo: job.Job, path: str) -> bytes:
    return f"GET {path}{QUERY} HTTP/1.1\r\nHost: {todo.host}\r\nAuthorization: Bearer t\r\n\r\n".encode()


def _answer(connection: socket.socket) -> bytes:
    data = connection.recv(1 << 20)
    end = data.index(b"\r\n\r\n") + 4
    context = data.index(b"Content-Length: ") + 16
    whole = end + int(data[context : data.index(b"\r", context)])
    while len(data) < whole:
        data += connection.recv(1 << 20)
    return data[end:]


def main(todo: job.Job) -> None:
    decode = msgspec.json.Decoder(Page).decode
    requests = [_request(todo, path) for path in todo.targets]
    at_once = min(len(requests), 1 if todo.interval_s else AT_ONCE)
    connections = [socket.create_connection((todo.host, todo.port)) for _ in range(at_once)]
    gap_s, number, began = todo.interval_s / len(requests), 0, time.monotonic()
    while True:
        wait_s = began + number * gap_s - time.monotonic()
        if gap_s and wait_s > 0:
            time.sleep(wait_s)
        for connection in connections:
            connection.sendall(requests[number % len(requests)])
            number += 1
        for connection in connections:
            decode(_answer(connection))


if __name__ == "__main__":
    main(job.read())
