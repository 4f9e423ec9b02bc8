"""What a page shows of a report: its parts, shortened to what a person can read."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from oops_celery.web.traceback import Raised, read_traceback
from oops_celery.wire import parts
from oops_celery.wire.as_json import as_json_value, shown
from oops_celery.wire.parts import Step

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
class Row:
    """A row of the timeline's table; places are percent.

    Attributes:
        step: The step.
        detail: More about it, shortened.
        left: Where its bar begins.
        width: The length of its bar.
    """

    step: Step
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
    timeline: list[Row]
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
        variables = parts.variables(report.get("req_vars"))
        others = [
            (shown(name), report[name])
            for name in report
            if name not in _OWN_PLACE and report[name] not in (None, "", [], {})
        ]
        steps = parts.timeline(report.get("timeline"))
        length = max((step.start + step.duration for step in steps), default=0)
        return cls(
            type=shown(report.get("type")),
            value=shortened(shown(report.get("value"))),
            chain=chain,
            traceback=Text("") if chain else shortened(text, TEXT_SHOWN),
            variables=[(name, _value(value)) for name, value in variables[:MOST_ROWS]],
            timeline=_rows(steps, length),
            steps=len(steps),
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


def _rows(steps: list[Step], length: float) -> list[Row]:
    """Return the steps to show, in their order: if there are too many, the longest."""
    longest = sorted(steps, key=lambda step: -step.duration)[:MOST_ROWS]
    percent = 100 / (length or 1.0)
    return [
        Row(
            step,
            shortened(step.detail, 500),
            round(min(step.start * percent, 99.5), 2),
            round(max(step.duration * percent, 0.5), 2),
        )
        for step in sorted(longest)
    ]
