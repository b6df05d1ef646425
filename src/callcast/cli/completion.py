"""`callcast completion`: shell completion for commands, options and their values.

The script for a shell runs this command again, with the words typed so far, and is given what may follow.
"""

import argparse
from collections.abc import Iterator, Sequence

from callcast.cli.parser import COMMANDS, build, subparsers

SCRIPTS = {
    "bash": """\
# Completion of callcast for bash.
_callcast() {
    local IFS=$'\\n' word=${COMP_WORDS[COMP_CWORD]}
    local found=$("${COMP_WORDS[0]}" completion bash -- "${COMP_WORDS[@]:1:COMP_CWORD}" 2>/dev/null | cut -f1)
    COMPREPLY=($(compgen -W "$found" -- "$word"))
    [ -n "$found" ] || COMPREPLY=($(compgen -f -- "$word"))
}
complete -o bashdefault -F _callcast callcast
""",
    "zsh": """\
#compdef callcast
# Completion of callcast for zsh.
_callcast() {
    local -a found
    found=("${(@f)$($words[1] completion zsh -- "${(@)words[2,CURRENT]}" 2>/dev/null)}")
    found=("${(@)found/$'\\t'/:}")
    if [ -n "$found" ]; then _describe -o argument found; else _files; fi
}
if [ "$funcstack[1]" = _callcast ]; then _callcast "$@"; else compdef _callcast callcast; fi
""",
    "fish": """\
# Completion of callcast for fish.
function __callcast
    set -l words (commandline -opc)
    set -l word (commandline -ct)
    set -l found ($words[1] completion fish -- $words[2..-1] "$word" 2>/dev/null)
    if set -q found[1]
        printf '%s\\n' $found
    else
        __fish_complete_path "$word"
    end
end
complete -c callcast -f -a '(__callcast)'
""",
}


def run(args: argparse.Namespace) -> None:
    if args.words:
        print("".join(f"{word}\t{text}\n" for word, text in _following(args.words)), end="")
    else:
        print(SCRIPTS[args.shell], end="")


def _following(words: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Yield what the last of the words may become, with a description; nothing where a file name belongs."""
    root, parsers = build()
    if len(words) == 1:
        yield from ((name, command.summary) for name, command in COMMANDS.items())
    found = [root] if len(words) == 1 else subparsers(parsers[words[0]]) if words[0] in parsers else []
    actions = [action for parser in found for action in parser._actions]  # noqa: SLF001 (argparse has no public way)
    options = {name: action for action in actions for name in action.option_strings}
    before = options.get(words[-2]) if len(words) > 1 else None
    if before is not None and before.nargs != 0:
        yield from ((str(word), "") for word in before.choices or ())
        return
    if len(words) > 1:
        yield from ((str(word), "") for action in actions if not action.option_strings for word in action.choices or ())
    for name, action in options.items():
        yield name, " ".join((action.help or "").split()).split(". ")[0].replace("%(default)s", str(action.default))
