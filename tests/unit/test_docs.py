"""The documentation leads where it says: every relative link, every anchor, every file that it names."""

import re
from pathlib import Path

import pytest

from callcast.cli.parser import COMMANDS
from tests import ROOT

PAGES = sorted(
    [
        ROOT / "README.md",
        ROOT / "CHANGELOG.md",
        ROOT / "CONTRIBUTING.md",
        ROOT / "SECURITY.md",
        *(ROOT / "docs").glob("*.md"),
    ]
)
LINK = re.compile(r"\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#{1,6}\s+(.*)$", re.MULTILINE)


def anchors(page: Path) -> set[str]:
    """As code hosts make them: lower case, spaces to dashes, everything else but letters, digits, - and _ left out."""
    headings = HEADING.findall(page.read_text())
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_relative_link_leads_somewhere(page: Path) -> None:
    """Files exist, anchors too; links to other hosts are left alone."""
    for link in LINK.findall(page.read_text()):
        if "://" in link or link.startswith(("mailto:", "tel:")):
            continue
        name, _, anchor = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        assert target.exists(), f"{page.name}: {link}"
        if anchor and target.suffix == ".md":
            assert anchor in anchors(target), f"{page.name}: {link}"


@pytest.mark.parametrize("page", ["CONTRIBUTING.md", "docs/architecture.md"])
def test_every_file_that_contributors_are_sent_to_exists(page: str) -> None:
    """As it stands there, or below the package; a name in capitals stands for any."""
    named = re.findall(r"`((?:[\w.-]+/)+[\w.-]*|[\w-]+\.(?:py|md|toml))`", (ROOT / page).read_text())
    named = [name for name in named if not re.search(r"\bNAME\b|^dist/", name)]
    assert len(named) >= 4
    places = (ROOT, ROOT / "src/callcast", *(ROOT / "src/callcast").glob("*/"), ROOT / "src/callcast/outbox/sqlite")
    assert [name for name in named if not any((place / name).exists() for place in places)] == []


def test_every_name_that_the_architecture_mentions_exists() -> None:
    """Functions, classes and constants are called as the code calls them."""
    code = "".join(path.read_text() for path in [*(ROOT / "src").rglob("*.py"), *(ROOT / "src").rglob("*.js")])
    code += (ROOT / "pyproject.toml").read_text() + (ROOT / "tests/unit/observability/test_metrics.py").read_text()
    code += (ROOT / "tests/contract/test_outbox.py").read_text()
    text = re.sub(r"```.*?```", "", (ROOT / "docs/architecture.md").read_text(), flags=re.DOTALL)
    named = {name.rsplit(".", 1)[-1] for name in re.findall(r"`([A-Za-z_][\w.]*)(?:\([^`]*\))?`", text)}
    named -= {"", "py", "toml", "md", "json", "key", "yml"}  # of file names
    assert len(named) >= 40
    assert sorted(named - set(re.findall(r"\w+", code))) == []


@pytest.mark.parametrize("page", ["README.md", "CHANGELOG.md"])
def test_every_command_is_named(page: str) -> None:
    """Each is introduced to newcomers."""
    text = (ROOT / page).read_text()
    assert [name for name in COMMANDS if f"`{name}`" not in text] == []
