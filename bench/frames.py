"""What push costs, in processor time: 1,000 recorded frames, decoded and matched, without the WebSocket library.

`python -m bench.frames [ROUNDS]` prints the best and the median time, and the longest time that the event loop was held
while 1,000 frames a second came through a WebSocket for three seconds.
"""

import asyncio
import json
import sys
import time
from pathlib import Path

from aiohttp import ClientSession, web
from aiohttp.test_utils import TestServer

from bench.decode import times_ms
from callcast.ringcentral.frames import Steps, event, read_frame

EVENTS = Path(__file__).parents[1] / "tests" / "samples" / "events"
FRAMES = 1000
GOAL_MS = 50.0
HOLD_GOAL_MS = 20.0


def recorded() -> list[bytes]:
    """The recorded calls again and again, each time with other ids."""
    frames: list[bytes] = []
    samples = [json.loads(path.read_text()) for path in sorted(EVENTS.glob("csn-*.json"))]
    for n in range(FRAMES):
        for sample in samples:
            for one in sample:
                body = one["body"] | {"telephonySessionId": f"{one['body']['telephonySessionId']}{n}"}
                meta = {"type": "ServerNotification", "messageId": one["uuid"], "status": 200, "headers": {}}
                frames.append(json.dumps([meta, {**one, "uuid": f"{one['uuid']}{n}", "body": body}]).encode())
        if len(frames) >= FRAMES:
            break
    return frames[:FRAMES]


def match(frames: list[bytes]) -> int:
    steps, found = Steps(), 0
    for raw in frames:
        if (frame := read_frame(raw)) and (notified := event(frame.body)):
            found += len(steps.of_event(notified))
    return found


async def longest_hold_ms(frames: list[bytes]) -> float:
    """The longest time in which the loop did nothing else."""

    async def send(request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        for start in range(0, 3 * FRAMES, 10):
            for frame in frames[start % FRAMES : start % FRAMES + 10]:
                await socket.send_bytes(frame)
            await asyncio.sleep(0.01)
        return socket

    longest = 0.0

    async def watch() -> None:
        nonlocal longest
        before = time.perf_counter()
        while True:
            await asyncio.sleep(0)
            now = time.perf_counter()
            longest, before = max(longest, now - before), now

    app = web.Application()
    app.router.add_get("/", send)
    async with (
        TestServer(app) as server,
        ClientSession() as session,
        session.ws_connect(server.make_url("/")) as socket,
    ):
        watching = asyncio.create_task(watch())
        async for message in socket:
            match([message.data])
        watching.cancel()
    return longest * 1000


def main() -> None:
    frames = recorded()
    best, median = times_ms(lambda: match(frames), int(sys.argv[1]) if len(sys.argv) > 1 else 50)
    size = sum(map(len, frames)) // FRAMES
    print(f"{FRAMES} frames of {size} bytes, {match(frames)} steps, goal {GOAL_MS:.0f} ms")
    print(f"best {best:.1f} ms   median {median:.1f} ms")
    print(f"event loop held for at most {asyncio.run(longest_hold_ms(recorded())):.1f} ms, goal {HOLD_GOAL_MS:.0f} ms")


if __name__ == "__main__":
    main()
