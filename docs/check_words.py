"""Keeps words out of the project that the glossary replaces: one term per concept.

`python docs/check_words.py` prints each place with the term to use, and exits with 1 if there is one.
"""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
# Written by others, or by a program; and this file, which must name the words.
LEFT_OUT = ("tests/samples/", "tests/openapi/", "tests/node/package-lock.json", "docs/check_words.py")
READ = {".py", ".md", ".toml", ".yml", ".yaml", ".js", ".css", ".html", ".json", ".service", ""}

_BEFORE_LOOK = "a|the|each|every|last|good|next|first|failed|successful|complete|missed|between|per|two"
WORDS = {
    r"sightings?": "observation (CallObservation)",
    r"Look|\w+_looks?|looks?_(?!for|at|up|like|after|again)\w+": "poll (PollRecord, PollFailed)",
    rf"(?:{_BEFORE_LOOK}) looks?(?! at| for| like| up| after)": "poll",
    r"first_look": "first_poll",
    r"picture of|Picture": "CallIndex; for images, `image`",
    r"ledgers?": "recorder (ChangeRecorder)",
    r"reconcilers?": "backfill",
    r"fleets?": "TaskSupervisor",
    r"deliverers?": "delivery worker (DeliveryWorker)",
    r"debts?": "pending delivery; all of them: backlog",
    r"is owed|owes|(?<!sum\()(?<!TO )owed": "pending",
    r"lanes?": "ordering key",
    r"(?<!dead )(?<!dead-)letters?(?= that| of a sink)": "dead letter",
    r"desks?(?!top)": "OutboxAdmin",
    r"glances?": "summary",
    r"far sides?": "remote side",
    r"far_sides?": "remote_side",
    r"shelf life": "time to live",
    r"(?:not )?to be had": "unreachable, unavailable",
    r"[Nn]obody": "none, not set, or a sentence with a subject",
    r"[Ww]hoever": "a sentence with a subject",
    r"wants an eye": "needs attention",
    r"needs nobody": "recovers automatically",
    r"LiveBoard|\bthe board\b": "live calls; the page: wallboard",
}
PATTERN = re.compile("|".join(rf"(?P<w{n}>(?<![A-Za-z0-9])(?:{word})(?![A-Za-z0-9]))" for n, word in enumerate(WORDS)))
TERMS = list(WORDS.values())


def faults(name: str, text: str) -> list[str]:
    """Each forbidden word of a file, as `file:line: word: use this`."""
    found = []
    for number, line in enumerate(text.splitlines(), 1):
        for match in PATTERN.finditer(line):
            term = TERMS[int((match.lastgroup or "w0")[1:])]
            found.append(f"{name}:{number}: `{match[0]}`: use {term}")
    return found


def main() -> int:
    """Check every file that git tracks."""
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True)  # noqa: S607
    found = [
        fault
        for name in listed.stdout.splitlines()
        if not name.startswith(LEFT_OUT) and Path(name).suffix in READ and (ROOT / name).is_file()
        for fault in faults(name, (ROOT / name).read_text(errors="replace"))
    ]
    print("\n".join(found) or "no forbidden words")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
