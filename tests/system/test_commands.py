"""The command line as a person or a supervisor uses it."""

import asyncio
import json
import subprocess
import sys
from pathlib import Path

from tests.system.world import seed_world, until


def callcast(*arguments: str, timeout_s: float = 60) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "callcast", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout_s, check=False)


def test_the_demo_needs_nothing_and_stops_by_itself() -> None:
    """Events on standard output and nothing else there; where the page is on standard error; exit 0."""
    done = callcast("demo", "--for", "6", "--speed", "3", "--seed", "5")
    assert done.returncode == 0, done.stderr
    events = [json.loads(line) for line in done.stdout.splitlines()]
    assert {"call.ringing", "call.answered"} <= {event["type"] for event in events}
    assert "http://127.0.0.1:" in done.stderr


def test_a_wrong_configuration_is_told_and_ends_with_78(tmp_path: Path) -> None:
    """`check` and `run` alike: file and line, no traceback."""
    config = tmp_path / "callcast.toml"
    config.write_text('[service]\nlog_levle = "info"\n')
    for command in ("check", "run"):
        done = callcast(command, "--config", str(config))
        assert done.returncode == 78
        assert f"{config}:2" in done.stdout + done.stderr
        assert "log_level" in done.stdout + done.stderr
        assert "Traceback" not in done.stderr


def test_an_address_in_use_is_told_without_a_traceback(tmp_path: Path) -> None:
    """The place, the cause and the next step."""

    async def taken() -> subprocess.CompletedProcess[str]:
        async with seed_world(tmp_path) as world:
            await world.service.start()
            await world.service.ready()
            other = tmp_path / "other.toml"
            data = f'data_dir = "{tmp_path / "data"}"'
            other.write_text(world.service.config.read_text().replace(data, f'data_dir = "{tmp_path / "other"}"'))
            return await asyncio.to_thread(callcast, "run", "--config", str(other))

    done = asyncio.run(taken())
    assert done.returncode == 69
    assert "http_listen" in done.stderr
    assert "Traceback" not in done.stderr


async def test_a_second_service_on_the_same_data_is_refused(tmp_path: Path) -> None:
    """Two writers would deliver twice; the message says which directory."""
    async with seed_world(tmp_path) as world:
        await world.service.start()
        await world.service.ready()
        other = tmp_path / "other.toml"
        listen = f'http_listen = "{world.service.url.removeprefix("http://")}"'
        other.write_text(world.service.config.read_text().replace(listen, 'http_listen = "127.0.0.1:0"'))
        done = await asyncio.to_thread(callcast, "run", "--config", str(other))
        assert done.returncode == 69
        assert str(tmp_path / "data") in done.stderr
        assert "Traceback" not in done.stderr


async def test_healthcheck_tells_a_running_service_from_none(tmp_path: Path) -> None:
    """0 while it answers, not after it stopped; --ready needs a good poll too."""
    async with seed_world(tmp_path) as world:
        await world.service.start()
        await world.service.ready()
        await world.stage.seen()
        config = str(world.service.config)
        assert (await asyncio.to_thread(callcast, "healthcheck", "--config", config)).returncode == 0
        assert (await asyncio.to_thread(callcast, "healthcheck", "--ready", "--config", config)).returncode == 0
        await world.service.stop()
        assert (await asyncio.to_thread(callcast, "healthcheck", "--config", config)).returncode != 0


async def test_a_sink_that_is_down_delays_no_other_and_gets_all_when_it_is_back(tmp_path: Path) -> None:
    """The receiver refuses while the first call passes; the broker has everything at once, the receiver afterwards."""
    async with seed_world(tmp_path) as world:
        world.receiver.status = 500
        await world.service.start()
        await world.stage.seen()
        for number in range(3):
            world.stage.show(number)
            await until(lambda: len(world.subscriber.events) == number + 1, "the broker")  # noqa: B023
        assert world.receiver.events == []
        world.receiver.status = 204
        await until(lambda: len(world.receiver.events) == 3, "the receiver after its recovery")
        assert [e["data"]["sequence"] for e in world.receiver.events] == [1, 2, 3]


async def test_a_page_with_bad_records_still_tells_the_good_ones(tmp_path: Path) -> None:
    """A record without an id is counted and logged once with the field's name; the others count."""
    async with seed_world(tmp_path) as world:
        await world.service.start()
        await world.service.ready()
        good = world.stage.recording.active

        def with_a_bad_one(extension: object, now: object) -> list[dict[str, object]]:
            records = good(extension, now)  # type: ignore[arg-type]
            return [*records, {k: v for k, v in records[0].items() if k != "sessionId"}] if records else []

        world.stage.recording.active = with_a_bad_one  # type: ignore[assignment, method-assign]
        world.stage.show(0)
        await world.delivered(1)
        await world.stage.seen(5)
        lines = [line for line in world.service.log if "bad_record_left_out" in line]
        assert len(lines) == 1
        assert "sessionId" in lines[0]
