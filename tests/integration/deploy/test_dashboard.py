"""The dashboard: its queries run on a real Prometheus that scrapes the real service while calls come and go."""

import asyncio
import json
import re
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import aiohttp

from callcast.simulator import Credential, Platform
from callcast.simulator.scenarios import office
from tests.integration.deploy.tools import DEPLOY, need
from tests.ports import free_port
from tests.system.world import SECRET, Receiver, Service
from tests.unit.observability.test_metrics import CONTRACT

DASHBOARD = json.loads((DEPLOY / "grafana/callcast.json").read_text())
FILLED_IN = {"$__rate_interval": "10s", "$__range": "1m", "$source": ".+", "$sink": ".+"}
SPEED = 8
WAIT_S = 35.0
CONFIG = """\
[service]
data_dir = "{data}"
http_listen = "127.0.0.1:{port}"

[sources.acme]
server = "{server}"
client_id = "{credential.client_id}"
client_secret = "{credential.client_secret}"
jwt = "{credential.jwt}"
watch = "account"
poll_interval_s = 0.5
heavy_per_minute = 10000

[sinks.crm]
type = "webhook"
url = "{hook}"
secrets = ["{secret}"]
"""
SCRAPING = """\
global: {{scrape_interval: 1s, evaluation_interval: 1s}}
rule_files: ["{rules}"]
scrape_configs:
  - job_name: callcast
    static_configs: [{{targets: ["127.0.0.1:{port}"]}}]
"""


def panels() -> list[dict[str, Any]]:
    return [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]


def queries() -> dict[str, str]:
    """Each query by where it stands, with Grafana's variables filled in."""
    found = {}
    for panel in panels():
        for target in panel["targets"]:
            expression = target["expr"]
            for variable, value in FILLED_IN.items():
                expression = expression.replace(variable, value)
            found[f"{panel['title']} {target['refId']}"] = expression
    return found


@asynccontextmanager
async def lively_service(folder: Path) -> AsyncIterator[int]:
    """The service as a process, a busy office, a webhook that takes everything; the port of its metrics."""
    port = free_port()
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(Platform(office(datetime.now(UTC), seed=3, speed=SPEED)).serve())
        receiver = await stack.enter_async_context(Receiver().listening())
        config = folder / "callcast.toml"
        given = {"data": folder / "data", "port": port, "server": server, "credential": Credential()}
        config.write_text(CONFIG.format(**given, hook=receiver.url, secret=SECRET))
        service = Service(config, f"http://127.0.0.1:{port}")
        await service.start()
        try:
            await service.ready()
            yield port
        finally:
            await service.stop()


@contextmanager
def prometheus(folder: Path, scraped: int) -> Iterator[str]:
    config, port = folder / "prometheus.yml", free_port()
    config.write_text(SCRAPING.format(rules=DEPLOY / "prometheus/alerts.yml", port=scraped))
    command = [
        *(need("prometheus"), f"--config.file={config}", f"--storage.tsdb.path={folder / 'tsdb'}"),
        *(f"--web.listen-address=127.0.0.1:{port}", "--log.level=error"),
    ]
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    try:
        yield f"http://127.0.0.1:{port}/api/v1"
    finally:
        process.terminate()
        process.wait()


async def data_of(session: aiohttp.ClientSession, url: str, **query: str) -> Any:
    async with session.get(url, params=query) as answer:
        body = await answer.json()
        assert body["status"] == "success", (query, body)
        return body["data"]


async def has_data(session: aiohttp.ClientSession, api: str, expression: str) -> bool:
    data = await data_of(session, f"{api}/query", query=expression)
    return any(one["value"][1] not in ("NaN", "+Inf", "-Inf") for one in data["result"])


async def listening(session: aiohttp.ClientSession, api: str) -> None:
    async with asyncio.timeout(WAIT_S):
        while True:
            try:
                return await data_of(session, f"{api}/status/buildinfo")
            except aiohttp.ClientError:
                await asyncio.sleep(0.05)


async def test_every_query_returns_data_and_no_alert_is_raised(tmp_path: Path) -> None:
    """Each query has given a number by the end of a short run, and the run is healthy to every alert."""
    need("prometheus")
    async with lively_service(tmp_path) as port, aiohttp.ClientSession() as session:
        with prometheus(tmp_path, port) as api:
            await listening(session, api)
            open_queries = queries()
            try:
                async with asyncio.timeout(WAIT_S):
                    while open_queries:
                        for name, expression in tuple(open_queries.items()):
                            if await has_data(session, api, expression):
                                del open_queries[name]
                        await asyncio.sleep(0.5)
            except TimeoutError:
                raise AssertionError(f"without data: {open_queries}") from None
            rules = (await data_of(session, f"{api}/rules"))["groups"][0]["rules"]
            assert {rule["health"] for rule in rules} == {"ok"}
            assert (await data_of(session, f"{api}/alerts"))["alerts"] == []


def test_every_panel_says_in_a_sentence_what_it_shows() -> None:
    """A title, a help text that is a sentence, a data source that can be chosen, a place of its own."""
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])
    places = set()
    for panel in panels():
        assert panel["title"]
        assert panel["description"].endswith(".")
        assert panel["datasource"]["uid"] == "${datasource}"
        assert len({target["legendFormat"] for target in panel["targets"]}) == len(panel["targets"])
        places.add((panel["gridPos"]["x"], panel["gridPos"]["y"]))
    assert len(places) == len(panels())


def test_source_and_sink_can_be_chosen_wherever_they_matter() -> None:
    """A query of a metric with the label `source` or `sink` uses the variable of that name."""
    variables = {variable["name"] for variable in DASHBOARD["templating"]["list"]}
    assert variables == {"datasource", "source", "sink"}
    for panel in panels():
        for target in panel["targets"]:
            for name in re.findall(r"callcast_(\w+)", target["expr"]):
                labels = CONTRACT[re.sub(r"_(bucket|sum|count)$", "", name)]
                for label in {"source", "sink"} & labels:
                    assert f'{label}=~"${label}"' in target["expr"], target["expr"]


def test_the_dashboard_leaves_no_metric_out() -> None:
    """Every metric is on the dashboard, except those that are for alerts only."""
    shown = json.dumps(DASHBOARD)
    left_out = {
        *("build_info", "events_total", "config_last_reload_success_timestamp_seconds"),
        *("log_lines_dropped_total", "ready", "outbox_writable", "outbox_resets_total", "clock_skew_seconds"),
    }
    assert {name for name in CONTRACT if f"callcast_{name}" not in shown} == left_out
