"""The request variables and the timeline of a report, whatever it holds there."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from oops_celery.wire.as_json import shown


class Step(NamedTuple):
    """A row of a timeline; times are in milliseconds.

    Attributes:
        start: When it began, after the first step.
        duration: How long it took.
        category: Its kind.
        detail: More about it.
    """

    start: float
    duration: float
    category: str
    detail: str


def variables(value: Any) -> list[tuple[str, Any]]:
    """Return request variables: a dict, or pairs as in old oops_datedir_repo files."""
    if isinstance(value, Mapping):
        return [(shown(name), value[name]) for name in value]
    return [(shown(row[0]), row[1]) for row in _rows(value) if len(row) == 2]


def timeline(value: Any) -> list[Step]:
    """Return the steps of a timeline: rows of start, stop, category, detail, ..."""
    rows = [row for row in _rows(value) if len(row) >= 2]
    rows = [row for row in rows if _is_time(row[0]) and _is_time(row[1])]
    begin = min((float(row[0]) for row in rows), default=0)
    return [
        Step(
            float(row[0]) - begin,
            max(float(row[1]) - float(row[0]), 0),
            *(shown(one) for one in (*row[2:4], "", "")[:2]),
        )
        for row in rows
    ]


def _rows(value: Any) -> list[Any]:
    if not isinstance(value, (list, tuple)):
        return []
    return [row for row in value if isinstance(row, (list, tuple))]


def _is_time(value: Any) -> bool:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return is_number and math.isfinite(value)
