"""The alerts: read by Prometheus's own tool, each fires in its fault, each has a runbook."""

import re
from pathlib import Path
from typing import Any

import yaml

from tests.integration.deploy.tools import DEPLOY, DOCS, need, run_tool
from tests.unit.observability.test_metrics import CONTRACT

RULES, TESTS = DEPLOY / "prometheus/alerts.yml", DEPLOY / "prometheus/alerts.test.yml"


def alerts() -> list[dict[str, Any]]:
    return [rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]]


def anchors(page: Path) -> set[str]:
    """The anchors that a forge makes of the page's headings."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_promtool_reads_the_rules() -> None:
    """No fault in syntax or expressions."""
    assert "SUCCESS" in run_tool(need("promtool", "prometheus"), "check", "rules", RULES)


def test_each_alert_fires_in_its_fault_and_is_quiet_in_the_healthy_run() -> None:
    """Labels and texts too, as alerts.test.yml has them."""
    assert "SUCCESS" in run_tool(need("promtool", "prometheus"), "test", "rules", TESTS)


def test_each_alert_is_tested_healthy_and_in_its_fault() -> None:
    """None is forgotten in alerts.test.yml."""
    healthy, *faults = yaml.safe_load(TESTS.read_text())["tests"]
    names = {alert["alert"] for alert in alerts()}
    assert {case["alertname"] for case in healthy["alert_rule_test"]} == names
    fired = {case["alertname"] for fault in faults for case in fault["alert_rule_test"] if case["exp_alerts"]}
    assert fired == names


def test_each_alert_says_what_it_is_and_where_its_runbook_is() -> None:
    """Summary, description, severity, and a heading that exists."""
    known = anchors(DOCS / "operating.md")
    assert len(alerts()) >= 10
    for alert in alerts():
        texts = alert["annotations"]
        assert texts["summary"], alert
        assert texts["description"].endswith("."), alert
        assert alert["labels"]["severity"] in ("critical", "warning")
        assert texts["runbook"] == f"{alert['alert']} in docs/operating.md"
        assert alert["alert"].lower() in known
        assert texts.get("runbook_url", "https://").startswith("https://"), "a relative link leads nowhere"


def test_the_alerts_ask_for_metrics_that_exist() -> None:
    """Each name in an expression is one that the service shows."""
    for alert in alerts():
        for name in re.findall(r"callcast_(\w+)", alert["expr"]):
            known = {one.removesuffix("_total") for one in CONTRACT}
            assert re.sub(r"_(total|count)$", "", name) in known, name
