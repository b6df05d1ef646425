"""The corpus of broken configurations: what a person reads who made the mistake.

`broken/NAME.toml` with the variables of `NAME.env`, if there is one, must give exactly `NAME.txt`.
After a change of the wording: `python -m tests.unit.config.test_broken` writes the reports anew; read the difference.
"""

import os
from functools import cache
from pathlib import Path

import pytest

from callcast.config import ConfigError, load

BROKEN = Path(__file__).parent / "broken"
NAMES = sorted(path.stem for path in BROKEN.glob("*.toml"))


def environ_of(name: str) -> dict[str, str]:
    path = BROKEN / f"{name}.env"
    lines = path.read_text().splitlines() if path.exists() else []
    return dict(line.split("=", 1) for line in lines)


@cache
def report_of(name: str) -> str:
    """The report, read in the folder of the corpus so that it names no machine's path."""
    before = Path.cwd()
    os.chdir(BROKEN)
    try:
        load(Path(f"{name}.toml"), environ_of(name))
    except ConfigError as faults:
        return f"{faults}\n"
    finally:
        os.chdir(before)
    return "good\n"


@pytest.mark.parametrize("name", NAMES)
def test_report(name: str) -> None:
    """Each mistake is reported in exactly the words that were reviewed."""
    assert report_of(name) == (BROKEN / f"{name}.txt").read_text()


def test_corpus_is_large_and_broken() -> None:
    """The corpus holds at least sixty files, and none of them passes."""
    assert len(NAMES) >= 60
    assert not [name for name in NAMES if (BROKEN / f"{name}.txt").read_text() == "good\n"]


@pytest.mark.parametrize("name", NAMES)
def test_no_secret_in_a_report(name: str) -> None:
    """Every secret of the corpus holds the word canary, and no report does."""
    assert "canary" not in report_of(name).lower()


if __name__ == "__main__":
    for each in NAMES:
        (BROKEN / f"{each}.txt").write_text(report_of(each))
