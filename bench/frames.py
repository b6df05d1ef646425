"""What push costs, in processor time: 1,000 recorded frames, decoded and matched, without the WebSocket library.

`python -m bench.frames [ROUNDS]` prints the best and the median time.
"""

import json
import sys
from pathlib import Path

from bench.decode import times_ms
from callcast.ringcentral.frames import Steps, event, read_frame

EVENTS = Path(__file__).parents[1] / "tests" / "samples" / "events"
FRAMES = 1000
GOAL_MS = 50.0


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


def main() -> None:
    frames = recorded()
    best, median = times_ms(lambda: match(frames), int(sys.argv[1]) if len(sys.argv) > 1 else 50)
    size = sum(map(len, frames)) // FRAMES
    print(f"{FRAMES} frames of {size} bytes, {match(frames)} steps, goal {GOAL_MS:.0f} ms")
    print(f"best {best:.1f} ms   median {median:.1f} ms")


if __name__ == "__main__":
    main()
