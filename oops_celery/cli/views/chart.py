"""A chart of stacked bars, as SVG for a page."""

from __future__ import annotations

from collections.abc import Iterator

#: The page's classes for colours: ``g0`` to ``g7``. The last is for the rest.
COLOURS = 8

#: The size of the drawing, and the room for labels.
WIDTH, HEIGHT = 960, 260
LEFT, BOTTOM, TOP = 44, 26, 8

#: Most labels below the bars.
LABELS = 12

#: Most horizontal lines.
LINES = 5


def chart(names: list[str], rows: list[list[int]], labels: list[str], what: str) -> str:
    """Return the chart as an SVG element.

    Args:
        names: The name of each row, from the bottom up; escaped HTML.
        rows: The counts of each row, one for each bar.
        labels: The labels below the bars.
        what: A description of the chart.
    """
    highest = max(map(sum, zip(*rows, strict=True)))
    step = _step(highest)
    top = -(-highest // step) * step
    parts = [
        f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        f'aria-label="{what}">',
        *_grid(top, step),
        *_bars(names, rows, labels, top),
        *_labels(labels),
        "</svg>",
    ]
    return "\n".join(parts)


def _step(highest: int) -> int:
    """Return a round number that needs few lines to reach the highest bar."""
    power = 1
    while True:
        for digit in (1, 2, 5):
            if digit * power * LINES >= highest:
                return digit * power
        power *= 10


def _y(count: float, top: int) -> float:
    return HEIGHT - BOTTOM - count / top * (HEIGHT - BOTTOM - TOP)


def _grid(top: int, step: int) -> Iterator[str]:
    for count in range(0, top + 1, step):
        y = _y(count, top)
        yield f'<line class="grid" x1="{LEFT}" x2="{WIDTH}" y1="{y:.1f}" y2="{y:.1f}"/>'
        yield f'<text x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{count:,}</text>'


def _bars(
    names: list[str], rows: list[list[int]], labels: list[str], top: int
) -> Iterator[str]:
    slot = (WIDTH - LEFT) / len(labels)
    for bar, label in enumerate(labels):
        x, below = LEFT + bar * slot + slot * 0.1, 0
        for row, name in enumerate(names):
            count = rows[row][bar]
            if not count:
                continue
            y = _y(below + count, top)
            below += count
            height = _y(below - count, top) - y
            yield (
                f'<rect class="g{min(row, COLOURS - 1)}" x="{x:.1f}" y="{y:.1f}" '
                f'width="{slot * 0.8:.1f}" height="{height:.1f}">'
                f"<title>{label}: {count:,} × {name}</title></rect>"
            )


def _labels(labels: list[str]) -> Iterator[str]:
    slot = (WIDTH - LEFT) / len(labels)
    for bar in range(0, len(labels), -(-len(labels) // LABELS)):
        x = LEFT + (bar + 0.5) * slot
        place = f'x="{x:.1f}" y="{HEIGHT - 8}"'
        yield f'<text {place} text-anchor="middle">{labels[bar]}</text>'
