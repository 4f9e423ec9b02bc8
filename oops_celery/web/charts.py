"""The bars of a chart, as SVG: in a template they took ten times as long."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import NamedTuple

from markupsafe import Markup

from oops_celery.repository.groups import Group, hour_start

#: Percent of the height that a bar has at least.
LEAST = 3


class Chart(NamedTuple):
    """What the bars show.

    Attributes:
        width: Of all bars, in the units of the SVG.
        rects: The bars.
        top: The largest count.
        first: The time of the first bar.
        last: The time of the last one.
    """

    width: int
    rects: Markup
    top: int
    first: str
    last: str


def bars(hours: Mapping[int, int], begin: int, end: int, width: int) -> Chart:
    """Return the bars of a chart.

    Args:
        hours: Counts by hour since 1970.
        begin: The first hour.
        end: The hour after the last one.
        width: The hours of a bar.
    """
    counts = [0] * max(-(-(end - begin) // width), 1)
    for hour, count in hours.items():
        if begin <= hour < end:
            counts[(hour - begin) // width] += count
    return _drawn(tuple(counts), begin, width)


@lru_cache(500)  # the same groups, on each page for some seconds
def _drawn(counts: tuple[int, ...], begin: int, width: int) -> Chart:
    top = max(counts)
    drawn = []
    for place, count in enumerate(counts):
        if count:
            high = max(round(100 * count / top, 1), LEAST)
            drawn.append(
                f'<rect x="{place * 10 + 1}" y="{100 - high:g}" width="8" '
                f'height="{high:g}"><title>{_time(begin + place * width, width)}: '
                f"{count:,}</title></rect>"
            )
    return Chart(
        len(counts) * 10,
        Markup("\n".join(drawn)),
        top,
        _time(begin, width),
        _time(begin + (len(counts) - 1) * width, width),
    )


@lru_cache(4000)
def _time(hour: int, width: int) -> str:
    time = hour_start(hour)
    return f"{time:%Y-%m-%d %H:%M}" if width == 1 else f"{time:%Y-%m-%d}"


def span(groups: Sequence[Group]) -> dict[int, int]:
    """Return the counts of several groups together, by hour."""
    together: dict[int, int] = {}
    for group in groups:
        for hour, count in group.hours.items():
            together[hour] = together.get(hour, 0) + count
    return together
