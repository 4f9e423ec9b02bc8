"""What a page shows of a report: its parts, shortened to what a person can read."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from oops_celery.web.traceback import Raised, read_traceback
from oops_celery.wire.as_json import as_json_value, shown

#: Characters of a value that are shown; the downloads have all of it.
SHOWN = 4_000

#: Characters of a traceback without frames that are shown.
TEXT_SHOWN = 60_000

#: Rows of a table, and of a timeline.
MOST_ROWS = 300

#: Keys with their own place on the page.
_OWN_PLACE = ("id", "type", "value", "tb_text", "req_vars", "timeline")


@dataclass(frozen=True)
class Text:
    """A text, and how many more characters it has."""

    text: str
    more: int = 0


@dataclass(frozen=True)
class Step:
    """A row of the timeline; times are milliseconds, places are percent.

    Attributes:
        start: When it began.
        duration: How long it took.
        category: Its kind.
        detail: More about it.
        left: Where its bar begins.
        width: The length of its bar.
    """

    start: float
    duration: float
    category: str
    detail: Text
    left: float
    width: float


@dataclass(frozen=True)
class Details:
    """A report, ready to be shown.

    Attributes:
        type: The exception's type.
        value: The exception's value.
        chain: The exceptions, as of `read_traceback`.
        traceback: The traceback's text, if it has no frames.
        variables: Request variables.
        timeline: What happened, in order.
        steps: How many rows the whole timeline has.
        length: The milliseconds of the timeline.
        others: Everything else.
        left_out: How many of `variables` and `others` are not shown.
    """

    type: str
    value: Text
    chain: list[list[Raised]]
    traceback: Text
    variables: list[tuple[str, Text]]
    timeline: list[Step]
    steps: int
    length: float
    others: list[tuple[str, Text]]
    left_out: int

    @classmethod
    def of(cls, report: Mapping[str, Any]) -> Details:
        """Read a report. Never raises: it may hold anything."""
        text = report.get("tb_text")
        text = text if isinstance(text, str) else ""
        chain = read_traceback(text)
        variables = _pairs(report.get("req_vars"))
        others = [
            (shown(name), report[name])
            for name in report
            if name not in _OWN_PLACE and report[name] not in (None, "", [], {})
        ]
        rows = _spans(report.get("timeline"))
        length = max((stop for _, stop, *_ in rows), default=0)
        return cls(
            type=shown(report.get("type")),
            value=shortened(shown(report.get("value"))),
            chain=chain,
            traceback=Text("") if chain else shortened(text, TEXT_SHOWN),
            variables=[(name, _value(value)) for name, value in variables[:MOST_ROWS]],
            timeline=_steps(rows, length),
            steps=len(rows),
            length=length,
            others=[(name, _value(value)) for name, value in others[:MOST_ROWS]],
            left_out=max(len(variables) - MOST_ROWS, 0)
            + max(len(others) - MOST_ROWS, 0),
        )


def shortened(text: str, most: int = SHOWN) -> Text:
    """Return the beginning of a text."""
    return Text(text[:most], max(len(text) - most, 0))


def _value(value: Any) -> Text:
    if isinstance(value, (Mapping, list, tuple)):
        text = json.dumps(as_json_value(value), indent=2, ensure_ascii=False)
        return shortened(text)
    return shortened(shown(value))


def _pairs(value: Any) -> list[tuple[str, Any]]:
    """Return request variables: a dict, or pairs as in old files."""
    if isinstance(value, Mapping):
        return [(shown(name), value[name]) for name in value]
    return [(shown(row[0]), row[1]) for row in _rows(value) if len(row) == 2]


def _rows(value: Any) -> list[Any]:
    if not isinstance(value, (list, tuple)):
        return []
    return [row for row in value if isinstance(row, (list, tuple))]


def _spans(timeline: Any) -> list[tuple[float, float, str, Any]]:
    """Return the rows of a timeline: (start, stop, category, detail), from 0."""
    rows = [row for row in _rows(timeline) if len(row) >= 2]
    rows = [row for row in rows if _is_time(row[0]) and _is_time(row[1])]
    begin = min((float(row[0]) for row in rows), default=0)
    return [
        (
            float(row[0]) - begin,
            max(float(row[1]), float(row[0])) - begin,
            shown(row[2]) if len(row) > 2 else "",
            row[3] if len(row) > 3 else "",
        )
        for row in rows
    ]


def _is_time(value: Any) -> bool:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return is_number and math.isfinite(value) and abs(value) < 1e15


def _steps(rows: list[tuple[float, float, str, Any]], length: float) -> list[Step]:
    """Return the steps to show, in their order: if there are too many, the longest."""
    longest = sorted(rows, key=lambda row: row[0] - row[1])[:MOST_ROWS]
    whole = length or 1.0
    return [
        Step(
            start,
            stop - start,
            category,
            shortened(shown(detail), 500),
            round(min(100 * start / whole, 99.5), 2),
            round(max(100 * (stop - start) / whole, 0.5), 2),
        )
        for start, stop, category, detail in sorted(longest, key=lambda row: row[:2])
    ]
