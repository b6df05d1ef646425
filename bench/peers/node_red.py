"""(b) The same as a Node-RED flow, installed on demand into `bench/.cache`, which git does not see."""

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

from bench.child import BenchFailed
from tests.ports import free_port

VERSION = "4.1.15"
CACHE = Path(__file__).parents[1] / ".cache" / "node-red"
PROGRAM = CACHE / "node_modules" / "node-red" / "red.js"
INSTALL_S = 300
FUNCTIONS = Path(__file__).parent / "node_red_functions"
SETTINGS = """\
module.exports = {{
  flowFile: "flow.json", uiHost: "127.0.0.1", uiPort: {port}, httpAdminRoot: false, httpNodeRoot: false,
  credentialSecret: false, logging: {{ console: {{ level: "fatal" }} }},
  functionGlobalContext: {{ out: process.stdout, job: require({job}) }},
}};
"""


def install() -> str | None:
    """Make it be there. Returns why it cannot, in a few words, or None."""
    npm = shutil.which("npm")
    if npm is None or shutil.which("node") is None:
        return "node and npm are not installed"
    if PROGRAM.exists():
        return None
    CACHE.mkdir(parents=True, exist_ok=True)
    command = [npm, "install", "--prefix", str(CACHE), "--no-audit", "--no-fund", f"node-red@{VERSION}"]
    try:
        subprocess.run(command, check=True, timeout=INSTALL_S, capture_output=True)
    except (subprocess.SubprocessError, OSError) as error:
        return f"npm install node-red failed ({type(error).__name__})"
    return None


def command(folder: Path, job: Path) -> tuple[str, ...]:
    refused = install()
    if refused:
        raise BenchFailed(refused)
    (folder / "flow.json").write_text(json.dumps(_flow(json.loads(job.read_text()))))
    (folder / "settings.js").write_text(SETTINGS.format(port=free_port(), job=json.dumps(str(job))))
    return ("node", str(PROGRAM), "--userDir", str(folder), "--settings", str(folder / "settings.js"))


def _flow(job: dict[str, Any]) -> list[dict[str, Any]]:
    """start -> log in -> pace -> poll -> compare -> post, publish, print; what was polled goes back to pace."""
    return [
        {"id": "tab", "type": "tab", "label": "calls"},
        _node("inject", "start", ["grant"], once=True, onceDelay=0.1, props=[{"p": "payload"}]),
        _function("grant", ["login"]),
        _request("login", "POST", ["pace"]),
        _function("pace", ["poll"]),
        _request("poll", "GET", ["compare"]),
        _function("compare", ["post", "publish", "print"], ["pace"]),
        _request("post", "POST", [], url=job["hook"]),
        _node("mqtt out", "publish", [], broker="broker", topic="", qos="1", retain="false"),
        _function("print"),
        _broker(job["mqtt"]),
    ]


def _node(kind: str, name: str, *wires: list[str], **more: Any) -> dict[str, Any]:
    to = [[f"node-{one}" for one in wire] for wire in wires]
    return {"id": f"node-{name}", "type": kind, "z": "tab", "name": name, "x": 0, "y": 0, "wires": to, **more}


def _function(name: str, *wires: list[str]) -> dict[str, Any]:
    code = (FUNCTIONS / f"{name}.js").read_text()
    return _node("function", name, *wires, func=code, outputs=len(wires), initialize="", finalize="", libs=[])


def _request(name: str, method: str, wires: list[str], url: str = "") -> dict[str, Any]:
    return _node("http request", name, wires, method=method, ret="obj", url=url, persist=True, senderr=False)


def _broker(port: int) -> dict[str, Any]:
    return {
        "id": "broker",
        "type": "mqtt-broker",
        "broker": "127.0.0.1",
        "port": str(port),
        "autoConnect": True,
        "usetls": False,
        "protocolVersion": "4",
        "keepalive": "60",
        "cleansession": True,
    }
