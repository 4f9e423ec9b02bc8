"""Show a single report to a person, or as JSON."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timezone
from typing import Any

from rich.console import Console
from rich.syntax import ANSI_DARK, ANSISyntaxTheme, Syntax
from rich.text import Text

from oops_celery import wire
from oops_celery.cli.console import escaped, say
from oops_celery.dead_letters.letter import Letter
from oops_celery.dead_letters.search import Found
from oops_celery.settings.links import url
from oops_celery.wire import parts
from oops_celery.wire.as_json import printable, shown

#: Columns of a bar in the timeline.
BAR = 20

#: Characters above which a traceback is not coloured: that would take seconds.
COLOURED = 200_000

#: Bytes to show of a body that is not a report.
BODY_SHOWN = 400

#: Keys with their own place; any other key is shown as it is.
_HEADING = ("type", "value")
_SECTIONS = ("tb_text", "req_vars", "timeline")


def age_in_seconds(time: datetime) -> int:
    """Return how long ago something was; 0 for what is to come."""
    return max(int((datetime.now(timezone.utc) - time).total_seconds()), 0)


def age(time: datetime) -> str:
    """Return how long ago something was, in a few characters."""
    seconds = age_in_seconds(time)
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= size:
            return f"{seconds // size}{unit}"
    return f"{seconds}s"


def candidate(one: Found | Letter) -> str:
    """Return a line that tells a report from others with a similar id."""
    time = one.time or (one.parked_at if isinstance(one, Letter) else None)
    return (
        f"{one.id}  {one.type or '(no type)'}  {_time(time) if time else '(no time)'}"
    )


def print_reports(console: Console, found: list[Found]) -> None:
    """Show a report that was found in one place or several."""
    report: dict[str, Any] = {}
    try:
        report = found[0].report()
    except wire.Undecodable as error:
        _print_heading(console, f"{found[0].id}: {error}")
        _say(console, "it starts with", printable(found[0].body[:BODY_SHOWN]))
    else:
        kind, value = (shown(report.get(name)) for name in _HEADING)
        heading = f"{kind}: {value}" if kind and value else kind or value or "report"
        _print_heading(console, heading)
        _say(console, "id", found[0].id)
        if link := url(found[0].id):
            _say(console, "page", link)
        fields(console, report)
    for place in found:
        _say(console, "found in", _place(place))
    for place in found:
        if place.letter is not None:
            _print_letter(console, place.letter)
        if not report and place.headers:
            _section(console, "Headers")
            for name in place.headers:
                _say(console, f"  {name}", shown(place.headers[name]))
    _print_traceback(console, "Traceback", report.get("tb_text"))
    _print_variables(console, report.get("req_vars"))
    _print_timeline(console, report.get("timeline"))


def _place(found: Found) -> str:
    return f"{'dead letters in ' if found.letter else ''}{found.path}"


def fields(console: Console, report: Mapping[str, Any]) -> None:
    """Show the keys without their own place."""
    for name, value in report.items():
        elsewhere = name in ("id", *_HEADING, *_SECTIONS)
        if not elsewhere and value not in (None, "", [], {}):
            _say(console, str(name), shown(value))


def _print_heading(console: Console, text: str) -> None:
    text = escaped(text, console.encoding)
    say(console, "", text, "bold red")


def _print_letter(console: Console, letter: Letter) -> None:
    _section(console, "Dead letter")
    _say(console, "  reason", letter.reason)
    if letter.attempts is not None:
        _say(console, "  attempts", str(letter.attempts))
    if letter.first_failed_at:
        _say(console, "  first failed", _time(letter.first_failed_at))
    ago = age(letter.parked_at)
    _say(console, "  parked", f"{_time(letter.parked_at)}, {ago} ago")
    _say(console, "  queue", letter.queue)
    if letter.parked_by:
        _say(console, "  parked by", letter.parked_by)
    if letter.came_from:
        _say(console, "  came from", f"queue {letter.came_from}")
    _print_traceback(console, "Traceback of its last failure", letter.traceback)


def _time(time: datetime) -> str:
    return f"{time:%Y-%m-%d %H:%M:%S} UTC"


def _section(console: Console, title: str) -> None:
    console.print()
    console.print(Text(title, "bold"))


def _say(console: Console, name: str, value: str) -> None:
    say(console, value, f"{escaped(name, console.encoding)}: ", "cyan")


def _print_traceback(console: Console, title: str, text: Any) -> None:
    if not isinstance(text, str) or not text.strip():
        return
    _section(console, title)
    lines = [
        escaped(line.rstrip("\r").expandtabs(), console.encoding)
        for line in text.strip("\n").split("\n")
    ]
    text = "\n".join(lines)
    if console.is_terminal and len(text) <= COLOURED:
        theme = ANSISyntaxTheme(ANSI_DARK)  # the terminal's own colours
        console.print(Syntax(text, "pytb", theme=theme, word_wrap=True))
    else:
        console.print(Text(text), soft_wrap=True)


def _print_variables(console: Console, value: Any) -> None:
    known = parts.variables(value)
    if known:
        _section(console, "Request variables")
    for name, each in known:
        _say(console, f"  {name}", shown(each))


def _print_timeline(console: Console, value: Any) -> None:
    steps = parts.timeline(value)
    if not steps:
        return
    length = max(step.start + step.duration for step in steps)
    _section(console, "Timeline")
    for step in steps:
        bar = _bar(step.start, step.duration, length, console.encoding)
        words = f"{step.category} {step.detail}".rstrip()
        text = f" {step.duration:6g} ms at {step.start:g}: {words}"
        say(console, text, f"  {bar}", "green")


def _bar(start: float, duration: float, length: float, encoding: str) -> str:
    """Return a bar that shows when in the request something happened, and how long."""
    full = "█" if escaped("█", encoding) == "█" else "#"
    if length <= 0:
        return full.ljust(BAR)
    first = min(int(start / length * BAR), BAR - 1)
    columns = max(round(duration / length * BAR), 1)
    return (" " * first + full * columns)[:BAR].ljust(BAR)
