"""Plots as inline SVG, without script and without a style of their own. All text is escaped.

Lengths are in SVG units, times in Unix seconds. If there is nothing to plot, a sentence says so.
"""

from __future__ import annotations

import html
from collections.abc import Sequence
from datetime import UTC, datetime

WIDTH, LEFT, RIGHT, ROW, BAR = 640, 190, 90, 24, 14
PLOT = WIDTH - LEFT - RIGHT
HEIGHT = 180
MAX_POINTS = 400
MAX_ROWS = 20
MAX_LABEL = 26

Span = tuple[str, int, int]
"""(label, first second, last second)."""


def safe(value: object) -> str:
    """A text that can stand in HTML as text or as an attribute: it contains no markup and no
    control characters."""
    shown = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in str(value))
    return html.escape(shown, quote=True)


def moment(second: int) -> str:
    """The time in ISO 8601 to the minute, in UTC. A number that no calendar has stays a number."""
    try:
        return f"{datetime.fromtimestamp(second, UTC):%Y-%m-%d %H:%MZ}"
    except (ValueError, OverflowError, OSError):
        return str(second)


def growth(times: Sequence[int], title: str) -> str:
    """A step line over time: how many there were by then."""
    points = _thinned([(time, count) for count, time in enumerate(sorted(times), 1)])
    if not points:
        return _nothing(title)
    first, last = points[0][0], points[-1][0]
    most, base = points[-1][1], HEIGHT - 30
    path, y = [f"M{LEFT} {base}"], base
    for time, count in points:
        x = _x(time, first, last)
        path.append(f"H{x:.1f}")
        y = round(base - (base - 20) * count / most)
        path.append(f"V{y}")
    path.append(f"H{WIDTH - RIGHT}")
    body = (
        _axis(LEFT, base, WIDTH - RIGHT, base)
        + f'<path class="line" d="{" ".join(path)}"/>'
        + _text(LEFT - 8, 24, most, "end")
        + _text(LEFT - 8, base, 0, "end")
        + _text(LEFT, HEIGHT - 10, moment(first), "start")
        + _text(WIDTH - RIGHT, HEIGHT - 10, moment(last), "end")
    )
    return _svg(title, HEIGHT, body)


def spans(rows: Sequence[Span], title: str) -> str:
    """One row for each span, with a bar from its first to its last second."""
    if not rows:
        return _nothing(title)
    shown = rows[:MAX_ROWS]
    first, last = min(row[1] for row in shown), max(row[2] for row in shown)
    base = len(shown) * ROW + 10
    body = ""
    for at, (label, begin, end) in enumerate(shown):
        start, stop = _x(begin, first, last), _x(end, first, last)
        body += _bar(at, label, start, max(stop - start, 3.0), "")
    body += _axis(LEFT, base, WIDTH - RIGHT, base)
    body += _text(LEFT, base + 18, moment(first), "start")
    body += _text(WIDTH - RIGHT, base + 18, moment(last), "end")
    return _svg(title, base + 28, body) + _left_out(len(rows))


def bars(rows: Sequence[tuple[str, int]], title: str, unit: str = "") -> str:
    """One row for each number, with a bar of that length. No number is below 0."""
    if not rows:
        return _nothing(title)
    shown = rows[:MAX_ROWS]
    most = max(1, *(value for _, value in shown))
    body = "".join(
        _bar(at, label, LEFT, PLOT * value / most, f"{value}{unit}")
        for at, (label, value) in enumerate(shown)
    )
    return _svg(title, len(shown) * ROW + 10, body) + _left_out(len(rows))


def _bar(at: int, label: str, start: float, width: float, value: str) -> str:
    y = at * ROW + 6
    short = label if len(label) <= MAX_LABEL else label[: MAX_LABEL - 1] + "…"
    rect = f'<rect class="bar" x="{start:.1f}" y="{y}" width="{width:.1f}" height="{BAR}">'
    return (
        _text(LEFT - 8, y + BAR - 3, short, "end")
        + f"{rect}<title>{safe(label)}</title></rect>"
        + _text(start + width + 6, y + BAR - 3, value, "start")
    )


def _x(time: int, first: int, last: int) -> float:
    return LEFT + PLOT * (time - first) / max(1, last - first)


def _thinned(points: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """At most MAX_POINTS of the points, among them the last one."""
    every = max(1, -(-len(points) // (MAX_POINTS - 1)))
    return [*points[:-1:every], *points[-1:]]


def _svg(title: str, height: int, body: str) -> str:
    head = f'<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{safe(title)}">'
    return f"<figure><figcaption>{safe(title)}</figcaption>{head}{body}</svg></figure>"


def _axis(x1: float, y1: float, x2: float, y2: float) -> str:
    return f'<line class="axis" x1="{x1}" y1="{y1}" x2="{x2}" y2="{y2}"/>'


def _text(x: float, y: float, value: object, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y}" text-anchor="{anchor}">{safe(value)}</text>'


def _nothing(title: str) -> str:
    return (
        f"<figure><figcaption>{safe(title)}</figcaption><p>There is nothing to show.</p></figure>"
    )


def _left_out(count: int) -> str:
    return f"<p>{count - MAX_ROWS} more are not shown.</p>" if count > MAX_ROWS else ""
