"""The walk over a TOML file finds a line for everything that the standard library reads in it."""

import tomllib

from hypothesis import given
from hypothesis import strategies as st

from callcast.config.toml_lines import KeyPath, locate

TEXT = '''\
# a comment with [brackets] and "quotes"
top = 1
"quoted.key".sub = """one
two "" three"""
literal = \'\'\'it's
[not.a.table]\'\'\'

[a.b] # comment
c = [ # comment
  "]", '}',
  { d = 1, "e f" = [2,
     3] },
]
d.e.f = 1979-05-27 07:32:00
[[list]]
x = "\\"#"
[[list]]
[list.sub]
y = 1
'''


def paths(value: object, base: KeyPath = ()) -> set[KeyPath]:
    if isinstance(value, dict):
        parts: list[tuple[str | int, object]] = list(value.items())
    elif isinstance(value, list):
        parts = list(enumerate(value))
    else:
        parts = []
    below = [paths(one, (*base, key)) for key, one in parts]
    return {base}.union(*below) if base else set().union(*below)


def test_lines() -> None:
    """Keys, dotted keys, tables, lists, inline tables and texts over several lines are found where they begin."""
    lines = locate(TEXT)
    assert lines[("top",)] == 2
    assert lines[("quoted.key", "sub")] == 3
    assert lines[("literal",)] == 5
    assert lines[("a", "b")] == 8
    assert lines[("a", "b", "c")] == 9
    assert lines[("a", "b", "c", 1)] == 10
    assert lines[("a", "b", "c", 2, "d")] == 11
    assert lines[("a", "b", "c", 2, "e f", 1)] == 12
    assert lines[("a", "b", "d", "e", "f")] == 14
    assert lines[("list", 0, "x")] == 16
    assert lines[("list", 1, "sub", "y")] == 19
    assert paths(tomllib.loads(TEXT)) <= set(lines)


ATOMS = [
    "a",
    "b",
    '"c d"',
    "'e.f'",
    "1",
    "-2.5e3",
    "true",
    '"#]}\\""',
    "'[x'",
    '"""q"r\n"""',
    "'''s'\n'''",
    "1979-05-27",
]
MARKS = [
    " = ",
    ".",
    ", ",
    "[",
    "]",
    "{",
    "}",
    "[[",
    "]]",
    "\n",
    "\r\n",
    " # note ]\n",
    " ",
    "\t",
    "\n[a]\n",
    "\n[[b]]\n",
    "\nc = ",
]


@given(st.lists(st.sampled_from(ATOMS + MARKS), max_size=25).map("".join))
def test_whatever_tomllib_reads_is_located(text: str) -> None:
    """For any text that is TOML, every key that was read has a line of the text."""
    try:
        data = tomllib.loads(text)
    except ValueError:
        return
    lines = locate(text)
    assert paths(data) <= set(lines)
    assert all(1 <= line <= text.count("\n") + 1 for line in lines.values())


KEYS = st.text(min_size=1, max_size=6)
VALUES = st.recursive(
    st.integers() | st.booleans() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3),
    max_leaves=8,
)


def toml(value: object) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{toml(key)} = {toml(one)}" for key, one in value.items()) + "}"
    if isinstance(value, list):
        return "[\n" + ",\n".join(map(toml, value)) + "\n]"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return (
            '"' + "".join(f"\\U{ord(one):08X}" if not one.isalnum() or ord(one) > 126 else one for one in value) + '"'
        )
    return str(value)


@given(st.dictionaries(KEYS.filter(lambda key: key < "\ud800" or key > "\udfff"), VALUES, max_size=4))
def test_keys_of_any_characters(data: dict[str, object]) -> None:
    """Quoted and escaped keys are found under the name that they mean."""
    text = "".join(f"{toml(key)} = {toml(value)}\n" for key, value in data.items())
    try:
        read = tomllib.loads(text)
    except ValueError:
        return
    assert paths(read) <= set(locate(text))
