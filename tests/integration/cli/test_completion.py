"""The completion scripts, in the shells that they are for."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest


def script(shell: str) -> str:
    command = [sys.executable, "-m", "callcast", "completion", shell]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def needed(shell: str) -> str:
    """The shell's path; without it the test skips on a laptop and fails where CI is set."""
    if path := shutil.which(shell):
        return path
    if os.environ.get("CI"):
        pytest.fail(f"{shell} is not installed")
    pytest.skip(f"{shell} is not installed")


ENVIRON = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}  # with callcast


def in_bash(path: Path, *words: str) -> set[str]:
    line = " ".join(f"'{word}'" for word in words)
    ask = f'. {path}; COMP_WORDS=({line}); COMP_CWORD={len(words) - 1}; _callcast; printf "%s\\n" "${{COMPREPLY[@]}}"'
    answer = subprocess.run(
        [needed("bash"), "-c", ask], capture_output=True, text=True, check=True, cwd=path.parent, env=ENVIRON
    )
    assert answer.stderr == ""
    return set(answer.stdout.split())


def in_zsh(path: Path, *words: str) -> set[str]:
    """With zsh's own functions replaced by ones that print what they are given."""
    line = " ".join(f"'{word}'" for word in words)
    ask = (
        "compdef() { :; }; _files() { print FILES; }; compadd() { print -l -- $@; };"
        "_describe() { local name=${@[-1]}; print -l -- ${(P)name%%:*}; };"
        f". {path}; words=({line}); CURRENT={len(words)}; _callcast"
    )
    answer = subprocess.run([needed("zsh"), "-f", "-c", ask], capture_output=True, text=True, check=True, env=ENVIRON)
    assert answer.stderr == ""
    return set(answer.stdout.split())


def in_fish(path: Path, *words: str) -> set[str]:
    ask = f"source {path}; complete -C '{' '.join(words)}'"
    command = [needed("fish"), "--no-config", "-c", ask]
    answer = subprocess.run(command, capture_output=True, text=True, check=True, cwd=path.parent, env=ENVIRON)
    assert answer.stderr == ""
    return {line.split("\t")[0] for line in answer.stdout.splitlines()}


SHELLS = {"bash": in_bash, "zsh": in_zsh, "fish": in_fish}


@pytest.mark.parametrize("shell", SHELLS)
def test_commands_options_and_words_are_completed(tmp_path: Path, shell: str) -> None:
    """The first word is a command; then come the command's own words and options, and files where a file is wanted."""
    path = tmp_path / "completion"
    path.write_text(script(shell))
    (tmp_path / "callcast.toml").touch()
    ask = SHELLS[shell]
    assert {"run", "check", "tail", "listen", "schema"} <= ask(path, "callcast", "")
    assert {"event", "asyncapi", "config"} <= ask(path, "callcast", "schema", "")
    assert "--ready" in ask(path, "callcast", "healthcheck", "--r")
    assert ask(path, "callcast", "run", "--config", "") & {"callcast.toml", "FILES"}
    assert {"python", "javascript", "php"} <= ask(path, "callcast", "listen", "--code", "")
    assert {"list", "show", "--config"} <= ask(path, "callcast", "dead", "")
    assert "--older-than" in ask(path, "callcast", "dead", "list", "--o")
