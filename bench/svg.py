"""Pictures for RESULTS.md: bars that lie on their side, and lines over time. Nothing but text."""

from collections.abc import Mapping, Sequence
from xml.sax.saxutils import escape

WIDTH, LEFT, RIGHT, ROW, TOP = 760, 250, 90, 24, 44
COLOURS = ("#1f6feb", "#8250df", "#bf8700", "#1a7f37", "#cf222e", "#57606a")
STYLE = 'font-family="system-ui, sans-serif" font-size="13" fill="#57606a"'


def _whole(height: int, title: str, inner: Sequence[str]) -> str:
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" {STYLE}>'
    name = f'<text x="12" y="24" font-size="15" font-weight="600">{escape(title)}</text>'
    return "\n".join([head, f"<title>{escape(title)}</title>", name, *inner, "</svg>"]) + "\n"


def bars(title: str, values: Mapping[str, float], unit: str) -> str:
    """One bar for each name; a colour for each first word, so that callcast's are all alike."""
    most, inner = max(values.values(), default=1.0) or 1.0, []
    colours = {word: COLOURS[at % len(COLOURS)] for at, word in enumerate(dict.fromkeys(map(_word, values)))}
    for at, (name, value) in enumerate(values.items()):
        y, length = TOP + at * ROW, (WIDTH - LEFT - RIGHT) * value / most
        inner += [
            f'<text x="{LEFT - 10}" y="{y + 14}" text-anchor="end">{escape(name)}</text>',
            f'<rect x="{LEFT}" y="{y}" width="{max(length, 1):.1f}" height="16" rx="2" fill="{colours[_word(name)]}"/>',
            f'<text x="{LEFT + length + 8:.1f}" y="{y + 13}">{_said(value)} {escape(unit)}</text>',
        ]
    return _whole(TOP + len(values) * ROW + 8, title, inner)


def _said(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _word(name: str) -> str:
    return name.partition(" ")[0]


def line(title: str, values: Sequence[float], seconds: float, unit: str) -> str:
    """One line over time, from nought up."""
    height, bottom, most = 260, 220, 1.15 * max(values)
    step = (WIDTH - 130) / max(1, len(values) - 1)
    points = " ".join(f"{60 + at * step:.1f},{bottom - 160 * value / most:.1f}" for at, value in enumerate(values))
    ticks = [
        f'<line x1="60" x2="{WIDTH - 70}" y1="{y:.1f}" y2="{y:.1f}" stroke="#d0d7de"/>'
        f'<text x="52" y="{y + 4:.1f}" text-anchor="end">{value:.0f}</text>'
        for value in (0.0, most / 2, most)
        for y in (bottom - 160 * value / most,)
    ]
    words = f'<text x="60" y="244">0</text><text x="{WIDTH - 70}" y="244" text-anchor="end">{seconds:.0f} s</text>'
    unit_word = f'<text x="{WIDTH - 60}" y="{bottom - 150}">{escape(unit)}</text>'
    curve = f'<polyline points="{points}" fill="none" stroke="{COLOURS[0]}" stroke-width="2"/>'
    return _whole(height, title, [*ticks, curve, words, unit_word])
