"""Writes docs/metrics.md from the definitions in the code.

Run it after a change of them: python docs/make_metrics.py
"""

from pathlib import Path

from callcast.observability.metrics import (
    COMPUTED,
    EXTENSIONS_MAX,
    LABEL_VALUES_MAX,
    NAMESPACE,
    REPORTED,
    Definition,
)

PAGE = Path(__file__).with_name("metrics.md")
HEAD = """# Metrics

<!-- written by docs/make_metrics.py -->

`/metrics` has these, and the process metrics of the Prometheus client (`process_*`). [Monitor](operating.md#monitor)
shows how to scrape them; alerts and a dashboard are in `deploy/`.

Series exist from the start, with 0, so an absent series means that the source or sink does not exist. At most {values}
values of a label that come from outside have their own series; further ones are counted as `other`. With more than
{extensions} extensions, `extension` is `*`.

| metric | type | labels | meaning |
|---|---|---|---|
"""


def page() -> str:
    head = HEAD.format(values=LABEL_VALUES_MAX, extensions=EXTENSIONS_MAX)
    return head + "".join(_row(name, one) for name, one in sorted({**REPORTED, **COMPUTED}.items()))


def _row(name: str, one: Definition) -> str:
    total = "_total" if one.kind == "counter" else ""
    labels = ", ".join(f"`{label}`" for label in one.labels)
    return f"| `{NAMESPACE}_{name}{total}` | {one.kind} | {labels} | {one.help} |\n"


if __name__ == "__main__":
    PAGE.write_text(page())
