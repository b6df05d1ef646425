"""`callcast completion`: print shell completion for commands, options and their values."""

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from callcast.cli.parser import COMMANDS, build, subparsers


def run(args: argparse.Namespace) -> None:
    scripts: Mapping[str, Callable[[Sequence[Command]], str]] = {"bash": bash, "zsh": zsh, "fish": fish}
    commands = [_command(name, COMMANDS[name].summary, parser) for name, parser in build()[1].items()]
    print(scripts[args.shell](commands), end="")


@dataclass(frozen=True)
class Option:
    """An option. `names` include their dashes; `words` are the possible values; `path`: the value is a file name."""

    names: tuple[str, ...]
    help: str
    takes_value: bool
    words: tuple[str, ...]
    path: bool


@dataclass(frozen=True)
class Command:
    name: str
    help: str
    words: tuple[str, ...]
    options: tuple[Option, ...]


def _command(name: str, summary: str, parser: argparse.ArgumentParser) -> Command:
    """Return a command with all its options, including those of its subcommands."""
    words: dict[str, None] = {}
    options: dict[tuple[str, ...], Option] = {}
    for one in subparsers(parser):
        for action in one._actions:  # noqa: SLF001 (argparse has no public way to list options)
            if action.option_strings:
                options.setdefault(tuple(action.option_strings), _option(one, action))
            else:
                words.update(dict.fromkeys(map(str, action.choices or ())))
    return Command(name, summary, tuple(words), tuple(options.values()))


def _option(parser: argparse.ArgumentParser, action: argparse.Action) -> Option:
    help_text = parser._get_formatter()._expand_help(action) if action.help else ""  # noqa: SLF001
    takes_value = action.nargs != 0
    path = takes_value and action.metavar in ("PATH", "FILE")
    words = tuple(map(str, action.choices or ()))
    return Option(tuple(action.option_strings), _line(help_text), takes_value, words, path)


def _line(text: str) -> str:
    """Return the first sentence on one line."""
    line = " ".join(text.split())
    return line.split(". ")[0].rstrip(".")[:100]


BASH = """\
# Completion of callcast for bash.
_callcast() {{
    local word=${{COMP_WORDS[COMP_CWORD]}} before=${{COMP_WORDS[COMP_CWORD-1]}} words=""
    COMPREPLY=()
    if [ "$COMP_CWORD" -eq 1 ]; then
        COMPREPLY=($(compgen -W "{commands} --help --version" -- "$word"))
        return
    fi
    case "${{COMP_WORDS[1]}} $before" in
{values}
    esac
    case "${{COMP_WORDS[1]}}" in
{options}
    esac
    COMPREPLY=($(compgen -W "$words" -- "$word"))
}}
complete -o bashdefault -F _callcast callcast
"""


def bash(commands: Sequence[Command]) -> str:
    values, options = [], []
    for command in commands:
        for option in (option for option in command.options if option.takes_value):
            patterns = "|".join(f'"{command.name} {name}"' for name in option.names)
            answer = "compgen -f" if option.path else f'compgen -W "{" ".join(option.words)}"'
            values.append(f'        {patterns}) COMPREPLY=($({answer} -- "$word")); return ;;')
        flags = [name for option in command.options for name in option.names]
        options.append(f'        {command.name}) words="{" ".join([*command.words, *flags])}" ;;')
    names = " ".join(command.name for command in commands)
    return BASH.format(commands=names, values="\n".join(values), options="\n".join(options))


ZSH = """\
#compdef callcast
# Completion of callcast for zsh.
_callcast() {{
    local -a found
    if (( CURRENT == 2 )); then
        found=({commands})
        _describe command found
        return
    fi
    case "$words[2] $words[CURRENT-1]" in
{values}
    esac
    case "$words[2]" in
{options}
    esac
    _describe -o argument found
}}
if [ "$funcstack[1]" = _callcast ]; then _callcast "$@"; else compdef _callcast callcast; fi
"""


def zsh(commands: Sequence[Command]) -> str:
    values, options = [], []
    for command in commands:
        for option in (option for option in command.options if option.takes_value):
            patterns = "|".join(f'"{command.name} {name}"' for name in option.names)
            answer = "_files" if option.path else f"compadd -- {' '.join(option.words)}".rstrip(" -")
            values.append(f"        {patterns}) {answer if option.path or option.words else ':'}; return ;;")
        shown = [_quoted(f"{word}") for word in command.words]
        shown += [
            _quoted(f"{name}:{option.help.replace(':', '')}") for option in command.options for name in option.names
        ]
        options.append(f"        {command.name}) found=({' '.join(shown)}) ;;")
    shown_all = " ".join(_quoted(f"{command.name}:{command.help.replace(':', '')}") for command in commands)
    return ZSH.format(commands=shown_all, values="\n".join(values), options="\n".join(options))


def fish(commands: Sequence[Command]) -> str:
    lines = ["# Completion of callcast for fish.", "complete -c callcast -f"]
    for command in commands:
        lines.append(f"complete -c callcast -n __fish_use_subcommand -a {command.name} -d {_quoted(command.help)}")
        here = f"complete -c callcast -n '__fish_seen_subcommand_from {command.name}'"
        lines += [f"{here} -a {_quoted(' '.join(command.words))}"] if command.words else []
        lines += [f"{here} {_fish_option(option)}" for option in command.options]
    return "\n".join(lines) + "\n"


def _fish_option(option: Option) -> str:
    names = " ".join(f"-l {name[2:]}" if name.startswith("--") else f"-s {name[1:]}" for name in option.names)
    value = "-r" if option.takes_value else ""
    value += " -F" if option.path else ""
    value += f" -a {_quoted(' '.join(option.words))}" if option.words else ""
    return f"{names} {value} -d {_quoted(option.help)}".replace("  ", " ")


def _quoted(text: str) -> str:
    """Quote text for a shell."""
    return "'" + text.replace("\\", "").replace("'", "’") + "'"
