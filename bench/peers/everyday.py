"""(a) The script that a competent developer writes in an afternoon: requests in a loop, a dict, post, publish, print.

One session with keep-alive, one request after the other. No retry and no store: what fails is lost.
"""

import json
import time
from typing import Any

import paho.mqtt.client as paho
import requests

from bench.peers import job

QUERY = {"view": "Detailed", "type": "Voice", "perPage": 1000}


def state_of(record: dict[str, Any]) -> str:
    if record["result"] != "In Progress":
        return "call.ended"
    if any(leg.get("reason") == "Accepted" for leg in record.get("legs", [])):
        return "call.answered"
    return "call.ringing"


def event_of(record: dict[str, Any], state: str) -> dict[str, Any]:
    return {
        "type": state,
        "session_id": record["telephonySessionId"],
        "extension_id": str(record["extension"]["id"]),
        "direction": record["direction"],
        "started_at": record["startTime"],
        "from": record.get("from"),
        "to": record.get("to"),
        "result": record["result"],
        "duration": record.get("duration"),
    }


class Script:
    def __init__(self, todo: job.Job) -> None:
        self._todo = todo
        self._api, self._hook = requests.Session(), requests.Session()
        self._known: dict[str, dict[str, str]] = {path: {} for path in todo.targets}
        self._broker = paho.Client(paho.CallbackAPIVersion.VERSION2)
        self._broker.connect("127.0.0.1", todo.mqtt)
        self._broker.loop_start()

    def log_in(self) -> None:
        grant = {"grant_type": "urn:ietf:params:oauth:grant-type:jwt-bearer", "assertion": "jwt"}
        answer = self._api.post(f"{self._todo.server}/restapi/oauth/token", data=grant, auth=("app", "secret"))
        self._api.headers["Authorization"] = "Bearer " + answer.json()["access_token"]

    def poll(self, path: str) -> None:
        answer = self._api.get(self._todo.server + path, params=QUERY, timeout=30)
        answer.raise_for_status()
        before, now = self._known[path], {}
        for record in answer.json()["records"]:
            session, state = record["telephonySessionId"], state_of(record)
            now[session] = state
            if before.get(session) != state:
                self.send(event_of(record, state))
        self._known[path] = now

    def send(self, event: dict[str, Any]) -> None:
        self._hook.post(self._todo.hook, json=event, timeout=15).raise_for_status()
        text = json.dumps(event)
        self._broker.publish(f"callcast/acme/{event['extension_id']}/events/{event['type']}", text, qos=1)
        print(text, flush=True)

    def run(self) -> None:
        self.log_in()
        while True:
            began = time.monotonic()
            for path in self._todo.targets:
                self.poll(path)
            time.sleep(max(0.0, began + self._todo.interval_s - time.monotonic()))


if __name__ == "__main__":
    Script(job.read()).run()
